"""What a network sees of a video: its pictures, how they change, or how their points move.

Simonyan, Zisserman: "Two-Stream Convolutional Networks for Action Recognition in Videos", 2014: one stream sees the
picture, the other a stack of optical flow. A frame sees only its past, so that a live stream sees the same as a file.
Axes: time row col channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wavecast.datamodules.optical_flow import METHODS, optical_flow

KINDS = ("rgb", "difference", "flow")
FORMS = "rgb, difference, difference:STACK, flow, flow:STACK, flow:STACK:tvl1"


@dataclass(frozen=True)
class Modality:
    """What a network sees of a video.

    Attributes:
        kind: "rgb": the picture; "difference": of each color from the frame before; "flow": how far each point went
            since the frame before.
        stack: differences or flows of so many successive frames side by side as channels, the oldest first.
        method: of the flow: "dis" or "tvl1", see `optical_flow`.

    Raises:
        ValueError: kind or method is unknown, or the stack does not fit.
    """

    kind: str
    stack: int = 1
    method: str = "dis"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"modality {self.kind!r}\nhint: one of {FORMS}")
        if self.stack < 1 or (self.kind == "rgb" and self.stack != 1):
            raise ValueError(f"{self.kind} of {self.stack} frames\nhint: one of {FORMS}")
        if self.method not in METHODS:
            raise ValueError(f"optical flow by {self.method!r}\nhint: one of {', '.join(METHODS)}")

    @staticmethod
    def parse(text: str) -> "Modality":
        """Read a modality as `str` writes it: "rgb", "difference", "difference:3", "flow:10", "flow:10:tvl1".

        Raises:
            ValueError: it is none.
        """
        kind, *options = text.split(":")
        stack, method = [*options, *("1", "dis")[len(options) :]][:2]
        if len(options) > 2 or not stack.isdecimal() or (len(options) == 2 and kind != "flow"):
            raise ValueError(f"modality {text!r}\nhint: one of {FORMS}")
        return Modality(kind, int(stack), method)

    def __str__(self) -> str:
        words = [self.kind, *[str(self.stack)] * (self.stack > 1 or self.method != "dis")]
        return ":".join([*words, *[self.method] * (self.method != "dis")])

    @property
    def history(self) -> int:
        """Frames before the first that are needed."""
        return 0 if self.kind == "rgb" else self.stack

    @property
    def channels(self) -> int:
        """Channels of what the network sees."""
        return {"rgb": 3, "difference": 3 * self.stack, "flow": 2 * self.stack}[self.kind]

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Turn frames into what the network sees.

        Args:
            frames: uint8 RGB (history + time, row, col, 3).

        Returns:
            float32 (time, row, col, channels): colors in [0, 1], differences and flow in [-1, 1].

        Raises:
            ValueError: there are fewer frames than history, or they are not RGB.
            WavecastError: for flow, when OpenCV is not installed.
        """
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or len(frames) < self.history:
            raise ValueError(
                f"{frames.dtype} of shape {frames.shape} as frames for {self}\n"
                f"hint: uint8 of shape ({self.history} before + time, row, col, 3)"
            )
        if self.kind == "rgb":
            return frames.astype(np.float32) / np.float32(255)
        if self.kind == "flow":
            steps = optical_flow(frames, self.method)
        else:
            steps = np.diff(frames.astype(np.float32), axis=0) / np.float32(255)
        time = len(frames) - self.history
        return np.concatenate([steps[k : k + time] for k in range(self.stack)], -1)


def join(modalities: Sequence[Modality], frames: np.ndarray) -> np.ndarray:
    """Put several modalities of the same frames side by side.

    Args:
        modalities: in the order of the channels.
        frames: uint8 RGB (history + time, row, col, 3), with the greatest `history` of them.

    Returns:
        float32 (time, row, col, channels of all).

    Raises:
        ValueError: there are none, or as a modality does.
        WavecastError: as a modality does.
    """
    most = history(modalities)
    if len(modalities) == 1:
        return modalities[0](frames)
    return np.concatenate([one(frames[most - one.history :]) for one in modalities], -1)


def history(modalities: Sequence[Modality]) -> int:
    """Count the frames before the first that are needed for all of them.

    Raises:
        ValueError: there are none.
    """
    if not modalities:
        raise ValueError(f"a network that sees nothing\nhint: give modalities, each one of {FORMS}")
    return max(one.history for one in modalities)
