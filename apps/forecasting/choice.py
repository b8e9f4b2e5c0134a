"""Which of the known models forecasts given fields, where nobody names one.

    forecaster = wavecast.load("forecast")
    future = forecaster("era5.nc", steps=12)                # a path or an xarray.Dataset in, a Dataset out

The command line asks the same when there is no `--model`.
"""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from wavecast.apps.forecasting.format import FieldFormat
from wavecast.apps.forecasting.inference import Forecaster
from wavecast.apps.forecasting.video_format import is_video
from wavecast.cards import known_cards
from wavecast.core.device import choose_device
from wavecast.core.errors import WavecastError
from wavecast.datamodules.weather_fields import Fields
from wavecast.datamodules.weather_files import open_fields


class NoChoiceError(WavecastError):
    """No known model fits, or several of unknown quality do: the user must name one."""


class FittingForecaster:
    """Forecast fields by the known model that fits them, chosen anew at every call.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:1".

    Attributes:
        chosen: the forecaster of the last call; None before the first.

    Raises:
        WavecastError: there is no such device.
    """

    def __init__(self, device: str = "auto") -> None:
        choose_device(device)
        self.device = device
        self.chosen: Forecaster | None = None
        self._loaded: dict[str, Forecaster] = {}

    def __call__(self, source: str | Path | xr.Dataset, steps: int | None = None, **options: Any) -> xr.Dataset:
        """Forecast from the last instant of a file or a data set; see `Forecaster`.

        Args:
            source: whatever `open_fields` opens.
            steps: to forecast; those the model was trained for by default.
            options: of `open_fields`: `missing`, `units`, `start`, `hours`.

        Returns:
            Dims (time of 1, prediction_timedelta, latitude, longitude), in SI units under WeatherBench 2's names.

        Raises:
            NoChoiceError: no model fits, or several of unknown quality do.
            WavecastError: the fields cannot be read, or are too few.
        """
        if isinstance(source, np.ndarray):
            raise WavecastError(
                f"an array of shape {source.shape} does not tell its variables and grid",
                'give an xarray.Dataset or a path; for frames name a model of video: load("forecast", model=...)',
            )
        with open_fields(source, **options) as fields:
            name = fitting_model(fields, source)
        if name not in self._loaded:
            self._loaded[name] = Forecaster.load(name, self.device)
        self.chosen = self._loaded[name]
        return self.chosen(source, steps, **options)


def fitting_model(fields: Fields, source: str | Path | xr.Dataset) -> str:
    """Find the known model whose grid and variables fields have; of several the one whose card has the least error.

    Args:
        fields: all that the source holds.
        source: of the fields, for the message.

    Raises:
        NoChoiceError: there is none, or there are several of unknown quality.
    """
    cards = [card for card in known_cards() if card.task == "forecast" and not is_video(card)]
    fits = [card for card in cards if suits(FieldFormat.of(card.fields, card.name), fields)]
    if len(fits) == 1:
        return fits[0].name
    if measured := [card for card in fits if "mean_rmse" in card.metrics]:
        return min(measured, key=lambda card: float(card.metrics["mean_rmse"])).name
    if fits:
        names = [card.name for card in fits]
        raise NoChoiceError(
            f"{len(fits)} models fit {fields.where}: {', '.join(names)}", f"choose one as model (--model {names[0]})"
        )
    known = "; ".join(f"{card.name}: {FieldFormat.of(card.fields, card.name).describe()}" for card in cards)
    grid = f"{len(fields.latitudes)} x {len(fields.longitudes)} points"
    root = "FILE" if isinstance(source, xr.Dataset) else shlex.quote(str(source))
    raise NoChoiceError(
        f"no model here fits {fields.where} ({', '.join(fields.channels)} on {grid}); there is "
        f"{known or 'none at all'}",
        f"train one: wavecast train forecasting --config forecasting_predformer --data.root {root}, "
        "or --config forecasting_convs5; or name a model or a baseline (--model persistence)",
    )


def suits(made_for: FieldFormat, fields: Fields) -> bool:
    """Tell whether fields are those of a format."""
    grids = (
        (made_for.latitudes, fields.latitudes),
        (made_for.longitudes, fields.longitudes),
    )
    same = all(len(a) == len(b) and np.allclose(a, b, atol=1e-3) for a, b in grids)
    return same and {*made_for.channels} <= {*fields.channels}
