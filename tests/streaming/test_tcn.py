"""Dilated convolutions against their formulas, their receptive fields, and the law."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kit.streaming import check_block
from wavecast.core.block import Block
from wavecast.core.tcn import TCN, CausalConvolution, DilatedStack


def convolved(block: CausalConvolution, x: Tensor) -> Tensor:
    """Filter tap by tap, the weights put together from their direction and size."""
    norm, past = block.convolution.parametrizations.weight, block.left
    weight = norm.original0 * norm.original1 / norm.original1.norm(dim=(1, 2), keepdim=True)
    padded, dilation = functional.pad(x, (0, 0, past, 0)), block.convolution.dilation[0]
    taps = [padded[:, k * dilation :][:, : x.shape[1]] @ weight[:, :, k].T for k in range(weight.shape[2])]
    return sum(taps) + block.convolution.bias


def with_normal_weights(block: Block) -> Block:
    """Make every term matter as much as every other; a fresh network hides some behind its small weights."""
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_()
    return block.double().eval()


def test_a_causal_convolution_is_the_formula():
    block, x = with_normal_weights(CausalConvolution(3, 5, 4, 3)), torch.randn(2, 30, 3, dtype=torch.float64)
    assert (block.left, block.convolution.dilation) == (9, (3,))
    assert torch.allclose(block(x)[0], convolved(block, x), atol=1e-12)


def test_a_tcn_is_the_formula():
    block, x = with_normal_weights(TCN(3, (4, 4, 6), 3)), torch.randn(2, 30, 3, dtype=torch.float64)
    expected = x
    for i, one in enumerate(block.parts()):
        convolutions = (one.inner.convolution1, one.inner.convolution2)
        assert {(c.span - 1, *c.convolution.dilation) for c in convolutions} == {(2 * 2**i, 2**i)}
        inner = convolved(convolutions[1], convolved(convolutions[0], expected).clamp_min(0)).clamp_min(0)
        around = one.around.function
        if i != 1:
            expected = expected @ around.weight.T + around.bias
        expected = (expected + inner).clamp_min(0)
    assert torch.allclose(block(x)[0], expected, atol=1e-12)
    # Channels stay the same in the middle level only: no weights there to get around the convolutions.
    assert [len(list(one.around.parameters())) for one in block.parts()] == [2, 0, 2]


def test_convolutions_begin_small():
    weight = CausalConvolution(64, 64, 3).convolution.weight
    assert 0.009 < weight.std().item() < 0.011


@pytest.mark.parametrize("share", [False, True])
def test_a_dilated_stack_is_the_formula(share):
    stack, x = DilatedStack(4, 3, 2, 3, share).double(), torch.randn(2, 25, 4, dtype=torch.float64)
    expected = x
    for layer, dilation in enumerate((1, 2, 4)):
        direction, size = stack.direction[0 if share else layer], stack.size[0 if share else layer]
        weight = size * direction / direction.norm(dim=1, keepdim=True)
        padded = functional.pad(expected, (0, 0, 2 * dilation, 0))
        filtered = sum(padded[:, k * dilation : k * dilation + 25] * weight[:, k] for k in range(3))
        expected = expected + filtered.clamp_min(0)
    assert torch.allclose(stack(x)[0], expected, atol=1e-12)
    assert len(stack.direction) == (1 if share else 3)


@pytest.mark.parametrize(
    ("block", "field"),
    [
        (TCN(2, (3, 4, 4), 3), 1 + 2 * 2 * 7),
        (TCN(2, (2, 2)), 1 + 2 * 1 * 3),
        (DilatedStack(2, 3, 3, 4), 1 + 2 * (3**4 - 1) // (3 - 1)),
        (DilatedStack(2, 4, 2, 3), 1 + 3 * (2**3 - 1)),
    ],
)
def test_the_receptive_field_is_the_papers(block, field):
    """Steps of the past on which the last output depends, each found by its gradient."""
    assert block.receptive_field == field
    block = block.double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.abs_()  # nothing is cut below zero then, and nothing cancels
    x = torch.rand(1, field + 20, 2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x)[0][0, -1].sum(), x)
    reached = gradient[0].abs().sum(1) > 0
    assert reached.sum() == field
    assert reached[-field:].all()


@pytest.mark.parametrize("block", [TCN(3, (4, 4, 6), 3), DilatedStack(3, 3, 2, 3), DilatedStack(3, 2, 2, 3, True)])
def test_the_law(block):
    check_block(block, torch.randn(3, 45, 3))


def test_dropout_is_for_training():
    block, x = TCN(3, (8,), dropout=0.5), torch.randn(1, 20, 3)
    assert not torch.equal(block(x)[0], block(x)[0])
    assert torch.equal(block.eval()(x)[0], block(x)[0])
