"""One recording from its file to the enhanced one: block by block, in memory that does not grow."""

import argparse
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wavecast.apps.enhancement.inference import DEFAULT_MODEL, Enhancer, Options
from wavecast.apps.enhancement.reference import Reference
from wavecast.apps.sound.jobs import Job
from wavecast.apps.sound.pictures import Drawn
from wavecast.apps.sound.recording import (
    HIGHEST_PEAK_DB,
    blocks,
    blocks_anew,
    check_one_pass,
    file_info_for,
)
from wavecast.apps.sound.report import Level, resampling_latency_ms
from wavecast.console import say
from wavecast.core.errors import WavecastError
from wavecast.core.resample import Resampler
from wavecast.core.stream import flushed_denormals
from wavecast.datamodules.audio_files import AudioInfo, create_audio, open_audio, pipe_info
from wavecast.datamodules.riff import SampleFormat
from wavecast.inputs import make_folder
from wavecast.jobs import Clock, model_row
from wavecast.pictures import refuse_existing
from wavecast.progress import Progress


def enhance_one(
    job: Job,
    enhancer: Enhancer,
    options: Options,
    args: argparse.Namespace,
    raw: SampleFormat | None,
    progress: Progress,
) -> dict[str, Any]:
    """Enhance one input.

    Returns:
        The row of the report.

    Raises:
        WavecastError: the input is damaged, or the output cannot be written; nothing is left of it then.
    """
    clock = Clock()
    reference = Reference.read(args.reference) if args.reference else None
    with ExitStack() as stack:
        reader = stack.enter_context(open_audio(job.source.path, raw))
        info, live, anew = reader.info, job.source.is_pipe, blocks_anew(job.source, raw)
        _check_model(enhancer, options, info, live)
        gain = None if enhancer.streams else enhancer.input_gain(anew)
        if args.level is not None or args.peaks == "rescale":
            options = replace(options, gain_db=level_gain_db(anew(), enhancer, options, args, info, gain))
        stream = enhancer.stream(info.channels, info.sample_rate, options, gain, live=live)
        rate = args.rate or info.sample_rate
        last = Resampler(info.sample_rate, rate, info.channels)
        if job.target == "-":
            wanted = replace(pipe_info(info), sample_rate=rate)
        else:
            wanted = file_info_for(info, args, job.target)
            make_folder(Path(job.target).parent)
        picture = Path(job.target).with_suffix(".png") if args.plot and job.target != "-" else None
        if picture is not None:
            refuse_existing([picture], args.overwrite)
        writer = stack.enter_context(create_audio(job.target, wanted, args.overwrite))
        levels = {"before": Level(), "after": Level()}
        drawn, frames = Drawn(info.sample_rate), 0
        with progress.file(job.source.path, job.seconds) as bar, flushed_denormals():
            for x, y in _enhanced(blocks(reader, job.source.path, bar), stream):
                for side, sound in (("before", x), ("after", y)):
                    levels[side].add(sound)
                    if reference is not None:
                        reference.add(side, sound)
                    if picture is not None:
                        drawn.add(side, sound)
                if y.shape[1]:
                    writer.write(last.push(y))
                frames += x.shape[1]
            writer.write(last.flush())
    seconds = frames / info.sample_rate
    if not frames:
        say(f"{job.source.path} has no samples", args.quiet)
    row: dict[str, Any] = {
        "input": job.source.path,
        "output": job.target,
        "seconds": round(seconds, 3),
        "sample_rate": info.sample_rate,
        "channels": info.channels,
        **clock.row(seconds),
        "latency_ms": round(1000 * enhancer.latency / enhancer.sample_rate, 2) if enhancer.streams else None,
        "resampling_latency_ms": resampling_latency_ms(info.sample_rate, enhancer.sample_rate),
        "level_in": levels["before"].row(),
        "level_out": levels["after"].row(),
        "clipped_samples": writer.clipped,
        "not_finite_samples": stream.replaced,
        "truncated": reader.truncated,
        **model_row(enhancer.card),
    }
    if reference is not None:
        row |= reference.row(info.sample_rate)
    if picture is not None:
        drawn.draw(picture, Path(job.source.path).name)
        row["plot"] = str(picture)
    return row


def _check_model(enhancer: Enhancer, options: Options, info: AudioInfo, live: bool) -> None:
    """Refuse what a model that needs the whole signal cannot do.

    Raises:
        WavecastError: it cannot work on a pipe, or one pass needs more memory than there is.
    """
    if enhancer.streams:
        return
    if live:
        hint = f"--model {DEFAULT_MODEL} works live; or give a file"
        raise WavecastError(f"{enhancer.card.name} needs the whole recording and cannot work on a pipe", hint)
    if options.whole:
        seconds = enhancer.plan.window / enhancer.sample_rate
        needed = f"windows of {seconds:.0f} s need {enhancer.pass_bytes(seconds) / 1e9:.1f} GB for any length"
        check_one_pass(info, enhancer.pass_bytes, f"leave --whole out: {needed}")


def level_gain_db(
    sound: Iterable[np.ndarray],
    enhancer: Enhancer,
    options: Options,
    args: argparse.Namespace,
    info: AudioInfo,
    gain: np.ndarray | None,
) -> float:
    """Choose the gain of a result by its level and peak, which takes a pass over the file of its own."""
    found, stream = Level(), enhancer.stream(info.channels, info.sample_rate, options, gain, live=False)
    with flushed_denormals():
        for _, y in _enhanced(sound, stream):
            found.add(y)
    level, peak = found.row()["rms_db"], found.row()["peak_db"]
    if level is None or peak is None:
        return options.gain_db
    change = 0.0 if args.level is None else args.level + options.gain_db - level
    if args.peaks == "rescale":
        change = min(change, HIGHEST_PEAK_DB - peak)
    return options.gain_db + change


def _enhanced(sound: Iterable[np.ndarray], stream: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Enhance block by block; the last pair has no input."""
    for x in sound:
        yield x, stream.push(x)
    rest = stream.flush()
    yield rest[:, :0], rest
