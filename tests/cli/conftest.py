"""What the command-line tests share."""

import sys

import numpy as np
import pytest
import soundfile

from kit.command_line import CommandLine


@pytest.fixture
def wavecast(capsys):
    """Run `wavecast` in this process."""
    return CommandLine(capsys)


@pytest.fixture
def sound(tmp_path):
    """Write a recording: sound("a.wav", seconds=0.5, rate=16000, channels=1, subtype=None) gives its path."""

    def write(name="noisy.wav", seconds=0.5, rate=16000, channels=1, subtype=None, seed=0):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        x = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
        soundfile.write(path, x, rate, subtype=subtype)
        return path

    return write


@pytest.fixture
def streams(monkeypatch):
    """Let stdin or stdout be an open file."""

    def use(**files):
        for name, file in files.items():
            monkeypatch.setattr(sys, name, file)

    return use
