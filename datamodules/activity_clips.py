"""Clips out of videos of activities, as items to learn from.

The frames of a clip lie at equal distances over the whole video, or at a rate of their own, then a clip is a window of
the video. In training frames and windows lie where chance puts them, and so do the cuts out of their pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from wavecast.datamodules.activity_lists import Video
from wavecast.datamodules.clip_sampling import (
    end_of,
    middles,
    open_frames,
    pasts,
    resize_frames,
    shown_at,
    with_past,
)
from wavecast.datamodules.feature_files import FeatureFolder
from wavecast.datamodules.frame_folders import FrameFolderReader, has_flow, read_flow
from wavecast.datamodules.items import Item
from wavecast.datamodules.modalities import Modality, history, join
from wavecast.datamodules.moving_shapes import MovingShapes
from wavecast.datamodules.video_files import VideoReader

ROOM = 8 / 7
"""How much larger than a clip the pictures are out of which it is cut in training, as 256 is beside 224."""


@dataclass(frozen=True)
class Look:
    """How videos are looked at.

    Attributes:
        frames: of a clip.
        size: rows and columns.
        modalities: what is seen of each frame.
        rate: frames a second; None: they are spread over the whole video.
    """

    frames: int
    size: tuple[int, int]
    modalities: tuple[Modality, ...]
    rate: float | None = None


class VideoClips:
    """Clips of videos as items: {"clip": float32 (time, row, col, channel), "target": label}.

    Args:
        videos: with their labels; at least one.
        look: how they are looked at.
        seed: of chance in training; None: the clip in the middle, or spread evenly, without chance.
        flip: mirror half of the clips in training; not where left and right matter.
    """

    def __init__(self, videos: Sequence[Video], look: Look, seed: int | None = None, flip: bool = False) -> None:
        self.videos, self.look, self.seed, self.flip = videos, look, seed, flip

    def item(self, k: int) -> Item:
        """Give item k: a clip float32 (time, row, col, channel), and its label."""
        video = self.videos[place(k, len(self.videos), self.seed)]
        rng = None if self.seed is None else np.random.default_rng([self.seed, k, 1])
        return {"clip": read_clip(video, self.look, rng, self.flip), "target": np.array(video.label)}


class FeatureClips:
    """Features of videos as items: {"clip": float32 (frames, width), "target": label}; order as in `VideoClips`.

    Args:
        videos: with their labels; at least one.
        folder: of their features, opened with the first item.
        seed: of the order in training; None: as they come.
    """

    def __init__(self, videos: Sequence[Video], folder: Path, seed: int | None = None) -> None:
        self.videos, self.folder, self.seed = videos, folder, seed

    @cached_property
    def features(self) -> FeatureFolder:
        """The features of the videos."""
        return FeatureFolder(self.folder)

    def item(self, k: int) -> Item:
        """Give item k."""
        video = self.videos[place(k, len(self.videos), self.seed)]
        return {"clip": self.features.read(video.path), "target": np.array(video.label)}


class GeneratedClips:
    """Moving shapes as items, made as they are needed.

    Args:
        clips: what makes them.
        modalities: what is seen of each frame.
    """

    def __init__(self, clips: MovingShapes, modalities: Sequence[Modality]) -> None:
        self.clips, self.modalities = clips, modalities

    def item(self, k: int) -> Item:
        """Give item k: a clip float32 (time, row, col, channel), and its label."""
        frames, label = self.clips.clip(k)
        return {"clip": see(self.modalities, frames), "target": np.array(label)}


def place(k: int, videos: int, seed: int | None) -> int:
    """Tell which of the videos item k is of: in training every epoch has all of them, in its own order."""
    epoch, number = divmod(k, videos)
    return number if seed is None else int(np.random.default_rng([seed, epoch]).permutation(videos)[number])


def see(modalities: Sequence[Modality], frames: np.ndarray) -> np.ndarray:
    """See frames uint8 (time, row, col, 3) as files are seen: a frame without a past repeats itself there."""
    return join(modalities, np.concatenate([np.repeat(frames[:1], history(modalities), 0), frames]))


def read_clip(video: Video, look: Look, rng: np.random.Generator | None = None, flip: bool = False) -> np.ndarray:
    """Read a clip.

    Args:
        video: which.
        look: how it is looked at.
        rng: of chance in training; None: without chance.
        flip: mirror half of the clips, with an `rng`.

    Returns:
        float32 (time, row, col, channel).

    Raises:
        WavecastError: the video cannot be read, or is damaged.
    """
    folder, cut = video.path.is_dir(), Cut(look.size, rng, flip)
    with FrameFolderReader(video.path) if folder else open_frames(video.path) as reader:
        chosen = choose(reader, look, rng)
        together = [one for one in look.modalities if not (folder and one.kind == "flow" and has_flow(video.path))]
        parts = {}
        if together:
            rate = look.rate if reader.info.rate or look.rate is None else 1.0  # without a rate, times are in frames
            wanted = pasts(reader.times(), chosen, history(together), rate)
            seen = np.concatenate([join(together, cut(frames)) for frames in with_past(reader, wanted, cut.size)])
            parts = dict(
                zip(together, np.split(seen, np.cumsum([one.channels for one in together])[:-1], -1), strict=True)
            )
    for one in set(look.modalities) - set(together):
        flows = np.stack([read_flow(video.path, int(k), one.stack) for k in chosen])
        parts[one] = cut.flow(resize_frames(flows, cut.size)).astype(np.float32) / np.float32(127.5) - 1
    return np.concatenate([parts[one] for one in look.modalities], -1)


class Cut:
    """How the frames of one clip are cut: all alike.

    Args:
        size: rows and columns of the clip.
        rng: of chance; None: nothing is cut.
        flip: mirror half of the clips, with an `rng`.

    Attributes:
        size: that pictures have before.
    """

    def __init__(self, size: tuple[int, int], rng: np.random.Generator | None, flip: bool) -> None:
        self.rows, self.cols = size
        self.size, self.top, self.left, self.mirrored = size, 0, 0, False
        if rng is not None:
            self.size = round(self.rows * ROOM), round(self.cols * ROOM)
            self.top = int(rng.integers(self.size[0] - self.rows + 1))
            self.left = int(rng.integers(self.size[1] - self.cols + 1))
            self.mirrored = flip and rng.random() < 0.5

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Cut frames (time, row, col, channel)."""
        cut = frames[:, self.top : self.top + self.rows, self.left : self.left + self.cols]
        return cut[:, :, ::-1] if self.mirrored else cut

    def flow(self, flows: np.ndarray) -> np.ndarray:
        """Cut optical flow, uint8 (time, row, col, x y x y ...): a mirror turns what goes right to the left."""
        cut = self(flows).copy()
        if self.mirrored:
            cut[..., ::2] = 255 - cut[..., ::2]
        return cut


def choose(reader: VideoReader, look: Look, rng: np.random.Generator | None) -> np.ndarray:
    """Choose the frames of a clip: int64 (frames,), ascending; what does not tell its rate has that of the clip."""
    times = reader.times()
    start, end = float(times[0]), end_of(times, reader.info.rate)
    if look.rate is not None:
        length = look.frames / (look.rate if reader.info.rate else 1.0)  # without a rate, times are in frames
        room = max(0.0, end - start - length)
        start += room * (0.5 if rng is None else rng.random())
        end = start + length
        rng = None  # the distances within a window are even
    wanted = middles(start, end, look.frames)
    if rng is not None:
        wanted += rng.uniform(-0.5, 0.5, look.frames) * (end - start) / look.frames
    return shown_at(times, wanted)
