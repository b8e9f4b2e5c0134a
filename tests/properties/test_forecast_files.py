"""Forecast files: what they hold, that a kill at any moment loses nothing, and that writers do not meet.

Run as a script, this file is the process that is killed, or the one that writes beside another.
"""

import filecmp
import hashlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from wavecast.apps.forecasting.forecast_files import ForecastPart, ForecastWriter, partial_folder, write_forecast
from wavecast.apps.forecasting.forecast_layout import About, open_forecast
from wavecast.core.errors import WavecastError

ABOUT = About(
    model="persistence",
    checkpoint="ab12",
    version="0.1.0",
    command="wavecast forecast era5 -o run.zarr",
    references="Rasp et al. 2024",
    created="2026-01-01T00:00:00Z",
)
TIMES = np.datetime64("2020-01-01T00", "ns") + np.arange(3) * np.timedelta64(6, "h")
TOUCHES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
LEADS = np.arange(1, 6) * np.timedelta64(6, "h").astype("timedelta64[ns]")


def grid() -> xr.Dataset:
    coords = {"level": [500, 850], "latitude": np.arange(-67.5, 90, 45.0), "longitude": np.arange(8) * 45.0}
    upper, surface = np.zeros((2, 4, 8)), np.zeros((4, 8))
    dims = ("level", "latitude", "longitude")
    return xr.Dataset({"geopotential": (dims, upper), "2m_temperature": (dims[1:], surface)}, coords)


def fields(k: int, start: int = 0, stop: int = len(LEADS), members: int = 0) -> dict[str, np.ndarray]:
    """Make the values of an initial time and some steps: a function of both alone."""
    many = (members,) if members else ()
    every = {name: [] for name in ("geopotential", "2m_temperature")}
    for step in range(start, stop):
        rng = np.random.default_rng([k, step])
        every["geopotential"].append(rng.standard_normal((*many, 2, 4, 8)))
        every["2m_temperature"].append(rng.standard_normal((*many, 4, 8)))
    return {name: np.stack(values).astype(np.float32) for name, values in every.items()}


def open_writer(path: Path, **options: bool) -> ForecastWriter:
    return ForecastWriter(path, grid(), TIMES, LEADS, ABOUT, **options)


def write_rest(writer: ForecastPart) -> None:
    """Write what remains, in pieces of one and two steps."""
    for k in writer.remaining():
        for start, stop in ((0, 1), (1, 3), (3, 5)):
            writer.append(k, fields(k, start, stop))


def write_all(path: Path, **options: bool) -> None:
    with open_writer(path, **options) as writer:
        write_rest(writer)
        writer.finish()


def digest(path: Path) -> str:
    """Hash names and contents of a file or a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    content = hashlib.sha256()
    for file in files:
        content.update(str(file.relative_to(path)).encode() + (file.read_bytes() if file.is_file() else b"/"))
    return content.hexdigest()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a chunk hold two of the five steps, so that the last one is not full."""
    monkeypatch.setattr("wavecast.apps.forecasting.forecast_layout.CHUNK_BYTES", 600)


@pytest.mark.parametrize("kind", ["zarr", "nc"])
def test_what_a_file_holds(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"run.{kind}"
    write_all(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with xr.open_zarr(path, chunks=None) if kind == "zarr" else xr.open_dataset(path) as plain:
        assert plain.prediction_timedelta.dtype.kind == "m"
        np.testing.assert_array_equal(plain.prediction_timedelta, LEADS)
        np.testing.assert_array_equal(plain.time, TIMES)
        np.testing.assert_array_equal(plain.valid_time, TIMES[:, None] + LEADS)
        for k in range(3):
            for name, expected in fields(k).items():
                np.testing.assert_array_equal(plain[name][k], expected)
                assert plain[name].dtype == np.float32
                assert np.isnan(plain[name].encoding["_FillValue"])
        dims = ("time", "prediction_timedelta", "level", "latitude", "longitude")
        assert plain.geopotential.dims == dims
        chunks = plain.geopotential.encoding["chunks" if kind == "zarr" else "chunksizes"]
        assert chunks == (1, 2, 2, 4, 8)
        assert plain.attrs == {
            "Conventions": "CF-1.8",
            "title": "Weather forecast",
            "source": "persistence, wavecast 0.1.0",
            "model": "persistence",
            "model_sha256": "ab12",
            "history": "2026-01-01T00:00:00Z wavecast forecast era5 -o run.zarr",
            "references": "Rasp et al. 2024",
            "created": "2026-01-01T00:00:00Z",
        }
        assert plain["2m_temperature"].attrs["units"] == "K"
        assert plain["2m_temperature"].attrs["standard_name"] == "air_temperature"
        assert plain.geopotential.attrs["units"] == "m2 s-2"
        assert plain.time.attrs["standard_name"] == "forecast_reference_time"
        assert plain.prediction_timedelta.attrs["standard_name"] == "forecast_period"
        assert plain.valid_time.attrs["standard_name"] == "time"
        assert plain.level.attrs["units"] == "hPa"
        assert plain.level.attrs["positive"] == "down"
        assert plain.latitude.attrs["units"] == "degrees_north"


def test_lead_times_stay_timedeltas_for_every_reader(tmp_path: Path) -> None:
    """Integers with units alone are valid CF for old readers; the attribute dtype tells new ones what they are."""
    write_all(tmp_path / "run.zarr")
    raw = xr.open_zarr(tmp_path / "run.zarr", chunks=None, decode_cf=False)
    assert raw.prediction_timedelta.values.tolist() == [6, 12, 18, 24, 30]
    assert raw.prediction_timedelta.attrs["units"] == "hours"
    assert raw.prediction_timedelta.attrs["dtype"].startswith("timedelta64")


def test_half_hours(tmp_path: Path) -> None:
    leads = np.arange(1, 6) * np.timedelta64(30, "m").astype("timedelta64[ns]")
    with ForecastWriter(tmp_path / "run.zarr", grid(), TIMES, leads, ABOUT) as writer:
        write_rest(writer)
        path = writer.finish()
    np.testing.assert_array_equal(xr.open_zarr(path, chunks=None).valid_time, TIMES[:, None] + leads)


@pytest.mark.parametrize("kind", ["zarr", "nc"])
def test_stopped_between_any_two_steps_it_resumes_to_the_same_bytes(tmp_path: Path, kind: str) -> None:
    whole = tmp_path / f"whole.{kind}"
    write_all(whole)
    pieces = [(k, step) for k in range(3) for step in range(5)]
    # Every place within the first initial time, one in each of the others, the end.
    for cut in (*range(6), 8, 11, 15) if kind == "zarr" else (3, 15):
        path = tmp_path / f"cut{cut}.{kind}"
        with open_writer(path) as writer:
            for k, step in pieces[:cut]:
                writer.append(k, fields(k, step, step + 1))
        assert not path.exists()
        with open_writer(path, resume=True) as writer:
            assert writer.remaining() == list(range(cut // 5, 3))
            write_rest(writer)
            writer.finish()
        assert digest(path) == digest(whole), cut
        assert not partial_folder(path).exists()


@pytest.mark.parametrize(("kind", "kills"), [("zarr", 6), ("nc", 3)])
def test_killed_at_any_moment_it_resumes_to_the_same_bytes(tmp_path: Path, kind: str, kills: int) -> None:
    """The script kills a writer at its nth touch of the file system, and resumes; see `be_killed`."""
    write_all(tmp_path / f"whole.{kind}")
    done = run_script("killed", tmp_path, kind, str(kills))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [digest(tmp_path / f"whole.{kind}")] * kills


def test_two_processes_write_their_own_initial_times(tmp_path: Path) -> None:
    write_all(tmp_path / "whole.zarr")
    with open_writer(tmp_path / "run.zarr") as writer:
        first, second = (start_script("part", tmp_path, share) for share in ("0,2", "1"))
        for process in (first, second):
            _, errors = process.communicate()
            assert process.returncode == 0, errors[-2000:]
        assert writer.remaining() == []
        writer.finish()
    assert digest(tmp_path / "run.zarr") == digest(tmp_path / "whole.zarr")


def test_an_initial_time_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    with open_writer(path) as writer, ForecastPart(path) as part:
        part.append(1, fields(1, 0, 1))
        with pytest.raises(
            WavecastError, match=rf"initial time 1 of .* by another process \(PID {os.getpid()}\)\nhint:"
        ):
            writer.append(1, fields(1, 0, 1))
        part.append(1, fields(1, 1, 5))
        assert writer.remaining() == [0, 2]
        with pytest.raises(WavecastError, match=r"initial time 1 of .* is done already"):
            writer.append(1, fields(1, 0, 1))
    with pytest.raises(WavecastError, match="no process is writing"):
        ForecastPart(path)
    assert partial_folder(path).is_dir()


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    process = start_script("hold", tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(
            WavecastError, match=rf"run\.zarr is being written by another process \(PID {process.pid}\)"
        ):
            open_writer(path, **options)
    process.kill()
    process.communicate()
    write_all(path, resume=True)  # the lock ended with its process
    assert path.is_dir()


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    write_all(path)
    before = digest(path)
    with pytest.raises(WavecastError, match=r"run\.zarr exists\nhint: give overwrite"):
        open_writer(path)
    with open_writer(path, overwrite=True) as writer:
        writer.append(0, fields(7))
        assert digest(path) == before  # until the end
    with pytest.raises(WavecastError, match=r"run\.zarr exists"):
        open_writer(path)
    with open_writer(path, resume=True, overwrite=True) as writer:
        assert writer.remaining() == [1, 2]
        write_rest(writer)
        writer.finish()
    assert digest(path) != before
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.zarr"]


def test_an_unfinished_forecast_is_not_lost_unasked(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    with open_writer(path) as writer:
        writer.append(0, fields(0))
        with pytest.raises(WavecastError, match=r"2 of 3 initial times are not done, the first is 2020-01-01T06:00"):
            writer.finish()
    with pytest.raises(
        WavecastError, match=r"run\.zarr\.partial is there, with 1 of 3 initial times done\nhint: .*resume"
    ):
        open_writer(path)
    with open_writer(path, overwrite=True) as writer:
        assert writer.remaining() == [0, 1, 2]


def test_a_finished_forecast_resumes_to_nothing(tmp_path: Path) -> None:
    for kind in ("zarr", "nc"):
        path = tmp_path / f"run.{kind}"
        write_all(path)
        before = digest(path)
        write_all(path, resume=True)
        assert digest(path) == before
        assert not partial_folder(path).exists()


def test_another_plan_does_not_resume(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    for finished in (False, True):
        if finished:
            write_all(path, resume=True)
        else:
            open_writer(path).close()
        changes = {
            "time": {"initial_times": TIMES + np.timedelta64(1, "h")},
            "prediction_timedelta": {"leads": LEADS[:-1]},
            "latitude": {"like": grid().isel(latitude=slice(1, None))},
            "variables": {"like": grid()[["geopotential"]]},
            r"model_sha256 \(ab12, now cd34\)": {"about": About(model="persistence", checkpoint="cd34")},
            "number": {"members": 2},
        }
        for name, change in changes.items():
            plan = {"like": grid(), "initial_times": TIMES, "leads": LEADS, "about": ABOUT} | change
            with pytest.raises(WavecastError, match=rf"was begun with other .*{name}.*\nhint: begin anew"):
                ForecastWriter(path, resume=True, **plan)


@pytest.mark.parametrize("kind", ["zarr", "nc"])
def test_a_full_disk_leaves_nothing_under_the_final_name(tmp_path: Path, kind: str) -> None:
    """The limit on the size of files stands for the disk: its errors come from the same calls."""
    path = tmp_path / f"run.{kind}"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = 300 if kind == "zarr" else 4000  # more than metadata and chunks take, less than the NetCDF file
    with open_writer(path) as writer:
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            with pytest.raises(WavecastError, match=rf"run\.{kind} cannot be written: .*\nhint: make room") as told:
                write_rest(writer)
                writer.finish()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)
        assert "run." in str(told.value)
    assert not path.exists()
    write_all(path, resume=True)
    write_all(tmp_path / f"whole.{kind}")
    assert digest(path) == digest(tmp_path / f"whole.{kind}")


def test_ensembles(tmp_path: Path) -> None:
    with ForecastWriter(tmp_path / "run.zarr", grid(), TIMES, LEADS, ABOUT, members=3) as writer:
        for k in writer.remaining():
            writer.append(k, fields(k, members=3))
        path = writer.finish()
    forecast = open_forecast(path)
    assert forecast["2m_temperature"].dims == ("time", "prediction_timedelta", "number", "latitude", "longitude")
    assert forecast.number.attrs["standard_name"] == "realization"
    np.testing.assert_array_equal(forecast.geopotential[2], fields(2, members=3)["geopotential"])
    again = write_forecast(tmp_path / "again.zarr", forecast.transpose("number", ...), ABOUT)
    assert digest(again) == digest(path)


def test_a_forecast_at_hand_is_written_in_any_order_of_dimensions(tmp_path: Path) -> None:
    write_all(tmp_path / "run.zarr")
    forecast = open_forecast(tmp_path / "run.zarr").load().transpose("longitude", "prediction_timedelta", ...)
    write_forecast(tmp_path / "again.zarr", forecast, ABOUT)
    assert not filecmp.dircmp(tmp_path / "run.zarr", tmp_path / "again.zarr").diff_files
    assert digest(tmp_path / "again.zarr") == digest(tmp_path / "run.zarr")


@pytest.mark.parametrize("dtype", ["int32", "float64"])
def test_other_conventions_are_read(tmp_path: Path, dtype: str) -> None:
    """Lead times as numbers with units, other names: what cannot be mistaken is understood."""
    write_all(tmp_path / "run.nc")
    expected = open_forecast(tmp_path / "run.nc").load()
    other = expected.drop_vars("valid_time").rename(latitude="lat", longitude="lon", time="init_time")
    numbers = np.array([6, 12, 18, 24, 30], dtype)
    other = other.assign_coords(prediction_timedelta=("prediction_timedelta", numbers, {"units": "hours"}))
    other.drop_encoding().rename(prediction_timedelta="lead_time").to_netcdf(tmp_path / "other.nc")
    found = open_forecast(tmp_path / "other.nc")
    xr.testing.assert_identical(
        found["2m_temperature"].drop_attrs(), expected["2m_temperature"].drop_vars("valid_time").drop_attrs()
    )
    other.prediction_timedelta.attrs["units"] = "steps"
    other.drop_encoding().to_netcdf(tmp_path / "steps.nc")
    with pytest.raises(WavecastError, match=rf"are {dtype} in 'steps'\nhint: .*units = 'hours'"):
        open_forecast(tmp_path / "steps.nc")


def test_misfits_are_told(tmp_path: Path) -> None:
    with pytest.raises(WavecastError, match=r"run\.txt is no name of a forecast file\nhint: call it NAME\.zarr"):
        open_writer(tmp_path / "run.txt")
    with pytest.raises(WavecastError, match=r"folder .*away does not exist"):
        open_writer(tmp_path / "away" / "run.zarr")
    with pytest.raises(WavecastError, match="time are none or not ascending"):
        ForecastWriter(tmp_path / "run.zarr", grid(), TIMES[::-1], LEADS, ABOUT)
    with pytest.raises(WavecastError, match="prediction_timedelta are none or not ascending"):
        ForecastWriter(tmp_path / "run.zarr", grid(), TIMES, LEADS[:0], ABOUT)
    with pytest.raises(WavecastError, match="no variables on"):
        ForecastWriter(tmp_path / "run.zarr", grid()[[]], TIMES, LEADS, ABOUT)
    assert not list(tmp_path.iterdir())
    with pytest.raises(WavecastError, match="does not exist"):
        open_forecast(tmp_path / "run.zarr")
    (tmp_path / "text.nc").write_text("no forecast")
    with pytest.raises(WavecastError, match=r"text\.nc cannot be read: "):
        open_forecast(tmp_path / "text.nc")
    with open_writer(tmp_path / "run.zarr") as writer:
        with pytest.raises(ValueError, match=r"\['geopotential'\]\nhint: the forecast has"):
            writer.append(0, {"geopotential": fields(0)["geopotential"]})
        with pytest.raises(ValueError, match=r"geopotential is \(5, 4, 8\), expected \(5, 2, 4, 8\)"):
            writer.append(0, fields(0) | {"geopotential": fields(0)["2m_temperature"]})
        writer.append(0, fields(0, 0, 3))
        with pytest.raises(ValueError, match="5 steps of initial time 0 are too many: 2 are left"):
            writer.append(0, fields(0))


def start_script(what: str, folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", __file__, what, str(folder), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_script(what: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    process = start_script(what, folder, *words)
    out, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def in_child(work, *words) -> int:
    """Run a function in a forked process; give its exit status."""
    child = os.fork()
    if child == 0:
        try:
            work(*words)
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write_and_die(path: Path, at: int) -> None:
    """Write a whole forecast; kill the process when it touches the file system for the nth time (0: only count)."""
    touched = 0

    def count(event: str, arguments: tuple) -> None:
        nonlocal touched
        if event in TOUCHES and str(path.parent) in str(arguments[0]):
            touched += 1
            if touched == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    write_all(path)
    path.with_suffix(".touched").write_text(str(touched))


def be_killed(folder: Path, kind: str, kills: int) -> None:
    """Kill writers at moments spread over their lives; print the digest after each resumption."""
    in_child(write_and_die, folder / f"counted.{kind}", 0)
    touches = int((folder / "counted.touched").read_text())
    for at in np.unique(np.linspace(1, touches - 1, kills).astype(int)).tolist():
        path = folder / f"killed{at}.{kind}"
        died = in_child(write_and_die, path, at) == -signal.SIGKILL
        resumed = in_child(write_rest_of, path) == 0 and not partial_folder(path).exists()
        print(digest(path) if died and resumed else f"failed-at-{at}-of-{touches}")


def write_rest_of(path: Path) -> None:
    write_all(path, resume=True)


if __name__ == "__main__":
    import wavecast.apps.forecasting.forecast_layout as layout

    layout.CHUNK_BYTES = 600
    what, folder, *words = sys.argv[1:]
    if what == "killed":
        be_killed(Path(folder), words[0], int(words[1]))
    elif what == "part":
        with ForecastPart(Path(folder) / "run.zarr") as part:
            for k in map(int, words[0].split(",")):
                for start, stop in ((0, 2), (2, 3), (3, 5)):
                    part.append(k, fields(k, start, stop))
    elif what == "hold":
        with open_writer(Path(folder) / "run.zarr") as writer:
            writer.append(0, fields(0))
            print("holding", flush=True)
            signal.pause()
