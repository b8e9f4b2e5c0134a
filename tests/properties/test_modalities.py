"""What networks see of a video: colors, differences, optical flow of translated pictures, and how they are joined."""

import importlib.util

import cv2
import numpy as np
import pytest

from wavecast.core.errors import WavecastError
from wavecast.datamodules.modalities import Modality, history, join
from wavecast.datamodules.optical_flow import LARGEST, SIDE, margins, optical_flow


def noise_frames(time=6, rows=14, cols=18, seed=0):
    """Frames of noise: uint8 (time, row, col, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (time, rows, cols, 3), np.uint8)


def translated(right, down, frames=3, size=64):
    """A smooth picture that goes right and down by so many pixels a frame, as waves of exact phases."""
    rng = np.random.default_rng(7)
    row, col = np.mgrid[:size, :size].astype(np.float64)
    waves = [(*rng.uniform(-0.35, 0.35, 2), rng.uniform(0, 6.28)) for _ in range(12)]
    pictures = [
        sum(np.cos(a * (row - k * down) + b * (col - k * right) + phase) for a, b, phase in waves)
        for k in range(frames)
    ]
    x = np.stack(pictures)
    x = (255 * (x - x.min()) / (x.max() - x.min())).round().astype(np.uint8)
    return np.repeat(x[..., None], 3, -1)


@pytest.mark.parametrize(
    ("text", "modality", "history", "channels"),
    [
        ("rgb", Modality("rgb"), 0, 3),
        ("difference", Modality("difference"), 1, 3),
        ("difference:3", Modality("difference", 3), 3, 9),
        ("flow", Modality("flow"), 1, 2),
        ("flow:10", Modality("flow", 10), 10, 20),
        ("flow:10:tvl1", Modality("flow", 10, "tvl1"), 10, 20),
        ("flow:1:tvl1", Modality("flow", 1, "tvl1"), 1, 2),
    ],
)
def test_a_modality_is_read_and_written(text, modality, history, channels):
    assert Modality.parse(text) == modality
    assert str(modality) == text
    assert (modality.history, modality.channels) == (history, channels)


@pytest.mark.parametrize(
    "text",
    ["", "depth", "rgb:2", "flow:0", "flow:-1", "flow:x", "flow:10:farneback", "flow:1:dis:2", "difference:2:dis"],
)
def test_what_is_no_modality_is_refused_with_the_forms(text):
    with pytest.raises(ValueError, match=r"\nhint: one of "):
        Modality.parse(text)


def test_colors_are_fractions():
    x = noise_frames()
    y = Modality("rgb")(x)
    assert y.dtype == np.float32
    np.testing.assert_array_equal((y * 255).round().astype(np.uint8), x)


@pytest.mark.parametrize("stack", [1, 3])
def test_differences_are_those_of_a_plain_loop(stack):
    x = noise_frames()
    y = Modality("difference", stack)(x)
    assert y.shape == (6 - stack, 14, 18, 3 * stack)
    assert y.dtype == np.float32
    for t in range(6 - stack):
        for k in range(stack):
            before, after = x[t + k].astype(float), x[t + k + 1].astype(float)
            np.testing.assert_allclose(y[t, ..., 3 * k : 3 * k + 3], (after - before) / 255, atol=1e-6)
    assert np.abs(Modality("difference")(np.array([[[[0] * 3]], [[[255] * 3]]], np.uint8))).max() == 1


def test_a_frame_sees_its_past_only():
    x = noise_frames(8)
    for modality in (Modality("rgb"), Modality("difference", 2), Modality("flow", 2)):
        whole = modality(x)
        other = x.copy()
        other[5:] = 255 - other[5:]
        np.testing.assert_array_equal(modality(other)[: 5 - modality.history], whole[: 5 - modality.history])
        np.testing.assert_array_equal(modality(x[3 : 4 + modality.history]), whole[3:4])


@pytest.mark.parametrize("method", ["dis", "tvl1"])
@pytest.mark.parametrize("step", [(1.0, 0.0), (2.5, -1.5), (-3.0, 2.0)])
def test_flow_finds_a_translation(method, step):
    flow = LARGEST * optical_flow(translated(*step), method)
    assert flow.shape == (2, 64, 64, 2)
    inside = flow[:, 12:-12, 12:-12]
    assert np.abs(inside - step).max() < 0.3


def test_the_two_methods_agree_on_a_translation():
    frames = translated(1.5, -2.0, 2)
    a, b = (LARGEST * optical_flow(frames, method)[:, 12:-12, 12:-12] for method in ("dis", "tvl1"))
    assert np.abs(a - b).mean() < 0.1


def test_stacked_flow_is_flow_side_by_side():
    x = translated(1.0, 1.0, 5)
    single, stacked = Modality("flow")(x), Modality("flow", 3)(x)
    assert stacked.shape == (2, 64, 64, 6)
    for t in range(2):
        np.testing.assert_array_equal(stacked[t], np.concatenate(single[t : t + 3], -1))


def test_flow_that_goes_far_is_clipped(monkeypatch):
    class Far:
        """Calculates a flow of 55 pixels to the left and 3 down, everywhere."""

        def calc(self, before, after, flow):
            return np.full((*before.shape, 2), [-55, 3], np.float32)

    monkeypatch.setattr(cv2, "DISOpticalFlow_create", lambda preset: Far())
    flow = optical_flow(noise_frames(2))
    assert flow[..., 0].min() == flow[..., 0].max() == -1
    np.testing.assert_allclose(flow[..., 1], 3 / LARGEST)


def test_flow_does_not_depend_on_threads():
    x, before = translated(2.5, 1.0, 2), cv2.getNumThreads()
    flows = []
    for threads in (1, 3):
        cv2.setNumThreads(threads)
        flows.append(optical_flow(x))
    cv2.setNumThreads(before)
    np.testing.assert_array_equal(*flows)


def test_modalities_are_joined_over_the_same_frames():
    x = noise_frames(7)
    modalities = [Modality("rgb"), Modality("difference", 3), Modality("flow", 2)]
    y = join(modalities, x)
    assert history(modalities) == 3
    assert y.shape == (4, 14, 18, 3 + 9 + 4)
    np.testing.assert_array_equal(y[..., :3], modalities[0](x[3:]))
    np.testing.assert_array_equal(y[..., 3:12], modalities[1](x))
    np.testing.assert_array_equal(y[..., 12:], modalities[2](x[1:]))
    np.testing.assert_array_equal(join(modalities[:1], x), modalities[0](x))
    with pytest.raises(ValueError, match="sees nothing"):
        join([], x)


@pytest.mark.parametrize("text", ["rgb", "difference:2", "flow:2"])
def test_no_frame_beyond_the_history_gives_none(text):
    modality = Modality.parse(text)
    y = modality(noise_frames(modality.history))
    assert y.shape == (0, 14, 18, modality.channels)
    assert y.dtype == np.float32


@pytest.mark.parametrize(
    "x", [noise_frames(1), noise_frames().astype(np.float32), noise_frames()[..., :1], noise_frames()[0]]
)
def test_other_frames_are_refused(x):
    with pytest.raises(ValueError, match=r"as frames for difference:2\nhint: uint8"):
        Modality("difference", 2)(x)


@pytest.mark.parametrize("size", [(1, 1), (8, 11), (12, 40), (16, 100), (33, 40), (64, 39), (11, 300), (32, 64)])
def test_flow_of_pictures_of_odd_shapes(size):
    """OpenCV alone crashes on half of these, or reads what was in memory before."""
    frames = noise_frames(2, *size)
    flow = optical_flow(frames)
    assert flow.shape == (1, *size, 2)
    assert np.isfinite(flow).all()
    junk = [np.full(n, 3e8, np.float32) for n in (100, 1000, 5000, 20_000)]
    del junk
    np.testing.assert_array_equal(optical_flow(frames), flow)
    (_, below), (_, right) = margins(*size)
    rows, cols = size[0] + below, size[1] + right
    assert rows % SIDE == cols % SIDE == 0
    assert max(rows, cols) <= 2 * min(rows, cols)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="by 'farneback'"):
        optical_flow(noise_frames(2), "farneback")


def test_without_opencv_the_cure_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WavecastError, match=r"not installed\nhint: pip install 'wavecast\[flow\]'.*difference"):
        Modality("flow")(noise_frames())


def test_opencv_without_contributed_modules_is_refused(monkeypatch):
    monkeypatch.delattr(cv2, "optflow")
    with pytest.raises(WavecastError, match=r"contributed modules(.|\n)*pip install 'wavecast\[flow\]'"):
        Modality("flow")(noise_frames())
