"""Strips of frames: a column for each lead time, rows of what came, what was forecast, and the difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wavecast.pictures import new_figure, save_picture

MOST_COLUMNS = 8
COLORS = 3  # channels of a frame that is shown in color


@dataclass(frozen=True)
class Row:
    """One row of a strip.

    Attributes:
        name: written beside it.
        frames: one a column, (row, col), or (row, col, 3) in [0, 1].
        limits: values of the first and the last color.
        colors: name of matplotlib's color map.
    """

    name: str
    frames: Sequence[np.ndarray]
    limits: tuple[float, float] = (0.0, 1.0)
    colors: str = "gray"


def spread(count: int) -> list[int]:
    """Choose places of `count`, at most MOST_COLUMNS, evenly from the first to the last."""
    return [int(place) for place in np.linspace(0, count - 1, min(count, MOST_COLUMNS)).round()]


def shown(frame: np.ndarray) -> np.ndarray:
    """Give what is shown of a frame (row, col, channel): its colors, or its first channel."""
    return frame if frame.shape[-1] == COLORS else frame[..., 0]


def compared(
    forecast: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    limits: tuple[float, float] = (0.0, 1.0),
    colors: str = "gray",
) -> list[Row]:
    """Make the rows truth, forecast and error; in the error of colored frames the colors are averaged.

    Args:
        forecast: one a column, as `Row` has them.
        truth: the same.
        limits: of both.
        colors: of both.
    """
    apart = [np.asarray(ours, float) - its for ours, its in zip(forecast, truth, strict=True)]
    errors = [error.mean(-1) if error.ndim == 3 else error for error in apart]
    largest = max(float(np.abs(error).max()) for error in errors) or 1.0
    return [
        Row("truth", truth, limits, colors),
        Row("forecast", forecast, limits, colors),
        Row("error", errors, (-largest, largest), "RdBu_r"),
    ]


def draw_strip(rows: Sequence[Row], titles: Sequence[str], path: Path, south_first: bool = False) -> None:
    """Draw a strip as PNG.

    Args:
        rows: from above.
        titles: of the columns.
        path: of the picture.
        south_first: the first row of a frame is its lowest one.

    Raises:
        WavecastError: matplotlib is not installed, or the picture cannot be written.
    """
    height, width = rows[0].frames[0].shape[:2]
    panel = 1.5 * min(2.0, max(0.5, height / width))
    figure = new_figure(1.6 * len(titles) + 1, (panel + 0.2) * len(rows) + 0.3)
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for row, panels in zip(rows, grid, strict=True):
        low, high = row.limits
        for axes, frame in zip(panels, row.frames, strict=True):
            image = axes.imshow(
                np.clip(frame, 0, 1) if frame.ndim == 3 else frame,
                cmap=row.colors,
                vmin=low,
                vmax=high,
                origin="lower" if south_first else "upper",
                interpolation="nearest",
            )
            axes.set(xticks=[], yticks=[])
        panels[0].set_ylabel(row.name)
        if row.frames[0].ndim == 2:
            figure.colorbar(image, ax=list(panels))
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    save_picture(figure, path)
