"""The automaton of boosted phrases against a naive matcher; reading phrases; what each decoder makes of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wavecast.apps.transcription.boosting import Booster, boost_phrases, read_phrases
from wavecast.apps.transcription.decoding import GreedyCTC
from wavecast.core.errors import WavecastError

CLASSES = 4  # three tokens and the blank: phrases overlap all the time
MANY = settings(max_examples=80, deadline=None, derandomize=True, database=None)
texts = st.lists(st.integers(0, CLASSES - 2), max_size=25)
phrases = st.lists(
    st.tuples(st.lists(st.integers(0, CLASSES - 2), min_size=1, max_size=5), st.sampled_from([0.5, 1.0, 3.0])),
    min_size=1,
    max_size=8,
)


def gained(known: list[tuple[list[int], float]], text: list[int]) -> float:
    """Look for every phrase at every place."""
    best = {}
    for ids, weight in known:
        best[tuple(ids)] = max(weight, best.get(tuple(ids), 0.0))
    return sum(
        weight * len(ids)
        for ids, weight in best.items()
        for i in range(len(text))
        if tuple(text[i : i + len(ids)]) == ids
    )


@MANY
@given(phrases, texts)
def test_only_whole_phrases_gain(known, text):
    booster, place, score = Booster(known, CLASSES), 0, 0.0
    for n, token in enumerate(text, 1):
        score += float(booster.change(place)[token])
        place = booster.next(place, token)
        assert score - booster.owed(place) == pytest.approx(gained(known, text[:n]), abs=1e-4)
    assert booster.change(place)[-1] == 0


@MANY
@given(phrases, texts)
def test_the_place_is_the_longest_phrase_under_way(known, text):
    booster, place = Booster(known, CLASSES), 0
    spelled = {0: []}
    waiting = [0]
    while waiting:
        one = waiting.pop()
        for token, child in booster.children[one].items():
            spelled[child] = [*spelled[one], token]
            waiting.append(child)
    begun = [ids[:n] for ids, _ in known for n in range(1, len(ids) + 1)]
    for n, token in enumerate(text, 1):
        place = booster.next(place, token)
        ends = [one for one in begun if text[:n][-len(one) :] == one]
        assert spelled[place] == max(ends, key=len, default=[])


@MANY
@given(phrases, texts)
def test_greedy_decoding_favors_what_goes_on_with_a_phrase(known, text):
    booster, places = Booster(known, CLASSES), torch.tensor([0, 0])
    begun = {}
    for ids, weight in known:
        for n in range(1, len(ids) + 1):
            begun[tuple(ids[:n])] = max(weight, begun.get(tuple(ids[:n]), 0.0))
    for token in text:
        places = booster.advance(places, torch.tensor([token, CLASSES - 2]))
    bonus = booster.bonus(places)
    assert bonus.shape == (2, CLASSES)
    assert bonus.ge(0).all()
    assert bonus[:, -1].eq(0).all()
    for token in range(CLASSES - 1):
        said = (*text, token)
        ends = [one for one in begun if said[-len(one) :] == one]
        assert float(bonus[0, token]) == (begun[max(ends, key=len)] if ends else 0.0)


def test_an_example_by_hand():
    booster = Booster([([0, 1, 2], 1.0), ([1, 1], 2.0)], CLASSES)
    scores, place = [], 0
    for token in [0, 1, 1, 0]:
        scores.append(float(booster.change(place)[token]))
        place = booster.next(place, token)
    # "0" begins the first phrase; "0 1" is two thirds of it, and half of the other; "0 1 1" is the other, whole, and
    # its last token begins it again; "0" breaks that off and begins the first.
    assert scores == [1.0, 1.0, 4.0, -1.0]


def test_greedy_ctc_spells_a_boosted_phrase_where_it_was_close():
    logits = torch.tensor([[[1.0, 0.8, 0.0, 0.0], [0.0, 0.0, 0.0, 3.0], [1.0, 0.2, 0.7, 0.0]]])

    def ids(booster):
        return GreedyCTC(nn.Identity(), 3, booster).step(logits, None)[0][0].ids

    assert ids(None) == [0, 0]
    assert ids(Booster([([1, 2], 0.5)], CLASSES)) == [1, 2]
    assert ids(Booster([([1, 2], 0.1)], CLASSES)) == [0, 0]
    assert GreedyCTC(nn.Identity(), 3, Booster([([1, 2], 0.5)], CLASSES)).step(logits, None)[0][0].probabilities[
        0
    ] == pytest.approx(float(logits[0, 0].softmax(0)[1]))


def test_phrases_are_read_from_a_file(tmp_path):
    file = tmp_path / "phrases.txt"
    file.write_text("\ufeff# names\nAda  Lovelace\t3.5\n\nBabbage\n  Mill \t \n", encoding="utf-8")
    assert read_phrases(file) == [("Ada Lovelace", 3.5), ("Babbage", 2.0), ("Mill", 2.0)]
    assert read_phrases(file, weight=1.0)[1] == ("Babbage", 1.0)


@pytest.mark.parametrize("weight", ["high", "-1", "0", "nan", "inf", "1\t2"])
def test_wrong_weights_are_named_with_their_line(tmp_path, weight):
    file = tmp_path / "phrases.txt"
    file.write_text(f"one\ntwo\t{weight}\n", encoding="utf-8")
    with pytest.raises(WavecastError, match=r"phrases\.txt, line 2: '.*' is no weight\nhint: write a positive number"):
        read_phrases(file)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(WavecastError, match=r"no phrases read: .*No such file(.|\n)*hint: give a text file in UTF-8"):
        read_phrases(tmp_path / "none.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(WavecastError, match=r"no phrases read: 'utf-8' codec(.|\n)*hint: give a text file"):
        read_phrases(tmp_path / "binary")


def letters(text: str) -> list[int]:
    return ["?abc".find(one) if one in "abc" else 0 for one in text]


def test_phrases_are_spelled_by_the_vocabulary():
    booster = boost_phrases([("ab", 1.0), ("c", 2.0)], letters, 5, unknown=0)
    assert booster.next(booster.next(0, 1), 2) != 0
    assert booster.change(0).tolist() == [0.0, 1.0, 0.0, 2.0, 0.0]
    for phrase in ("aX", ""):
        with pytest.raises(WavecastError, match=f"cannot spell the phrase '{phrase}'\nhint: write it with the letters"):
            boost_phrases([(phrase, 1.0)], letters, 5, unknown=0)


@pytest.mark.parametrize("ids", [[], [3], [-1], [0, 7]])
def test_phrases_of_no_tokens_are_refused(ids):
    with pytest.raises(ValueError, match=r"no phrase of the tokens \[.*\]\nhint: use ids of 0 to 2"):
        Booster([(ids, 1.0)], CLASSES)
