"""MossFormer's network, its filter bank and its norms against their definitions, and under the law."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kit.streaming import assert_close, check_block, check_padding, check_whole_only
from wavecast.apps.separation.mossformer2 import MossFormer2
from wavecast.core.filterbank import Analysis, Synthesis
from wavecast.core.mossformer import Masks, MossFormer, PositionEncoding
from wavecast.core.normalization import RunningSignalNorm, SignalNorm
from wavecast.core.stream import Stream, latency

SIZES = {"layers": 1, "width": 8, "hidden": 12, "attention": 6, "group": 7, "inner": 4}


def mossformer(causal: bool, memory: str = "dilated") -> MossFormer:
    torch.manual_seed(0)
    return MossFormer(6, 5, 3, memory=memory, causal=causal, **SIZES).eval()


def separator(causal: bool, speakers: int = 2, masking: bool = True) -> MossFormer2:
    torch.manual_seed(0)
    return MossFormer2(speakers, 6, 4, 2, masking=masking, causal=causal, **SIZES).eval()


def test_the_signal_norm_is_group_normalization_with_one_group():
    norm, x = SignalNorm(4).double(), 3 + 2 * torch.randn(2, 11, 4, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    expected = functional.group_norm(x.transpose(1, 2), 1, norm.weight, norm.bias, 1e-8).transpose(1, 2)
    assert_close(norm(x)[0], expected, 1e-12)
    check_whole_only(norm, x)
    with torch.no_grad():
        check_padding(norm, torch.randn(3, 11, 4, dtype=torch.float64), 1e-12)


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_the_running_signal_norm_is_its_definition_and_keeps_the_law(decay):
    norm, x = RunningSignalNorm(4, decay=decay).double(), 5 + torch.randn(3, 30, 4, dtype=torch.float64)
    y, _ = norm(x)
    for t in (0, 1, 17, 29):
        weights = decay ** torch.arange(t, -1, -1, dtype=torch.float64)
        weights = (weights / weights.sum())[:, None] / 4
        past = x[:, : t + 1]
        mean = (weights * past).sum((1, 2), keepdim=True)
        variance = (weights * (past - mean) ** 2).sum((1, 2), keepdim=True)
        assert_close(y[:, t], ((past - mean) / torch.sqrt(variance + 1e-8))[:, t], 1e-9)
    check_block(norm, torch.randn(3, 30, 4))


def test_positions_are_their_definition_and_keep_the_law():
    block, x = PositionEncoding().double(), torch.zeros(1, 9, 6, dtype=torch.float64)
    with torch.no_grad():
        block.scale.fill_(0.5)
    y, _ = block(x)
    for t in (0, 1, 8):
        angles = torch.tensor([t * 10000 ** (-2 * j / 6) for j in range(3)], dtype=torch.float64)
        assert_close(y[0, t], 0.5 * torch.cat([angles.sin(), angles.cos()]), 1e-12)
    check_block(block, torch.randn(3, 20, 6))


def test_masks_are_their_definition():
    masks, x = Masks(4, 3, 2).double(), torch.randn(2, 5, 4, dtype=torch.float64)
    y = masks(x)
    assert y.shape == (2, 5, 3, 2)
    assert (y >= 0).all()
    split = masks.split(torch.where(x > 0, x, masks.rectify.weight * x))
    for speaker in range(2):
        z = split[..., 4 * speaker : 4 * speaker + 4]
        gated = torch.tanh(masks.content(z)) / (1 + torch.exp(-masks.gate(z)))
        assert_close(y[..., speaker], (gated @ masks.output.weight.T).clamp_min(0), 1e-12)


def test_the_filter_bank_is_its_definition_and_keeps_the_law():
    analysis, synthesis = Analysis(5, 6, 2).double(), Synthesis(5, 6, 2, tail=3).double()
    x = torch.randn(2, 21, dtype=torch.float64)
    frames, _ = analysis(x)
    expected = functional.conv1d(x[:, None], analysis.weight[:, None], stride=2).relu().transpose(1, 2)
    assert_close(frames, expected, 1e-12)
    sources = torch.randn(2, 8, 5, 3, dtype=torch.float64)
    y, _ = synthesis(sources)
    for i in range(3):
        one = functional.conv_transpose1d(sources[..., i].transpose(1, 2), synthesis.weight[:, None], stride=2)[:, 0]
        assert_close(y[..., i], functional.pad(one, (0, 3)), 1e-12)
    check_block(analysis, torch.randn(3, 21))
    check_block(synthesis, torch.randn(3, 8, 5, 3))
    with pytest.raises(ValueError, match=r"kernel 5 with stride 2(.|\n)*hint:"):
        Synthesis(4, 5, 2)


@pytest.mark.parametrize("memory", ["dilated", "plain"])
def test_the_causal_network_keeps_the_law(memory):
    network = mossformer(True, memory)
    assert (network.lookahead, network.period) == (0, 1)
    check_block(network, torch.randn(3, 40, 6), examples=8)


@pytest.mark.parametrize("memory", ["dilated", "plain"])
def test_the_published_network_needs_the_whole_signal(memory):
    network = mossformer(False, memory)
    check_whole_only(network, torch.randn(2, 40, 6))
    with torch.no_grad():
        check_padding(network.double(), torch.randn(3, 40, 6, dtype=torch.float64), 1e-9)
    with pytest.raises(ValueError, match=r"over the whole signal(.|\n)*hint: .*causal"):
        network(torch.randn(1, 9, 6), last=False)


@torch.no_grad()
def test_the_network_is_its_parts():
    network = mossformer(False).double()
    x = torch.randn(1, 20, 6, dtype=torch.float64)
    start = network.position(network.norm(x)[0] @ network.project.function.weight.T)[0]
    stack = network.layers.inner
    y = stack.layer0.memory(stack.layer0.attention(start)[0])[0]
    y = functional.group_norm(stack.norm.function(y).transpose(1, 2), 1, eps=1e-8).transpose(1, 2)
    assert_close(network(x)[0], network.masks.function(start + y), 1e-12)


@pytest.mark.parametrize("masking", [True, False])
def test_the_causal_separator_keeps_the_law(masking):
    network = separator(True, masking=masking)
    assert (network.lookahead, network.period) == (3, 2)
    check_block(network, torch.randn(3, 61), examples=8)


@pytest.mark.parametrize(("speakers", "masking"), [(2, True), (3, True), (2, False)])
def test_the_published_separator_needs_the_whole_signal(speakers, masking):
    network = separator(False, speakers, masking)
    x = torch.randn(2, 61)
    check_whole_only(network, x)
    assert network(x)[0].shape == (2, 61, speakers)
    assert network.speakers == speakers
    with torch.no_grad():
        check_padding(network.double(), torch.randn(3, 61, dtype=torch.float64), 1e-9)


@torch.no_grad()
def test_the_separator_is_its_parts():
    x = torch.randn(1, 41, dtype=torch.float64)
    for masking in (True, False):
        network = separator(False, masking=masking).double()
        parts = network.inner
        features, _ = parts.analysis(x)
        masks, _ = parts.features.masks(features)
        sources = features[..., None] * masks if masking else masks
        y, _ = parts.synthesis(sources)
        assert_close(network(x)[0], y[:, :41], 1e-12)
        assert (network(x)[0][:, 40:] == 0).all()  # the last frame ends with sample 39


@torch.no_grad()
def test_a_live_stream_has_the_latency_of_a_frame_and_the_bytes_of_a_file():
    network = separator(True)
    assert latency(network, 10) == 10 + 2
    x = torch.randn(1, 95)
    outputs = []
    for size in (95, 7):
        stream = Stream(network, 10)
        pieces = [piece for part in x.split(size, 1) for piece in stream.push(part)]
        outputs.append(torch.cat([*pieces, *stream.flush()], 1))
    assert torch.equal(*outputs)
    assert_close(outputs[0], network(x)[0], 1e-5)


def every_gradient(network: MossFormer2) -> list[str]:
    """Name the parameters that a training step does not reach."""
    y, _ = network.train()(torch.randn(2, 60))
    (y - torch.randn_like(y)).square().mean().backward()
    return [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_every_parameter_learns():
    for causal in (False, True):
        assert not every_gradient(separator(causal))


def test_rows_do_not_meet():
    network, x = separator(False), torch.randn(3, 50)
    alone: list[Tensor] = [network(row[None])[0] for row in x]
    assert_close(network(x)[0], torch.cat(alone), 1e-5)
