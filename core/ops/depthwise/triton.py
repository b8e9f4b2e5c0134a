"""The depthwise operator as Triton kernels, forward and backward, for NVIDIA GPUs.

The work is bound by memory, so every input is read once and stays in registers. A program owns `lanes` lanes of time
by a block of channels; a lane walks `outputs` output steps with a window of the last `taps` inputs, and reads one new
input a step. A dilated filter is `dilation` undilated ones, each on every dilation-th step: the lanes interleave then.
Sums are in fp32 (fp64 for fp64).

The gradient of the taps is deterministic: every program adds up a fixed share of the steps in a fixed order and writes
its own row, and the rows are added up after it. There are no atomics.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

WARPS = 4
OUTPUTS = 16
CHANNELS = 128
PROGRAMS = 512
"""Programs of the taps' gradient: a few for every multiprocessor, whatever the device, so that sums never differ."""


@triton.jit
def correlate_kernel(
    x,
    weight,
    residual,
    runs,
    y,
    tiles,
    time,
    steps,
    channels,
    left,
    x_batch,
    x_step,
    taps: tl.constexpr,
    dilation: tl.constexpr,
    outputs: tl.constexpr,
    lanes: tl.constexpr,
    block: tl.constexpr,
    wide: tl.constexpr,
):
    """Compute y[t] = residual[t] + sum_k weight[k] x[t + k dilation - left] for one tile of lanes and channels."""
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    channel = tl.program_id(1) * block + tl.arange(0, block)
    start = first_step(tl.program_id(0) % tiles, dilation, outputs, lanes)
    fits = channel < channels

    weights: tl.tuple = ()
    for k in tl.static_range(taps):
        weights += (tl.load(weight + k * channels + channel, fits, 0).to(wide)[None, :],)
    window: tl.tuple = ()
    run_window: tl.tuple = ()
    for j in tl.static_range(outputs + taps - 1):
        s = start + j * dilation - left
        window += (read(x + batch * x_batch, x_step, s, time, channel, channels).to(wide),)
        if runs is not None:
            run_window += (tl.load(runs + batch * time + s, (s >= 0) & (s < time), -1),)
        if j >= taps - 1:
            t = start + (j - (taps - 1)) * dilation
            total = tl.zeros([lanes, block], wide)
            for k in tl.static_range(taps):
                term = window[j - (taps - 1) + k]
                if runs is not None:
                    own = tl.load(runs + batch * time + t, t < time, -2)
                    term = tl.where((run_window[j - (taps - 1) + k] == own)[:, None], term, 0)
                total += weights[k] * term
            if residual is not None:
                total += read(residual + batch * steps * channels, channels, t, steps, channel, channels).to(wide)
            place = y + batch * steps * channels + t.to(tl.int64)[:, None] * channels + channel[None, :]
            tl.store(place, total.to(y.dtype.element_ty), (t < steps)[:, None] & fits[None, :])


@triton.jit
def tap_gradient_kernel(
    x,
    grad,
    runs,
    partial,
    tiles,
    all_tiles,
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
    outputs: tl.constexpr,
    lanes: tl.constexpr,
    block: tl.constexpr,
    wide: tl.constexpr,
):
    """Add up grad[t] x[t + k dilation - left] over a share of the tiles: one row of `partial`, (taps, channels)."""
    channel = tl.program_id(1) * block + tl.arange(0, block)
    totals: tl.tuple = ()
    for _ in tl.static_range(taps):
        totals += (tl.zeros([lanes, block], wide),)
    for tile in range(tl.program_id(0), all_tiles, tl.num_programs(0)):
        batch = (tile // tiles).to(tl.int64)
        start = first_step(tile % tiles, dilation, outputs, lanes)
        window: tl.tuple = ()
        run_window: tl.tuple = ()
        for j in tl.static_range(outputs + taps - 1):
            s = start + j * dilation - left
            window += (read(x + batch * x_batch, x_step, s, time, channel, channels).to(wide),)
            if runs is not None:
                run_window += (tl.load(runs + batch * time + s, (s >= 0) & (s < time), -1),)
            if j >= taps - 1:
                t = start + (j - (taps - 1)) * dilation
                factor = read(grad + batch * grad_batch, grad_step, t, steps, channel, channels).to(wide)
                sums: tl.tuple = ()
                for k in tl.static_range(taps):
                    term = window[j - (taps - 1) + k]
                    if runs is not None:
                        own = tl.load(runs + batch * time + t, t < time, -2)
                        term = tl.where((run_window[j - (taps - 1) + k] == own)[:, None], term, 0)
                    sums += (totals[k] + factor * term,)
                totals = sums
    for k in tl.static_range(taps):
        place = partial + (tl.program_id(0) * taps + k) * channels + channel
        tl.store(place, tl.sum(totals[k], 0), channel < channels)


@triton.jit
def first_step(tile, dilation: tl.constexpr, outputs: tl.constexpr, lanes: tl.constexpr):
    """Give the first output step of every lane of a tile; its later ones follow in steps of dilation."""
    lane = tile * lanes + tl.arange(0, lanes)
    return lane // dilation * (outputs * dilation) + lane % dilation


@triton.jit
def read(x, x_step, step, steps, channel, channels):
    """Read (lanes, channels) at the lanes' steps, zero outside."""
    place = x + step.to(tl.int64)[:, None] * x_step + channel[None, :]
    return tl.load(place, ((step >= 0) & (step < steps))[:, None] & (channel < channels)[None, :], 0)


def correlate(
    x: Tensor, weight: Tensor, dilation: int, left: int, steps: int, runs: Tensor | None, residual: Tensor | None
) -> Tensor:
    """Compute y[t] = residual[t] + sum_k weight[k] x[t + k dilation - left] for t < steps, as `cpu.correlate` does."""
    batch, time, channel = x.shape
    dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    y = torch.empty(batch, steps, channel, device=x.device, dtype=dtype)
    if y.numel() == 0:
        return y
    x = adjacent_channels(x)
    tiles, blocks, shape = tiling(steps, channel, weight.shape[1], dilation)
    correlate_kernel[batch * tiles, blocks](
        x,
        weight.t().contiguous(),
        None if residual is None else residual.contiguous(),
        None if runs is None else runs.contiguous(),
        y,
        tiles,
        time,
        steps,
        channel,
        left,
        x.stride(0),
        x.stride(1),
        wide=sum_type(x.dtype),
        **shape,
    )
    return y


def tap_gradient(x: Tensor, grad: Tensor, taps: int, dilation: int, left: int, runs: Tensor | None) -> Tensor:
    """Compute dweight[k] = sum over batch and t of grad[t] x[t + k dilation - left]: (channel, taps), fp32 or fp64."""
    batch, time, channel = x.shape
    steps = grad.shape[1]
    sums = torch.float64 if x.dtype == torch.float64 else torch.float32
    if grad.numel() == 0:
        return torch.zeros(channel, taps, device=x.device, dtype=sums)
    x, grad = adjacent_channels(x), adjacent_channels(grad)
    tiles, blocks, shape = tiling(steps, channel, taps, dilation)
    rows = min(batch * tiles, max(1, PROGRAMS // blocks))
    partial = torch.empty(rows, taps, channel, device=x.device, dtype=sums)
    tap_gradient_kernel[rows, blocks](
        x,
        grad,
        None if runs is None else runs.contiguous(),
        partial,
        tiles,
        batch * tiles,
        time,
        steps,
        channel,
        left,
        x.stride(0),
        x.stride(1),
        grad.stride(0),
        grad.stride(1),
        wide=sum_type(x.dtype),
        **shape,
    )
    return partial.sum(0).t()


def tiling(steps: int, channel: int, taps: int, dilation: int) -> tuple[int, int, dict[str, int]]:
    """Cut the work: tiles along time, blocks of channels, and the constants of the kernel.

    A thread holds the window and the taps of a few neighboring channels; the more taps, the fewer channels fit into its
    registers.
    """
    held = 4 if taps <= 20 else 2 if taps <= 40 else 1
    channels = min(CHANNELS, triton.next_power_of_2(channel))
    lanes = WARPS * 32 * held // channels
    tiles = triton.cdiv(triton.cdiv(steps, OUTPUTS * dilation) * dilation, lanes)
    shape = {"taps": taps, "dilation": dilation, "outputs": OUTPUTS, "lanes": lanes, "block": channels}
    return tiles, triton.cdiv(channel, channels), shape | {"num_warps": WARPS}


def adjacent_channels(x: Tensor) -> Tensor:
    """Copy x where its channels do not lie side by side; any other stride is fine."""
    return x if x.stride(2) == 1 else x.contiguous()


def sum_type(dtype: torch.dtype) -> tl.dtype:
    """Give the precision of the sums."""
    return tl.float64 if dtype == torch.float64 else tl.float32
