"""The work of `wavecast enhance`: one input after the other, none stopped by another's fault."""

import argparse
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
import torch

from wavecast.apps.enhancement.frcrn_windows import pass_bytes
from wavecast.apps.enhancement.inference import DEFAULT_MODEL, Enhancer, Options
from wavecast.apps.enhancement.inputs import Source, find_sources, is_folder, keep_apart, plan_target
from wavecast.apps.enhancement.plot import LONGEST, plot_before_after
from wavecast.apps.enhancement.progress import Progress
from wavecast.apps.enhancement.report import Level, Reference
from wavecast.console import JsonReport, UsageError, say, show_error
from wavecast.core.errors import WavecastError
from wavecast.core.pool import Pool, PoolClosed
from wavecast.core.resample import Resampler
from wavecast.core.stream import flushed_denormals
from wavecast.datamodules.audio_files import (
    AudioInfo,
    AudioReader,
    create_audio,
    file_info,
    file_suffix,
    open_audio,
    parse_raw,
    pipe_info,
)
from wavecast.datamodules.riff import SampleFormat

HIGHEST_PEAK_DB = -0.1  # of a result that is rescaled: another sample rate or a lossy format may raise it a little
BLOCK = 1 << 15  # samples of a channel read at once


@dataclass(frozen=True)
class Job:
    """One input and where its result goes."""

    source: Source
    target: str
    seconds: float | None = None


def enhance_all(args: argparse.Namespace) -> int:
    """Enhance all inputs of a command line.

    Returns:
        0 when all are done, 1 when some failed; a summary says which.
    """
    raw = _raw(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    sources, errors = find_sources(args.inputs)
    for error in errors:
        show_error(error.message, error.hint)
    _check_together(args, sources)
    jobs, failed = _plan(args, sources, raw)
    failed += len(errors)
    if args.dry_run:
        for job in jobs:
            print(f"{shown(job.source.path)} -> {shown(job.target)}")
        return 1 if failed else 0
    if not jobs:
        return 1 if failed or not sources else 0
    enhancer = Enhancer.load(args.model, args.device)
    options = Options(
        mix=args.mix,
        limit_db=args.limit_db,
        gain_db=args.gain_db,
        soft=args.peaks == "soft",
        high_band=args.high_band,
        shared=args.channels == "shared",
        block=args.block,
        whole=args.whole,
    )
    lengths = [job.seconds for job in jobs]
    seconds = None if None in lengths else sum(filter(None, lengths))
    report = JsonReport(args.json, args.overwrite)
    try:
        with Progress(len(jobs), seconds, args.quiet or jobs[0].target == "-") as progress:
            work = Work(enhancer, options, args, raw, progress, report)
            undone = work.together(jobs) if min(args.batch, len(jobs)) > 1 else work.one_by_one(jobs)
    finally:
        report.close()
    failed += undone
    if failed:
        say(f"{len(jobs) - undone} done, {failed} failed", args.quiet)
    return 1 if failed else 0


@dataclass
class Work:
    """What all jobs of a command have in common."""

    enhancer: Enhancer
    options: Options
    args: argparse.Namespace
    raw: SampleFormat | None
    progress: Progress
    report: JsonReport
    talking: Lock = field(default_factory=Lock)

    def one_by_one(self, jobs: list[Job]) -> int:
        """Do the jobs; give the number of those that failed."""
        return sum(not self.do(job) for job in jobs)

    def together(self, jobs: list[Job]) -> int:
        """Do the jobs with several files side by side in one batch; give the number of those that failed."""
        done: list[bool] = []
        faults: list[Exception] = []
        waiting = iter(jobs)
        workers = min(self.args.batch, len(jobs))

        def work(pool: Pool) -> None:
            with suppress(PoolClosed), pool.member():
                try:
                    while (job := next(waiting, None)) is not None:
                        done.append(self.do(job))
                except Exception as error:  # raised again where the command began
                    faults.append(error)
                    pool.close()

        with self.enhancer.together(workers) as pool:
            threads = [Thread(target=work, args=(pool,)) for _ in range(workers)]
            for thread in threads:
                thread.start()
            try:
                pool.serve()
            finally:
                for thread in threads:
                    thread.join()
        if faults:
            raise faults[0]
        return done.count(False)

    def do(self, job: Job) -> bool:
        """Do one job and say how it went."""
        try:
            row = enhance_one(job, self.enhancer, self.options, self.args, self.raw, self.progress)
        except WavecastError as error:
            with self.talking:
                self.report.add({"input": job.source.path, "error": error.message})
                show_error(naming(job.source, error), error.hint)
            return False
        with self.talking:
            self.report.add(row)
            say(_line(row), self.args.quiet or job.target == "-")
        return True


def _raw(args: argparse.Namespace) -> SampleFormat | None:
    try:
        return parse_raw(args.raw) if args.raw else None
    except ValueError as error:
        raise UsageError(f"--raw {error}", "for example --raw s16le:16000") from error


def naming(source: Source, error: WavecastError) -> str:
    """Give an error's message with the input's name in it."""
    return error.message if source.path in error.message else f"{source.path}: {error.message}"


def shown(path: str) -> str:
    """Give a path as text that can be printed, whatever bytes its name holds."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _check_together(args: argparse.Namespace, sources: list[Source]) -> None:
    """Refuse options that contradict each other.

    Raises:
        UsageError: says which, and what to give instead.
    """
    if args.json == "-" and (args.output == "-" or (args.output is None and any(s.is_pipe for s in sources))):
        raise UsageError("sound and report cannot both go to stdout", "give --json a file")
    if args.output == "-" and len(sources) != 1:
        raise UsageError(f"{len(sources)} inputs cannot go to stdout", "give -o FOLDER/")
    if args.output not in (None, "-") and len(sources) > 1 and not is_folder(args.output):
        raise UsageError(f"{len(sources)} inputs cannot go to one file {args.output}", f"give -o {args.output}/")
    if args.reference and len(sources) != 1:
        raise UsageError("--reference goes with one input")
    if (args.level is not None or args.peaks == "rescale") and any(source.is_pipe for source in sources):
        raise UsageError("a level that depends on the whole recording", "on a pipe give --gain-db and --peaks soft")
    if args.batch > 1 and args.channels == "shared":
        raise UsageError("--channels shared works file by file", "leave --batch out")
    try:
        args.name_template.format(stem="x")
    except (KeyError, IndexError, ValueError) as error:
        raise UsageError(f"--name-template {args.name_template!r} is not understood", "use {stem}") from error


def _plan(args: argparse.Namespace, sources: list[Source], raw: SampleFormat | None) -> tuple[list[Job], int]:
    """Choose the target of every input that can be opened; the number of those that cannot, beside them."""
    failed, able, targets = 0, [], []
    seconds: list[float | None] = []
    for source in sources:
        if source.is_pipe or args.output == "-":
            able.append(source)
            seconds.append(None)
            targets.append(Path("-") if args.output in (None, "-") else Path(args.output))
            continue
        try:
            with open_audio(source.path, raw) as reader:
                suffix = file_suffix(_file_info(reader.info, args, None), Path(source.path).suffix)
                frames, rate = reader.info.frames, reader.info.sample_rate
        except WavecastError as error:
            failed += 1
            show_error(naming(source, error), error.hint)
            continue
        able.append(source)
        seconds.append(None if frames is None else frames / rate)
        targets.append(plan_target(source, args.output, suffix, args.name_template))
    targets = keep_apart(targets, able) if able and not able[0].is_pipe and args.output != "-" else targets
    jobs = [Job(source, str(target), long) for source, target, long in zip(able, targets, seconds, strict=True)]
    if args.resume:
        waiting = [job for job in jobs if not Path(job.target).exists()]
        say(f"{len(jobs) - len(waiting)} of {len(jobs)} were done before", args.quiet)
        jobs = waiting
    return jobs, failed


def _file_info(info: AudioInfo, args: argparse.Namespace, target: str | None) -> AudioInfo:
    """Choose rate, container and encoding of a file."""
    suffix = Path(target).suffix if target else ""
    if args.format:
        suffix = f".{args.format.lstrip('.')}"
    return replace(file_info(info, suffix, args.subtype or ""), sample_rate=args.rate or info.sample_rate)


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
            wanted = _file_info(info, args, job.target)
            _make_folder(Path(job.target).parent)
        picture = Path(job.target).with_suffix(".png")
        if args.plot and job.target != "-" and picture.exists() and not args.overwrite:
            raise WavecastError(f"{picture} exists", "give --overwrite")
        writer = stack.enter_context(create_audio(job.target, wanted, args.overwrite))
        levels = Level(), Level()
        drawn, frames = Drawn(info.sample_rate) if args.plot else None, 0
        with progress.file(job.source.path, job.seconds) as bar, flushed_denormals():
            for x, y in _enhanced(reader, stream):
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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise WavecastError(f"cannot make the folder {folder}: it is a file", "choose another name with -o") from error
    except OSError as error:
        raise WavecastError(f"cannot make the folder {folder}: {error.strerror}") from error


def resampling_latency_ms(rate: int, network_rate: int) -> float:
    """Measure how much later sound comes for being resampled there and back, in milliseconds."""
    if rate == network_rate:
        return 0.0
    down, up = Resampler(rate, network_rate, 1), Resampler(network_rate, rate, 1)
    out = sum(up.push(down.push(np.zeros((1, rate // 100), np.float32))).shape[1] for _ in range(100))
    return round(1000 * (rate // 100 * 100 - out) / rate, 2)


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


def _line(row: dict[str, Any]) -> str:
    """Say in one line what was done."""
    text = f"{row['output']}: {row['seconds']:.1f} s in {row['wall_seconds']:.1f} s"
    if "si_sdr_gain" in row:
        text += f", SI-SDR {row['si_sdr_in']:.1f} -> {row['si_sdr_out']:.1f} dB"
    if row["clipped_samples"]:
        text += f", {row['clipped_samples']} samples above full scale (--peaks soft bends them)"
    if row["not_finite_samples"]:
        text += f", {row['not_finite_samples']} samples were not numbers and became 0"
    return text + (", the input was cut off" if row["truncated"] else "")
