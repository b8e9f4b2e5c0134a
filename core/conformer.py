"""The Conformer layer with a cache, and a stack of such layers, as in FastConformer.

Gulati et al.: "Conformer: Convolution-augmented Transformer for Speech Recognition", 2020. Different, as in the
cache-aware models of Noroozi et al. 2023: convolutions may be causal, and LayerNorm may take BatchNorm's place. Axes:
batch time width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.core.block import Block, Window, mask_beyond
from wavecast.core.dropout import dropout
from wavecast.core.groups import Chain
from wavecast.core.ops.depthwise import depthwise
from wavecast.core.relative_attention import Context, RelativeAttention, beyond
from wavecast.core.state import State, Tail, own, state

NORMS = ("layer", "batch")


class FeedForward(nn.Module):
    """Two linear layers with SiLU between them: (..., width) to the same.

    Args:
        width: in and out.
        hidden: between the two.
        bias: of both.
        dropout: between the two.
    """

    def __init__(self, width: int, hidden: int, bias: bool, dropout: float) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, hidden, bias), nn.Linear(hidden, width, bias)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Widen, bend, narrow."""
        return self.linear2(dropout(functional.silu(self.linear1(x)), self.dropout, self.training))


class TimeConvolution(Window):
    """Every channel filtered along time by its own taps: (batch, time, channel) to the same.

    Args:
        channels: of the last axis.
        taps: of each, the oldest first.
        causal: reads the current step and those before it; otherwise half of the taps lie ahead.
        bias: added to every channel.
    """

    def __init__(self, channels: int, taps: int, causal: bool = True, bias: bool = True) -> None:
        ahead = 0 if causal else (taps - 1) // 2
        super().__init__(taps, left=taps - 1 - ahead, right=ahead)
        bound = taps**-0.5
        self.weight = nn.Parameter(torch.empty(channels, taps).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound)) if bias else None

    def operator(self, x: Tensor) -> Tensor:
        """Filter the whole windows."""
        return self.filter(x)

    def step(self, x: Tensor, state: Tail | None, last: bool) -> tuple[Tensor, Tail]:
        """Filter the next piece; a whole sequence needs no copy with zeros around it."""
        if state is None and last:
            return self.filter(x, self.left, self.right), Tail(x)
        return super().step(x, state, last)

    def filter(self, x: Tensor, left: int = 0, right: int = 0) -> Tensor:
        """Correlate, with that many zeros around."""
        y = depthwise(x, self.weight, left=left, right=right)
        return y if self.bias is None else y + self.bias


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalization of (batch, time, channel) whose statistics count the valid steps only."""

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Normalize; in training by the steps that are not hidden, bool (batch, time)."""
        if hidden is None or not self.training:
            return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        y = torch.zeros_like(x)
        y[~hidden] = super().forward(x[~hidden])
        return y


class ConvolutionModule(Block):
    """Pointwise, gate, filter along time, norm, SiLU, pointwise: (batch, time, width) to the same.

    Args:
        width: in and out.
        kernel: taps along time.
        causal: without look-ahead, or with (kernel - 1) / 2 steps on each side.
        norm: "layer" or "batch".
        bias: of the convolutions.

    Raises:
        ValueError: an even kernel that is not causal, or an unknown norm.
    """

    def __init__(self, width: int, kernel: int, causal: bool = True, norm: str = "layer", bias: bool = True) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm {norm!r} of the convolution\nhint: one of {', '.join(NORMS)}")
        if kernel < 1 or not (causal or kernel % 2):
            raise ValueError(f"a convolution of {kernel} taps has no middle\nhint: take an odd kernel")
        self.expand = nn.Linear(width, 2 * width, bias)
        self.depthwise = TimeConvolution(width, kernel, causal, bias)
        self.norm = nn.LayerNorm(width) if norm == "layer" else MaskedBatchNorm(width)
        self.contract = nn.Linear(width, width, bias)
        self.lookahead = self.depthwise.lookahead

    def step(self, x: Tensor, state: Tail | None, last: bool) -> tuple[Tensor, State]:
        """Process the next piece; the state is what the filter still needs."""
        return self.convolve(x, state, last, None)

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Process a padded batch: the filter must find zeros beyond the end of a row."""
        x = mask_beyond(x, lengths)
        return self.convolve(x, None, True, beyond(x, lengths))

    def convolve(self, x: Tensor, state: Tail | None, last: bool, hidden: Tensor | None) -> tuple[Tensor, Tail]:
        """Process the next piece, or a whole batch whose steps are `hidden`, bool (batch, time), where they are not."""
        y = functional.glu(self.expand(x), -1)
        if hidden is not None:
            y = y.masked_fill(hidden[:, :, None], 0)
        y, after = self.depthwise(y, state, last=last)
        y = self.norm(y, hidden) if isinstance(self.norm, MaskedBatchNorm) else self.norm(y)
        return self.contract(functional.silu(y)), after


@state
class LayerState:
    """What a layer remembers.

    attending, convolving: (batch, time, width), what waits beside the attention and beside the convolution.
    context: of the attention.
    tail: of the convolution.
    """

    attending: Tensor
    convolving: Tensor
    context: Context
    tail: Tail


class ConformerLayer(Block):
    """Half a feed-forward, attention, convolution, half a feed-forward, each residual; then a norm.

    Args:
        width: in and out, (batch, time, width).
        heads: of the attention.
        kernel: taps of the convolution.
        expansion: of the feed-forward layers, in widths.
        left: attention context, in steps.
        right: its look-ahead.
        style: of the context, "chunked_limited" or "regular".
        causal: the convolution.
        norm: in the convolution, "layer" or "batch".
        bias: of linear layers and convolutions.
        dropout: inside the feed-forward layers, and of what each part adds.
        dropout_attention: of the attention's weights.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kernel: int = 9,
        expansion: int = 4,
        left: int = 70,
        right: int = 0,
        style: str = "chunked_limited",
        causal: bool = True,
        norm: str = "layer",
        bias: bool = True,
        dropout: float = 0.0,
        dropout_attention: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_feed_forward1 = nn.LayerNorm(width)
        self.feed_forward1 = FeedForward(width, expansion * width, bias, dropout)
        self.norm_attention = nn.LayerNorm(width)
        self.attention = RelativeAttention(width, heads, left, right, style, bias, dropout_attention)
        self.norm_convolution = nn.LayerNorm(width)
        self.convolution = ConvolutionModule(width, kernel, causal, norm, bias)
        self.norm_feed_forward2 = nn.LayerNorm(width)
        self.feed_forward2 = FeedForward(width, expansion * width, bias, dropout)
        self.norm_out = nn.LayerNorm(width)
        self.dropout = dropout
        self.needs_all, self.instead = self.attention.needs_all, self.attention.instead
        self.declare()

    def choose_context(self, left: int, right: int) -> None:
        """Set how far a step sees, and declare look-ahead and period anew."""
        self.attention.choose_context(left, right)
        self.declare()

    def declare(self) -> None:
        """Take look-ahead and period from the parts."""
        self.lookahead, self.period = reach([self]), self.attention.period

    def needed(self, step: int | float) -> int | float:
        """Tell the last input step that an output step depends on."""
        return self.attention.needed(step + self.convolution.lookahead)

    def step(self, x: Tensor, state: LayerState | None, last: bool) -> tuple[Tensor, State]:
        """Process the next piece."""
        return self.go_on(x, state, last, None)

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Process a padded batch."""
        x = mask_beyond(x, lengths)
        return self.go_on(x, None, True, beyond(x, lengths))

    def go_on(self, x: Tensor, state: LayerState | None, last: bool, hidden: Tensor | None) -> tuple[Tensor, State]:
        """Process the next piece, or a whole batch whose steps are `hidden`, bool (batch, time), where they are not."""
        attending = convolving = context = tail = None
        if state is not None:
            attending, convolving, context, tail = state.attending, state.convolving, state.context, state.tail
        x = torch.add(x, self.drop(self.feed_forward1(self.norm_feed_forward1(x))), alpha=0.5)
        y, context = self.attention.attend(self.norm_attention(x), context, last, hidden)
        x, attending = meet(attending, x, self.drop(y))
        y, tail = self.convolution.convolve(self.norm_convolution(x), tail, last, hidden)
        x, convolving = meet(convolving, x, self.drop(y))
        x = torch.add(x, self.drop(self.feed_forward2(self.norm_feed_forward2(x))), alpha=0.5)
        return self.norm_out(x), () if last else LayerState(attending, convolving, context, tail)

    def drop(self, x: Tensor) -> Tensor:
        """Drop of what a part adds, in training."""
        return dropout(x, self.dropout, self.training)


def meet(waiting: Tensor | None, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Add what came out of a part to the steps that went in; those whose answer is not there yet wait."""
    if waiting is not None and waiting.shape[1]:
        x = torch.cat([waiting, x], 1)
    ready = y.shape[1]
    if ready == x.shape[1]:
        return x + y, x.new_empty(x.shape[0], 0, x.shape[2])
    return x[:, :ready] + y, own(x[:, ready:])


def reach(layers: list["ConformerLayer"]) -> int | float:
    """Find the look-ahead of layers on top of each other: with chunks on one grid it does not add up."""
    furthest: int | float = 0
    for step in range(layers[0].attention.chunk if layers else 0):
        needed: int | float = step
        for layer in reversed(layers):
            needed = layer.needed(needed)
        furthest = max(furthest, needed - step)
    return furthest


class Conformer(Chain):
    """Layers on top of each other: (batch, time, width) to the same.

    Args:
        layers: equal ones, in one attention context.
    """

    def __init__(self, *layers: ConformerLayer) -> None:
        super().__init__(*layers)
        self.declare()

    def choose_context(self, left: int, right: int) -> None:
        """Set how far a step of every layer sees, and declare look-ahead and period anew."""
        for layer in self.children():
            layer.choose_context(left, right)
        self.declare()

    def declare(self) -> None:
        """Take look-ahead and period from the layers."""
        layers = list(self.children())
        self.lookahead = reach(layers)
        self.period = layers[0].period
        self.needs_all, self.instead = layers[0].needs_all, layers[0].instead

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Process a padded batch; where its rows end is worked out once for all layers."""
        x, hidden = mask_beyond(x, lengths), beyond(x, lengths)
        for layer in self.children():
            x, _ = layer.go_on(x, None, True, hidden)
        return x, ()
