"""What all commands share on the command line: options, messages, progress, the JSON report.

stdout is data, stderr is talk.
"""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from wavecast.core.errors import WavecastError


class UsageError(Exception):
    """The command line was wrong: exit code 2.

    Args:
        message: what is wrong with it.
        hint: the cure; empty when the message says it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of exiting and never guesses abbreviations."""

    def __init__(self, prog: str, description: str = "", epilog: str = "") -> None:
        super().__init__(
            prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Report a wrong command line with a hint."""
        raise UsageError(message, f"{self.prog} --help")

    def parse(self, words: list[str]) -> argparse.Namespace:
        """Parse all words; an unknown option gets a suggestion. What follows `--` is no option.

        Raises:
            UsageError: an option is unknown, misses its value, or has a wrong one.
        """
        end = words.index("--") if "--" in words else len(words)
        for word in words[:end]:
            if word.startswith("-") and word not in self._option_string_actions and Path(word).is_file():
                raise UsageError(f"{word} looks like an option", f"the file of that name: ./{word}")
        # argparse loses `--` where options and arguments mix; a path says the same.
        words = words[:end] + [f"./{word}" if word.startswith("-") else word for word in words[end + 1 :]]
        args, unknown = self.parse_known_intermixed_args(words)
        if unknown:
            word = unknown[0].split("=")[0]
            options = [option for action in self._actions for option in action.option_strings]
            raise UsageError(f"unrecognized argument {unknown[0]}", did_you_mean(word, options, f"{self.prog} --help"))
        return args


def did_you_mean(word: str, choices: Iterable[str], otherwise: str) -> str:
    """Suggest the nearest of the choices, or something else when none is near."""
    near = get_close_matches(word, list(choices), 1, 0.6)
    return f"did you mean {near[0]}?" if near else otherwise


def common_arguments(parser: argparse.ArgumentParser, several_models: bool = False) -> None:
    """Add the options that mean the same in every command that runs a model.

    Args:
        parser: of the command.
        several_models: let --model be given again; `args.model` is a list then.
    """
    group = parser.add_argument_group("common options")
    group.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (auto)")
    group.add_argument("--threads", type=positive, metavar="N", help="processor threads (the library's choice)")
    group.add_argument(
        "--model",
        action="append" if several_models else "store",
        metavar="NAME|PATH",
        help=f"a name from `wavecast models list`, or a file{'; again for more members' if several_models else ''}",
    )
    group.add_argument("--json", metavar="FILE|-", help="write a report, one JSON object a line")
    group.add_argument("--overwrite", action="store_true", help="replace files that exist")
    talk_arguments(group)


def talk_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options on how much is said."""
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def positive(text: str) -> int:
    """Parse a whole number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def say(text: str, quiet: bool = False) -> None:
    """Talk to the user."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def show_error(message: str, hint: str = "") -> None:
    """Print an error and its cure."""
    print(f"wavecast: error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr, flush=True)


PRESSED = threading.Event()
"""Set when Ctrl-C was pressed."""


@contextmanager
def interrupts_remembered() -> Iterator[None]:
    """Remember Ctrl-C meanwhile: what is raised while a library calls back into Python may be dropped there."""
    PRESSED.clear()
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _remember(number: int, frame: FrameType | None) -> NoReturn:
    PRESSED.set()
    raise KeyboardInterrupt


def raise_if_interrupted() -> None:
    """Stop here if Ctrl-C was pressed and dropped; for the loops of long work.

    Raises:
        KeyboardInterrupt: it was.
    """
    if PRESSED.is_set() and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


class JsonReport:
    """One JSON object a line, to a file or to stdout.

    Args:
        target: a path, "-" for stdout, or None for nowhere.
        overwrite: replace a file that exists.

    Raises:
        WavecastError: the file exists or cannot be written.
    """

    def __init__(self, target: str | None, overwrite: bool = False) -> None:
        self._file: TextIO | None = None
        self._target = target
        if target == "-":
            self._file = sys.stdout
        elif target is not None:
            path = Path(target)
            try:
                self._file = path.open("w" if overwrite else "x", encoding="utf-8")
            except FileExistsError:
                raise WavecastError(f"{path} exists", "give --overwrite, or another name") from None
            except OSError as error:
                raise WavecastError(f"cannot write {path}: {error.strerror}") from error

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one object.

        Raises:
            WavecastError: the disk is full.
        """
        if self._file is None:
            return
        text = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()  # names of any bytes
        try:
            print(text, file=self._file, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise WavecastError(f"cannot write the report {self._target}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file; stdout stays open."""
        if self._file not in (None, sys.stdout):
            with suppress(OSError):  # told when the object was written
                self._file.close()
