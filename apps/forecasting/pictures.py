"""Pictures of scores: error against lead time beside the baselines."""

import io
from pathlib import Path

import numpy as np
import xarray as xr

from wavecast.cards import write_whole
from wavecast.core.errors import WavecastError
from wavecast.datamodules.weather_times import HOUR

COLORS = {
    "forecast": "#b0533c",
    "persistence": "#2a6f97",
    "previous_day": "#6a994e",
    "climatology": "#7f7f7f",
    "damped_anomaly": "#8e6c8a",
    "linear_regression": "#d4a017",
}


def draw_scores(scores: dict[str, xr.Dataset], path: Path) -> None:
    """Draw RMSE against lead time, a panel for each variable (its first level and region), as PNG.

    Args:
        scores: of each method, from `scores.score`.
        path: of the picture.

    Raises:
        WavecastError: matplotlib is not installed, or the picture cannot be written.
    """
    figure_of = figure_class()
    names = [str(name) for name in scores["forecast"].data_vars]
    figure = figure_of(figsize=(7, 3.2 * len(names)), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), 1, squeeze=False)[:, 0], names, strict=True):
        for method, found in scores.items():
            if name not in found.data_vars:
                continue
            one = found[name].sel(metric="rmse").isel(region=0)
            one = one.isel(level=0) if "level" in one.dims else one
            lead = one["prediction_timedelta"].values / np.timedelta64(1, "ns") / HOUR
            width = 2.4 if method == "forecast" else 1.2
            label = method.replace("_", " ")
            axes.plot(lead, one.values, marker=".", label=label, color=COLORS.get(method), linewidth=width)
        axes.set(xlabel="lead time in hours", ylabel=f"RMSE in {scores['forecast'][name].attrs.get('units', '')}")
        axes.set(title=name, ylim=(0, None))
        axes.legend()
    save(figure, path)


def figure_class() -> type:
    """Import matplotlib's figure.

    Raises:
        WavecastError: it is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise WavecastError("--plot and --animate need matplotlib", "pip install 'wavecast[plot]'") from None
    return Figure


def save(figure: object, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)  # type: ignore[attr-defined]
    write_whole(path, picture.getvalue())
