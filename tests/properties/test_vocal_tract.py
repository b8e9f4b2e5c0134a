"""Stretched mel bands: between bands linearly, and a function of the item."""

import numpy as np
import torch

from wavecast.datamodules.vocal_tract import VocalTract, stretch_bands


def features(batch=3, frames=40, mels=20):
    return torch.randn(batch, frames, mels, generator=torch.Generator().manual_seed(0))


def test_bands_are_stretched_between_bands_linearly():
    x, factors = features(3), [0.9, 1.0, 1.13]
    found = stretch_bands(x, torch.tensor(factors))
    mels = np.arange(x.shape[2])
    for one, same, factor in zip(found, x, factors, strict=True):
        expected = [np.interp(mels * factor, mels, frame) for frame in same.double().numpy()]
        np.testing.assert_allclose(one.numpy(), expected, atol=1e-5)


def test_the_factor_of_an_item_is_a_function_of_its_number_and_the_seed():
    x, stretch = features(3), VocalTract(0.2)
    together = stretch(x, torch.tensor([4, 9, 2]))
    for row, number in enumerate([4, 9, 2]):
        assert torch.equal(together[row], stretch(x[row : row + 1], torch.tensor([number]))[0])
    assert not torch.equal(together, VocalTract(0.2, seed=1)(x, torch.tensor([4, 9, 2])))


def test_factors_stay_within_the_share_and_none_changes_nothing():
    ramp = torch.arange(80.0).expand(200, 1, 80)
    factors = VocalTract(0.1)(ramp, torch.arange(200))[:, 0, 40] / 40
    assert 0.9 <= float(factors.min()) < 0.92
    assert 1.08 < float(factors.max()) <= 1.1001
    assert VocalTract(0.0)(ramp, torch.arange(200)) is ramp
