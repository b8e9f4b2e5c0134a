"""MossFormer2 for separation: filter bank, a mask for every speaker, filter bank back.

Paper: Zhao et al.: "MossFormer2: Combining Transformer and RNN-Free Recurrent Network for Enhanced Time-Domain Monaural
Speech Separation", ICASSP 2024. Weights that load: MossFormer2_SS_16K of ClearerVoice-Studio, and the published 8 kHz
models for two and three speakers (`mossformer2_official.py`).

Differences from the release: any length goes in and comes out, tables of positions are computed and not stored, and
there is a causal form, which streams and for which no official weights exist.

Axes: batch samples speaker.
"""

from torch import Tensor

from wavecast.core.filterbank import Analysis, Synthesis
from wavecast.core.groups import Chain, Fork, Trim, identity, second
from wavecast.core.mossformer import MossFormer


class MossFormer2(Trim):
    """Separate speakers: (batch, samples) to (batch, samples, speakers).

    Args:
        speakers: in the mixture.
        channels: filters of the filter bank.
        kernel: samples of a filter, a multiple of the stride.
        stride: samples between frames.
        layers: pairs of attention and memory.
        width: channels inside.
        hidden: channels inside the attention.
        attention: channels of its queries and keys.
        group: frames that see each other directly.
        inner: channels of the memory.
        masking: the network predicts masks of the mixture's features; otherwise the features themselves.
        causal: nothing looks further ahead than a frame, and the network streams.
        dropout: in training.
    """

    needs_all = MossFormer.needs_all
    instead = MossFormer.instead

    def __init__(
        self,
        speakers: int = 2,
        channels: int = 512,
        kernel: int = 16,
        stride: int = 8,
        layers: int = 24,
        width: int = 512,
        hidden: int = 2048,
        attention: int = 128,
        group: int = 256,
        inner: int = 256,
        masking: bool = True,
        causal: bool = False,
        dropout: float = 0.1,
    ) -> None:
        network = MossFormer(
            channels,
            channels,
            speakers,
            width,
            layers,
            hidden=hidden,
            attention=attention,
            group=group,
            inner=inner,
            causal=causal,
            dropout=dropout,
        )
        # Frames to the very last sample; the release pads its output with zeros instead, where a frame does not fit.
        right, tail = (kernel, 0) if causal else (0, kernel)
        super().__init__(
            Chain(
                analysis=Analysis(channels, kernel, stride, right),
                features=Fork(apply_masks if masking else second, mixture=identity(), masks=network),
                synthesis=Synthesis(channels, kernel, stride, tail),
            )
        )
        self.speakers, self.masking = speakers, masking


def apply_masks(mixture: Tensor, masks: Tensor) -> Tensor:
    """Weigh the mixture's features (batch, frames, channel) by masks (batch, frames, channel, speaker)."""
    return mixture[..., None] * masks
