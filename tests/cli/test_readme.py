"""The commands of the README work as they stand there."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kit.digits import write_digits
from wavecast.datamodules.atmosphere import synthetic_atmosphere, write_weatherbench1
from wavecast.datamodules.video_writer import VideoWriter

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)
RUN_BY_CI = {"make demo\n", "make test\n"}
NETWORK = "wavecast models pull"  # tested against a local server in test_models.py


@pytest.fixture
def folder(tmp_path):
    """A folder with the files that the README speaks of, and stand-ins for the sound card."""
    sound = 0.1 * np.random.default_rng(0).standard_normal(16000)
    (tmp_path / "recordings" / "deep").mkdir(parents=True)
    names = ["noisy.wav", "a.flac", "b.ogg", "recordings/x.wav", "recordings/deep/y.wav"]
    names += ["talk.wav", "talks/one.wav", "talks/two.wav", "meeting.wav", "call.wav", "calls/one.wav"]
    names += [f"voices/speaker{i}/a.wav" for i in range(20)] + [f"noises/{i}.wav" for i in range(20)]
    names += [f"words/{word}/{i:08x}_nohash_0.wav" for word in ("yes", "no") for i in range(20)]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, sound, 16000)
    atmosphere = synthetic_atmosphere("2017-01-01", 6 * 24, variables=["2m_temperature"])
    write_weatherbench1(atmosphere, tmp_path / "wb")
    atmosphere.to_netcdf(tmp_path / "era5.nc", engine="h5netcdf")
    write_digits(tmp_path / "digits")
    write_digits(tmp_path / "digits", "t10k-images-idx3-ubyte.gz")
    frames = np.random.default_rng(1).integers(0, 255, (20, 32, 32, 3), np.uint8)
    (tmp_path / "clips").mkdir()
    videos = {"clip": frames[:10], "truth": frames[10:15], "clips/one": frames, "clips/two": frames, "long": frames}
    for name, part in videos.items():
        with VideoWriter(tmp_path / f"{name}.mp4", 10, overwrite=False) as writer:
            writer.write(part)
    texts = ("yes it is", "no it was not", "what a day", "come back soon", "three of them left")
    for name in ("speech", "heard"):
        rows = [f"voices/speaker{i}/a.wav,{texts[i % len(texts)]}" for i in range(20)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["path,text", *rows]) + "\n")
    (tmp_path / "model.nemo").symlink_to(ROOT / "tests" / "parity" / "fastconformer_streaming_tiny.nemo")
    (tmp_path / "models").mkdir()
    programs = tmp_path / "bin"
    programs.mkdir()
    samples = tmp_path / "microphone.raw"
    samples.write_bytes((sound * 32767).astype("<i2").tobytes())
    wavecast = f"exec {sys.executable} -m wavecast"
    scripts = {"arecord": f"cat {samples}", "aplay": f"cat > {tmp_path}/heard.raw", "wavecast": f'{wavecast} "$@"'}
    for name, text in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(stat.S_IRWXU)
    return tmp_path


@pytest.mark.parametrize("block", [text for kind, text in BLOCKS if kind == "bash" and text not in RUN_BY_CI])
def test_commands_of_the_readme(block, folder):
    if NETWORK in block:
        pytest.skip("fetching is tested against a local server")
    script = re.sub(r"(wavecast train \w+)", r"\1 --smoke", block)
    environment = os.environ | {
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "WAVECAST_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    if "aplay" in block:
        assert len((folder / "heard.raw").read_bytes()) == 32000
    if "--csv" in block:
        assert (folder / "t2m.png").exists()
        assert "2m_temperature" in (folder / "t2m.csv").read_text()
    if "talks/" in block:
        assert sorted(path.name for path in (folder / "text").iterdir()) == ["one.srt", "two.srt"]
    if "spot calls/" in block:
        assert sorted(path.name for path in (folder / "events").iterdir()) == ["one.csv", "one.png"]
    if "recognize clips/" in block:
        assert sorted(path.name for path in (folder / "found").iterdir()) == ["one.json", "two.json"]
        assert (folder / "long.png").exists()
    if "separate calls/" in block:
        assert (folder / "meeting_1.wav").exists()
        assert (folder / "separated" / "one_1.wav").exists()
        assert soundfile.info(folder / "voices.wav").samplerate == 16000
    if "recordings/" in block:
        assert (folder / "clean" / "deep" / "y.enhanced.wav").exists()
        assert (folder / "out" / "a.enhanced.png").exists()


@pytest.mark.parametrize("block", [text for kind, text in BLOCKS if kind == "python"])
def test_python_of_the_readme(block, folder, monkeypatch):
    (folder / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(folder)
    exec(compile(block, "README.md", "exec"), {})


def test_ci_runs_the_two_commands():
    text = (ROOT / ".ci" / "run").read_text()
    assert all(command.strip() in text for command in RUN_BY_CI)
    assert {text for kind, text in BLOCKS if text.startswith("make")} == RUN_BY_CI
