"""What video a network is made for: the part of a card that stands between a clip and the network's numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

from wavecast.cards import Card
from wavecast.core.errors import WavecastError


@dataclass(frozen=True)
class VideoFormat:
    """The frames a network takes and gives; plain data.

    Attributes:
        rows: of a frame.
        cols: of a frame.
        channels: 1 for gray, 3 for color; arrays may have others.
        history: frames in.
        horizon: frames out that it was trained for.
        scale: what black and white are to the network: "unit" 0 and 1, "symmetric" -1 and 1.
        values: black and white of the arrays it was trained on, where they say nothing themselves; None: 0 and 255 in
            whole numbers, and else 0 and 1.
        rate: frames per second that it was trained on; None: unknown.
        increments: whether the network gives what is added to the last frame it saw.
    """

    rows: int
    cols: int
    channels: int
    history: int
    horizon: int
    scale: Literal["unit", "symmetric"]
    values: list[float] | None = None
    rate: float | None = None
    increments: bool = False

    @staticmethod
    def of(values: Mapping[str, Any], name: str) -> "VideoFormat":
        """Read what a card says.

        Raises:
            WavecastError: something is missing or unknown there.
        """
        known = {one.name for one in fields(VideoFormat)}
        faults = [f"no {key}" for key in sorted(known - {*values, "values", "rate", "increments"})]
        faults += [f"unknown {key}" for key in sorted({*values} - known)]
        if not faults and values["scale"] not in ("unit", "symmetric"):
            faults = [f"scale {values['scale']!r}"]
        if faults:
            raise WavecastError(f"the card of {name} does not describe its video: {', '.join(faults)}", "train again")
        return VideoFormat(**values)

    def plain(self) -> dict[str, Any]:
        """Give it as plain data, for a card."""
        return asdict(self)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and channels of a frame."""
        return self.rows, self.cols, self.channels

    @property
    def black_and_white(self) -> tuple[float, float] | None:
        """Black and white of arrays, as `ArrayRecording` takes them."""
        return None if self.values is None else (self.values[0], self.values[1])

    def normalize(self, x: np.ndarray) -> np.ndarray:
        """Bring frames from [0, 1] to the network's scale."""
        return x if self.scale == "unit" else 2 * x - 1

    def denormalize(self, y: np.ndarray) -> np.ndarray:
        """Bring frames from the network's scale to [0, 1], where they end: what lies beyond is cut off."""
        clipped: np.ndarray = np.clip(y if self.scale == "unit" else (y + 1) / 2, 0, 1)
        return clipped

    def describe(self) -> str:
        """Say in one line what video it is made for."""
        return f"{self.rows} x {self.cols} x {self.channels}, {self.history} frames in, {self.horizon} out"


def is_video(card: Card) -> bool:
    """Tell whether a forecasting model is for video, and not for fields on a map."""
    return "rows" in card.fields
