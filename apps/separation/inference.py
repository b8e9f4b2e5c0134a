"""Separation of arrays and streams: any rate, any length, any number of channels; the voices sum to the recording.

    separator = wavecast.load("separate")
    voices = separator(mixture, sample_rate=48_000)        # (speakers, samples) from (samples,) or (channels, samples)

    stream = separator.stream(channels=2, sample_rate=48_000)
    out = stream.push(piece)                               # (speakers, channels, samples), what is finished
    rest = stream.flush()
    stream.seams, stream.turns                             # who is who across windows, and within them
    stream.voices()                                        # what the outputs hold

Whole arrays and files go through the same stream, so both give the same bytes.
"""

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavecast.apps.separation.levels import LeveledStream
from wavecast.apps.separation.mossformer2 import MossFormer2
from wavecast.apps.separation.mossformer2_fast import FastMossFormer2
from wavecast.apps.separation.presence import Presence, Voice, without_absent
from wavecast.apps.separation.separated_windows import SeparatedWindows, plan_of
from wavecast.apps.separation.tracks import Seam
from wavecast.apps.separation.turns import Turn
from wavecast.cards import Card, find_model, load_network
from wavecast.core.block import Block
from wavecast.core.device import choose_device
from wavecast.core.errors import WavecastError
from wavecast.core.high_band import HighBand
from wavecast.core.recorded import Recorded
from wavecast.core.sound_stream import SoundStream, check_rate, check_sound, soft_peaks
from wavecast.core.stream import Stream, latency
from wavecast.core.windows import Plan

DEFAULT_MODEL = "mossformer2.ss2_small"


@dataclass(frozen=True)
class Options:
    """What a user may want of the result.

    Attributes:
        speakers: in the recording, as many as the model gives; None: outputs without a voice are left out.
        residual: what belongs to no speaker comes as one more output; otherwise it is shared out among the speakers.
        gain_db: applied to the result.
        soft: bend peaks above -1 dB smoothly below full scale instead of leaving them to be cut.
        channels: "mean", one output a speaker from the mean of all channels, or "each", every channel on its own.
        block: input samples that a streaming network is fed at once; None: the model card's.
        whole: one pass for a model that needs the whole signal, whatever the length.
        turns: put outputs together by voice where they change speakers within a window; None: as the model's card
            says.
    """

    speakers: int | None = None
    residual: bool = False
    gain_db: float = 0.0
    soft: bool = False
    channels: str = "mean"
    block: int | None = None
    whole: bool = False
    turns: bool | None = None


class Separator:
    """A loaded model; see the module's text for its use.

    Attributes:
        card: all there is to know of the model.
        network: a block from (batch, samples) to (batch, samples, speakers), in eval mode.
        sample_rate: the network's, in hertz; other rates are resampled.
        speakers: that the network gives.
        latency: samples at the network's rate between a sample in and the same sample out; inf when it needs all.
    """

    def __init__(self, card: Card, network: Block, device: str | torch.device = "cpu") -> None:
        self.card, self.network, self.device = card, network, torch.device(device)
        self.sample_rate = card.sample_rate
        self.speakers = int(getattr(network, "speakers", 0) or card.hyperparameters.get("speakers", 2))
        self.block = card.block or network.period
        self.latency: int | float = inf
        self._recorded: Recorded | None = None
        if network.lookahead != inf:
            self.latency = latency(network, self.block)

    @staticmethod
    def load(model: str | None = None, device: str = "auto") -> "Separator":
        """Load a model by name or path.

        Args:
            model: None for the small model that ships.
            device: "auto", "cpu", "cuda" or "cuda:1".

        Raises:
            WavecastError: no such model or device, or its weights are damaged.
        """
        where = choose_device(device)
        card = find_model(model or DEFAULT_MODEL, "separate")
        network: Any = load_network(card, where)
        if isinstance(network, MossFormer2) and network.lookahead == inf and where.type == "cpu":
            network = FastMossFormer2(network)
        return Separator(card, network, where)

    @property
    def streams(self) -> bool:
        """Whether the model works on live sound."""
        return self.latency != inf

    @property
    def plan(self) -> Plan:
        """How a model that needs the whole signal is used: windows of the card's length."""
        return plan_of(self.network, self.sample_rate, self.card.window_seconds)

    def __call__(
        self, x: np.ndarray | Tensor, sample_rate: int | None = None, options: Options | None = None
    ) -> np.ndarray | Tensor:
        """Separate a whole signal.

        Args:
            x: float array or tensor, (samples,) or (channels, samples), full scale 1.
            sample_rate: of x in hertz; the network's by default.
            options: what is wanted of the result.

        Returns:
            The same kind and dtype as x, (outputs, samples), or (outputs, channels, samples) for channels "each" of a
            signal that has them. With speakers None, outputs without a voice are left out and what little they hold
            goes to the others: one speaker in gives one output, the mixture.

        Raises:
            ValueError: x is not floating, or of another number of axes.
            WavecastError: the sample rate is out of range, or the model is for another number of speakers.
        """
        if isinstance(x, Tensor):
            y = self(x.detach().cpu().numpy(), sample_rate, options)
            return torch.as_tensor(y, dtype=x.dtype, device=x.device)
        check_sound(x)
        options, channels = options or Options(), np.atleast_2d(x)
        stream = self.stream(len(channels), sample_rate, options, live=False)
        y = np.concatenate([stream.push(channels), stream.flush()], 2)
        if options.speakers is None:
            y = without_absent(y, stream.voices())
        y = y if x.ndim == 2 and options.channels == "each" else y[:, 0]
        return y.astype(x.dtype)

    def stream(
        self,
        channels: int = 1,
        sample_rate: int | None = None,
        options: Options | None = None,
        live: bool = True,
    ) -> "SeparatorStream":
        """Begin a signal that comes in pieces.

        Args:
            channels: of it.
            sample_rate: in hertz; the network's by default.
            options: what is wanted of the result.
            live: get ready first, so that no push takes longer than the others.

        Raises:
            WavecastError: the rate is out of range, or the options do not fit the model.
        """
        options, rate = options or Options(), sample_rate or self.sample_rate
        check_rate(rate, "separated")
        if options.speakers not in (None, self.speakers):
            raise WavecastError(
                f"{self.card.name} separates {self.speakers} speakers, not {options.speakers}",
                "take a model for as many (wavecast models list); --speakers auto leaves out outputs without a voice",
            )
        if options.channels not in ("mean", "each"):
            raise ValueError(f"channels are {options.channels!r}\nhint: 'mean' or 'each'")
        return SeparatorStream(self, channels, rate, options, live)

    def pieces(self, options: Options) -> "SeparatedWindows | LeveledStream":
        """Begin a signal at the network's rate.

        Raises:
            WavecastError: the options do not fit the model.
        """
        if not self.streams:
            try:
                plan = self.plan
            except ValueError as error:
                reason, _, hint = str(error).partition("\nhint: ")
                raise WavecastError(f"{self.card.name}: {reason}", hint) from error
            turns = self.card.turns if options.turns is None else options.turns
            return SeparatedWindows(
                self.network, plan, self.sample_rate, self.speakers, options.residual, options.whole, turns
            )
        block = options.block or self.block
        if block % self.network.period:
            raise WavecastError(f"no blocks of {block} samples", f"give a multiple of {self.network.period} to --block")
        self._recorded = self._recorded or Recorded(self.network)
        return LeveledStream(Stream(self._recorded, block), self.sample_rate, options.residual)


class SeparatorStream(SoundStream):
    """A signal on its way: resampled, separated, and every speaker brought back to the input's rate.

    The band above the network's is shared out by what the speakers have of the octave below it, so that the outputs
    always sum to what was heard.

    Args:
        separator: whose network works.
        channels: of the signal.
        rate: of it in hertz.
        options: what is wanted of the result.
        live: get ready first.

    Attributes:
        outputs: speakers, and one more with the residual.
        out_channels: of each output: 1 for the mean.
    """

    def __init__(self, separator: Separator, channels: int, rate: int, options: Options, live: bool) -> None:
        network_rate = separator.sample_rate
        self.outputs = separator.speakers + options.residual
        self.out_channels = channels if options.channels == "each" else 1
        self._speakers, self._options = separator.speakers, options
        pieces = separator.pieces(options)
        if live and isinstance(pieces, LeveledStream) and isinstance(pieces.stream.network, Recorded):
            zeros = torch.zeros(self.out_channels, pieces.stream.block, device=separator.device)
            pieces.stream.network.prepare(zeros)
        self._windows = pieces if isinstance(pieces, SeparatedWindows) else None
        policy = "drop" if rate == network_rate else "share"
        high = HighBand(self.out_channels, rate, network_rate, policy, self.outputs)
        rows = self.outputs * self.out_channels
        super().__init__(pieces, channels, rate, network_rate, high, separator.device, self.out_channels, rows)
        self._presence = Presence(self._speakers, network_rate)
        self._heard = self._presence

    @property
    def seams(self) -> list[Seam]:
        """Decisions about who is who across windows, so far."""
        return [] if self._windows is None else self._windows.seams

    @property
    def turns(self) -> list[Turn]:
        """Decisions within windows about who speaks, so far."""
        return [] if self._windows is None else self._windows.turns

    def voices(self) -> list[Voice]:
        """Say, after the flush, what the speakers' outputs hold."""
        return self._heard.voices()

    def push(self, x: np.ndarray) -> np.ndarray:
        """Take float (channels, n), n of any size; give what is finished, float32 (outputs, out_channels, m).

        Raises:
            ValueError: x has another number of channels.
        """
        return self._by_output(super().push(x))

    def flush(self) -> np.ndarray:
        """End the signal and give the rest; afterwards the next one can begin."""
        y = self._by_output(super().flush())
        self._heard, self._presence = self._presence, Presence(self._speakers, self._down.target)
        return y

    def prepare(self, x: np.ndarray) -> np.ndarray:
        """Take the mean of the channels, if that is wanted."""
        return x if self._options.channels == "each" else x.mean(0, keepdims=True)

    def arrange(self, made: np.ndarray) -> np.ndarray:
        """Lay the speakers of a piece (channels, n, outputs) below each other, and hear what they hold."""
        rows = np.ascontiguousarray(np.moveaxis(made, 2, 0))
        self._presence.add(rows[: self._speakers].mean(1))
        return rows.reshape(self._rows, made.shape[1])

    def complete(self, dry: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Make the sum exact, and bring the result to its level."""
        voices = y.reshape(self.outputs, *dry.shape)
        y = (voices + (dry - voices.sum(0)) / np.float32(self.outputs)).reshape(y.shape)
        if self._options.gain_db:
            y = y * np.float32(10 ** (self._options.gain_db / 20))
        return soft_peaks(y) if self._options.soft else y

    def _by_output(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(self.outputs, self.out_channels, rows.shape[1])
