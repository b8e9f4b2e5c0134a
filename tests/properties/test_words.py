"""Words from tokens, whole and token by token; segments and where they end."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import one_hot

from wavecast.apps.transcription.beam import BeamCTC
from wavecast.apps.transcription.decoding import GreedyCTC, Tokens
from wavecast.apps.transcription.endpoint import Rules, Segmenter
from wavecast.apps.transcription.words import Segment, Word, Words, words_of

PIECES = ["<unk>", "▁hel", "lo", "▁", "▁you", "r", ".", ",", '▁"', "'s", "▁-", "5", "<0xC3>", "<0xA9>", "▁caf"]
COMPLETE = settings(max_examples=80, deadline=None, derandomize=True, database=None)


def tokens(*triples: tuple[str, int, float]) -> Tokens:
    return Tokens(
        [PIECES.index(piece) for piece, _, _ in triples],
        [frame for _, frame, _ in triples],
        [probability for _, _, probability in triples],
    )


def said(pieces: str, frames: list[int]) -> Tokens:
    return tokens(*((piece, frame, 0.5) for piece, frame in zip(pieces.split(), frames, strict=True)))


random_tokens = st.lists(st.tuples(st.sampled_from(PIECES), st.integers(0, 30)), max_size=30)


def spread(steps: list[tuple[str, int]]) -> Tokens:
    frame, triples = 0, []
    for piece, wait in steps:
        frame += wait
        triples.append((piece, frame, 0.5))
    return tokens(*triples)


def test_words_times_and_confidence():
    found = words_of(tokens(("▁hel", 3, 0.9), ("lo", 5, 0.6), ("▁you", 12, 0.8), ("r", 12, 0.7)), PIECES)
    assert found == [Word("hello", 0.24, 0.48, 0.6), Word("your", 0.96, 1.04, 0.7)]


def test_punctuation_belongs_to_the_word_before_it_and_does_not_prolong_it():
    found = words_of(tokens(("▁hel", 0, 0.9), ("lo", 1, 0.9), (".", 20, 0.1), ("▁you", 30, 0.8)), PIECES)
    assert found == [Word("hello.", 0.0, 0.16, 0.9), Word("you", 2.4, 2.48, 0.8)]
    assert [word.text for word in words_of(said("▁you ▁ , ▁you 's ▁ . ▁ .", [*range(9)]), PIECES)] == [
        "you,",
        "you's..",
    ]
    assert [word.text for word in words_of(said("▁ . 5 ▁ ▁you", [*range(5)]), PIECES)] == [".5", "you"]
    assert [word.text for word in words_of(said('▁" ▁you', [0, 1]), PIECES)] == ['"', "you"]


def test_bytes_and_unknown_pieces():
    assert [word.text for word in words_of(said("▁caf <0xC3> <0xA9> ▁you <unk>", [*range(5)]), PIECES)] == [
        "café",
        "you⁇",
    ]
    assert [word.text for word in words_of(said("▁caf <0xC3>", [0, 1]), PIECES)] == ["caf�"]


def test_a_word_is_final_when_the_next_has_begun():
    words = Words(PIECES)
    assert words.add(said("▁hel", [0])) == []
    assert [word.text for word in words.open()] == ["hel"]
    assert words.add(said("lo ▁", [1, 2])) == []
    assert [word.text for word in words.open()] == ["hello"]
    assert words.add(said(".", [3])) == []
    assert [word.text for word in words.open()] == ["hello."]
    assert [word.text for word in words.add(said("▁you", [4]))] == ["hello."]
    assert [word.text for word in words.close()] == ["you"]
    assert words.open() == []


@COMPLETE
@given(random_tokens, st.lists(st.integers(0, 30), max_size=5))
def test_words_do_not_depend_on_the_pieces_and_lose_nothing(steps, cuts):
    whole = spread(steps)
    words, found = Words(PIECES), []
    for a, b in pairwise([0, *sorted(cuts), 99]):
        found += words.add(Tokens(whole.ids[a:b], whole.frames[a:b], whole.probabilities[a:b]))
        shown = found + words.open()
        assert words_of(Tokens(whole.ids[:b], whole.frames[:b], whole.probabilities[:b]), PIECES) == shown
        assert len(words.open()) <= 2
    found += words.close()
    assert found == words_of(whole, PIECES)
    letters = "".join(piece for piece, _ in steps).replace("▁", "").replace("<unk>", "⁇")
    text = "".join(word.text for word in found)
    if "<0x" not in letters:
        assert text == letters
    assert all(word.start < word.end for word in found)


def segments(stream: Tokens, end: int, size: int, rules: Rules) -> list[Segment]:
    segmenter, found = Segmenter(PIECES, rules), []
    for a in range(0, end, size):
        here = [i for i, frame in enumerate(stream.frames) if a <= frame < a + size]
        piece = Tokens(*([column[i] for i in here] for column in (stream.ids, stream.frames, stream.probabilities)))
        found += segmenter.step(piece, min(a + size, end))
    return found + segmenter.finish()


def texts(found: list[Segment]) -> list[str]:
    return [segment.text for segment in found]


def test_a_pause_ends_a_segment_before_a_word_and_never_inside_one():
    rules = Rules(pause=0.8, silence=1.6)  # 10 and 20 frames
    apart = said("▁hel lo ▁you r", [0, 1, 12, 13])
    assert texts(segments(apart, 50, 1, rules)) == ["hello", "your"]
    near = said("▁hel lo ▁you r", [0, 1, 11, 12])
    assert texts(segments(near, 50, 1, rules)) == ["hello your"]
    inside = said("▁hel lo ▁you r", [0, 12, 13, 25])
    assert texts(segments(inside, 50, 1, rules)) == ["hello your"]
    late = said("▁hel lo . ▁you", [0, 1, 18, 19])
    assert texts(segments(late, 50, 1, rules)) == ["hello. you"]


def test_silence_ends_a_segment_at_once():
    segmenter = Segmenter(PIECES, Rules(pause=0.8, silence=1.6), speaker="left")
    assert segmenter.partial() is None
    assert segmenter.step(said("▁hel lo", [3, 5]), 6) == []
    assert segmenter.partial().text == "hello"
    assert segmenter.step(Tokens(), 25) == []
    (ended,) = segmenter.step(Tokens(), 26)
    assert (ended.text, ended.start, ended.end, ended.speaker) == ("hello", 0.24, 0.48, "left")
    assert segmenter.step(Tokens(), 1000) == []
    assert segmenter.partial() is None
    assert segmenter.finish() == []


def test_long_segments_end_before_a_word():
    rules = Rules(longest=0.8)  # 10 frames
    stream = said("▁hel lo ▁you r ▁you r ▁hel lo", [0, 4, 8, 12, 14, 15, 24, 25])
    assert texts(segments(stream, 26, 1, rules)) == ["hello your", "your", "hello"]
    endless = said("▁hel lo lo lo lo lo", [0, 5, 10, 15, 20, 25])
    assert texts(segments(endless, 26, 1, rules)) == ["hellololo", "lolo"]


@COMPLETE
@given(random_tokens, st.integers(1, 40))
def test_segments_do_not_depend_on_the_pieces_and_lose_nothing(steps, size):
    stream = spread(steps)
    end = (stream.frames or [0])[-1] + 30
    rules = Rules(pause=0.4, silence=1.2, longest=4.0)
    found = segments(stream, end, size, rules)
    assert found == segments(stream, end, end, rules)
    assert "".join(word.text for segment in found for word in segment.words).replace("�", "") == "".join(
        word.text for word in words_of(stream, PIECES)
    ).replace("�", "") or any(piece.startswith("<0x") for piece, _ in steps)


@pytest.mark.parametrize("beam", [False, True])
@pytest.mark.parametrize("size", [1, 7, 60])
def test_segments_from_frames(beam, size):
    """Decoder and segmenter together: a beam that still hesitates holds the clock back, not the text."""
    blank, path = len(PIECES), [len(PIECES)] * 60
    for frame, piece in ((2, "▁hel"), (4, "lo"), (20, "▁you"), (21, "r"), (45, "▁hel")):
        path[frame] = PIECES.index(piece)
    frames = 9.0 * one_hot(torch.tensor([path]), blank + 1).float()
    decoder = BeamCTC(nn.Identity(), blank, lag=5) if beam else GreedyCTC(nn.Identity(), blank)
    segmenter, state, found, ended_at = Segmenter(PIECES, Rules(pause=0.8, silence=1.6)), None, [], []
    for piece in frames.split(size, 1):
        tokens, state = decoder.step(piece, state)
        found += segmenter.step(tokens[0], decoder.settled(state)[0])
        ended_at += [int(state.frame)] * (len(found) - len(ended_at))
    segmenter.step(decoder.pending(state)[0], int(state.frame))
    found += segmenter.finish()
    assert texts(found) == ["hello", "your", "hel"]
    assert [segment.start for segment in found] == pytest.approx([0.16, 1.6, 3.6])
    if size == 1:
        assert ended_at[1] == 42  # twenty frames after the last token


@pytest.mark.parametrize("times", [(0.0, 1.0, 9.0), (1.0, 0.5, 9.0), (1.0, 1.0, 0.0)])
def test_contradictory_rules_are_refused(times):
    with pytest.raises(ValueError, match=r"no segments end by Rules\(.*\nhint: use positive seconds"):
        Rules(*times)
