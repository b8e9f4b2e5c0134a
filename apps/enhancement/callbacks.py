"""What happens beside the training of the enhancer: pictures of clips, and the published recipe's retreat."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from wavecast.apps.sound.callbacks import SoundPictures

logger = logging.getLogger(__name__)


class SpectrogramPictures(SoundPictures):
    """Draw noisy, enhanced and clean spectrograms of the first validation items."""

    def sounds(self, batch: Mapping[str, Tensor], outputs: Tensor, row: int) -> Mapping[str, Tensor]:
        """Name the three."""
        return {"noisy": batch["noisy"][row], "enhanced": outputs[row], "clean": batch["clean"][row]}


class ReturnToBest(Callback):
    """Go back to the best weights whenever the learning rate is lowered, as the published recipe does.

    Needs a `ModelCheckpoint` that keeps the best and a schedule that lowers the rate ("plateau").
    """

    def __init__(self) -> None:
        self._rate: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the best weights when the rate fell since the last epoch."""
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        best = trainer.strategy.broadcast(best)
        if self._rate is not None and rate < self._rate and best:
            weights = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
            pl_module.load_state_dict(weights)
            logger.info("learning rate %g: back to the weights of %s", rate, best)
        self._rate = rate

    def state_dict(self) -> dict[str, Any]:
        """Give the learning rate of the last epoch."""
        return {"rate": self._rate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again."""
        self._rate = state_dict["rate"]
