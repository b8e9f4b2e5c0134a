"""n-grams against the formulas written out; what pruning keeps; files; the model and two guides beside a beam."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavecast.apps.transcription import language_model
from wavecast.apps.transcription.boosting import Booster
from wavecast.apps.transcription.guides import Guides
from wavecast.apps.transcription.language_model import STEPS, LanguageModel, NGrams, read_ngrams
from wavecast.apps.transcription.ngrams import costs, count, discounts, prune
from wavecast.apps.transcription.tokenizer import Tokenizer
from wavecast.core.errors import WavecastError

TOKENS = 4
MANY = settings(max_examples=60, deadline=None, derandomize=True, database=None)
texts = st.lists(st.lists(st.integers(0, TOKENS - 2), min_size=1, max_size=40), min_size=3, max_size=8).filter(
    lambda lines: sum(map(len, lines)) > 8
)


def markov(seed: int, length: int = 3000) -> list[int]:
    """Draw a text in which the two tokens before say much of the next."""
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(TOKENS, 0.3), (TOKENS, TOKENS))
    text = [0, 1]
    for _ in range(length):
        text.append(int(rng.choice(TOKENS, p=table[text[-2], text[-1]])))
    return text


def by_the_formulas(text: list[int], order: int, before: tuple[int, ...], token: int) -> float:
    """Compute P(token | before) by interpolated modified Kneser-Ney, straight from the text."""

    def counted(length: int) -> Counter:
        grams = [tuple(text[i : i + length]) for i in range(len(text) - length + 1)]
        if length == order:
            return Counter(grams)
        longer = {tuple(text[i : i + length + 1]) for i in range(len(text) - length)}
        return Counter(one[1:] for one in longer)

    if len(before) + 1 > order:
        before = before[len(before) + 1 - order :]
    counts = counted(len(before) + 1)
    every = np.array([counts.get(one, 0) for one in {tuple(text[i : i + len(before) + 1]) for i in range(len(text))}])
    if not before:
        every = np.array([counts.get((one,), 0) for one in range(TOKENS)])
    cut = discounts(every)
    following = {one: counts[*before, one] for one in range(TOKENS) if counts[*before, one]}
    lower = by_the_formulas(text, order, before[1:], token) if before else 1 / TOKENS
    if not following:
        return lower
    total, n = sum(following.values()), following.get(token, 0)
    left = sum(cut[min(times, 3)] for times in following.values())
    return (n - cut[min(n, 3)]) / total + left / total * lower


def guide(text: list[int], order: int = 3, threshold: float = 0.0) -> LanguageModel:
    levels = count([text], TOKENS, order)
    return LanguageModel(NGrams.of(prune(levels, threshold) if threshold else levels, b""), 1.0, 0.0)


def walk(model: LanguageModel, text: list[int]) -> list[int]:
    places = [0]
    for token in text:
        places.append(model.next(places[-1], token))
    return places


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_are_those_of_the_formulas(order):
    text = markov(0, 300)
    model = guide(text, order)
    listened = markov(1, 40)
    for n, place in enumerate(walk(model, listened)):
        expected = [by_the_formulas(text, order, tuple(listened[max(0, n - 5) : n]), one) for one in range(TOKENS)]
        assert np.exp(model.log_probabilities(place)) == pytest.approx(expected, abs=1e-5)


@MANY
@given(texts, st.integers(1, 4), st.sampled_from([0.0, 1e-3, 1e-2, 1.0]))
def test_every_place_is_a_distribution(lines, order, threshold):
    levels = count(lines, TOKENS, order)
    model = LanguageModel(NGrams.of(prune(levels, threshold), b""), 1.0, 0.0)
    for place in set(walk(model, [token for line in lines for token in line])):
        assert np.exp(model.log_probabilities(place)).sum() == pytest.approx(1, abs=1e-4)


def test_the_place_is_the_longest_end_that_anything_followed():
    text = markov(0, 200)
    model, listened = guide(text, 4), markov(1, 60)
    followed = {tuple(text[i : i + n]) for n in range(4) for i in range(len(text) - n)}
    for n, place in enumerate(walk(model, listened)):
        spelled, depth = [], place
        while depth:
            spelled.append(int(model.ngrams.token[depth]))
            depth = int(np.searchsorted(model.ngrams.first, depth, "right")) - 1
        longest = max(
            (listened[n - k : n] for k in range(min(n, 3) + 1) if tuple(listened[n - k : n]) in followed), key=len
        )
        assert spelled[::-1] == longest


def test_pruning_drops_what_says_little():
    text, heard = markov(0), markov(0, 6000)[3000:]

    def loss(model: LanguageModel) -> float:
        places = walk(model, heard)
        return -np.mean([model.log_probabilities(place)[token] for place, token in zip(places, heard, strict=False)])

    whole, pruned, bare = (guide(text, 5, threshold) for threshold in (0.0, 3e-4, 1.0))
    assert len(bare) == 1 + TOKENS
    assert len(pruned) < 0.5 * len(whole)
    assert loss(whole) <= loss(pruned) < loss(whole) + 0.1 < loss(bare) - 0.4


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_cost_of_dropping_an_n_gram_is_the_relative_entropy(order):
    text = markov(0)
    levels = count([text], TOKENS, order)
    model = LanguageModel(NGrams.of(levels, b""), 1.0, 0.0)
    found, last = costs(levels, order), levels[order]
    for one in range(0, len(last), 5):
        parent, before = last.parent[one], []
        for level in range(order - 1, 0, -1):
            before.insert(0, int(levels[level].token[parent]))
            parent = levels[level].parent[parent]
        p, shorter = (np.exp(model.log_probabilities(walk(model, ctx)[-1])) for ctx in (before, before[1:]))
        others = (last.parent == last.parent[one]) & (np.arange(len(last)) != one)
        without = np.full(TOKENS, np.nan)
        without[last.token[others]] = last.probability[others]
        free = np.isnan(without)
        without[free] = shorter[free] * (1 - np.nansum(without)) / shorter[free].sum()
        often = levels[order - 1].times[last.parent[one]] / len(text)
        assert found[one] == pytest.approx(often * float((p * np.log(p / without)).sum()), rel=1e-3, abs=1e-7)


def test_n_grams_need_text():
    with pytest.raises(ValueError, match=r"2 tokens of text\nhint: give more text, or an order below 3"):
        count([[0], [1]], TOKENS, 3)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pieces(["<unk>", "▁", *"abc"])


@pytest.fixture
def saved(tokenizer, tmp_path):
    levels = prune(count([tokenizer.encode("abc ab ca " * 9), tokenizer.encode("bca cab")], len(tokenizer), 4), 1e-4)
    ngrams = NGrams.of(levels, tokenizer.model)
    ngrams.save(tmp_path / "some.ngrams.safetensors")
    return ngrams, tmp_path / "some.ngrams.safetensors"


def test_a_file_holds_the_model(saved, tokenizer):
    ngrams, path = saved
    found = read_ngrams(path, tokenizer)
    for name in ("token", "first", "suffix"):
        assert np.array_equal(getattr(found, name), getattr(ngrams, name))
    for name in ("log_probability", "backoff"):
        expected = getattr(ngrams, name).clip(-255 / STEPS if name == "log_probability" else -128 / STEPS)
        assert getattr(found, name) == pytest.approx(expected, abs=0.51 / STEPS)


def test_a_text_is_counted_as_it_is(tokenizer, tmp_path):
    (tmp_path / "notes.txt").write_text("abc ab\nca ab\n\nabc abc\n")
    model = LanguageModel(read_ngrams(tmp_path / "notes.txt", tokenizer), 0.5, 1.0)
    a, b, c = (tokenizer.encode(letter)[-1] for letter in "abc")
    change = model.change(walk(model, [a])[-1])
    assert change[b] > change[c]
    assert change[-1] == 0


def test_a_text_is_read_as_the_model_would_write_it(tokenizer, tmp_path):
    (tmp_path / "plain.txt").write_text("abc ab\nca ab\nabc abc\n")
    (tmp_path / "prose.txt").write_text('Abc, ab!\nCa "ab"\n7 abs\nABC abc.\n')
    plain, prose = (read_ngrams(tmp_path / f"{name}.txt", tokenizer) for name in ("plain", "prose"))
    assert np.array_equal(plain.token, prose.token)
    assert np.array_equal(plain.log_probability, prose.log_probability)


def damaged(path, **arrays) -> None:
    stored = {**safetensors.numpy.load_file(path), **arrays}
    path.write_bytes(safetensors.numpy.save(stored, {"tokenizer": ""}))


@pytest.mark.parametrize(
    "arrays",
    [
        {"children": np.zeros(3, np.uint8)},
        {"children": np.array([5, 200], np.uint8)},
        {"token": np.zeros(40, np.uint8)},
        {"token": np.arange(6, dtype=np.uint8), "children": np.array([5], np.uint8)},
        {"token": np.arange(6, dtype=np.float32)},
        {"log_probability": np.zeros((2, 2), np.uint8)},
        {"backoff": np.zeros(99, np.int8)},
        {"token": np.zeros(0, np.uint8)},
    ],
)
def test_damaged_models_are_refused(saved, tokenizer, arrays):
    damaged(saved[1], **arrays)
    with pytest.raises(WavecastError, match="no language model read"):
        read_ngrams(saved[1], tokenizer)


def test_what_is_no_model_is_refused(saved, tokenizer, tmp_path, monkeypatch):
    other = Tokenizer.from_pieces(["<unk>", "▁", *"cba"])
    with pytest.raises(WavecastError, match="counts the tokens of another tokenizer"):
        read_ngrams(saved[1], other)
    (tmp_path / "no.safetensors").write_text("no")
    (tmp_path / "short.txt").write_text("a")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    for name in ("no.safetensors", "short.txt", "bytes.txt", "missing.txt", "missing.safetensors"):
        with pytest.raises(WavecastError, match="no language model read"):
            read_ngrams(tmp_path / name, tokenizer)
    monkeypatch.setattr(language_model, "MOST_TEXT", 3)
    (tmp_path / "long.txt").write_text("abc abc abc")
    with pytest.raises(WavecastError, match="has more than 0 MiB"):
        read_ngrams(tmp_path / "long.txt", tokenizer)


def test_few_places_are_kept(monkeypatch):
    text = markov(0, 400)
    model, expected = guide(text, 4), guide(text, 4)
    monkeypatch.setattr(language_model, "KEPT", 5)
    for place in walk(model, text):
        assert torch.equal(model.change(place), expected.change(place))
        assert len(model._vectors) <= 5


def test_two_guides_add_up():
    model, booster = guide(markov(0, 200)), Booster([([1, 2], 1.0), ([0, 0, 1], 2.0)], TOKENS + 1)
    both, places, places_of_both = Guides(model, booster), [0, 0], [0]
    for token in markov(1, 50):
        assert torch.equal(both.change(places_of_both[-1]), model.change(places[0]) + booster.change(places[1]))
        assert both.owed(places_of_both[-1]) == booster.owed(places[1])
        places = [model.next(places[0], token), booster.next(places[1], token)]
        places_of_both.append(both.next(places_of_both[-1], token))
    assert max(places_of_both) < len(both) == len(model) * len(booster)
    assert any(a != b for a, b in pairwise(places_of_both))
