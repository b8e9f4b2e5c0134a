"""Attention with relative positions over a limited context: it streams with its keys and values cached.

Relative positions: Dai et al.: "Transformer-XL", 2019, section 3.3. Chunks with look-ahead: Noroozi et al.: "Stateful
Conformer with Cache-based Inference for Streaming Automatic Speech Recognition", 2023. Axes: batch time width; inside
batch head time feature.
"""

from math import inf, log

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.core.block import Block, mask_beyond
from wavecast.core.dropout import dropout
from wavecast.core.state import State, own, state

STYLES = ("chunked_limited", "regular")
TILE = 64  # queries of one product: with a limited context the memory of a long file stays small, and its cost linear
HIDDEN = -1e30  # score of a key that must not be seen; finite, because a row of nothing else must stay a number


@state
class Context:
    """Keys and values that later queries may ask for, the newest last.

    The places of the past are of a fixed number and filled from the right; `count` tells how many are. A cache that
    grows with the stream until it is full would be simpler, but streams whose state shapes differ cannot be batched:
    each would run alone through its first seconds. So rows of a batch may be of any age.

    keys: (batch, head, left + chunk + waiting, feature); values: the same.
    queries: (batch, waiting, head, feature), of frames whose context is not complete; their number is the phase.
    count: (batch,) places of the past that are filled.
    """

    keys: Tensor
    values: Tensor
    queries: Tensor
    count: Tensor


class RelativeAttention(Block):
    """Multi-head attention by content and distance: (batch, time, width) to the same.

        score(i, j) = ((q_i + u) k_j + (q_i + v) W_pos r_(i - j)) / sqrt(features of a head)

    r are sinusoids of the distance. "chunked_limited": time is cut into chunks of right + 1 steps; a step sees its own
    chunk and the left / (right + 1) chunks before it, so that layers on top of each other look no further ahead.
    "regular": a step sees `left` steps before itself and `right` behind, and layers add up. -1 is all there is on that
    side; such attention needs the whole sequence.

    Args:
        width: in and out.
        heads: they divide the width.
        left: steps of the past, -1 for all.
        right: steps of look-ahead, -1 for all.
        style: "chunked_limited" or "regular".
        bias: of the projections.
        dropout: of the weights.

    Raises:
        ValueError: heads, context or style do not fit.
    """

    needs_all = "its context has no limit"
    instead = "call it once with all of it, or choose a context with limits, like 70 steps left and 13 right"

    def __init__(
        self,
        width: int,
        heads: int,
        left: int = 70,
        right: int = 0,
        style: str = "chunked_limited",
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads or width % 2:
            hint = "take an even width that the heads divide"
            raise ValueError(f"width {width} does not split into {heads} heads\nhint: {hint}")
        if style not in STYLES:
            raise ValueError(f"attention context style {style!r}\nhint: one of {', '.join(STYLES)}")
        self.heads, self.style, self.dropout = heads, style, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias) for _ in range(4))
        self.position = nn.Linear(width, width, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, width // heads))
        self.position_bias = nn.Parameter(torch.zeros(heads, width // heads))
        self._table: tuple[tuple[object, ...], int, int, Tensor] | None = None
        self.choose_context(left, right)

    def choose_context(self, left: int, right: int) -> None:
        """Set how far a step sees, and declare look-ahead and period anew.

        Raises:
            ValueError: a number below -1, or chunks that do not divide the past.
        """
        if min(left, right) < -1:
            raise ValueError(f"attention context [{left}, {right}]\nhint: steps on each side, -1 for all")
        chunk = right + 1 if self.style == "chunked_limited" and right >= 0 else 1
        if left > 0 and left % chunk:
            raise ValueError(
                f"attention context [{left}, {right}]: chunks of {chunk} steps do not divide {left}\n"
                f"hint: a multiple of {chunk} on the left, like {left // chunk * chunk or chunk}"
            )
        self.left, self.right, self.chunk = left, right, chunk
        self.lookahead = inf if -1 in (left, right) else right
        self.period = chunk

    def needed(self, step: int | float) -> int | float:
        """Tell the last input step that an output step sees."""
        if self.right < 0:
            return inf
        return (step // self.chunk + 1) * self.chunk - 1 if self.chunk > 1 else step + self.right

    def step(self, x: Tensor, state: Context | None, last: bool) -> tuple[Tensor, State]:
        """Attend for the steps whose context is complete; the others wait."""
        return self.attend(x, state, last, None)

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Attend within the valid steps of each row; a row of nothing gives zeros."""
        x = mask_beyond(x, lengths)
        y, state = self.attend(x, None, True, beyond(x, lengths))
        return mask_beyond(y, lengths), state

    def attend(self, x: Tensor, state: Context | None, last: bool, hidden: Tensor | None) -> tuple[Tensor, State]:
        """Process the next piece, or a whole batch whose steps are `hidden`, bool (batch, time), where they are not."""
        queries, keys, values = (
            linear(x).unflatten(2, (self.heads, -1)) for linear in (self.query, self.key, self.value)
        )
        queries = queries * queries.shape[3] ** -0.5
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        total, past = x.shape[1], 0
        if state is None:
            keys, values = keys.contiguous(), values.contiguous()  # one copy here spares one for every tile
        else:
            # As many places go as come, but none that the first waiting step still sees.
            drop = min(total, self.chunk)
            keys = torch.cat([state.keys[:, :, drop:], keys], 2)
            values = torch.cat([state.values[:, :, drop:], values], 2)
            if state.queries.shape[1]:
                queries = torch.cat([state.queries, queries], 1)
            total, past = queries.shape[1], self.left + self.chunk - drop
            hidden = torch.arange(past + total, device=x.device) < past - state.count[:, None]
        ready = total if last else self.ready(total)
        y = self.out(self.mix(queries, keys, values, past, ready, hidden).flatten(2))
        if last:
            return y, ()
        places = self.left + self.chunk + total - ready
        count = ready if state is None else state.count + ready
        filled = queries.new_zeros(len(x), dtype=torch.int64).add_(count).clamp_max_(self.left + self.chunk)
        return y, Context(newest(keys, places), newest(values, places), own(queries[:, ready:]), filled)

    def ready(self, steps: int) -> int:
        """Count the steps whose context is complete."""
        return steps // self.chunk * self.chunk if self.chunk > 1 else max(0, steps - self.right)

    def mix(
        self, queries: Tensor, keys: Tensor, values: Tensor, past: int, ready: int, hidden: Tensor | None
    ) -> Tensor:
        """Mix the values for the first `ready` queries: (batch, ready, head, feature).

        Args:
            queries: (batch, time, head, feature), scaled.
            keys: (batch, head, past + time, feature).
            values: the same.
            past: keys before that of the first query.
            ready: queries to answer.
            hidden: (batch, past + time), keys that nobody sees, or None.
        """
        total, size = queries.shape[1], self.chunk * max(1, TILE // self.chunk)
        spans = []
        for start in range(0, ready, size):
            end = min(start + size, ready)
            first = -past if self.left < 0 else max(start - self.left, -past)
            behind = total if self.right < 0 else end if self.chunk > 1 else min(end + self.right, total)
            spans.append((start, end, first, behind))
        if not spans:
            return queries[:, :0]
        most = max(end - 1 - first for _, end, first, _ in spans)
        least = min(start + 1 - behind for start, _, _, behind in spans)
        table = self.table(most, least)
        mixed = []
        for start, end, first, behind in spans:
            seen = slice(past + first, past + behind)
            weights = self.weigh(
                queries[:, start:end],
                keys[:, :, seen],
                table[:, :, most - (end - 1 - first) : most - (start - behind)],
                self.blind(start, end, first, behind),
                None if hidden is None else hidden[:, seen],
            )
            mixed.append((weights @ values[:, :, seen]).transpose(1, 2))
        return torch.cat(mixed, 1) if len(mixed) > 1 else mixed[0]

    def weigh(
        self, queries: Tensor, keys: Tensor, table: Tensor, blind: Tensor | None, hidden: Tensor | None
    ) -> Tensor:
        """Compute the weights of keys for queries: (batch, head, query, key).

        The term of the distance is a product with every distance that occurs, row i of which holds the keys of query i
        from place (queries - 1 - i) on: read with a row stride one shorter than the rows, they lie in columns.
        """
        batch, time, heads, features = queries.shape
        scale = features**-0.5
        by_content = (queries + self.content_bias * scale).transpose(1, 2) @ keys.transpose(2, 3)
        asking = (queries + self.position_bias * scale).permute(2, 0, 1, 3).reshape(heads, batch * time, features)
        by_distance = torch.bmm(asking, table)
        rows = table.shape[2]
        strides = (time * rows, batch * time * rows, rows - 1, 1)
        shifted = by_distance.as_strided((batch, heads, time, keys.shape[2]), strides, time - 1)
        scores = by_content.add_(shifted)
        # Hidden keys get the weight zero, which lets no gradient through: hiding them needs none of its own.
        if blind is not None:
            scores.detach().masked_fill_(blind, HIDDEN)
        if hidden is not None:
            scores.detach().masked_fill_(hidden[:, None, None], HIDDEN)
        weights = scores.softmax(-1, dtype=None if scores.dtype == torch.float64 else torch.float32)
        return dropout(weights.to(keys.dtype), self.dropout, self.training)

    def blind(self, start: int, end: int, first: int, behind: int) -> Tensor | None:
        """Tell which of the keys [first, behind) each of the queries [start, end) must not see; None: it sees all."""
        if end - start <= self.chunk:
            return None
        device = self.content_bias.device
        query = torch.arange(start, end, device=device)[:, None]
        key = torch.arange(first, behind, device=device)
        if self.chunk > 1:
            query, key = query // self.chunk * self.chunk, key // self.chunk * self.chunk
        hidden = torch.zeros(end - start, behind - first, dtype=torch.bool, device=device)
        if self.left >= 0:
            hidden |= key < query - self.left
        if self.right >= 0:
            hidden |= key > query + (0 if self.chunk > 1 else self.right)
        return hidden

    def table(self, most: int, least: int) -> Tensor:
        """Give W_pos r for the distances from `most` down to `least`: (head, feature, distance).

        Where no gradient is asked for it is kept, until the weights or autocast change or larger distances come.
        """
        weight = self.position.weight
        if torch.is_grad_enabled() or weight.is_inference() or self.lookahead == inf:
            return self.project(most, least)
        mixed = torch.is_autocast_enabled(weight.device.type)
        key = (weight.data_ptr(), weight._version, weight.dtype, weight.device, mixed)
        if self._table is None or self._table[0] != key:
            self._table = (key, most, least, self.project(most, least))
        _, held_most, held_least, rows = self._table
        if most > held_most or least < held_least:
            held_most, held_least = max(most, held_most), min(least, held_least)
            rows = self.project(held_most, held_least)
            self._table = (key, held_most, held_least, rows)
        return rows[:, :, held_most - most : held_most - least + 1]

    def project(self, most: int, least: int) -> Tensor:
        """Compute W_pos r."""
        weight = self.position.weight
        rows = sinusoids(most, least, weight.shape[1], weight).to(weight.dtype)
        return self.position(rows).unflatten(1, (self.heads, -1)).permute(1, 2, 0)


def sinusoids(most: int, least: int, width: int, like: Tensor) -> Tensor:
    """Give r_d for the distances d from `most` down to `least`: (distance, width), sine and cosine interleaved."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    distance = torch.arange(most, least - 1, -1, dtype=dtype, device=like.device)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, dtype=dtype, device=like.device) * (-log(10_000) / width))
    angle = distance * frequency
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)


def newest(x: Tensor, places: int) -> Tensor:
    """Give the newest places of (batch, head, time, feature), zeros before them where time is shorter."""
    missing = places - x.shape[2]
    if missing == 0 and x.is_contiguous():
        return x
    return own(functional.pad(x, (0, 0, missing, 0)))


def beyond(x: Tensor, lengths: Tensor) -> Tensor:
    """Tell which steps lie beyond the lengths: bool (batch, time)."""
    return torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
