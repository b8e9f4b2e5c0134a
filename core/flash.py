"""FLASH: gated single-head attention, quadratic within groups of frames and linear over the whole signal.

Hua, Dai, Liu, Le: "Transformer Quality in Linear Time", 2022; with the convolved linear maps and the shared gates of
MossFormer (Zhao, Ma: "MossFormer: Pushing the Performance Limit of Monaural Speech Separation", 2023). Axes: batch time
channel.
"""

from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.core.block import Block, Frames, mask_beyond, zeros_like_steps
from wavecast.core.conformer import TimeConvolution
from wavecast.core.dropout import Dropout, dropout
from wavecast.core.groups import Chain
from wavecast.core.ops.depthwise import depthwise
from wavecast.core.state import State, own, state

ROTATED = 32
"""Channels of queries and keys that turn with time."""
SMALLEST_NORM = 1e-5


class ScaleNorm(nn.Module):
    """Every step to root mean square 1 over its channels, then one learned scale (Nguyen, Salazar 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Divide by the length of (..., channel), and scale."""
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        return x * (self.scale / size.clamp_min(SMALLEST_NORM))


class ResidualFilter(TimeConvolution):
    """Every channel plus taps of its own: y_t = x_t + sum_k w_k x_(t + k - left); (batch, time, channel).

    Args:
        channels: of the last axis.
        taps: of each, the oldest first.
        causal: the last one reads the current step; otherwise the middle one does.
    """

    def __init__(self, channels: int, taps: int, causal: bool = False) -> None:
        super().__init__(channels, taps, causal, bias=False)

    def filter(self, x: Tensor, left: int = 0, right: int = 0) -> Tensor:
        """Correlate with that many zeros around, and add the steps themselves."""
        start, steps = self.left - left, x.shape[1] + left + right - self.span + 1
        residual = x if steps == x.shape[1] else x[:, start : start + steps]
        return depthwise(x, self.weight, left=left, right=right, residual=residual)


class ConvolvedLinear(Chain):
    """Norm, linear map, SiLU, and taps over time added: the map of MossFormer; (batch, time, inputs) to outputs.

    Args:
        norm: of single steps, over the inputs.
        inputs: channels in.
        outputs: channels out.
        taps: over time.
        causal: they read the past only.
        dropout: of the result.
    """

    def __init__(
        self, norm: nn.Module, inputs: int, outputs: int, taps: int = 17, causal: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__(
            norm=Frames(norm),
            linear=Frames(nn.Linear(inputs, outputs)),
            activation=Frames(nn.SiLU()),
            filter=ResidualFilter(outputs, taps, causal),
            dropout=Frames(Dropout(dropout)),
        )


@state
class Group:
    """What the attention remembers. Groups lie on the grid of the signal's own time; sums are divided by their length.

    position: int64 (batch,), steps so far.
    keys, values: (batch, group, width) and (batch, group, hidden), of the group that is not complete; zero beyond it.
    partial: (batch, width, hidden), its keys times its values, summed up.
    mean: (batch, width, hidden), the mean of that over the complete groups, which is bounded however long they run.
    """

    position: Tensor
    keys: Tensor
    values: Tensor
    partial: Tensor
    mean: Tensor


@state
class FlashState:
    """What a layer remembers.

    previous: (batch, 1, channels // 2), the half of the last step that the next one reads.
    hidden, qk, out: of the convolved linear maps.
    group: of the attention.
    """

    previous: Tensor
    hidden: State
    qk: State
    out: State
    group: Group


class Flash(Block):
    """One layer, its input added: (batch, time, channel) to the same.

    The published layer divides the keys' and values' product over the whole signal by the signal's length. The causal
    one takes the groups that are complete and the mean over them, so that an hour weighs as much as a minute (the
    published code has a causal flag, which no published network uses: its sum grows with time).

    Args:
        channels: in and out, even.
        hidden: values of both gates together, even.
        width: of queries and keys.
        group: steps that see each other directly.
        taps: over time of the convolved linear maps.
        causal: nothing reads ahead, and the layer streams.
        dropout: of the maps and of the direct attention.
    """

    needs_all = "its attention reaches over the whole signal"
    instead = "call it once with all of it (last=True, no state), or train a causal one"

    def __init__(
        self,
        channels: int = 512,
        hidden: int = 2048,
        width: int = 128,
        group: int = 256,
        taps: int = 17,
        causal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if channels % 2 or hidden % 2 or width % 2:
            raise ValueError(f"channels {channels}, hidden {hidden}, width {width}\nhint: all of them must be even")
        self.group, self.causal, self.dropout = group, causal, dropout
        self.lookahead = 0 if causal else inf
        self.to_hidden = ConvolvedLinear(ScaleNorm(), channels, hidden, taps, causal, dropout)
        self.to_qk = ConvolvedLinear(ScaleNorm(), channels, width, taps, causal, dropout)
        self.scale, self.shift = nn.Parameter(torch.randn(4, width) * 0.02), nn.Parameter(torch.zeros(4, width))
        self.to_out = ConvolvedLinear(ScaleNorm(), hidden // 2, channels, taps, causal, dropout)

    def step(self, x: Tensor, state: FlashState | None, last: bool) -> tuple[Tensor, State]:
        """Process the next piece."""
        return self.layer(x, state, last, None)

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Process a padded batch: keys beyond a row's end are zero, and its own length divides."""
        return self.layer(mask_beyond(x, lengths), None, True, lengths)

    def layer(
        self, x: Tensor, state: FlashState | None, last: bool, lengths: Tensor | None
    ) -> tuple[Tensor, FlashState]:
        """Project the shifted steps, attend, gate, and project back."""
        half = x.shape[2] // 2
        before = zeros_like_steps(x[:, :, :half], 1) if state is None else state.previous
        delayed = torch.cat([before, x[:, :, :half]], 1)
        shifted = torch.cat([delayed[:, :-1], x[:, :, half:]], 2)
        hidden, after_hidden = self.to_hidden(shifted, state and state.hidden, last=last, lengths=lengths)
        z, after_qk = self.to_qk(shifted, state and state.qk, last=last, lengths=lengths)
        if state is None and last:
            attended, group = self.attend_whole(z, hidden, lengths), None
        else:
            attended, group = self.attend_on(z, hidden, None if state is None else state.group)
        gated = gate(hidden, attended)
        out, after_out = self.to_out(gated, state and state.out, last=last, lengths=lengths)
        return x + out, FlashState(own(delayed[:, -1:]), after_hidden, after_qk, after_out, group or nothing(x))

    def heads(self, z: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Give the queries and keys of steps at those positions.

        Args:
            z: (batch, time, width).
            position: int64 (time,) or (batch, time).

        Returns:
            Queries of the direct and of the linear attention, keys of the direct and of the linear one, as z.
        """
        copies = z * self.scale[:, None, None] + self.shift[:, None, None]
        precision = torch.float64 if self.causal else torch.promote_types(z.dtype, torch.float32)
        direct, linear, direct_keys, linear_keys = rotate(copies, position, precision)
        return direct, linear, direct_keys, linear_keys

    def attend_whole(self, z: Tensor, hidden: Tensor, lengths: Tensor | None) -> Tensor:
        """Attend over whole signals.

        Args:
            z: (batch, time, width).
            hidden: (batch, time, hidden), the values.
            lengths: (batch,) valid steps, or None for all.

        Returns:
            (batch, time, hidden).
        """
        time = z.shape[1]
        if not time:
            return hidden
        query, linear_query, key, linear_key = self.heads(z, torch.arange(time, device=z.device))
        if lengths is not None:
            key, linear_key = mask_beyond(key, lengths), mask_beyond(linear_key, lengths)
        values = self.grouped(hidden)
        weights = self.weights(self.grouped(query), self.grouped(key))
        direct = (weights.tril() if self.causal else weights) @ values
        if self.causal:
            products = self.grouped(linear_key).transpose(2, 3) @ values / self.group
            before = torch.arange(products.shape[1], device=z.device).clamp_min(1).to(z.dtype)
            mean = (products.cumsum(1) - products) / before[:, None, None]
            return (direct + self.grouped(linear_query) @ mean).flatten(1, 2)[:, :time]
        count = time if lengths is None else lengths.clamp_min(1)[:, None, None]
        product = linear_key.transpose(1, 2) @ hidden / count
        return direct.flatten(1, 2)[:, :time] + linear_query @ product

    def grouped(self, x: Tensor) -> Tensor:
        """Split time into groups, the last one filled with zeros: (batch, groups, group, channel)."""
        length = min(self.group, x.shape[1])
        return functional.pad(x, (0, 0, 0, -x.shape[1] % length)).unflatten(1, (-1, length))

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Weigh keys (..., key, width) for queries (..., query, width): squares of what is above zero."""
        weights = torch.relu(query @ key.transpose(-1, -2) / self.group).square()
        return dropout(weights, self.dropout, self.training)

    def attend_on(self, z: Tensor, hidden: Tensor, group: Group | None) -> tuple[Tensor, Group]:
        """Attend over the next piece, a group's length at most at a time."""
        if group is None:
            batch, width, channels = len(z), z.shape[2], hidden.shape[2]
            group = Group(
                torch.zeros(batch, dtype=torch.int64, device=z.device),
                z.new_zeros(batch, self.group, width),
                z.new_zeros(batch, self.group, channels),
                z.new_zeros(batch, width, channels),
                z.new_zeros(batch, width, channels),
            )
        pieces = []
        for some, values in zip(z.split(self.group, 1), hidden.split(self.group, 1), strict=True):
            attended, group = self.attend_piece(some, values, group)
            pieces.append(attended)
        return torch.cat(pieces, 1), group

    def attend_piece(self, z: Tensor, hidden: Tensor, group: Group) -> tuple[Tensor, Group]:
        """Attend over a piece that completes one group at most; rows may be at different places of their groups."""
        steps, length = z.shape[1], self.group
        count = torch.arange(max(steps, length), device=z.device)
        query, linear_query, key, linear_key = self.heads(z, group.position[:, None] + count[:steps])
        begun = (group.position % length)[:, None]  # steps that the group has already
        place = begun + count[:steps]  # of the piece, from the group's beginning on
        fresh = place >= length  # what belongs to the next group
        full = (begun + steps >= length)[:, :, None]

        keys, values = torch.cat([group.keys, key], 1), torch.cat([group.values, hidden], 1)
        places = torch.cat([count[:length].expand(len(z), -1), place], 1)
        there = torch.cat([count[:length] < begun, torch.ones_like(fresh)], 1)
        seen = (places[:, None] <= place[:, :, None]) & ((places >= length)[:, None] == fresh[:, :, None])
        weights = self.weights(query, keys).masked_fill(~(seen & there[:, None]), 0)

        old, new = (
            linear_key.masked_fill(hide[:, :, None], 0).transpose(1, 2) @ hidden / length for hide in (fresh, ~fresh)
        )
        partial = group.partial + old
        complete = (group.position // length + 1)[:, None, None]
        mean = torch.where(full, group.mean + (partial - group.mean) / complete, group.mean)
        linear = torch.where(fresh[:, :, None], linear_query @ mean, linear_query @ group.mean)

        wanted = count[:length] + length * full[:, :, 0]  # the places that the next call finds in its memory
        source = torch.where(wanted < begun, wanted, length + wanted - begun)
        beyond = (source >= length + steps)[:, :, None]
        source = source.clamp_max(length + steps - 1)
        row = torch.arange(len(z), device=z.device)[:, None]
        after = Group(
            group.position + steps,
            keys[row, source].masked_fill(beyond, 0),
            values[row, source].masked_fill(beyond, 0),
            torch.where(full, new, partial),
            mean,
        )
        return weights @ values + linear, after


def nothing(x: Tensor) -> Group:
    """Give a memory without size: what a sequence that ended has no use for."""
    empty = x.new_zeros(len(x), 0)
    return Group(empty, empty, empty, empty, empty)


def gate(hidden: Tensor, attended: Tensor) -> Tensor:
    """Gate values by what was attended to: (batch, time, hidden) each to (batch, time, hidden // 2)."""
    v, u = hidden.chunk(2, 2)
    attended_v, attended_u = attended.chunk(2, 2)
    return attended_u * v * torch.sigmoid(attended_v * u)


def rotate(x: Tensor, position: Tensor, precision: torch.dtype = torch.float64) -> Tensor:
    """Turn pairs of neighboring channels by angles that grow with time (Su et al. 2021).

    Args:
        x: (..., batch, time, channel); the first 32 channels turn, fewer if there are fewer.
        position: int64 (time,) or (batch, time), steps since the signal began.
        precision: of the angles.
    """
    pairs = min(ROTATED, x.shape[-1]) // 2
    cosine, sine = (table.to(x.dtype) for table in waves(position, pairs, precision))
    first, second = x[..., : 2 * pairs].unflatten(-1, (pairs, 2)).unbind(-1)
    turned = torch.stack([first * cosine - second * sine, second * cosine + first * sine], -1).flatten(-2)
    return torch.cat([turned, x[..., 2 * pairs :]], -1)


def waves(position: Tensor, count: int, precision: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Give cosines and sines of position x 10000^(-j / count), j < count: (..., count) each.

    Args:
        position: int64 steps.
        count: of frequencies.
        precision: of the angles. The published networks have learned with those of single precision, which are 1e-4
            off after some thousand steps and wrong after hours: causal networks take double precision.
    """
    exponent = torch.arange(count, device=position.device, dtype=precision) / count
    angle = position[..., None].to(precision) * (1 / 10000.0**exponent)
    return angle.cos(), angle.sin()
