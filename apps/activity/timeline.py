"""What happens when: overlapping windows become moments in a row, and moments become segments of one activity each.

Both work while the video still runs.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NOTHING = "nothing"
"""What is told of a video in which no activity is probable enough."""
CLOSE = 1e-6  # seconds that do not count


@dataclass(frozen=True)
class Moment:
    """A piece of a timeline; the pieces follow one another without gaps.

    Attributes:
        start: in seconds since the beginning of the video.
        end: of it.
        probabilities: (classes,), the mean of the windows that cover it.
    """

    start: float
    end: float
    probabilities: np.ndarray


@dataclass(frozen=True)
class Segment:
    """A stretch of one activity.

    Attributes:
        start: in seconds since the beginning of the video.
        end: of it.
        activity: the name of its class.
        confidence: mean probability of the class.
    """

    start: float
    end: float
    activity: str
    confidence: float


class Blend:
    """Windows put together: each stride of the timeline has the mean of the windows that cover it.

    A stride is final once the window that begins with it is there; no later one covers it.

    Args:
        window: seconds of a window.
        stride: seconds from one to the next, at most a window.
    """

    def __init__(self, window: float, stride: float) -> None:
        self._stride, self._count = stride, 0
        self._most = max(1, int((window + CLOSE) / stride))  # windows that cover a stride
        self._recent: deque[np.ndarray] = deque(maxlen=self._most)

    def add(self, probabilities: np.ndarray) -> Moment:
        """Take the next window; give the moment that is final with it."""
        self._recent.append(probabilities)
        self._count += 1
        return self._moment((self._count - 1) * self._stride, self._count * self._stride, [*self._recent])

    def finish(self, end: float, rest: np.ndarray | None) -> list[Moment]:
        """End the video, and give what is left of it.

        Args:
            end: of the video in seconds.
            rest: probabilities of a window that the end has cut off; None: there is none.
        """
        last = self._recent[-1] if self._recent else rest
        moments: list[Moment] = []
        while last is not None and (start := (self._count + len(moments)) * self._stride) < end - CLOSE:
            windows = [*self._recent][max(0, len(self._recent) + len(moments) + 1 - self._most) :]
            windows = windows if rest is None else [*windows, rest]
            moments.append(self._moment(start, min(start + self._stride, end), windows or [last]))
        return moments

    @staticmethod
    def _moment(start: float, end: float, windows: Sequence[np.ndarray]) -> Moment:
        return Moment(start, end, np.mean(windows, 0))


@dataclass
class _Run:
    """Moments of one activity."""

    label: int
    start: float
    end: float
    weight: float = 0.0
    seconds: float = 0.0

    def add(self, moment: Moment) -> None:
        length = moment.end - moment.start
        self.end, self.seconds = moment.end, self.seconds + length
        self.weight += length * float(moment.probabilities[self.label])


class Segmenter:
    """Find the segments of a timeline.

    The most probable activity counts, and nothing where it is less probable than the threshold. What is shorter than
    the minimum is left out, and an activity goes on over it.

    Args:
        classes: names of the activities.
        threshold: least probability.
        minimum: seconds of a segment at least.
    """

    def __init__(self, classes: Sequence[str], threshold: float = 0.0, minimum: float = 0.0) -> None:
        self.classes, self._threshold, self._minimum = classes, threshold, minimum
        self._held: _Run | None = None  # long enough to be told once it has ended
        self._begun: _Run | None = None  # not yet

    def step(self, moment: Moment) -> list[Segment]:
        """Take the next moment; give the segments that have ended, one at most."""
        label = int(moment.probabilities.argmax())
        if moment.probabilities[label] < self._threshold:
            self._begun = None
            return self._let_go(moment.end)
        if self._held is not None and self._held.label == label:
            self._held.add(moment)
            self._begun = None
            return []
        if self._begun is None or self._begun.label != label:
            self._begun = _Run(label, moment.start, moment.end)
        self._begun.add(moment)
        if self._begun.end - self._begun.start < self._minimum - CLOSE:
            return self._let_go(moment.end)
        ended = self._told()
        self._held, self._begun = self._begun, None
        return ended

    def finish(self) -> list[Segment]:
        """End the timeline, and give the segment under way, if it is long enough."""
        self._begun = None
        return self._told()

    def partial(self) -> Segment | None:
        """Give the segment under way, as far as it is known."""
        return None if self._held is None else self._segment(self._held)

    def _let_go(self, now: float) -> list[Segment]:
        """Tell the segment that is held if it ended too long ago to go on."""
        gone = self._held is not None and now - self._held.end >= self._minimum - CLOSE
        return self._told() if gone else []

    def _told(self) -> list[Segment]:
        run, self._held = self._held, None
        return [] if run is None else [self._segment(run)]

    def _segment(self, run: _Run) -> Segment:
        return Segment(run.start, run.end, self.classes[run.label], run.weight / run.seconds)
