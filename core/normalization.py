"""Normalization by statistics along time, of each channel or of all, of the whole signal or of the signal so far.

Ulyanov, Vedaldi, Lempitsky: "Instance Normalization: The Missing Ingredient for Fast Stylization", 2016. Axes: batch
time channel.
"""

from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.core.block import Block, at_least, mask_beyond
from wavecast.core.state import State
from wavecast.core.statistics import RunningMean

EPSILON = 1e-5


class InstanceNorm(Block):
    """Every channel of a signal to mean 0 and variance 1 over all its time, then a learned scale and shift.

    Args:
        channels: of (batch, time, channel).
    """

    lookahead = inf
    needs_all = "its mean and variance are those of the whole signal"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Normalize a whole signal."""
        return at_least(1, lambda x: self.normalize(x, x.mean(1, keepdim=True), x.var(1, False, keepdim=True)), x), ()

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Normalize padded signals by the statistics of their valid steps."""
        x, count = mask_beyond(x, lengths), lengths.clamp_min(1)[:, None, None]
        mean = x.sum(1, keepdim=True) / count
        variance = mask_beyond(x - mean, lengths).square().sum(1, keepdim=True) / count
        return self.normalize(x, mean, variance), ()

    def normalize(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Subtract, divide, scale, shift."""
        return (x - mean) * torch.rsqrt(variance + EPSILON) * self.weight + self.bias


class RunningInstanceNorm(Block):
    """The same by the mean and variance of the signal so far: it streams.

    Args:
        channels: of (batch, time, channel).
        decay: of the statistics, from one step to the next; 1 is all of the past alike.
    """

    def __init__(self, channels: int, decay: float = 1.0) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.statistics = RunningMean(decay)

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Normalize by what was heard so far; the state is that of the running mean and of the running variance."""
        mean, variance, after = running_statistics(self.statistics, x, x, state, last)
        return (x - mean) * torch.rsqrt(variance + EPSILON) * self.weight + self.bias, after


def running_statistics(
    means: RunningMean, x: Tensor, average: Tensor, state: State, last: bool
) -> tuple[Tensor, Tensor, State]:
    """Give mean and variance of the signal so far.

    The variance adds (x_t - mean_(t-1)) (x_t - mean_t), after West 1979: a mean of squares less the square of the mean
    would cancel where the mean is large.

    Args:
        means: of everything.
        x: (batch, time, channel).
        average: what of x has statistics of its own: x itself, or its mean over the channels (batch, time, 1).
        state: that this function gave for the piece before; None at the beginning.
        last: whether the signal ends with x.

    Returns:
        Mean and variance, shaped as `average`, and the state.
    """
    of_mean, of_variance = state or (None, None)
    mean, after_mean = means(average, of_mean, last=last)
    if of_mean is None:
        before = average.new_zeros(len(average), 1, average.shape[2])
    else:
        before = (of_mean.total / of_mean.weight.clamp_min(1))[:, None]
    earlier = torch.cat([before, mean], 1)[:, : mean.shape[1]]
    spread = (x - earlier) * (x - mean)
    if average.shape[2] != x.shape[2]:
        spread = spread.mean(2, keepdim=True)
    variance, after_variance = means(spread, of_variance, last=last)
    return mean, variance.clamp_min(0), (after_mean, after_variance)


class SignalNorm(Block):
    """A whole signal to mean 0 and variance 1 over all channels and time, then a learned scale and shift of each.

    It is group normalization (Wu, He 2018) with one group.

    Args:
        channels: of (batch, time, channel).
        epsilon: added to the variance.
    """

    lookahead = inf
    needs_all = "its mean and variance are those of the whole signal"

    def __init__(self, channels: int, epsilon: float = 1e-8) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.epsilon = epsilon

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Normalize a whole signal."""
        if not x.shape[1]:
            return x, ()
        return functional.layer_norm(x, x.shape[1:], eps=self.epsilon) * self.weight + self.bias, ()

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Normalize padded signals by the statistics of their valid steps."""
        x, count = mask_beyond(x, lengths), lengths.clamp_min(1)[:, None, None] * x.shape[2]
        mean = x.sum((1, 2), keepdim=True) / count
        variance = mask_beyond(x - mean, lengths).square().sum((1, 2), keepdim=True) / count
        return (x - mean) * torch.rsqrt(variance + self.epsilon) * self.weight + self.bias, ()


class RunningSignalNorm(Block):
    """The same by the mean and variance of the signal so far: it streams.

    Args:
        channels: of (batch, time, channel).
        epsilon: added to the variance.
        decay: of the statistics, from one step to the next; 1 is all of the past alike.
    """

    def __init__(self, channels: int, epsilon: float = 1e-8, decay: float = 1.0) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.statistics = RunningMean(decay)
        self.epsilon = epsilon

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Normalize by what was heard so far; the state is that of the statistics."""
        average = x.mean(2, keepdim=True)
        mean, variance, after = running_statistics(self.statistics, x, average, state, last)
        return (x - mean) * torch.rsqrt(variance + self.epsilon) * self.weight + self.bias, after


class ChannelPReLU(nn.Module):
    """A leaky ReLU with a learned slope for every channel of the last axis (He et al. 2015)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """Keep what is above zero, scale what is below."""
        return x.clamp_min(0) + self.weight * x.clamp_max(0)
