"""Training, validation and test data of the video forecaster: what was seen, and what comes next.

Item k of training is a function of (seed, k), and a run reads items 0, 1, 2 ... in order over all its processes.
Validation items are the same in every run and are never of the test set, on which some published code chooses its best
epoch: they are cut from what is there to train on, `VideoData` says how.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from torch.utils.data import DataLoader

from wavecast.core.errors import WavecastError
from wavecast.datamodules.arrays import ARRAY_SUFFIXES
from wavecast.datamodules.items import Item, ItemsData
from wavecast.datamodules.moving_mnist import OPENSTL_STEP, TEST_SIZE, MovingMNIST, find_digits, read_idx_images
from wavecast.datamodules.video_files import VIDEO_SUFFIXES
from wavecast.datamodules.video_windows import (
    TAXIBJ_VALUES,
    Part,
    Recording,
    Scale,
    Windows,
    is_taxibj,
    open_recordings,
    open_taxibj,
    to_item,
)

logger = logging.getLogger(__name__)

HELD_OUT = 8  # one part in so many validates
VALIDATION_SEED, TEST_SEED = 20_000_003, 20_000_033


class Generated:
    """Moving MNIST, history and horizon, made as it is needed.

    Attributes:
        shape: rows, columns and channels of a frame.
    """

    rate: float | None = None

    def __init__(self, clips: MovingMNIST, history: int, scale: Scale) -> None:
        self._clips, self._history, self._scale = clips, history, scale
        self.shape = (clips.size, clips.size, 1)

    def item(self, k: int) -> Item:
        """Give clip k: inputs and targets, float32 (time, row, col, 1)."""
        return to_item(self._clips.clip(k).astype(np.float32) / 255, self._history, self._scale)


def list_files(folder: Path) -> list[Path]:
    """List the videos and arrays in a folder and below, by name; none whose name begins with a dot."""
    known = VIDEO_SUFFIXES | ARRAY_SUFFIXES
    found = (path for path in folder.rglob("*") if path.suffix.lower() in known and path.is_file())
    return sorted(path for path in found if not any(name.startswith(".") for name in path.relative_to(folder).parts))


class VideoData(ItemsData):
    """Videos to learn from: generated digits, published files, or own recordings.

    The source may be, and is split so:

    - a folder with MNIST's IDX files: Moving MNIST. The last sixth of the training images (10,000) makes the validation
      clips, the others the training clips; MNIST's test images make the test clips, unless `test` is given.
    - TaxiBJ's `dataset.npz`: the last eighth of the training windows validates. Windows before it that share an instant
      with it are left out. X_test and Y_test are for testing.
    - a folder of videos and arrays: its folders `train`, `validation` (or `val`) and `test`, as far as it has them.
      Without the second, an eighth of the files, at least one, is held out, drawn by name.
    - one video or array: the last eighth of its frames validates.

    Items are {"inputs": (time, row, col, channel), "targets": the same}, float32.

    Args:
        source: see above.
        test: a folder or file to test on, such as the published `mnist_test_seq.npy`; None: the source's own.
        history: frames that are seen.
        horizon: frames that follow them.
        stride: frames from the beginning of a window to that of the next.
        size: rows and columns that frames are brought to, by area; None: as they are, 64 x 64 for digits.
        channels: 1 for gray, 3 for color; None: as the files are.
        values: black and white of arrays; None: 0 and 255 in whole numbers, and else 0 and 1.
        scale: "unit" gives [0, 1], "symmetric" [-1, 1].
        digits_per_clip: of Moving MNIST.
        step_length: of Moving MNIST; 0.1 in OpenSTL and in the published test set, 0.15 for ConvS5.
        batch_size: items of one process in a batch.
        items: training items an epoch, over all processes; OpenSTL's Moving MNIST has 10,000.
        validation_items: most items to validate on.
        test_items: clips to test on where they are generated; the published test set has 10,000.
        seed: of the training items.
        workers: processes that make the items; 0 makes them in the training process.
    """

    def __init__(
        self,
        source: str | None = None,
        test: str | None = None,
        history: int = 10,
        horizon: int = 10,
        stride: int = 1,
        size: tuple[int, int] | None = None,
        channels: int | None = None,
        values: tuple[float, float] | None = None,
        scale: Scale = "unit",
        digits_per_clip: int = 2,
        step_length: float = OPENSTL_STEP,
        batch_size: int = 16,
        items: int = 10_000,
        validation_items: int = 1_000,
        test_items: int = 10_000,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        super().__init__(batch_size, workers)
        if min(history, horizon, stride) < 1:
            raise WavecastError(
                f"a history of {history}, a horizon of {horizon} and a stride of {stride} frames", "give at least 1"
            )
        if values is not None and values[0] == values[1]:
            raise WavecastError(f"black and white are both {values[0]:g}", "give --data.values '[BLACK, WHITE]'")
        self.source, self.test = source, test
        self.history, self.horizon, self.stride, self.size = history, horizon, stride, size
        self.channels, self.values, self.scale = channels, values, scale
        self.digits_per_clip, self.step_length = digits_per_clip, step_length
        self.items, self.seed = items, seed
        self.validation_items, self.test_items = validation_items, test_items
        self.train_source: Generated | Windows | None = None
        self.validation_source: Generated | Windows | None = None
        self.test_source: Generated | Windows | None = None
        self.validation_count = self.test_count = 0

    def setup(self, stage: str) -> None:
        """Open the source and split it.

        Args:
            stage: "fit", "validate" or "test".

        Raises:
            WavecastError: there is no source, or nothing left on one side of the split.
        """
        if stage in ("fit", "validate") and self.validation_source is None:
            self._open_source()
        if stage == "test" and self.test_source is None:
            self._open_test()

    def describe(self) -> dict[str, Any]:
        """Describe the frames as plain values, for a checkpoint and its card; the data must be set up."""
        source = self.train_source or self.test_source
        if source is None:
            raise ValueError("the data is not set up\nhint: call setup('fit') or setup('test') first")
        path, values = self._path(), self.values
        if values is None and path.is_file() and is_taxibj(path):
            values = TAXIBJ_VALUES
        rows, cols, channels = source.shape
        return {
            "rows": rows,
            "cols": cols,
            "channels": channels,
            "history": self.history,
            "horizon": self.horizon,
            "scale": self.scale,
            "values": None if values is None else list(values),
            "rate": source.rate,
        }

    def _open_source(self) -> None:
        path = self._path()
        if path.is_dir() and (images := find_digits(path)):
            digits = read_idx_images(images)
            held_out = max(1, len(digits) // 6)
            if held_out == len(digits):
                raise WavecastError(f"{images} holds a single digit", "give MNIST's training images")
            self.train_source = self._generated(digits[:-held_out], self.seed)
            self.validation_source = self._generated(digits[-held_out:], VALIDATION_SEED)
            self.validation_count = self.validation_items
            return
        train, validation = self._split(path)
        self.train_source = self._windows(train, self.seed)
        fixed = self._windows(validation, None, self.validation_items)
        self.validation_source, self.validation_count = fixed, len(fixed)
        logger.info("recordings: %d to train on, %d to validate on", len(train), len(validation))

    def _split(self, path: Path) -> tuple[list[Recording], list[Recording]]:
        """Open what is there to train on, in two parts."""
        if path.is_dir():
            return self._split_folder(path)
        if is_taxibj(path):
            windows = open_taxibj(path, "train")
            held_out = max(1, len(windows) // HELD_OUT)
            return windows[: -held_out - windows[0].frames + 1], windows[-held_out:]
        recordings = self._open_files([path])
        if len(recordings) > 1:
            raise WavecastError(
                f"{path} is the published test set, which is not for training",
                "give a folder with MNIST's IDX files as --data.source, and this file as --data.test",
            )
        return self._split_in_time(recordings[0])

    def _split_folder(self, path: Path) -> tuple[list[Recording], list[Recording]]:
        own = next((path / name for name in ("validation", "val") if (path / name).is_dir()), None)
        base = path / "train" if (path / "train").is_dir() else path
        kept_out = {path / "test", own}
        files = [file for file in list_files(base) if kept_out.isdisjoint(file.parents)]
        if not files:
            raise WavecastError(f"{path} holds nothing to train on", "give a folder of videos, arrays or MNIST's files")
        if own is not None:
            return self._open_files(files), self._open_files(list_files(own))
        if len(files) == 1:
            return self._split_in_time(self._open_files(files)[0])
        drawn = sorted(files, key=lambda file: crc32(file.relative_to(path).as_posix().encode()))
        held_out = set(drawn[: max(1, len(files) // HELD_OUT)])
        train = [file for file in files if file not in held_out]
        return self._open_files(train), self._open_files(sorted(held_out))

    def _split_in_time(self, recording: Recording) -> tuple[list[Recording], list[Recording]]:
        cut = recording.frames - recording.frames // HELD_OUT
        return [Part(recording, 0, cut)], [Part(recording, cut, recording.frames - cut)]

    def _open_test(self) -> None:
        path = self._path() if self.test is None else Path(self.test)
        if path.is_dir() and (images := find_digits(path, train=False)):
            self.test_source = self._generated(read_idx_images(images), TEST_SEED)
            self.test_count = self.test_items
            return
        if not path.is_dir() and is_taxibj(path):
            recordings = open_taxibj(path, "test")
        elif self.test is not None:
            recordings = self._open_files(list_files(path) if path.is_dir() else [path])
        elif (path / "test").is_dir():
            recordings = self._open_files(list_files(path / "test"))
        else:
            raise WavecastError(f"{path} has nothing to test on", "give --data.test FOLDER or FILE")
        windows = self._windows(recordings, None)
        self.test_source, self.test_count = windows, len(windows)

    def _path(self) -> Path:
        if self.source is None:
            raise WavecastError("there is no video to learn from", "give --data.source FOLDER or FILE")
        path = Path(self.source)
        if not path.exists():
            raise WavecastError(f"{path} does not exist", "check --data.source")
        return path

    def _open_files(self, files: Sequence[Path]) -> list[Recording]:
        return [one for file in files for one in open_recordings(file, self.channels, self.values)]

    def _windows(self, recordings: Sequence[Recording], seed: int | None, most: int | None = None) -> Windows:
        return Windows(recordings, self.history, self.horizon, self.stride, self.size, self.scale, seed=seed, most=most)

    def _generated(self, digits: np.ndarray, seed: int) -> Generated:
        rows, cols = self.size or (TEST_SIZE, TEST_SIZE)
        if rows != cols or rows < max(digits.shape[1:]):
            raise WavecastError(
                f"Moving MNIST of {rows} x {cols}", f"its clips are square, {max(digits.shape[1:])} or more"
            )
        frames = self.history + self.horizon
        clips = MovingMNIST(digits, frames, rows, self.digits_per_clip, self.step_length, seed)
        return Generated(clips, self.history, self.scale)

    def train_dataloader(self) -> DataLoader[Item]:
        """Give batches of items that continue where the run stands."""
        return self.onward(self.train_source, self.items)

    def val_dataloader(self) -> DataLoader[Item]:
        """Give the fixed validation items, shared out over the processes."""
        return self.fixed(self.validation_source, self.validation_count)

    def test_dataloader(self) -> DataLoader[Item]:
        """Give the test items, shared out over the processes."""
        return self.fixed(self.test_source, self.test_count)
