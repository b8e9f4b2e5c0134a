"""Generated activities: which frames the classes share, what is seen of them, and what is unseen."""

import numpy as np
import pytest

from wavecast.datamodules.modalities import Modality
from wavecast.datamodules.moving_shapes import AHEAD, BACKWARDS, CLASSES, PAIRS, REORDERED, REVERSED, MovingShapes
from wavecast.datamodules.shapes import GROUNDS, SHAPES, TEXTURES, sprite, texture


def drawn(name, seed, frames=16, unseen=False, size=32):
    return MovingShapes(frames, size, unseen=unseen).draw(name, np.random.default_rng([seed, 5]))


def test_a_clip_is_a_function_of_seed_and_number():
    clips = MovingShapes(frames=6, size=24, seed=3)
    for k in (0, 5, 1000):
        frames, label = clips.clip(k)
        again, same = MovingShapes(frames=6, size=24, seed=3).clip(k)
        assert frames.shape == (6, 24, 24, 3)
        assert frames.dtype == np.uint8
        assert label == same
        np.testing.assert_array_equal(frames, again)
    assert (clips.clip(0)[0] != clips.clip(len(CLASSES))[0]).any()
    assert (clips.clip(0)[0] != MovingShapes(frames=6, size=24, seed=4).clip(0)[0]).any()
    labels = [MovingShapes(2, 16, seed=1).clip(k)[1] for k in range(200)]
    assert set(labels) == set(range(len(CLASSES)))
    assert max(np.bincount(labels)) < 25


@pytest.mark.parametrize("first", [pair[0] for pair in REVERSED])
def test_reversed_classes_are_the_same_frames_backwards(first):
    second = dict(REVERSED.keys())[first]
    for seed in range(3):
        np.testing.assert_array_equal(drawn(first, seed), drawn(second, seed)[::-1])


@pytest.mark.parametrize("first", [pair[0] for pair in REORDERED])
def test_reordered_classes_share_every_pair_of_successive_frames(first):
    second = dict(REORDERED.keys())[first]
    for seed in range(3):
        one, other = drawn(first, seed), drawn(second, seed)
        np.testing.assert_array_equal(np.roll(one, 8, 0), other)
        assert (one != other).any()


def test_the_pairs_are_classes_and_each_class_is_in_one_pair_at_most():
    names = [name for pair in PAIRS for name in pair]
    assert len(names) == len(set(names)) == 2 * len(PAIRS)
    assert set(names) < set(CLASSES)
    assert {*AHEAD, *BACKWARDS} == {second for _, second in PAIRS}
    assert len(CLASSES) == len(set(CLASSES)) >= 12


def center(clip):
    """Where what differs from the mean over time is: (time, 2), row and column."""
    moving = np.abs(clip.astype(np.float64) - np.median(clip, 0)).sum(-1)
    grid = np.arange(clip.shape[1])
    mass = moving.sum((1, 2)) + 1e-9
    return np.stack([(moving.sum(2) * grid).sum(1) / mass, (moving.sum(1) * grid).sum(1) / mass], 1)


@pytest.mark.parametrize(
    ("name", "axis", "sign"), [("move right", 1, 1), ("move left", 1, -1), ("move down", 0, 1), ("move up", 0, -1)]
)
def test_what_moves_goes_where_its_class_says(name, axis, sign):
    went = [np.subtract(*center(drawn(name, seed))[[-1, 0]]) for seed in range(12)]
    assert np.mean([sign * one[axis] > 0 for one in went]) > 0.9
    assert np.mean([abs(one[axis]) > abs(one[1 - axis]) for one in went]) > 0.8


def test_a_motion_turns_clockwise_as_seen():
    """A circle clockwise, rows counted downwards: from the right to the bottom."""
    turned = []
    for seed in range(12):
        path = center(drawn("circle clockwise", seed))
        step = np.diff(path, axis=0)
        turned.append(np.sum(step[:-1, 1] * step[1:, 0] - step[:-1, 0] * step[1:, 1]) > 0)
    assert np.mean(turned) > 0.8


def test_what_appears_is_nowhere_at_first_and_what_rests_does_nothing():
    for seed in range(4):
        clip = drawn("appear", seed).astype(np.int64)
        changed = np.abs(clip - clip[:1]).max(-1)
        assert (changed[-1] > 60).sum() > 8
    changes = {
        name: [(np.abs(np.diff(drawn(name, seed).astype(np.int64), axis=0)) > 50).mean() for seed in range(12)]
        for name in ("rest", "shake")
    }
    assert np.median(changes["rest"]) < 0.002
    assert np.median(changes["shake"]) > 0.004


def test_shapes_textures_and_grounds_of_the_test_are_unseen_in_training():
    for family in (SHAPES, TEXTURES, GROUNDS):
        assert not set(family[False]) & set(family[True])
    for seed in range(3):
        assert (drawn("rest", seed) != drawn("rest", seed, unseen=True)).any()


@pytest.mark.parametrize("unseen", [False, True])
def test_every_shape_is_inside_its_picture_and_of_some_size(unseen):
    for outline in SHAPES[unseen]:
        for seed in range(4):
            rng = np.random.default_rng(seed)
            picture = sprite(rng, (outline,), TEXTURES[unseen], 40, np.array([0.2, 0.5, 0.9]))
            assert picture.shape == (4, 40, 40)
            assert picture.dtype == np.float32
            assert picture.min() >= 0
            assert picture.max() <= 1
            cover = picture[3]
            assert 0.08 < cover.mean() < 0.75, outline.__name__
            assert cover.max() > 0.9, outline.__name__
            assert not cover[[0, -1]].any()
            assert not cover[:, [0, -1]].any()


@pytest.mark.parametrize("unseen", [False, True])
def test_textures_keep_their_color_and_their_range(unseen):
    for pattern in (*TEXTURES[unseen], *GROUNDS[unseen]):
        painted = texture(np.random.default_rng(1), (pattern,), 30, np.array([0.5, 0.5, 0.5]))
        assert painted.shape == (3, 30, 30)
        assert np.abs(painted - 0.5).max() < 0.5
        assert np.abs(painted.mean((1, 2)) - 0.5).max() < 0.15


def test_digits_are_among_the_shapes():
    digits = np.zeros((8, 28, 28), np.uint8)
    digits[:, 8:20, 6:22] = 150 + 10 * np.arange(8)[:, None, None]
    with_digits = MovingShapes(4, 24, digits, seed=1)
    without = MovingShapes(4, 24, seed=1)
    differing = [(with_digits.clip(k)[0] != without.clip(k)[0]).any() for k in range(24)]
    assert sum(differing) > 0
    picture = sprite(np.random.default_rng(0), SHAPES[False], TEXTURES[False], 28, np.ones(3), digits[0])
    np.testing.assert_allclose(picture[3, 1:-1, 1:-1], np.minimum(1, digits[0] / 200)[1:-1, 1:-1], rtol=1e-6)


def test_no_frame_average_sees_a_direction():
    """The mean over time of what a modality sees is the same for both of a pair, up to its order."""
    one, other = drawn("move left", 2), drawn("move right", 2)
    np.testing.assert_array_equal(one.mean(0), other.mean(0))
    one, other = drawn("right and back", 2), drawn("left and back", 2)
    around = [Modality("difference")(np.concatenate([clip[-1:], clip])) for clip in (one, other)]
    np.testing.assert_allclose(around[0].mean(0), around[1].mean(0), atol=1e-6)


@pytest.mark.parametrize(("frames", "size"), [(1, 48), (16, 8)])
def test_too_short_or_small_a_clip_is_refused(frames, size):
    with pytest.raises(ValueError, match="hint: give 2 frames or more, of 16 x 16 or more"):
        MovingShapes(frames, size)
