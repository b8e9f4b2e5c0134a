"""Pictures of a spotter's figures: accuracy against what was heard, and misses against false alarms."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wavecast.apps.keywords.detection import Point
from wavecast.pictures import new_figure, save_picture

FRAME = 0.01
"""Seconds from one frame to the next."""


def draw_heard(accuracy: Sequence[float], path: Path, title: str) -> None:
    """Draw accuracy against the seconds heard of a view, as PNG.

    Args:
        accuracy: after 1, 2 ... frames.
        path: of the picture.
        title: above it.

    Raises:
        WavecastError: matplotlib is not installed, or the picture cannot be written.
    """
    figure = new_figure(7, 4.5)
    axis = figure.subplots()
    axis.plot(FRAME * np.arange(1, len(accuracy) + 1), 100 * np.asarray(accuracy))
    axis.set(title=title, xlabel="seconds heard", ylabel="accuracy in %", ylim=(0, 100))
    axis.grid(alpha=0.3)
    save_picture(figure, path)


def draw_detection(curves: Mapping[str, Sequence[Point]], path: Path, title: str) -> None:
    """Draw the share of words missed against false alarms an hour (a DET plot), as PNG.

    Args:
        curves: points by the name of what alarms were counted in.
        path: of the picture.
        title: above it.

    Raises:
        WavecastError: matplotlib is not installed, or the picture cannot be written.
    """
    figure = new_figure(7, 4.5)
    axis = figure.subplots()
    for name, points in curves.items():
        alarms = [point.alarms_per_hour for point in points]
        axis.plot(alarms, [100 * (1 - point.recall) for point in points], marker=".", label=name)
    axis.set(title=title, xlabel="false alarms an hour", ylabel="missed in %", ylim=(0, 100))
    axis.set_xscale("symlog", linthresh=0.1)
    axis.grid(alpha=0.3)
    axis.legend()
    save_picture(figure, path)
