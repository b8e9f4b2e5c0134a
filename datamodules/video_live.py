"""Video that comes as it happens: containers and raw frames through a pipe, and cameras."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from wavecast.core.errors import WavecastError
from wavecast.datamodules.arrays import check_file
from wavecast.datamodules.riff import ByteSource
from wavecast.datamodules.video_files import LARGEST, AVVideoReader, VideoInfo, VideoReader

CHANNELS = {"rgb24": 3, "bgr24": 3, "gray": 1}
CAMERA = "/dev/video0"
CURE = "see what there is: ls /dev/video*; or pipe: ffmpeg -f v4l2 -i /dev/video0 -f mjpeg - | wavecast recognize -"


@dataclass(frozen=True)
class RawVideo:
    """How frames without a header lie one after another.

    Attributes:
        pixels: "rgb24", "bgr24" or "gray", a byte a color.
        rows: height.
        cols: width.
        rate: frames per second.
    """

    pixels: str
    rows: int
    cols: int
    rate: float

    @staticmethod
    def parse(text: str) -> "RawVideo":
        """Read it from text like "rgb24:320x240:25", the width first.

        Raises:
            ValueError: it is not understood.
        """
        pixels, size, rate = [*text.split(":"), "", ""][:3]
        cols, _, rows = size.partition("x")
        try:
            found = RawVideo(pixels, int(rows), int(cols), float(rate))
        except ValueError:
            raise ValueError(f"{text!r} is not PIXELS:WIDTHxHEIGHT:FPS") from None
        if pixels not in CHANNELS or text.count(":") != 2:
            raise ValueError(f"{text!r} has none of the pixels {', '.join(CHANNELS)}")
        if min(found.rows, found.cols) < 1 or not 0 < found.rate < float("inf"):
            raise ValueError(f"{text!r} has no size, or no rate")
        if found.rows * found.cols > LARGEST:
            raise ValueError(f"{text!r} has more than {LARGEST >> 20} million pixels")
        return found


class RawVideoReader(VideoReader):
    """Frames without a header, through a pipe.

    Args:
        descriptor: to read from; not closed here.
        raw: how the frames lie.

    Attributes:
        truncated: whether the last frame was cut off; it is left out then.
    """

    def __init__(self, descriptor: int, raw: RawVideo) -> None:
        channels = CHANNELS[raw.pixels]
        super().__init__(VideoInfo(raw.rows, raw.cols, channels, raw.rate, "raw", raw.pixels))
        self._source, self._raw, self._place, self.truncated = ByteSource(descriptor), raw, 0, False
        self._shape = (raw.rows, raw.cols, channels)

    def read(self, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Read on."""
        size, pictures = int(np.prod(self._shape)), list[np.ndarray]()
        while len(pictures) < frames and (data := self._source.exactly(size)):
            if len(data) < size:
                self.truncated = True
                break
            pictures.append(np.frombuffer(data, np.uint8).reshape(self._shape))
        x = np.array(pictures, np.uint8).reshape(len(pictures), *self._shape)
        times = (self._place + np.arange(len(x))) / self._raw.rate
        self._place += len(x)
        return x[..., ::-1] if self._raw.pixels == "bgr24" else x, times


class PipedVideoReader(AVVideoReader):
    """A container that comes through a pipe, read once from its beginning to its end.

    Args:
        descriptor: to read from; not closed here.

    Raises:
        WavecastError: it is no video, or of a kind that needs seeking.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        super().__init__("the input")

    def _container_opened(self) -> Any:
        try:
            return av.open(ByteSource(self._descriptor), mode="r")
        except (av.error.FFmpegError, ValueError, OSError) as error:
            raise WavecastError(
                "the input is no video that can be read from a pipe",
                "frames without a header need --raw rgb24:320x240:25; an MP4 must be a file, or fragmented",
            ) from error


class CameraReader(AVVideoReader):
    """A camera, read until it is closed.

    Args:
        device: number or path; "": the first one.

    Raises:
        WavecastError: there is none, or it cannot be read.
    """

    def __init__(self, device: str = "") -> None:
        super().__init__(f"/dev/video{device}" if device.isdecimal() else device or CAMERA)

    def _container_opened(self) -> Any:
        try:
            return av.open(str(self._path), format="v4l2")
        except (av.error.FFmpegError, ValueError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise WavecastError(f"the camera {self._path} cannot be opened: {reason.lower()}", CURE) from error


def open_raw_file(path: Path, raw: RawVideo) -> tuple[np.ndarray, bool]:
    """Open the frames of a file without a header, memory-mapped.

    Returns:
        uint8 (time, row, col, 1 or 3), and whether the last frame was cut off; it is left out then.

    Raises:
        WavecastError: the file cannot be read, or holds no whole frame.
    """
    check_file(path)
    channels = CHANNELS[raw.pixels]
    frames, rest = divmod(path.stat().st_size, raw.rows * raw.cols * channels)
    if not frames:
        raise WavecastError(f"{path} holds less than a frame of {raw.rows} x {raw.cols}", "give the size that it has")
    x = np.memmap(path, np.uint8, "r", shape=(frames, raw.rows, raw.cols, channels))
    return x[..., ::-1] if raw.pixels == "bgr24" else x, rest > 0
