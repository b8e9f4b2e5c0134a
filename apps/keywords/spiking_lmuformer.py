"""The spiking LMUFormer: between its layers go spikes; a frame is a step of the neurons.

Paper: Liu, Datta, Li, Beerel: "LMUFormer: Low Complexity Yet Powerful Spiking Model With Legendre Memory Units", ICLR
2024. Weights that load: those of the authors' code (`lmuformer_official`).

Different from the paper's code: as in `lmuformer`; and a stream keeps every neuron's membrane, the memory and the ends
of the convolutions, so that it gives what the whole gives. (Theirs feeds the growing past again.)

Axes: batch samples; batch frame mel; batch frame width.
"""

from torch import nn

from wavecast.apps.keywords.lmuformer import LAYERS, BatchNorm, Convolution, keyword_features, small_weights
from wavecast.core.block import Frames
from wavecast.core.dropout import Dropout
from wavecast.core.groups import Chain, Fork, Skip, concatenate, identity
from wavecast.core.legendre import LegendreMemory
from wavecast.core.spiking import LeakyIntegrateAndFire

SENSITIVE = 0.5
"""Threshold of the neurons in front of the memory; that of the others is 1."""


class SpikingLMUFormer(Chain):
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

    reach: int | None = None
    """Frames on both sides that an embedded one depends on: neurons remember all of the past."""

    def __init__(
        self,
        classes: int,
        mels: int = 128,
        width: int = 256,
        order: int = 512,
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
            head=Chain(spikes=spikes(width), linear=Frames(nn.Linear(width, classes))),
        )
        small_weights(self.head.linear.function)


def spikes(channels: int, threshold: float = 1.0) -> Chain:
    """Build what turns numbers into spikes: a normalization and a neuron for every channel."""
    return Chain(norm=BatchNorm(channels), neurons=LeakyIntegrateAndFire(threshold))


def embedding(mels: int, width: int) -> Chain:
    """Build four convolutions with spikes between them; the last one's numbers go on, beside them the position."""
    layers = {
        f"layer{i}": Chain(convolution=Convolution(width if i else mels, width), spikes=spikes(width))
        for i in range(LAYERS - 1)
    }
    position = Chain(spikes=spikes(width), convolution=Convolution(width, width))
    return Chain(**layers, last=Convolution(width, width), position=Skip(position))


def block(width: int, order: int, theta: int, expansion: int, taps: int | None, dropout: float) -> Chain:
    """Build a block: what the memory reads, and what the mixer makes of single frames, each added to its input."""
    remembered = Chain(
        encode=Frames(nn.Linear(width, 1)),
        spikes1=spikes(1),
        memory=LegendreMemory(order, theta, taps),
        flatten=Frames(nn.Flatten(2)),
        spikes2=spikes(order),
    )
    read = nn.Linear(order + width, width)
    memory = Chain(
        spikes1=spikes(width, SENSITIVE),
        unit=Fork(concatenate, remembered=remembered, current=identity()),
        read=Frames(read),
        spikes2=spikes(width),
        project=Frames(nn.Linear(width, width)),
        norm=BatchNorm(width),
    )
    small_weights(remembered.encode.function)
    small_weights(read)
    mixer = Chain(
        spikes1=spikes(width),
        expand=Frames(nn.Linear(width, expansion * width)),
        spikes2=spikes(expansion * width),
        drop=Frames(Dropout(dropout)),
        contract=Frames(nn.Linear(expansion * width, width)),
    )
    return Chain(memory=Skip(memory), mixer=Skip(mixer))
