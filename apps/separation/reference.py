"""How near separated voices came to those that were mixed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from wavecast.apps.separation.metrics import separated, unprocessed
from wavecast.core.errors import WavecastError
from wavecast.datamodules.audio_files import load_audio


@dataclass
class References:
    """The voices of a mixture on their own, which the results are compared with.

    Attributes:
        voices: float32 (speakers, samples).
        sample_rate: of them, in hertz.
        mixture: its blocks so far, mean of the channels.
        results: the same of the results, (speakers, n).
    """

    voices: np.ndarray
    sample_rate: int
    mixture: list[np.ndarray] = field(default_factory=list)
    results: list[np.ndarray] = field(default_factory=list)

    @staticmethod
    def read(paths: Sequence[str]) -> "References":
        """Read them.

        Raises:
            WavecastError: one cannot be read, or they differ in length or rate.
        """
        sounds = [load_audio(path) for path in paths]
        if len({(x.shape[1], rate) for x, rate in sounds}) > 1:
            found = ", ".join(f"{x.shape[1]} samples at {rate} Hz" for x, rate in sounds)
            raise WavecastError(f"the references differ: {found}", "give the voices of one mixture")
        return References(np.stack([x.mean(0) for x, _ in sounds]), sounds[0][1])

    def check(self, frames: int, sample_rate: int) -> None:
        """Refuse a recording that is not their mixture.

        Raises:
            WavecastError: its rate or length is another.
        """
        there = self.voices.shape[1]
        if sample_rate != self.sample_rate or frames != there:
            raise WavecastError(
                f"the references have {there} samples at {self.sample_rate} Hz, the recording {frames} at "
                f"{sample_rate} Hz",
                "give the voices of this very recording",
            )

    def add(self, x: np.ndarray) -> None:
        """Take the next block of the mixture: (channels, samples)."""
        self.mixture.append(np.nan_to_num(x.mean(0)))

    def add_results(self, y: np.ndarray) -> None:
        """Take the next block of the results: (speakers, channels, samples)."""
        self.results.append(y.mean(1))

    def row(self) -> dict[str, Any]:
        """Give SI-SDR in dB before and after, the mean of the speakers in the assignment that is best, and the gain."""
        sources = torch.from_numpy(self.voices).T[None]
        mixture = torch.from_numpy(np.concatenate(self.mixture))[None]
        after, _ = separated(torch.from_numpy(np.concatenate(self.results, 1)).T[None], sources)
        scores = {"si_sdr_in": unprocessed(mixture, sources)[0], "si_sdr_out": after[0]}
        scores["si_sdr_gain"] = scores["si_sdr_out"] - scores["si_sdr_in"]
        row: dict[str, Any] = {name: round(float(values.nanmean()), 3) for name, values in scores.items()}
        return row | {"si_sdr_gains": [round(value, 3) for value in scores["si_sdr_gain"].tolist()]}
