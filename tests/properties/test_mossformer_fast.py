"""The forms of MossFormer for inference: the numbers of the forms that train, at any length and in any tiles."""

import pytest
import torch
from torch import Tensor

from wavecast.apps.separation.mossformer2 import MossFormer2
from wavecast.apps.separation.mossformer2_fast import FastMossFormer2
from wavecast.core import mossformer_fast
from wavecast.core.mossformer import MossFormer
from wavecast.core.mossformer_fast import FastMossFormer, Statistics, linear

SIZES = {"layers": 2, "width": 12, "hidden": 16, "attention": 40, "group": 7, "inner": 8}
"""More queries' channels than turn, groups that do not divide the tiles."""


def randomized(network: torch.nn.Module) -> None:
    """Give norms, slopes and biases values that nothing can hide behind."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim < 2:
                parameter.add_(0.2 * torch.randn_like(parameter))


def mossformer(memory: str) -> MossFormer:
    torch.manual_seed(0)
    network = MossFormer(6, 5, 3, memory=memory, **SIZES).double().eval()
    randomized(network)
    return network


def separator(speakers: int = 2, masking: bool = True) -> MossFormer2:
    torch.manual_seed(0)
    network = MossFormer2(speakers, 6, 4, 2, masking=masking, **SIZES).double().eval()
    randomized(network)
    return network


def relative(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6)).item() if found.numel() else 0


@pytest.mark.parametrize("memory", ["dilated", "plain"])
@pytest.mark.parametrize("tile", [40, 256])
@torch.inference_mode()
def test_masks_are_those_of_the_plain_form(memory: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mossformer_fast, "TILE", tile)
    monkeypatch.setattr(mossformer_fast, "NARROW_TILE", tile)
    network = mossformer(memory)
    fast = FastMossFormer(network)
    for time in (0, 1, 2, 7, 39, 40, 41, 301):
        x = torch.randn(2, time, 6, dtype=torch.float64)
        given = x.clone()
        assert relative(fast(x)[0], network(x)[0]) < 1e-9
        assert torch.equal(x, given)


@torch.inference_mode()
def test_single_precision_takes_another_way_to_the_same_numbers() -> None:
    network = mossformer("dilated").float()
    x = torch.randn(1, 600, 6)
    assert relative(FastMossFormer(network)(x)[0], network(x)[0]) < 1e-4
    x, weight, bias = torch.randn(9, 4), torch.randn(3, 4), torch.randn(3)
    assert relative(linear(x, weight, bias, silu=True), torch.nn.functional.silu(x @ weight.T + bias)) < 1e-5
    assert relative(linear(x, weight), x @ weight.T) < 1e-5
    assert linear(x[:0], weight, bias, silu=True).shape == (0, 3)


@pytest.mark.parametrize(("speakers", "masking"), [(2, True), (3, True), (2, False)])
@torch.inference_mode()
def test_voices_are_those_of_the_plain_form(speakers: int, masking: bool) -> None:
    network = separator(speakers, masking)
    fast = FastMossFormer2(network)
    assert fast.speakers == speakers
    for samples in (0, 1, 3, 4, 5, 83, 84):
        x = torch.randn(2, samples, dtype=torch.float64)
        assert relative(fast(x)[0], network(x)[0]) < 1e-9


def test_the_fast_form_needs_the_whole_signal_and_keeps_nothing_of_the_plain_one() -> None:
    network = separator()
    fast = FastMossFormer2(network)
    with pytest.raises(ValueError, match=r"cannot stream(.|\n)*over the whole signal"):
        fast(torch.randn(1, 40), last=False)
    x = torch.randn(1, 90, dtype=torch.float64)
    before = fast(x)[0].clone()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.zero_()
    assert torch.equal(fast(x)[0], before)
    assert not any(p.requires_grad for p in fast.parameters())


def test_causal_networks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"causal MossFormer has no faster form(.|\n)*hint:"):
        FastMossFormer(MossFormer(6, 5, 2, causal=True, **SIZES))


def test_statistics_of_pieces_are_those_of_the_whole() -> None:
    x = 1000 + torch.randn(70, 3, dtype=torch.float64)
    statistics = Statistics(x)
    for piece in x.split([1, 30, 39]):
        statistics.add(piece)
    scale, shift = statistics.affine(torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    expected = torch.nn.functional.instance_norm(x.T[None])[0].T
    assert relative(x * scale + shift, expected) < 1e-9
