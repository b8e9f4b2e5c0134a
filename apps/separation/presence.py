"""Whether there is a voice in an output: how loud it is, how long it is heard, and how long it alone is voiced."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from wavecast.apps.separation.voices import HOP, VOICED, Analyzer

LOWEST, HIGHEST = -140, 40  # decibels that levels of frames are counted between
LOUD = 0.05  # part of the frames that are louder than the loud parts' level
RANGE = 40  # decibels below that in which there is sound
HEARD, LEADING = 0.1, 0.5  # part of a frame's power from which a voice is heard, and leads
LEAST_SECONDS, LEAST_PART = 0.3, 0.1  # in which a voice must lead, voiced; less in a recording shorter than 3 s


@dataclass(frozen=True)
class Voice:
    """What one output holds.

    Attributes:
        level_db: mean level below full scale while it is heard; None if it never is.
        active_seconds: in which it is heard.
        present: whether it is a voice.
    """

    level_db: float | None
    active_seconds: float
    present: bool


class Presence:
    """The outputs of a separator as they come, counted in bounded memory.

    Args:
        outputs: their number.
        rate: in hertz.
    """

    def __init__(self, outputs: int, rate: int) -> None:
        self.analyzer = Analyzer(rate)
        levels = HIGHEST - LOWEST + 1
        self.frames = np.zeros(levels)  # by the level of all outputs together
        self.heard, self.leading, self.energy = np.zeros((3, outputs, levels))
        self.rest = np.zeros((outputs, 0), np.float32)

    def add(self, x: np.ndarray) -> None:
        """Hear the next samples of all outputs (outputs, samples)."""
        x = np.concatenate([self.rest, x], 1)
        count = self.analyzer.count(x.shape[1])
        self.rest = x[:, count * self.analyzer.hop :].copy()
        if not count:
            return
        power = self.analyzer.power(x)
        total = power.sum(0)
        level = 10 * np.log10(np.maximum(total, 1e-30))
        index = (np.clip(np.round(level), LOWEST, HIGHEST) - LOWEST).astype(int)
        np.add.at(self.frames, index, 1)
        for k, one in enumerate(power):
            voiced = self.analyzer(x[k]).voicing > VOICED
            np.add.at(self.heard[k], index, one > HEARD * total)
            np.add.at(self.energy[k], index, np.where(one > HEARD * total, one, 0))
            np.add.at(self.leading[k], index, voiced & (one > LEADING * total))

    def voices(self) -> list[Voice]:
        """Say what the outputs hold."""
        sounding = self.frames.copy()
        sounding[0] = 0  # digital silence
        louder = sounding[::-1].cumsum()[::-1]
        loud = np.flatnonzero(louder > LOUD * sounding.sum())
        first = max(1, int(loud[-1]) - RANGE) if len(loud) else len(sounding)
        least = min(LEAST_SECONDS, LEAST_PART * HOP * louder[first] if len(loud) else 0)
        voices = []
        for heard, leading, energy in zip(self.heard, self.leading, self.energy, strict=True):
            count, led = heard[first:].sum(), HOP * leading[first:].sum()
            level = round(float(10 * np.log10(energy[first:].sum() / count)), 2) if count else None
            voices.append(Voice(level, round(float(HOP * count), 3), bool(led > 0 and led >= least)))
        return voices


def choose_results(voices: Sequence[Voice], auto: bool, residual: bool) -> list[list[int]]:
    """Choose the results: of which outputs each is the sum, so that all together still are the mixture.

    Args:
        voices: what was found in each output.
        auto: outputs without a voice are left out; they are part of the residual, or else of the loudest voice.
        residual: there is one more output, for what belongs to no speaker.

    Returns:
        For each result its outputs; the residual is the last one. Without any voice one result is left.
    """
    kept = kept_outputs(voices) if auto else list(range(len(voices)))
    results = [[i] for i in kept]
    home = results[max(range(len(kept)), key=lambda k: loudness(voices[kept[k]]))]
    if residual:
        home = [len(voices)]
        results.append(home)
    home += [i for i in range(len(voices)) if i not in kept]
    return results


def without_absent(y: np.ndarray, voices: Sequence[Voice]) -> np.ndarray:
    """Leave out outputs without a voice; what they hold goes to the residual, or else to the loudest voice.

    Args:
        y: (outputs, ...), one for each voice and perhaps the residual.
        voices: of the same recording.

    Returns:
        (outputs', ...) of the same sum. One output is left when no voice is present.
    """
    return np.stack([y[group].sum(0) for group in choose_results(voices, True, len(y) > len(voices))])


def kept_outputs(voices: Sequence[Voice]) -> list[int]:
    """Name the outputs that hold a voice; the loudest one where none does."""
    present = [k for k, voice in enumerate(voices) if voice.present]
    return present or [max(range(len(voices)), key=lambda k: loudness(voices[k]))]


def loudness(voice: Voice) -> float:
    """Give the level in dB, minus infinity where nothing is heard."""
    return -inf if voice.level_db is None else voice.level_db
