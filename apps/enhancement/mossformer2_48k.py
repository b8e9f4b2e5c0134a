"""MossFormer2 for full-band enhancement: a real mask of the noisy spectrum, predicted from log-mel features, at 48 kHz.

Network: Zhao, Ma, Ni, Zhang, Wang, Nguyen, Zhou, Yip, Ng, Ma: "MossFormer2: Combining Transformer and RNN-Free
Recurrent Network for Enhanced Time-Domain Monaural Speech Separation", ICASSP 2024. Weights that load:
MossFormer2_SE_48K of ClearerVoice-Studio (`mossformer2_48k_official.py`).

Windows of 40 ms every 8 ms, symmetric Hamming, no centring. The features are Kaldi's: 60 mel bands, their deltas, and
the deltas of these. The phase is kept. Differences from the release:
- it predicts two masks and uses one; the other, half of one layer, is left out;
- it adds noise to the samples before the features, of another draw on every run; here that is off, or the same on
  every run, as the published weights need it: they know no digital silence, whose features lie far below any noise;
- any length goes in: zeros fill the last window, where the release loses what the framing leaves over.

Axes: batch time freq channel; samples are in [-1, 1].
"""

from math import inf

import torch
from torch import Tensor
from torch.nn import functional

from wavecast.core.block import Block
from wavecast.core.kaldi import KaldiFilterBank, symmetric_window, with_deltas
from wavecast.core.mossformer import MossFormer
from wavecast.core.spectral import STFT, InverseSTFT
from wavecast.core.state import State
from wavecast.core.windows import Plan

SAMPLE_RATE = 48_000
WINDOW, HOP = 1920, 384
MELS = 60
SCALE = 32_768
"""Kaldi's features are those of 16 bit integers."""
FIXED_BYTES, BYTES_PER_SECOND = 1.3e9, 5e6
"""Peak memory of one pass, measured: a process that loads the network, and what each second adds."""


class MossFormer2Enhancer(Block):
    """Enhance speech and all that lies above it: (batch, samples) noisy at 48 kHz to (batch, samples) clean.

    The bare network: near the first and last sample only one window reaches, and the result is divided by its edge,
    which may be loud. `plan` has the zeros that keep this away.

    Args:
        layers: of the mask network.
        width: channels of its layers.
        hidden: channels of its gated attention.
        attention: channels of queries and keys.
        group: frames that attend to each other.
        inner: channels of its memories.
        dither: deviation of the noise added to 16 bit samples before the features; the release has 1.
        seed: of the dither.
        dropout: in training.
    """

    lookahead = inf
    needs_all = "its attention and its norms reach over the whole signal"
    instead = "use the streaming model, frcrn.stream16k"
    plan = Plan(
        window=20 * SAMPLE_RATE // HOP * HOP,
        context=SAMPLE_RATE // 2,
        fade=SAMPLE_RATE // 2,
        grid=HOP,
        lead=WINDOW - HOP,
    )

    def __init__(
        self,
        layers: int = 24,
        width: int = 512,
        hidden: int = 2048,
        attention: int = 128,
        group: int = 256,
        inner: int = 256,
        dither: float = 0.0,
        seed: int = 0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        window = symmetric_window(WINDOW, "hamming")
        self.features = with_deltas(
            KaldiFilterBank(SAMPLE_RATE, MELS, WINDOW, HOP, "hamming", dither=dither, seed=seed)
        )
        self.mossformer: Block = MossFormer(
            inputs=3 * MELS,
            outputs=WINDOW // 2 + 1,
            speakers=1,
            width=width,
            layers=layers,
            memory="plain",
            hidden=hidden,
            attention=attention,
            group=group,
            inner=inner,
            dropout=dropout,
        )
        self.analysis = STFT(WINDOW, HOP, window=window)
        self.synthesis = Synthesis(window)

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Enhance whole signals: in inference on the CPU one by one, so that memory does not grow with channels."""
        if not x.numel():
            return x.clone(), ()
        if torch.is_grad_enabled() or x.is_cuda:
            return self.enhance(x), ()
        return torch.cat([self.enhance(signal) for signal in x.split(1)]), ()

    def enhance(self, x: Tensor, heard: Tensor | None = None) -> Tensor:
        """Filter the spectrum with a mask: (batch, samples) to the same.

        Args:
            x: what is filtered.
            heard: what the mask is predicted from, (batch or 1, samples); x by default.
        """
        filled = fill_last_window(x)
        mask = self.mask(filled if heard is None else fill_last_window(heard))
        y, _ = self.synthesis(self.analysis(filled)[0] * mask[..., None])
        return y[:, : x.shape[1]]

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Refuse padded batches: what a row's framing leaves over would depend on its padding."""
        raise ValueError("MossFormer2Enhancer takes no padded batches\nhint: train on crops of equal length, as it was")

    def mask(self, x: Tensor) -> Tensor:
        """Predict the mask of whole windows: (batch, samples) to (batch, frame, 961), at least 0."""
        features, _ = self.features(SCALE * x)
        return self.mossformer(features)[0][..., 0]


class SharedMask(Block):
    """The enhancer with one mask for all channels, from their mean, so that directions stay: (channels, samples).

    Args:
        network: whose mask it is.
    """

    lookahead = inf
    needs_all = MossFormer2Enhancer.needs_all
    instead = MossFormer2Enhancer.instead

    def __init__(self, network: MossFormer2Enhancer) -> None:
        super().__init__()
        self.network = network

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Enhance the channels of one whole signal."""
        return (self.network.enhance(x, x.mean(0, keepdim=True)) if x.numel() else x.clone()), ()


def full_band_pass_bytes(seconds: float) -> int:
    """Estimate the peak memory of a process that enhances that many seconds in one pass."""
    return int(FIXED_BYTES + BYTES_PER_SECOND * seconds)


def fill_last_window(x: Tensor) -> Tensor:
    """Append zeros up to whole windows: nothing is left over by the framing, and there is one window at least."""
    samples = x.shape[1]
    return functional.pad(x, (0, WINDOW - samples if samples < WINDOW else (WINDOW - samples) % HOP))


class Synthesis(InverseSTFT):
    """The inverse STFT of whole signals, divided by the squares of the windows that reach a sample.

    Args:
        window: of analysis and synthesis, (1920,).
    """

    lookahead = inf

    def __init__(self, window: Tensor) -> None:
        super().__init__(WINDOW, HOP, window=window)

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Add up the frames of a whole signal: (batch, frame, 961, 2) to (batch, samples)."""
        y, _ = super().step(x, None, True)
        return y / self.overlapped((self.window**2).expand(1, x.shape[1], -1)), ()
