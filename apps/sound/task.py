"""What training on sound has in common: hours heard, and what the card of a checkpoint says of rate and latency."""

from math import inf
from pathlib import Path
from typing import Any

from wavecast.core.errors import WavecastError
from wavecast.core.stream import latency
from wavecast.official_files import CONVERTERS, fill, official_file, read_tensors
from wavecast.optimization import OptimizedTask

OFFICIAL = (".pt", ".bin")
"""What single files of official weights end in; those of ours end otherwise."""


class SoundTask(OptimizedTask):
    """A task whose network hears sound. Its card has a sample rate; `hear` counts what was heard.

    Attributes:
        heard_seconds: of sound in training, over all processes and resumed runs.
    """

    heard_seconds = 0.0
    _latency: int | None = None

    def warm_start(self, source: str) -> None:
        """Load the weights of another model, or official ones (a file .pt or .bin, or their folder): all of them.

        Raises:
            WavecastError: there is no such model, or it does not fit.
        """
        path = Path(source)
        folder = path.is_dir() and not (path / "checkpoints").exists()
        if not folder and not (path.is_file() and path.suffix in OFFICIAL):
            super().warm_start(source)
        elif self.card.architecture in CONVERTERS:
            tensors = read_tensors(official_file(path))
            self.network.load_state_dict(fill(self.card, tensors, path).state_dict())
        else:
            raise WavecastError(
                f"{source} is no model of wavecast, and there are no official weights of {self.card.architecture}",
                f"architectures with official weights: {', '.join(CONVERTERS)}",
            )

    def hear(self, samples: int) -> None:
        """Count the samples of a batch, as often as there are processes."""
        self.heard_seconds += samples * self.trainer.world_size / self.card.sample_rate

    def on_train_epoch_end(self) -> None:
        """Log how many hours of sound were heard."""
        self.log("heard_hours", self.heard_seconds / 3600)

    def card_fields(self) -> dict[str, Any]:
        """Give sample rate, block and latency, and how much was heard."""
        period = self.network.period if self.network.lookahead != inf else 0
        if period and self._latency is None:
            self._latency = latency(self.network, period)
        return {
            "sample_rate": self.card.sample_rate,
            "block": int(period),
            "latency_ms": 1000 * self._latency / self.card.sample_rate if self._latency else None,
            "training": {"steps": self.global_step, "hours_heard": round(self.heard_seconds / 3600, 3)},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the card's fields, and how much was heard."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["heard_seconds"] = self.heard_seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting the hours heard."""
        self.heard_seconds = checkpoint.get("heard_seconds", 0.0)
