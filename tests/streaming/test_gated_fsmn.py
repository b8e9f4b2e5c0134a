"""The gated FSMN block against its definition in torch's own layers, and under the law."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kit.streaming import assert_close, check_block, check_padding, check_whole_only
from wavecast.core.flash import ConvolvedLinear
from wavecast.core.gated_fsmn import GatedFSMN


def block(memory: str, causal: bool) -> GatedFSMN:
    """A small block in fp64, its norms and slopes far from trivial."""
    torch.manual_seed(0)
    made = GatedFSMN(6, 4, memory, taps=5, causal=causal).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def filtered(x: Tensor, weight: Tensor, causal: bool, dilation: int = 1, groups: int | None = None) -> Tensor:
    """Convolve (time, channel) along time with weights (channel, inputs, taps) and zeros around."""
    reach = (weight.shape[2] - 1) * dilation
    ahead = 0 if causal else reach // 2
    padded = functional.pad(x.T[None], (reach - ahead, ahead))
    return functional.conv1d(padded, weight, dilation=dilation, groups=groups or x.shape[1])[0].T


def convolved(part: ConvolvedLinear, x: Tensor, causal: bool) -> Tensor:
    """The convolved linear map of (time, channel)."""
    y = functional.silu(part.linear.function(part.norm.function(x)))
    return y + filtered(y, part.filter.weight[:, None], causal)


def normalized(x: Tensor, norm: torch.nn.Module, causal: bool) -> Tensor:
    """Each channel by its mean and variance over time: of all of it, or of the past with weights that decay."""
    if not causal:
        return functional.instance_norm(x.T[None], weight=norm.weight, bias=norm.bias)[0].T
    out = []
    for t in range(len(x)):
        weights = norm.statistics.decay ** torch.arange(t, -1, -1, dtype=x.dtype)[:, None]
        weights = weights / weights.sum()
        mean = (weights * x[: t + 1]).sum(0)
        variance = (weights * (x[: t + 1] - mean) ** 2).sum(0)
        out.append((x[t] - mean) / torch.sqrt(variance + 1e-5) * norm.weight + norm.bias)
    return torch.stack(out)


@torch.no_grad()
def definition(gated: GatedFSMN, memory: str, causal: bool, x: Tensor) -> Tensor:
    """The block on one signal (time, channel), as the specification writes it down."""
    inner = gated.inner
    linear, slope = inner.reduce.function
    c = functional.prelu(linear(x), slope.weight)
    n = inner.norm.function(c)
    u, v = convolved(inner.gated.remembered.map, n, causal), convolved(inner.gated.gate, n, causal)
    deep = inner.gated.remembered.memory.inner
    first, _, last = deep.project.function
    p = torch.relu(first(u)) @ last.weight.T
    if memory == "plain":
        remembered = p + filtered(p, deep.memory.weight[:, None], causal)
    else:
        newer, older = deep.memory.layer0.new, deep.memory.layer1
        o1 = normalized(filtered(p, newer.convolution.weight, causal), newer.norm, causal)
        o1 = torch.where(o1 > 0, o1, newer.rectify.function.weight * o1)
        # Output g reads channels 2g and 2g + 1 of the two joined: the upper half sees only p.
        joined = torch.cat([o1, p], 1)
        o2 = filtered(joined, older.convolution.weight, causal, dilation=2, groups=p.shape[1])
        o2 = normalized(o2, older.norm, causal)
        remembered = torch.where(o2 > 0, o2, older.rectify.function.weight * o2)
    f = u + remembered
    return x + inner.expand.function(inner.norm_out.function(v * f + n))


@pytest.mark.parametrize("time", [2, 30, 100])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("memory", ["plain", "dilated"])
def test_the_block_is_its_definition(memory, causal, time):
    gated, x = block(memory, causal), torch.randn(2, time, 6, dtype=torch.float64)
    y, _ = gated(x)
    for row in range(2):
        assert_close(y[row], definition(gated, memory, causal, x[row]), 1e-9)


@pytest.mark.parametrize("memory", ["plain", "dilated"])
def test_the_causal_block_keeps_the_law(memory):
    gated = block(memory, True)
    assert gated.lookahead == 0
    check_block(gated, torch.randn(3, 50, 6))


def test_a_plain_memory_looks_ahead_and_keeps_the_law():
    gated = block("plain", False)
    assert gated.lookahead == 19 + 2
    check_block(gated, torch.randn(3, 50, 6))


def test_the_published_dilated_memory_needs_the_whole_signal():
    gated = block("dilated", False)
    check_whole_only(gated, torch.randn(2, 50, 6))
    with torch.no_grad():
        check_padding(gated, torch.randn(3, 60, 6, dtype=torch.float64), 1e-9)


def test_unknown_memories_are_refused():
    with pytest.raises(ValueError, match=r"memory 'deep'(.|\n)*hint: one of dilated, plain"):
        GatedFSMN(memory="deep")
    with pytest.raises(ValueError, match=r"5 channels(.|\n)*hint: take an even number"):
        GatedFSMN(8, 5)
