"""Depthwise correlation along time: every channel is filtered by its own few taps.

It is the memory of an FSMN, the temporal filter of a Conformer and of a TCN. `depthwise` is the one entry; `reference`
is its definition, `cpu` and `triton` compute it. Gradients are calls of the same operator, so every order of
derivative exists.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from wavecast.core.ops.backends import choose

MOST_TAPS = 64


def depthwise(
    x: Tensor,
    weight: Tensor,
    *,
    dilation: int = 1,
    left: int = 0,
    right: int = 0,
    segments: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Filter every channel along time by its own taps, and add a residual.

        y[t] = residual[t] + sum over k of weight[k] * x[t + k * dilation - left]

    This is a correlation as in torch's convolutions: tap 0 reads the oldest step. left = (taps - 1) * dilation with
    right = 0 is causal; left = right = 0 gives the whole windows only, which is what a stream asks for.

    Args:
        x: (batch, time, channel), any floating dtype; zero steps are legal.
        weight: (channel, taps), 1 to 64 taps: how checkpoints store it ((channel, 1, taps) but for the axis of one).
        dilation: steps between taps.
        left: zeros before the sequence, in steps.
        right: zeros after it, in steps.
        segments: (batch, time) integers; a boundary lies wherever they change along time, and no tap reaches across.
            They need as many output steps as input steps: left + right == (taps - 1) * dilation.
        residual: (batch, steps, channel), added to the result. Passing x itself is recognized.

    Returns:
        (batch, steps, channel) with steps = max(0, time + left + right - (taps - 1) * dilation), in x's dtype (or the
        wider one of x and residual); sums are in fp32, in fp64 for fp64.

    Raises:
        ValueError: shapes that do not fit, padding below 0, or segments without as many output as input steps.
    """
    steps = check(x, weight, dilation, left, right, segments, residual)
    runs = None if segments is None else number_runs(segments)
    if not torch.is_grad_enabled():
        return backend(x).correlate(x, weight, dilation, left, steps, runs, residual)
    return Correlate.apply(x, weight, residual, runs, dilation, left, steps)


class Correlate(Function):
    """The operator on checked arguments; its gradients are the operator with flipped taps, and `TapGradient`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        residual: Tensor | None,
        runs: Tensor | None,
        dilation: int,
        left: int,
        steps: int,
    ) -> Tensor:
        """Compute y and keep what the gradients need; see `cpu.correlate` for the arguments."""
        ctx.save_for_backward(x, weight, runs)
        ctx.dilation, ctx.left = dilation, left
        ctx.residual_dtype = None if residual is None else residual.dtype
        return backend(x).correlate(x, weight, dilation, left, steps, runs, residual)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        """Send the gradient to x, weight and residual."""
        (grad,) = grads
        x, weight, runs = ctx.saved_tensors
        taps, dilation, left = weight.shape[1], ctx.dilation, ctx.left
        dx = dweight = dresidual = None
        if ctx.needs_input_grad[0]:
            ahead = (taps - 1) * dilation - left
            dx = Correlate.apply(grad, weight.flip(1), None, runs, dilation, ahead, x.shape[1]).to(x.dtype)
        if ctx.needs_input_grad[1]:
            dweight = TapGradient.apply(x, grad, runs, taps, dilation, left).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            dresidual = grad.to(ctx.residual_dtype)
        return dx, dweight, dresidual, None, None, None, None


class TapGradient(Function):
    """The gradient with respect to the taps; it is linear in x and in grad, and `Correlate` is its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor, runs: Tensor | None, taps: int, dilation: int, left: int) -> Tensor:
        """Compute dweight[k] = sum over batch and t of grad[t] x[t + k dilation - left]: (channel, taps)."""
        ctx.save_for_backward(x, grad, runs)
        ctx.dilation, ctx.ahead, ctx.left = dilation, (taps - 1) * dilation - left, left
        return backend(x).tap_gradient(x, grad, taps, dilation, left, runs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        """Send the gradient to x and grad."""
        (weight,) = grads
        x, grad, runs = ctx.saved_tensors
        dx = dgrad = None
        if ctx.needs_input_grad[0]:
            dx = Correlate.apply(grad, weight.flip(1), None, runs, ctx.dilation, ctx.ahead, x.shape[1]).to(x.dtype)
        if ctx.needs_input_grad[1]:
            dgrad = Correlate.apply(x, weight, None, runs, ctx.dilation, ctx.left, grad.shape[1]).to(grad.dtype)
        return dx, dgrad, None, None, None, None


def backend(x: Tensor) -> ModuleType:
    """Choose who computes: the Triton kernels for a CUDA tensor where Triton is installed, else plain torch."""
    return choose("depthwise", x)


def number_runs(segments: Tensor) -> Tensor:
    """Number the runs of equal segment ids of every row: (batch, time) int32, so that an id may come again later."""
    starts = torch.zeros_like(segments, dtype=torch.int32)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return starts.cumsum(1, dtype=torch.int32)


def check(
    x: Tensor,
    weight: Tensor,
    dilation: int,
    left: int,
    right: int,
    segments: Tensor | None,
    residual: Tensor | None,
) -> int:
    """Refuse arguments that do not fit together; return the number of output steps."""
    if x.ndim != 3 or weight.ndim != 2 or x.shape[2] != weight.shape[0]:
        raise ValueError(
            f"x {tuple(x.shape)} and weight {tuple(weight.shape)} do not fit\n"
            "hint: x is (batch, time, channel) and weight (channel, taps)"
        )
    batch, time, channel = x.shape
    taps = weight.shape[1]
    if not 1 <= taps <= MOST_TAPS:
        raise ValueError(f"{taps} taps\nhint: 1 to {MOST_TAPS}; longer filters are faster by FFT")
    if dilation < 1 or left < 0 or right < 0:
        raise ValueError(
            f"dilation {dilation}, left {left}, right {right}\nhint: dilation starts at 1, left and right at 0"
        )
    reach = (taps - 1) * dilation
    steps = max(0, time + left + right - reach)
    if residual is not None and residual.shape != (batch, steps, channel):
        raise ValueError(
            f"residual {tuple(residual.shape)} is added to an output {(batch, steps, channel)}\n"
            "hint: cut the residual to the output's steps"
        )
    if segments is not None:
        if segments.shape != (batch, time) or segments.is_floating_point():
            raise ValueError(
                f"segments are {segments.dtype} {tuple(segments.shape)}\nhint: give integers of shape {(batch, time)}"
            )
        if left + right != reach:
            raise ValueError(
                f"with segments left + right must be (taps - 1) * dilation = {reach}, not {left + right}\n"
                "hint: every output step then lies in the segment of its input step"
            )
    return steps
