"""`wavecast spot`: words in a live stream or a recording, each with its time."""

import argparse

from wavecast.apps.sound.options import file_arguments, live_arguments
from wavecast.console import common_arguments, positive
from wavecast.options import input_arguments, within

EXAMPLES = """
examples:
  wavecast spot talk.wav                            one JSON object a word
  wavecast spot calls/ --words yes,no -o events/    a folder, its tree mirrored
  arecord -q -t raw -c 1 -f S16_LE -r 16000 | wavecast spot - --raw s16le:16000 --early
  wavecast spot --mic --words stop,go --thresholds stop=0.9
  wavecast spot talk.wav --format csv -o talk.csv --plot
"""
FORMATS = ("jsonl", "csv", "txt")
SECONDS = "time in seconds"
POSTERIOR = within(0, 1, "posterior")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = EXAMPLES
    input_arguments(parser, "*", " (stdout)")
    file_arguments(parser, "{stem}", FORMATS)
    live_arguments(parser)

    words = parser.add_argument_group("words")
    words.add_argument("--words", type=_words, default=(), metavar="A,B", help="those that are wanted (all)")
    words.add_argument("--threshold", type=POSTERIOR, metavar="P", help="how sure to be, from 0 to 1 (the model's)")
    words.add_argument(
        "--thresholds", type=_thresholds, default={}, metavar="A=P,B=P", help="the same for single words"
    )
    words.add_argument(
        "--smoothing", type=within(0, 60, SECONDS), metavar="S", help="time to average over (the model's)"
    )
    words.add_argument(
        "--refractory", type=within(0, 3600, SECONDS), metavar="S", help="time without another word (the model's)"
    )
    words.add_argument("--early", action="store_true", help="tell a word as soon as it is above its threshold")
    words.add_argument("--hop", type=positive, metavar="N", help="frames of 10 ms between decisions (the model's)")
    words.add_argument("--channels", choices=("mix", "each"), default="mix", help="listen to their mean, or to each")

    talk = parser.add_argument_group("what it tells")
    talk.add_argument("--plot", action="store_true", help="a picture of posteriors and words, beside the output")
    common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Spot words in the inputs: 0 all done, 1 some failed."""
    from wavecast.apps.keywords.jobs import spot_all

    return spot_all(args)


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of words: yes,no,stop")
    return words


def _thresholds(text: str) -> dict[str, float]:
    pairs = [part.strip().split("=") for part in text.split(",")]
    if not all(len(pair) == 2 and pair[0] for pair in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} gives no thresholds of words: yes=0.9,no=0.8")
    return {word: POSTERIOR(value) for word, value in pairs}
