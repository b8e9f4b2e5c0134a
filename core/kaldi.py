"""Kaldi's log-mel filter bank and deltas, which stream exactly: every frame is that of the whole signal.

Povey et al.: "The Kaldi Speech Recognition Toolkit", 2011; the numbers are those of its `compute-fbank-feats` with
`snip-edges`, and of `torchaudio.compliance.kaldi.fbank`. Axes: batch time; then batch frame mel.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wavecast.core.block import Window, at_least, mask_beyond
from wavecast.core.groups import Chain, Fork, concatenate, identity
from wavecast.core.state import State, Tail, own, state

FLOOR = torch.finfo(torch.float32).eps
"""Smallest power of a band, so that its logarithm is finite."""
WINDOWS = ("hamming", "hanning", "povey")
TILE = 64  # frames computed at a time: they overlap, and all of a signal would take many times its memory
REACH = 2  # frames on each side that a delta reads


@state
class Heard:
    """What later frames still need.

    samples: of frames that are not finished.
    frame: (batch,), the number of the next frame, which its dither is drawn by.
    """

    samples: Tail
    frame: Tensor


class KaldiFilterBank(Window):
    """Log-mel features: (batch, samples) to (batch, (samples - window) // hop + 1, mels).

    Kaldi reads samples as 16 bit integers: give it numbers up to 32768 where a published network expects that. A frame
    loses its mean, is pre-emphasized (its first sample by itself), windowed, and filled with zeros to a power of two;
    its power passes through triangles on the scale mel = 1127 ln(1 + f / 700), and the logarithm is taken.

    It is computed in float32 (float64 for float64) under autocast too, because the logarithm of a small power needs
    the precision.

    Args:
        sample_rate: in hertz.
        mels: bands.
        window: samples of a frame.
        hop: samples between frames.
        shape: of the window: "hamming", "hanning" or "povey", all symmetric.
        low: where the lowest band begins, in hertz.
        high: where the highest band ends, in hertz; 0: half the sample rate.
        emphasis: of high frequencies.
        dither: deviation of Gaussian noise added to every sample of every frame; 0: none.
        seed: of the dither, which is the same on every run: frame k of every signal gets the noise of (seed, k).

    Raises:
        ValueError: no such shape, or a band without a width.
    """

    window: Tensor
    triangles: Tensor

    def __init__(
        self,
        sample_rate: int = 16_000,
        mels: int = 80,
        window: int = 400,
        hop: int = 160,
        shape: str = "povey",
        low: float = 20.0,
        high: float = 0.0,
        emphasis: float = 0.97,
        dither: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(window, hop)
        high = high or sample_rate / 2
        if shape not in WINDOWS or not 0 <= low < high <= sample_rate / 2:
            raise ValueError(
                f"window {shape!r}, bands from {low} to {high} Hz\n"
                f"hint: the window is one of {', '.join(WINDOWS)}, bands lie between 0 and {sample_rate / 2} Hz"
            )
        self.length = 1 << (window - 1).bit_length()
        self.emphasis, self.dither, self.seed = emphasis, dither, seed
        dtype = torch.get_default_dtype()
        self.register_buffer("window", symmetric_window(window, shape).to(dtype), persistent=False)
        triangles = mel_triangles(sample_rate, mels, self.length, low, high)
        self.register_buffer("triangles", triangles.to(dtype), persistent=False)

    def operator(self, x: Tensor) -> Tensor:
        """Compute the features of all whole frames."""
        tiles = x.unfold(1, self.span, self.hop).split(TILE, 1)
        return torch.cat([self.features(frames) for frames in tiles], 1)

    def features(self, frames: Tensor) -> Tensor:
        """Compute the features of frames of samples: (batch, frame, window) to (batch, frame, mels)."""
        with torch.autocast(frames.device.type, enabled=False):
            frames = frames if frames.dtype == torch.float64 else frames.float()
            frames = frames - frames.mean(-1, keepdim=True)
            first, rest = frames[..., :1], frames[..., 1:] - self.emphasis * frames[..., :-1]
            emphasized = torch.cat([(1 - self.emphasis) * first, rest], -1)
            spectrum = torch.view_as_real(torch.fft.rfft(emphasized * self.window, self.length))
            return (spectrum.square().sum(-1) @ self.triangles).clamp_min(FLOOR).log()

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Compute the frames that the new samples complete; only dither needs to know their number."""
        if not self.dither:
            return super().step(x, state, last)
        joined = x if state is None else torch.cat([state.samples.past, x], 1)
        frame = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device) if state is None else state.frame
        count = max(0, (joined.shape[1] - self.span) // self.hop + 1)
        y = at_least(self.span, self.operator, joined) if not count else self.dithered(joined, frame, count)
        return y, Heard(Tail(own(joined[:, count * self.hop :])), frame + count)

    def dithered(self, x: Tensor, frame: Tensor, count: int) -> Tensor:
        """Compute the features of `count` frames, row i beginning with number frame[i], with noise on each."""
        made, numbers = [], frame.tolist()
        for first, frames in enumerate(x.unfold(1, self.span, self.hop)[:, :count].split(TILE, 1)):
            noise = {number: self.noise(number + first * TILE, frames.shape[1]) for number in set(numbers)}
            rows = [noise[number] for number in numbers]
            made.append(self.features(frames + self.dither * torch.stack(rows).to(frames) if rows else frames))
        return torch.cat(made, 1)

    def noise(self, start: int, count: int) -> Tensor:
        """Draw the noise of frames start, start + 1, ...: (count, window), each by a generator of its own."""
        generators = (np.random.default_rng([self.seed, number]) for number in range(start, start + count))
        return torch.from_numpy(np.stack([one.standard_normal(self.span, np.float32) for one in generators]))


class Deltas(Window):
    """How fast each band changes: (batch, frame, band) to the same, a regression over two frames on each side.

        y_t = sum over i = 1, 2 of i (x_(t+i) - x_(t-i)) / 10

    What lies before the first and after the last frame equals these. As `torchaudio.functional.compute_deltas`.
    """

    def __init__(self) -> None:
        super().__init__(2 * REACH + 1, left=REACH, right=REACH)

    def operator(self, x: Tensor) -> Tensor:
        """Fit a line through five frames."""
        n = x.shape[1] - 2 * REACH
        slopes = [i * (x[:, REACH + i :][:, :n] - x[:, REACH - i :][:, :n]) for i in range(1, REACH + 1)]
        return sum(slopes[1:], slopes[0]) / (2 * sum(i * i for i in range(1, REACH + 1)))

    def step(self, x: Tensor, state: Tail | None, last: bool) -> tuple[Tensor, Tail]:
        """Compute what is certain; the first frame stands before the sequence, the last one after it."""
        joined = x if state is None else torch.cat([state.past, x], 1)
        if joined.shape[1]:
            begins = state is None or not state.past.shape[1]
            before = [joined[:, :1]] * (REACH * begins)
            joined = torch.cat([*before, joined, *[joined[:, -1:]] * (REACH * last)], 1)
        done = max(0, joined.shape[1] - 2 * REACH)
        return at_least(self.span, self.operator, joined), Tail(own(joined[:, done:]))

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Let every row's last valid frame stand after it."""
        x = mask_beyond(x, lengths)
        index = torch.arange(x.shape[1], device=x.device).minimum((lengths - 1).clamp_min(0)[:, None])
        return self.step(x.gather(1, index[..., None].expand_as(x)), None, True)


def with_deltas(features: KaldiFilterBank) -> Chain:
    """Build a front end of features, their deltas, and the deltas of these, side by side on the last axis."""
    deltas = Fork(concatenate, still=identity(), first=Deltas(), second=Chain(Deltas(), Deltas()))
    return Chain(features=features, deltas=deltas)


def symmetric_window(length: int, shape: str) -> Tensor:
    """Give a window that is its own mirror image: float64 (length,)."""
    if shape == "hamming":
        return torch.hamming_window(length, periodic=False, dtype=torch.float64)
    hann = torch.hann_window(length, periodic=False, dtype=torch.float64)
    return hann if shape == "hanning" else hann**0.85


def mel_triangles(sample_rate: int, mels: int, length: int, low: float, high: float) -> Tensor:
    """Give Kaldi's triangles, linear in mel, without the last bin: float64 (length // 2 + 1, mels)."""
    edges = torch.linspace(mel(low), mel(high), mels + 2, dtype=torch.float64)
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    freq = torch.arange(length // 2, dtype=torch.float64) * sample_rate / length
    bins = (1127 * torch.log1p(freq / 700))[:, None]
    triangles = torch.minimum((bins - left) / (center - left), (right - bins) / (right - center))
    return functional.pad(triangles.clamp_min(0), (0, 0, 0, 1))


def mel(hertz: float) -> float:
    """Convert hertz to Kaldi's mel."""
    return 1127 * math.log1p(hertz / 700)
