"""SpecAugment (Park et al. 2019): hide bands and stretches of the features, so that the rest must do."""

import numpy as np
import torch
from torch import Tensor


class SpecAugment:
    """Hide frequency bands and time stretches of log-mel features; the masks of an item are a function of its number.

    What is hidden becomes the item's mean over its valid frames and bands, unless a value is given. Zero would be no
    neutral value: of features that are not normalized it is loud, and the floor (the log of nothing) is digital
    silence, which a network should hear as what it is.

    Args:
        bands: how many frequency masks.
        band_width: most bands of one.
        stretches: how many time masks.
        stretch_share: longest time mask, as a share of the item's frames.
        seed: another seed gives other masks.
        value: what is hidden becomes; the item's mean when None.
    """

    def __init__(
        self,
        bands: int = 2,
        band_width: int = 27,
        stretches: int = 10,
        stretch_share: float = 0.05,
        seed: int = 0,
        value: float | None = None,
    ) -> None:
        self.bands, self.band_width, self.value = bands, band_width, value
        self.stretches, self.stretch_share, self.seed = stretches, stretch_share, seed

    def hidden(self, frames: int, mels: int, number: int) -> np.ndarray:
        """Draw the mask of item `number`: bool (frames, mels), True where hidden."""
        rng = np.random.default_rng([self.seed, number, 3])
        mask = np.zeros((frames, mels), bool)
        for _ in range(self.bands):
            width = int(rng.integers(min(self.band_width, mels) + 1))
            first = int(rng.integers(mels - width + 1))
            mask[:, first : first + width] = True
        longest = int(self.stretch_share * frames)
        for _ in range(self.stretches):
            width = int(rng.integers(longest + 1))
            first = int(rng.integers(frames - width + 1))
            mask[first : first + width] = True
        return mask

    def __call__(self, features: Tensor, lengths: Tensor, numbers: Tensor) -> Tensor:
        """Hide parts of a padded batch.

        Args:
            features: (batch, frame, mel).
            lengths: valid frames, (batch,).
            numbers: of the items, (batch,).

        Returns:
            The features, means or the value where hidden; what lies beyond the lengths is unchanged.
        """
        _, most, mels = features.shape
        mask = np.zeros(features.shape, bool)
        for row, (frames, number) in enumerate(zip(lengths.tolist(), numbers.tolist(), strict=True)):
            mask[row, :frames] = self.hidden(frames, mels, number)
        hidden = torch.from_numpy(mask).to(features.device)
        if self.value is not None:
            return features.masked_fill(hidden, self.value)
        valid = torch.arange(most, device=features.device) < lengths[:, None]
        total = features.masked_fill(~valid[:, :, None], 0).sum((1, 2))
        mean = total / (lengths.clamp(min=1) * mels)
        return torch.where(hidden, mean[:, None, None], features)
