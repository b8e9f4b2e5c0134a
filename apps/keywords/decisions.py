"""From the posteriors of decision windows to events: words that were said, each once.

    decider = Decider(classes, {"yes": 0.8, "no": 0.7}, Timing(step=0.08, first=0.025, window=1.295))
    events = decider.push(posteriors)                       # (decision, classes), as often as some come
    events += decider.flush()

A decision rule is not published with the networks; this is the usual one. Posteriors are averaged over a stated time
(Chen, Parada, Heigold: "Small-footprint keyword spotting using deep neural networks", ICASSP 2014). A word is a
candidate while no other class is more probable and its average is not below its threshold. It becomes an event when it
no longer rises, or at once (early). After an event there is none for the refractory time, and none of the same word
before its average was below its threshold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from wavecast.apps.keywords.classes import REJECTED

THRESHOLD = 0.7
"""Of a word for which nobody said another one."""
SMOOTHING = 0.24
"""Seconds over which posteriors are averaged."""
REFRACTORY = 1.0
"""Seconds after an event without another one."""


@dataclass(frozen=True)
class Event:
    """A word that was said. Times are seconds of the stream.

    Attributes:
        word: one of the classes.
        start: where the decision's window begins.
        time: where it ends: the word has been heard by then.
        confidence: the average posterior, from 0 to 1.
        latency: how much more was heard when the event came.
        channel: number of the channel, from 1, where there are several; else 0.
    """

    word: str
    start: float
    time: float
    confidence: float
    latency: float
    channel: int = 0


@dataclass(frozen=True)
class Timing:
    """When decisions are made, in seconds.

    Attributes:
        step: from a decision to the next.
        first: where the window of the first decision ends.
        window: length of a decision's window.
    """

    step: float
    first: float = 0.0
    window: float = 1.0

    def end(self, decision: int) -> float:
        """Give where the window of a decision ends."""
        return self.first + decision * self.step

    def steps(self, seconds: float) -> int:
        """Count the steps of a time, rounded."""
        return round(seconds / self.step)


@dataclass(frozen=True)
class Candidate:
    """A word that may become an event: its class, its average posterior, and the number of the decision."""

    word: int
    confidence: float
    decision: int


class Decider:
    """The decisions of one stream.

    Args:
        classes: what the posteriors are of; those of `REJECTED` are never an event.
        thresholds: of each word that may become an event; other classes only keep words back.
        timing: of the decisions.
        smoothing: seconds over which posteriors are averaged; less than two steps: not at all.
        refractory: seconds between an event and the next.
        early: an event comes at the first decision that allows it; else at the first that is not better than the one
            before.
        channel: of the events.
    """

    def __init__(
        self,
        classes: Sequence[str],
        thresholds: Mapping[str, float],
        timing: Timing,
        smoothing: float = SMOOTHING,
        refractory: float = REFRACTORY,
        early: bool = False,
        channel: int = 0,
    ) -> None:
        self.classes, self.timing, self.early, self.channel = tuple(classes), timing, early, channel
        self._thresholds = np.array([inf if one in REJECTED else thresholds.get(one, inf) for one in classes])
        self._rejected = np.array([one in REJECTED for one in classes])
        self._averaged = max(1, timing.steps(smoothing))
        self._refractory = timing.steps(refractory)
        self._begin()

    def _begin(self) -> None:
        self._past = np.zeros((self._averaged - 1, len(self.classes)))  # posteriors that later averages still need
        self._count = 0  # decisions so far
        self._best: Candidate | None = None  # what becomes an event when it no longer rises
        self._last = -self._refractory  # decision of the last event
        self._said = np.zeros(len(self.classes), bool)  # words with an event that have not been below since

    def push(self, posteriors: np.ndarray, heard: float | None = None) -> list[Event]:
        """Take the posteriors of the next decisions; give the events that they make.

        Args:
            posteriors: (decision, classes), any number of decisions.
            heard: seconds of the stream when they came; None: each when its window was heard.

        Raises:
            ValueError: they are of another number of classes.
        """
        if posteriors.ndim != 2 or posteriors.shape[1] != len(self.classes):
            raise ValueError(f"expected (decision, {len(self.classes)}), got {posteriors.shape}")
        averages = self._averages(posteriors)
        above = averages >= self._thresholds
        events = []
        for candidate, row in zip(self._candidates(averages, above), above, strict=True):
            events += self._decide(candidate, heard)
            self._said &= row
            self._count += 1
        return events

    def flush(self, heard: float | None = None) -> list[Event]:
        """End the stream; give the event that was waiting. Afterwards the next stream can begin."""
        self._count -= 1  # it comes with the last decision
        events = [] if self._best is None else [self._event(self._best, heard)]
        self._begin()
        return events

    def _averages(self, posteriors: np.ndarray) -> np.ndarray:
        """Average each decision with those before it, in one order for every cut; before the stream nothing is said."""
        n, joined = len(posteriors), np.concatenate([self._past, posteriors])
        total = sum((joined[i : i + n] for i in range(1, self._averaged)), joined[:n])
        self._past = joined[n:].copy()
        return total / self._averaged

    def _candidates(self, averages: np.ndarray, above: np.ndarray) -> list[Candidate | None]:
        """Give the most probable class of each decision where it is a word above its threshold."""
        words = np.where(self._rejected, -inf, averages).argmax(1)
        rows = np.arange(len(words))
        confidences = averages[rows, words]
        rejected = averages.max(1, initial=-inf, where=self._rejected)
        good = above[rows, words] & (confidences > rejected)
        found = zip(words.tolist(), confidences.tolist(), good.tolist(), strict=True)
        return [Candidate(word, value, self._count + i) if one else None for i, (word, value, one) in enumerate(found)]

    def _decide(self, candidate: Candidate | None, heard: float | None) -> list[Event]:
        """Make the decision of number `_count`."""
        events, best = [], self._best
        if candidate is not None and self._said[candidate.word]:
            candidate = None
        if best is not None and (candidate is None or candidate.confidence <= best.confidence):
            events.append(self._event(best, heard))
            best = None
        if candidate is not None and (best is not None or self._may_begin(candidate)):
            best = candidate
        if best is not None and self.early:
            events.append(self._event(best, heard))
            best = None
        self._best = best
        return events

    def _may_begin(self, candidate: Candidate) -> bool:
        """Tell whether a word may be on its way, after the last event."""
        return not self._said[candidate.word] and candidate.decision - self._last >= self._refractory

    def _event(self, best: Candidate, heard: float | None) -> Event:
        """Make an event that comes with the decision of number `_count`."""
        self._last = best.decision
        self._said[best.word] = True
        time = self.timing.end(best.decision)
        emitted = self.timing.end(self._count) if heard is None else heard
        return Event(
            self.classes[best.word],
            start=round(max(0.0, time - self.timing.window), 6),
            time=round(time, 6),
            confidence=best.confidence,
            latency=round(max(0.0, emitted - time), 6),
            channel=self.channel,
        )
