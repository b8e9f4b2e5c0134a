"""What the command-line tests share."""

import logging
import sys

import numpy as np
import pytest
import soundfile

from kit.command_line import CommandLine
from kit.hub import Hub, point_to


@pytest.fixture
def wavecast(capsys):
    """Run `wavecast` in this process."""
    return CommandLine(capsys)


@pytest.fixture
def work(tmp_path, monkeypatch, tmp_path_factory):
    """An empty working directory; what is decoded lies outside, for all tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAVECAST_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    return tmp_path


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


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine that takes the place of the real one."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session, enable_progress_bars
    from huggingface_hub.utils.logging import set_verbosity_warning

    set_verbosity_warning()
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "handlers", [])  # they hold the stderr of another test
    hub = Hub()
    server = hub.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    point_to(hub.url, monkeypatch)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    yield hub
    close_session()
    set_verbosity_warning()
    enable_progress_bars()
    server.shutdown()
    server.server_close()
