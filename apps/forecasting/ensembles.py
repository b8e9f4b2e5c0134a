"""Ensembles: several forecasts of the same time, from perturbed initial states, by several models, or both.

    ensemble = Ensemble([Forecaster.load("a.ckpt"), Forecaster.load("b.ckpt")], members=10, perturbation=0.1, seed=0)

Members are in the order of the models: all of the first one, then those of the next. The first member of each model
starts from the fields as they are. The others start from fields to which noise is added: normal, smoothed over an
eighth of the grid's rows, one field for all instants of the history (an error of the analysis that stays), its root
mean square over the grid a share of the channel's standard deviation in the training data. The noise follows from seed,
member and initial time alone, so that a resumed ensemble, or one made by several processes, has the same members.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.ndimage import gaussian_filter1d

from wavecast.apps.forecasting.inference import Forecaster
from wavecast.core.errors import WavecastError
from wavecast.datamodules.weather_fields import Fields
from wavecast.datamodules.weather_times import nanoseconds

PERTURBATION = 0.1
SMOOTH_ROWS = 8  # the noise is smoothed over the grid's rows divided by this


class Ensemble:
    """Several forecasts as one method (`wavecast.apps.forecasting.inference.Method`).

    All members go on together, piece by piece: memory grows with their number, not with the steps.

    Args:
        forecasters: of the same channels, grid and step.
        members: of each.
        perturbation: root mean square of the noise, as a share of each channel's standard deviation in training.
        seed: of the noise.

    Raises:
        WavecastError: the models forecast different channels, or step differently.
    """

    def __init__(
        self, forecasters: Sequence[Forecaster], members: int = 1, perturbation: float = PERTURBATION, seed: int = 0
    ) -> None:
        first = forecasters[0]
        for other in forecasters[1:]:
            found, wanted = ({*one.format.channels, f"steps of {one.format.step_hours:g} h"} for one in (other, first))
            if found != wanted:
                raise WavecastError(
                    f"{first.name} forecasts {', '.join(sorted(wanted - found)) or 'less'}, {other.name} "
                    f"{', '.join(sorted(found - wanted)) or 'not'}",
                    "members of an ensemble forecast the same channels and steps",
                )
        self.forecasters, self.each = forecasters, members
        self.perturbation, self.seed = perturbation, seed
        self.members = members * len(forecasters)
        self.name = " + ".join(one.name for one in forecasters)
        if members > 1:
            self.name += f", {members} members each, perturbation {perturbation:g}, seed {seed}"
        self.checkpoint = " ".join(one.checkpoint for one in forecasters)
        self.history = max(one.history for one in forecasters)
        self.horizon = min(one.horizon for one in forecasters)

    @property
    def drift(self) -> str:
        """The first sign of drift, as that of a `Forecaster`."""
        return next((one.drift for one in self.forecasters if one.drift), "")

    def open(self, source: str | Path | xr.Dataset, **options: Any) -> Fields:
        """Open fields, and check that they are those that every model is made for.

        Raises:
            WavecastError: a variable is missing, or the grid or the step are others.
        """
        fields = self.forecasters[0].open(source, **options)
        try:
            for other in self.forecasters[1:]:
                other.check(fields)
        except BaseException:
            fields.close()
            raise
        return fields

    def pieces(self, fields: Fields, at: int, steps: int) -> Iterator[dict[str, np.ndarray]]:
        """Forecast from instant `at`, step by step: {channel: float32 (1, number, latitude, longitude)}.

        Raises:
            WavecastError: there is too little history before it, or values are missing there.
        """
        time = int(nanoseconds(fields.times[at : at + 1])[0])
        runs = []
        for forecaster in self.forecasters:
            for member in range(self.each):
                shift = None
                if member:
                    shape = len(fields.latitudes), len(forecaster.format.channels)
                    shift = self.perturbation * noise(fields.longitudes, shape, self.seed, member, time)
                runs.append(single_steps(forecaster.pieces(fields, at, steps, shift)))
        for parts in zip(*runs, strict=True):
            yield {name: np.stack([part[name] for part in parts], 1) for name in parts[0]}


def single_steps(pieces: Iterator[Mapping[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """Cut the pieces of a forecast into single steps."""
    for piece in pieces:
        for k in range(len(next(iter(piece.values())))):
            yield {name: values[k : k + 1] for name, values in piece.items()}


def noise(longitudes: np.ndarray, shape: tuple[int, int], seed: int, member: int, time: int) -> np.ndarray:
    """Draw smooth noise.

    Args:
        longitudes: (col,) degrees east; the noise has no seam where they go all the way round.
        shape: rows and channels.
        seed: of the ensemble.
        member: of the ensemble.
        time: initial time in nanoseconds since 1970.

    Returns:
        float32 (row, col, channel), each channel of mean square 1 over the grid.
    """
    rows, channels = shape
    draw = np.random.default_rng([seed % (1 << 64), member, time % (1 << 64)])
    field = draw.standard_normal((rows, len(longitudes), channels))
    step = np.ptp(longitudes) / max(1, len(longitudes) - 1)
    around = abs(np.ptp(longitudes) + step - 360) < step / 2
    for axis, mode in ((0, "nearest"), (1, "wrap" if around else "nearest")):
        field = gaussian_filter1d(field, rows / SMOOTH_ROWS, axis, mode=mode)
    smooth: np.ndarray = (field / np.sqrt(np.square(field).mean((0, 1)))).astype(np.float32)
    return smooth
