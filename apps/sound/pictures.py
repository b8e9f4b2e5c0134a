"""Pictures of sounds that belong together: their spectrograms, and their levels in one diagram."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from wavecast.pictures import new_figure, save_picture

LONGEST = 120  # seconds drawn; a longer recording shows its beginning
COLORS = ("#b0533c", "#2a6f97", "#6a994e", "#8e6c8a", "#bc8034")


def draw_sounds(sounds: Mapping[str, np.ndarray], sample_rate: int, path: Path, title: str) -> None:
    """Draw spectrograms and levels of some sounds of one length, as PNG.

    Args:
        sounds: (samples,) by name.
        sample_rate: in hertz.
        path: of the picture.
        title: above it.

    Raises:
        WavecastError: matplotlib is not installed, or the picture cannot be written.
    """
    count = len(sounds)
    figure = new_figure(11, 2.1 + 2.7 * count)
    axes = figure.subplots(count + 1, 1, sharex=True, height_ratios=[*[3] * count, 1.4])
    figure.suptitle(title)
    for axis, (name, x), color in zip(axes, sounds.items(), cycle(COLORS), strict=False):
        picture = _spectrogram(axis, x, sample_rate)
        axis.set_ylabel(f"{name}\nfrequency in kHz")
        axes[-1].plot(*_levels(x, sample_rate), color=color, label=name, linewidth=1)
    figure.colorbar(picture, ax=axes[:-1], label="dB below full scale")
    axes[-1].set(ylabel="level in dB", xlabel="seconds", ylim=(-90, 0))
    axes[-1].legend(loc="lower right")
    save_picture(figure, path)


def _spectrogram(axis: Any, x: np.ndarray, sample_rate: int) -> Any:
    size = 2 ** int(np.ceil(np.log2(0.03 * sample_rate)))
    hop = max(size // 4, len(x) // 2000)
    padded = np.pad(x, (size // 2, size))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * np.hanning(size)
    power = 20 * np.log10(np.abs(np.fft.rfft(frames)).T / (size / 4) + 1e-6)
    extent = (0, len(frames) * hop / sample_rate, 0, sample_rate / 2000)
    return axis.imshow(power, origin="lower", aspect="auto", extent=extent, vmin=-100, vmax=-20, cmap="magma")


def _levels(x: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    size = max(1, sample_rate // 20)
    count = len(x) // size
    rms = np.sqrt(np.square(x[: count * size].reshape(count, size)).mean(1)) if count else np.zeros(0)
    return np.arange(count) * size / sample_rate, 20 * np.log10(rms + 1e-5)


class Drawn:
    """Mono sounds, as much of them as a picture shows, in the order in which they come.

    Args:
        sample_rate: in hertz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._pieces: dict[str, list[np.ndarray]] = {}

    def add(self, name: str, x: np.ndarray) -> None:
        """Take the next block of a sound: (channels, samples)."""
        pieces = self._pieces.setdefault(name, [np.zeros(0, np.float32)])
        left = LONGEST * self._rate - sum(map(len, pieces))
        if left > 0 and x.shape[1]:
            pieces.append(np.nan_to_num(x[:, :left].mean(0)))

    def draw(self, path: Path, title: str) -> None:
        """Draw the picture."""
        draw_sounds({name: np.concatenate(x) for name, x in self._pieces.items()}, self._rate, path, title)
