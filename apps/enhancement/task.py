"""Training the enhancer: loss, optimizer, schedule, metrics, and the card that makes a checkpoint a model.

A checkpoint holds the card's fields under `wavecast_card` and the weights as `state_dict["network.*"]`, plain data
and tensors only, so `wavecast enhance --model x.ckpt` takes it as it is.
"""

import math
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_avg_fn

from wavecast.apps.enhancement import metrics
from wavecast.cards import Card, build_network, find_model, load_network, load_pickle, load_strict
from wavecast.core.errors import WavecastError

Loss = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]
MEANS = ("val_loss", "val_si_sdr", "val_si_sdr_gain", "val_silence_level", "val_pesq", "val_stoi")
LOUD_ENOUGH = -80.0
"""A clean signal below this level in dB counts as silence: it has no SI-SDR."""


class EnhancementTask(LightningModule):
    """Teach a network to enhance speech.

    Args:
        architecture: a key of `wavecast.cards.ARCHITECTURES`.
        network: its hyper-parameters, plain data; its defaults when None.
        loss: "spectral" (compressed spectra at several resolutions), "published" (FRCRN's recipe: mask and SI-SNR,
            for architectures with a mask of the spectrum) or "si_snr".
        init_from: begin with the weights of this model: a name, a card, a checkpoint, or an official FRCRN file.
        sample_rate: in hertz.
        optimizer: "adam" or "adamw".
        learning_rate: after the warm-up.
        weight_decay: of the optimizer.
        undecayed: what weight decay spares: "biases" (by name, as published) or "vectors" (norms and biases).
        schedule: "constant", "cosine" (to `last_rate`), or "plateau" (times `factor` after `patience` epochs without
            a better validation loss).
        warmup_steps: linear rise of the learning rate.
        last_rate: at the end of the cosine, as a share of `learning_rate`.
        patience: epochs of the plateau schedule.
        factor: of the plateau schedule.
        gradient_noise: standard deviation of Gaussian noise on the gradients at step 0; its variance falls as
            (1 + step) ** -0.55 (Neelakantan et al. 2015). 0: none.
        average_decay: decay of an exponential moving average of the weights, which is validated and saved; 0: none.
        perceptual: PESQ and STOI of that many validation items, where the packages are installed.
        name: of the model in its card.

    Raises:
        WavecastError: the architecture, its hyper-parameters or the model to begin with do not exist or fit.
    """

    def __init__(
        self,
        architecture: str = "frcrn_stream",
        network: dict[str, Any] | None = None,
        loss: Literal["spectral", "published", "si_snr"] = "spectral",
        init_from: str | None = None,
        sample_rate: int = 16_000,
        optimizer: Literal["adam", "adamw"] = "adamw",
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        undecayed: Literal["biases", "vectors"] = "vectors",
        schedule: Literal["constant", "cosine", "plateau"] = "cosine",
        warmup_steps: int = 0,
        last_rate: float = 0.02,
        patience: int = 5,
        factor: float = 0.5,
        gradient_noise: float = 0.0,
        average_decay: float = 0.0,
        perceptual: int = 0,
        name: str = "enhancer",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.card = Card(name, architecture, "enhance", plain(network or {}), sample_rate)
        self.network = build_network(self.card)
        self.loss = choose_loss(loss, architecture)
        if init_from:
            warm_start(self.network, architecture, init_from)
        self.perceptual = perceptual
        self._sums = torch.zeros(len(MEANS), 2, dtype=torch.float64)
        self.heard_seconds = 0.0
        self._latency: int | None = None

    def forward(self, noisy: Tensor) -> Tensor:
        """Enhance whole signals: (batch, samples) to the same shape."""
        clean: Tensor = self.network(noisy)[0]
        return clean

    def configure_callbacks(self) -> list[Callback]:
        """Average the weights, if asked to."""
        decay = self.hparams["average_decay"]
        return [WeightAveraging(avg_fn=get_ema_avg_fn(decay))] if decay else []

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Compute the loss of a batch."""
        loss, parts = self.loss(self.network, batch["noisy"], batch["clean"])
        self.heard_seconds += batch["noisy"].numel() * self.trainer.world_size / self.card.sample_rate
        self.log("train_loss", loss, prog_bar=True)
        self.log_dict({f"train_{part}": value for part, value in parts.items()})
        return loss

    def on_train_epoch_end(self) -> None:
        """Log how many hours of sound were heard."""
        self.log("heard_hours", self.heard_seconds / 3600)

    def validation_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Log loss, SI-SDR and its gain, the level where silence is wanted, PESQ and STOI; return the estimate."""
        noisy, clean = batch["noisy"], batch["clean"]
        loss, _ = self.loss(self.network, noisy, clean)
        estimate = self(noisy)
        self._count("val_loss", loss.expand(len(noisy)))
        spoken = metrics.level(clean) > LOUD_ENOUGH
        ratio = metrics.si_sdr(estimate[spoken].float(), clean[spoken])
        self._count("val_si_sdr", ratio)
        self._count("val_si_sdr_gain", ratio - metrics.si_sdr(noisy[spoken], clean[spoken]))
        self._count("val_silence_level", metrics.level(estimate[~spoken].float()))
        first = index * len(noisy)
        for row in range(min(len(noisy), self.perceptual - first)):
            if spoken[row]:
                pair = estimate[row].float().cpu().numpy(), clean[row].cpu().numpy()
                self._count("val_pesq", clean.new_tensor([metrics.pesq(*pair, self.card.sample_rate)]))
                self._count("val_stoi", clean.new_tensor([metrics.stoi(*pair, self.card.sample_rate)]))
        return estimate

    def _count(self, name: str, values: Tensor) -> None:
        """Add up a metric over items; an item without it does not count."""
        values = values[values.isfinite()]
        self._sums[MEANS.index(name)] += torch.stack([values.double().sum(), values.new_tensor(len(values)).double()])

    def on_validation_epoch_start(self) -> None:
        """Forget the sums of the last validation."""
        self._sums = torch.zeros(len(MEANS), 2, dtype=torch.float64, device=self.device)

    def on_validation_epoch_end(self) -> None:
        """Log the means over all items of all processes."""
        sums = self.trainer.strategy.reduce(self._sums, reduce_op="sum")
        for name, (total, count) in zip(MEANS, sums.tolist(), strict=True):
            if count:
                self.log(name, total / count, prog_bar=name == "val_si_sdr", rank_zero_only=False)

    def configure_optimizers(self) -> dict[str, Any]:
        """Build the optimizer with its two groups of parameters, and the schedule."""
        options = self.hparams
        kind = torch.optim.AdamW if options["optimizer"] == "adamw" else torch.optim.Adam
        groups = decay_groups(self.network, options["weight_decay"], options["undecayed"])
        optimizer = kind(groups, lr=options["learning_rate"])
        return {"optimizer": optimizer, "lr_scheduler": self._schedule(optimizer)}

    def _schedule(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        options = self.hparams
        if options["schedule"] == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, factor=options["factor"], patience=options["patience"] - 1, threshold=0.0
            )
            return {"scheduler": plateau, "monitor": "val_loss", "interval": "epoch"}
        total = self.trainer.estimated_stepping_batches if options["schedule"] == "cosine" else inf
        rate = Rate(options["warmup_steps"], float(total), options["last_rate"])
        return {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, rate), "interval": "step"}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients, then add noise to them if asked to: the same on every process, and after a resume."""
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        if self.hparams["gradient_noise"]:
            add_gradient_noise(self.network, self.hparams["gradient_noise"], self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the card's fields, so that the checkpoint is a model."""
        period = self.network.period if self.network.lookahead != inf else 0
        if period and self._latency is None:
            self._latency = latency(self.network, period)
        checkpoint["heard_seconds"] = self.heard_seconds
        checkpoint["wavecast_card"] = {
            "name": self.card.name,
            "architecture": self.card.architecture,
            "task": self.card.task,
            "hyperparameters": dict(self.card.hyperparameters),
            "sample_rate": self.card.sample_rate,
            "block": int(period),
            "latency_ms": 1000 * self._latency / self.card.sample_rate if self._latency else None,
            "training": {"steps": self.global_step, "hours_heard": round(self.heard_seconds / 3600, 3)},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting the hours heard."""
        self.heard_seconds = checkpoint.get("heard_seconds", 0.0)


class Rate:
    """The share of the learning rate at a step: a linear rise, then a cosine down to `last`.

    Args:
        warmup: steps of the rise.
        total: steps in all; infinite: constant after the rise.
        last: share at the end.
    """

    def __init__(self, warmup: int, total: float, last: float) -> None:
        self.warmup, self.total, self.last = warmup, total, last

    def __call__(self, step: int) -> float:
        """Give the share at this step."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.total == inf:
            return 1.0
        done = min(1.0, (step - self.warmup) / max(1.0, self.total - self.warmup))
        return self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * done))


def choose_loss(name: str, architecture: str) -> Loss:
    """Find a loss by its name.

    Raises:
        WavecastError: the architecture does not have what the loss compares.
    """
    if name == "published":
        if architecture != "frcrn":
            hint = "use --model.loss spectral, or --model.architecture frcrn"
            raise WavecastError(f"the published loss compares masks, and {architecture} has no mask of that kind", hint)
        from wavecast.apps.enhancement.published_loss import published_loss

        return cast(Loss, published_loss)
    return negative_si_snr if name == "si_snr" else spectral_loss


def negative_si_snr(network: nn.Module, noisy: Tensor, clean: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute minus the mean SI-SNR in dB."""
    from wavecast.apps.enhancement.published_loss import si_snr

    return -si_snr(network(noisy)[0], clean).mean(), {}


def spectral_loss(network: nn.Module, noisy: Tensor, clean: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the streaming model's loss of compressed spectra."""
    from wavecast.apps.enhancement.losses import compressed_spectral_loss

    return compressed_spectral_loss(network(noisy)[0], clean, noisy), {}


def warm_start(network: nn.Module, architecture: str, source: str) -> None:
    """Load the weights of another model into a network: all of them.

    Args:
        network: to load into.
        architecture: of the network.
        source: a model's name, card or checkpoint, or an official file (.pt, .bin) of FRCRN.

    Raises:
        WavecastError: there is no such model, or it does not fit.
    """
    path = Path(source)
    if architecture == "frcrn" and path.suffix in (".pt", ".bin") and path.exists():
        from wavecast.apps.enhancement.frcrn_official import convert_state, unwrap

        load_strict(network, convert_state(unwrap(load_pickle(path))), source)
        return
    card = find_model(source, "enhance")
    if card.architecture != architecture:
        hint = f"give --model.architecture {card.architecture}, or another model"
        raise WavecastError(f"{source} is a {card.architecture}, and the network to train is a {architecture}", hint)
    load_strict(network, load_network(card).state_dict(), source)


def decay_groups(
    network: nn.Module, weight_decay: float, undecayed: Literal["biases", "vectors"]
) -> list[dict[str, Any]]:
    """Split the parameters into those with weight decay and those without."""

    def spared(name: str, parameter: nn.Parameter) -> bool:
        return "bias" in name or (undecayed == "vectors" and parameter.ndim < 2)

    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    return [
        {"params": [p for name, p in named if not spared(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in named if spared(name, p)], "weight_decay": 0.0},
    ]


def add_gradient_noise(network: nn.Module, deviation: float, step: int) -> None:
    """Add Gaussian noise to the gradients, a function of the step: standard deviation / (1 + step) ** 0.275."""
    for number, parameter in enumerate(gradients(network)):
        generator = torch.Generator().manual_seed(1_000_003 * step + number)
        noise = torch.randn(parameter.shape, generator=generator) * (deviation * (1 + step) ** -0.275)
        parameter.add_(noise.to(parameter))


def gradients(network: nn.Module) -> Iterator[Tensor]:
    """Give the gradients of a network's parameters."""
    return (parameter.grad for parameter in network.parameters() if parameter.grad is not None)


@torch.no_grad()
def latency(network: nn.Module, block: int) -> int:
    """Measure the latency of a stream fed blocks of this size, in samples: the block and what it holds back."""
    training = network.training
    network.eval()
    first = next(network.parameters())
    state, sent, came = None, 0, 0
    for _ in range(16):
        y, state = network(torch.zeros(1, block, device=first.device, dtype=first.dtype), state, last=False)
        sent, came = sent + block, came + y.shape[1]
    network.train(training)
    return block + sent - came


def plain(value: Any) -> Any:
    """Turn tuples into lists and mappings into dictionaries: what a weights-only checkpoint may hold."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
