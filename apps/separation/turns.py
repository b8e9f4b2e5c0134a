"""Who speaks when within a window: a network gives its speakers in an order that may change wherever one pauses.

While a single voice is heard, little tells a network which output it belongs to, and a weak one tears it between two.
What it separates well is put together again by voice: the window is cut into stretches, and of every stretch each
output is given to a speaker, two outputs to the same one if they hold the same voice. Of all such assignments the one
is sought under which the speakers' voices are the likeliest, as the two-covariance model of `voices.py` has it, at a
cost for every change: a hidden Markov model, solved by Viterbi's algorithm and the voices' means in turns, from several
beginnings. The stretches of the last windows are judged again with every new one; what was given out stays.

A network that keeps its order is better left alone: a voice of many moods or recordings can be taken for two.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, permutations, product

import numpy as np

from wavecast.apps.separation.voices import DEPENDENT, SPREAD, Voiceprint

STRETCH = 16
"""Frames that are given to speakers as one, a quarter of a second."""
CHANGE, CHANGE_IN_SILENCE = 5.0, 2.0
"""Nats against another assignment than the stretch before has."""
SHARED = 0.25
"""Nats against two outputs of a stretch being one speaker's."""
GAIN = 6.0
"""Nats that an assignment must be above the network's own order."""
USUAL = 0.5
"""Of the variance between speakers, what a recording of some may vary by above that of one."""
ROUNDS, BEGINNINGS = 8, 10
BLOCK, LEAST = 6, 2.5
"""Stretches in which a voice is first looked for, and independent frames that it takes."""
HISTORY = 3
"""Windows that are judged again."""


@dataclass(frozen=True)
class Turn:
    """A decision within a window: from here on a speaker is another output.

    Attributes:
        seconds: where in the signal.
        confidence: probability that it is right, against nothing changing here.
        certain: whether that is enough.
    """

    seconds: float
    confidence: float
    certain: bool


@dataclass(frozen=True)
class Heard:
    """A window of a conversation.

    Attributes:
        evidence: (stretch, output, 1 + feature), from `gather`.
        sounding: (stretch,), whether there is any sound.
        speakers: (stretch, output), whose the outputs are.
    """

    evidence: np.ndarray
    sounding: np.ndarray
    speakers: np.ndarray

    def until(self, stretch: int) -> "Heard":
        """Give the stretches before one."""
        return Heard(self.evidence[:stretch], self.sounding[:stretch], self.speakers[:stretch])

    def voices(self, count: int) -> np.ndarray:
        """Sum the evidence of each speaker: (speaker, 1 + feature)."""
        return np.array([self.evidence[self.speakers == k].sum(0) for k in range(count)])

    def prints(self, count: int) -> list[Voiceprint]:
        """Give the voices of its speakers."""
        return [Voiceprint(DEPENDENT * voice[0], DEPENDENT * voice[1:]) for voice in self.voices(count)]


class Conversation:
    """What was heard of the speakers on one channel, window by window.

    Args:
        speakers: their number, and that of the network's outputs.
        follow: look for outputs that change speakers; otherwise every window keeps the network's order.
    """

    def __init__(self, speakers: int, follow: bool = True) -> None:
        self.speakers, self.follow = speakers, follow
        self.history: list[Heard] = []
        self.known = np.zeros((speakers, 1 + len(SPREAD)))  # voices in the windows that are not judged again

    def hear(self, evidence: np.ndarray, sounding: np.ndarray, shared: int) -> tuple[Heard, list[tuple[int, float]]]:
        """Find whose the outputs of the next window are.

        Args:
            evidence: (stretch, output, 1 + feature), from `gather`.
            sounding: (stretch,), whether there is any sound.
            shared: stretches at the window's beginning that the window before has at its end.

        Returns:
            The window, and the stretches in which a speaker becomes another output, each with the probability that
            this is right.
        """
        if self.history:
            last = self.history[-1]
            self.history[-1] = last.until(max(0, len(last.evidence) - shared))
        plain = np.tile(np.arange(self.speakers), (len(evidence), 1))
        windows = [*self.history, Heard(evidence, sounding, plain)]
        if not self.follow:
            return windows[-1], []
        past = sum(len(one.evidence) for one in self.history)
        own = np.concatenate([one.speakers for one in windows])
        turns = Turns(
            np.concatenate([one.evidence for one in windows]),
            np.concatenate([one.sounding for one in windows]),
            self.known,
        )
        path = turns.find(turns.path_of(own))
        found = turns.states[path]
        if not self.known[:, 0].any():  # then any names will do, and the best are those in use
            weight, names = turns.evidence[..., 0], permutations(range(self.speakers))
            found = np.array(max(names, key=lambda n: (weight * (np.array(n)[found] == own)).sum()))[found]
        at = 0
        for k, one in enumerate(windows):
            windows[k] = replace(one, speakers=found[at : at + len(one.evidence)])
            at += len(one.evidence)
        self.history, window = windows, windows[-1]
        if len(self.history) > HISTORY:
            self.known = self.known + self.history.pop(0).voices(self.speakers)
        return window, [(k - past, chance) for k, chance in turns.changes(path) if k > past]

    def rename(self, names: Sequence[int], first: int, last: int | None = None) -> None:
        """Correct who the speakers of some windows of the history were: who was called k is names[k]."""
        chosen = range(len(self.history))[first:last]
        for k in chosen:
            self.history[k] = replace(self.history[k], speakers=np.array(names)[self.history[k].speakers])


class Turns:
    """The search for the likeliest assignment of a sequence of stretches.

    Args:
        evidence: (stretch, output, 1 + feature), from `gather`.
        sounding: (stretch,), whether there is any sound.
        known: (speaker, 1 + feature), the same of the speakers before; zeros for one who was not heard.

    Attributes:
        states: (state, output), the speaker of each output.
    """

    def __init__(self, evidence: np.ndarray, sounding: np.ndarray, known: np.ndarray) -> None:
        total = evidence.sum((0, 1)) + known.sum(0)
        scale = np.concatenate([[1.0], usual_scale(evidence, total[1:] / max(total[0], 1e-9))])
        self.evidence, self.known, total = evidence * scale, known * scale, total * scale
        self.mean = total[1:] / max(total[0], 1e-9)
        self.change = np.where(sounding, CHANGE, CHANGE_IN_SILENCE)
        count = len(known)
        self.states = np.array(list(product(range(count), repeat=count)))
        self.shared = SHARED * np.array([count - len(set(state)) for state in self.states.tolist()])

    def path_of(self, speakers: np.ndarray) -> np.ndarray:
        """Give the states (stretch,) of an assignment (stretch, output)."""
        return (self.states == speakers[:, None]).all(2).argmax(1)

    def find(self, own: np.ndarray) -> np.ndarray:
        """Find the likeliest states (stretch,); `own` if none is clearly better."""
        if not len(own):
            return own
        best, found = self.score(own) + GAIN, own
        for voices in self.beginnings(own):
            path = self.settle(voices)
            if (score := self.score(path)) > best:
                best, found = score, path
        return found

    def beginnings(self, own: np.ndarray) -> list[np.ndarray]:
        """Choose voices to begin with: those of the network's order, those known, and some of blocks for who is not."""
        starts = range(0, max(1, len(own) - BLOCK + 1), BLOCK // 2)
        blocks = np.array([self.evidence[k : k + BLOCK].sum((0, 1)) for k in starts])
        blocks = blocks[blocks[:, 0] >= LEAST]
        if not len(blocks):
            return []
        missing = [k for k, voice in enumerate(self.known) if not voice[0]]
        if not missing:
            return [self.voices(own), self.known]
        chosen = [self.voices(own)]
        for k in np.unique(np.linspace(0, len(blocks) - 1, BEGINNINGS).astype(int)):
            voices = self.known.copy()
            voices[missing[0]] = blocks[k]
            for other in missing[1:]:  # whoever is least like those there are
                alike = [self.marginal(blocks + one) - self.marginal(one) for one in voices if one[0]]
                voices[other] = blocks[int((np.max(alike, 0) - self.marginal(blocks)).argmin())]
            chosen.append(voices)
        return chosen

    def settle(self, voices: np.ndarray) -> np.ndarray:
        """Follow the voices from where they begin to the likeliest states (stretch,) near to it."""
        best, found = -np.inf, np.zeros(len(self.evidence), int)
        for _ in range(ROUNDS):
            path = self.path(voices)
            score = self.score(path)
            if score <= best:
                break
            best, found, voices = score, path, self.voices(path)
        return found

    def voices(self, path: np.ndarray) -> np.ndarray:
        """Give the voices, (speaker, 1 + feature), under states (stretch,)."""
        whose = self.states[path]
        return self.known + np.array([self.evidence[whose == k].sum(0) for k in range(len(self.known))])

    def score(self, path: np.ndarray) -> float:
        """Give the log-likelihood of states (stretch,), but for what is the same for all."""
        changes = self.change[1:][path[1:] != path[:-1]].sum()
        return float(self.marginal(self.voices(path)).sum() - changes - self.shared[path].sum())

    def changes(self, path: np.ndarray) -> list[tuple[int, float]]:
        """Give the stretches at which states (stretch,) change, with the probability of that against no change."""
        score, found, at = self.score(path), [], 0
        for _, run in groupby(path):
            end = at + len(list(run))
            if at:
                other = path.copy()
                other[at:end] = path[at - 1]
                found.append((at, float(1 / (1 + np.exp(min(self.score(other) - score, 700))))))
            at = end
        return found

    def marginal(self, voice: np.ndarray) -> np.ndarray:
        """Give the log-likelihood of frames (..., 1 + feature) being of one voice, whichever that is."""
        count, total = voice[..., :1], voice[..., 1:] - voice[..., :1] * self.mean
        weight = 1 + count * SPREAD
        return 0.5 * np.sum(total**2 * SPREAD / weight - np.log(weight), -1)

    def path(self, voices: np.ndarray) -> np.ndarray:
        """Find the likeliest states (stretch,) for voices (speaker, 1 + feature): Viterbi's algorithm."""
        fits = np.stack([self.fit(voice) for voice in voices], -1)  # (stretch, output, speaker)
        outputs = np.arange(fits.shape[1])
        states = np.stack([fits[:, outputs, state].sum(1) for state in self.states], 1) - self.shared
        score, origins = states[0], []
        for change, fit in zip(self.change[1:], states[1:], strict=True):
            jump = int(score.argmax())
            stays = score >= score[jump] - change
            origins.append(np.where(stays, np.arange(len(score)), jump))
            score = np.where(stays, score, score[jump] - change) + fit
        path = [int(score.argmax())]
        for origin in reversed(origins):
            path.append(int(origin[path[-1]]))
        return np.array(path[::-1])

    def fit(self, voice: np.ndarray) -> np.ndarray:
        """Give the log-likelihood of every stretch and output being of a voice: (stretch, output)."""
        variance = 1 / (1 / SPREAD + voice[0])  # of its mean
        mean = self.mean + variance * (voice[1:] - voice[0] * self.mean)
        count, total = self.evidence[..., :1], self.evidence[..., 1:]
        apart, weight = total - count * mean, 1 + count * variance
        return 0.5 * np.sum(2 * mean * total - count * mean**2 + apart**2 * variance / weight - np.log(weight), -1)


def gather(features: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Sum the features of an output's clear frames over stretches.

    Args:
        features: (frames, feature).
        clear: (frames,), which count.

    Returns:
        (stretch, 1 + feature): how many independent frames they are worth, and the sum of so many. The last stretch
        may be short.
    """
    x = np.column_stack([clear, features * clear[:, None]]) / DEPENDENT
    if not len(x):
        return x
    return np.add.reduceat(x, np.arange(0, len(x), STRETCH), 0)


def usual_scale(evidence: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Scale features (feature,) that vary more than speakers do: what sounds so is no speech, and tells less.

    Args:
        evidence: (stretch, output, 1 + feature).
        mean: (feature,), of all.
    """
    count = evidence[..., :1]
    apart = evidence[..., 1:] - count * mean
    variance = np.square(apart).sum((0, 1)) / max(count.sum(), 1e-9)
    return 1 / np.sqrt(np.maximum(1, variance / (1 + USUAL * SPREAD)))


def quietest(power: np.ndarray, stretch: int) -> int:
    """Find the frame at which sound passes best into a stretch: the weakest within half a stretch of its beginning.

    Args:
        power: (frames,), of all outputs together.
        stretch: which.
    """
    first = stretch * STRETCH - STRETCH // 2
    return first + int(power[first : first + STRETCH].argmin())


def rearranged(made: np.ndarray, speakers: np.ndarray, starts: Sequence[int], ramp: int) -> np.ndarray:
    """Give every speaker the outputs that are his.

    Args:
        made: float (samples, output).
        speakers: (part, output), whose the outputs are in every part.
        starts: sample at which each part begins, the first at 0.
        ramp: samples over which one part fades into the next, around its beginning.

    Returns:
        (samples, speaker), of the same sum; the same array where every output is the speaker of its place.
    """
    if (speakers == np.arange(speakers.shape[1])).all():
        return made
    lengths, given = np.diff([*starts, len(made)]), np.zeros_like(made)
    for output, whose in enumerate(speakers.T):
        for speaker in np.unique(whose):
            his = np.pad(np.repeat(whose == speaker, lengths).astype(float), (ramp // 2 + 1, (ramp - 1) // 2), "edge")
            running = his.cumsum()
            given[:, speaker] += made[:, output] * ((running[ramp:] - running[:-ramp]) / ramp).astype(made.dtype)
    return given
