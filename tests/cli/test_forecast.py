"""`wavecast forecast`, `score` and the training of forecasters, on a synthetic atmosphere whose future is known."""

import json

import numpy as np
import pytest
import xarray as xr

import wavecast as suite
from wavecast.apps.forecasting.forecast_layout import open_forecast
from wavecast.apps.forecasting.inference import Forecaster
from wavecast.datamodules.atmosphere import synthetic_atmosphere, write_weatherbench1, write_weatherbench2
from wavecast.training import shipped_recipes

HOURS = 96
SMALL = ["--model.network", "{dim: 16, heads: 2, head_dim: 8, depth: 1, patch: 4}"]
DATA = ["--data.train", "[2020-01-01, 2020-01-02]", "--data.validation", "[2020-01-03, 2020-01-03]"]
RUN = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.limit_val_batches", "2"]


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Two variables, hourly, on 8 x 16 cells, as a file."""
    path = tmp_path_factory.mktemp("fields") / "fields.nc"
    names = ["2m_temperature", "10m_u_component_of_wind"]
    synthetic_atmosphere("2020-01-01", HOURS, 8, 16, variables=names).to_netcdf(path, engine="h5netcdf")
    return path


@pytest.fixture(scope="module", params=["predformer", "convs5"])
def trained(request, fields, tmp_path_factory):
    """A run of one training step."""
    from wavecast.main import main

    run = tmp_path_factory.mktemp("run") / request.param
    words = ["train", "forecasting", "--config", f"forecasting_{request.param}", "--smoke", "--run", run]
    words += ["--data.root", fields, *DATA, "--data.extras", "[hour, latitude]"]
    assert main([str(word) for word in words]) == 0
    return run


def test_every_recipe_of_the_forecaster_is_trained_here():
    """By the fixture `trained`, on the walk through, in test_forecast_training.py, and those of video in their own."""
    others = ("activity", "enhancement", "keywords", "moving_", "separation", "taxibj", "transcription")
    found = {name for name in shipped_recipes() if not name.startswith(others)}
    assert found == {"forecasting_predformer", "forecasting_convs5", "forecasting_state_space", "weatherbench_t2m"}


def test_persistence_is_the_last_field(wavecast, fields, tmp_path):
    said = wavecast("forecast", fields, "--model", "persistence", "--steps", "3", "-o", tmp_path / "x.zarr")
    assert (said.code, said.out) == (0, "")
    with open_forecast(tmp_path / "x.zarr") as found, xr.open_dataset(fields) as truth:
        assert dict(found.sizes) == {"time": 1, "prediction_timedelta": 3, "latitude": 8, "longitude": 16}
        assert found["time"].values[0] == truth["time"].values[-1]
        expected = np.broadcast_to(truth["2m_temperature"].values[-1], (3, 8, 16))
        np.testing.assert_allclose(found["2m_temperature"].values[0], expected, rtol=1e-6)
        assert found["2m_temperature"].attrs["units"] == "K"


def test_initial_times(wavecast, fields, tmp_path):
    """Between two times every 12 h, the last day whole; alone, --every counts from midnight."""
    words = ["forecast", fields, "--model", "persistence", "--dry-run", "-o", tmp_path / "x.zarr"]
    assert (
        "from 4 times, 2020-01-02T00 to 2020-01-03T12"
        in wavecast(*words, "--init", "2020-01-02", "2020-01-03", "--every", "12h").out
    )
    assert "from 16 times, 2020-01-01T00 to 2020-01-04T18" in wavecast(*words, "--every", "6h").out
    assert "from 1 times, 2020-01-02T05" in wavecast(*words, "--init", "2020-01-02T05").out
    assert "from 1 times, 2020-01-04T23" in wavecast(*words).out
    assert not (tmp_path / "x.zarr").exists()


def test_a_network_forecasts_beyond_its_horizon_the_same_from_file_and_data_set(wavecast, fields, trained, tmp_path):
    said = wavecast("forecast", fields, "--model", trained, "--steps", "15", "-o", tmp_path / "x.nc")
    assert (said.code, said.out) == (0, ""), said.err
    forecaster = suite.load("forecast", model=str(trained), device="cpu")
    with xr.open_dataset(fields) as truth, open_forecast(tmp_path / "x.nc") as found:
        again = forecaster(truth.load(), steps=15)
        for name in ("2m_temperature", "10m_u_component_of_wind"):
            np.testing.assert_array_equal(found[name].values, again[name].values)
        assert np.isfinite(found["2m_temperature"].values).all()
        assert found.attrs["model"] == forecaster.name


def test_later_input_changes_no_forecast(fields, trained):
    """From an initial time in the middle, whatever comes after it."""
    forecaster = Forecaster.load(str(trained), "cpu")
    with xr.open_dataset(fields) as truth:
        early = truth.isel(time=slice(0, 40)).load()
        other = truth.load().copy(deep=True)
    other["2m_temperature"][40:] += 5
    with forecaster.open(early) as a, forecaster.open(other) as b:
        for one, two in zip(forecaster.pieces(a, 39, 12), forecaster.pieces(b, 39, 12), strict=True):
            np.testing.assert_array_equal(one["2m_temperature"], two["2m_temperature"])


def test_the_file_of_the_user_comes_back(wavecast, fields, tmp_path):
    """Short names, degrees Celsius, north first, longitudes from -180: the result lies beside the input."""
    with xr.open_dataset(fields) as truth:
        own = truth[["2m_temperature"]].rename({"2m_temperature": "t2m", "latitude": "lat", "longitude": "lon"})
        own = own.assign(t2m=(own["t2m"] - 273.15).assign_attrs(units="degC"))
        own = own.assign_coords(lon=(own["lon"] + 180) % 360 - 180).sortby("lon").sortby("lat", ascending=False)
        own = own.transpose("time", "lon", "lat")
        own.to_netcdf(tmp_path / "own.nc", engine="h5netcdf")
    words = ["forecast", tmp_path / "own.nc", "--model", "persistence", "--steps", "2", "-o", tmp_path / "out.nc"]
    assert wavecast(*words, "--like-input").code == 0
    with xr.open_dataset(tmp_path / "out.nc", decode_timedelta=True) as found:
        last = own["t2m"].isel(time=-1)
        ahead = found["t2m"].isel(prediction_timedelta=1, time=0)
        np.testing.assert_allclose(ahead.transpose(*last.dims).values, last.values, atol=1e-4)
        np.testing.assert_array_equal(found["lat"], own["lat"])
        np.testing.assert_array_equal(found["lon"], own["lon"])
        assert found["t2m"].attrs["units"] == "degC"


def test_scores_are_those_of_the_errors(wavecast, fields, tmp_path):
    """Persistence scored against the truth: a root mean square of differences over cell areas."""
    words = ["forecast", fields, "--model", "persistence", "--steps", "2", "-o", tmp_path / "x.zarr"]
    assert wavecast(*words, "--init", "2020-01-02", "2020-01-02", "--every", "6h").code == 0
    train = ["--train", "2020-01-01", "2020-01-02"]
    said = wavecast("score", tmp_path / "x.zarr", fields, "--json", "-", *train)
    rows = [json.loads(line) for line in said.out.splitlines()]
    found = {(row["method"], row["variable"], row["lead_hours"], row["metric"]): row["value"] for row in rows}
    with xr.open_dataset(fields) as truth:
        x = truth["2m_temperature"].values.astype(float)
        latitude = np.radians(truth["latitude"].values)
    half = np.radians(180 / 8 / 2)
    areas = np.sin(latitude + half) - np.sin(latitude - half)
    weights = areas[:, None] / areas.mean()
    for lead in (1, 2):
        errors = [np.mean(weights * (x[24 + hour] - x[24 + hour + lead]) ** 2) for hour in (0, 6, 12, 18)]
        expected = np.mean(errors) ** 0.5
        assert found["forecast", "2m_temperature", lead, "rmse"] == pytest.approx(expected, rel=1e-4)
        assert found["persistence", "2m_temperature", lead, "rmse"] == pytest.approx(expected, rel=1e-4)
        assert {method for method, *_ in found} >= {"previous_day", "climatology", "damped_anomaly"}
    assert wavecast("score", tmp_path / "x.zarr", fields, "--csv", tmp_path / "x.csv").code == 0
    assert len((tmp_path / "x.csv").read_text().splitlines()) > 20
    wavecast.fails(1, "x.csv exists", "score", tmp_path / "x.zarr", fields, "--csv", tmp_path / "x.csv")


@pytest.mark.parametrize("layout", ["WeatherBench 1", "WeatherBench 2"])
def test_the_walk_through_in_both_layouts(wavecast, tmp_path, layout):
    """Train, forecast, check, score, plot at 64 x 32."""
    dataset = synthetic_atmosphere("2017-01-01", 96, variables=["2m_temperature"])
    source = tmp_path / ("wb" if layout == "WeatherBench 1" else "wb.zarr")
    if layout == "WeatherBench 1":
        write_weatherbench1(dataset, source)
    else:
        write_weatherbench2(dataset, source, 2, descending=True)
    words = ["train", "forecasting", "--config", "weatherbench_t2m", "--smoke", "--data.root", source]
    assert wavecast(*words, "--run", tmp_path / "run", "--quiet").code == 0
    forecast = tmp_path / "out.zarr"
    times = ["--init", "2017-01-03", "2017-01-03", "--every", "12h"]
    assert wavecast("forecast", source, "--model", tmp_path / "run", "-o", forecast, *times).code == 0
    assert wavecast("score", "--check", forecast).code == 0
    said = wavecast("score", forecast, source, "--plot")
    assert said.code == 0
    assert said.out.startswith("2m_temperature, global: RMSE in K")
    assert (tmp_path / "out.png").stat().st_size > 10_000
    words = ["evaluate", "forecasting", "--model", tmp_path / "run", "--data.root", source, "--every", "12h"]
    assert "persistence" in wavecast(*words, "--data.test", "2017-01-03", "2017-01-04").out


def test_an_interrupted_forecast_resumes_to_the_same_file(wavecast, fields, tmp_path, monkeypatch):
    words = ["forecast", fields, "--model", "previous_day", "--every", "12h", "--steps", "4"]
    assert wavecast(*words, "--init", "2020-01-02", "2020-01-03", "-o", tmp_path / "whole.zarr").code == 0
    from wavecast.apps.forecasting.methods import BaselineMethod

    real, calls = BaselineMethod.pieces, []

    def interrupted(self, opened, at, steps):
        calls.append(at)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, opened, at, steps)

    monkeypatch.setattr(BaselineMethod, "pieces", interrupted)
    again = [*words, "--init", "2020-01-02", "2020-01-03", "-o", tmp_path / "part.zarr"]
    assert wavecast(*again).code == 130
    assert not (tmp_path / "part.zarr").exists()
    wavecast.fails(1, "is there, with 2 of 4 initial times done", *again, hint="give resume (--resume)")
    assert "2 of 4 were done before" in wavecast(*again, "--resume").err
    with open_forecast(tmp_path / "whole.zarr") as whole, open_forecast(tmp_path / "part.zarr") as part:
        xr.testing.assert_equal(whole.load(), part.load())
    wavecast.fails(1, "part.zarr exists", *again, hint="--overwrite")


@pytest.mark.parametrize(
    ("words", "code", "text", "hint"),
    [
        (["--model", "nothing.ckpt"], 1, "there is no model", "wavecast models list"),
        (["--model", "frcrn.stream16k"], 1, "is a model to enhance, not to forecast", ""),
        ([], 2, "no model here fits", "wavecast train forecasting --config"),
        (["--model", "climatology"], 2, "climatology must be fitted", "--train FIRST LAST"),
        (
            ["--model", "persistence", "--train", "2020-01-01", "2020-01-02"],
            2,
            "--train is for the baselines",
            "--model",
        ),
        (
            ["--model", "persistence", "--init", "2021-01-01"],
            2,
            "has nothing from 2021-01-01",
            "it runs from 2020-01-01",
        ),
        (["--model", "persistence", "--init", "noon"], 2, "is no span of time", "write 2019-03-19"),
        (["--model", "persistence", "--every", "90m"], 2, "--every '90m' is not understood", "--every 6h"),
        (["--model", "persistence", "--every", "1.5h"], 2, "is no multiple of the input's 1 h", ""),
        (["--model", "persistence", "--variables", "t850"], 1, "has no t850", "2m_temperature"),
        (["--model", "persistence", "--units", "t500=degC"], 1, "has no t500", "it has 10m_u_component_of_wind"),
        (["--model", "persistence", "--units", "t2m"], 2, "--units 't2m' is not understood", "2m_temperature=degC"),
        (["--model", "persistence", "-o", "x.grib", "--like-input"], 2, "x.grib: GRIB has names of its own", "NAME.nc"),
        (["--model", "persistence", "-o", "x.h5"], 1, "is no name of a forecast file", "NAME.nc or NAME.grib"),
        (["--model", "previous_day", "--init", "2020-01-01T03"], 1, "the history has no", "begin later"),
    ],
)
def test_what_cannot_be(wavecast, fields, tmp_path, monkeypatch, words, code, text, hint):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAVECAST_CACHE", str(tmp_path / "cache"))
    wavecast.fails(code, text, "forecast", fields, *words, hint=hint)


def test_fields_that_do_not_fit_the_network(wavecast, fields, trained, tmp_path):
    with xr.open_dataset(fields) as truth:
        truth = truth.load()
    cases = {
        "coarse": (truth.isel(latitude=slice(0, 4)), "has 4 latitudes", "regrid it"),
        "short": (truth.isel(time=slice(0, 5)), "has 5 instants", "at least 12 hours"),
        "slow": (truth.isel(time=slice(0, None, 2)), "has steps of 2 h, not of 1 h", "multiple"),
        "poor": (truth[["2m_temperature"]], "has no 10m_u_component_of_wind", "2m_temperature"),
        "holes": (truth.where(truth["longitude"] > 30), "missing", "--missing interpolate (in"),
        "celsius": (truth - 273.15, "it is expected from", "they look like"),
    }
    for name, (data, text, hint) in cases.items():
        path = tmp_path / f"{name}.nc"
        for variable in truth.data_vars:
            if variable in data:
                data[variable].attrs = truth[variable].attrs
        data.to_netcdf(path, engine="h5netcdf")
        wavecast.fails(1, text, "forecast", path, "--model", trained, "-o", tmp_path / "x.zarr", hint=hint)
    assert not list(tmp_path.glob("x.zarr*"))


def test_a_damaged_checkpoint(wavecast, fields, tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"PK\3\4 no weights")
    wavecast.fails(1, "x.ckpt is", "forecast", fields, "--model", tmp_path / "x.ckpt")
