"""The work of a command on files: its inputs are planned, then done one after the other, none stopped by another's
fault. A command subclasses `Work` and says what becomes of one input."""

import argparse
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from wavecast.console import JsonReport, UsageError, say, show_error
from wavecast.core.errors import WavecastError
from wavecast.inputs import Source, find_sources, is_folder, keep_apart, naming, shown
from wavecast.progress import Progress

if TYPE_CHECKING:
    from wavecast.cards import Card


@dataclass(frozen=True)
class Job:
    """One input and where its results go.

    Attributes:
        source: the input.
        targets: paths, or "-" alone for stdout.
        seconds: how long the input is, if that is known.
    """

    source: Source
    targets: tuple[str, ...]
    seconds: float | None = None

    @property
    def target(self) -> str:
        """The only result, or the first one."""
        return self.targets[0]


class Work:
    """All that is to be done for a command line.

    Args:
        args: of the command.

    Attributes:
        several: whether there is more than one input.
        progress: bars on the terminal, while jobs are done.
    """

    suffixes: Collection[str] = ()
    """Of the files that are taken from a folder."""
    kind = ""
    """Of these files, as messages call it."""
    results = "result"
    """What the results are, as messages call it."""
    json_hint = "give --json a file"
    """What to do where results and report would mix."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.several = args, False
        self.progress = Progress(0, None, True)
        self._talking = Lock()

    def find(self) -> tuple[list[Source], list[WavecastError]]:
        """Find the inputs, and what is wrong with the words that mean none."""
        return find_sources(self.args.inputs, self.suffixes, self.kind)

    def check(self, sources: list[Source]) -> None:
        """Refuse options that contradict each other.

        Raises:
            UsageError: says which, and what to give instead.
        """
        raise NotImplementedError(f"{type(self).__name__}.check")

    def unopened(self, source: Source) -> bool:
        """Tell whether an input must not be opened before its turn."""
        return source.is_pipe

    def piped(self, source: Source) -> tuple[str, ...]:
        """Choose where the results of such an input go."""
        return (self.args.output or "-",)

    def look(self, source: Source) -> tuple[list[Path], float | None]:
        """Look at an input: the files that its results go to (`-` for stdout), and its seconds, if they are known.

        Raises:
            WavecastError: it cannot be read, or there can be no results of it.
        """
        raise NotImplementedError(f"{type(self).__name__}.look")

    def done(self, job: Job) -> bool:
        """Tell whether the results of a job are there."""
        return all(Path(target).exists() for target in job.targets)

    def load(self) -> None:
        """Load the model and whatever else all jobs need.

        Raises:
            WavecastError: it cannot be.
        """
        raise NotImplementedError(f"{type(self).__name__}.load")

    def one(self, job: Job) -> dict[str, Any]:
        """Do a job, and give the row of the report.

        Raises:
            WavecastError: the input is damaged, or a result cannot be written; nothing is left of it then.
        """
        raise NotImplementedError(f"{type(self).__name__}.one")

    def line(self, row: dict[str, Any]) -> str:
        """Say in one line what was done."""
        raise NotImplementedError(f"{type(self).__name__}.line")

    def summary(self, done: int, failed: int) -> str:
        """Say how it went when some failed."""
        return f"{done} done, {failed} failed"

    def run(self) -> int:
        """Do it all.

        Returns:
            0 when all is done, 1 when some failed; a summary says which.
        """
        if self.args.threads:
            import torch

            torch.set_num_threads(self.args.threads)
        sources, errors = self.find()
        self.several = len(sources) > 1
        for error in errors:
            show_error(error.message, error.hint)
        self.check(sources)
        jobs, failed = self.plan(sources)
        failed += len(errors)
        if self.args.dry_run:
            for job in jobs:
                for target in job.targets:
                    print(f"{shown(job.source.path)} -> {shown(target)}")
            return 1 if failed else 0
        if not jobs:
            return 1 if failed or not sources else 0
        self.load()
        lengths = [job.seconds for job in jobs]
        seconds = None if None in lengths else sum(filter(None, lengths))
        self.report = JsonReport(self.args.json, self.args.overwrite)
        try:
            with Progress(len(jobs), seconds, self.args.quiet or jobs[0].target == "-") as self.progress:
                undone = self.do_all(jobs)
        finally:
            self.report.close()
        failed += undone
        if failed:
            say(self.summary(len(jobs) - undone, failed), self.args.quiet)
        return 1 if failed else 0

    def plan(self, sources: list[Source]) -> tuple[list[Job], int]:
        """Choose the targets of every input that can be opened; the number of those that cannot, beside them."""
        jobs, failed = [], 0
        for source in sources:
            if self.unopened(source):
                jobs.append(Job(source, self.piped(source)))
                continue
            try:
                targets, seconds = self.look(source)
            except WavecastError as error:
                failed += 1
                show_error(naming(source, error), error.hint)
                continue
            jobs.append(Job(source, tuple(map(str, targets)), seconds))
        if jobs and jobs[0].target != "-" and not self.unopened(jobs[0].source):
            jobs = list(_apart(jobs))
        if self.args.resume:
            waiting = [job for job in jobs if not self.done(job)]
            say(f"{len(jobs) - len(waiting)} of {len(jobs)} were done before", self.args.quiet)
            jobs = waiting
        return jobs, failed

    def do_all(self, jobs: list[Job]) -> int:
        """Do the jobs; give the number of those that failed."""
        return sum(not self.do(job) for job in jobs)

    def do(self, job: Job) -> bool:
        """Do one job and say how it went."""
        try:
            row = self.one(job)
        except WavecastError as error:
            with self._talking:
                self.report.add({"input": job.source.path, "error": error.message})
                show_error(naming(job.source, error), error.hint)
            return False
        with self._talking:
            self.report.add(row)
            say(self.line(row), self.args.quiet or job.target == "-")
        return True

    def check_outputs(self, sources: list[Source], to_stdout: bool, names: Sequence[str] = ("{stem}",)) -> None:
        """Refuse an output that does not go with the inputs, and a template of names that is none.

        Args:
            sources: the inputs.
            to_stdout: the results go there.
            names: what the template may hold.

        Raises:
            UsageError: says what, and what to give instead.
        """
        output = self.args.output
        if self.args.json == "-" and to_stdout:
            raise UsageError(f"{self.results} and report cannot both go to stdout", self.json_hint)
        if not to_stdout and output and len(sources) > 1 and not is_folder(output):
            raise UsageError(f"{len(sources)} inputs cannot go to one file {output}", f"give -o {output}/")
        template = self.args.name_template
        try:
            template.format(**{name.strip("{}"): "x" for name in names})
        except (KeyError, IndexError, ValueError) as error:
            raise UsageError(f"--name-template {template!r} is not understood", f"use {' and '.join(names)}") from error


def _apart(jobs: Sequence[Job]) -> Iterator[Job]:
    """Rename results of several jobs that would fall on one name."""
    flat = [(job.source, Path(target)) for job in jobs for target in job.targets]
    apart = iter(keep_apart([target for _, target in flat], [source for source, _ in flat]))
    for job in jobs:
        yield replace(job, targets=tuple(str(next(apart)) for _ in job.targets))


@dataclass(frozen=True)
class Clock:
    """When a piece of work began."""

    wall: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=time.process_time)

    def row(self, seconds: float) -> dict[str, float | None]:
        """Give wall and processor time since then, and their share of that many seconds of the input."""
        wall = time.perf_counter() - self.wall
        return {
            "wall_seconds": round(wall, 3),
            "cpu_seconds": round(time.process_time() - self.cpu, 3),
            "real_time_factor": round(wall / seconds, 4) if seconds else None,
        }


def model_row(card: "Card") -> dict[str, Any]:
    """Name a model and its weights."""
    return {"model": card.name, "model_sha256": card.weights.get("sha256")}
