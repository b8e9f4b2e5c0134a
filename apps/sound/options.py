"""Options that commands on sound share; only argparse is needed here."""

import argparse
from collections.abc import Sequence

from wavecast import options
from wavecast.console import positive

RAW = ("ENCODING:RATE[:CHANNELS]", "s16le:16000")


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
    files = options.file_arguments(parser, template, RAW, formats)
    if not formats:
        files.add_argument("--format", metavar="SUFFIX", help="of the output: wav, flac, ogg ... (as the input)")
        files.add_argument(
            "--subtype", metavar="NAME", help="encoding of the output: PCM_16, PCM_24, FLOAT ... (as the input)"
        )
        files.add_argument("--rate", type=positive, metavar="HZ", help="sample rate of the output (as the input)")
    return files


def live_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the option to listen live; give its group, for what the command adds."""
    live = parser.add_argument_group("live")
    live.add_argument(
        "--mic", nargs="?", const="", metavar="DEVICE", help="listen to a microphone until Ctrl-C (the system's)"
    )
    return live


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
