"""`wavecast separate` does what its options say; the models are tiny, and their weights random."""

import errno
import json
import os
import resource

import numpy as np
import pytest
import soundfile

import wavecast as package
from kit.separators import write_separator
from kit.sounds import voice
from wavecast.apps.separation import separated_windows
from wavecast.apps.separation.presence import Voice, choose_results
from wavecast.cards import Card, build_network, save_model
from wavecast.core.recorded import Recorded
from wavecast.datamodules.new_files import NewFile


def read(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


def names(folder):
    """All that lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models by name: two and three outputs, one whose second output is silent, one that streams."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "two": write_separator(folder, "two"),
        "three": write_separator(folder, "three", speakers=3, silent=(2,)),
        "one": write_separator(folder, "one", silent=(1,)),
        "live": write_separator(folder, "live", causal=True),
    }


@pytest.fixture
def separate(wavecast, models):
    """Run the command with a model; all outputs are kept unless said otherwise."""

    def run(*words, model="two", speakers=2):
        return wavecast("separate", *words, "--model", models[model], "--speakers", speakers)

    return run


@pytest.fixture
def talk(tmp_path):
    """Write two voices: talk("a.wav", seconds, rate, channels, subtype) gives the path."""

    def write(name="talk.wav", seconds=1.0, rate=8000, channels=1, subtype="FLOAT"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sound = np.stack([voice(i, seconds, rate) + voice(i + 7, seconds, rate) for i in range(channels)], 1)
        soundfile.write(path, sound, rate, subtype=subtype)
        return path

    return write


def test_files_beside_the_recording_that_sum_to_it(separate, talk, tmp_path):
    path = talk(seconds=7.0)
    said = separate(path)
    assert (said.code, said.out) == (0, "")
    assert f"{tmp_path / 'talk_1.wav'} {tmp_path / 'talk_2.wav'}: 7.0 s in" in said.err
    first, second = read(tmp_path / "talk_1.wav"), read(tmp_path / "talk_2.wav")
    assert np.abs(first).max() > 0.01
    assert np.abs(second).max() > 0.01
    assert np.allclose(first + second, read(path), atol=1e-6)
    assert names(tmp_path) == ["talk.wav", "talk_1.wav", "talk_2.wav"]


@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("a.wav", 16000, 1, "PCM_24"),
        ("a.flac", 44100, 2, "PCM_16"),
        ("a.ogg", 48000, 3, None),
        ("a.aiff", 8000, 1, None),
    ],
)
def test_rate_and_container_stay_and_every_speaker_has_one_channel(
    separate, talk, tmp_path, name, rate, channels, subtype
):
    path = talk(name, 0.5, rate, channels, subtype)
    assert separate(path).code == 0
    before, after = soundfile.info(path), soundfile.info(tmp_path / name.replace("a.", "a_2."))
    assert (after.samplerate, after.channels, after.frames) == (rate, 1, before.frames)
    assert (after.format, after.subtype) == (before.format, before.subtype)


def test_each_channel_on_its_own(separate, talk, tmp_path):
    path = talk(channels=2)
    assert separate(path, "--channels", "each").code == 0
    total = read(tmp_path / "talk_1.wav") + read(tmp_path / "talk_2.wav")
    assert total.shape == (2, 8000)
    assert np.allclose(total, read(path), atol=1e-6)


def test_identical_channels_give_what_one_gives(separate, talk, tmp_path):
    path = talk()
    soundfile.write(tmp_path / "same.wav", np.repeat(read(path).T, 2, 1), 8000, subtype="FLOAT")
    assert separate(path, tmp_path / "same.wav").code == 0
    assert np.allclose(read(tmp_path / "same_1.wav"), read(tmp_path / "talk_1.wav"), atol=1e-6)
    assert separate(tmp_path / "same.wav", "--channels", "each", "-o", tmp_path / "each").code == 0
    left, right = read(tmp_path / "each" / "same_2.wav")
    assert np.allclose(left, right, atol=1e-6)


def test_format_subtype_rate_and_name_can_be_chosen(separate, talk, tmp_path):
    words = "--format", "flac", "--subtype", "pcm_24", "--rate", 16000, "--name-template", "voice{speaker}-{stem}"
    assert separate(talk(), *words, "-o", f"{tmp_path}/out/").code == 0
    info = soundfile.info(tmp_path / "out" / "voice2-talk.flac")
    assert (info.samplerate, info.subtype, info.frames) == (16000, "PCM_24", 16000)


def test_a_file_as_output_gives_its_name_to_all(separate, talk, tmp_path):
    assert separate(talk(), "-o", tmp_path / "who.flac").code == 0
    assert names(tmp_path) == ["talk.wav", "who_1.flac", "who_2.flac"]


def test_folders_are_mirrored_and_names_never_collide(separate, talk, tmp_path):
    for name in ("in/x.wav", "in/deep/x.wav", "in/same.wav", "in/same.flac"):
        talk(name, 0.1, subtype=None)
    words = tmp_path / "in", "-o", tmp_path / "out", "--format", "wav"
    assert separate(*words).code == 0
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.wav"))
    stems = ("deep/x_{}", "same_{}.flac", "same_{}.wav", "x_{}")
    assert found == sorted(f"{stem.format(i)}.wav" for stem in stems for i in (1, 2))
    assert separate(*words, "--dry-run").out.splitlines()[:2] == [
        f"{tmp_path}/in/deep/x.wav -> {tmp_path}/out/deep/x_{i}.wav" for i in (1, 2)
    ]


def test_resume_leaves_out_what_is_done(separate, talk, tmp_path):
    for name in ("in/a.wav", "in/b.wav", "in/c.wav"):
        talk(name, 0.2)
    words = tmp_path / "in", "-o", tmp_path / "out"
    assert separate(*words).code == 0
    (tmp_path / "out" / "a_2.wav").unlink()
    for i in (1, 2):
        (tmp_path / "out" / f"b_{i}.wav").unlink()
    done = (tmp_path / "out" / "c_1.wav").stat().st_mtime_ns
    said = separate(*words, "--resume")
    assert (said.code, names(tmp_path / "out")) == (1, ["a_1.wav", "b_1.wav", "b_2.wav", "c_1.wav", "c_2.wav"])
    assert "1 of 3 were done before" in said.err
    assert "a_1.wav exists" in said.err
    assert (tmp_path / "out" / "c_1.wav").stat().st_mtime_ns == done


def test_an_output_without_a_voice_is_left_out_and_stays_done(separate, talk, tmp_path):
    """One speaker in gives one file, which is the recording."""
    path = talk(seconds=4.0)
    words = path, "--json", tmp_path / "r.json", "--overwrite"
    said = separate(*words, model="one", speakers="auto")
    assert said.code == 0
    assert "1 output has no voice and is left out (--speakers 2 keeps all)" in said.err
    assert names(tmp_path) == ["r.json", "talk.wav", "talk_1.wav"]
    assert np.allclose(read(tmp_path / "talk_1.wav"), read(path), atol=1e-6)
    row = json.loads((tmp_path / "r.json").read_text())
    assert (row["speakers"], row["outputs"]) == (1, [str(tmp_path / "talk_1.wav")])
    assert [one["kept"] for one in row["voices"]] == [True, False]
    assert row["voices"][0]["active_seconds"] > 2
    assert "1 of 1 were done before" in separate(path, "--resume", model="one", speakers="auto").err
    assert "0 of 1 were done before" in separate(*words, "--resume", model="one", speakers=2).err
    assert np.abs(read(tmp_path / "talk_2.wav")).max() < 1e-7
    said = separate(*words, model="one", speakers="auto")
    assert f"{tmp_path / 'talk_2.wav'} is of an earlier run" in said.err


def test_three_speakers(separate, talk, tmp_path):
    path = talk(seconds=4.0)
    assert separate(path, model="three", speakers=3).code == 0
    assert np.allclose(sum(read(tmp_path / f"talk_{i}.wav") for i in (1, 2, 3)), read(path), atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_no_voice_gives_one_file_with_all_there_is(separate, tmp_path, noise):
    sound = noise * np.random.default_rng(0).standard_normal((16000, 1)).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", sound, 8000, subtype="FLOAT")
    said = separate(tmp_path / "x.wav", speakers="auto")
    assert said.code == 0
    assert "there is no voice in it" in said.err
    assert names(tmp_path) == ["x.wav", "x_1.wav"]
    assert np.allclose(read(tmp_path / "x_1.wav"), sound.T, atol=1e-6)


@pytest.mark.parametrize("speakers", [2, "auto"])
def test_the_residual_is_what_belongs_to_no_speaker(separate, talk, tmp_path, speakers):
    path = talk(seconds=4.0)
    assert separate(path, "--residual", model="one", speakers=speakers).code == 0
    results = [name for name in names(tmp_path) if "_" in name]
    assert results == [*["talk_1.wav", "talk_2.wav"][: 2 if speakers == 2 else 1], "talk_residual.wav"]
    assert np.abs(read(tmp_path / "talk_residual.wav")).max() > 0.001
    assert np.allclose(sum(read(tmp_path / name) for name in results), read(path), atol=1e-6)
    assert "1 of 1 were done before" in separate(path, "--residual", "--resume", model="one", speakers=speakers).err
    (tmp_path / "talk_residual.wav").unlink()
    assert "0 of 1 were done before" in separate(path, "--residual", "--resume", model="one", speakers=speakers).err


def test_results_hold_all_of_the_mixture():
    def there(level, present):
        return Voice(level, 1.0, present)

    voices = [there(-30.0, True), there(-60.0, False), there(-20.0, True)]
    assert choose_results(voices, auto=False, residual=True) == [[0], [1], [2], [3]]
    assert choose_results(voices, auto=True, residual=False) == [[0], [2, 1]]
    assert choose_results(voices, auto=True, residual=True) == [[0], [2], [3, 1]]
    assert choose_results([there(None, False), there(-50.0, False)], auto=True, residual=False) == [[1, 0]]


def test_gain_and_peaks(separate, talk, tmp_path):
    path = talk()

    def run(*options):
        assert separate(path, "-o", tmp_path / "y.wav", "--overwrite", *options).code == 0
        return np.concatenate([read(tmp_path / f"y_{i}.wav") for i in (1, 2)])

    plain = run()
    assert np.allclose(run("--gain-db", 6), plain * 10**0.3, atol=1e-6)
    lowered = run("--gain-db", 40, "--peaks", "rescale")
    assert 20 * np.log10(np.abs(lowered).max()) == pytest.approx(-0.1, abs=0.01)
    assert np.allclose(lowered / np.abs(lowered).max(), plain / np.abs(plain).max(), atol=1e-5)
    soft = run("--gain-db", 40, "--peaks", "soft")
    assert 0.9 < np.abs(soft).max() <= 1
    assert (np.sign(soft) == np.sign(plain)).all()


def test_references_are_compared_in_the_best_order(separate, talk, tmp_path):
    path = talk()
    assert separate(path).code == 0
    voices = tmp_path / "talk_2.wav", tmp_path / "talk_1.wav"
    report = tmp_path / "r.json"
    assert separate(path, "-o", f"{tmp_path}/o/", "--json", report, "--reference", *voices, speakers="auto").code == 0
    row = json.loads(report.read_text())
    assert row["si_sdr_out"] > 60
    assert row["si_sdr_gain"] == pytest.approx(row["si_sdr_out"] - row["si_sdr_in"], abs=0.01)
    assert len(row["si_sdr_gains"]) == 2


def test_a_picture_of_all(separate, talk, tmp_path):
    path = talk()
    row = json.loads(separate(path, "--plot", "--residual", "--json", "-").out)
    assert row["plot"] == str(tmp_path / "talk_1.png")
    assert (tmp_path / "talk_1.png").read_bytes()[:4] == b"\x89PNG"


def test_the_report_says_what_was_done(separate, talk, monkeypatch, tmp_path):
    path = talk(seconds=8.0, rate=16000)
    said = separate(path, "--json", "-", "--quiet")
    row = json.loads(said.out)
    assert said.err == ""
    assert (row["seconds"], row["sample_rate"], row["speakers"]) == (8.0, 16000, 2)
    assert (row["model"], len(row["model_sha256"])) == ("mossformer2.two", 64)
    assert set(row["levels_out"]) == {"1", "2"}
    assert row["level_in"]["rms_db"] == pytest.approx(20 * np.log10(read(path).std()), abs=0.1)
    assert len(row["seams"]) > 1
    assert all(0 < seam["seconds"] < 8 and sorted(seam["order"]) == [0, 1] for seam in row["seams"])
    monkeypatch.setattr(separated_windows, "CERTAIN", 2.0)
    said = separate(path, "--overwrite", "--json", "-")
    assert f"it is not certain that speakers stay the same at {row['seams'][0]['seconds']:.1f} s" in said.err
    assert json.loads(said.out)["uncertain_seams"] == len(row["seams"])


def test_python_and_file_agree_to_the_byte(separate, talk, models, tmp_path):
    path = talk(seconds=5.0, rate=44100)
    assert separate(path).code == 0
    separator = package.load("separate", str(models["two"]))
    x = read(path)[0]
    expected = separator(x, 44100, separator_options(speakers=2))
    assert np.array_equal(expected, np.concatenate([read(tmp_path / f"talk_{i}.wav") for i in (1, 2)]))


def separator_options(**wanted):
    from wavecast.apps.separation.inference import Options

    return Options(**wanted)


@pytest.fixture(autouse=True)
def unprepared(monkeypatch):
    """Live sound begins at once: to record a network takes longer than these tests."""
    monkeypatch.setattr(Recorded, "prepare", lambda *_: None)


def run_pipe(separate, streams, tmp_path, path, *words, model):
    """Run with a file as stdin and another as stdout; gives what was said, and the bytes."""
    with path.open() as pipe, (tmp_path / "out.wav").open("wb") as out:
        streams(stdin=pipe, stdout=out)
        said = separate("-", "-o", "-", *words, model=model, speakers="auto")
    return said, (tmp_path / "out.wav").read_bytes()


def test_live_sound_gives_one_sound_with_a_channel_for_each_speaker(separate, talk, streams, tmp_path):
    path = talk(seconds=1.5, subtype="PCM_16")
    assert separate(path, "-o", f"{tmp_path}/o/", model="live").code == 0
    said, wav = run_pipe(separate, streams, tmp_path, path, model="live")
    assert (said.code, said.err, wav[:4]) == (0, "", b"RIFF")
    files = [soundfile.read(tmp_path / "o" / f"talk_{i}.wav", dtype="int16")[0] for i in (1, 2)]
    assert wav[44:] == np.stack(files, 1).tobytes()
    (tmp_path / "raw").write_bytes(soundfile.read(path, dtype="int16")[0].tobytes())
    said, raw = run_pipe(separate, streams, tmp_path, tmp_path / "raw", "--raw", "s16le:8000", model="live")
    assert raw == wav[44:]


def test_live_sound_into_files(separate, talk, streams, tmp_path):
    path = talk(subtype="PCM_16")
    with path.open() as pipe:
        streams(stdin=pipe)
        assert separate("-", "-o", tmp_path / "who.wav", model="live").code == 0
    assert np.allclose(sum(read(tmp_path / f"who_{i}.wav") for i in (1, 2)), read(path), atol=1e-4)


def test_a_file_to_stdout(separate, talk, streams, tmp_path):
    """What has no voice is no channel."""
    path = talk(seconds=4.0)
    with (tmp_path / "out.wav").open("wb") as out:
        streams(stdout=out)
        assert (
            separate(
                path,
                "-o",
                "-",
                model="three",
                speakers="auto",
            ).code
            == 0
        )
    y, rate = soundfile.read(tmp_path / "out.wav", dtype="float32", always_2d=True)
    assert rate == 8000
    assert y.shape[1] < 3
    assert np.allclose(y.sum(1), read(path)[0], atol=1e-6)


def test_a_model_that_needs_the_whole_recording_cannot_work_live(wavecast, models, talk, streams):
    with talk().open() as pipe:
        streams(stdin=pipe)
        text = "mossformer2.two needs the whole recording and cannot work live"
        wavecast.fails(1, text, "separate", "-", "--model", models["two"], hint="give a file")


def test_voices_are_enhanced_as_they_would_be_from_files(separate, talk, tmp_path):
    path = talk(rate=16000)
    assert separate(path, "-o", f"{tmp_path}/plain/").code == 0
    assert separate(path, "--enhance", "--json", tmp_path / "r.json").code == 0
    enhancer = package.load("enhance")
    for i in (1, 2):
        expected = enhancer(read(tmp_path / "plain" / f"talk_{i}.wav"), 16000)
        assert np.allclose(read(tmp_path / f"talk_{i}.wav"), expected, atol=1e-5)
    row = json.loads((tmp_path / "r.json").read_text())
    assert (row["enhance_model"], row["model"]) == ("frcrn.stream16k", "mossformer2.two")


def test_a_model_that_needs_whole_signals_enhances_too(separate, talk, tmp_path):
    card = Card("frcrn.small", "frcrn", "enhance", {"channels": 4, "taps": 3, "reduction": 2}, 16000)
    model = save_model(build_network(card), card, tmp_path / "..").file
    path = talk(rate=16000)
    assert separate(path, "-o", f"{tmp_path}/plain/").code == 0
    assert separate(path, "--enhance-model", model).code == 0
    enhancer = package.load("enhance", str(model))
    expected = enhancer(read(tmp_path / "plain" / "talk_1.wav"), 16000)
    assert np.allclose(read(tmp_path / "talk_1.wav"), expected, atol=1e-5)
    model.unlink(), model.with_suffix(".yaml").unlink()


def test_memory_does_not_grow_with_the_recording(separate, talk, tmp_path):
    """A recording 10 times as long, whose results are 38 MB as floats, takes no more; so three hours do not either."""
    assert separate(talk("short.wav", 30.0, 16000, subtype="PCM_16"), "-o", tmp_path / "out").code == 0
    long = tmp_path / "long.wav"
    with soundfile.SoundFile(long, "w", 16000, 1, "PCM_16") as file:
        for _ in range(10):
            file.write(read(tmp_path / "short.wav")[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert separate(long, "-o", tmp_path / "out").code == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB
    assert soundfile.info(tmp_path / "out" / "long_2.wav").frames == 10 * 480_000


@pytest.mark.parametrize("old", [False, True])
def test_results_appear_together_or_not_at_all(separate, talk, tmp_path, monkeypatch, old):
    """The disk is full when the first one is ended: its header is written again; the second one is whole by then."""
    real, first = os.write, []

    def limited(descriptor, data):
        first[:] = first or [descriptor]
        again = os.lseek(descriptor, 0, os.SEEK_CUR) == 0 and os.fstat(descriptor).st_size > 1000
        if descriptor == first[0] and again:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    path, out = talk(), tmp_path / "out"
    if old:
        assert separate(path, "-o", out, "--gain-db", -20).code == 0
    before = {one: (out / one).read_bytes() for one in names(out)} if old else {}
    monkeypatch.setattr(os, "write", limited)
    said = separate(path, "-o", out, "--overwrite")
    assert said.code == 1
    assert "No space left on device" in said.err
    assert {one: (out / one).read_bytes() for one in names(out)} == before


def test_a_name_that_is_taken_meanwhile_leaves_none_of_the_others(separate, talk, tmp_path, monkeypatch):
    path, out, kept = talk(), tmp_path / "out", []
    real = NewFile.keep

    def keep(self):
        kept.append(self.path.name)
        if len(kept) == 2:
            self.path.write_text("mine")
        real(self)

    monkeypatch.setattr(NewFile, "keep", keep)
    said = separate(path, "-o", out)
    assert said.code == 1
    assert "talk_1.wav exists" in said.err
    assert kept == ["talk_2.wav", "talk_1.wav"]
    assert names(out) == ["talk_1.wav"]
    assert (out / "talk_1.wav").read_text() == "mine"


@pytest.mark.parametrize("model", ["two", "live"])
def test_speed_and_memory_are_measured(wavecast, models, model):
    said = wavecast("bench", "separate", "--model", models[model], "--seconds", 1, "--json", "-")
    assert said.code == 0
    for row in map(json.loads, said.out.splitlines()):
        assert row["model"] == f"mossformer2.{model}"
        assert row["cpu_per_second"] > 0
        assert row["peak_memory_mib"] > 100
    wavecast.fails(2, "--steps are of forecasts", "bench", "separate", "--steps", 3, hint="give --seconds")
