"""Values of one weather variable, read piece by piece: converted to SI, put in order, checked as they are read."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from wavecast.core.errors import WavecastError
from wavecast.datamodules.variables import Variable, likely_units, option, units_option
from wavecast.datamodules.weather_axes import damaged
from wavecast.datamodules.weather_times import show

Missing = Literal["refuse", "interpolate", "fill"]
"""What to do with values that are not there.

refuse: an error that counts them. fill: the mean of the values that the same instant has on that level (causal).
interpolate: linear in time between the nearest values of the same place, at most REACH steps away, held where there is
one on one side alone (this looks ahead, so an input can know of its target); what then is left is filled.
"""

REACH = 48
"""Steps within which `interpolate` looks for a value."""


class FieldArray:
    """One variable of a data set as an array (time, [level], latitude, longitude) that reads what is asked for.

    It is what `dask.array.from_array` takes; a variable without time is (latitude, longitude).

    Args:
        name: canonical.
        where: how errors call the data.
        pieces: the variable in each file, in order of time, not read yet.
        dims: canonical names of the dimensions of every piece, in the file's order; other names have one step.
        places: places in the file along level, latitude and longitude, in canonical order.
        rows: (time,) places along all pieces' times; None without time.
        times: (time,) of these rows.
        scale: SI = scale * value + offset.
        offset: see scale.
        missing: what to do with missing values.
        level: place of the only level that is read, for an array without levels from a file that has them.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        name: str,
        where: str,
        pieces: Sequence[xr.Variable],
        dims: tuple[str, ...],
        places: dict[str, np.ndarray],
        rows: np.ndarray | None,
        times: np.ndarray | None,
        scale: float = 1.0,
        offset: float = 0.0,
        missing: Missing = "refuse",
        level: int = 0,
    ) -> None:
        self.name, self.where, self.dims, self.places, self.level = name, where, dims, places, level
        self.rows, self.times = rows, times
        self.scale, self.offset, self.missing = scale, offset, missing
        self.pieces = list(pieces)
        sizes = [piece.shape[dims.index("time")] if "time" in dims else 1 for piece in pieces]
        self.begins = np.concatenate([[0], np.cumsum(sizes)])
        self.order = [dim for dim in ("level", "latitude", "longitude") if dim in places]
        self.shape = tuple([len(rows)] if rows is not None else []) + tuple(len(places[dim]) for dim in self.order)
        self.ndim = len(self.shape)

    @property
    def instant_bytes(self) -> int:
        """Bytes of one instant."""
        return 4 * int(np.prod(self.shape[-len(self.order) :], dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return 4 * int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, key: Any) -> np.ndarray:
        """Read by numpy's rules, time first; the other axes are read whole and cut then."""
        key = key if isinstance(key, tuple) else (key,)
        if self.rows is None:
            static: np.ndarray = self.read()[key]
            return static
        first, rest = (key[0], key[1:]) if key else (slice(None), ())
        if first is Ellipsis:
            first, rest = slice(None), key
        if isinstance(first, slice):
            wanted = np.arange(len(self.rows))[first]
        else:
            wanted = np.atleast_1d(np.arange(len(self.rows))[first])
        if not len(wanted):
            block = np.empty((0, *self.shape[1:]), self.dtype)
        else:
            block = self.read(int(wanted.min()), int(wanted.max()) + 1)[wanted - wanted.min()]
        if isinstance(first, int | np.integer):
            single: np.ndarray = block[0][rest]
            return single
        cut: np.ndarray = block[(slice(None), *rest)]
        return cut

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read instants start to stop: float32 (time, [level], latitude, longitude), finite, in SI units.

        Raises:
            WavecastError: values are missing and refused, infinite, or cannot be read.
        """
        stop = len(self.rows) if stop is None and self.rows is not None else stop or 1
        values = self.read_raw(start, stop)
        lost = np.isnan(values)
        if not lost.any():
            return values
        if self.missing == "refuse":
            raise self.refusal(lost, start)
        if self.missing == "interpolate" and self.rows is not None:
            before = max(0, start - REACH)
            near = self.read_raw(before, min(stop + REACH, len(self.rows)))
            values = _interpolated(near, before, start, stop)
        return self._filled(values, start)

    def refusal(
        self, lost: np.ndarray, start: int, count: int | None = None, total: int | None = None
    ) -> WavecastError:
        """Make the error that values are missing, with their count and the first instant.

        Args:
            lost: where they are missing in the instants from `start` on.
            start: place of the first instant of `lost`.
            count: how many are missing, where more was read.
            total: of how many.
        """
        first = ""
        if self.times is not None:
            row = int(np.flatnonzero(lost.reshape(len(lost), -1).any(1))[0])
            first = f", the first at {show(self.times[start + row])}"
        count, total = count or int(lost.sum()), total or lost.size
        return WavecastError(
            f"{self.where}: {count:,} of {total:,} values of {self.name} are missing{first}",
            f"go on with values interpolated in time: {option('missing', 'interpolate')}; or with the mean of the "
            "instant: fill",
        )

    def read_raw(self, start: int, stop: int) -> np.ndarray:
        """Read like `read`, with NaN where values are missing."""
        if self.rows is None:
            values = self._read_piece(self.pieces[0], slice(None))
        else:
            rows = self.rows[start:stop]
            blocks = []
            for k in range(len(self.pieces)):
                inside = rows[(rows >= self.begins[k]) & (rows < self.begins[k + 1])] - self.begins[k]
                if len(inside):
                    step = int(inside[1] - inside[0]) if len(inside) > 1 else 1
                    blocks.append(self._read_piece(self.pieces[k], slice(int(inside[0]), int(inside[-1]) + 1, step)))
            values = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
        if np.isinf(values).any():
            count = int(np.isinf(values).sum())
            raise WavecastError(
                f"{self.where}: {count:,} values of {self.name} are infinite", "mark missing values by _FillValue"
            )
        return values

    def _read_piece(self, piece: xr.Variable, rows: slice) -> np.ndarray:
        cuts: dict[Any, slice | int] = {}
        for dim, own in zip(self.dims, piece.dims, strict=True):
            if dim == "time":
                cuts[own] = rows
            elif dim in self.places:
                cuts[own] = slice(int(self.places[dim].min()), int(self.places[dim].max()) + 1)
            else:
                cuts[own] = self.level if dim == "level" else 0
        kept = [dim for dim in self.dims if dim == "time" or dim in self.places]
        try:
            selected = piece.isel(cuts)
            values = np.asarray(selected.values)
            if values.shape != selected.shape:
                raise ValueError(f"{self.name} has {values.shape} values where {selected.shape} are promised")
        except Exception as error:  # damaged files make the readers raise everything there is
            raise damaged(self.where, error) from error
        canonical = [*(["time"] if "time" in kept else []), *self.order]
        values = values.transpose([kept.index(dim) for dim in canonical])
        for axis, dim in enumerate(canonical):
            if dim != "time":
                places = self.places[dim] - self.places[dim].min()
                if (np.diff(places) != 1).any():
                    values = values.take(places, axis)
        if self.rows is not None and "time" not in kept:  # a single instant
            values = values[None]
        with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold becomes infinite
            if (self.scale, self.offset) != (1.0, 0.0):
                values = values * np.float64(self.scale) + self.offset
            return np.ascontiguousarray(values, np.float32)

    def _filled(self, values: np.ndarray, start: int) -> np.ndarray:
        """Put the mean of the instant and level where nothing is."""
        lost = np.isnan(values)
        if not lost.any():
            return values
        if lost.all((-2, -1)).any():
            at = ""
            if self.times is not None:
                empty = lost.all((-2, -1)).reshape(len(lost), -1).any(1)
                at = f" at {show(self.times[start + int(empty.argmax())])}"
            bridge = option("missing", "interpolate")
            hint = f"bridge such instants in time: {bridge}; or begin later, or leave the variable out"
            raise WavecastError(f"{self.where}: {self.name} has no value at all{at}", hint)
        count = (~lost).sum((-2, -1), keepdims=True)
        mean = np.where(lost, 0, values).sum((-2, -1), dtype=np.float64, keepdims=True) / count
        return np.where(lost, mean, values).astype(np.float32)


def _interpolated(near: np.ndarray, before: int, start: int, stop: int) -> np.ndarray:
    """Interpolate instants start to stop of `near`, which begins at instant `before`, linearly in time."""
    there = ~np.isnan(near)
    step = np.arange(len(near)).reshape(-1, *[1] * (near.ndim - 1))
    far = len(near) + 2 * REACH
    left = np.maximum.accumulate(np.where(there, step, -far), 0)
    right = np.minimum.accumulate(np.where(there, step, 2 * far)[::-1], 0)[::-1]
    has_left, has_right = step - left <= REACH, right - step <= REACH
    left, right = np.where(has_left, left, right), np.where(has_right, right, left)
    none = ~(has_left | has_right)
    left, right = np.where(none, step, left), np.where(none, step, right)
    weight = (step - left) / np.maximum(right - left, 1)
    values = np.take_along_axis(near, left, 0) * (1 - weight) + np.take_along_axis(near, right, 0) * weight
    result: np.ndarray = np.where(there, near, values)[start - before : stop - before].astype(np.float32)
    return result


def check_range(variable: Variable, own: str, low: float, high: float, where: str) -> None:
    """Check that values in SI units are plausible, so that degrees Celsius are not taken for kelvins.

    Args:
        variable: what they measure.
        own: its name in the file.
        low: least of them.
        high: greatest.
        where: how errors call the data.

    Raises:
        WavecastError: they are not; it guesses what they are.
    """
    if variable.low <= low and high <= variable.high:
        return
    if max(abs(low), abs(high)) > 1e10 or low in (-999, -9999, -99999, -32767, -32768):
        hint = "numbers that mark missing values must be declared: the attribute _FillValue"
    elif units := likely_units(variable, low, high):
        hint = f"they look like {units}: {units_option(variable.name, units)}"
    else:
        hint = f"say what they are by {units_option(variable.name, 'UNIT')}, or leave the variable out"
    raise WavecastError(
        f"{where}: {own} runs from {low:g} to {high:g}; as {variable.name} it is expected from "
        f"{variable.low:g} to {variable.high:g} {variable.units}",
        hint,
    )
