"""TCNCA: a dilated convolution stack feeds gated attention within chunks of time.

The gated attention is that of Ma et al.: "Mega: Moving Average Equipped Gated Attention", 2022; a convolution stack
takes the place of its moving average, after Terzic et al.: "TCNCA: Temporal Convolution Network with Chunked
Attention for Scalable Sequence Processing", 2023 (arXiv 2312.05605). Axes: batch time channel.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.core.block import Block
from wavecast.core.state import State, own, state
from wavecast.core.tcn import DilatedStack


@state
class ChunkCache:
    """Keys and values of the chunk under way.

    keys: (batch, chunk, width), zero where none has come yet; values: the same with their width.
    count: (batch,) how many have come.
    """

    keys: Tensor
    values: Tensor
    count: Tensor


class ChunkAttention(Block):
    """Causal attention within chunks that do not overlap: (batch, time, 2 width + values) to (batch, time, values).

    The input is queries, keys and values side by side. A step sees the steps of its own chunk up to itself, so what is
    remembered never grows; a learned bias tells how far apart two steps are.

    Args:
        width: of a query and a key.
        values: width of a value.
        chunk: steps.
        weighting: "softmax", "laplace" or "relu2" (Mega; the latter two divide by the number of steps seen).
        bias: "simple", a learned number for every distance, or "rotary", learned vectors that turn with the distance.
    """

    def __init__(self, width: int, values: int, chunk: int, weighting: str = "softmax", bias: str = "simple") -> None:
        super().__init__()
        if weighting not in WEIGHTINGS or bias not in BIASES:
            raise ValueError(
                f"weighting {weighting!r} with bias {bias!r}\n"
                f"hint: weighting is one of {', '.join(WEIGHTINGS)}, bias one of {', '.join(BIASES)}"
            )
        self.widths, self.chunk = (width, width, values), chunk
        self.weigh = WEIGHTINGS[weighting]
        self.bias = BIASES[bias](chunk, width)

    def step(self, x: Tensor, state: ChunkCache | None, last: bool) -> tuple[Tensor, State]:
        """Attend: all chunks at once at the beginning, then a chunk's length at a time."""
        if state is None:
            return self.begin(x)
        ys = [x[..., : self.widths[2]][:, :0]]
        for piece in x.split(self.chunk, 1) if x.shape[1] else ():
            y, state = self.go_on(piece, state)
            ys.append(y)
        return torch.cat(ys, 1), state

    def begin(self, x: Tensor) -> tuple[Tensor, ChunkCache]:
        """Attend from the start of a chunk on."""
        time, chunk = x.shape[1], self.chunk
        padded = functional.pad(x, (0, 0, 0, -time % chunk))
        query, key, value = padded.unflatten(1, (-1, chunk)).split(self.widths, -1)
        steps = torch.arange(chunk, device=x.device)
        y = self.attend(query, key, value, steps[:, None] - steps).flatten(1, 2)[:, :time]
        rest = functional.pad(x[:, time - time % chunk :], (0, 0, 0, chunk - time % chunk))
        _, key, value = rest.split(self.widths, -1)
        return y, ChunkCache(own(key), own(value), steps.new_full((x.shape[0],), time % chunk))

    def go_on(self, x: Tensor, cache: ChunkCache) -> tuple[Tensor, ChunkCache]:
        """Attend for at most a chunk's length, wherever each row is in its chunk."""
        chunk, count, time = self.chunk, cache.count[:, None], x.shape[1]
        query, key, value = x.split(self.widths, -1)
        keys, values = torch.cat([cache.keys, key], 1), torch.cat([cache.values, value], 1)
        steps = torch.arange(chunk, device=x.device)
        asking = count + torch.arange(time, device=x.device)
        # Where every key lies, counted from the start of the chunk under way; an empty place lies beyond all others.
        held = torch.where(steps < count, steps, 2 * chunk)
        asked = torch.cat([held, asking], 1)[:, None]
        distance = asking[:, :, None] - asked
        distance = torch.where(asked // chunk == asking[:, :, None] // chunk, distance, -1)
        y = self.attend(query, keys, values, distance)
        end = count + time
        place = end // chunk * chunk + steps
        found = torch.where(place < count, place, chunk + place - count).clamp_max(chunk + time - 1)
        kept = (place < end)[..., None]
        keys, values = (
            torch.where(kept, one.gather(1, found[..., None].expand(-1, -1, one.shape[2])), 0) for one in (keys, values)
        )
        return y, ChunkCache(keys, values, own(end[:, 0] % chunk))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, distance: Tensor) -> Tensor:
        """Weigh values by query, key and distance; distances below 0 are not seen."""
        seen = distance >= 0
        bias = self.bias()[distance.clamp(0, self.chunk - 1)]
        return self.weigh(query @ key.transpose(-1, -2), bias, seen, query.shape[-1]) @ value


def softmax(product: Tensor, bias: Tensor, seen: Tensor, width: int) -> Tensor:
    """Weigh by the softmax of the scaled product."""
    return (product * width**-0.5 + bias).masked_fill(~seen, -torch.inf).softmax(-1)


def laplace(product: Tensor, bias: Tensor, seen: Tensor, width: int) -> Tensor:
    """Weigh by the normal distribution function of mean sqrt(1/2) and variance 1/(4 pi), which is near relu squared."""
    score = (product / seen.sum(-1, keepdim=True) + bias - 0.5**0.5) * (2 * torch.pi) ** 0.5
    return 0.5 * (1 + torch.erf(score)) * seen


def relu2(product: Tensor, bias: Tensor, seen: Tensor, width: int) -> Tensor:
    """Weigh by the square of what is above zero."""
    return torch.relu(product / seen.sum(-1, keepdim=True) + bias).square() * seen


WEIGHTINGS: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    "softmax": softmax,
    "laplace": laplace,
    "relu2": relu2,
}


class SimpleBias(nn.Module):
    """A learned number for every distance: (chunk,)."""

    def __init__(self, chunk: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(0.02 * torch.randn(chunk))

    def forward(self) -> Tensor:
        """Give the numbers."""
        return self.table


class RotaryBias(nn.Module):
    """The product of two learned vectors, one turned by the distance (Su et al. 2021): (chunk,)."""

    turns: Tensor

    def __init__(self, chunk: int, width: int) -> None:
        super().__init__()
        half = -(-width // 2)
        self.one, self.other = (nn.Parameter(0.02 * torch.randn(2, half)) for _ in range(2))
        turns = torch.arange(chunk)[:, None] * 10_000 ** (-torch.arange(half) / half)
        self.register_buffer("turns", turns, persistent=False)

    def forward(self) -> Tensor:
        """Turn and multiply."""
        (a, b), (c, d) = self.one, self.other
        return self.turns.cos() @ (a * c + b * d) + self.turns.sin() @ (a * d - b * c)


BIASES: dict[str, type[SimpleBias] | type[RotaryBias]] = {"simple": SimpleBias, "rotary": RotaryBias}


class TCNCA(Block):
    """A dilated convolution stack and gated attention within chunks, residual: (batch, time, channel) to the same.

    Args:
        channels: in and out.
        width: of queries and keys.
        values: width of values.
        chunk: steps of a chunk of attention.
        taps: of the convolutions.
        factor: from one layer's dilation to the next one's.
        layers: of convolution.
        share_weights: the same taps in all layers.
        weighting: of the attention, see `ChunkAttention`.
        bias: of the attention.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        values: int,
        chunk: int = 32,
        taps: int = 3,
        factor: int = 3,
        layers: int = 3,
        share_weights: bool = False,
        weighting: str = "softmax",
        bias: str = "simple",
    ) -> None:
        super().__init__()
        self.widths = (channels, width, values, channels)
        self.norm = nn.LayerNorm(channels)
        self.memory = DilatedStack(channels, taps, factor, layers, share_weights)
        self.value = nn.Linear(channels, values)
        self.gates = nn.Linear(channels, sum(self.widths))
        self.scale = nn.Parameter(0.02 * torch.randn(2, width))
        self.shift = nn.Parameter(torch.zeros(2, width))
        self.attention = ChunkAttention(width, values, chunk, weighting, bias)
        self.hidden = nn.Linear(values, channels, bias=False)
        for linear in (self.value, self.gates, self.hidden):
            nn.init.normal_(linear.weight, std=0.02)
        for linear in (self.value, self.gates):
            nn.init.zeros_(linear.bias)

    def step(self, x: Tensor, state: tuple[State, State] | None, last: bool) -> tuple[Tensor, State]:
        """Remember, attend, and let gates decide what of it replaces the input."""
        remembered, attended = state or (None, None)
        normed = self.norm(x)
        memory, remembered = self.memory(normed, remembered, last=last)
        update, shared, reset, hidden = self.gates(memory).split(self.widths, -1)
        shared, reset = functional.silu(shared), functional.silu(reset)
        query, key = (shared * scale + shift for scale, shift in zip(self.scale, self.shift, strict=True))
        value = functional.silu(self.value(normed))
        y, attended = self.attention(torch.cat([query, key, value], -1), attended, last=last)
        hidden = functional.silu(hidden + self.hidden(y * reset))
        return x + torch.sigmoid(update) * (hidden - x), (remembered, attended)
