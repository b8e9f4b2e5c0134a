"""FSMN memories against the formula, and FSMN layers, running means and squeeze-excitation under the law."""

import pytest
import torch

from kit.streaming import check_block, check_whole_only, run
from wavecast.core.fsmn import (
    CompactFSMN,
    DeepFSMN,
    DilatedDense,
    GroupedConvolution,
    Memory,
    TimeMemory,
    taps_over_time,
)
from wavecast.core.normalization import ChannelPReLU, InstanceNorm, RunningInstanceNorm
from wavecast.core.statistics import RunningMean


@pytest.mark.parametrize(("time", "taps", "dilation"), [(1, 3, 1), (30, 4, 1), (31, 3, 4), (5, 2, 8), (64, 5, 3)])
@pytest.mark.parametrize("between", [(), (4,)])
def test_taps_over_time_are_the_formula(time, taps, dilation, between):
    x = torch.randn(2, time + (taps - 1) * dilation, *between, 6, dtype=torch.float64)
    weight = torch.randn(6, taps, dtype=torch.float64)
    expected = sum(weight[:, i] * x[:, i * dilation : i * dilation + time] for i in range(taps))
    assert torch.allclose(taps_over_time(x, weight, dilation), expected, atol=1e-12)


@pytest.mark.parametrize("dilation", [1, 3])
def test_time_memory_keeps_the_law(dilation):
    check_block(TimeMemory(4, 5, dilation), torch.randn(3, 45, 4))


def test_a_normalized_layer_keeps_the_law():
    check_block(DeepFSMN(4, 8, TimeMemory(4, 3, 2), norm=True), torch.randn(3, 30, 4), silence=1000)


@pytest.mark.parametrize("decay", [0.9, 1.0])
def test_running_mean_is_the_formula_and_keeps_the_law(decay):
    x = torch.randn(3, 600, 2, dtype=torch.float64)
    y, _ = RunningMean(decay).double()(x)
    for t in (0, 1, 255, 256, 599):
        weights = decay ** torch.arange(t, -1, -1, dtype=torch.float64)
        expected = (weights[:, None] * x[:, : t + 1]).sum(1) / weights.sum()
        assert torch.allclose(y[:, t], expected, atol=1e-12)
    check_block(RunningMean(decay), torch.randn(3, 40, 2), silence=60_000)


def test_a_decay_out_of_range_is_refused():
    with pytest.raises(ValueError, match="decay"):
        RunningMean(1.5)


@pytest.mark.parametrize(("back", "ahead", "strides"), [(4, 0, (1, 1)), (3, 2, (1, 1)), (3, 2, (4, 3)), (1, 5, (1, 2))])
def test_the_memory_is_the_formula_and_keeps_the_law(back, ahead, strides):
    memory, x = Memory(4, back, ahead, *strides).double(), torch.randn(3, 40, 4, dtype=torch.float64)
    y, _ = memory(x)
    for t in (0, 1, 7, 20, 38, 39):
        expected = x[:, t].clone()
        for i in range(back):
            if t - i * strides[0] >= 0:
                expected += memory.weight[:, back - 1 - i] * x[:, t - i * strides[0]]
        for j in range(1, ahead + 1):
            if t + j * strides[1] < 40:
                expected += memory.ahead[:, j - 1] * x[:, t + j * strides[1]]
        assert torch.allclose(y[:, t], expected, atol=1e-12)
    assert memory.lookahead == ahead * strides[1]
    check_block(memory, x)


def test_a_memory_of_the_past_is_the_time_memory():
    one, other = Memory(4, 5, back_stride=2).double(), TimeMemory(4, 5, 2).double()
    other.weight.data.copy_(one.weight)
    x = torch.randn(2, 30, 4, dtype=torch.float64)
    assert torch.allclose(one(x)[0], other(x)[0], atol=1e-12)


def test_compact_and_deep_layers_are_their_formulas_and_keep_the_law():
    x = torch.randn(3, 40, 6, dtype=torch.float64)
    compact = CompactFSMN(6, 4, 5, {"back": 3, "ahead": 1, "back_stride": 2}).double()
    affine, _ = compact.affine.function
    expected = torch.relu(affine(compact.memory(x @ compact.project.function.weight.T)[0]))
    assert torch.allclose(compact(x)[0], expected, atol=1e-12)
    check_block(compact, x)
    deep = DeepFSMN(6, 8, Memory(6, 3, 2)).double()
    first, _, second = deep.inner.project.function
    projected = torch.relu(first(x)) @ second.weight.T
    assert torch.allclose(deep(x)[0], x + deep.inner.memory(projected)[0], atol=1e-12)
    check_block(deep, x)


def test_a_grouped_convolution_reads_neighboring_channels():
    block, x = GroupedConvolution(4, 2, 5, 3).double(), torch.randn(2, 30, 8, dtype=torch.float64)
    expected = torch.nn.functional.conv1d(x.transpose(1, 2), block.weight, padding=6, dilation=3, groups=4)
    assert torch.allclose(block(x)[0], expected.transpose(1, 2), atol=1e-12)
    check_block(block, torch.randn(3, 40, 8))


def test_the_dilated_dense_memory_is_its_definition():
    """Against torch's own layers in the published order: (batch, channel, time, 1), newest output first."""
    block, x = DilatedDense(4, 3).double(), torch.randn(2, 30, 4, dtype=torch.float64)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    skip = out = x.transpose(1, 2)[..., None]
    for i, layer in enumerate((block.layer0.new, block.layer1)):
        weight = layer.convolution.weight[..., None]
        out = torch.nn.functional.conv2d(skip, weight, padding=(2 * 2**i, 0), dilation=(2**i, 1), groups=4)
        out = torch.nn.functional.instance_norm(out, weight=layer.norm.weight, bias=layer.norm.bias)
        out = torch.nn.functional.prelu(out, layer.rectify.function.weight)
        skip = torch.cat([out, skip], 1)
    assert torch.allclose(block(x)[0], out[..., 0].transpose(1, 2), atol=1e-10)
    check_whole_only(block, torch.randn(3, 30, 4))


@torch.no_grad()
def test_the_dilated_dense_memory_with_lengths():
    block, x = DilatedDense(4, 3, depth=3).double(), torch.randn(3, 30, 4, dtype=torch.float64)
    for layer in (block.layer0.new, block.layer1.new):
        layer.norm.bias += 0.5  # so that what lies beyond the lengths is not zero between the layers
    lengths = torch.tensor([30, 11, 29])
    junk = x.clone()
    junk[1, 11:], junk[2, 29:] = float("nan"), 1e6
    y, _ = block(junk, lengths=lengths)
    for row, n in enumerate(lengths.tolist()):
        assert torch.allclose(y[row, :n], block(x[row : row + 1, :n])[0][0], atol=1e-12)


def test_the_dilated_dense_memory_streams_with_running_statistics():
    block = DeepFSMN(4, 6, DilatedDense(4, 3, depth=3, running=True))
    assert block.lookahead == 2 * (1 + 2 + 4)
    check_block(block, torch.randn(3, 60, 4), silence=60_000)


def test_instance_norms_are_the_formula():
    x = 3 + 2 * torch.randn(3, 50, 4, dtype=torch.float64)
    whole, running = InstanceNorm(4).double(), RunningInstanceNorm(4).double()
    expected = torch.nn.functional.instance_norm(x.transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(whole(x)[0], expected, atol=1e-12)
    y, _ = running(x)
    for t in (0, 1, 20, 49):
        past = x[:, : t + 1]
        expected = (x[:, t] - past.mean(1)) / (past.var(1, False) + 1e-5).sqrt()
        assert torch.allclose(y[:, t], expected, atol=1e-9)
    check_block(running, x, silence=60_000)
    check_whole_only(whole, x)


@torch.no_grad()
@pytest.mark.parametrize("decay", [0.98, 1.0])
def test_a_large_mean_does_not_cancel_the_running_variance(decay):
    x = 3000 + 2 * torch.randn(3, 400, 4, dtype=torch.float64)
    running = RunningInstanceNorm(4, decay)
    expected, _ = RunningInstanceNorm(4, decay).double()(x.float().double())
    for y in (running(x.float())[0], run(running, x.float(), list(range(1, 400)))[0]):
        assert (y - expected)[:, 20:].abs().max() < 0.01  # the first few steps have next to no variance


def test_the_running_variance_of_weighted_steps_is_the_formula():
    x = torch.randn(2, 30, 4, dtype=torch.float64)
    y, _ = RunningInstanceNorm(4, 0.9).double()(x)
    for t in (0, 1, 29):
        weights = 0.9 ** torch.arange(t, -1, -1, dtype=torch.float64)[:, None]
        mean = (weights * x[:, : t + 1]).sum(1, keepdim=True) / weights.sum()
        variance = (weights * (x[:, : t + 1] - mean).square()).sum(1) / weights.sum()
        assert torch.allclose(y[:, t], (x[:, t] - mean[:, 0]) / (variance + 1e-5).sqrt(), atol=1e-10)


def test_instance_norm_with_lengths():
    norm, x = InstanceNorm(4).double(), torch.randn(3, 30, 4, dtype=torch.float64)
    lengths = torch.tensor([30, 11, 29])
    junk = x.clone()
    junk[1, 11:], junk[2, 29:] = float("nan"), 1e6
    y, _ = norm(junk, lengths=lengths)
    for row, n in enumerate(lengths.tolist()):
        assert torch.allclose(y[row, :n], norm(x[row : row + 1, :n])[0][0], atol=1e-12)


def test_the_slope_below_zero_is_the_channels():
    rectify, x = ChannelPReLU(3), torch.randn(2, 5, 3)
    rectify.weight.data = torch.tensor([0.1, 0.5, 2.0])
    assert torch.allclose(rectify(x), torch.nn.functional.prelu(x.transpose(1, 2), rectify.weight).transpose(1, 2))
