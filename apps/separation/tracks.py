"""Who is who across windows: the order of the speakers, decided at every seam and never certain beyond the evidence.

A network gives its speakers in any order, and windows need not agree. Two kinds of evidence count, both in nats:
what the windows say about the time that they share (`same_sound`), and whose voice it is (`voices.py`). Sound in
common decides alone when there is some; silence there, or a single speaker, leaves it to the voices. What one seam
leaves open the next one may know: the belief in every order is carried on, voices that may be another's are learned
little of, and what was decided before is judged again.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from wavecast.apps.separation.voices import Voiceprint

SECONDS = 0.05  # of a stretch of shared time that counts once
NATS = 0.5  # that a stretch weighs when both windows hear the same there
VOICE_NATS = 8.0  # that voices may set one order above another: a separated voice is never quite the speaker's own
BOUND_NATS = 3.0  # that shared sound must set one order above another for windows to be bound to each other
CERTAIN = 0.95

Order = tuple[int, ...]
"""Which of a window's outputs each speaker is: speaker k is output order[k]."""


@dataclass(frozen=True)
class Seam:
    """A decision about the order of the speakers.

    Attributes:
        seconds: where in the signal.
        order: of the later window's outputs, one for each speaker.
        confidence: probability that it is right, by the evidence.
        certain: whether that is enough.
    """

    seconds: float
    order: Order
    confidence: float
    certain: bool


@dataclass(frozen=True)
class Decision:
    """What is found at a seam.

    Attributes:
        order: of the next window's outputs: speaker k is output order[k].
        confidence: probability that it is right. Orders that differ only in outputs without sound, or in speakers
            never heard before, are one.
        before: who the speakers of the window before are, as it now seems: who was called k is speaker before[k].
        hindsight: probability of both.
        bound: whether the windows have so much sound in common that what is true of one is true of the other.
    """

    order: Order
    confidence: float
    before: Order
    hindsight: float
    bound: bool


class Tracks:
    """The speakers heard so far.

    Args:
        speakers: their number.

    Attributes:
        prints: their voices.
    """

    def __init__(self, speakers: int) -> None:
        self.orders = list(permutations(range(speakers)))
        self.prints = [Voiceprint()] * speakers
        self.heard = [False] * speakers  # whether there was any sound of them, voiced or not
        # Belief that the speakers of the window before are truly its outputs in another order; first comes none.
        self.belief = np.zeros(len(self.orders))
        self.belief[0] = 1

    def begin(self, prints: list[Voiceprint], active: list[bool]) -> None:
        """Take the first window's outputs for the speakers."""
        self.prints, self.heard = list(prints), list(active)

    def decide(self, sound: np.ndarray, prints: list[Voiceprint], active: list[bool]) -> Decision:
        """Decide the order of the next window's outputs, and learn from it.

        Args:
            sound: (speaker, output), nats for each speaker of the window before being that output.
            prints: the outputs' voices.
            active: whether there is any sound in them.
        """
        speakers = range(len(prints))
        # `sound` is about the window before as it was ordered; where that was wrong, its speakers are others.
        shared = {order: sum(sound[k, order[k]] for k in speakers) for order in self.orders}
        joint = np.array([[shared[tuple(order[k] for k in truth)] for truth in self.orders] for order in self.orders])
        joint += self._voices(prints)[:, None] + np.log(self.belief + 1e-300)
        joint = np.exp(joint - joint.max())  # (order, truth of the window before)
        posterior = joint.sum(1)
        best = int(posterior.argmax())
        before = int(joint[best].argmax())
        confidence = self._confidence(posterior, best, active)
        order = self.orders[best]
        inverse = inverted(order)
        right = {tuple(inverse[j] for j in other): p for other, p in zip(self.orders, posterior, strict=True)}
        self.belief = np.array([right[inverted(truth)] for truth in self.orders]) / posterior.sum()
        weight = max(0.0, 2 * confidence - 1)
        self.prints = [self.prints[k].plus(prints[order[k]], weight) for k in speakers]
        self.heard = [self.heard[k] or active[order[k]] for k in speakers]
        hindsight = confidence * float(joint[best, before] / posterior[best])
        second, first = sorted(shared.values())[-2:]
        return Decision(order, confidence, self.orders[before], hindsight, first - second > BOUND_NATS)

    def _voices(self, prints: list[Voiceprint]) -> np.ndarray:
        """Weigh every order by whose voices the outputs would be, in nats below the likeliest."""
        alike = [[one.same_speaker(other) for other in prints] for one in self.prints]
        nats = np.array([sum(alike[k][j] for k, j in enumerate(order)) for order in self.orders])
        return np.maximum(nats - nats.max(), -VOICE_NATS)

    def _confidence(self, posterior: np.ndarray, best: int, active: list[bool]) -> float:
        """Give the probability of the best order among those that differ in what can be heard."""
        chances: dict[frozenset[tuple[int, int]], list[float]] = {}
        kinds = [frozenset((k, j) for k, j in enumerate(order) if self.heard[k] and active[j]) for order in self.orders]
        for kind, chance in zip(kinds, posterior, strict=True):
            chances.setdefault(kind, []).append(float(chance))
        means = {kind: sum(each) / len(each) for kind, each in chances.items()}
        return means[kinds[best]] / sum(means.values())


def inverted(order: Order) -> Order:
    """Give the order that undoes another."""
    return tuple(order.index(k) for k in range(len(order)))


def same_sound(before: np.ndarray, after: np.ndarray, stretch: int, silence: float) -> np.ndarray:
    """Weigh for every pair of outputs whether it is the same sound, over the time that two windows share.

    Args:
        before: (channels, samples, speaker), the end of the window before.
        after: (channels, samples, output), the same time in the next window, at the same level.
        stretch: samples that count once, however loud.
        silence: mean square of a channel below which nothing is heard.

    Returns:
        (speaker, output), in nats.
    """
    count, channels = before.shape[1] // stretch, len(before)
    if not count:
        return np.zeros((before.shape[2], after.shape[2]))
    a, b = (x[:, : count * stretch].reshape(channels, count, stretch, -1).astype(np.float64) for x in (before, after))
    product = np.einsum("ctsi,ctsj->tij", a, b)
    energy = 0.5 * (np.square(a).sum((0, 2, 3)) + np.square(b).sum((0, 2, 3)))
    loud = energy > silence * stretch * channels
    return NATS * np.sum(product[loud] / energy[loud, None, None], 0)
