"""`wavecast forecast`: weather fields in, the fields that follow out."""

import argparse

from wavecast.console import common_arguments, positive

EXAMPLES = """
examples:
  wavecast forecast era5.nc --model mine.ckpt --steps 12 -o forecast.zarr
  wavecast forecast wb/ --model mine.ckpt --init 2020-01-01 2020-12-31 --every 12h -o out.zarr --resume
  wavecast forecast era5.nc --model persistence           the baselines need no checkpoint
  wavecast forecast era5.nc --model damped_anomaly --train 2019-03-01 2019-03-19
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "input", metavar="INPUT", help="NetCDF, zarr or GRIB, or a WeatherBench folder: fields that unfold in time"
    )
    parser.add_argument("-o", "--output", metavar="PATH", help="NAME.zarr or NAME.nc (INPUT.forecast.zarr)")
    parser.add_argument("--steps", type=positive, metavar="N", help="to forecast (those of the model)")
    parser.add_argument(
        "--init", nargs="+", metavar="TIME", help="first and last initial time, or one (the last time of the input)"
    )
    parser.add_argument("--every", metavar="6h", help="from every such time between the two, or in the whole input")
    parser.add_argument("--resume", action="store_true", help="go on with an unfinished forecast")
    parser.add_argument(
        "--like-input", action="store_true", help="names, units, order and orientation of the input in the output"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be done")
    input_arguments(parser)
    parser.add_argument("--train", nargs=2, metavar="TIME", help="first and last time to fit a baseline to")
    common_arguments(parser)


def input_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options on what an input holds."""
    fields = parser.add_argument_group("what the input holds")
    fields.add_argument("--variables", nargs="+", metavar="NAME", help="for a baseline (all)")
    fields.add_argument(
        "--missing", choices=("refuse", "interpolate", "fill"), default="refuse", help="missing values (refuse)"
    )
    fields.add_argument(
        "--units", action="append", default=[], metavar="NAME=UNIT", help="of a variable whose file is wrong about it"
    )
    fields.add_argument("--start", metavar="TIME", help="time of count 0, where the file only counts")
    fields.add_argument("--hours", type=float, metavar="N", help="hours of one count then")


def run(args: argparse.Namespace) -> int:
    """Forecast: 0 done."""
    from wavecast.apps.forecasting.jobs import forecast_all

    return forecast_all(args)
