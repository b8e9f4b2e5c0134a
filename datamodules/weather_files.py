"""Weather fields from any file, in one form: `open_fields`.

Read are WeatherBench 1 folders, WeatherBench 2 zarr stores, NetCDF and zarr by the CF conventions, GRIB where cfgrib is
installed. Whatever the file calls and orders, the result has the dimensions (time, [level], latitude, longitude), the
long names of WeatherBench 2, SI units, ascending axes and float32 values, and is read as it is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import dask.array
import numpy as np
import xarray as xr

from wavecast.core.errors import WavecastError
from wavecast.datamodules.variables import Variable, canonical, channel, conversion, known, not_found
from wavecast.datamodules.weather_axes import (
    canonical_coordinates,
    read_values,
    select_latitudes,
    select_levels,
    select_longitudes,
)
from wavecast.datamodules.weather_fields import BLOCK_BYTES, Fields
from wavecast.datamodules.weather_groups import Found, Group, read_group
from wavecast.datamodules.weather_layout import Layout, OwnVariable
from wavecast.datamodules.weather_sources import open_sources, sources_in_memory
from wavecast.datamodules.weather_times import HOUR, nanoseconds, show, spacing
from wavecast.datamodules.weather_values import FieldArray, Missing, check_range

MOST_INSTANT_BYTES = 2 << 30
CHECKED_BYTES = 64 << 20
"""Variables up to this size are checked whole when opened, larger ones at a few instants and then as they are read."""
Region = tuple[float, float, float, float]


def open_fields(
    path: str | Path | xr.Dataset,
    variables: Sequence[str] | None = None,
    levels: Sequence[float] | None = None,
    years: int | tuple[int, int] | None = None,
    region: Region | None = None,
    step: float | None = None,
    *,
    missing: Missing = "refuse",
    units: Mapping[str, str] | None = None,
    start: str | None = None,
    hours: float | None = None,
) -> Fields:
    """Open weather fields in any layout, lazily.

    Args:
        path: a WeatherBench 1 folder, a zarr store, a NetCDF or GRIB file, or a data set of xarray.
        variables: by any of their names, or single levels (`z500`, `temperature_850`); all on the grid when None.
            Variables that the lexicon does not know are read under the file's own names and in its units.
        levels: in hPa; all when None.
        years: one year, or the first and the last.
        region: (south, north, west, east) in degrees; west may be greater than east, or negative.
        step: hours between instants, a multiple of the file's own.
        missing: what to do with missing values, see `wavecast.datamodules.weather_values.Missing`.
        units: of variables whose file says nothing of them, or something wrong, by any of their names; they need not
            be read, but the file must have them.
        start: time of count 0, where times are counts without units.
        hours: of one count then.

    Returns:
        The fields; close them, or use them in a `with`.

    Raises:
        WavecastError: the file is none, is damaged, has not got what is asked for, or its axes or values are unsound.
    """
    where = "the data set" if isinstance(path, xr.Dataset) else str(path)
    requests = None if variables is None else [_Request(name, *(known(name) or (None, None))) for name in variables]
    span = (years, years) if isinstance(years, int) else years
    wanted = None
    if requests is not None and all(request.variable is not None for request in requests):
        wanted = [(cast(Variable, request.variable), request.level) for request in requests]
    sources = sources_in_memory(path) if isinstance(path, xr.Dataset) else open_sources(Path(path), wanted, span)
    try:
        groups = [read_group(datasets, start, hours) for datasets in sources.groups]
        found = [one for group in groups for one in group.fields()]
        chosen = _choose(found, requests, levels, sources.others, where)
        existing = [*(one.own for one in found), *sources.others]
        here = {one.variable.name if one.variable else one.own for one in found} | {*map(canonical, existing)}
        for name in units or {}:
            if canonical(name) not in here:
                raise not_found(name, existing, where)
        parts = {id(one.group): _select(one.group, span, region, levels, step) for one, _ in chosen.values()}
        first = _leading(chosen, parts)
        declared = {canonical(name): spelling for name, spelling in (units or {}).items()}
        arrays, own = {}, {}
        for name, (one, level) in chosen.items():
            arrays[name], own[name] = _array(name, one, level, parts[id(one.group)], missing, declared)
            _check(arrays[name], one, missing)
        layout = Layout(
            first.group.latitude,
            first.group.longitude,
            first.group.level,
            first.group.time,
            own,
            _scalars(chosen),
            dict(first.group.datasets[0].attrs),
        )
        return Fields(_dataset(arrays, own, first), layout, arrays, where, sources, first.stride)
    except BaseException:
        sources.close()
        raise


@dataclass(frozen=True)
class _Request:
    """A variable that was asked for, by whatever name."""

    name: str
    variable: Variable | None
    level: int | None

    def fits(self, found: Found) -> bool:
        """Tell whether a variable of the file is meant."""
        if self.name == found.own or self.variable is None:
            return self.name == found.own
        if self.variable is not found.variable:
            return False
        return self.level is None or self.level == found.level or (found.level is None and "level" in found.roles)


def _choose(
    found: Sequence[Found],
    requests: Sequence[_Request] | None,
    levels: Sequence[float] | None,
    others: Sequence[str],
    where: str,
) -> dict[str, tuple[Found, int | None]]:
    """Choose what was asked for: canonical names, and the level that is to be cut out of a variable on levels."""
    existing = {one.own for one in found} | set(others)
    chosen: dict[str, tuple[Found, int | None]] = {}

    def choose(one: Found, level: int | None) -> None:
        at = one.level if level is None else level
        if levels is not None and at is not None and level is None and at not in levels:
            return
        name = channel(one.variable.name, at) if one.variable else one.own
        if name in chosen and chosen[name][0] is not one:
            other = chosen[name][0]
            raise WavecastError(
                f"{where} has {name} twice: {other.own} in {other.group.where} and {one.own} in {one.group.where}",
                "ask for one of them by the file's own name, or give the folder of one",
            )
        chosen[name] = one, level

    if requests is None:
        for one in found:
            choose(one, None)
    for request in requests or []:
        fitting = [one for one in found if request.fits(one)]
        before = len(chosen)
        for one in [one for one in fitting if one.own == request.name] or fitting:
            cut = request.level if one.level is None and request.name != one.own else None
            choose(one, cut)
        if not fitting:
            raise not_found(request.name, existing, where)
        if len(chosen) == before and levels is not None:
            on = ", ".join(sorted(f"{one.own} at {one.level:g} hPa" for one in fitting if one.level is not None))
            if on:
                raise WavecastError(f"{where} has no {request.name} on the levels {list(levels)}", f"it has {on}")
    if not chosen:
        raise WavecastError(f"{where} has no variable on its grid", "a field has a latitude and a longitude dimension")
    return chosen


@dataclass(frozen=True)
class _Part:
    """What is selected of a group.

    Attributes:
        group: with the axes cut to the part.
        rows: (time,) places along the times of the group; None without.
        times: (time,) of these.
        stride: places between rows.
    """

    group: Group
    rows: np.ndarray | None
    times: np.ndarray | None
    stride: int = 1


def _select(
    group: Group,
    years: tuple[int, int] | None,
    region: Region | None,
    levels: Sequence[float] | None,
    step: float | None,
) -> _Part:
    """Cut a group to years, region and levels, and thin it to `step` hours."""
    latitude, longitude, level = group.latitude, group.longitude, group.level
    if region is not None:
        latitude = select_latitudes(latitude, region[0], region[1])
        longitude = select_longitudes(longitude, region[2], region[3])
    if level is not None and levels is not None:
        level = select_levels(level, tuple(levels), group.where)
    cut = replace(group, latitude=latitude, longitude=longitude, level=level)
    if group.times is None:
        return _Part(cut, None, None)
    rows = np.arange(len(group.times))
    if years is not None:
        year = xr.DataArray(group.times, dims="time").dt.year.values
        rows = rows[(year >= years[0]) & (year <= years[1])]
        if not len(rows):
            run = f"{show(group.times[0])} to {show(group.times[-1])}"
            raise WavecastError(f"{group.where} has no times in {years[0]} to {years[1]}", f"it runs from {run}")
    own = spacing(group.times[rows], group.where)
    stride = 1
    if step is not None and own:
        stride = int(round(step * HOUR) // own)
        if stride < 1 or stride * own != round(step * HOUR):
            hint = "step is a multiple of the file's own"
            raise WavecastError(f"{group.where} has steps of {own / HOUR:g} h, not of {step:g} h", hint)
        rows = rows[::stride]
    return _Part(cut, rows, group.times[rows], stride)


def _leading(chosen: Mapping[str, tuple[Found, int | None]], parts: Mapping[int, _Part]) -> _Part:
    """Check that all groups lie on one grid at the same times; give the one that leads: with times, with levels."""
    used = [parts[id(one.group)] for one, _ in chosen.values()]
    first = max(used, key=lambda part: (part.times is not None, part.group.level is not None))
    for part in used:
        for axis, same in (
            (first.group.latitude, part.group.latitude),
            (first.group.longitude, part.group.longitude),
            (first.group.level, part.group.level),
        ):
            if axis is None or same is None or axis is same:
                continue
            if axis.values.shape != same.values.shape or not np.allclose(axis.values, same.values, atol=1e-3):
                hint = f"regrid one of them; for levels, ask for those that both have ({axis.name})"
                raise WavecastError(f"{first.group.where} and {part.group.where} differ in {axis.name}", hint)
        if first.times is None or part.times is None or part is first:
            continue
        same_times = len(first.times) == len(part.times) and first.times.dtype == part.times.dtype
        if not same_times or (nanoseconds(first.times) != nanoseconds(part.times)).any():
            runs = [f"{show(one.times[0])} to {show(one.times[-1])}" for one in (first, part) if one.times is not None]
            raise WavecastError(
                f"{first.group.where} and {part.group.where} have other times ({' and '.join(runs)})",
                "give files of the same times",
            )
    return first


def _array(
    name: str, found: Found, level: int | None, part: _Part, missing: Missing, declared: Mapping[str, str]
) -> tuple[FieldArray, OwnVariable]:
    """Make the array that reads a variable, and the record of how the file writes it."""
    group = part.group
    timeless = "time" not in found.roles and not (group.time is not None and group.time.dim is None)
    pieces = found.pieces()
    places = {"latitude": group.latitude.order, "longitude": group.longitude.order}
    place = 0
    if "level" in found.roles and found.group.level is not None:
        if level is None and group.level is not None:
            places["level"] = group.level.order
        elif level is not None:
            place = int(select_levels(found.group.level, (level,), group.where).order[0])
    scale, offset = 1.0, 0.0
    if found.variable is not None:
        spelling = declared.get(found.variable.name, found.data.attrs.get("units"))
        scale, offset = conversion(found.variable, None if spelling is None else str(spelling), group.where)
    array = FieldArray(
        name,
        group.where,
        pieces[:1] if timeless else pieces,
        found.roles,
        places,
        None if timeless else part.rows,
        None if timeless else part.times,
        scale,
        offset,
        missing,
        place,
    )
    if array.instant_bytes > MOST_INSTANT_BYTES:
        raise WavecastError(
            f"{group.where}: one instant of {found.own} has {array.instant_bytes:,} bytes",
            f"at most {MOST_INSTANT_BYTES:,} are read at once; choose levels or a region",
        )
    own_name = f"{found.own}{level}" if level is not None else found.own
    roles = tuple(role for role in found.roles if level is None or role != "level")
    return array, OwnVariable(own_name, roles, scale, offset, found.data.dtype, dict(found.data.attrs))


def _check(array: FieldArray, found: Found, missing: Missing) -> None:
    """Check values: all of a small variable, a few instants of a large one."""
    count = 1 if array.rows is None else len(array.rows)
    if array.nbytes <= CHECKED_BYTES:
        length = max(1, BLOCK_BYTES // array.instant_bytes)
        spans = [(begin, min(begin + length, count)) for begin in range(0, count, length)]
    else:
        spans = [(int(at), int(at) + 1) for at in np.unique(np.linspace(0, count - 1, 5).round())]
    low, high, lost, total = np.inf, -np.inf, 0, 0
    first: tuple[np.ndarray, int] | None = None
    for begin, end in spans:
        values = array.read_raw(begin, end)
        nothing = np.isnan(values)
        if nothing.any() and first is None:
            first = nothing, begin
        lost, total = lost + int(nothing.sum()), total + values.size
        if not nothing.all():
            low, high = min(low, float(np.nanmin(values))), max(high, float(np.nanmax(values)))
    if lost == total:
        raise WavecastError(f"{array.where}: {found.own} has no values at all", "leave it out")
    if found.variable is not None:
        check_range(found.variable, found.own, low, high, array.where)
    if first is not None and missing == "refuse":
        raise array.refusal(*first, lost, total)


def _scalars(chosen: Mapping[str, tuple[Found, int | None]]) -> dict[Any, xr.Variable]:
    """Collect the coordinates of one value that all files have and agree on."""
    agreed: dict[Any, xr.Variable] | None = None
    for one, _ in chosen.values():
        axes = (one.group.latitude, one.group.longitude, one.group.level, one.group.time)
        names = {axis.name for axis in axes if axis is not None}
        scalars = {
            name: xr.Variable(coordinate.dims, read_values(coordinate.variable, one.group.where), coordinate.attrs)
            for name, coordinate in one.group.datasets[0].coords.items()
            if coordinate.size == 1 and name not in names
        }
        if agreed is None:
            agreed = scalars
        agreed = {name: value for name, value in agreed.items() if value.equals(scalars.get(name))}
    return agreed or {}


def _dataset(arrays: Mapping[str, FieldArray], own: Mapping[str, OwnVariable], part: _Part) -> xr.Dataset:
    """Make the lazy data set of canonical fields."""
    group = part.group
    axes = {"latitude": group.latitude, "longitude": group.longitude, "level": group.level}
    if not any("level" in array.order for array in arrays.values()):
        axes["level"] = None
    coordinates: dict[str, Any] = canonical_coordinates(axes)
    if part.times is not None and any(array.rows is not None for array in arrays.values()):
        coordinates["time"] = xr.Variable(("time",), part.times, {"standard_name": "time", "axis": "T"})
    variables = {}
    for name, array in arrays.items():
        length = max(1, BLOCK_BYTES // array.instant_bytes)
        chunks = (length, *array.shape[1:]) if array.rows is not None else array.shape
        nothing = np.empty((0,) * array.ndim, np.float32)
        lazy = dask.array.from_array(array, chunks=chunks, name=False, meta=nothing)
        dims = [*(["time"] if array.rows is not None else []), *array.order]
        found = known(name)
        variables[name] = xr.Variable(dims, lazy, found[0].attributes if found else own[name].attributes)
    return xr.Dataset(variables, coordinates)
