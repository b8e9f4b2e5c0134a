"""Subsampling against plain convolutions over the whole, channels first, and the law for it."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kit.streaming import assert_close, check_block
from wavecast.core.subsampling import Subsampling

FREQS = {True: (41, 21, 11), False: (40, 20, 10)}


def definition(block: Subsampling, x: Tensor, causal: bool) -> Tensor:
    """Three convolutions of stride 2 over frames and frequencies, padded by 2 and 1 or by 1 and 1 on both axes."""
    sides = (2, 1, 2, 1) if causal else (1, 1, 1, 1)
    weights = {name: tensor.double() for name, tensor in block.state_dict().items()}
    y = x[:, None]
    for stage in (1, 2, 3):
        name = f"stage{stage}.{'convolution' if stage == 1 else 'depthwise'}"
        groups = 1 if stage == 1 else y.shape[1]
        y = functional.conv2d(
            functional.pad(y, sides), weights[f"{name}.weight"], weights[f"{name}.bias"], 2, groups=groups
        )
        if stage > 1:
            name = f"stage{stage}.pointwise"
            y = torch.einsum("bctf, ocij -> botf", y, weights[f"{name}.weight"])
            y = y + weights[f"{name}.bias"][:, None, None]
        y = functional.relu(y)
    assert y.shape[3] == FREQS[causal][2]
    return functional.linear(
        y.permute(0, 2, 1, 3).flatten(2), weights["out.function.weight"], weights["out.function.bias"]
    )


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 10, 61])
def test_subsampling_is_its_definition(frames, causal):
    torch.manual_seed(0)
    block = Subsampling(80, 4, 6, causal).double()
    x = torch.randn(2, frames, 80, dtype=torch.float64)
    y, _ = block(x)
    assert y.shape[1] == block.out_length(frames) == (-(-(frames - 1) // 8) + 1 if causal else -(-frames // 8))
    assert_close(y, definition(block, x, causal), 1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_the_gradients_are_those_of_the_definition(causal):
    torch.manual_seed(0)
    block = Subsampling(80, 4, 6, causal).double()
    x = torch.randn(2, 20, 80, dtype=torch.float64, requires_grad=True)
    y, _ = block(x)
    weight = torch.randn_like(y)
    found = torch.autograd.grad((y * weight).sum(), [x, *block.parameters()])
    twin = {name: parameter.detach().clone().requires_grad_() for name, parameter in block.named_parameters()}
    expected_y = definition(Twin(twin), x, causal)
    expected = torch.autograd.grad((expected_y * weight).sum(), [x, *twin.values()])
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_output_and_gradients_are_near_in_bf16(causal):
    torch.manual_seed(0)
    block = Subsampling(80, 8, 6, causal)
    x, weight = torch.randn(3, 61, 80), torch.randn(3, int(block.out_length(61)), 6)
    expected = block(x)[0]
    expected_gradients = torch.autograd.grad((expected * weight).sum(), list(block.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = block(x)
    gradients = torch.autograd.grad((y.float() * weight).sum(), list(block.parameters()))
    assert y.dtype == torch.bfloat16
    assert all(one.dtype == torch.float32 for one in gradients)
    found, wanted = (torch.cat([one.flatten() for one in some]).detach() for some in (gradients, expected_gradients))
    assert_close(y.float().detach(), expected.detach(), 0.02)
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


class Twin:
    """Named tensors that the definition differentiates."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def state_dict(self) -> dict[str, Tensor]:
        return self.tensors


@pytest.mark.parametrize("causal", [True, False])
def test_subsampling_keeps_the_law(causal):
    block = Subsampling(11, 4, 6, causal)
    assert block.lookahead == (0 if causal else 7)
    assert block.stride == block.period == 8
    check_block(block, torch.randn(3, 60, 11), examples=8)
