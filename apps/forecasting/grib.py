"""Forecasts as GRIB, edition 2: a message for each field, by ecCodes, which the extra `grib` installs.

cfgrib, which reads GRIB, has a writer that calls itself experimental and fails with current xarray; ecCodes writes what
is needed here. A message holds one field at full float32 precision, north first as is usual, with its initial time,
lead time, level and member. Of model and version GRIB tells nothing.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from wavecast.core.errors import WavecastError
from wavecast.datamodules.variables import known

GRIB_SUFFIXES = (".grib", ".grib2", ".grb", ".grb2")
SHORT_NAMES = {
    "2m_temperature": "2t",
    "2m_dewpoint_temperature": "2d",
    "10m_u_component_of_wind": "10u",
    "10m_v_component_of_wind": "10v",
    "10m_wind_speed": "10si",
    "mean_sea_level_pressure": "msl",
    "surface_pressure": "sp",
    "skin_temperature": "skt",
    "geopotential": "z",
    "temperature": "t",
    "u_component_of_wind": "u",
    "v_component_of_wind": "v",
    "wind_speed": "ws",
    "vertical_velocity": "w",
    "relative_humidity": "r",
    "specific_humidity": "q",
    "vorticity": "vo",
    "divergence": "d",
    "potential_vorticity": "pv",
}
"""Of fields at an instant in SI units, as every centre names them; sums over a time, as of rain, are other messages."""
OUTER = ("time", "prediction_timedelta", "number", "level")
"""Dimensions that a field is one place of."""
MISSING = 9.999e20  # in a message that has missing values
NOTHING = 255  # of one byte: no centre, no process
UNITS = {3600: 1, 60: 0, 1: 13}
"""Seconds of GRIB's units of lead times, with their codes (table 4.4)."""
HINT = "call it NAME.zarr or NAME.nc"


def check_grib(path: Path, plan: xr.Dataset) -> None:
    """See that a forecast can be written as GRIB, before it is made.

    Args:
        path: of the file, for messages.
        plan: the forecast, of which only coordinates and names count.

    Raises:
        WavecastError: ecCodes is not installed, or GRIB has no place for a variable or the grid.
    """
    unknown = [str(name) for name in plan.data_vars if levelled(str(name))[0] not in SHORT_NAMES]
    if unknown:
        raise WavecastError(f"{path}: no message of GRIB is known here for {', '.join(unknown)}", HINT)
    for name in ("latitude", "longitude"):
        values = plan[name].values
        steps = np.diff(values)
        if len(values) < 2 or not np.allclose(steps, steps[0], rtol=0, atol=1e-4) or steps[0] < 0:
            raise WavecastError(f"{path}: the {name}s are not evenly spaced, and a GRIB grid is", HINT)
    library(path)


def library(path: Path) -> Any:
    """Import ecCodes.

    Args:
        path: of the file, for the message.

    Raises:
        WavecastError: it is not installed.
    """
    try:
        return import_module("eccodes")
    except (ImportError, RuntimeError) as error:  # RuntimeError: the package without the library
        raise WavecastError(f"{path}: GRIB needs ecCodes", f"pip install 'wavecast[grib]', or {HINT}") from error


def levelled(name: str) -> tuple[str, int | None]:
    """Split the name of a channel into that of its variable and the level in hPa."""
    found = known(name)
    return (name, None) if found is None else (found[0].name, found[1])


def to_grib(store: Path, path: Path) -> None:
    """Turn a Zarr store into a GRIB file, one field after the other; the same store gives the same bytes.

    Raises:
        OSError: there is no room for it.
        WavecastError: ecCodes cannot write a message.
    """
    eccodes = library(path)
    with xr.open_zarr(store, chunks=None) as forecast, path.open("wb") as file:
        for keys, values in messages(forecast):
            handle = eccodes.codes_grib_new_from_samples("GRIB2")
            try:
                for key, value in keys.items():
                    eccodes.codes_set(handle, key, value)
                eccodes.codes_set_values(handle, values.ravel())
                file.write(eccodes.codes_get_message(handle))
            except eccodes.CodesInternalError as error:
                raise WavecastError(f"{path.name}: ecCodes cannot write {keys['shortName']}: {error}", HINT) from error
            finally:
                eccodes.codes_release(handle)


def messages(forecast: xr.Dataset) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Give what each message holds: its keys in the order in which they must be set, and the field, north first.

    Args:
        forecast: dims (time, prediction_timedelta, [number], [level], latitude, longitude), ascending on the grid.

    Returns:
        Keys of ecCodes, and float64 (row, col), for each field.
    """
    grid = grid_keys(forecast["latitude"].values, forecast["longitude"].values)
    leads = forecast["prediction_timedelta"].values.astype("timedelta64[s]").astype(int)
    unit = next(seconds for seconds in UNITS if not (leads % seconds).any())
    members = forecast.sizes.get("number", 0)
    for name, array in forecast.data_vars.items():
        outer = [dim for dim in OUTER if dim in array.dims]
        for place in np.ndindex(*(array.sizes[dim] for dim in outer)):
            field = array.isel(dict(zip(outer, place, strict=True))).transpose("latitude", "longitude")
            values = field.values[::-1].astype(np.float64)
            keys = field_keys(str(name), field, members, unit, grid)
            if np.isnan(values).any():
                keys |= {"bitmapPresent": 1, "missingValue": MISSING}
                values = np.where(np.isnan(values), MISSING, values)
            yield keys, values


def field_keys(name: str, field: xr.DataArray, members: int, unit: int, grid: dict[str, Any]) -> dict[str, Any]:
    """Describe one field.

    Args:
        name: of its channel.
        field: with its initial time, lead time, member and level as coordinates.
        members: of the ensemble; 0: there is none.
        unit: of lead times, in seconds.
        grid: its keys.
    """
    date, clock = str(field["time"].values.astype("datetime64[m]")).split("T")
    lead = int(field["prediction_timedelta"].values.astype("timedelta64[s]").astype(int))
    variable, level = levelled(name)
    level = round(float(field["level"])) if "level" in field.coords else level
    keys: dict[str, Any] = {"centre": NOTHING, "generatingProcessIdentifier": NOTHING}
    keys |= {"productDefinitionTemplateNumber": 1 if members else 0}
    keys |= {"dataDate": int(date.replace("-", "")), "dataTime": int(clock.replace(":", "")), **grid}
    keys |= {"numberOfForecastsInEnsemble": members, "number": int(field["number"])} if members else {}
    keys["shortName"] = SHORT_NAMES[variable]
    keys |= {} if level is None else {"typeOfLevel": "isobaricInhPa", "level": level}
    keys |= {"indicatorOfUnitOfTimeRange": UNITS[unit], "forecastTime": lead // unit}
    return keys | {"packingType": "grid_ieee", "precision": 1}


def grid_keys(latitudes: np.ndarray, longitudes: np.ndarray) -> dict[str, Any]:
    """Describe an evenly spaced grid of ascending latitudes and longitudes, north first."""
    return {
        "gridType": "regular_ll",
        "Ni": len(longitudes),
        "Nj": len(latitudes),
        "iScansNegatively": 0,
        "jScansPositively": 0,
        "latitudeOfFirstGridPointInDegrees": float(latitudes[-1]),
        "latitudeOfLastGridPointInDegrees": float(latitudes[0]),
        "longitudeOfFirstGridPointInDegrees": float(longitudes[0]) % 360,
        "longitudeOfLastGridPointInDegrees": float(longitudes[-1]) % 360,
        "iDirectionIncrementInDegrees": float(longitudes[-1] - longitudes[0]) / (len(longitudes) - 1),
        "jDirectionIncrementInDegrees": float(latitudes[-1] - latitudes[0]) / (len(latitudes) - 1),
    }
