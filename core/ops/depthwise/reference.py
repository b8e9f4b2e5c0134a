"""The definition of the depthwise operator: a loop that reads like the formula.

    y[t] = residual[t] + sum over k of weight[k] * x[t + k * dilation - left]

for every channel alone. x is zero outside 0 <= s < time, and a tap whose way from t to s crosses a boundary between
segments counts nothing.
"""

import torch
from torch import Tensor


def depthwise(
    x: Tensor,
    weight: Tensor,
    *,
    dilation: int = 1,
    left: int = 0,
    right: int = 0,
    segments: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Compute the depthwise operator step by step; arguments and result are those of the operator."""
    batch, time, channel = x.shape
    taps = weight.shape[1]
    steps = max(0, time + left + right - (taps - 1) * dilation)
    y = [x.new_zeros(batch, channel) for _ in range(steps)]
    for t in range(steps):
        for k in range(taps):
            s = t + k * dilation - left
            if 0 <= s < time:
                term = weight[:, k] * x[:, s]
                if segments is not None:
                    way = segments[:, min(s, t) : max(s, t) + 1]
                    term = term * (way == way[:, :1]).all(1, keepdim=True)
                y[t] = y[t] + term
    total = torch.stack(y, 1) if steps else x[:, :0] * weight.sum(1)
    return total if residual is None else total + residual
