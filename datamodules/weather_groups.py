"""Files that belong together along time, such as the years of one variable: one grid, one run of times."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from wavecast.core.errors import WavecastError
from wavecast.datamodules.variables import Variable, recognize
from wavecast.datamodules.weather_axes import (
    Axis,
    find_coordinates,
    latitude_axis,
    level_axis,
    longitude_axis,
    read_values,
    same_axis,
)
from wavecast.datamodules.weather_times import TimeAxis, nanoseconds, read_times, show

CANONICAL = ("time", "level", "latitude", "longitude")


@dataclass
class Group:
    """Opened files with the same variables on the same grid, in order of time.

    Attributes:
        where: how errors call them.
        datasets: one for each file.
        latitude: the files' latitudes.
        longitude: their longitudes.
        level: their levels; None without a dimension of levels.
        fixed_level: the one level in hPa that all of it is on; None if none is named.
        height: meters above the ground, where a file says so.
        time: how times are written; None where nothing has a time.
        times: (time,) of all files; None without.
        coordinates: names of the coordinates in the files.
    """

    where: str
    datasets: list[xr.Dataset]
    latitude: Axis
    longitude: Axis
    level: Axis | None
    fixed_level: float | None
    height: float | None
    time: TimeAxis | None
    times: np.ndarray | None
    coordinates: set[Hashable]

    @property
    def meanings(self) -> dict[Hashable, str]:
        """Canonical names of the files' dimensions."""
        meanings = {self.latitude.dim: "latitude", self.longitude.dim: "longitude"}
        if self.level is not None:
            meanings[self.level.dim] = "level"
        if self.time is not None and self.time.dim is not None:
            meanings[self.time.dim] = "time"
        return meanings

    def fields(self) -> Iterator["Found"]:
        """List the variables on the grid."""
        meanings = self.meanings
        for name, variable in self.datasets[0].variables.items():
            roles = tuple(meanings.get(dim, str(dim)) for dim in variable.dims)
            if name in self.coordinates or variable.ndim < 2 or not {"latitude", "longitude"} <= set(roles):
                continue
            on_levels = "level" in roles or self.fixed_level is not None
            known = recognize(str(name), variable.attrs, on_levels, self.height)
            level: float | None = known[1] if known else None
            if known and level is None and known[0].on_levels and "level" not in roles:
                level = self.fixed_level
            yield Found(str(name), self, variable, roles, known[0] if known else None, level)


@dataclass(frozen=True)
class Found:
    """A variable on the grid of a group.

    Attributes:
        own: its name in the file.
        group: where it is.
        data: of the first file.
        roles: canonical names of its dimensions.
        variable: of the lexicon; None where it is unknown.
        level: in hPa, of a variable that is given on one level alone.
    """

    own: str
    group: Group
    data: xr.Variable
    roles: tuple[str, ...]
    variable: Variable | None
    level: float | None

    def pieces(self) -> list[xr.Variable]:
        """Give the variable in every file.

        Raises:
            WavecastError: a file has not got it, in another form, or it holds no numbers on this grid.
        """
        for dim, size in self.data.sizes.items():
            if dim in self.group.meanings or (size == 1 and dim not in CANONICAL):
                continue
            hint = f"pick one first, dataset.isel({dim}=0), or give {dim} a coordinate if it is the time or the level"
            raise WavecastError(
                f"{self.group.where}: {self.own} has a dimension {dim} of {size} steps that has no meaning here", hint
            )
        if self.data.dtype.kind not in "iuf":
            raise WavecastError(f"{self.group.where}: {self.own} is of type {self.data.dtype}", "fields are numbers")
        pieces = []
        for dataset in self.group.datasets:
            piece = dataset.variables.get(self.own)
            if piece is None or piece.dims != self.data.dims:
                found = "nothing" if piece is None else f"{self.own}{piece.dims}"
                raise WavecastError(
                    f"{source_of(dataset)} has {found} where other files have {self.own}{self.data.dims}",
                    "give files of one kind",
                )
            pieces.append(piece)
        return pieces


def source_of(dataset: xr.Dataset) -> str:
    """Name the file of a data set."""
    return str(dataset.encoding.get("source", "the data"))


def read_group(datasets: Sequence[xr.Dataset], start: str | None = None, hours: float | None = None) -> Group:
    """Read the coordinates of files that belong together, and put the files in order of time.

    Args:
        datasets: opened files.
        start: time of count 0, for files that count without units.
        hours: of one count then.

    Raises:
        WavecastError: there is no grid, an axis is unsound, or the files do not fit together.
    """
    groups = [_read_one(dataset, start, hours) for dataset in datasets]
    first = groups[0]
    if len(groups) == 1:
        return first
    for other in groups[1:]:
        for axis, same in ((first.latitude, other.latitude), (first.longitude, other.longitude)):
            if not same_axis(axis, same):
                raise WavecastError(f"{other.where} and {first.where} differ in {axis.name}", "give files of one grid")
        if (first.level is None) != (other.level is None) or (
            first.level is not None and other.level is not None and not same_axis(first.level, other.level)
        ):
            raise WavecastError(f"{other.where} and {first.where} differ in levels", "give files of the same levels")
        if first.times is None or other.times is None or first.times.dtype != other.times.dtype:
            raise WavecastError(f"{other.where} and {first.where} do not follow each other in time", "give one of them")
    groups.sort(key=lambda group: int(nanoseconds(_times(group)[:1])[0]))
    for one, after in pairwise(groups):
        if nanoseconds(_times(after)[:1])[0] <= nanoseconds(_times(one)[-1:])[0]:
            raise WavecastError(
                f"{one.where} and {after.where} overlap: {show(_times(after)[0])} is in both",
                "keep one of them; a folder of a variable holds each year once",
            )
    first = groups[0]
    first.datasets = [group.datasets[0] for group in groups]
    first.times = np.concatenate([_times(group) for group in groups])
    first.where = str(Path(first.where).parent)
    return first


def _times(group: Group) -> np.ndarray:
    if group.times is None:
        raise ValueError(f"{group.where} has no times\nhint: only groups with times can be ordered")
    return group.times


def _read_one(dataset: xr.Dataset, start: str | None, hours: float | None) -> Group:
    where = source_of(dataset)
    names = find_coordinates(dataset, where)
    variables = dataset.variables
    latitude = latitude_axis(names["latitude"], variables[names["latitude"]], where)
    longitude = longitude_axis(names["longitude"], variables[names["longitude"]], where)
    level, fixed_level = None, None
    if "level" in names:
        axis = level_axis(names["level"], variables[names["level"]], where)
        if variables[names["level"]].ndim:
            level = axis
        else:
            fixed_level = float(axis.values[0])
    time, times = None, None
    if "time" in names:
        time, times = read_times(names["time"], variables[names["time"]], where, start, hours)
    height = _height(dataset, where)
    return Group(where, [dataset], latitude, longitude, level, fixed_level, height, time, times, set(names.values()))


def _height(dataset: xr.Dataset, where: str) -> float | None:
    """Read the height above the ground that CMIP files give beside near-surface variables."""
    height: Any = dataset.variables.get("height", dataset.variables.get("heightAboveGround"))
    if height is None or height.size != 1 or height.dtype.kind not in "iuf":
        return None
    return float(read_values(height, where).reshape(-1)[0])
