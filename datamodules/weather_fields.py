"""Weather fields in canonical form: the lazy data set, and reading it channel by channel."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import xarray as xr

from wavecast.core.errors import WavecastError
from wavecast.datamodules.variables import channel, not_found
from wavecast.datamodules.weather_layout import Layout
from wavecast.datamodules.weather_sources import Sources
from wavecast.datamodules.weather_times import spacing
from wavecast.datamodules.weather_values import FieldArray

BLOCK_BYTES = 16 << 20
"""Read at once in passes over time; also the size of dask's chunks."""


@dataclass
class Fields:
    """Weather fields on a grid, read as they are used.

    Attributes:
        dataset: the canonical fields, lazy (dask): (time, [level], latitude, longitude), without time where nothing
            depends on it. One level of a variable is a variable of its own, such as `temperature_850`, where the file
            or the request names it so.
        layout: turns fields on this grid back into the file's names, order and units.
        arrays: the variables of `dataset`, as arrays that read what is asked for.
        where: what was opened, for errors.
        sources: the open files.
        stride: instants of the files for one of these.
    """

    dataset: xr.Dataset
    layout: Layout
    arrays: dict[str, FieldArray]
    where: str
    sources: Sources
    stride: int = 1

    @property
    def times(self) -> np.ndarray:
        """(time,) datetime64[ns], or objects of cftime in a calendar that numpy has not got.

        Raises:
            WavecastError: nothing depends on time.
        """
        if "time" not in self.dataset.coords:
            raise WavecastError(f"{self.where} has no times", "it holds constants; give fields that unfold in time")
        return np.asarray(self.dataset["time"].values)

    @property
    def step(self) -> int:
        """Nanoseconds between instants; 0 when there is a single one."""
        return spacing(self.times, self.where)

    @property
    def latitudes(self) -> np.ndarray:
        """(row,) degrees north, ascending."""
        return np.asarray(self.dataset["latitude"].values)

    @property
    def longitudes(self) -> np.ndarray:
        """(col,) degrees east, ascending."""
        return np.asarray(self.dataset["longitude"].values)

    @property
    def channels(self) -> list[str]:
        """Every level of every variable that unfolds in time: `2m_temperature`, `temperature_500` ..."""
        return [name for name, (variable, _) in self._places().items() if self.arrays[variable].rows is not None]

    @property
    def statics(self) -> list[str]:
        """Variables without time: `land_sea_mask` ..."""
        return [name for name, array in self.arrays.items() if array.rows is None]

    def _places(self) -> dict[str, tuple[str, int | None]]:
        """Map every channel to its variable and the place of its level there."""
        places: dict[str, tuple[str, int | None]] = {}
        for name, array in self.arrays.items():
            if "level" in array.order:
                for place, level in enumerate(self.dataset["level"].values):
                    places[channel(name, level)] = name, place
            else:
                places[name] = name, None
        return places

    def read(self, start: int, stop: int, channels: Sequence[str] | None = None) -> np.ndarray:
        """Read instants start to stop of some channels.

        Args:
            start: place in `times`.
            stop: the one behind the last.
            channels: of `channels`; all of them when None.

        Returns:
            float32 (time, row, col, channel) in SI units, latitudes and longitudes ascending.

        Raises:
            WavecastError: there is no such channel, values are missing, or the file is damaged.
        """
        chosen = self.channels if channels is None else list(channels)
        places = self._places()
        for name in chosen:
            if name not in places or self.arrays[places[name][0]].rows is None:
                raise not_found(name, self.channels, self.where)
        blocks = {
            variable: self.arrays[variable].read(start, stop) for variable in {places[name][0] for name in chosen}
        }
        result = np.empty((stop - start, len(self.latitudes), len(self.longitudes), len(chosen)), np.float32)
        for column, name in enumerate(chosen):
            variable, place = places[name]
            result[..., column] = blocks[variable] if place is None else blocks[variable][:, place]
        return result

    def blocks(self, start: int, stop: int, channels: Sequence[str] | None = None) -> Iterator[np.ndarray]:
        """Read instants start to stop in pieces of bounded size, in order."""
        chosen = self.channels if channels is None else list(channels)
        instant = 4 * len(chosen) * len(self.latitudes) * len(self.longitudes)
        length = max(1, BLOCK_BYTES // max(1, instant))
        for begin in range(start, stop, length):
            yield self.read(begin, min(begin + length, stop), chosen)

    def read_static(self, name: str) -> np.ndarray:
        """Read a variable without time: float32 (row, col).

        Raises:
            WavecastError: there is none of this name.
        """
        if name not in self.statics:
            raise not_found(name, self.statics, self.where)
        return self.arrays[name].read()

    def close(self) -> None:
        """Close the files."""
        self.sources.close()

    def __enter__(self) -> "Fields":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
