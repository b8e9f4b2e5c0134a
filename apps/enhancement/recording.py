"""One recording from its file to the enhanced one: block by block, in memory that does not grow."""

import argparse
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wavecast.apps.enhancement.frcrn_windows import pass_bytes
from wavecast.apps.enhancement.inference import DEFAULT_MODEL, Enhancer, Options
from wavecast.apps.enhancement.plot import Drawn
from wavecast.apps.enhancement.report import Level, Reference
from wavecast.console import raise_if_interrupted, say
from wavecast.core.errors import WavecastError
from wavecast.core.resample import Resampler
from wavecast.core.stream import flushed_denormals
from wavecast.datamodules.audio_files import AudioInfo, AudioReader, create_audio, file_info, open_audio, pipe_info
from wavecast.datamodules.riff import SampleFormat
from wavecast.inputs import Source, make_folder
from wavecast.progress import Progress

HIGHEST_PEAK_DB = -0.1  # of a result that is rescaled: another sample rate or a lossy format may raise it a little
BLOCK = 1 << 15  # samples of a channel read at once


@dataclass(frozen=True)
class Job:
    """One input and where its result goes."""

    source: Source
    target: str
    seconds: float | None = None


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
    begun = time.perf_counter(), time.process_time()
    reference = Reference.read(args.reference) if args.reference else None
    with ExitStack() as stack:
        reader = stack.enter_context(open_audio(job.source.path, raw))
        info, live = reader.info, job.source.is_pipe
        _check_model(enhancer, options, info, live)
        gain = None
        if not enhancer.streams:
            gain = enhancer.input_gain(lambda: _blocks_anew(job.source, raw))
        if args.level is not None or args.peaks == "rescale":
            options = replace(options, gain_db=level_gain_db(job.source, enhancer, options, args, raw, info, gain))
        stream = enhancer.stream(info.channels, info.sample_rate, options, gain, live=job.source.is_pipe)
        rate = args.rate or info.sample_rate
        last = Resampler(info.sample_rate, rate, info.channels)
        if job.target == "-":
            wanted = replace(pipe_info(info), sample_rate=rate)
        else:
            wanted = file_info_for(info, args, job.target)
            make_folder(Path(job.target).parent)
        picture = Path(job.target).with_suffix(".png")
        if args.plot and job.target != "-" and picture.exists() and not args.overwrite:
            raise WavecastError(f"{picture} exists", "give --overwrite")
        writer = stack.enter_context(create_audio(job.target, wanted, args.overwrite))
        levels = Level(), Level()
        drawn, frames = Drawn(info.sample_rate) if args.plot else None, 0
        with progress.file(job.source.path, job.seconds) as bar, flushed_denormals():
            for x, y in _enhanced(reader, stream):
                raise_if_interrupted()
                levels[0].add(x)
                levels[1].add(y)
                if reference is not None:
                    reference.add("in", x)
                    reference.add("out", y)
                if drawn is not None:
                    drawn.add(x, y)
                if y.shape[1]:
                    writer.write(last.push(y))
                frames += x.shape[1]
                bar.advance(x.shape[1] / info.sample_rate)
            writer.write(last.flush())
        if reader.truncated and not frames:
            raise WavecastError(f"{job.source.path} holds no sound: it ends after its header", "it was cut off")
    seconds = frames / info.sample_rate
    if not frames:
        say(f"{job.source.path} has no samples", args.quiet)
    row: dict[str, Any] = {
        "input": job.source.path,
        "output": job.target,
        "seconds": round(seconds, 3),
        "sample_rate": info.sample_rate,
        "channels": info.channels,
        "wall_seconds": round(time.perf_counter() - begun[0], 3),
        "cpu_seconds": round(time.process_time() - begun[1], 3),
        "real_time_factor": round((time.perf_counter() - begun[0]) / seconds, 4) if seconds else None,
        "latency_ms": round(1000 * enhancer.latency / enhancer.sample_rate, 2) if enhancer.streams else None,
        "resampling_latency_ms": resampling_latency_ms(info.sample_rate, enhancer.sample_rate),
        "level_in": levels[0].row(),
        "level_out": levels[1].row(),
        "clipped_samples": writer.clipped,
        "not_finite_samples": stream.replaced,
        "truncated": reader.truncated,
        "model": enhancer.card.name,
        "model_sha256": enhancer.card.weights.get("sha256"),
    }
    if reference is not None:
        row |= reference.row(info.sample_rate)
    if drawn is not None and job.target != "-":
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
    if options.whole and info.frames:
        needed = pass_bytes(info.frames / info.sample_rate)
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > there:
            raise WavecastError(
                f"one pass over {info.frames / info.sample_rate:.0f} s needs about {needed / 1e9:.1f} GB of memory; "
                f"there are {there / 1e9:.1f} GB",
                "leave --whole out: windows of 30 s need 1.5 GB for any length",
            )


def level_gain_db(
    source: Source,
    enhancer: Enhancer,
    options: Options,
    args: argparse.Namespace,
    raw: SampleFormat | None,
    info: AudioInfo,
    gain: np.ndarray | None,
) -> float:
    """Choose the gain of a result by its level and peak, which takes a pass over the file of its own."""
    found, stream = Level(), enhancer.stream(info.channels, info.sample_rate, options, gain, live=False)
    with open_audio(source.path, raw) as reader, flushed_denormals():
        for _, y in _enhanced(reader, stream):
            found.add(y)
    level, peak = found.row()["rms_db"], found.row()["peak_db"]
    if level is None or peak is None:
        return options.gain_db
    change = 0.0 if args.level is None else args.level + options.gain_db - level
    if args.peaks == "rescale":
        change = min(change, HIGHEST_PEAK_DB - peak)
    return options.gain_db + change


def _blocks_anew(source: Source, raw: SampleFormat | None) -> Iterable[np.ndarray]:
    with open_audio(source.path, raw) as reader:
        while (x := reader.read(BLOCK)).shape[1]:
            yield x


def _enhanced(reader: AudioReader, stream: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read and enhance block by block; the last pair has no input."""
    x = reader.read(BLOCK)
    while x.shape[1]:
        yield x, stream.push(x)
        x = reader.read(BLOCK)
    yield x, stream.flush()


def resampling_latency_ms(rate: int, network_rate: int) -> float:
    """Measure how much later sound comes for being resampled there and back, in milliseconds."""
    if rate == network_rate:
        return 0.0
    down, up = Resampler(rate, network_rate, 1), Resampler(network_rate, rate, 1)
    out = sum(up.push(down.push(np.zeros((1, rate // 100), np.float32))).shape[1] for _ in range(100))
    return round(1000 * (rate // 100 * 100 - out) / rate, 2)


def file_info_for(info: AudioInfo, args: argparse.Namespace, target: str | None) -> AudioInfo:
    """Choose rate, container and encoding of a file."""
    suffix = Path(target).suffix if target else ""
    if args.format:
        suffix = f".{args.format.lstrip('.')}"
    return replace(file_info(info, suffix, args.subtype or ""), sample_rate=args.rate or info.sample_rate)
