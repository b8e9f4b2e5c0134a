"""What fields a network is made for: the part of a card that stands between a file and the network's numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from wavecast.core.errors import WavecastError
from wavecast.datamodules.weather_windows import Extras, Normalization


@dataclass(frozen=True)
class FieldFormat:
    """The fields a network takes and gives; plain data.

    Attributes:
        channels: what is forecast: variables, or single levels of them (`temperature_850`).
        extras: what is known ahead and goes in beside them: "hour", "day", "latitude", "longitude", constants.
        normalization: [mean, std] of every channel and constant.
        latitudes: (row,) degrees north, ascending.
        longitudes: (col,) degrees east, ascending.
        step_hours: hours between instants.
        history: instants in.
        horizon: instants out that it was trained for.
        increments: whether the network gives what is added to the last frame it saw.
    """

    channels: list[str]
    extras: list[str]
    normalization: dict[str, list[float]]
    latitudes: list[float]
    longitudes: list[float]
    step_hours: float
    history: int
    horizon: int
    increments: bool = False

    @staticmethod
    def of(values: Mapping[str, Any], name: str) -> "FieldFormat":
        """Read what a card says.

        Raises:
            WavecastError: something is missing or unknown there.
        """
        known = {one.name for one in fields(FieldFormat)}
        faults = [f"no {key}" for key in sorted(known - {*values, "increments"})]
        faults += [f"unknown {key}" for key in sorted({*values} - known)]
        if faults:
            raise WavecastError(f"the card of {name} does not describe its fields: {', '.join(faults)}", "train again")
        return FieldFormat(**values)

    def plain(self) -> dict[str, Any]:
        """Give it as plain data, for a card."""
        return asdict(self)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and channels of what is forecast."""
        return len(self.latitudes), len(self.longitudes), len(self.channels)

    @property
    def scale(self) -> Normalization:
        """Mean and deviation of the channels."""
        return Normalization.from_plain(self.normalization, self.channels)

    def known_ahead(self, statics: Mapping[str, np.ndarray]) -> Extras:
        """Make the extras.

        Args:
            statics: the constants among them, (row, col).
        """
        grid = np.array(self.latitudes), np.array(self.longitudes)
        return Extras(self.extras, *grid, statics, self.normalization)

    def describe(self) -> str:
        """Say in one line what fields it is made for."""
        south, north = self.latitudes[0], self.latitudes[-1]
        west, east = self.longitudes[0], self.longitudes[-1]
        return (
            f"{', '.join(self.channels)} on {len(self.latitudes)} x {len(self.longitudes)} points, {south:g} to "
            f"{north:g} degrees north, {west:g} to {east:g} degrees east, every {self.step_hours:g} h"
        )
