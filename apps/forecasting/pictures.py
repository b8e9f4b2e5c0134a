"""Pictures of scores: error against lead time beside the baselines, of fields and of video."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from wavecast.datamodules.weather_times import HOUR
from wavecast.pictures import new_figure, save_picture

COLORS = {
    "forecast": "#b0533c",
    "persistence": "#2a6f97",
    "previous_day": "#6a994e",
    "climatology": "#7f7f7f",
    "damped_anomaly": "#8e6c8a",
    "linear_regression": "#d4a017",
}
OF_FRAMES = {
    "mse_sum_pixels": "squared error",
    "psnr": "PSNR in dB",
    "ssim": "SSIM",
    "skill": "skill",
}
"""What is drawn of the scores of video; squared errors are summed over a frame, the skill is against persistence."""


def draw_scores(scores: dict[str, xr.Dataset], path: Path) -> None:
    """Draw RMSE against lead time, a panel for each variable (its first level and region), as PNG.

    Args:
        scores: of each method, from `scores.score`.
        path: of the picture.

    Raises:
        WavecastError: matplotlib is not installed, or the picture cannot be written.
    """
    names = [str(name) for name in scores["forecast"].data_vars]
    figure = new_figure(7, 3.2 * len(names))
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
    save_picture(figure, path)


def draw_frame_scores(scores: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> None:
    """Draw the scores of video against the frame, a panel for each of OF_FRAMES that there is, as PNG.

    Args:
        scores: {method: {metric: (time,)}}; with "persistence" among the methods the skill is drawn too.
        path: of the picture.

    Raises:
        WavecastError: matplotlib is not installed, or the picture cannot be written.
    """
    drawn = {method: dict(found) for method, found in scores.items()}
    if "persistence" in scores:
        reference = scores["persistence"]["mse_sum_pixels"]
        ratio = np.divide(
            scores["forecast"]["mse_sum_pixels"], reference, where=reference > 0, out=np.full_like(reference, np.nan)
        )
        drawn["forecast"]["skill"], drawn["persistence"]["skill"] = 1 - ratio, np.zeros_like(ratio)
    metrics = [metric for metric in OF_FRAMES if metric in drawn["forecast"]]
    figure = new_figure(7, 2.4 * len(metrics))
    for axes, metric in zip(figure.subplots(len(metrics), 1, squeeze=False)[:, 0], metrics, strict=True):
        for method, found in drawn.items():
            values = np.where(np.isfinite(found[metric]), found[metric], np.nan)  # the PSNR of equal frames is infinite
            width = 2.4 if method == "forecast" else 1.2
            lead = np.arange(1, len(values) + 1)
            axes.plot(lead, values, marker=".", label=method, color=COLORS[method], linewidth=width)
        axes.set(xlabel="frame", ylabel=OF_FRAMES[metric])
        axes.legend()
    save_picture(figure, path)
