"""The work of a command that writes text: of files, or of what comes live from stdin or a device, line by line."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeVar

from wavecast.console import UsageError
from wavecast.core.errors import WavecastError
from wavecast.datamodules.new_files import NewFile, writing
from wavecast.inputs import Source, is_folder, make_folder, plan_target
from wavecast.jobs import Job, Work

Piece = TypeVar("Piece")


class TextWork(Work):
    """All that is to be put into text for a command line."""

    verb = "transcribe"
    """What the command does, as messages call it."""
    device = ("mic", "microphone")
    """The option that names a device to take live, and what it is."""
    live = "sound"
    """What comes live, as messages call it."""
    formats: Sequence[str] = ("txt",)
    """Of the text; the first one where nothing else is said."""
    joined: Sequence[str] = ("txt",)
    """Those in which the text of several inputs can follow one another."""

    def find(self) -> tuple[list[Source], list[WavecastError]]:
        """Find the inputs; the device is one."""
        option, name = self.device
        if getattr(self.args, option) is not None:
            if self.args.inputs:
                raise UsageError(f"--{option} goes without inputs", f"{self.verb} the files in a second call")
            return [Source(name, Path(), device=True)], []
        if not self.args.inputs:
            raise UsageError(f"there is nothing to {self.verb}", f"name files, - for stdin, or --{option}")
        return super().find()

    @property
    def to_stdout(self) -> bool:
        """Whether the text goes there."""
        return self.args.output in (None, "-")

    def check(self, sources: list[Source]) -> None:
        """Refuse options that contradict each other."""
        args = self.args
        self.check_outputs(sources, self.to_stdout)
        if self.to_stdout and len(sources) > 1 and args.format not in (None, *self.joined):
            raise UsageError(f"{len(sources)} inputs cannot be one {args.format}", "give -o FOLDER/")
        if args.resume and self.to_stdout:
            raise UsageError("--resume leaves out inputs whose output exists", "give -o FOLDER/")
        if any(source.is_live for source in sources) and not self.to_stdout and is_folder(args.output):
            name = f"{args.output.rstrip('/')}/NAME.{self.formats[0]}"
            raise UsageError(f"live {self.live} has no name of its own", f"give -o {name}")
        if getattr(args, "plot", False) and self.to_stdout and any(source.is_live for source in sources):
            name = f"NAME.{self.formats[0]}"
            raise UsageError(f"a picture of live {self.live} has no name of its own", f"give -o {name}")

    def unopened(self, source: Source) -> bool:
        """Tell whether an input must not be opened before its turn."""
        return source.is_live

    def text_targets(self, source: Source) -> list[Path]:
        """Choose the file that the text of an input goes to; `-` for stdout."""
        if self.to_stdout:
            return [Path("-")]
        suffix = f".{self.args.format or self.formats[0]}"
        return [plan_target(source, self.args.output, suffix, self.args.name_template)]

    def format(self, target: str) -> str:
        """Choose the format: as asked for, as the target is named, or the first one."""
        suffix = Path(target).suffix.lstrip(".")
        return self.args.format or (suffix if suffix in self.formats else self.formats[0])

    def picture(self, job: Job) -> Path:
        """Name the picture beside the output, or beside the input where the output has no name."""
        return Path(f"{job.source.path}.png") if job.target == "-" else Path(job.target).with_suffix(".png")

    def follow(
        self, job: Job, pieces: Iterable[Piece], push: Callable[[Piece], None], finish: Callable[[], None]
    ) -> None:
        """Hand on the pieces of an input. Of a live one, what came before Ctrl-C or damage is kept.

        Args:
            job: the input.
            pieces: of it.
            push: takes the next piece.
            finish: is called once at the end.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; with a device that is how it is meant to end.
            WavecastError: the input is damaged.
        """
        try:
            for piece in pieces:
                push(piece)
        except (KeyboardInterrupt, WavecastError) as error:
            if not job.source.is_live:
                raise
            finish()
            if job.source.is_pipe or isinstance(error, WavecastError):
                raise
        else:
            finish()

    def summary(self, done: int, failed: int) -> str:
        """Say how it went when some failed."""
        return f"{failed} failed"


@contextmanager
def text_file(job: Job, overwrite: bool) -> Iterator[TextIO]:
    """Open what the text goes to. Of a live input it grows line by line; else it appears whole, or not at all.

    Raises:
        WavecastError: the target exists, or cannot be written.
    """
    if job.target == "-":
        try:
            yield sys.stdout
        except BrokenPipeError:
            raise
        except OSError as error:
            raise WavecastError(f"cannot write to stdout: {error.strerror}", "check where it leads") from error
        return
    path = Path(job.target)
    make_folder(path.parent)
    if job.source.is_live:
        if path.exists() and not overwrite:
            raise WavecastError(f"{path} exists", "give --overwrite, or another name with -o")
        with writing(path), path.open("w", encoding="utf-8", buffering=1) as file:
            yield file
        return
    new = NewFile(path, overwrite)
    try:
        with writing(path), os.fdopen(new.descriptor, "w", encoding="utf-8") as file:
            yield file
        new.keep()
    finally:
        new.discard()


class Lines:
    """Text that grows by whole lines, each handed on at once.

    Args:
        file: a text file open for writing.
    """

    header = ""
    """Written at once."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.write(self.header)

    def write(self, text: str) -> None:
        """Write whole lines, and hand them on at once: somebody may be reading."""
        if text:
            self.file.write(text)
            self.file.flush()


def json_line(row: Mapping[str, Any]) -> str:
    """Give an object on a line of its own."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def csv_fields(fields: Iterable[Any]) -> str:
    """Give a line of a table, commas between its fields."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(fields)
    return line.getvalue()
