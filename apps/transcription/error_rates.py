"""Word and character error rates: the fewest substitutions, deletions and insertions that turn one text into another.

Texts are compared as `wavecast.datamodules.manifests.normalize` has them: by default lower-case letters, digits, and
apostrophes inside words; punctuation does not count and numbers are not spelled out. A rate over a corpus is all errors
by all words of the references, not the mean of the rates.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wavecast.datamodules.manifests import TextStyle, normalize

Kind = Literal["equal", "substitution", "deletion", "insertion"]


@dataclass(frozen=True)
class Errors:
    """What is wrong with a text, or with many.

    Attributes:
        length: words (or characters) of the reference.
        substitutions: of them replaced.
        deletions: of them missing.
        insertions: words that the reference has not.
    """

    length: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def count(self) -> int:
        """All errors."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors by length of the reference; above 1 when much is inserted, NaN for an empty reference."""
        return self.count / self.length if self.length else float("nan")

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(
            self.length + other.length,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


def word_errors(reference: str, hypothesis: str, style: TextStyle = "spoken") -> Errors:
    """Compare two texts word by word, after normalizing both."""
    return compare(normalize(reference, style).split(), normalize(hypothesis, style).split())


def character_errors(reference: str, hypothesis: str, style: TextStyle = "spoken") -> Errors:
    """Compare two texts character by character, single spaces between words included, after normalizing both."""
    return compare(normalize(reference, style), normalize(hypothesis, style))


def total(errors: Iterable[Errors]) -> Errors:
    """Add up the errors of many texts."""
    return sum(errors, Errors())


def compare(reference: Sequence[str], hypothesis: Sequence[str]) -> Errors:
    """Count the errors of a hypothesis in the alignment that `align` finds."""
    kinds = [kind for kind, _, _ in align(reference, hypothesis)]
    return Errors(len(reference), *(kinds.count(kind) for kind in ("substitution", "deletion", "insertion")))


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[tuple[Kind, int, int]]:
    """Align two sequences with the fewest errors (Levenshtein 1966).

    Of several such alignments it is the one that, read from the end, prefers pairs to deletions to insertions.

    Args:
        reference: words or characters.
        hypothesis: the same.

    Returns:
        Of each step its kind and the places reached in both: an equal or substituted pair is (kind, i, j), a deletion
        leaves out reference[i] before hypothesis[j], an insertion adds hypothesis[j] before reference[i].
    """
    distances = distance_table(reference, hypothesis)
    i, j = len(reference), len(hypothesis)
    steps: list[tuple[Kind, int, int]] = []
    while i or j:
        here = distances[i, j]
        same = i > 0 and j > 0 and reference[i - 1] == hypothesis[j - 1]
        if i and j and here == distances[i - 1, j - 1] + (not same):
            i, j = i - 1, j - 1
            steps.append(("equal" if same else "substitution", i, j))
        elif i and here == distances[i - 1, j] + 1:
            i -= 1
            steps.append(("deletion", i, j))
        else:
            j -= 1
            steps.append(("insertion", i, j))
    return steps[::-1]


def distance_table(reference: Sequence[str], hypothesis: Sequence[str]) -> np.ndarray:
    """Compute the edit distance of every pair of beginnings: int32 (reference + 1, hypothesis + 1), row by row.

    In a row, an insertion comes from the left: d[j] = min over i <= j of c[i] + (j - i), a running minimum of c[i] - i.
    """
    numbers: dict[str, int] = {}
    first, second = (
        np.array([numbers.setdefault(one, len(numbers)) for one in sequence], np.int32)
        for sequence in (reference, hypothesis)
    )
    steps = np.arange(len(second) + 1, dtype=np.int32)
    table = np.empty((len(first) + 1, len(steps)), np.int32)
    table[0] = steps
    for i, one in enumerate(first):
        best = table[i] + 1
        np.minimum(best[1:], table[i, :-1] + (second != one), out=best[1:])
        table[i + 1] = np.minimum.accumulate(best - steps) + steps
    return table
