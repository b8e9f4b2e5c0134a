"""Will the WeatherBench tools take this forecast file? What stands in the way, and how to mend it.

Every finding was met with WeatherBench 2's `evaluate.py` (commit 021c0b3), xarray 2026.9 and zarr 3.1, on files made to
differ in one thing each. Files from `wavecast.apps.forecasting.forecast_files` on a global grid have none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr

from wavecast.apps.forecasting.forecast_layout import ORDER, RENAMED, UNITS, open_as_it_is
from wavecast.apps.forecasting.scores import DEGREES, is_global
from wavecast.datamodules.variables import CONVERSIONS, known, spelled

LEVELS = ("isobaricInhPa", "pressure_level", "plev", "lev", "pressure")
MEMBERS = ("realization", "member", "ensemble", "sample", "m")


@dataclass(frozen=True)
class Finding:
    """One thing that stands in the way.

    Attributes:
        kind: "refused": WeatherBench 2 stops with an error; "misread": it goes on and the numbers are wrong or NaN;
            "option": it needs to be told.
        where: the dimension, variable or attribute.
        problem: what is found, and what happens.
        hint: what to type; `ds` is the opened file.
    """

    kind: Literal["refused", "misread", "option"]
    where: str
    problem: str
    hint: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}\nhint: {self.hint}"


def check_forecast(
    path: str | Path,
    truth: xr.Dataset | None = None,
    climatology: xr.Dataset | None = None,
    values: bool = True,
) -> list[Finding]:
    """Look for everything that WeatherBench 2 or WeatherBench-X would stumble over.

    Args:
        path: of a Zarr store or a NetCDF file.
        truth: what it will be scored against; then times, grid, levels and variables are compared too.
        climatology: what anomalies will be taken from; then its hours are compared too.
        values: read all values to find NaN; slow for large files.

    Returns:
        Findings, those that refuse the file first; none if all is well.

    Raises:
        WavecastError: the file does not exist or cannot be read.
    """
    with open_as_it_is(path) as forecast:
        dimensions = list(_dimensions(forecast))
        findings = [*_container(Path(path)), *dimensions, *_times(forecast), *_variables(forecast)]
        findings += _grid(forecast, truth)
        if not dimensions:
            findings += [*_against_truth(forecast, truth), *_against_climatology(forecast, climatology)]
        findings += _missing(forecast) if values else []
    order = ("refused", "misread", "option")
    return sorted(findings, key=lambda finding: order.index(finding.kind))


def _container(path: Path) -> Iterator[Finding]:
    if not path.is_dir():
        zarr = path.with_suffix(".zarr").name
        yield Finding(
            "refused",
            path.name,
            "WeatherBench 2 opens Zarr only; WeatherBench-X reads NetCDF too",
            f"wavecast.apps.forecasting.forecast_layout.open_forecast({path.name!r}).drop_encoding()"
            f".to_zarr({zarr!r}, zarr_format=2)",
        )


def _dimensions(forecast: xr.Dataset) -> Iterator[Finding]:
    """Check the names of dimensions; together, init_time and lead_time with a 2-D valid_time are accepted."""
    dims = {str(dim) for dim in forecast.dims}
    valid = forecast.variables.get("valid_time")
    both = valid is not None and set(valid.dims) == {"init_time", "lead_time"}
    for old, new in RENAMED.items():
        if old in dims and not (both and old in ("init_time", "lead_time")):
            alone = f", unless init_time, lead_time and valid_time({old}, ...) are all there" if "time" in old else ""
            yield Finding(
                "refused", old, f"this dimension must be called {new}{alone}", f"ds.rename({{{old!r}: {new!r}}})"
            )
    for old in sorted(dims & set(MEMBERS) - set(RENAMED)):
        yield Finding("refused", old, "members of an ensemble are along number", f"ds.rename({{{old!r}: 'number'}})")
    for old in sorted(dims & set(LEVELS)):
        yield Finding("refused", old, "pressure levels are along level, in hPa", f"ds.rename({{{old!r}: 'level'}})")
    if "time" in forecast.coords and "time" not in dims:
        yield Finding("refused", "time", "the initial time is a scalar, not a dimension", "ds.expand_dims('time')")
    leads = "prediction_timedelta" in forecast.coords
    if leads and not dims & {"prediction_timedelta", "lead_time"}:
        yield Finding(
            "refused",
            "prediction_timedelta",
            "the lead time is a scalar, not a dimension",
            "ds.expand_dims('prediction_timedelta')",
        )
    names = dims | {RENAMED[dim] for dim in dims if dim in RENAMED} | {str(name) for name in forecast.coords}
    for dim in ("time", "prediction_timedelta", "latitude", "longitude"):
        if dim not in names:
            yield Finding("refused", dim, f"there is no such dimension, only {', '.join(sorted(dims))}", f"add {dim}")


def _times(forecast: xr.Dataset) -> Iterator[Finding]:
    """Check the types of times."""
    for name in ("prediction_timedelta", "lead_time"):
        leads = forecast.coords.get(name)
        if leads is None or leads.dtype.kind == "m":
            continue
        unit = str(leads.attrs.get("units", "hours"))
        seconds = UNITS.get(unit.lower().removesuffix("s") + "s", UNITS["hours"])
        yield Finding(
            "refused",
            name,
            f"lead times are {leads.dtype} numbers, not timedelta64, so that valid times cannot be computed",
            f"ds.assign_coords({name}=(ds.{name}.drop_attrs() * {seconds}).round().astype('timedelta64[s]'))",
        )
    for name in ("time", "init_time"):
        times = forecast.coords.get(name)
        if times is not None and times.dtype.kind != "M":
            yield Finding(
                "refused",
                name,
                f"initial times are {times.dtype}, not datetime64",
                "give time the units 'hours since 1970-01-01' and the calendar 'standard', or open it with "
                "ds.convert_calendar('standard')",
            )


def _variables(forecast: xr.Dataset) -> Iterator[Finding]:
    """Check names and units of variables."""
    for key, array in forecast.data_vars.items():
        name = str(key)
        found = known(name)
        if found is None:
            continue
        variable, level = found
        if level is not None:
            yield Finding(
                "option",
                name,
                "the level is in the variable's name",
                "call WeatherBench 2 with --pressure_level_suffixes, or bring levels on a dimension called level",
            )
        elif name != variable.name:
            yield Finding(
                "refused",
                name,
                f"WeatherBench 2 calls it {variable.name}",
                f"ds.rename({{{name!r}: {variable.name!r}}})",
            )
        units = array.attrs.get("units")
        if units is None:
            continue
        scale, offset = CONVERSIONS[variable.units].get(spelled(str(units)), (None, None))
        if (scale, offset) != (1.0, 0.0):
            mended = f"ds[{name!r}] * {scale} + {offset}" if scale else "convert it"
            yield Finding(
                "misread",
                name,
                f"it is in {units!r}; WeatherBench 2 converts nothing, its truth is in {variable.units}",
                mended,
            )


def _grid(forecast: xr.Dataset, truth: xr.Dataset | None) -> Iterator[Finding]:
    """Check latitudes and longitudes."""
    grid = {}
    for dim, short in {"latitude": "lat", "longitude": "lon"}.items():
        name = dim if dim in forecast.coords else short
        if name not in forecast.coords or forecast[name].ndim != 1:
            return
        grid[dim] = forecast[name].values.astype(float)
    latitude, longitude = grid["latitude"], grid["longitude"]
    if (longitude < -DEGREES).any():
        yield Finding(
            "refused",
            "longitude",
            f"longitudes run from {longitude.min():g} to {longitude.max():g}; the truth has 0 to 360",
            "ds.assign_coords(longitude=ds.longitude % 360).sortby('longitude')",
        )
    if not is_global(latitude, longitude):
        yield Finding(
            "misread",
            "latitude",
            f"the grid is a part of the globe, {latitude.min():g} to {latitude.max():g} north: WeatherBench 2 weights "
            "its outer rows as if they reached the poles",
            "score it with wavecast score, which weights with true cell areas",
        )
    if truth is None:
        return
    for dim, own in grid.items():
        there = truth[dim].values.astype(float)
        own, there = np.sort(own), np.sort(there)
        if own.shape != there.shape or np.abs(own - there).max() > DEGREES:
            if dim == "longitude" and (longitude < -DEGREES).any():
                continue
            yield Finding(
                "refused",
                dim,
                f"{len(own)} values from {own[0]:g} to {own[-1]:g} are not the truth's {len(there)} from {there[0]:g} "
                f"to {there[-1]:g}",
                f"give truth and climatology of this grid: truth.sel({dim}=ds.{dim}, method='nearest', tolerance=1e-3)",
            )


def _against_truth(forecast: xr.Dataset, truth: xr.Dataset | None) -> Iterator[Finding]:
    """Compare times, levels and variables with the truth."""
    if truth is None:
        return
    names = [str(name) for name in forecast.data_vars if name in truth.data_vars]
    if not names:
        yield Finding(
            "refused",
            "variables",
            f"forecast ({', '.join(map(str, forecast.data_vars))}) and truth ({', '.join(map(str, truth.data_vars))}) "
            "have none in common",
            "rename them to WeatherBench 2's long names",
        )
    valid = _valid_times(forecast)
    there = truth.time.values.astype("datetime64[ns]")
    absent = np.setdiff1d(valid, there)
    if absent.size:
        step = np.diff(there).min() if len(there) > 1 else np.timedelta64(1, "h")
        hours = float(step / np.timedelta64(1, "h"))
        yield Finding(
            "refused",
            "prediction_timedelta",
            f"{absent.size} of {np.unique(valid).size} valid times are not in the truth, the first is "
            f"{absent[0].astype('datetime64[m]')}; the truth has a step of {hours:g} h",
            f"ds.sel(prediction_timedelta=ds.prediction_timedelta % np.timedelta64({hours:g}, 'h') == 0), with initial "
            "times among the truth's; or give truth of every valid time",
        )
    if "level" in forecast.dims and "level" in truth.dims:
        levels = np.setdiff1d(forecast.level.values, truth.level.values)
        if levels.size:
            yield Finding(
                "refused",
                "level",
                f"the truth has no level {levels[0]:g} hPa",
                f"ds.sel(level={np.intersect1d(forecast.level.values, truth.level.values).tolist()})",
            )


def _against_climatology(forecast: xr.Dataset, climatology: xr.Dataset | None) -> Iterator[Finding]:
    """Compare the hours of valid times with those of the climatology."""
    if climatology is None or "hour" not in climatology.coords:
        return
    wanted = np.unique(xr.DataArray(_valid_times(forecast), dims="time").dt.hour.values)
    absent = np.setdiff1d(wanted, climatology.hour.values)
    if absent.size:
        hours = ", ".join(map(str, absent.tolist()))
        yield Finding(
            "refused",
            "hour",
            f"the climatology has no hour {hours}, in which forecasts are valid",
            "give a climatology of every valid hour, such as wavecast.apps.forecasting.baselines.Climatology",
        )


def _missing(forecast: xr.Dataset) -> Iterator[Finding]:
    """Look for NaN, an initial time at once."""
    for name, array in forecast.data_vars.items():
        if array.dtype.kind != "f" or not {"latitude", "lat"} & set(array.dims):
            continue
        along = next((dim for dim in ("time", "init_time") if dim in array.dims), None)
        parts = [array] if along is None else (array.isel({along: k}) for k in range(array.sizes[along]))
        missing = sum(int(np.isnan(part.values).sum()) for part in parts)
        if missing:
            yield Finding(
                "misread",
                str(name),
                f"{missing} of {array.size} values are NaN; the scores of their lead times will be NaN",
                "find the initial times with ds.isnull().any(('latitude', 'longitude')), and leave them out",
            )


def _valid_times(forecast: xr.Dataset) -> np.ndarray:
    """Give all valid times, (n,); none where lead times are numbers."""
    renamed = {old: new for old, new in RENAMED.items() if old in forecast.dims and new in ORDER[:2]}
    forecast = forecast.rename(renamed)
    if forecast.prediction_timedelta.dtype.kind != "m" or forecast.time.dtype.kind != "M":
        return np.zeros(0, "datetime64[ns]")
    leads = forecast.prediction_timedelta.values.astype("timedelta64[ns]")
    valid: np.ndarray = (forecast.time.values.astype("datetime64[ns]")[:, None] + leads).ravel()
    return valid
