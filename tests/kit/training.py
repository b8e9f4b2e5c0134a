"""What tests of `wavecast train` share: recipes on disk, logs, and the weights of checkpoints."""

import csv
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from wavecast import training


def write_recipe(settings: dict[str, Any], **changes: Any) -> list[str]:
    """Write settings with changes as a recipe into the working directory; give the words that name it."""
    path = Path("tiny.yaml").resolve()
    path.write_text(yaml.safe_dump(training.merged(settings, changes)))
    return ["--config", str(path)]


def rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a log."""
    with path.open() as lines:
        return list(csv.DictReader(lines))


def weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint."""
    return torch.load(path, weights_only=True)["state_dict"]


def sound_sources(
    folder: Path, kinds: tuple[str, ...] = ("speech", "noise", "validation_speech", "validation_noise")
) -> list[str]:
    """Name the folders of voices and noises, as options of the data."""
    return [f"--data.{kind}=[{folder / ('voices' if 'speech' in kind else 'noises')}]" for kind in kinds]
