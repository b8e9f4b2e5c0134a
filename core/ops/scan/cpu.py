"""The scan in plain torch, for CPUs and for whatever has no kernel of its own.

A step is one `addcmul` from slices of b and h into the next slice of h: b is read once, h written once, and the state
is read where it was just written, in cache. Where a step is large (a field, a batch of fields) that is all. Where it is
small, calls would cost more than work; stretches of time are then cut into chunks that walk side by side, twice: to
learn what every chunk makes of zero and of one, then from the state that each is entered with.

The floor is what copying b into memory in use (and reading a) takes. On one thread of a machine busy with other work
(`scripts/bench/scan.py`), four sequences of 20 complex 16 x 16 x 128 fields took 6 ms, twice the floor: h is new
memory, which the system has to clear. 16384 steps of 4 x 256 took 72 ms with constant and 86 ms with varying a, five
to seven times the floor. One pass over small steps takes compiled code: `native.c`, used where the installation could
build it.
"""

import ctypes
import mmap
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module
from itertools import repeat
from math import isqrt
from typing import Any

import torch
from torch import Tensor

SIDE = 64
"""Chunks that walk side by side, and steps of each, at most: what a pass reads twice should still be in cache."""
FEW = 64
"""Steps from which on chunks pay."""
HUGE_PAGE = 2**21
LARGE = 2**14
"""Elements of a step from which on every step is worth a call of its own."""
BLOCK = 2**17
"""Elements of a block in which the gradient of a is multiplied out, in cache."""


def recur(
    a: Tensor, b: Tensor, initial: Tensor, starts: Tensor | None, reverse: bool, leaving: bool
) -> tuple[Tensor, Tensor]:
    """Run the recurrence, in one of its two forms.

    With f = a, zero at the starts, and T steps numbered in the order of the run:

        entering   h[t] = f[t] h[t-1] + b[t],     h[-1] = initial,          last = h[T-1]
        leaving    h[t] = f[t-1] h[t-1] + b[t],   h[0] = initial + b[0],    last = f[T-1] h[T-1]

    Args:
        a: (channel,), or like b; complex only where initial is.
        b: (batch, time, ..., channel), in initial's dtype or in half precision.
        initial: (batch, ..., channel), in the dtype of the state.
        starts: (batch, time) booleans, or None: steps whose factor is zero, whatever the state before them.
        reverse: run from the last step to the first.
        leaving: which form.

    Returns:
        h like b, and last like initial, contiguous.
    """
    a = a.to(initial.dtype if a.is_complex() else initial.dtype.to_real()).resolve_neg()
    a = a.resolve_conj() if a.ndim == 1 else a
    x = b.to(initial.dtype).resolve_conj().resolve_neg()
    h = new_memory(x)
    time = b.shape[1]
    if not (leaving and time):
        last = run(a, x, initial, h, starts, reverse)
    else:
        first, end = (time - 1, 0) if reverse else (0, time - 1)
        later, earlier = (slice(0, -1), slice(1, None)) if reverse else (slice(1, None), slice(0, -1))
        state = torch.add(initial, x[:, first], out=h[:, first])
        state = run(within(a, earlier), x[:, later], state, h[:, later], within(starts, earlier), reverse)
        last = leave(a, state, starts, end)
    return h.to(b.dtype), last.clone(memory_format=torch.contiguous_format)


def adjoint(
    a: Tensor, h: Tensor, initial: Tensor, grad: Tensor, grad_last: Tensor, starts: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of a, b and initial from those of h and last, for the entering form."""
    db, dinitial = recur(a.conj(), grad, grad_last, starts, not reverse, True)
    da = new_memory(a, initial.dtype if a.is_complex() else initial.dtype.to_real())
    da = da.zero_() if a.ndim == 1 else da
    time = h.shape[1]
    size = max(1, BLOCK // max(1, initial.numel()))
    for begin in range(0, time, size):
        end = min(begin + size, time)
        ahead, behind = (end + 1, begin + 1) if reverse else (end - 1, begin - 1)
        before = h[:, max(0, behind) : ahead]
        if before.shape[1] < end - begin:
            before = torch.cat([before, initial[:, None]] if reverse else [initial[:, None], before], 1)
        product = db[:, begin:end] * before.conj()
        product = product if a.is_complex() else product.real
        if starts is not None:
            product = product.masked_fill(spread(starts[:, begin:end], product), 0)
        if a.ndim == 1:
            da += product.flatten(0, -2).sum(0)
        else:
            da[:, begin:end] = product
    return da.to(a.dtype), db, dinitial


def new_memory(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Give contiguous memory for results, in huge pages where Linux has them.

    Large memory is new from the system every time, and a page fault for every 4 KiB takes longer than the scan itself.
    """
    x = torch.empty_like(like, dtype=dtype, memory_format=torch.contiguous_format)
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    begin, end = -(-x.data_ptr() // HUGE_PAGE) * HUGE_PAGE, (x.data_ptr() + x.nbytes) // HUGE_PAGE * HUGE_PAGE
    if begin < end and advice is not None and x.device.type == "cpu":
        system_library().madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice)
    return x


@cache
def system_library() -> ctypes.CDLL:
    """Give the C library that the process has loaded."""
    return ctypes.CDLL(None)


def leave(a: Tensor, state: Tensor, starts: Tensor | None, t: int) -> Tensor:
    """Give f[t] * state: (batch, ..., channel)."""
    left = (a if a.ndim == 1 else a[:, t]) * state
    return left if starts is None else left.masked_fill(spread(starts[:, t], left), 0)


def run(a: Tensor, b: Tensor, state: Tensor, h: Tensor, starts: Tensor | None, reverse: bool) -> Tensor:
    """Write h[t] = f[t] h[t-1] + b[t] into h, from h[-1] = state; return the state after it, which may be a view."""
    if compiled() and is_native(a, b, state):
        return run_native(a, b, state, h, starts, reverse)
    done, time = 0, b.shape[1]
    while done < time:
        side = min(SIDE, isqrt(time - done))
        chunked = side * side >= FEW and state.numel() < LARGE
        end = done + side * side if chunked else time
        span = slice(time - end, time - done) if reverse else slice(done, end)
        form = run_chunks if chunked else run_steps
        state = form(within(a, span), b[:, span], state, h[:, span], within(starts, span), reverse)
        done = end
    return state


@cache
def compiled() -> Any:
    """Import the compiled form; None where it has not been built, or was built for another system."""
    try:
        return import_module("wavecast.core.ops.scan.native")
    except ImportError:
        return None


def is_native(a: Tensor, b: Tensor, state: Tensor) -> bool:
    """Tell whether the compiled form takes this; it leaves large steps to torch and all its threads."""
    adjacent = all(x.ndim == 1 or x[:1, :1].is_contiguous() for x in (a, b))
    return adjacent and a.dtype == b.dtype and b.device.type == "cpu" and 0 < state.numel() < LARGE and b.shape[1] > 0


def run_native(a: Tensor, b: Tensor, state: Tensor, h: Tensor, starts: Tensor | None, reverse: bool) -> Tensor:
    """Do what `run` does in compiled code, in one pass; neighboring elements of a step lie side by side."""
    batch, time, *inner = b.shape
    varying, parts = a.ndim > 1, 2 if b.is_complex() else 1
    width = inner[-1] if not varying else state.numel() // batch
    state = state.resolve_conj().resolve_neg().contiguous()

    def place(x: Tensor, parts: int = parts) -> tuple[int, int, int]:
        return x.data_ptr(), *((0, 0) if x.ndim == 1 else (parts * x.stride(0), parts * x.stride(1)))

    compiled().run(
        place(a),
        place(b),
        place(h),
        (0, 0, 0) if starts is None else place(starts, 1),
        state.data_ptr(),
        (batch, time, state.numel() // (batch * width), parts * width),
        (b.dtype.to_real() == torch.float64, varying, b.is_complex(), a.is_conj(), reverse),
    )
    return h[:, 0 if reverse else -1]


def run_steps(a: Tensor, b: Tensor, state: Tensor, h: Tensor, starts: Tensor | None, reverse: bool) -> Tensor:
    """Do what `run` does, step by step."""
    order = -1 if reverse else 1
    return walk(slices(a, 1, order), b.unbind(1)[::order], state, h.unbind(1)[::order], resets(starts, 1, order, b))


def run_chunks(a: Tensor, b: Tensor, state: Tensor, h: Tensor, starts: Tensor | None, reverse: bool) -> Tensor:
    """Do what `run` does in as many chunks as each has steps, all of them in step.

    The states that the chunks are entered with are a recurrence over chunks: its factors are what they make of one (the
    products of their factors), and what they make of zero is added. A product beyond the largest number would turn a
    state of zero into NaN; then there are no chunks.
    """
    order, side = -1 if reverse else 1, isqrt(b.shape[1])
    x, y = (tensor.unflatten(1, (side, side)) for tensor in (b, h))
    factors = slices(a if a.ndim == 1 else a.unflatten(1, (side, side)), 2, order)
    marks = None if starts is None else starts.unflatten(1, (side, side))
    cuts = resets(marks, 2, order, x)

    of_zero = torch.zeros_like(x[:, :, 0])
    of_one = torch.ones_like(of_zero, dtype=a.dtype)
    varying = a.ndim > 1 or starts is not None
    for factor, added, cut in zip(factors, x.unbind(2)[::order], cuts, strict=False):
        if cut is not None:
            of_zero.masked_fill_(cut, 0)
            of_one.masked_fill_(cut, 0)
        torch.addcmul(added, factor, of_zero, out=of_zero)
        if varying:
            of_one *= factor
    if not varying:
        of_one *= a.to(torch.promote_types(a.dtype, torch.float64)) ** side
    if not of_one.isfinite().all():
        return run_steps(a, b, state, h, starts, reverse)

    after = torch.empty_like(of_zero)
    last = run_steps(of_one, of_zero, state, after, None if marks is None else marks.any(2), reverse)
    entered = [after[:, 1:], state[:, None]] if reverse else [state[:, None], after[:, :-1]]
    walk(factors, x.unbind(2)[::order], torch.cat(entered, 1), y.unbind(2)[::order], cuts)
    return last


def walk(
    factors: Iterable[Tensor],
    added: Sequence[Tensor],
    state: Tensor,
    out: Sequence[Tensor],
    cuts: Iterable[Tensor | None],
) -> Tensor:
    """Walk along slices: out = factor * state + added is the next state; a cut tells where the state before is zero."""
    for factor, x, y, cut in zip(factors, added, out, cuts, strict=False):
        if cut is not None:
            state = state.masked_fill(cut, 0)
        state = torch.addcmul(x, factor, state, out=y)
    return state


def slices(a: Tensor, axis: int, order: int) -> Iterable[Tensor]:
    """List the factors along an axis in the order of the run; a constant comes as often as it is asked for."""
    return repeat(a) if a.ndim == 1 else a.unbind(axis)[::order]


def resets(starts: Tensor | None, axis: int, order: int, like: Tensor) -> Iterable[Tensor | None]:
    """List where segments start along an axis, each mask spread over a slice of `like`; None where none does."""
    if starts is None:
        return repeat(None)
    some = starts.movedim(axis, 0).flatten(1).any(1).tolist()
    masks = spread(starts, like).unbind(axis)
    return [mask if one else None for mask, one in zip(masks, some, strict=True)][::order]


def spread(mask: Tensor, like: Tensor) -> Tensor:
    """Give a mask the axes of `like` that it lacks at the end, of size one."""
    return mask.reshape(*mask.shape, *[1] * (like.ndim - mask.ndim))


def within(x: Tensor | None, span: slice) -> Any:
    """Cut steps out of what varies in time; a constant, and nothing, stay as they are."""
    return x if x is None or x.ndim == 1 else x[:, span]
