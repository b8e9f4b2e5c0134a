"""The layout of forecasts, in memory and in files, as WeatherBench tools, CF readers and plain xarray expect them.

Dims (time, prediction_timedelta, [number], [level], latitude, longitude); `time` is the initial time. Lead times are
real timedelta64 written through xarray: integers with `units = "hours"` alone, though valid CF, reopen as integers.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dask.array
import numpy as np
import xarray as xr

from wavecast.apps.forecasting.grib import GRIB_SUFFIXES
from wavecast.core.errors import WavecastError
from wavecast.datamodules.variables import known

CHUNK_BYTES = 8 << 20
SECOND = 1_000_000_000  # nanoseconds
UNITS = {"hours": 3600, "minutes": 60, "seconds": 1}
"""Units of lead times in seconds."""
ORDER = ("time", "prediction_timedelta", "number", "level", "latitude", "longitude")
COORDINATES = {
    "time": {"standard_name": "forecast_reference_time", "long_name": "initial time"},
    "prediction_timedelta": {"standard_name": "forecast_period", "long_name": "lead time"},
    "valid_time": {"standard_name": "time", "long_name": "valid time"},
    "number": {"standard_name": "realization", "long_name": "member of the ensemble"},
    "level": {"standard_name": "air_pressure", "long_name": "pressure level", "units": "hPa", "positive": "down"},
    "latitude": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"},
    "longitude": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"},
}
RENAMED = {
    "init_time": "time",
    "lead_time": "prediction_timedelta",
    "lat": "latitude",
    "lon": "longitude",
    "realization": "number",
}
"""Other names of a forecast's dimensions."""


@dataclass(frozen=True)
class About:
    """What a forecast file says of its origin.

    Args:
        model: name of the model or the baseline.
        checkpoint: SHA-256 of its weights, or "" where there are none.
        version: of this package.
        command: what was typed.
        title: one line for humans.
        references: papers or addresses.
        created: when, in ISO 8601; now by default. A resumed forecast keeps the time of its beginning.
    """

    model: str
    checkpoint: str = ""
    version: str = ""
    command: str = ""
    title: str = "Weather forecast"
    references: str = ""
    created: str = ""

    def attributes(self) -> dict[str, str]:
        """Give the global attributes of the file."""
        created = self.created or datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        version = f", wavecast {self.version}" if self.version else ""
        attributes = {
            "Conventions": "CF-1.8",
            "title": self.title,
            "source": f"{self.model}{version}",
            "model": self.model,
            "model_sha256": self.checkpoint,
            "history": f"{created} {self.command}".strip(),
            "references": self.references,
            "created": created,
        }
        return {key: value for key, value in attributes.items() if value}


def template(like: xr.Dataset, initial_times: np.ndarray, leads: np.ndarray, members: int, about: About) -> xr.Dataset:
    """Lay out a forecast file: coordinates, attributes, encodings; the variables are lazy zeros.

    Args:
        like: variables on ([level], latitude, longitude); further dims do not count.
        initial_times: datetime64 (time,).
        leads: timedelta64 (prediction_timedelta,).
        members: of an ensemble; 0: no dimension `number`.
        about: where the forecast comes from.

    Raises:
        WavecastError: there are no variables on a grid, no times, or times out of order.
    """
    coords = forecast_coordinates(like, initial_times, leads, members)
    sizes = {name: len(coord) for name, coord in coords.items() if name != "valid_time"}
    for name in ("time", "prediction_timedelta"):
        values = coords[name].values
        if not len(values) or (np.diff(values) <= np.timedelta64(0)).any():
            raise WavecastError(f"the forecast's {name} are none or not ascending", "give each once, in order")
    names = [str(name) for name in like.data_vars if {"latitude", "longitude"} <= set(like[name].dims)]
    if not names:
        raise WavecastError("there are no variables on (latitude, longitude)", "choose variables of the data")
    dims = {name: [d for d in ORDER if d in like[name].dims or d in ("time", "prediction_timedelta")] for name in names}
    if members:
        dims = {name: [d for d in ORDER if d in (*own, "number")] for name, own in dims.items()}
    one = max(4 * int(np.prod([sizes[d] for d in own[2:]])) for own in dims.values())
    steps = min(len(leads), max(1, CHUNK_BYTES // one))
    variables = {}
    for name, own in dims.items():
        shape = tuple(sizes[d] for d in own)
        variables[name] = xr.DataArray(dask.array.zeros(shape, dtype=np.float32, chunks=shape), dims=own)
        variables[name].attrs = attributes_of(name, like[name])
        variables[name].encoding = {"chunks": (1, steps, *shape[2:]), "_FillValue": np.float32(np.nan)}
    return xr.Dataset(variables, coords, about.attributes())


def forecast_coordinates(
    like: xr.Dataset, initial_times: np.ndarray, leads: np.ndarray, members: int = 0
) -> dict[str, xr.DataArray]:
    """Make the coordinates of a forecast, with CF attributes and encodings that every xarray reads back alike."""
    initial = np.asarray(initial_times).astype("datetime64[ns]")
    steps = np.asarray(leads).astype("timedelta64[ns]")
    valid = initial[:, None] + steps
    coords = {
        "time": xr.DataArray(initial, dims="time"),
        "prediction_timedelta": xr.DataArray(steps, dims="prediction_timedelta"),
        "valid_time": xr.DataArray(valid, dims=("time", "prediction_timedelta")),
    }
    grid = [dim for dim in ("level", "latitude", "longitude") if dim in like.dims]
    coords |= {dim: xr.DataArray(like[dim].values, dims=dim) for dim in grid}
    coords |= {"number": xr.DataArray(np.arange(members), dims="number")} if members else {}
    for name, coord in coords.items():
        coord.attrs = dict(COORDINATES[name])
        coord.encoding = {"_FillValue": None}
    whole = np.concatenate([valid.ravel().astype(int), steps.astype(int)])
    unit = next(name for name, seconds in UNITS.items() if seconds == 1 or not (whole % (seconds * SECOND)).any())
    coords["prediction_timedelta"].encoding |= {"units": unit, "dtype": "int64"}
    for name in ("time", "valid_time"):
        coords[name].encoding |= {"units": f"{unit} since 1970-01-01", "dtype": "int64"}
    coords["valid_time"].encoding["chunks"] = valid.shape
    return coords


def attributes_of(name: str, array: xr.DataArray) -> dict[str, str]:
    """Give units, standard_name and long_name: from the lexicon, else what the data says of itself."""
    found = known(name)
    if found is not None:
        return found[0].attributes
    return {key: array.attrs[key] for key in ("units", "standard_name", "long_name") if key in array.attrs}


def open_forecast(path: str | Path) -> xr.Dataset:
    """Open a forecast lazily, whatever its conventions: names of dimensions and lead times become canonical.

    Args:
        path: a Zarr store or a NetCDF file.

    Returns:
        dims (time, prediction_timedelta, [number], [level], latitude, longitude) in the file's order; `time` is the
        initial time and `prediction_timedelta` timedelta64.

    Raises:
        WavecastError: there is no such file, it cannot be read, or its lead times have no known unit.
    """
    forecast = open_as_it_is(path)
    dims = {old: new for old, new in RENAMED.items() if old in forecast.dims and new not in forecast.variables}
    forecast = forecast.rename(dims)
    leads = forecast.variables.get("prediction_timedelta")
    if leads is None or leads.dtype.kind == "m":
        return forecast
    seconds = UNITS.get(str(leads.attrs.get("units", "")).lower().removesuffix("s") + "s")
    if seconds is None or leads.dtype.kind not in "iuf":
        raise WavecastError(
            f"the lead times of {path} are {leads.dtype} in {leads.attrs.get('units', 'no units')!r}",
            "give prediction_timedelta the attribute units = 'hours'",
        )
    nanoseconds = np.round(leads.values * float(seconds * SECOND)).astype(int)
    return forecast.assign_coords(prediction_timedelta=nanoseconds.astype("timedelta64[ns]"))


def open_as_it_is(path: str | Path) -> xr.Dataset:
    """Open a Zarr store or a NetCDF file lazily, with xarray's own conventions.

    Raises:
        WavecastError: there is no such file, or it is neither.
    """
    if not Path(path).exists():
        raise WavecastError(f"{path} does not exist", "forecasts are NAME.zarr folders or NAME.nc files")
    if Path(path).suffix.lower() in GRIB_SUFFIXES:
        raise WavecastError(f"{path} is GRIB, which is written and not read back", "make the forecast as NAME.zarr too")
    try:
        return xr.open_zarr(path, chunks=None) if Path(path).is_dir() else xr.open_dataset(path)
    except (OSError, ValueError, KeyError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise WavecastError(f"{path} cannot be read: {first}", "it must be a Zarr store or a NetCDF file") from error


def same_plan(path: Path, existing: xr.Dataset, wanted: xr.Dataset) -> None:
    """See that an existing forecast is the one that is wanted.

    Raises:
        WavecastError: model, times, grid or variables differ.
    """
    differ = []
    for key in ("model", "model_sha256"):
        if existing.attrs.get(key) != wanted.attrs.get(key):
            differ.append(f"{key} ({existing.attrs.get(key)}, now {wanted.attrs.get(key)})")
    differ += [name for name in wanted.coords if name not in existing or not wanted[name].equals(existing[name])]
    if {name: array.dims for name, array in wanted.items()} != {name: array.dims for name, array in existing.items()}:
        differ.append("variables")
    if differ:
        raise WavecastError(
            f"{path} was begun with other {', '.join(map(str, differ))}", "begin anew with overwrite (--overwrite)"
        )
