"""What a spotter finds and misses in long recordings: events against words that were said, false alarms an hour.

A word counts as found when an event of it has the middle of the word in its window. Every other event is a false alarm.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wavecast.apps.keywords.decisions import Event
from wavecast.core.errors import WavecastError
from wavecast.datamodules.planted_words import Said

LEVELS = np.round(1 / (1 + np.exp(-np.linspace(-4, 8, 37))), 6)
"""Thresholds of a curve: evenly spaced in the logit."""

Decide = Callable[[np.ndarray, float], Sequence[Event]]
"""Posteriors of a recording (decision, classes) and a threshold to events."""


@dataclass(frozen=True)
class Heard:
    """A recording as the network heard it.

    Attributes:
        posteriors: (decision, classes).
        said: words in it.
        seconds: its length.
    """

    posteriors: np.ndarray
    said: Sequence[Said]
    seconds: float


@dataclass(frozen=True)
class Point:
    """What becomes of recordings at a threshold.

    Attributes:
        threshold: of the posteriors.
        said: words.
        missed: of them.
        alarms: events of words that were not said.
        seconds: of the recordings that alarms are counted in.
        latency: mean of the events that found a word, from the end of the word on, in seconds; NaN without one.
    """

    threshold: float
    said: int
    missed: int
    alarms: int
    seconds: float
    latency: float = math.nan

    @property
    def recall(self) -> float:
        """Share of the words that were found; NaN without words."""
        return 1 - self.missed / self.said if self.said else math.nan

    @property
    def alarms_per_hour(self) -> float:
        """False alarms an hour; NaN without recordings."""
        return self.alarms / self.seconds * 3600 if self.seconds else math.nan


def match(events: Sequence[Event], said: Sequence[Said]) -> tuple[list[float], list[Event]]:
    """Match the events of a recording with the words that were said in it, each with at most one.

    Returns:
        How long after the end of each found word its event came, in seconds; and the events left over.
    """
    waiting, delays, alarms = list(said), list[float](), list[Event]()
    for event in events:
        fitting = [one for one in waiting if is_of(event, one)]
        if fitting:
            waiting.remove(fitting[0])
            delays.append(event.time + event.latency - fitting[0].end)
        else:
            alarms.append(event)
    return delays, alarms


def is_of(event: Event, said: Said) -> bool:
    """Tell whether an event may be of a word that was said."""
    return event.word == said.word and event.start <= (said.start + said.end) / 2 <= event.time


def measure(recordings: Sequence[Heard], silent: Sequence[Heard], decide: Decide, threshold: float) -> Point:
    """Count words missed in some recordings, and false alarms in others.

    Args:
        recordings: with words.
        silent: without words; alarms are counted in these, or in `recordings` when there is none.
        decide: makes the events.
        threshold: of the posteriors.
    """
    delays, alarms = list[float](), 0
    for one in recordings:
        found, others = match(decide(one.posteriors, threshold), one.said)
        delays += found
        alarms += 0 if silent else len(others)
    alarms += sum(len(decide(one.posteriors, threshold)) for one in silent)
    said = sum(len(one.said) for one in recordings)
    seconds = sum(one.seconds for one in silent or recordings)
    latency = float(np.mean(delays)) if delays else math.nan
    return Point(float(threshold), said, said - len(delays), alarms, seconds, latency)


def curve(recordings: Sequence[Heard], silent: Sequence[Heard], decide: Decide) -> list[Point]:
    """Measure at every threshold of `LEVELS`: the points of a DET plot.

    Raises:
        WavecastError: there is neither a word nor a recording to count alarms in.
    """
    if not recordings and not silent:
        raise WavecastError("there is nothing to listen to", "give --planted N or --without RECORDINGS")
    return [measure(recordings, silent, decide, float(level)) for level in LEVELS]


def at_recall(points: Sequence[Point], recall: float) -> Point | None:
    """Give the point of the fewest false alarms that still finds this share of the words; None: there is none."""
    fitting = [point for point in points if point.recall >= recall]
    return min(fitting, key=lambda point: (point.alarms_per_hour, -point.recall)) if fitting else None
