"""Squeeze-excitation: channels weighted by what the signal is like, as a whole or so far (Hu, Shen, Sun 2018)."""

from math import inf

import torch
from torch import Tensor, nn

from wavecast.core.block import Block, Frames, at_least, mask_beyond
from wavecast.core.groups import Chain, Fork, Skip
from wavecast.core.state import State
from wavecast.core.statistics import RunningMean


class FrequencyMean(nn.Module):
    """Average over frequency: (batch, time, freq, channel) to (batch, time, channel)."""

    def forward(self, x: Tensor) -> Tensor:
        """Average."""
        return x.mean(2)


def channel_gate(channels: int, reduction: int) -> nn.Sequential:
    """Build the network from the channels' means to their gates, in (0, 1)."""
    squeezed = max(1, channels // reduction)
    return nn.Sequential(nn.Linear(channels, squeezed), nn.ReLU(), nn.Linear(squeezed, channels), nn.Sigmoid())


class SqueezeExcitation(Block):
    """Squeeze-excitation over the whole signal: (batch, time, freq, channel).

    The gate of each channel comes from its mean over time and frequency; gates lie in (0, 2).

    Args:
        channels: of the last axis.
        reduction: of the channels in the middle of the gate.
    """

    lookahead = inf
    needs_all = "its gates come from averages over the whole signal"
    instead = "call it once with all of it, or use RunningSqueezeExcitation"

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.gate = channel_gate(channels, reduction)

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Weight the channels of a whole signal."""
        return at_least(1, lambda x: scale(x, self.gate(x.mean((1, 2)))[:, None]), x), ()

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Weight padded signals by the means of their valid frames."""
        x = mask_beyond(x, lengths)
        mean = x.sum((1, 2)) / (lengths.clamp_min(1) * x.shape[2])[:, None]
        return scale(x, self.gate(mean)[:, None]), ()


class RunningSqueezeExcitation(Skip):
    """Squeeze-excitation over running statistics: it streams; (batch, time, freq, channel).

    The gate of each channel comes from its mean over frequency and over the frames so far; gates lie in (0, 2).

    Args:
        channels: of the last axis.
        reduction: of the channels in the middle of the gate.
        decay: of the exponential mean, from one frame to the next; 1 is the plain mean of the past.
    """

    def __init__(self, channels: int, reduction: int = 4, decay: float = 0.98) -> None:
        gate = Frames(channel_gate(channels, reduction))
        super().__init__(Chain(squeeze=Frames(FrequencyMean()), mean=RunningMean(decay), gate=gate), scale)


def scale(x: Tensor, gate: Tensor) -> Tensor:
    """Weight the channels: (batch, time, freq, channel) by twice (batch, time, channel)."""
    return x * (2 * gate[:, :, None])


class SpatialChannelSqueezeExcitation(Fork):
    """Concurrent spatial and channel squeeze-excitation, scSE: (batch, time, freq, channel).

    The larger of two weightings, by channel over running statistics and by place in the plane of time and frequency.
    Roy, Navab, Wachinger: "Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional Networks", 2018;
    there the channels' means are those of a whole image.

    Args:
        channels: of the last axis.
        reduction: of the channels in the middle of the channels' gate.
        decay: of the exponential mean, from one frame to the next.
    """

    def __init__(self, channels: int, reduction: int = 4, decay: float = 0.98) -> None:
        spatial = Frames(nn.Sequential(nn.Linear(channels, 1), nn.Sigmoid()))
        super().__init__(
            torch.maximum,
            channel=RunningSqueezeExcitation(channels, reduction, decay),
            spatial=Skip(spatial, scale_places),
        )


def scale_places(x: Tensor, gate: Tensor) -> Tensor:
    """Weight the places: (batch, time, freq, channel) by twice (batch, time, freq, 1)."""
    return x * (2 * gate)
