"""Recurrent networks in plain torch, for CPUs and for whatever has no kernel of its own.

A step is one matrix product and a few calls on what is in cache. Backward, everything that does not wait for the step
after is computed for all steps at once: the gradient of a gate is the gradient of the output or of the cell times a
factor that the forward pass has fixed. What is left for a step is a few products with such factors and one matrix
product; the gradient of the recurrent weights is one product over all steps in the end.

The floor is the multiplications or, for few rows, reading the recurrent weights in every step. On one thread of a
machine busy with other work (`scripts/bench/recurrent.py`), 32 rows of 100 steps from 256 to 256 channels took 52 ms
(LSTM) and 38 ms (GRU), 0.7 of what a large matrix product reaches, the projection before it included; one row of 25
steps from 4096 to 512 took 13 ms, 2.3 times the copying of the weights. With gradients a loop of torch's calls took
1.4 to 3 times as long.

The walks along time are functions of their own, so that `triton` can put kernels in their place. In them, a lone head
has no axis: (time, batch, gate, channel) for (time, head, batch, gate, channel). Lists hold the steps of a tensor.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from wavecast.core.ops.recurrent.reference import GATES

BUFFERS = {"lstm": 4, "gru": 4, "slstm": 5}
"""Tensors kept of a step: the gates; of a GRU also the product that its reset gate scales, of an sLSTM log f."""


class Factors(NamedTuple):
    """What turns the gradient of the state after a step into that of the step's gates and of the state before.

    gates: (time, head, batch, gate, channel), times the gradient of the cell; of an output gate, and of all gates of a
        GRU (reset, update, product of the new gate, new gate), times that of the output. The walk back multiplies in
        place: these are the gradients of the gates then.
    into_cell, into_normalizer: (time, head, batch, channel), from the gradient of the output into that of the cell.
    carried: (time, head, batch, channel), to the cell (of a GRU: the output) before.
    of_normalizer: (time, head, batch, 2, channel), times the gradient of the normalizer, for input and forget gate.
    direct: like of_normalizer, added to it.
    """

    gates: Tensor
    carried: Tensor
    into_cell: Tensor | None = None
    into_normalizer: Tensor | None = None
    of_normalizer: Tensor | None = None
    direct: Tensor | None = None


def run(
    kind: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    peepholes: Tensor | None,
    initial: Tensor,
    lengths: Tensor | None,
    keep: bool,
    walk: Callable[..., None] | None = None,
) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
    """Run the recurrence.

    Args:
        kind: "lstm", "gru" or "slstm".
        x: (time, head, batch, gate, channel), in any strides; at least one step.
        weight: (head, gate * channel, channel).
        bias: (head, 1, gate * channel) of the product, or None.
        peepholes: (3, head, 1, channel) of an LSTM, or None.
        initial: (part, head, batch, channel).
        lengths: (batch,) steps after which a row's state is the last one, at most all; None: all.
        keep: whether there will be an adjoint.
        walk: what fills in the states after the first, and what is kept; None: the walk in torch.

    Returns:
        y (time, head, batch, channel), last like initial, and what `adjoint` wants to be given, nothing unless kept.
    """
    time, heads, batch, _, channel = x.shape
    states = [torch.empty(time + 1, heads, batch, channel, dtype=x.dtype, device=x.device) for _ in initial]
    for part, first in zip(states, initial, strict=True):
        part[0] = first
    kept = torch.empty(time if keep else 1, heads, batch, BUFFERS[kind], channel, dtype=x.dtype, device=x.device)
    (walk or walk_on)(kind, x, weight, bias, peepholes, kept, states)
    last = torch.stack([at(part, lengths) for part in states])
    return states[0][1:], last, (weight, bias, peepholes, lengths, kept, *states) if keep else ()


def adjoint(
    kind: str,
    weight: Tensor,
    bias: Tensor | None,
    peepholes: Tensor | None,
    lengths: Tensor | None,
    kept: Tensor,
    *others: Tensor,
    walk: Callable[..., list[Tensor]] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    """Compute the gradients of x, weight, bias, peepholes and initial.

    Args:
        kind, weight, bias, peepholes, lengths, kept: what `run` kept.
        others: the states that it kept, and the gradients of y and last, in their shapes.
        walk: what walks back; None: the walk in torch.
    """
    *states, grad, grad_last = others
    factors, first = FACTORS[kind](kept, states, peepholes, lengths, grad_last)
    dinitial = (walk or walk_back)(kind, weight, factors, lengths, grad, grad_last)
    if kind == "slstm":
        dinitial.append(dinitial[1] * states[1][0] + dinitial[2] * states[2][0] + first)
    gates = dproduct = factors.gates
    if kind == "gru":
        gates, dproduct = gates[..., [0, 1, 3], :], gates[..., :3, :]
    dproduct = dproduct.flatten(-2)
    dpeepholes = None
    if peepholes is not None:
        saw = torch.stack([states[1][:-1], states[1][:-1], states[1][1:]], -2) * gates[..., [0, 1, 3], :]
        dpeepholes = saw.sum((0, 2)).movedim(1, 0)
    return (
        gates,
        torch.einsum("thbg,thbc->hgc", dproduct, states[0][:-1]),
        None if bias is None else dproduct.sum((0, 2)),
        dpeepholes,
        torch.stack(dinitial),
    )


def walk_on(
    kind: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    peepholes: Tensor | None,
    kept: Tensor,
    states: Sequence[Tensor],
) -> None:
    """Fill in the states after the first, and what is kept of every step (or of the last one, where it holds one)."""
    bias = None if bias is None else bias.squeeze(0)
    peepholes = None if peepholes is None else peepholes.squeeze(1)
    states = [part.squeeze(1) for part in states]
    WALKS[kind](x.squeeze(1), weight.squeeze(0), bias, peepholes, kept.squeeze(1), states)


def walk_lstm(
    x: Tensor, weight: Tensor, bias: Tensor | None, peepholes: Tensor | None, kept: Tensor, states: Sequence[Tensor]
) -> None:
    """Fill in the states after the first, and the gates."""
    time = len(x)
    x = x.flatten(-2) if bias is None else x.flatten(-2) + bias
    into, two = steps(kept.flatten(-2), time), steps(kept[..., :2, :], time)
    i, f, z, o = (steps(gate, time) for gate in kept.unbind(-2))
    h, c = (part.unbind(0) for part in states)
    weight, multiply = weight.mT, product(weight)
    for t, entering in enumerate(x.unbind(0)):
        multiply(entering, h[t], weight, out=into[t])
        if peepholes is not None:
            i[t].addcmul_(peepholes[0], c[t])
            f[t].addcmul_(peepholes[1], c[t])
        two[t].sigmoid_()
        z[t].tanh_()
        torch.mul(i[t], z[t], out=c[t + 1]).addcmul_(f[t], c[t])
        if peepholes is not None:
            o[t].addcmul_(peepholes[2], c[t + 1])
        o[t].sigmoid_()
        torch.tanh(c[t + 1], out=h[t + 1]).mul_(o[t])


def walk_gru(
    x: Tensor, weight: Tensor, bias: Tensor | None, peepholes: None, kept: Tensor, states: Sequence[Tensor]
) -> None:
    """Fill in the outputs after the first, the gates, and the product that the reset gate scales."""
    time = len(x)
    bias = weight.new_zeros(1) if bias is None else bias
    into, two = steps(kept[..., :3, :].flatten(-2), time), steps(kept[..., :2, :], time)
    r, z, q, n = (steps(gate, time) for gate in kept.unbind(-2))
    (h,) = (part.unbind(0) for part in states)
    entering, new = x[..., :2, :].unbind(0), x[..., 2, :].unbind(0)
    weight, multiply = weight.mT, product(weight)
    for t in range(time):
        multiply(bias, h[t], weight, out=into[t])
        two[t].add_(entering[t]).sigmoid_()
        torch.addcmul(new[t], r[t], q[t], out=n[t]).tanh_()
        torch.lerp(n[t], h[t], z[t], out=h[t + 1])


def walk_slstm(
    x: Tensor, weight: Tensor, bias: Tensor | None, peepholes: None, kept: Tensor, states: Sequence[Tensor]
) -> None:
    """Fill in the states after the first, the stabilized gates and the logarithm of the forget gate."""
    time = len(x)
    x = x.flatten(-2) if bias is None else x.flatten(-2) + bias
    into, two = steps(kept[..., :4, :].flatten(-2), time), steps(kept[..., :2, :], time)
    i, f, z, o, log_f = (steps(gate, time) for gate in kept.unbind(-2))
    h, c, n, m = (part.unbind(0) for part in states)
    before = m[0].masked_fill(n[0] == 0, -inf)  # every i is above it: nothing is kept of what never was
    weight, multiply = weight.mT, product(weight)
    for t, entering in enumerate(x.unbind(0)):
        multiply(entering, h[t], weight, out=into[t])
        log_f[t].copy_(functional.logsigmoid(f[t]))
        torch.add(log_f[t], before, out=f[t])
        before = torch.maximum(i[t], f[t], out=m[t + 1])
        two[t].sub_(before.unsqueeze(-2)).exp_()
        z[t].tanh_()
        o[t].sigmoid_()
        torch.mul(i[t], z[t], out=c[t + 1]).addcmul_(f[t], c[t])
        torch.addcmul(i[t], f[t], n[t], out=n[t + 1]).clamp_(min=1)
        torch.div(c[t + 1], n[t + 1], out=h[t + 1]).mul_(o[t])


def walk_back(
    kind: str, weight: Tensor, factors: Factors, lengths: Tensor | None, grad: Tensor, grad_last: Tensor
) -> list[Tensor]:
    """Multiply the factors by the gradients they wait for, and give the gradients of the initial state.

    Args:
        kind: "lstm", "gru" or "slstm".
        weight: (head, gate * channel, channel).
        factors: their gates become the gradients of the gates.
        lengths: (batch,) steps after which the gradient of the last state arrives; None: all.
        grad: (time, head, batch, channel), of the output.
        grad_last: (part, head, batch, channel), of the last state.

    Returns:
        The gradients of output, cell and normalizer before the first step, as far as there are such, like one step.
    """
    time, arriving, step = len(grad), arrivals(lengths, len(grad)), grad.shape[1:]
    grad, grad_last, weight = grad.squeeze(1), grad_last.squeeze(1), weight.squeeze(0)
    gates, multiply = factors.gates.squeeze(1), product(weight)
    flat = gates[..., : GATES[kind], :].flatten(-2).unbind(0)
    of_cell, of_output = gates[..., :3, :].unbind(0), gates[..., 3, :].unbind(0)
    enter_and_forget = gates[..., :2, :].unbind(0)
    others: list[Any] = [None if one is None else one.squeeze(1).unbind(0) for one in factors]
    every, carried, into_cell, into_normalizer, of_normalizer, direct = others
    entering = [torch.zeros_like(grad[0]), *grad[:-1].unbind(0)]  # the gradient of the output before a step

    gradients = [grad[-1].clone(), *(torch.zeros_like(grad[0]) for _ in grad_last[1:3])]
    dh, dc, dn = [*gradients, *[grad.new_zeros(())] * 2][:3]
    for t in reversed(range(time)):
        arrive(arriving, t, gradients, grad_last)
        addend = entering[t]
        if kind == "gru":
            every[t].mul_(dh.unsqueeze(-2))
            addend = torch.addcmul(addend, dh, carried[t])
        else:
            dc.addcmul_(dh, into_cell[t])
            of_cell[t].mul_(dc.unsqueeze(-2))
            of_output[t].mul_(dh)
            dc.mul_(carried[t])
        if kind == "slstm":
            dn.addcmul_(dh, into_normalizer[t])
            enter_and_forget[t].addcmul_(of_normalizer[t], dn.unsqueeze(-2))
            dn.mul_(carried[t])
            if direct is not None:
                enter_and_forget[t].add_(direct[t])
        multiply(addend, flat[t], weight, out=dh)
    arrive(arriving, -1, gradients, grad_last)
    return [one.view(step) for one in gradients]


def lstm_factors(
    kept: Tensor, states: Sequence[Tensor], peepholes: Tensor | None, lengths: Tensor | None, grad_last: Tensor
) -> tuple[Factors, None]:
    """Give the factors of an LSTM; peepholes add to what reaches the cell."""
    i, f, z, o = kept.unbind(-2)
    before, seen = states[1][:-1], states[1][1:].tanh()
    gates = torch.stack([z * i * (1 - i), before * f * (1 - f), i * (1 - z * z), seen * o * (1 - o)], -2)
    into_cell, carried = o * (1 - seen * seen), f
    if peepholes is not None:
        into_cell = into_cell + gates[..., 3, :] * peepholes[2]
        carried = f + gates[..., 0, :] * peepholes[0] + gates[..., 1, :] * peepholes[1]
    return Factors(gates, carried, into_cell), None


def gru_factors(
    kept: Tensor, states: Sequence[Tensor], peepholes: None, lengths: Tensor | None, grad_last: Tensor
) -> tuple[Factors, None]:
    """Give the factors of a GRU."""
    r, z, q, n = kept.unbind(-2)
    new = (1 - z) * (1 - n * n)
    gates = torch.stack([new * q * r * (1 - r), (states[0][:-1] - n) * z * (1 - z), new * r, new], -2)
    return Factors(gates, z), None


def slstm_factors(
    kept: Tensor, states: Sequence[Tensor], peepholes: None, lengths: Tensor | None, grad_last: Tensor
) -> tuple[Factors, Tensor]:
    """Give the factors of an sLSTM, and a part of the gradient of the first stabilizer.

    Outputs do not change when cell, normalizer and exp(-stabilizer) are scaled together, so the stabilizer counts as
    constant. Only a gradient of the last state itself can have a part against that (`stabilizer_gradients`).
    """
    i, f, z, o, log_f = kept.unbind(-2)
    _, c, n, _ = states
    closing = 1 - log_f.exp()  # the slope of log sigmoid(f)
    ratio, into_cell = c[1:] / n[1:], o / n[1:]
    gates = torch.stack([i * z, f * c[:-1] * closing, i * (1 - z * z), ratio * o * (1 - o)], -2)
    of_normalizer = torch.stack([i, f * n[:-1] * closing], -2)
    alone = grad_last[3] - grad_last[1] * at(c, lengths) - grad_last[2] * at(n, lengths)
    direct, first = stabilizer_gradients(alone, f, closing, lengths)
    return Factors(gates, f, into_cell, -into_cell * ratio, of_normalizer, direct), first


def stabilizer_gradients(
    alone: Tensor, f: Tensor, closing: Tensor, lengths: Tensor | None
) -> tuple[Tensor | None, Tensor]:
    """Send what only the last stabilizer gets straight back to the step it comes from: the last whose input won.

    Args:
        alone: (head, batch, channel).
        f: (time, head, batch, channel), the stabilized forget gate: one where the state before won.
        closing: like f, the slope of its logarithm.
        lengths: (batch,), or None.

    Returns:
        The gradient of what enters input and forget gates (time, head, batch, 2, channel), None where there is none,
        and that of the stabilizer before the first step.
    """
    if not alone.any():
        return None, alone
    time = len(f)
    beyond = torch.arange(time, device=f.device)[:, None] >= (time if lengths is None else lengths)
    beyond = beyond[:, None, :, None]
    handed_on = (f == 1) | beyond
    way = handed_on.to(f).flip(0).cumprod(0).flip(0) * alone
    reached = torch.cat([way[1:], alone[None]]).masked_fill(beyond, 0)
    return torch.stack([reached * ~handed_on, reached * handed_on * closing], -2), way[0]


def product(weight: Tensor) -> Callable[..., Tensor]:
    """Give torch's function for addend + y @ weight, with or without an axis of heads."""
    return torch.addmm if weight.ndim == 2 else torch.baddbmm


def steps(x: Tensor, time: int) -> tuple[Tensor, ...]:
    """List the steps of a buffer; one that keeps a single step serves all of them."""
    return x.unbind(0) * (time // len(x))


def at(states: Tensor, lengths: Tensor | None) -> Tensor:
    """Take the state after so many steps from each row, the last one where lengths is None."""
    if lengths is None:
        return states[-1]
    return states.gather(0, lengths[:, None].expand(1, *states.shape[1:]))[0]


def arrivals(lengths: Tensor | None, time: int) -> dict[int, Any]:
    """Tell after which step the state of which rows is the last one; -1 is before the first step."""
    if lengths is None:
        return {time - 1: slice(None)}
    rows: dict[int, list[int]] = {}
    for row, length in enumerate(lengths.tolist()):
        rows.setdefault(length - 1, []).append(row)
    return rows


def arrive(arriving: dict[int, Any], t: int, gradients: Sequence[Tensor], grad_last: Tensor) -> None:
    """Add the gradient of the last state where it is the state after step t."""
    if t in arriving:
        for gradient, last in zip(gradients, grad_last, strict=False):  # an sLSTM's stabilizer has its own way
            gradient[..., arriving[t], :] += last[..., arriving[t], :]


WALKS = {"lstm": walk_lstm, "gru": walk_gru, "slstm": walk_slstm}
FACTORS: dict[str, Callable[..., tuple[Factors, Any]]] = {
    "lstm": lstm_factors,
    "gru": gru_factors,
    "slstm": slstm_factors,
}
