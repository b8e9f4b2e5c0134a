"""Frames as patches: each frame is cut into squares, which become tokens and are put together again.

Dosovitskiy et al.: "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", 2021. Axes: batch time
row col channel outside, batch time patch dim inside. Patches are numbered row by row.
"""

from einops import rearrange
from torch import Tensor, nn


class PatchEmbedding(nn.Module):
    """A linear map of every patch, its numbers in the order (row, col, channel).

    Maps (batch, time, row, col, channel) to (batch, time, patch, dim).

    Args:
        channels: of a frame.
        patch: side of a patch; rows and cols are multiples of it.
        dim: of a token.
    """

    def __init__(self, channels: int, patch: int, dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.linear = nn.Linear(patch * patch * channels, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Cut and map."""
        x = rearrange(
            x,
            "batch time (row p) (col q) channel -> batch time (row col) (p q channel)",
            p=self.patch,
            q=self.patch,
        )
        return self.linear(x)


class PatchHead(nn.Module):
    """Layer norm and a linear map of every token to its patch, its numbers in the order (channel, row, col).

    Maps (batch, time, patch, dim) to (batch, time, row, col, channel).

    Args:
        dim: of a token.
        channels: of a frame.
        patch: side of a patch.
        rows: of a frame.
    """

    def __init__(self, dim: int, channels: int, patch: int, rows: int) -> None:
        super().__init__()
        self.patch, self.rows = patch, rows
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, patch * patch * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map and put together."""
        return rearrange(
            self.linear(self.norm(x)),
            "batch time (row col) (channel p q) -> batch time (row p) (col q) channel",
            row=self.rows // self.patch,
            p=self.patch,
            q=self.patch,
        )
