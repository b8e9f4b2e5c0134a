"""Windows of weather fields: a few past instants in, the next ones out, standardized, with what is known ahead."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from wavecast.core.errors import WavecastError
from wavecast.datamodules.items import Item
from wavecast.datamodules.weather_fields import Fields
from wavecast.datamodules.weather_times import HOUR, nanoseconds

CYCLES = {
    "hour": ("hour_sin", "hour_cos"),
    "day": ("day_sin", "day_cos"),
    "latitude": ("latitude_sin", "latitude_cos"),
    "longitude": ("longitude_sin", "longitude_cos"),
}
"""Extra inputs that need no file, with the channels they become."""


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of every channel: one number each, over time and grid.

    Attributes:
        channels: names.
        mean: (channel,) float64.
        std: (channel,) float64.
    """

    channels: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    def normalize(self, x: np.ndarray) -> np.ndarray:
        """Standardize SI values: float32 (..., channel)."""
        standard: np.ndarray = ((x - self.mean) / self.std).astype(np.float32)
        return standard

    def denormalize(self, x: np.ndarray) -> np.ndarray:
        """Turn standardized values back into SI units: float32 (..., channel)."""
        values: np.ndarray = (x * self.std + self.mean).astype(np.float32)
        return values

    def plain(self) -> dict[str, list[float]]:
        """Give {channel: [mean, std]}: plain data for a checkpoint."""
        numbers = zip(self.mean.tolist(), self.std.tolist(), strict=True)
        return {name: list(pair) for name, pair in zip(self.channels, numbers, strict=True)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Sequence[float]], channels: Sequence[str]) -> "Normalization":
        """Read what `plain` gave, for these channels in this order.

        Raises:
            WavecastError: a channel is missing there.
        """
        missing = [name for name in channels if name not in plain]
        if missing:
            raise WavecastError(f"there are no mean and deviation of {missing[0]}", f"there are those of {list(plain)}")
        mean, std = np.array([plain[name] for name in channels], np.float64).T
        return cls(tuple(channels), mean, std)


def measure(blocks: Iterable[np.ndarray], channels: Sequence[str]) -> Normalization:
    """Measure mean and population standard deviation, block by block in double precision (Chan et al. 1979).

    Args:
        blocks: (..., channel) each, finite.
        channels: names.

    Raises:
        WavecastError: a channel never changes.
    """
    count, mean, squares = 0, np.zeros(len(channels)), np.zeros(len(channels))
    for block in blocks:
        x = block.reshape(-1, len(channels)).astype(np.float64)
        here = x.mean(0)
        apart, total = here - mean, count + len(x)
        squares += np.square(x - here).sum(0) + np.square(apart) * count * len(x) / total
        mean = mean + apart * len(x) / total
        count = total
    std = np.sqrt(squares / max(count, 1))
    constant = [name for name, one, at in zip(channels, std, mean, strict=True) if one <= 1e-7 * abs(at) + 1e-30]
    if constant:
        raise WavecastError(f"{constant[0]} never changes in the training data", "leave it out: it cannot be learned")
    return Normalization(tuple(channels), mean, std)


class Extras:
    """Inputs that are known ahead: the hour, the season, the place, constants of the ground.

    Args:
        names: of CYCLES, or of `statics`.
        latitudes: (row,) degrees north.
        longitudes: (col,) degrees east.
        statics: constants by name, float32 (row, col).
        normalization: [mean, std] of each constant, as a checkpoint has them; measured on this grid when None.

    Raises:
        WavecastError: there is no such input.
    """

    def __init__(
        self,
        names: Sequence[str],
        latitudes: np.ndarray,
        longitudes: np.ndarray,
        statics: Mapping[str, np.ndarray] | None = None,
        normalization: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.names = tuple(names)
        self.channels: list[str] = []
        self.normalization: dict[str, list[float]] = {}
        shape = len(latitudes), len(longitudes)
        circles = {"latitude": np.radians(latitudes)[:, None], "longitude": np.radians(longitudes)[None]}
        planes: dict[str, tuple[np.ndarray, ...]] = {}
        for name in names:
            if name in CYCLES:
                self.channels += CYCLES[name]
            if name in circles:
                planes[name] = tuple(np.broadcast_to(part(circles[name]), shape) for part in (np.sin, np.cos))
            elif name not in CYCLES:
                if name not in (statics or {}):
                    known = [*CYCLES, *(statics or {})]
                    raise WavecastError(f"there is no extra input {name}", f"there are {', '.join(known)}")
                static = np.asarray((statics or {})[name], np.float64)
                mean, std = (normalization or {}).get(name) or (static.mean(), static.std())
                self.channels.append(name)
                self.normalization[name] = [float(mean), float(std) or 1.0]
                planes[name] = ((static - mean) / self.normalization[name][1],)
        self._planes, self._shape = planes, shape

    def planes(self, times: np.ndarray) -> np.ndarray:
        """Compute them at some times, of the past or the future.

        Args:
            times: (time,) datetime64 or objects of cftime.

        Returns:
            float32 (time, row, col, channel).
        """
        shape = (len(times), *self._shape)
        parts: list[np.ndarray] = []
        hour = nanoseconds(times) / HOUR % 24
        for name in self.names:
            if name in ("hour", "day"):
                turn = hour / 24 if name == "hour" else _season(times, hour)
                waves = (np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn))
                parts += [np.broadcast_to(wave[:, None, None], shape) for wave in waves]
            else:
                parts += [np.broadcast_to(plane, shape) for plane in self._planes[name]]
        if not parts:
            return np.zeros((*shape, 0), np.float32)
        return np.stack(parts, -1).astype(np.float32)


def _season(times: np.ndarray, hour: np.ndarray) -> np.ndarray:
    """Give the share of the year that has passed, by the calendar of the times."""
    dates = xr.DataArray(times, dims="time").dt
    length = 360.0 if dates.calendar == "360_day" else 365.2425
    share: np.ndarray = (dates.dayofyear.values - 1 + hour / 24) / length
    return share


class Windows:
    """Windows of consecutive instants; window k begins at instant start + k.

    Args:
        fields: where they are read.
        channels: that are forecast.
        start: first instant.
        stop: the one behind the last; no window reaches it.
        history: instants of the input.
        horizon: instants of the target, right behind.
        normalization: of the channels.
        extras: more inputs.
        count: how many windows; all that fit when None.
        in_memory: read everything now; else each window is read when it is asked for.

    Raises:
        WavecastError: not one window fits.
    """

    def __init__(
        self,
        fields: Fields,
        channels: Sequence[str],
        start: int,
        stop: int,
        history: int,
        horizon: int,
        normalization: Normalization,
        extras: Extras,
        count: int | None = None,
        in_memory: bool = False,
    ) -> None:
        fitting = stop - start - history - horizon + 1
        self.count = fitting if count is None else count
        if history < 1 or horizon < 1 or self.count < 1:
            raise WavecastError(
                f"{fields.where}: no window of {history} + {horizon} instants fits into {stop - start}",
                "give a longer time, or a shorter history and horizon",
            )
        self.fields, self.channels, self.start, self.stop = fields, list(channels), start, stop
        self.history, self.horizon = history, horizon
        self.normalization, self.extras = normalization, extras
        self.times = fields.times
        self._nanoseconds = nanoseconds(self.times)
        self._values = self._load() if in_memory else None

    def _load(self) -> np.ndarray:
        shape = (self.stop - self.start, len(self.fields.latitudes), len(self.fields.longitudes), len(self.channels))
        values, done = np.empty(shape, np.float32), 0
        for block in self.fields.blocks(self.start, self.stop, self.channels):
            values[done : done + len(block)] = self.normalization.normalize(block)
            done += len(block)
        return values

    def __len__(self) -> int:
        return self.count

    def item(self, k: int) -> Item:
        """Give window k.

        Returns:
            `inputs` float32 (history, row, col, channel + extra), `targets` float32 (horizon, row, col, channel), both
            standardized; `known` float32 (history + horizon, row, col, extra), the extras of all instants, for networks
            that feed their forecasts back; `times`, the instant of the last input: int64 nanoseconds since 1970.
        """
        if not 0 <= k < self.count:
            raise IndexError(f"window {k} of {self.count}")
        first = self.start + k
        now, last = first + self.history, first + self.history + self.horizon
        if self._values is None:
            values = self.normalization.normalize(self.fields.read(first, last, self.channels))
        else:
            values = self._values[k : k + last - first]
        known = self.extras.planes(self.times[first:last])
        return {
            "inputs": np.concatenate([values[: self.history], known[: self.history]], -1),
            "targets": values[self.history :].copy(),
            "known": known,
            "times": np.asarray(self._nanoseconds[now - 1]),
        }


class Shuffled:
    """Windows in another order each time round; item k is a function of (seed, k).

    Args:
        windows: what is shuffled.
        seed: another seed gives another order.
    """

    def __init__(self, windows: Windows, seed: int = 0) -> None:
        self.windows, self.seed = windows, seed
        self._turn, self._order = -1, np.zeros(0, np.int64)

    def item(self, k: int) -> Item:
        """Give item k, for any k."""
        turn, place = divmod(k, len(self.windows))
        if turn != self._turn:
            self._turn = turn
            self._order = np.random.default_rng([self.seed, turn]).permutation(len(self.windows))
        return self.windows.item(int(self._order[place]))
