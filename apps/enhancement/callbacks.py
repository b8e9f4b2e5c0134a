"""What happens beside the training of the enhancer: pictures of clips, and the published recipe's retreat."""

import logging
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

logger = logging.getLogger(__name__)


class SpectrogramPictures(Callback):
    """Draw noisy, enhanced and clean spectrograms of the first validation items into the log folder.

    Needs matplotlib; without it, one line in the log says so and nothing is drawn.

    Args:
        count: items drawn after each validation.
        every: validations from one drawing to the next.
    """

    def __init__(self, count: int = 3, every: int = 1) -> None:
        self.count, self.every = count, every
        self._validations = 0
        self._seen: list[Tensor] = []

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
                sounds = torch.stack([batch["noisy"][row], outputs[row], batch["clean"][row]])
                self._seen.append(sounds.detach().float().cpu())

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what was kept."""
        seen, self._seen = self._seen, []
        if not seen:
            return
        self._validations += 1
        if (self._validations - 1) % self.every == 0:
            folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures"
            try:
                for number, sounds in enumerate(seen):
                    draw(folder / f"step{trainer.global_step:07d}-{number}.png", sounds, sample_rate(pl_module))
            except ModuleNotFoundError:
                logger.warning("no pictures: matplotlib is not installed (pip install 'wavecast[plot]')")
                self.count = 0


def sample_rate(module: LightningModule) -> int:
    """Give the sample rate of a task's model in hertz."""
    return int(module.hparams.get("sample_rate", 16_000))


def draw(path: Path, sounds: Tensor, rate: int) -> None:
    """Draw the spectrograms of a noisy, an enhanced and a clean signal (3, samples) on one scale of 80 dB."""
    from matplotlib.figure import Figure

    window = torch.hann_window(512)
    powers = torch.stft(sounds, 512, 128, window=window, return_complex=True, pad_mode="constant").abs().square()
    top = 10 * float(torch.log10(powers.max() + 1e-12))
    figure = Figure(figsize=(9, 7), layout="constrained")
    for axes, power, title in zip(figure.subplots(3, 1), powers, ("noisy", "enhanced", "clean"), strict=True):
        axes.imshow(
            10 * torch.log10(power + 1e-12).numpy(),
            origin="lower",
            aspect="auto",
            extent=(0, sounds.shape[1] / rate, 0, rate / 2000),
            vmin=top - 80,
            vmax=top,
            cmap="magma",
        )
        axes.set_title(title)
        axes.set_ylabel("kHz")
    axes.set_xlabel("s")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


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
