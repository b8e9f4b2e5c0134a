"""`wavecast evaluate forecasting`: forecasts from every time of the test span, scored beside the baselines."""

from wavecast.apps.forecasting.inference import Forecaster, whole
from wavecast.apps.forecasting.jobs import between, initial_places
from wavecast.apps.forecasting.scoring import rows_of, score_beside_baselines, tables, warnings_of
from wavecast.console import JsonReport, Parser, say, talk_arguments
from wavecast.core.errors import WavecastError
from wavecast.datamodules.weather_times import show


def evaluate(words: list[str]) -> int:
    """Score a model on a span of time that it was neither trained on nor chosen by.

    Args:
        words: of the command line after the task.

    Returns:
        0; whatever goes wrong is an error.
    """
    parser = Parser("wavecast evaluate forecasting", "Score a forecaster beside the baselines.")
    parser.add_argument("--model", required=True, metavar="NAME|PATH")
    parser.add_argument("--data.root", dest="root", required=True, metavar="PATH", help="fields of the test span")
    parser.add_argument("--data.test", dest="test", nargs=2, required=True, metavar="TIME", help="first and last")
    parser.add_argument("--data.train", dest="train", nargs=2, metavar="TIME", help="to fit the baselines to")
    parser.add_argument("--every", metavar="6h", help="between initial times (each)")
    parser.add_argument("--regions", nargs="+", default=["global"], metavar="NAME")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", metavar="FILE|-")
    parser.add_argument("--overwrite", action="store_true")
    talk_arguments(parser)
    args = parser.parse(words)
    forecaster = Forecaster.load(args.model, args.device)
    with forecaster.open(args.root) as fields:
        span = between(fields, *args.test)["time"].values
        places = initial_places(fields, [show(span[0]), show(span[-1])], args.every, forecaster)
        places = [place for place in places if place + forecaster.horizon < places[0] + len(span)]
        if not places:
            raise WavecastError(
                f"{len(span)} instants are too few for a forecast of {forecaster.horizon}", "give a longer --data.test"
            )
        forecast = whole(forecaster, fields, places, forecaster.horizon)
        say(f"{forecaster.name}: {len(places)} initial times, {show(span[0])} to {show(span[-1])}", args.quiet)
        scores = score_beside_baselines(forecast, fields, args.train, args.regions, args.quiet)
    report = JsonReport(args.json, args.overwrite)
    for row in rows_of(scores):
        report.add(row)
    report.close()
    if args.json != "-":
        print(tables(scores), end="")
    for line in warnings_of(scores):
        say(f"warning: {line}", args.quiet)
    return 0
