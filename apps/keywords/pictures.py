"""A picture of what a spotter heard: the posteriors over time, and the events."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from wavecast.apps.keywords.decisions import Event, Timing
from wavecast.apps.sound.pictures import COLORS, LONGEST
from wavecast.pictures import new_figure, save_picture

MOST = 8
"""Classes drawn, those that were most probable at some time; and channels, the first ones."""


class Curves:
    """Posteriors and events of a stream, as much of them as a picture shows, in the order in which they come.

    Args:
        classes: what the posteriors are of.
        timing: of the decisions.
    """

    def __init__(self, classes: Sequence[str], timing: Timing) -> None:
        self.classes, self.timing = classes, timing
        self.events: list[Event] = []
        self._pieces: list[np.ndarray] = []
        self._left = timing.steps(LONGEST)

    def add(self, posteriors: np.ndarray, events: Sequence[Event]) -> None:
        """Take the next decisions (channels, decision, classes), and the events that came with them."""
        self.events += [event for event in events if event.time <= LONGEST]
        if self._left or not self._pieces:
            self._pieces.append(posteriors[:, : self._left])
            self._left -= self._pieces[-1].shape[1]

    def draw(self, path: Path, title: str) -> None:
        """Draw the picture, as PNG: a diagram for each of the first channels.

        Raises:
            WavecastError: matplotlib is not installed, or the picture cannot be written.
        """
        posteriors = np.concatenate(self._pieces, 1)[:MOST]
        figure = new_figure(11, 1 + 2.6 * len(posteriors))
        figure.suptitle(title)
        axes = figure.subplots(len(posteriors), 1, sharex=True, squeeze=False)[:, 0]
        for channel, (axis, rows) in enumerate(zip(axes, posteriors, strict=True), 1):
            self._draw(axis, rows, [event for event in self.events if event.channel in (0, channel)])
            axis.set(ylabel="posterior" if len(axes) == 1 else f"posterior, channel {channel}", ylim=(0, 1.15))
        axes[-1].set_xlabel("seconds")
        save_picture(figure, path)

    def _draw(self, axis: Any, posteriors: np.ndarray, events: Sequence[Event]) -> None:
        """Draw one channel: (decision, classes)."""
        time = self.timing.end(0) + np.arange(len(posteriors)) * self.timing.step
        shown = sorted(np.argsort(posteriors.max(0, initial=0))[::-1][:MOST])
        lines = [
            axis.plot(time, posteriors[:, index], color=color, linewidth=1)[0]
            for index, color in zip(shown, cycle(COLORS), strict=False)
        ]
        names = [self.classes[index] for index in shown]
        axis.legend(lines, names, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        for event in events:
            axis.axvline(event.time, color="black", linewidth=0.6, linestyle=":")
            axis.text(event.time, 1.03, event.word, ha="center", fontsize=8)
