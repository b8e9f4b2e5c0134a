"""Whole-signal networks on signals of any length: one pass up to 30 s, beyond that windows in bounded memory.

The published network averages over all it hears, so a window's result depends on where the window lies. Windows are
therefore long, begin on the frame grid of the whole signal, overlap, and cross-fade well inside both; the last one is
moved back to be as long as the others, so that no end is enhanced from a short remainder.

Levels and padding are those of the official decoder, without its faults: silence stays silence, no tail is lost and
no output is short. One hop of zeros on each side keeps the ends from being divided by the bare ramp of the window.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wavecast.apps.enhancement.frcrn import HOP, SAMPLE_RATE
from wavecast.core.block import Block
from wavecast.core.stream import flushed_denormals

LEVEL = 10 ** (-25 / 20)
"""The level that the official decoder brings speech to, as RMS."""
WINDOW_SECONDS = 30
CONTEXT = SAMPLE_RATE // 2
"""Samples at a window's inner ends that are only heard, not used."""
FADE = SAMPLE_RATE // 2
"""Samples over which one window passes into the next."""
FIXED_BYTES, BYTES_PER_SECOND = 700e6, 24e6
"""Peak memory of one pass, measured: a process with the network loaded, and what each second adds."""


def pass_bytes(seconds: float) -> int:
    """Estimate the peak memory of a process that enhances that many seconds in one pass."""
    return int(FIXED_BYTES + BYTES_PER_SECOND * seconds)


def official_gain(blocks: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
    """Measure the gain that brings each channel to the official level; reads the signal twice.

    The level is the RMS of the samples louder than the RMS of all, so that pauses do not count.

    Args:
        blocks: gives the signal anew on every call, in blocks (channels, samples), at its original rate.

    Returns:
        (channels,) float64; finite for silence and for signals of constant magnitude too.
    """
    count, power = 0, np.zeros(0)
    for block in blocks():
        count, power = count + block.shape[1], _added(power, np.square(block, dtype=np.float64).sum(1))
    power = power / max(count, 1)
    loud, loud_power = np.zeros_like(power), np.zeros_like(power)
    for block in blocks():
        squares = np.square(block, dtype=np.float64)
        above = squares > power[:, None]
        loud += above.sum(1)
        loud_power += np.where(above, squares, 0).sum(1)
    first = LEVEL / (np.sqrt(power) + 1e-6)
    level = np.sqrt(np.where(loud > 0, loud_power / np.maximum(loud, 1), power))
    return first * LEVEL / (first * level + 1e-6)


def _added(total: np.ndarray, block: np.ndarray) -> np.ndarray:
    return block if not total.size else total + block


def official_padding(samples: int) -> int:
    """Count the zeros that the official decoder appends to a signal at 16 kHz: at least to whole steps of 0.75 s."""
    window, step = SAMPLE_RATE, SAMPLE_RATE * 3 // 4
    if samples < window:
        return window - samples
    if samples < window + step:
        return window + step - samples
    rest = (samples - window) % step
    return window + rest if rest else 0


class Windows:
    """A signal on its way through a whole-signal network; used like `core.stream.Stream`, with a long delay.

    Args:
        network: a block from (batch, samples) to the same shape that needs the whole signal, in eval mode.
        gain: (channels,) applied before the network and taken back after it, from `official_gain`; none if None.
        whole: one pass whatever the length, in memory that grows with it (`pass_bytes`).
        seconds: length of a window, and of the longest signal that takes one pass.
        lead: zeros before the signal; a hop. The official decoder has none.

    Raises:
        ValueError: the network is in training mode, or windows are too short for their overlap.
    """

    def __init__(
        self,
        network: Block,
        gain: Tensor | None = None,
        *,
        whole: bool = False,
        seconds: float = WINDOW_SECONDS,
        lead: int = HOP,
    ) -> None:
        if network.training:
            raise ValueError("the network is in training mode\nhint: network.eval()")
        self.window = int(seconds * SAMPLE_RATE) // HOP * HOP
        self.overlap = 2 * CONTEXT + FADE
        if self.window < 2 * self.overlap:
            raise ValueError(f"windows of {seconds} s are too short\nhint: at least {2 * self.overlap / SAMPLE_RATE} s")
        self.network, self.gain, self.whole, self.lead = network, gain, whole, lead
        self._restart()

    def _restart(self) -> None:
        self.kept = torch.zeros(0)  # input (batch, samples) from sample `first` on
        self.first = self.total = 0
        self.end = 0  # where the last finished window ends
        self.ending = torch.zeros(0)  # its output (batch, FADE + CONTEXT) up to there, not handed out yet

    @torch.inference_mode()
    def push(self, x: Tensor) -> list[Tensor]:
        """Take any number of samples (batch, samples); give the finished pieces, often none."""
        self.kept = torch.cat([self.kept, x], 1) if self.total else x.clone()
        self.total += x.shape[1]
        pieces = []
        while not self.whole and self.total > self.window:
            start = self.end - self.overlap if self.end else 0
            if self.total < start + self.window:
                break
            pieces.append(self._window(start, start + self.window, last=False))
        return pieces

    @torch.inference_mode()
    def flush(self) -> list[Tensor]:
        """End the signal and give its last pieces; afterwards the next one can begin."""
        pieces = []
        if not self.end and self.total:
            pieces.append(self._enhance(self.kept, official_padding(self.total)))
        elif self.total > self.end:
            # As long as the others, on their grid of frames.
            pieces.append(self._window(-(-(self.total - self.window) // HOP) * HOP, self.total, last=True))
        elif self.end:
            pieces.append(self.ending)
        self._restart()
        return pieces

    def _window(self, start: int, end: int, last: bool) -> Tensor:
        """Enhance [start, end); give the output from the fade with the window before to the next fade, or the end."""
        y = self._enhance(self.kept[:, start - self.first : end - self.first])
        before, self.end = self.end, end
        stop = y.shape[1] if last else y.shape[1] - CONTEXT - FADE
        if before:
            fade = before - CONTEXT - FADE - start
            ramp = torch.linspace(0, 1, FADE, device=y.device)
            head = torch.lerp(self.ending[:, :FADE], y[:, fade : fade + FADE], ramp)
            piece = torch.cat([head, y[:, fade + FADE : stop]], 1)
        else:
            piece = y[:, :stop].clone()
        self.ending = y[:, stop:].clone()
        # The last window may begin anywhere after this one's beginning.
        self.kept, self.first = self.kept[:, start - self.first :].clone(), start
        return piece

    def _enhance(self, x: Tensor, zeros: int = 0) -> Tensor:
        """Enhance one pass, with zeros after it."""
        gain = None if self.gain is None else self.gain.to(x)[:, None]
        scaled = functional.pad(x if gain is None else x * gain, (self.lead, self.lead + zeros))
        with flushed_denormals():
            y, _ = self.network(scaled)
        y = y[:, self.lead : self.lead + x.shape[1]]
        return y.clone() if gain is None else y / (gain + 1e-6)
