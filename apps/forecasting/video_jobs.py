"""The work of `wavecast forecast` on video: by which method, from which frames, into which file."""

import argparse
import shlex
import time
from pathlib import Path

import numpy as np

from wavecast.apps.forecasting.methods import BASELINES
from wavecast.apps.forecasting.strips import Row, draw_strip, shown, spread
from wavecast.apps.forecasting.video_format import VideoFormat, is_video
from wavecast.apps.forecasting.video_inference import (
    VideoForecaster,
    VideoMethod,
    VideoPersistence,
    read_past,
    restored,
)
from wavecast.cards import known_cards
from wavecast.console import JsonReport, UsageError, raise_if_interrupted, say
from wavecast.core.errors import WavecastError
from wavecast.datamodules.arrays import ARRAY_SUFFIXES
from wavecast.datamodules.video_files import VIDEO_SUFFIXES
from wavecast.datamodules.video_windows import Recording, open_recording
from wavecast.datamodules.video_writer import WRITTEN_SUFFIXES, VideoWriter
from wavecast.pictures import new_figure, refuse_existing

RATE = 10.0  # frames per second of a video written from arrays, which tell none
PICTURES = (1, 3)
FOR_FIELDS = (
    "init",
    "every",
    "resume",
    "like_input",
    "train",
    "variables",
    "units",
    "start",
    "hours",
    "members",
    "perturbation",
    "seed",
    "check",
    "leads",
    "animate",
)
"""Options of `forecast` and `score` that mean nothing for video."""


def is_clip(name: str) -> bool:
    """Tell by its suffix whether a file holds video, and not fields."""
    return Path(name).suffix.lower() in VIDEO_SUFFIXES | ARRAY_SUFFIXES


def forecast_video(args: argparse.Namespace) -> int:
    """Forecast the frames that follow a clip, as a command line asks for.

    Returns:
        0; whatever goes wrong is an error.

    Raises:
        UsageError: an option is for fields, or no model fits.
    """
    refuse_options(args, args.input)
    begun = time.perf_counter()
    method = choose_method(args)
    steps = args.steps or method.horizon
    clip = open_clip(args.input, method.format)
    past = read_past(clip, args.input, method, args.resize)
    target = Path(args.output or default_output(args.input))
    array = target.suffix.lower() in ARRAY_SUFFIXES
    if past.shape[-1] not in PICTURES and not array:
        raise WavecastError(f"frames of {past.shape[-1]} channels are no pictures", "give -o NAME.npy or NAME.npz")
    strip = Strip(target.with_suffix(".strip.png"), past[-1], steps, args.overwrite) if args.plot else None
    line = f"{method.name}: {steps} frames after the last {method.history} of {clip.frames}"
    if args.dry_run:
        print(f"{line} -> {target}")
        return 0
    say(line, args.quiet)
    if method.format and method.format.rate and clip.rate and abs(clip.rate / method.format.rate - 1) > 0.01:
        say(f"warning: {clip.rate:g} frames a second; it was trained on {method.format.rate:g}", args.quiet)
    rate = clip.rate or (method.format.rate if method.format else None) or RATE
    report = JsonReport(args.json, args.overwrite)
    with VideoWriter(target, rate, args.overwrite) as writer:
        for y in method.pieces(past, steps):
            raise_if_interrupted()
            writer.write(restored(y, clip) if array else np.rint(255 * y).astype(np.uint8))
            if strip is not None:
                strip.add(y)
    if strip is not None:
        strip.draw()
    seconds = time.perf_counter() - begun
    rows, cols, channels = past.shape[1:]
    row = {"input": args.input, "output": str(target), "history": method.history, "steps": steps, "rows": rows}
    row |= {"cols": cols, "channels": channels, "frames_per_second": rate, "wall_seconds": round(seconds, 3)}
    row |= {"plot": str(strip.path)} if strip is not None else {}
    report.add(row | {"model": method.name, "model_sha256": method.checkpoint or None})
    report.close()
    say(f"{target}: {steps} frames in {seconds:.1f} s", args.quiet)
    if strip is not None:
        say(str(strip.path), args.quiet)
    return 0


class Strip:
    """The picture of a forecast: the last frame seen, and frames at several lead times, kept as they come.

    Args:
        path: of the picture.
        last: the last frame seen, (row, col, channel) in [0, 1].
        steps: that will be forecast.
        overwrite: replace a picture that exists.

    Raises:
        WavecastError: it exists, or matplotlib is not installed.
    """

    def __init__(self, path: Path, last: np.ndarray, steps: int, overwrite: bool) -> None:
        new_figure(1, 1)  # before the work is done
        refuse_existing([path], overwrite)
        self.path, self._frames, self._done = path, [shown(last)], 0
        self._wanted = spread(steps)

    def add(self, frames: np.ndarray) -> None:
        """Keep what is drawn of the next frames, (time, row, col, channel)."""
        self._frames += [shown(frames[k - self._done]) for k in self._wanted if 0 <= k - self._done < len(frames)]
        self._done += len(frames)

    def draw(self) -> None:
        """Draw what was kept.

        Raises:
            WavecastError: the picture cannot be written.
        """
        draw_strip([Row("forecast", self._frames)], ["last seen", *(f"+{k + 1}" for k in self._wanted)], self.path)


def refuse_options(args: argparse.Namespace, source: str) -> None:
    """Refuse what means something for fields only.

    Raises:
        UsageError: names the option.
    """
    given = [name for name in FOR_FIELDS if getattr(args, name, None) not in (None, False, [])]
    given += ["missing"] if args.missing != "refuse" else []
    if given:
        raise UsageError(f"--{given[0].replace('_', '-')} is for fields, and {source} is video", "leave it out")


def choose_method(args: argparse.Namespace) -> VideoMethod:
    """Find what forecasts: persistence, a model by name or path, or the one known model that fits.

    Raises:
        UsageError: nothing fits, or several models are named.
    """
    models = args.model or [fitting_model(args.input, args.resize)]
    if len(models) > 1:
        raise UsageError(f"{len(models)} models for one video", "give one --model")
    if models[0] == "persistence":
        return VideoPersistence()
    if models[0] in BASELINES:
        raise UsageError(f"{models[0]} is a baseline of fields", "for video: --model persistence")
    return VideoForecaster.load(models[0], args.device)


def fitting_model(source: str, resize: bool) -> str:
    """Find the one known model for frames of a clip's size.

    Raises:
        UsageError: there is none, or there are several.
    """
    rows, cols, channels = open_clip(source, None).shape
    made_for = {card.name: VideoFormat.of(card.fields, card.name) for card in known_cards() if is_video(card)}
    arrays = Path(source).suffix.lower() in ARRAY_SUFFIXES
    fits = [
        name
        for name, one in made_for.items()
        if (resize or (one.rows, one.cols) == (rows, cols))
        and (one.channels == channels if arrays else one.channels in PICTURES)
    ]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise UsageError(f"{len(fits)} models fit {source}: {', '.join(fits)}", f"choose one: --model {fits[0]}")
    known = "; ".join(f"{name}: {one.describe()}" for name, one in made_for.items())
    raise UsageError(
        f"no model here fits {source} ({rows} x {cols} x {channels}); there is {known or 'none at all'}",
        f"{'resize the frames: --resize; or ' if made_for and not resize else ''}train one: wavecast train video "
        f"--config moving_mnist_small --data.source {shlex.quote(source)}; or give --model persistence",
    )


def open_clip(source: str, made_for: VideoFormat | None) -> Recording:
    """Open a clip: pictures in the channels that a model is made for, arrays as they are.

    Raises:
        WavecastError: it cannot be read, has no frames, holds several clips, or is of pictures where others are wanted.
    """
    arrays = Path(source).suffix.lower() in ARRAY_SUFFIXES
    if made_for is None or arrays:
        return open_recording(Path(source), None, made_for.black_and_white if made_for else None)
    if made_for.channels not in PICTURES:
        raise WavecastError(
            f"{source} is of pictures; the model is made for {made_for.channels} channels", "give an array as .npy"
        )
    return open_recording(Path(source), made_for.channels)


def default_output(source: str) -> str:
    """Name the output beside the input: clip.npz gives clip.forecast.npz, clip.mov clip.forecast.mp4."""
    path, suffix = Path(source), Path(source).suffix.lower()
    if suffix not in WRITTEN_SUFFIXES:
        suffix = ".mp4"
    return str(path.with_name(f"{path.stem}.forecast{suffix}"))
