"""Axes of weather files: which coordinate is latitude, longitude, level and time, in what order, and is it sound.

Canonical are ascending latitudes in degrees north, ascending levels in hPa, and ascending longitudes in degrees east:
0 to 360 on a global grid, and one unbroken run on a regional one (-10 to 2 where it crosses Greenwich, 170 to 190
where it crosses the date line).
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from wavecast.core.errors import WavecastError

MOST_POINTS = 100_000  # along latitude, longitude or level
CLOSE = 1e-3
"""Degrees, or hPa, within which two places are the same."""

NAMES = {
    "latitude": ("latitude", "lat", "y", "nav_lat", "rlat"),
    "longitude": ("longitude", "lon", "x", "nav_lon", "rlon"),
    "level": ("level", "lev", "plev", "pressure_level", "isobaricinhpa", "pressure", "levels"),
    "time": ("time", "valid_time", "initial_time0_hours", "date", "t"),
}
"""Usual names of the coordinates, the likeliest first."""

UNITS = {
    "latitude": ("degrees_north", "degree_north", "degree_n", "degrees_n", "degreen", "degreesn"),
    "longitude": ("degrees_east", "degree_east", "degree_e", "degrees_e", "degreee", "degreese"),
}
STANDARD_NAMES = {"latitude": "latitude", "longitude": "longitude", "time": "time", "air_pressure": "level"}
PRESSURE_UNITS = {"hpa": 1.0, "mb": 1.0, "mbar": 1.0, "millibar": 1.0, "millibars": 1.0, "pa": 0.01}


@dataclass(frozen=True)
class Axis:
    """A file's latitudes, longitudes or levels, beside the canonical ones.

    Attributes:
        name: of the coordinate in the file.
        dim: of its dimension there.
        own: (size,) values as the file has them.
        order: order[i] is the place in the file of canonical value i.
        values: canonical values, ascending, float64; a part of the file's where a part was selected.
        attributes: in the file.
        period: 360 for longitudes, which mean the same modulo it.
    """

    name: Hashable
    dim: Hashable
    own: np.ndarray
    order: np.ndarray
    values: np.ndarray
    attributes: dict[str, Any]
    period: float | None = None

    def places(self, values: np.ndarray) -> np.ndarray:
        """Find canonical values on the axis: their places in the file.

        Raises:
            WavecastError: the axis has no such value.
        """
        values = np.atleast_1d(np.asarray(values, np.float64))
        shifted = values
        if self.period is not None:
            first = self.values[0] - CLOSE
            shifted = first + np.mod(values - first, self.period)
        after = np.clip(np.searchsorted(self.values, shifted), 1, max(1, len(self.values) - 1))
        after = np.minimum(after, len(self.values) - 1)
        before = np.maximum(after - 1, 0)
        nearer = np.abs(shifted - self.values[before]) <= np.abs(shifted - self.values[after])
        nearest = np.where(nearer, before, after)
        far = ~(np.abs(shifted - self.values[nearest]) <= CLOSE)
        if far.any():
            run = f"{self.values[0]:g} to {self.values[-1]:g} ({len(self.values)} values)"
            raise WavecastError(f"{self.name} has no {values[far][0]:g}", f"it has {run}")
        places: np.ndarray = self.order[nearest]
        return places


def find_coordinates(dataset: xr.Dataset, where: str) -> dict[str, Hashable]:
    """Find which variable gives the latitude, longitude, level and time of a data set; scalars count.

    Raises:
        WavecastError: latitude or longitude is missing, or the grid is not one of latitudes and longitudes.
    """
    found: dict[str, tuple[int, Hashable]] = {}
    two_dimensional = []
    for name, variable in dataset.variables.items():
        role = _role(str(name), variable)
        if role and variable.ndim > 1 and role in UNITS:
            two_dimensional.append(str(name))
        if role is None or variable.ndim > 1:
            continue
        rank = 2 * (variable.ndim == 1) + (variable.dims == (name,))
        if role not in found or rank > found[role][0]:
            found[role] = rank, name
    for role in ("latitude", "longitude"):
        if role in found and dataset.variables[found[role][1]].ndim == 1:
            continue
        if two_dimensional:
            hint = "regrid it to latitudes and longitudes, with xesmf or cdo remapbil"
            raise WavecastError(
                f"{where} has a curvilinear grid: {', '.join(two_dimensional)} have two dimensions", hint
            )
        dims = ", ".join(f"{dim} ({size})" for dim, size in dataset.sizes.items()) or "none"
        raise WavecastError(
            f"{where} has no {role}",
            f"a field needs a coordinate called {role}, or with units {UNITS[role][0]}; its dimensions are {dims}",
        )
    return {role: name for role, (_, name) in found.items()}


def _role(name: str, variable: xr.Variable) -> str | None:
    """Tell what a coordinate measures, by CF attributes first and by its name else."""
    attributes = variable.attrs
    units = str(attributes.get("units", "")).lower()
    for role, spellings in UNITS.items():
        if units in spellings:
            return role
    standard = STANDARD_NAMES.get(str(attributes.get("standard_name")))
    coordinate = variable.ndim == 0 or variable.dims[0] == name
    if standard and variable.ndim <= 1 and (coordinate or standard != "level"):
        return standard
    if not coordinate and name.lower() not in ("latitude", "longitude", "lat", "lon", "nav_lat", "nav_lon"):
        return None
    if name.lower() in ("x", "y") and units not in ("", "degrees", "degree"):
        return None  # meters of a projection
    if variable.ndim and variable.dims[0] == name and (" since " in units or attributes.get("axis") == "T"):
        return "time"
    for role, names in NAMES.items():
        if name.lower() in names and (variable.ndim or name.lower() == names[0] or role == "level"):
            return role
    return None


def latitude_axis(name: Hashable, variable: xr.Variable, where: str) -> Axis:
    """Read latitudes.

    Raises:
        WavecastError: they are not monotone, repeated, or beyond the poles.
    """
    own = _read(name, variable, where)
    values = own.astype(np.float64)
    if np.abs(values).max() > 90 + CLOSE:
        worst = values[np.abs(values).argmax()]
        raise WavecastError(f"{where}: {name} has {worst:g}, beyond a pole", "latitudes run from -90 to 90 degrees")
    return _monotone(name, variable, own, values, where)


def level_axis(name: Hashable, variable: xr.Variable, where: str) -> Axis:
    """Read pressure levels: hPa, from Pa too, by their units or else by their size.

    Raises:
        WavecastError: they are not monotone, repeated, or no pressures.
    """
    own = _read(name, variable, where)
    values = own.astype(np.float64)
    units = str(variable.attrs.get("units", "")).lower()
    scale = PRESSURE_UNITS.get(units, 0.01 if values.max() > 2000 else 1.0)
    values = values * scale
    if values.min() <= 0 or values.max() > 1100:
        raise WavecastError(
            f"{where}: {name} runs from {values.min():g} to {values.max():g}, which are no pressures in hPa",
            "model levels must be interpolated to pressure levels first",
        )
    return _monotone(name, variable, own, np.round(values, 6), where)


def longitude_axis(name: Hashable, variable: xr.Variable, where: str) -> Axis:
    """Read longitudes in any convention, from any meridian on.

    Raises:
        WavecastError: they do not run once round one way, or repeat a meridian.
    """
    own = _read(name, variable, where)
    if np.abs(own.astype(np.float64)).max() > 720:
        raise WavecastError(f"{where}: {name} has {own[np.abs(own).argmax()]:g}", "longitudes are degrees east")
    order, values = _arc(own.astype(np.float64))
    if len(values) > 1 and (np.diff(values).min() < CLOSE or values[-1] - values[0] > 360 - CLOSE):
        raise WavecastError(
            f"{where}: {name} has the same meridian twice (it runs from {own[0]:g} to {own[-1]:g})",
            f"drop the repeated column: dataset.isel({variable.dims[0]}=slice(None, -1))",
        )
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    turn = np.mod(np.diff(rank), len(rank))
    if len(rank) > 2 and not ((turn == 1).all() or (turn == len(rank) - 1).all()):
        raise WavecastError(f"{where}: {name} does not run one way round", f"sort it: dataset.sortby({str(name)!r})")
    return Axis(name, variable.dims[0], own, order, values, dict(variable.attrs), 360.0)


def _arc(degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort meridians eastwards from behind the widest gap, or from 0 where no gap is wider than the others."""
    meridians = np.mod(degrees, 360)
    meridians[360 - meridians < 1e-6] = 0
    order = np.argsort(meridians, kind="stable")
    meridians = meridians[order]
    gaps = np.diff(meridians, append=meridians[0] + 360)
    widest = int(gaps.argmax())
    if gaps[widest] > 1.5 * np.median(gaps) and widest < len(gaps) - 1:
        order = np.roll(order, -(widest + 1))
        meridians = np.roll(meridians, -(widest + 1))
        meridians[len(gaps) - widest - 1 :] += 360
        if meridians[-1] >= 360:
            meridians -= 360
    return order, meridians


def _read(name: Hashable, variable: xr.Variable, where: str) -> np.ndarray:
    """Read a coordinate: (size,) finite numbers."""
    if not 0 < variable.size <= MOST_POINTS:
        raise WavecastError(f"{where}: {name} has {variable.size:,} values", f"1 to {MOST_POINTS:,} are expected")
    if variable.dtype.kind not in "iuf":
        raise WavecastError(f"{where}: {name} is of type {variable.dtype}", "coordinates are numbers")
    values: np.ndarray = np.atleast_1d(read_values(variable, where))
    if not np.isfinite(values).all():
        raise WavecastError(f"{where}: {name} has values that are no numbers", "coordinates may not be missing")
    return values


def read_values(variable: xr.Variable, where: str) -> np.ndarray:
    """Read a small variable whole.

    Raises:
        WavecastError: the file is damaged there.
    """
    try:
        return np.asarray(variable.values)
    except Exception as error:  # damaged files make the readers raise everything there is
        raise damaged(where, error) from error


def damaged(where: str, error: Exception) -> WavecastError:
    """Make the error that a file cannot be read on."""
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return WavecastError(f"{where} is damaged: {reason[:200]}", "fetch it again")


def _monotone(name: Hashable, variable: xr.Variable, own: np.ndarray, values: np.ndarray, where: str) -> Axis:
    steps = np.diff(values)
    if len(steps) and not ((steps > 0).all() or (steps < 0).all()):
        worst = int(np.flatnonzero(np.sign(steps) != np.sign(steps[0]) if steps[0] else steps == 0)[0])
        raise WavecastError(
            f"{where}: {name} is not monotone: {values[worst]:g} is followed by {values[worst + 1]:g}",
            f"sort it and drop what is repeated: dataset.sortby({str(name)!r}).drop_duplicates({str(name)!r})",
        )
    order = np.arange(len(values))
    if len(steps) and steps[0] < 0:
        order, values = order[::-1].copy(), values[::-1].copy()
    dim = variable.dims[0] if variable.ndim else name
    return Axis(name, dim, own, order, values, dict(variable.attrs))


def select_latitudes(axis: Axis, south: float, north: float) -> Axis:
    """Keep the latitudes from south to north."""
    return _keep(axis, (axis.values >= south - CLOSE) & (axis.values <= north + CLOSE), f"{south:g} to {north:g}")


def select_longitudes(axis: Axis, west: float, east: float) -> Axis:
    """Keep the longitudes from west eastwards to east, in any convention: (-10, 2) and (350, 2) are the same."""
    if east - west >= 360:
        return axis
    inside = np.asarray(np.mod(axis.values - west + CLOSE, 360) <= np.mod(east - west, 360) + 2 * CLOSE)
    kept = _keep(axis, inside, f"{west:g} to {east:g}")
    order, values = _arc(kept.values.copy())
    return Axis(axis.name, axis.dim, axis.own, kept.order[order], values, axis.attributes, axis.period)


def select_levels(axis: Axis, levels: tuple[float, ...], where: str) -> Axis:
    """Keep these levels in hPa.

    Raises:
        WavecastError: the file has not got them.
    """
    inside = np.asarray(np.isclose(axis.values[:, None], levels, atol=CLOSE).any(1))
    missing = [level for level in levels if not np.isclose(axis.values, level, atol=CLOSE).any()]
    if missing:
        existing = ", ".join(f"{value:g}" for value in axis.values)
        raise WavecastError(f"{where} has no level {missing[0]:g} hPa", f"its levels are {existing}")
    return _keep(axis, inside, str(levels))


def _keep(axis: Axis, inside: np.ndarray, asked: str) -> Axis:
    if not inside.any():
        run = f"{axis.values[0]:g} to {axis.values[-1]:g}"
        raise WavecastError(f"no {axis.name} is in {asked}", f"the file's run from {run}")
    return Axis(axis.name, axis.dim, axis.own, axis.order[inside], axis.values[inside], axis.attributes, axis.period)


def same_axis(one: Axis, other: Axis) -> bool:
    """Tell whether two files have the same values in the same order."""
    return one.values.shape == other.values.shape and bool(
        np.allclose(one.values, other.values, atol=CLOSE) and (one.order == other.order).all()
    )


def canonical_coordinates(axes: Mapping[str, Axis | None]) -> dict[str, xr.Variable]:
    """Give the canonical coordinates with their CF attributes."""
    attributes = {
        "latitude": {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
        "longitude": {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
        "level": {"standard_name": "air_pressure", "units": "hPa", "positive": "down", "axis": "Z"},
    }
    coordinates = {}
    for role, axis in axes.items():
        if axis is not None:
            whole = role == "level" and np.equal(np.mod(axis.values, 1), 0).all()
            values = axis.values.astype(np.int64) if whole else axis.values
            coordinates[role] = xr.Variable((role,), values, attributes[role])
    return coordinates
