"""Recurrent networks along time: LSTM (with or without peepholes), GRU and sLSTM.

What enters a step from outside is one matrix product for all steps, made before; the operator does the rest, which has
to wait for the step before: the product with the recurrent weights and the gates. `recurrent` is the one entry;
`reference` is its definition, `cpu` and `triton` compute it, with gradients written by hand. After Poppel, Beck and
Hochreiter: "FlashRNN: I/O-Aware Optimization of Traditional RNNs on modern hardware", 2024 (from its formulas).
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from wavecast.core.block import mask_beyond
from wavecast.core.ops.backends import choose
from wavecast.core.ops.recurrent.reference import GATES, PARTS
from wavecast.core.state import own


def recurrent(
    kind: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    peepholes: Tensor | None = None,
    initial: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a recurrent network along time.

    Args:
        kind: "lstm" (gates: input, forget, cell, output), "gru" (reset, update, new) or "slstm" (as lstm). LSTM and GRU
            have the gates in torch's order, and the GRU is torch's (and cuDNN's).
        x: (batch, time, gate, hidden), what enters the gates from outside; zero steps are legal.
        weight: (gate, hidden, hidden / heads), the recurrent weights: row j reads the channels of j's head.
        bias: (gate, hidden) of the recurrent product. It matters for a GRU, whose reset gate scales it; elsewhere x may
            hold it as well.
        peepholes: (3, hidden) of an LSTM: what its input, forget and output gate see of the cell.
        initial: (batch, part, hidden), the state before the first step; zeros when None. Its parts: output and cell of
            an LSTM, the output of a GRU; output, cell, normalizer and stabilizer of an sLSTM.
        lengths: (batch,) valid steps of every row of a padded batch: its state stops there, the output is zero beyond.

    Returns:
        y: (batch, time, hidden), in x's dtype.
        last: (batch, part, hidden), the state after the last step: fp32, fp64 where x is; an own copy, and what to pass
            as `initial` with the next piece of the sequence.

    Raises:
        ValueError: a kind there is not, or shapes that do not fit.
    """
    check(kind, x, weight, bias, peepholes, initial, lengths)
    dtype = torch.promote_types(x.dtype, torch.float32)
    if initial is None:
        initial = x.new_zeros(x.shape[0], PARTS[kind], x.shape[3], dtype=dtype)
    if x.numel() == 0:
        return x[:, :, 0] * weight.sum().to(x.dtype), initial.to(dtype).clone()
    entering, stops = x, lengths
    if lengths is not None:
        entering, stops = mask_beyond(x, lengths), lengths.long().clamp(0, x.shape[1])
    biases = [None if one is None else one.to(dtype) for one in (bias, peepholes)]
    arguments = (entering.to(dtype), weight.to(dtype), biases[0], biases[1], initial.to(dtype), stops)
    if torch.is_grad_enabled():
        y, last = Recurrence.apply(kind, *arguments)
    else:
        y, last, _ = run(kind, *arguments, keep=False)
    y = y if lengths is None else mask_beyond(y, lengths)
    return y.to(x.dtype), last


class Recurrence(Function):
    """The recurrence on checked arguments of one dtype."""

    @staticmethod
    def forward(ctx: Any, kind: str, x: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        """Compute y and last, and keep what the gradients need; see `run` for the arguments."""
        y, last, saved = run(kind, x, weight, *others, keep=any(ctx.needs_input_grad))
        ctx.save_for_backward(*saved)
        ctx.kind, ctx.heads = kind, x.shape[3] // weight.shape[2]
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
        """Send the gradient through all steps to everything that entered."""
        return None, *adjoint(ctx.kind, ctx.heads, ctx.saved_tensors, grad, grad_last), None


def run(
    kind: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    peepholes: Tensor | None,
    initial: Tensor,
    lengths: Tensor | None,
    *,
    keep: bool,
) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
    """Have a backend compute y, last and, to `keep` for it, what its adjoint needs.

    Inside, heads are an axis of their own, and what a step needs lies together:

        x   (time, head, batch, gate, channel)          weight          (head, gate * channel, channel)
        y   (time, head, batch, channel)                bias            (head, 1, gate * channel)
        peepholes   (3, head, 1, channel)               initial, last   (part, head, batch, channel)
    """
    heads = x.shape[3] // weight.shape[2]
    arguments = (
        split(x, heads).permute(1, 3, 0, 2, 4),
        weight.unflatten(1, (heads, -1)).transpose(0, 1).flatten(1, 2),
        None if bias is None else split(bias, heads).transpose(0, 1).flatten(1)[:, None],
        None if peepholes is None else split(peepholes, heads)[:, :, None],
        split(initial, heads).permute(1, 2, 0, 3),
    )
    with torch.autocast(x.device.type, enabled=False):
        y, last, saved = backend(x).run(kind, *arguments, lengths, keep)
    return y.permute(2, 0, 1, 3).flatten(2).contiguous(), own(last.permute(2, 0, 1, 3).flatten(2)), saved


def adjoint(
    kind: str, heads: int, saved: tuple[Tensor | None, ...], grad: Tensor, grad_last: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    """Compute the gradients of x, weight, bias, peepholes and initial from those of y and last."""
    grad, grad_last = split(grad, heads).permute(1, 2, 0, 3), split(grad_last, heads).permute(1, 2, 0, 3)
    with torch.autocast(grad.device.type, enabled=False):
        dx, dweight, dbias, dpeepholes, dinitial = backend(grad).adjoint(kind, *saved, grad, grad_last)
    gates = dx.shape[3]
    return (
        dx.permute(2, 0, 3, 1, 4).flatten(3),
        dweight.unflatten(1, (gates, -1)).transpose(0, 1).flatten(1, 2),
        None if dbias is None else dbias.unflatten(1, (gates, -1)).transpose(0, 1).flatten(1),
        None if dpeepholes is None else dpeepholes.flatten(1),
        dinitial.permute(2, 0, 1, 3).flatten(2),
    )


def split(x: Tensor, heads: int) -> Tensor:
    """Split the last axis into heads and their channels."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def backend(x: Tensor) -> ModuleType:
    """Choose who computes: the Triton kernels for a CUDA tensor where Triton is installed, else plain torch."""
    return choose("recurrent", x)


def check(
    kind: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    peepholes: Tensor | None,
    initial: Tensor | None,
    lengths: Tensor | None,
) -> None:
    """Refuse arguments that do not fit together."""
    if kind not in GATES:
        raise ValueError(f"no recurrence of kind {kind!r}\nhint: one of {', '.join(GATES)}")
    if x.ndim != 4 or x.shape[2] != GATES[kind]:
        raise ValueError(f"x is {tuple(x.shape)}\nhint: for kind {kind} give (batch, time, {GATES[kind]}, hidden)")
    batch, _, gates, hidden = x.shape
    if weight.ndim != 3 or weight.shape[:2] != (gates, hidden) or not weight.shape[2] or hidden % weight.shape[2]:
        raise ValueError(
            f"the recurrent weights are {tuple(weight.shape)} for x {tuple(x.shape)}\n"
            f"hint: give {(gates, hidden)} and the width of a head, which divides {hidden}"
        )
    if peepholes is not None and kind != "lstm":
        raise ValueError(f"peepholes in a recurrence of kind {kind}\nhint: only an LSTM has them")
    for name, tensor, shape in (
        ("bias", bias, (gates, hidden)),
        ("peepholes", peepholes, (3, hidden)),
        ("initial state", initial, (batch, PARTS[kind], hidden)),
        ("lengths", lengths, (batch,)),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"the {name} of shape {tuple(tensor.shape)}\nhint: give {shape}")
