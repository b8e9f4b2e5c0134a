"""What can be wrong with `wavecast separate` alone: a clear word, the right exit code, nothing written.

What it has in common with `wavecast enhance` is in test_bad_input.py.
"""

import json
import os

import numpy as np
import pytest
import soundfile

from kit.separators import write_separator
from kit.sounds import hiss, voice
from wavecast.apps.separation.inference import Separator
from wavecast.apps.separation.speakers import pass_bytes

RATE, WINDOW = 8000, 24_000


def read(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


def names(folder):
    """All that lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model for two speakers, whose windows have 3 s."""
    return write_separator(tmp_path_factory.mktemp("models"), rate=RATE, window_seconds=WINDOW / RATE)


@pytest.fixture
def recording(tmp_path):
    """Write a recording: recording("a.wav", x, rate) gives its path."""

    def write(x, name="x.wav", rate=RATE):
        soundfile.write(tmp_path / name, x, rate, subtype="FLOAT")
        return tmp_path / name

    return write


@pytest.fixture
def whole(wavecast, model, tmp_path):
    """Separate a recording, and give the row of the report and what was said; the results must sum to the recording,
    or to one that is named as its clean form."""

    def run(path, *options, speakers="auto", clean=None):
        report = tmp_path / "report.json"
        words = "-o", f"{tmp_path}/out/", "--json", report, "--model", model, "--speakers", speakers
        said = wavecast("separate", path, *words, *options)
        assert (said.code, said.out) == (0, ""), said
        row, x = json.loads(report.read_text()), np.nan_to_num(read(clean or path))
        results = np.stack([read(one) for one in row["outputs"]])
        assert results.shape[2] == x.shape[1]
        assert np.allclose(
            results.sum(0), x if "each" in options else x.mean(0), atol=2e-6 * max(1, np.abs(x).max(initial=0))
        )
        return row, said.err

    return run


@pytest.mark.parametrize(
    "samples",
    [0, 1, 2, 15, 16, 17, 80, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 28_000, 40_000],
)
def test_every_length_comes_out_whole(whole, recording, samples):
    """10 ms, one window to the sample, and those where the published decoder leaves silence: 3.5 and 5 s."""
    x = voice(1, samples / RATE, RATE)[:samples] + 0.1 * hiss(2, samples / RATE, RATE)[:samples]
    row, _ = whole(recording(x), speakers=2)
    assert row["seconds"] == round(samples / RATE, 3)
    tail = np.stack([read(one)[0, -2000:] for one in row["outputs"]])
    assert samples < WINDOW or np.abs(tail).max() > 0.001


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.zeros(40_000),
        lambda: hiss(0, 5.0, RATE),
        lambda: voice(0, 5.0, RATE),
        lambda: sum(voice(i, 5.0, RATE) for i in range(4)),
        lambda: np.sin(np.arange(40_000) / 5),
        lambda: np.where(np.arange(40_000) % 40 < 20, 1.0, -1.0),
        lambda: np.full(40_000, 0.5),
        lambda: np.full(40_000, np.nan),
        lambda: 1e-9 * voice(0, 5.0, RATE),
        lambda: 1e5 * voice(0, 5.0, RATE),
    ],
    ids=["silence", "noise", "one", "four", "tone", "square", "offset", "nan", "faint", "loud"],
)
def test_whatever_comes_in_goes_out(whole, recording, make):
    row, said = whole(recording(make().astype(np.float32)))
    assert 1 <= row["speakers"] <= 2
    assert "Traceback" not in said


def test_samples_that_are_no_numbers_become_silence(whole, recording):
    x = voice(1, 2.0, RATE)
    x[5000:5005] = [np.nan, np.inf, -np.inf, 1e38, -1e30]
    path = recording(x)
    x[5000:5005] = 0
    clean = recording(x, "clean.wav")
    row, said = whole(path, clean=clean)
    assert row["not_finite_samples"] == 5
    assert "5 samples were not numbers and became 0" in said


@pytest.mark.parametrize("channels", ["mean", "each"])
def test_many_channels(whole, recording, channels):
    x = 0.1 * np.random.default_rng(0).standard_normal((800, 64))
    row, _ = whole(recording(x), "--channels", channels, speakers=2)
    assert row["channels"] == 64
    assert read(row["outputs"][0]).shape == (64 if channels == "each" else 1, 800)


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 44_100, 96_000])
def test_every_rate(whole, recording, rate):
    row, _ = whole(recording(voice(3, 1.3, rate) + hiss(4, 1.3, rate), rate=rate), speakers=2)
    assert row["sample_rate"] == rate


@pytest.mark.parametrize(
    ("code", "words", "text", "hint"),
    [
        (2, ["--speakers", "4"], "invalid choice: '4'", "--help"),
        (2, ["--name-template", "{stem}"], "gives all speakers one name", "use {speaker}"),
        (2, ["--name-template", "{name}_{speaker}"], "is not understood", "use {stem} and {speaker}"),
        (2, ["--residual", "--enhance"], "there is no residual", "leave one of both out"),
        (2, ["--json", "-", "-o", "-"], "sound and report cannot both go to stdout", "give --json a file"),
        (2, ["--reference", "a.wav", "b.wav", "--speakers", "3"], "2 references for 3 speakers", "one for each"),
        (2, ["--reference", "a.wav"], "1 references", "one for each"),
        (2, ["--overwrit"], "unrecognized argument", "did you mean --overwrite?"),
        (1, ["--speakers", "3"], "mossformer2.two separates 2 speakers, not 3", "models list"),
        (1, ["--reference", "x.wav", "x.wav", "x.wav"], "separates 2 speakers, not 3", "models list"),
        (1, ["--model", "frcrn.stream16k"], "is a model to enhance, not to separate", "models list"),
        (1, ["--model", "mossformer3"], "there is no model 'mossformer3'", ""),
        (
            1,
            ["--enhance-model", "frcrn.strem16k"],
            "there is no model 'frcrn.strem16k'",
            "did you mean frcrn.stream16k?",
        ),
        (1, ["--device", "gpu"], "there is no device 'gpu'", "give auto, cpu"),
        (1, ["--format", "doc"], "cannot write .doc files", "known: .wav"),
        (1, ["--reference", "x.wav", "nowhere.wav"], "nowhere.wav does not exist", ""),
    ],
)
def test_options_that_do_not_fit(wavecast, recording, model, tmp_path, monkeypatch, code, words, text, hint):
    monkeypatch.chdir(tmp_path)
    recording(voice(0, 0.5, RATE))
    before = [] if "--model" in words else ["--model", model]
    wavecast.fails(code, text, "separate", "x.wav", *before, *words, hint=hint)
    assert names(tmp_path) == ["x.wav"]


@pytest.mark.parametrize(
    ("words", "text", "hint"),
    [
        (["-o", "out/"], "live sound has no name of its own", "give -o out/NAME.wav"),
        (["--peaks", "rescale"], "a level that depends on the whole recording", "--peaks soft"),
    ],
)
def test_what_live_sound_cannot_have(wavecast, model, words, text, hint):
    wavecast.fails(2, text, "separate", "-", "--model", model, *words, hint=hint)


def test_references_of_another_length(wavecast, recording, model, tmp_path):
    path, short = recording(voice(0, 0.5, RATE)), recording(voice(0, 0.4, RATE), "short.wav")
    words = "separate", path, "--model", model, "--reference"
    wavecast.fails(1, "the references have 3200 samples", *words, short, short, hint="this very recording")
    wavecast.fails(1, "the references differ", *words, path, short, hint="one mixture")
    assert names(tmp_path) == ["short.wav", "x.wav"]


def test_a_second_result_that_exists_stops_the_work_before_it_begins(wavecast, recording, model, tmp_path):
    path = recording(voice(0, 0.5, RATE))
    (tmp_path / "x_2.wav").write_text("mine")
    wavecast.fails(1, "x_2.wav exists", "separate", path, "--model", model, hint="--overwrite")
    assert names(tmp_path) == ["x.wav", "x_2.wav"]
    assert (tmp_path / "x_2.wav").read_text() == "mine"


def test_not_enough_memory_for_one_pass(wavecast, recording, model, tmp_path, monkeypatch):
    short, long = recording(voice(0, 0.2, RATE), "short.wav"), recording(voice(0, 60.0, RATE), "long.wav")
    room = pass_bytes(Separator.load(str(model)), 50.0)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": room}.get)
    words = "separate", short, long, "--model", model, "--speakers", "2", "--whole", "-o", tmp_path / "out"
    said = wavecast.fails(1, "one pass over 60 s needs about", *words, hint="leave --whole out: windows of 3 s")
    assert f"there are {room / 1e9:.1f} GB" in said.err
    assert names(tmp_path / "out") == ["short_1.wav", "short_2.wav"]
