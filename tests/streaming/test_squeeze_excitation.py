"""Squeeze-excitation against its formulas and under the law."""

import torch

from kit.streaming import check_block, check_whole_only
from wavecast.core.squeeze_excitation import (
    RunningSqueezeExcitation,
    SpatialChannelSqueezeExcitation,
    SqueezeExcitation,
)


def example(time=20):
    torch.manual_seed(0)
    return torch.randn(3, time, 5, 8, dtype=torch.float64)


def test_gates_of_the_whole_signal():
    block, x = SqueezeExcitation(8).double(), example()
    first, _, second, _ = block.gate
    gates = torch.sigmoid(second(torch.relu(first(x.mean((1, 2))))))
    assert torch.allclose(block(x)[0], 2 * gates[:, None, None] * x, atol=1e-12)
    check_whole_only(block, x)


def test_padding_changes_no_gate():
    block, x, lengths = SqueezeExcitation(8).double(), example(), torch.tensor([20, 7, 19])
    junk = x.clone()
    junk[1, 7:], junk[2, 19:] = float("nan"), 1e6
    y, _ = block(junk, lengths=lengths)
    for row, n in enumerate(lengths.tolist()):
        assert torch.allclose(y[row, :n], block(x[row : row + 1, :n])[0][0], atol=1e-12)


def test_gates_of_the_signal_so_far():
    block, x = RunningSqueezeExcitation(8, decay=1.0).double(), example()
    y, _ = block(x)
    for t in (0, 7, 19):
        gates = block.inner.gate.function(x[:, : t + 1].mean((1, 2)))
        assert torch.allclose(y[:, t], 2 * gates[:, None] * x[:, t], atol=1e-12)
    check_block(block, example(40))


def test_the_larger_of_the_weightings_by_channel_and_by_place():
    block, x = SpatialChannelSqueezeExcitation(8).double(), example()
    linear, _ = block.spatial.inner.function
    places = 2 * torch.sigmoid(x @ linear.weight[0] + linear.bias)[..., None] * x
    channels, _ = block.channel(x)
    y, _ = block(x)
    assert torch.allclose(y, torch.where(places > channels, places, channels), atol=1e-12)
    assert 0 < (places > channels).double().mean() < 1
    check_block(block, example(40))
