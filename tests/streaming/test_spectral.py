"""STFT, its inverse and bands against plain formulas, and under the law."""

import pytest
import torch

from kit.streaming import check_block
from wavecast.core.groups import Chain, Trim
from wavecast.core.spectral import STFT, Bands, InverseSTFT, sqrt_hann


def round_trip(length: int, hop: int) -> Trim:
    left = length - hop
    return Trim(Chain(STFT(length, hop, left=left, right=length), InverseSTFT(length, hop, cut=left)))


def test_stft_equals_torch():
    x = torch.randn(2, 1000, dtype=torch.float64)
    y, _ = STFT(64, 32).double()(x)
    expected = torch.stft(x, 64, 32, window=sqrt_hann(64), center=False, return_complex=True)
    assert torch.allclose(y, torch.view_as_real(expected.transpose(1, 2)), atol=1e-6)


@pytest.mark.parametrize("samples", [0, 1, 31, 32, 33, 63, 64, 65, 1000])
def test_analysis_and_synthesis_give_the_signal_back(samples):
    x = torch.randn(3, samples)
    y, _ = round_trip(64, 32)(x)
    assert y.shape == x.shape
    assert torch.allclose(x, y, atol=1e-5)


def test_quarter_overlap_sums_to_two():
    x = torch.randn(1, 500)
    y, _ = round_trip(64, 16)(x)
    assert torch.allclose(2 * x, y, atol=1e-5)


def test_inverse_without_cut_is_the_spec_of_overlap_add():
    x = torch.randn(1, 5, 17, 2, dtype=torch.float64)
    y, _ = InverseSTFT(32, 16).double()(x)
    expected = torch.zeros(1, 4 * 16 + 32, dtype=torch.float64)
    for j in range(5):
        frame = torch.fft.irfft(torch.view_as_complex(x[:, j].contiguous()), 32) * sqrt_hann(32)
        expected[:, 16 * j : 16 * j + 32] += frame
    assert torch.allclose(y, expected, atol=1e-6)


@pytest.mark.parametrize(("length", "hop", "cut"), [(16, 8, 0), (16, 8, 8), (16, 4, 12), (16, 4, 5)])
def test_inverse_keeps_the_law(length, hop, cut):
    check_block(InverseSTFT(length, hop, cut), torch.randn(3, 19, length // 2 + 1, 2), silence=500)


def test_stft_keeps_the_law():
    check_block(STFT(16, 8, left=8, right=16), torch.randn(3, 111), silence=5000)


@pytest.mark.parametrize("hop", [4, 8])
def test_round_trip_keeps_the_law(hop):
    check_block(round_trip(16, hop), torch.randn(3, 101), silence=5000)


def test_bands_keep_single_bins_and_constants():
    bands = Bands(257, 64, 128)
    x = torch.rand(2, 257)
    assert torch.equal(bands(x)[:, :64], x[:, :64])
    assert torch.allclose(bands(torch.ones(257)), torch.ones(128), atol=1e-5)
    assert torch.allclose(bands.expand(torch.ones(128)), torch.ones(257), atol=1e-5)
    assert bands(x).shape == (2, 128)
