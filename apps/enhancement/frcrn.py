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

from wavecast.core.block import Block, Window, total
from wavecast.core.groups import Chain
from wavecast.core.state import State

SAMPLE_RATE = 16000
WINDOW, HOP = 640, 320
ENCODER_KERNELS = (5, 5, 5, 5, 5, 5, 2)
DECODER_KERNELS = (2, 5, 5, 5, 6, 5, 5)
SLOPE = 0.01


class ComplexConvolution(Window):
    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], freq_stride: int = 1, left: int = 0, right: int = 0
    ) -> None:
        super().__init__(kernel[0], left=left, right=right)
        self.real = nn.Conv2d(inputs, outputs, kernel)
        self.imag = nn.Conv2d(inputs, outputs, kernel)
        self.freq_stride = freq_stride

    def real_form(self):
        real, imag = self.real, self.imag
        weight = torch.cat([torch.cat([real.weight, -imag.weight], 1), torch.cat([imag.weight, real.weight], 1)])
        return weight, torch.cat([real.bias - imag.bias, real.bias + imag.bias])

    def operator(self, x: Tensor) -> Tensor:
        weight, bias = self.real_form()
        y = functional.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=(1, self.freq_stride))
        return y.permute(0, 2, 3, 1)


class ComplexTransposedConvolution(Window):
    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], freq_stride: int = 1) -> None:
        super().__init__(kernel[0])
        self.real = nn.ConvTranspose2d(inputs, outputs, kernel)
        self.imag = nn.ConvTranspose2d(inputs, outputs, kernel)
        self.freq_stride = freq_stride

    def real_form(self):
        real, imag = self.real, self.imag
        weight = torch.cat([torch.cat([real.weight, imag.weight], 1), torch.cat([-imag.weight, real.weight], 1)])
        return weight, torch.cat([real.bias - imag.bias, real.bias + imag.bias])

    def operator(self, x: Tensor) -> Tensor:
        weight, bias = self.real_form()
        y = functional.conv_transpose2d(
            x.permute(0, 3, 1, 2), weight, bias, stride=(1, self.freq_stride), padding=(self.span - 1, 0)
        )
        return y.permute(0, 2, 3, 1)


class ComplexBatchNorm(Block):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2 * channels)

    def step(self, x, state, last):
        return self.norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), ()


class LeakyReLU(Block):
    def step(self, x, state, last):
        return functional.leaky_relu(x, SLOPE), ()


class FSMN(Window):
    def __init__(self, channels: int, order: int = 20) -> None:
        super().__init__(1)
        self.order = order
        self.linear = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels, bias=False)
        self.memory = nn.Parameter(torch.randn(channels, order) / order)

    def step(self, x, state, last):
        p = self.project(torch.relu(self.linear(x)))
        q = functional.pad(p.transpose(1, 2), (self.order - 1, 0))
        m = functional.conv1d(q, self.memory[:, None], groups=x.shape[2]).transpose(1, 2)
        return x + p + m, ()


class ComplexFSMN(Block):
    def __init__(self, channels: int, order: int = 20) -> None:
        super().__init__()
        self.real, self.imag = FSMN(channels, order), FSMN(channels, order)

    def step(self, x, state, last):
        re, im = x.chunk(2, -1)
        return torch.cat([self.real(re)[0] - self.imag(im)[0], self.real(im)[0] + self.imag(re)[0]], -1), ()


class AlongFrequency(Block):
    def __init__(self, inner: Block) -> None:
        super().__init__()
        self.inner = inner

    def step(self, x, state, last):
        y, _ = self.inner(x.flatten(0, 1))
        return y.unflatten(0, x.shape[:2]), ()


class ComplexSqueezeExcitation(Block):
    lookahead = inf

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()

        def gate() -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(channels, channels // reduction),
                nn.ReLU(),
                nn.Linear(channels // reduction, channels),
                nn.Sigmoid(),
            )

        self.real, self.imag = gate(), gate()

    def scale(self, mean):
        re, im = mean.chunk(2, -1)
        return torch.cat([self.real(re) - self.imag(im), self.real(im) + self.imag(re)], -1)

    def step(self, x, state, last):
        return x * self.scale(x.mean((1, 2)))[:, None, None], ()


def complex_concatenate(*xs: Tensor) -> Tensor:
    parts = [x.chunk(2, -1) for x in xs]
    return torch.cat([re for re, _ in parts] + [im for _, im in parts], -1)


class UNet(Block):
    """A complex U-Net over (time, freq): seven layers down, an FSMN over time at the bottom, seven layers up.

    Every layer halves (doubles) the frequency axis; encoders add a frame each, decoders take it away again.

    Args:
        channels: complex channels of every layer.
        order: taps of the FSMNs, the current element included.
        reduction: bottleneck of the squeeze-excitation.
    """

    lookahead = inf

    def __init__(self, channels: int, order: int = 20, reduction: int = 8) -> None:
        super().__init__()
        depth = len(ENCODER_KERNELS)
        self.encoders, self.decoders = nn.ModuleList(), nn.ModuleList()
        for i, kernel in enumerate(ENCODER_KERNELS):
            memory = {"memory": AlongFrequency(ComplexFSMN(channels, order))} if i else {}
            convolution = ComplexConvolution(channels if i else 1, channels, (2, kernel), 2, left=1, right=1)
            self.encoders.append(
                Chain(**memory, convolution=convolution, norm=ComplexBatchNorm(channels), activation=LeakyReLU())
            )
        self.bottleneck = Chain(ComplexFSMN(channels, order), ComplexFSMN(channels, order))
        for i, kernel in enumerate(DECODER_KERNELS):
            outputs = channels if i < depth - 1 else 1
            convolution = ComplexTransposedConvolution(2 * channels if i else channels, outputs, (2, kernel), 2)
            memory = {"memory": AlongFrequency(ComplexFSMN(channels, order))} if i < depth - 1 else {}
            self.decoders.append(
                Chain(convolution=convolution, norm=ComplexBatchNorm(outputs), activation=LeakyReLU(), **memory)
            )
        self.skip_gates = nn.ModuleList(ComplexSqueezeExcitation(channels, reduction) for _ in range(depth - 1))
        self.decoder_gates = nn.ModuleList(ComplexSqueezeExcitation(channels, reduction) for _ in range(depth - 2))
        self.output = ComplexConvolution(1, 1, (1, 1))

    def step(self, x: Tensor, state: State, last: bool, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Map a whole complex plane (batch, time, freq, 2) to one of the same shape."""
        skips = []
        for encoder, gate in zip(self.encoders, [*self.skip_gates, None], strict=True):
            x, _ = encoder(x, lengths=lengths)
            lengths = total(lengths, encoder)
            skips.append(gate(x, lengths=lengths)[0] if gate else None)
        x = self.bottleneck(x.flatten(2), lengths=lengths)[0][:, :, None]
        for decoder, gate, skip in zip(
            self.decoders, [*self.decoder_gates, None, None], [*skips[-2::-1], None], strict=True
        ):
            x, _ = decoder(x, lengths=lengths)
            lengths = total(lengths, decoder)
            x = gate(x, lengths=lengths)[0] if gate else x
            x = x if skip is None else complex_concatenate(x, skip)
        return self.output(x, lengths=lengths)[0], ()

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Process a padded batch: every block masks for itself."""
        return self.step(x, None, True, lengths)


class FRCRN(Block):
    lookahead = inf
    needs_all = "its squeeze-excitation averages over the whole signal"
    instead = "use the streaming model, frcrn.stream16k"

    def __init__(self, channels: int = 128, order: int = 20, reduction: int = 8) -> None:
        super().__init__()
        self.unet1 = UNet(channels, order, reduction)
        self.unet2 = UNet(channels, order, reduction)
        self.register_buffer("window", torch.hann_window(WINDOW, dtype=torch.float64).sqrt().float(), persistent=False)

    def mask(self, spectrum: Tensor) -> Tensor:
        a = self.unet1(spectrum)[0]
        b = self.unet2(a)[0]
        return torch.tanh(a) + torch.tanh(b)

    def analysis(self, x):
        n = x.shape[1]
        x = functional.pad(x, (0, max(WINDOW - n, -n % HOP)))
        return torch.view_as_real(torch.fft.rfft(x.unfold(1, WINDOW, HOP) * self.window))

    def synthesis(self, spectrum, samples):
        frames = torch.fft.irfft(torch.view_as_complex(spectrum), WINDOW) * self.window

        def overlap_add(f):
            return functional.pad(f[..., :HOP], (0, 0, 0, 1)) + functional.pad(f[..., HOP:], (0, 0, 1, 0))

        weight = overlap_add((self.window**2).expand(frames.shape[1:]))
        return (overlap_add(frames) / (weight + 1e-8)).flatten(1)[:, :samples]

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        if not x.shape[1]:
            return x, ()
        s = self.analysis(x)
        m = self.mask(s)
        y = torch.view_as_real(torch.view_as_complex(s) * torch.view_as_complex(m))
        return self.synthesis(y, x.shape[1]), ()
