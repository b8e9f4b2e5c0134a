"""The Legendre memory as Triton kernels, forward and backward, for NVIDIA GPUs.

The windows of the input times the impulse response of the readout: one matrix product whose left side, of Toeplitz
tiles, is read from the input where it lies and never written out. The gradient of the impulse response is the product
of the same tiles, turned, with the gradient of the output; that of the input is a plain product, summed along its
diagonals. Products are of three passes in TF32, as exact as fp32 but on tensor cores.

The gradient is deterministic: every program adds up a fixed share of the steps in a fixed order and writes its own
part, and the parts are added up after it. There are no atomics.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from wavecast.core.ops.legendre.cpu import sum_diagonals

WARPS = 4
STEPS, TAPS, OUTPUTS = 64, 32, 64
"""Sides of a tile: of time, of the impulse response, of the outputs."""
PROGRAMS = 256
"""Programs worth having: two for every multiprocessor. It is no property of the device, so that sums never differ."""


@triton.jit
def respond_kernel(
    x,
    kernel,
    y,
    tiles,
    time,
    taps,
    outputs,
    block_time: tl.constexpr,
    block_taps: tl.constexpr,
    block_outputs: tl.constexpr,
):
    """Compute y[t] = sum_j kernel[j] x[t + j] for one tile of steps and outputs."""
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    t = tl.program_id(0) % tiles * block_time + tl.arange(0, block_time)
    output = tl.program_id(1) * block_outputs + tl.arange(0, block_outputs)
    x += batch * (time + taps - 1)
    total = tl.zeros([block_time, block_outputs], tl.float32)
    for first in range(0, taps, block_taps):
        j = first + tl.arange(0, block_taps)
        windows = read_windows(x, t, j, time, taps)
        weights = tl.load(kernel + j[:, None] * outputs + output, (j < taps)[:, None] & (output < outputs)[None, :], 0)
        total = tl.dot(windows, weights, total, input_precision="tf32x3")
    place = y + (batch * time + t)[:, None] * outputs + output
    tl.store(place, total, (t < time)[:, None] & (output < outputs)[None, :])


@triton.jit
def response_gradient_kernel(
    x,
    grad,
    parts,
    tiles,
    all_tiles,
    time,
    taps,
    outputs,
    block_time: tl.constexpr,
    block_taps: tl.constexpr,
    block_outputs: tl.constexpr,
):
    """Add up grad[t] x[t + j] over a share of the tiles: one tile of one part, (taps, outputs)."""
    j = tl.program_id(0) * block_taps + tl.arange(0, block_taps)
    output = tl.program_id(1) * block_outputs + tl.arange(0, block_outputs)
    total = tl.zeros([block_taps, block_outputs], tl.float32)
    for tile in range(tl.program_id(2), all_tiles, tl.num_programs(2)):
        batch = (tile // tiles).to(tl.int64)
        t = tile % tiles * block_time + tl.arange(0, block_time)
        windows = read_windows(x + batch * (time + taps - 1), t, j, time, taps)
        gradients = tl.load(
            grad + (batch * time + t)[:, None] * outputs + output,
            (t < time)[:, None] & (output < outputs)[None, :],
            0,
        )
        total = tl.dot(tl.trans(windows), gradients, total, input_precision="tf32x3")
    place = parts + (tl.program_id(2).to(tl.int64) * taps + j)[:, None] * outputs + output
    tl.store(place, total, (j < taps)[:, None] & (output < outputs)[None, :])


@triton.jit
def read_windows(x, t, j, time, taps):
    """Read x[t + j], zero outside: a tile of a Toeplitz matrix."""
    return tl.load(x + t[:, None] + j[None, :], (t < time)[:, None] & (j < taps)[None, :], 0)


class WindowProduct(Function):
    """The windows of x (batch, taps - 1 + time) times a kernel (taps, output): (batch, time, output), all fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        """Multiply without writing the windows out."""
        x, kernel = x.contiguous(), kernel.contiguous()
        ctx.save_for_backward(x, kernel)
        return multiply(x, kernel)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Send the gradient to the input and to the kernel."""
        x, kernel = ctx.saved_tensors
        dx = sum_diagonals(grad @ kernel.T) if ctx.needs_input_grad[0] else None
        dkernel = kernel_gradient(x, grad.contiguous(), len(kernel)) if ctx.needs_input_grad[1] else None
        return dx, dkernel


def respond(x: Tensor, response: Tensor, readout: Tensor | None) -> Tensor:
    """Multiply the windows of x with the impulse response of the readout, as `cpu.respond` does."""
    oldest_first = response.flip(0)
    return WindowProduct.apply(x, oldest_first if readout is None else oldest_first @ readout.T)


def multiply(x: Tensor, kernel: Tensor) -> Tensor:
    """Compute y[t] = sum_j kernel[j] x[t + j]: (batch, time, output)."""
    taps, outputs = kernel.shape
    batch, time = len(x), max(0, x.shape[1] - taps + 1)
    y = torch.empty(batch, time, outputs, device=x.device, dtype=x.dtype)
    if y.numel():
        tiles = triton.cdiv(time, STEPS)
        grid = batch * tiles, triton.cdiv(outputs, OUTPUTS)
        respond_kernel[grid](x, kernel, y, tiles, time, taps, outputs, **sides())
    return y


def kernel_gradient(x: Tensor, grad: Tensor, taps: int) -> Tensor:
    """Compute dkernel[j] = sum over batch and t of grad[t] x[t + j]: (taps, output)."""
    batch, time, outputs = grad.shape
    if grad.numel() == 0:
        return grad.new_zeros(taps, outputs)
    tiles = triton.cdiv(time, STEPS)
    across = triton.cdiv(taps, TAPS), triton.cdiv(outputs, OUTPUTS)
    shares = max(1, min(batch * tiles, PROGRAMS // (across[0] * across[1])))
    parts = torch.empty(shares, taps, outputs, device=x.device, dtype=x.dtype)
    response_gradient_kernel[*across, shares](x, grad, parts, tiles, batch * tiles, time, taps, outputs, **sides())
    return parts.sum(0)


def sides() -> dict[str, Any]:
    """Give the constants of the kernels."""
    return {"block_time": STEPS, "block_taps": TAPS, "block_outputs": OUTPUTS, "num_warps": WARPS}
