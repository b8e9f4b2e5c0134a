"""Training the forecaster: loss over the forecast's steps, skill beside persistence, the card of the checkpoint.

Network and grid are those of the data, so the network is built when the data are known (`meet`). Training runs what
forecasting runs (`wavecast.apps.forecasting.steps`): a network that streams forecasts frame by frame from its own
output, a longer horizon than a window trains the rollout.
"""

from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from wavecast.apps.forecasting.convs5 import published_losses
from wavecast.apps.forecasting.format import FieldFormat
from wavecast.apps.forecasting.scores import cell_areas
from wavecast.apps.forecasting.steps import forecast
from wavecast.cards import Card
from wavecast.core.errors import WavecastError
from wavecast.datamodules.weather import WeatherData
from wavecast.optimization import OptimizedTask, plain


class ForecastingTask(OptimizedTask):
    """Teach a network to forecast fields.

    Args:
        architecture: "predformer" or "convs5".
        network: its hyper-parameters, plain data; grid, window and channels are those of the data.
        increments: let the network forecast what is added to the last frame it saw.
        loss: "mse", "mae", or "published" (ConvS5: squared and absolute errors, summed over columns).
        area_weighted: weight the rows by the area of their cells.
        init_from: begin with the weights of this model of the same grid and channels: a name, a card, a checkpoint.
        optimizer: "adam" or "adamw".
        learning_rate: after the warm-up.
        weight_decay: of the optimizer.
        undecayed: what weight decay spares: "nothing" (as published), "biases" or "vectors" (norms and biases).
        schedule: "constant", "cosine" (to `last_rate`), or "plateau" (times `factor` after `patience` epochs without
            a better validation loss).
        warmup_steps: linear rise of the learning rate.
        last_rate: at the end of the cosine, as a share of `learning_rate`.
        patience: epochs of the plateau schedule.
        factor: of the plateau schedule.
        gradient_noise: standard deviation of Gaussian noise on the gradients at step 0 (Neelakantan et al. 2015).
        average_decay: decay of an exponential moving average of the weights, which is validated and saved; 0: none.
        name: of the model in its card.
    """

    means = ("val_loss", "val_mse", "val_mse_of_persistence")
    shown = "val_skill"

    def __init__(
        self,
        architecture: Literal["predformer", "convs5"] = "predformer",
        network: dict[str, Any] | None = None,
        increments: bool = False,
        loss: Literal["mse", "mae", "published"] = "mse",
        area_weighted: bool = False,
        init_from: str | None = None,
        optimizer: Literal["adam", "adamw"] = "adamw",
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        undecayed: Literal["nothing", "biases", "vectors"] = "vectors",
        schedule: Literal["constant", "cosine", "plateau"] = "cosine",
        warmup_steps: int = 0,
        last_rate: float = 0.0,
        patience: int = 5,
        factor: float = 0.5,
        gradient_noise: float = 0.0,
        average_decay: float = 0.0,
        name: str = "forecaster",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.format: FieldFormat | None = None
        self.weights: Tensor | None = None

    def meet(self, data: LightningDataModule) -> None:
        """Build the network for the grid, the window and the channels of the data.

        Raises:
            WavecastError: the hyper-parameters do not fit the architecture or the data.
        """
        if not isinstance(data, WeatherData):
            raise ValueError(f"{type(data).__name__} holds no fields\nhint: give WeatherData")
        data.prepare_data()
        data.setup("fit")
        options, described = self.hparams, data.describe()
        extras = len(data.input_channels) - len(data.channels)
        fits = {one: described[one] for one in FieldFormat.__dataclass_fields__ if one in described}
        self.format = FieldFormat(**fits, increments=options["increments"])
        shapes = shaped_by(options["architecture"], self.format, extras, options["network"] or {})
        card = Card(
            options["name"],
            options["architecture"],
            "forecast",
            plain({**(options["network"] or {}), **shapes}),
            fields=self.format.plain(),
        )
        self.begin(card, options["init_from"])
        if options["area_weighted"]:
            areas = torch.from_numpy(cell_areas(np.array(self.format.latitudes))).float()
            self.weights = (areas / areas.mean())[:, None, None]

    def forward(self, past: Tensor, known: Tensor, steps: int) -> Tensor:
        """Forecast: (batch, steps, row, col, channel), standardized."""
        if self.format is None:
            raise ValueError("the network is not built\nhint: call meet(data) first")
        return forecast(self.network, past, known, steps, self.format.increments)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Compute the loss of a batch."""
        past, known, future = parts(batch)
        loss = self._loss(self(past, known, future.shape[1]), future)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Count loss and squared errors, of persistence too; return the forecast."""
        past, known, future = parts(batch)
        estimate = self(past, known, future.shape[1])
        self.count("val_loss", self._loss(estimate, future).expand(len(future)))
        for name, guess in (("val_mse", estimate), ("val_mse_of_persistence", past[:, -1:])):
            self.count(name, (guess - future).square().flatten(1).mean(1))
        return estimate

    def on_validation_epoch_end(self) -> None:
        """Log the means, and the skill: the share of persistence's squared error that is gone."""
        super().on_validation_epoch_end()
        logged = self.trainer.callback_metrics
        if "val_mse" in logged:
            skill = 1 - logged["val_mse"] / logged["val_mse_of_persistence"]
            self.log("val_skill", skill, prog_bar=True, rank_zero_only=False)

    def _loss(self, estimate: Tensor, future: Tensor) -> Tensor:
        if self.hparams["loss"] == "published":
            return published_losses(estimate, future).loss
        error = estimate - future
        distance = error.square() if self.hparams["loss"] == "mse" else error.abs()
        return (distance if self.weights is None else distance * self.weights.to(distance)).mean()

    def card_fields(self) -> dict[str, Any]:
        """Give the format of the fields, and how long was trained."""
        return {"fields": dict(self.card.fields), "training": {"steps": self.global_step}}


def parts(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Split a batch into the past, what is known ahead, and the future: (batch, time, row, col, channel) each."""
    inputs, future = batch["inputs"], batch["targets"]
    return inputs[..., : future.shape[-1]], batch["known"], future


def shaped_by(architecture: str, made_for: FieldFormat, extras: int, network: dict[str, Any]) -> dict[str, Any]:
    """Give the hyper-parameters of a network that follow from the data.

    Args:
        architecture: "predformer" or "convs5".
        made_for: the fields.
        extras: input channels beside those that are forecast.
        network: the other hyper-parameters.

    Raises:
        WavecastError: they name what follows from the data.
    """
    channels = len(made_for.channels)
    shapes: dict[str, Any] = {"channels": channels + extras, "output_channels": channels}
    if architecture == "predformer":
        patch = network.get("patch", 4)
        rows, cols = (-(-len(axis) // patch) * patch for axis in (made_for.latitudes, made_for.longitudes))
        shapes |= {"time": made_for.history, "rows": rows, "cols": cols, "patch": patch}
    if twice := {*shapes} & {*network} - {"patch"}:
        raise WavecastError(f"{', '.join(sorted(twice))} of the network follow from the data", "leave them out")
    return shapes
