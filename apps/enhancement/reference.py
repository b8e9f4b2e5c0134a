"""How near a result came to a clean original."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from wavecast.apps.sound.metrics import pesq, si_sdr
from wavecast.core.errors import WavecastError
from wavecast.core.resample import Resampler
from wavecast.datamodules.audio_files import load_audio


@dataclass
class Reference:
    """A clean original that the result is compared with.

    Attributes:
        clean: float32 (channels, samples).
        sample_rate: of it, in hertz.
        pieces: of the sound before and after so far, mean of the channels.
    """

    clean: np.ndarray
    sample_rate: int
    pieces: dict[str, list[np.ndarray]] = field(default_factory=lambda: {"before": [], "after": []})

    @staticmethod
    def read(path: str | Path) -> "Reference":
        """Read the clean original."""
        return Reference(*load_audio(path))

    def add(self, side: str, x: np.ndarray) -> None:
        """Take the next block of a side, "before" or "after": (channels, samples)."""
        self.pieces[side].append(np.nan_to_num(x.mean(0)))

    def row(self, sample_rate: int) -> dict[str, float]:
        """Give SI-SDR before and after in dB, the gain, and PESQ where it is installed.

        Raises:
            WavecastError: rate or length differ from the reference's.
        """
        clean = self.clean.mean(0)
        before, after = (np.concatenate(self.pieces[side]) for side in ("before", "after"))
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
