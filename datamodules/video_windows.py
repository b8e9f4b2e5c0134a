"""Recordings, and the windows of history and horizon that are cut from them, read when they are asked for."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from wavecast.core.errors import WavecastError
from wavecast.datamodules.arrays import ARRAY_SUFFIXES, array_names, check_file, open_array
from wavecast.datamodules.items import Item
from wavecast.datamodules.moving_mnist import is_convs5, is_official_test, open_official_test
from wavecast.datamodules.video_files import open_video

TAXIBJ = frozenset({"X_train", "Y_train", "X_test", "Y_test"})
TAXIBJ_VALUES = (-1.0, 1.0)
Scale = Literal["unit", "symmetric"]


class Recording(Protocol):
    """Frames that belong together.

    Attributes:
        frames: how many.
        shape: rows, columns and channels.
        rate: frames per second; None: nobody knows.
        values: black and white in the file's own numbers.
        whole: whether these are whole numbers.
    """

    frames: int
    shape: tuple[int, ...]
    rate: float | None
    values: tuple[float, float]
    whole: bool

    def window(self, start: int, frames: int) -> np.ndarray:
        """Read frames from `start` on: float32 (time, row, col, channel) in [0, 1]."""


class VideoRecording:
    """A video file, of which each window is decoded when it is asked for.

    Args:
        path: of the file.
        channels: 1 for gray, 3 for color; None: as the file is.

    Raises:
        WavecastError: as `open_video`.
    """

    values, whole = (0.0, 255.0), True

    def __init__(self, path: Path, channels: int | None = None) -> None:
        self._path, self._channels = path, channels
        with open_video(path, channels) as reader:
            self.frames, info = reader.frame_count(), reader.info
        self.shape: tuple[int, ...] = (info.rows, info.cols, info.channels)
        self.rate = info.rate

    def window(self, start: int, frames: int) -> np.ndarray:
        """Decode from the key frame before the window."""
        with open_video(self._path, self._channels) as reader:
            reader.seek(start)
            x, _ = reader.read(frames)
        if len(x) < frames:
            raise WavecastError(
                f"{self._path} ends {frames - len(x)} frames before it says",
                "it was cut off or altered: fetch it again",
            )
        return x.astype(np.float32) / 255


class ArrayRecording:
    """Frames in memory-mapped arrays, one after another.

    Args:
        parts: (time, row, col, channel) each, joined along time.
        values: what is black and what is white in them; None: 0 and 255 in whole numbers, and else 0 and 1, beyond
            which nothing may lie.
        name: for messages.
    """

    rate: float | None = None

    def __init__(self, parts: Sequence[np.ndarray], values: tuple[float, float] | None, name: str) -> None:
        self._parts, self._name, self._checked = parts, name, values is None
        self.whole = parts[0].dtype.kind == "u"
        self.values = values or (0.0, 255.0 if self.whole else 1.0)
        self.frames = sum(len(part) for part in parts)
        self.shape = parts[0].shape[1:]

    def window(self, start: int, frames: int) -> np.ndarray:
        """Copy the window."""
        low, high = self.values
        pieces, begin = [], 0
        for part in self._parts:
            pieces.append(part[max(0, start - begin) : max(0, start + frames - begin)])
            begin += len(part)
        x = (np.concatenate(pieces).astype(np.float32) - low) / (high - low)
        if not (np.isfinite(x).all() and (not self._checked or (x.min() >= 0 and x.max() <= 1))):
            raise WavecastError(
                f"{self._name} has values beyond [{low:g}, {high:g}], or none, in frames {start} to "
                f"{start + frames - 1}",
                "scale the numbers, or train with --data.values '[BLACK, WHITE]'; and fill what is missing",
            )
        return x.astype(np.float32)


class Part:
    """A stretch of a recording, as a recording of its own."""

    def __init__(self, whole: Recording, first: int, frames: int) -> None:
        self._recording, self._first = whole, first
        self.frames, self.shape, self.rate = frames, whole.shape, whole.rate
        self.values, self.whole = whole.values, whole.whole

    def window(self, start: int, frames: int) -> np.ndarray:
        """Read from the whole."""
        return self._recording.window(self._first + start, frames)


class Windows:
    """History and horizon cut from recordings.

    Args:
        recordings: to cut from, of one shape unless `size` is given.
        history: frames that are seen.
        horizon: frames that follow them.
        stride: frames from the beginning of a window to that of the next.
        size: rows and columns that the frames are brought to, by area; None: as they are.
        scale: "unit" gives [0, 1], "symmetric" [-1, 1].
        seed: the order is drawn anew each time round; None: in the order of the recordings.
        most: no more windows than so many, taken at equal distances; None: all.

    Attributes:
        shape: rows, columns and channels of a frame.
        rate: frames per second, where all recordings have the same.

    Raises:
        WavecastError: the shapes differ, or no recording is long enough.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        history: int,
        horizon: int,
        stride: int = 1,
        size: tuple[int, int] | None = None,
        scale: Scale = "unit",
        seed: int | None = None,
        most: int | None = None,
    ) -> None:
        shapes = {(*(size or recording.shape[:2]), recording.shape[2]) for recording in recordings}
        if len(shapes) > 1:
            raise WavecastError(
                f"the recordings differ in rows, columns and channels: {', '.join(map(str, sorted(shapes)))}",
                "give --data.size '[ROWS, COLS]' and --data.channels 1 or 3",
            )
        self._recordings, self._history, self._frames = recordings, history, history + horizon
        self._stride, self._size, self._scale, self._seed = stride, size, scale, seed
        counts = [max(0, (one.frames - self._frames) // stride + 1) for one in recordings]
        self._ends = np.cumsum([0, *counts])
        if not self._ends[-1]:
            longest = max((one.frames for one in recordings), default=0)
            raise WavecastError(
                f"no recording of {len(recordings)} has the {self._frames} frames of history and horizon; the longest "
                f"part to cut from has {longest}",
                "give longer ones, or a smaller --data.history or --data.horizon",
            )
        whole = int(self._ends[-1])
        self._count = whole if most is None else min(whole, most)
        self._turn, self._order = -1, np.arange(0)
        self.shape, rates = shapes.pop(), {one.rate for one in recordings}
        self.rate = rates.pop() if len(rates) == 1 else None

    def __len__(self) -> int:
        return self._count

    def item(self, k: int) -> Item:
        """Give window k: inputs and targets, float32 (time, row, col, channel)."""
        turn, place = divmod(k, self._count)
        if self._seed is not None and turn != self._turn:
            self._order = np.random.default_rng([self._seed, turn]).permutation(self._count)
            self._turn = turn
        place = int(place if self._seed is None else self._order[place])
        window = place * int(self._ends[-1]) // self._count
        row = int(np.searchsorted(self._ends, window, side="right")) - 1
        x = self._recordings[row].window((window - int(self._ends[row])) * self._stride, self._frames)
        return to_item(resize_by_area(x, self._size) if self._size else x, self._history, self._scale)


def to_item(x: np.ndarray, history: int, scale: Scale) -> Item:
    """Part frames in [0, 1], (time, row, col, channel), into inputs and targets, and scale them."""
    x = x if scale == "unit" else 2 * x - 1
    return {"inputs": x[:history], "targets": x[history:]}


@lru_cache(maxsize=16)
def _shares(size: int, wanted: int) -> np.ndarray:
    """Find which share of each old pixel belongs to each new one: float32 (wanted, size), rows sum to 1."""
    edges = np.linspace(0, size, wanted + 1)[:, None]
    old = np.arange(size)
    covered = np.minimum(edges[1:], old + 1) - np.maximum(edges[:-1], old)
    return (np.clip(covered, 0, None) * wanted / size).astype(np.float32)


def resize_by_area(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring frames to another size; each new pixel is the mean over the area that it covers.

    Args:
        x: float32 (time, row, col, channel).
        size: rows and columns wanted.

    Returns:
        float32 (time, *size, channel), of the same mean.
    """
    rows, cols = _shares(x.shape[1], size[0]), _shares(x.shape[2], size[1])
    return np.einsum("ar,trcx,bc->tabx", rows, x, cols, optimize=True)


def open_recordings(
    path: Path, channels: int | None = None, values: tuple[float, float] | None = None
) -> list[Recording]:
    """Open the recordings of a file: one, or the clips of the published test set of Moving MNIST.

    Args:
        path: a video, or an array (time, row, col[, channel]) as `.npy`, or as `.npz` of one array. ConvS5's
            files of Moving MNIST go from 0 to 255, although they hold fractions.
        channels: 1 for gray, 3 for color; None: as the file is.
        values: black and white of arrays, see `ArrayRecording`.

    Raises:
        WavecastError: it cannot be read, or holds no frames.
    """
    if path.suffix.lower() not in ARRAY_SUFFIXES:
        return [VideoRecording(path, channels)]
    array = open_array(path)
    if is_official_test(array):
        clips = open_official_test(path)
        return [ArrayRecording([clip], None, f"{path}, clip {k}") for k, clip in enumerate(clips)]
    x = array[..., None] if array.ndim == 3 else array
    if x.ndim != 4 or not x.size or (x.dtype != np.uint8 and x.dtype.kind != "f"):
        raise WavecastError(
            f"{path} holds {array.dtype} of shape {array.shape}, not frames",
            "frames are uint8 or fractions of shape (time, row, col) or (time, row, col, channel)",
        )
    if channels is not None and x.shape[-1] != channels:
        raise WavecastError(f"{path} has {x.shape[-1]} channels where {channels} are wanted", "convert the array")
    if values is None and is_convs5(path, x):
        values = (0.0, 255.0)
    return [ArrayRecording([x], values, str(path))]


def open_recording(path: Path, channels: int | None = None, values: tuple[float, float] | None = None) -> Recording:
    """Open the one recording of a file; the arguments are those of `open_recordings`.

    Raises:
        WavecastError: it cannot be read, holds no frames, or several clips.
    """
    found = open_recordings(path, channels, values)
    if len(found) > 1:
        raise WavecastError(f"{path} holds {len(found)} clips where one is wanted", "save one of them as .npy")
    return found[0]


def open_taxibj(path: Path, part: Literal["train", "test"]) -> list[Recording]:
    """Open a part of TaxiBJ's `dataset.npz`: flows in and out of 32 x 32 cells of Beijing, every half hour.

    Args:
        path: of the file; its arrays X and Y are (window, time, channel, row, col) in [-1, 1].
        part: "train" or "test".

    Returns:
        A recording for each window, X and then Y.

    Raises:
        WavecastError: the file is damaged, or X and Y do not belong together.
    """
    x, y = (open_array(path, f"{name}_{part}") for name in "XY")
    if x.ndim != 5 or y.ndim != 5 or len(x) != len(y) or x.shape[2:] != y.shape[2:] or x.dtype.kind != "f":
        raise WavecastError(
            f"{path} holds X_{part} of shape {x.shape} and Y_{part} of shape {y.shape}",
            "both are (window, time, channel, row, col), of as many windows and one size",
        )
    x, y = (array.transpose(0, 1, 3, 4, 2) for array in (x, y))
    return [ArrayRecording(pair, TAXIBJ_VALUES, f"{path}, window {k}") for k, pair in enumerate(zip(x, y, strict=True))]


def is_taxibj(path: Path) -> bool:
    """Tell whether a file has the four arrays of TaxiBJ's `dataset.npz`.

    Raises:
        WavecastError: it cannot be read.
    """
    check_file(path)
    return path.suffix.lower() == ".npz" and set(array_names(path)) >= TAXIBJ
