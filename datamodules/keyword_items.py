"""Views of single words as a spotter has them: item k is a function of (seed, k) and of nothing else.

A view is as long as the spotter's window. In a live stream a word lies anywhere in it, among silence, noise and other
speech, so a placed view holds at least nine tenths of the word. What must not be taken for a word is in views of other
speech, of words of which less than half is inside, and of no speech at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import soxr

from wavecast.datamodules.clips import Clips
from wavecast.datamodules.items import Item
from wavecast.datamodules.keyword_clips import SILENCE, UNKNOWN
from wavecast.datamodules.mixing import Surroundings
from wavecast.datamodules.talking import active_level

LEVEL = np.float32(0.1)
"""Of the active parts of a word before it is recorded."""
FRAME, FLOOR = 160, 35.0
"""Where a word begins and ends: the first and last frame of so many samples less than so many dB below its loudest."""
OVERHANG, REST = 0.1, 0.45
"""Most of a word that may lie outside of its view, and most of it that is no word yet."""

Kind = Literal["word", "unknown", "silence"]


@dataclass(frozen=True)
class Shares:
    """How views are made: shares of all views, and chances of each.

    Attributes:
        unknown: views of speech that is none of the words.
        silence: views without speech.
        cut: of those of other speech: a word of which less than half is inside.
        context: of those of a word: other speech before or after it.
        mixed: two sounds at once, with both labels (mixup, Zhang et al. 2018).
    """

    unknown: float = 0.0
    silence: float = 0.0
    cut: float = 0.25
    context: float = 0.5
    mixed: float = 0.0


class KeywordItems:
    """Views of words, of other speech and of silence.

    Args:
        words: clips of the words; the attribute `word` is a class.
        classes: in the order of the targets; `_unknown_` and `_silence_` may be among them.
        samples: of a view.
        seed: another seed gives another order and other augmentation.
        other: speech that is none of the words.
        shares: how views are made.
        placed: words anywhere in the view, alone in it but for their context; else clips as they are, from the first
            sample on.
        speed: slowest and fastest; a voice that is faster is higher, too.
        beta: the share of the first sound of a mixed view is drawn from Beta(beta, beta).
        surroundings: the room, noises and recording that views are heard through; None: as they are.
    """

    def __init__(
        self,
        words: Clips,
        classes: Sequence[str],
        samples: int,
        seed: int = 0,
        *,
        other: Clips | None = None,
        shares: Shares | None = None,
        placed: bool = True,
        speed: tuple[float, float] = (1.0, 1.0),
        beta: float = 10.0,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.words, self.other, self.classes, self.samples, self.seed = words, other, list(classes), samples, seed
        self.shares, self.placed, self.speed, self.beta = shares or Shares(), placed, speed, beta
        self.surroundings = surroundings
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def item(self, k: int) -> Item:
        """Make view k.

        Returns:
            sound: float32 (samples,); target: float32 (classes,), the share of each class; number: int64 (), k.
        """
        rng = np.random.default_rng([self.seed, k])
        return self.view(rng, self.draw_kind(rng), k)

    def view(self, rng: np.random.Generator, kind: Kind, k: int) -> Item:
        """Make a view of a kind; one of a word is of clip k in the order of its time round."""
        sound, target = self.labelled(rng, kind, self.row(k))
        if rng.random() < self.shares.mixed:
            another, its = self.labelled(rng, self.draw_kind(rng), int(rng.integers(len(self.words))))
            share = np.float32(rng.beta(self.beta, self.beta))
            sound, target = share * sound + (1 - share) * another, share * target + (1 - share) * its
        if self.surroundings is not None:
            sound = self.surroundings.record(rng, sound)
        return {"sound": sound.astype(np.float32, copy=False), "target": target, "number": np.array(k)}

    def draw_kind(self, rng: np.random.Generator) -> Kind:
        """Draw what a view is of."""
        drawn = rng.random()
        if drawn < self.shares.silence:
            return "silence"
        return "unknown" if drawn < self.shares.silence + self.shares.unknown else "word"

    def row(self, k: int) -> int:
        """Give the clip of place k: all clips, in another order each time round."""
        turn, place = divmod(k, len(self.words))
        if self._order[0] != turn:
            self._order = turn, np.random.default_rng([self.seed, turn, 1]).permutation(len(self.words))
        return int(self._order[1][place])

    def labelled(self, rng: np.random.Generator, kind: Kind, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Make the sound of a view, float32 (samples,), and its target; `row` is the clip if it is of a word."""
        if kind == "silence":
            return np.zeros(self.samples, np.float32), self.target(SILENCE)
        if kind == "unknown":
            return self.unknown(rng, row), self.target(UNKNOWN)
        target = self.target(self.words.attributes[row]["word"])
        if self.placed:
            return self.among_speech(rng, self.word(rng, row)), target
        clip = self.words.clip(row, 0, self.samples)
        return np.pad(clip, (0, self.samples - len(clip))), target

    def target(self, name: str) -> np.ndarray:
        """Give the target of a class: float32 (classes,)."""
        return np.array([name == one for one in self.classes], np.float32)

    def word(self, rng: np.random.Generator, row: int) -> np.ndarray:
        """Give a word without the pauses around it, at the common level, faster or slower."""
        word = active_part(self.words.clip(row))
        speed = round(rng.uniform(*self.speed), 2)
        if speed != 1.0:
            word = soxr.resample(word, 100 * speed, 100, "MQ")
        return leveled(word)

    def among_speech(self, rng: np.random.Generator, word: np.ndarray) -> np.ndarray:
        """Place a word in a view, most of it inside, with other speech before and after it or not."""
        over = int(OVERHANG * len(word))
        last = max(0, self.samples - len(word))
        start = int(rng.integers(-over, last + over + 1))
        sound = np.zeros(self.samples, np.float32)
        for before, stretch in ((True, start), (False, self.samples - start - len(word))):
            if self.other is not None and rng.random() < self.shares.context:
                pause = int(rng.exponential(0.05) * self.words.sample_rate)
                if (length := stretch - pause) > 0:
                    piece = self.speech(rng, length)
                    sound[slice(0, length) if before else slice(-length, None)] = piece
        put(sound, word, start)
        return sound

    def unknown(self, rng: np.random.Generator, row: int) -> np.ndarray:
        """Make a view of speech that is none of the words."""
        if self.other is None or rng.random() < self.shares.cut:
            return self.cut_word(rng, self.word(rng, row))
        return self.speech(rng, self.samples)

    def cut_word(self, rng: np.random.Generator, word: np.ndarray) -> np.ndarray:
        """Let a word begin as the view ends, or end as it begins: less than half of it is inside."""
        inside = int(rng.uniform(0.1, REST) * len(word))
        sound = self.speech(rng, self.samples) if self.other is not None and rng.random() < 0.3 else None
        sound = np.zeros(self.samples, np.float32) if sound is None else sound
        put(sound, word, self.samples - inside if rng.random() < 0.5 else inside - len(word))
        return sound

    def speech(self, rng: np.random.Generator, samples: int) -> np.ndarray:
        """Cut a piece out of other speech, up to 8 dB louder or softer than a word: float32 (samples,)."""
        if self.other is None:
            return np.zeros(samples, np.float32)
        row = self.other.draw(rng)
        spare = int(self.other.lengths[row]) - samples
        piece = self.other.clip(row, int(rng.integers(spare + 1)) if spare > 0 else 0, samples)
        piece = leveled(piece) * np.float32(10 ** (rng.uniform(-8, 8) / 20))
        return np.pad(piece, (0, samples - len(piece)))


class FixedItems:
    """Views to validate on: every word once, then other speech and silence, by number.

    Args:
        items: make the views.
        counts: how many views of each kind.
    """

    def __init__(self, items: KeywordItems, counts: dict[Kind, int]) -> None:
        self.items, self.counts = items, counts
        self._kinds: list[Kind] = [kind for kind, count in counts.items() for _ in range(count)]

    def __len__(self) -> int:
        return len(self._kinds)

    def item(self, k: int) -> Item:
        """Make view k."""
        return self.items.view(np.random.default_rng([self.items.seed, k]), self._kinds[k], k)


def active_part(sound: np.ndarray) -> np.ndarray:
    """Cut off the pauses before and after speech."""
    whole = len(sound) // FRAME
    if not whole:
        return sound
    power = np.square(sound[: whole * FRAME]).reshape(whole, FRAME).mean(1)
    loud = np.flatnonzero(power >= max(power.max(), 1e-12) * 10 ** (-FLOOR / 10))
    return sound[loud[0] * FRAME : (loud[-1] + 1) * FRAME] if len(loud) else sound


def leveled(sound: np.ndarray) -> np.ndarray:
    """Bring the active parts of speech to the common level; what is next to silent stays so."""
    return sound * (LEVEL / np.float32(active_level(sound) + 1e-4))


def put(sound: np.ndarray, piece: np.ndarray, start: int) -> None:
    """Add a piece to a sound, as far as it lies inside; it may begin before the sound does."""
    first, stop = max(0, start), min(len(sound), start + len(piece))
    if first < stop:
        sound[first:stop] += piece[first - start : stop - start]
