"""Recurrent networks as Triton kernels, forward and backward, for NVIDIA GPUs.

What a step waits for is the step before, so a walk is bound by latency. A program owns one head of one batch row and
walks along time with the head's recurrent weights and its state in registers: a step reads what enters it, multiplies,
and writes; nothing is launched, no weight is read again. The walk back is the same with the factors of `cpu.Factors`,
which are computed for all steps at once. Sums are in fp32 and exact (no TF32).

A head must fit into the registers of one program: `WIDEST` channels. Wider ones, and fp64, take the walks in torch.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from wavecast.core.ops.recurrent import cpu
from wavecast.core.ops.recurrent.cpu import Factors

WIDEST = 64
"""Channels of a head: four gates of 64 x 64 weights are a quarter of a multiprocessor's registers."""


@triton.jit
def walk_kernel(
    x,
    weight,
    bias,
    peepholes,
    kept,
    h,
    c,
    n,
    m,
    x_time,
    x_head,
    x_batch,
    x_gate,
    time,
    batch,
    channels,
    kind: tl.constexpr,
    keep: tl.constexpr,
    gates: tl.constexpr,
    buffers: tl.constexpr,
    block: tl.constexpr,
):
    """Walk along one row of one head: fill in the states after the first, and what is kept of every step."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    heads = tl.num_programs(1)
    lane = tl.arange(0, block)
    within = lane < channels
    weights = read_weights(weight, head, channels, gates, block)
    biases: tl.tuple = ()
    for g in tl.static_range(gates):
        biases += (read(bias, (head * gates + g) * channels, lane, within, 0),)
    see_i = read(peepholes, head * channels, lane, within, 0)
    see_f = read(peepholes, (heads + head) * channels, lane, within, 0)
    see_o = read(peepholes, (2 * heads + head) * channels, lane, within, 0)

    step = heads * batch * channels
    place = (head * batch + row) * channels
    output = read(h, place, lane, within, 0)
    cell = read(c, place, lane, within, 0)
    count = read(n, place, lane, within, 1)
    top = read(m, place, lane, within, 0)
    top = tl.where(count == 0, -float("inf"), top)  # every i is above it: nothing is kept of what never was
    x += head * x_head + row * x_batch
    kept += (head * batch + row) * buffers * channels
    for _ in range(time):
        entering: tl.tuple = ()
        product: tl.tuple = ()
        for g in tl.static_range(gates):
            entering += (read(x, g * x_gate, lane, within, 0),)
            product += (tl.sum(weights[g] * output[None, :], 1) + biases[g],)
        values: tl.tuple = ()
        if kind == "lstm":
            i = tl.sigmoid(entering[0] + product[0] + see_i * cell)
            f = tl.sigmoid(entering[1] + product[1] + see_f * cell)
            z = tanh(entering[2] + product[2])
            cell = f * cell + i * z
            o = tl.sigmoid(entering[3] + product[3] + see_o * cell)
            output = o * tanh(cell)
            values = (i, f, z, o)
        elif kind == "gru":
            r = tl.sigmoid(entering[0] + product[0])
            z = tl.sigmoid(entering[1] + product[1])
            new = tanh(entering[2] + r * product[2])
            output = new + z * (output - new)
            values = (r, z, product[2], new)
        else:
            f = entering[1] + product[1]
            log_f = tl.minimum(f, 0) - tl.log(1 + tl.exp(-tl.abs(f)))
            i = entering[0] + product[0]
            before = log_f + top
            top = tl.maximum(i, before)
            i = tl.exp(i - top)
            f = tl.exp(before - top)
            z = tanh(entering[2] + product[2])
            o = tl.sigmoid(entering[3] + product[3])
            cell = f * cell + i * z
            count = tl.maximum(f * count + i, 1)
            output = o * cell / count
            values = (i, f, z, o, log_f)
        x += x_time
        place += step
        tl.store(h + place + lane, output, within)
        if kind != "gru":
            tl.store(c + place + lane, cell, within)
        if kind == "slstm":
            tl.store(n + place + lane, count, within)
            tl.store(m + place + lane, top, within)
        if keep:
            for b in tl.static_range(buffers):
                tl.store(kept + b * channels + lane, values[b], within)
            kept += buffers * step


@triton.jit
def walk_back_kernel(
    weight,
    factors,
    carried,
    into_cell,
    into_normalizer,
    of_normalizer,
    direct,
    ends,
    grad,
    grad_last,
    initial,
    grad_time,
    grad_head,
    grad_batch,
    time,
    batch,
    channels,
    kind: tl.constexpr,
    gates: tl.constexpr,
    block: tl.constexpr,
):
    """Walk back along one row of one head, from the last step, to which grad points.

    Factors become the gradients of the gates; initial gets the gradients of the state before the first step.
    """
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    heads = tl.num_programs(1)
    lane = tl.arange(0, block)
    within = lane < channels
    weights = read_weights(weight, head, channels, gates, block)
    end = tl.load(ends + row)
    one = head * batch + row
    step = heads * batch
    last_h = read(grad_last, one * channels, lane, within, 0)
    last_c = tl.zeros([block], tl.float32)
    last_n = tl.zeros([block], tl.float32)
    if kind != "gru":
        last_c = read(grad_last, (step + one) * channels, lane, within, 0)
    if kind == "slstm":
        last_n = read(grad_last, (2 * step + one) * channels, lane, within, 0)

    dh = tl.zeros([block], tl.float32)
    dc = tl.zeros([block], tl.float32)
    dn = tl.zeros([block], tl.float32)
    grad += head * grad_head + row * grad_batch
    for back in range(time):
        t = time - 1 - back
        place = (t * step + one) * channels
        arrives = t + 1 == end
        dh += read(grad, 0, lane, within, 0) + tl.where(arrives, last_h, 0)
        dc += tl.where(arrives, last_c, 0)
        dn += tl.where(arrives, last_n, 0)
        grad -= grad_time
        carry = read(carried, place, lane, within, 0)
        if kind != "gru":
            dc += dh * read(into_cell, place, lane, within, 0)
        if kind == "slstm":
            dn += dh * read(into_normalizer, place, lane, within, 0)
        through = tl.zeros([block], tl.float32)
        for g in tl.static_range(4):
            gate = factors + (place * 4 + g * channels)
            waited = dh if kind == "gru" or g == 3 else dc
            gradient = read(gate, 0, lane, within, 0) * waited
            if kind == "slstm" and g < 2:
                gradient += read(of_normalizer, place * 2 + g * channels, lane, within, 0) * dn
                gradient += read(direct, place * 2 + g * channels, lane, within, 0)
            tl.store(gate + lane, gradient, within)
            if g < gates:
                through += tl.sum(weights[g] * gradient[:, None], 0)
        if kind == "gru":
            dh = dh * carry + through
        else:
            dh = through
            dc *= carry
            dn *= carry
    arrives = end == 0
    tl.store(initial + one * channels + lane, dh + tl.where(arrives, last_h, 0), within)
    if kind != "gru":
        tl.store(initial + (step + one) * channels + lane, dc + tl.where(arrives, last_c, 0), within)
    if kind == "slstm":
        tl.store(initial + (2 * step + one) * channels + lane, dn + tl.where(arrives, last_n, 0), within)


@triton.jit
def read_weights(weight, head, channels, gates: tl.constexpr, block: tl.constexpr):
    """Read the recurrent weights of a head: for every gate (channel out, channel in)."""
    out = tl.arange(0, block)[:, None]
    lane = tl.arange(0, block)[None, :]
    weights: tl.tuple = ()
    for g in tl.static_range(gates):
        place = weight + ((head * gates + g) * channels + out) * channels + lane
        weights += (tl.load(place, (out < channels) & (lane < channels), 0),)
    return weights


@triton.jit
def read(x, place, lane, mask, padding: tl.constexpr):
    """Read a value for every lane, `padding` where there is none."""
    return tl.full(lane.shape, padding, tl.float32) if x is None else tl.load(x + place + lane, mask, padding)


@triton.jit
def tanh(x):
    """Compute the hyperbolic tangent without overflow."""
    return 2 * tl.sigmoid(2 * x) - 1


def run(
    kind: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    peepholes: Tensor | None,
    initial: Tensor,
    lengths: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
    """Run the recurrence as `cpu.run` does."""
    walk = walk_on if fits(weight) else None
    return cpu.run(kind, x, weight, bias, peepholes, initial, lengths, keep, walk)


def adjoint(kind: str, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    """Compute the gradients as `cpu.adjoint` does."""
    return cpu.adjoint(kind, weight, *others, walk=walk_back if fits(weight) else None)


def fits(weight: Tensor) -> bool:
    """Tell whether a head's weights fit into the registers of a program."""
    return weight.shape[2] <= WIDEST and weight.dtype == torch.float32


def walk_on(
    kind: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    peepholes: Tensor | None,
    kept: Tensor,
    states: Sequence[Tensor],
) -> None:
    """Do what `cpu.walk_on` does in one kernel."""
    time, heads, batch, gates, channels = x.shape
    x = x if x.stride(4) == 1 else x.contiguous()
    walk_kernel[batch, heads](
        x,
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        None if peepholes is None else peepholes.contiguous(),
        kept,
        *states,
        *[None] * (4 - len(states)),
        *x.stride()[:4],
        time,
        batch,
        channels,
        kind=kind,
        keep=len(kept) == time,
        gates=gates,
        buffers=kept.shape[3],
        **shape(channels),
    )


def walk_back(
    kind: str, weight: Tensor, factors: Factors, lengths: Tensor | None, grad: Tensor, grad_last: Tensor
) -> list[Tensor]:
    """Do what `cpu.walk_back` does in one kernel."""
    time, heads, batch, channels = grad.shape
    ends = torch.full((batch,), time, device=grad.device) if lengths is None else lengths
    grad = grad if grad.stride(3) == 1 else grad.contiguous()
    parts = min(len(grad_last), 3)
    initial = torch.empty(parts, heads, batch, channels, device=grad.device, dtype=grad.dtype)
    walk_back_kernel[batch, heads](
        weight.contiguous(),
        *(None if one is None else one.contiguous() for one in factors),
        ends,
        grad[-1],
        grad_last.contiguous(),
        initial,
        *grad.stride()[:3],
        time,
        batch,
        channels,
        kind=kind,
        gates=weight.shape[1] // channels,
        **shape(channels),
    )
    return list(initial)


def shape(channels: int) -> dict[str, int]:
    """Give the constants of a kernel for heads of so many channels: eight weights of a gate for a thread."""
    block = max(16, triton.next_power_of_2(channels))
    return {"block": block, "num_warps": max(1, block * block // 256)}
