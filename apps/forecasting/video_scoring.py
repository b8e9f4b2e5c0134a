"""The work of `wavecast score` on video: a forecast beside persistence, frame by frame, against the same truth."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavecast.apps.forecasting.pictures import draw_frame_scores
from wavecast.apps.forecasting.scoring import write_table
from wavecast.apps.forecasting.strips import compared, draw_strip, shown, spread
from wavecast.apps.forecasting.video_jobs import refuse_options
from wavecast.apps.forecasting.video_scores import SSIM_WINDOW, mae_sum_pixels, mse_sum_pixels, psnr, video_scores
from wavecast.console import JsonReport, UsageError, say
from wavecast.core.errors import WavecastError
from wavecast.datamodules.arrays import ARRAY_SUFFIXES
from wavecast.datamodules.video_windows import Recording, open_recording
from wavecast.pictures import refuse_existing

Scores = Mapping[str, Mapping[str, np.ndarray]]
"""{method: {metric: (time,)}}, metrics as in `video_scores`."""
COLUMNS = ("method", "frame", "metric", "value")
BLOCK = 16  # frames scored at once


def score_video(args: argparse.Namespace) -> int:
    """Score a forecast that begins where its truth does, and the last frame before it, if a clip tells that.

    Returns:
        0; whatever goes wrong is an error.

    Raises:
        UsageError: there is no truth, or an option is for fields.
    """
    refuse_options(args, args.forecast)
    if args.truth is None:
        raise UsageError("scores need the truth", "wavecast score FORECAST TRUTH")
    beside = Path(args.forecast)
    pictures = [beside.with_suffix(".png"), beside.with_suffix(".frames.png")] if args.plot else []
    refuse_existing(pictures, args.overwrite)
    names = [args.forecast, args.truth, *([args.past] if args.past else [])]
    forecast, truth, *past = open_alike(names)
    frames = min(forecast.frames, truth.frames)
    if forecast.frames != truth.frames:
        say(f"{args.forecast} has {forecast.frames} frames, {args.truth} {truth.frames}: {frames} scored", args.quiet)
    guesses = {"forecast": forecast}
    if past:
        guesses["persistence"] = past[0]
    else:
        say("no persistence beside it: --past CLIP tells what the forecast began from", args.quiet)
    blocks: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in guesses}
    for begin in range(0, frames, BLOCK):
        count = min(BLOCK, frames - begin)
        after = truth.window(begin, count)
        for name, one in guesses.items():
            x = (
                one.window(begin, count)
                if name == "forecast"
                else np.tile(one.window(one.frames - 1, 1), (count, 1, 1, 1))
            )
            blocks[name].append(scores_of(torch.from_numpy(x)[None], torch.from_numpy(after)[None]))
    scores = {
        name: {metric: np.concatenate([part[metric] for part in found]) for metric in found[0]}
        for name, found in blocks.items()
    }
    tell(scores, args)
    if pictures:
        draw_frame_scores(scores, pictures[0])
        draw_frames(forecast, truth, frames, pictures[1])
    for path in pictures:
        say(str(path), args.quiet)
    return 0


def draw_frames(forecast: Recording, truth: Recording, frames: int, path: Path) -> None:
    """Draw truth, forecast and error at several lead times, side by side.

    Args:
        forecast: frames that follow.
        truth: what followed.
        frames: that both have.
        path: of the picture.

    Raises:
        WavecastError: matplotlib is not installed, or the picture cannot be written.
    """
    leads = spread(frames)
    ours, its = ([shown(one.window(lead, 1)[0]) for lead in leads] for one in (forecast, truth))
    draw_strip(compared(ours, its), [f"+{lead + 1}" for lead in leads], path)


def open_alike(names: list[str]) -> list[Recording]:
    """Open videos in the same channels: all of them gray where one is.

    Raises:
        WavecastError: one cannot be read, holds several clips, or has other frames than the first.
    """
    found = [open_recording(Path(name)) for name in names]
    if len({one.shape[-1] for one in found}) > 1:
        found = [
            one if one.shape[-1] == 1 or Path(name).suffix.lower() in ARRAY_SUFFIXES else open_recording(Path(name), 1)
            for name, one in zip(names, found, strict=True)
        ]
    for name, one in zip(names, found, strict=True):
        if one.shape != found[0].shape:
            first, other = (" x ".join(map(str, each.shape)) for each in (found[0], one))
            raise WavecastError(
                f"{names[0]} has frames of {first}, {name} of {other}",
                "convert one of them to the other's size and channels",
            )
    return found


def scores_of(guess: Tensor, truth: Tensor) -> dict[str, np.ndarray]:
    """Score frames in [0, 1], (batch, time, row, col, channel): the mean over the batch of each score, (time,).

    Frames too small for its window have no SSIM.
    """
    if min(truth.shape[2:4]) < SSIM_WINDOW:
        found = {"mse_sum_pixels": mse_sum_pixels(guess, truth), "mae_sum_pixels": mae_sum_pixels(guess, truth)}
        found["psnr"] = psnr(guess.clamp(0, 1), truth)
    else:
        found = video_scores(guess, truth)
    return {name: values.mean(0).numpy() for name, values in found.items()}


def tell(scores: Scores, args: argparse.Namespace) -> None:
    """Give the scores in the ways that the command line asks for: a table, JSON, CSV; warn where persistence is better.

    Raises:
        WavecastError: a file exists or cannot be written.
    """
    rows = rows_of(scores)
    report = JsonReport(args.json, args.overwrite)
    for row in rows:
        report.add(row)
    report.close()
    if args.csv:
        write_table(Path(args.csv), rows, COLUMNS, args.overwrite)
    if args.json != "-":
        print(table(scores), end="")
    if "persistence" in scores:
        worse = scores["forecast"]["mse_sum_pixels"] > scores["persistence"]["mse_sum_pixels"]
        if worse.any():
            frames = ", ".join(str(frame + 1) for frame in np.flatnonzero(worse))
            say(f"warning: worse than persistence at frame {frames}", args.quiet)


def rows_of(scores: Scores) -> list[dict[str, Any]]:
    """List every score: method, frame (from 1), metric, value."""
    return [
        {"method": method, "frame": frame + 1, "metric": metric, "value": float(value)}
        for method, found in scores.items()
        for metric, values in found.items()
        for frame, value in enumerate(values)
    ]


def table(scores: Scores) -> str:
    """Write a line for each frame, and their mean: every score of the forecast, persistence's error and the skill."""
    ours, beside = dict(scores["forecast"]), scores.get("persistence")
    if beside is not None:
        ours["mse_persistence"] = beside["mse_sum_pixels"]
    names = list(ours)
    lines = [f"{'frame':>8}" + "".join(f"{name:>17}" for name in [*names, *(["skill"] if beside is not None else [])])]
    count = len(ours["mse_sum_pixels"])
    for label, rows in [*((str(k + 1), slice(k, k + 1)) for k in range(count)), ("mean", slice(None))]:
        cells = [ours[name][rows].mean() for name in names]
        if beside is not None:
            error, reference = ours["mse_sum_pixels"][rows].mean(), ours["mse_persistence"][rows].mean()
            cells.append(1 - error / reference if reference else np.nan)
        lines.append(f"{label:>8}" + "".join(f"{cell:>17.4g}" for cell in cells))
    return "\n".join(lines) + "\n"
