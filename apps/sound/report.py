"""What a run on sound did, in numbers: levels, and what was wrong with the input."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from wavecast.core.resample import Resampler


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


def clipped(row: dict[str, Any]) -> str:
    """Say how many samples were cut, if any were."""
    count = row["clipped_samples"]
    return f", {count} samples above full scale (--peaks soft bends them)" if count else ""


def faults(row: dict[str, Any]) -> str:
    """Say what was wrong with the input, if anything was."""
    count = row["not_finite_samples"]
    text = f", {count} samples were not numbers and became 0" if count else ""
    return text + (", the input was cut off" if row["truncated"] else "")


def resampling_latency_ms(rate: int, network_rate: int) -> float:
    """Measure how much later sound comes for being resampled there and back, in milliseconds."""
    if rate == network_rate:
        return 0.0
    down, up = Resampler(rate, network_rate, 1), Resampler(network_rate, rate, 1)
    out = sum(up.push(down.push(np.zeros((1, rate // 100), np.float32))).shape[1] for _ in range(100))
    return round(1000 * (rate // 100 * 100 - out) / rate, 2)
