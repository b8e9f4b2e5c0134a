"""The definition of the Legendre memory: a loop that reads like the formula.

m[t] = A m[t-1] + B u[t]        y[t] = R m[t]
"""

import torch
from torch import Tensor


def legendre(
    u: Tensor,
    transition: Tensor,
    entry: Tensor,
    readout: Tensor | None = None,
    initial: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the memory step by step.

    Args:
        u: (batch, time).
        transition: (order, order), A.
        entry: (order,), B.
        readout: (output, order), R; None: the memory itself.
        initial: (batch, order), the memory before the first step; zeros when None.

    Returns:
        y: (batch, time, output), and the memory after the last step: (batch, order).
    """
    readout = torch.eye(len(entry), dtype=u.dtype) if readout is None else readout
    memory = u.new_zeros(len(u), len(entry)) if initial is None else initial
    y = []
    for t in range(u.shape[1]):
        memory = memory @ transition.T + u[:, t, None] * entry
        y.append(memory @ readout.T)
    return torch.stack(y, 1) if y else memory[:, None][:, :0] @ readout.T, memory
