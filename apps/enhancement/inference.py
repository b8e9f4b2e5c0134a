"""Enhancement of arrays and streams: any rate, any number of channels, the input's length to the sample.

    enhancer = wavecast.load("enhance")
    clean = enhancer(noisy, sample_rate=48_000)            # arrays or tensors, (samples,) or (channels, samples)

    stream = enhancer.stream(channels=2, sample_rate=48_000)
    out = stream.push(piece)                               # what is finished, often less than went in
    rest = stream.flush()

Whole arrays and files go through the same stream, so both give the same bytes.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wavecast.apps.enhancement.frcrn import FRCRN
from wavecast.apps.enhancement.frcrn_fast import FastFRCRN
from wavecast.apps.enhancement.frcrn_stream import FRCRNStream, deep_filter
from wavecast.apps.enhancement.frcrn_windows import official_gain, pass_bytes
from wavecast.apps.enhancement.mossformer2_48k import MossFormer2Enhancer, SharedMask, full_band_pass_bytes
from wavecast.cards import Card, find_model, load_network
from wavecast.core.block import Block, Frames
from wavecast.core.device import choose_device
from wavecast.core.errors import WavecastError
from wavecast.core.groups import Chain, Fork, Trim
from wavecast.core.high_band import HighBand
from wavecast.core.mossformer_fast import FastMossFormer
from wavecast.core.pool import Pool
from wavecast.core.recorded import Recorded
from wavecast.core.sound_stream import Pieces, SoundStream, check_rate, check_sound, soft_peaks
from wavecast.core.stream import Stream, latency
from wavecast.core.windows import Plan, Windows

DEFAULT_MODEL = "frcrn.stream16k"


@dataclass(frozen=True)
class Options:
    """What a user may want of the result.

    Attributes:
        mix: share of the enhanced sound, 0 to 1; the rest is the input.
        limit_db: most decibels that noise is lowered by; inf: as much as the model does.
        gain_db: applied to the result.
        soft: bend peaks above -1 dB smoothly below full scale instead of leaving them to be cut.
        high_band: what becomes of the band above the model's: "follow", "drop" or "keep".
        shared: one mask for all channels, from their mean, so that directions stay.
        block: input samples that a streaming network is fed at once; None: the model card's.
        whole: one pass for a model that needs the whole signal, whatever the length.
    """

    mix: float = 1.0
    limit_db: float = inf
    gain_db: float = 0.0
    soft: bool = False
    high_band: str = "follow"
    shared: bool = False
    block: int | None = None
    whole: bool = False


class Enhancer:
    """A loaded model; see the module's text for its use.

    Attributes:
        card: all there is to know of the model.
        network: a block from (batch, samples) to the same shape, in eval mode.
        sample_rate: the network's, in hertz; other rates are resampled.
        latency: samples at the network's rate between a sample in and the same sample out; inf when it needs all.
    """

    def __init__(self, card: Card, network: Block, device: str | torch.device = "cpu") -> None:
        self.card, self.network, self.device = card, network, torch.device(device)
        self.sample_rate = card.sample_rate
        self.block = card.block or network.period
        self.latency: int | float = inf
        self._recorded: dict[bool, Recorded] = {}
        self._pool: Pool | None = None
        if network.lookahead != inf:
            self.latency = latency(network, self.block)

    @staticmethod
    def load(model: str | None = None, device: str = "auto") -> "Enhancer":
        """Load a model by name or path.

        Args:
            model: None for the small streaming model that ships.
            device: "auto", "cpu", "cuda" or "cuda:1".

        Raises:
            WavecastError: no such model or device, or its weights are damaged.
        """
        where = choose_device(device)
        card = find_model(model or DEFAULT_MODEL, "enhance")
        network: Any = load_network(card, where)
        if isinstance(network, FRCRN) and where.type == "cpu":
            network = FastFRCRN(network)
        if isinstance(network, MossFormer2Enhancer) and where.type == "cpu":
            network.mossformer = FastMossFormer(network.mossformer)
        return Enhancer(card, network, where)

    @property
    def streams(self) -> bool:
        """Whether the model works on live sound."""
        return self.latency != inf

    @property
    def plan(self) -> Plan:
        """How a model that needs the whole signal is used: its network's windows, of the card's length."""
        network: Any = self.network
        return network.plan.lasting(self.card.window_seconds, self.sample_rate)

    def pass_bytes(self, seconds: float) -> int:
        """Estimate the peak memory of one pass of a model that needs the whole signal, over that many seconds."""
        estimate = full_band_pass_bytes if isinstance(self.network, MossFormer2Enhancer) else pass_bytes
        return estimate(seconds)

    def __call__(
        self, x: np.ndarray | Tensor, sample_rate: int | None = None, options: Options | None = None
    ) -> np.ndarray | Tensor:
        """Enhance a whole signal.

        Args:
            x: float array or tensor, (samples,) or (channels, samples), full scale 1.
            sample_rate: of x in hertz; the network's by default.
            options: what is wanted of the result.

        Returns:
            The same kind, dtype and shape as x.

        Raises:
            ValueError: x is not floating, or of another number of axes.
            WavecastError: the sample rate is out of range.
        """
        if isinstance(x, Tensor):
            y = self(x.detach().cpu().numpy(), sample_rate, options)
            return torch.as_tensor(y, dtype=x.dtype, device=x.device)
        check_sound(x)
        channels = np.atleast_2d(x).astype(np.float32)
        stream = self.stream(len(channels), sample_rate, options, self.input_gain(lambda: [channels]), live=False)
        y = np.concatenate([stream.push(channels), stream.flush()], 1)
        return y.astype(x.dtype).reshape(x.shape)

    def input_gain(self, blocks: Callable[[], Iterable[np.ndarray]]) -> np.ndarray | None:
        """Measure the gain with which FRCRN is given a signal; None for other networks, which take any level.

        Args:
            blocks: gives the signal anew on every call, in blocks (channels, samples).
        """
        if not isinstance(self.network, FRCRN | FastFRCRN):
            return None
        return official_gain(lambda: (np.nan_to_num(x, posinf=0, neginf=0) for x in blocks()))

    def stream(
        self,
        channels: int = 1,
        sample_rate: int | None = None,
        options: Options | None = None,
        gain: np.ndarray | None = None,
        live: bool = True,
    ) -> "EnhancerStream":
        """Begin a signal that comes in pieces.

        Args:
            channels: of it.
            sample_rate: in hertz; the network's by default.
            options: what is wanted of the result.
            gain: (channels,) from `input_gain`, for a model that needs the whole signal.
            live: get ready first, so that no push takes longer than the others: half a second, once.

        Raises:
            WavecastError: the rate is out of range, or the options do not fit the model.
        """
        options, rate = options or Options(), sample_rate or self.sample_rate
        check_rate(rate, "enhanced")
        pieces = self._pieces(options, gain)
        if live and isinstance(pieces, Stream) and isinstance(pieces.network, Recorded):
            pieces.network.prepare(torch.zeros(channels, pieces.block, device=self.device))
        return EnhancerStream(pieces, channels, rate, self.sample_rate, options, self.device)

    @contextmanager
    def together(self, streams: int) -> Iterator[Pool]:
        """Let streams in that many threads, members of the pool, run as one batch; this thread is to serve it.

        Raises:
            WavecastError: the model needs whole signals.
        """
        if not self.streams:
            raise WavecastError(f"{self.card.name} takes one signal at a time", "leave --batch out")
        self._pool = Pool(Recorded(self.network))
        self._pool.join(streams)
        try:
            yield self._pool
        finally:
            self._pool = None

    def _pieces(self, options: Options, gain: np.ndarray | None) -> Pieces:
        if not self.streams:
            network = shared_mask(self.network) if options.shared else self.network
            level = None if gain is None else torch.from_numpy(gain)
            return Windows(network, self.plan, level, whole=options.whole)
        block = options.block or self.block
        if block % self.network.period:
            raise WavecastError(f"no blocks of {block} samples", f"give a multiple of {self.network.period} to --block")
        if self._pool is not None:
            return Stream(self._pool, block)
        if options.shared not in self._recorded:
            network = shared_mask(self.network) if options.shared else self.network
            self._recorded[options.shared] = Recorded(network)
        return Stream(self._recorded[options.shared], block)


class EnhancerStream(SoundStream):
    """A signal on its way: resampled, enhanced, resampled back, and what the options ask for."""

    def __init__(
        self, pieces: Pieces, channels: int, rate: int, network_rate: int, options: Options, device: torch.device
    ) -> None:
        high = HighBand(channels, rate, network_rate, options.high_band if rate > network_rate else "drop")
        super().__init__(pieces, channels, rate, network_rate, high, device)
        self._options = options
        self._share = options.mix * (1 - 10 ** (-options.limit_db / 20))

    def complete(self, dry: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Mix with what was heard, and bring the result to its level."""
        if self._share != 1:
            y = dry + np.float32(self._share) * (y - dry)
        if self._options.gain_db:
            y = y * np.float32(10 ** (self._options.gain_db / 20))
        return soft_peaks(y) if self._options.soft else y


class RowMean(nn.Module):
    """The mean over the batch, as a batch of one: (batch, ...) to (1, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        """Average."""
        return x.mean(0, keepdim=True)


def shared_mask(network: Block) -> Block:
    """Make a network whose mask comes from the mean of all channels, and which filters each with it.

    Raises:
        WavecastError: the network has no mask of its own.
    """
    if isinstance(network, MossFormer2Enhancer):
        return SharedMask(network).eval()
    if not isinstance(network, FRCRNStream):
        raise WavecastError(f"{type(network).__name__} cannot share gains", f"use --model {DEFAULT_MODEL}")
    inner: Any = network.inner
    mask = Chain(mean=Frames(RowMean()), mask=inner.filter.mask)
    filtering = Fork(deep_filter, past=inner.filter.past, mask=mask)
    return Trim(Chain(analysis=inner.analysis, filter=filtering, synthesis=inner.synthesis)).eval()
