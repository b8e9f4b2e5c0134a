"""Complex layers: the law, and equality to complex arithmetic."""

import pytest
import torch
from torch import Tensor, nn

from kit.streaming import check_block, check_whole_only
from wavecast.core.complex_layers import (
    FSMN,
    ComplexBatchNorm,
    ComplexConvolution,
    ComplexFSMN,
    ComplexSqueezeExcitation,
    ComplexTransposedConvolution,
    complex_concatenate,
    complex_product,
)
from wavecast.core.frequency import AlongFrequency


def plane(channels: int, time: int = 40, freqs: int = 7) -> Tensor:
    return torch.randn(3, time, freqs, 2 * channels, generator=torch.Generator().manual_seed(0))


def to_complex(x: Tensor) -> Tensor:
    return torch.complex(*x.chunk(2, -1))


@pytest.mark.parametrize(
    "block",
    [
        ComplexConvolution(2, 3, (2, 5), freq_stride=2, left=1, right=1),
        ComplexConvolution(2, 1, (1, 1)),
        ComplexTransposedConvolution(2, 3, (2, 5), freq_stride=2),
        ComplexBatchNorm(2),
        AlongFrequency(ComplexFSMN(2, 4)),
    ],
    ids=lambda block: type(block).__name__,
)
def test_planes(block: nn.Module) -> None:
    check_block(block, plane(2), examples=5, silence=200)


@pytest.mark.parametrize("block", [ComplexFSMN(3, 5), FSMN(6, 5)], ids=lambda block: type(block).__name__)
def test_sequences(block: nn.Module) -> None:
    check_block(block, torch.randn(3, 60, 6), examples=5, silence=500)


def test_squeeze_excitation_needs_the_whole_signal() -> None:
    check_whole_only(ComplexSqueezeExcitation(4, reduction=2), plane(4))


@torch.no_grad()
def test_squeeze_excitation_with_lengths() -> None:
    block, x = ComplexSqueezeExcitation(4, reduction=2), plane(4)
    x[1, 25:] = float("nan")
    y, _ = block(x, lengths=torch.tensor([40, 25, 0]))
    torch.testing.assert_close(y[1:2, :25], block(x[1:2, :25])[0])
    torch.testing.assert_close(y[:1], block(x[:1])[0])
    assert torch.isfinite(y).all()


@torch.no_grad()
def test_convolution_is_complex() -> None:
    block, x = ComplexConvolution(2, 3, (2, 3)).double(), plane(2).double()
    kernel = torch.complex(block.real.weight, block.imag.weight)
    bias = torch.complex(block.real.bias - block.imag.bias, block.real.bias + block.imag.bias)
    expected = nn.functional.conv2d(to_complex(x).permute(0, 3, 1, 2), kernel, bias).permute(0, 2, 3, 1)
    torch.testing.assert_close(to_complex(block(x)[0]), expected)


@torch.no_grad()
def test_transposed_convolution_is_complex() -> None:
    block, x = ComplexTransposedConvolution(2, 3, (2, 5), freq_stride=2).double(), plane(2).double()
    kernel = torch.complex(block.real.weight, block.imag.weight)
    bias = torch.complex(block.real.bias - block.imag.bias, block.real.bias + block.imag.bias)
    y = nn.functional.conv_transpose2d(to_complex(x).permute(0, 3, 1, 2), kernel, bias, stride=(1, 2))
    torch.testing.assert_close(to_complex(block(x)[0]), y[:, :, 1:-1].permute(0, 2, 3, 1))


@torch.no_grad()
def test_fsmn_is_complex() -> None:
    """Two real layers R and I, each x + m + memory of m with m = W2 relu(W1 x + b1), act like one complex number."""
    block, x = ComplexFSMN(3, 5).double(), torch.randn(2, 30, 6, dtype=torch.float64)

    def layer(fsmn: FSMN, x: Tensor) -> Tensor:
        inner = torch.relu(x @ fsmn.linear.weight.T + fsmn.linear.bias) @ fsmn.project.weight.T
        past = nn.functional.pad(inner, (0, 0, 4, 0))
        return x + inner + sum(fsmn.memory.weight[:, i] * past[:, i : i + 30] for i in range(5))

    real, imag = x.chunk(2, -1)
    expected = torch.complex(
        layer(block.real, real) - layer(block.imag, imag), layer(block.real, imag) + layer(block.imag, real)
    )
    torch.testing.assert_close(to_complex(block(x)[0]), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_fsmn_runs_along_frequency_from_low_to_high() -> None:
    block, x = AlongFrequency(ComplexFSMN(2, 4)), plane(2)
    y, _ = block(x)
    x[:, :, 4:] += 1
    changed, _ = block(x)
    assert torch.equal(changed[:, :, :4], y[:, :, :4])
    assert not torch.isclose(changed[:, :, 4:], y[:, :, 4:]).all()
    torch.testing.assert_close(y[:, 9], block.inner(plane(2)[:, 9])[0])


def test_concatenation_and_product() -> None:
    a, b = plane(2), plane(3)
    torch.testing.assert_close(to_complex(complex_concatenate(a, b)), torch.cat([to_complex(a), to_complex(b)], -1))
    torch.testing.assert_close(to_complex(complex_product(a, 2 * a)), 2 * to_complex(a) ** 2)
