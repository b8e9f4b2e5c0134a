"""`wavecast spot` does what its options say; the words of the tiny model are tones."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import wavecast as package
from kit.spotters import BANDS, RATE, silence, tone, write_spotter
from wavecast.apps.keywords.bench import measure
from wavecast.apps.keywords.command import FORMATS as NAMED
from wavecast.apps.keywords.formats import FORMATS
from wavecast.apps.keywords.inference import Options, Spotter
from wavecast.core.errors import WavecastError
from wavecast.core.state import leaves
from wavecast.datamodules.audio_files import PipeReader


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that hears two words, other speech and silence: the path of its weights."""
    return write_spotter(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def spotter(model):
    """It, loaded."""
    return Spotter.load(str(model), "cpu")


def say(words, rate=RATE, pause=1.0):
    """Say words, each 0.6 s long after a pause: float32 (samples,)."""
    parts = [part for word in words.split() for part in (silence(pause, rate), tone(word, 0.6, rate))]
    return np.concatenate([*parts, silence(0.3, rate)])


@pytest.fixture
def talk(tmp_path):
    """Write a recording of words: talk("low high", "a.wav") gives its path."""

    def write(*channels, name="talk.wav", rate=RATE):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.stack([say(words, rate) for words in channels], 1), rate, subtype="FLOAT")
        return path

    return write


@pytest.fixture
def spot(wavecast, model):
    """Run the command with the model, and give its events."""

    def run(*words, model=model):
        said = wavecast("spot", *words, "--model", model)
        assert (said.code, said.err) == (0, ""), said
        return [json.loads(line) for line in said.out.splitlines()]

    return run


def words_of(events):
    return " ".join(event["word"] for event in events)


def test_words_with_their_times_and_nothing_else(spot, talk):
    first, second = spot(talk("low _unknown_ high"))
    assert list(first) == ["word", "start", "time", "confidence", "latency"]
    assert (first["word"], second["word"]) == ("low", "high")
    for event, begin in ((first, 1.0), (second, 4.2)):
        assert begin + 0.6 < event["time"] < begin + 1.0  # the word is all heard, and still in the window
        assert event["start"] == pytest.approx(max(0, event["time"] - 1.295), abs=1e-3)
        assert event["confidence"] == pytest.approx(1 / (1 + np.exp(4 - 16 * 60 / 128)), abs=0.02)
        assert 0.08 <= event["latency"] <= 0.16  # of the decision that is no better, and the block it is in


def test_early_words_come_earlier(spot, talk):
    path = talk("low")
    (late,), (early,) = spot(path), spot(path, "--early")
    assert early["time"] < 1.6 < late["time"]
    assert early["confidence"] < late["confidence"]
    assert early["latency"] < 0.08


@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt"])
def test_every_format_holds_the_words(wavecast, talk, spotter, model, tmp_path, kind):
    path, target = talk("low high"), tmp_path / f"out.{kind}"
    events = spotter(soundfile.read(path, dtype="float32")[0])
    assert wavecast("spot", path, "-o", target, "--model", model, "--quiet").code == 0
    if kind == "txt":
        rows = [
            {"time": time, "word": word, "confidence": sure}
            for time, word, sure in (line.split() for line in target.read_text().splitlines())
        ]
    elif kind == "csv":
        rows = [*csv.DictReader(target.read_text().splitlines())]
        assert list(rows[0]) == ["word", "start", "time", "confidence", "latency"]
    else:
        rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(row["word"], float(row["time"]), float(row["confidence"])) for row in rows] == [
        (event.word, event.time, round(event.confidence, 4)) for event in events
    ]
    assert wavecast("spot", path, "--format", kind, "--model", model).out == target.read_text()
    assert tuple(FORMATS) == NAMED


def test_several_to_stdout_name_themselves_in_one_table(wavecast, talk, model):
    paths = [talk("low", name="a.wav"), talk("high", name="b.wav")]
    rows = [*csv.DictReader(wavecast("spot", *paths, "--format", "csv", "--model", model).out.splitlines())]
    assert [(row["input"], row["word"]) for row in rows] == [(str(paths[0]), "low"), (str(paths[1]), "high")]
    lines = wavecast("spot", *paths, "--format", "txt", "--model", model).out.splitlines()
    assert [line.split()[::2] for line in lines] == [[f"{paths[0]}:", "low"], [f"{paths[1]}:", "high"]]


def test_a_folder_is_mirrored_and_resumed(wavecast, talk, model, tmp_path):
    talk("low", name="in/a.wav"), talk("high", name="in/deep/b.wav")
    words = "spot", tmp_path / "in", "-o", tmp_path / "out", "--model", model
    assert wavecast(*words).code == 0
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert found == ["a.jsonl", "deep/b.jsonl"]
    (tmp_path / "out" / "a.jsonl").unlink()
    said = wavecast(*words, "--resume")
    assert "1 of 2 were done before" in said.err
    assert json.loads((tmp_path / "out" / "a.jsonl").read_text())["word"] == "low"
    wavecast.fails(1, "exists", *words, hint="--overwrite")


def test_only_wanted_words(spot, talk):
    path = talk("low high low")
    assert words_of(spot(path)) == "low high low"
    assert words_of(spot(path, "--words", "high")) == "high"
    assert words_of(spot(path, "--words", "low, high")) == "low high low"


def test_thresholds(spot, talk):
    path = talk("low high")
    assert words_of(spot(path, "--threshold", 0.99)) == ""
    assert words_of(spot(path, "--thresholds", "low=0.99")) == "high"
    assert words_of(spot(path, "--threshold", 0.99, "--thresholds", "low=0.9")) == "low"


def test_the_card_says_how_words_are_decided(spot, talk, tmp_path):
    path = talk("low high")
    decision = {"threshold": 0.6, "thresholds": {"low": 0.99}, "smoothing": 0, "refractory": 5, "hop": 16}
    strict = write_spotter(tmp_path, decision=decision)
    (event,) = spot(path, model=strict)
    assert event["word"] == "high"
    assert (event["time"] - 0.025) / 0.16 == pytest.approx(round((event["time"] - 0.025) / 0.16))
    assert words_of(spot(path, "--threshold", 0.7, model=strict)) == "low"  # 5 s without another one
    assert words_of(spot(path, "--threshold", 0.7, "--refractory", 1, model=strict)) == "low high"
    (near,) = spot(path, "--hop", 4, model=strict)
    assert near["confidence"] >= event["confidence"]


def test_posteriors_of_a_network_that_chooses_one_class(spotter, tmp_path):
    one = Spotter.load(str(write_spotter(tmp_path, decision={"posteriors": "softmax"})), "cpu")
    found, each = one.posteriors(say("low")), spotter.posteriors(say("low")).astype(float)
    odds = each / (1 - each)
    assert found == pytest.approx(odds / odds.sum(1, keepdims=True), abs=1e-4)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000])
def test_any_sample_rate(spot, talk, rate):
    events = spot(talk("low high", rate=rate))
    assert words_of(events) == "low high"
    assert [event["time"] for event in events] == pytest.approx([1.785, 3.385], abs=0.081)


def test_channels_are_mixed_or_each_heard(spot, talk):
    path = talk("low high", "low high")
    assert words_of(spot(path)) == "low high"
    events = spot(talk("low high", "high _unknown_"), "--channels", "each")
    assert [(event["channel"], event["word"]) for event in events] == [(1, "low"), (2, "high"), (1, "high")]
    assert [event["channel"] for event in spot(talk("low"), "--channels", "each")] == [1]


def test_a_model_without_rejection(spot, talk, tmp_path):
    closed = write_spotter(tmp_path, rejects=False)
    assert words_of(spot(talk("low _unknown_ high"), model=closed)) == "low high"


def test_a_sound_track(spot, tmp_path, talk):
    import av

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(say("low high")[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    assert words_of(spot(path)) == "low high"


def test_the_report(wavecast, talk, model, tmp_path):
    report = tmp_path / "report.json"
    said = wavecast("spot", talk("low high low"), "--model", model, "--json", report, "-o", tmp_path / "out.jsonl")
    row = json.loads(report.read_text())
    assert "out.jsonl: 3 words in 5.1 s of sound" in said.err
    assert (row["events"], row["words"]) == (3, {"low": 2, "high": 1})
    assert (row["seconds"], row["sample_rate"], row["channels"]) == (5.1, RATE, 1)
    assert (row["latency_ms"], row["model"], len(row["model_sha256"])) == (80.0, "lmuformer.tones", 64)
    assert row["real_time_factor"] > 0


def test_a_picture(wavecast, talk, model, tmp_path, monkeypatch):
    path = talk("low", "high")
    words = "spot", path, "--model", model, "--plot"
    assert wavecast(*words, "--channels", "each").code == 0
    assert (tmp_path / "talk.wav.png").read_bytes().startswith(b"\x89PNG")
    wavecast.fails(1, "talk.wav.png exists", *words, hint="--overwrite")
    assert wavecast(*words, "-o", tmp_path / "out.csv").code == 0
    assert (tmp_path / "out.png").exists()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    said = wavecast(*words, "--overwrite")
    assert (said.code, "pip install 'wavecast[plot]'" in said.err) == (1, True)


# Live.


def test_a_pipe_gives_what_the_file_gives(wavecast, talk, model, tmp_path):
    path = talk("low high")
    whole = wavecast("spot", path, "--model", model).out
    command = [sys.executable, "-m", "wavecast", "spot", "-", "--raw", "f32le:16000", "--model", str(model)]
    samples = soundfile.read(path, dtype="float32")[0].tobytes()
    piped = subprocess.run(command, input=samples, capture_output=True, timeout=120, check=True)
    assert piped.stdout.decode() == whole
    assert len(whole.splitlines()) == 2


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=12), st.sampled_from([16_000, 44_100]), st.booleans())
def test_pieces_of_any_size_give_the_same_events(spotter, sizes, rate, early):
    sound, options = np.stack([say("low high", rate), say("high low", rate)]), Options(early=early)
    stream, events, at = spotter.stream(2, rate, options), [], 0
    while at < sound.shape[1]:
        size = sizes[at % len(sizes)]
        events += stream.push(sound[:, at : at + size])
        at += size
    events += stream.flush()
    assert events == spotter(sound, rate, options)
    assert len(events) == 4


def test_live_events_come_while_the_stream_goes_on(spotter):
    stream, sound, came = spotter.stream(), np.concatenate([say("low"), silence(0.5)]), []
    for start in range(0, len(sound), 160):
        came += [(event, start / RATE + 0.01) for event in stream.push(sound[None, start : start + 160])]
    ((event, now),) = came
    assert now == pytest.approx(event.time + event.latency)
    assert stream.flush() == []


def test_a_stream_does_not_grow(spotter):
    stream, sizes = spotter.stream(), []
    for _ in range(4):
        for word in ("low", "high"):
            stream.push(say(word)[None])
        held = [*leaves(stream._stream.state), stream._stream.rest, *(one._past for one in stream._deciders)]
        sizes.append(sum(tensor.size if isinstance(tensor, np.ndarray) else tensor.numel() for tensor in held))
    assert max(sizes[1:]) <= 1.2 * sizes[0]
    assert stream.posteriors.shape[1] < 40


def interrupted(monkeypatch, sound):
    """Let a pipe bring a sound, and then Ctrl-C."""
    pieces = [*np.array_split(sound[None], 20, 1), None]

    def read(self, frames):
        piece = pieces.pop(0)
        if piece is None:
            raise KeyboardInterrupt
        return piece

    monkeypatch.setattr(PipeReader, "read", read)


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_keeps_what_was_heard(wavecast, talk, model, tmp_path, streams, monkeypatch):
    interrupted(monkeypatch, say("low high"))
    path = talk("low")
    with path.open() as pipe:
        streams(stdin=pipe)
        said = wavecast("spot", "-", "--raw", "f32le:16000", "-o", tmp_path / "live.csv", "--model", model)
    assert said.code == 130
    assert [row["word"] for row in csv.DictReader((tmp_path / "live.csv").read_text().splitlines())] == ["low", "high"]


class Ear:
    """A stand-in for sounddevice: its microphone gives two words, then Ctrl-C."""

    PortAudioError = RuntimeError

    class InputStream:
        """Calls back at once."""

        def __init__(self, samplerate, blocksize, device, channels, dtype, callback):
            self.callback, self.blocksize = callback, blocksize
            assert (samplerate, channels, dtype) == (RATE, 1, "float32")

        def start(self):
            """Give all of it."""
            sound = say("low high")
            for part in np.split(sound, len(sound) // self.blocksize):
                self.callback(part[:, None], len(part), None, None)

        def close(self):
            """Do nothing."""


@pytest.mark.usefixtures("keyboard")
def test_the_microphone_until_ctrl_c(spot, talk, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", Ear)
    from wavecast.datamodules import microphone

    class Interrupted(microphone.queue.Queue):
        def get(self, *words, **names):
            if self.empty():
                raise KeyboardInterrupt
            return super().get(*words, **names)

    monkeypatch.setattr(microphone.queue, "Queue", Interrupted)
    assert spot("--mic") == spot(talk("low high"))


# Python.


def test_python_takes_arrays_tensors_and_streams(model):
    spotter = package.load("spot", str(model), "cpu")
    sound = say("low high", 44_100)
    events = spotter(sound, 44_100)
    assert [event.word for event in events] == ["low", "high"]
    assert spotter(torch.from_numpy(sound).double(), 44_100) == events
    assert (spotter.words, spotter.sample_rate, spotter.streams) == (("low", "high"), RATE, True)
    assert set(spotter.classes) - set(spotter.words) == {"_unknown_", "_silence_"}
    assert spotter.latency == 1280
    with pytest.raises(ValueError, match="expected floats"):
        spotter(np.zeros(10, np.int16))
    with pytest.raises(ValueError, match=r"expected \(2, samples\), got \(1, 10\)"):
        spotter.stream(2).push(np.zeros((1, 10), np.float32))
    with pytest.raises(WavecastError, match="a sample rate of 10 Hz"):
        spotter(np.zeros(10, np.float32), 10)


def test_posteriors_are_those_of_the_stream_and_decide_as_it_does(spotter):
    sound = say("low high")
    posteriors, options = spotter.posteriors(sound), Options(smoothing=0.1, early=True)
    share = min(128, round(100 * 0.6)) / 128
    assert posteriors.shape == (1 + (1 + (len(sound) - 400) // 160 - 1) // 8, 4)
    assert posteriors[:, spotter.classes.index("low")].max() == pytest.approx(
        1 / (1 + np.exp(4 - 16 * share)), abs=0.02
    )
    decider = spotter.decider(options)
    events = [*decider.push(posteriors), *decider.flush()]
    assert [(one.word, one.time) for one in events] == [(one.word, one.time) for one in spotter(sound, None, options)]
    assert spotter.posteriors(np.zeros(0, np.float32)).shape == (0, 4)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (Options(words=("lov",)), "does not know the word 'lov'"),
        (Options(words=("_unknown_",)), "does not know the word '_unknown_'"),
        (Options(thresholds={"hihg": 0.5}), "does not know the word 'hihg'"),
        (Options(threshold=1.5), "threshold 1.5"),
        (Options(thresholds={"low": float("nan")}), "low nan"),
        (Options(smoothing=-1.0), "smoothing -1.0"),
        (Options(refractory=float("inf")), "refractory inf"),
        (Options(hop=0), "hop 0"),
    ],
)
def test_options_that_fit_no_stream(spotter, options, text):
    with pytest.raises(WavecastError, match=text):
        spotter.stream(options=options)


def test_the_benchmark_has_a_row_for_each_time_between_decisions(model):
    rows = [*measure(str(model), "cpu", 2)]
    assert [row["decision_ms"] for row in rows] == [40, 80, 160]
    assert all(row["real_time_factor"] > 0 < row["growth"] for row in rows)
    assert all(row["median_call_ms"] <= row["call_ms_95"] <= row["slowest_call_ms"] for row in rows)


def test_the_tones_are_far_from_one_another(spotter):
    for word in BANDS:
        last = spotter.posteriors(say(word))[-1]
        assert [spotter.classes[i] for i in np.flatnonzero(last > 0.5)] == [word]
