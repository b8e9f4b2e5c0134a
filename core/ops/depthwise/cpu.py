"""The depthwise operator in plain torch, for CPUs and for whatever has no kernel of its own.

Depthwise convolutions are fast on CPUs when channels come last and time is an image's width: (batch, time, channel) is
then an image (batch, channel, 1, time) in channels-last memory, without a copy, and oneDNN runs at 20 to 38 billion
multiply-adds a second on one core (`scripts/bench/depthwise.py`). With time as the height, or through conv1d, the
same library is several times slower; so is its gradient of kernels wider than three taps, which is why the taps are
taken in threes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FEW_PRODUCTS = 2**16
"""Products below which calling oneDNN costs more than multiplying out the windows."""
FEW_ELEMENTS = 2**16
"""Elements of a gradient below which calling oneDNN seven times costs more than a product for every tap."""


def correlate(
    x: Tensor, weight: Tensor, dilation: int, left: int, steps: int, runs: Tensor | None, residual: Tensor | None
) -> Tensor:
    """Compute y[t] = residual[t] + sum_k weight[k] x[t + k dilation - left] for t < steps.

    Args:
        x: (batch, time, channel), zero outside; steps before `-left` are skipped where left is negative.
        weight: (channel, taps).
        dilation: steps between taps.
        left: steps that the first tap lies before the output.
        steps: output steps.
        runs: (batch, time) numbers of the runs of equal segment ids, or None; steps equals time with them.
        residual: (batch, steps, channel), or None.

    Returns:
        (batch, steps, channel).
    """
    wide, weight = widened(x), weight.to(widened(x).dtype)
    if residual is x and runs is None and left % dilation == 0 and 0 <= left // dilation < weight.shape[1]:
        weight, residual = weight.clone(), None
        weight[:, left // dilation] += 1  # the tap at distance zero reads x itself
    y = correlate_wide(wide, weight, dilation, left, steps, runs).to(x.dtype)
    return y.contiguous() if residual is None else y + residual


def correlate_wide(x: Tensor, weight: Tensor, dilation: int, left: int, steps: int, runs: Tensor | None) -> Tensor:
    """Compute the sum over the taps, x and weight in the same wide dtype; the result may have gaps in memory."""
    taps = weight.shape[1]
    reach = (taps - 1) * dilation
    right = steps + reach - left - x.shape[1]
    if is_fast(x) and runs is None and x.shape[0] * steps * weight.numel() >= FEW_PRODUCTS:
        around = max(left, right)
        if dilation == 1 and min(left, right) >= 0 and around <= reach and 2 * abs(left - right) <= steps:
            return convolve(x, weight, dilation, around)[:, around - left : around - left + steps]
        return convolve(cut(x, -left, steps + reach), weight, dilation)
    padded = cut(x, -left, steps + reach)
    if runs is None and 0 < x.shape[0] * steps * weight.numel() < FEW_PRODUCTS:
        return (padded.unfold(1, reach + 1, 1)[..., ::dilation] * weight).sum(3)
    y = x.new_zeros(x.shape[0], steps, x.shape[2])
    for k in range(taps):
        y.addcmul_(tap(padded, k * dilation, left, steps, runs), weight[:, k])
    return y


def tap_gradient(x: Tensor, grad: Tensor, taps: int, dilation: int, left: int, runs: Tensor | None) -> Tensor:
    """Compute dweight[k] = sum over batch and t of grad[t] x[t + k dilation - left]: (channel, taps), fp32 or fp64."""
    x, grad = widened(x), grad.to(widened(x).dtype)
    steps = grad.shape[1]
    if is_fast(grad) and runs is None and taps > 1 and grad.numel() >= FEW_ELEMENTS:
        return tap_gradient_in_threes(x, grad, taps, dilation, left)
    padded = cut(x, -left, steps + (taps - 1) * dilation)
    product = torch.empty_like(grad)
    rows = []
    for k in range(taps):
        torch.mul(grad, tap(padded, k * dilation, left, steps, runs), out=product)
        rows.append(product.sum((0, 1)))
    return torch.stack(rows, 1)


def widened(x: Tensor) -> Tensor:
    """Give x in the precision sums are in: fp64 for fp64, else fp32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def is_fast(x: Tensor) -> bool:
    """Tell whether oneDNN computes on this tensor."""
    return x.dtype == torch.float32 and x.device.type == "cpu" and torch.backends.mkldnn.is_available()


def image(x: Tensor) -> Tensor:
    """View (batch, time, channel) as an image (batch, channel, 1, time) whose memory is channels-last."""
    return x.transpose(1, 2).unsqueeze(2)


def cut(x: Tensor, start: int, steps: int, fill: float = 0) -> Tensor:
    """Give steps [start, start + steps) of (batch, time, ...), `fill` where x has none."""
    inside = x[:, max(0, start) : max(0, start + steps)]
    before = min(steps, max(0, -start))
    after = steps - before - inside.shape[1]
    if not (before or after):
        return inside
    return F.pad(inside, (*[0] * 2 * (x.ndim - 2), before, after), value=fill)


def convolve(x: Tensor, weight: Tensor, dilation: int, around: int = 0) -> Tensor:
    """Convolve in oneDNN, with zeros on both sides: (batch, time + 2 around - (taps - 1) dilation, channel)."""
    kernel = weight[:, None, None, :]
    y = torch.convolution(image(x), kernel, None, [1, 1], [0, around], [1, dilation], False, [0, 0], x.shape[2])
    return y.squeeze(2).transpose(1, 2)


def tap(padded: Tensor, offset: int, left: int, steps: int, runs: Tensor | None) -> Tensor:
    """Give what one tap reads at every output step: (batch, steps, channel), zero where it lies in another run."""
    x = padded[:, offset : offset + steps]
    if runs is None:
        return x
    return x.masked_fill((cut(runs, offset - left, steps, fill=-1) != runs)[:, :, None], 0)


def tap_gradient_in_threes(x: Tensor, grad: Tensor, taps: int, dilation: int, left: int) -> Tensor:
    """Compute the taps' gradient by the library's gradient of 2 and 3 taps, undilated.

    `dilation` steps are seen as one step of `dilation` times the channels, a view; the taps are neighbors then.
    """
    batch, steps, channel = grad.shape
    steps += -steps % dilation
    x = cut(x, -left, steps + (taps - 1) * dilation).reshape(batch, -1, dilation * channel)
    grad = cut(grad, 0, steps).reshape(batch, -1, dilation * channel)
    rows = []
    first = 0
    while first < taps:
        count = 2 if taps - first in (2, 4) else 3
        rows.append(library_gradient(x[:, first : first + grad.shape[1] + count - 1], grad, count))
        first += count
    return torch.cat(rows, 1).reshape(dilation, channel, taps).sum(0)


def library_gradient(x: Tensor, grad: Tensor, taps: int) -> Tensor:
    """Compute the gradient of an undilated, unpadded kernel: (channel, taps)."""
    kernel = x.new_empty(x.shape[2], 1, 1, taps)
    mask = [False, True, False]
    geometry = ([1, 1], [0, 0], [1, 1], False, [0, 0], x.shape[2])
    return torch.ops.aten.convolution_backward(image(grad), image(x), kernel, None, *geometry, mask)[1][:, 0, 0]
