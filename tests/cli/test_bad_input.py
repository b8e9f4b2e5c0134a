"""Whatever is wrong with an input or an output of `wavecast enhance`, `separate` and `spot`: a clear word, the right
exit code, nothing lost.

Damaged files by the thousand are in properties/test_fuzz_audio.py, models and options in test_bad_options.py.
"""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from kit.command_line import App
from kit.separators import write_separator
from kit.spotters import write_spotter
from wavecast.apps.enhancement import recording
from wavecast.datamodules import audio_files

RATE = 16000


def read(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


def names(folder):
    """All that lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def noise(samples, channels=1):
    return 0.1 * np.random.default_rng(0).standard_normal((samples, channels))


@pytest.fixture(scope="module")
def separator(tmp_path_factory):
    return write_separator(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def spotter(tmp_path_factory):
    return write_spotter(tmp_path_factory.mktemp("models"))


@pytest.fixture(params=["enhance", "separate", "spot"])
def app(request, wavecast, separator, spotter):
    """The commands on sound; transcription is in test_transcribe.py."""
    if request.param == "enhance":
        return App(wavecast, "enhance", [".enhanced"])
    if request.param == "spot":
        return App(wavecast, "spot", [""], "--model", spotter, suffix="jsonl")
    return App(wavecast, "separate", ["_1", "_2"], "--speakers", "2", "--model", separator)


enhance = pytest.mark.parametrize("app", ["enhance"], indirect=True)
sounding = pytest.mark.parametrize("app", ["enhance", "separate"], indirect=True)
"""Tests of commands that make sound of sound."""


@pytest.fixture
def refused(app, sound, tmp_path):
    """Work on an input that cannot be, between two that can: refused(path, text, hint, *options)."""

    def run(path, text, hint, *options):
        first, last = sound("good/first.wav", seconds=0.1), sound("good/last.flac", seconds=0.1)
        said = app.fails(1, text, first, path, last, "-o", tmp_path / "out", *options, hint=hint)
        first = "first.flac" if "--format" in options else "first.wav"
        assert names(tmp_path / "out") == app.files(first, "last.flac")
        assert app.suffix or read(tmp_path / "out" / app.result("last.flac")).shape == (1, 1600)
        assert ("1 failed" if app.suffix else "2 done, 1 failed") in said.err
        assert said.err.count("wavecast: error:") == 1
        return said

    return run


@pytest.fixture
def taken(app, tmp_path):
    """Work on an input that is odd but can be: gives the sum of the results, the row of the report, and what was said.

    The row has the path of the first result as "output".
    """

    def run(path, *options):
        report = tmp_path / "report.json"
        said = app(path, "-o", f"{tmp_path}/out/", "--json", report, *options)
        assert (said.code, said.out) == (0, ""), said
        row = json.loads(report.read_text())
        results = row.get("outputs") or [row["output"]]
        assert names(tmp_path / "out") == sorted(pathlib.Path(one).name for one in results)
        return sum(read(one) for one in results), row | {"output": results[0]}, said.err

    return run


# Inputs that are not there, or are no sound.


def test_a_missing_file(refused, tmp_path):
    refused(tmp_path / "nowhere.wav", f"{tmp_path / 'nowhere.wav'} does not exist", "")


def test_an_error_names_the_file_once(refused, tmp_path):
    said = refused(tmp_path / "nowhere.wav", "error:", "")
    assert said.err.count("nowhere.wav") == 1


def test_a_folder_without_audio(refused, tmp_path):
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "read.me").write_text("nothing here")
    refused(tmp_path / "papers", "papers holds no audio files", "looked for")


def test_a_pattern_that_matches_nothing(refused, tmp_path):
    refused(f"{tmp_path}/*.m4a", "nothing matches", "")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\0"])
def test_a_list_that_is_missing_or_no_text(refused, tmp_path, content):
    if content:
        (tmp_path / "list.txt").write_bytes(content)
    refused(f"@{tmp_path / 'list.txt'}", "cannot read the list", "")


def test_a_list_with_a_missing_file(refused, tmp_path):
    (tmp_path / "list.txt").write_text("gone.wav\n")
    refused(f"@{tmp_path / 'list.txt'}", "gone.wav does not exist", "")


def test_an_empty_file(refused, tmp_path):
    (tmp_path / "empty.wav").touch()
    refused(tmp_path / "empty.wav", "empty.wav is empty", "")


def test_text_named_wav(refused, tmp_path):
    (tmp_path / "text.wav").write_text("RIFF, says the text, but it is none\n" * 20)
    refused(tmp_path / "text.wav", "text.wav is no sound that can be read", "--raw s16le:16000")


def test_a_picture_named_wav(refused, tmp_path):
    """A picture opens as a video without sound."""
    from matplotlib.figure import Figure

    Figure(figsize=(1, 1)).savefig(tmp_path / "picture.wav", format="png")
    refused(tmp_path / "picture.wav", "picture.wav", "")


def test_an_unreadable_file(refused, sound, monkeypatch):
    """Simulated, as root reads everything."""
    path = sound("secret.wav")
    real = pathlib.Path.open

    def denied(self, *words, **options):
        if self == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(self, *words, **options)

    monkeypatch.setattr(pathlib.Path, "open", denied)
    refused(path, f"cannot read {path}: Permission denied", "")


def test_a_header_without_a_format(refused, sound, tmp_path):
    path = sound("header.wav")
    path.write_bytes(path.read_bytes()[:20])
    refused(path, "header.wav is damaged: a chunk b'fmt ' of 16 bytes goes beyond its end", "cut off")


def test_a_header_without_sound(refused, sound):
    path = sound("header.wav")
    path.write_bytes(path.read_bytes()[:44])
    refused(path, "header.wav holds no sound: it ends after its header", "cut off")


@sounding
@pytest.mark.parametrize("name", ["cut.wav", "cut.aiff"])
def test_truncated_data_gives_what_is_there_and_says_so(taken, sound, name):
    path = sound(name)
    path.write_bytes(path.read_bytes()[:8044])
    y, row, said = taken(path)
    assert 3990 < y.shape[1] < 4010
    assert row["truncated"]
    assert "the input was cut off" in said


def test_truncated_compressed_data_is_refused(refused, sound):
    path = sound("cut.flac", seconds=1)
    path.write_bytes(path.read_bytes()[:-9000])
    refused(path, "cut.flac is damaged", "cut off")


@sounding
@pytest.mark.parametrize("name", ["really.mp3", "really.txt", "really", "really.WAV"])
def test_a_wrong_extension_does_no_harm(app, taken, tmp_path, name):
    """The content counts; the result is named after it."""
    soundfile.write(tmp_path / name, noise(1600), RATE, format="WAV")
    y, row, _ = taken(tmp_path / name)
    assert y.shape == (1, 1600)
    assert row["output"].lower().endswith(app.result("really.wav"))
    assert soundfile.info(row["output"]).format == "WAV"


# Sound that is sound, but odd.


@sounding
def test_no_samples(taken, tmp_path):
    soundfile.write(tmp_path / "none.wav", noise(0), RATE)
    y, row, said = taken(tmp_path / "none.wav")
    assert y.shape == (1, 0)
    assert row["real_time_factor"] is None
    assert "has no samples" in said


@sounding
def test_no_samples_where_the_container_cannot_hold_none(refused, tmp_path):
    soundfile.write(tmp_path / "none.wav", noise(0), RATE)
    refused(tmp_path / "none.wav", "cannot hold a recording of no samples", "--format wav", "--format", "flac")


@sounding
@pytest.mark.parametrize("rate", [16000, 48000])
def test_one_sample(taken, tmp_path, rate):
    soundfile.write(tmp_path / "one.wav", [0.5], rate, subtype="FLOAT")
    y, _, _ = taken(tmp_path / "one.wav")
    assert y.shape == (1, 1)
    assert abs(y[0, 0]) <= 0.5


@enhance
@pytest.mark.parametrize("batch", [1, 2])
def test_samples_that_are_no_numbers_become_silence_and_spoil_no_others(taken, app, sound, tmp_path, batch):
    x = noise(6000).astype(np.float32)
    soundfile.write(tmp_path / "clean.wav", x, RATE, subtype="FLOAT")
    x[3000:3005, 0] = [np.nan, np.inf, -np.inf, 1e38, -1e30]
    soundfile.write(tmp_path / "odd.wav", x, RATE, subtype="FLOAT")
    y, row, said = taken(tmp_path / "odd.wav", "--batch", batch)
    assert row["not_finite_samples"] == 5
    assert "5 samples were not numbers and became 0" in said
    assert np.isfinite(y).all()
    app(tmp_path / "clean.wav")
    assert np.allclose(y[0, :2400], read(tmp_path / "clean.enhanced.wav")[0, :2400], atol=1e-6)
    assert np.abs(y[0, 4000:]).max() > 0


@sounding
def test_nothing_but_nan(taken, tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.full(4000, np.nan), RATE, subtype="FLOAT")
    y, row, _ = taken(tmp_path / "nan.wav")
    assert not y.any()
    assert row["level_in"] == {"rms_db": None, "peak_db": None}


@sounding
def test_digital_silence_stays_silent(taken, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros((8000, 2)), RATE)
    y, row, _ = taken(tmp_path / "silent.wav")
    assert np.abs(y).max() <= 2**-15
    assert row["level_in"]["peak_db"] is None


@enhance
@pytest.mark.parametrize("offset", [0.5, 1.0, -1.0])
def test_a_constant_offset_is_no_speech(taken, tmp_path, offset):
    soundfile.write(tmp_path / "offset.wav", np.full(8000, offset), RATE, subtype="FLOAT")
    y, _, _ = taken(tmp_path / "offset.wav")
    assert np.isfinite(y).all()
    assert np.abs(y[0, 3000:-2000]).max() < 0.1 * abs(offset)


@enhance
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_U8", "PCM_24", "FLOAT"])
def test_a_full_scale_square_wave_never_wraps(taken, tmp_path, subtype):
    x = np.where(np.sin(2 * np.pi * 200 * np.arange(16000) / RATE) >= 0, 1.0, -1.0)
    soundfile.write(tmp_path / "square.wav", x, RATE, subtype=subtype)
    y, row, _ = taken(tmp_path / "square.wav", "--mix", "0.5", "--gain-db", "6")
    late = y[0, np.abs(y[0]) > 0.5]
    assert len(late) > 1000
    assert np.sign(late).tolist() == np.sign(x[np.abs(y[0]) > 0.5]).tolist()
    if subtype != "FLOAT":
        assert row["clipped_samples"] > 0


@pytest.mark.parametrize("rate", [1, 10_000_000])
def test_sample_rates_that_are_no_sound(refused, tmp_path, rate):
    soundfile.write(tmp_path / "odd.wav", noise(1600), rate)
    refused(tmp_path / "odd.wav", f"a sample rate of {rate} Hz", "is the file's header right?")


@enhance
@pytest.mark.parametrize("shared", ["each", "shared"])
def test_64_channels(taken, tmp_path, shared):
    soundfile.write(tmp_path / "many.wav", noise(800, 64), RATE, subtype="FLOAT")
    y, row, _ = taken(tmp_path / "many.wav", "--channels", shared)
    assert (y.shape, row["channels"]) == ((64, 800), 64)
    assert not np.array_equal(y[0], y[63])


@enhance
def test_64_channels_where_the_container_holds_fewer(refused, tmp_path):
    soundfile.write(tmp_path / "many.wav", noise(800, 64), RATE)
    refused(tmp_path / "many.wav", "FLAC cannot hold PCM_16 of 64 channels", "--format", "--format", "flac")


# Outputs.


def test_a_target_in_a_read_only_folder(app, sound, tmp_path, monkeypatch):
    """Simulated, as root writes everywhere."""
    first, second = sound("a.wav", seconds=0.1), sound("b.wav", seconds=0.1)
    real, tried = os.open, []

    def denied(path, flags, *rest):
        if str(path).endswith(".part") and not tried:
            tried.append(path)
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *rest)

    monkeypatch.setattr(audio_files.os, "open", denied)
    out = tmp_path / "out"
    said = app.fails(1, "Read-only file system", first, second, "-o", out, hint="check the folder")
    assert str(out / app.result("a.wav")) in said.err
    assert names(out) == app.files("b.wav")


def test_a_target_below_a_file(app, sound, tmp_path):
    (tmp_path / "file").write_text("no folder")
    words = sound(seconds=0.1), "-o", tmp_path / "file" / "y.wav"
    app.fails(1, f"cannot make the folder {tmp_path / 'file'}: it is a file", *words, hint="choose another name")
    assert (tmp_path / "file").read_text() == "no folder"


@sounding
def test_a_target_that_is_a_folder(app, sound, tmp_path):
    (tmp_path / app.result("noisy.wav")).mkdir()
    app.fails(1, "is a folder", sound(seconds=0.1), hint="give a file name")
    assert names(tmp_path / app.result("noisy.wav")) == []


@sounding
def test_a_full_disk(app, sound, tmp_path, monkeypatch):
    """There is room for the first file, not for the second, and again for the third."""
    paths = [sound(f"{name}.wav", seconds=seconds) for name, seconds in (("a", 0.2), ("b", 1.0), ("c", 0.2))]
    real = os.write

    def limited(descriptor, data):
        if os.lseek(descriptor, 0, os.SEEK_CUR) + len(data) > 20_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    monkeypatch.setattr(audio_files.os, "write", limited)
    out = tmp_path / "out"
    said = app.fails(1, "No space left on device", *paths, "-o", out, hint="the space on it")
    assert "2 done, 1 failed" in said.err
    assert names(out) == app.files("a.wav", "c.wav")
    assert read(out / app.result("c.wav")).shape == (1, 3200)


@sounding
def test_a_full_disk_keeps_what_was_to_be_overwritten(app, sound, tmp_path, monkeypatch):
    path, target = sound(), tmp_path / "out" / app.result("noisy.wav")
    target.parent.mkdir()
    target.write_bytes(b"what was there before")
    monkeypatch.setattr(audio_files.os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space")))
    app.fails(1, "No space", path, "-o", target.parent, "--overwrite")
    assert target.read_bytes() == b"what was there before"
    assert names(target.parent) == [target.name]


@sounding
@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_report_to_a_full_disk(app, sound, tmp_path):
    path = sound(seconds=0.1)
    app.fails(1, "cannot write the report /dev/full: No space", path, "--json", "/dev/full", "--overwrite")
    assert names(tmp_path) == sorted([*app.files("noisy.wav"), "noisy.wav"])


def test_a_report_that_exists(app, sound, tmp_path):
    (tmp_path / "r.json").write_text("{}")
    app.fails(1, "r.json exists", sound(), "--json", tmp_path / "r.json", hint="--overwrite")
    assert names(tmp_path) == ["noisy.wav", "r.json"]


@enhance
@pytest.mark.parametrize("output", ["noisy.wav", "./noisy.wav", "link.wav"])
def test_an_output_that_is_the_input(app, sound, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    before = sound().read_bytes()
    (tmp_path / "link.wav").symlink_to("noisy.wav")
    words = "noisy.wav", "-o", output, "--overwrite"
    app.fails(1, "is an input itself", *words, hint="choose another name")
    assert (tmp_path / "noisy.wav").read_bytes() == before


@enhance
def test_a_template_that_names_the_input(app, sound, tmp_path):
    before = sound().read_bytes()
    words = tmp_path / "noisy.wav", "--name-template", "{stem}", "--overwrite"
    app.fails(1, "is an input itself", *words, hint="choose another name")
    assert (tmp_path / "noisy.wav").read_bytes() == before


@sounding
def test_an_output_that_is_another_input(app, sound, tmp_path):
    sound("a.wav"), sound(app.result("a.wav"))
    app.fails(1, f"{app.result('a.wav')} is an input itself", f"{tmp_path}/*.wav", "--overwrite", hint="-o")
    assert names(tmp_path) == sorted([app.result("a.wav"), "a.wav"])


@sounding
def test_an_output_that_exists(app, sound, tmp_path):
    first, second = sound("a.wav", seconds=0.1), sound("b.wav", seconds=0.1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / app.result("a.wav")).write_text("mine")
    words = first, second, "-o", tmp_path / "out"
    said = app.fails(1, f"{app.result('a.wav')} exists", *words, hint="--overwrite")
    assert "1 done, 1 failed" in said.err
    assert (tmp_path / "out" / app.result("a.wav")).read_text() == "mine"
    assert names(tmp_path / "out") == sorted([app.result("a.wav"), *app.files("b.wav")])
    assert app(*words, "--overwrite").code == 0
    assert read(tmp_path / "out" / app.result("a.wav")).shape == (1, 1600)


@sounding
def test_a_picture_that_exists_stops_the_work_before_it_begins(app, sound, tmp_path):
    path = sound(seconds=0.1)
    picture = app.result("noisy.png")
    (tmp_path / picture).write_text("mine")
    app.fails(1, f"{picture} exists", path, "--plot", hint="--overwrite")
    assert names(tmp_path) == sorted([picture, "noisy.wav"])


def test_two_inputs_for_one_output_file(app, sound, tmp_path):
    words = sound("a.wav"), sound("b.wav"), "-o", tmp_path / "one.wav"
    app.fails(2, "2 inputs cannot go to one file", *words, hint=f"give -o {tmp_path / 'one.wav'}/")
    assert names(tmp_path) == ["a.wav", "b.wav"]


@enhance
def test_two_inputs_that_map_to_one_output(app, sound, tmp_path):
    words = sound("in/a.wav"), sound("in/b.wav"), "-o", f"{tmp_path}/out/", "--name-template", "same"
    app.fails(1, "two inputs would go to", *words, hint="FOLDER")
    assert not (tmp_path / "out").exists()


def test_two_inputs_of_one_name_from_two_folders(app, sound, tmp_path):
    words = sound("here/a.wav"), sound("there/a.wav"), "-o", f"{tmp_path}/out/"
    app.fails(1, "two inputs would go to", *words, hint="FOLDER")
    assert not (tmp_path / "out").exists()


def test_one_input_named_twice_is_done_once(app, sound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sound("a.wav", seconds=0.1)
    report = tmp_path / "r.json"
    assert app("a.wav", "./a.wav", tmp_path / "a.wav", "--json", report).code == 0
    assert len(report.read_text().splitlines()) == 1


# Names.


@sounding
@pytest.mark.parametrize(
    "name", ["new\nline", "emoji 🎤 ä", "-dash", "--help", "{stem}", "100%s", "[a]*", "a" * 230, "🎤" * 55]
)
def test_odd_names(app, taken, sound, tmp_path, name):
    y, row, _ = taken(sound(f"in/{name}.wav", seconds=0.1))
    assert y.shape == (1, 1600)
    assert row["output"] == str(tmp_path / "out" / app.result(f"{name}.wav"))


@sounding
@pytest.mark.parametrize("name", ["-dash.wav", "--help.wav", "@list.wav"])
def test_names_that_begin_like_something_else(app, sound, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    sound(name, seconds=0.1)
    assert app("--", name).code == 0
    assert names(tmp_path) == sorted([name, *app.files(name)])


def test_a_name_that_looks_like_an_option_gets_help(app, sound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sound("-dash.wav")
    app.fails(2, "-dash.wav looks like an option", "-dash.wav", hint="./-dash.wav")
    app.fails(2, "looks like an option", "noisy.wav", "-dash.wav", "--quiet", hint="./-dash.wav")


def test_a_name_that_is_no_text(app, sound, tmp_path):
    """Bytes that are no UTF-8."""
    sound("in/a.wav", seconds=0.1).rename(tmp_path / "in" / "caf\udce9.wav")
    words = tmp_path / "in", "-o", tmp_path / "out"
    assert r"caf\xe9.wav -> " in app(*words, "--dry-run").out
    said = app(*words, "--json", "-", "--quiet")
    assert said.code == 0
    assert json.loads(said.out)["input"].endswith("caf\udce9.wav")
    assert names(tmp_path / "out") == app.files("caf\udce9.wav")


# Pipes and Ctrl-C; live pipes and readers that leave them are in test_enhance.py and
# test_separate.py.


@sounding
def test_a_file_sent_to_a_reader_that_has_left(app, sound, streams):
    out, into = os.pipe()
    os.close(out)
    with os.fdopen(into, "w") as gone:
        streams(stdout=gone)
        said = app(sound(), "-o", "-")
    assert (said.code, said.err) == (0, "")


@sounding
@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_stdout_that_takes_no_more(app, sound, streams):
    with pathlib.Path("/dev/full").open("w") as full:
        streams(stdout=full)
        text = "cannot write to stdout: No space left on device"
        app.fails(1, text, sound(seconds=0.1), "-o", "-", hint="check where it leads")


@pytest.mark.parametrize(
    ("data", "text", "hint"),
    [
        (b"", "the input is empty", ""),
        (b"no sound at all", "no sound that can be read from a pipe", "--raw s16le:16000"),
        (b"RIFF\0\0\0\0WAVEfmt ", "the WAV ends before its sound begins", "cut off"),
    ],
)
def test_a_pipe_without_sound(app, tmp_path, streams, data, text, hint):
    (tmp_path / "pipe").write_bytes(data)
    with (tmp_path / "pipe").open() as pipe:
        streams(stdin=pipe)
        app.fails(1, text, "-", hint=hint)


@sounding
def test_ctrl_c_that_a_library_drops(app, sound, tmp_path, monkeypatch, keyboard):
    """Pressed while Python clears up an object, where no exception gets out: the work stops at the next block."""

    class Cleared:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    monkeypatch.setattr(recording.Level, "add", lambda *_: Cleared() and None)
    said = app(sound("a.wav", seconds=8), "-o", f"{tmp_path}/out/")
    assert {one.exc_type for one in dropped} == {KeyboardInterrupt}
    assert (said.code, said.out) == (130, "")
    assert "wavecast: error: interrupted" in said.err
    assert names(tmp_path / "out") == []


def test_ctrl_c(sound, tmp_path, keyboard):
    """A real signal, sent when the second of two files is being written."""
    first, second = sound("a.wav", seconds=0.1), sound("b.wav", seconds=120)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "wavecast", "enhance", str(first), str(second), "-o", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert "a.enhanced.wav" in process.stderr.readline()
        while not any(name.endswith(".part") for name in names(out)):
            assert process.poll() is None
            time.sleep(0)
        process.send_signal(signal.SIGINT)
        said, err = process.communicate()
    assert (process.returncode, said) == (130, "")
    assert "wavecast: error: interrupted" in err
    assert "Traceback" not in err
    assert names(out) == ["a.enhanced.wav"]
