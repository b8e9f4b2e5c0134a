"""Which class was found for which: counts, rates of each class, and their picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wavecast.pictures import new_figure, save_picture

MOST_NUMBERED = 40
"""Classes up to which the cells of the picture hold their counts, and its axes the names of all."""


def confusion(true: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """Count how often each class was found for each: int64 (true, found).

    Args:
        true: whole numbers (item,).
        found: the same.
        classes: how many there are.
    """
    return np.bincount(true * classes + found, minlength=classes * classes).reshape(classes, classes)


def recall(counts: np.ndarray) -> np.ndarray:
    """Give the share of each class that was found: (class,), NaN where there is nothing of a class."""
    items = counts.sum(1)
    return np.divide(np.diagonal(counts), items, out=np.full(len(counts), np.nan), where=items > 0)


def draw_confusion(counts: np.ndarray, classes: Sequence[str], path: Path, title: str = "") -> None:
    """Draw a confusion matrix as PNG: each row is a true class, its colors are shares of it.

    Args:
        counts: (true, found).
        classes: their names.
        path: of the picture.
        title: above it.

    Raises:
        WavecastError: matplotlib is not installed, or the picture cannot be written.
    """
    count = len(classes)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    few = count <= MOST_NUMBERED
    side = 2.5 + (0.36 * count if few else 12.0)
    figure = new_figure(side, side)
    axis = figure.subplots()
    axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axis.set(title=title, xlabel="found", ylabel="true")
    ticks = range(0, count, 1 if few else -(-count // MOST_NUMBERED))
    axis.set_xticks(ticks, [classes[k] for k in ticks], rotation=90)
    axis.set_yticks(ticks, [classes[k] for k in ticks])
    for row, col in np.argwhere(counts > 0) if few else ():
        color = "white" if shares[row, col] > 0.5 else "black"
        axis.text(col, row, str(counts[row, col]), ha="center", va="center", color=color, fontsize=7)
    save_picture(figure, path)
