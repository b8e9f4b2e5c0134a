"""`wavecast transcribe`: speech in, text out, from files and live."""

import argparse

from wavecast.apps.sound.options import file_arguments, live_arguments
from wavecast.console import common_arguments, positive
from wavecast.options import input_arguments, within

EXAMPLES = """
examples:
  wavecast transcribe talk.wav                      prints the text
  wavecast transcribe talks/ -o text/ --format srt  subtitles of a folder, its tree mirrored
  arecord -q -t raw -c 1 -f S16_LE -r 16000 | wavecast transcribe - --raw s16le:16000 --partials
  wavecast transcribe --mic -o minutes.vtt          until Ctrl-C
  wavecast transcribe meeting.wav --separate        two voices at once, each with its own lines
"""
FORMATS = ("txt", "json", "jsonl", "srt", "vtt", "ctm", "tsv")
WEIGHT, REWARD = within(0, 10, "weight"), within(-10, 10, "reward")
SECONDS = within(0.001, 3600, "time in seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = EXAMPLES
    input_arguments(parser, "*", " (stdout)")
    file_arguments(parser, "{stem}", FORMATS)

    live = live_arguments(parser)
    live.add_argument("--partials", action="store_true", help="show what is being said before it is final")

    speech = parser.add_argument_group("speech")
    speech.add_argument(
        "--look-ahead", type=_milliseconds, metavar="MS", help="0, 80, 480, 1040: later is more accurate (the model's)"
    )
    speech.add_argument("--head", choices=("ctc", "rnnt"), help="what finds the words (rnnt where the model has it)")
    speech.add_argument("--beam", type=positive, default=0, metavar="N", help="hypotheses (8 if guided, else 1)")
    speech.add_argument(
        "--language-model",
        default="",
        metavar="FILE|none",
        help="guides the beam: n-grams, or a text (the model's own)",
    )
    speech.add_argument("--language-weight", type=WEIGHT, metavar="W", help="of its logarithms (0.5 rnnt, 0.7 ctc)")
    speech.add_argument("--token-reward", type=REWARD, metavar="R", help="for each token with it (2)")
    speech.add_argument("--boost", metavar="FILE", help="phrases to expect, one a line, a weight after a tab")
    speech.add_argument("--align", action="store_true", help="times and confidences by CTC under the transducer's text")
    speech.add_argument("--channels", choices=("mix", "each"), default="mix", help="one voice, or each a speaker")
    speech.add_argument("--separate", action="store_true", help="part voices that are mixed: a transcript a speaker")
    speech.add_argument("--separate-model", metavar="NAME|PATH", help="the model that parts them (the one that ships)")
    speech.add_argument("--pause", type=SECONDS, default=0.8, metavar="S", help="silence that ends an utterance (0.8)")
    speech.add_argument("--precision", choices=("float32", "int8"), default="float32", help="of linear maps (float32)")

    talk = parser.add_argument_group("what it tells")
    talk.add_argument(
        "--verify-streaming", action="store_true", help="prove that live pieces and the whole recording give one text"
    )
    common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Transcribe the inputs: 0 all done, 1 some failed."""
    from wavecast.apps.transcription.jobs import transcribe_all

    return transcribe_all(args)


def _milliseconds(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of milliseconds")
    return int(text)
