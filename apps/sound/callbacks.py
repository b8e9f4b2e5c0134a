"""What happens beside training on sound: pictures of validation items."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from wavecast.apps.sound.pictures import draw_sounds
from wavecast.core.errors import WavecastError

logger = logging.getLogger(__name__)


class SoundPictures(Callback):
    """Draw the spectrograms of the first validation items, before and after, into the log folder.

    Needs matplotlib; without it, one line in the log says so and nothing is drawn. Subclasses name the sounds.

    Args:
        count: items drawn after each validation.
        every: validations from one drawing to the next.
    """

    def __init__(self, count: int = 3, every: int = 1) -> None:
        self.count, self.every = count, every
        self._validations = 0
        self._seen: list[dict[str, np.ndarray]] = []

    def sounds(self, batch: Mapping[str, Tensor], outputs: Tensor, row: int) -> Mapping[str, Tensor]:
        """Name the sounds of a row of a batch, each (samples,), in the order in which they are drawn."""
        raise NotImplementedError(f"{type(self).__name__}.sounds")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first items of the first process."""
        if trainer.is_global_zero and not trainer.sanity_checking and isinstance(outputs, Tensor):
            for row in range(min(len(outputs), self.count - len(self._seen))):
                named = self.sounds(batch, outputs, row)
                self._seen.append({name: sound.detach().float().cpu().numpy() for name, sound in named.items()})

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what was kept."""
        seen, self._seen = self._seen, []
        if not seen:
            return
        self._validations += 1
        if (self._validations - 1) % self.every == 0:
            folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            try:
                for number, sounds in enumerate(seen):
                    name = f"step{trainer.global_step:07d}-{number}"
                    draw_sounds(sounds, sample_rate(pl_module), folder / f"{name}.png", name)
            except WavecastError as error:
                logger.warning("no pictures: %s", error)
                self.count = 0


def sample_rate(module: LightningModule) -> int:
    """Give the sample rate of a task's model in hertz."""
    return int(module.hparams.get("sample_rate", 16_000))
