"""Training the transcriber: CTC, transducer or both, several look-aheads at once, word error rates, the card.

The tokenizer is learned from the training texts, and the network needs the size of its vocabulary, so both are made
when the data are known (`meet`). All that is random in a training step (dropout, look-ahead, masks) is a function of
the number of its batch, so that a resumed run and one on more processes compute what an uninterrupted one would have.
"""

from math import sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from wavecast.apps.sound.task import SoundTask
from wavecast.apps.transcription.decoding import Decoder, GreedyCTC, GreedyTransducer
from wavecast.apps.transcription.error_rates import word_errors
from wavecast.apps.transcription.initialization import set_prior, standardize_frames, start_hearing
from wavecast.apps.transcription.losses import Mean, ctc_loss, transducer_loss
from wavecast.apps.transcription.tokenizer import Tokenizer, load_tokenizer, train
from wavecast.cards import TOKENIZER, Card, find_model, load_network, load_strict, packed
from wavecast.core.errors import WavecastError
from wavecast.datamodules.spec_augment import SpecAugment
from wavecast.datamodules.transcription import TranscriptionData
from wavecast.datamodules.vocal_tract import VocalTract
from wavecast.optimization import plain

SAMPLE_RATE = 16_000


class TranscriptionTask(SoundTask):
    """Teach a FastConformer to transcribe.

    Args:
        network: its hyper-parameters, plain data, without `vocabulary`; those of `init_from` when None.
        tokenizer: SentencePiece model to use; learned from the training texts when None.
        pieces: tokens of a tokenizer that is learned.
        init_from: begin with the weights and the tokenizer of this model: a name, a card, a checkpoint, or a .nemo.
        ctc_weight: w of the loss (1 - w) transducer + w CTC, for a network with both heads.
        ctc_only_steps: train with CTC alone up to this step, which costs a fraction.
        mean: of the loss, over "items" (as published) or over "tokens".
        fast_emit: lambda of FastEmit, of the transducer.
        most_logits: of the transducer that exist at once; less needs less memory.
        bands: masks of frequency bands (SpecAugment).
        band_width: most bands of one.
        stretches: masks of time stretches.
        stretch_share: longest of them, as a share of the utterance.
        tract: mel bands are stretched by up to this share, as by a longer or shorter vocal tract.
        transducer_items: validation items of a set that the transducer transcribes, too.
        betas: of the optimizer.
        weight_decay: of the optimizer.
        schedule: one of `OptimizedTask`, or "noam" (Vaswani et al. 2017): `learning_rate` is the factor before its
            formula, and `last_rate` the lowest rate itself.
        last_rate: at the end of the cosine, as a share of `learning_rate`.
        seed: of dropout, look-aheads and masks.
        name: of the model in its card.
        optimization: of `OptimizedTask`.
    """

    shown = "val_wer"

    def __init__(
        self,
        network: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        pieces: int = 256,
        init_from: str | None = None,
        ctc_weight: float = 0.3,
        ctc_only_steps: int = 0,
        mean: Mean = "items",
        fast_emit: float = 0.0,
        most_logits: int = 1 << 24,
        bands: int = 2,
        band_width: int = 27,
        stretches: int = 10,
        stretch_share: float = 0.05,
        tract: float = 0.0,
        transducer_items: int = 64,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 1e-3,
        schedule: Literal["constant", "cosine", "plateau", "noam"] = "cosine",
        last_rate: float = 0.02,
        seed: int = 0,
        name: str = "transcriber",
        **optimization: Any,
    ) -> None:
        chosen: dict[str, Any] = {"weight_decay": weight_decay, "schedule": schedule, "last_rate": last_rate}
        super().__init__(betas=betas, **chosen, **optimization)
        self.tokenizer: Tokenizer | None = None
        self.spec_augment = SpecAugment(bands, band_width, stretches, stretch_share, seed)
        self.vocal_tract = VocalTract(tract, seed)
        self.sets: list[str] = []

    def meet(self, data: LightningDataModule) -> None:
        """Learn the tokenizer from the training texts, unless one is given, and build the network for it.

        Raises:
            WavecastError: the hyper-parameters do not fit, or the model to begin with or the tokenizer is none.
        """
        if not isinstance(data, TranscriptionData):
            raise ValueError(f"{type(data).__name__} holds no utterances\nhint: give TranscriptionData")
        data.prepare_data()
        data.setup("fit")
        self.sets = list(data.validation_sets)
        options = self.hparams
        settings = plain(options["network"] or {})
        if options["init_from"]:
            known, self.tokenizer, weights = read_model(options["init_from"])
            settings = {**known, **settings}
        else:
            self.tokenizer, weights = self._new_tokenizer(data.training_texts()), None
            settings["vocabulary"] = len(self.tokenizer)
        card = Card(options["name"], "fastconformer", "transcribe", settings, SAMPLE_RATE)
        self.means = self._means(bool(settings.get("prediction_width", 0)))
        self.begin(card, None)
        if weights is not None:
            load_strict(self.network, weights, options["init_from"])
        else:
            self._begin_at_priors(data)

    def _begin_at_priors(self, data: TranscriptionData) -> None:
        """Let a fresh network begin at the frequencies of the classes, and hear.

        Without it, the first thing that the loss asks for is the same output at every frame, and a network that is
        driven there fast no longer hears its input.
        """
        tokens = self._new_counts(data.training_texts())
        frames = data.training_seconds() * SAMPLE_RATE / float(self.network.stride)
        if self.network.ctc is not None:
            set_prior(self.network.ctc, tokens, frames - tokens.sum())
        if self.network.joint is not None:
            set_prior(self.network.joint.output, tokens, frames)
        start_hearing(self.network, centered=bool(self.card.hyperparameters.get("normalize")))
        if data.train_batches is not None:
            batch = data.train_batches.item(0)
            standardize_frames(self.network, torch.from_numpy(batch["sound"]), torch.from_numpy(batch["lengths"]))

    def _new_counts(self, texts: list[str]) -> np.ndarray:
        """Count how often each token occurs."""
        tokenizer = self._known_tokenizer()
        counts = np.zeros(len(tokenizer))
        for text in texts:
            np.add.at(counts, tokenizer.encode(text), 1)
        return counts

    def _new_tokenizer(self, texts: list[str]) -> Tokenizer:
        given = self.hparams["tokenizer"]
        if not given:
            return Tokenizer(train(texts, self.hparams["pieces"]))
        path = Path(given)
        if not path.is_file():
            raise WavecastError(
                f"there is no tokenizer {path}", "give a SentencePiece model, or leave it to be learned"
            )
        return Tokenizer(path.read_bytes())

    def _means(self, transducer: bool) -> tuple[str, ...]:
        heads = ["wer", "wer_transducer"] if transducer else ["wer"]
        parts = [f"val_{head}_{name}" for head in heads for name in self.sets]
        return ("val_loss", *(f"val_{head}" for head in heads), *parts)

    def forward(self, sound: Tensor, lengths: Tensor, numbers: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode a padded batch of samples.

        Args:
            sound: (batch, samples).
            lengths: valid samples (batch,).
            numbers: of the items, whose features are masked; None: nothing is.

        Returns:
            Encoder frames (batch, frame, width), and how many of each row are valid.
        """
        features, encoder = (self.network.get_submodule(name) for name in ("features", "encoder"))
        x, _ = features(sound, lengths=lengths)
        lengths = features.out_length(lengths)
        if numbers is not None:
            x = self.spec_augment(self.vocal_tract(x, numbers), lengths, numbers)
        frames, _ = encoder(x, lengths=lengths)
        return frames, encoder.out_length(lengths)

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        """Compute the loss of a batch, for a look-ahead drawn for it."""
        rng = self.chance_of(index)
        contexts = self.network.contexts
        self.network.choose_context(*contexts[int(rng.integers(len(contexts)))])
        frames, lengths = self(batch["sound"], batch["lengths"], batch["numbers"])
        ctc_only = self.global_step < self.hparams["ctc_only_steps"]
        loss, parts = self._losses(frames, lengths, batch["texts"], ctc_only)
        self.hear(int(batch["lengths"].sum()))
        self.log("train_loss", loss, prog_bar=True, batch_size=len(lengths))
        self.log_dict({f"train_{name}": value.detach() for name, value in parts.items()}, batch_size=len(lengths))
        tokens = self.encode(batch["texts"])[1].sum().clamp(min=1)
        by_token = loss.detach() * (len(lengths) / tokens if self.hparams["mean"] == "items" else 1.0)
        self.log("train_loss_by_token", by_token, batch_size=len(lengths))  # utterances of any length compare by this
        return loss

    def _losses(
        self, frames: Tensor, lengths: Tensor, texts: list[str], ctc_only: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        targets, target_lengths = self.encode(texts)
        options, network = self.hparams, self.network
        parts: dict[str, Tensor] = {}
        if network.ctc is not None:
            logits = network.ctc(frames)
            parts["ctc"] = ctc_loss(logits, lengths, targets, target_lengths, options["mean"])
        if network.prediction is None:
            return parts["ctc"], parts
        if ctc_only and network.ctc is not None:
            resting = [*network.prediction.parameters(), *network.joint.parameters()]
            return parts["ctc"] + sum(0.0 * one.sum() for one in resting), parts  # DDP waits for every gradient
        read, _ = network.prediction(network.prediction.with_start(targets))
        parts["transducer"] = transducer_loss(
            network.joint,
            network.joint.listen(frames),
            network.joint.speak(read),
            lengths,
            targets,
            target_lengths,
            options["mean"],
            options["fast_emit"] if torch.is_grad_enabled() else 0.0,
            options["most_logits"],
        )
        weight = options["ctc_weight"] if network.ctc is not None else 0.0
        return (1 - weight) * parts["transducer"] + weight * parts.get("ctc", torch.zeros_like(read[0, 0, 0])), parts

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Turn texts into padded tokens: int64 (batch, token) and (batch,)."""
        tokens = [torch.tensor(self._known_tokenizer().encode(text), dtype=torch.int64) for text in texts]
        lengths = torch.tensor([len(one) for one in tokens], device=self.device)
        return pad_sequence(tokens, batch_first=True).to(self.device), lengths

    def _known_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError("the tokenizer is not there\nhint: call meet(data) first")
        return self.tokenizer

    def on_validation_epoch_start(self) -> None:
        """Begin anew, at the default look-ahead."""
        super().on_validation_epoch_start()
        self.network.choose_context(*self.network.contexts[0])

    def validation_step(self, batch: dict[str, Any], index: int, dataloader_idx: int = 0) -> None:
        """Add up loss and word errors of both heads, in all and of this set."""
        name = self.sets[dataloader_idx]
        frames, lengths = self(batch["sound"], batch["lengths"])
        ctc_only = self.global_step < self.hparams["ctc_only_steps"]
        loss, _ = self._losses(frames, lengths, batch["texts"], ctc_only)
        self.count("val_loss", loss.expand(len(frames)))
        network, texts = self.network, batch["texts"]
        if network.ctc is not None:
            self._count_words("wer", name, GreedyCTC(network.ctc, network.blank), frames, lengths, texts)
        chosen = (batch["numbers"] < self.hparams["transducer_items"]).nonzero()[:, 0]
        if network.prediction is not None and not ctc_only and len(chosen):
            decoder = GreedyTransducer(network.prediction, network.joint)
            some = [texts[row] for row in chosen.tolist()]
            head = "wer" if network.ctc is None else "wer_transducer"
            self._count_words(head, name, decoder, frames[chosen], lengths[chosen], some)

    def _count_words(
        self, head: str, name: str, decoder: Decoder, frames: Tensor, lengths: Tensor, texts: list[str]
    ) -> None:
        """Decode, and add up errors and words of the references."""
        found, _ = decoder.step(frames, None, lengths)
        for text, tokens in zip(texts, found, strict=True):
            errors = word_errors(text, self._known_tokenizer().decode(tokens.ids))
            for row in (f"val_{head}", f"val_{head}_{name}"):
                self._sums[self.means.index(row)] += self._sums.new_tensor([errors.count, errors.length])

    def _schedule(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        options = self.hparams
        if options["schedule"] != "noam":
            return super()._schedule(optimizer)
        width = self.card.hyperparameters.get("width", 512)
        rate = Noam(width, options["warmup_steps"], options["last_rate"] / options["learning_rate"])
        return {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, rate), "interval": "step"}

    def card_fields(self) -> dict[str, Any]:
        """Give what all cards of sound say, at the default look-ahead."""
        self.network.choose_context(*self.network.contexts[0])
        return super().card_fields()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the tokenizer, too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[TOKENIZER] = packed(self._known_tokenizer().model)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the same tokenizer."""
        super().on_load_checkpoint(checkpoint)
        self.tokenizer = Tokenizer(checkpoint[TOKENIZER].numpy().tobytes())


class Noam:
    """The share of the factor at a step: width^-0.5 min(step^-0.5, step warmup^-1.5) (Vaswani et al. 2017, equation 3).

    Args:
        width: of the encoder.
        warmup: steps of the rise.
        lowest: share that it never falls below.
    """

    def __init__(self, width: int, warmup: int, lowest: float = 0.0) -> None:
        self.width, self.warmup, self.lowest = width, max(1, warmup), lowest

    def __call__(self, step: int) -> float:
        """Give the share at this step, which counts from 0."""
        count = step + 1
        share = min(1 / sqrt(count), count / self.warmup**1.5) / sqrt(self.width)
        return max(self.lowest, share) if count > self.warmup else share


def read_model(source: str) -> tuple[dict[str, Any], Tokenizer, dict[str, Tensor]]:
    """Read hyper-parameters, tokenizer and weights of a model to begin with: ours, or an official archive.

    Raises:
        WavecastError: there is no such model, or it is no FastConformer.
    """
    path = Path(source)
    if path.suffix == ".nemo" and path.exists():
        from wavecast.apps.transcription.fastconformer_official import read_transcriber

        card, network, tokenizer = read_transcriber(path)
        return dict(card.hyperparameters), tokenizer, network.state_dict()
    card = find_model(source, "transcribe")
    if card.architecture != "fastconformer":
        raise WavecastError(f"{source} is a {card.architecture}, not a fastconformer", "give another model")
    return dict(card.hyperparameters), load_tokenizer(card), load_network(card).state_dict()
