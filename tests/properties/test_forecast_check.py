"""What WeatherBench 2 takes and refuses: each measured case is found, named and mended by its own hint."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import wavecast.apps.forecasting.forecast_layout
from wavecast.apps.forecasting.check import Finding, check_forecast
from wavecast.apps.forecasting.forecast_files import write_forecast
from wavecast.apps.forecasting.forecast_layout import About
from wavecast.core.errors import WavecastError

HOUR = np.timedelta64(1, "h").astype("timedelta64[ns]")
GRID = {"latitude": np.arange(-67.5, 90, 45.0), "longitude": np.arange(8) * 45.0}
Change = Callable[[xr.Dataset], xr.Dataset]


def truth(step: int = 6) -> xr.Dataset:
    time = np.datetime64("2020-01-01", "ns") + np.arange(0, 72, step) * HOUR
    rng = np.random.default_rng(0)
    surface = rng.standard_normal((len(time), 4, 8)).astype(np.float32)
    upper = rng.standard_normal((len(time), 2, 4, 8)).astype(np.float32)
    coords = {"time": time, "level": [500, 850], **GRID}
    dims = ("time", "level", "latitude", "longitude")
    return xr.Dataset({"2m_temperature": (("time", *dims[2:]), surface), "geopotential": (dims, upper)}, coords)


def forecast(step: int = 6) -> xr.Dataset:
    """Make a forecast as it stands in memory."""
    every = truth(step)
    times, leads = every.time.values[:3], np.arange(1, 4)
    parts = [every.isel(time=slice(lead, lead + 3)).assign_coords(time=times) for lead in leads]
    made = xr.concat(parts, "prediction_timedelta").assign_coords(prediction_timedelta=leads * step * HOUR)
    return made.transpose("time", "prediction_timedelta", ...)


def written(path: Path, step: int = 6, members: int = 0) -> Path:
    made = forecast(step)
    if members:
        made = xr.concat([made] * members, "number")
    return write_forecast(path, made, About(model="persistence"))


def stored(folder: Path, change: Change, step: int = 6) -> Path:
    """Write a changed forecast with xarray alone."""
    path = folder / "changed.zarr"
    change(forecast(step)).drop_encoding().to_zarr(path, zarr_format=2)
    return path


@pytest.mark.parametrize(("step", "members"), [(6, 0), (1, 0), (6, 3)])
def test_our_files_have_no_finding(tmp_path: Path, step: int, members: int) -> None:
    path = written(tmp_path / "run.zarr", step, members)
    assert check_forecast(path) == []
    assert check_forecast(path, truth(step)) == []


def valid_time(ds: xr.Dataset) -> xr.DataArray:
    return ds.init_time + ds.lead_time


ACCEPTED: dict[str, Change] = {
    "any order of dimensions": lambda ds: ds.transpose(
        "longitude", "latitude", "level", "prediction_timedelta", "time"
    ),
    "latitude descending": lambda ds: ds.isel(latitude=slice(None, None, -1)),
    "2-D valid_time": lambda ds: ds.assign_coords(valid_time=ds.time + ds.prediction_timedelta),
    "init_time, lead_time and valid_time": lambda ds: ds.rename(
        time="init_time", prediction_timedelta="lead_time"
    ).pipe(lambda one: one.assign_coords(valid_time=valid_time(one))),
    "ensemble": lambda ds: xr.concat([ds, ds], "number"),
    "a variable of one's own": lambda ds: ds.assign(my_index=ds["2m_temperature"]),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_weatherbench_takes_has_no_finding(tmp_path: Path, name: str) -> None:
    assert check_forecast(stored(tmp_path, ACCEPTED[name]), truth()) == []


def numbers(ds: xr.Dataset, dtype: str) -> xr.Dataset:
    hours = np.array([6, 12, 18], dtype)
    return ds.assign_coords(prediction_timedelta=("prediction_timedelta", hours, {"units": "hours"}))


REFUSED: dict[str, tuple[Change, str, str]] = {
    "lead_time": (
        lambda ds: ds.rename(prediction_timedelta="lead_time"),
        "lead_time",
        "called prediction_timedelta",
    ),
    "init_time": (lambda ds: ds.rename(time="init_time"), "init_time", "called time"),
    "lat": (lambda ds: ds.rename(latitude="lat"), "lat", "called latitude"),
    "realization": (lambda ds: xr.concat([ds, ds], "realization"), "realization", "called number"),
    "member": (lambda ds: xr.concat([ds, ds], "member"), "member", "along number"),
    "pressure_level": (lambda ds: ds.rename(level="pressure_level"), "pressure_level", "along level"),
    "whole hours": (lambda ds: numbers(ds, "int64"), "prediction_timedelta", "are int64 numbers"),
    "float hours": (lambda ds: numbers(ds, "float64"), "prediction_timedelta", "are float64 numbers"),
    "scalar time": (lambda ds: ds.isel(time=0), "time", "is a scalar"),
    "scalar lead": (lambda ds: ds.isel(prediction_timedelta=0), "prediction_timedelta", "is a scalar"),
    "west longitudes": (
        lambda ds: ds.assign_coords(longitude=(ds.longitude + 180) % 360 - 180).sortby("longitude"),
        "longitude",
        "from -180 to 135",
    ),
    "short name": (lambda ds: ds.rename({"2m_temperature": "t2m"}), "t2m", "calls it 2m_temperature"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_weatherbench_refuses_is_found_and_its_hint_mends_it(tmp_path: Path, name: str) -> None:
    change, where, problem = REFUSED[name]
    findings = check_forecast(stored(tmp_path, change))
    assert [(finding.kind, finding.where) for finding in findings] == [("refused", where)]
    assert problem in findings[0].problem
    assert str(findings[0]).endswith(f"\nhint: {findings[0].hint}")
    ds = xr.open_zarr(tmp_path / "changed.zarr", chunks=None)
    mended = eval(findings[0].hint, {"ds": ds, "np": np})  # noqa: S307
    mended.drop_encoding().to_zarr(tmp_path / "mended.zarr", zarr_format=2)
    assert check_forecast(tmp_path / "mended.zarr") == []


def test_a_missing_dimension_is_found(tmp_path: Path) -> None:
    path = stored(tmp_path, lambda ds: ds.isel(prediction_timedelta=0, drop=True))
    assert [(one.kind, one.where) for one in check_forecast(path)] == [("refused", "prediction_timedelta")]
    assert [one.where for one in check_forecast(path, truth())] == ["prediction_timedelta"]


def test_netcdf_is_for_weatherbench_x_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = check_forecast(written(tmp_path / "run.nc"), truth())
    assert (finding.kind, finding.where) == ("refused", "run.nc")
    assert "WeatherBench 2 opens Zarr only" in finding.problem
    monkeypatch.chdir(tmp_path)
    eval(finding.hint, {"wavecast": wavecast})  # noqa: S307
    assert check_forecast(tmp_path / "run.zarr", truth()) == []


def test_hourly_leads_against_truth_of_every_six_hours(tmp_path: Path) -> None:
    path = written(tmp_path / "run.zarr", step=1)
    (finding,) = check_forecast(path, truth(6))
    assert (finding.kind, finding.where) == ("refused", "prediction_timedelta")
    assert "5 of 5 valid times are not in the truth, the first is 2020-01-01T01:00; the truth has a step of 6 h" in (
        finding.problem
    )


def test_another_grid_levels_or_variables_than_the_truth(tmp_path: Path) -> None:
    path = written(tmp_path / "run.zarr")
    moved = truth().assign_coords(latitude=GRID["latitude"] + 0.01)
    assert [one.where for one in check_forecast(path, moved)] == ["latitude"]
    assert check_forecast(path, truth().assign_coords(latitude=GRID["latitude"] + 0.0005)) == []
    (finding,) = check_forecast(path, truth().sel(level=[500]))
    assert (finding.where, finding.hint) == ("level", "ds.sel(level=[500])")
    renamed = truth().rename({"2m_temperature": "a", "geopotential": "b"})
    assert [one.where for one in check_forecast(path, renamed)] == ["variables"]


def test_the_climatology_must_have_every_valid_hour(tmp_path: Path) -> None:
    path = written(tmp_path / "run.zarr", step=3)
    climatology = xr.Dataset(coords={"hour": [0, 6, 12, 18]})
    (finding,) = check_forecast(path, climatology=climatology)
    assert (finding.kind, finding.where) == ("refused", "hour")
    assert "no hour 3, 9, 15, in which" in finding.problem
    assert check_forecast(path, climatology=xr.Dataset(coords={"hour": np.arange(24)})) == []


def test_nan_is_taken_and_spoils_its_lead_time(tmp_path: Path) -> None:
    def change(ds: xr.Dataset) -> xr.Dataset:
        ds["2m_temperature"][1, 2, 3, 4] = np.nan
        return ds

    path = stored(tmp_path, change)
    (finding,) = check_forecast(path)
    assert (finding.kind, finding.where) == ("misread", "2m_temperature")
    assert finding.problem.startswith("1 of 288 values are NaN")
    assert check_forecast(path, values=False) == []


def test_a_part_of_the_globe_is_weighted_wrongly(tmp_path: Path) -> None:
    (finding,) = check_forecast(stored(tmp_path, lambda ds: ds.isel(latitude=[2, 3])))
    assert (finding.kind, finding.where) == ("misread", "latitude")
    assert "wavecast score" in finding.hint


def test_units_are_not_converted(tmp_path: Path) -> None:
    def celsius(ds: xr.Dataset) -> xr.Dataset:
        ds["2m_temperature"].attrs["units"] = "degC"
        ds["geopotential"].attrs["units"] = "m**2 s**-2"
        return ds

    (finding,) = check_forecast(stored(tmp_path, celsius))
    assert (finding.kind, finding.where) == ("misread", "2m_temperature")
    assert finding.hint == "ds['2m_temperature'] * 1.0 + 273.15"


def test_levels_in_names_need_an_option(tmp_path: Path) -> None:
    path = stored(tmp_path, lambda ds: ds.assign(geopotential_500=ds.geopotential.sel(level=500, drop=True)))
    (finding,) = check_forecast(path)
    assert (finding.kind, finding.where) == ("option", "geopotential_500")
    assert "--pressure_level_suffixes" in finding.hint


def test_what_refuses_the_file_comes_first(tmp_path: Path) -> None:
    findings: list[Finding] = check_forecast(
        stored(tmp_path, lambda ds: ds.isel(latitude=[2, 3]).rename(time="init_time"))
    )
    assert [finding.kind for finding in findings] == ["refused", "misread"]
    with pytest.raises(WavecastError, match="does not exist"):
        check_forecast(tmp_path / "nothing.zarr")
