"""Layers over single frames of a film or a field: (batch, time, row, col, channel), every frame on its own.

Channels last is the layout in which convolutions are fast and chunks of time join on one axis. What lies between two
convolutions is cheap to compute and large to keep, so in training it is computed again when its gradient is needed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from wavecast.core.hippo import truncated_normal

BOUNDARIES = ("zeros", "longitude")
EPSILON = 1e-6


def check_convolution(kernel: int, boundary: str) -> None:
    """Refuse kernels of even size and unknown boundaries.

    Raises:
        ValueError: it is one.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel {kernel}\nhint: take an odd number of rows and columns, so that there is a middle")
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary {boundary!r}\nhint: one of {', '.join(BOUNDARIES)}")


def convolve_frames(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, boundary: str = "zeros", groups: int = 1
) -> Tensor:
    """Correlate every frame with a kernel, the output as large as the input.

    Args:
        x: (batch, time, row, col, in), at least one frame.
        weight: (out, in / groups, size, size), odd size.
        bias: (out,), or None.
        boundary: what lies beyond the frame: "zeros" all around, or "longitude": columns go round, zeros beyond the
            first and last row (a global grid).
        groups: of channels that see each other.

    Returns:
        (batch, time, row, col, out).
    """
    y = correlate(x, weight, bias, weight.shape[2] // 2, boundary, groups)
    return y.contiguous().unflatten(0, x.shape[:2])


def correlate(x: Tensor, weight: Tensor, bias: Tensor | None, around: int, boundary: str, groups: int = 1) -> Tensor:
    """Correlate every frame with a kernel, that many rows and columns of boundary around it: (frame, row, col, out)."""
    images = x.flatten(0, 1).permute(0, 3, 1, 2)
    columns = around
    if boundary == "longitude" and around:
        # As often as it takes to go round: a kernel may be wider than the frame.
        at = torch.arange(-around, images.shape[3] + around, device=x.device) % images.shape[3]
        images, columns = images[..., at].contiguous(memory_format=torch.channels_last), 0
    return functional.conv2d(images, weight, bias, padding=(around, columns), groups=groups).permute(0, 2, 3, 1)


class FrameConvolution(nn.Module):
    """A convolution over rows and columns: (batch, time, row, col, inputs) to (batch, time, row, col, outputs).

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: rows and columns it reads, odd.
        boundary: see `convolve_frames`.
        groups: of channels that see each other; as many as channels: every channel on its own.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, boundary: str = "zeros", groups: int = 1) -> None:
        super().__init__()
        check_convolution(kernel, boundary)
        self.boundary, self.groups = boundary, groups
        seen = inputs // groups
        variance = 1 / (seen * kernel**2)
        self.weight = nn.Parameter(truncated_normal(outputs, seen, kernel, kernel, variance=variance))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return convolve_frames(x, self.weight, self.bias, self.boundary, self.groups)


class FrameUpsampling(nn.Module):
    """A 3 by 3 convolution of frames whose pixels are doubled: (..., row, col, inputs) to (..., 2 row, 2 col, outputs).

    Where two taps read copies of one pixel they are added up first: four convolutions of 2 by 2 taps on the small
    frame, one for each of the pixels that one becomes, take 16 products for 36. The weights are those of 3 by 3 taps.

    Args:
        inputs: channels in.
        outputs: channels out.
        boundary: see `convolve_frames`.
    """

    def __init__(self, inputs: int, outputs: int, boundary: str = "zeros") -> None:
        super().__init__()
        check_convolution(3, boundary)
        self.boundary = boundary
        self.weight = nn.Parameter(truncated_normal(outputs, inputs, 3, 3, variance=1 / (9 * inputs)))
        self.bias = nn.Parameter(torch.zeros(outputs))
        # The first of two pixels reads the one before it, and twice its own; the second its own twice, and the next.
        joined = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
        self.register_buffer("joined", joined, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, then interleave the four."""
        row, col = x.shape[2:4]
        kernel = torch.einsum("oikl, apk, bql -> aboipq", self.weight, self.joined, self.joined).flatten(0, 2)
        y = correlate(x, kernel, self.bias.repeat(4), 1, self.boundary).unflatten(3, (2, 2, -1))
        lines = [torch.stack([y[:, a : a + row, b : b + col, a, b] for b in (0, 1)], 3) for a in (0, 1)]
        return torch.stack(lines, 2).flatten(3, 4).flatten(1, 2).unflatten(0, x.shape[:2])


class FrameGroupNorm(nn.Module):
    """Groups of channels to mean 0 and variance 1 over each frame, then a learned scale and shift (Wu, He 2018).

    Args:
        channels: of the last axis.
        groups: they are split into, in order.

    Raises:
        ValueError: the channels do not split into as many groups.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"{channels} channels in {groups} groups\nhint: the groups must divide the channels")
        self.groups = groups
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (batch, time, row, col, channel)."""
        images = x.flatten(0, 1).permute(0, 3, 1, 2)
        y = GroupNormalization.apply(images, self.weight, self.bias, self.groups)
        return y.permute(0, 2, 3, 1).contiguous().unflatten(0, x.shape[:2])


class GroupNormalization(Function):
    """Group normalization of (frame, channel, row, col), as torch computes it but for the gradient.

    With channels last and few channels in a group, torch's gradient takes ten times longer than this one on CPUs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        """Normalize, and keep mean and inverse deviation of every frame and group."""
        frames, channels, row, col = x.shape
        y, mean, scale = torch.native_group_norm(x, weight, bias, frames, channels, row * col, groups, EPSILON)
        ctx.save_for_backward(x, weight, mean, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Send the gradient to x, weight and bias.

        With z = scale (x - mean) and averages over a frame's group: dx = scale (w g - mean(w g) - z mean(w g z)).
        """
        image, weight, mean, scale = ctx.saved_tensors
        x, grad = (one.permute(0, 2, 3, 1).flatten(1, 2) for one in (image, *grads))
        members = x.shape[2] // mean.shape[1]
        mean, scale = (one.repeat_interleave(members, 1) for one in (mean, scale))
        dbias = grad.sum(1)
        dweight = scale * ((grad * x).sum(1) - mean * dbias)
        average, slope = (
            (weight * one).unflatten(1, (-1, members)).mean(2).repeat_interleave(members, 1) / x.shape[1]
            for one in (dbias, dweight)
        )
        of_x = -scale.square() * slope
        constant = -scale * average - of_x * mean
        dx = torch.addcmul(constant[:, None], grad, (scale * weight)[:, None]).addcmul_(x, of_x[:, None])
        dx = dx.unflatten(1, image.shape[2:]).permute(0, 3, 1, 2)
        return dx, dweight.sum(0), dbias.sum(0), None


def gelu(x: Tensor) -> Tensor:
    """Apply the Gaussian error linear unit in its tanh approximation (Hendrycks, Gimpel 2016)."""
    return functional.gelu(x, approximate="tanh")


def recomputed(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Apply a function of which only the inputs are kept for the gradient.

    Computing again stops at the last tensor that the gradient needs: a function that ends with a convolution repeats
    what comes before the convolution, not the convolution.
    """
    if not torch.is_grad_enabled():
        return function(*tensors)
    return checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)
