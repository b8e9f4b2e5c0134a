"""Scores and pictures of the shipped Moving-MNIST forecaster, beside persistence and an empty frame.

    python scripts/bench/moving_mnist.py --digits FOLDER [--clips 1000]

FOLDER holds MNIST's IDX files; clips are made of its test images, on which nothing was trained. Scores are those of
`wavecast evaluate video`, summed or averaged as published tables do. The picture, frames of the first clips, goes to
`docs/moving_mnist.png`. Results: `results/moving_mnist.json`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from facts import facts

from wavecast.apps.forecasting.steps import forecast
from wavecast.apps.forecasting.strips import Row, draw_strip
from wavecast.apps.forecasting.video_evaluation import mean_scores, unit
from wavecast.apps.forecasting.video_inference import VideoForecaster
from wavecast.apps.forecasting.video_scores import mse_sum_pixels
from wavecast.datamodules.video import VideoData

HERE = Path(__file__).resolve().parent
PICTURE = HERE.parents[1] / "docs" / "moving_mnist.png"
SHOWN_CLIPS = 2


@torch.inference_mode()
def frames_of(forecaster: VideoForecaster, data: VideoData, clip: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give a test clip's past, future and forecast, (time, row, col) in [0, 1]."""
    item = data.test_source.item(clip)
    past, future = (torch.from_numpy(item[name])[None] for name in ("inputs", "targets"))
    nothing = past.new_zeros(1, past.shape[1] + future.shape[1], *past.shape[2:4], 0)
    y = forecast(forecaster.network, past, nothing, future.shape[1], forecaster.format.increments)
    return tuple(unit(x, forecaster)[0, ..., 0].numpy() for x in (past, future, y))


def draw(forecaster: VideoForecaster, data: VideoData) -> None:
    """Draw some clips, every second frame."""
    rows = []
    for clip in range(SHOWN_CLIPS):
        past, future, y = frames_of(forecaster, data, clip)
        rows += [Row("past", past[1::2]), Row("truth", future[1::2]), Row("forecast", np.clip(y[1::2], 0, 1))]
    draw_strip(rows, [f"frame {i + 2}" for i in range(0, len(past), 2)], PICTURE)


def main() -> None:
    """Measure all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--model", default="convs5.moving_mnist")
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "moving_mnist.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    forecaster = VideoForecaster.load(args.model, "cpu")
    made_for = forecaster.format
    data = VideoData(
        source=str(args.digits),
        history=made_for.history,
        horizon=made_for.horizon,
        size=(made_for.rows, made_for.cols),
        scale=made_for.scale,
        test_items=args.clips,
    )
    data.setup("test")
    scores = mean_scores(forecaster, data, args.clips)
    futures = [torch.from_numpy(data.test_source.item(k)["targets"])[None] for k in range(args.clips)]
    empty = torch.cat([mse_sum_pixels(torch.zeros_like(x), unit(x, forecaster)) for x in futures]).mean(0)
    table = {name: {metric: values.tolist() for metric, values in found.items()} for name, found in scores.items()}
    table["empty"] = {"mse_sum_pixels": empty.tolist()}
    for name, found in table.items():
        print(name, {metric: round(float(np.mean(values)), 4) for metric, values in found.items()})
    draw(forecaster, data)
    result = {"model": forecaster.checkpoint, "clips": args.clips, "by_frame": table, **facts()}
    args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
