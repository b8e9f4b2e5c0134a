"""What `wavecast forecast` and `score` do beyond one forecast: ensembles, processes, drift, maps, animations."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

from wavecast.apps.forecasting.ensembles import Ensemble, noise
from wavecast.apps.forecasting.forecast_layout import open_forecast
from wavecast.apps.forecasting.format import FieldFormat
from wavecast.apps.forecasting.inference import Forecaster, whole
from wavecast.apps.forecasting.processes import device_of
from wavecast.cards import Card, build_network, save_model
from wavecast.datamodules.atmosphere import synthetic_atmosphere
from wavecast.datamodules.weather_times import nanoseconds

NAMES = ["2m_temperature", "10m_u_component_of_wind"]
HISTORY = HORIZON = 3
EVERY = ["--init", "2020-01-02", "2020-01-03", "--every", "12h"]


@pytest.fixture(scope="module")
def atmosphere():
    return synthetic_atmosphere("2020-01-01", 96, 8, 16, variables=NAMES)


@pytest.fixture(scope="module")
def fields(atmosphere, tmp_path_factory):
    """Two variables, hourly, on 8 x 16 cells, as a file."""
    path = tmp_path_factory.mktemp("fields") / "fields.nc"
    atmosphere.to_netcdf(path, engine="h5netcdf")
    return path


@pytest.fixture(scope="module")
def scale(atmosphere):
    return {name: [float(atmosphere[name].mean()), float(atmosphere[name].std())] for name in NAMES}


@pytest.fixture(scope="module")
def save(atmosphere, scale, tmp_path_factory):
    """Save a network that adds to the last field what its seed says; without a seed, `step` deviations a window."""

    def write(name, seed=None, step=0.0, channels=2):
        shape = {"time": HISTORY, "rows": 8, "cols": 16, "channels": channels, "output_channels": channels}
        small = {"variant": "binary_ts", "patch": 4, "dim": 8, "heads": 1, "head_dim": 8, "depth": 1, "scale_dim": 2}
        grid = [atmosphere[axis].values.tolist() for axis in ("latitude", "longitude")]
        made_for = FieldFormat(NAMES[:channels], [], scale, *grid, 1.0, HISTORY, HORIZON, increments=True)
        card = Card(f"predformer.{name}", "predformer", "forecast", {**shape, **small}, fields=made_for.plain())
        torch.manual_seed(seed or 0)
        network = build_network(card)
        if seed is None:
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.zero_()
                network.head.linear.bias[: 4 * 4] = step  # the first channel
        return save_model(network, card, tmp_path_factory.mktemp(name)).path

    return write


@pytest.fixture(scope="module")
def still(save):
    """Forecasts that nothing changes."""
    return save("still")


@pytest.fixture(scope="module")
def one(save):
    return save("one", seed=1)


@pytest.fixture(scope="module")
def two(save):
    return save("two", seed=2)


def test_members_begin_with_smooth_noise_of_the_size_that_is_asked_for(wavecast, fields, scale, still, tmp_path):
    """Seen at all leads of forecasts that change nothing; the first member has none."""
    words = ["forecast", fields, "--model", still, "--members", 4, "--perturbation", 0.2, "--seed", 7, "--steps", 5]
    assert wavecast(*words, "-o", tmp_path / "x.zarr").code == 0
    with open_forecast(tmp_path / "x.zarr") as found, xr.open_dataset(fields) as truth:
        assert found["2m_temperature"].dims == ("time", "prediction_timedelta", "number", "latitude", "longitude")
        assert found.attrs["model"] == "predformer.still, 4 members each, perturbation 0.2, seed 7"
        for name in NAMES:
            x = found[name].values[0]
            np.testing.assert_allclose(x[:, 0], np.broadcast_to(truth[name][-1], (5, 8, 16)), rtol=1e-5, atol=1e-4)
            added = (x - x[:, :1])[:, 1:] / scale[name][1]
            np.testing.assert_allclose(added, np.broadcast_to(added[:1], added.shape), atol=1e-3)
            np.testing.assert_allclose(np.square(added).mean((-2, -1)) ** 0.5, 0.2, rtol=1e-3)
            assert abs(np.corrcoef(added[0, 0].ravel(), added[0, 1].ravel())[0, 1]) < 0.9


def test_noise_is_smooth_and_without_a_seam():
    longitudes = np.arange(64) * 5.625
    draws = [noise(longitudes, (32, 3), seed, 1, 0) for seed in range(20)]
    inside = np.mean([np.square(np.diff(draw, axis=1)).mean() for draw in draws])
    seam = np.mean([np.square(draw[:, 0] - draw[:, -1]).mean() for draw in draws])
    assert inside < 0.1  # of neighbors that do not know of each other: 2
    assert 0.5 < seam / inside < 2
    region = [noise(longitudes[:32], (32, 3), seed, 1, 0) for seed in range(20)]
    assert np.mean([np.square(draw[:, 0] - draw[:, -1]).mean() for draw in region]) > 0.5
    assert not np.array_equal(draws[0], draws[1])
    for other in ((1, 1, 0), (0, 2, 0), (0, 1, 1)):
        assert not np.array_equal(noise(longitudes, (32, 3), *other), draws[0])


def test_several_models_are_members(wavecast, fields, one, two, tmp_path):
    """In the order of the models; the first member of each is its single forecast."""
    words = ["forecast", fields, "--model", one, "--model", two, "--steps", 7]
    assert wavecast(*words, "-o", tmp_path / "both.zarr").code == 0
    assert wavecast(*words, "--members", 2, "-o", tmp_path / "more.nc").code == 0
    with open_forecast(tmp_path / "both.zarr") as both, open_forecast(tmp_path / "more.nc") as more:
        assert both.attrs["model"] == "predformer.one + predformer.two"
        assert len(both.attrs["model_sha256"].split()) == 2
        assert (both.sizes["number"], more.sizes["number"]) == (2, 4)
        for number, model in enumerate((one, two)):
            single = Forecaster.load(str(model), "cpu")(fields, 7)
            for name in NAMES:
                np.testing.assert_array_equal(both[name].isel(number=number), single[name])
                np.testing.assert_array_equal(more[name].isel(number=2 * number), single[name])
                assert np.abs(more[name].isel(number=2 * number + 1) - single[name]).max() > 0.01


def test_an_ensemble_is_checked_and_scored(wavecast, fields, one, two, tmp_path):
    """Spread and error of the mean are those of the members' fields over cell areas."""
    words = ["forecast", fields, "--model", one, "--model", two, "--members", 3, *EVERY, "--steps", 2]
    assert wavecast(*words, "-o", tmp_path / "x.zarr").code == 0
    assert wavecast("score", "--check", tmp_path / "x.zarr").code == 0
    said = wavecast("score", tmp_path / "x.zarr", fields, "--json", "-")
    rows = [json.loads(line) for line in said.out.splitlines()]
    found = {
        (row["variable"], row["lead_hours"], row["metric"]): row["value"] for row in rows if row["method"] == "forecast"
    }
    with open_forecast(tmp_path / "x.zarr") as forecast, xr.open_dataset(fields) as truth:
        edges = np.sin(np.radians(np.linspace(-90, 90, 9)))
        weights = np.diff(edges)[:, None] / np.diff(edges).mean()
        x = forecast["2m_temperature"].values.astype(float)  # time, lead, number, row, col
        for lead in (1, 2):
            members = x[:, lead - 1]
            y = truth["2m_temperature"].sel(time=forecast["time"] + np.timedelta64(lead, "h")).values
            spread = (weights * members.var(1, ddof=1)).mean() ** 0.5
            rmse = (weights * (members.mean(1) - y) ** 2).mean() ** 0.5
            pairs = np.abs(members[:, :, None] - members[:, None]).sum((1, 2)) / (6 * 5)
            crps = (weights * (np.abs(members - y[:, None]).mean(1) - pairs / 2)).mean()
            for metric, value in (("spread", spread), ("rmse", rmse), ("spread_skill", spread / rmse), ("crps", crps)):
                assert found["2m_temperature", lead, metric] == pytest.approx(value, rel=1e-4)
    table = wavecast("score", tmp_path / "x.zarr", fields).out
    assert "crps" in table
    assert "spread_skill" in table


def test_an_ensemble_resumes_to_the_same_members(wavecast, fields, one, tmp_path, monkeypatch):
    words = ["forecast", fields, "--model", one, "--members", 3, *EVERY, "--steps", 4]
    assert wavecast(*words, "-o", tmp_path / "whole.zarr").code == 0
    real, calls = Ensemble.pieces, []

    def interrupted(self, opened, at, steps):
        calls.append(at)
        for number, piece in enumerate(real(self, opened, at, steps)):
            if len(calls) == 3 and number == 2:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(Ensemble, "pieces", interrupted)
    words += ["-o", tmp_path / "part.zarr"]
    assert wavecast(*words).code == 130
    wavecast.fails(1, "begun with other model", *words, "--seed", 1, "--resume", hint="--overwrite")
    assert "2 of 4 were done before" in wavecast(*words, "--resume").err
    with open_forecast(tmp_path / "whole.zarr") as expected, open_forecast(tmp_path / "part.zarr") as part:
        xr.testing.assert_equal(expected.load(), part.load())


def test_an_ensemble_in_memory_and_like_its_input(wavecast, fields, one, tmp_path):
    ensemble = Ensemble([Forecaster.load(str(one), "cpu")], 3)
    with ensemble.open(fields) as opened:
        found = whole(ensemble, opened, [95], 4)
        times = nanoseconds(opened.times[95:])
    assert found["2m_temperature"].dims == ("time", "prediction_timedelta", "number", "latitude", "longitude")
    assert times[0] == nanoseconds(found["time"].values)[0]
    words = ["forecast", fields, "--model", one, "--members", 3, "--steps", 4, "--like-input"]
    assert wavecast(*words, "-o", tmp_path / "own.nc").code == 0
    with xr.open_dataset(tmp_path / "own.nc", decode_timedelta=True) as own:
        array = own["2m_temperature"].transpose(*found["2m_temperature"].dims)
        np.testing.assert_array_equal(array.values, found["2m_temperature"].values)


@pytest.mark.parametrize(
    ("words", "code", "text", "hint"),
    [
        (["--model", "persistence", "--members", 3], 2, "persistence is no member", "of networks"),
        (["--model", "persistence", "--model", "ONE"], 2, "persistence is no member", "of networks"),
        (["--model", "ONE", "--seed", 1], 2, "--perturbation and --seed are for --members", "--members 10"),
        (["--model", "ONE", "--perturbation", 0.1], 2, "--perturbation and --seed are for", "--members 10"),
        (["--model", "ONE", "--members", 2, "--perturbation", 2], 2, "'2' is not a number from 0 to 1", "--help"),
        (["--model", "ONE", "--members", 0], 2, "'0' is not a whole number above 0", "--help"),
        (["--model", "ONE", "--model", "POOR"], 1, "forecasts 10m_u_component_of_wind", "the same channels"),
        (["--model", "persistence", "--every", "10d"], 1, "no time of", "another --every, or --init"),
    ],
)
def test_what_cannot_be(wavecast, fields, one, save, tmp_path, monkeypatch, words, code, text, hint):
    monkeypatch.chdir(tmp_path)
    models = {"ONE": one, "POOR": save("poor", seed=1, channels=1)}
    wavecast.fails(code, text, "forecast", fields, *[models.get(word, word) for word in words], hint=hint)
    assert not list(tmp_path.iterdir())


def test_drift_is_told_once_with_lead_time_and_channel(wavecast, fields, scale, save, tmp_path):
    """A channel whose mean rises by a deviation in each window of three hours."""
    model = save("rising", step=1.0)
    with xr.open_dataset(fields) as truth:
        begun = float((truth["2m_temperature"][-1].mean() - scale["2m_temperature"][0]) / scale["2m_temperature"][1])
    windows = int(np.floor(3 - begun)) + 1  # until the mean is above three deviations
    hours = HORIZON * (windows - 1) + 1
    words = ["forecast", fields, "--model", model, "--steps", 3 * windows + 6]
    said = wavecast(*words, "-o", tmp_path / "x.zarr")
    assert (said.code, said.out) == (0, "")
    warning = f"warning: predformer.rising drifts at {hours} h from 2020-01-04T23: the mean of 2m_temperature is +"
    assert warning in said.err
    assert "it was trained for 3 h" in said.err
    said = wavecast(*words, *EVERY, "-o", tmp_path / "many.zarr")
    assert said.err.count("drifts at") == 1
    said = wavecast(*words, "--members", 2, "-o", tmp_path / "members.zarr")
    assert said.err.count("drifts at") == 1
    for quiet in (["--steps", HORIZON, "-o", tmp_path / "short.zarr"], ["--quiet", "-o", tmp_path / "quiet.zarr"]):
        assert "drifts" not in wavecast(*words, *quiet).err
    forecaster = Forecaster.load(str(model), "cpu")
    whole_run = forecaster(fields, 3 * windows)
    assert f"drifts at {hours} h" in forecaster.drift
    assert np.isfinite(whole_run["2m_temperature"]).all()


def test_forecasts_that_stay_do_not_drift(wavecast, fields, still, tmp_path):
    assert "drifts" not in wavecast("forecast", fields, "--model", still, "--steps", 30, "-o", tmp_path / "x.zarr").err


def launch(*launches):
    """Start forecasts by two processes one after the other, as torchrun does: the environment says who is who.

    Args:
        launches: (number, words) of each: the second process is killed when it begins its initial time of this number.

    Returns:
        For each launch, exit code, stdout and stderr of both processes.
    """
    command = [sys.executable, __file__, json.dumps([[at, [str(word) for word in words]] for at, words in launches])]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_processes_forecast_what_one_would(wavecast, fields, tmp_path):
    """Killed and resumed too: the chunks of the store are the same bytes."""
    words = ["forecast", fields, "--model", "persistence", *EVERY, "--steps", 4]
    assert wavecast(*words, "-o", tmp_path / "one.zarr").code == 0
    words += ["-o", tmp_path / "two.zarr"]
    killed, resumed, again = launch((1, words), (9, [*words, "--resume"]), (9, words))
    assert killed[1][0] == -signal.SIGKILL
    assert killed[0][:2] == [1, ""]
    assert "another process stopped before its share was done" in killed[0][2]
    assert "hint: mend what it says, and go on with --resume" in killed[0][2]
    assert resumed[0][:2] == [0, ""], resumed[0][2]
    assert resumed[1] == [0, "", ""]
    assert "3 of 4 were done before" in resumed[0][2]
    assert again[0][:2] == again[1][:2] == [1, ""]
    assert "two.zarr exists" in again[0][2]
    assert "the first process could not begin" in again[1][2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.zarr", "two.zarr"]
    chunks = [path.relative_to(tmp_path / "one.zarr") for path in (tmp_path / "one.zarr").glob("*/[0-9]*")]
    assert len(chunks) >= 2 * 4
    for chunk in chunks:
        assert (tmp_path / "two.zarr" / chunk).read_bytes() == (tmp_path / "one.zarr" / chunk).read_bytes()


def test_a_process_without_the_others(wavecast, fields, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    words = ["forecast", fields, "--model", "persistence", "-o", tmp_path / "x.zarr"]
    wavecast.fails(1, "2 processes cannot meet", *words, hint="torchrun --nproc-per-node N")


def test_each_process_of_a_machine_has_its_own_graphics_processor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("auto") == "auto"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [device_of(name) for name in ("auto", "cuda", "cpu", "cuda:0")] == ["cuda:1", "cuda:1", "cpu", "cuda:0"]


@pytest.fixture(scope="module")
def two_forecasts(fields, tmp_path_factory):
    """Persistence from two times, the second of which reaches beyond the truth."""
    from wavecast.main import main

    path = tmp_path_factory.mktemp("forecast") / "x.zarr"
    words = ["forecast", fields, "--model", "persistence", "--init", "2020-01-04T06", "2020-01-04T18", "--every", "12h"]
    assert main([str(word) for word in [*words, "--steps", 8, "-o", path, "--quiet"]]) == 0
    return path


def test_maps_at_chosen_leads(wavecast, fields, two_forecasts, tmp_path):
    """A row of maps for each variable and lead time."""
    copy = tmp_path / "x.zarr"
    copy.symlink_to(two_forecasts)
    assert wavecast("score", copy, fields, "--plot", "--leads", 2, 5).code == 0
    with Image.open(tmp_path / "x.maps.png") as picture:
        assert picture.size == (1320, round(2.6 * 2 * 2 * 110))
        assert len(np.unique(np.asarray(picture.convert("L")))) > 100
    wavecast.fails(1, "x.png exists", "score", copy, fields, "--plot", hint="--overwrite")
    said = wavecast("score", copy, fields, "--plot", "--overwrite", "--leads", 2, 9)
    assert said.code == 1
    assert "there is no map of 9 h" in said.err
    assert "hint: choose from --leads 1 2 3 4 5 6 7 8" in said.err


def test_an_animation_has_a_frame_for_each_lead(wavecast, fields, two_forecasts, tmp_path):
    assert wavecast("score", two_forecasts, fields, "--animate", tmp_path / "x.gif").code == 0
    with Image.open(tmp_path / "x.gif") as picture:
        assert (picture.n_frames, picture.size) == (8, (960, 256))
        first = np.asarray(picture.convert("RGB")).astype(int)
        picture.seek(7)
        last = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(first[:, 330:] - last[:, 330:]).max() > 50  # the truth moves on, persistence does not
    assert [path.name for path in tmp_path.iterdir()] == ["x.gif"]


@pytest.mark.parametrize(
    ("words", "code", "text", "hint"),
    [
        (["--animate", "x.mp4"], 2, "--animate x.mp4: only GIF is written", "NAME.gif"),
        (["--animate", "there.gif"], 1, "there.gif exists", "--overwrite"),
        (["--leads", "6"], 2, "--leads chooses maps", "give --plot too"),
    ],
)
def test_pictures_that_cannot_be(wavecast, fields, two_forecasts, tmp_path, monkeypatch, words, code, text, hint):
    monkeypatch.chdir(tmp_path)
    Path("there.gif").write_bytes(b"GIF")
    wavecast.fails(code, text, "score", two_forecasts, fields, *words, hint=hint)


def test_maps_are_those_of_the_files(fields, two_forecasts):
    from wavecast.apps.forecasting.maps import Maps

    with open_forecast(two_forecasts) as forecast, xr.open_dataset(fields) as truth:
        south_last = forecast.isel(latitude=slice(None, None, -1))
        maps = Maps(south_last, truth)
        found = maps.read("2m_temperature", 4)
        x = truth["2m_temperature"].values[:, ::-1]
        np.testing.assert_allclose(found["truth"], x[83], rtol=1e-6)
        np.testing.assert_allclose(found["error"], x[78] - x[83], atol=1e-3)
        assert maps.chosen(None) == [0, 4, 7]
        low, high = maps.limits("2m_temperature", range(8))["truth"]
        np.testing.assert_allclose((low, high), (x[78:87].min(), x[78:87].max()), rtol=1e-6)


def test_bench(wavecast, one):
    """A model, and an architecture that nobody trained."""
    for model, name, grid in (
        (one, "predformer.one", "8x16x2"),
        ("predformer", "predformer (default sizes, fresh weights)", "32x64x1"),
    ):
        said = wavecast("bench", "forecast", "--model", model, "--steps", 4, "--device", "cpu", "--json", "-")
        row = json.loads(said.out)
        assert (said.code, row["model"], row["grid"], row["steps"]) == (0, name, grid, 4)
        assert 0 < row["first_piece_seconds"] <= 4 * row["wall_per_step"] + 1e-3
        assert row["cpu_per_step"] > 0
        assert row["peak_memory_mib"] > 50
    assert "cpu_per_step" in wavecast("bench", "forecast", "--model", one, "--steps", 1).out
    wavecast.fails(2, "--seconds are of sound", "bench", "forecast", "--seconds", 3, hint="give --steps")
    wavecast.fails(2, "--steps are of forecasts", "bench", "enhance", "--steps", 3, hint="give --seconds")
    wavecast.fails(1, "there is no model", "bench", "forecast", "--model", "nothing", hint="wavecast models list")


def kill_me(at: int) -> None:
    """Die when the work on the initial time of this number begins."""
    from wavecast.apps.forecasting.methods import BaselineMethod

    real, calls = BaselineMethod.pieces, []

    def mortal(self, opened, place, steps):
        calls.append(place)
        if len(calls) > at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, opened, place, steps)

    BaselineMethod.pieces = mortal


def be_rank(rank: int, port: int, die_at: int, words: list[str], folder: Path) -> None:
    """Run a command line as one of two processes, with stdout and stderr in files; never come back."""
    from wavecast.main import main

    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ.update(place | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}{rank}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
    if rank == 1:
        kill_me(die_at)
    code = main(words)
    sys.stdout.flush()
    os._exit(code)


def run_launches(launches: list) -> list:
    """Fork two processes for each launch, so that what takes longest is imported once."""
    import wavecast.apps.forecasting.jobs  # noqa: F401

    said = []
    with TemporaryDirectory() as folder:
        for die_at, words in launches:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            children = []
            for rank in range(2):
                children.append(os.fork())
                if children[-1] == 0:
                    be_rank(rank, port, die_at, words, Path(folder))
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            texts = [[(Path(folder) / f"{name}{rank}").read_text() for name in ("out", "err")] for rank in range(2)]
            said.append([[code, *text] for code, text in zip(codes, texts, strict=True)])
    return said


if __name__ == "__main__":
    print(json.dumps(run_launches(json.loads(sys.argv[1]))))
