"""`wavecast enhance` does what its options say."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile

import wavecast as package
from wavecast.apps.enhancement import jobs, recording


def read(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


def test_a_file_beside_itself(wavecast, sound):
    path = sound("talk.wav", subtype="PCM_24")
    said = wavecast("enhance", path)
    target = path.with_name("talk.enhanced.wav")
    assert (said.code, said.out) == (0, "")
    assert str(target) in said.err
    assert soundfile.info(target).subtype == "PCM_24"
    assert read(target).shape == read(path).shape
    assert np.abs(read(target)).max() < np.abs(read(path)).max()


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [("a.wav", 8000, 1), ("a.flac", 44100, 2), ("a.ogg", 48000, 1), ("a.aiff", 22050, 3), ("a.mp3", 48000, 2)],
)
def test_rate_channels_and_container_stay(wavecast, sound, name, rate, channels):
    path = sound(name, rate=rate, channels=channels)
    assert wavecast("enhance", path).code == 0
    before, after = (soundfile.info(path.with_name(each)) for each in (name, name.replace("a.", "a.enhanced.")))
    assert (after.samplerate, after.channels, after.frames) == (rate, channels, before.frames)
    assert (after.format, after.subtype) == (before.format, before.subtype)


def test_tags_stay(wavecast, tmp_path):
    path = tmp_path / "tagged.flac"
    with soundfile.SoundFile(path, "w", 16000, 1) as file:
        file.title, file.artist = "A talk", "Someone"
        file.write(np.zeros(4000))
    assert wavecast("enhance", path, "-o", tmp_path / "out.flac").code == 0
    with soundfile.SoundFile(tmp_path / "out.flac") as file:
        assert (file.title, file.artist) == ("A talk", "Someone")


def test_format_subtype_and_rate_can_be_chosen(wavecast, sound, tmp_path):
    path = sound(rate=48000)
    said = wavecast("enhance", path, "--format", "flac", "--subtype", "pcm_24", "--rate", 16000, "-o", f"{tmp_path}/o/")
    info = soundfile.info(tmp_path / "o" / "noisy.enhanced.flac")
    assert said.code == 0
    assert (info.samplerate, info.subtype, info.frames) == (16000, "PCM_24", 8000)


def test_folders_are_mirrored_and_names_never_collide(wavecast, sound, tmp_path):
    for name in ("in/x.wav", "in/deep/x.wav", "in/same.wav", "in/same.flac"):
        sound(name, seconds=0.1)
    assert wavecast("enhance", tmp_path / "in", "-o", tmp_path / "out", "--format", "wav").code == 0
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.wav"))
    assert found == ["deep/x.enhanced.wav", "same.enhanced.flac.wav", "same.enhanced.wav.wav", "x.enhanced.wav"]


def test_patterns_and_lists(wavecast, sound, tmp_path):
    sound("one.wav", seconds=0.1), sound("two.wav", seconds=0.1), sound("three.flac", seconds=0.1)
    (tmp_path / "list.txt").write_text("# chosen\nthree.flac\none.wav\n")
    said = wavecast("enhance", f"{tmp_path}/*.wav", f"@{tmp_path}/list.txt", "-o", tmp_path / "out", "--dry-run")
    assert said.code == 0
    assert [line.split(" -> ")[0].split("/")[-1] for line in said.out.splitlines()] == [
        "one.wav",
        "two.wav",
        "three.flac",
    ]
    assert not (tmp_path / "out").exists()


def test_resume_leaves_out_what_is_done(wavecast, sound, tmp_path):
    first, second = sound("in/a.wav", seconds=0.1), sound("in/b.wav", seconds=0.1)
    assert wavecast("enhance", first, "-o", f"{tmp_path}/out/").code == 0
    done = (tmp_path / "out" / "a.enhanced.wav").stat().st_mtime_ns
    said = wavecast("enhance", first, second, "-o", tmp_path / "out", "--resume")
    assert said.code == 0
    assert "1 of 2 were done before" in said.err
    assert (tmp_path / "out" / "a.enhanced.wav").stat().st_mtime_ns == done
    assert (tmp_path / "out" / "b.enhanced.wav").exists()


def test_name_template(wavecast, sound):
    path = sound(seconds=0.1)
    assert wavecast("enhance", path, "--name-template", "clean-{stem}").code == 0
    assert path.with_name("clean-noisy.wav").exists()


def test_mix_and_limit_blend_the_input_in(wavecast, sound, tmp_path):
    path = sound(subtype="FLOAT")
    x = read(path)

    def run(*options):
        wavecast("enhance", path, "-o", tmp_path / "y.wav", "--overwrite", *options)
        return read(tmp_path / "y.wav")

    full = run()
    assert np.allclose(run("--mix", 0), x, atol=1e-7)
    assert np.allclose(run("--mix", 0.25), 0.75 * x + 0.25 * full, atol=1e-6)
    assert np.allclose(run("--limit-db", 20), 0.1 * x + 0.9 * full, atol=1e-6)
    assert np.allclose(run("--gain-db", 6), full * 10**0.3, atol=1e-6)


def test_peaks_are_cut_and_counted_or_bent_but_never_wrapped(wavecast, tmp_path):
    x = 0.9 * np.sign(np.sin(2 * np.pi * 300 * np.arange(16000) / 16000))
    soundfile.write(tmp_path / "x.wav", x, 16000)
    report = tmp_path / "r.json"
    words = ("enhance", tmp_path / "x.wav", "-o", tmp_path / "y.wav", "--mix", 0, "--gain-db", 6, "--json", report)
    assert wavecast(*words, "--overwrite").code == 0
    assert json.loads(report.read_text())["clipped_samples"] > 1000
    assert np.sign(read(tmp_path / "y.wav")[0] * x).min() >= 0
    assert wavecast(*words, "--overwrite", "--peaks", "soft").code == 0
    assert json.loads(report.read_text())["clipped_samples"] == 0
    assert np.sign(read(tmp_path / "y.wav")[0] * x).min() >= 0


def test_a_result_is_brought_to_a_level(wavecast, sound, tmp_path):
    path = sound(seconds=1.0, subtype="FLOAT")
    assert wavecast("enhance", path, "-o", tmp_path / "y.wav", "--level", -26).code == 0
    assert 10 * np.log10(np.square(read(tmp_path / "y.wav")).mean()) == pytest.approx(-26, abs=0.01)
    assert wavecast("enhance", path, "-o", tmp_path / "plain.wav").code == 0
    plain, leveled = read(tmp_path / "plain.wav"), read(tmp_path / "y.wav")
    gain = np.sqrt(np.square(leveled).mean() / np.square(plain).mean())
    assert np.allclose(leveled, gain * plain, atol=1e-6)


def test_a_result_too_loud_is_lowered_as_a_whole(wavecast, sound, tmp_path):
    path = sound(seconds=1.0, subtype="FLOAT")
    words = "enhance", path, "--mix", 0, "--gain-db", 20, "-o"
    assert wavecast(*words, tmp_path / "y.wav", "--peaks", "rescale", "--subtype", "PCM_16").code == 0
    y, x = read(tmp_path / "y.wav"), read(path)
    assert 20 * np.log10(np.abs(y).max()) == pytest.approx(-0.1, abs=0.02)
    assert np.allclose(y / np.abs(y).max(), x / np.abs(x).max(), atol=1e-4)
    assert wavecast("enhance", path, "--mix", 0, "-o", tmp_path / "z.wav", "--peaks", "rescale").code == 0
    assert np.allclose(read(tmp_path / "z.wav"), x, atol=1e-6)  # nothing too loud, nothing changed


@pytest.mark.parametrize("words", [["--level", -26], ["--peaks", "rescale"]])
def test_levels_of_whole_recordings_are_refused_on_pipes(wavecast, words):
    wavecast.fails(2, "whole recording", "enhance", "-", *words, hint="--gain-db")


def test_silence_has_no_level_to_change(wavecast, tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(8000), 16000)
    assert wavecast("enhance", tmp_path / "x.wav", "-o", tmp_path / "y.wav", "--level", -20).code == 0
    assert not read(tmp_path / "y.wav").any()


def test_the_high_band_follows_stays_or_goes(wavecast, tmp_path):
    rate = 48000
    t = np.arange(rate) / rate
    tone = 0.1 * np.sin(2 * np.pi * 15000 * t)
    noise = 0.05 * np.random.default_rng(0).standard_normal(rate)
    soundfile.write(tmp_path / "x.wav", tone + noise, rate, subtype="FLOAT")

    def high_level(policy):
        wavecast("enhance", tmp_path / "x.wav", "-o", tmp_path / "y.wav", "--overwrite", "--high-band", policy)
        spectrum = np.abs(np.fft.rfft(read(tmp_path / "y.wav")[0][8000:40000]))
        return spectrum[9000 * 32000 // rate :].max()

    keep, follow, drop = (high_level(policy) for policy in ("keep", "follow", "drop"))
    assert keep > 1500
    assert follow < 0.7 * keep
    assert drop < 0.01 * keep


def test_shared_gains_keep_directions(wavecast, tmp_path):
    x = 0.1 * np.random.default_rng(0).standard_normal(16000)
    soundfile.write(tmp_path / "x.wav", np.stack([x, 0.5 * x], 1), 16000, subtype="FLOAT")
    assert wavecast("enhance", tmp_path / "x.wav", "--channels", "shared").code == 0
    left, right = read(tmp_path / "x.enhanced.wav")
    assert np.allclose(right, 0.5 * left, atol=1e-6)


def test_the_report_says_what_was_done(wavecast, sound, tmp_path):
    path = sound(rate=48000)
    said = wavecast("enhance", path, "--json", "-", "--quiet")
    row = json.loads(said.out)
    assert said.err == ""
    assert (row["input"], row["seconds"], row["sample_rate"]) == (str(path), 0.5, 48000)
    assert row["latency_ms"] == 32.0
    assert 0 < row["resampling_latency_ms"] < 100
    assert row["model"] == "frcrn.stream16k"
    assert len(row["model_sha256"]) == 64
    assert row["level_in"]["rms_db"] == pytest.approx(-20, abs=0.3)


def test_reference_and_plot(wavecast, sound, tmp_path):
    path = sound(seconds=1.0)
    said = wavecast("enhance", path, "--reference", path, "--plot", "--json", "-")
    row = json.loads(said.out)
    assert row["si_sdr_in"] > 60
    assert row["si_sdr_gain"] == pytest.approx(row["si_sdr_out"] - row["si_sdr_in"], abs=0.01)
    assert path.with_name("noisy.enhanced.png").read_bytes()[:4] == b"\x89PNG"


def test_python_and_file_agree_to_the_byte(wavecast, sound, tmp_path):
    path = sound(rate=44100, channels=2, subtype="FLOAT")
    wavecast("enhance", path, "-o", tmp_path / "y.wav")
    x, enhancer = read(path), package.load("enhance")
    assert np.array_equal(enhancer(x, sample_rate=44100), read(tmp_path / "y.wav"))
    stream, pieces, at = enhancer.stream(2, 44100), [], 0
    for size in [1, 0, 5000, 17, 3000, 100000]:
        pieces.append(stream.push(x[:, at : at + size]))
        at += size
    assert np.array_equal(np.concatenate([*pieces, stream.flush()], 1), read(tmp_path / "y.wav"))


def test_arrays_keep_kind_dtype_and_shape():
    import torch

    enhancer = package.load("enhance")
    assert enhancer(np.zeros(0, np.float32)).shape == (0,)
    assert enhancer(np.zeros(1, np.float64)).dtype == np.float64
    y = enhancer(torch.zeros(2, 1000))
    assert isinstance(y, torch.Tensor)
    assert y.shape == (2, 1000)
    with pytest.raises(ValueError, match="hint: integers as"):
        enhancer(np.zeros(10, np.int16))


def enhance_pipe(data, *words, sizes=None):
    """Push bytes through `wavecast enhance -` in a process of its own, in pieces."""
    command = [sys.executable, "-m", "wavecast", "enhance", "-", "-o", "-", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )

    def feed():
        at = 0
        for size in sizes or [len(data)]:
            process.stdin.write(data[at : at + size])
            process.stdin.flush()
            at += size
        process.stdin.close()

    with process:
        writer = threading.Thread(target=feed)
        writer.start()
        out = process.stdout.read()
        writer.join()
        err = process.stderr.read().decode()
    return process.returncode, out, err


def test_a_pipe_gives_the_bytes_of_the_file(wavecast, sound, tmp_path):
    path = sound(seconds=1.0, subtype="PCM_16")
    wavecast("enhance", path, "-o", tmp_path / "y.wav")
    expected = soundfile.read(tmp_path / "y.wav", dtype="int16")[0].tobytes()
    raw = soundfile.read(path, dtype="int16")[0].tobytes()
    draw = np.random.default_rng(1)
    sizes = [*draw.integers(1, 3000, 12).tolist()]
    code, out, _ = enhance_pipe(raw, "--raw", "s16le:16000", sizes=[*sizes, len(raw)])
    assert (code, out) == (0, expected)
    code, out, _ = enhance_pipe(path.read_bytes())
    assert (code, out[:4], out[44:]) == (0, b"RIFF", expected)


def test_live_sound_comes_out_as_it_goes_in():
    """Half a second in must give all but the latency and one block out, before more is sent."""
    command = [sys.executable, "-m", "wavecast", "enhance", "-", "-o", "-", "--raw", "s16le:16000"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    with process:
        process.stdin.write(np.zeros(8192, "<i2").tobytes())
        process.stdin.flush()
        out = process.stdout.read(2 * (8192 - 512))  # waits for ever if the command waits for more
        process.stdin.close()
        rest = process.stdout.read()
    assert (len(out) + len(rest), process.returncode) == (2 * 8192, 0)


def test_a_slow_reader_misses_nothing(sound, wavecast, tmp_path):
    """The output waits, unread, until the command has more to say than the pipe holds."""
    path = sound(seconds=3.5, subtype="PCM_16")
    wavecast("enhance", path, "-o", tmp_path / "y.wav")
    command = [sys.executable, "-m", "wavecast", "enhance", "-", "-o", "-", "--raw", "s16le:16000"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(soundfile.read(path, dtype="int16")[0].tobytes())  # 112 kB: each pipe holds 64
        process.stdin.close()
        out = bytearray()
        while piece := process.stdout.read1(100):
            out += piece
    assert process.returncode == 0
    assert bytes(out) == soundfile.read(tmp_path / "y.wav", dtype="int16")[0].tobytes()


def test_a_closed_reader_ends_quietly():
    enhance = f"{sys.executable} -m wavecast enhance - -o - --raw s16le:16000"
    command = f"head -c 400000 /dev/zero | {enhance} | head -c 100 | wc -c"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.strip() == "100"
    assert "Traceback" not in done.stderr


def test_interrupting_leaves_finished_files_whole_and_no_temporary_ones(wavecast, sound, tmp_path, monkeypatch):
    first, second = sound("a.wav", seconds=0.1), sound("b.wav", seconds=0.1)
    real = jobs.enhance_one

    def interrupted(job, *rest):
        if job.source.path == str(second):
            monkeypatch.setattr(recording.Level, "add", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        return real(job, *rest)

    monkeypatch.setattr(jobs, "enhance_one", interrupted)
    said = wavecast("enhance", first, second, "-o", tmp_path / "out")
    assert said.code == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.enhanced.wav"]


def test_a_batch_gives_what_each_file_gives(wavecast, sound, tmp_path):
    """Lengths, rates and channels differ; one input is no sound at all."""
    for i, (seconds, rate, channels) in enumerate([(0.9, 16000, 1), (0.4, 44100, 2), (1.3, 16000, 1), (0.0, 16000, 1)]):
        sound(f"in/{i}.wav", seconds, rate, channels, "FLOAT", seed=i)
    (tmp_path / "in" / "text.wav").write_text("no sound")
    alone = wavecast("enhance", tmp_path / "in", "-o", tmp_path / "alone")
    batch = wavecast("enhance", tmp_path / "in", "-o", tmp_path / "batch", "--batch", 3)
    assert (alone.code, batch.code) == (1, 1)
    assert "text.wav" in batch.err
    names = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert len(names) == 4
    assert sorted(path.name for path in (tmp_path / "batch").iterdir()) == names
    for name in names:
        expected, found = read(tmp_path / "alone" / name), read(tmp_path / "batch" / name)
        assert expected.shape == found.shape
        assert np.allclose(expected, found, atol=1e-5)


def test_interrupting_a_batch_leaves_no_temporary_files(wavecast, sound, tmp_path, monkeypatch):
    sounds = [sound(f"{i}.wav", seconds=0.5, seed=i) for i in range(3)]
    calls = iter(range(100))

    def interrupted(self, requests, real=jobs.Pool._run):
        if next(calls) == 5:
            raise KeyboardInterrupt
        real(self, requests)

    monkeypatch.setattr(jobs.Pool, "_run", interrupted)
    said = wavecast("enhance", *sounds, "-o", tmp_path / "out", "--batch", 2)
    assert said.code == 130
    assert list((tmp_path / "out").iterdir()) == []


def test_a_fault_in_a_batch_is_told_once(wavecast, sound, tmp_path, monkeypatch):
    sounds = [sound(f"{i}.wav", seconds=0.2, seed=i) for i in range(3)]
    monkeypatch.setattr(recording.Level, "add", lambda *_: 1 / 0)
    said = wavecast("enhance", *sounds, "-o", tmp_path / "out", "--batch", 2)
    assert said.code == 1
    assert said.err.count("division by zero") == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_shared_gains_are_not_batched(wavecast, sound):
    words = "enhance", sound(), "--batch", 2, "--channels", "shared"
    wavecast.fails(2, "file by file", *words, hint="leave --batch out")
