"""What the drift warning's factor stands for: how far true futures, and rollouts of models, leave what they began from.

    python scripts/bench/forecast_drift.py --fields FILE [--model NAME ...] [--hours 48] [--rollout 120] [--every 48]

`wavecast.apps.forecasting.drift` measures a field by three numbers and calls one beyond a factor drift. Here the
largest of them is taken at every lead time,

- of true futures, from every initial time of the file: none should be called drift;
- of rollouts of each model, far beyond the lead times that it was trained for, from some initial times,

and counted by factor: the share of futures, or of rollouts, that have been called drift up to a lead time. Models are
the shipped ones that fit the fields, or those named. The result goes to `results/forecast_drift.json`.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from facts import facts
from forecast_quality import shipped_models

from wavecast.apps.forecasting.drift import FAR, DriftWatch
from wavecast.apps.forecasting.inference import Forecaster
from wavecast.apps.forecasting.jobs import step_of
from wavecast.core.errors import WavecastError
from wavecast.datamodules.weather_files import open_fields
from wavecast.datamodules.weather_times import HOUR, show

HERE = Path(__file__).resolve().parent
FACTORS = (1.5, 2.0, 2.5, 3.0, 4.0)
LEADS = (6, 12, 24, 48, 72, 120, 240)
"""Hours at which results are listed."""


def excess(past: np.ndarray, future: np.ndarray, channels: list[str]) -> np.ndarray:
    """Give the largest number by which drift is measured, at each step of a future.

    Args:
        past: (history, row, col, channel), standardized.
        future: (steps, row, col, channel), standardized.
        channels: names.

    Returns:
        (steps,), infinite where there is no number.
    """
    watch = DriftWatch(past, channels)
    found = np.stack([np.abs(watch.measure(field)).max() for field in future])
    return np.where(np.isfinite(found), found, np.inf)


def true_futures(values: np.ndarray, history: int, steps: int, channels: list[str]) -> np.ndarray:
    """Measure the future after every window of the history: (initial time, steps)."""
    firsts = range(len(values) - history - steps + 1)
    windows = (values[first : first + history + steps] for first in firsts)
    return np.stack([excess(one[:history], one[history:], channels) for one in windows])


def rollouts(forecaster: Forecaster, source: Path, steps: int, every: int) -> np.ndarray:
    """Measure forecasts of many steps from every so many instants: (initial time, steps)."""
    made_for, found = forecaster.format, []
    with forecaster.open(source) as fields:
        for at in range(forecaster.history - 1, len(fields.times), every):
            past = made_for.scale.normalize(fields.read(at + 1 - forecaster.history, at + 1, made_for.channels))
            pieces = forecaster.pieces(fields, at, steps)
            future = np.concatenate([np.stack([one[name] for name in made_for.channels], -1) for one in pieces])
            found.append(excess(past, made_for.scale.normalize(future), made_for.channels))
    return np.stack(found)


def summary(found: np.ndarray, step_hours: float) -> dict[str, object]:
    """Count by factor and lead time; give the median and the largest at each lead time, and in all."""
    leads = [lead for lead in LEADS if lead <= found.shape[1] * step_hours]
    places = [round(lead / step_hours) - 1 for lead in leads]
    so_far = np.maximum.accumulate(found, 1)
    return {
        "count": len(found),
        "lead_hours": leads,
        "median": [round(float(np.median(found[:, place])), 3) for place in places],
        "largest": [round(float(found[:, place].max()), 3) for place in places],
        "largest_so_far": [round(float(so_far[:, place].max()), 3) for place in places],
        "share_called_drift": {
            f"{factor:g}": [round(float((so_far[:, place] > factor).mean()), 4) for place in places]
            for factor in FACTORS
        },
    }


def text(name: str, found: dict) -> str:
    """Write one table, a line for each lead time."""
    heads = ["median", "largest", *(f"> {factor}" for factor in found["share_called_drift"])]
    lines = [f"{name}, {found['count']} initial times", f"{'lead':>7}" + "".join(f"{head:>10}" for head in heads)]
    for i, lead in enumerate(found["lead_hours"]):
        cells = [found["median"][i], found["largest"][i]]
        shares = [shares[i] for shares in found["share_called_drift"].values()]
        lines.append(
            f"{lead:>5} h" + "".join(f"{one:>10.2f}" for one in cells) + "".join(f"{one:>10.1%}" for one in shares)
        )
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Measure and write the result; 1 when a true future is called drift."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=Path, required=True, metavar="FILE")
    parser.add_argument("--model", nargs="+", metavar="NAME|PATH")
    parser.add_argument("--hours", type=int, default=48, help="of the true futures")
    parser.add_argument("--rollout", type=int, default=120, help="hours of the rollouts")
    parser.add_argument("--every", type=int, default=48, help="hours between the initial times of the rollouts")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "forecast_drift.json")
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    with open_fields(args.fields) as fields:
        models = [Forecaster.load(name, args.device) for name in args.model or shipped_models(fields)]
    if not models:
        raise WavecastError(f"no model here fits {args.fields}", "name one: --model NAME|PATH")
    first = models[0]
    with first.open(args.fields) as fields:
        span = [show(fields.times[0]), show(fields.times[-1])]
        step_hours = step_of(fields) / HOUR
        values = first.format.scale.normalize(fields.read(0, len(fields.times), first.format.channels))
    steps, rollout, every = (round(hours / step_hours) for hours in (args.hours, args.rollout, args.every))
    results = {"truth": summary(true_futures(values, first.history, steps, first.format.channels), step_hours)}
    for model in models:
        results[model.name] = summary(rollouts(model, args.fields, rollout, every), step_hours)
    for name, found in results.items():
        print(text(name, found))
    result = {
        "fields": args.fields.name,
        "span": span,
        "history": first.history,
        "factor": FAR,
        "results": results,
        "models": {model.name: model.checkpoint for model in models},
        **facts(),
    }
    args.output.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if results["truth"]["largest_so_far"][-1] > FAR else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except WavecastError as error:
        sys.exit(f"error: {error}")
