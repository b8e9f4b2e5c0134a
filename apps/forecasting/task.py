"""Training the forecaster: loss over the forecast's steps, skill beside persistence, the card of the checkpoint.

Network and grid are those of the data, so the network is built when the data are known (`meet`). Training runs what
forecasting runs (`wavecast.apps.forecasting.steps`): a network that streams forecasts frame by frame from its own
output, a longer horizon than a window trains the rollout.
"""

from collections.abc import Iterator
from math import inf
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from wavecast.apps.forecasting.anomalies import Anomalies, whole_patches
from wavecast.apps.forecasting.convs5 import published_losses
from wavecast.apps.forecasting.format import FieldFormat
from wavecast.apps.forecasting.scores import cell_areas
from wavecast.apps.forecasting.steps import forecast, taught
from wavecast.apps.forecasting.video_format import VideoFormat
from wavecast.cards import Card
from wavecast.core.errors import WavecastError
from wavecast.datamodules.video import VideoData
from wavecast.datamodules.weather import WeatherData
from wavecast.optimization import OptimizedTask, plain

Architecture = Literal[
    "predformer",
    "convs5",
    "state_space_mixer",
    "predformer_anomalies",
    "convs5_anomalies",
    "state_space_mixer_anomalies",
]
SAMPLE = 4096
"""Training windows that are looked at, at most, before training begins."""


class ForecastingTask(OptimizedTask):
    """Teach a network to forecast fields or video.

    Args:
        architecture: "predformer", "convs5" or "state_space_mixer"; the first two may correct a baseline.
        network: its hyper-parameters, plain data; grid, window and channels are those of the data.
        increments: let the network forecast what is added to the last frame it saw.
        loss: "mse", "mae", or "published" (ConvS5: squared and absolute errors, summed over columns).
        area_weighted: weight the rows by the area of their cells.
        lead_weighted: weight every lead time by the inverse of persistence's squared error at it, so that the first
            hours count as the last ones do.
        teacher_forcing: train every next frame on the true ones before it, those of the history too, in one pass; else
            train the forecast from the network's own output. For networks that stream.
        init_from: begin with the weights of this model of the same grid and channels: a name, a card, a checkpoint.
        name: of the model in its card.
        optimization: of `OptimizedTask`.
    """

    means = ("val_loss", "val_mse", "val_mse_of_persistence")
    shown = "val_skill"

    def __init__(
        self,
        architecture: Architecture = "predformer",
        network: dict[str, Any] | None = None,
        increments: bool = False,
        loss: Literal["mse", "mae", "published"] = "mse",
        area_weighted: bool = False,
        lead_weighted: bool = False,
        teacher_forcing: bool = False,
        init_from: str | None = None,
        name: str = "forecaster",
        **optimization: Any,
    ) -> None:
        super().__init__(**optimization)
        self.format: FieldFormat | VideoFormat | None = None
        self.weights: Tensor | None = None

    def meet(self, data: LightningDataModule) -> None:
        """Build the network for the grid, the window and the channels of the data.

        Raises:
            WavecastError: the hyper-parameters do not fit the architecture or the data.
        """
        if not isinstance(data, WeatherData | VideoData):
            raise ValueError(f"{type(data).__name__} holds no fields\nhint: give WeatherData or VideoData")
        data.prepare_data()
        data.setup("fit")
        options, described = self.hparams, data.describe()
        extras = len(data.input_channels) - len(data.channels) if isinstance(data, WeatherData) else 0
        kind = FieldFormat if isinstance(data, WeatherData) else VideoFormat
        fits = {one: described[one] for one in kind.__dataclass_fields__ if one in described}
        self.format = kind(**fits, increments=options["increments"])
        shapes = shaped_by(options["architecture"], self.format, extras, options["network"] or {})
        card = Card(
            options["name"],
            options["architecture"],
            "forecast",
            plain(shapes if "network" in shapes else {**(options["network"] or {}), **shapes}),
            fields=self.format.plain(),
        )
        self.begin(card, options["init_from"])
        if options["teacher_forcing"] and self.network.lookahead == inf:
            raise WavecastError(f"{options['architecture']} forecasts whole windows", "leave out teacher_forcing")
        if options["teacher_forcing"] and options["lead_weighted"]:
            raise WavecastError("every frame is forecast one step ahead", "leave out teacher_forcing or lead_weighted")
        if options["area_weighted"]:
            if isinstance(self.format, VideoFormat):
                raise WavecastError("the frames of a video have no areas on the globe", "leave out area_weighted")
            areas = torch.from_numpy(cell_areas(np.array(self.format.latitudes))).float()
            self.weights = (areas / areas.mean())[:, None, None]
        if isinstance(self.network, Anomalies) and not options["init_from"]:
            self.network.fit(Sample(data))
        if options["lead_weighted"]:
            errors = torch.stack([(later - x[-1:, ..., : later.shape[-1]]).square() for x, later in Sample(data)])
            weights = 1 / errors.mean((0, 2, 3, 4))
            by_lead = (weights / weights.mean())[:, None, None, None]
            self.weights = by_lead if self.weights is None else by_lead * self.weights

    def forward(self, past: Tensor, known: Tensor, steps: int) -> Tensor:
        """Forecast: (batch, steps, row, col, channel), standardized."""
        if self.format is None:
            raise ValueError("the network is not built\nhint: call meet(data) first")
        return forecast(self.network, past, known, steps, self.format.increments)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Compute the loss of a batch."""
        past, known, future = parts(batch)
        if self.hparams["teacher_forcing"]:
            frames = torch.cat([past, future], 1)
            loss = self._loss(taught(self.network, frames, known, self.hparams["increments"]), frames[:, 1:])
        else:
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
        """Give the format of the fields or the video, and how long was trained."""
        return {"fields": dict(self.card.fields), "training": {"steps": self.global_step}}


class Sample:
    """Training windows, evenly spread and few enough: pairs of inputs and targets, read whenever they are gone through.

    Args:
        data: set up to train.

    Raises:
        WavecastError: the data are a video.
    """

    def __init__(self, data: WeatherData | VideoData) -> None:
        if isinstance(data, VideoData):
            raise WavecastError("anomalies and lead_weighted are for fields, not for video", "leave them out")
        self.windows = data.windows["train"]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Read them."""
        for k in np.linspace(0, len(self.windows) - 1, min(len(self.windows), SAMPLE)).astype(int):
            item = self.windows.item(int(k))
            yield torch.from_numpy(item["inputs"]), torch.from_numpy(item["targets"])


def parts(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Split a batch into the past, what is known ahead, and the future: (batch, time, row, col, channel) each."""
    inputs, future = batch["inputs"], batch["targets"]
    nothing = inputs.new_zeros(len(inputs), inputs.shape[1] + future.shape[1], *inputs.shape[2:4], 0)
    return inputs[..., : future.shape[-1]], batch.get("known", nothing), future


def shaped_by(
    architecture: str, made_for: FieldFormat | VideoFormat, extras: int, network: dict[str, Any]
) -> dict[str, Any]:
    """Give the hyper-parameters of a network that follow from the data.

    Args:
        architecture: of the task.
        made_for: the fields or the video.
        extras: input channels beside those that are forecast.
        network: the other hyper-parameters.

    Raises:
        WavecastError: they name what follows from the data.
    """
    rows, cols, channels = made_for.shape
    if architecture.endswith("_anomalies"):
        if isinstance(made_for, VideoFormat) or made_for.extras[:1] != ["hour"] or made_for.increments:
            raise WavecastError(
                f"{architecture} forecasts fields by the hour of the day",
                "give --data.extras '[hour]', hour first, and no increments",
            )
        shaped = {"rows": rows, "cols": cols, "channels": channels, "extras": extras, "network": network}
        shaped["steps_per_day"] = 24 / made_for.step_hours
        return shaped | ({"time": made_for.history} if architecture.startswith("predformer") else {})
    shapes: dict[str, Any] = {"channels": channels + extras, "output_channels": channels}
    if architecture in ("predformer", "state_space_mixer"):
        shapes |= whole_patches(rows, cols, network)
    if architecture == "predformer":
        shapes["time"] = made_for.history
    if twice := {*shapes} & {*network} - {"patch"}:
        raise WavecastError(f"{', '.join(sorted(twice))} of the network follow from the data", "leave them out")
    return shapes
