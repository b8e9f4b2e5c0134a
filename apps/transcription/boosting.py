"""Phrases that a decoder is told to expect: an Aho-Corasick automaton over tokens.

While a phrase is being spelled, its tokens raise the score; when the spelling breaks off, the automaton falls back to
the longest phrase that may still be under way, and takes the rest back. So the score of a text is that of the whole
phrases in it, no matter where decoding stands: what is added on the way is a potential, a function of the place alone.

Aho, Corasick: "Efficient string matching: an aid to bibliographic search", 1975.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from wavecast.apps.transcription.guides import ROOT
from wavecast.core.errors import WavecastError

WEIGHT = 2.0
"""Added to the log-probability of every token of a phrase that names no weight of its own."""


class Booster:
    """The automaton. Its places are numbered; at place 0 nothing is being spelled.

    A whole phrase of n tokens and weight w adds n w to the logarithm of a text's probability; phrases within phrases
    and overlapping ones each add theirs.

    Args:
        phrases: token ids and weight of each; the highest counts where one is named twice.
        classes: of the decoder, the blank (the last) included.

    Raises:
        ValueError: a phrase has no token, or one that is no class or the blank.
    """

    def __init__(self, phrases: Iterable[tuple[Sequence[int], float]], classes: int) -> None:
        self.classes = classes
        self.children: list[dict[int, int]] = [{}]
        self.weight, self.gain, self._potential = [0.0], [0.0], [0.0]
        self.fallback = [ROOT]
        self._vectors: dict[tuple[int, bool], Tensor] = {}
        for ids, weight in phrases:
            self._add(ids, weight)
        self._link()

    def _add(self, ids: Sequence[int], weight: float) -> None:
        if not ids or not all(0 <= token < self.classes - 1 for token in ids):
            raise ValueError(f"no phrase of the tokens {list(ids)}\nhint: use ids of 0 to {self.classes - 2}")
        place = ROOT
        for depth, token in enumerate(ids, 1):
            if token not in self.children[place]:
                self.children[place][token] = len(self.children)
                self.children.append({})
                self.fallback.append(ROOT)
                for values in (self.weight, self.gain, self._potential):
                    values.append(0.0)
            place = self.children[place][token]
            self.weight[place] = max(self.weight[place], weight)
            if depth < len(ids):
                self._potential[place] = max(self._potential[place], depth * weight)
        self.gain[place] = max(self.gain[place], len(ids) * weight)

    def _link(self) -> None:
        """Find each place's fallback, the longest shorter spelling that ends alike, and what is due to that one too."""
        waiting = deque((ROOT, token, child) for token, child in self.children[ROOT].items())
        while waiting:
            parent, token, place = waiting.popleft()
            shorter = self.next(self.fallback[parent], token) if parent != ROOT else ROOT
            self.fallback[place] = shorter
            self.gain[place] += self.gain[shorter]
            self._potential[place] = max(self._potential[place], self._potential[shorter])
            waiting.extend((place, *arc) for arc in self.children[place].items())

    def next(self, place: int, token: int) -> int:
        """Give the place after one more token."""
        while token not in self.children[place] and place != ROOT:
            place = self.fallback[place]
        return self.children[place].get(token, ROOT)

    def __len__(self) -> int:
        return len(self.children)

    def change(self, place: int) -> Tensor:
        """Give what each class adds to a text's score at a place: (classes,), negative where a phrase breaks off."""
        return self._vector(place, True)

    def owed(self, place: int) -> float:
        """Give what a text that ends at a place has to give back: what the phrase under way has added."""
        return self._potential[place]

    def bonus(self, places: Tensor) -> Tensor:
        """Give what greedy decoding adds at each place: (batch,) to (batch, classes).

        It cannot take back a token that it has found, so it adds a phrase's weight to each token that goes on with it,
        and nothing to the others.
        """
        return torch.stack([self._vector(place, False) for place in places.tolist()])

    def advance(self, places: Tensor, ids: Tensor) -> Tensor:
        """Give the place of each row after one more token: (batch,) to (batch,)."""
        pairs = zip(places.tolist(), ids.tolist(), strict=True)
        return places.new_tensor([self.next(place, token) for place, token in pairs])

    def _vector(self, place: int, whole: bool) -> Tensor:
        """Make (and keep: decoding returns to few places) what the classes add."""
        if (place, whole) not in self._vectors:
            vector = torch.full((self.classes,), -self._potential[place] if whole else 0.0)
            spelled = [place]
            while spelled[-1] != ROOT:
                spelled.append(self.fallback[spelled[-1]])
            for one in reversed(spelled):
                for token, child in self.children[one].items():
                    change = self._potential[child] + self.gain[child] - self._potential[place]
                    vector[token] = change if whole else self.weight[child]
            vector[-1] = 0
            self._vectors[place, whole] = vector
        return self._vectors[place, whole]


def read_phrases(path: str | Path, weight: float = WEIGHT) -> list[tuple[str, float]]:
    """Read a file of phrases: one a line, with a weight of its own after a tab; lines that begin with # are comments.

    Args:
        path: a text file in UTF-8.
        weight: of phrases without one.

    Raises:
        WavecastError: the file cannot be read, or a weight is no positive number.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WavecastError(
            f"{path}: no phrases read: {error}", "give a text file in UTF-8, one phrase a line"
        ) from error
    phrases = []
    for number, line in enumerate(lines, 1):
        phrase, _, given = line.partition("\t")
        phrase = " ".join(phrase.split())
        if not phrase or phrase.startswith("#"):
            continue
        try:
            one = float(given) if given.strip() else weight
        except ValueError:
            one = float("nan")
        if not 0 < one < float("inf"):
            raise WavecastError(
                f"{path}, line {number}: {given.strip()!r} is no weight",
                f"write a positive number after the tab, or nothing for {weight:g}",
            )
        phrases.append((phrase, one))
    return phrases


def boost_phrases(
    phrases: Sequence[tuple[str, float]], encode: Callable[[str], list[int]], classes: int, unknown: int | None = None
) -> Booster:
    """Make the automaton of phrases in text.

    Args:
        phrases: text and weight.
        encode: text to token ids, as of `Tokenizer`.
        classes: of the decoder, the blank included.
        unknown: the id that stands for characters which the vocabulary lacks.

    Raises:
        WavecastError: the vocabulary cannot spell a phrase.
    """
    encoded = []
    for phrase, weight in phrases:
        ids = encode(phrase)
        if not ids or unknown in ids:
            raise WavecastError(
                f"the model's vocabulary cannot spell the phrase {phrase!r}",
                "write it with the letters that the model writes, often lower case without digits",
            )
        encoded.append((ids, weight))
    return Booster(encoded, classes)
