"""`wavecast score`: a forecast against what happened, beside the baselines."""

import argparse

from wavecast.apps.forecasting.command import input_arguments
from wavecast.console import UsageError, common_arguments

EXAMPLES = """
examples:
  wavecast score forecast.zarr era5.nc --train 2019-03-01 2019-03-19 --plot
  wavecast score forecast.zarr era5.nc --plot --leads 6 12 --animate forecast.gif
  wavecast score forecast.zarr wb/ --regions global europe tropics --json scores.jsonl
  wavecast score future.mp4 truth.mp4 --past clip.mp4 --plot
  wavecast score --check forecast.zarr                    will WeatherBench tools take it?
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = EXAMPLES
    parser.add_argument("forecast", metavar="FORECAST", help="a forecast file (zarr or NetCDF)")
    parser.add_argument("truth", nargs="?", metavar="TRUTH", help="fields of the times that were forecast")
    parser.add_argument("--check", action="store_true", help="say whether WeatherBench tools will take FORECAST")
    parser.add_argument("--regions", nargs="+", default=["global"], metavar="NAME", help="global, europe, tropics ...")
    parser.add_argument(
        "--train", nargs=2, metavar="TIME", help="first and last time of TRUTH to fit the other baselines to"
    )
    parser.add_argument("--csv", metavar="FILE", help="write all scores as a table")
    parser.add_argument("--plot", action="store_true", help="pictures beside FORECAST: error against lead time, maps")
    parser.add_argument(
        "--leads", nargs="+", type=float, metavar="HOURS", help="of the maps (the first, the middle and the last)"
    )
    parser.add_argument("--animate", metavar="FILE.gif", help="show forecast, truth and error of the first variable")
    parser.add_argument("--past", metavar="CLIP", help="of video: what the forecast began from, for persistence")
    input_arguments(parser)
    common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Score: 0 done, 1 when --check finds something."""
    from wavecast.apps.forecasting.scoring import check_all, score_all
    from wavecast.apps.forecasting.video_jobs import is_clip
    from wavecast.apps.forecasting.video_scoring import score_video

    if is_clip(args.forecast):
        return score_video(args)
    if args.past:
        raise UsageError(f"--past is for video, and {args.forecast} is none", "leave it out")
    return check_all(args) if args.check else score_all(args)
