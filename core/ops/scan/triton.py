"""The scan as Triton kernels, forward and backward, for NVIDIA GPUs.

The work is bound by memory. A program owns a block of neighboring elements of one batch row and walks along time with
their states in registers, `UNROLLED` steps at a time, while the next ones are under way: b is read once and h written
once; the backward pass reads a, h and the gradient once and writes both gradients. Where batch and elements are too few
to fill a device, time is cut into chunks: a first kernel finds what every chunk makes of zero and of one, a scan over
chunks gives the states they are entered with, and the walk follows; b is read twice then. Steps beyond the end have
factor 1 and add 0, so that they hand the state on.

States are fp32 (fp64 for fp64); complex numbers are pairs of reals. The gradient of a constant a is deterministic:
every program writes its own sum, and the sums are added up after it. There are no atomics.

In the kernels, step s is counted in the order of the run, and every value is a pair: real and imaginary part. Where the
numbers are real, nothing reads the second part, and the compiler drops it.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from wavecast.core.ops.scan.cpu import leave

WARPS = 2
BLOCK = 64
"""Elements of a program, at most: few, because programs should be many."""
UNROLLED = 8
PROGRAMS = 1024
"""Programs worth having: a few for every multiprocessor. It is no property of the device, so that sums never differ."""
SHORT = 128
"""Steps of a chunk, at least."""


@triton.jit
def recur_kernel(
    a,
    b,
    entered,
    starts,
    h,
    last,
    states,
    initial,
    da,
    chunks,
    rounds,
    time,
    lanes,
    channels,
    varying: tl.constexpr,
    complex_a: tl.constexpr,
    complex_b: tl.constexpr,
    conjugate: tl.constexpr,
    reverse: tl.constexpr,
    leaving: tl.constexpr,
    guarded: tl.constexpr,
    unrolled: tl.constexpr,
    block: tl.constexpr,
    wide: tl.constexpr,
):
    """Walk along one chunk from the state it is entered with.

    With `states`, the h of an entering form, the walk is its adjoint and also finds the gradient of a: the state times
    the conjugate of the one before the step in the other direction, which is the next one here.
    """
    row = tl.program_id(0).to(tl.int64)
    batch = row // chunks
    lane = tl.program_id(1) * block + tl.arange(0, block)
    constant = read(a, 0, lane % channels, lane < lanes, 1, complex_a, wide)
    state = read(entered, row * lanes, lane, lane < lanes, 0, complex_b, wide)
    total = (tl.zeros([block], wide), tl.zeros([block], wide))

    s = (row % chunks) * rounds * unrolled
    factors: tl.tuple = ()
    added: tl.tuple = ()
    before: tl.tuple = ()
    for u in tl.static_range(unrolled):
        within = (lane < lanes) & (s + u < time)
        if varying:
            factors += (read_factor(a, s + u, batch, time, lanes, lane, within, reverse, leaving, complex_a, wide),)
        added += (read(b, position(s + u, batch, time, reverse) * lanes, lane, within, 0, complex_b, wide),)
        if states is not None:
            before += (read_next(states, initial, s + u, batch, time, lanes, lane, within, reverse, complex_b, wide),)

    for done in range(1, rounds + 1):
        now_factors = factors
        now_added = added
        now_before = before
        factors = ()
        added = ()
        before = ()
        for u in tl.static_range(unrolled):
            later = s + unrolled + u
            within = (lane < lanes) & (later < time) & (done < rounds)
            if varying:
                factors += (read_factor(a, later, batch, time, lanes, lane, within, reverse, leaving, complex_a, wide),)
            added += (read(b, position(later, batch, time, reverse) * lanes, lane, within, 0, complex_b, wide),)
            if states is not None:
                before += (
                    read_next(states, initial, later, batch, time, lanes, lane, within, reverse, complex_b, wide),
                )
        for u in tl.static_range(unrolled):
            factor = now_factors[u] if varying else padded(constant, (s >= leaving) & (s < time))
            state = unless_start(state, starts, s - leaving, s < time, batch, time, reverse)
            state = advance(factor, state, now_added[u], complex_a, conjugate, guarded)
            place = position(s, batch, time, reverse) * lanes
            write(h, place, lane, state, (lane < lanes) & (s < time), complex_b)
            if states is not None:
                product = times_conjugate(state, now_before[u], complex_b)
                product = unless_start(product, starts, s, s < time, batch, time, reverse)
                if varying:
                    write(da, place, lane, product, (lane < lanes) & (s < time), complex_a)
                else:
                    total = (total[0] + product[0], total[1] + product[1])
            s += 1
    if row % chunks == chunks - 1:
        write(last, batch * lanes, lane, state, lane < lanes, complex_b)
    if states is not None and not varying:
        write(da, row * lanes, lane, total, lane < lanes, complex_a)


@triton.jit
def chunk_kernel(
    a,
    b,
    starts,
    of_one,
    of_zero,
    chunks,
    rounds,
    time,
    lanes,
    channels,
    varying: tl.constexpr,
    complex_a: tl.constexpr,
    complex_b: tl.constexpr,
    conjugate: tl.constexpr,
    reverse: tl.constexpr,
    leaving: tl.constexpr,
    unrolled: tl.constexpr,
    block: tl.constexpr,
    wide: tl.constexpr,
):
    """Find what one chunk makes of a state of one, with nothing added, and of a state of zero."""
    row = tl.program_id(0).to(tl.int64)
    batch = row // chunks
    lane = tl.program_id(1) * block + tl.arange(0, block)
    constant = read(a, 0, lane % channels, lane < lanes, 1, complex_a, wide)
    one = (tl.full([block], 1, wide), tl.zeros([block], wide))
    zero = (tl.zeros([block], wide), tl.zeros([block], wide))
    nothing = (tl.zeros([block], wide), tl.zeros([block], wide))

    s = (row % chunks) * rounds * unrolled
    for done in range(rounds):  # noqa: B007
        for u in tl.static_range(unrolled):  # noqa: B007
            within = (lane < lanes) & (s < time)
            if varying:
                factor = read_factor(a, s, batch, time, lanes, lane, within, reverse, leaving, complex_a, wide)
            else:
                factor = padded(constant, (s >= leaving) & (s < time))
            added = read(b, position(s, batch, time, reverse) * lanes, lane, within, 0, complex_b, wide)
            one = unless_start(one, starts, s - leaving, s < time, batch, time, reverse)
            zero = unless_start(zero, starts, s - leaving, s < time, batch, time, reverse)
            one = advance(factor, one, nothing, complex_a, conjugate, False)
            zero = advance(factor, zero, added, complex_a, conjugate, False)
            s += 1
    write(of_one, row * lanes, lane, one, lane < lanes, complex_a)
    write(of_zero, row * lanes, lane, zero, lane < lanes, complex_b)


@triton.jit
def position(s, batch, time, reverse: tl.constexpr):
    """Give the place of step s of a batch row among all steps."""
    if reverse:
        s = time - 1 - s
    return batch * time + s


@triton.jit
def read(x, place, lane, mask, padding: tl.constexpr, is_complex: tl.constexpr, wide: tl.constexpr):
    """Read a value for every lane, `padding` where there is none."""
    if is_complex:
        part = tl.arange(0, 2)[None, :]
        pair = tl.load(x + 2 * (place + lane)[:, None] + part, mask[:, None] & (part >= 0), 0).to(wide)
        real, imaginary = tl.split(pair)
        value = (tl.where(mask, real, padding), imaginary)
    else:
        real = tl.load(x + place + lane, mask, padding).to(wide)
        value = (real, real)
    return value


@triton.jit
def read_factor(a, s, batch, time, lanes, lane, mask, reverse: tl.constexpr, leaving: tl.constexpr, complex_a, wide):
    """Read the factor between the state before step s and the step: its own, or the one of the step that is left."""
    mask &= s >= leaving
    return read(a, position(s - leaving, batch, time, reverse) * lanes, lane, mask, 1, complex_a, wide)


@triton.jit
def read_next(states, initial, s, batch, time, lanes, lane, mask, reverse: tl.constexpr, complex_b, wide):
    """Read the state of the step after s, the initial one after the end: in the other direction it comes before s."""
    place = position(s + 1, batch, time, reverse) * lanes
    inner = read(states, place, lane, mask & (s + 1 < time), 0, complex_b, wide)
    outer = read(initial, batch * lanes, lane, mask & (s + 1 == time), 0, complex_b, wide)
    return (inner[0] + outer[0], inner[1] + outer[1])


@triton.jit
def write(x, place, lane, value, mask, is_complex: tl.constexpr):
    """Write a value for every lane."""
    if is_complex:
        part = tl.arange(0, 2)[None, :]
        pair = tl.join(value[0], value[1])
        tl.store(x + 2 * (place + lane)[:, None] + part, pair, mask[:, None] & (part >= 0))
    else:
        tl.store(x + place + lane, value[0].to(x.dtype.element_ty), mask)


@triton.jit
def padded(factor, present):
    """Give the factor, 1 where there is no step."""
    return (tl.where(present, factor[0], 1), tl.where(present, factor[1], 0))


@triton.jit
def unless_start(value, starts, s, present, batch, time, reverse: tl.constexpr):
    """Give the value, zero where step s is the first of a segment."""
    if starts is not None:
        start = tl.load(starts + position(s, batch, time, reverse), present & (s >= 0), 0) != 0
        value = (tl.where(start, 0, value[0]), tl.where(start, 0, value[1]))
    return value


@triton.jit
def advance(factor, state, added, complex_a: tl.constexpr, conjugate: tl.constexpr, guarded: tl.constexpr):
    """Give factor * state + added; guarded: a state of zero stays zero under an infinite factor."""
    if complex_a:
        imaginary = -factor[1] if conjugate else factor[1]
        product = (
            factor[0] * state[0] - imaginary * state[1],
            factor[0] * state[1] + imaginary * state[0],
        )
    else:
        product = (factor[0] * state[0], factor[0] * state[1])
    if guarded:
        zero = (state[0] == 0) & (state[1] == 0)
        product = (tl.where(zero, 0, product[0]), tl.where(zero, 0, product[1]))
    return (product[0] + added[0], product[1] + added[1])


@triton.jit
def times_conjugate(x, y, complex_b: tl.constexpr):
    """Give x times the conjugate of y."""
    real = x[0] * y[0] + x[1] * y[1] if complex_b else x[0] * y[0]
    return (real, x[1] * y[0] - x[0] * y[1])


def recur(
    a: Tensor, b: Tensor, initial: Tensor, starts: Tensor | None, reverse: bool, leaving: bool
) -> tuple[Tensor, Tensor]:
    """Run the recurrence in one of its two forms, as `cpu.recur` does."""
    h, last, _ = launch(a, b, initial, starts, reverse, leaving)
    return h, last


def adjoint(
    a: Tensor, h: Tensor, initial: Tensor, grad: Tensor, grad_last: Tensor, starts: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of a, b and initial from those of h and last, for the entering form."""
    db, dinitial, da = launch(a.conj(), grad, grad_last, starts, not reverse, True, (h, initial))
    return (torch.zeros_like(a) if da is None else da), db, dinitial


def launch(
    a: Tensor,
    b: Tensor,
    initial: Tensor,
    starts: Tensor | None,
    reverse: bool,
    leaving: bool,
    before: tuple[Tensor, Tensor] | None = None,
    guarded: bool = False,
    chunked: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run the kernels.

    Args:
        before: h and initial of an entering form, of which this is to be the adjoint.
        guarded: an infinite factor leaves a state of zero alone.
        chunked: cut time into chunks where that fills the device.

    Returns:
        h, last, and the gradient of a where `before` is given and there are any elements.
    """
    batch, time, *_, channels = b.shape
    h = torch.empty(b.shape, dtype=b.dtype, device=b.device)
    if h.numel() == 0:
        return h, initial.clone(memory_format=torch.contiguous_format), None
    last = torch.empty(initial.shape, dtype=initial.dtype, device=b.device)
    lanes = last.numel() // batch
    blocks = triton.cdiv(lanes, BLOCK)
    chunks = max(1, min(triton.cdiv(PROGRAMS, batch * blocks), time // SHORT)) if chunked else 1
    rounds = triton.cdiv(time, chunks * UNROLLED)
    chunks = triton.cdiv(time, rounds * UNROLLED)
    shape: dict[str, Any] = {
        "varying": a.ndim > 1,
        "complex_a": a.is_complex(),
        "complex_b": b.is_complex(),
        "conjugate": a.is_conj(),
        "reverse": reverse,
        "leaving": int(leaving),
        "unrolled": UNROLLED,
        "block": BLOCK,
        "wide": tl.float64 if initial.dtype.to_real() == torch.float64 else tl.float32,
        "num_warps": WARPS,
    }
    counts = chunks, rounds, time, lanes, channels
    factors, added = reals(a.conj() if a.is_conj() else a), reals(b)
    marks = None if starts is None else starts.to(torch.int8).contiguous()
    entered = initial
    if chunks > 1:
        made = (batch, chunks, *initial.shape[1:])
        of_one = torch.empty(made, dtype=wide_dtype(a), device=b.device)
        of_zero = torch.empty(made, dtype=initial.dtype, device=b.device)
        grid = batch * chunks, blocks
        chunk_kernel[grid](factors, added, marks, reals(of_one), reals(of_zero), *counts, **shape)
        begun = None if starts is None else starting_chunks(starts, chunks, rounds * UNROLLED, reverse, leaving)
        after, *_ = launch(of_one, of_zero, initial, begun, False, False, guarded=True, chunked=False)
        entered = torch.cat([initial[:, None], after[:, :-1]], 1)
    da = states = first = None
    if before is not None:
        states, first = map(reals, before)
        parts = (batch * chunks, *initial.shape[1:])
        da = torch.empty(
            b.shape if a.ndim > 1 else parts, dtype=a.dtype if a.ndim > 1 else wide_dtype(a), device=b.device
        )
    recur_kernel[batch * chunks, blocks](
        factors,
        added,
        reals(entered),
        marks,
        reals(h),
        reals(last),
        states,
        first,
        None if da is None else reals(da),
        *counts,
        guarded=guarded,
        **shape,
    )
    if da is not None and a.ndim == 1:
        da = da.flatten(0, -2).sum(0).to(a.dtype)
    return h, leave(a, last, starts, 0 if reverse else time - 1) if leaving else last, da


def starting_chunks(starts: Tensor, chunks: int, steps: int, reverse: bool, leaving: bool) -> Tensor:
    """Mark the chunks, in the order of the run, in which a segment starts: no state crosses them, not even NaN."""
    ordered = starts.flip(1) if reverse else starts
    factors = functional.pad(ordered[:, : starts.shape[1] - leaving], (int(leaving), chunks * steps - starts.shape[1]))
    return factors.unflatten(1, (chunks, steps)).any(2)


def reals(x: Tensor) -> Tensor:
    """Give the memory that a kernel reads or writes: contiguous, nothing lazy, complex numbers as pairs."""
    x = x.resolve_conj().resolve_neg().contiguous()
    return torch.view_as_real(x) if x.is_complex() else x


def wide_dtype(a: Tensor) -> torch.dtype:
    """Give the dtype in which factors are multiplied."""
    return torch.promote_types(a.dtype, torch.float32)
