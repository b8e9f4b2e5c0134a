"""What a run did, in numbers: levels, clipped samples, time, and how near a clean reference it came."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from wavecast.apps.enhancement.metrics import pesq, si_sdr
from wavecast.core.errors import WavecastError
from wavecast.core.resample import Resampler
from wavecast.datamodules.audio_files import load_audio


@dataclass
class Level:
    """The level of a signal, block by block."""

    count: int = 0
    power: float = 0.0
    peak: float = 0.0

    def add(self, x: np.ndarray) -> None:
        """Take the next block; what is not finite does not count."""
        finite = x[np.isfinite(x)]
        if finite.size:
            self.count += finite.size
            self.power += float(np.square(finite, dtype=np.float64).sum())
            self.peak = max(self.peak, float(np.abs(finite).max()))

    def row(self) -> dict[str, float | None]:
        """Give RMS and peak in dB below full scale; None for silence."""
        rms = (self.power / self.count) ** 0.5 if self.count else 0.0
        return {"rms_db": decibels(rms), "peak_db": decibels(self.peak)}


def decibels(amplitude: float) -> float | None:
    """Give 20 log10, rounded to hundredths; None for nothing."""
    return round(20 * float(np.log10(amplitude)), 2) if amplitude > 0 else None


@dataclass
class Reference:
    """A clean original that the result is compared with.

    Attributes:
        clean: float32 (channels, samples).
        sample_rate: of it, in hertz.
        pieces: of input and output so far, mean of the channels.
    """

    clean: np.ndarray
    sample_rate: int
    pieces: dict[str, list[np.ndarray]] = field(default_factory=lambda: {"in": [], "out": []})

    @staticmethod
    def read(path: str | Path) -> "Reference":
        """Read the clean original."""
        return Reference(*load_audio(path))

    def add(self, side: str, x: np.ndarray) -> None:
        """Take the next block of a side, "in" or "out": (channels, samples)."""
        self.pieces[side].append(np.nan_to_num(x.mean(0)))

    def row(self, sample_rate: int) -> dict[str, float]:
        """Give SI-SDR before and after in dB, the gain, and PESQ where it is installed.

        Raises:
            WavecastError: rate or length differ from the reference's.
        """
        clean = self.clean.mean(0)
        before, after = (np.concatenate(self.pieces[side]) for side in ("in", "out"))
        if sample_rate != self.sample_rate or len(clean) != len(after):
            raise WavecastError(
                f"the reference has {len(clean)} samples at {self.sample_rate} Hz, the recording {len(after)} at "
                f"{sample_rate} Hz",
                "give the clean original of this very recording",
            )
        scores = {"si_sdr_in": float(si_sdr(before, clean)), "si_sdr_out": float(si_sdr(after, clean))}
        scores["si_sdr_gain"] = scores["si_sdr_out"] - scores["si_sdr_in"]
        if find_spec("pesq"):
            heard = narrowed(clean, sample_rate)
            scores["pesq_in"] = pesq(narrowed(before, sample_rate), heard)
            scores["pesq_out"] = pesq(narrowed(after, sample_rate), heard)
        return {name: round(value, 3) for name, value in scores.items() if np.isfinite(value)}


def narrowed(x: np.ndarray, sample_rate: int) -> np.ndarray:
    """Resample (samples,) to 16 kHz, where PESQ listens."""
    resampler = Resampler(sample_rate, 16_000, 1)
    return np.concatenate([resampler.push(x[None].astype(np.float32)), resampler.flush()], 1)[0]
