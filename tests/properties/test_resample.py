"""Resampling in pieces gives the bytes of the whole, the right length, and samples in their place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavecast.core.resample import Resampler
from wavecast.core.sound_stream import SoundInput

RATES = [8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000]


def whole(resampler: Resampler, x: np.ndarray) -> np.ndarray:
    return np.concatenate([resampler.push(x), resampler.flush()], 1)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(RATES), st.integers(1, 3), st.lists(st.integers(0, 3000), max_size=6), st.integers(0, 2**32 - 1))
def test_pieces_give_the_bytes_of_the_whole(rate, channels, sizes, seed):
    x = np.random.default_rng(seed).standard_normal((channels, sum(sizes))).astype(np.float32)
    resampler = Resampler(rate, 16000, channels)
    cuts = np.cumsum(sizes[:-1]) if sizes else []
    pieces = [resampler.push(piece) for piece in np.split(x, cuts, 1)]
    y = np.concatenate([*pieces, resampler.flush()], 1)
    assert y.shape == (channels, resampler.out_length(x.shape[1]))
    assert np.array_equal(y, whole(Resampler(rate, 16000, channels), x))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("samples", [0, 1, 2, 1000])
def test_there_and_back_has_the_length_it_had(rate, samples):
    down, up = Resampler(rate, 16000, 1), Resampler(16000, rate, 1)
    y = whole(down, np.zeros((1, samples), np.float32))
    assert y.shape[1] == down.out_length(samples)
    assert abs(up.out_length(y.shape[1]) - samples) <= max(1, rate / 16000)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_samples_stay_in_their_place(rate):
    t = np.arange(rate) / rate
    x = (np.exp(-(((t - 0.5) / 0.003) ** 2)) * np.cos(2 * np.pi * 1000 * (t - 0.5))).astype(np.float32)[None]
    y = whole(Resampler(rate, 16000, 1), x)
    assert abs(int(np.argmax(y)) - 8000) <= 1
    assert abs(y.max() - 1) < 0.01


@pytest.mark.parametrize("size", [1, 700, 100_000])
def test_what_a_network_hears_does_not_depend_on_the_pieces(size):
    x = np.random.default_rng(0).standard_normal((2, 150_000 if size > 1 else 300))
    clean = x.copy()
    x[0, :3] = [np.nan, np.inf, -1e20]
    clean[0, :3] = 0
    sound = SoundInput(2, 44_100, 16_000)
    for _ in range(2):  # afterwards the next signal can begin
        pieces = [piece for i in range(0, x.shape[1], size) for piece in sound.push(x[:, i : i + size])]
        assert sound.seconds == x.shape[1] / 44_100
        y = np.concatenate([*pieces, sound.flush()], 1)
        assert np.array_equal(y, whole(Resampler(44_100, 16_000, 2), clean.astype(np.float32)))
        assert sound.seconds == 0
    assert sound.replaced == 6
    with pytest.raises(ValueError, match=r"expected \(2, samples\), got \(3, 5\)"):
        list(sound.push(np.zeros((3, 5))))
