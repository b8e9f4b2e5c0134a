"""Error rates against examples worked by hand, a recursive definition, and the alignment's own bookkeeping."""

from functools import cache

import numpy as np
import pytest

from wavecast.apps.transcription.error_rates import (
    Errors,
    align,
    character_errors,
    compare,
    distance_table,
    total,
    word_errors,
)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", (6, 0, 0, 0)),
        ("the cat sat on the mat", "the cat sit on mat", (6, 1, 1, 0)),
        ("the cat sat", "well the black cat sat down", (3, 0, 0, 3)),
        ("one two three", "", (3, 0, 3, 0)),
        ("", "one two", (0, 0, 0, 2)),
        ("a b c d", "b c d e", (4, 0, 1, 1)),
        ("a b", "c d e", (2, 2, 0, 1)),
    ],
)
def test_word_errors_by_hand(reference, hypothesis, expected):
    assert word_errors(reference, hypothesis) == Errors(*expected)


def test_rates():
    assert word_errors("the cat sat on the mat", "the cat sit on mat").rate == pytest.approx(2 / 6)
    assert character_errors("kitten", "sitting") == Errors(6, 2, 0, 1)
    assert character_errors("a b", "ab") == Errors(3, 0, 1, 0)
    assert np.isnan(word_errors("", "a").rate)
    assert word_errors("a", "b c d").rate == 3


def test_a_corpus_counts_words_not_utterances():
    """One of 1 word wrong and none of 9 is 10 %, not the mean of 100 % and 0 %."""
    both = total([word_errors("yes", "no"), word_errors("a b c d e f g h i", "a b c d e f g h i")])
    assert both == Errors(10, 1, 0, 0)
    assert both.rate == pytest.approx(0.1)


def test_texts_are_normalized_before_they_are_compared():
    assert word_errors("Don’t stop -- 'ROCK' it!", "don't stop rock it").count == 0
    assert word_errors("Stop.", "stop", "lower").count == 1
    assert word_errors("Stop", "stop", "verbatim").count == 1


def recursive(a, b):
    """The edit distance as it is defined."""

    @cache
    def distance(i, j):
        if not i or not j:
            return i + j
        replaced = distance(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(replaced, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(a), len(b))


def test_distances_are_those_of_the_definition_and_alignments_add_up_to_them():
    rng = np.random.default_rng(0)
    for _ in range(150):
        a, b = (["".join(rng.choice(list("abc"), 1)) for _ in range(rng.integers(0, 9))] for _ in range(2))
        table = distance_table(a, b)
        assert all(table[i, j] == recursive(a[:i], b[:j]) for i in range(len(a) + 1) for j in range(len(b) + 1))
        found = compare(a, b)
        assert found.count == recursive(a, b)
        steps = align(a, b)
        assert [i for kind, i, _ in steps if kind != "insertion"] == list(range(len(a)))
        assert [j for kind, _, j in steps if kind != "deletion"] == list(range(len(b)))
        for kind, i, j in steps:
            if kind in ("equal", "substitution"):
                assert (a[i] == b[j]) == (kind == "equal")


def test_alignment_of_a_sentence():
    steps = align(["the", "cat", "sat", "on", "the", "mat"], ["the", "cat", "sit", "on", "mat"])
    assert [kind for kind, _, _ in steps] == ["equal", "equal", "substitution", "equal", "deletion", "equal"]


def test_long_texts_are_compared_quickly_and_rightly():
    """1000 words of which every tenth is dropped."""
    words = [f"w{k}" for k in range(1000)]
    assert compare(words, [word for k, word in enumerate(words) if k % 10]) == Errors(1000, 0, 100, 0)
