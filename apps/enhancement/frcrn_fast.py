"""FRCRN for inference: the numbers of `frcrn.py`, in a third of the time of the release, with bounded temporary memory.

What makes it fast, in the order of what it saves:
- A complex convolution is one real convolution with the normalization folded in, channels last.
- All convolutions have two taps in time, so two frames cost three products instead of four (Winograd's F(2, 2)).
- A transposed convolution of stride 2 is two plain ones: the even and the odd frequencies of its output.
- The two FSMNs of a complex one share their input: two matrix products and one depthwise convolution for both.
- The gates of squeeze-excitation scale the kernels that read the gated planes, not the planes.
- Layers run in tiles of some frames that stay in the cache. Only a gate needs its whole layer before anyone goes on.

Axes: one signal at a time, planes are (time, freq, channel).
"""

import copy
from collections.abc import Iterator
from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.apps.enhancement.frcrn import FRCRN, SLOPE, UNet, fill_last_hop
from wavecast.core.block import Block
from wavecast.core.groups import Chain
from wavecast.core.state import State

leaky_relu = torch.ops.aten.leaky_relu.out
TILE = 8192
"""Positions (frames x frequencies) of a layer computed at a time, 1 KiB each: a tile stays in the last cache."""
MEMORY_TILE = 512
"""The same for FSMNs, which do less with each position: a tile stays in the second cache."""


class FastFRCRN(Block):
    """The inference form of FRCRN: (batch, samples) at 16 kHz to the same shape, without gradients, on the CPU.

    Args:
        network: a trained FRCRN; its weights are copied in folded form, later changes to it do not reach this one.
    """

    lookahead = inf
    needs_all = FRCRN.needs_all
    instead = FRCRN.instead
    plan = FRCRN.plan

    def __init__(self, network: FRCRN) -> None:
        super().__init__()
        with torch.no_grad():
            self.unet1, self.unet2 = FastUNet(network.unet1), FastUNet(network.unet2)
        self.analysis, self.synthesis = copy.deepcopy((network.analysis, network.synthesis))
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Enhance whole signals, one after the other."""
        if not x.numel():
            return x.clone(), ()
        return torch.stack([self._enhance(signal) for signal in x]), ()

    def _enhance(self, signal: Tensor) -> Tensor:
        spectrum = self.analysis(fill_last_hop(signal[None]))[0][0]
        first = self.unet1(spectrum)
        mask = torch.tanh(self.unet2(first)).add_(first.tanh_())
        masked = torch.view_as_real(torch.view_as_complex(spectrum) * torch.view_as_complex(mask))
        return self.synthesis(masked[None])[0][0, : len(signal)]


class FastUNet(nn.Module):
    """One U-Net: (time, freq, 2) to the same shape."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        *decoders, top = unet.decoders
        self.encoders = nn.ModuleList(Encoder(layer) for layer in unet.encoders)
        self.bottleneck = nn.ModuleList(Memory(layer) for layer in unet.bottleneck.parts())
        self.decoders = nn.ModuleList(Decoder(layer, planes=min(i, 1) + 1) for i, layer in enumerate(decoders))
        self.top = Top(top, unet.output)
        self.skip_gates, self.decoder_gates = copy.deepcopy((unet.skip_gates, unet.decoder_gates))

    def forward(self, x: Tensor) -> Tensor:
        """Map a whole complex plane (time, freq, 2)."""
        skips, scales = [], []
        for encoder, gate in zip(self.encoders, [*self.skip_gates, None], strict=True):
            x, mean = encoder(x)
            if gate is not None:
                skips.append(x)
                scales.append(gate.scale(mean))
        for memory in self.bottleneck:
            x = memory(x.transpose(0, 1)).transpose(0, 1)
        planes, scale = [x], torch.ones_like(mean)
        for decoder, gate in zip(self.decoders[:-1], self.decoder_gates, strict=True):
            x, mean = decoder.whole(planes, scale)
            planes, scale = [x, skips.pop()], torch.cat([gate.scale(mean), scales.pop()])
        return self.top(self.decoders[-1].tiles(planes, scale), skips.pop(), scales.pop())


class Encoder(nn.Module):
    """A layer down: FSMN along frequency, convolution, activation; one frame more comes out than goes in."""

    def __init__(self, layer: Chain) -> None:
        super().__init__()
        parts = dict(layer.named_children())
        self.memory = Memory(parts["memory"].inner) if "memory" in parts else None
        weight, bias = parts["convolution"].real_form()
        weight, bias = fold(weight, bias, parts["norm"].function)
        self.convolution = TwoTaps([weight], bias, stride=parts["convolution"].freq_stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map a plane (time, freq, channel) to the next (time + 1, freq', channel') and its mean (channel',)."""
        (kernels,) = self.convolution.kernels()
        frames, freqs, channels = len(x) + 1, x.shape[1], x.shape[2]
        out = x.new_empty(frames, self.convolution.freqs(freqs), len(self.convolution.bias))
        total = torch.zeros_like(self.convolution.bias, dtype=torch.float64)
        before = x.new_zeros(freqs, channels)
        for start, stop in tiles(frames, freqs):
            inner, piece = x.new_empty(stop - start + 1, freqs, channels), x[start:stop]
            inner[0], inner[-1] = before, 0
            target = inner[1 : 1 + len(piece)]
            if self.memory is None:
                target.copy_(piece)
            elif len(piece):
                self.memory(piece, target)
            before = inner[-1]
            total += self.convolution([inner], [kernels], out[start:stop]).sum((0, 1))
        return out, (total / (frames * out.shape[1])).to(out.dtype)


class Decoder(nn.Module):
    """A layer up: transposed convolution, activation, FSMN along frequency; one frame less comes out than goes in.

    Args:
        planes: how many planes of equal width it reads side by side (the layer below, the skip connection).
    """

    def __init__(self, layer: Chain, planes: int) -> None:
        super().__init__()
        parts = dict(layer.named_children())
        weight, bias = fold(*transposed(parts["convolution"], planes), parts["norm"].function)
        self.convolution = TwoTaps([weight[..., phase::2].flip(3) for phase in (0, 1)], bias)
        self.memory = Memory(parts["memory"].inner)

    def tiles(self, planes: list[Tensor], scale: Tensor, out: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        """Give the output in tiles, each with its first frame; written into `out` where that is given.

        Args:
            planes: (time, freq, channel) each.
            scale: (planes x channels,) the gates of the planes.
            out: (time - 1, freq', channel').
        """
        kernels = self.convolution.kernels(scale)
        frames, freqs = len(planes[0]) - 1, self.convolution.freqs(planes[0].shape[1])
        for start, stop in tiles(frames, freqs):
            y = scale.new_empty(stop - start, freqs, len(self.convolution.bias))
            self.convolution([plane[start : stop + 1] for plane in planes], kernels, y)
            yield start, self.memory(y, None if out is None else out[start:stop])

    def whole(self, planes: list[Tensor], scale: Tensor) -> tuple[Tensor, Tensor]:
        """Give the whole output plane and its mean (channel',)."""
        freqs, bias = self.convolution.freqs(planes[0].shape[1]), self.convolution.bias
        out = scale.new_empty(len(planes[0]) - 1, freqs, len(bias))
        total = torch.zeros_like(bias, dtype=torch.float64)
        for _, y in self.tiles(planes, scale, out):
            total += y.sum((0, 1))
        return out, (total / (len(out) * freqs)).to(out.dtype)


class Top(nn.Module):
    """The last layer up, to one complex channel: with so few outputs, taps first and shifted sums afterwards."""

    def __init__(self, layer: Chain, output: nn.Module) -> None:
        super().__init__()
        parts = dict(layer.named_children())
        weight, bias = fold(*transposed(parts["convolution"], planes=2), parts["norm"].function)
        self.taps = weight.shape[3]
        self.register_buffer("kernel", weight.permute(1, 2, 3, 0).flatten(1).contiguous())
        self.register_buffer("bias", bias)
        weight, bias = output.real_form()
        self.register_buffer("output_weight", weight[:, :, 0, 0].t().contiguous())
        self.register_buffer("output_bias", bias)

    def forward(self, tiles: Iterator[tuple[int, Tensor]], skip: Tensor, skip_scale: Tensor) -> Tensor:
        """Join the tiles of the layer below and the skip plane (time, freq, channel) to (time - 1, freq', 2)."""
        frames, freqs, channels = skip.shape
        below, beside = self.kernel[:channels], self.kernel[channels:] * skip_scale[:, None]
        products = skip.new_empty(frames, freqs, self.kernel.shape[1])
        for start, y in tiles:
            piece = slice(start, start + len(y))
            rows = products[piece].view(-1, products.shape[2])
            torch.mm(y.view(-1, channels), below, out=rows).addmm_(skip[piece].reshape(-1, channels), beside)
        products = products.view(frames, freqs, 2, self.taps, 2)
        summed = products[:-1, :, 0] + products[1:, :, 1]
        y = skip.new_zeros(frames - 1, 2 * (freqs - 1) + self.taps, 2)
        for tap in range(self.taps):
            y[:, tap : tap + 2 * freqs - 1 : 2] += summed[:, :, tap]
        y = functional.leaky_relu_(y.add_(self.bias), SLOPE)
        return torch.addmm(self.output_bias, y.view(-1, 2), self.output_weight).view(y.shape)


class TwoTaps(nn.Module):
    """A convolution over (time, freq) with two taps in time, and LeakyReLU: frame t from frames t and t + 1.

    Two output frames need w0 a + w1 b and w0 b + w1 c, which is p + q and q - r with p = w0 (a - b), q = (w0 + w1) b,
    r = w1 (b - c): three products.

    Args:
        phases: (out, in, 2, taps) each; phase i gives output frequencies i, i + phases ...
        bias: (out,)
        stride: of a single phase along frequency. Several phases have stride 1 and are padded to their full length.
    """

    def __init__(self, phases: list[Tensor], bias: Tensor, stride: int = 1) -> None:
        super().__init__()
        self.register_buffer("bias", bias)
        self.stride, self.phases = stride, len(phases)
        self.paddings = [weight.shape[3] - 1 if len(phases) > 1 else 0 for weight in phases]
        for phase, weight in enumerate(phases):
            w0, w1 = weight.permute(2, 0, 3, 1)
            self.register_buffer(f"kernel{phase}", torch.stack([w0, w0 + w1, w1])[:, :, None].contiguous())

    def kernels(self, scale: Tensor | None = None) -> list[Tensor]:
        """Give each phase's three kernels (3, out, 1, taps, in), their inputs scaled by (in,)."""
        kernels = [self.get_buffer(f"kernel{phase}") for phase in range(self.phases)]
        return kernels if scale is None else [kernel * scale for kernel in kernels]

    def freqs(self, freqs: int) -> int:
        """Count the output frequencies."""
        taps = [kernel.shape[3] for kernel in self.kernels()]
        return sum((freqs + 2 * pad - tap) // self.stride + 1 for tap, pad in zip(taps, self.paddings, strict=True))

    def forward(self, planes: list[Tensor], kernels: list[Tensor], out: Tensor) -> Tensor:
        """Convolve planes (time + 1, freq, channel), read side by side, into out (time, freq', channel')."""
        p_in = side_by_side([(plane[:-1:2], plane[1::2]) for plane in planes])
        q_in = side_by_side([(plane[1::2], None) for plane in planes])
        r_in = side_by_side([(plane[1:-1:2], plane[2::2]) for plane in planes])
        for phase, (k, padding) in enumerate(zip(kernels, self.paddings, strict=True)):
            q = convolve(q_in, k[1], self.bias, self.stride, padding)
            even = convolve(p_in, k[0], None, self.stride, padding).add_(q)
            leaky_relu(even, SLOPE, out=out[0::2, phase :: self.phases])
            if len(r_in):
                r = convolve(r_in, k[2], None, self.stride, padding)
                odd = torch.sub(q[: len(r)], r, out=r)
                leaky_relu(odd, SLOPE, out=out[1::2, phase :: self.phases])
        return out


class Memory(nn.Module):
    """A complex FSMN along the second axis of (time, freq, channel)."""

    def __init__(self, memory: nn.Module) -> None:
        super().__init__()
        real, imag = memory.real, memory.imag
        self.register_buffer("linear", torch.cat([real.linear.weight, imag.linear.weight]).t().contiguous())
        self.register_buffer("bias", torch.cat([real.linear.bias, imag.linear.bias]))
        self.register_buffer("real", real.project.weight.t().contiguous())
        self.register_buffer("imag", imag.project.weight.t().contiguous())
        taps = torch.stack([real.memory.weight, imag.memory.weight, real.memory.weight, -imag.memory.weight])
        taps[..., -1] += torch.tensor([1.0, 1.0, 1.0, -1.0])[:, None]
        self.register_buffer("taps", taps.flatten(0, 1)[:, None, None].contiguous())

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Map (time, freq, channel) to the same shape, in `out` where that is given."""
        out = torch.empty_like(x) if out is None else out
        step = max(1, MEMORY_TILE // x.shape[1])
        for start in range(0, len(x), step):
            self._tile(x[start : start + step], out[start : start + step])
        return out

    def _tile(self, x: Tensor, out: Tensor) -> None:
        frames, freqs, channels = x.shape
        half, order = channels // 2, self.taps.shape[3]
        hidden = torch.addmm(self.bias, x.reshape(-1, half), self.linear).relu_()
        # Of every position: the real part through the real and the imaginary FSMN, then the imaginary part.
        projected = torch.empty_like(hidden)
        torch.mm(hidden[:, :half], self.real, out=projected[:, :half])
        torch.mm(hidden[:, half:], self.imag, out=projected[:, half:])
        projected = projected.view(frames, 1, freqs, 4 * half).permute(0, 3, 1, 2)
        y = functional.conv2d(projected, self.taps, padding=(0, order - 1), groups=4 * half)
        real_real, real_imag, imag_real, minus_imag_imag = y[:, :, 0, :freqs].transpose(1, 2).chunk(4, -1)
        real, imag = x.chunk(2, -1)
        torch.sub(real, imag, out=out[..., :half]).add_(real_real).add_(minus_imag_imag)
        torch.add(real, imag, out=out[..., half:]).add_(imag_real).add_(real_imag)


def tiles(frames: int, freqs: int) -> Iterator[tuple[int, int]]:
    """Cut the frames of a layer into tiles of an even number of frames: (start, stop) each."""
    step = max(2, TILE // freqs // 2 * 2)
    return ((start, min(start + step, frames)) for start in range(0, frames, step))


def side_by_side(pairs: list[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Put planes, or the differences of two, side by side on the last axis, contiguously."""
    if not len(pairs[0][0]):
        return pairs[0][0]
    widths = [a.shape[2] for a, _ in pairs]
    joined = pairs[0][0].new_empty(*pairs[0][0].shape[:2], sum(widths))
    for target, (a, b) in zip(joined.split(widths, -1), pairs, strict=True):
        if b is None:
            target.copy_(a)
        else:
            torch.sub(a, b, out=target)
    return joined


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Convolve (time, freq, in) with (out, 1, taps, in) along frequency."""
    y = functional.conv2d(
        x.permute(2, 0, 1)[None], kernel.permute(0, 3, 1, 2), bias, stride=(1, stride), padding=(0, padding)
    )
    return y[0].permute(1, 2, 0)


def fold(weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Put a batch normalization's running statistics into the convolution (out, in, time, freq) before it."""
    gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return weight * gain[:, None, None, None], (bias - norm.running_mean) * gain + norm.bias


def transposed(convolution: nn.Module, planes: int) -> tuple[Tensor, Tensor]:
    """Give the kernel of a complex transposed convolution as (out, in, time, freq) for planes side by side.

    In complex order the real parts of all planes come first; here each plane brings its real and imaginary parts.
    """
    weight, bias = convolution.real_form()
    width = weight.shape[0] // (2 * planes)
    weight = weight.unflatten(0, (2, planes, width)).transpose(0, 1).flatten(0, 2)
    return weight.permute(1, 0, 2, 3).flip(2), bias
