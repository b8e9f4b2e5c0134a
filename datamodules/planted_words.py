"""Long recordings in which words are said at known times: what a spotter finds and what it misses is measured on them.

Recording k is a function of (seed, k): words of the views' clips, each once in a while among pauses and other speech,
heard in one room among the noises of one place.
"""

from dataclasses import dataclass

import numpy as np

from wavecast.datamodules.keyword_items import KeywordItems, put

SHARE_OF_SPEECH = 0.5
"""How much of the time between words is other speech."""


@dataclass(frozen=True)
class Said:
    """A word that was said, with its first and last second."""

    word: str
    start: float
    end: float


class PlantedWords:
    """Recordings with words in them.

    Args:
        items: give the words and the other speech, and the surroundings they are heard in.
        words: in a recording.
        pause: shortest and longest time between two words, in seconds.
    """

    def __init__(self, items: KeywordItems, words: int = 4, pause: tuple[float, float] = (1.5, 4.0)) -> None:
        self.items, self.words, self.pause = items, words, pause

    def recording(self, k: int) -> tuple[np.ndarray, list[Said]]:
        """Make recording k: float32 (samples,), and what is said in it."""
        items, rate = self.items, self.items.words.sample_rate
        rng = np.random.default_rng([items.seed, k, 6])
        pieces, said, at = [self.between(rng)], list[Said](), 0
        for number in range(self.words):
            at += len(pieces[-1])
            row = items.row(self.words * k + number)
            word = items.word(rng, row)
            said.append(Said(items.words.attributes[row]["word"], at / rate, (at + len(word)) / rate))
            pieces += [word, self.between(rng)]
            at += len(word)
        sound = np.concatenate(pieces)
        return (sound if items.surroundings is None else items.surroundings.record(rng, sound)), said

    def between(self, rng: np.random.Generator) -> np.ndarray:
        """Make a pause, with other speech in the middle of it or not: float32 (samples,)."""
        rate = self.items.words.sample_rate
        sound = np.zeros(int(rng.uniform(*self.pause) * rate), np.float32)
        if rng.random() < SHARE_OF_SPEECH:
            edge = int(rng.uniform(0.05, 0.3) * rate)
            put(sound, self.items.speech(rng, max(0, len(sound) - 2 * edge)), edge)
        return sound
