"""Pictures of every command: figures of matplotlib, which is an extra, written as PNG whole or not at all."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wavecast.cards import write_whole
from wavecast.core.errors import WavecastError


def new_figure(width: float, height: float) -> Any:
    """Give an empty figure of that size in inches.

    Raises:
        WavecastError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise WavecastError("a picture needs matplotlib", "pip install 'wavecast[plot]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def save_picture(figure: Any, path: Path) -> None:
    """Write a figure as PNG.

    Raises:
        WavecastError: it cannot be written.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    write_whole(path, drawn.getvalue())


def refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    """Refuse pictures that exist, before the work is done.

    Raises:
        WavecastError: one of them exists.
    """
    for path in paths:
        if path.exists() and not overwrite:
            raise WavecastError(f"{path} exists", "give --overwrite")
