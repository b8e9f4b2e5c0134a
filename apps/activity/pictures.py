"""The picture of a timeline: key frames, what was found when, and how probable the activities were."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wavecast.apps.activity.timeline import Moment, Segment
from wavecast.datamodules.clip_sampling import colored, resize_frames
from wavecast.pictures import new_figure, save_picture

MOST = 1024  # moments and frames that are kept: of a longer video, every second one, every fourth and so on
KEY_FRAMES = 8
CURVES = 6  # of the activities that were found most
HEIGHT = 96  # rows of a key frame


class Album:
    """What the picture of a video shows, kept in bounded memory while the video runs.

    Args:
        classes: names of the activities.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._frames, self._moments, self._segments = Thinned(), Thinned(), Thinned()

    def see(self, time: float, frame: np.ndarray) -> None:
        """Take a frame (row, col, 1 or 3) that is shown until a time."""
        if self._frames.wants():
            width = max(1, round(frame.shape[1] * HEIGHT / frame.shape[0]))
            small = resize_frames(colored(frame[None]), (HEIGHT, width), crop=False)[0]
            self._frames.items.append((time, small))

    def add(self, moment: Moment) -> None:
        """Take the next moment."""
        if self._moments.wants():
            self._moments.items.append(moment)

    def mark(self, segment: Segment) -> None:
        """Take a segment that has ended."""
        if self._segments.wants():
            self._segments.items.append(segment)

    def draw(self, path: Path, title: str) -> None:
        """Draw the picture, as PNG.

        Args:
            path: of the picture.
            title: above it.

        Raises:
            WavecastError: matplotlib is not installed, or the picture cannot be written.
        """
        segments = self._segments.items
        seconds = Counter[str]()
        for one in segments:
            seconds[one.activity] += one.end - one.start
        names = [name for name, _ in seconds.most_common()]
        colors = {name: f"C{k % 10}" for k, name in enumerate(names)}
        figure = new_figure(12, 6)
        figure.suptitle(title)
        halves: Any = figure.subfigures(2, 1, height_ratios=[2, 3.2])
        top, bottom = halves
        self._draw_key_frames(top, segments)
        band, curves = bottom.subplots(2, 1, sharex=True, height_ratios=[0.6, 2.4])
        for one in segments:
            band.axvspan(one.start, one.end, color=colors[one.activity], alpha=0.6)
        band.set(yticks=[], ylabel="found", xlim=(0, self._end()))
        self._draw_curves(curves, names, colors)
        save_picture(figure, path)

    def _end(self) -> float:
        return max(float(self._moments.items[-1].end) if self._moments.items else 0.0, 1e-3)

    def _draw_key_frames(self, figure: Any, segments: Sequence[Segment]) -> None:
        """Draw the middles of the longest segments, in the order of time."""
        longest = sorted(segments, key=lambda one: one.start - one.end)[:KEY_FRAMES]
        frames = self._frames.items
        if not longest or not frames:
            return
        times = np.array([time for time, _ in frames])
        axes = figure.subplots(1, len(longest), squeeze=False)[0]
        for axis, one in zip(axes, sorted(longest, key=lambda one: one.start), strict=True):
            middle = (one.start + one.end) / 2
            axis.imshow(frames[int(np.abs(times - middle).argmin())][1])
            axis.set_title(f"{one.activity}\n{one.start:.1f} to {one.end:.1f} s", fontsize=8)
            axis.axis("off")

    def _draw_curves(self, axis: Any, names: Sequence[str], colors: dict[str, str]) -> None:
        """Draw how probable the activities were that were found most."""
        moments = self._moments.items
        times = [(one.start + one.end) / 2 for one in moments]
        for name in names[:CURVES]:
            label = self._classes.index(name)
            axis.plot(times, [one.probabilities[label] for one in moments], marker=".", color=colors[name], label=name)
        axis.set(xlabel="seconds", ylabel="probability", ylim=(0, 1))
        if names:
            axis.legend(loc="upper right", fontsize=8)


class Thinned:
    """Things that come one after another, at most MOST of them: every second one goes when there are more.

    Attributes:
        items: that are kept.
    """

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._step, self._came = 1, 0

    def wants(self) -> bool:
        """Tell whether the next one is to be kept; asked once for each."""
        self._came += 1
        if (self._came - 1) % self._step:
            return False
        if len(self.items) == MOST:
            self.items, self._step = self.items[::2], 2 * self._step
            return not (self._came - 1) % self._step
        return True
