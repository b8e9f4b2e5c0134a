"""`wavecast evaluate video`: a forecaster of video on clips that it was not trained on, beside persistence."""

from pathlib import Path

import numpy as np
import torch

from wavecast.apps.forecasting.steps import forecast
from wavecast.apps.forecasting.video_inference import VideoForecaster
from wavecast.apps.forecasting.video_scoring import scores_of, tell
from wavecast.console import Parser, positive, say, talk_arguments
from wavecast.datamodules.moving_mnist import OPENSTL_STEP
from wavecast.datamodules.video import VideoData

BATCH = 8


def evaluate(words: list[str]) -> int:
    """Score a model on test clips, each frame in the conventions of `wavecast.apps.forecasting.video_scores`.

    Args:
        words: of the command line after the task.

    Returns:
        0; whatever goes wrong is an error.
    """
    parser = Parser("wavecast evaluate video", "Score a forecaster of video beside persistence.")
    parser.add_argument("--model", required=True, metavar="NAME|PATH")
    parser.add_argument("--data.source", dest="source", required=True, metavar="PATH", help="what VideoData opens")
    parser.add_argument("--data.test", dest="test", metavar="PATH", help="clips to test on (those of the source)")
    parser.add_argument(
        "--data.step_length", dest="step_length", type=float, default=OPENSTL_STEP, metavar="X", help="of digits (0.1)"
    )
    parser.add_argument("--items", type=positive, default=1000, metavar="N", help="most clips to score (1000)")
    parser.add_argument("--steps", type=positive, metavar="N", help="to forecast (those of the model)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--csv", metavar="FILE", help="write all scores as a table")
    parser.add_argument("--json", metavar="FILE|-")
    parser.add_argument("--overwrite", action="store_true")
    talk_arguments(parser)
    args = parser.parse(words)
    forecaster = VideoForecaster.load(args.model, args.device)
    made_for = forecaster.format
    data = VideoData(
        source=args.source,
        test=args.test,
        history=made_for.history,
        horizon=args.steps or made_for.horizon,
        size=(made_for.rows, made_for.cols),
        channels=made_for.channels,
        values=made_for.black_and_white,
        scale=made_for.scale,
        step_length=args.step_length,
        test_items=args.items,
    )
    data.setup("test")
    say(f"{forecaster.name}: {min(args.items, data.test_count)} clips of {Path(args.test or args.source)}", args.quiet)
    tell(mean_scores(forecaster, data, min(args.items, data.test_count)), args)
    return 0


@torch.inference_mode()
def mean_scores(forecaster: VideoForecaster, data: VideoData, count: int) -> dict[str, dict[str, np.ndarray]]:
    """Score the forecasts of test clips, and persistence from the same frames: {method: {metric: (time,)}}.

    Args:
        forecaster: the model.
        data: set up for the test.
        count: clips, from the first on.
    """
    if data.test_source is None:
        raise ValueError("the data is not set up\nhint: call setup('test') first")
    totals: dict[str, dict[str, np.ndarray]] = {"forecast": {}, "persistence": {}}
    for begin in range(0, count, BATCH):
        items = [data.test_source.item(k) for k in range(begin, min(begin + BATCH, count))]
        past, future = (torch.from_numpy(np.stack([item[name] for item in items])) for name in ("inputs", "targets"))
        steps = future.shape[1]
        nothing = past.new_zeros(len(items), past.shape[1] + steps, *past.shape[2:4], 0).to(forecaster.device)
        y = forecast(forecaster.network, past.to(forecaster.device), nothing, steps, forecaster.format.increments)
        guesses = {"forecast": y.float().cpu(), "persistence": past[:, -1:].expand_as(future)}
        for name, guess in guesses.items():
            for metric, values in scores_of(unit(guess, forecaster), unit(future, forecaster)).items():
                totals[name][metric] = totals[name].get(metric, 0) + values * (len(items) / count)
    return totals


def unit(x: torch.Tensor, forecaster: VideoForecaster) -> torch.Tensor:
    """Bring frames from the network's scale to [0, 1]; what lies beyond stays there, as OpenSTL scores it."""
    return x if forecaster.format.scale == "unit" else (x + 1) / 2
