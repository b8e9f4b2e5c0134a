"""MossFormer for inference on the CPU: the numbers of `mossformer.py`, and little time but for its matrix products.

What makes it fast, in the order of what it saves:
- Layers run in tiles of some frames that stay in the cache, through buffers that all layers use again: fresh memory
  costs more than the arithmetic on it. Only what needs the whole signal, the linear attention and the statistics over
  time, ends a run through the tiles.
- Maps of one input are one matrix product and one filter, with the norms' scales folded into their weights; what an
  attention's keys and queries have in common is computed once.
- The grouped convolution of the dilated memory is depthwise: its input comes in an order in which the two channels
  that an output reads lie a constant distance apart. Two steps are seen as one of twice the channels, so that its
  dilation is none.

Axes: one signal at a time, (time, channel).
"""

import copy
from collections.abc import Iterator
from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.core.block import Block
from wavecast.core.flash import ROTATED, SMALLEST_NORM, Flash, ResidualFilter, waves
from wavecast.core.fsmn import DilatedDense
from wavecast.core.gated_fsmn import GatedFSMN
from wavecast.core.mossformer import MossFormer
from wavecast.core.normalization import EPSILON
from wavecast.core.ops.depthwise import depthwise
from wavecast.core.state import State

TILE = 256
"""Frames of a tile through the wide maps of the attention: 2 MiB at full size."""
NARROW_TILE = 1024
"""Frames of a tile through the memory."""


class FastMossFormer(Block):
    """The inference form of a MossFormer that needs the whole signal: (batch, time, inputs) to the same masks.

    Args:
        network: trained, on the CPU; its weights are copied in folded form, later changes to it do not reach this one.

    Raises:
        ValueError: the network is causal.
    """

    lookahead = inf
    needs_all = MossFormer.needs_all
    instead = MossFormer.instead

    def __init__(self, network: MossFormer) -> None:
        super().__init__()
        if network.lookahead != inf:
            raise ValueError("a causal MossFormer has no faster form\nhint: stream it as it is")
        parts = dict(network.named_children())
        stack = dict(parts["layers"].inner.named_children())
        norms = parts["norm"], stack.pop("norm").function, stack.pop("norm_out")
        self.norm, self.norm_stack, self.norm_out = copy.deepcopy(norms)
        maps = parts["project"].function, parts["masks"].function, parts["position"].scale
        self.project, self.masks, self.scale = copy.deepcopy(maps)
        with torch.no_grad():
            self.layers = nn.ModuleList(FastLayer(pair.attention, pair.memory) for pair in stack.values())
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Predict masks of whole signals, one after the other."""
        return torch.stack([self.whole(one) for one in x]), ()

    def whole(self, x: Tensor) -> Tensor:
        """Predict the masks of one signal (time, inputs)."""
        masks = [self.masks(tile) for tile in self.hidden(x).split(NARROW_TILE)]
        return torch.cat(masks)

    def hidden(self, x: Tensor) -> Tensor:
        """Give what the masks are made of: (time, inputs) to (time, width)."""
        start = self.project(self.norm(x[None])[0][0])
        if not len(x):
            return start
        half, position = start.shape[1] // 2, torch.arange(len(x))
        cosine, sine = waves(position, half, x.dtype)
        start[:, :half].add_(sine * self.scale)
        start[:, half:].add_(cosine * self.scale)
        y = start.clone()
        room = Room(y, max(layer.width for layer in self.layers))
        turns = waves(position, self.layers[0].attention.pairs, x.dtype)
        for layer in self.layers:
            layer(y, room, *turns)
        for tile in y.split(NARROW_TILE):
            tile.copy_(self.norm_stack(tile))
        return self.norm_out(y[None])[0][0].add_(start)


class Room:
    """Memory that all layers use in turn.

    Args:
        like: (time, ...), whose length and kind it has.
        width: numbers for every step.
    """

    def __init__(self, like: Tensor, width: int) -> None:
        self.steps = len(like) + len(like) % 2  # an even number: memories see two steps as one
        self.memory = like.new_empty(self.steps * width)

    def split(self, *widths: int) -> list[Tensor]:
        """Give buffers (steps, width) side by side; what was in the memory is lost."""
        sizes = [self.steps * width for width in widths]
        parts = self.memory[: sum(sizes)].split(sizes)
        return [part.view(self.steps, width) for part, width in zip(parts, widths, strict=True)]


class FastLayer(nn.Module):
    """A pair of attention and memory: changes (time, channel) in place."""

    def __init__(self, attention: Flash, memory: GatedFSMN) -> None:
        super().__init__()
        self.attention, self.memory = FastFlash(attention), FastMemory(memory)
        self.width = max(self.attention.width, self.memory.width)

    def forward(self, x: Tensor, room: Room, cosine: Tensor, sine: Tensor) -> None:
        """Add what both make of it."""
        self.attention(x, room, cosine, sine)
        self.memory(x, room)


class FastFlash(nn.Module):
    """The attention: changes (time, channel) in place."""

    def __init__(self, flash: Flash) -> None:
        super().__init__()
        values, keys, out = (dict(part.named_children()) for part in (flash.to_hidden, flash.to_qk, flash.to_out))
        self.group, self.hidden = flash.group, values["linear"].function.out_features
        inner = keys["linear"].function.out_features
        self.pairs = min(ROTATED, inner) // 2
        order = torch.arange(inner)  # of queries and keys: turning pairs lie side by side as two blocks
        order[: 2 * self.pairs] = order[: 2 * self.pairs].unflatten(0, (-1, 2)).T.flatten()

        maps = [(part["linear"].function, part["norm"].function.scale) for part in (values, keys)]
        weights = [linear.weight * scale for linear, scale in maps]
        biases = [linear.bias for linear, _ in maps]
        filters = [folded(part["filter"]) for part in (values, keys)]
        for tensors in (weights, biases, filters):
            tensors[1] = tensors[1][order]
        self.weight, self.bias, self.filter = (torch.cat(tensors) for tensors in (weights, biases, filters))
        self.left = values["filter"].left

        copies = torch.tensor([1 / flash.group, 1, 1, 1])[:, None]  # the direct attention is divided by the group
        self.key_scale, self.key_shift = ((one * copies)[:, None, order] for one in (flash.scale, flash.shift))
        self.weight_out = out["linear"].function.weight * out["norm"].function.scale
        self.bias_out, self.filter_out = out["linear"].function.bias.clone(), folded(out["filter"])
        self.widths = self.hidden, inner, len(self.weight_out)
        self.width = sum(self.widths)

    def forward(self, x: Tensor, room: Room, cosine: Tensor, sine: Tensor) -> None:
        """Make values and the linear attention's product, attend group by group, and add the result."""
        hidden, origins, out = room.split(*self.widths)
        product = self.project(x, hidden, origins, cosine, sine)
        for start, stop in self.spans(len(x)):
            values = hidden[start:stop]
            query, distant, key = self.turned(origins[start:stop], slice(3), cosine[start:stop], sine[start:stop])
            gated = gate_(self.direct(query, key, values).addmm_(distant, product), values)
            out[start:stop] = linear(gated * to_one(gated), self.weight_out, self.bias_out, silu=True)
        for start, stop, y in filtered(out[: len(x)], self.filter_out, self.left):
            x[start:stop].add_(y)

    def spans(self, time: int) -> Iterator[tuple[int, int]]:
        """Give beginnings and ends of whole groups, as many at a time as fill a tile, and of what is left over."""
        many, whole = max(TILE // self.group, 1) * self.group, time // self.group * self.group
        for start in range(0, whole, many):
            yield start, min(start + many, whole)
        if whole < time:
            yield whole, time

    def direct(self, query: Tensor, key: Tensor, values: Tensor) -> Tensor:
        """Attend directly within groups: (time, width) and (time, hidden) to (time, hidden)."""
        if len(query) <= self.group:
            weights = linear(query, key).relu_()
            return linear(weights.mul_(weights), values.T)
        query, key, values = (one.unflatten(0, (-1, self.group)) for one in (query, key, values))
        weights = torch.bmm(query, key.transpose(1, 2)).relu_()
        return torch.bmm(weights.mul_(weights), values).flatten(0, 1)

    def project(self, x: Tensor, hidden: Tensor, origins: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Write values and what queries and keys are made of; give keys times values over time.

        The filter looks ahead, so a tile's last steps wait for the next one.
        """
        time, reach = len(x), self.filter.shape[1] - 1
        held = x.new_empty(min(TILE, time) + 2 * reach, len(self.weight))
        product = x.new_zeros(origins.shape[1], self.hidden)
        past, done = held[: self.left].zero_(), 0
        for start in range(0, time, TILE):
            stop = min(start + TILE, time)
            held[: len(past)] = past
            held[len(past) : len(past) + stop - start] = linear(
                shifted(x, start, stop), self.weight, self.bias, silu=True
            )
            ahead = reach - self.left if stop == time else 0
            end = len(past) + stop - start + ahead
            held[end - ahead : end] = 0
            y = depthwise(held[None, :end], self.filter)[0]
            ready = slice(done, done + len(y))
            hidden[ready], origins[ready] = y[:, : self.hidden], y[:, self.hidden :]
            (key,) = self.turned(origins[ready], slice(3, 4), cosine[ready], sine[ready])
            product.addmm_(key.T, hidden[ready])
            done += len(y)
            past = held[end - reach : end]
        return product.div_(time)

    def turned(self, z: Tensor, heads: slice, cosine: Tensor, sine: Tensor) -> Tensor:
        """Give some of the queries and keys (head, time, width) of steps (time, width)."""
        copies = torch.addcmul(self.key_shift[heads], z, self.key_scale[heads])
        first, second = copies[..., : self.pairs], copies[..., self.pairs : 2 * self.pairs]
        turned = first * cosine - second * sine
        second.mul_(cosine).add_(first * sine)
        first.copy_(turned)
        return copies


class FastMemory(nn.Module):
    """The gated memory: changes (time, channel) in place."""

    def __init__(self, gated: GatedFSMN) -> None:
        super().__init__()
        parts = copy.deepcopy(dict(gated.inner.named_children()))
        paths = dict(parts["gated"].named_children())
        (self.reduce, self.rectify), self.norm = parts["reduce"].function, parts["norm"].function
        self.norm_out, self.expand = parts["norm_out"].function, parts["expand"].function
        self.inner = len(self.norm.weight)
        maps = [dict(part.named_children()) for part in (paths["remembered"].map, paths["gate"])]
        linears = [(part["linear"].function, part["norm"].function) for part in maps]
        self.weight = torch.cat([linear.weight * norm.weight for linear, norm in linears])
        self.bias = torch.cat([linear.bias + linear.weight @ norm.bias for linear, norm in linears])
        self.filter, self.left = torch.cat([folded(part["filter"]) for part in maps]), maps[0]["filter"].left
        deep = paths["remembered"].memory.inner
        self.deep, _, project = deep.project.function
        self.dilated = isinstance(deep.memory, DilatedDense)
        self.memory = Dilated(deep.memory) if self.dilated else Plain(deep.memory)
        self.weight_deep = project.weight[self.memory.order]
        self.width = 6 * self.inner

    def forward(self, x: Tensor, room: Room) -> None:
        """Map, remember, gate, and add the result."""
        inner, time = self.inner, len(x)
        direct, mapped, gates, deep = room.split(inner, 2 * inner, 2 * inner, inner)
        for start in range(0, time, NARROW_TILE):
            tile = slice(start, start + NARROW_TILE)
            y = self.norm(self.rectify(linear(x[tile], self.reduce.weight, self.reduce.bias)))
            direct[:time][tile] = y
            y = functional.layer_norm(y, (inner,), eps=self.norm.eps)
            mapped[:time][tile] = linear(y, self.weight, self.bias, silu=True)
        for start, stop, y in filtered(mapped[:time], self.filter, self.left):
            gates[start:stop] = y
            y = linear(y[:, :inner].contiguous(), self.deep.weight, self.deep.bias).relu_()
            deep[start:stop] = linear(y, self.weight_deep)
        deep[time:] = 0
        for start, stop, y in self.memory(deep, mapped, time):
            gate = gates[start:stop]
            y.add_(gate[:, :inner]).mul_(gate[:, inner:]).add_(direct[start:stop])
            x[start:stop].addmm_(self.norm_out(y), self.expand.weight.T).add_(self.expand.bias)


class Plain(nn.Module):
    """A memory of one layer."""

    def __init__(self, memory: ResidualFilter) -> None:
        super().__init__()
        self.filter, self.left, self.order = folded(memory), memory.left, torch.arange(len(memory.weight))

    def forward(self, x: Tensor, free: Tensor, time: int) -> Iterator[tuple[int, int, Tensor]]:
        """Give the output tile by tile, as `filtered` does."""
        return filtered(x[:time], self.filter, self.left)


class Dilated(nn.Module):
    """A memory of two dense layers. Its input's channels are in `order`: first the even ones, then the odd ones."""

    def __init__(self, memory: DilatedDense) -> None:
        super().__init__()
        newer, older = memory.layer0.new, memory.layer1
        convolution, last = newer.convolution, older.convolution
        channels = len(convolution.weight)
        self.order = torch.arange(channels).unflatten(0, (-1, 2)).T.flatten()
        self.filter, self.left = convolution.weight[self.order, 0], convolution.left
        self.rectify = newer.rectify.function.weight[self.order]
        self.weight, self.bias = newer.norm.weight[self.order], newer.norm.bias[self.order]
        # Of the second layer, one half of the outputs reads the first layer, the other half its input.
        halves = last.weight.unflatten(0, (2, -1)).transpose(1, 2).flatten(1, 2)
        self.filters = halves.repeat(1, last.dilation, 1)  # for each of two steps that are seen as one
        self.left_last, self.steps = last.left // last.dilation, last.dilation
        self.rectify_last = older.rectify.function.weight.clone()
        self.weight_last, self.bias_last = older.norm.weight.clone(), older.norm.bias.clone()

    def forward(self, x: Tensor, free: Tensor, time: int) -> Iterator[tuple[int, int, Tensor]]:
        """Give the output tile by tile.

        Args:
            x: (steps, channel), zero from `time` on.
            free: (steps, 2 channel), memory to use.
            time: of the signal.
        """
        channels, half = x.shape[1], x.shape[1] // 2
        first, second = (part.view(x.shape) for part in free.view(-1).split(x.numel()))
        statistics = Statistics(x)
        for start, stop, y in filtered(x[:time], self.filter, self.left):
            first[start:stop] = y
            statistics.add(y)
        scale, shift = statistics.affine(self.weight, self.bias)
        for tile in first[:time].split(NARROW_TILE):
            tile.copy_(torch.prelu(torch.addcmul(shift, tile, scale), self.rectify))
        first[time:] = 0
        statistics = Statistics(x)
        for part, source, weight in zip((slice(half), slice(half, channels)), (first, x), self.filters, strict=True):
            pairs = source.view(-1, self.steps * channels)
            for start, stop, y in filtered(pairs, weight, self.left_last, NARROW_TILE // self.steps):
                each = y.view(-1, channels)
                second[start * self.steps : stop * self.steps, part] = each[:, :half] + each[:, half:]
        for tile in second[:time].split(NARROW_TILE):
            statistics.add(tile)
        scale, shift = statistics.affine(self.weight_last, self.bias_last)
        for start in range(0, time, NARROW_TILE):
            tile = second[start : min(start + NARROW_TILE, time)]
            yield start, start + len(tile), torch.prelu(torch.addcmul(shift, tile, scale), self.rectify_last)


class Statistics:
    """Mean and variance of every channel, gathered tile by tile (Chan, Golub, LeVeque 1979)."""

    def __init__(self, like: Tensor) -> None:
        self.count = 0
        self.mean, self.squares = like.new_zeros(2, like.shape[1])

    def add(self, x: Tensor) -> None:
        """Take (time, channel) more."""
        mean = x.mean(0)
        away = mean - self.mean
        count = self.count + len(x)
        self.squares += (x - mean).square_().sum(0) + away.square() * (self.count * len(x) / count)
        self.mean += away * (len(x) / count)
        self.count = count

    def affine(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Give scale and shift that normalize, then apply weight and bias."""
        scale = weight * torch.rsqrt(self.squares / self.count + EPSILON)
        return scale, bias - self.mean * scale


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, silu: bool = False) -> Tensor:
    """Map (time, inputs) by a weight (outputs, inputs), then SiLU if asked: oneDNN is a tenth faster than MKL here."""
    if x.dtype == torch.float32 and len(x) and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "swish" if silu else "none", [], "")
    y = functional.linear(x, weight, bias)
    return functional.silu(y, inplace=True) if silu else y


def folded(block: ResidualFilter) -> Tensor:
    """Give the taps (channel, taps) of a filter with the step itself, which it adds, as one of them."""
    weight = block.weight.clone()
    weight[:, block.left] += 1
    return weight


def filtered(x: Tensor, weight: Tensor, left: int, tile: int = NARROW_TILE) -> Iterator[tuple[int, int, Tensor]]:
    """Filter (time, channel) by taps (channel, taps) with zeros around; give tiles with where they begin and end."""
    time, reach = len(x), weight.shape[1] - 1
    for start in range(0, time, tile):
        stop = min(start + tile, time)
        low, high = start - left, stop + reach - left
        piece = x[None, max(0, low) : high]
        yield start, stop, depthwise(piece, weight, left=max(0, -low), right=max(0, high - time))[0]


def shifted(x: Tensor, start: int, stop: int) -> Tensor:
    """Give steps of (time, channel) of which the first half comes a step late, each to root mean square 1."""
    half = x.shape[1] // 2
    y = torch.empty_like(x[start:stop])
    first = max(start, 1)
    y[: first - start, :half] = 0
    y[first - start :, :half] = x[first - 1 : stop - 1, :half]
    y[:, half:] = x[start:stop, half:]
    return y.mul_(to_one(y))


def to_one(x: Tensor) -> Tensor:
    """Give the factors (time, 1) that bring steps (time, channel) to root mean square 1."""
    size = torch.linalg.vector_norm(x, dim=1, keepdim=True).mul_(x.shape[1] ** -0.5)
    return size.clamp_min_(SMALLEST_NORM).reciprocal_()


def gate_(attended: Tensor, values: Tensor) -> Tensor:
    """Gate values by what was attended to, which is overwritten: (time, hidden) each to (time, hidden // 2)."""
    v, u = values.chunk(2, 1)
    attended_v, attended_u = attended.chunk(2, 1)
    return attended_v.mul_(u).sigmoid_().mul_(attended_u).mul_(v)
