"""LMUFormer: keywords from log-mel features by convolutions, a Legendre memory, and a mixer of channels.

Paper: Liu, Datta, Li, Beerel: "LMUFormer: Low Complexity Yet Powerful Spiking Model With Legendre Memory Units", ICLR
2024. Weights that load: those of the authors' code (`lmuformer_official`).

Different from the paper's code: the features are part of the network, which hears samples; the memory runs on for as
long as the stream does, where theirs ends after 128 frames (within 128 frames the two are equal, and `views` cuts a
stream into such windows); logits come for every frame, their mean over a window is the decision.

Axes: batch samples; batch frame mel; batch frame width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.core.block import Block, Frames, Window, at_least, mask_beyond
from wavecast.core.conformer import MaskedBatchNorm
from wavecast.core.dropout import Dropout
from wavecast.core.groups import Chain, Skip
from wavecast.core.kaldi import KaldiFilterBank
from wavecast.core.legendre import LegendreUnit
from wavecast.core.relative_attention import beyond
from wavecast.core.state import State, Tail

SAMPLE_RATE = 16_000
WINDOW, HOP = 400, 160
"""Samples of a frame, and from one frame to the next: 25 and 10 ms."""
MEAN, DEVIATION = -6.845978, 5.5654526
"""Of the log-mel features of Speech Commands."""
LAYERS = 4
"""Convolutions of the embedding, which one more follows that tells of the position."""
TAPS = 3
FEW = 256
"""Frames up to which a plain product takes half the time of a convolution, which takes two thirds of it beyond."""


class LMUFormer(Chain):
    """Tell keywords apart: (batch, samples) at 16 kHz to logits (batch, frame, classes), one every 10 ms.

    Args:
        classes: words to tell apart.
        mels: bands of the features.
        width: channels inside.
        order: of the Legendre memory: how finely it sees its past.
        theta: frames of the past that the memory holds.
        depth: blocks of memory and mixer.
        expansion: channels inside a mixer, in widths.
        taps: frames after which the memory's impulse response is cut; None: never.
        dropout: inside the mixers, in training.
    """

    reach: int | None = LAYERS + 1
    """Frames on both sides that an embedded one depends on; None: all of the past."""

    def __init__(
        self,
        classes: int,
        mels: int = 128,
        width: int = 256,
        order: int = 256,
        theta: int = 128,
        depth: int = 1,
        expansion: int = 4,
        taps: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        blocks = [block(width, order, theta, expansion, taps, dropout) for _ in range(depth)]
        super().__init__(
            features=keyword_features(mels),
            embedding=embedding(mels, width),
            blocks=Chain(*blocks),
            head=Frames(nn.Linear(width, classes)),
        )
        small_weights(self.head.function)


class Standardize(nn.Module):
    """Bring log-mel features to mean 0 and deviation 1/2, if they are like those of Speech Commands."""

    def forward(self, x: Tensor) -> Tensor:
        """Subtract and divide."""
        return (x - MEAN) / (2 * DEVIATION)


class Convolution(Window):
    """A dense convolution over a frame and its two neighbors: (batch, frame, inputs) to (batch, frame, outputs).

    Args:
        inputs: channels in.
        outputs: channels out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(TAPS, left=1, right=1)
        bound = (inputs * TAPS) ** -0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs, TAPS).uniform_(-bound, bound))

    def operator(self, x: Tensor) -> Tensor:
        """Convolve whole windows."""
        return self.convolve(x, 0)

    def step(self, x: Tensor, state: Tail | None, last: bool) -> tuple[Tensor, Tail]:
        """Convolve the next piece; a whole sequence needs no copy with zeros around it."""
        if state is None and last and x.shape[1]:
            return self.convolve(x, 1), Tail(x)
        return super().step(x, state, last)

    def convolve(self, x: Tensor, around: int) -> Tensor:
        """Convolve, with that many frames of zeros on both sides."""
        if x.shape[0] * x.shape[1] <= FEW:
            windows = functional.pad(x, (0, 0, around, around)).unfold(1, TAPS, 1)
            return functional.linear(windows.flatten(2), self.weight.flatten(1))
        # With the channels last a convolution over images takes three quarters of the time of one over sequences.
        image, weight = x[:, None].permute(0, 3, 1, 2), self.weight[:, :, None]
        return functional.conv2d(image, weight, padding=(0, around)).permute(0, 2, 3, 1)[:, 0]


class BatchNorm(Block):
    """Batch normalization of every channel of (batch, frame, channel); padding does not count.

    Args:
        channels: of the last axis.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.function = MaskedBatchNorm(channels)

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Normalize; there is no state."""
        return at_least(1, self.function, x), ()

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Normalize the valid frames by their own statistics."""
        return self.function(mask_beyond(x, lengths), beyond(x, lengths)), ()


def keyword_features(mels: int) -> Chain:
    """Build the front end: Kaldi's filter bank on samples within [-1, 1], standardized; (batch, frame, mels)."""
    bank = KaldiFilterBank(SAMPLE_RATE, mels, WINDOW, HOP, "hanning")
    return Chain(bank=bank, standardize=Frames(Standardize()))


def embedding(mels: int, width: int) -> Chain:
    """Build four convolutions and one more beside the path, which tells of the position: 5 frames of look-ahead."""
    layers = {f"layer{i}": layer(width if i else mels, width) for i in range(LAYERS)}
    return Chain(**layers, position=Skip(Convolution(width, width)))


def layer(inputs: int, outputs: int) -> Chain:
    """Build a convolution, a ReLU and a normalization, in this order."""
    return Chain(convolution=Convolution(inputs, outputs), rectify=Frames(nn.ReLU()), norm=BatchNorm(outputs))


def block(width: int, order: int, theta: int, expansion: int, taps: int | None, dropout: float) -> Chain:
    """Build a block: what the memory reads, and what the mixer makes of single frames, each added to its input."""
    unit = LegendreUnit(width, width, order, theta, taps)
    small_weights(unit.encode)
    small_weights(unit.read)
    memory = Chain(
        unit=unit,
        project=Frames(nn.Linear(width, width)),
        norm=BatchNorm(width),
    )
    mixer = Chain(
        expand=Frames(nn.Linear(width, expansion * width)),
        norm1=BatchNorm(expansion * width),
        bend=Frames(nn.GELU()),
        drop=Frames(Dropout(dropout)),
        contract=Frames(nn.Linear(expansion * width, width)),
        norm2=BatchNorm(width),
        rectify=Frames(nn.ReLU()),
    )
    return Chain(memory=Skip(memory), mixer=Skip(mixer))


def small_weights(linear: nn.Linear) -> None:
    """Begin with small weights, no bias."""
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
