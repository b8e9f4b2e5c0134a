"""FRCRN as published: two complex U-Nets in a row predict a complex mask of the noisy spectrum.

Paper: Zhao, Ma, Watcharasupat, Gan: "FRCRN: Boosting Feature Representation Using Frequency Recurrence for Monaural
Speech Enhancement", ICASSP 2022. Weights that load: FRCRN_SE_16K of ClearerVoice-Studio (`frcrn_official.py`).

The released network is not quite the paper's, and this is the released one:
- windows of 40 ms every 20 ms (paper: 20 ms every 10 ms), square-root Hann for analysis and synthesis;
- two U-Nets, the second fed with the first one's raw output; the mask is the sum of both, each through tanh;
- attention on the skip connections is a complex squeeze-excitation over the whole signal, so it cannot stream
  (`frcrn_stream.py` can); apart from that it looks 14 frames ahead.

Differences from the release: parameters that it holds but never uses (317,568) are left out, the spectrum is an FFT
and not a convolution with stored kernels, and any length goes in (zeros fill the last hop, the output is cut back).

Axes: batch time freq channel. A complex tensor of C channels holds C real parts, then C imaginary parts.
"""

from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.core.block import Block, Frames
from wavecast.core.complex_layers import (
    ComplexBatchNorm,
    ComplexConvolution,
    ComplexFSMN,
    ComplexSqueezeExcitation,
    ComplexTransposedConvolution,
    complex_concatenate,
    complex_product,
)
from wavecast.core.frequency import AlongFrequency
from wavecast.core.groups import Chain
from wavecast.core.spectral import STFT, InverseSTFT
from wavecast.core.state import State
from wavecast.core.windows import Plan

SAMPLE_RATE = 16000
WINDOW, HOP = 640, 320
SLOPE = 0.01
ENCODER_KERNELS = (5, 5, 5, 5, 5, 5, 2)
DECODER_KERNELS = (2, 5, 5, 5, 6, 5, 5)
"""Taps over frequency, which take 321 bins to 1 and back."""


def official_padding(samples: int) -> int:
    """Count the zeros that the official decoder appends to a signal at 16 kHz: at least to whole steps of 0.75 s."""
    window, step = SAMPLE_RATE, SAMPLE_RATE * 3 // 4
    if samples < window:
        return window - samples
    if samples < window + step:
        return window + step - samples
    rest = (samples - window) % step
    return window + rest if rest else 0


class FRCRN(Block):
    """Enhance speech: (batch, samples) noisy at 16 kHz to (batch, samples) clean.

    The bare network: no level is normalized, and the first and last 20 ms, where only one frame reaches, are divided
    by the bare ramp of the window and may be loud. `frcrn_windows.py` cares for the level, `plan` for the ends.

    Args:
        channels: complex channels of every layer.
        taps: of the FSMNs, the current element included.
        reduction: of the channels inside the squeeze-excitations.

    Attributes:
        plan: of signals of any length: one pass up to 30 s, a hop of zeros on each side, which the official decoder
            does not have, and its own zeros after it.
    """

    lookahead = inf
    needs_all = "its gates are averages over the whole signal"
    instead = "use the streaming model, frcrn.stream16k"
    plan = Plan(30 * SAMPLE_RATE, SAMPLE_RATE // 2, SAMPLE_RATE // 2, grid=HOP, lead=HOP, padding=official_padding)

    def __init__(self, channels: int = 128, taps: int = 20, reduction: int = 8) -> None:
        super().__init__()
        self.analysis = STFT(WINDOW, HOP)
        self.unet1 = UNet(channels, taps, reduction)
        self.unet2 = UNet(channels, taps, reduction)
        self.synthesis = Synthesis()

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Enhance whole signals."""
        if not x.shape[1]:
            return x.clone(), ()
        spectrum = self.spectrum(x)
        y, _ = self.synthesis(complex_product(spectrum, self.mask(spectrum)))
        return y[:, : x.shape[1]], ()

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Refuse padded batches: a row's gates would depend on its padding."""
        raise ValueError("FRCRN takes no padded batches\nhint: train on crops of equal length, as it was")

    def spectrum(self, x: Tensor) -> Tensor:
        """Give the spectrum (batch, time, 321, 2) of samples (batch, samples)."""
        return self.analysis(fill_last_hop(x))[0]

    def mask(self, spectrum: Tensor) -> Tensor:
        """Predict the complex mask, parts in (-2, 2): (batch, time, freq, 2) to the same shape."""
        first, _ = self.unet1(spectrum)
        second, _ = self.unet2(first)
        return torch.tanh(first) + torch.tanh(second)


def fill_last_hop(x: Tensor) -> Tensor:
    """Append zeros up to whole hops, and to one window at least."""
    samples = x.shape[1]
    return functional.pad(x, (0, max(WINDOW - samples, -samples % HOP)))


class UNet(Block):
    """A complex U-Net over time and frequency: seven layers down, FSMNs over time at the bottom, seven layers up.

    A layer down halves the frequencies and adds a frame, a layer up undoes both. Maps (batch, time, 321, 2) to the
    same shape.

    Args:
        channels: complex channels of every layer.
        taps: of the FSMNs.
        reduction: of the channels inside the squeeze-excitations.
    """

    lookahead = inf

    def __init__(self, channels: int, taps: int, reduction: int) -> None:
        super().__init__()
        depth = len(ENCODER_KERNELS)
        self.encoders = nn.ModuleList(
            encoder(channels if i else 1, channels, kernel, taps if i else None)
            for i, kernel in enumerate(ENCODER_KERNELS)
        )
        self.bottleneck = Chain(ComplexFSMN(channels, taps), ComplexFSMN(channels, taps))
        self.decoders = nn.ModuleList(
            decoder(
                2 * channels if i else channels, *((channels, kernel, taps) if i < depth - 1 else (1, kernel, None))
            )
            for i, kernel in enumerate(DECODER_KERNELS)
        )
        self.skip_gates = nn.ModuleList(ComplexSqueezeExcitation(channels, reduction) for _ in range(depth - 1))
        self.decoder_gates = nn.ModuleList(ComplexSqueezeExcitation(channels, reduction) for _ in range(depth - 2))
        self.output = ComplexConvolution(1, 1, (1, 1))

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Map a whole plane. What goes down is not gated, only what goes across and up."""
        skips = []
        for layer, gate in zip(self.encoders, [*self.skip_gates, None], strict=True):
            x, _ = layer(x)
            if gate is not None:
                skips.append(gate(x)[0])
        x = self.bottleneck(x[:, :, 0])[0][:, :, None]
        for layer, gate in zip(self.decoders, [*self.decoder_gates, None, None], strict=True):
            x, _ = layer(x)
            x = x if gate is None else gate(x)[0]
            x = complex_concatenate(x, skips.pop()) if skips else x
        return self.output(x)[0], ()


def encoder(inputs: int, outputs: int, kernel: int, taps: int | None) -> Chain:
    """Build a layer down; the first one has no FSMN."""
    memory = {} if taps is None else {"memory": AlongFrequency(ComplexFSMN(inputs, taps))}
    return Chain(
        **memory,
        convolution=ComplexConvolution(inputs, outputs, (2, kernel), freq_stride=2, left=1, right=1),
        norm=ComplexBatchNorm(outputs),
        activation=Frames(nn.LeakyReLU(SLOPE)),
    )


def decoder(inputs: int, outputs: int, kernel: int, taps: int | None) -> Chain:
    """Build a layer up; the last one has no FSMN."""
    memory = {} if taps is None else {"memory": AlongFrequency(ComplexFSMN(outputs, taps))}
    return Chain(
        convolution=ComplexTransposedConvolution(inputs, outputs, (2, kernel), freq_stride=2),
        norm=ComplexBatchNorm(outputs),
        activation=Frames(nn.LeakyReLU(SLOPE)),
        **memory,
    )


class Synthesis(InverseSTFT):
    """The inverse STFT of whole signals; the first and last hop, where one frame is alone, are divided by its ramp."""

    lookahead = inf

    def __init__(self) -> None:
        super().__init__(WINDOW, HOP)

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Add up the frames of a whole signal."""
        y, _ = super().step(x, None, True)
        ramp = 1 / (self.window**2 + 1e-8)
        ends = [y[:, :HOP] * ramp[:HOP], y[:, HOP:-HOP], y[:, -HOP:] * ramp[-HOP:]]
        return torch.cat(ends, 1), ()
