"""Squeeze-excitation: channels weighted by what the signal as a whole is like (Hu, Shen, Sun 2018)."""

from torch import Tensor, nn

from wavecast.core.block import Frames
from wavecast.core.groups import Chain, Skip
from wavecast.core.statistics import RunningMean


class FrequencyMean(nn.Module):
    """Average over frequency: (batch, time, freq, channel) to (batch, time, channel)."""

    def forward(self, x: Tensor) -> Tensor:
        """Average."""
        return x.mean(2)


class RunningSqueezeExcitation(Skip):
    """Squeeze-excitation over running statistics: it streams.

    The gate of each channel comes from its mean over frequency and over the frames so far; gates lie in (0, 2).

    Args:
        channels: of (batch, time, freq, channel).
        reduction: of the channels in the middle of the gate.
        decay: of the exponential mean, from one frame to the next; 1 is the plain mean of the past.
    """

    def __init__(self, channels: int, reduction: int = 4, decay: float = 0.98) -> None:
        squeezed = max(1, channels // reduction)
        gate = nn.Sequential(nn.Linear(channels, squeezed), nn.ReLU(), nn.Linear(squeezed, channels), nn.Sigmoid())
        super().__init__(Chain(squeeze=Frames(FrequencyMean()), mean=RunningMean(decay), gate=Frames(gate)), scale)


def scale(x: Tensor, gate: Tensor) -> Tensor:
    """Weight the channels: (batch, time, freq, channel) by twice (batch, time, channel)."""
    return x * (2 * gate[:, :, None])
