"""Sound of any rate on its way through a network of one rate: what the streams of all apps for sound have in common."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from wavecast.core.errors import WavecastError
from wavecast.core.high_band import HighBand
from wavecast.core.resample import Resampler

SLOWEST, FASTEST = 2_000, 768_000  # sample rates in hertz that make sense as sound
LOUDEST = 1e9  # 180 dB above full scale; what is beyond is a damaged float, and its square may not be finite
PIECE = 1 << 16  # samples of a channel on their way at a time, whatever the user pushes


class Pieces(Protocol):
    """A sequence on its way through a network: `core.stream.Stream` or `core.windows.Windows`."""

    def push(self, x: Tensor) -> list[Tensor]:
        """Take (channels, samples), give what is finished."""

    def flush(self) -> list[Tensor]:
        """End it, give the rest."""


def check_rate(rate: int, doing: str) -> None:
    """Refuse a sample rate that no sound has.

    Args:
        rate: in hertz.
        doing: what cannot be done with it: "enhanced".

    Raises:
        WavecastError: says what can be.
    """
    if not SLOWEST <= rate <= FASTEST:
        hint = f"sound between {SLOWEST} and {FASTEST} Hz can be {doing}; is the file's header right?"
        raise WavecastError(f"a sample rate of {rate} Hz", hint)


def check_sound(x: np.ndarray) -> None:
    """Refuse an array that is no sound.

    Raises:
        ValueError: it is not floating, or has another number of axes.
    """
    if x.ndim not in (1, 2) or x.dtype.kind != "f":
        raise ValueError(
            f"expected floats of shape (samples,) or (channels, samples), got {x.dtype} {x.shape}\n"
            "hint: integers as x.astype('float32') / 32768; a channel axis goes first"
        )


def silenced(x: np.ndarray) -> tuple[np.ndarray, int]:
    """Take samples that are not finite, or impossibly loud, for 0; give how many there were, too."""
    bad = ~(np.abs(x) <= LOUDEST)
    return (np.where(bad, 0, x), int(bad.sum())) if bad.any() else (x, 0)


class SoundInput:
    """A signal on its way into a network: pieces of any size and rate become sound that the network can hear.

    Args:
        channels: of what is pushed.
        rate: of the signal in hertz.
        network_rate: of the network.

    Attributes:
        taken: samples in, of each channel.
        replaced: samples that were not finite, or impossibly loud, and were taken for 0.
    """

    def __init__(self, channels: int, rate: int, network_rate: int) -> None:
        self._channels, self._rate = channels, rate
        self._down = Resampler(rate, network_rate, channels)
        self.taken = self.replaced = 0

    @property
    def seconds(self) -> float:
        """Seconds of sound taken."""
        return self.taken / self._rate

    def push(self, x: np.ndarray) -> Iterator[np.ndarray]:
        """Take float (channels, n), n of any size; give what is finished, float32 (channels, m), piece by piece.

        Raises:
            ValueError: x has another number of channels.
        """
        if x.ndim != 2 or len(x) != self._channels:
            raise ValueError(f"expected ({self._channels}, samples), got {x.shape}")
        for start in range(0, x.shape[1], PIECE):
            piece, bad = silenced(x[:, start : start + PIECE])
            self.taken += piece.shape[1]
            self.replaced += bad
            yield self._down.push(piece.astype(np.float32))

    def flush(self) -> np.ndarray:
        """End the signal and give the rest; afterwards the next one can begin."""
        self.taken = 0
        return self._down.flush()


class SoundStream:
    """A signal on its way: resampled, processed, resampled back, and what a subclass does with it then.

    Args:
        pieces: takes (inner, samples) at the network's rate.
        channels: of what is pushed.
        rate: of the signal in hertz.
        network_rate: of the network.
        high: the band above the network's, for `rows` rows.
        device: the network's.
        inner: channels that `prepare` makes of those pushed; as many by default.
        rows: of the result; `inner` by default.

    Attributes:
        taken: samples in.
        given: samples out; at the end as many as in.
        replaced: samples that were not finite, or impossibly loud, and were taken for 0.
    """

    def __init__(
        self,
        pieces: Pieces,
        channels: int,
        rate: int,
        network_rate: int,
        high: HighBand,
        device: torch.device,
        inner: int | None = None,
        rows: int | None = None,
    ) -> None:
        inner = inner or channels
        rows = rows or inner
        self._pieces, self._channels, self._rows, self._high, self._device = pieces, channels, rows, high, device
        self._down, self._up = Resampler(rate, network_rate, inner), Resampler(network_rate, rate, rows)
        self._dry = Waiting(inner)
        self._narrow = Waiting(inner)
        self.taken = self.given = self.replaced = 0

    def prepare(self, x: np.ndarray) -> np.ndarray:
        """Turn what is pushed, float32 (channels, n), into what the network is to hear (inner, n)."""
        return x

    def arrange(self, made: np.ndarray) -> np.ndarray:
        """Turn a piece of the network's output (inner, n, ...) into rows of sound (rows, n)."""
        return made

    def complete(self, dry: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Make the result (rows, m) of sound at the input's rate, beside what was heard (inner, m)."""
        return y

    def push(self, x: np.ndarray) -> np.ndarray:
        """Take float (channels, n), n of any size; give what is finished, float32 (rows, m).

        Raises:
            ValueError: x has another number of channels.
        """
        if x.ndim != 2 or len(x) != self._channels:
            raise ValueError(f"expected ({self._channels}, samples), got {x.shape}")
        parts = [self._push(x[:, i : i + PIECE]) for i in range(0, x.shape[1], PIECE)]
        return np.concatenate(parts, 1) if parts else np.zeros((self._rows, 0), np.float32)

    def _push(self, x: np.ndarray) -> np.ndarray:
        x, bad = silenced(x)
        self.replaced += bad
        x = self.prepare(x.astype(np.float32))
        self.taken += x.shape[1]
        self._dry.put(x)
        narrow = self._down.push(x)
        return self._finish(narrow, self._through(self._pieces.push, narrow), last=False)

    def flush(self) -> np.ndarray:
        """End the signal and give the rest; afterwards the next one can begin."""
        narrow = self._down.flush()
        made = self._through(self._pieces.push, narrow)
        rest = self._through(lambda _: self._pieces.flush(), narrow)
        y = self._finish(narrow, np.concatenate([made, rest], 1), last=True)
        self.taken = self.given = 0
        return y

    def _through(self, function: Callable[[Tensor], list[Tensor]], x: np.ndarray) -> np.ndarray:
        pieces = function(torch.from_numpy(np.ascontiguousarray(x)).to(self._device)) if len(x) else []
        arrays = [self.arrange(piece.cpu().numpy()) for piece in pieces]
        return np.concatenate(arrays, 1) if arrays else np.zeros((self._rows, 0), np.float32)

    def _finish(self, narrow: np.ndarray, made: np.ndarray, last: bool) -> np.ndarray:
        """Bring finished samples back to the input's rate, and complete them."""
        self._narrow.put(narrow)
        y = self._up.push(made)
        if last:
            y = np.concatenate([y, self._up.flush()], 1)
        y = self._high.push(self._narrow.take(made.shape[1]), made, y, self._dry.peek, last)
        if last:  # there and back, a length may round to one more or less
            missing = self.taken - self.given - y.shape[1]
            y = np.pad(y, ((0, 0), (0, missing))) if missing > 0 else y[:, : y.shape[1] + missing]
        y = y[:, : self._dry.held]
        self.given += y.shape[1]
        return self.complete(self._dry.take(y.shape[1]), y)


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
