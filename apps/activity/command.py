"""`wavecast recognize`: a video in, what is done in it out."""

import argparse

from wavecast.console import common_arguments, positive
from wavecast.options import file_arguments, input_arguments, within

EXAMPLES = """
examples:
  wavecast recognize clip.mp4                       the most probable activities of the whole clip
  wavecast recognize clips/ -o found/ --format json a folder, its tree mirrored
  wavecast recognize day.mp4 --format srt -o day.srt --min-duration 2      what happens when
  wavecast recognize day.mp4 --timeline --plot      a line an activity, and a picture
  wavecast recognize --camera --partials            until Ctrl-C
  ffmpeg -i rtsp://... -f mjpeg - | wavecast recognize - --format jsonl
  wavecast recognize a.avi --model rgb.ckpt --model flow.ckpt --weights 1 2
"""
FORMATS = ("txt", "json", "jsonl", "csv", "srt")
SECONDS = within(0.01, 86_400, "time in seconds")
RAW = ("PIXELS:WIDTHxHEIGHT:FPS", "rgb24:320x240:25")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = EXAMPLES
    input_arguments(parser, "*", " (stdout)")
    files = file_arguments(parser, "{stem}", RAW, FORMATS)
    files.add_argument(
        "--rate", type=within(0.01, 1000, "rate"), metavar="FPS", help="frames per second of an array (.npy, .npz)"
    )

    live = parser.add_argument_group("live")
    live.add_argument(
        "--camera", nargs="?", const="", metavar="DEVICE", help="watch a camera until Ctrl-C (the first one)"
    )
    live.add_argument("--partials", action="store_true", help="show what seems to be going on before it is final")

    what = parser.add_argument_group("activities")
    what.add_argument("--top", type=positive, default=5, metavar="K", help="of a whole video, the most probable (5)")
    what.add_argument(
        "--threshold", type=within(0, 1, "probability"), default=0.0, metavar="P", help="least probability (0)"
    )
    what.add_argument("--weights", type=float, nargs="+", metavar="W", help="of several models (all alike)")

    when = parser.add_argument_group("timeline (any of these asks for one; live video always has one)")
    when.add_argument("--timeline", action="store_true", help="tell what happens when, not what the whole video shows")
    when.add_argument("--window", type=SECONDS, metavar="S", help="seconds that are looked at together (the model's)")
    when.add_argument("--stride", type=SECONDS, metavar="S", help="from one window to the next (half a window)")
    when.add_argument("--min-duration", type=SECONDS, metavar="S", help="leave out what is shorter")
    when.add_argument("--plot", action="store_true", help="a picture with key frames, beside the output")
    common_arguments(parser, several_models=True)


def run(args: argparse.Namespace) -> int:
    """Recognize activities in the inputs: 0 all done, 1 some failed."""
    from wavecast.apps.activity.jobs import recognize_all

    return recognize_all(args)
