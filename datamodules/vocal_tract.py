"""Voices from longer and shorter vocal tracts, so that few speakers become many."""

import numpy as np
import torch
from torch import Tensor


class VocalTract:
    """Stretch the bands of log-mel features; the factor of an item is a function of its number.

    Jaitly, Hinton 2013: "Vocal Tract Length Perturbation improves speech recognition"; linear in mel here.

    Args:
        most: factors lie between 1 - most and 1 + most; 0 changes nothing.
        seed: another seed gives other factors.
    """

    def __init__(self, most: float = 0.0, seed: int = 0) -> None:
        self.most, self.seed = most, seed

    def __call__(self, features: Tensor, numbers: Tensor) -> Tensor:
        """Stretch a batch.

        Args:
            features: (batch, frame, mel).
            numbers: of the items, (batch,).
        """
        if not self.most:
            return features
        drawn = [np.random.default_rng([self.seed, number, 6]).uniform(-1, 1) for number in numbers.tolist()]
        return stretch_bands(features, 1 + self.most * torch.tensor(drawn))


def stretch_bands(features: Tensor, factors: Tensor) -> Tensor:
    """Let band m have what was at m * factor, between bands linearly; beyond the last band it has that of the last.

    Args:
        features: (batch, frame, mel).
        factors: (batch,).
    """
    mels = features.shape[2]
    place = (torch.arange(mels) * factors[:, None]).clamp(max=mels - 1).to(features)
    below = place.floor().clamp(max=mels - 2)
    share, index = (place - below)[:, None], below.long()[:, None].expand_as(features)
    return torch.lerp(features.gather(2, index), features.gather(2, index + 1), share)
