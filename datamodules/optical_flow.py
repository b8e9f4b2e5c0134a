"""Optical flow: how far every point of a picture goes until the next, by OpenCV (the extra `flow`).

"dis": dense inverse search, Kroeger et al. 2016: a few milliseconds a frame. "tvl1": Zach, Pock, Bischof: "A Duality
Based Approach for Realtime TV-L1 Optical Flow", 2007: what the two-stream networks were trained on, twenty times
slower.
"""

import importlib.util
import math
from typing import Any

import numpy as np

from wavecast.core.errors import WavecastError

METHODS = ("dis", "tvl1")
LARGEST = 20.0
"""Pixels a frame: what goes further counts as this far (the "crop20" of the published features)."""
SIDE = 16
"""Pixels: the sides of pictures that OpenCV gets are multiples of it, none longer than twice the other.

Of others the dense inverse search of OpenCV 5.0 goes beyond its memory: its flow is no number, differs from call to
call, or the program crashes (12 x 48 pixels; 64 x 39).
"""


def optical_flow(frames: np.ndarray, method: str = "dis") -> np.ndarray:
    """Compute the flow from every frame to the next.

    Args:
        frames: uint8 RGB (time + 1, row, col, 3).
        method: "dis" or "tvl1".

    Returns:
        float32 (time, row, col, 2): to the right and down, in pixels, as far as `LARGEST`, over `LARGEST`: in [-1, 1].
        At a point it tells where what is there in the frame before is in the next.

    Raises:
        ValueError: the method is unknown.
        WavecastError: OpenCV is not installed.
    """
    if method not in METHODS:
        raise ValueError(f"optical flow by {method!r}\nhint: one of {', '.join(METHODS)}")
    cv2 = _opencv()
    if method == "dis":
        calculator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    else:
        calculator = cv2.optflow.DualTVL1OpticalFlow_create()
    rows, cols = frames.shape[1:3]
    gray = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    gray = [np.pad(picture, margins(rows, cols), "edge") for picture in gray]
    flow = np.zeros((max(0, len(frames) - 1), rows, cols, 2), np.float32)
    for k in range(len(flow)):
        flow[k] = calculator.calc(gray[k], gray[k + 1], None)[:rows, :cols]
    return flow.clip(-LARGEST, LARGEST) / np.float32(LARGEST)


def margins(rows: int, cols: int) -> list[tuple[int, int]]:
    """Give what a picture lacks below and on the right to be one that OpenCV gets; see `SIDE`."""
    least = math.ceil(max(rows, cols) / 2)
    return [(0, math.ceil(max(side, least) / SIDE) * SIDE - side) for side in (rows, cols)]


def _opencv() -> Any:
    """Import OpenCV.

    Raises:
        WavecastError: it is missing, or lacks its contributed modules.
    """
    hint = "pip install 'wavecast[flow]'; or take the modality `difference`, which needs nothing"
    if importlib.util.find_spec("cv2") is None:
        raise WavecastError("optical flow needs OpenCV, which is not installed", hint)
    import cv2

    if not hasattr(cv2, "optflow"):
        raise WavecastError("this OpenCV comes without its contributed modules, which TV-L1 is one of", hint)
    return cv2
