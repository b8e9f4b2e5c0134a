"""Quality of the forecasters: RMSE at every lead time up to 12 h, beside all baselines, on days none of them has seen.

    python scripts/bench/forecast_quality.py --fields FILE --train FIRST LAST --report FIRST LAST [--model NAME ...]

Every method forecasts from the same initial times: all those of the report span whose leads lie within it; what a
method looks back on may lie before it. The baselines that are fitted are fitted to the training span. Networks are the
shipped ones that fit the fields, or those named. Errors are weighted by the area of the cells, as `wavecast score`
does. Exit code 1: a network is not better than persistence and than the previous day at every lead. The result goes to
`results/forecast_quality.json`.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from facts import facts

from wavecast.apps.forecasting.choice import suits
from wavecast.apps.forecasting.format import FieldFormat
from wavecast.apps.forecasting.inference import Forecaster, Method, whole
from wavecast.apps.forecasting.jobs import between, step_of
from wavecast.apps.forecasting.methods import BASELINES, UNFITTED, BaselineMethod
from wavecast.apps.forecasting.scores import score
from wavecast.apps.forecasting.video_format import is_video
from wavecast.cards import Card, shipped_folder
from wavecast.core.errors import WavecastError
from wavecast.datamodules.weather_fields import Fields
from wavecast.datamodules.weather_files import open_fields
from wavecast.datamodules.weather_times import HOUR, nanoseconds, show

HERE = Path(__file__).resolve().parent
HOURS = 12
Table = dict[str, list[float]]
"""RMSE by lead time, of each method."""


def shipped_models(fields: Fields) -> list[str]:
    """Name the shipped models whose grid and variables the fields have."""
    cards = [Card.read(path) for path in sorted(shipped_folder().glob("*.yaml"))]
    cards = [card for card in cards if card.task == "forecast" and not is_video(card)]
    return [card.name for card in cards if suits(FieldFormat.of(card.fields, card.name), fields)]


def initial_places(fields: Fields, span: list[str], steps: int) -> list[int]:
    """Find the initial times of a span all of whose leads lie in it: their places in `fields.times`.

    Raises:
        WavecastError: the span is too short.
    """
    times = between(fields, *span)["time"].values
    first = int(np.searchsorted(nanoseconds(fields.times), nanoseconds(times[:1])[0]))
    if len(times) <= steps:
        raise WavecastError(f"{' to '.join(span)} has {len(times)} times", f"{steps} leads need at least {steps + 1}")
    return list(range(first, first + len(times) - steps))


def measure(method: Method, source: Path, variables: list[str], places: list[int], steps: int) -> dict[str, Table]:
    """Let a method forecast from all places, and score it: RMSE of {variable: {method: one a lead}}."""
    with method.open(source) as fields:
        found = whole(method, fields, places, steps)
        names = [name for name in variables if name in found.data_vars]
        scores = score(found[names], fields.dataset[names])
        return {name: {method.name: levels(scores[name].sel(metric="rmse", region="global"))} for name in names}


def levels(rmse: xr.DataArray) -> list[float]:
    """Give one number a lead: the root of the mean square over levels, where there are any."""
    square = rmse**2
    square = square.mean("level") if "level" in square.dims else square
    return [round(float(one), 5) for one in np.sqrt(square.values)]


def beaten(table: Table, method: str) -> list[str]:
    """Name the baselines that a method is better than at every lead."""
    return [
        name
        for name in BASELINES
        if name in table and all(ours < its for ours, its in zip(table[method], table[name], strict=True))
    ]


def text(name: str, table: Table, step_hours: float) -> str:
    """Write a table, a line for each lead time."""
    lines = [f"{name}: RMSE", f"{'lead':>6}" + "".join(f"{method:>{max(20, len(method) + 2)}}" for method in table)]
    for i, row in enumerate(zip(*table.values(), strict=True)):
        cells = "".join(f"{one:>{max(20, len(method) + 2)}.3f}" for method, one in zip(table, row, strict=True))
        lines.append(f"{(i + 1) * step_hours:>4g} h{cells}")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Measure all and write the result; 1 when a network is worse than persistence or the previous day somewhere."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=Path, required=True, metavar="FILE")
    parser.add_argument("--train", nargs=2, required=True, metavar=("FIRST", "LAST"))
    parser.add_argument("--report", nargs=2, required=True, metavar=("FIRST", "LAST"))
    parser.add_argument("--model", nargs="+", metavar="NAME|PATH")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "forecast_quality.json")
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    with open_fields(args.fields) as fields:
        networks = [Forecaster.load(name, args.device) for name in args.model or shipped_models(fields)]
    channels = sorted({name for one in networks for name in one.format.channels})
    with open_fields(args.fields, channels or None) as fields:
        step_hours = step_of(fields) / HOUR
        steps = round(HOURS / step_hours)
        places = initial_places(fields, args.report, steps)
        span = [show(fields.times[places[0]]), show(fields.times[places[-1] + steps])]
        units = {
            str(name): array.attrs.get("units", "")
            for name, array in fields.dataset.data_vars.items()
            if "time" in array.dims
        }
        names = [*units]
        training = between(fields, *args.train)[names]
        baselines = [BaselineMethod(name, names, training, steps) for name in BASELINES]
    variables: dict[str, Table] = {}
    for method in (*networks, *baselines):
        for name, table in measure(method, args.fields, names, places, steps).items():
            variables.setdefault(name, {}).update(table)
    won = {
        network.name: {name: beaten(table, network.name) for name, table in variables.items() if network.name in table}
        for network in networks
    }
    for name, table in variables.items():
        print(text(f"{name} in {units[name]}, {len(places)} initial times, {' to '.join(span)}", table, step_hours))
    for network, found in won.items():
        for name, lost in found.items():
            print(f"{network}, {name}: better at every lead than {', '.join(lost) or 'no baseline'}")
    result = {
        "fields": args.fields.name,
        "train": args.train,
        "report": args.report,
        "initial_times": len(places),
        "lead_hours": [(i + 1) * step_hours for i in range(steps)],
        "rmse": variables,
        "units": units,
        "better_at_every_lead_than": won,
        "models": {network.name: network.checkpoint for network in networks},
        **facts(),
    }
    args.output.write_text(json.dumps(result, indent=2) + "\n")
    good = all({*UNFITTED} <= {*lost} for found in won.values() for lost in found.values())
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except WavecastError as error:
        sys.exit(f"error: {error}")
