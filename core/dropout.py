"""Dropout at less than half of its cost on a processor: one random number of 64 bits decides on four elements.

Srivastava et al.: "Dropout: a simple way to prevent neural networks from overfitting", 2014. torch draws a number for
each element there, which took a sixth of a training step of the transcriber.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 1 << 16
"""Probabilities are multiples of one in so many."""


class Dropout(nn.Dropout):
    """Set elements to zero in training, each with probability p, and scale the others by 1 / (1 - p)."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x, of any shape."""
        return dropout(x, self.p, self.training)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Set elements of x to zero, each with probability p, and scale the others; elsewhere than on a processor as torch.

    Args:
        x: of any shape.
        p: 0 to below 1.
        training: else x comes back as it is.
    """
    if not training or p == 0 or x.device.type != "cpu":
        return functional.dropout(x, p, training)
    bits = torch.empty(x.numel() // 4 + 1, dtype=torch.int64).random_(-(1 << 63), None)
    drawn = bits.view(torch.int16)[: x.numel()].view(x.shape)
    kept = drawn >= round(p * LEVELS) - LEVELS // 2
    return x * (kept.to(x.dtype) * (1 / (1 - p)))
