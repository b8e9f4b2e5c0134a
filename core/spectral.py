"""From samples to spectra and back: STFT and its inverse as blocks, and bands on the scale of hearing.

A spectrum is real: (batch, time, freq, 2) with the real part first.
"""

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.core.block import Block, Count, Window
from wavecast.core.state import own, state


def sqrt_hann(length: int) -> Tensor:
    """Give the square root of the periodic Hann window, float64 (length,): squared and half overlapped it sums to 1."""
    return torch.hann_window(length, periodic=True, dtype=torch.float64).sqrt()


class STFT(Window):
    """Windowed Fourier transform: (batch, samples) to (batch, frames, length // 2 + 1, 2).

    Args:
        length: samples of a frame.
        hop: samples between frames.
        left: zeros before the signal; length - hop makes frame j end with sample (j + 1) hop - 1.
        right: zeros after it.
        window: (length,); None: the square root of a Hann window.
    """

    window: Tensor

    def __init__(self, length: int, hop: int, left: int = 0, right: int = 0, window: Tensor | None = None) -> None:
        super().__init__(length, hop, left, right)
        window = sqrt_hann(length) if window is None else window
        self.register_buffer("window", window.to(torch.get_default_dtype()), persistent=False)

    def operator(self, x: Tensor) -> Tensor:
        """Transform all whole frames."""
        return torch.view_as_real(torch.fft.rfft(x.unfold(1, self.span, self.hop) * self.window))


@state
class Overlap:
    """What an overlap-add remembers.

    samples: (batch, length - hop), what the frames so far add to samples that are not finished; empty before the first.
    cut: (batch, samples cut so far, 0); only its shape says something.
    """

    samples: Tensor
    cut: Tensor


class InverseSTFT(Block):
    """Overlap-add of windowed inverse transforms: (batch, frames, length // 2 + 1, 2) to (batch, samples).

    n frames give (n - 1) hop + length samples, less the cut. The products of the windows of analysis and synthesis
    must sum to one: square-root Hann windows do with half overlap (hop = length / 2) everywhere but at the edges, where
    one frame is alone; for others divide by what `overlapped` makes of their product.

    Args:
        length: samples of a frame.
        hop: samples between frames, a divisor of the length.
        cut: samples dropped at the beginning, below the length: what the analysis' zeros on the left became.
        window: (length,); None: the square root of a Hann window.
    """

    window: Tensor

    def __init__(self, length: int, hop: int, cut: int = 0, window: Tensor | None = None) -> None:
        super().__init__()
        if length % hop or not 0 <= cut < length:
            raise ValueError(f"length {length} must be a multiple of hop {hop}, and cut {cut} below it")
        self.length, self.hop, self.cut = length, hop, cut
        self.stride = Fraction(1, hop)
        self.lookahead = -(-cut // hop)
        window = sqrt_hann(length) if window is None else window
        self.register_buffer("window", window.to(torch.get_default_dtype()), persistent=False)

    def out_length(self, n: Count) -> Count:
        """Count the samples of n frames."""
        return ((n - 1) * self.hop + self.length - self.cut) * (n > 0)

    def step(self, x: Tensor, state: Overlap | None, last: bool) -> tuple[Tensor, Overlap]:
        """Add the new frames up; samples that a later frame still reaches wait."""
        frames, kept = x.shape[1], self.length - self.hop
        past = x.new_zeros(x.shape[0], 0) if state is None else state.samples
        cut = 0 if state is None else state.cut.shape[1]
        samples = functional.pad(past, (0, kept - past.shape[1] + frames * self.hop)) if frames else past
        if frames:
            samples = samples + self.overlap(x)
        done = samples.shape[1] if last else frames * self.hop
        drop = min(self.cut - cut, done)
        marker = x.new_zeros(x.shape[0], cut + drop, 0)
        return samples[:, drop:done], Overlap(own(samples[:, done:]), marker)

    def overlap(self, x: Tensor) -> Tensor:
        """Add whole frames up: (batch, frames, freq, 2) to (batch, (frames - 1) hop + length)."""
        return self.overlapped(torch.fft.irfft(torch.view_as_complex(x.contiguous()), self.length) * self.window)

    def overlapped(self, frames: Tensor) -> Tensor:
        """Add frames of samples up: (batch, frames, length) to (batch, (frames - 1) hop + length)."""
        parts = frames.unflatten(2, (-1, self.hop))
        count = parts.shape[2]
        total = sum(functional.pad(parts[:, :, i], (0, 0, i, count - 1 - i)) for i in range(count))
        return total.flatten(1)


class Bands(nn.Module):
    """Bands of a spectrum on the scale of hearing: single bins below, triangles of equal ERB width above.

    Maps (..., bins) to (..., bands), and back by `expand`, which interpolates so that a constant stays constant.
    ERB scale: Glasberg and Moore, "Derivation of auditory filter shapes from notched-noise data", 1990.

    Args:
        bins: of the spectrum, 0 to half the sample rate.
        single: lowest bins, each a band of its own.
        bands: in all.
        sample_rate: in hertz.
    """

    gather: Tensor
    spread: Tensor

    def __init__(self, bins: int = 257, single: int = 64, bands: int = 128, sample_rate: int = 16_000) -> None:
        super().__init__()
        self.single = single
        triangles = erb_triangles(bins, single, bands, sample_rate)
        gather = triangles / triangles.sum(0).clamp_min(1e-9)
        spread = (triangles / triangles.sum(1, keepdim=True)).T.contiguous()
        dtype = torch.get_default_dtype()
        self.register_buffer("gather", gather.to(dtype), persistent=False)
        self.register_buffer("spread", spread.to(dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Average bins into bands: (..., bins) to (..., bands)."""
        return torch.cat([x[..., : self.single], x[..., self.single :] @ self.gather], -1)

    def expand(self, x: Tensor) -> Tensor:
        """Interpolate bands to bins: (..., bands) to (..., bins)."""
        return torch.cat([x[..., : self.single], x[..., self.single :] @ self.spread], -1)


def erb_triangles(bins: int, single: int, bands: int, sample_rate: int) -> Tensor:
    """Give triangles evenly spaced in ERB above the single bins: float64 (bins - single, bands - single)."""
    freq = torch.linspace(0, sample_rate / 2, bins, dtype=torch.float64)
    low, high = (21.4 * torch.log10(1 + 0.00437 * freq[[single, -1]])).tolist()
    centers = (10 ** (torch.linspace(low, high, bands - single, dtype=torch.float64) / 21.4) - 1) / 0.00437
    below = torch.cat([freq[single - 1 : single], centers[:-1]])
    above = torch.cat([centers[1:], centers[-1:] + 1])
    rising = (freq[single:, None] - below) / (centers - below)
    falling = (above - freq[single:, None]) / (above - centers)
    return torch.minimum(rising, falling).clamp_min(0)
