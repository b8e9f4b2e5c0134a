"""Kaldi's filter bank and deltas against torchaudio's and against plain loops, and the law for them."""

import math

import pytest
import torch
import torchaudio
from torch import Tensor

from kit.streaming import assert_close, check_block, run
from wavecast.core import kaldi
from wavecast.core.kaldi import Deltas, KaldiFilterBank, mel_triangles, with_deltas

SHAPES = ("hamming", "hanning", "povey")


def small(**options: float) -> KaldiFilterBank:
    return KaldiFilterBank(1000, mels=5, window=40, hop=16, shape="hamming", **options)


def speech(samples: int, rows: int = 2) -> Tensor:
    torch.manual_seed(0)
    return 3000 * torch.randn(rows, samples, dtype=torch.float64).cumsum(1) / 50


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("rate", "window", "hop", "mels"), [(48_000, 40, 8, 60), (16_000, 25, 10, 128)])
def test_the_filter_bank_is_that_of_torchaudio(shape: str, rate: int, window: int, hop: int, mels: int) -> None:
    x = speech(rate // 4 + 77, 1).float()
    expected = torchaudio.compliance.kaldi.fbank(
        x, num_mel_bins=mels, frame_length=window, frame_shift=hop, sample_frequency=rate, window_type=shape
    )
    y, _ = KaldiFilterBank(rate, mels, rate * window // 1000, rate * hop // 1000, shape)(x)
    assert_close(y[0], expected, 1e-5)


def test_low_and_high_frequency_are_those_of_torchaudio() -> None:
    x = speech(4000, 1).float()
    expected = torchaudio.compliance.kaldi.fbank(x, num_mel_bins=20, low_freq=300.0, high_freq=3400.0)
    assert_close(KaldiFilterBank(mels=20, low=300, high=3400)(x)[0][0], expected, 1e-5)


def test_a_frame_by_hand() -> None:
    """Every formula as a loop over one frame."""
    x = speech(40, 1)[0]
    bank = small().double()
    window = [0.54 - 0.46 * math.cos(2 * math.pi * i / 39) for i in range(40)]
    centered = [value - sum(x.tolist()) / 40 for value in x.tolist()]
    emphasized = [(value - 0.97 * centered[max(0, i - 1)]) * window[i] for i, value in enumerate(centered)]
    edges = [20 + 0.0, 500.0]
    low, high = (1127 * math.log(1 + f / 700) for f in edges)
    for band in range(5):
        power = 0.0
        left, center, right = (low + (band + i) * (high - low) / 6 for i in range(3))
        for k in range(32):
            at = 1127 * math.log(1 + k * 1000 / 64 / 700)
            weight = max(0.0, min((at - left) / (center - left), (right - at) / (right - center)))
            angle = [2 * math.pi * k * i / 64 for i in range(40)]
            real = sum(value * math.cos(a) for value, a in zip(emphasized, angle, strict=True))
            imag = sum(value * math.sin(a) for value, a in zip(emphasized, angle, strict=True))
            power += weight * (real**2 + imag**2)
        assert bank(x[None])[0][0, 0, band].item() == pytest.approx(math.log(power), rel=1e-6)


def test_silence_is_the_logarithm_of_the_floor() -> None:
    y, _ = KaldiFilterBank()(torch.zeros(1, 800))
    assert torch.allclose(y, torch.tensor(1.1920929e-07).log())


def test_single_precision_under_autocast() -> None:
    x = speech(4000).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = KaldiFilterBank()(x)
    assert torch.equal(y, KaldiFilterBank()(x)[0])
    assert KaldiFilterBank()(x.to(torch.bfloat16))[0].dtype == torch.float32


def test_the_triangles_leave_the_last_bin_out() -> None:
    triangles = mel_triangles(16_000, 10, 512, 20.0, 8000.0)
    assert triangles.shape == (257, 10)
    assert not triangles[-1].any()
    assert triangles[:-1].sum(0).min() > 0
    assert triangles.max() <= 1


@pytest.mark.parametrize(
    "faulty", [{"shape": "square"}, {"low": 600.0, "high": 500.0}, {"high": 9000.0}, {"low": -1.0}]
)
def test_what_is_no_filter_bank(faulty: dict) -> None:
    with pytest.raises(ValueError, match=r"hint: the window is one of hamming, hanning, povey, bands lie"):
        KaldiFilterBank(**faulty)


def test_deltas_by_hand_and_by_torchaudio() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    y, _ = Deltas()(x)
    expected = torchaudio.functional.compute_deltas(x.transpose(1, 2)).transpose(1, 2)
    assert_close(y, expected, 1e-12)
    for t in range(9):
        at = [x[0, min(max(t + i, 0), 8), 1].item() for i in range(-2, 3)]
        assert y[0, t, 1].item() == pytest.approx(((at[3] - at[1]) + 2 * (at[4] - at[0])) / 10)
    assert not Deltas()(x[:, :1])[0].any()


def test_deltas_beside_the_features() -> None:
    x = speech(4000)
    features, deltas = KaldiFilterBank().double(), Deltas()
    y, _ = with_deltas(features)(x)
    still, _ = features(x)
    first, _ = deltas(still)
    assert_close(y, torch.cat([still, first, deltas(first)[0]], -1), 1e-12)


def test_the_law() -> None:
    torch.manual_seed(0)
    check_block(small(), 1000 * torch.randn(3, 300))
    check_block(Deltas(), torch.randn(3, 30, 4))
    check_block(with_deltas(small()), 1000 * torch.randn(3, 400))
    check_block(small(dither=1.0), 1000 * torch.randn(3, 300))


@pytest.mark.parametrize("tile", [1, 3, 100])
def test_tiles_make_no_difference(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, banks = speech(400, 3), [small().double(), small(dither=1.0).double()]
    expected = [bank(x)[0] for bank in banks]
    monkeypatch.setattr(kaldi, "TILE", tile)
    for bank, one in zip(banks, expected, strict=True):
        assert_close(bank(x)[0], one, 1e-12)


def test_lengths_around_one_frame() -> None:
    bank = small()
    for samples, frames in ((0, 0), (1, 0), (39, 0), (40, 1), (41, 1), (55, 1), (56, 2)):
        x = torch.randn(2, samples)
        assert bank(x)[0].shape == (2, frames, 5)
        assert_close(run(bank, x, range(samples))[0], bank(x)[0], 1e-5)


def test_dither_is_noise_and_the_same_on_every_run() -> None:
    x = torch.zeros(2, 400)
    bank = small(dither=2.0, seed=3)
    y, _ = bank(x)
    assert torch.equal(y, small(dither=2.0, seed=3)(x)[0])
    assert_close(y[0], y[1], 1e-6)
    assert not torch.equal(y, small(dither=2.0, seed=4)(x)[0])
    assert len({tuple(frame) for frame in y[0].tolist()}) == y.shape[1]
    noise = bank.noise(0, 500)
    assert noise.mean().abs() < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert torch.equal(noise[7:9], bank.noise(7, 2))
    assert abs(torch.corrcoef(noise[:2])[0, 1]) < 0.5
    power = [small(dither=one)(torch.zeros(1, 4000))[0].exp().mean().item() for one in (1.0, 2.0)]
    assert power[1] == pytest.approx(4 * power[0])
