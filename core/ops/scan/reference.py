"""The definition of the scan: a loop that reads like the formula.

    h[t] = a[t] * h[t-1] + b[t]        reverse: h[t] = a[t] * h[t+1] + b[t]

for every element alone. Before the first step lies the initial state; where a segment begins, zero lies before it.
"""

import torch
from torch import Tensor


def scan(
    a: Tensor,
    b: Tensor,
    initial: Tensor | None = None,
    *,
    segments: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute the scan step by step; arguments and results are those of the operator."""
    time = b.shape[1]
    state = torch.zeros_like(b[:, :1].sum(1) * a.flatten()[:1].sum()) if initial is None else initial
    h = [state] * time
    order = range(time - 1, -1, -1) if reverse else range(time)
    before = None
    for t in order:
        if segments is not None and before is not None:
            same = segments[:, t] == segments[:, before]
            state = torch.where(same.reshape(-1, *[1] * (state.ndim - 1)), state, 0)
        state = (a if a.ndim == 1 else a[:, t]) * state + b[:, t]
        h[t] = state
        before = t
    return torch.stack(h, 1) if time else b * a.sum(), state.clone()
