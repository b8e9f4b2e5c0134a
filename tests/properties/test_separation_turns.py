"""Who speaks when within a window: outputs that change places, or tear a voice in two, become speakers again."""

from itertools import product
from math import inf
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from torch import Tensor

from kit.sounds import hiss
from wavecast.apps.separation import turns
from wavecast.apps.separation.inference import Options, Separator
from wavecast.apps.separation.turns import STRETCH, Conversation, Turns, gather, quietest, rearranged
from wavecast.apps.separation.voices import DEPENDENT, SPREAD
from wavecast.apps.sound.metrics import si_sdr
from wavecast.cards import Card
from wavecast.core.block import Block
from wavecast.core.state import State

RATE = 8000
EXAMPLE = Path(__file__).parents[2] / "examples" / "clean.flac"
FEATURES = len(SPREAD)


def evidence(who: list[tuple[int, ...]], voices: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draw an independent frame of a voice for every stretch and output: (stretch, output, 1 + feature)."""
    draw = np.random.default_rng(seed)
    frames = voices[np.array(who)] + draw.standard_normal((len(who), len(who[0]), FEATURES))
    return np.concatenate([np.ones((*frames.shape[:2], 1)), frames], 2)


@pytest.fixture
def voices() -> np.ndarray:
    """Three speakers, as unlike each other as speakers are in two thirds of all cases or more."""
    return 2.5 * np.sqrt(SPREAD) * np.random.default_rng(1).choice([-1, 1], (3, FEATURES))


def test_outputs_go_to_the_speakers_they_are(voices):
    """Two speakers change places twice, then one is torn between both outputs."""
    who = [(0, 1)] * 20 + [(1, 0)] * 15 + [(0, 1)] * 15 + [(1, 1)] * 10
    window, changes = Conversation(2).hear(evidence(who, voices), np.ones(60, bool), 0)
    assert window.speakers.tolist() == [list(one) for one in who]
    assert [k for k, _ in changes] == [20, 35, 50]
    assert all(chance > 0.95 for _, chance in changes)


def test_three_speakers(voices):
    who = [(0, 1, 2)] * 40 + [(2, 0, 1)] * 15 + [(2, 1, 0)] * 15 + [(2, 2, 1)] * 10
    window, _ = Conversation(3).hear(evidence(who, voices), np.ones(80, bool), 0)
    assert window.speakers.tolist() == [list(one) for one in who]


def test_an_order_that_is_as_good_as_any_stays(voices):
    for who in ([(0, 1)] * 60, [(0, 0)] * 60, [(2, 2)] * 60):
        for seed in range(20):
            given = evidence(who, voices, seed)
            if who[0][0] == who[0][1]:
                given[:, 1] = 0  # one speaker, and nobody
            window, changes = Conversation(2).hear(given, np.ones(60, bool), 0)
            assert window.speakers.tolist() == [[0, 1]] * 60
            assert changes == []


def test_names_are_kept_from_window_to_window(voices):
    """Every window has an order of its own; stretches that two windows share are heard once."""
    conversation, shared = Conversation(2), 10
    who = [(0, 1)] * 30 + [(1, 0)] * 30
    for number in range(7):
        turned = number % 2
        order = [one[::-1] for one in who] if turned else who
        window, _ = conversation.hear(evidence(order, voices, number), np.ones(60, bool), shared if number else 0)
        assert window.speakers.tolist() == [list(one) for one in order]
    assert len(conversation.history) == turns.HISTORY
    heard = conversation.known + sum(one.voices(2) for one in conversation.history)
    assert heard[:, 0].tolist() == [60 + 6 * 50] * 2
    np.testing.assert_allclose(heard[:, 1:] / heard[:, :1], voices[:2], atol=0.3)


def test_a_correction_renames_speakers(voices):
    conversation = Conversation(2)
    for number in range(2):
        conversation.hear(evidence([(0, 1)] * 30, voices, number), np.ones(30, bool), 0)
    conversation.rename((1, 0), -2, -1)
    assert [one.speakers[0].tolist() for one in conversation.history] == [[1, 0], [0, 1]]


def test_the_path_is_the_best_of_all_paths(voices):
    """Against every path of five stretches; and a score is what the model's own likelihood says."""
    sounding = np.array([True, True, False, True, True])
    for seed in range(10):
        given = evidence([(0, 1), (0, 1), (1, 0), (1, 1), (0, 1)], voices, seed)
        search = Turns(given, sounding, np.zeros((2, 1 + FEATURES)))
        known = np.concatenate([np.full((2, 1), 40), 40 * voices[:2]], 1)
        fits = np.stack([search.fit(voice) for voice in known], -1)

        def score(path: tuple[int, ...], search=search, fits=fits) -> float:
            whose = search.states[list(path)]
            total = sum(fits[k, output, whose[k, output]] for k in range(5) for output in range(2))
            changes = sum(search.change[k] for k in range(1, 5) if path[k] != path[k - 1])
            return total - changes - search.shared[list(path)].sum()

        best = max(product(range(len(search.states)), repeat=5), key=score)
        assert score(tuple(search.path(known).tolist())) == pytest.approx(score(best))


def test_the_likelihood_of_a_voice_is_the_gaussian_one(voices):
    """Frames of variance 1 around a mean of variance SPREAD: against the joint density, whichever the frames are."""
    given = evidence([(0, 1)] * 6, voices)
    search = Turns(given, np.ones(6, bool), np.zeros((2, 1 + FEATURES)))
    values = []
    for output in range(2):
        frames = given[:, output, 1:] - search.mean
        total = 0.0
        for k, spread in enumerate(SPREAD):
            covariance = np.eye(6) + spread
            _, logarithm = np.linalg.slogdet(covariance)
            total -= 0.5 * (frames[:, k] @ np.linalg.solve(covariance, frames[:, k]) + logarithm)
        alone = -0.5 * np.square(frames).sum()  # of frames about nothing known, the same for all assignments
        found = search.marginal(given[:, output].sum(0))
        values.append((float(found), total - alone))
    np.testing.assert_allclose(*np.array(values).T)


def test_stretches_sum_their_clear_frames():
    features, clear = np.random.default_rng(0).standard_normal((40, 3)), np.arange(40) % 3 == 0
    found = gather(features, clear)
    assert found.shape == (3, 4)
    for k in range(3):
        part = slice(k * STRETCH, (k + 1) * STRETCH)
        chosen = features[part][clear[part]]
        np.testing.assert_allclose(found[k], np.array([len(chosen), *chosen.sum(0)]) / DEPENDENT)
    assert gather(features[:0], clear[:0]).shape == (0, 4)


def test_nothing_is_lost_where_speakers_change(voices):
    made = np.random.default_rng(0).standard_normal((1000, 2)).astype(np.float32)
    assert rearranged(made, np.array([[0, 1], [0, 1]]), [0, 500], 20) is made
    found = rearranged(made, np.array([[0, 1], [1, 0], [1, 1]]), [0, 400, 405], 20)
    np.testing.assert_allclose(found.sum(1), made.sum(1), atol=1e-6)
    np.testing.assert_array_equal(found[:390], made[:390])
    assert not found[415:, 0].any()


def test_a_change_falls_into_the_weakest_moment():
    power = np.ones(64)
    power[27] = 0.1
    assert quietest(power, 2) == 27
    power[20] = 0.01  # too far from the stretch's beginning, frame 32
    assert quietest(power, 2) == 27


class Careless(Block):
    """A perfect separator that changes its outputs whenever nobody speaks, and tears what one says alone in two."""

    lookahead = inf

    def __init__(self, sources: np.ndarray) -> None:
        super().__init__()
        self.sources, self.speakers = torch.from_numpy(sources.T.copy()), 2
        self.at, self.hop = 0, int(0.75 * 8 * RATE)
        silent = ~np.abs(sources).any(0)
        changes = np.diff(silent.astype(int), prepend=0) == 1
        self.turned = torch.from_numpy(changes.cumsum() % 2 == 1)

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        start = min(self.at, len(self.sources) - x.shape[1])
        self.at += self.hop
        y = self.sources[start : start + x.shape[1]]
        return torch.where(self.turned[start : start + x.shape[1], None], y.flip(1), y)[None], ()


def conversation(seconds: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Lay turns of two voices one after the other: (2, samples)."""
    sources, at, draw, number = np.zeros((2, seconds * RATE), np.float32), 0, np.random.default_rng(0), 0
    while at < sources.shape[1]:
        end = at + int(draw.uniform(1.5, 4) * RATE)
        sources[number % 2, at:end] = (first, second)[number % 2][at : min(end, sources.shape[1])]
        at, number = end + int(draw.uniform(0.1, 0.6) * RATE), number + 1
    return sources


def real_voices(seconds: int) -> list[np.ndarray]:
    """Give a real voice, and itself a third higher: (samples,) each."""
    x = soundfile.read(EXAMPLE, dtype="float32")[0]
    voices = [soxr.resample(x, 16_000 * high, RATE) for high in (1, 1.3)]
    return [np.resize(voice, seconds * RATE) for voice in voices]


@pytest.mark.parametrize("careless", [False, True])
def test_a_careless_network_gives_speakers(careless):
    """The card says whether voices have to be followed, and the options have the last word."""
    sources = conversation(60, *real_voices(60))
    mixture = sources.sum(0)[None]
    card = Card("mossformer2.careless", "mossformer2", "separate", {}, RATE, window_seconds=8.0, turns=careless)
    for wanted in (None, not careless):
        stream = Separator(card, Careless(sources).eval()).stream(options=Options(turns=wanted), live=False)
        found = np.concatenate([stream.push(mixture), stream.flush()], 2)[:, 0]
        np.testing.assert_allclose(found.sum(0), mixture[0], atol=1e-6)
        ratios = [[float(si_sdr(y, source)) for source in sources] for y in found]
        worst = max(min(ratios[0][0], ratios[1][1]), min(ratios[0][1], ratios[1][0]))
        if careless if wanted is None else wanted:
            assert worst > 6
            assert 5 < len(stream.turns) < 40
            assert all(0 < turn.seconds < 60 and 0.5 < turn.confidence <= 1 for turn in stream.turns)
        else:
            assert worst < 1
            assert stream.turns == []


def test_what_is_no_voice_changes_nothing():
    for sources in (np.stack([hiss(0, 20), hiss(1, 20)]), np.zeros((2, 20 * RATE), np.float32)):
        network = Careless(sources).eval()
        card = Card("mossformer2.careless", "mossformer2", "separate", {}, RATE, window_seconds=8.0)
        stream = Separator(card, network).stream(options=Options(turns=True), live=False)
        stream.push(sources.sum(0)[None])
        stream.flush()
        assert stream.turns == []
