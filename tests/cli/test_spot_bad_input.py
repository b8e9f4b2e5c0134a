"""What can be wrong with `wavecast spot` alone: a clear word, the right exit code, nothing lost.

What it has in common with `wavecast enhance` is in test_bad_input.py.
"""

import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from kit.spotters import RATE, silence, tone, write_spotter

LOW = np.concatenate([silence(0.5), tone("low", 0.6), silence(0.6)])


def names(folder):
    """All that lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_spotter(tmp_path_factory.mktemp("models"))


@pytest.fixture
def recording(tmp_path):
    """Write a recording: recording(x, "a.wav", rate) gives its path; x is (samples,) or (samples, channels)."""

    def write(x=LOW, name="x.wav", rate=RATE):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, x, rate, subtype="FLOAT", format="WAV")
        return path

    return write


@pytest.fixture
def taken(wavecast, model, tmp_path):
    """Spot in a recording that is odd but can be: the words, the row of the report, and what was said."""

    def run(path, *options):
        report = tmp_path / "report.json"
        words = "-o", tmp_path / "out.jsonl", "--json", report, "--overwrite", "--model", model
        said = wavecast("spot", path, *words, *options)
        assert (said.code, said.out) == (0, ""), said
        events = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        return [event["word"] for event in events], json.loads(report.read_text()), said.err

    return run


# Sound that is sound, but odd.


@pytest.mark.parametrize("samples", [0, 1, 16, 399, 400, 401, 1280, 1679, 1680, 20_720])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_every_length(taken, recording, samples, rate):
    """1 ms, one frame and one block to the sample, and a whole window."""
    words, row, _ = taken(recording(np.zeros(samples), rate=rate))
    assert (words, row["seconds"]) == ([], round(samples / rate, 3))


def test_a_word_at_the_very_end_comes_when_the_sound_ends(taken, recording):
    assert taken(recording(np.concatenate([silence(0.5), tone("low", 0.6)])))[0] == ["low"]
    assert taken(recording(tone("low", 0.5)))[0] == ["low"]


@pytest.mark.parametrize(
    "make",
    [
        lambda n: np.zeros(n),
        lambda n: np.full(n, 0.5),
        lambda n: np.full(n, np.nan),
        lambda n: 1e-38 * np.ones(n),
        lambda n: 1e30 * np.ones(n),
    ],
    ids=["silence", "offset", "nan", "subnormal", "beyond"],
)
def test_nothing_is_no_word(taken, recording, make):
    words, row, said = taken(recording(make(40_000).astype(np.float32)))
    assert words == []
    assert (row["not_finite_samples"] > 0) == ("became 0" in said)


def test_noise_and_music_of_any_level_come_through(taken, recording):
    rng = np.random.default_rng(0)
    for level in (1e-6, 1.0, 1e6):
        words, row, _ = taken(recording((level * rng.standard_normal(32_000)).astype(np.float32)))
        assert row["events"] == len(words)


def test_samples_that_are_no_numbers_become_silence_and_spoil_no_later_word(taken, recording):
    x = np.concatenate([silence(1.0), LOW])
    x[8000:8005] = [np.nan, np.inf, -np.inf, 1e38, -1e30]
    words, row, said = taken(recording(x))
    assert (words, row["not_finite_samples"]) == (["low"], 5)
    assert "5 samples were not numbers and became 0" in said


@pytest.mark.parametrize("channels", ["mix", "each"])
def test_many_channels(taken, recording, channels):
    words, row, _ = taken(recording(np.stack([LOW] * 16, 1)), "--channels", channels)
    assert words == ["low"] * (16 if channels == "each" else 1)
    assert row["channels"] == 16


def test_truncated_data_gives_what_is_there_and_says_so(taken, recording):
    path = recording(np.concatenate([LOW, LOW, LOW]))
    path.write_bytes(path.read_bytes()[: 44 + 4 * 28_000])
    words, row, said = taken(path)
    assert (words, row["truncated"]) == (["low"], True)
    assert "the input was cut off" in said


@pytest.mark.parametrize("name", ["new\nline.wav", "emoji 🎤 ä.wav", "{stem}.wav", "100%s.wav", "a" * 230 + ".wav"])
def test_odd_names(wavecast, recording, model, tmp_path, name):
    path = recording(name=f"in/{name}")
    assert wavecast("spot", path, "-o", f"{tmp_path}/out/", "--model", model).code == 0
    assert names(tmp_path / "out") == [f"{name.removesuffix('.wav')}.jsonl"]


def test_names_that_begin_like_something_else(wavecast, recording, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recording(name="--help.wav")
    assert json.loads(wavecast("spot", "--model", model, "--", "--help.wav").out)["word"] == "low"


# Options and models.


@pytest.mark.parametrize(
    ("code", "words", "text", "hint"),
    [
        (1, ["--words", "lov"], "lmuformer.tones does not know the word 'lov'", "did you mean low?"),
        (1, ["--words", "banana"], "does not know the word 'banana'", "it knows low, high"),
        (1, ["--words", "low,_unknown_"], "does not know the word '_unknown_'", ""),
        (1, ["--thresholds", "hi=0.5"], "does not know the word 'hi'", "did you mean high?"),
        (2, ["--words", "low,,high"], "'low,,high' is no list of words", "--help"),
        (2, ["--words", ""], "'' is no list of words", "--help"),
        (2, ["--threshold", "1.5"], "'1.5' is no posterior from 0 to 1", "--help"),
        (2, ["--threshold", "-0.1"], "'-0.1' is no posterior", "--help"),
        (2, ["--threshold", "nan"], "'nan' is no posterior", "--help"),
        (2, ["--threshold", "high"], "'high' is no posterior", "--help"),
        (2, ["--thresholds", "low"], "'low' gives no thresholds of words", "--help"),
        (2, ["--thresholds", "low=2"], "'2' is no posterior", "--help"),
        (2, ["--thresholds", "=1"], "'=1' gives no thresholds of words", "--help"),
        (2, ["--smoothing", "-1"], "'-1' is no time in seconds from 0 to 60", "--help"),
        (2, ["--refractory", "soon"], "'soon' is no time in seconds", "--help"),
        (2, ["--hop", "0"], "'0' is not a whole number above 0", "--help"),
        (2, ["--channels", "both"], "invalid choice: 'both'", "--help"),
        (2, ["--format", "srt"], "invalid choice: 'srt'", "--help"),
        (2, ["--wrods", "low"], "unrecognized argument --wrods", "did you mean --words?"),
        (2, ["--json", "-"], "events and report cannot both go to stdout", "give --json a file"),
        (2, ["--resume"], "--resume leaves out inputs whose output exists", "-o FOLDER/"),
        (2, ["--mic"], "--mic goes without inputs", "spot the files in a second call"),
        (2, ["--raw", "s17"], "--raw", "s16le:16000"),
        (2, ["--name-template", "{x}", "-o", "out/"], "--name-template '{x}' is not understood", "use {stem}"),
        (1, ["--model", "frcrn.stream16k"], "is a model to enhance, not to spot", "models list"),
        (1, ["--model", "lmuformer.none"], "there is no model 'lmuformer.none'", ""),
        (1, ["--device", "gpu"], "there is no device 'gpu'", "give auto, cpu"),
    ],
)
def test_options_that_do_not_fit(wavecast, recording, model, tmp_path, monkeypatch, code, words, text, hint):
    monkeypatch.chdir(tmp_path)
    recording()
    before = [] if "--model" in words else ["--model", model]
    wavecast.fails(code, text, "spot", "x.wav", *before, *words, hint=hint)
    assert names(tmp_path) == ["x.wav"]


def test_nothing_to_spot(wavecast):
    wavecast.fails(2, "there is nothing to spot", "spot", hint="name files, - for stdin, or --mic")


@pytest.mark.parametrize(
    ("words", "text", "hint"),
    [
        (["-o", "out/"], "live sound has no name of its own", "give -o out/NAME.jsonl"),
        (["--plot"], "a picture of live sound has no name of its own", "give -o NAME.jsonl"),
    ],
)
def test_what_live_sound_cannot_have(wavecast, model, words, text, hint):
    wavecast.fails(2, text, "spot", "-", "--model", model, *words, hint=hint)


@pytest.mark.parametrize(
    ("decision", "text"),
    [
        ({"thresholds": {"loud": 0.5}}, "does not know the word 'loud'"),
        ({"threshold": 2}, "the card of lmuformer.tones says threshold 2"),
        ({"threshold": "high"}, "the card of lmuformer.tones says threshold high"),
        ({"posteriors": "relu"}, "the card of lmuformer.tones says posteriors relu"),
        ({"hop": 0}, "the card of lmuformer.tones says hop 0"),
        ({"refractory": -1}, "the card of lmuformer.tones says refractory -1"),
        ([1], "is no card: decision is [1]"),
    ],
)
def test_a_card_that_decides_nothing(wavecast, recording, tmp_path, decision, text):
    path = write_spotter(tmp_path / "models", decision=decision)
    wavecast.fails(1, text, "spot", recording(), "--model", path)


def test_a_card_whose_classes_are_not_those_of_the_network(wavecast, recording, tmp_path):
    path = write_spotter(tmp_path / "models")
    card = path.with_suffix(".yaml")
    card.write_text(card.read_text().replace("- _silence_\n", ""))
    text = "lmuformer.tones has 4 outputs, its card 3 classes"
    wavecast.fails(1, text, "spot", recording(), "--model", path, hint="the card and the weights are of different")


# Outputs.


def test_an_output_that_exists_and_one_bad_file_stop_no_other(wavecast, recording, model, tmp_path):
    first, bad, last = recording(name="a.wav"), tmp_path / "bad.wav", recording(name="c.wav")
    bad.write_bytes(b"RIFF nothing")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jsonl").write_text("mine")
    words = "spot", first, bad, last, "-o", tmp_path / "out", "--model", model
    said = wavecast.fails(1, "a.jsonl exists", *words, hint="--overwrite")
    assert "bad.wav" in said.err
    assert "2 failed" in said.err
    assert (tmp_path / "out" / "a.jsonl").read_text() == "mine"
    assert names(tmp_path / "out") == ["a.jsonl", "c.jsonl"]


def test_a_full_disk_keeps_what_was_to_be_overwritten(wavecast, recording, model, tmp_path, monkeypatch):
    path, target = recording(), tmp_path / "x.jsonl"
    target.write_text("mine")

    class Full(io.StringIO):
        def flush(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdopen", lambda *_, **__: Full())
    words = "spot", path, "-o", target, "--overwrite", "--model", model
    wavecast.fails(1, f"cannot write {target}: No space left", *words, hint="check the folder and the space on it")
    assert target.read_text() == "mine"
    assert names(tmp_path) == ["x.jsonl", "x.wav"]


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_stdout_that_takes_no_more(wavecast, recording, model, streams):
    text = "cannot write to stdout: No space left on device"
    with pytest.raises(OSError, match="No space left"), pathlib.Path("/dev/full").open("w") as full:
        streams(stdout=full)
        wavecast.fails(1, text, "spot", recording(), "--model", model, hint="check where it leads")
        full.close()  # what could not be written is still in it


def test_a_reader_that_has_left(wavecast, recording, model, streams):
    out, into = os.pipe()
    os.close(out)
    with os.fdopen(into, "w") as gone:
        streams(stdout=gone)
        said = wavecast("spot", recording(), "--model", model)
    assert (said.code, said.err) == (0, "")


def test_without_a_microphone_library_the_cure_is_named(wavecast, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    wavecast.fails(1, "sounddevice", "spot", "--mic", "--model", model, hint="wavecast[mic]")


def test_the_command_itself(recording, tmp_path):
    command = [sys.executable, "-m", "wavecast", "spot", str(recording()), "--model", str(tmp_path / "no.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no model" in done.stderr
