"""Training, validation and test data of the recognizer: clips of activities and their labels.

Item k of training is a function of (seed, k), and a run reads items 0, 1, 2 ... in order over all its processes.
Validation items are the same in every run and are never of the test list, on which published code chooses its best
epoch: they are held out of the videos to train on, by group.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from wavecast.core.errors import WavecastError
from wavecast.datamodules.activity_clips import FeatureClips, GeneratedClips, Look, VideoClips
from wavecast.datamodules.activity_lists import Lists, Video, hold_out, open_lists
from wavecast.datamodules.items import Item, ItemsData, Source
from wavecast.datamodules.modalities import Modality
from wavecast.datamodules.moving_mnist import find_digits, read_idx_images
from wavecast.datamodules.moving_shapes import CLASSES, MovingShapes

logger = logging.getLogger(__name__)

GENERATED = "moving_shapes"
VALIDATION_SEED, TEST_SEED = 20_000_003, 20_000_033


class ActivityData(ItemsData):
    """Activities to learn from: videos in folders or lists, or generated moving shapes.

    Items are {"clip": float32 (time, row, col, channel), "target": int64 ()}; with `features`, clips are (time, width).

    Args:
        source: folder of the videos (see `wavecast.datamodules.activity_lists`), or "moving_shapes".
        annotations: folder of the lists of UCF101 or HMDB51, or a list to train on; None: the folders tell.
        test: a list to test on, where `annotations` is one.
        split: 1, 2 or 3, of UCF101 and HMDB51.
        skip_bad: leave out what lists name wrongly, with a warning; else it is an error.
        digits: folder with MNIST's IDX files; its digits are among the moving shapes.
        frames: of a clip.
        size: rows and columns of its frames.
        modalities: what is seen: "rgb", "difference", "flow:10" ...
        rate: frames a second; None: they are spread over the whole video.
        flip: mirror half of the clips in training; not where left and right matter.
        features: folder of features that take the place of clips; they are made before training.
        batch_size: items of one process in a batch.
        items: training items an epoch, over all processes; None: as many as there are videos to train on.
        validation_items: most items to validate on.
        test_items: clips to test on where they are generated.
        seed: of the training items.
        workers: processes that make the items; 0 makes them in the training process.
    """

    def __init__(
        self,
        source: str | None = None,
        annotations: str | None = None,
        test: str | None = None,
        split: int = 1,
        skip_bad: bool = False,
        digits: str | None = None,
        frames: int = 16,
        size: tuple[int, int] = (64, 64),
        modalities: list[str] | None = None,
        rate: float | None = None,
        flip: bool = False,
        features: str | None = None,
        batch_size: int = 16,
        items: int | None = None,
        validation_items: int = 10_000,
        test_items: int = 2_200,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        super().__init__(batch_size, workers)
        try:
            seen = tuple(Modality.parse(text) for text in modalities or ["rgb"])
        except ValueError as error:
            reason, _, hint = str(error).partition("\nhint: ")
            raise WavecastError(reason, hint) from error
        self.look = Look(frames, size, seen, rate)
        self.source, self.annotations, self.test, self.split, self.skip_bad = source, annotations, test, split, skip_bad
        self.digits, self.flip, self.features = digits, flip, features
        self.items, self.validation_items, self.test_items = items, validation_items, test_items
        self.seed = seed
        self.lists: Lists | None = None
        self.train_source: Source | None = None
        self.validation_source: Source | None = None
        self.test_source: Source | None = None
        self.train_count = self.validation_count = self.test_count = 0

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their labels; the data must be set up."""
        if self.source == GENERATED:
            return list(CLASSES)
        if self.lists is None:
            raise ValueError("the data is not set up\nhint: call setup('fit') or setup('test') first")
        return list(self.lists.classes)

    def setup(self, stage: str) -> None:
        """Find the videos and split them.

        Args:
            stage: "fit", "validate" or "test".

        Raises:
            WavecastError: there is no source, or nothing left on one side of the split.
        """
        if self.source is None:
            raise WavecastError(
                "there are no activities to learn from", f"give --data.source FOLDER, or --data.source {GENERATED}"
            )
        if self.source == GENERATED:
            self._generate(stage)
        else:
            self._open(stage)

    def _generate(self, stage: str) -> None:
        if stage == "test":
            self.test_source, self.test_count = self._generated("test"), self.test_items
        elif self.train_source is None:
            self.train_source, self.train_count = self._generated("train"), self.items or 100 * len(CLASSES)
            self.validation_source, self.validation_count = self._generated("validation"), self.validation_items

    def _generated(self, part: str) -> GeneratedClips:
        """Make the clips of a part: those to test on are of unseen shapes and grounds."""
        rows, cols = self.look.size
        if rows != cols:
            raise WavecastError(f"moving shapes of {rows} x {cols}", "their pictures are square")
        digits = None if self.digits is None else read_digits(Path(self.digits), part)
        seed = {"train": self.seed, "validation": VALIDATION_SEED, "test": TEST_SEED}[part]
        clips = MovingShapes(self.look.frames, rows, digits, part == "test", seed)
        return GeneratedClips(clips, self.look.modalities)

    def _open(self, stage: str) -> None:
        if self.lists is None:
            annotations, test = (None if one is None else Path(one) for one in (self.annotations, self.test))
            self.lists = open_lists(Path(str(self.source)), annotations, test, self.split, self.skip_bad)
        if stage == "test":
            if not self.lists.test:
                raise WavecastError(
                    f"{self.source} has nothing to test on", "give a folder `test` in it, or --data.test"
                )
            self.test_source, self.test_count = self._clips(self.lists.test), len(self.lists.test)
        elif self.train_source is None:
            train, validation = self.parts()
            self.train_source, self.train_count = self._clips(train, self.seed), self.items or len(train)
            self.validation_source = self._clips(validation)
            self.validation_count = min(len(validation), self.validation_items)
            logger.info("videos: %d to train on, %d to validate on", len(train), len(validation))

    def parts(self) -> tuple[list[Video], list[Video]]:
        """Give the videos to train on and to validate on; the data must be set up.

        Raises:
            WavecastError: there are none on one side.
        """
        if self.lists is None:
            raise ValueError("the data is not set up\nhint: call setup('fit') first")
        if self.lists.validation:
            return list(self.lists.train), list(self.lists.validation)
        train, validation = hold_out(self.lists.train)
        if not train or not validation:
            side = "validate" if train else "train"
            raise WavecastError(
                f"{self.source} has nothing to {side} on, of {len(self.lists.train)} videos",
                "give two videos or more of a class, or a folder `validation` beside `train`",
            )
        return train, validation

    def _clips(self, videos: Sequence[Video], seed: int | None = None) -> Source:
        if self.features is None:
            return VideoClips(videos, self.look, seed, self.flip)
        return FeatureClips(videos, Path(self.features), seed)

    def train_dataloader(self) -> DataLoader[Item]:
        """Give batches of items that continue where the run stands."""
        return self.onward(self.train_source, self.train_count)

    def val_dataloader(self) -> DataLoader[Item]:
        """Give the fixed validation items, shared out over the processes."""
        return self.fixed(self.validation_source, self.validation_count)

    def test_dataloader(self) -> DataLoader[Item]:
        """Give the test items, shared out over the processes."""
        return self.fixed(self.test_source, self.test_count)


def read_digits(folder: Path, part: str) -> np.ndarray:
    """Read MNIST's images of a part: uint8 (image, row, col); the last sixth of the training images validates.

    Args:
        folder: of the IDX files.
        part: "train", "validation" or "test".

    Raises:
        WavecastError: they are not there, or damaged.
    """
    path = find_digits(folder, train=part != "test")
    if path is None:
        raise WavecastError(f"{folder} has no digits to {part} on", "give a folder with MNIST's IDX files")
    digits = read_idx_images(path)
    held_out = max(1, len(digits) // 6)
    return {"train": digits[:-held_out], "validation": digits[-held_out:], "test": digits}[part]
