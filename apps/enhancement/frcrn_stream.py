"""The streaming enhancer: FRCRN's idea made causal and small.

After Zhao, Ma, Watcharasupat, Gan: "FRCRN: Boosting Feature Representation Using Frequency Recurrence for Monaural
Speech Enhancement", ICASSP 2022. Weights that load: `frcrn.stream16k`, our own; none of the published FRCRN.

Kept from the paper: convolutional encoder and decoder over frequency with skip connections, feedforward sequential
memory (FSMN) at the bottom, a complex mask. Different:
- causal throughout: every look back is finite or a running mean, so the latency is one window (32 ms);
- real features of the power-compressed spectrum on bands of hearing, relative to a running level, so that a whisper
  and a shout look alike; the published network works on the raw complex spectrum;
- one narrow U-Net, at whose bottom deep FSMN layers see all bands at once: few large matrix products, which processors
  train several times faster than memories along time and along frequency, band by band;
- squeeze-excitation on the skip connections is an option, over running statistics (the published one averages over the
  whole signal);
- the mask is a short filter over the latest frames (deep filtering: Mack and Habets 2020).

Axes: batch time freq channel.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wavecast.core.block import Block, Frames, Window
from wavecast.core.convolution import FrequencyConvolution, FrequencyUpsampling
from wavecast.core.fsmn import DeepFSMN, TimeMemory
from wavecast.core.groups import Chain, Fork, Trim, identity
from wavecast.core.spectral import STFT, Bands, InverseSTFT
from wavecast.core.squeeze_excitation import RunningSqueezeExcitation, SpatialChannelSqueezeExcitation
from wavecast.core.state import State
from wavecast.core.statistics import RunningMean
from wavecast.core.tcnca import TCNCA

COMPRESSION = 0.3
SLOPE = 0.1
FEATURES = 4
CHUNK = 32  # frames of a chunk of attention: half a second
EXCITATIONS: dict[str, Callable[[int], Block]] = {
    "none": lambda _: identity(),
    "se": RunningSqueezeExcitation,
    "scse": SpatialChannelSqueezeExcitation,
}


class FRCRNStream(Trim):
    """Enhance speech: (batch, samples) noisy to (batch, samples) clean, streaming.

    Args:
        window: samples of a frame, two hops.
        bands: of the features and the mask; a multiple of 8.
        single_bins: lowest bins that are bands of their own.
        channels: after each of the three encoder layers, which halve the bands.
        layers: of memory at the bottom.
        hidden: inside such a layer.
        times: taps along time of its memory.
        dilations: frames between the taps, one a layer, repeated when there are more layers.
        filter_taps: frames that the mask filters over.
        level_decay: of the running level, from frame to frame.
        sample_rate: in hertz.
        memory: at the bottom, "fsmn" or "tcnca" (dilated convolutions and attention within chunks).
        excitation: on the skip connections, "none", "se" or "scse" (spatial beside channel).

    Raises:
        ValueError: there is no such memory or excitation.
    """

    def __init__(
        self,
        window: int = 512,
        bands: int = 128,
        single_bins: int = 64,
        channels: tuple[int, int, int] = (16, 24, 32),
        layers: int = 4,
        hidden: int = 192,
        times: int = 8,
        dilations: tuple[int, ...] = (1, 2, 4, 8),
        filter_taps: int = 3,
        level_decay: float = 0.99,
        sample_rate: int = 16_000,
        memory: str = "fsmn",
        excitation: str = "none",
    ) -> None:
        if memory not in ("fsmn", "tcnca") or excitation not in EXCITATIONS:
            raise ValueError(
                f"memory {memory!r} with excitation {excitation!r}\n"
                f"hint: memory is fsmn or tcnca, excitation one of {', '.join(EXCITATIONS)}"
            )
        excite = EXCITATIONS[excitation]
        first, second, third = channels
        scale = Bands(window // 2 + 1, single_bins, bands, sample_rate)

        width = bands // 8 * third
        bottom: dict[str, Block] = {"flatten": Frames(nn.Flatten(2))}
        for i in range(layers):
            if memory == "fsmn":
                taps = TimeMemory(width, times, dilations[i % len(dilations)])
                bottom[f"layer{i}"] = DeepFSMN(width, hidden, taps, norm=True)
            else:
                bottom[f"layer{i}"] = TCNCA(width, hidden // 4, hidden // 2, chunk=CHUNK, taps=3, factor=3, layers=3)
        bottom["unflatten"] = Frames(nn.Sequential(nn.LayerNorm(width), nn.Unflatten(2, (bands // 8, third))))
        deep = Chain(down=encoder(second, third, 3, norm=False), **bottom, up=decoder(third, second))
        middle = Chain(
            down=encoder(first, second, 3),
            across=Fork(torch.add, deep=deep, skip=excite(second)),
            up=decoder(second, first),
        )
        network = Chain(
            features=Features(scale, level_decay),
            down=encoder(FEATURES, first, 5),
            across=Fork(torch.add, deep=middle, skip=excite(first)),
            up=decoder(first, first, norm=False),
            mask=Frames(Mask(scale, first, filter_taps)),
        )
        hop = window // 2
        super().__init__(
            Chain(
                analysis=STFT(window, hop, left=hop, right=window),
                filter=Fork(deep_filter, past=Past(filter_taps), mask=network),
                synthesis=InverseSTFT(window, hop, cut=hop),
            )
        )
        self.sample_rate = sample_rate


def encoder(inputs: int, outputs: int, freqs: int, norm: bool = True) -> Chain:
    """Halve the frequencies: convolution over two frames, leaky ReLU, layer norm."""
    after = [nn.LeakyReLU(SLOPE), *([nn.LayerNorm(outputs)] if norm else [])]
    convolution = FrequencyConvolution(inputs, outputs, times=2, freqs=freqs, stride=2)
    return Chain(convolution=convolution, after=Frames(nn.Sequential(*after)))


def decoder(inputs: int, outputs: int, norm: bool = True) -> Frames:
    """Double the frequencies: transposed convolution, leaky ReLU, layer norm."""
    after = [nn.LeakyReLU(SLOPE), *([nn.LayerNorm(outputs)] if norm else [])]
    return Frames(nn.Sequential(FrequencyUpsampling(inputs, outputs), *after))


class Features(Block):
    """Compressed spectrum on bands, relative to the running level: (batch, time, bins, 2) to (batch, time, bands, 4).

    The features are the real and imaginary part and the magnitude of the power-compressed spectrum, over the running
    mean of that magnitude, and a scaled logarithm of the magnitude over the level.

    Args:
        bands: maps bins to bands.
        decay: of the running level.
    """

    def __init__(self, bands: Bands, decay: float) -> None:
        super().__init__()
        self.level = RunningMean(decay)
        self.scale = bands

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Compute the features frame by frame; the running level is the state."""
        magnitude = torch.linalg.vector_norm(x, dim=-1).clamp_min(1e-7)
        compressed = magnitude**COMPRESSION
        level, after = self.level(compressed.mean(-1, keepdim=True), state, last=last)
        level = level.clamp_min(1e-3)
        relative = compressed / level
        logarithm = 0.2 * torch.log(magnitude / level ** (1 / COMPRESSION) + 1e-4)
        direction = x / magnitude[..., None] * relative[..., None]
        features = torch.cat([direction, relative[..., None], logarithm[..., None]], -1)
        return self.scale(features.transpose(-1, -2)).transpose(-1, -2), after


class Mask(nn.Module):
    """A complex filter for every bin: (batch, time, bands, channel) to (batch, time, bins, taps, 2), within +-2.

    Args:
        bands: maps bands to bins.
        channels: in.
        taps: of the filter over time, the newest first.
    """

    def __init__(self, bands: Bands, channels: int, taps: int) -> None:
        super().__init__()
        self.scale = bands
        self.taps = taps
        self.convolution = nn.Conv2d(channels, 2 * taps, (1, 3), padding=(0, 1))
        nn.init.normal_(self.convolution.weight, std=0.01)
        nn.init.zeros_(self.convolution.bias)
        with torch.no_grad():
            self.convolution.bias[0] = 0.5  # begin near the identity, so that the first steps hear speech

    def forward(self, x: Tensor) -> Tensor:
        """Convolve over frequency, bound, expand to bins."""
        y = self.convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 1, 3)
        y = self.scale.expand(2 * torch.tanh(y))
        return y.transpose(2, 3).unflatten(3, (self.taps, 2))


class Past(Window):
    """The latest frames side by side: (batch, time, bins, 2) to (batch, time, bins, taps, 2), the newest first."""

    def __init__(self, taps: int) -> None:
        super().__init__(taps, left=taps - 1)

    def operator(self, x: Tensor) -> Tensor:
        """Stack each frame on the ones before it."""
        return x.unfold(1, self.span, 1).movedim(-1, -2).flip(-2)


def deep_filter(past: Tensor, mask: Tensor) -> Tensor:
    """Filter every bin over its latest frames: complex products, summed: (batch, time, bins, 2)."""
    real = past[..., 0] * mask[..., 0] - past[..., 1] * mask[..., 1]
    imag = past[..., 0] * mask[..., 1] + past[..., 1] * mask[..., 0]
    return torch.stack([real.sum(-1), imag.sum(-1)], -1)
