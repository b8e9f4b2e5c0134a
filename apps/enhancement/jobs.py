"""The work of `wavecast enhance`: one input after the other, none stopped by another's fault."""

import argparse
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import torch

from wavecast.apps.enhancement.inference import Enhancer, Options
from wavecast.apps.enhancement.recording import Job, enhance_one, file_info_for
from wavecast.console import JsonReport, UsageError, say, show_error
from wavecast.core.errors import WavecastError
from wavecast.core.pool import Pool, PoolClosed
from wavecast.datamodules.audio_files import file_suffix, open_audio
from wavecast.datamodules.riff import SampleFormat
from wavecast.inputs import Source, find_sources, is_folder, keep_apart, naming, plan_target, raw_format, shown
from wavecast.progress import Progress


def enhance_all(args: argparse.Namespace) -> int:
    """Enhance all inputs of a command line.

    Returns:
        0 when all are done, 1 when some failed; a summary says which.
    """
    raw = raw_format(args.raw)
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
                suffix = file_suffix(file_info_for(reader.info, args, None), Path(source.path).suffix)
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
