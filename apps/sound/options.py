"""Options that commands on sound share; only argparse is needed here."""

import argparse
from collections.abc import Sequence

from wavecast.console import positive


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
    parser: argparse.ArgumentParser, template: str, formats: Sequence[str] = ()
) -> argparse._ArgumentGroup:
    """Add the options on files.

    Args:
        parser: of the command.
        template: of the names of outputs.
        formats: that a text may have; without any, the output is sound: it has a container, an encoding and a rate.

    Returns:
        The group, for what the command adds.
    """
    files = parser.add_argument_group("files")
    if formats:
        files.add_argument("--format", choices=formats, help="of the output (as the output is named, or txt)")
    else:
        files.add_argument("--format", metavar="SUFFIX", help="of the output: wav, flac, ogg ... (as the input)")
        files.add_argument(
            "--subtype", metavar="NAME", help="encoding of the output: PCM_16, PCM_24, FLOAT ... (as the input)"
        )
        files.add_argument("--rate", type=positive, metavar="HZ", help="sample rate of the output (as the input)")
    files.add_argument("--name-template", default=template, metavar="TEXT", help="name of the output")
    files.add_argument("--raw", metavar="ENCODING:RATE[:CHANNELS]", help="the input has no header: s16le:16000")
    files.add_argument("--resume", action="store_true", help="leave out inputs whose output exists")
    files.add_argument("--dry-run", action="store_true", help="show what would be done")
    return files


def sound_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options on how a result sounds and how the network is fed; give their group."""
    sound = parser.add_argument_group("sound")
    sound.add_argument("--gain-db", type=float, default=0.0, metavar="DB", help="raise or lower the result")
    sound.add_argument(
        "--peaks",
        choices=("cut", "soft", "rescale"),
        default="cut",
        help="above full scale: cut, bend smoothly, or lower the whole result",
    )
    sound.add_argument("--block", type=positive, metavar="N", help="samples the network is fed at once (the model's)")
    sound.add_argument("--whole", action="store_true", help="one pass, for models that need the whole signal")
    return sound
