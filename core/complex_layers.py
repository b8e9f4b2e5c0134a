"""Complex layers over the plane of time and frequency.

A complex tensor of C channels is a real one with 2C in the last axis: first the C real parts, then the C imaginary
parts. A complex layer holds two real ones, R and I, and maps x + iy to (R x - I y) + i (R y + I x): after Choi et al.,
"Phase-aware speech enhancement with deep complex U-Net", 2019. Axes: batch time freq channel.
"""

from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.core.block import Block, Frames, Window, at_least, mask_beyond
from wavecast.core.fsmn import TimeMemory
from wavecast.core.squeeze_excitation import channel_gate
from wavecast.core.state import State


class ComplexConvolution(Window):
    """A complex convolution over time and frequency: (batch, time, freq, 2 in) to (batch, time', freq', 2 out).

    Args:
        inputs: complex channels in.
        outputs: complex channels out.
        kernel: taps over (time, freq).
        freq_stride: steps over frequency, which is not padded.
        left: frames of zeros before the sequence.
        right: frames of zeros after it.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], freq_stride: int = 1, left: int = 0, right: int = 0
    ) -> None:
        super().__init__(kernel[0], left=left, right=right)
        self.real, self.imag = nn.Conv2d(inputs, outputs, kernel), nn.Conv2d(inputs, outputs, kernel)
        self.freq_stride = freq_stride

    def real_form(self) -> tuple[Tensor, Tensor]:
        """Give the one real convolution that does the same: kernel (2 out, 2 in, time, freq), bias (2 out,)."""
        real, imag = self.real.weight, self.imag.weight
        kernel = torch.cat([torch.cat([real, -imag], 1), torch.cat([imag, real], 1)])
        return kernel, real_bias(self.real, self.imag)

    def operator(self, x: Tensor) -> Tensor:
        """Convolve without padding."""
        kernel, bias = self.real_form()
        y = functional.conv2d(x.permute(0, 3, 1, 2), kernel, bias, stride=(1, self.freq_stride))
        return y.permute(0, 2, 3, 1)


class ComplexTransposedConvolution(Window):
    """A complex transposed convolution: (batch, time, freq, 2 in) to (batch, time', freq', 2 out).

    Along time only frames that all taps reach come out, time' = time - taps + 1; along frequency all,
    freq' = (freq - 1) stride + taps.

    Args:
        inputs: complex channels in.
        outputs: complex channels out.
        kernel: taps over (time, freq).
        freq_stride: steps over frequency.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], freq_stride: int = 1) -> None:
        super().__init__(kernel[0])
        self.real, self.imag = (nn.ConvTranspose2d(inputs, outputs, kernel) for _ in range(2))
        self.freq_stride = freq_stride

    def real_form(self) -> tuple[Tensor, Tensor]:
        """Give the one real layer that does the same: kernel (2 in, 2 out, time, freq), bias (2 out,)."""
        real, imag = self.real.weight, self.imag.weight
        kernel = torch.cat([torch.cat([real, imag], 1), torch.cat([-imag, real], 1)])
        return kernel, real_bias(self.real, self.imag)

    def operator(self, x: Tensor) -> Tensor:
        """Convolve, and drop the frames at both ends that lack input."""
        kernel, bias = self.real_form()
        strides, padding = (1, self.freq_stride), (self.span - 1, 0)
        y = functional.conv_transpose2d(x.permute(0, 3, 1, 2), kernel, bias, stride=strides, padding=padding)
        return y.permute(0, 2, 3, 1)


def real_bias(real: nn.Module, imag: nn.Module) -> Tensor:
    """Give the bias of a complex layer: those of R and I come in twice."""
    return torch.cat([real.bias - imag.bias, real.bias + imag.bias])


class ComplexBatchNorm(Frames):
    """Batch normalization of real and imaginary parts, each on its own; in training it sees padding.

    Args:
        channels: complex channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(LastAxisBatchNorm(2 * channels))


class LastAxisBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d of (batch, time, freq, channel)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each channel."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class FSMN(Block):
    """A deep FSMN layer: two linear layers, a causal memory, residual; (batch, time, channel) to the same shape.

    Args:
        channels: in, inside and out.
        taps: of the memory, the current step included.
    """

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels, bias=False)
        self.memory = TimeMemory(channels, taps)

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Add what the memory makes of the projected steps; the state is the memory's."""
        y, state = self.memory(self.project(torch.relu(self.linear(x))), state, last=last)
        return x + y, state


class ComplexFSMN(Block):
    """A complex FSMN layer along time: (batch, time, 2 channels) to the same shape.

    Args:
        channels: complex channels.
        taps: of the memories, the current step included.
    """

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.real, self.imag = FSMN(channels, taps), FSMN(channels, taps)

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Run both real layers on both parts; the state is that of the four."""
        real, imag = x.chunk(2, -1)
        runs = ((self.real, real), (self.imag, imag), (self.real, imag), (self.imag, real))
        before = state or [None] * len(runs)
        results = [fsmn(part, one, last=last) for (fsmn, part), one in zip(runs, before, strict=True)]
        (rr, ii, ri, ir), after = zip(*results, strict=True)
        return torch.cat([rr - ii, ri + ir], -1), after


class ComplexSqueezeExcitation(Block):
    """Squeeze-excitation over the whole signal: real and imaginary parts are scaled, each channel by its own gate.

    The gates come from the means over time and frequency, through two real networks that act like a complex one;
    they lie in (-1, 1) for the real parts and in (0, 2) for the imaginary parts.

    Args:
        channels: complex channels of (batch, time, freq, 2 channels).
        reduction: of the channels in the middle.
    """

    lookahead = inf
    needs_all = "its gates are averages over the whole signal"

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        self.real, self.imag = channel_gate(channels, reduction), channel_gate(channels, reduction)

    def scale(self, mean: Tensor) -> Tensor:
        """Compute the gates (batch, 2 channels) from the means (batch, 2 channels)."""
        real, imag = mean.chunk(2, -1)
        return torch.cat([self.real(real) - self.imag(imag), self.real(imag) + self.imag(real)], -1)

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Scale a whole signal."""
        return at_least(1, lambda x: x * self.scale(x.mean((1, 2)))[:, None, None], x), ()

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Scale padded signals by the means of their valid frames."""
        x = mask_beyond(x, lengths)
        mean = x.sum((1, 2)) / (lengths.clamp_min(1) * x.shape[2])[:, None]
        return x * self.scale(mean)[:, None, None], ()


def complex_concatenate(*paths: Tensor) -> Tensor:
    """Join complex tensors along the channels: all real parts, then all imaginary parts."""
    parts = [path.chunk(2, -1) for path in paths]
    return torch.cat([real for real, _ in parts] + [imag for _, imag in parts], -1)


def complex_product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply complex tensors element by element."""
    (a_real, a_imag), (b_real, b_imag) = a.chunk(2, -1), b.chunk(2, -1)
    return torch.cat([a_real * b_real - a_imag * b_imag, a_real * b_imag + a_imag * b_real], -1)
