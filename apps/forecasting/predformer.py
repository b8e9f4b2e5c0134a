"""PredFormer: gated transformers over the patches of all frames forecast the frames that follow.

Paper: Tang, Qi, Xie, Li, Liu, Torr, Yang: "PredFormer: Video Prediction Transformers Without Recurrence and
Convolution", arXiv 2410.04733. Weights that load: checkpoints trained with the authors' code, all nine variants
(`predformer_official.py`); none are published.

Differences from the authors' code:
- Fac-S-T: theirs hands the tokens of the temporal stage to the head in the order (patch, time), read as (time, patch).
  Here they are put back in order; `legacy_layout` is for weights trained with that.
- Other numbers of output channels than input channels are allowed: known fields may come along.

Axes: batch time row col channel outside; inside, tokens are (time, batch, patch, dim), so that attention along time
and attention along patches both read views.
"""

from math import ceil, inf

import torch
from torch import Tensor, nn

from wavecast.core.block import Block
from wavecast.core.gated_transformer import GatedTransformer
from wavecast.core.patches import PatchEmbedding, PatchHead
from wavecast.core.state import State

VARIANTS = {
    "full": "A",
    "fac_st": "ST",
    "fac_ts": "TS",
    "binary_ts": "TS",
    "binary_st": "ST",
    "triplet_tst": "TST",
    "triplet_sts": "STS",
    "quad_tsst": "TSST",
    "quad_stts": "STTS",
}
"""What attends in turn: T along time at every patch, S along the patches of every frame, A along all at once."""
DEEP = ("full", "fac_st", "fac_ts")
"""Variants whose modules have all the depth; those of the others have one layer, and repeat."""


class PredFormer(Block):
    """Forecast as many frames as it sees: (batch, time, row, col, channel) to the next (batch, time, row, col, output).

    Args:
        variant: one of VARIANTS.
        time: frames of the window, in and out.
        rows: of a frame, a multiple of `patch`.
        cols: of a frame, a multiple of `patch`.
        channels: of the input.
        output_channels: of the forecast; as many as the input's by default.
        patch: side of a patch.
        dim: features of a token.
        heads: of attention.
        head_dim: features of a head.
        depth: layers of each module ("full", "fac_..."), or how often the sequence of modules repeats (the others).
        scale_dim: features inside the gated units, in multiples of dim.
        dropout: of the gated units.
        attention_dropout: after the projection of attention.
        drop_path: chance that a sequence skips an attention or a unit.
        legacy_layout: the authors' order of tokens before the head of fac_st, for weights trained with it.
        outer_skip: add the input of every repetition to its output; the triplets had it for large frames.

    Attributes:
        multiple: of its rows and columns that frames must fill.

    Raises:
        ValueError: an unknown variant, frames that patches do not fill, or an option of another variant.
    """

    lookahead = inf
    needs_all = "it forecasts from its whole window at once"
    instead = "call it on the whole window; more frames than it has come from rollout(network, frames, steps)"

    def __init__(
        self,
        variant: str = "quad_tsst",
        time: int = 10,
        rows: int = 64,
        cols: int = 64,
        channels: int = 1,
        output_channels: int | None = None,
        patch: int = 8,
        dim: int = 256,
        heads: int = 8,
        head_dim: int = 32,
        depth: int = 6,
        scale_dim: int = 4,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        legacy_layout: bool = False,
        outer_skip: bool = False,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"PredFormer has no variant {variant!r}\nhint: one of {', '.join(VARIANTS)}")
        if rows % patch or cols % patch:
            raise ValueError(
                f"patches of {patch} do not fill frames of {rows} x {cols}\nhint: rows and cols are multiples of patch"
            )
        if legacy_layout and variant != "fac_st":
            raise ValueError(f"{variant} has no legacy layout\nhint: it is for weights of fac_st")
        if outer_skip and not variant.startswith("triplet"):
            raise ValueError(f"{variant} has no outer skip\nhint: triplet_tst and triplet_sts have one")
        self.grid, self.inputs = (time, rows, cols), channels
        self.outputs = channels if output_channels is None else output_channels
        self.multiple = patch
        self.sequence = VARIANTS[variant]
        layers, repeats = (depth, 1) if variant in DEEP else (1, depth)
        self.legacy_layout, self.outer_skip = legacy_layout, outer_skip
        self.embedding = PatchEmbedding(channels, patch, dim)
        self.register_buffer("positions", sinusoids(time, rows // patch * (cols // patch), dim), persistent=False)
        self.stages = nn.ModuleList(
            GatedTransformer(dim, layers, heads, head_dim, dim * scale_dim, dropout, attention_dropout, drop_path)
            for _ in self.sequence * repeats
        )
        self.head = PatchHead(dim, self.outputs, patch, rows)

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Forecast from whole windows.

        Raises:
            ValueError: the window is not the one that the network is made for.
        """
        found, expected = tuple(x.shape[1:]), (*self.grid, self.inputs)
        if x.ndim == 5 and not x.shape[1] and found[1:] == expected[1:]:
            return x.new_zeros(*x.shape[:4], self.outputs), ()
        if found != expected:
            raise ValueError(
                f"PredFormer got frames of (time, row, col, channel) = {found}, and is made for {expected}\n"
                "hint: its table of positions has that size: cut or interpolate the input, or train a network for it"
            )
        tokens = self.embedding(x.transpose(0, 1)) + self.positions[:, None]
        for i in range(0, len(self.stages), len(self.sequence)):
            before = tokens
            for axis, stage in zip(self.sequence, self.stages[i : i + len(self.sequence)], strict=True):
                tokens = attend_along(axis, stage, tokens)
            if self.outer_skip:
                tokens = tokens + before
        if self.legacy_layout:
            time, batch, patch, dim = tokens.shape
            tokens = tokens.permute(1, 2, 0, 3).reshape(batch, time, patch, dim).transpose(0, 1)
        return self.head(tokens).transpose(0, 1).contiguous(), ()

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Refuse padded batches: windows have one length."""
        raise ValueError("PredFormer takes no padded batches\nhint: all windows have the length it is made for")


def attend_along(axis: str, stage: GatedTransformer, tokens: Tensor) -> Tensor:
    """Apply a module to tokens (time, batch, patch, dim) along time (T), patches (S) or all of both (A)."""
    time, batch, patch, dim = tokens.shape
    if axis == "T":
        return stage(tokens.view(1, time, batch * patch, dim))[0].view(tokens.shape)
    if axis == "S":
        return stage(tokens.view(time * batch, patch, 1, dim))[0].view(tokens.shape)
    y, _ = stage(tokens.transpose(0, 1).reshape(batch, time * patch, 1, dim))
    return y.view(batch, time, patch, dim).transpose(0, 1)


def sinusoids(time: int, patches: int, dim: int) -> Tensor:
    """Compute the table of positions (time, patch, dim), one position for every patch of every frame.

    Position p has the angles p / 10000^(2 (i // 2) / dim): sines at even i, cosines at odd (Vaswani et al. 2017). As in
    the authors' code the angles are rounded to single precision first, which shows in the fifth digit.
    """
    position = torch.arange(time * patches, dtype=torch.float64)
    exponent = 2 * torch.arange(dim, dtype=torch.float64).div(2, rounding_mode="floor") / dim
    angles = (position[:, None] / 10000**exponent).float()
    even = torch.arange(dim) % 2 == 0
    return torch.where(even, angles.sin(), angles.cos()).view(time, patches, dim)


def rollout(network: PredFormer, x: Tensor, steps: int) -> Tensor:
    """Forecast any number of frames: each forecast is the next input; the last one is cut.

    Args:
        network: whose output has the channels of its input.
        x: (batch, time, row, col, channel), the window before the forecast.
        steps: frames to forecast, at least 1.

    Returns:
        (batch, steps, row, col, channel).

    Raises:
        ValueError: the forecast cannot be the next input, or there is nothing to forecast.
    """
    if steps < 1:
        raise ValueError(f"a forecast of {steps} frames\nhint: steps starts at 1")
    time = network.grid[0]
    if steps > time and network.outputs != network.inputs:
        raise ValueError(
            f"{steps} frames are more than the {time} of one forecast, and its {network.outputs} channels are no next "
            f"input of {network.inputs}\nhint: forecast at most {time}, or give the network as many outputs as inputs"
        )
    frames = []
    for _ in range(ceil(steps / time)):
        x, _ = network(x)
        frames.append(x)
    return torch.cat(frames, 1)[:, :steps]
