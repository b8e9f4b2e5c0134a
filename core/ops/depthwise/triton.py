"""The depthwise operator as Triton kernels, forward and backward, for NVIDIA GPUs.

The work is bound by memory, so every input is read once and stays in registers. A program owns a few lanes of time by a
block of channels; a lane walks along its outputs, `UNROLLED` at a time, with the last `taps` inputs in a window of
registers, and the inputs of the next round under way. A dilated filter is `dilation` undilated ones, each on every
dilation-th step: the lanes interleave then. Sums are in fp32 (fp64 for fp64).

The gradient of the taps is deterministic: every program adds up a fixed share of the steps in a fixed order and writes
its own row, and the rows are added up after it. There are no atomics.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

WARPS = 4
UNROLLED = 8
BLOCK = 128
"""Channels of a program, at most."""
PASS_TAPS = 40
"""Taps of one kernel, at most: more take minutes to compile and fill the registers; two kernels share them then."""
ROUNDS = 16
"""Rounds of a lane's walk, at most: longer walks read less twice, shorter ones occupy more of the device."""
PROGRAMS = 512
"""Programs worth having: a few for every multiprocessor. It is no property of the device, so that sums never differ."""


@triton.jit
def correlate_kernel(
    x,
    weight,
    residual,
    runs,
    y,
    tiles,
    rounds,
    time,
    steps,
    channels,
    left,
    x_batch,
    x_step,
    taps: tl.constexpr,
    dilation: tl.constexpr,
    unrolled: tl.constexpr,
    lanes: tl.constexpr,
    block: tl.constexpr,
    wide: tl.constexpr,
):
    """Compute y[t] = residual[t] + sum_k weight[k] x[t + k dilation - left] for one tile of lanes and channels."""
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    channel = (tl.program_id(1) * block + tl.arange(0, block))[None, :]
    x += batch * x_batch
    y += batch * steps * channels
    if runs is not None:
        runs += batch * time
    if residual is not None:
        residual += batch * steps * channels

    weights: tl.tuple = ()
    for k in tl.static_range(taps):
        weights += (read(weight, channels, tl.full([lanes], k, tl.int32), taps, channel, channels).to(wide),)
    t = first_step(tl.program_id(0) % tiles, rounds * unrolled, dilation, lanes)
    s = t - left
    window: tl.tuple = ()
    run_window: tl.tuple = ()
    for _ in tl.static_range(taps - 1):
        window += (read(x, x_step, s, time, channel, channels).to(wide),)
        run_window += (read_run(runs, s, time),)
        s += dilation
    coming: tl.tuple = ()
    for u in tl.static_range(unrolled):
        coming += (read(x, x_step, s + u * dilation, time, channel, channels),)

    for done in range(1, rounds + 1):
        arrived = coming
        coming = ()
        for u in tl.static_range(unrolled):
            later = s + (unrolled + u) * dilation
            coming += (read(x, x_step, later, tl.where(done < rounds, time, 0), channel, channels),)
        for u in tl.static_range(unrolled):
            window += (arrived[u].to(wide),)
            run_window += (read_run(runs, s, time),)
            total = tl.zeros([lanes, block], wide)
            for k in tl.static_range(taps):
                total += weights[k] * same_run(window[u + k], runs, run_window[u + k], t, time)
            if residual is not None:
                total += read(residual, channels, t, steps, channel, channels).to(wide)
            place = y + t.to(tl.int64)[:, None] * channels + channel
            tl.store(place, total.to(y.dtype.element_ty), (t < steps)[:, None] & (channel < channels))
            s += dilation
            t += dilation
        window = window[unrolled:]
        run_window = run_window[unrolled:]


@triton.jit
def tap_gradient_kernel(
    x,
    grad,
    runs,
    partial,
    tiles,
    all_tiles,
    rounds,
    time,
    steps,
    channels,
    left,
    x_batch,
    x_step,
    grad_batch,
    grad_step,
    taps: tl.constexpr,
    dilation: tl.constexpr,
    unrolled: tl.constexpr,
    lanes: tl.constexpr,
    block: tl.constexpr,
    wide: tl.constexpr,
):
    """Add up grad[t] x[t + k dilation - left] over a share of the tiles: one row of `partial`, (taps, channels)."""
    channel = (tl.program_id(1) * block + tl.arange(0, block))[None, :]
    totals: tl.tuple = ()
    for k in tl.static_range(taps):  # noqa: B007
        totals += (tl.zeros([lanes, block], wide),)
    for tile in range(tl.program_id(0), all_tiles, tl.num_programs(0)):
        batch = (tile // tiles).to(tl.int64)
        t = first_step(tile % tiles, rounds * unrolled, dilation, lanes)
        s = t - left
        row = x + batch * x_batch
        grad_row = grad + batch * grad_batch
        run_row = None if runs is None else runs + batch * time
        window: tl.tuple = ()
        run_window: tl.tuple = ()
        for k in tl.static_range(taps - 1):  # noqa: B007
            window += (read(row, x_step, s, time, channel, channels).to(wide),)
            run_window += (read_run(run_row, s, time),)
            s += dilation
        for done in range(rounds):  # noqa: B007
            for u in tl.static_range(unrolled):
                window += (read(row, x_step, s + u * dilation, time, channel, channels).to(wide),)
                run_window += (read_run(run_row, s + u * dilation, time),)
            for u in tl.static_range(unrolled):
                factor = read(grad_row, grad_step, t, steps, channel, channels).to(wide)
                sums: tl.tuple = ()
                for k in tl.static_range(taps):
                    sums += (totals[k] + factor * same_run(window[u + k], run_row, run_window[u + k], t, time),)
                totals = sums
                s += dilation
                t += dilation
            window = window[unrolled:]
            run_window = run_window[unrolled:]
    for k in tl.static_range(taps):
        place = partial + (tl.program_id(0) * taps + k) * channels + channel
        tl.store(place, tl.sum(totals[k], 0)[None, :], channel < channels)


@triton.jit
def first_step(tile, walk, dilation: tl.constexpr, lanes: tl.constexpr):
    """Give the first output step of every lane of a tile; its `walk` steps follow in steps of `dilation`."""
    lane = tile * lanes + tl.arange(0, lanes)
    return lane // dilation * (walk * dilation) + lane % dilation


@triton.jit
def read(x, x_step, step, steps, channel, channels):
    """Read (lanes, channels) at the lanes' steps, zero outside."""
    place = x + step.to(tl.int64)[:, None] * x_step + channel
    return tl.load(place, ((step >= 0) & (step < steps))[:, None] & (channel < channels), 0)


@triton.jit
def read_run(runs, step, steps):
    """Read the number of every lane's run at its step, -1 outside; 0 where there are no segments."""
    number = 0
    if runs is not None:
        number = tl.load(runs + step, (step >= 0) & (step < steps), -1)
    return number


@triton.jit
def same_run(term, runs, run, step, steps):
    """Give the term, zero where it comes from another run than the output step's."""
    if runs is not None:
        term = tl.where((run == tl.load(runs + step, step < steps, -2))[:, None], term, 0)
    return term


def correlate(
    x: Tensor, weight: Tensor, dilation: int, left: int, steps: int, runs: Tensor | None, residual: Tensor | None
) -> Tensor:
    """Compute y[t] = residual[t] + sum_k weight[k] x[t + k dilation - left] for t < steps, as `cpu.correlate` does."""
    taps = weight.shape[1]
    dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    y = residual
    for first, last in passes(taps):
        into = torch.promote_types(dtype, torch.float32) if last < taps else dtype
        y = correlate_once(x, weight[:, first:last], dilation, left - first * dilation, steps, runs, y, into)
    return y


def correlate_once(
    x: Tensor,
    weight: Tensor,
    dilation: int,
    left: int,
    steps: int,
    runs: Tensor | None,
    residual: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Compute the same with taps few enough for one kernel, into the given dtype."""
    batch, time, channel = x.shape
    y = torch.empty(batch, steps, channel, device=x.device, dtype=dtype)
    if y.numel() == 0:
        return y
    x = adjacent_channels(x)
    tiles, blocks, rounds, shape = tiling(batch, steps, channel, weight.shape[1], dilation, x.dtype)
    correlate_kernel[batch * tiles, blocks](
        x,
        weight.t().contiguous(),
        None if residual is None else residual.contiguous(),
        None if runs is None else runs.contiguous(),
        y,
        tiles,
        rounds,
        time,
        steps,
        channel,
        left,
        x.stride(0),
        x.stride(1),
        **shape,
    )
    return y


def tap_gradient(x: Tensor, grad: Tensor, taps: int, dilation: int, left: int, runs: Tensor | None) -> Tensor:
    """Compute dweight[k] = sum over batch and t of grad[t] x[t + k dilation - left]: (channel, taps), fp32 or fp64."""
    parts = [
        tap_gradient_once(x, grad, last - first, dilation, left - first * dilation, runs)
        for first, last in passes(taps)
    ]
    return torch.cat(parts, 1)


def tap_gradient_once(x: Tensor, grad: Tensor, taps: int, dilation: int, left: int, runs: Tensor | None) -> Tensor:
    """Compute the same with taps few enough for one kernel."""
    batch, time, channel = x.shape
    steps = grad.shape[1]
    sums = torch.promote_types(x.dtype, torch.float32)
    if grad.numel() == 0:
        return torch.zeros(channel, taps, device=x.device, dtype=sums)
    x, grad = adjacent_channels(x), adjacent_channels(grad)
    tiles, blocks, rounds, shape = tiling(batch, steps, channel, taps, dilation, x.dtype)
    programs = min(batch * tiles, max(1, PROGRAMS // blocks))
    partial = torch.empty(programs, taps, channel, device=x.device, dtype=sums)
    tap_gradient_kernel[programs, blocks](
        x,
        grad,
        None if runs is None else runs.contiguous(),
        partial,
        tiles,
        batch * tiles,
        rounds,
        time,
        steps,
        channel,
        left,
        x.stride(0),
        x.stride(1),
        grad.stride(0),
        grad.stride(1),
        **shape,
    )
    return partial.sum(0).t()


def passes(taps: int) -> list[tuple[int, int]]:
    """Split the taps evenly among as many kernels as their registers ask for: the first and last tap of each."""
    count = triton.cdiv(taps, PASS_TAPS)
    return [(i * taps // count, (i + 1) * taps // count) for i in range(count)]


def tiling(
    batch: int, steps: int, channel: int, taps: int, dilation: int, dtype: torch.dtype
) -> tuple[int, int, int, dict[str, Any]]:
    """Cut the work: tiles along time, blocks of channels, rounds of a walk, and the constants of the kernel.

    A thread holds the window and the taps of a few neighboring channels; the more taps, the fewer channels fit into its
    registers.
    """
    held = 1 if dtype == torch.float64 else 4 if taps <= 20 else 2
    block = min(BLOCK, triton.next_power_of_2(channel))
    blocks = triton.cdiv(channel, block)
    lanes = WARPS * 32 * held // block
    rounds = ROUNDS
    while True:
        tiles = triton.cdiv(triton.cdiv(steps, rounds * UNROLLED * dilation) * dilation, lanes)
        if rounds == 1 or batch * tiles * blocks >= 2 * PROGRAMS:
            break
        rounds //= 2
    wide = tl.float64 if dtype == torch.float64 else tl.float32
    shape = {"taps": taps, "dilation": dilation, "unrolled": UNROLLED, "lanes": lanes, "block": block, "wide": wide}
    return tiles, blocks, rounds, shape | {"num_warps": WARPS}


def adjacent_channels(x: Tensor) -> Tensor:
    """Copy x where its channels do not lie side by side; any other stride is fine."""
    return x if x.stride(2) == 1 else x.contiguous()
