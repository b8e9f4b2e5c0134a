"""The definition of the recurrent operator: a loop that reads like the formulas.

With r = weight[gate] y[t-1] + bias[gate], a product of its own for every head, and x = x[t, gate]:

    lstm    i, f, z, o    c' = sigmoid(x_f + r_f) c + sigmoid(x_i + r_i) tanh(x_z + r_z)
                          y' = sigmoid(x_o + r_o) tanh(c')
                          with peepholes: i sees c, f sees c and o sees c', each times a number per channel
    gru     r, z, n       y' = z y + (1 - z) tanh(x_n + r r_n),  r = sigmoid(x_r + r_r),  z = sigmoid(x_z + r_z)
    slstm   i, f, z, o    m' = max(i, log sigmoid(f) + m)
                          c' = exp(log sigmoid(f) + m - m') c + exp(i - m') tanh(z)
                          n' = max(exp(log sigmoid(f) + m - m') n + exp(i - m'), 1)
                          y' = sigmoid(o) c' / n'

An sLSTM whose normalizer n is zero has seen nothing: m' = i then, and neither c nor m counts.
"""

import torch
from torch import Tensor
from torch.nn import functional

GATES = {"lstm": 4, "gru": 3, "slstm": 4}
PARTS = {"lstm": 2, "gru": 1, "slstm": 4}
"""Tensors of the state: output and cell; output; output, cell, normalizer and stabilizer."""


def recurrent(
    kind: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    peepholes: Tensor | None = None,
    initial: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the recurrence step by step; arguments and results are those of the operator."""
    batch, time, _, hidden = x.shape
    step = {"lstm": lstm, "gru": gru, "slstm": slstm}[kind]
    parts = x.new_zeros(batch, PARTS[kind], hidden) if initial is None else initial
    ys = []
    for t in range(time):
        product = head_products(weight, parts[:, 0])
        product = product if bias is None else product + bias
        after = torch.stack(step(x[:, t], product, parts.unbind(1), peepholes), 1)
        if lengths is None:
            ys.append(after[:, 0])
        else:
            within = (t < lengths)[:, None]
            after = torch.where(within[..., None], after, parts)
            ys.append(torch.where(within, after[:, 0], 0))
        parts = after
    return torch.stack(ys, 1) if time else x[:, :, 0] * weight.sum(), parts.clone()


def head_products(weight: Tensor, y: Tensor) -> Tensor:
    """Multiply (gate, hidden, width of a head) by y (batch, hidden), every head alone: (batch, gate, hidden)."""
    width = weight.shape[2]
    heads = [weight[:, at : at + width] @ y[:, at : at + width].T for at in range(0, weight.shape[1], width)]
    return torch.cat(heads, 1).movedim(2, 0)


def lstm(x: Tensor, product: Tensor, before: tuple[Tensor, ...], peepholes: Tensor | None) -> tuple[Tensor, ...]:
    """Take one step of an LSTM (Hochreiter and Schmidhuber, 1997; peepholes: Gers and Schmidhuber, 2000)."""
    i, f, z, o = (x + product).unbind(1)
    _, c = before
    see_i, see_f, see_o = (0, 0, 0) if peepholes is None else peepholes
    c_next = torch.sigmoid(f + see_f * c) * c + torch.sigmoid(i + see_i * c) * torch.tanh(z)
    return torch.sigmoid(o + see_o * c_next) * torch.tanh(c_next), c_next


def gru(x: Tensor, product: Tensor, before: tuple[Tensor, ...], peepholes: None = None) -> tuple[Tensor, ...]:
    """Take one step of a GRU (Cho et al., 2014; the reset gate acts after the product, as in cuDNN)."""
    (y,) = before
    r, z = torch.sigmoid(x[:, :2] + product[:, :2]).unbind(1)
    new = torch.tanh(x[:, 2] + r * product[:, 2])
    return (z * y + (1 - z) * new,)


def slstm(x: Tensor, product: Tensor, before: tuple[Tensor, ...], peepholes: None = None) -> tuple[Tensor, ...]:
    """Take one step of an sLSTM (Beck et al.: "xLSTM", 2024), stabilized."""
    i, f, z, o = (x + product).unbind(1)
    _, c, n, m = before
    fresh = n == 0
    kept = functional.logsigmoid(f) + m
    m_next = torch.where(fresh, i, torch.maximum(i, kept))
    forget = torch.where(fresh, 0, torch.exp(torch.where(fresh, 0, kept - m_next)))
    enter = torch.exp(i - m_next)
    c_next = forget * torch.where(fresh, 0, c) + enter * torch.tanh(z)
    n_next = (forget * n + enter).clamp_min(1)
    return torch.sigmoid(o) * c_next / n_next, c_next, n_next, m_next
