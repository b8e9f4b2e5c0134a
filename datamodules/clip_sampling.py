"""Clips for recognition: frames spread evenly over a video, each with the frames that its modality needs before it.

    clip, times = uniform_clip("v_Archery_g01_c01.avi", 25, (224, 224), [Modality("rgb")])

Frame i is the one that is shown at the middle of the i-th of equal parts of the video's time, however its frames are
spaced. Only frames of the clip are kept, and only they are converted.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from wavecast.core.errors import WavecastError
from wavecast.datamodules.arrays import CUT_OFF
from wavecast.datamodules.modalities import Modality, history, join
from wavecast.datamodules.video_files import ArrayVideoReader, VideoReader, open_video
from wavecast.datamodules.video_windows import resize_by_area

ROUNDING = 2e-3
"""Seconds (in arrays without a rate: frames) by which a frame may be told late: Matroska rounds to milliseconds."""


def end_of(times: np.ndarray, rate: float | None = None) -> float:
    """Tell when the last frame is gone: it stays as long as the mean of those before it.

    Args:
        times: when each frame is shown, at least one.
        rate: frames per second, for a single frame.
    """
    if len(times) < 2:
        return float(times[-1]) + 1 / (rate or 1)
    return float(times[-1] + (times[-1] - times[0]) / (len(times) - 1))


def middles(start: float, end: float, count: int) -> np.ndarray:
    """Give the middles of `count` equal parts of a stretch of time: float64 (count,)."""
    return start + (np.arange(count) + 0.5) * (end - start) / count


def shown_at(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Find the frames that are shown at some times.

    Args:
        times: when each frame is shown, ascending; a frame stays until the next one.
        wanted: float64 (n,).

    Returns:
        int64 (n,), their indices.
    """
    found = np.searchsorted(np.maximum.accumulate(times), wanted + ROUNDING, side="right") - 1
    return np.clip(found, 0, len(times) - 1)


def uniform_clip(
    source: str | Path | np.ndarray,
    frames: int,
    size: tuple[int, int],
    modalities: Sequence[Modality],
    rate: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Take frames at equal distances in time from a whole video.

    A video of fewer frames repeats them. A frame without a past repeats itself there.

    Args:
        source: a path, or frames (time, row, col, 1 or 3), uint8 or fractions in [0, 1].
        frames: of the clip.
        size: rows and columns of it, see `resize_frames`.
        modalities: what is seen of each frame.
        rate: frames per second of an array, which does not tell.

    Returns:
        float32 (frames, row, col, channels of all modalities), and when each frame is shown: float64 (frames,), in
        seconds (of an array without a rate: in frames).

    Raises:
        WavecastError: the video cannot be read, is damaged, or has no frame.
    """
    with open_frames(source, rate) as reader:
        return spread_clip(reader, reader.times(), frames, size, modalities)


def spread_clip(
    reader: VideoReader, times: np.ndarray, frames: int, size: tuple[int, int], modalities: Sequence[Modality]
) -> tuple[np.ndarray, np.ndarray]:
    """Do the work of `uniform_clip` with a reader at its beginning, and what its `times` gave."""
    chosen = shown_at(times, middles(float(times[0]), end_of(times, reader.info.rate), frames))
    wanted = pasts(times, chosen, history(modalities))
    clip = [join(modalities, seen) for seen in with_past(reader, wanted, size)]
    return np.concatenate(clip), times[chosen]


def open_frames(source: str | Path | np.ndarray, rate: float | None = None) -> VideoReader:
    """Open a video by its path, or frames that are there.

    Raises:
        WavecastError: as `open_video`.
    """
    if isinstance(source, np.ndarray):
        return ArrayVideoReader(source, "the array", rate=rate)
    return open_video(source, rate=rate)


def pasts(times: np.ndarray, chosen: np.ndarray, past: int, rate: float | None = None) -> np.ndarray:
    """Find what lies before frames of a video. A frame without a past repeats the first one there.

    Args:
        times: when each frame of the video is shown, ascending.
        chosen: indices of frames, int64 (n,).
        past: how many frames before each are wanted.
        rate: frames a second of a model that has its own: it sees the past at that rate, however fast the video is;
            None: the frames just before.

    Returns:
        Indices int64 (n, past + 1), the oldest first, the frame itself last.
    """
    back = np.arange(past, -1, -1)
    if rate is None:
        return np.maximum(chosen[:, None] - back, 0)
    found = shown_at(times, times[chosen][:, None] - back / rate)
    found[:, -1] = chosen
    return found


def with_past(reader: VideoReader, wanted: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Read frames after their pasts, and keep no more of them than is needed.

    Args:
        reader: at its beginning.
        wanted: indices (n, past + 1) as `pasts` gives them, no row earlier than the one before it.
        size: rows and columns.

    Returns:
        For each row uint8 (past + 1, *size, 3).

    Raises:
        WavecastError: the video is damaged, or ends before its time.
    """
    kept: dict[int, np.ndarray] = {}
    waiting = iter(np.unique(wanted).tolist())
    place = 0
    for row in wanted.tolist():
        kept = {k: picture for k, picture in kept.items() if k >= row[0]}
        while row[-1] not in kept:
            k = next(waiting)
            found = reader.skip(k - place) == k - place
            picture, _ = reader.read(1)
            if not found or not len(picture):
                raise WavecastError(f"the video ends before its frame {k}", CUT_OFF)
            kept[k], place = resize_frames(colored(picture), size)[0], k + 1
        yield np.stack([kept[k] for k in row])


def colored(frames: np.ndarray) -> np.ndarray:
    """Give gray frames (time, row, col, 1) three equal colors; others stay."""
    return np.repeat(frames, 3, -1) if frames.shape[-1] == 1 else frames


def resize_frames(frames: np.ndarray, size: tuple[int, int], crop: bool = True) -> np.ndarray:
    """Bring frames to a size by area: each new pixel is the mean over what it covers.

    Args:
        frames: uint8 (time, row, col, channel).
        size: rows and columns.
        crop: keep the shape of things and cut off what is too much on both sides of the longer axis; else what is too
            much is squeezed.

    Returns:
        uint8 (time, *size, channel).
    """
    rows, cols = frames.shape[1:3]
    if (rows, cols) == tuple(size):
        return frames
    if crop:
        scale = min(rows / size[0], cols / size[1])
        height, width = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        top, left = (rows - height) // 2, (cols - width) // 2
        frames = frames[:, top : top + height, left : left + width]
    return np.rint(resize_by_area(frames.astype(np.float32), size)).astype(np.uint8)


class Past:
    """The last frames of a stream, as many as are looked back at, and what modalities make of the newest.

    Args:
        most: frames before the newest that are kept.
        seconds: before the newest that are kept, too.
    """

    def __init__(self, most: int, seconds: float = 0.0) -> None:
        self._most, self._seconds, self._until = most, seconds, 0.0
        self._times: deque[float] = deque()
        self._pictures: deque[np.ndarray] = deque()
        self._resized: deque[dict[tuple[int, int], np.ndarray]] = deque()

    def push(self, picture: np.ndarray, until: float) -> None:
        """Take the next frame: uint8 (row, col, 1 or 3), and when it is not shown any more, in seconds."""
        self._times.append(self._until)
        self._pictures.append(picture)
        self._resized.append({})
        self._until = until
        earliest = self._times[-1] - self._seconds
        while len(self._times) > self._most + 1 and self._times[1] <= earliest:
            for queue in (self._times, self._pictures, self._resized):
                queue.popleft()

    def newest(self, size: tuple[int, int], modalities: Sequence[Modality], rate: float | None = None) -> np.ndarray:
        """Give what modalities see of the newest frame: float32 (1, *size, channels); for `rate` see `pasts`."""
        newest = np.array([len(self._times) - 1])
        (wanted,) = pasts(np.array(self._times), newest, history(modalities), rate)
        return join(modalities, np.stack([self._small(k, size) for k in wanted.tolist()]))

    def _small(self, k: int, size: tuple[int, int]) -> np.ndarray:
        if size not in self._resized[k]:
            self._resized[k][size] = resize_frames(colored(self._pictures[k][None]), size)[0]
        return self._resized[k][size]


class Shown:
    """Frames of a stream, each with the time until which it is shown: it is known when the next one comes.

    Times are in seconds since the first frame. One that is told to be shown before its predecessor counts as shown
    together with it.

    Args:
        rate: frames per second where nothing tells the times.

    Attributes:
        frames: taken so far.
        seconds: until which the newest is shown, as far as that can be told.
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._first, self._newest = rate, 0.0, 0.0
        self._waiting: np.ndarray | None = None
        self.frames = 0

    @property
    def seconds(self) -> float:
        """Give the time until which the newest frame is shown, as `end_of` has it."""
        if self.frames < 2:
            return self.frames / self._rate
        return self._newest + self._newest / (self.frames - 1)

    def push(self, frames: np.ndarray, times: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, float]]:
        """Take (time, row, col, channel) and their times; give each frame that is over, and until when it was shown."""
        for k, picture in enumerate(frames):
            time = self.frames / self._rate if times is None else float(times[k])
            if not self.frames:
                self._first = time
            self._newest = max(self._newest, time - self._first)
            self.frames += 1
            before, self._waiting = self._waiting, picture
            if before is not None:
                yield before, self._newest

    def flush(self) -> Iterator[tuple[np.ndarray, float]]:
        """Give the last frame."""
        if self._waiting is not None:
            yield self._waiting, self.seconds
            self._waiting = None
