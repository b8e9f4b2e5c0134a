"""First-order linear recurrence along time: h[t] = a[t] h[t-1] + b[t], every element alone.

It is the state of an S5 or ConvS5 layer, of a gated recurrence and of an exponential average. `scan` is the one entry;
`reference` is its definition, `cpu` and `triton` compute it. Gradients are calls of the same operator, so every order
of derivative exists.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from wavecast.core.ops.backends import choose

HALF = (torch.float16, torch.bfloat16)
DTYPES = (*HALF, torch.float32, torch.float64, torch.complex64, torch.complex128)


def scan(
    a: Tensor,
    b: Tensor,
    initial: Tensor | None = None,
    *,
    segments: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence h[t] = a[t] h[t-1] + b[t] along time, from h[-1] = initial.

    Args:
        a: (channel,) where it is constant in time, or like b; real or complex.
        b: (batch, time, ..., channel), real or complex; zero steps are legal.
        initial: (batch, ..., channel), the state before the first step; zeros when None.
        segments: (batch, time) integers; wherever they change along time the recurrence starts anew from zero. The
            initial state belongs to the segment that is run through first.
        reverse: run from the last step to the first: h[t] = a[t] h[t+1] + b[t], h[time] = initial.

    Returns:
        h: like b, complex where any input is. The state is fp32, fp64 where any input is in double precision; h is
            rounded to b's dtype where that is half precision.
        last: (batch, ..., channel), the state after the step that came last, in the state's dtype; an own copy, and
            what to pass as `initial` with the next piece of the sequence.

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    check(a, b, initial, segments)
    dtype = state_dtype(a, b, initial)
    a = fitted(a, dtype if a.is_complex() else dtype.to_real())
    b = fitted(b, dtype)
    initial = b.new_zeros(b.shape[0], *b.shape[2:], dtype=dtype) if initial is None else initial.to(dtype)
    starts = None if segments is None else segment_starts(segments, reverse)
    if not torch.is_grad_enabled():
        return backend(b).recur(a, b, initial, starts, reverse, False)
    return Recurrence.apply(a, b, initial, starts, reverse, False)


class Recurrence(Function):
    """The recurrence on checked arguments, in two forms that are each other's adjoint.

    Entering a step multiplies by its factor, or leaving it does; f is a, zero at the starts of segments:

        entering   h[t] = f[t] h[t-1] + b[t],     h[-1] = initial,                last = h[T-1]
        leaving    h[t] = f[t-1] h[t-1] + b[t],   h[0]  = initial + b[0],         last = f[T-1] h[T-1]

    The gradients of b and initial are h and last of the other form, run the other way on conj(a) and the gradients of h
    and last. The factor's gradient is the leaving form's state times the one the entering form had before the step.
    """

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, initial: Tensor, starts: Tensor | None, reverse: bool, leaving: bool
    ) -> tuple[Tensor, Tensor]:
        """Compute h and last and keep what the gradients need; see `cpu.recur` for the arguments."""
        h, last = backend(b).recur(a, b, initial, starts, reverse, leaving)
        ctx.save_for_backward(a, h, initial, starts)
        ctx.reverse, ctx.leaving = reverse, leaving
        return h, last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        """Send the gradient to a, b and initial; in one pass where nobody asks for its derivative."""
        grad, grad_last = grads
        a, h, initial, starts = ctx.saved_tensors
        da: Tensor | None = None
        if ctx.needs_input_grad[0] and not (ctx.leaving or torch.is_grad_enabled()):
            da, db, dinitial = backend(grad).adjoint(a, h, initial, grad, grad_last, starts, ctx.reverse)
        else:
            other = not ctx.reverse, not ctx.leaving
            db, dinitial = Recurrence.apply(a.conj(), grad, grad_last, starts, *other)
            if ctx.needs_input_grad[0] and ctx.leaving:
                da = factor_gradient(a, h.conj(), before(db, grad_last, other[0]), starts)
            elif ctx.needs_input_grad[0]:
                da = factor_gradient(a, db, before(h, initial, ctx.reverse).conj(), starts)
        return da, db, dinitial, None, None, None


def before(h: Tensor, initial: Tensor, reverse: bool) -> Tensor:
    """Give the state before every step, like h but in the state's dtype."""
    first = initial[:, None]
    return torch.cat([h[:, 1:], first] if reverse else [first, h[:, :-1]], 1) if h.shape[1] else h


def factor_gradient(a: Tensor, left: Tensor, right: Tensor, starts: Tensor | None) -> Tensor:
    """Sum left * right over what a is constant in, and drop it where a segment starts: the gradient of a."""
    product = left * right
    if starts is not None:
        product = product.masked_fill(starts.reshape(*starts.shape, *[1] * (product.ndim - 2)), 0)
    if a.ndim == 1:
        product = product.flatten(0, -2).sum(0)
    return (product if a.is_complex() else product.real).to(a.dtype)


def backend(b: Tensor) -> ModuleType:
    """Choose who computes: the Triton kernels for a CUDA tensor where Triton is installed, else plain torch."""
    return choose("scan", b)


def state_dtype(a: Tensor, b: Tensor, initial: Tensor | None) -> torch.dtype:
    """Give the dtype the state is kept in: the widest of the inputs, fp32 at least."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return dtype if initial is None else torch.promote_types(dtype, initial.dtype)


def fitted(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert x to dtype, except from half precision to single: kernels read that as it is."""
    return x if torch.promote_types(x.dtype, torch.float32) == dtype else x.to(dtype)


def segment_starts(segments: Tensor, reverse: bool) -> Tensor:
    """Mark the steps that are the first of a new segment, in the direction of the run: (batch, time) booleans."""
    starts = torch.zeros_like(segments, dtype=torch.bool)
    changes = segments[:, 1:] != segments[:, :-1]
    if reverse:
        starts[:, :-1] = changes
    else:
        starts[:, 1:] = changes
    return starts


def check(a: Tensor, b: Tensor, initial: Tensor | None, segments: Tensor | None) -> None:
    """Refuse arguments that do not fit together."""
    if b.ndim < 3:
        raise ValueError(f"b is {tuple(b.shape)}\nhint: give (batch, time, ..., channel)")
    batch, time, *inner = b.shape
    if a.shape not in ((inner[-1],), b.shape):
        raise ValueError(
            f"a {tuple(a.shape)} and b {tuple(b.shape)} do not fit\n"
            f"hint: a is {(inner[-1],)} where it is constant in time, else shaped as b"
        )
    if initial is not None and initial.shape != (batch, *inner):
        raise ValueError(
            f"the initial state is {tuple(initial.shape)} and a step of b {(batch, *inner)}\n"
            "hint: it is one step: (batch, ..., channel)"
        )
    if segments is not None and (segments.shape != (batch, time) or segments.is_floating_point()):
        raise ValueError(
            f"segments are {segments.dtype} {tuple(segments.shape)}\nhint: give integers of shape {(batch, time)}"
        )
    for name, tensor in (("a", a), ("b", b), ("initial", initial)):
        if tensor is not None and tensor.dtype not in DTYPES:
            raise ValueError(f"{name} is {tensor.dtype}\nhint: one of {', '.join(map(str, DTYPES))}")
