"""Video out of files, frame by frame, in constant memory.

    with open_video("radar.mp4") as reader:
        while len(frames := reader.read(64)[0]):
            ...                                                 # uint8 (time, row, col, channel)

PyAV reads the containers, numpy the arrays (`.npy`, `.npz`). Pictures come upright: a rotation that the file asks for
is applied. `video_writer` writes.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np

from wavecast.core.errors import WavecastError
from wavecast.datamodules.arrays import ARRAY_SUFFIXES, CUT_OFF, check_file, open_array
from wavecast.datamodules.readers import Reader

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".3gp"})
LARGEST = 1 << 26  # pixels of a picture; a few bytes of a file may ask for gigabytes


@dataclass(frozen=True)
class VideoInfo:
    """What a video is.

    Attributes:
        rows: height of the upright picture.
        cols: its width.
        channels: 1 (gray) or 3 (red, green, blue).
        rate: mean frames per second; None when the file does not tell, as arrays do not.
        container: PyAV's name ("mov,mp4,m4a,3gp,3g2,mj2"), or "npy" or "npz".
        codec: PyAV's name ("h264"), or the type of the numbers ("uint8").
    """

    rows: int
    cols: int
    channels: int
    rate: float | None
    container: str
    codec: str


class VideoReader(Reader):
    """A video that is read from its beginning, or from any frame on, to its end; a context manager.

    Attributes:
        info: what it is.
    """

    def __init__(self, info: VideoInfo) -> None:
        self.info = info

    def read(self, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Read on.

        Args:
            frames: most frames wanted.

        Returns:
            uint8 (time, row, col, channel), fewer than `frames` only at the end; and when each is shown, float64
            (time,), in seconds, or in frames where `info.rate` is None.

        Raises:
            WavecastError: the video is damaged here, or its pictures change their size.
        """
        raise NotImplementedError(type(self).__name__)

    def skip(self, frames: int) -> int:
        """Pass over frames, which are not converted; give how many were there."""
        raise NotImplementedError(type(self).__name__)

    def frame_count(self) -> int:
        """Count the frames; containers are gone through for it once, most without decoding."""
        raise NotImplementedError(type(self).__name__)

    def times(self) -> np.ndarray:
        """Tell when every frame is shown, as `read` does: float64 (time,); goes through the file as `frame_count`.

        Raises:
            WavecastError: the video is damaged.
        """
        raise NotImplementedError(type(self).__name__)

    def seconds(self) -> float | None:
        """Tell about how long the video is, at once; None: nobody knows."""
        return None

    def seek(self, frame: int) -> None:
        """Go to a frame, to the frame exactly.

        Raises:
            ValueError: there is no such frame.
            WavecastError: the video is damaged.
        """
        raise NotImplementedError(type(self).__name__)


class AVVideoReader(VideoReader):
    """The first moving picture of a container.

    Args:
        path: of the file; what messages call it.
        channels: see `open_video`.
    """

    def __init__(self, path: Path | str, channels: int | None = None) -> None:
        self._path = path
        self._open()
        self._timestamps: np.ndarray | None = None
        try:
            frame = next(self._frames, None)
            if frame is None:
                raise WavecastError(f"{path} holds no frame", "give a file with a moving picture")
            self._waiting: Any = frame
            sideways = _turns(path, frame) % 2
            rows, cols = (frame.width, frame.height) if sideways else (frame.height, frame.width)
            channels = channels or (1 if frame.format.name.startswith("gray") else 3)
            rate = float(self._stream.average_rate) if self._stream.average_rate else None
            self._kind = (frame.width, frame.height, _turns(path, frame))
            kind, codec = self._container.format.name, self._stream.codec_context.name
        except BaseException:
            self.close()
            raise
        super().__init__(VideoInfo(rows, cols, channels, rate, kind, codec))
        self._place = self._begun = 0

    def _container_opened(self) -> Any:
        """Open the container.

        Raises:
            WavecastError: it cannot be read.
        """
        try:
            return av.open(f"file:{self._path}")  # without it, a colon in a name makes a protocol
        except (av.error.FFmpegError, ValueError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            hint = "give a video that FFmpeg reads, or frames as .npy; if it is a video, it was cut off or altered"
            raise WavecastError(f"{self._path} is no video that can be read: {reason.lower()}", hint) from error

    def _open(self) -> None:
        """Open the container at its beginning, and choose its moving picture."""
        self._container: Any = self._container_opened()
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in self._container.streams.video if not stream.disposition & cover]
        if not streams or streams[0].codec_context is None:
            self._container.close()
            raise WavecastError(
                f"{self._path} has no moving picture that can be decoded", "give a file with a moving picture"
            )
        self._stream = streams[0]
        rows, cols = self._stream.codec_context.height, self._stream.codec_context.width
        if rows * cols > LARGEST:
            self._container.close()
            raise WavecastError(
                f"{self._path} has pictures of {rows} x {cols}; at most {LARGEST >> 20} million pixels are taken",
                "make them smaller: ffmpeg -i INPUT -vf scale=1280:-2 OUTPUT",
            )
        # For pictures that grow on the way: FFmpeg refuses them before it takes memory for them.
        self._stream.codec_context.options = {"max_pixels": str(LARGEST)}
        self._frames = self._decoded()

    def _decoded(self) -> Iterator[Any]:
        try:
            with contextlib.suppress(av.error.EOFError):
                yield from self._container.decode(self._stream)
        except (av.error.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise WavecastError(f"{self._path} is damaged: {reason.lower()}", CUT_OFF) from error

    def _next(self) -> Any:
        frame, self._waiting = self._waiting, None
        return frame if frame is not None else next(self._frames, None)

    def read(self, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Decode on."""
        pictures: list[np.ndarray] = []
        times: list[float] = []
        while len(pictures) < frames and (frame := self._next()) is not None:
            pictures.append(self._picture(frame))
            times.append(self._time(frame))
            self._place += 1
        none = np.zeros((0, self.info.rows, self.info.cols, self.info.channels), np.uint8)
        return np.stack(pictures) if pictures else none, np.array(times, np.float64)

    def _time(self, frame: Any) -> float:
        """Tell when a frame is shown, in seconds; where it does not know, by the mean rate."""
        return self._place / (self.info.rate or 1) if frame.time is None else frame.time

    def skip(self, frames: int) -> int:
        """Decode on."""
        skipped = 0
        while skipped < frames and self._next() is not None:
            skipped += 1
        self._place += skipped
        return skipped

    def _picture(self, frame: Any) -> np.ndarray:
        """Convert one frame: uint8 (row, col, channel), upright."""
        turns = _turns(self._path, frame)
        if (frame.width, frame.height, turns) != self._kind:
            found, first = f"{frame.height} x {frame.width}", f"{self._kind[1]} x {self._kind[0]}"
            turned = f", turned by {90 * turns} degrees after {90 * self._kind[2]}" if turns != self._kind[2] else ""
            at = "at or before" if self._place == self._begun else "at"  # what lies before was not looked at
            raise WavecastError(
                f"{self._path} changes its picture {at} frame {self._place}: {found} after {first}{turned}",
                "cut it there into files of one size each",
            )
        if frame.is_corrupt:
            raise WavecastError(f"{self._path} is damaged at frame {self._place}", CUT_OFF)
        picture = frame.to_ndarray(format="gray" if self.info.channels == 1 else "rgb24")
        return np.rot90(picture.reshape(*picture.shape[:2], -1), turns)

    def timestamps(self) -> np.ndarray:
        """Give the time of every frame in the container's own unit, ascending: int64 (time,).

        Packets tell them without being decoded. AVI, whose packets have no times of their own, and streams with
        packets that tell none are decoded instead.
        """
        if self._timestamps is None:
            found = self._packet_times()
            if found is None:
                with AVVideoReader(self._path) as other:
                    found = [frame.pts for frame in chain([other._waiting], other._frames)]
            if not _are_apart(found):
                raise WavecastError(
                    f"{self._path} does not tell the times of all its frames apart", "save it again at a constant rate"
                )
            self._timestamps = np.sort(np.array(found, np.int64))
        return self._timestamps

    def _packet_times(self) -> list[int] | None:
        """Take the times from the packets; None: they do not tell."""
        if self._container.format.name == "avi":
            return None
        try:
            with av.open(f"file:{self._path}") as container:
                packets = container.demux(container.streams[self._stream.index])
                found = [packet.pts for packet in packets if packet.size and not packet.is_discard]
        except (av.error.FFmpegError, ValueError):
            return None
        return found if _are_apart(found) else None

    def frame_count(self) -> int:
        """Count the frames."""
        return len(self.timestamps())

    def times(self) -> np.ndarray:
        """Take the times from the packets where they tell them, else from the frames."""
        found = self._packet_times()
        if found is not None:
            return np.sort(np.array(found, np.float64)) * float(self._stream.time_base)
        times = []
        with AVVideoReader(self._path) as other:
            while (frame := other._next()) is not None:
                times.append(other._time(frame))
                other._place += 1
        return np.array(times, np.float64)

    def seconds(self) -> float | None:
        """Believe the container."""
        return self._container.duration / av.time_base if self._container.duration else None

    def seek(self, frame: int) -> None:
        """Go to a frame: to the last key frame before it, and on from there."""
        times = self.timestamps()
        _check_frame(self._path, frame, len(times))
        wanted = int(times[frame])
        self._frames, self._waiting = self._decoded(), None
        # What cannot be sought in, or not be decoded from there, is decoded from its beginning.
        with contextlib.suppress(av.error.FFmpegError, WavecastError):
            self._container.seek(wanted, stream=self._stream)
            self._waiting = next(self._frames, None)
        if self._waiting is None or self._waiting.pts is None or self._waiting.pts > wanted:
            self.close()
            self._open()
            self._waiting = next(self._frames, None)
        while self._waiting is not None and (self._waiting.pts is None or self._waiting.pts < wanted):
            self._waiting = next(self._frames, None)
        if self._waiting is None or self._waiting.pts != wanted:
            raise WavecastError(f"{self._path} is damaged: frame {frame} cannot be found", CUT_OFF)
        self._place = self._begun = frame

    def close(self) -> None:
        """Close the container."""
        self._container.close()


def _are_apart(times: list[Any]) -> bool:
    return None not in times and len(set(times)) == len(times)


def _turns(path: Path | str, frame: Any) -> int:
    """Count the quarter turns, counterclockwise, that bring a frame upright."""
    turns, rest = divmod(frame.rotation, 90)
    if rest:
        raise WavecastError(
            f"{path} is to be shown turned by {frame.rotation} degrees", "only quarter turns are known: convert it"
        )
    return turns % 4


def _check_frame(path: Path | str, frame: int, frames: int) -> None:
    if not 0 <= frame < frames:
        raise ValueError(f"{path} has no frame {frame}\nhint: it has frames 0 to {frames - 1}")


class ArrayVideoReader(VideoReader):
    """Frames that lie in an array as (time, row, col) or (time, row, col, channel).

    Whole numbers are uint8; fractions lie in [0, 1] and are rounded to 255 steps.

    Args:
        array: the frames.
        path: of the `.npy` or `.npz` file, or what messages call the array.
        channels: see `open_video`.
        rate: frames per second; None: nobody knows.

    Raises:
        WavecastError: it holds no frames.
    """

    def __init__(
        self, array: np.ndarray, path: Path | str, channels: int | None = None, rate: float | None = None
    ) -> None:
        self._path = path
        x = array[..., None] if array.ndim == 3 else array
        if x.ndim != 4 or x.shape[-1] not in (1, 3) or (x.dtype != np.uint8 and x.dtype.kind != "f"):
            raise WavecastError(
                f"{path} holds {array.dtype} of shape {array.shape}, not frames",
                "frames are uint8, or fractions in [0, 1], of shape (time, row, col) or (time, row, col, 1 or 3)",
            )
        if not x.size:
            raise WavecastError(f"{path} holds no frame", "give at least one")
        if channels is not None and x.shape[-1] != channels:
            raise WavecastError(
                f"{path} holds frames of {x.shape[-1]} channels where {channels} are wanted", "convert the array"
            )
        kind = Path(path).suffix[1:].lower()
        super().__init__(VideoInfo(x.shape[1], x.shape[2], x.shape[3], rate, kind, str(x.dtype)))
        self._x, self._place = x, 0

    def read(self, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Copy on."""
        x = np.array(self._x[self._place : self._place + frames])
        if x.dtype != np.uint8:
            if not ((x >= 0) & (x <= 1)).all():  # NaN is neither
                what = f"{self._path} goes beyond [0, 1] between frames {self._place} and {self._place + len(x) - 1}"
                raise WavecastError(what, "scale it, or save it as uint8")
            x = np.rint(x * 255).astype(np.uint8)
        times = self.times()[self._place : self._place + len(x)]
        self._place += len(x)
        return x, times

    def skip(self, frames: int) -> int:
        """Go on."""
        before, self._place = self._place, min(len(self._x), self._place + frames)
        return self._place - before

    def frame_count(self) -> int:
        """Count the frames."""
        return len(self._x)

    def times(self) -> np.ndarray:
        """Count on at the rate."""
        return np.arange(len(self._x), dtype=np.float64) / (self.info.rate or 1)

    def seconds(self) -> float | None:
        """Divide by the rate."""
        return len(self._x) / self.info.rate if self.info.rate else None

    def seek(self, frame: int) -> None:
        """Go to a frame."""
        _check_frame(self._path, frame, len(self._x))
        self._place = frame


def open_video(source: str | Path, channels: int | None = None, rate: float | None = None) -> VideoReader:
    """Open a video or an array of frames.

    Args:
        source: a path.
        channels: 1 for gray, 3 for red, green, blue; None: gray where the file is gray. Arrays are not converted.
        rate: frames per second of an array, which does not tell.

    Raises:
        WavecastError: it is missing, a folder, empty, cut off, no video, or without frames; the hint says what to do.
    """
    path = Path(source)
    check_file(path)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return ArrayVideoReader(open_array(path), path, channels, rate)
    return AVVideoReader(path, channels)


def read_frames(
    source: str | Path, block: int = 16, channels: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read a video block by block: uint8 (time, row, col, channel) and the times of its frames, see `VideoReader.read`.

    Args:
        source: a path.
        block: frames of a block; the last may have fewer.
        channels: see `open_video`.

    Raises:
        WavecastError: as `open_video` and `VideoReader.read`.
    """
    with open_video(source, channels) as reader:
        while len((found := reader.read(block))[0]):
            yield found
