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
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from wavecast.apps.enhancement.frcrn import FRCRN
from wavecast.apps.enhancement.frcrn_fast import FastFRCRN
from wavecast.apps.enhancement.frcrn_stream import FRCRNStream, deep_filter
from wavecast.apps.enhancement.frcrn_windows import Windows, official_gain
from wavecast.apps.enhancement.high_band import HighBand
from wavecast.cards import Card, find_model, load_network
from wavecast.core.block import Block, Frames
from wavecast.core.device import choose_device
from wavecast.core.errors import WavecastError
from wavecast.core.groups import Chain, Fork, Trim
from wavecast.core.pool import Pool
from wavecast.core.recorded import Recorded
from wavecast.core.resample import Resampler
from wavecast.core.stream import Stream, latency

DEFAULT_MODEL = "frcrn.stream16k"
SLOWEST, FASTEST = 2_000, 768_000  # sample rates in hertz that make sense as sound
LOUDEST = 1e9  # 180 dB above full scale; what is beyond is a damaged float, and its square may not be finite
PIECE = 1 << 16  # samples of a channel on their way at a time, whatever the user pushes


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


class Pieces(Protocol):
    """A sequence on its way through a network: `core.stream.Stream` or `Windows`."""

    def push(self, x: Tensor) -> list[Tensor]:
        """Take (channels, samples), give what is finished."""

    def flush(self) -> list[Tensor]:
        """End it, give the rest."""


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
        return Enhancer(card, network, where)

    @property
    def streams(self) -> bool:
        """Whether the model works on live sound."""
        return self.latency != inf

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
        if x.ndim not in (1, 2) or x.dtype.kind != "f":
            raise ValueError(
                f"expected floats of shape (samples,) or (channels, samples), got {x.dtype} {x.shape}\n"
                "hint: integers as x.astype('float32') / 32768; a channel axis goes first"
            )
        channels = np.atleast_2d(x).astype(np.float32)
        stream = self.stream(len(channels), sample_rate, options, self.input_gain(lambda: [channels]), live=False)
        y = np.concatenate([stream.push(channels), stream.flush()], 1)
        return y.astype(x.dtype).reshape(x.shape)

    def input_gain(self, blocks: Callable[[], Iterable[np.ndarray]]) -> np.ndarray | None:
        """Measure the level that a model which needs the whole signal is given it at; None for a streaming one.

        Args:
            blocks: gives the signal anew on every call, in blocks (channels, samples).
        """
        if self.streams:
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
        if not SLOWEST <= rate <= FASTEST:
            hint = f"sound between {SLOWEST} and {FASTEST} Hz can be enhanced; is the file's header right?"
            raise WavecastError(f"a sample rate of {rate} Hz", hint)
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
            if options.shared:
                raise WavecastError(f"{self.card.name} cannot share gains", f"use --model {DEFAULT_MODEL}")
            level = None if gain is None else torch.from_numpy(gain)
            return Windows(self.network, level, whole=options.whole)
        block = options.block or self.block
        if block % self.network.period:
            raise WavecastError(f"no blocks of {block} samples", f"give a multiple of {self.network.period} to --block")
        if self._pool is not None:
            return Stream(self._pool, block)
        if options.shared not in self._recorded:
            network = shared_mask(self.network) if options.shared else self.network
            self._recorded[options.shared] = Recorded(network)
        return Stream(self._recorded[options.shared], block)


class EnhancerStream:
    """A signal on its way: resampled, enhanced, resampled back, and what the options ask for.

    Attributes:
        taken: samples in.
        given: samples out; at the end as many as in.
        replaced: samples that were not finite, or impossibly loud, and were taken for 0.
    """

    def __init__(
        self, pieces: Pieces, channels: int, rate: int, network_rate: int, options: Options, device: torch.device
    ) -> None:
        self._pieces, self._channels, self._options, self._device = pieces, channels, options, device
        self._down, self._up = Resampler(rate, network_rate, channels), Resampler(network_rate, rate, channels)
        follow = options.high_band if rate > network_rate else "drop"
        self._high = HighBand(channels, rate, network_rate, follow)
        self._dry = Waiting(channels)
        self._narrow = Waiting(channels)
        self._share = options.mix * (1 - 10 ** (-options.limit_db / 20))
        self.taken = self.given = self.replaced = 0

    def push(self, x: np.ndarray) -> np.ndarray:
        """Take float (channels, n), n of any size; give what is finished, float32 (channels, m).

        Raises:
            ValueError: x has another number of channels.
        """
        if x.ndim != 2 or len(x) != self._channels:
            raise ValueError(f"expected ({self._channels}, samples), got {x.shape}")
        parts = [self._push(x[:, i : i + PIECE]) for i in range(0, x.shape[1], PIECE)]
        return np.concatenate(parts, 1) if parts else np.zeros((self._channels, 0), np.float32)

    def _push(self, x: np.ndarray) -> np.ndarray:
        bad = ~(np.abs(x) <= LOUDEST)
        if bad.any():
            self.replaced += int(bad.sum())
            x = np.where(bad, 0, x)
        x = x.astype(np.float32)
        self.taken += x.shape[1]
        self._dry.put(x)
        narrow = self._down.push(x)
        return self._finish(narrow, self._through(self._pieces.push, narrow), last=False)

    def flush(self) -> np.ndarray:
        """End the signal and give the rest; afterwards the next one can begin."""
        narrow = self._down.flush()
        enhanced = self._through(self._pieces.push, narrow)
        rest = self._through(lambda _: self._pieces.flush(), narrow)
        y = self._finish(narrow, np.concatenate([enhanced, rest], 1), last=True)
        self.taken = self.given = 0
        return y

    def _through(self, function: Callable[[Tensor], list[Tensor]], x: np.ndarray) -> np.ndarray:
        pieces = function(torch.from_numpy(np.ascontiguousarray(x)).to(self._device)) if len(x) else []
        arrays = [piece.cpu().numpy() for piece in pieces]
        return np.concatenate(arrays, 1) if arrays else x[:, :0]

    def _finish(self, narrow: np.ndarray, enhanced: np.ndarray, last: bool) -> np.ndarray:
        """Bring enhanced samples back to the input's rate, and mix."""
        self._narrow.put(narrow)
        y = self._up.push(enhanced)
        if last:
            y = np.concatenate([y, self._up.flush()], 1)
        y = self._high.push(self._narrow.take(enhanced.shape[1]), enhanced, y, self._dry.peek, last)
        if last:  # there and back, a length may round to one more or less
            missing = self.taken - self.given - y.shape[1]
            y = np.pad(y, ((0, 0), (0, missing))) if missing > 0 else y[:, : y.shape[1] + missing]
        y = y[:, : self._dry.held]
        self.given += y.shape[1]
        dry = self._dry.take(y.shape[1])
        if self._share != 1:
            y = dry + np.float32(self._share) * (y - dry)
        if self._options.gain_db:
            y = y * np.float32(10 ** (self._options.gain_db / 20))
        return soft_peaks(y) if self._options.soft else y


class Waiting:
    """Samples that wait for others, (channels, n)."""

    def __init__(self, channels: int) -> None:
        self._samples = np.zeros((channels, 0), np.float32)

    @property
    def held(self) -> int:
        """Samples that wait."""
        return self._samples.shape[1]

    def put(self, x: np.ndarray) -> None:
        """Add at the end."""
        self._samples = np.concatenate([self._samples, x], 1)

    def peek(self, count: int) -> np.ndarray:
        """Look at the first ones."""
        return self._samples[:, :count]

    def take(self, count: int) -> np.ndarray:
        """Take the first ones out."""
        x, self._samples = self._samples[:, :count], self._samples[:, count:].copy()
        return x


def soft_peaks(x: np.ndarray, knee: float = 0.89) -> np.ndarray:
    """Bend what lies above the knee (-1 dB) smoothly to below full scale, sample by sample."""
    over = np.abs(x) > knee
    if not over.any():
        return x
    room = 1 - knee
    bent = np.sign(x) * (knee + room * np.tanh((np.abs(x) - knee) / room))
    return np.where(over, bent, x).astype(np.float32)


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
    if not isinstance(network, FRCRNStream):
        raise WavecastError(f"{type(network).__name__} cannot share gains", f"use --model {DEFAULT_MODEL}")
    inner: Any = network.inner
    mask = Chain(mean=Frames(RowMean()), mask=inner.filter.mask)
    filtering = Fork(deep_filter, past=inner.filter.past, mask=mask)
    return Trim(Chain(analysis=inner.analysis, filter=filtering, synthesis=inner.synthesis)).eval()
