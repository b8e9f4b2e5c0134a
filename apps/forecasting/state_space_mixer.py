"""State-space mixer: every patch of a film or a field remembers its own past, and patches next to each other mix.

Not a published network. Its parts are: patches (Dosovitskiy et al. 2021), the state spaces along time S5 (Smith et al.
2023) and S4D (Gu et al. 2022), and between them a depthwise convolution over the grid of patches with a gated linear
unit, as in ConvMixer (Trockman, Kolter 2022) and ConvNeXt (Liu et al. 2022).

Output step t is the forecast of input step t + 1, as in ConvS5: it streams, and a forecast runs on its own output.

Axes: batch time row col channel outside; inside, row and col number patches.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from wavecast.core.block import Block, Frames, mask_beyond
from wavecast.core.dropout import Dropout
from wavecast.core.frame_layers import FrameConvolution
from wavecast.core.groups import Chain, Skip
from wavecast.core.patches import PatchEmbedding, PatchHead
from wavecast.core.state import State
from wavecast.core.state_space import S4DLayer, S5Layer

MEMORIES: dict[str, Callable[[int, int, float], Block]] = {"s5": S5Layer, "s4d": S4DLayer}
"""Layers along time: channels that share one state, or one state for every channel."""


class StateSpaceMixer(Chain):
    """Forecast frames: (batch, time, row, col, channels) to the same, step t the forecast of step t + 1.

    Args:
        channels: of a frame.
        rows: of a frame, a multiple of `patch`.
        cols: of a frame, a multiple of `patch`.
        output_channels: of the forecast; those of a frame by default, so that it can be the next input.
        patch: side of a patch.
        dim: features of a patch.
        layers: of memory and mixing.
        memory: "s5" or "s4d".
        size: of the memory's real state: of all features together (S5), or of each (S4D).
        kernel: rows and columns of patches that mix, odd.
        dropout: in every layer, in training.
        boundary: "zeros", or "longitude" for global grids, see `wavecast.core.frame_layers.convolve_frames`.

    Attributes:
        multiple: of rows and columns that frames must fill.

    Raises:
        ValueError: there is no such memory, or patches do not fill the frames.
    """

    def __init__(
        self,
        channels: int = 1,
        rows: int = 64,
        cols: int = 64,
        output_channels: int | None = None,
        patch: int = 4,
        dim: int = 96,
        layers: int = 4,
        memory: str = "s5",
        size: int = 64,
        kernel: int = 3,
        dropout: float = 0.0,
        boundary: str = "zeros",
    ) -> None:
        if memory not in MEMORIES:
            raise ValueError(f"there is no memory {memory!r}\nhint: one of {', '.join(MEMORIES)}")
        if rows % patch or cols % patch:
            raise ValueError(
                f"patches of {patch} do not fill frames of {rows} x {cols}\nhint: rows and cols are multiples of patch"
            )
        sequence = (Layer(MEMORIES[memory](dim, size, dropout), dim, kernel, dropout, boundary) for _ in range(layers))
        super().__init__(
            embedding=Frames(Embedding(channels, patch, dim, rows // patch, cols // patch)),
            sequence=Chain(*sequence),
            head=Frames(Head(dim, output_channels or channels, patch, rows)),
        )
        self.frame, self.multiple = (rows, cols, channels), patch

    def step(self, x: Tensor, state: State, last: bool, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Forecast.

        Raises:
            ValueError: the frames are not those that the network is made for.
        """
        if x.ndim != 5 or x.shape[2:] != self.frame:
            raise ValueError(
                f"StateSpaceMixer got frames of (row, col, channel) = {tuple(x.shape[2:])}, and is made for "
                f"{self.frame}\nhint: it knows its patches by their place: cut or pad the input, or train another"
            )
        return super().step(x, state, last)

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Mask at the door: nothing behind it looks ahead, so what lies beyond the lengths reaches no valid frame."""
        return self.step(mask_beyond(x, lengths), None, True)


class Embedding(nn.Module):
    """Patches and their places: (batch, time, row * patch, col * patch, channels) to (batch, time, row, col, dim).

    Args:
        channels: of a frame.
        patch: side of a patch.
        dim: features of a patch.
        rows: of patches.
        cols: of patches.
    """

    def __init__(self, channels: int, patch: int, dim: int, rows: int, cols: int) -> None:
        super().__init__()
        self.patches = PatchEmbedding(channels, patch, dim)
        self.places = nn.Parameter(0.02 * torch.randn(rows, cols, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Cut, map, and add what is learned of each place."""
        return self.patches(x).unflatten(2, self.places.shape[:2]) + self.places


class Head(nn.Module):
    """Patches back to frames: (batch, time, row, col, dim) to (batch, time, row * patch, col * patch, channels)."""

    def __init__(self, dim: int, channels: int, patch: int, rows: int) -> None:
        super().__init__()
        self.patches = PatchHead(dim, channels, patch, rows)

    def forward(self, x: Tensor) -> Tensor:
        """Map and put together."""
        return self.patches(x.flatten(2, 3))


class Layer(Chain):
    """Memory along time, then a mix over patches, both normalized before and added: (batch, time, row, col, dim).

    Args:
        memory: a block (batch, time, dim) to the same.
        dim: features of a patch.
        kernel: rows and columns of patches that mix, odd.
        dropout: of the mix, in training.
        boundary: of the mix.
    """

    def __init__(self, memory: Block, dim: int, kernel: int, dropout: float, boundary: str) -> None:
        mix = nn.Sequential(
            nn.LayerNorm(dim),
            FrameConvolution(dim, dim, kernel, boundary, groups=dim),
            nn.Linear(dim, 2 * dim),
            nn.GLU(),
            Dropout(dropout),
        )
        super().__init__(
            memory=Skip(Chain(norm=Frames(nn.LayerNorm(dim)), along=EachPlace(memory))), mix=Skip(Frames(mix))
        )


class EachPlace(Block):
    """A block along time at every place alone: (batch, time, row, col, dim) to the same.

    Args:
        inner: (batch, time, dim) to the same, its look-ahead 0.
    """

    def __init__(self, inner: Block) -> None:
        super().__init__()
        self.inner = inner

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Run the places side by side, as rows of a batch; a state has them on axis 1."""
        rows, cols = x.shape[2:4]
        sequences = rearrange(x, "batch time row col dim -> (batch row col) time dim")
        before = None if state is None else tree_map(join_places, state)
        y, after = self.inner.step(sequences, before, last)
        y = rearrange(y, "(batch row col) time dim -> batch time row col dim", row=rows, col=cols)
        return y, tree_map(lambda leaf: leaf.unflatten(0, (len(x), rows * cols)), after)


def join_places(leaf: Tensor) -> Tensor:
    """Put places beside each other on the batch axis."""
    return leaf.flatten(0, 1)
