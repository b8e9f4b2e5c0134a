"""Growth of a streamed forecast: time of a frame, and memory, against the length of the forecast and the grid.

    python scripts/bench/forecast_growth.py [--network convs5] [--steps 24 96 384] [--grids 64x32 240x121 1440x721]

A small network with random weights forecasts hourly fields, 12 hours in, as `wavecast forecast` does: frame by frame
from its own output, each written to a zarr store when it is done. On the first grid it forecasts all numbers of steps,
on the others the first two. Every row has a process of its own. Seconds are processor seconds of a frame, of the first
and of the last quarter of the forecast: alike where the cost of a frame does not grow with what came before. Memory is
the peak that the forecast adds, beside the size of what it writes. Results: `results/forecast_growth.json`.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from facts import facts
from timing import peak_mib

from wavecast.apps.forecasting.forecast_files import ForecastWriter
from wavecast.apps.forecasting.forecast_layout import About
from wavecast.apps.forecasting.format import FieldFormat
from wavecast.apps.forecasting.inference import Forecaster
from wavecast.cards import Card, build_network
from wavecast.datamodules.atmosphere import synthetic_atmosphere
from wavecast.datamodules.weather_files import open_fields

HERE = Path(__file__).resolve().parent
HISTORY = 12
VARIABLE = "2m_temperature"
NETWORKS: dict[str, dict[str, Any]] = {
    "convs5": {
        "depths": [16, 32],
        "width": 32,
        "size": 32,
        "layers": 2,
        "groups": 4,
        "action_path": False,
        "bounded": False,
    },
    "state_space_mixer": {"patch": 4, "dim": 96, "layers": 4, "size": 64},
}
"""Small ones, as in the recipes; rows, columns and channels follow from the grid."""


def forecaster(name: str, latitudes: np.ndarray, longitudes: np.ndarray, extras: list[str]) -> Forecaster:
    """Build a forecaster with random weights for a grid."""
    made_for = FieldFormat(
        channels=[VARIABLE],
        extras=extras,
        normalization={VARIABLE: [285.0, 15.0]},
        latitudes=latitudes.tolist(),
        longitudes=longitudes.tolist(),
        step_hours=1.0,
        history=HISTORY,
        horizon=12,
    )
    planes = made_for.known_ahead({}).planes(np.array(["2020-01-01"], "datetime64[ns]")).shape[-1]
    shapes: dict[str, Any] = {"channels": 1 + planes, "output_channels": 1}
    if name == "state_space_mixer":
        patch = NETWORKS[name]["patch"]
        shapes |= {"rows": -(-len(latitudes) // patch) * patch, "cols": -(-len(longitudes) // patch) * patch}
    torch.manual_seed(0)
    card = Card("growth", name, "forecast", NETWORKS[name] | shapes, fields=made_for.plain())
    return Forecaster(card, build_network(card).eval())


def measure(name: str, source: Path, steps: int, extras: list[str], threads: int) -> dict[str, Any]:
    """Forecast from the last time of a file into a store beside it; call it in a process of its own.

    Returns:
        Seconds of a frame early and late, of writing one, and MiB of memory and of output.
    """
    torch.set_num_threads(threads)
    frames, written = [], 0.0
    with open_fields(source) as fields:
        method = forecaster(name, fields.latitudes, fields.longitudes, extras)
        at = len(fields.times) - 1
        leads = np.arange(1, steps + 1) * np.timedelta64(1, "h")
        target = source.with_name(f"{source.stem}.{steps}.zarr")
        before = peak_mib()
        with ForecastWriter(target, fields.dataset, fields.times[at:], leads, About("growth")) as writer:
            pieces = method.pieces(fields, at, steps)
            while True:
                begun = time.process_time()
                piece = next(pieces, None)
                frames.append(time.process_time() - begun)
                if piece is None:
                    break
                begun = time.process_time()
                writer.append(0, piece)
                written += time.process_time() - begun
        peak = peak_mib() - before
    alone = frames[1:-1]  # the first takes the history in, the last is the end of the pieces
    quarter = max(1, len(alone) // 4)
    return {
        "first_quarter_ms": 1000 * float(np.median(alone[:quarter])),
        "last_quarter_ms": 1000 * float(np.median(alone[-quarter:])),
        "writing_ms": 1000 * written / steps,
        "history_ms": 1000 * frames[0],
        "peak_mib": peak,
        "output_mib": steps * frame_mib(source),
    }


def grid_of(source: Path) -> tuple[int, int]:
    """Give rows and columns of a file by its name."""
    cols, rows = map(int, source.stem.split("x"))
    return rows, cols


def frame_mib(source: Path) -> float:
    """Give the size of a frame."""
    return 4 * float(np.prod(grid_of(source))) / 2**20


def main() -> None:
    """Measure all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=sorted(NETWORKS), default="convs5")
    parser.add_argument("--steps", type=int, nargs="+", default=[24, 96, 384])
    parser.add_argument("--grids", nargs="+", default=["64x32", "240x121", "1440x721"], metavar="COLSxROWS")
    parser.add_argument("--extras", nargs="*", default=["hour"], help="what is known ahead beside the fields")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "forecast_growth.json")
    args = parser.parse_args()
    names = ("first_quarter_ms", "last_quarter_ms", "writing_ms", "history_ms", "peak_mib", "output_mib")
    print(f"{'grid':>10}{'steps':>7}" + "".join(f"{name:>18}" for name in names))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for place, grid in enumerate(args.grids):
            source = Path(folder) / f"{grid}.nc"
            data = synthetic_atmosphere("2020-01-01", HISTORY, *grid_of(source), variables=[VARIABLE])
            data.to_netcdf(source, engine="h5netcdf")
            for steps in args.steps[: 2 if place else None]:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    found = pool.apply(measure, (args.network, source, steps, args.extras, args.threads))
                rows.append({"grid": grid, "steps": steps, **found})
                print(f"{grid:>10}{steps:>7}" + "".join(f"{found[name]:>18.1f}" for name in names), flush=True)
    result = {"network": args.network, "extras": args.extras, "threads": args.threads, "rows": rows, **facts()}
    args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
