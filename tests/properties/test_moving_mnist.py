"""Moving MNIST: where digits are at any time, what is drawn there, and files that are not what they say."""

import gzip
import struct

import numpy as np
import pytest

from wavecast.core.errors import WavecastError
from wavecast.datamodules.moving_mnist import (
    CONVS5_STEP,
    MovingMNIST,
    bounce,
    find_digits,
    is_convs5,
    open_official_test,
    read_idx_images,
)


def idx(images, magic=0x803, count=None):
    return struct.pack(">4I", magic, len(images) if count is None else count, *images.shape[1:]) + images.tobytes()


def digits(count=5, size=28):
    """Draw filled squares, each of a brightness of its own."""
    images = np.zeros((count, size, size), np.uint8)
    for k in range(count):
        images[k, 4:20, 6 : 12 + k] = 50 + 40 * k
    return images


@pytest.mark.parametrize("length", [0.1, 0.15, 0.37, 1.0])
def test_a_path_is_a_straight_line_folded_at_the_borders(length):
    """Closed form: after the border is met at frame n, the path repeats with a period of 2 ceil(1 / step) frames."""
    rng = np.random.default_rng(0)
    start, step = rng.uniform(0.01, 0.99, 200), length * np.sin(rng.uniform(0.05, np.pi - 0.05, 200))
    step *= rng.choice([-1, 1], 200)
    forward = np.where(step > 0, start, 1 - start)  # seen in a mirror, all begin by going up
    speed = np.abs(step)
    met, across = np.ceil((1 - forward) / speed), np.ceil(1 / speed)
    time = np.arange(1, 61)[:, None]
    phase = (time - met) % (2 * across)
    back = np.where(phase <= across, 1 - phase * speed, (phase - across) * speed).clip(0, 1)
    expected = np.where(time <= met, (forward + time * speed).clip(0, 1), back)
    expected = np.where(step > 0, expected, 1 - expected)
    np.testing.assert_allclose(bounce(start, step, 60), expected, atol=1e-9)


def test_a_step_across_the_border_ends_on_it():
    found = bounce(np.array([0.95, 0.05]), np.array([0.1, -0.1]), 4)
    np.testing.assert_allclose(found, [[1, 0], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], atol=1e-12)


@pytest.mark.parametrize(("size", "step"), [(64, 0.1), (64, CONVS5_STEP), (40, 0.1)])
def test_a_clip_shows_whole_digits_where_the_paths_lead(size, step):
    image = digits(1)
    clips = MovingMNIST(image, 30, size, digits_per_clip=1, step_length=step, seed=3)
    corners = set()
    for k in range(20):
        clip = clips.clip(k)
        assert clip.shape == (30, size, size, 1) and clip.dtype == np.uint8
        rows, cols = (np.nonzero(clip[..., 0].any(axis))[1].reshape(30, -1)[:, 0] for axis in (2, 1))
        places = np.stack([rows - 4, cols - 6], 1)
        for frame, (row, col) in zip(clip[..., 0], places, strict=True):
            np.testing.assert_array_equal(frame[row : row + 28, col : col + 28], image[0])
            assert frame.sum() == image.sum(dtype=int)
        speed = np.hypot(*np.diff(places, axis=0).T)
        assert speed.max() <= step * (size - 28) + np.sqrt(2)  # a corner is rounded down to whole pixels
        corners |= set(places.ravel().tolist())
    assert min(corners) == 0 and max(corners) == size - 28


def test_the_brighter_digit_shows():
    both = MovingMNIST(np.stack([np.full((28, 28), 90, np.uint8)] * 2), 40, 40, digits_per_clip=3, seed=1).clip(0)
    assert set(np.unique(both)) == {0, 90}  # a sum would show 180
    mixed = MovingMNIST(digits(), 1, 28, digits_per_clip=40).clip(0)[0, ..., 0]
    np.testing.assert_array_equal(mixed, digits().max(0))


def test_a_clip_is_a_function_of_seed_and_number():
    one, same, other = (MovingMNIST(digits(), 6, seed=seed) for seed in (1, 1, 2))
    late = one.clip(7)
    one.clip(0)
    np.testing.assert_array_equal(late, same.clip(7))
    assert len({clip.tobytes() for clip in (late, one.clip(0), one.clip(8), other.clip(7))}) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 27}, "for clips of 27 x 27"),
        ({"step_length": 1.5}, "a step length of 1.5"),
        ({"digits": digits().astype(float)}, "digits of float64"),
    ],
)
def test_clips_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        MovingMNIST(**{"digits": digits(), "frames": 3, **given})


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
def test_idx_files_come_back(tmp_path, name):
    data = idx(digits())
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert find_digits(tmp_path, train=False) is None
    np.testing.assert_array_equal(read_idx_images(find_digits(tmp_path)), digits())


WHOLE = idx(digits())
PACKED = gzip.compress(WHOLE)
DAMAGED = {
    "labels": (idx(digits(), magic=0x801), "begins with 0x00000801, not 0x00000803"),
    "short": (WHOLE[:-1], "3920 bytes of images expected, 3919 found"),
    "long": (WHOLE + b"\0", "more than 3920 found"),
    "head": (WHOLE[:9], "is no IDX file of images"),
    "none": (idx(digits(), count=0), "it says it holds 0 images"),
    "enormous": (idx(digits(), count=1 << 31), "it says it holds 2147483648 images"),
    "packed, cut": (PACKED[:-20], "is damaged: compressed file ended"),
    "packed, altered": (PACKED[:-6] + bytes(6), "is damaged: crc check failed"),
    "packed, garbled": (PACKED[:10] + b"\xff" * 40, "is damaged: "),
    "packed, short": (gzip.compress(WHOLE[:-1]), "3919 found"),
    "empty": (b"", "is empty"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_idx_files_are_refused_with_a_cure(tmp_path, name):
    data, message = DAMAGED[name]
    path = tmp_path / "images"
    path.write_bytes(data)
    with pytest.raises(WavecastError) as found:
        read_idx_images(path)
    assert message in found.value.message and str(path) in found.value.message and found.value.hint


def test_the_published_test_set_is_turned_to_clips(tmp_path):
    x = np.random.default_rng(0).integers(256, size=(20, 3, 64, 64), dtype=np.uint8)
    np.save(tmp_path / "mnist_test_seq.npy", x)
    clips = open_official_test(tmp_path / "mnist_test_seq.npy")
    assert clips.shape == (3, 20, 64, 64, 1) and isinstance(clips, np.memmap)
    np.testing.assert_array_equal(clips[1, :, :, :, 0], x[:, 1])
    np.save(tmp_path / "other.npy", x[:10])
    with pytest.raises(WavecastError, match=r"holds uint8 of shape \(10, 3, 64, 64\)"):
        open_official_test(tmp_path / "other.npy")


def test_sequences_of_convs5_are_known_by_name_and_shape(tmp_path):
    x = np.zeros((7, 64, 64, 1), np.float32)
    np.savez(tmp_path / "data.npz", data=x)
    np.savez(tmp_path / "other.npz", frames=x)
    assert is_convs5(tmp_path / "data.npz", x)
    assert not is_convs5(tmp_path / "other.npz", x)
    assert not is_convs5(tmp_path / "data.npz", x[:, :32])
