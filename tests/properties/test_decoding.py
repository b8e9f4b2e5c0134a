"""Greedy decoding against plain loops, in pieces, in batches of any age; alignment against enumeration."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from wavecast.apps.transcription.boosting import Booster
from wavecast.apps.transcription.decoding import GreedyCTC, GreedyTransducer, Tokens, align
from wavecast.apps.transcription.transducer import Joint, Prediction
from wavecast.core.errors import WavecastError
from wavecast.core.state import gather, leaves, stack

VOCABULARY, WIDTH = 9, 6


def transducer(blank_bias: float = 0.0) -> tuple[Prediction, Joint]:
    torch.manual_seed(1)
    prediction, joint = Prediction(VOCABULARY, WIDTH).eval(), Joint(WIDTH, WIDTH, 8, VOCABULARY).eval()
    with torch.no_grad():
        for parameter in [*prediction.lstm.parameters(), *joint.parameters()]:
            parameter.normal_(std=0.7)
        joint.output.bias[VOCABULARY] += blank_bias
    return prediction, joint


def head() -> nn.Linear:
    torch.manual_seed(2)
    return nn.Linear(WIDTH, VOCABULARY + 1)


def decoders(booster: Booster | None = None) -> list[GreedyCTC | GreedyTransducer]:
    networks = [transducer(bias) for bias in (3.0, 4.5, 6.0)]
    return [GreedyCTC(head(), VOCABULARY, booster), *(GreedyTransducer(*one, 4, booster) for one in networks)]


def booster() -> Booster:
    return Booster([([1, 2, 3], 1.0), ([2, 2], 3.0), ([5], 0.5), ([7, 1], 1.5)], VOCABULARY + 1)


def encoder_frames(batch: int = 3, time: int = 25) -> Tensor:
    return torch.randn(batch, time, WIDTH, generator=torch.Generator().manual_seed(3)) * 1.5


@torch.no_grad()
def transducer_loop(prediction: Prediction, joint: Joint, frames: Tensor, most: int, booster: Booster | None) -> Tokens:
    """Decode one stream symbol by symbol, as the specification says it."""
    tokens, place = Tokens(), 0
    y, read = prediction(torch.tensor([[prediction.blank]]), last=False)
    for t, frame in enumerate(frames):
        for _ in range(most):
            logits = joint(frame[None, None], y)[0, 0, 0]
            bonus = 0 if booster is None else booster.bonus(torch.tensor([place]))[0]
            token = int((logits + bonus).argmax())
            if token == prediction.blank:
                break
            tokens.append(token, t, float(logits.softmax(-1)[token]))
            y, read = prediction(torch.tensor([[token]]), read, last=False)
            place = booster.next(place, token) if booster else 0
    return tokens


@torch.no_grad()
def ctc_loop(head: nn.Linear, frames: Tensor, booster: Booster | None) -> Tokens:
    tokens, place, last = Tokens(), 0, VOCABULARY
    for t, logits in enumerate(head(frames)):
        bonus = torch.zeros(VOCABULARY + 1) if booster is None else booster.bonus(torch.tensor([place]))[0].clone()
        bonus[last] = 0
        token = int((logits + bonus).argmax())
        if token not in (VOCABULARY, last):
            tokens.append(token, t, float(logits.softmax(-1)[token]))
            place = booster.next(place, token) if booster else 0
        last = token
    return tokens


def loop(decoder: GreedyCTC | GreedyTransducer, frames: Tensor) -> Tokens:
    if isinstance(decoder, GreedyCTC):
        return ctc_loop(decoder.head, frames, decoder.booster)
    return transducer_loop(decoder.prediction, decoder.joint, frames, decoder.max_symbols, decoder.booster)


def same(found: Tokens, expected: Tokens) -> None:
    assert found.ids == expected.ids
    assert found.frames == expected.frames
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("boosted", [False, True])
def test_greedy_is_the_plain_loop_for_every_way_of_cutting(number, boosted):
    decoder = decoders(booster() if boosted else None)[number]
    frames = encoder_frames()
    expected = [loop(decoder, row) for row in frames]
    assert all(len(one.ids) > 2 for one in expected)
    for size in (1, 7, 25):
        tokens, state = [Tokens() for _ in frames], None
        for piece in frames.split(size, 1):
            found, state = decoder.step(piece, state)
            for row, more in zip(tokens, found, strict=True):
                row.extend(more)
        for row, one in zip(tokens, expected, strict=True):
            same(row, one)
        assert all(not one.ids for one in decoder.pending(state))
        assert decoder.settled(state) == [25] * 3


@pytest.mark.parametrize("number", range(4))
def test_boosting_changes_what_is_found(number):
    frames = encoder_frames()
    plain, boosted = (decoders(one)[number].step(frames, None)[0] for one in (None, booster()))
    assert [row.ids for row in plain] != [row.ids for row in boosted]


@pytest.mark.parametrize("most", [1, 2, 10])
def test_symbols_in_one_frame_are_bounded(most):
    prediction, joint = transducer(-30.0)  # never a blank
    frames = encoder_frames(1, 5)
    found, _ = GreedyTransducer(prediction, joint, most).step(frames, None)
    assert found[0].frames == [t for t in range(5) for _ in range(most)]
    same(found[0], transducer_loop(prediction, joint, frames[0], most, None))


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("boosted", [False, True])
def test_rows_of_different_ages_and_lengths_decode_as_alone(number, boosted):
    decoder = decoders(booster() if boosted else None)[number]
    frames = encoder_frames()
    expected = [loop(decoder, row) for row in frames]
    ages, states, tokens = [0, 4, 2], [], []
    for row, age in enumerate(ages):
        found, state = decoder.step(frames[row : row + 1, :age], decoder.begin(1))
        states.append(state)
        tokens.append(found[0])
    together = stack(states)
    for lengths in ([4, 0, 9], [0, 1, 0], [9, 9, 9]):
        piece = torch.full((3, 9, WIDTH), 99.0)
        for row, n in enumerate(lengths):
            piece[row, :n] = frames[row, ages[row] : ages[row] + n]
            ages[row] += n
        found, together = decoder.step(piece, together, torch.tensor(lengths))
        for row, more in zip(tokens, found, strict=True):
            row.extend(more)
    for row in (2, 0, 1):
        found, _ = decoder.step(frames[row : row + 1, ages[row] :], gather(together, [row]))
        tokens[row].extend(found[0])
        same(tokens[row], expected[row])


@pytest.mark.parametrize("number", range(4))
def test_states_keep_their_shapes_and_are_not_written_into(number):
    decoder = decoders(booster())[number]
    frames = encoder_frames()
    _, state = decoder.step(frames, None)
    copies = [leaf.clone() for leaf in leaves(state)]
    _, after = decoder.step(frames, state)
    assert all(torch.equal(leaf, copy) for leaf, copy in zip(leaves(state), copies, strict=True))
    shapes = [leaf.shape for leaf in leaves(decoder.begin(3))]
    assert [leaf.shape for leaf in leaves(state)] == [leaf.shape for leaf in leaves(after)] == shapes
    found, unmoved = decoder.step(frames[:, :0], state)
    assert not any(row.ids for row in found)
    assert all(torch.equal(a, b) for a, b in zip(leaves(unmoved), leaves(state), strict=True))


def test_ctc_merges_repetitions_and_drops_blanks():
    path = [9, 3, 3, 9, 3, 4, 4, 4, 9, 9, 0]
    frames = torch.nn.functional.one_hot(torch.tensor([path]), 10).float()
    found, _ = GreedyCTC(nn.Identity(), 9).step(frames, None)
    assert found[0].ids == [3, 3, 4, 0]
    assert found[0].frames == [1, 4, 5, 10]
    assert found[0].probabilities == pytest.approx([torch.e / (torch.e + 9)] * 4)


def best_path(log_probabilities: Tensor, ids: list[int], blank: int) -> tuple[int, ...]:
    def labels(path):
        return [one for i, one in enumerate(path) if one != blank and (i == 0 or path[i - 1] != one)]

    time, classes = log_probabilities.shape
    paths = [path for path in product(range(classes), repeat=time) if labels(path) == ids]
    return max(paths, key=lambda path: sum(float(log_probabilities[t, one]) for t, one in enumerate(path)))


@pytest.mark.parametrize("ids", [[0], [0, 1], [1, 1], [0, 1, 0], [2, 2, 1]])
def test_alignment_is_the_best_path_through_the_tokens(ids):
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(len(ids)))
    log_probabilities = logits.log_softmax(-1)
    path = best_path(log_probabilities, ids, 3)
    runs = [t for t in range(6) if path[t] != 3 and (t == 0 or path[t - 1] != path[t])]
    found = align(log_probabilities, ids, 3, begin=100)
    assert found.ids == ids
    assert found.frames == [100 + start for start in runs]
    for start, probability in zip(runs, found.probabilities, strict=True):
        end = next((t for t in range(start, 6) if path[t] != path[start]), 6)
        mean = log_probabilities.exp()[range(start, end), path[start]].mean()
        assert probability == pytest.approx(float(mean), abs=1e-6)


def test_alignment_of_nothing_and_of_too_much():
    log_probabilities = torch.zeros(3, 4).log_softmax(-1)
    assert align(log_probabilities, [], 3) == Tokens()
    with pytest.raises(WavecastError, match="3 tokens need 4 frames to be aligned, and there are 3\nhint: keep"):
        align(log_probabilities, [0, 1, 1], 3)
