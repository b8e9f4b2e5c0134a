"""Training the keyword spotter: loss, accuracy, what is rejected, and the card that makes a checkpoint a model.

The network's classes are those of the data, so it is built when the data are known (`meet`). All that is random in a
training step is a function of the numbers of its items and of its batch, so that a resumed run computes what an
uninterrupted one would have.
"""

from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.nn import functional

from wavecast.apps.keywords.augmentation import FeatureAugmentation
from wavecast.apps.keywords.classes import REJECTED
from wavecast.apps.keywords.views import NOTHING, clip_features, window_logits
from wavecast.apps.sound.task import SoundTask
from wavecast.cards import Card
from wavecast.core.errors import WavecastError
from wavecast.datamodules.keywords import KeywordData
from wavecast.optimization import plain


class KeywordTask(SoundTask):
    """Teach a network to tell words apart.

    Args:
        architecture: a key of `wavecast.cards.ARCHITECTURES`.
        network: its hyper-parameters, plain data, without `classes`; its defaults when None.
        frames: of a view; shorter items are filled up with features of nothing.
        loss: of the mean of the logits over the frames: "bce" (every class by itself, as published), or
            "cross_entropy" (one of them).
        init_from: begin with the weights of this model: a name, a card, a checkpoint, or an official file.
        band_width: most bands hidden in training.
        stretch: most frames hidden.
        noise: most of the uniform noise that is added to the features.
        roll: features move by -roll to roll - 1 frames.
        tract: bands are stretched by up to this share, as by a longer or shorter vocal tract.
        schedule: one of `OptimizedTask`, or "steps": times `factor` every `patience` epochs.
        last_rate: at the end of the cosine, as a share of `learning_rate`.
        seed: of dropout and augmentation.
        name: of the model in its card.
        optimization: of `OptimizedTask`.
    """

    means = ("val_loss", "val_accuracy", "val_found", "val_rejected")
    shown = "val_accuracy"

    def __init__(
        self,
        architecture: str = "lmuformer",
        network: dict[str, Any] | None = None,
        frames: int = 128,
        loss: Literal["bce", "cross_entropy"] = "bce",
        init_from: str | None = None,
        band_width: int = 0,
        stretch: int = 0,
        noise: float = 0.0,
        roll: int = 0,
        tract: float = 0.0,
        schedule: Literal["constant", "cosine", "plateau", "steps"] = "cosine",
        last_rate: float = 0.02,
        seed: int = 0,
        name: str = "spotter",
        **optimization: Any,
    ) -> None:
        chosen: dict[str, Any] = {"schedule": schedule, "last_rate": last_rate}
        super().__init__(**chosen, **optimization)
        self.augmentation = FeatureAugmentation(band_width, stretch, NOTHING, noise, roll, tract, seed)

    def meet(self, data: LightningDataModule) -> None:
        """Build the network for the classes of the data.

        Raises:
            WavecastError: the hyper-parameters or the model to begin with do not fit, or views are too long.
        """
        if not isinstance(data, KeywordData):
            raise ValueError(f"{type(data).__name__} holds no keywords\nhint: give KeywordData")
        data.prepare_data()
        data.setup("fit")
        options = self.hparams
        settings = {"classes": len(data.classes), **plain(options["network"] or {})}
        self.begin(
            Card(
                options["name"],
                options["architecture"],
                "spot",
                settings,
                data.sample_rate,
                classes=tuple(data.classes),
            ),
            options["init_from"],
        )
        if not options["init_from"]:
            set_priors(self.network, data.priors(), options["loss"])
        self.words = [place for place, name in enumerate(data.classes) if name not in REJECTED]
        found = int(self.network.get_submodule("features").out_length(data.samples))
        if not 0 < found <= options["frames"]:
            hint = f"give --model.frames {found}, or other --data.samples"
            raise WavecastError(f"views of {data.samples} samples have {found} frames, not {options['frames']}", hint)

    def forward(self, sound: Tensor, numbers: Tensor | None = None) -> Tensor:
        """Compute the mean of the logits over the frames of views.

        Args:
            sound: (batch, samples).
            numbers: of the items, whose features are augmented; None: they are not.

        Returns:
            (batch, classes).
        """
        network: Any = self.network
        x = clip_features(network, sound, self.hparams["frames"])
        return window_logits(network, x if numbers is None else self.augmentation(x, numbers))

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of every item: (batch,)."""
        if self.hparams["loss"] == "bce":
            return functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
        return functional.cross_entropy(logits, target, reduction="none")

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Compute the loss of a batch; dropout is a function of its number."""
        self.chance_of(index)
        loss = self.losses(self(batch["sound"], batch["number"]), batch["target"]).mean()
        self.hear(batch["sound"].numel())
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        """Add up loss, accuracy among the words, words found among all classes, and other sounds rejected."""
        logits, target = self(batch["sound"]), batch["target"]
        self.count("val_loss", self.losses(logits, target))
        right = target.argmax(1)
        of_word = target[:, self.words].sum(1) > 0
        closed = logits[:, self.words].argmax(1) == target[:, self.words].argmax(1)
        self.count("val_accuracy", closed[of_word].float())
        self.count("val_found", (logits.argmax(1) == right)[of_word].float())
        rejected = ~torch.isin(logits.argmax(1), torch.tensor(self.words, device=logits.device))
        self.count("val_rejected", rejected[~of_word].float())

    def _schedule(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        options = self.hparams
        if options["schedule"] != "steps":
            return super()._schedule(optimizer)
        steps = torch.optim.lr_scheduler.StepLR(optimizer, options["patience"], options["factor"])
        return {"scheduler": steps, "interval": "epoch"}

    def card_fields(self) -> dict[str, Any]:
        """Give what all cards of sound say, and the classes."""
        return {**super().card_fields(), "classes": list(self.card.classes)}


@torch.no_grad()
def set_priors(network: nn.Module, priors: np.ndarray, loss: str) -> None:
    """Let a fresh network begin at how often each class occurs.

    Without it, the first thing that the loss asks for is the same output for every sound, 1 of 40 for a word, and a
    network that is driven there fast no longer hears its input.

    Args:
        network: whose last linear layer gives the logits.
        priors: (classes,), of all views.
        loss: of the task.
    """
    last = [module for module in network.get_submodule("head").modules() if isinstance(module, nn.Linear)][-1]
    likely = torch.from_numpy(priors).clamp(1e-4, 1 - 1e-4)
    last.bias.copy_(likely.log() if loss == "cross_entropy" else likely.logit())
