"""S5 and S4D: the law, and the recurrences and convolutions that define them."""

import math

import pytest
import torch
from torch import Tensor

from kit.streaming import assert_close, check_block
from wavecast.core.hippo import bilinear, legs_blocks, legs_normal, truncated_normal, zero_order_hold
from wavecast.core.state_space import S4D, S5, TILE, S4DLayer


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_s5_keeps_the_law(discretization):
    torch.manual_seed(0)
    check_block(S5(6, 16, blocks=2, discretization=discretization), torch.randn(3, 40, 6))


def test_s4d_keeps_the_law():
    torch.manual_seed(0)
    check_block(S4DLayer(5, 8), torch.randn(3, TILE + 44, 5), examples=8)


def s5_by_its_recurrence(block: S5, u: Tensor, discretization: str) -> Tensor:
    eigenvalues = torch.complex(block.eigenvalues_real, block.eigenvalues_imag)
    dt = block.log_step.exp()
    if discretization == "zoh":
        decay = torch.exp(eigenvalues * dt)
        gain = (decay - 1) / eigenvalues
    else:
        decay = (1 - dt / 2 * eigenvalues) ** -1 * (1 + dt / 2 * eigenvalues)
        gain = (1 - dt / 2 * eigenvalues) ** -1 * dt
    b = gain[:, None] * torch.complex(block.input[..., 0], block.input[..., 1])
    c = torch.complex(block.output[..., 0], block.output[..., 1])
    x = torch.zeros(u.shape[0], len(decay), dtype=decay.dtype)
    y = []
    for t in range(u.shape[1]):
        x = decay * x + u[:, t].to(b.dtype) @ b.T
        y.append(2 * (x @ c.T).real + block.feedthrough * u[:, t])
    return torch.stack(y, 1)


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
@torch.no_grad()
def test_s5_is_its_recurrence(discretization):
    torch.manual_seed(1)
    block = S5(4, 12, discretization=discretization).double()
    u = torch.randn(2, 50, 4, dtype=torch.float64)
    assert_close(block(u)[0], s5_by_its_recurrence(block, u, discretization), 1e-11)


@pytest.mark.parametrize("time", [1, 63, TILE, 2 * TILE + 7])
@torch.no_grad()
def test_s4d_is_its_convolution(time):
    torch.manual_seed(2)
    block = S4D(3, 10).double()
    u = torch.randn(2, time, 3, dtype=torch.float64)
    eigenvalues = torch.complex(-block.log_decay.exp(), block.frequency)
    dt = block.log_step.exp()
    c = torch.complex(block.output[..., 0], block.output[..., 1])
    kernel = torch.stack(
        [2 * (c * (torch.exp(dt * eigenvalues) - 1) / eigenvalues * torch.exp(k * dt * eigenvalues)).sum(1).real
         for k in range(time)]
    )  # fmt: skip
    expected = torch.stack([(kernel[: t + 1].flip(0) * u[:, : t + 1]).sum(1) for t in range(time)], 1)
    assert_close(block(u)[0], expected + block.feedthrough * u, 1e-11)


def test_hippo_is_the_published_matrix():
    """Its normal part has the eigenvalues; they and the eigenvectors give the matrix back."""
    eigenvalues, vectors = legs_normal(8)
    order = torch.arange(8, dtype=torch.float64)
    root = (2 * order + 1).sqrt()
    legs = torch.where(order[:, None] > order, -root[:, None] * root, 0) - torch.diag(order + 1)
    normal = legs + (order + 0.5).sqrt()[:, None] * (order + 0.5).sqrt()
    rebuilt = 2 * torch.from_numpy((vectors * eigenvalues) @ vectors.conj().T).real
    assert_close(rebuilt, normal, 1e-12)
    assert (eigenvalues.imag < 0).all()
    assert eigenvalues.real == pytest.approx(-0.5)
    many, blocks = legs_blocks(16, 2)
    assert torch.equal(many[:4], many[4:])
    assert blocks.shape == (16, 8)
    assert not blocks[:8, 4:].any()


@pytest.mark.parametrize(("size", "blocks"), [(7, 1), (0, 1), (16, 3), (16, 16), (16, 0)])
def test_sizes_that_do_not_split_are_refused(size, blocks):
    with pytest.raises(ValueError, match="hint:"):
        S5(4, size, blocks)


def test_unknown_discretizations_are_refused():
    with pytest.raises(ValueError, match="hint: one of zoh, bilinear"):
        S5(4, 8, discretization="euler")


def test_the_hold_is_accurate_where_exp_minus_one_is_not():
    """gain = dt (1 + z / 2 + z^2 / 6) for a small z; the plain formula in single precision is off by 1e-4 there."""
    eigenvalues = torch.tensor([-0.5 - 1.5j, -1e-4 + 1e-5j], dtype=torch.complex64)
    steps = torch.tensor([1e-4, 1e-3], dtype=torch.float64)
    z = eigenvalues.to(torch.complex128) * steps
    series = steps * (1 + z / 2 + z**2 / 6)
    decay, gain = zero_order_hold(eigenvalues, steps)
    assert ((gain - series).abs() / series.abs()).max() < 1e-7
    rough = (torch.exp(z.to(torch.complex64)) - 1) / eigenvalues
    assert ((rough - series).abs() / series.abs()).max() > 1e-5
    assert decay.dtype == gain.dtype == torch.complex64


def test_bilinear_meets_the_hold_for_small_steps():
    eigenvalues, steps = torch.tensor([-0.5 - 2j], dtype=torch.complex128), torch.tensor([1e-3], dtype=torch.float64)
    for found, expected in zip(bilinear(eigenvalues, steps), zero_order_hold(eigenvalues, steps), strict=True):
        assert abs(found - expected) / abs(expected) < 1e-5


def test_truncated_normal():
    torch.manual_seed(0)
    x = truncated_normal(200, 500, variance=0.25)
    assert x.var().item() == pytest.approx(0.25, rel=0.02)
    assert x.abs().max() <= 2 * 0.5 / 0.8796 + 1e-6
    assert math.isclose(x.mean().item(), 0, abs_tol=0.01)
