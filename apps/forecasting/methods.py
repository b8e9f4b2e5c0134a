"""Baselines as methods: what `wavecast forecast --model persistence` and every table of scores run beside a network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from wavecast.apps.forecasting.baselines import (
    Baseline,
    Climatology,
    DampedAnomaly,
    LinearRegression,
    Persistence,
    PreviousSeason,
)
from wavecast.core.errors import WavecastError
from wavecast.datamodules.weather_fields import Fields
from wavecast.datamodules.weather_files import open_fields
from wavecast.datamodules.weather_times import HOUR

DAY = 24
UNFITTED = ("persistence", "previous_day")
FITTED = ("climatology", "damped_anomaly", "linear_regression")
BASELINES = (*UNFITTED, *FITTED)
STEPS = 12  # of a baseline when nobody says how many


class BaselineMethod:
    """A baseline as a method (`wavecast.apps.forecasting.inference.Method`).

    Args:
        name: one of BASELINES.
        variables: that are forecast, by any of their names; all when None.
        training: canonical fields to fit to, for those of FITTED.
        steps: to fit.
    """

    checkpoint = ""
    members = 0
    drift = ""
    history = 1
    horizon = STEPS

    def __init__(
        self,
        name: str,
        variables: list[str] | None = None,
        training: xr.Dataset | None = None,
        steps: int = STEPS,
    ) -> None:
        self.name, self.variables = name, variables
        self.baseline = fitted(name, training, steps)

    def open(self, source: str | Path | xr.Dataset, **options: Any) -> Fields:
        """Open fields: any will do."""
        return open_fields(source, self.variables, **options)

    def pieces(self, fields: Fields, at: int, steps: int) -> Iterator[dict[str, np.ndarray]]:
        """Forecast from instant `at`, in one piece: {variable: (steps, [level], latitude, longitude)}.

        Raises:
            WavecastError: there is too little history before it.
        """
        day = round(DAY * HOUR / fields.step) if fields.step else 1
        history = fields.dataset.isel(time=slice(max(0, at - day), at + 1))
        found = self.baseline.forecast(history, fields.times[at : at + 1], steps).isel(time=0)
        yield {str(name): array.values for name, array in found.data_vars.items()}


def fitted(name: str, training: xr.Dataset | None, steps: int) -> Baseline:
    """Make a baseline, fitted to training fields where it must be.

    Args:
        name: one of BASELINES.
        training: canonical fields.
        steps: to fit.

    Raises:
        WavecastError: there is no such baseline, or nothing to fit it to.
    """
    if name == "persistence":
        return Persistence()
    if name == "previous_day":
        return PreviousSeason()
    if name not in FITTED:
        raise WavecastError(f"there is no baseline {name!r}", f"baselines: {', '.join(BASELINES)}")
    if training is None:
        raise WavecastError(f"{name} must be fitted", "give --train FIRST LAST: dates of the file to fit it to")
    climatology = Climatology.fit(training, "hour and day" if spans_a_year(training) else "hour")
    if name == "climatology":
        return climatology
    if name == "damped_anomaly":
        return DampedAnomaly.fit(training, steps, climatology)
    return LinearRegression.fit(training, steps, radius=1, climatology=climatology)


def spans_a_year(training: xr.Dataset) -> bool:
    """Tell whether every day of the year is covered, so that a climatology may depend on it."""
    days = np.unique(training["time"].dt.dayofyear.values)
    return len(days) >= 360
