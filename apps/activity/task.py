"""Training the recognizer: loss, accuracy, and the card that makes a checkpoint a model.

Classes, modalities, size, frames and rate of the network are those of the data, so it is built when the data are known
(`meet`). A head learns with its encoder, or alone: on features of a frozen encoder, which may lie on disk.
"""

from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from pytorch_lightning import LightningDataModule
from torch import Tensor

from wavecast.apps.activity.encoders import load_encoder
from wavecast.apps.activity.features import make_features
from wavecast.apps.activity.networks import log_probabilities
from wavecast.cards import Card
from wavecast.console import say
from wavecast.core.errors import WavecastError
from wavecast.datamodules.activities import ActivityData
from wavecast.datamodules.activity_clips import read_clip
from wavecast.datamodules.activity_lists import Video
from wavecast.optimization import OptimizedTask, plain

TOP = 5


class ActivityTask(OptimizedTask):
    """Teach a network to recognize activities.

    An LRCN learns from its answer at every frame, the other architectures from the one that they give for the clip.

    Args:
        architecture: "lrcn", "ts_lstm", "temporal_inception" or "frame_average".
        network: its hyper-parameters, plain data, without those that follow from the data.
        label_smoothing: share of the target that is spread over all classes.
        init_from: begin with the weights of this model: a name, a card, a checkpoint.
        encoder_from: begin with an encoder that has learned: a recognizer's (as `init_from`), a file of weights of its
            image network, or "cache" for torchvision's in the cache of torch.hub; or one of them for each modality.
        frozen: train the head alone.
        seed: of dropout.
        name: of the model in its card.
        optimization: of `OptimizedTask`.

    Attributes:
        clips_seen: in training, over all processes and resumed runs.
    """

    means = ("val_loss", "val_accuracy", "val_accuracy_top5")
    shown = "val_accuracy"
    clips_seen = 0

    def __init__(
        self,
        architecture: Literal["lrcn", "ts_lstm", "temporal_inception", "frame_average"] = "lrcn",
        network: dict[str, Any] | None = None,
        label_smoothing: float = 0.0,
        init_from: str | None = None,
        encoder_from: str | dict[str, str] | None = None,
        frozen: bool = False,
        seed: int = 0,
        name: str = "recognizer",
        **optimization: Any,
    ) -> None:
        super().__init__(**optimization)

    def meet(self, data: LightningDataModule) -> None:
        """Build the network for the classes and clips of the data; make features that the data ask for.

        Raises:
            WavecastError: hyper-parameters, weights and data do not fit, or no video can be read.
        """
        if not isinstance(data, ActivityData):
            raise ValueError(f"{type(data).__name__} holds no activities\nhint: give ActivityData")
        data.setup("fit")
        options, look = self.hparams, data.look
        network = options["network"] or {}
        shapes = {
            "classes": len(data.classes),
            "modalities": [str(one) for one in look.modalities],
            "size": list(look.size),
            "frames": look.frames,
            "rate": look.rate,
        }
        if twice := {*shapes} & {*network}:
            raise WavecastError(f"{', '.join(sorted(twice))} of the network follow from the data", "leave them out")
        card = Card(
            options["name"],
            options["architecture"],
            "recognize",
            plain({**network, **shapes}),
            classes=tuple(data.classes),
        )
        self.begin(card, options["init_from"])
        if options["encoder_from"]:
            load_encoder(self.network.encoder, options["encoder_from"])
        if data.features is not None:
            self._make_features(data, Path(data.features))
        if options["frozen"] or data.features is not None:
            self.network.encoder.requires_grad_(False)

    def _make_features(self, data: ActivityData, folder: Path) -> None:
        if not (self.hparams["encoder_from"] or self.hparams["init_from"]):
            raise WavecastError(
                "features of an encoder that has learned nothing", "give --model.encoder_from MODEL, FILE or cache"
            )
        videos = {video.path: video for part in data.parts() for video in part}

        def sample(path: Path) -> np.ndarray:
            return read_clip(Video(path, 0, ""), data.look)

        made = make_features(self.network, videos, folder, sample)
        say(f"features: {made.new} made, {made.kept} there already, in {folder}")
        if made.failed:
            raise next(iter(made.failed.values()))

    def forward(self, clip: Tensor) -> Tensor:
        """Recognize clips, or features (batch, time, width) of clips: logits (batch, time', classes)."""
        if clip.ndim > 3:
            frozen = not next(self.network.encoder.parameters()).requires_grad
            self.network.encoder.train(self.network.training and not frozen)
            clip = self.network.encoder(clip)[0]
        logits: Tensor = self.network.head(clip)[0]
        return logits

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Compute the loss of a batch; dropout is a function of its number."""
        self.chance_of(index)
        loss = self._losses(self(batch["clip"]), batch["target"], self.hparams["label_smoothing"]).mean()
        self.clips_seen += len(batch["target"]) * self.trainer.world_size
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Count loss and accuracies; return the log-probabilities (batch, classes)."""
        logits, target = self(batch["clip"]).float(), batch["target"]
        found = log_probabilities(logits)
        self.count("val_loss", self._losses(logits, target))
        best = found.topk(min(TOP, found.shape[1])).indices == target[:, None]
        self.count("val_accuracy", best[:, 0].float())
        self.count("val_accuracy_top5", best.any(1).float())
        return found

    @staticmethod
    def _losses(logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """Give the cross-entropy of every clip, the mean over its steps: (batch,)."""
        steps = target[:, None].expand(logits.shape[:2])
        losses = F.cross_entropy(logits.transpose(1, 2), steps, reduction="none", label_smoothing=smoothing)
        return losses.mean(1)

    def card_fields(self) -> dict[str, Any]:
        """Give the classes, whether frames may come one by one, and how much was seen."""
        return {
            "classes": list(self.card.classes),
            "block": int(self.network.lookahead != inf),
            "training": {"steps": self.global_step, "clips_seen": self.clips_seen},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the card's fields, and how much was seen."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["clips_seen"] = self.clips_seen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting the clips."""
        self.clips_seen = checkpoint.get("clips_seen", 0)
