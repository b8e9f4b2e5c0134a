"""Forecasts from fields: what is read, scaled, forecast, and given back in the file's units and on its grid.

    forecaster = wavecast.load("forecast", model="mine.ckpt")
    future = forecaster("era5.nc", steps=12)                # an xarray.Dataset; or a Dataset in, a Dataset out

Networks and baselines have one face: `Method`.
"""

import logging
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from wavecast.apps.forecasting.drift import DriftWatch
from wavecast.apps.forecasting.forecast_layout import forecast_coordinates
from wavecast.apps.forecasting.format import FieldFormat
from wavecast.apps.forecasting.steps import pieces
from wavecast.apps.forecasting.video_format import is_video
from wavecast.cards import Card, find_model, load_network
from wavecast.core.device import choose_device
from wavecast.core.errors import WavecastError
from wavecast.datamodules.weather_fields import Fields
from wavecast.datamodules.weather_files import open_fields
from wavecast.datamodules.weather_times import HOUR, show
from wavecast.datamodules.weather_windows import CYCLES

logger = logging.getLogger(__name__)


class Method(Protocol):
    """What forecasts: a network or a baseline.

    Attributes:
        name: for humans and for the file.
        checkpoint: SHA-256 of its weights; "" where there are none.
        history: instants that it needs, the initial time among them.
        horizon: steps that it is made for.
        members: of an ensemble; 0: a single forecast.
    """

    name: str
    checkpoint: str
    history: int
    horizon: int
    members: int

    @property
    def drift(self) -> str:
        """Say when and how a forecast first left what the method knows; "" until one does."""

    def open(self, source: str | Path | xr.Dataset, **options: Any) -> Fields:
        """Open a file or data set, as this method needs it."""

    def pieces(self, fields: Fields, at: int, steps: int) -> Iterator[dict[str, np.ndarray]]:
        """Forecast from instant `at`, piece by piece: {variable: (step, [number], [level], latitude, longitude)}."""


class Forecaster:
    """A loaded network; see the module's text for its use.

    Attributes:
        card: all there is to know of the model.
        network: a block over (batch, time, row, col, channel), in eval mode.
        format: the fields it is made for.
        drift: the first sign that a forecast of more steps than it was trained for left what it was trained on
            (`wavecast.apps.forecasting.drift`); "" without any.
    """

    members = 0

    def __init__(self, card: Card, network: nn.Module, device: str | torch.device = "cpu") -> None:
        self.card, self.network, self.device = card, network, torch.device(device)
        self.format = FieldFormat.of(card.fields, card.name)
        self.name, self.checkpoint = card.name, str(card.weights.get("sha256", ""))
        self.history, self.horizon = self.format.history, self.format.horizon
        self.drift = ""

    @staticmethod
    def load(model: str, device: str = "auto") -> "Forecaster":
        """Load a model by name or path.

        Args:
            model: a name from `wavecast models list`, a card, or a checkpoint of `wavecast train forecasting`.
            device: "auto", "cpu", "cuda" or "cuda:1".

        Raises:
            WavecastError: no such model or device, or its weights are damaged.
        """
        where = choose_device(device)
        card = find_model(model, "forecast")
        if is_video(card):
            raise WavecastError(f"{card.name} forecasts video, not fields", "give a video or frames as .npy")
        return Forecaster(card, load_network(card, where), where)

    def __call__(self, source: str | Path | xr.Dataset, steps: int | None = None, **options: Any) -> xr.Dataset:
        """Forecast from the last instant of a file or a data set.

        Args:
            source: whatever `open_fields` opens.
            steps: to forecast; those it was trained for by default.
            options: of `open_fields`: `missing`, `units`, `start`, `hours`.

        Returns:
            Dims (time of 1, prediction_timedelta, latitude, longitude), in SI units under WeatherBench 2's names.

        Raises:
            WavecastError: the fields are not those it is made for.
        """
        self.drift = ""
        with self.open(source, **options) as fields:
            found = whole(self, fields, [len(fields.times) - 1], steps or self.horizon)
        if self.drift:
            logger.warning(self.drift)
        return found

    def open(self, source: str | Path | xr.Dataset, **options: Any) -> Fields:
        """Open fields, and check that they are those the network is made for.

        Raises:
            WavecastError: a variable is missing, or the grid or the step are others.
        """
        fields = open_fields(source, self.format.channels, step=self.format.step_hours, **options)
        try:
            self.check(fields)
        except BaseException:
            fields.close()
            raise
        return fields

    def check(self, fields: Fields) -> None:
        """Check that fields of its channels and step lie on its grid, and reach back far enough.

        Raises:
            WavecastError: they do not.
        """
        for axis, found, made_for in (
            ("latitudes", fields.latitudes, self.format.latitudes),
            ("longitudes", fields.longitudes, self.format.longitudes),
        ):
            if len(found) != len(made_for) or not np.allclose(found, made_for, atol=1e-3):
                raise WavecastError(
                    f"{fields.where} has {len(found)} {axis} from {found[0]:g} to {found[-1]:g}; {self.name} is made "
                    f"for {len(made_for)} from {made_for[0]:g} to {made_for[-1]:g}",
                    "regrid it or choose a region of it, or train a model for it: wavecast train forecasting",
                )
        if len(fields.times) < self.history:
            raise WavecastError(
                f"{fields.where} has {len(fields.times)} instants; {self.name} looks back on {self.history}",
                f"give at least {self.history * self.format.step_hours:g} hours",
            )

    @torch.inference_mode()
    def pieces(
        self, fields: Fields, at: int, steps: int, shift: np.ndarray | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Forecast from instant `at`, piece by piece: {channel: float32 (some steps, latitude, longitude)}.

        Args:
            fields: that it opened.
            at: place of the initial time in `fields.times`.
            steps: to forecast.
            shift: (row, col, channel) to add to every standardized instant of the history.

        Raises:
            WavecastError: there is too little history before it, or values are missing there.
        """
        scale, channels = self.format.scale, self.format.channels
        first = at + 1 - self.history
        if first < 0:
            raise WavecastError(
                f"{show(fields.times[at])} has {at + 1} instants behind it in {fields.where}; {self.name} needs "
                f"{self.history}",
                f"begin at {show(fields.times[self.history - 1])}",
            )
        past = scale.normalize(fields.read(first, at + 1, channels))
        past = past if shift is None else past + shift
        times = instants(fields, first, self.history + steps)
        ahead = self.format.known_ahead(self._statics(fields))

        def known(first: int, stop: int) -> Tensor:
            return torch.from_numpy(ahead.planes(times[first:stop]))[None].to(self.device)

        watch, done = DriftWatch(past, channels), 0
        for piece in pieces(
            self.network, torch.from_numpy(past)[None].to(self.device), known, steps, self.format.increments
        ):
            standard = piece[0].float().cpu().numpy()
            if steps > self.horizon and not self.drift:
                self.drift = self._describe_drift(watch, standard, done, show(fields.times[at]))
            done += len(standard)
            values = scale.denormalize(standard)
            yield {name: np.ascontiguousarray(values[..., k]) for k, name in enumerate(channels)}

    def _describe_drift(self, watch: DriftWatch, standard: np.ndarray, done: int, begun: str) -> str:
        """Say at which lead time a piece of a forecast, `done` steps before it, first drifts; "" when it does not."""
        for step, field in enumerate(standard, done + 1):
            if found := watch.look(field):
                return (
                    f"{self.name} drifts at {step * self.format.step_hours:g} h from {begun}: {found}; it was trained "
                    f"for {self.horizon * self.format.step_hours:g} h"
                )
        return ""

    def _statics(self, fields: Fields) -> dict[str, np.ndarray]:
        wanted = [name for name in self.format.extras if name not in CYCLES]
        if not wanted:
            return {}
        with open_fields(fields.where, wanted) as constants:
            return {name: constants.read_static(name) for name in wanted}


def instants(fields: Fields, first: int, count: int) -> np.ndarray:
    """Give `count` instants from place `first` on, beyond the end of the fields too, in their calendar."""
    times = fields.times[first : first + count]
    missing = count - len(times)
    if missing <= 0:
        return times
    calendar = times.dtype == object  # of cftime
    step: Any = timedelta(hours=fields.step / HOUR) if calendar else np.timedelta64(fields.step, "ns")
    return np.concatenate([times, times[-1] + step * np.arange(1, missing + 1)])


def whole(method: Method, fields: Fields, places: list[int], steps: int) -> xr.Dataset:
    """Forecast from several instants, and give all of it in memory.

    Args:
        method: what forecasts.
        fields: that it opened.
        places: of the initial times in `fields.times`.
        steps: to forecast.

    Returns:
        Dims (time, prediction_timedelta, [number], [level], latitude, longitude).
    """
    forecasts = [joined(method.pieces(fields, at, steps)) for at in places]
    leads = np.arange(1, steps + 1) * np.timedelta64(fields.step, "ns")
    like = fields.dataset[list(forecasts[0])]
    coords = forecast_coordinates(like, fields.times[places], leads, method.members)
    first = ["time", "prediction_timedelta", *(["number"] if method.members else [])]
    variables = {}
    for name in forecasts[0]:
        dims = [*first, *(dim for dim in like[name].dims if dim != "time")]
        variables[name] = xr.Variable(dims, np.stack([one[name] for one in forecasts]), like[name].attrs)
    return xr.Dataset(variables, coords, {"source": method.name})


def joined(parts: Iterator[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join the pieces of one forecast along the steps."""
    found = [*parts]
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}
