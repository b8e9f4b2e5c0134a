"""Augmentation of features in training: what is hidden, added and shifted is a function of an item's number."""

import numpy as np
import torch
from torch import Tensor

from wavecast.datamodules.spec_augment import SpecAugment
from wavecast.datamodules.vocal_tract import VocalTract


class FeatureAugmentation:
    """Stretch the bands of normalized log-mel features, hide some and stretches of time, add uniform noise, and roll.

    All but the stretched bands is as Gong et al. (2021: "AST: Audio Spectrogram Transformer") train, and LMUFormer
    after them.

    Args:
        band_width: most bands hidden.
        stretch: most frames hidden.
        value: what is hidden becomes.
        noise: most of the noise, whose greatest value is drawn for each item.
        roll: features move by -roll to roll - 1 frames, and what leaves at one end enters at the other.
        tract: bands are stretched by up to this share (see `VocalTract`).
        seed: another seed gives other augmentation.
    """

    def __init__(
        self,
        band_width: int = 48,
        stretch: int = 48,
        value: float = 0.0,
        noise: float = 0.1,
        roll: int = 10,
        tract: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.band_width, self.stretch, self.value = band_width, stretch, value
        self.noise, self.roll, self.seed = noise, roll, seed
        self.vocal_tract = VocalTract(tract, seed)

    def __call__(self, features: Tensor, numbers: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            features: (batch, frame, mel).
            numbers: of the items, (batch,).
        """
        frames = features.shape[1]
        features = self.vocal_tract(features, numbers)
        hide = SpecAugment(1, self.band_width, 1, self.stretch / frames, self.seed, self.value)
        features = hide(features, torch.full_like(numbers, frames), numbers)
        if not (self.noise or self.roll):
            return features
        rows = zip(features, numbers.tolist(), strict=True)
        return torch.stack([self.disturb(one, number) for one, number in rows])

    def disturb(self, features: Tensor, number: int) -> Tensor:
        """Add noise to the features of one item, and roll them: (frame, mel)."""
        rng = np.random.default_rng([self.seed, number, 5])
        noise = np.float32(self.noise * rng.random()) * rng.random(features.shape, np.float32)
        shift = int(rng.integers(-self.roll, self.roll)) if self.roll else 0
        return (features + torch.from_numpy(noise).to(features)).roll(shift, 0)
