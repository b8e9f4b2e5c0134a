"""What happens beside the training of the forecaster: pictures of forecasts, of fields and of video."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from wavecast.apps.forecasting.format import FieldFormat
from wavecast.apps.forecasting.strips import compared, draw_strip, shown, spread
from wavecast.apps.forecasting.video_format import VideoFormat
from wavecast.core.errors import WavecastError

logger = logging.getLogger(__name__)


class ForecastPictures(Callback):
    """Draw truth, forecast and error of the first validation items at several lead times into the log folder.

    Fields are drawn in their unit, the first channel alone. Needs matplotlib; without it, one line in the log says so
    and nothing is drawn.

    Args:
        count: items drawn after each validation.
        every: validations from one drawing to the next.
    """

    def __init__(self, count: int = 1, every: int = 1) -> None:
        self.count, self.every = count, every
        self._validations = 0
        self._seen: list[tuple[np.ndarray, np.ndarray]] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first items of the first process: forecast and truth, (time, row, col, channel)."""
        if trainer.is_global_zero and not trainer.sanity_checking and isinstance(outputs, Tensor):
            for row in range(min(len(outputs), self.count - len(self._seen))):
                pair = (outputs[row], batch["targets"][row])
                self._seen.append((as_array(pair[0]), as_array(pair[1])))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what was kept."""
        seen, self._seen = self._seen, []
        made_for = getattr(pl_module, "format", None)
        if not seen or made_for is None:
            return
        self._validations += 1
        if (self._validations - 1) % self.every == 0:
            folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            try:
                for number, (forecast, truth) in enumerate(seen):
                    draw(folder / f"step{trainer.global_step:07d}-{number}.png", forecast, truth, made_for)
            except WavecastError as error:
                logger.warning("no pictures: %s", error.message)
                self.count = 0


def as_array(x: Tensor) -> np.ndarray:
    """Give a tensor as float32 in numpy."""
    array: np.ndarray = x.detach().float().cpu().numpy()
    return array


def draw(path: Path, forecast: np.ndarray, truth: np.ndarray, made_for: FieldFormat | VideoFormat) -> None:
    """Draw a strip of a forecast as training has it.

    Args:
        path: of the picture.
        forecast: (time, row, col, channel), in the network's scale.
        truth: the same.
        made_for: what turns them back into pictures or SI units.

    Raises:
        WavecastError: matplotlib is not installed, or the picture cannot be written.
    """
    leads = spread(len(truth))
    if isinstance(made_for, VideoFormat):
        ours, its = ([shown(frame) for frame in made_for.denormalize(x[leads])] for x in (forecast, truth))
        draw_strip(compared(ours, its), [f"+{lead + 1}" for lead in leads], path)
        return
    ours, its = ([frame[..., 0] for frame in made_for.scale.denormalize(x[leads])] for x in (forecast, truth))
    limits = float(np.min(its)), float(np.max(its))
    titles = [f"+{(lead + 1) * made_for.step_hours:g} h" for lead in leads]
    draw_strip(compared(ours, its, limits, "viridis"), titles, path, south_first=True)
