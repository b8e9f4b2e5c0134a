"""Separation of arrays and streams, with oracles that know the sources and with tiny random networks."""

from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from torch import Tensor, nn

from kit.sounds import hiss, speaker
from wavecast.apps.separation.bench import live_blocks, measure
from wavecast.apps.separation.inference import Options, Separator
from wavecast.apps.separation.mossformer2 import MossFormer2
from wavecast.apps.separation.separated_windows import MOST_HELD, SeparatedWindows, plan_of
from wavecast.apps.separation.tracks import Decision
from wavecast.cards import Card, save_model
from wavecast.core.block import Block
from wavecast.core.errors import WavecastError
from wavecast.core.state import State

RATE = 8000
SECONDS = 4.0
EXAMPLE = Path(__file__).parents[2] / "examples" / "clean.flac"
TINY = {
    "channels": 16,
    "width": 16,
    "layers": 1,
    "hidden": 32,
    "attention": 32,
    "group": 32,
    "inner": 16,
}


def card(**changes) -> Card:
    values = {"hyperparameters": {}, "sample_rate": RATE, "window_seconds": SECONDS, **changes}
    return Card("mossformer2.test", "mossformer2", "separate", **values)


class Oracle(Block):
    """Knows the sources (speakers, samples), and gives each window's in a random order, at random scales, with leaks.

    Channels that hear them are given as weights (channels, speakers).
    """

    lookahead = inf

    def __init__(
        self, sources: np.ndarray, seed: int = 0, channels: np.ndarray | None = None, seconds: float = SECONDS
    ) -> None:
        super().__init__()
        self.sources, self.speakers = torch.from_numpy(sources.astype(np.float32)), len(sources)
        self.channels = torch.ones(1, len(sources)) if channels is None else torch.from_numpy(channels).float()
        self.plan = plan_of(Nothing(), RATE, seconds)
        self.draw, self.at = np.random.default_rng(seed), 0
        self.orders: list[list[int]] = []

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        start = min(self.at, self.sources.shape[1] - x.shape[1])
        self.at += self.plan.window - self.plan.overlap
        windows = []
        for row, weights in zip(x, self.channels, strict=True):
            y = self.sources[:, start : start + x.shape[1]] * weights[:, None]
            mixture = y.sum(0)
            assert row @ mixture >= 0.999 * row.norm() * mixture.norm()  # it is the window that is thought
            y = 0.97 * y + 0.03 * mixture
            scales = torch.from_numpy(10 ** self.draw.uniform(-0.3, 0.3, (len(y), 1))).float()
            self.orders.append(self.draw.permutation(len(y)).tolist())
            windows.append((y * scales)[self.orders[-1]].T)
        return torch.stack(windows), ()


class Nothing(Block):
    """Has no plan of its own."""


def separated(sources: np.ndarray, seed: int = 0, seconds: float = SECONDS) -> tuple[np.ndarray, list]:
    """Separate the sum of sources with an oracle; give the voices and the seams."""
    network = Oracle(sources, seed, seconds=seconds).eval()
    stream = Separator(card(window_seconds=seconds), network).stream(live=False)
    mixture = sources.sum(0, dtype=np.float32)[None]
    y = np.concatenate([*(stream.push(part) for part in np.array_split(mixture, 7, 1)), stream.flush()], 2)[:, 0]
    if sources.shape[1] > network.plan.window:
        assert len({tuple(order) for order in network.orders}) > 1, "the oracle never swapped"
    return y, stream.seams


def errors_db(found: np.ndarray, sources: np.ndarray) -> list[float]:
    """Give what is wrong with each voice in decibels, with the first window's order kept by the caller."""
    return [float(10 * np.log10(np.mean((y - s) ** 2) / np.mean(s**2))) for y, s in zip(found, sources, strict=True)]


def in_order(found: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Sort whole outputs to the sources they are like; nothing within an output is changed."""
    likeness = np.abs(found @ sources.T) / np.sqrt((sources**2).sum(1))
    order = [int(likeness[:, k].argmax()) for k in range(len(sources))]
    assert sorted(order) == list(range(len(sources)))
    return found[order]


@pytest.mark.parametrize("seed", [0, 1])
def test_real_voices_are_not_swapped_and_keep_their_levels(seed):
    """A real voice and itself a third higher, 14 dB apart, for nine windows."""
    x = soxr.resample(soundfile.read(EXAMPLE, dtype="float32")[0], 16_000, RATE)
    other = soxr.resample(x, 1.3 * RATE, RATE)
    count = 28 * RATE
    sources = np.stack([np.tile(x, 3)[:count], 0.2 * np.roll(np.tile(other, 4), 9000)[:count]])
    found, seams = separated(sources, seed)
    assert max(errors_db(in_order(found, sources), sources)) < -15
    np.testing.assert_allclose(found.sum(0), sources.sum(0), atol=1e-6)
    assert len(seams) == 8
    assert all(seam.certain for seam in seams)


@pytest.mark.parametrize(("seconds", "seeds"), [(4, (0, 2)), (4, (1, 2)), (8, (0, 1, 2))])
def test_silence_in_every_overlap_swaps_nobody(seconds, seeds):
    """Windows share a quarter of themselves, in which nobody speaks; the voices alone tell who is who."""
    sources = np.stack([speaker(seed, 7 * seconds, RATE) for seed in seeds])
    part = np.arange(sources.shape[1]) / (0.75 * seconds * RATE) % 1  # of the time from window to window
    for k, source in enumerate(sources):  # one after the other begins, and ends
        source *= ((part > 0.34 + 0.13 * k) & (part < 0.99 - 0.13 * (len(seeds) - 1 - k))) * np.float32(0.8**k)
    for seed in range(2):
        found, _ = separated(sources, seed, seconds)
        assert max(errors_db(in_order(found, sources), sources)) < -15


def test_a_single_speaker_in_the_overlap_decides():
    """Both are voices nobody could tell apart (noise); only the first is heard in the overlaps."""
    count = 16 * RATE
    sources = np.stack([hiss(seed, 16, RATE) for seed in range(2)])
    sources[1] *= (np.arange(count) % (3 * RATE) > RATE) & (np.arange(count) // (3 * RATE) % 2 == 0)
    found, seams = separated(sources)
    assert max(errors_db(in_order(found, sources), sources)) < -10
    assert all(seam.certain for seam in seams)


def test_what_nobody_can_know_is_said_with_its_time():
    count = 10 * RATE
    sources = np.stack([hiss(seed, 10, RATE) for seed in range(2)]) * (np.arange(count) % (3 * RATE) > RATE)
    _, seams = separated(sources)
    assert [seam.certain for seam in seams] == [False] * len(seams)
    assert [seam.seconds for seam in seams] == [3.5, 6.5]
    assert all(0.4 < seam.confidence < 0.7 for seam in seams)


def test_what_comes_after_tells_who_was_who(monkeypatch):
    """A window of unvoiced speech alone, then one in which that speaker goes on and speaks up, and the other too."""
    found_wrong, judge_again = [], SeparatedWindows._judge_again

    def judged(self: SeparatedWindows, decision: Decision, certain: bool) -> None:
        found_wrong.append(decision.before != (0, 1))
        judge_again(self, decision, certain)

    monkeypatch.setattr(SeparatedWindows, "_judge_again", judged)
    time = np.arange(16 * RATE) / RATE
    voices = np.stack([speaker(seed, 16, RATE) for seed in (0, 2)])
    voices *= [(time < 3) | (time > 7.5) & (time < 8.5), (time < 3) | (time > 7.5)]
    sources = np.stack([voices[0], voices[1] + 0.5 * hiss(0, 16, RATE) * ((time > 4.2) & (time < 8))]).astype(
        np.float32
    )
    for seed in range(4):
        found, seams = separated(sources, seed)
        assert max(errors_db(in_order(found, sources), sources)) < -15
        np.testing.assert_allclose(found.sum(0), sources.sum(0), atol=1e-6)
        assert all(seam.certain for seam in seams)
    assert True in found_wrong  # what was thought at first would have been heard


def tiny(speakers: int = 2, causal: bool = False, **changes) -> Separator:
    torch.manual_seed(0)
    network = MossFormer2(speakers=speakers, causal=causal, **TINY).eval()
    return Separator(card(**changes), network)


WINDOW, STEP = 32_000, 24_000
LENGTHS = [
    0,
    1,
    80,
    28_000,
    WINDOW - 1,
    WINDOW,
    WINDOW + 1,
    WINDOW + STEP,
    WINDOW + STEP + 1,
    60_500,
    WINDOW + 2 * STEP,
]


@pytest.mark.parametrize("samples", LENGTHS)
def test_every_length_is_separated_to_the_end(samples):
    x = (0.1 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)
    y = tiny()(x, options=Options(speakers=2))
    assert y.shape == (2, samples)
    np.testing.assert_allclose(y.sum(0), x, atol=1e-6)
    assert not samples or y[:, -100:].any(1).all()


def test_silence_stays_silence_and_changes_nothing_around_it():
    separator = tiny()
    assert not separator(np.zeros(50_000, np.float32), options=Options(speakers=2)).any()
    x = 0.1 * np.random.default_rng(0).standard_normal(3 * WINDOW).astype(np.float32)
    x[STEP : 2 * STEP + WINDOW] = 0
    y = separator(x, options=Options(speakers=2))
    np.testing.assert_allclose(y.sum(0), x, atol=1e-6)
    assert not y[:, STEP + 8000 : STEP + WINDOW].any()


@pytest.mark.parametrize("rate", [6000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("residual", [False, True])
def test_at_every_rate_the_outputs_sum_to_the_mixture(rate, residual):
    """White noise: half of it and more lies in the band that the network cannot hear."""
    x = 0.1 * np.random.default_rng(rate).standard_normal(rate + 7).astype(np.float32)
    y = tiny()(x, rate, Options(speakers=2, residual=residual))
    assert y.shape == (3 if residual else 2, rate + 7)
    np.testing.assert_allclose(y.sum(0), x, atol=1e-6)


def test_the_band_above_goes_to_who_has_the_octave_below():
    """One speaker hisses below 4 kHz, the other hums: the hiss above 4 kHz is the first one's."""
    rate, count = 16_000, 3 * 16_000
    noise = hiss(0, 3, rate)
    hum = (0.1 * np.sin(2 * np.pi * 200 * np.arange(count) / rate)).astype(np.float32)
    sources = np.stack([noise, hum])
    low = soxr.resample(sources.T, rate, RATE).T
    y = Separator(card(), Oracle(low).eval())(sources.sum(0), rate, Options(speakers=2))
    high = np.abs(np.fft.rfft(y, axis=1))[:, 15_000:]
    powers = np.sort(np.square(high).sum(1))
    assert powers[1] > 50 * powers[0]


def test_channels_become_their_mean_or_stay():
    separator = tiny()
    x = 0.1 * np.random.default_rng(0).standard_normal((3, 9000)).astype(np.float32)
    mean = separator(x, options=Options(speakers=2))
    assert np.array_equal(mean, separator(x.mean(0), options=Options(speakers=2)))
    each = separator(x, options=Options(speakers=2, channels="each"))
    assert each.shape == (2, 3, 9000)
    np.testing.assert_allclose(each.sum(0), x, atol=1e-6)
    same = separator(np.stack([x[0], x[0]]), options=Options(speakers=2, channels="each"))
    np.testing.assert_allclose(same[:, 0], same[:, 1], atol=1e-6)
    with pytest.raises(ValueError, match="hint: 'mean' or 'each'"):
        separator(x, options=Options(channels="left"))


def test_speakers_are_the_same_in_all_channels():
    """Two speakers between two microphones, one far to the left, one far to the right."""
    sources = np.stack([speaker(0, 10, RATE), speaker(2, 10, RATE)])
    weights = np.array([[1.0, 0.2], [0.1, 0.9]])
    mixture = (weights @ sources).astype(np.float32)
    for seed in range(2):
        separator = Separator(card(), Oracle(sources, seed, weights).eval())
        y = separator(mixture, options=Options(speakers=2, channels="each"))
        left = in_order(y[:, 0], sources * weights[0][:, None])
        assert max(errors_db(left, sources * weights[0][:, None])) < -10
        order = [0, 1] if np.array_equal(left[0], y[0, 0]) else [1, 0]
        assert max(errors_db(y[order, 1], sources * weights[1][:, None])) < -10


def test_one_speaker_gives_one_output_and_it_is_the_mixture():
    voice = speaker(1, 9, RATE)
    sources = np.stack([voice, np.zeros_like(voice)])
    separator = Separator(card(), Oracle(sources).eval())
    np.testing.assert_allclose(separator(voice), voice[None], atol=1e-6)
    both = Separator(card(), Oracle(sources).eval())(voice, options=Options(speakers=2))
    assert both.shape == (2, len(voice))
    rest = Separator(card(), Oracle(sources).eval())(voice, options=Options(residual=True))
    assert rest.shape == (2, len(voice))
    np.testing.assert_allclose(rest.sum(0), voice, atol=1e-6)


def test_no_speaker_gives_one_output():
    x = hiss(0, 5, RATE)
    y = Separator(card(), Oracle(np.stack([x, np.zeros_like(x)])).eval())(x)
    np.testing.assert_allclose(y, x[None], atol=1e-6)


def test_a_quiet_second_speaker_is_kept_quiet():
    sources = np.stack([speaker(0, 12, RATE), 0.05 * np.roll(speaker(2, 12, RATE), 3000)])
    sources[0, 3 * RATE : 6 * RATE] = 0
    stream = Separator(card(), Oracle(sources).eval()).stream(live=False)
    y = np.concatenate([stream.push(sources.sum(0)[None]), stream.flush()], 2)[:, 0]
    levels = sorted(voice.level_db for voice in stream.voices())
    assert all(voice.present for voice in stream.voices())
    assert levels[1] - levels[0] > 15
    found = in_order(y, sources)
    assert np.sqrt(np.mean(found[1][3 * RATE : 6 * RATE] ** 2)) == pytest.approx(0.0025, rel=0.5)


def test_speakers_must_fit_the_model():
    with pytest.raises(WavecastError, match="separates 2 speakers, not 3") as caught:
        tiny().stream(options=Options(speakers=3))
    assert "--speakers auto" in caught.value.hint
    assert tiny(3)(np.zeros(100, np.float32), options=Options(speakers=3)).shape == (3, 100)


def test_damaged_samples_are_counted_and_rates_are_checked():
    separator = tiny()
    x = 0.1 * np.random.default_rng(0).standard_normal((1, 9000)).astype(np.float32)
    x[0, 100:103] = np.nan, np.inf, 1e20
    stream = separator.stream()
    y = np.concatenate([stream.push(x), stream.flush()], 2)
    assert stream.replaced == 3
    assert np.isfinite(y).all()
    with pytest.raises(WavecastError, match="a sample rate of 100 Hz"):
        separator.stream(1, 100)
    with pytest.raises(ValueError, match=r"expected \(1, samples\)"):
        stream.push(np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="hint: integers as"):
        separator(np.zeros(10, np.int16))
    with pytest.raises(WavecastError, match=r"windows of 0\.5 s are too short") as caught:
        tiny(window_seconds=0.5).stream()
    assert caught.value.hint == "at least 1.0 s"


def test_pushes_of_any_size_give_the_same_bytes_and_bounded_memory():
    separator, options = tiny(), Options(speakers=2)
    x = 0.1 * np.random.default_rng(0).standard_normal(16 * WINDOW).astype(np.float32)
    whole = separator(x, 16_000, options)
    stream, pieces, held = separator.stream(1, 16_000, options), [], []
    for start in range(0, len(x), 7001):
        pieces.append(stream.push(x[None, start : start + 7001]))
        held.append(stream.taken - stream.given)
    pieces.append(stream.flush())
    assert np.array_equal(np.concatenate(pieces, 2)[:, 0], whole)
    assert max(held) < 2 * (WINDOW + (MOST_HELD + 1) * STEP)  # at twice the rate
    assert 0.6 * len(x) > 2 * (WINDOW + (MOST_HELD + 1) * STEP)
    assert (stream.taken, stream.given) == (0, 0)


def test_one_pass_whatever_the_length():
    separator, x = tiny(), 0.1 * np.random.default_rng(0).standard_normal(2 * WINDOW).astype(np.float32)
    stream = separator.stream(options=Options(whole=True))
    assert stream.push(x[None]).shape == (2, 1, 0)
    assert stream.flush().shape == (2, 1, 2 * WINDOW)
    assert stream.seams == []


def test_a_causal_model_works_live():
    separator = tiny(causal=True, block=80)
    assert separator.streams
    assert separator.latency < 800
    x = 0.1 * np.random.default_rng(0).standard_normal(6001).astype(np.float32)
    whole = separator(x, options=Options(speakers=2))
    np.testing.assert_allclose(whole.sum(0), x, atol=1e-6)
    stream = separator.stream(options=Options(speakers=2))
    pieces = [stream.push(x[None, k : k + 333]) for k in range(0, 6001, 333)]
    assert sum(piece.shape[2] for piece in pieces) >= 6001 - 800
    assert np.array_equal(np.concatenate([*pieces, stream.flush()], 2)[:, 0], whole)
    with pytest.raises(WavecastError, match="no blocks of 81 samples"):
        separator.stream(options=Options(block=81))


def test_tensors_dtypes_and_levels():
    separator = tiny()
    x = 0.1 * torch.randn(2, 3000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = separator(x, options=Options(speakers=2))
    assert isinstance(y, Tensor)
    assert (y.dtype, y.shape) == (torch.float64, (2, 3000))
    louder = separator(x, options=Options(speakers=2, gain_db=6))
    torch.testing.assert_close(louder, y * 10**0.3, atol=1e-6, rtol=1e-5)
    bent = separator(20 * x, options=Options(speakers=2, soft=True))
    assert 0.9 < bent.abs().max() <= 1


def test_a_saved_model_is_loaded_in_its_fast_form_and_measured(tmp_path):
    plain = tiny()
    hyperparameters = {"speakers": 2, **TINY}
    saved = save_model(plain.network, replace(plain.card, hyperparameters=hyperparameters), tmp_path)
    path = str(tmp_path / f"{saved.name}.yaml")
    assert (saved.window_seconds, Card.read(tmp_path / f"{saved.name}.yaml").window_seconds) == (SECONDS, SECONDS)
    loaded = Separator.load(path, "cpu")
    assert loaded.plan.window == WINDOW
    x = 0.1 * np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    options = Options(speakers=2)
    np.testing.assert_allclose(loaded(x, options=options), plain(x, options=options), atol=1e-5)
    rows = list(measure(path, "cpu", 5))
    assert [(row["seconds"], row["windows"]) for row in rows] == [(1, 1), (5, 2), (20, 7)]
    assert all(row["cpu_per_second"] > 0 and row["peak_memory_mib"] > 0 for row in rows)


class Halves(Block):
    """A causal separator of nothing: half of the signal for each."""

    speakers = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        y = self.scale * x
        return torch.stack([y, y], -1), ()


def test_a_causal_model_is_measured_by_its_blocks():
    rows = list(live_blocks(Separator(card(block=80), Halves().eval()), 1))
    assert [row["block"] for row in rows] == [80, 320, 5120]
    assert [row["latency_ms"] for row in rows] == [10.0, 40.0, 640.0]
    assert all(0 < row["median_call_ms"] <= row["slowest_call_ms"] for row in rows)
