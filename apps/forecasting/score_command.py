"""`wavecast score`: a forecast against what happened, beside the baselines."""

import argparse

from wavecast.apps.forecasting.command import input_arguments
from wavecast.console import common_arguments

EXAMPLES = """
examples:
  wavecast score forecast.zarr era5.nc --train 2019-03-01 2019-03-19 --plot
  wavecast score forecast.zarr wb/ --regions global europe tropics --json scores.jsonl
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
    input_arguments(parser)
    common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Score: 0 done, 1 when --check finds something."""
    from wavecast.apps.forecasting.scoring import check_all, score_all

    return check_all(args) if args.check else score_all(args)
