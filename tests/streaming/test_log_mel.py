"""Log-mel features against torch's own transform, and the law for them and for per-feature normalization."""

import copy

import pytest
import torch
from torch import Tensor

from kit.streaming import assert_close, check_block, check_padding, check_whole_only, run
from wavecast.core.log_mel import LogMel, PerFeatureNorm, mel_filters


def small() -> LogMel:
    return LogMel(mels=7, window=40, hop=16, length=64)


def definition(x: Tensor, mel: LogMel) -> Tensor:
    """The whole signal by torch.stft, which centres a shorter window in the transform and pads with zeros."""
    emphasized = torch.cat([x[:, :1], x[:, 1:] - 0.97 * x[:, :-1]], 1)
    window = torch.hann_window(mel.span, periodic=False, dtype=x.dtype)
    spectrum = torch.stft(
        emphasized, mel.length, mel.hop, mel.span, window, center=True, pad_mode="constant", return_complex=True
    )
    power = spectrum.abs()[:, :, : x.shape[1] // mel.hop] ** 2
    return torch.log(torch.einsum("fm, bft -> btm", mel.filters.to(x.dtype), power) + 2**-24)


@pytest.mark.parametrize("samples", [160, 399, 1600, 16_037])
def test_the_features_are_their_definition(samples):
    torch.manual_seed(0)
    mel = LogMel().double()
    mel.window.copy_(torch.hann_window(400, periodic=False, dtype=torch.float64))
    x = 0.3 * torch.randn(2, samples, dtype=torch.float64)
    y, _ = mel(x)
    assert y.shape == (2, samples // 160, 80)
    assert_close(y, definition(x, mel), 1e-12)


def test_silence_is_the_logarithm_of_the_floor():
    assert torch.allclose(LogMel()(torch.zeros(1, 800))[0], torch.tensor(2.0**-24).log())


def test_a_tone_is_loudest_in_its_band():
    """Slaney's scale is linear below 1 kHz, 200 / 3 Hz a mel, and has 27 mels to a factor of 6.4 above."""
    mel_of = {500.0: 7.5, 2000.0: 15 + 27 * torch.log(torch.tensor(2.0)).item() / torch.log(torch.tensor(6.4)).item()}
    top = 15 + 27 * torch.log(torch.tensor(8.0)).item() / torch.log(torch.tensor(6.4)).item()
    for hertz, mel in mel_of.items():
        x = torch.sin(2 * torch.pi * hertz * torch.arange(3200) / 16_000)[None]
        loudest = LogMel()(x)[0][0, 10].argmax().item()
        assert abs(loudest - (81 * mel / top - 1)) < 1


def test_the_filters_have_equal_area():
    filters = mel_filters(16_000, 80, 4096)
    area = filters.sum(0) * 16_000 / 4096
    assert torch.allclose(area, torch.ones(80), atol=0.02)


def test_log_mel_keeps_the_law():
    check_block(small(), 0.3 * torch.randn(3, 300))


@pytest.mark.parametrize("samples", [0, 1, 39, 40, 41, 57])
def test_framing_by_single_samples(samples):
    mel, x = small().double(), torch.randn(2, samples, dtype=torch.float64)
    found, counts = run(mel, x, range(samples))
    assert_close(found, mel(x)[0], 1e-12)
    assert all(count == max(0, (n - 20) // 16 + 1) for n, count in enumerate(counts[:-1]))


def test_half_precision_leaves_the_features_alone():
    x = 0.3 * torch.randn(1, 1600)
    expected, _ = LogMel()(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(LogMel()(x)[0], expected)
    assert torch.equal(LogMel()(x.bfloat16())[0], LogMel()(x.bfloat16().float())[0])


def test_dither_is_of_training_only():
    x = torch.zeros(1, 16_000)
    mel = LogMel(dither=1e-2)
    assert mel(x)[0].mean() > -10
    assert torch.equal(mel.eval()(x)[0], LogMel()(x)[0])


def test_stored_filters_replace_the_computed_ones():
    mel, other = small(), small()
    other.load_state_dict({name: 2 * tensor for name, tensor in mel.state_dict().items()})
    x = torch.randn(1, 200)
    assert torch.allclose(other(x)[0].exp() - 2**-24, 8 * (mel(x)[0].exp() - 2**-24), rtol=1e-4)


def test_a_window_that_does_not_fit():
    with pytest.raises(ValueError, match=r"window 401(.|\n)*hint: take an even window"):
        LogMel(window=401)


def test_per_feature_normalization():
    torch.manual_seed(0)
    x = 3 + 2 * torch.randn(3, 20, 5, dtype=torch.float64)
    y, _ = PerFeatureNorm()(x)
    assert_close(y, (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5), 1e-12)
    check_whole_only(PerFeatureNorm(), x)
    check_padding(PerFeatureNorm(), x, 1e-12)
    lengths = torch.tensor([20, 1, 0])
    padded, _ = PerFeatureNorm()(x, lengths=lengths)
    assert not padded[1].any()
    assert not padded[2].any()


def test_copies_are_equal():
    mel, x = small(), torch.randn(1, 200)
    assert torch.equal(copy.deepcopy(mel)(x)[0], mel(x)[0])
