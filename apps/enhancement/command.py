"""`wavecast enhance`: a noisy recording in, clean speech out."""

import argparse

from wavecast.apps.sound.options import file_arguments, sound_arguments
from wavecast.console import common_arguments, positive
from wavecast.options import input_arguments

EXAMPLES = """
examples:
  wavecast enhance noisy.wav                        writes noisy.enhanced.wav beside it
  wavecast enhance recordings/ -o clean/ --resume   a folder, its tree mirrored; goes on where it stopped
  wavecast enhance a.flac b.mp3 -o out/
  arecord -q -t raw -c 1 -f S16_LE -r 16000 | wavecast enhance - -o - --raw s16le:16000 \\
    | aplay -q -t raw -c 1 -f S16_LE -r 16000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = EXAMPLES
    input_arguments(parser)
    files = file_arguments(parser, "{stem}.enhanced")
    files.add_argument(
        "--batch", type=positive, default=1, metavar="N", help="files side by side: faster, equal to 1e-5 (1)"
    )

    sound = sound_arguments(parser)
    sound.add_argument("--mix", type=_share, default=1.0, metavar="0..1", help="share of the enhanced sound (1)")
    sound.add_argument(
        "--limit-db", type=_decibels, default=float("inf"), metavar="DB", help="lower noise by at most that"
    )
    sound.add_argument(
        "--level", type=float, metavar="DB", help="bring the result to that mean level below full scale (as it comes)"
    )
    sound.add_argument(
        "--high-band",
        choices=("follow", "drop", "keep"),
        default="follow",
        help="what becomes of the band above the model's",
    )
    sound.add_argument(
        "--channels", choices=("each", "shared"), default="each", help="each on its own, or one mask for all"
    )

    talk = parser.add_argument_group("what it tells")
    talk.add_argument("--plot", action="store_true", help="a picture before and after, beside each output")
    talk.add_argument("--reference", metavar="CLEAN", help="the clean original of the one input: SI-SDR and PESQ")
    common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Enhance the inputs: 0 all done, 1 some failed."""
    from wavecast.apps.enhancement.jobs import enhance_all

    return enhance_all(args)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _decibels(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
