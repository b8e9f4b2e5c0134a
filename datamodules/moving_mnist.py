"""Moving MNIST: digits that drift over a black square and bounce off its borders; generated, and the published files.

Srivastava, Mansimov, Salakhutdinov, "Unsupervised Learning of Video Representations using LSTMs" (2015). A digit's
corner moves in the unit square, which is the room that the picture leaves it. A step that would cross a border ends on
the border, and the digit turns back with the next one, as in the published test set; where digits overlap, the
brighter pixel shows.
"""

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np

from wavecast.core.errors import WavecastError
from wavecast.datamodules.arrays import array_names, check_file, open_array

OPENSTL_STEP = 0.1
"""Step length of OpenSTL's generator and of the published test set, as a share of the room."""
CONVS5_STEP = 0.15
"""Step length of the sequences that ConvS5 was trained on."""
TEST_FRAMES, TEST_SIZE = 20, 64
MOST_IMAGES, LARGEST_IMAGE = 1 << 20, 1 << 10
IMAGES_MAGIC = 0x00000803
FILES = {True: "train-images-idx3-ubyte", False: "t10k-images-idx3-ubyte"}


def read_idx_images(path: Path) -> np.ndarray:
    """Read the images of an IDX file, compressed by gzip or plain: uint8 (image, row, col).

    Raises:
        WavecastError: it is missing, no IDX file of images, larger than any MNIST, or shorter or longer than it says.
    """
    check_file(path)
    cure = "fetch the file again"
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(16)
            magic, count, rows, cols = (int.from_bytes(head[k : k + 4], "big") for k in range(0, 16, 4))
            if len(head) < 16 or magic != IMAGES_MAGIC:
                raise WavecastError(
                    f"{path} is no IDX file of images: it begins with 0x{magic:08x}, not 0x{IMAGES_MAGIC:08x}",
                    "give the images (idx3), not the labels",
                )
            if not 0 < count <= MOST_IMAGES or not 0 < rows <= LARGEST_IMAGE or not 0 < cols <= LARGEST_IMAGE:
                raise WavecastError(f"{path} is damaged: it says it holds {count} images of {rows} x {cols}", cure)
            data = file.read(prod((count, rows, cols)))
            rest = file.read(1)
    except (EOFError, OSError, zlib.error) as error:
        raise WavecastError(f"{path} is damaged: {str(error).lower()}", cure) from error
    if len(data) != count * rows * cols or rest:
        found = f"more than {len(data)}" if rest else str(len(data))
        raise WavecastError(f"{path} is damaged: {count * rows * cols} bytes of images expected, {found} found", cure)
    return np.frombuffer(data, np.uint8).reshape(count, rows, cols)


def find_digits(folder: Path, train: bool = True) -> Path | None:
    """Find MNIST's file of training images, or of test images, in a folder; None: it is not there."""
    names = (FILES[train], f"{FILES[train]}.gz")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def bounce(start: np.ndarray, step: np.ndarray, frames: int) -> np.ndarray:
    """Move points in the unit interval; a step that would cross a border ends on it, and the next one turns back.

    Args:
        start: where they begin, in [0, 1], of any shape.
        step: what they move in each frame, of the same shape.
        frames: how many.

    Returns:
        float64 (time, ...): the start is not among them, as in the published generator.
    """
    place, step = np.array(start, np.float64), np.array(step, np.float64)
    places = np.empty((frames, *place.shape))
    for row in places:
        place = place + step
        step = np.where((place <= 0) | (place >= 1), -step, step)
        row[...] = place = np.clip(place, 0, 1)
    return places


class MovingMNIST:
    """Clips of moving digits; clip k is a function of (seed, k).

    Args:
        digits: uint8 (image, row, col), drawn from at random.
        frames: of a clip.
        size: rows and columns of a clip.
        digits_per_clip: how many digits move in it.
        step_length: what a digit moves in each frame, as a share of the room that it has; `OPENSTL_STEP` or
            `CONVS5_STEP`.
        seed: another seed gives other clips.

    Raises:
        ValueError: the digits do not fit into the clips, or a step is longer than the room.
    """

    def __init__(
        self,
        digits: np.ndarray,
        frames: int,
        size: int = TEST_SIZE,
        digits_per_clip: int = 2,
        step_length: float = OPENSTL_STEP,
        seed: int = 0,
    ) -> None:
        if digits.ndim != 3 or digits.dtype != np.uint8 or not digits.size or max(digits.shape[1:]) > size:
            raise ValueError(
                f"digits of {digits.dtype} and shape {digits.shape} for clips of {size} x {size}\n"
                "hint: give uint8 (image, row, col), no larger than the clips"
            )
        if not 0 <= step_length <= 1:
            raise ValueError(f"a step length of {step_length}\nhint: give a share of the room, 0 to 1")
        self.digits, self.frames, self.size, self.seed = digits, frames, size, seed
        self.digits_per_clip, self.step_length = digits_per_clip, step_length

    def clip(self, k: int) -> np.ndarray:
        """Give clip k: uint8 (time, row, col, 1)."""
        rng = np.random.default_rng([self.seed, k])
        chosen = self.digits[rng.integers(len(self.digits), size=self.digits_per_clip)]
        start = rng.random((self.digits_per_clip, 2))
        angle = rng.random(self.digits_per_clip) * 2 * np.pi
        step = self.step_length * np.stack([np.sin(angle), np.cos(angle)], 1)
        rows, cols = chosen.shape[1:]
        room = np.array([self.size - rows, self.size - cols])
        corners = np.floor(bounce(start, step, self.frames) * room).astype(int)
        clip = np.zeros((self.frames, self.size, self.size, 1), np.uint8)
        for picture, places in zip(clip[..., 0], corners, strict=True):
            for digit, (row, col) in zip(chosen, places, strict=True):
                under = picture[row : row + rows, col : col + cols]
                np.maximum(under, digit, out=under)
        return clip


def is_official_test(array: np.ndarray) -> bool:
    """Tell whether an array is laid out as the published test set: uint8 (20, clip, 64, 64)."""
    shape = (TEST_FRAMES, TEST_SIZE, TEST_SIZE)
    return array.dtype == np.uint8 and array.ndim == 4 and (array.shape[0], *array.shape[2:]) == shape


def open_official_test(path: Path) -> np.ndarray:
    """Open the published test set, `mnist_test_seq.npy`, memory-mapped: uint8 (clip, time, row, col, 1).

    Raises:
        WavecastError: it is missing, damaged, or of another shape than (20, clips, 64, 64).
    """
    array = open_array(path)
    if not is_official_test(array):
        raise WavecastError(
            f"{path} holds {array.dtype} of shape {array.shape}, not uint8 (20, clips, 64, 64)",
            "give the published mnist_test_seq.npy",
        )
    return array.transpose(1, 0, 2, 3)[..., None]


def is_convs5(path: Path, array: np.ndarray) -> bool:
    """Tell whether an array is one of ConvS5's sequences: 0 to 255, (time, 64, 64, 1), alone in a `.npz` as `data`."""
    alone = path.suffix.lower() == ".npz" and array_names(path) == ["data"]
    return alone and array.ndim == 4 and array.shape[1:] == (TEST_SIZE, TEST_SIZE, 1)
