"""Options that several commands share; only argparse is needed here."""

import argparse
from collections.abc import Callable, Sequence


def input_arguments(parser: argparse.ArgumentParser, count: str = "+", default: str = "") -> None:
    """Add the inputs and where the results go.

    Args:
        parser: of the command.
        count: of inputs, as argparse has it.
        default: where the results go without -o, as the help says it.
    """
    parser.add_argument("inputs", nargs=count, metavar="INPUT", help="files, folders, patterns, @lists, or - for stdin")
    parser.add_argument("-o", "--output", metavar="PATH", help=f"a file, a folder, or - for stdout{default}")


def file_arguments(
    parser: argparse.ArgumentParser, template: str, raw: tuple[str, str], formats: Sequence[str] = ()
) -> argparse._ArgumentGroup:
    """Add the options on files.

    Args:
        parser: of the command.
        template: of the names of outputs.
        raw: how an input without a header is described, and an example.
        formats: that a text may have; without any, the command says itself what an output is.

    Returns:
        The group, for what the command adds.
    """
    files = parser.add_argument_group("files")
    if formats:
        files.add_argument("--format", choices=formats, help=f"of the output (as it is named, or {formats[0]})")
    files.add_argument("--name-template", default=template, metavar="TEXT", help="name of the output")
    files.add_argument("--raw", metavar=raw[0], help=f"the input has no header: {raw[1]}")
    files.add_argument("--resume", action="store_true", help="leave out inputs whose output exists")
    files.add_argument("--dry-run", action="store_true", help="show what would be done")
    return files


def within(lowest: float, highest: float, what: str) -> Callable[[str], float]:
    """Make a parser of numbers.

    Args:
        lowest: that is taken.
        highest: that is taken.
        what: the number is, as the error says it.
    """

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is no {what} from {lowest:g} to {highest:g}")
        return value

    return parse
