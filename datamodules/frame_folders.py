"""Folders of frames, as denseflow and mmaction2 write them: `img_00001.jpg` and so on, optical flow beside them.

`flow_x_00001.jpg` and `flow_y_00001.jpg` tell how far the points of the first frame go until the second one, from -20
pixels (black) to 20 (white).
"""

from pathlib import Path

import numpy as np

from wavecast.core.errors import WavecastError
from wavecast.datamodules.video_files import VideoInfo, VideoReader, open_video

FIRST_FRAME = "img_00001.jpg"


class FrameFolderReader(VideoReader):
    """A folder of frames as a video without a rate.

    Args:
        folder: that holds `img_00001.jpg` and what follows it.

    Raises:
        WavecastError: the first frame is missing, or no picture.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._place = folder, 0
        rows, cols = read_picture(folder / FIRST_FRAME, 3).shape[:2]
        self._count = sum(1 for path in folder.iterdir() if path.match("img_?????.jpg"))
        super().__init__(VideoInfo(rows, cols, 3, None, "folder", "jpg"))

    def read(self, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Read the next pictures."""
        numbers = range(self._place, min(self._place + frames, self._count))
        none = np.zeros((0, self.info.rows, self.info.cols, 3), np.uint8)
        pictures = [read_picture(self._folder / f"img_{k + 1:05d}.jpg", 3) for k in numbers]
        for k, picture in zip(numbers, pictures, strict=True):
            if picture.shape != none.shape[1:]:
                raise WavecastError(
                    f"{self._folder} changes its picture at frame {k}: {picture.shape[0]} x {picture.shape[1]}",
                    "extract its frames anew",
                )
        self._place += len(pictures)
        return np.stack(pictures) if pictures else none, np.array(numbers, np.float64)

    def skip(self, frames: int) -> int:
        """Go on."""
        before, self._place = self._place, min(self._count, self._place + frames)
        return self._place - before

    def frame_count(self) -> int:
        """Count the frames."""
        return self._count

    def times(self) -> np.ndarray:
        """Count on."""
        return np.arange(self._count, dtype=np.float64)

    def seek(self, frame: int) -> None:
        """Go to a frame."""
        if not 0 <= frame < self._count:
            raise ValueError(f"{self._folder} has no frame {frame}\nhint: it has frames 0 to {self._count - 1}")
        self._place = frame


def read_picture(path: Path, channels: int) -> np.ndarray:
    """Read a picture: uint8 (row, col, channels), 1 for gray or 3 for colors.

    Raises:
        WavecastError: it is missing or damaged.
    """
    with open_video(path, channels) as reader:
        picture: np.ndarray = reader.read(1)[0][0]
    return picture


def has_flow(folder: Path) -> bool:
    """Tell whether optical flow lies beside the frames."""
    return (folder / "flow_x_00001.jpg").is_file() and (folder / "flow_y_00001.jpg").is_file()


def read_flow(folder: Path, frame: int, stack: int) -> np.ndarray:
    """Read the optical flow of the steps that lead to a frame, the oldest first; before the first frame nothing moves.

    Returns:
        uint8 (row, col, 2 * stack), 128 where nothing moves.
    """
    pairs = [
        read_picture(folder / f"flow_{axis}_{step:05d}.jpg", 1) if step > 0 else None
        for step in range(frame - stack + 1, frame + 1)
        for axis in "xy"
    ]
    shape = next((one.shape for one in pairs if one is not None), read_picture(folder / FIRST_FRAME, 1).shape)
    return np.concatenate([np.full(shape, 128, np.uint8) if one is None else one for one in pairs], -1)
