"""`wavecast forecast`: weather fields or video in, what follows out."""

import argparse

from wavecast.console import UsageError, common_arguments, positive

EXAMPLES = """
examples:
  wavecast forecast era5.nc --model mine.ckpt --steps 12 -o forecast.zarr
  wavecast forecast wb/ --model mine.ckpt --init 2020-01-01 2020-12-31 --every 12h -o out.zarr --resume
  wavecast forecast era5.nc --model persistence           the baselines need no checkpoint
  wavecast forecast era5.nc --model damped_anomaly --train 2019-03-01 2019-03-19
  wavecast forecast era5.nc --model a.ckpt --model b.ckpt --members 10 -o ensemble.zarr
  wavecast forecast clip.mp4 -o future.mp4 --model convs5.mine --resize --plot
  torchrun --nproc-per-node 4 -m wavecast forecast wb/ --model mine.ckpt --every 12h -o out.zarr
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "input",
        metavar="INPUT",
        help="NetCDF, zarr, GRIB or a WeatherBench folder: fields that unfold in time; or video, frames (.npy, .npz)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        help="NAME.zarr, NAME.nc or NAME.grib (INPUT.forecast.zarr); after a video .mp4, .mkv, .gif, .npy or .npz",
    )
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
    parser.add_argument("--resize", action="store_true", help="bring the frames of a video to the model's size")
    parser.add_argument("--plot", action="store_true", help="of video: a picture of the frames beside the output")
    input_arguments(parser)
    ensemble = parser.add_argument_group("ensembles (of networks; several --model are several members)")
    ensemble.add_argument("--members", type=positive, metavar="N", help="of each model, from perturbed initial states")
    ensemble.add_argument(
        "--perturbation", type=share, metavar="X", help="of each channel's standard deviation in training (0.1)"
    )
    ensemble.add_argument("--seed", type=int, metavar="N", help="of the perturbations (0)")
    parser.add_argument("--train", nargs=2, metavar="TIME", help="first and last time to fit a baseline to")
    common_arguments(parser, several_models=True)


def share(text: str) -> float:
    """Parse a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return number


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
    from wavecast.apps.forecasting.video_jobs import forecast_video, is_clip

    if is_clip(args.input):
        return forecast_video(args)
    if args.resize:
        raise UsageError(f"--resize is for video, and {args.input} is none", "regrid fields before")
    if args.plot:
        raise UsageError(
            f"--plot is for video here, and {args.input} is none",
            "fields are drawn by: wavecast score FORECAST TRUTH --plot",
        )
    return forecast_all(args)
