"""FSMN layers over the plane of time and frequency: (batch, time, freq, channel)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.core.block import Frames
from wavecast.core.fsmn import FEW, TimeMemory
from wavecast.core.groups import Chain, Skip


class FrequencyMemory(nn.Module):
    """Each channel plus taps of its neighbors in frequency, on both sides: use inside `Frames`.

    Args:
        channels: of (batch, time, freq, channel).
        taps: odd, centred.
    """

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, taps) * (0.5 / taps**0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Sum the taps and the band itself; every frame is an image of one column."""
        batch, time, freq, channels = x.shape
        if time <= FEW:
            sides = self.weight.shape[1] // 2
            return x + (functional.pad(x, (0, 0, sides, sides)).unfold(2, 2 * sides + 1, 1) * self.weight).sum(-1)
        columns = x.reshape(batch * time, freq, 1, channels).permute(0, 3, 1, 2)
        taps = self.weight.shape[1]
        y = functional.conv2d(columns, self.weight[:, None, :, None], padding=(taps // 2, 0), groups=channels)
        return x + y.permute(0, 2, 3, 1).reshape(x.shape)


class PlaneFSMN(Skip):
    """A deep FSMN layer over the plane of time and frequency: (batch, time, freq, channel) to the same shape.

    Every band goes through the same two linear layers; memories along time, then along frequency; residual.

    Args:
        channels: in and out.
        hidden: between the linear layers.
        times: taps along time.
        dilation: frames between them.
        freqs: taps along frequency, odd.
    """

    def __init__(self, channels: int, hidden: int, times: int, dilation: int, freqs: int) -> None:
        project = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels, bias=False),
        )
        super().__init__(
            Chain(
                project=Frames(project),
                time=TimeMemory(channels, times, dilation),
                freq=Frames(FrequencyMemory(channels, freqs)),
            )
        )


class FullBandFSMN(Skip):
    """An FSMN over time that sees all bands at once, through a narrow layer: (batch, time, freq, channel).

    Args:
        freqs: positions of the plane.
        channels: in and out.
        hidden: width of the narrow layer.
        taps: along time.
        dilation: frames between them.
    """

    def __init__(self, freqs: int, channels: int, hidden: int, taps: int, dilation: int) -> None:
        narrow = [nn.LayerNorm(channels), nn.Flatten(2), nn.Linear(freqs * channels, hidden), nn.ReLU()]
        widen = [nn.ReLU(), nn.Linear(hidden, freqs * channels), nn.Unflatten(2, (freqs, channels))]
        project = nn.Linear(hidden, hidden, bias=False)
        super().__init__(
            Chain(
                narrow=Frames(nn.Sequential(*narrow)),
                memory=Skip(Chain(project=Frames(project), time=TimeMemory(hidden, taps, dilation))),
                widen=Frames(nn.Sequential(*widen)),
            )
        )
