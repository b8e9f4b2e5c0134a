"""The gated transformer block for CPUs: the same numbers, computed in tiles through buffers that are kept.

Most of the time goes into matrix products, which this shares with the plain form. What it saves is what lies between:
- A tile of sequences goes through norm, products and residual before the next begins, and what lies between lives in
  buffers that every call uses again. Fresh memory costs more than the arithmetic on it: the system hands it out page
  by page, zeroed.
- Training keeps the gates and values of a unit, half of what the plain form keeps of it, and of attention what goes
  into its products, sorted by head. Norms, activations and the weights of long sequences are computed again.
- Gates and values lie in buffers of their own: the activation is slower on rows that alternate with others.

Attention over short sequences is two batched products and a softmax: there `scaled_dot_product_attention` is slower,
which reads long ones without a copy. Gradients are of first order.

Axes: batch time place dim; a row is one token, rows of a tile are in the order (batch, time, place).
"""

import threading
from collections.abc import Iterator
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

TILE = 2**20
"""Elements of a tile's widest buffer, 4 MiB: larger ones leave the cache, smaller ones repack the weights often."""
LONG = 96
"""Steps from which `scaled_dot_product_attention` is the faster one on a CPU."""
MOST_KEPT = 256
"""Steps up to which training keeps the weights of attention: they grow with the square of the steps."""


class Buffers(threading.local):
    """Memory that is used again: a few buffers a thread, none larger than TILE elements is kept."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Give an uninitialized tensor; its memory is handed out again when the name is next asked for."""
        size = prod(shape)
        flat = self.kept.get((name, like.dtype))
        if flat is None or len(flat) < size:
            with torch.inference_mode(False):
                flat = torch.empty(size, dtype=like.dtype)
            if size <= TILE:
                self.kept[name, like.dtype] = flat
        return flat[:size].view(shape)


take = Buffers().take


def space(name: str, like: Tensor, kept: dict[str, Tensor], rows: slice, *shape: int) -> Tensor:
    """Give a tile its rows of what is kept under this name, viewed in this shape, or a buffer if nothing is."""
    return kept[name][rows].view(shape) if name in kept else take(name, like, *shape)


def attend(x: Tensor, norm: nn.LayerNorm, qkv: Tensor, out: nn.Linear, heads: int, noise: Tensor | None) -> Tensor:
    """Compute x + noise * out(attention(norm(x))).

    Args:
        x: (batch, time, place, dim).
        norm: before the attention.
        qkv: (3 * heads * head_dim, dim) weight that makes queries, keys and values.
        out: from heads * head_dim to dim.
        heads: of attention.
        noise: broadcasts to x; None is 1.

    Returns:
        (batch, time, place, dim).
    """
    arguments = (x, norm.weight, norm.bias, qkv, out.weight, out.bias, noise, heads, norm.eps)
    return Attend.apply(*arguments) if torch.is_grad_enabled() else attend_tiles(*arguments, kept={})


def gate(
    x: Tensor, norm: nn.LayerNorm, into: nn.Linear, out: nn.Linear, inner: Tensor | None, noise: Tensor | None
) -> Tensor:
    """Compute x + noise * out(inner * silu(gate) * value) with (gate, value) = into(norm(x)).

    Args:
        x: (batch, time, place, dim).
        norm: before the unit.
        into: from dim to 2 * hidden, the gate first.
        out: from hidden to dim.
        inner: (batch, time, place, hidden); None is 1.
        noise: broadcasts to x; None is 1.

    Returns:
        (batch, time, place, dim).
    """
    arguments = (x, norm.weight, norm.bias, into.weight, into.bias, out.weight, out.bias, inner, noise, norm.eps)
    return Gate.apply(*arguments) if torch.is_grad_enabled() else gate_tiles(*arguments, kept={})


class Attend(Function):
    """`attend` with its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        qkv: Tensor,
        out_weight: Tensor,
        out_bias: Tensor,
        noise: Tensor | None,
        heads: int,
        epsilon: float,
    ) -> Tensor:
        """Compute, and keep what the gradient needs."""
        features, count = len(qkv), x[..., 0].numel()
        widths = {"heard": features // 3, "made": features}
        if x.shape[1] <= MOST_KEPT:
            widths = {"heard": features // 3, "heads": features, "weights": heads * x.shape[1]}
        kept = {name: x.new_empty(count, width) for name, width in widths.items()}
        ctx.save_for_backward(x, norm_weight, norm_bias, qkv, out_weight, noise, *kept.values())
        ctx.heads, ctx.epsilon, ctx.names = heads, epsilon, tuple(kept)
        return attend_tiles(x, norm_weight, norm_bias, qkv, out_weight, out_bias, noise, heads, epsilon, kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Send the gradient to x and the parameters, tile by tile."""
        x, norm_weight, norm_bias, qkv, out_weight, noise, *tensors = ctx.saved_tensors
        kept = dict(zip(ctx.names, tensors, strict=True))
        grad, dx = grads[0].contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        branch = Branch(norm_weight, norm_bias, ctx.epsilon, qkv)
        dout, dout_bias = torch.empty_like(out_weight), x.new_zeros(x.shape[-1])
        scale = (len(qkv) // 3 // ctx.heads) ** -0.5
        for at, rows in tiles(x, attention_width(x, len(qkv), ctx.heads)):
            shape = x[at].shape
            dy = rows_of(scaled(grad[at], noise, at, x), "dy")
            dout.addmm_(dy.t(), kept["heard"][rows], beta=min(rows.start, 1))
            dout_bias += dy.sum(0)
            sorted_shape = heads_shape(shape, 3, ctx.heads, len(qkv))
            heads = space("heads", x, kept, rows, *sorted_shape)
            weights = space("weights", x, kept, rows, *sorted_shape[1:3], shape[1])
            if "made" in kept:
                to_heads(kept["made"][rows], shape, heads)
                attention_weights(heads[0], heads[1], scale, weights)
            query, key, value = heads
            dheard = torch.mm(dy, out_weight, out=take("rows", x, len(dy), len(qkv) // 3))
            dheard = to_heads(dheard, shape, take("heard", x, 1, *sorted_shape[1:]))[0]
            dweights = torch.bmm(dheard, value.transpose(1, 2), out=take("scores", x, *weights.shape))
            dscores = take("dscores", x, *weights.shape)
            torch._softmax_backward_data(dweights, weights, -1, weights.dtype, grad_input=dscores).mul_(scale)
            parts = take("parts", x, *sorted_shape)
            torch.bmm(dscores, key, out=parts[0])
            torch.bmm(dscores.transpose(1, 2), query, out=parts[1])
            torch.bmm(weights.transpose(1, 2), dheard, out=parts[2])
            dmade = from_heads(parts, shape, take("made", x, len(dy), len(qkv)))
            branch.backward(x[at], [dmade], grad[at], dx[at], rows.start == 0)
        return dx, branch.dweight, branch.dbias, branch.dlinear, dout, dout_bias, None, None, None


def attend_tiles(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    noise: Tensor | None,
    heads: int,
    epsilon: float,
    kept: dict[str, Tensor],
) -> Tensor:
    """Compute `attend`; what `kept` has places for, (row, features) each, is written there."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    scale = (len(qkv) // 3 // heads) ** -0.5
    for at, rows in tiles(x, attention_width(x, len(qkv), heads)):
        tile = x[at]
        normed = functional.layer_norm(tile, norm_weight.shape, norm_weight, norm_bias, epsilon).flatten(0, 2)
        made = torch.mm(normed, qkv.t(), out=space("made", x, kept, rows, len(normed), len(qkv)))
        if tile.shape[1] < LONG or "weights" in kept:
            sorted_shape = heads_shape(tile.shape, 3, heads, len(qkv))
            query, key, value = to_heads(made, tile.shape, space("heads", x, kept, rows, *sorted_shape))
            weights = space("weights", x, kept, rows, *sorted_shape[1:3], tile.shape[1])
            attention_weights(query, key, scale, weights)
            answer = torch.bmm(weights, value, out=take("answer", x, *query.shape))
        else:
            query, key, value = by_head(made, tile.shape, 3, heads).flatten(1, 2)
            answer = functional.scaled_dot_product_attention(query, key, value)
        heard = from_heads(answer[None], tile.shape, space("heard", x, kept, rows, len(normed), len(qkv) // 3))
        branch = torch.addmm(out_bias, heard, out_weight.t(), out=take("branch", x, *normed.shape))
        add(tile, branch.view(tile.shape), noise, at, x, out=y[at])
    return y


def attention_width(x: Tensor, features: int, heads: int) -> int:
    """Count the widest row of an attention: queries, keys and values, or the weights of all heads."""
    return max(features, heads * x.shape[1])


def attention_weights(query: Tensor, key: Tensor, scale: float, out: Tensor) -> None:
    """Write softmax(scale query key^T) to `out`: (sequence, time, head_dim) twice to (sequence, time, time)."""
    scores = take("scores", query, *out.shape)
    torch.baddbmm(scores, query, key.transpose(1, 2), beta=0, alpha=scale, out=scores)
    torch.softmax(scores, -1, out=out)


def heads_shape(shape: torch.Size, parts: int, heads: int, features: int) -> tuple[int, int, int, int]:
    """Give the shape of rows sorted by head: (parts, batch * place * heads, time, head_dim)."""
    batch, time, place, _ = shape
    return parts, batch * place * heads, time, features // parts // heads


def by_head(rows: Tensor, shape: torch.Size, parts: int, heads: int) -> Tensor:
    """View rows (row, parts * heads * head_dim) by head: (parts, batch, place, heads, time, head_dim)."""
    batch, time, place, _ = shape
    return rows.view(batch, time, place, parts, heads, -1).permute(3, 0, 2, 4, 1, 5)


def to_heads(rows: Tensor, shape: torch.Size, out: Tensor) -> Tensor:
    """Sort rows (row, parts * heads * head_dim) by head into `out`, shaped as `heads_shape` says; return it."""
    parts, heads = len(out), out.shape[1] // (shape[0] * shape[2])
    rows = by_head(rows, shape, parts, heads)
    out.view(rows.shape).copy_(rows)
    return out


def from_heads(sorted_rows: Tensor, shape: torch.Size, out: Tensor) -> Tensor:
    """Sort (parts, ..., time, head_dim) back into `out`, rows (row, parts * heads * head_dim); return it."""
    parts, heads = len(sorted_rows), out.shape[1] // len(sorted_rows) // sorted_rows.shape[-1]
    rows = by_head(out, shape, parts, heads)
    rows.copy_(sorted_rows.reshape(rows.shape))
    return out


class Gate(Function):
    """`gate` with its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        into_weight: Tensor,
        into_bias: Tensor,
        out_weight: Tensor,
        out_bias: Tensor,
        inner: Tensor | None,
        noise: Tensor | None,
        epsilon: float,
    ) -> Tensor:
        """Compute, and keep what the gradient needs."""
        kept = {name: x.new_empty(x[..., 0].numel(), out_weight.shape[1]) for name in ("gate", "value")}
        ctx.save_for_backward(x, norm_weight, norm_bias, into_weight, out_weight, inner, noise, *kept.values())
        ctx.epsilon = epsilon
        return gate_tiles(
            x, norm_weight, norm_bias, into_weight, into_bias, out_weight, out_bias, inner, noise, epsilon, kept
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Send the gradient to x and the parameters, tile by tile."""
        x, norm_weight, norm_bias, into_weight, out_weight, inner, noise, gates, values = ctx.saved_tensors
        grad, dx = grads[0].contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        branch = Branch(norm_weight, norm_bias, ctx.epsilon, into_weight)
        hidden = out_weight.shape[1]
        dinto_bias, dout_bias = x.new_zeros(2, hidden), x.new_zeros(x.shape[-1])
        dout = torch.empty_like(out_weight)
        for at, rows in tiles(x, hidden):
            dy = rows_of(scaled(grad[at], noise, at, x), "dy")
            active, product, dproduct, dgate = (
                take(name, x, len(dy), hidden) for name in ("active", "product", "dproduct", "gate")
            )
            torch.mm(dy, out_weight, out=dproduct)
            torch.ops.aten.silu.out(gates[rows], out=active)
            torch.mul(active, values[rows], out=product)
            if inner is not None:
                dropped = inner[at].reshape(-1, hidden)
                product.mul_(dropped)
                dproduct.mul_(dropped)
            dout.addmm_(dy.t(), product, beta=min(rows.start, 1))
            dout_bias += dy.sum(0)
            dvalue = active.mul_(dproduct)
            dactive = dproduct.mul_(values[rows])
            torch.ops.aten.silu_backward.grad_input(dactive, gates[rows], grad_input=dgate)
            dinto_bias[0] += dgate.sum(0)
            dinto_bias[1] += dvalue.sum(0)
            branch.backward(x[at], [dgate, dvalue], grad[at], dx[at], rows.start == 0)
        dinto_bias = dinto_bias.flatten()
        return dx, branch.dweight, branch.dbias, branch.dlinear, dinto_bias, dout, dout_bias, None, None, None


def gate_tiles(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    into_weight: Tensor,
    into_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    inner: Tensor | None,
    noise: Tensor | None,
    epsilon: float,
    kept: dict[str, Tensor],
) -> Tensor:
    """Compute `gate`; "gate" and "value" (row, hidden) are written to `kept` if it has places for them."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    hidden = out_weight.shape[1]
    for at, rows in tiles(x, hidden):
        tile = x[at]
        normed = functional.layer_norm(tile, norm_weight.shape, norm_weight, norm_bias, epsilon).flatten(0, 2)
        gates, values = (space(name, x, kept, rows, len(normed), hidden) for name in ("gate", "value"))
        torch.addmm(into_bias[:hidden], normed, into_weight[:hidden].t(), out=gates)
        torch.addmm(into_bias[hidden:], normed, into_weight[hidden:].t(), out=values)
        product = torch.ops.aten.silu.out(gates, out=take("product", x, *gates.shape)).mul_(values)
        if inner is not None:
            product.mul_(inner[at].reshape(product.shape))
        branch = torch.addmm(out_bias, product, out_weight.t(), out=take("branch", x, *normed.shape))
        add(tile, branch.view(tile.shape), noise, at, x, out=y[at])
    return y


class Branch:
    """The way back through the norm and the first linear map of a branch; sums the gradients of both.

    Args:
        weight: of the norm.
        bias: of the norm.
        epsilon: of the norm.
        linear: (features, dim) weight of the linear map.
    """

    def __init__(self, weight: Tensor, bias: Tensor, epsilon: float, linear: Tensor) -> None:
        self.weight, self.bias, self.epsilon, self.linear = weight, bias, epsilon, linear
        self.dweight, self.dbias = torch.zeros_like(weight), torch.zeros_like(bias)
        self.dlinear = torch.empty_like(linear)

    def backward(self, x: Tensor, dmade: list[Tensor], grad: Tensor, dx: Tensor, first: bool) -> None:
        """Write the gradient of a tile to dx, and sum up those of the parameters.

        Args:
            x: (batch, time, place, dim) a tile of the input.
            dmade: gradients of what the linear map made, (row, some of the features) each.
            grad: the gradient of the output, which reaches x along the residual too.
            dx: shaped like x, written to.
            first: whether this is the first tile.
        """
        rows, dim = rows_of(x, "x"), self.weight.shape
        normed, mean, rstd = torch.native_layer_norm(rows, dim, self.weight, self.bias, self.epsilon)
        dnormed, start = take("branch", x, *rows.shape), 0
        for part in dmade:
            features = slice(start, start + part.shape[1])
            self.dlinear[features].addmm_(part.t(), normed, beta=0 if first else 1)
            dnormed.addmm_(part, self.linear[features], beta=min(start, 1))
            start = features.stop
        back, dweight, dbias = torch.ops.aten.native_layer_norm_backward(
            dnormed, rows, dim, mean, rstd, self.weight, self.bias, [True, True, True]
        )
        self.dweight += dweight
        self.dbias += dbias
        torch.add(grad, back.view(x.shape), out=dx)


def rows_of(tile: Tensor, buffer: str) -> Tensor:
    """Give a tile's rows (row, dim), copied to a buffer where they have gaps."""
    if not tile.is_contiguous():
        tile = take(buffer, tile, *tile.shape).copy_(tile)
    return tile.view(-1, tile.shape[-1])


def tiles(x: Tensor, width: int) -> Iterator[tuple[tuple[slice, slice, slice], slice]]:
    """Cut (batch, time, place, dim) into whole sequences, as many as TILE holds with `width` features a row.

    Yields:
        The index of a tile in x, and the range of its rows where tiles lie one after the other.
    """
    batch, time, place, _ = x.shape
    sequences = max(1, TILE // (time * width))
    batches, places = (1, evenly(place, sequences)) if sequences < place else (evenly(batch, sequences // place), place)
    start = 0
    for i in range(0, batch, batches):
        for j in range(0, place, places):
            stop = start + (min(i + batches, batch) - i) * time * (min(j + places, place) - j)
            yield (slice(i, i + batches), slice(None), slice(j, j + places)), slice(start, stop)
            start = stop


def evenly(count: int, most: int) -> int:
    """Give the size, `most` at most, that cuts a count into as few parts as can be, all alike."""
    return ceil(count / ceil(count / most))


def add(tile: Tensor, branch: Tensor, noise: Tensor | None, at: tuple[slice, ...], x: Tensor, out: Tensor) -> None:
    """Write tile + noise * branch to `out`."""
    if noise is None:
        torch.add(tile, branch, out=out)
    else:
        torch.addcmul(tile, branch, noise.expand(x.shape)[at], out=out)


def scaled(grad: Tensor, noise: Tensor | None, at: tuple[slice, ...], x: Tensor) -> Tensor:
    """Multiply a tile's gradient by its noise."""
    return grad if noise is None else grad * noise.expand(x.shape)[at]
