"""Convolutions over time, and over time and frequency, that stream. Channels last everywhere."""

from torch import Tensor, nn

from wavecast.core.block import Window


class FrequencyConvolution(Window):
    """A convolution over frequency and the latest frames: (batch, time, freq, in) to (batch, time, freq', out).

    Args:
        inputs: channels in.
        outputs: channels out.
        times: frames it reads, the current one and the ones before it.
        freqs: taps over frequency, odd; the ends are padded with zeros.
        stride: over frequency; freq' = ceil(freq / stride).
    """

    def __init__(self, inputs: int, outputs: int, times: int = 1, freqs: int = 3, stride: int = 1) -> None:
        super().__init__(times, left=times - 1)
        self.convolution = nn.Conv2d(inputs, outputs, (times, freqs), (1, stride), (0, freqs // 2))

    def operator(self, x: Tensor) -> Tensor:
        """Convolve without padding in time."""
        return self.convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class FrequencyUpsampling(nn.Module):
    """A transposed convolution over frequency as one convolution whose channels interleave (Shi et al. 2016).

    Maps (batch, time, freq, in) to (batch, time, factor * freq, out), each frame on its own: use inside `Frames`.
    """

    def __init__(self, inputs: int, outputs: int, freqs: int = 3, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.convolution = nn.Conv2d(inputs, factor * outputs, (1, freqs), padding=(0, freqs // 2))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, then interleave."""
        y = self.convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return y.reshape(*x.shape[:2], x.shape[2] * self.factor, -1)
