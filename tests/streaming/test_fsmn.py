"""FSMN memories against the formula, and FSMN layers, running means and squeeze-excitation under the law."""

import pytest
import torch

from kit.streaming import check_block
from wavecast.core.fsmn import FrequencyMemory, FullBandFSMN, PlaneFSMN, TimeMemory, taps_over_time
from wavecast.core.squeeze_excitation import RunningSqueezeExcitation
from wavecast.core.statistics import RunningMean


@pytest.mark.parametrize(("time", "taps", "dilation"), [(1, 3, 1), (30, 4, 1), (31, 3, 4), (5, 2, 8), (64, 5, 3)])
@pytest.mark.parametrize("between", [(), (4,)])
def test_taps_over_time_are_the_formula(time, taps, dilation, between):
    x = torch.randn(2, time + (taps - 1) * dilation, *between, 6, dtype=torch.float64)
    weight = torch.randn(6, taps, dtype=torch.float64)
    expected = sum(weight[:, i] * x[:, i * dilation : i * dilation + time] for i in range(taps))
    assert torch.allclose(taps_over_time(x, weight, dilation), expected, atol=1e-12)


def test_frequency_memory_is_the_formula():
    memory, x = FrequencyMemory(4, 5).double(), torch.randn(2, 3, 9, 4, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, (0, 0, 2, 2))
    expected = x + sum(memory.weight[:, i] * padded[:, :, i : i + 9] for i in range(5))
    assert torch.allclose(memory(x), expected, atol=1e-12)


@pytest.mark.parametrize("dilation", [1, 3])
def test_time_memory_keeps_the_law(dilation):
    check_block(TimeMemory(4, 5, dilation), torch.randn(3, 45, 4))


def test_layers_keep_the_law():
    check_block(PlaneFSMN(4, 8, 3, 2, 5), torch.randn(3, 30, 6, 4), silence=1000)
    check_block(FullBandFSMN(6, 4, 8, 3, 2), torch.randn(3, 30, 6, 4), silence=1000)


@pytest.mark.parametrize("decay", [0.9, 1.0])
def test_running_mean_is_the_formula_and_keeps_the_law(decay):
    x = torch.randn(3, 600, 2, dtype=torch.float64)
    y, _ = RunningMean(decay).double()(x)
    for t in (0, 1, 255, 256, 599):
        weights = decay ** torch.arange(t, -1, -1, dtype=torch.float64)
        expected = (weights[:, None] * x[:, : t + 1]).sum(1) / weights.sum()
        assert torch.allclose(y[:, t], expected, atol=1e-12)
    check_block(RunningMean(decay), torch.randn(3, 40, 2), silence=60_000)


def test_running_squeeze_excitation_keeps_the_law():
    check_block(RunningSqueezeExcitation(8), torch.randn(3, 40, 5, 8))


def test_a_decay_out_of_range_is_refused():
    with pytest.raises(ValueError, match="decay"):
        RunningMean(1.5)
