"""What all tests share."""

import signal

import pytest


@pytest.fixture
def keyboard():
    """Let Ctrl-C be heard, here and in programs that are started: who runs tests in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
