"""What long separations are made of: windows, levels, voiceprints, and the decision who is who."""

from math import inf

import numpy as np
import pytest
import torch
from torch import Tensor

from kit.sounds import speaker
from wavecast.apps.separation.levels import LeveledStream, least_squares_gains, momentary_power, products, with_rest
from wavecast.apps.separation.presence import Presence, Voice, kept_outputs, without_absent
from wavecast.apps.separation.separated_windows import match_channels, plan_of
from wavecast.apps.separation.tracks import NATS, Tracks, same_sound
from wavecast.apps.separation.voices import VOICED, Analyzer, Voiceprint
from wavecast.core.block import Block
from wavecast.core.state import State
from wavecast.core.stream import Stream
from wavecast.core.windows import Plan, Windows

RATE = 8000
PLAN = Plan(window=1000, context=60, fade=80)
STEP = PLAN.window - PLAN.overlap


class Pair(Block):
    """Gives a signal and its negative half, after `offset`; notes how long the signals were."""

    lookahead: int | float = inf

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        self.lengths.append(x.shape[1])
        return torch.stack([x, -0.5 * x], -1), ()


def through(windows: Windows | LeveledStream, x: Tensor, size: int) -> Tensor:
    pieces = [piece for part in x.split(size, 1) for piece in windows.push(part)] if x.shape[1] else []
    return torch.cat([torch.zeros(len(x), 0, 2), *pieces, *windows.flush()], 1)


@pytest.mark.parametrize("samples", [0, 1, 999, 1000, 1001, 1000 + STEP, 1001 + STEP, 1000 + 4 * STEP, 5678])
def test_trailing_axes_pass_and_every_length_comes_back(samples):
    x = torch.randn(3, samples, generator=torch.Generator().manual_seed(samples))
    for size in (10**6, 333):
        network = Pair().eval()
        y = through(Windows(network, PLAN, torch.tensor([1.0, 2.0, 0.5])), x, size)
        torch.testing.assert_close(y, torch.stack([x, -0.5 * x], -1), rtol=1e-4, atol=1e-5)
        assert all(length == PLAN.window for length in network.lengths) or samples < PLAN.window


def test_every_seam_is_shown_the_same_time_of_both_windows():
    seen = []

    class Watched(Windows):
        def align(self, heard: Tensor, made: Tensor, before: Tensor | None, start: int) -> Tensor:
            assert torch.equal(made[..., 0], heard)
            if before is not None:
                at = self.end - self.plan.overlap - start
                assert torch.equal(before, made[:, at : at + self.plan.overlap])
            seen.append(start)
            return made

    x = torch.randn(1, 1000 + 2 * STEP + 5)
    through(Watched(Pair().eval(), PLAN), x, 700)
    assert seen == [0, STEP, 2 * STEP, 2 * STEP + 5]


def test_windows_of_a_length():
    plan = Plan(30 * RATE, 1000, 500, grid=160)
    assert plan.lasting(0, RATE) is plan
    assert plan.lasting(4, RATE).window == 4 * RATE // 160 * 160
    with pytest.raises(ValueError, match=r"0.3 s are too short\nhint: at least 0.625 s"):
        plan.lasting(0.3, RATE)
    with pytest.raises(ValueError, match="hint: at least 400"):
        Windows(Pair().eval(), Plan(399, 60, 80))
    chosen = plan_of(Pair(), RATE, 4)
    assert (chosen.window, chosen.overlap) == (4 * RATE, RATE)
    assert plan_of(Pair(), RATE).overlap == 3 * RATE


def test_gains_are_those_of_least_squares():
    draw = torch.Generator().manual_seed(0)
    sources = torch.randn(2, 4000, 3, generator=draw) * torch.tensor([1.0, 0.3, 0.1])
    mixture = sources.sum(-1) + 0.01 * torch.randn(2, 4000, generator=draw)
    scales = torch.tensor([[0.5, -2.0, 1.5], [-1.0, -1.5, -0.7]])
    gains = least_squares_gains(*products(mixture, sources * scales[:, None]))
    torch.testing.assert_close(gains.float(), 1 / scales, rtol=0.15, atol=0)
    expected = np.linalg.lstsq((sources * scales[:, None])[0].numpy(), mixture[0].numpy(), rcond=None)[0]
    np.testing.assert_allclose(gains[0], expected, rtol=0.15)


def test_gains_of_silence_and_echoes_stay_small():
    """Nothing is raised that the mixture says nothing about: a silent output, or a faint copy of another one."""
    x = torch.randn(1, 4000, generator=torch.Generator().manual_seed(1))
    quiet = 1e-4 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(2))
    for other in (torch.zeros_like(x), quiet, 0.01 * x):
        gains = least_squares_gains(*products(x, torch.stack([2 * x, 2 * other], -1)))
        torch.testing.assert_close(gains, torch.full((1, 2), 0.5, dtype=torch.float64), atol=0.01, rtol=0)
    silent = torch.zeros(1, 4000, 2)
    assert not least_squares_gains(*products(x, silent)).any()
    assert not least_squares_gains(*products(torch.zeros(1, 4000), torch.stack([x, x], -1))).any()


@pytest.mark.parametrize("residual", [False, True])
def test_nothing_of_the_mixture_is_lost(residual):
    draw = torch.Generator().manual_seed(3)
    voices, mixture = torch.randn(2, 999, 2, generator=draw), torch.randn(2, 999, generator=draw)
    voices[:, :300, 1] = 0
    y = with_rest(mixture, voices, momentary_power(voices, RATE), residual)
    torch.testing.assert_close(y.sum(-1), mixture)
    if residual:
        assert torch.equal(y[..., :2], voices)
    else:  # the silent voice gets nothing, but near where it begins
        assert not y[:, :200, 1].any()
    nothing = torch.zeros(1, 50, 2)
    assert not with_rest(nothing[..., 0], nothing, momentary_power(nothing, RATE), residual).any()


def test_same_sound_is_what_the_loop_says():
    draw = np.random.default_rng(0)
    before, after = draw.standard_normal((2, 2, 450, 3))
    before[:, 100:200] = after[:, 100:200] = 1e-4
    expected = np.zeros((3, 3))
    for t in range(0, 400, 100):
        a, b = before[:, t : t + 100], after[:, t : t + 100]
        energy = 0.5 * ((a**2).sum() + (b**2).sum())
        if energy > 0.01 * 100 * 2:
            for i in range(3):
                for j in range(3):
                    expected[i, j] += NATS * (a[..., i] * b[..., j]).sum() / energy
    np.testing.assert_allclose(same_sound(before, after, 100, 0.01), expected)
    assert same_sound(before[:, :50], after[:, :50], 100, 0.01).shape == (3, 3)


def voiceprint(x: np.ndarray) -> Voiceprint:
    frames = Analyzer(RATE)(x)
    return Voiceprint.of(frames.features[frames.voicing > VOICED])


def test_pitch_and_voicing_are_found():
    analyzer, time = Analyzer(RATE), np.arange(RATE) / RATE
    for pitch in (80, 120, 210, 330):
        x = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 10))
        frames = analyzer(x.astype(np.float32))
        assert frames.voicing.min() > 0.9
        np.testing.assert_allclose(2 ** frames.sound[:, -1], pitch, rtol=0.02)
        np.testing.assert_allclose(
            analyzer.power(x[None])[0], [np.mean(x[128 * k : 128 * k + 384] ** 2) for k in range(len(frames.voicing))]
        )
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    assert (analyzer(noise).voicing > VOICED).mean() < 0.1
    assert len(analyzer(noise[:383]).voicing) == 0


def test_voices_are_told_apart():
    voices = [[voiceprint(speaker(seed, 4, RATE, take)) for take in range(2)] for seed in range(4)]
    for i in range(4):
        alike = [voices[i][0].same_speaker(voices[j][1]) for j in range(4)]
        assert int(np.argmax(alike)) == i
        assert alike[i] > 3 + max(alike[:i] + alike[i + 1 :])
    assert voices[0][0].same_speaker(Voiceprint()) == 0
    both = voices[0][0].plus(voices[0][1], 0.5)
    assert both.frames == voices[0][0].frames + 0.5 * voices[0][1].frames


def test_shared_sound_decides_alone_and_speakers_that_say_nothing_are_one():
    tracks = Tracks(2)
    tracks.begin([Voiceprint(), Voiceprint()], [True, True])
    found = tracks.decide(np.array([[0.1, 8.0], [8.0, 0.1]]), [Voiceprint()] * 2, [True, True])
    assert (found.order, round(found.confidence, 3), found.before, found.bound) == ((1, 0), 1, (0, 1), True)
    known = Tracks(3)
    voices = [voiceprint(speaker(seed, 4, RATE)) for seed in range(3)]
    known.begin([*voices[:2], Voiceprint()], [True, True, False])
    found = known.decide(np.zeros((3, 3)), [Voiceprint(), Voiceprint(), voices[1]], [False, False, True])
    assert found.order[1] == 2
    assert (found.confidence > 0.95, found.bound) == (True, False)
    assert known.decide(np.zeros((3, 3)), [Voiceprint()] * 3, [False] * 3).confidence == pytest.approx(1)


def test_what_one_seam_leaves_open_the_next_one_knows():
    """A doubtful order is not followed for ever: shared sound says only what the window before was."""
    first, second = ([voiceprint(speaker(seed, 4, RATE, take)) for seed in range(2)] for take in range(2))
    tracks = Tracks(2)
    tracks.begin(first, [True, True])
    found = tracks.decide(np.array([[0.0, 0.1], [0.1, 0.0]]), [Voiceprint()] * 2, [True, True])
    assert (found.order, found.confidence < 0.6) == ((1, 0), True)
    same = np.array([[6.0, 0.0], [0.0, 6.0]])  # the window before was ordered as this one is
    found = tracks.decide(same, second[::-1], [True, True])
    assert (found.order, found.before) == ((1, 0), (1, 0))
    assert min(found.confidence, found.hindsight) > 0.99
    found = tracks.decide(same, [Voiceprint()] * 2, [True, True])
    assert (found.order, found.before, found.confidence > 0.99) == ((0, 1), (0, 1), True)


def test_channels_are_matched_by_what_they_hear_at_a_time():
    draw = np.random.default_rng(0)
    rhythm = draw.uniform(size=(2, 100)) > 0.5
    power = np.stack([rhythm * [[1.0], [0.1]], 0.3 * rhythm[::-1] * [[0.1], [1.0]]]) + 1e-6
    prints = [[Voiceprint()] * 2] * 2
    assert match_channels(power, prints, 1e-3) == [(0, 1), (1, 0)]
    apart = [[voiceprint(speaker(0, 4, RATE)), Voiceprint()], [voiceprint(speaker(2, 4, RATE)), Voiceprint()]]
    alone = np.array([[[1.0] * 50 + [0] * 50, [0] * 100], [[0] * 50 + [0.9] * 50, [0] * 100]])
    assert match_channels(alone, apart, 1e-3) == [(0, 1), (1, 0)]  # one voice on the left, another on the right


class Live(Block):
    """A causal separator of nothing: three tenths and half of the signal, at odd scales."""

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        return torch.stack([3 * x, -5 * x.roll(1, 1)], -1), ()


def test_live_levels_follow_and_do_not_depend_on_cuts():
    x = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(5)) * 0.1
    outputs = [through(LeveledStream(Stream(Live().eval(), 160), RATE, False), x, size) for size in (10**6, 777)]
    assert torch.equal(*outputs)
    torch.testing.assert_close(outputs[0].sum(-1), x, atol=1e-6, rtol=0)
    assert outputs[0][..., 0].square().mean() > 50 * outputs[0][..., 1].square().mean()
    silence = torch.zeros(1, 1000)
    assert not through(LeveledStream(Stream(Live().eval(), 160), RATE, False), silence, 100).any()


def test_presence_is_of_voices():
    time = 6 * RATE
    voice, hiss = speaker(1, 6, RATE), 0.02 * np.random.default_rng(0).standard_normal(time).astype(np.float32)
    presence = Presence(3, RATE)
    for k in range(0, time, 5000):
        presence.add(np.stack([voice + hiss, 0.05 * voice, 0.9 * hiss])[:, k : k + 5000])
    found = presence.voices()
    assert [one.present for one in found] == [True, False, False]
    assert found[0].active_seconds > 2
    assert found[0].level_db == pytest.approx(10 * np.log10(np.mean(voice**2)), abs=4)
    assert Presence(2, RATE).voices() == [Voice(None, 0.0, False)] * 2
    silent = Presence(1, RATE)
    silent.add(np.zeros((1, RATE), np.float32))
    assert silent.voices() == [Voice(None, 0.0, False)]


def test_absent_outputs_are_left_out_and_nothing_is_lost():
    y = np.random.default_rng(0).standard_normal((4, 2, 10))
    voices = [Voice(-30.0, 1.0, True), Voice(-50.0, 1.0, False), Voice(-20.0, 1.0, True)]
    np.testing.assert_allclose(without_absent(y[:3], voices), [y[0], y[2] + y[1]])
    np.testing.assert_allclose(without_absent(y, voices), [y[0], y[2], y[3] + y[1]])
    nobody = [Voice(None, 0.0, False), Voice(-50.0, 1.0, False)]
    assert kept_outputs(nobody) == [1]
    np.testing.assert_allclose(without_absent(y[:2], nobody), [y[0] + y[1]])
