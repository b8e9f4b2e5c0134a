"""What training has in common in every task: optimizer, schedule, averaged weights, validation means, the card."""

import math
from collections.abc import Iterator, Mapping
from math import inf
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_avg_fn

from wavecast.cards import Card, build_network, find_model, load_network, load_strict
from wavecast.core.errors import WavecastError


class OptimizedTask(LightningModule):
    """A task that is optimized as its hyper-parameters say, and whose checkpoints are models.

    Subclasses hand the arguments below on to it as `**optimization`, where the command line finds them with their
    defaults and descriptions; a subclass names one itself to give it another default. All arguments of all classes
    become hyper-parameters here. Subclasses call `begin` with their card, and log through `count`.

    Args:
        optimizer: "adam" or "adamw".
        learning_rate: after the warm-up.
        betas: of the optimizer.
        weight_decay: of the optimizer.
        undecayed: what weight decay spares: "nothing", "biases" (by name), or "vectors" (norms and biases).
        schedule: "constant", "cosine" (to `last_rate`), or "plateau" (times `factor` after `patience` epochs without
            a better validation loss).
        warmup_steps: linear rise of the learning rate.
        last_rate: at the end of the cosine, as a share of `learning_rate`.
        patience: epochs of the plateau schedule.
        factor: of the plateau schedule.
        gradient_noise: standard deviation of Gaussian noise on the gradients at step 0; its variance falls as
            (1 + step) ** -0.55 (Neelakantan et al. 2015). 0: none.
        average_decay: decay of an exponential moving average of the weights, which is validated and saved; 0: none.

    Attributes:
        means: names of what is averaged over the validation items.
        shown: the one of them that the progress bar shows.
    """

    means: tuple[str, ...] = ("val_loss",)
    shown = "val_loss"
    card: Card
    network: nn.Module

    def __init__(
        self,
        optimizer: Literal["adam", "adamw"] = "adamw",
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 1e-2,
        undecayed: Literal["nothing", "biases", "vectors"] = "vectors",
        schedule: Literal["constant", "cosine", "plateau"] = "cosine",
        warmup_steps: int = 0,
        last_rate: float = 0.0,
        patience: int = 5,
        factor: float = 0.5,
        gradient_noise: float = 0.0,
        average_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()

    def begin(self, card: Card, init_from: str | None) -> None:
        """Build the network of a card, with the weights of another model if one is named.

        Raises:
            WavecastError: the architecture or the model does not exist, or they do not fit.
        """
        self.card, self.network = card, build_network(card)
        if init_from:
            self.warm_start(init_from)
        self._sums = torch.zeros(len(self.means), 2, dtype=torch.float64)

    def meet(self, data: LightningDataModule) -> None:
        """Get to know the data before training; tasks whose network depends on them build it here."""

    def warm_start(self, source: str) -> None:
        """Load the weights of another model of the same architecture: all of them.

        Raises:
            WavecastError: there is no such model, or it does not fit.
        """
        card = find_model(source, self.card.task)
        if card.architecture != self.card.architecture:
            raise WavecastError(
                f"{source} is a {card.architecture}, and the network to train is a {self.card.architecture}",
                f"give --model.architecture {card.architecture}, or another model",
            )
        load_strict(self.network, load_network(card).state_dict(), source)

    def chance_of(self, index: int) -> np.random.Generator:
        """Make what is random in a training step a function of `seed` and the number of its batch.

        Batches are counted over all processes and resumed runs, so that these compute what one uninterrupted process
        would have. torch's own chance (dropout) is seeded; more may be drawn from what is given back.
        """
        together = self.trainer.accumulate_grad_batches
        done = self.global_step * together + index % together
        number = int(done * self.trainer.world_size + self.global_rank)
        rng = np.random.default_rng([self.hparams["seed"], number, 4])
        torch.manual_seed(int(rng.integers(1 << 62)))
        return rng

    def configure_callbacks(self) -> list[Callback]:
        """Average the weights, if asked to."""
        decay = self.hparams["average_decay"]
        return [WeightAveraging(avg_fn=get_ema_avg_fn(decay))] if decay else []

    def count(self, name: str, values: Tensor) -> None:
        """Add up a validation metric over items; an item without it (not a finite number) does not count."""
        values = values[values.isfinite()]
        added = torch.stack([values.double().sum(), values.new_tensor(len(values)).double()])
        self._sums[self.means.index(name)] += added

    def on_validation_epoch_start(self) -> None:
        """Forget the sums of the last validation."""
        self._sums = torch.zeros(len(self.means), 2, dtype=torch.float64, device=self.device)

    def on_validation_epoch_end(self) -> None:
        """Log the means over all items of all processes."""
        sums = self.trainer.strategy.reduce(self._sums, reduce_op="sum")
        for name, (total, items) in zip(self.means, sums.tolist(), strict=True):
            if items:
                self.log(name, total / items, prog_bar=name == self.shown, rank_zero_only=False)

    def configure_optimizers(self) -> dict[str, Any]:
        """Build the optimizer with its two groups of parameters, and the schedule."""
        options = self.hparams
        kind = torch.optim.AdamW if options["optimizer"] == "adamw" else torch.optim.Adam
        groups = decay_groups(self.network, options["weight_decay"], options["undecayed"])
        optimizer = kind(groups, lr=options["learning_rate"], betas=tuple(options["betas"]))
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

    def card_fields(self) -> Mapping[str, Any]:
        """Give what the card of this checkpoint says beside the common fields."""
        return {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the card's fields, so that the checkpoint is a model: weights and plain data only."""
        checkpoint["wavecast_card"] = {
            "name": self.card.name,
            "architecture": self.card.architecture,
            "task": self.card.task,
            "hyperparameters": dict(self.card.hyperparameters),
            **self.card_fields(),
        }


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


def decay_groups(
    network: nn.Module, weight_decay: float, undecayed: Literal["nothing", "biases", "vectors"]
) -> list[dict[str, Any]]:
    """Split the parameters into those with weight decay and those without.

    Args:
        network: whose parameters.
        weight_decay: of the first group.
        undecayed: what is spared: nothing, biases (by name), or vectors (norms and biases).
    """

    def spared(name: str, parameter: nn.Parameter) -> bool:
        return undecayed != "nothing" and ("bias" in name or (undecayed == "vectors" and parameter.ndim < 2))

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


def plain(value: Any) -> Any:
    """Turn tuples into lists and mappings into dictionaries: what a weights-only checkpoint may hold."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
