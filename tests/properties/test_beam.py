"""Beam search against enumeration of all paths; in pieces and batches; what becomes final and what boosting changes."""

from collections import defaultdict
from itertools import product
from math import inf

import pytest
import torch
from torch import Tensor, nn

from wavecast.apps.transcription.beam import CAPACITY, BeamCTC, BeamTransducer
from wavecast.apps.transcription.boosting import Booster
from wavecast.apps.transcription.decoding import GreedyCTC, GreedyTransducer, Tokens
from wavecast.apps.transcription.guides import Guide, Guides
from wavecast.apps.transcription.language_model import LanguageModel, NGrams
from wavecast.apps.transcription.ngrams import count
from wavecast.apps.transcription.transducer import Joint, Prediction
from wavecast.core.state import gather, leaves, stack

VOCABULARY, WIDTH, BLANK = 3, 5, 3
PHRASES = [([1, 2], 0.7), ([2, 0, 1], 0.5), ([0], 0.2)]


def networks() -> tuple[nn.Linear, Prediction, Joint]:
    torch.manual_seed(4)
    head, prediction = nn.Linear(WIDTH, VOCABULARY + 1), Prediction(VOCABULARY, WIDTH).eval()
    joint = Joint(WIDTH, WIDTH, 8, VOCABULARY).eval()
    with torch.no_grad():
        for parameter in [*head.parameters(), *prediction.lstm.parameters(), *joint.parameters()]:
            parameter.normal_(std=0.8)
        for layer in (head, joint.output):
            layer.bias[BLANK] += 1.0
    return head, prediction, joint


@torch.no_grad()
def sure_networks() -> tuple[nn.Linear, Prediction, Joint]:
    """Say the token whose number a frame holds, but never the same twice in a row (the transducer) or run (CTC)."""
    one = torch.eye(VOCABULARY)
    prediction, joint = Prediction(VOCABULARY, VOCABULARY).eval(), Joint(*[VOCABULARY] * 4).eval()
    for parameter in [*prediction.lstm.parameters(), *joint.parameters()]:
        parameter.zero_()
    prediction.embedding.weight[:VOCABULARY] = one
    enter, forget, _, leave = prediction.lstm.bias_ih_l0.split(VOCABULARY)
    enter.fill_(50)
    forget.fill_(-50)
    leave.fill_(50)
    prediction.lstm.weight_ih_l0[2 * VOCABULARY : 3 * VOCABULARY] = 50 * one
    joint.encoder.weight.copy_(one)
    joint.prediction.weight.copy_(-2 * one)
    for layer in (joint.output, head := nn.Linear(VOCABULARY, VOCABULARY + 1)):
        layer.weight.zero_()
        layer.bias.zero_()
        layer.weight[:VOCABULARY] = 400 * one
        layer.bias[BLANK] = 100
    return head, prediction, joint


def guides() -> dict[str, Guide | None]:
    booster = Booster(PHRASES, VOCABULARY + 1)
    model = LanguageModel(NGrams.of(count([[0, 1, 2, 2, 0, 1, 1, 0, 2, 1, 0, 1]], VOCABULARY, 3), b""), 0.6, 0.3)
    return {"nothing": None, "phrases": booster, "language model": model, "both": Guides(model, booster)}


def searches(width: int, guide: Guide | None = None, **options) -> list[BeamCTC | BeamTransducer]:
    head, prediction, joint = networks()
    return [
        BeamCTC(head, BLANK, width, guide=guide, **options),
        BeamTransducer(prediction, joint, width, max_symbols=2, guide=guide, **options),
    ]


def encoder_frames(seed: int, batch: int, time: int) -> Tensor:
    return torch.randn(batch, time, WIDTH, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def every_ctc_text(head: nn.Linear, frames: Tensor) -> dict[tuple[int, ...], float]:
    logs, texts = head(frames).double().log_softmax(-1), defaultdict(list)
    for path in product(range(VOCABULARY + 1), repeat=len(frames)):
        text = tuple(one for t, one in enumerate(path) if one != BLANK and (t == 0 or path[t - 1] != one))
        texts[text].append(sum(logs[t, one] for t, one in enumerate(path)))
    return {text: float(torch.stack(ways).logsumexp(0)) for text, ways in texts.items()}


@torch.no_grad()
def every_transducer_text(
    prediction: Prediction, joint: Joint, frames: Tensor, most: int
) -> dict[tuple[int, ...], float]:
    """Sum, text by text, over all ways to spread its tokens over the frames, at most some in each."""
    texts = {}
    for length in range(most * len(frames) + 1):
        for text in product(range(VOCABULARY), repeat=length):
            read, _ = prediction(prediction.with_start(torch.tensor([text], dtype=torch.int64)))
            logs = joint(frames[None], read)[0].double().log_softmax(-1)
            ways = []
            for spread in product(range(most + 1), repeat=len(frames)):
                if sum(spread) != length:
                    continue
                way, said = 0.0, 0
                for t, symbols in enumerate(spread):
                    for _ in range(symbols):
                        way = way + logs[t, said, text[said]]
                        said += 1
                    way = way + logs[t, said, BLANK]
                ways.append(way)
            texts[text] = float(torch.stack(ways).logsumexp(0))
    return texts


def bonus_of(text: tuple[int, ...], guided: str) -> float:
    gained = 0.0
    if guided in ("phrases", "both"):
        for ids, weight in PHRASES:
            gained += sum(weight * len(ids) for i in range(len(text)) if list(text[i : i + len(ids)]) == ids)
    if guided in ("language model", "both"):
        model, place = guides()["language model"], 0
        for token in text:
            gained += 0.6 * float(model.log_probabilities(place)[token]) + 0.3
            place = model.next(place, token)
    return gained


@pytest.mark.parametrize("guided", guides())
@pytest.mark.parametrize("kind", [0, 1])
def test_a_wide_beam_is_the_enumeration_of_all_paths(kind, guided):
    search = searches(300, guides()[guided], margin=inf, lag=99)[kind]
    head, prediction, joint = networks()
    for seed in range(3):
        frames = encoder_frames(seed, 1, 4 if kind == 0 else 2)
        every = every_ctc_text(head, frames[0]) if kind == 0 else every_transducer_text(prediction, joint, frames[0], 2)
        scores = {text: score + bonus_of(text, guided) for text, score in every.items()}
        final, state = search.step(frames, None)
        beam = search.unpack(state if kind == 0 else state.beams)[0]
        found = {one.ids: search.whole(one) for one in beam}
        assert found.keys() == scores.keys()
        top = max(scores, key=scores.get)
        offset = scores[top] - found[top]
        assert found == pytest.approx({text: score - offset for text, score in scores.items()}, abs=1e-4)
        assert not final[0].ids
        assert tuple(search.pending(state)[0].ids) == top


def decode(search, frames: Tensor, size: int) -> list[Tokens]:
    tokens, state = [Tokens() for _ in frames], None
    for piece in frames.split(size, 1):
        found, state = search.step(piece, state)
        for row, more in zip(tokens, found, strict=True):
            row.extend(more)
    for row, more in zip(tokens, search.pending(state), strict=True):
        row.extend(more)
    return tokens


def same(found: Tokens, expected: Tokens) -> None:
    assert found.ids == expected.ids
    assert found.frames == expected.frames
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


@pytest.mark.parametrize(("guided", "lag"), [("nothing", 99), ("phrases", 99), ("nothing", 3), ("both", 5)])
@pytest.mark.parametrize("kind", [0, 1])
def test_pieces_and_batches_change_nothing(kind, guided, lag):
    search = searches(4, guides()[guided], lag=lag)[kind]
    frames = encoder_frames(7, 3, 24)
    expected = [decode(search, row[None], 24)[0] for row in frames]
    assert all(len(one.ids) > 2 for one in expected)
    for size in (1, 5):
        for row, one in zip(decode(search, frames, size), expected, strict=True):
            same(row, one)

    ages, states, tokens = [0, 5, 11], [], []
    for row, age in enumerate(ages):
        found, state = search.step(frames[row : row + 1, :age], search.begin(1))
        states.append(state)
        tokens.append(found[0])
    together = stack(states)
    for lengths in ([4, 0, 3], [7, 7, 7]):
        piece = torch.full((3, 7, WIDTH), 99.0)
        for row, n in enumerate(lengths):
            piece[row, :n] = frames[row, ages[row] : ages[row] + n]
            ages[row] += n
        found, together = search.step(piece, together, torch.tensor(lengths))
        for row, more in zip(tokens, found, strict=True):
            row.extend(more)
    for row in (2, 0, 1):
        found, state = search.step(frames[row : row + 1, ages[row] :], gather(together, [row]))
        tokens[row].extend(found[0])
        tokens[row].extend(search.pending(state)[0])
        same(tokens[row], expected[row])


@pytest.mark.parametrize("width", [1, 4])
def test_where_the_networks_are_sure_beams_are_greedy(width):
    head, prediction, joint = sure_networks()
    path = torch.tensor([[0, 0, 3, 1, 3, 3, 2, 1, 1, 3, 1], [3, 2, 2, 2, 3, 0, 1, 2, 3, 3, 3]])
    frames = nn.functional.one_hot(path, 4)[..., :VOCABULARY] + 0.02 * encoder_frames(9, 2, 11)[..., :VOCABULARY]
    texts = [[[0, 1, 2, 1, 1], [2, 0, 1, 2]], [[0, 1, 2, 1], [2, 0, 1, 2]]]
    pairs = [
        (BeamCTC(head, BLANK, width), GreedyCTC(head, BLANK)),
        (BeamTransducer(prediction, joint, width), GreedyTransducer(prediction, joint, 3)),
    ]
    for (beam, greedy), text in zip(pairs, texts, strict=True):
        expected = decode(greedy, frames, 3)
        assert [row.ids for row in expected] == text
        for row, one in zip(decode(beam, frames, 3), expected, strict=True):
            same(row, one)


@pytest.mark.parametrize("kind", [0, 1])
def test_tokens_become_final_in_time_and_once(kind):
    search = searches(4, lag=6)[kind]
    frames = encoder_frames(11, 2, 60)
    tokens, state, edges = [Tokens() for _ in frames], None, [0, 0]
    shapes = [leaf.shape for leaf in leaves(search.begin(2))]
    for t, piece in enumerate(frames.split(1, 1)):
        before = search.settled(state) if state is not None else [0, 0]
        found, state = search.step(piece, state)
        for row, more in enumerate(found):
            assert all(before[row] <= frame <= t for frame in more.frames)
            tokens[row].extend(more)
            assert tokens[row].frames == sorted(tokens[row].frames)
            waiting = search.pending(state)[row]
            assert all(frame > t - 6 for frame in waiting.frames)
        edges = [max(pair) for pair in zip(edges, search.settled(state), strict=True)]
        assert edges == search.settled(state)
        assert all(edge > t - 6 for edge in edges)
        assert [leaf.shape for leaf in leaves(state)] == shapes
        assert (state if kind == 0 else state.beams).scores[:, 0].max() <= 12.0
    assert all(len(row.ids) > 5 for row in tokens)


def test_a_full_hypothesis_gives_its_oldest_tokens_away():
    _, prediction, joint = networks()
    with torch.no_grad():
        joint.output.bias[1] += 60.0
    search = BeamTransducer(prediction, joint, 2, max_symbols=5, margin=inf, lag=10_000)
    frames = encoder_frames(1, 1, 30)
    with torch.no_grad():
        joint.output.bias[BLANK] += 60.0
    found = decode(search, frames, 30)[0]
    _, state = search.step(frames, None)
    assert len(search.pending(state)[0].ids) <= CAPACITY
    assert found.ids.count(1) == len(found.ids)


@pytest.mark.parametrize("kind", [0, 1])
def test_a_boosted_phrase_wins_where_it_was_close_and_half_of_it_gains_nothing(kind):
    frames = encoder_frames(2, 1, 6)
    plain = searches(50, margin=inf, lag=99)[kind]
    _, state = plain.step(frames, None)
    ranked = sorted(plain.unpack(state if kind == 0 else state.beams)[0], key=plain.whole, reverse=True)
    best, other = ranked[0], next(one for one in ranked[1:] if len(one.ids) > len(ranked[0].ids))
    gap = plain.whole(best) - plain.whole(other)
    for share, winner in ((0.8, best), (1.2, other)):
        boosted = searches(50, Booster([(other.ids, share * gap / len(other.ids))], 4), margin=inf, lag=99)[kind]
        assert tuple(decode(boosted, frames, 2)[0].ids) == winner.ids
    unfinished = Booster([((*other.ids, 0, 0, 0, 0, 0, 0), 1.2 * gap / len(other.ids))], 4)
    assert tuple(decode(searches(50, unfinished, margin=inf, lag=99)[kind], frames, 2)[0].ids) == best.ids


@pytest.mark.parametrize("options", [{"width": 0}, {"width": 1, "lag": 0}, {"width": 1, "margin": 0.0}])
def test_useless_beams_are_refused(options):
    with pytest.raises(ValueError, match=r"no beam of width .*\nhint: use positive numbers"):
        BeamCTC(nn.Identity(), 3, **options)
