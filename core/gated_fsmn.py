"""The gated FSMN block of MossFormer2: a narrow, gated memory of learned taps beside the attention.

Zhao et al.: "MossFormer2: Combining Transformer and RNN-Free Recurrent Network for Enhanced Time-Domain Monaural Speech
Separation", 2024. Axes: batch time channel.
"""

from torch import Tensor, nn

from wavecast.core.block import Block, Frames
from wavecast.core.flash import ConvolvedLinear, ResidualFilter
from wavecast.core.fsmn import DeepFSMN, DilatedDense
from wavecast.core.groups import Chain, Fork, Skip, identity

ORDER = 20
"""Taps of the memory on each side of a step, that step included."""
MEMORIES = ("dilated", "plain")
DECAY = 1 - 2**-13
"""Of running statistics, from one step to the next: some seconds count. Bounded sums keep their precision for hours."""


class GatedFSMN(Skip):
    """A block, its input added: (batch, time, channel) to the same.

    Args:
        channels: in and out.
        inner: channels that are remembered.
        memory: "dilated": two dense layers of taps, normalized over the whole signal (a causal one by the signal so
            far); "plain": one layer, with a look-ahead of 19 steps unless it is causal.
        taps: over time of the convolved linear maps.
        causal: nothing reads ahead.
        dropout: of the maps.

    Raises:
        ValueError: there is no such memory, or a dilated one has an odd number of channels.
    """

    needs_all = "its memory is normalized over the whole signal"

    def __init__(
        self,
        channels: int = 512,
        inner: int = 256,
        memory: str = "dilated",
        taps: int = 17,
        causal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        def convolved() -> ConvolvedLinear:
            return ConvolvedLinear(nn.LayerNorm(inner), inner, inner, taps, causal, dropout)

        remembered = Chain(map=convolved(), memory=DeepFSMN(inner, inner, make_memory(memory, inner, causal)))
        super().__init__(
            Chain(
                reduce=Frames(nn.Sequential(nn.Linear(channels, inner), nn.PReLU())),
                norm=Frames(nn.LayerNorm(inner)),
                gated=Fork(gated_sum, remembered=remembered, gate=convolved(), direct=identity()),
                norm_out=Frames(nn.LayerNorm(inner)),
                expand=Frames(nn.Linear(inner, channels)),
            )
        )


def make_memory(memory: str, channels: int, causal: bool) -> Block:
    """Build the memory of that name.

    Raises:
        ValueError: there is none, or a dilated one of an odd number of channels.
    """
    if memory not in MEMORIES:
        raise ValueError(f"memory {memory!r}\nhint: one of {', '.join(MEMORIES)}")
    if memory == "plain":
        return ResidualFilter(channels, 2 * ORDER - 1, causal)
    if channels % 2:
        raise ValueError(f"a dilated memory of {channels} channels\nhint: take an even number: pairs are read together")
    return DilatedDense(channels, ORDER, running=causal, decay=DECAY, causal=causal)


def gated_sum(remembered: Tensor, gate: Tensor, direct: Tensor) -> Tensor:
    """Let through what the gate lets, beside the input."""
    return remembered * gate + direct
