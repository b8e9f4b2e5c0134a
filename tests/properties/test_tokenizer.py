"""Tokenizers: text to tokens and back, words, models from bytes, from pieces and from training."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavecast.apps.transcription.nemo_archive import read_archive
from wavecast.apps.transcription.tokenizer import Tokenizer, train
from wavecast.core.errors import WavecastError

ARCHIVE = Path(__file__).parents[1] / "parity" / "fastconformer_streaming_tiny.nemo"
TEXT = "the exception is raised when an attribute of the object is not found"
TEXTS = [
    "the cat sat on the mat and the dog sat on the cat",
    "a cat and a dog and a bird ate the corn on the mat",
    "the bird and the cat ate on the mat when the dog sat",
]
PIECES = ["<unk>", "▁th", "e", "▁", "t", "h", "▁on", "o", "n"]
LETTERS = "etaoinshrd' zq"


@pytest.fixture(scope="module")
def official() -> Tokenizer:
    """The tokenizer of an archive that NeMo wrote: 1024 byte pairs."""
    return read_archive(ARCHIVE).tokenizer


def test_text_comes_back(official: Tokenizer) -> None:
    tokens = official.encode(TEXT)
    assert len(tokens) < len(TEXT) / 3
    assert official.decode(tokens) == TEXT
    assert [official.pieces[token] for token in tokens][:4] == ["▁the", "▁exception", "▁is", "▁raised"]


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(st.text(LETTERS.replace(" ", ""), min_size=1, max_size=9), max_size=8))
def test_words_are_the_words_of_the_text(words: list[str]) -> None:
    """Every token belongs to one word, and the words decoded alone are the text."""
    tokenizer = Tokenizer.from_pieces(["<unk>", "▁", *"etaoinshrd'", "th", "▁th", "▁the", "in"])
    tokens = tokenizer.encode(" ".join(words))
    groups = tokenizer.words(tokens)
    said = [tokenizer.decode([tokens[place] for place in group]).strip() for group in groups]
    assert said == tokenizer.decode(tokens).split()
    assert sorted(place for group in groups for place in group) == [place for group in groups for place in group]


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=12))
def test_words_of_any_tokens(tokens: list[int]) -> None:
    """Recognizers give tokens that no text has: marks without a letter, unknown ones, parts without a beginning."""
    tokenizer = Tokenizer.from_pieces(PIECES)
    groups = tokenizer.words(tokens)
    assert [tokenizer.decode([tokens[i] for i in group]).strip() for group in groups] == tokenizer.decode(
        tokens
    ).split()
    places = [place for group in groups for place in group]
    assert places == sorted(set(places))
    left_out = set(range(len(tokens))) - set(places)
    assert all(tokens[place] == PIECES.index("▁") for place in left_out)


@pytest.mark.parametrize(
    ("tokens", "groups"),
    [
        ([], []),
        ([1, 2, 6, 2], [[0, 1], [2, 3]]),
        ([2, 1, 2], [[0], [1, 2]]),
        ([3, 4, 2, 3], [[0, 1, 2]]),
        ([1, 0, 2], [[0], [1], [2]]),
        ([3, 3, 1], [[2]]),
    ],
)
def test_words_by_hand(tokens: list[int], groups: list[list[int]]) -> None:
    assert Tokenizer.from_pieces(PIECES).words(tokens) == groups


def test_the_unknown_token() -> None:
    tokenizer = Tokenizer.from_pieces(PIECES)
    assert tokenizer.unknown == 0
    assert tokenizer.encode("x")[-1] == 0
    assert tokenizer.decode([1, 0, 2]) == "th ⁇ e"
    assert tokenizer.decode([]) == ""
    late = Tokenizer.from_pieces(["a", "▁", "<unk>"])
    assert late.unknown == 2
    assert late.decode([0, 2, 0]) == "a ⁇ a"


def test_pieces_alone_make_the_same_tokenizer(official: Tokenizer) -> None:
    """Of plain text: the official one also normalizes what is typed in other ways."""
    made = Tokenizer.from_pieces(official.pieces)
    assert made.pieces == official.pieces
    assert [made.score(token) for token in range(1, 1024)] == [official.score(token) for token in range(1, 1024)]
    random = np.random.default_rng(0)
    words = [official.decode([int(token)]).strip() for token in random.integers(1, 1024, 400)]
    text = f"{TEXT} {' '.join(words)} qqz"
    tokens = made.encode(text)
    assert tokens == official.encode(text)
    assert made.decode(tokens) == official.decode(tokens)


def test_a_tokenizer_travels_to_other_processes(official: Tokenizer) -> None:
    other = pickle.loads(pickle.dumps(official))
    assert (other.model, other.pieces) == (official.model, official.pieces)
    assert other.encode(TEXT) == official.encode(TEXT)
    assert Tokenizer.from_bytes(official.model).encode(TEXT) == official.encode(TEXT)


@pytest.mark.parametrize("token", [-1, 1024, 10**9])
def test_tokens_that_are_none(official: Tokenizer, token: int) -> None:
    with pytest.raises(WavecastError, match=f"token {token} is none of the 1024"):
        official.decode([3, token])


@pytest.mark.parametrize(
    ("pieces", "fault"),
    [
        ([], "has no <unk>"),
        (["a", "b"], "has no <unk>"),
        (["<unk>", "a", "a"], "a is already defined"),
        (["<unk>", ""], "piece must not be empty"),
        (["<unk>", "\ud800"], "holds what is no text"),
        (["<unk>", "<unk>"], "cannot be read"),
    ],
)
def test_vocabularies_that_are_none(pieces: list[str], fault: str) -> None:
    with pytest.raises(WavecastError, match=rf"{fault}.*\nhint: "):
        Tokenizer.from_pieces(pieces)


def test_training() -> None:
    model = train(TEXTS, 40)
    assert train(iter(TEXTS), 40) == model
    tokenizer = Tokenizer(model)
    assert len(tokenizer) == 40
    assert tokenizer.pieces[0] == "<unk>"
    assert not {"<s>", "</s>", "<pad>"} & set(tokenizer.pieces)
    assert {"▁the", "▁cat"} <= set(tokenizer.pieces)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert 0 in tokenizer.encode("xyz")


def test_training_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    train(TEXTS, 40)
    with pytest.raises(WavecastError):
        train(TEXTS, 5000)
    with pytest.raises(WavecastError):
        Tokenizer(b"no model")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("texts", "size"), [(TEXTS, 5000), (TEXTS, 5), ([], 40), (["", ""], 40)])
def test_training_that_cannot_be(texts: list[str], size: int) -> None:
    with pytest.raises(WavecastError, match=rf"no tokenizer of {size} tokens can be learned.*\nhint: choose"):
        train(texts, size)


def test_long_texts_are_heard_too() -> None:
    """SentencePiece passes over lines of more than 4192 bytes by default."""
    long = " ".join(["zebra"] * 1000)
    assert "▁zebra" in Tokenizer(train([*TEXTS, long], 40)).pieces


def test_damaged_models_work_or_say_so() -> None:
    """Whatever is changed: a tokenizer, or one clear error."""
    models, outcomes = (Tokenizer.from_pieces(PIECES).model, train(TEXTS, 40)), set()
    for case in range(600):
        random = np.random.default_rng((5, case))
        damaged = bytearray(models[case % 2])
        for _ in range(int(random.integers(1, 4))):
            at = int(random.integers(len(damaged) + 1))
            kind = random.integers(4)
            if kind == 0:
                damaged[at : at + 1] = bytes(one ^ 1 << int(random.integers(8)) for one in damaged[at : at + 1])
            elif kind == 1:
                damaged[at : at + 8] = random.bytes(int(random.integers(16)))
            elif kind == 2:
                del damaged[at : at + int(random.integers(200))]
            else:
                damaged[at:at] = damaged[at : at + int(random.integers(50))]
        try:
            tokenizer = Tokenizer(bytes(damaged))
            tokenizer.decode(tokenizer.encode("The cat ﬁ sät 中文 \u0300 on the mat"))
            tokenizer.words(list(range(len(tokenizer))))
            outcomes.add("read")
        except WavecastError as error:
            assert "\n" not in error.message
            outcomes.add(error.message[:60])
    assert "read" in outcomes
    assert len(outcomes) > 2, outcomes
