"""Times of weather files: decoded by xarray and cftime in the file's own calendar, checked for even spacing."""

import math
import warnings
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import cftime
import numpy as np
import xarray as xr

from wavecast.core.errors import WavecastError
from wavecast.datamodules.variables import option
from wavecast.datamodules.weather_axes import read_values

MOST_TIMES = 10_000_000
HOUR = 3_600_000_000_000
"""Nanoseconds in an hour."""
CALENDARS = ["standard", "gregorian", "proleptic_gregorian", "julian", "noleap", "365_day", "all_leap", "366_day"]
CALENDARS += ["360_day"]


@dataclass(frozen=True)
class TimeAxis:
    """How a file writes its times.

    Attributes:
        name: of the coordinate in the file.
        dim: of its dimension; None where the file has a single instant without one.
        attributes: in the file.
        calendar: of the CF conventions.
        dtype: of the numbers in the file.
        start: time of count 0, where the file counts without units.
        hours: of one count then.
    """

    name: Hashable
    dim: Hashable | None
    attributes: dict[str, Any]
    calendar: str
    dtype: np.dtype[Any]
    start: np.datetime64 | None = None
    hours: float = 1.0

    def restore(self, times: xr.Variable) -> xr.Variable:
        """Write times as the file does: as counts, or as times stored in its units and calendar."""
        if self.start is not None:
            counts = (nanoseconds(times.values) - nanoseconds(np.array([self.start]))) / (HOUR * self.hours)
            whole = self.dtype.kind in "iu" and np.equal(np.mod(counts, 1), 0).all()
            return xr.Variable(times.dims, counts.astype(self.dtype) if whole else counts, self.attributes)
        attributes = {key: value for key, value in self.attributes.items() if key not in ("units", "calendar")}
        encoding = {"units": self.attributes["units"], "calendar": self.calendar}
        return xr.Variable(times.dims, times.values, attributes, encoding)


def read_times(
    name: Hashable, variable: xr.Variable, where: str, start: str | None = None, hours: float | None = None
) -> tuple[TimeAxis, np.ndarray]:
    """Decode the times of a file.

    Args:
        name: of the coordinate.
        variable: its numbers, not decoded.
        where: how errors call the file.
        start: time of count 0, for a file that counts without units.
        hours: of one count then.

    Returns:
        The axis, and (time,) datetime64[ns], or objects of cftime in a calendar that numpy has not got.

    Raises:
        WavecastError: the times have no units or an unknown calendar, are missing, or cannot be decoded.
    """
    if not 0 < variable.size <= MOST_TIMES:
        raise WavecastError(f"{where} has {variable.size:,} times", f"1 to {MOST_TIMES:,} are expected")
    if variable.dtype.kind not in "iuf":
        raise WavecastError(f"{where}: times are of type {variable.dtype}", "write them as numbers with CF units")
    numbers = np.atleast_1d(read_values(variable, where))
    if not np.isfinite(numbers).all():
        missing = int((~np.isfinite(numbers)).sum())
        raise WavecastError(f"{where}: {missing} of {numbers.size} times are missing", "drop these instants")
    dim = variable.dims[0] if variable.ndim else None
    attributes = dict(variable.attrs)
    if " since " not in str(attributes.get("units", "")):
        return _counted(TimeAxis(name, dim, attributes, "standard", variable.dtype), numbers, where, start, hours)
    calendar = str(attributes.get("calendar", "standard")).lower()
    if calendar not in CALENDARS:
        raise WavecastError(f"{where} has the unknown calendar {calendar!r}", f"known are {', '.join(CALENDARS)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # beyond what datetime64[ns] holds, xarray goes on with cftime
            raw = xr.Dataset(coords={"time": ("time", numbers, {**attributes, "calendar": calendar})})
            times = xr.decode_cf(raw, decode_timedelta=False)["time"].values
        if times.dtype.kind == "M":
            times = times.astype("datetime64[ns]")
        nanoseconds(times)
    except Exception as error:  # xarray, pandas and cftime each have their own
        reason = str(error).strip().split("\n")[0]
        units = attributes["units"]
        raise WavecastError(
            f"{where}: times in {units!r} cannot be decoded: {reason[:160]}",
            "CF units read like 'hours since 1970-01-01 00:00:00'",
        ) from error
    if times.dtype.kind not in "MO":
        raise WavecastError(f"{where}: times in {attributes['units']!r} are no times", "write CF units")
    return TimeAxis(name, dim, attributes, calendar, variable.dtype), times


def _counted(
    axis: TimeAxis, numbers: np.ndarray, where: str, start: str | None, hours: float | None
) -> tuple[TimeAxis, np.ndarray]:
    """Place counts without units in time."""
    if start is None or hours is None:
        raise WavecastError(
            f"{where}: {axis.name} counts {numbers[0]:g}, {numbers[min(1, len(numbers) - 1)]:g} ... without units",
            f"say what it counts: {option('start', '1996-01-05T00')} is the time of count 0, {option('hours', '6')} "
            "the length of one; or add units like 'hours since 1996-01-05' to the file",
        )
    try:
        first = np.datetime64(start, "ns")
    except ValueError as error:
        raise WavecastError(f"{start!r} is no time", "write it like 1996-01-05T00") from error
    if not (math.isfinite(hours) and hours > 0) or np.abs(numbers).max() * hours > 1e7:
        raise WavecastError(f"{where}: counts of {hours:g} hours reach beyond all calendars", "check --hours")
    times = first + np.round(numbers.astype(np.float64) * hours * HOUR).astype("timedelta64[ns]")
    counting = TimeAxis(axis.name, axis.dim, axis.attributes, axis.calendar, axis.dtype, first, hours)
    return counting, times


def nanoseconds(times: np.ndarray) -> np.ndarray:
    """Count int64 nanoseconds since 1970-01-01, in the calendar of the times; NaT and what overflows is refused."""
    if times.dtype.kind == "M":
        if np.isnat(times).any():
            raise ValueError("a time is missing")
        return times.astype("datetime64[ns]").astype(np.int64)
    micro = cftime.date2num(times, "microseconds since 1970-01-01", times.flat[0].calendar)
    if np.abs(np.asarray(micro, np.float64)).max() > 9e15:
        raise ValueError("times more than 285 years from 1970 overflow")
    return np.asarray(micro, np.int64) * 1000


def spacing(times: np.ndarray, where: str) -> int:
    """Check that times run on evenly: int64 nanoseconds between them; 0 for a single one.

    Raises:
        WavecastError: they run backwards, repeat, or leave gaps.
    """
    steps = np.diff(nanoseconds(times))
    if not len(steps):
        return 0
    if (steps <= 0).any():
        at = int(np.flatnonzero(steps <= 0)[0])
        if steps[at] == 0:
            raise WavecastError(f"{where} has {show(times[at])} twice", "drop what is repeated")
        raise WavecastError(
            f"{where}: times run backwards: {show(times[at])} is followed by {show(times[at + 1])}", "sort it by time"
        )
    usual = int(np.median(steps))
    if (steps != usual).any():
        at = int(np.flatnonzero(steps != usual)[0])
        usual = int(steps[0]) if at else usual
        raise WavecastError(
            f"{where}: times are not evenly spaced: {usual / HOUR:g} h as a rule, "
            f"but {steps[at] / HOUR:g} h from {show(times[at])} to {show(times[at + 1])}",
            "a model steps evenly: fill the gap, or give a part of the data without one",
        )
    return usual


def show(time: Any) -> str:
    """Write an instant: 2019-03-01T06, with minutes where it has some."""
    if isinstance(time, np.datetime64):
        text = str(time.astype("datetime64[m]"))
        return text.removesuffix(":00")
    return str(time.isoformat(timespec="minutes")).removesuffix(":00")
