"""Dropout: how much it drops, what it leaves, its gradient, and that a seed repeats it."""

import pytest
import torch

from wavecast.core.dropout import Dropout, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.9])
def test_it_drops_a_share_and_scales_the_rest(p, dtype):
    torch.manual_seed(0)
    x = torch.full((301, 401), 2.0, dtype=dtype)
    y = dropout(x, p, training=True)
    assert y.dtype == dtype
    assert set(y.unique().tolist()) == {0.0, float(x[0, 0] * torch.tensor(1 / (1 - p), dtype=dtype))}
    share = (y == 0).float()
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(share.mean() - p) < 4 * deviation
    for axis in (0, 1):  # rows and columns are as independent as elements
        means = share.mean(axis)
        assert means.std().item() == pytest.approx((p * (1 - p) / x.shape[axis]) ** 0.5, rel=0.25)


def test_neighbors_are_independent():
    torch.manual_seed(1)
    kept = (dropout(torch.ones(400_000), 0.5, training=True) > 0).float() - 0.5
    for step in range(1, 9):
        assert abs((kept[step:] * kept[:-step]).mean()) < 4 * 0.25 / 400_000**0.5


def test_gradients_pass_where_elements_did():
    torch.manual_seed(2)
    x = torch.rand(7, 5).add(1).requires_grad_()
    y = dropout(x, 0.4, training=True)
    y.sum().backward()
    assert torch.equal(x.grad, (y != 0) / 0.6)


def test_without_training_or_probability_nothing_happens():
    x, layer = torch.rand(3, 4), Dropout(0.5)
    assert torch.equal(dropout(x, 0.5, training=False), x)
    assert torch.equal(dropout(x, 0.0, training=True), x)
    assert torch.equal(layer.eval()(x), x)
    assert dropout(torch.zeros(0, 3), 0.5, training=True).shape == (0, 3)


def test_a_seed_repeats_it():
    x, layer = torch.ones(50, 50), Dropout(0.5)
    first, again, other = (torch.manual_seed(seed) and layer(x) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
