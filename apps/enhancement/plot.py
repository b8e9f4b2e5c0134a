"""Pictures: spectrograms and levels before and after."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from wavecast.cards import write_whole
from wavecast.core.errors import WavecastError

LONGEST = 120  # seconds drawn; a longer recording shows its beginning


def plot_before_after(before: np.ndarray, after: np.ndarray, sample_rate: int, path: Path, title: str) -> None:
    """Draw spectrograms and levels of a recording before and after, as PNG.

    Args:
        before: (samples,).
        after: (samples,).
        sample_rate: in hertz.
        path: of the picture.
        title: above it.

    Raises:
        WavecastError: matplotlib is not installed, or the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise WavecastError("--plot needs matplotlib", "pip install 'wavecast[plot]'") from None
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.4])
    figure.suptitle(title)
    for axis, x, name in zip(axes, (before, after), ("before", "after"), strict=False):
        picture = _spectrogram(axis, x, sample_rate)
        axis.set_ylabel(f"{name}\nfrequency in kHz")
    figure.colorbar(picture, ax=axes[:2], label="dB below full scale")
    for x, name, color in ((before, "before", "#b0533c"), (after, "after", "#2a6f97")):
        axes[2].plot(*_levels(x, sample_rate), color=color, label=name, linewidth=1)
    axes[2].set(ylabel="level in dB", xlabel="seconds", ylim=(-90, 0))
    axes[2].legend(loc="lower right")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_whole(path, picture.getvalue())


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
    """Mono sound before and after, as much as a picture shows."""

    def __init__(self, sample_rate: int) -> None:
        self._rate, self._left = sample_rate, [LONGEST * sample_rate] * 2
        self._pieces: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])

    def add(self, *blocks: np.ndarray) -> None:
        """Take the next block before and after."""
        for side, x in enumerate(blocks):
            self._pieces[side].append(np.nan_to_num(x[:, : self._left[side]].mean(0)))
            self._left[side] = max(0, self._left[side] - x.shape[1])

    def draw(self, path: Path, title: str) -> None:
        """Draw the picture."""
        before, after = (np.concatenate(pieces) for pieces in self._pieces)
        plot_before_after(before, after, self._rate, path, title)
