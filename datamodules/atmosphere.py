"""A synthetic atmosphere whose future is known in closed form: for tests, demonstrations and checks of models.

Each variable is a zonal mean that falls towards the poles, plus waves that solid-body rotation carries around the axis
without change of shape, plus slower waves that run west, plus for the near-surface temperature a diurnal cycle that
follows the sun. A field is a function of time, latitude and longitude alone, so any hour can be had without the ones
before, and a forecast can be scored against the truth to any precision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from wavecast.core.errors import WavecastError
from wavecast.datamodules.variables import VARIABLES, channel, find
from wavecast.datamodules.weather_times import HOUR

EPOCH = np.datetime64("2000-01-01T00", "ns")
PERIOD = 96.0
"""Hours of one turn of the flow around the axis."""
WAVES = 4
"""Waves of each kind, of zonal wave numbers 1 to WAVES."""


@dataclass(frozen=True)
class Climate:
    """What a variable is like: its mean at the equator, how far it falls to the poles, and how strong its waves are.

    Attributes:
        mean: at the equator.
        fall: from equator to pole.
        waves: standard deviation of the travelling waves, about.
        diurnal: amplitude of the diurnal cycle at the equator.
    """

    mean: float
    fall: float
    waves: float
    diurnal: float = 0.0


SURFACE = {
    "2m_temperature": Climate(299.0, 45.0, 3.0, 4.0),
    "2m_dewpoint_temperature": Climate(290.0, 42.0, 2.5),
    "10m_u_component_of_wind": Climate(-3.0, -5.0, 4.0),
    "10m_v_component_of_wind": Climate(0.0, 0.0, 3.5),
    "mean_sea_level_pressure": Climate(101_200.0, 800.0, 700.0),
    "surface_pressure": Climate(98_500.0, 2_500.0, 700.0),
    "total_cloud_cover": Climate(0.5, 0.0, 0.1),
}
"""Near-surface variables, in SI units."""


def climate(name: str, level: float | None) -> Climate:
    """Look up what a variable, or one of its levels, is like.

    Args:
        name: WeatherBench 2's long name.
        level: in hPa, for variables on levels.

    Raises:
        WavecastError: the synthetic atmosphere has no such variable.
    """
    height = 7_500 * np.log(1013.25 / level) if level is not None else 0.0  # meters, of an isothermal atmosphere
    share = min(height / 10_000, 1.5)
    on_levels = {
        "geopotential": Climate(9.80665 * height * 1.02, 2_000 + 6_000 * share, 300 + 800 * share),
        "temperature": Climate(max(299 - 0.0065 * height, 212), 40 * (1 - 0.5 * share), 3.0),
        "u_component_of_wind": Climate(4.0, -12 * share, 4 + 6 * share),
        "v_component_of_wind": Climate(0.0, 0.0, 3 + 5 * share),
        "relative_humidity": Climate(60.0, 0.0, 10.0),
        "specific_humidity": Climate(0.016 * np.exp(-height / 2_500), 0.012 * np.exp(-height / 2_500), 1e-4),
    }
    found = SURFACE.get(name) if level is None else on_levels.get(name)
    if found is None:
        existing = ", ".join([*SURFACE, *on_levels])
        raise WavecastError(f"the synthetic atmosphere has no {channel(name, level)}", f"it has {existing}")
    return found


def field_at(
    name: str,
    times: np.ndarray,
    latitude: np.ndarray,
    longitude: np.ndarray,
    seed: int = 0,
    level: float | None = None,
) -> np.ndarray:
    """Compute a variable at any times and places.

    Args:
        name: WeatherBench 2's long name.
        times: (time,) datetime64.
        latitude: (row,) in degrees north.
        longitude: (col,) in degrees east.
        seed: another seed is another atmosphere.
        level: in hPa, for variables on levels.

    Returns:
        float64 (time, row, col) in SI units.

    Raises:
        WavecastError: the synthetic atmosphere has no such variable.
    """
    what = climate(name, level)
    hours = (times.astype("datetime64[ns]") - EPOCH).astype(np.int64)[:, None, None] / HOUR
    lat, lon = np.radians(latitude)[:, None], np.radians(longitude)
    place = [variable.name for variable in VARIABLES].index(name)
    rng = np.random.default_rng([seed, place, round(level or 0)])
    turn = 2 * np.pi / PERIOD
    waves = np.zeros((len(times), len(latitude), len(longitude)))
    for number in range(1, WAVES + 1):
        for speed in (
            turn,
            -turn / (2 * number),
        ):  # with the flow; west against it, long ones faster
            size, phase, north = rng.uniform(0.5, 1.0), rng.uniform(0, 2 * np.pi), rng.uniform(1, 3)
            shape = np.cos(lat) ** 2 * np.sin(north * lat + phase)
            waves += size * shape * np.cos(number * (lon - speed * hours) + phase)
    zonal = what.mean - what.fall * np.sin(lat) ** 2
    sun = np.cos(lat) * np.cos(2 * np.pi * hours / 24 + lon - np.pi * 14 / 12)  # warmest at 14 h local time
    field: np.ndarray = zonal + what.waves * waves + what.diurnal * sun
    return field


def synthetic_atmosphere(
    start: str,
    hours: int,
    lat: int = 32,
    lon: int = 64,
    seed: int = 0,
    variables: Sequence[str] = ("2m_temperature", "10m_u_component_of_wind", "10m_v_component_of_wind"),
    levels: Sequence[int] = (500, 850),
    step: int = 1,
) -> xr.Dataset:
    """Make a data set on WeatherBench's cells; a longer or later one of the same seed agrees where both are.

    Args:
        start: first time, such as "2010-01-01".
        hours: how long.
        lat: rows, cell centers from south to north.
        lon: columns, from 0 degrees east on.
        seed: another seed is another atmosphere.
        variables: by any of their names; those on levels come on all `levels`, or on one where the name says so.
        levels: in hPa.
        step: hours between instants.

    Returns:
        Canonical fields (time, [level], latitude, longitude), float32, SI units, with CF attributes.

    Raises:
        WavecastError: the synthetic atmosphere has no such variable.
    """
    times = np.datetime64(start, "ns") + np.arange(0, hours, step) * np.timedelta64(1, "h")
    latitude = -90 + (np.arange(lat) + 0.5) * 180 / lat
    longitude = np.arange(lon) * 360 / lon
    arrays = {}
    for asked in variables:
        variable, level = find(asked)
        dims: tuple[str, ...] = ("time", "latitude", "longitude")
        if variable.on_levels and level is None:
            at = [field_at(variable.name, times, latitude, longitude, seed, one) for one in levels]
            values, dims = np.stack(at, 1), ("time", "level", "latitude", "longitude")
        else:
            values = field_at(variable.name, times, latitude, longitude, seed, level)
        arrays[channel(variable.name, level)] = (dims, values.astype(np.float32), variable.attributes)
    coordinates: dict[str, object] = {
        "time": ("time", times, {"standard_name": "time"}),
        "latitude": ("latitude", latitude, {"standard_name": "latitude", "units": "degrees_north"}),
        "longitude": ("longitude", longitude, {"standard_name": "longitude", "units": "degrees_east"}),
    }
    if any("level" in dims for dims, _, _ in arrays.values()):
        pressure = {"standard_name": "air_pressure", "units": "hPa", "positive": "down"}
        coordinates["level"] = ("level", np.asarray(levels, np.int64), pressure)
    return xr.Dataset(arrays, coordinates, {"Conventions": "CF-1.8", "title": "a synthetic atmosphere"})


def write_weatherbench1(dataset: xr.Dataset, folder: str | Path) -> None:
    """Write fields as WeatherBench 1 does: <folder>/<variable>/<variable>_<year>_<resolution>deg.nc.

    Short names, `lat` and `lon`; one level of a variable (`geopotential_500`) becomes a file with a scalar `level`;
    variables without time go to <folder>/constants.

    Args:
        dataset: canonical fields.
        folder: is made.
    """
    degrees = f"{360 / dataset.sizes['longitude']:g}deg"
    for name in map(str, dataset.data_vars):
        variable, level = find(name)
        array = dataset[name].rename(variable.short).rename({"latitude": "lat", "longitude": "lon"})
        if "time" not in array.dims:
            place = Path(folder) / "constants"
            place.mkdir(parents=True, exist_ok=True)
            array.to_dataset().to_netcdf(place / f"{variable.name}_{degrees}.nc", engine="h5netcdf")
            continue
        place = Path(folder) / name
        place.mkdir(parents=True, exist_ok=True)
        label = name if level is None else f"{variable.name}_{level}hPa"
        if level is not None:
            array = array.assign_coords(level=np.int32(level))
        elif "level" in array.dims:
            array = array.assign_coords(level=array["level"].astype(np.int32))
        for year, part in array.groupby("time.year"):
            part.to_dataset().to_netcdf(place / f"{label}_{year}_{degrees}.nc", engine="h5netcdf")


def write_weatherbench2(dataset: xr.Dataset, path: str | Path, zarr_format: int = 3, descending: bool = False) -> None:
    """Write fields as WeatherBench 2 does: a zarr store of (time, [level], longitude, latitude).

    Args:
        dataset: canonical fields.
        path: of the store.
        zarr_format: 2 or 3.
        descending: from north to south.
    """
    order = [dim for dim in ("time", "level", "longitude", "latitude") if dim in dataset.dims]
    fields = dataset.transpose(*order)
    if descending:
        fields = fields.sortby("latitude", ascending=False)
    fields.to_zarr(path, zarr_format=zarr_format, consolidated=zarr_format == 2)
