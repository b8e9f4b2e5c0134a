"""`wavecast recognize` does what its options say; the models are tiny ones of random weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import wavecast as package
from kit.recognizers import CLASSES, write_recognizer
from kit.videos import moving_block, write_video
from wavecast.apps.activity.inference import Options, Recognizer
from wavecast.apps.activity.pictures import MOST, Thinned
from wavecast.datamodules import video_live

FLAGS = ("--window", "0.4", "--quiet")


def movie():
    """48 frames in two halves that look different."""
    x = np.concatenate([moving_block(24), 255 - moving_block(24)])
    x[30:36] = np.random.default_rng(0).integers(256, size=x[30:36].shape)
    return x


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The path of the card of a model that follows."""
    return write_recognizer(tmp_path_factory.mktemp("model"), seed=2)


@pytest.fixture(scope="module")
def recognizer(model):
    """It, loaded."""
    return package.load("recognize", str(model), "cpu")


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """An empty working directory with one clip, and no models but those of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAVECAST_CACHE", str(tmp_path / "cache"))
    write_video(tmp_path / "clip.mkv", movie())


def told(segments):
    """What segments are in a report."""
    return [
        {
            "start": round(s.start, 3),
            "end": round(s.end, 3),
            "activity": s.activity,
            "confidence": round(s.confidence, 4),
        }
        for s in segments
    ]


def test_prints_the_most_probable_activities_and_nothing_else(wavecast, model, recognizer):
    assert isinstance(recognizer, Recognizer) and recognizer.classes == CLASSES and recognizer.streams
    found = recognizer("clip.mkv")
    assert found.activity == found.top(4)[0][0] and found.probabilities.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(recognizer(movie(), 25).probabilities, found.probabilities)
    said = wavecast("recognize", "clip.mkv", "--model", model, "--top", 3)
    assert (said.code, said.err) == (0, "")
    rows = [line.split() for line in said.out.splitlines()]
    assert rows == [[name, f"{probability:.4f}"] for name, probability in found.top(3)]
    assert len(wavecast("recognize", "clip.mkv", "--model", model).out.splitlines()) == 4
    assert wavecast("recognize", "clip.mkv", "--model", model, "--threshold", 1).out == "nothing\n"


def test_every_format_of_a_whole_video(wavecast, model, recognizer):
    found = recognizer("clip.mkv").top(2)
    for kind in ("json", "jsonl"):
        said = wavecast("recognize", "clip.mkv", "--model", model, "--top", 2, "--format", kind)
        row = json.loads(said.out)
        assert row["seconds"] == 1.92
        assert [(one["activity"], one["probability"]) for one in row["activities"]] == [
            (name, round(probability, 4)) for name, probability in found
        ]
    said = wavecast("recognize", "clip.mkv", "--model", model, "--top", 2, "-o", "out.csv")
    assert said.code == 0 and said.out == "" and "out.csv: " in said.err and "1.9 s of video" in said.err
    rows = [line.split(",") for line in Path("out.csv").read_text().splitlines()]
    assert rows[0] == ["rank", "activity", "probability"] and [row[1] for row in rows[1:]] == [one for one, _ in found]


def test_every_format_of_a_timeline(wavecast, model, recognizer):
    segments = recognizer.segments("clip.mkv", options=Options(window=0.4))
    assert len(segments) > 1 and len({one.activity for one in segments}) > 1
    expected, words = told(segments), ("recognize", "clip.mkv", "--model", model, *FLAGS)
    lines = [line.split() for line in wavecast(*words).out.splitlines()]
    assert [(float(a), float(b), name, float(p)) for a, b, name, p in lines] == [
        tuple(one.values()) for one in expected
    ]
    assert json.loads(wavecast(*words, "--format", "json").out) == {"segments": expected}
    events = [json.loads(line) for line in wavecast(*words, "--format", "jsonl").out.splitlines()]
    assert events == [{"type": "final", **one} for one in expected]
    table = wavecast(*words, "--format", "csv").out.splitlines()
    assert table[0] == "start,end,activity,confidence"
    assert [row.split(",")[2] for row in table[1:]] == [one["activity"] for one in expected]
    cues = wavecast("recognize", "clip.mkv", "--model", model, "--window", 0.4, "-o", "out.srt")
    assert cues.code == 0
    blocks = Path("out.srt").read_text().strip().split("\n\n")
    assert [block.splitlines()[2] for block in blocks] == [one["activity"] for one in expected]
    assert blocks[0].splitlines()[1].startswith("00:00:00,000 --> 00:00:0")


def test_options_of_a_timeline(wavecast, model, recognizer):
    options = Options(window=0.4, stride=0.1, threshold=0.4, minimum=0.3)
    expected = told(recognizer.segments("clip.mkv", options=options))
    words = ("--stride", 0.1, "--threshold", 0.4, "--min-duration", 0.3, "--format", "json")
    said = wavecast("recognize", "clip.mkv", "--model", model, *FLAGS, *words)
    assert json.loads(said.out)["segments"] == expected
    assert all(one["end"] - one["start"] > 0.299 and one["confidence"] >= 0.4 for one in expected)
    assert wavecast("recognize", "clip.mkv", "--model", model, *FLAGS, "--threshold", 1).out == ""
    wavecast.fails(
        1, "windows of 0.4 s every 0.5 s", "recognize", "clip.mkv", "--model", model, *FLAGS, "--stride", 0.5
    )


def test_a_pipe_gives_what_the_file_gives(wavecast, model, streams):
    """Byte for byte, a container and frames without a header."""
    words = ("--model", model, "--window", 0.4, "--format", "json")
    expected = wavecast("recognize", "clip.mkv", *words).out
    with Path("clip.mkv").open("rb") as file:
        streams(stdin=file)
        said = wavecast("recognize", "-", *words)
    assert (said.code, said.out) == (0, expected)
    movie().tofile("clip.rgb")
    raw = ("--raw", "rgb24:32x24:25")
    assert wavecast("recognize", "clip.rgb", *raw, *words).out == expected
    with Path("clip.rgb").open("rb") as file:
        streams(stdin=file)
        said = wavecast("recognize", "-", *raw, *words, "-o", "live.json")
    assert said.code == 0 and Path("live.json").read_text() == expected
    whole = wavecast("recognize", "clip.rgb", *raw, "--model", model)
    assert whole.out == wavecast("recognize", "clip.mkv", "--model", model).out


def test_what_a_pipe_gave_before_it_was_cut_off_is_kept(wavecast, model, streams, tmp_path):
    movie().tofile("clip.rgb")
    with Path("clip.rgb").open("ab") as file:
        file.write(b"cut off")
    with Path("clip.rgb").open("rb") as file:
        streams(stdin=file)
        words = ("recognize", "-", "--raw", "rgb24:32x24:25", "--model", model, "--window", 0.4, "-o", "x.jsonl")
        said = wavecast(*words, "--json", "-")
    row = json.loads(said.out)
    assert row["truncated"] and row["frames"] == 48 and row["segments"] == len(Path("x.jsonl").read_text().splitlines())
    assert "the input was cut off" in said.err
    said = wavecast("recognize", "clip.rgb", "--raw", "rgb24:32x24:25", "--model", model, "-o", "y.txt")
    assert said.code == 0 and "the input was cut off" in said.err


def test_arrays_need_a_rate_for_a_timeline_only(wavecast, model, recognizer):
    np.save("clip.npy", movie())
    assert (
        wavecast("recognize", "clip.npy", "--model", model).out
        == wavecast("recognize", "clip.mkv", "--model", model).out
    )
    text = "clip.npy does not tell its frames per second"
    wavecast.fails(1, text, "recognize", "clip.npy", "--model", model, "--timeline", hint="--rate FPS")
    said = wavecast("recognize", "clip.npy", "--model", model, *FLAGS, "--rate", 25)
    assert said.out == wavecast("recognize", "clip.mkv", "--model", model, *FLAGS).out != ""


def test_partials_tell_every_frame(wavecast, model):
    words = ("recognize", "clip.mkv", "--model", model, *FLAGS, "--format", "jsonl", "--partials")
    events = [json.loads(line) for line in wavecast(*words).out.splitlines()]
    partials = [one for one in events if one["type"] == "partial"]
    assert len(partials) > 20 and {one["activity"] for one in partials} <= {*CLASSES}
    assert [one["time"] for one in partials] == sorted(one["time"] for one in partials)
    final = [one for one in events if one["type"] == "final"]
    without = [json.loads(line) for line in wavecast(*words[:-1]).out.splitlines()]
    assert final == without


def test_a_folder_is_mirrored_and_resumed(wavecast, model, tmp_path):
    for name in ("in/a.mkv", "in/deep/b.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / name, movie()[:9])
    (tmp_path / "in" / "notes.txt").write_text("no video")
    words = ("recognize", "in", "-o", "out", "--format", "json", "--model", model)
    assert wavecast(*words, "--dry-run").out.splitlines() == [
        "in/a.mkv -> out/a.json",
        "in/deep/b.npy -> out/deep/b.json",
    ]
    assert wavecast(*words).code == 0
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert found == ["a.json", "deep/b.json"]
    (tmp_path / "out" / "a.json").unlink()
    said = wavecast(*words, "--resume")
    assert said.code == 0 and "1 of 2 were done before" in said.err
    wavecast.fails(1, "exists", *words, hint="--overwrite")
    assert wavecast(*words, "--overwrite", "--quiet").err == ""


def test_several_to_stdout_name_themselves(wavecast, model):
    write_video("b.npy", movie()[:9])
    said = wavecast("recognize", "clip.mkv", "b.npy", "--model", model, "--top", 1)
    assert [line.split(": ")[0] for line in said.out.splitlines()] == ["clip.mkv", "b.npy"]
    table = wavecast("recognize", "clip.mkv", "b.npy", "--model", model, "--top", 1, "--format", "csv").out.splitlines()
    assert [row.split(",")[0] for row in table] == ["input", "clip.mkv", "b.npy"]


def test_a_report_tells_what_was_done(wavecast, model, tmp_path):
    other = write_recognizer(tmp_path / "m", "ts_lstm", seed=3)
    words = ("--model", model, "--model", other, "--weights", 1, 3, "--json", "-", "-o", "out/", "--quiet")
    row = json.loads(wavecast("recognize", "clip.mkv", *words).out)
    assert (row["input"], row["output"], row["seconds"]) == ("clip.mkv", "out/clip.txt", 1.92)
    assert row["activity"] in CLASSES and 0 < row["probability"] <= 1 and not row["truncated"]
    assert [one["model"] for one in row["models"]] == ["lrcn.tiny", "ts_lstm.tiny"] and row["weights"] == [0.25, 0.75]
    assert len(row["model_sha256"]) == 64 and row["cpu_seconds"] > 0
    row = json.loads(wavecast("recognize", "clip.mkv", *words, "--overwrite", "--window", 0.5).out)
    assert (row["frames"], row["window_seconds"], row["stride_seconds"]) == (48, 0.5, 0.25)
    assert row["segments"] == len((tmp_path / "out" / "clip.txt").read_text().splitlines()) > 0


def test_a_long_video_gets_a_hint(wavecast, model, monkeypatch):
    from wavecast.apps.activity import jobs

    monkeypatch.setattr(jobs, "LONG", 0.1)
    said = wavecast("recognize", "clip.mkv", "--model", model)
    assert said.code == 0 and "--timeline tells more" in said.err
    assert wavecast("recognize", "clip.mkv", "--model", model, *FLAGS).err == ""


def test_a_picture_lies_beside_the_output(wavecast, model, tmp_path):
    said = wavecast(
        "recognize", "clip.mkv", "--model", model, "--window", 0.4, "--plot", "-o", "out.csv", "--json", "-"
    )
    assert said.code == 0 and json.loads(said.out)["plot"] == "out.png"
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"
    words = ("recognize", "clip.mkv", "--model", model, "--plot")
    wavecast.fails(1, "out.png exists", *words, "-o", "out.txt", hint="--overwrite")
    assert not (tmp_path / "out.txt").exists()
    assert wavecast(*words).code == 0 and (tmp_path / "clip.mkv.png").exists()
    wavecast.fails(
        2, "a picture of live video has no name", "recognize", "-", "--plot", "--model", model, hint="-o NAME"
    )


def test_pictures_of_long_videos_keep_every_second_thing():
    kept = Thinned()
    for k in range(5 * MOST):
        if kept.wants():
            kept.items.append(k)
    step = kept.items[1]
    assert kept.items == [*range(0, 5 * MOST, step)] and MOST / 2 <= len(kept.items) <= MOST


@pytest.fixture
def camera(monkeypatch):
    """A stand-in for a camera: it shows the clip, then Ctrl-C comes."""
    opened = []

    class Camera(video_live.CameraReader):
        def _container_opened(self):
            opened.append(str(self._path))
            return video_live.av.open("clip.mkv")

        def read(self, frames):
            found = super().read(frames)
            if not len(found[0]):
                raise KeyboardInterrupt
            return found

    monkeypatch.setattr("wavecast.apps.activity.jobs.CameraReader", Camera)
    return opened


def test_a_camera_until_ctrl_c(wavecast, model, camera):
    said = wavecast("recognize", "--camera", "--model", model, "--window", 0.4)
    assert (said.code, said.err) == (0, "")
    assert said.out == wavecast("recognize", "clip.mkv", "--model", model, "--window", 0.4).out != ""
    assert wavecast("recognize", "--camera", 2, "--model", model, "-o", "x.txt", "--timeline").code == 0
    assert wavecast("recognize", "--camera=/dev/other", "--model", model).code == 0
    assert camera == ["/dev/video0", "/dev/video2", "/dev/other"]


def test_ctrl_c_on_a_pipe_keeps_what_was_found(wavecast, model, streams, monkeypatch, tmp_path):
    class Interrupted(video_live.RawVideoReader):
        def read(self, frames):
            if self._place == 40:
                raise KeyboardInterrupt
            return super().read(frames)

    monkeypatch.setattr("wavecast.apps.activity.jobs.RawVideoReader", Interrupted)
    movie().tofile("clip.rgb")
    with Path("clip.rgb").open("rb") as file:
        streams(stdin=file)
        words = ("recognize", "-", "--raw", "rgb24:32x24:25", "--model", model, "--window", 0.4, "-o", "x.txt")
        said = wavecast(*words)
    assert said.code == 130
    assert float((tmp_path / "x.txt").read_text().split()[-3]) == 1.6


def test_bench_measures_live_and_whole(wavecast, model):
    said = wavecast("bench", "recognize", "--model", model, "--seconds", 1, "--json", "-")
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["way"] for row in rows] == ["live", "whole"]
    assert all(row["frames_per_second"] > 0 and row["real_time_factor"] > 0 for row in rows)
    assert rows[0]["latency_ms"] == 4040 and rows[0]["growth"] > 0


def test_as_a_process(model):
    words = [sys.executable, "-m", "wavecast", "recognize", "clip.mkv", "--model", str(model), "--top", "1"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in CLASSES
