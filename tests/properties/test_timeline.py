"""Timelines: windows as the definition has them, whole or live, and the segments that follow from them."""

import gc
from itertools import groupby, pairwise

import numpy as np
import pytest
import torch

from kit.recognizers import CLASSES, write_recognizer
from kit.videos import moving_block
from wavecast.apps.activity.inference import Options, Recognizer
from wavecast.apps.activity.networks import log_probabilities
from wavecast.apps.activity.timeline import Blend, Moment, Segmenter
from wavecast.apps.activity.windows import starts
from wavecast.core.errors import WavecastError
from wavecast.datamodules.clip_sampling import resize_frames
from wavecast.datamodules.modalities import history, join

RATE = 20.0


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Paths of tiny models: one that follows, one with a rate of its own, one that needs the clip."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "follows": write_recognizer(folder),
        "rate": write_recognizer(folder, name="rate", rate=10.0, seed=1),
        "whole": write_recognizer(folder, "ts_lstm", classes=CLASSES[::-1], seed=2),
        "whole_rate": write_recognizer(folder, "frame_average", rate=10.0, seed=3),
        "others": write_recognizer(folder, name="others", classes=("rise", "fall", "turn", "jump")),
    }


@pytest.fixture(scope="module")
def movie():
    """64 frames that change their kind of motion."""
    x = np.concatenate([moving_block(24), moving_block(24)[::-1], moving_block(16)[:, ::-1]])
    x[30:36] = np.random.default_rng(0).integers(256, size=x[30:36].shape)
    return x


def probabilities(network, x, times, start, window):
    """What a network says of one window, from the definition: pick its frames, and show it the clip.

    At the end of the video a window has fewer frames; a head that needs all of them gets them spread out.
    """
    rate, follows = network.rate, network.lookahead == 0
    count = network.frames if rate is None or not follows else round(window * rate)
    end = times[-1] + times[-1] / (len(times) - 1)
    ticks = [start + (i + 0.5) * window / count for i in range(count)]
    chosen = [max(k for k, time in enumerate(times) if time <= tick + 1e-6) for tick in ticks if tick < end]
    if not follows:
        chosen = [chosen[int((i + 0.5) * len(chosen) / count)] for i in range(count)]
    past = history(network.modalities)
    seen = [np.stack([x[before(times, k, j, rate)] for j in range(past, -1, -1)]) for k in chosen]
    clip = np.concatenate([join(network.modalities, resize_frames(one, network.size)) for one in seen])
    with torch.inference_mode():
        return log_probabilities(network(torch.from_numpy(clip)[None])[0])[0].exp().numpy()


def before(times, k, count, rate):
    """Find what a network sees before frame k: so many frames, at its own rate if it has one."""
    if rate is None or not count:
        return max(0, k - count)
    return max((i for i, time in enumerate(times) if time <= times[k] - count / rate + 2e-3), default=0)


def cut(x, rng):
    """Cut frames at random places, also into nothing."""
    places = np.sort(rng.integers(0, len(x) + 1, 6))
    return np.split(np.arange(len(x)), places)


@pytest.mark.parametrize("kind", ["follows", "rate", "whole", "whole_rate"])
@pytest.mark.parametrize("window", [None, 0.7])
def test_moments_are_the_mean_of_the_windows_that_cover_them_live_or_not(models, movie, kind, window):
    """At uneven times, cut anywhere: to the byte the same live as at once, and what the definition says, to rounding.

    The last layer of these models enlarges rounding as it enlarges everything.
    """
    recognizer = Recognizer.load(str(models[kind]), "cpu")
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.choice([0.02, 0.04, 0.11], len(movie))) + 5
    options = Options(window=window)
    window, stride = recognizer.plan(options)
    assert window == (0.7 if options.window else {"follows": 4.0, "whole": 4.0}.get(kind, 0.8))
    stream = recognizer.stream(RATE, options)
    found = stream.push(movie, times) + stream.flush()
    live = recognizer.stream(RATE, options)
    pieces = [live.push(movie[part], times[part]) for part in cut(movie, rng)]
    again = [moment for piece in pieces for moment in piece] + live.flush()
    assert len(found) == len(again) and live.seconds == stream.seconds
    for one, other in zip(found, again, strict=True):
        assert (one.start, one.end) == (other.start, other.end)
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
    times, end = times - times[0], stream.seconds
    np.testing.assert_allclose([one.start for one in found], [k * stride for k in range(len(found))])
    np.testing.assert_allclose([one.end for one in found], [*(one.start for one in found[1:]), end])
    begun = [k * stride for k in range(1000) if k == 0 or (k - 1) * stride + window <= end]
    windows = {one: probabilities(recognizer.networks[0], movie, times, one, window) for one in begun}
    assert np.ptp(np.stack(list(windows.values())), 0).max() > (0.05 if len(windows) > 1 else -1)
    for one in found:
        middle = (one.start + min(one.end, one.start + stride)) / 2
        expected = np.mean([p for start, p in windows.items() if start <= middle < start + window], 0)
        np.testing.assert_allclose(one.probabilities, expected, atol=1e-4)


def test_whole_videos_are_seen_as_models_learned(models, movie):
    """Spread over all of it; or, at a rate, in windows half over one another, the last one at the end."""
    times = np.arange(len(movie)) / RATE
    for kind in ("follows", "whole"):
        recognizer = Recognizer.load(str(models[kind]), "cpu")
        expected = probabilities(recognizer.networks[0], movie, times, 0.0, len(movie) / RATE)
        np.testing.assert_allclose(recognizer(movie).probabilities, expected, atol=1e-4)
        assert recognizer(movie).seconds is None and recognizer(movie, RATE).seconds == pytest.approx(3.2)
    for kind in ("rate", "whole_rate"):
        recognizer = Recognizer.load(str(models[kind]), "cpu")
        x = movie[:53]  # 2.65 s: windows of 0.8 s begin at 0, 0.4, 0.8, 1.2, 1.6 and 1.85
        windows = [probabilities(recognizer.networks[0], x, times[:53], s, 0.8) for s in (0, 0.4, 0.8, 1.2, 1.6, 1.85)]
        np.testing.assert_allclose(recognizer(x, RATE).probabilities, np.mean(windows, 0), atol=1e-4)
        short = recognizer(movie[:3], RATE)
        np.testing.assert_allclose(
            short.probabilities, probabilities(recognizer.networks[0], movie[:3], times[:3], 0, 0.8), atol=1e-4
        )
        with pytest.raises(WavecastError, match="does not tell its frames per second"):
            recognizer(movie)


def test_models_are_fused_by_their_weights_whatever_the_order_of_their_classes(models, movie):
    first, second = (Recognizer.load(str(models[kind]), "cpu") for kind in ("follows", "whole"))
    both = Recognizer.load([str(models["follows"]), str(models["whole"])], "cpu", [1, 3])
    assert both.classes == CLASSES and second.classes == CLASSES[::-1]
    np.testing.assert_allclose(both.weights, [0.25, 0.75])
    expected = 0.25 * first(movie).probabilities + 0.75 * second(movie).probabilities[::-1]
    np.testing.assert_allclose(both(movie).probabilities, expected, atol=1e-6)
    options = Options(window=0.6)
    alone = [[*one.moments(movie, RATE, options)] for one in (first, second)]
    for fused, a, b in zip(both.moments(movie, RATE, options), *alone, strict=True):
        np.testing.assert_allclose(
            fused.probabilities, 0.25 * a.probabilities + 0.75 * b.probabilities[::-1], atol=1e-6
        )
    with pytest.raises(WavecastError, match="different activities apart: bounce, jump are not in both"):
        Recognizer.load([str(models["follows"]), str(models["others"])], "cpu")
    for weights in ([1], [0, 0], [1, -1], [1, float("nan")]):
        with pytest.raises(WavecastError, match="for 2 models"):
            Recognizer.load([str(models["follows"]), str(models["whole"])], "cpu", weights)


def test_what_seems_to_be_going_on_is_known_from_the_first_frame(models, movie):
    stream = Recognizer.load(str(models["follows"]), "cpu").stream(RATE, Options(window=1.0))
    assert stream.now() is None and stream.flush() == []
    stream = Recognizer.load(str(models["follows"]), "cpu").stream(RATE, Options(window=1.0))
    stream.push(movie[:3])
    assert stream.now().sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="give uint8"):
        stream.push(movie[:1].astype(np.float32))
    for window, stride in ((1.0, 1.5), (1.0, 0.001)):
        with pytest.raises(WavecastError, match="windows of 1 s every"):
            Recognizer.load(str(models["follows"]), "cpu").stream(RATE, Options(window, stride))


@pytest.mark.parametrize(("window", "stride"), [(2.0, 1.0), (1.0, 1.0), (3.0, 1.0), (2.5, 1.0), (0.6, 0.25)])
@pytest.mark.parametrize("end", [0.1, 1.0, 2.0, 2.4, 7.0, 7.3])
def test_a_timeline_has_no_gaps(window, stride, end):
    rng, blend = np.random.default_rng(0), Blend(window, stride)
    count = sum(1 for k in range(1000) if k * stride + window <= end + 1e-9)
    windows = [rng.dirichlet([1, 1, 1]) for _ in range(count)]
    rest = rng.dirichlet([1, 1, 1])
    found = [blend.add(one) for one in windows] + blend.finish(end, rest)
    assert found[0].start == 0 and found[-1].end == pytest.approx(end)
    np.testing.assert_allclose([one.end for one in found[:-1]], [one.start for one in found[1:]])
    for k, one in enumerate(found):
        covering = [p for j, p in enumerate(windows) if j <= k and (j * stride + window) >= (k + 1) * stride - 1e-9]
        covering += [rest] if k >= count else []
        np.testing.assert_allclose(one.probabilities, np.mean(covering, 0))
    assert Blend(window, stride).finish(end, None) == []


@pytest.mark.parametrize(("window", "stride"), [(2.0, 1.0), (1.0, 1.0), (2.5, 1.0)])
@pytest.mark.parametrize("end", [0.5, 2.0, 6.3, 7.0])
def test_windows_begin_every_stride_and_end_with_the_video(window, stride, end):
    found = [*starts(window, stride, end)]
    whole = [k * stride for k in range(100) if k * stride + window <= end]
    assert found[: len(whole)] == whole
    last = found[-1] + window
    assert last == pytest.approx(end) if end >= window else found == [0.0]
    assert len(found) <= len(whole) + 1


def moments(labels, confidence=0.8):
    """Moments of a second, each of one label; -1: nothing is probable."""
    made = []
    for k, label in enumerate(labels):
        p = np.full(3, 0.3) if label < 0 else np.full(3, (1 - confidence) / 2)
        if label >= 0:
            p[label] = confidence
        made.append(Moment(float(k), float(k + 1), p))
    return made


def segments(found, threshold=0.5, minimum=0.0):
    segmenter = Segmenter("abc", threshold, minimum)
    told = [one for moment in found for one in segmenter.step(moment)]
    return [(one.start, one.end, one.activity) for one in told + segmenter.finish()]


@pytest.mark.parametrize(
    ("labels", "minimum", "expected"),
    [
        ([0, 0, 1, 1, 1], 0, [(0, 2, "a"), (2, 5, "b")]),
        ([0, 0, -1, -1, 1], 0, [(0, 2, "a"), (4, 5, "b")]),
        ([0, 0, 1, 0, 0], 2, [(0, 5, "a")]),  # a flicker is left out, and a goes on
        ([0, 0, -1, 0, 0], 2, [(0, 5, "a")]),
        ([0, 0, -1, -1, 0, 0], 2, [(0, 2, "a"), (4, 6, "a")]),
        ([0, 0, 1, 2, 0, 0], 2, [(0, 2, "a"), (4, 6, "a")]),
        ([1, 0, 0, 0, 2], 2, [(1, 4, "a")]),
        ([0, 1, 0, 1], 2, []),
        ([-1, -1], 0, []),
        ([], 0, []),
    ],
)
def test_segments_of_a_timeline(labels, minimum, expected):
    assert segments(moments(labels), minimum=minimum) == expected


def test_segments_are_told_as_soon_as_they_have_ended():
    segmenter = Segmenter("abc", 0.5, 2.0)
    told = [len(segmenter.step(moment)) for moment in moments([0, 0, 0, 1, 1, 1, -1, -1, -1])]
    assert told == [0, 0, 0, 0, 1, 0, 0, 1, 0]
    assert segmenter.partial() is None and segmenter.finish() == []


def test_segments_tile_random_timelines():
    rng = np.random.default_rng(0)
    for _ in range(50):
        found = [Moment(k / 2, (k + 1) / 2, rng.dirichlet([0.5] * 3)) for k in range(20)]
        runs = [(label, [*run]) for label, run in groupby(found, lambda one: int(one.probabilities.argmax()))]
        expected = [(run[0].start, run[-1].end, "abc"[label]) for label, run in runs]
        assert segments(found, threshold=0) == expected
        told = segments(found, threshold=0.6, minimum=1.0)
        assert all(end - start >= 1 for start, end, _ in told)
        assert all(one[1] <= other[0] for one, other in pairwise(told))
    segmenter = Segmenter("abc", 0.0, 0.0)
    for moment in (Moment(0, 1, np.array([0.6, 0.2, 0.2])), Moment(1, 4, np.array([0.9, 0.1, 0]))):
        assert segmenter.step(moment) == []
    (one,) = segmenter.finish()
    assert one.confidence == pytest.approx((0.6 + 3 * 0.9) / 4)


@pytest.mark.parametrize("kind", ["follows", "whole"])
def test_a_stream_holds_no_more_after_an_hour_than_after_a_minute(models, movie, kind):
    """Windows come and go: as many tensors are alive late as early."""
    stream = Recognizer.load(str(models[kind]), "cpu").stream(1.0, Options(window=60.0))
    counts = []
    for minutes in (3, 60):
        while stream.seconds < 60 * minutes:
            stream.push(movie[:1])
        gc.collect()
        counts.append(sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects()))
    assert counts[1] <= counts[0] + 20
