"""`wavecast separate`: several voices in one recording, each on its own."""

import argparse

from wavecast.apps.sound.options import file_arguments, sound_arguments
from wavecast.console import common_arguments
from wavecast.options import input_arguments

EXAMPLES = """
examples:
  wavecast separate meeting.wav                     writes meeting_1.wav and meeting_2.wav beside it
  wavecast separate calls/ -o out/ --resume         a folder, its tree mirrored; goes on where it stopped
  wavecast separate talk.flac --speakers 3 --model mossformer2.wsj0mix3
  wavecast separate call.wav --enhance --plot       noise is taken from the voices; a picture of all
  wavecast separate call.wav -o - > voices.wav      one sound file with a channel for each speaker
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = EXAMPLES
    input_arguments(parser)
    file_arguments(parser, "{stem}_{speaker}")

    voices = parser.add_argument_group("voices")
    voices.add_argument(
        "--speakers",
        choices=("2", "3", "auto"),
        default="auto",
        help="as many results; auto: as the model makes, without those that have no voice (auto)",
    )
    voices.add_argument(
        "--turns",
        choices=("auto", "yes", "no"),
        default="auto",
        help="follow voices where outputs change speakers within a window; auto: as its card says (auto)",
    )
    voices.add_argument("--residual", action="store_true", help="what belongs to no speaker, as one more result")
    voices.add_argument("--enhance", action="store_true", help="take noise from the voices, too")
    voices.add_argument("--enhance-model", metavar="NAME|PATH", help="the model that does it (the one that ships)")

    sound = sound_arguments(parser)
    sound.add_argument(
        "--channels", choices=("mean", "each"), default="mean", help="of the input: their mean, or each on its own"
    )

    talk = parser.add_argument_group("what it tells")
    talk.add_argument("--plot", action="store_true", help="a picture of the mixture and the voices, beside them")
    talk.add_argument(
        "--reference",
        nargs="+",
        metavar="CLEAN",
        help="the voices of the one input on their own: SI-SDR before and after",
    )
    common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Separate the inputs: 0 all done, 1 some failed."""
    from wavecast.apps.separation.jobs import separate_all

    return separate_all(args)
