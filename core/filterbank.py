"""Learned filter banks: from samples to features and back, in place of an STFT and its inverse.

Luo, Mesgarani: "Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude Masking for Speech Separation", 2019.
"""

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.core.block import Block, Count, Window
from wavecast.core.state import own, state


class Analysis(Window):
    """Filters over short frames, and what of them is above zero: (batch, samples) to (batch, frames, channel).

    Args:
        channels: filters.
        kernel: samples of a frame.
        stride: samples between frames.
        right: zeros after the signal.
    """

    def __init__(self, channels: int, kernel: int, stride: int, right: int = 0) -> None:
        super().__init__(kernel, stride, right=right)
        self.weight = nn.Parameter(torch.empty(channels, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))

    def operator(self, x: Tensor) -> Tensor:
        """Filter all whole frames."""
        return torch.relu(x.unfold(1, self.span, self.hop) @ self.weight.T)


@state
class Partial:
    """What the frames so far add to samples that are not finished: (batch, kernel - stride, ...), empty at first."""

    samples: Tensor


class Synthesis(Block):
    """Frames of filters overlapped and added: (batch, frames, channel, source) to (batch, samples, source).

    n frames give (n - 1) stride + kernel samples, and the tail.

    Args:
        channels: filters.
        kernel: samples of a frame, a multiple of the stride.
        stride: samples between frames.
        tail: zeros after the last frame.

    Raises:
        ValueError: the kernel is no multiple of the stride.
    """

    def __init__(self, channels: int, kernel: int, stride: int, tail: int = 0) -> None:
        super().__init__()
        if kernel % stride:
            raise ValueError(f"kernel {kernel} with stride {stride}\nhint: the kernel must be a multiple of the stride")
        self.kernel, self.hop, self.tail = kernel, stride, tail
        self.stride = Fraction(1, stride)
        bound = kernel**-0.5
        self.weight = nn.Parameter(torch.empty(channels, kernel).uniform_(-bound, bound))

    def out_length(self, n: Count) -> Count:
        """Count the samples of n frames."""
        return ((n - 1) * self.hop + self.kernel) * (n > 0) + self.tail

    def step(self, x: Tensor, state: Partial | None, last: bool) -> tuple[Tensor, Partial]:
        """Add the new frames up; samples that a later frame still reaches wait."""
        frames = x.shape[1]
        samples = x.new_zeros(len(x), 0, x.shape[3]) if state is None else state.samples
        if frames:
            new = self.overlap(self.filter(x))
            samples = new + functional.pad(samples, (0, 0, 0, new.shape[1] - samples.shape[1]))
        done = samples.shape[1] if last else frames * self.hop
        finished = functional.pad(samples[:, :done], (0, 0, 0, self.tail)) if last else samples[:, :done]
        return finished, Partial(own(samples[:, done:]))

    def filter(self, x: Tensor) -> Tensor:
        """Filter frames: (batch, frames, channel, source) to (batch, frames, kernel, source)."""
        return (x.transpose(2, 3) @ self.weight).transpose(2, 3)

    def overlap(self, x: Tensor) -> Tensor:
        """Add whole filtered frames up: (batch, (frames - 1) stride + kernel, source)."""
        parts = x.unflatten(2, (-1, self.hop))
        count = parts.shape[2]
        total = sum(functional.pad(parts[:, :, i], (0, 0, 0, 0, i, count - 1 - i)) for i in range(count))
        return total.flatten(1, 2)
