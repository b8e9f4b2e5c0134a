"""Groups: blocks in a row (Chain) and paths that meet (Fork). They compose stride, look-ahead, period and length."""

from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from math import ceil, inf, lcm

import torch
from torch import Tensor, nn

from wavecast.core.block import Block, Count, Frames, total
from wavecast.core.state import State, own


class Group(Block):
    """Blocks under names: the names are the checkpoint keys, `Group(norm=..., attention=...)`; without one, 0, 1 ..."""

    def __init__(self, *blocks: Block, **named: Block) -> None:
        super().__init__()
        self.order = [*map(str, range(len(blocks))), *named]
        for name, block in zip(self.order, [*blocks, *named.values()], strict=True):
            self.add_module(name, block)

    def parts(self) -> list[Block]:
        """List the blocks in their order."""
        return [self.get_submodule(name) for name in self.order]

    def step(self, x: Tensor, state: State, last: bool, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Process the next piece; groups carry the lengths of padded batches on to their blocks."""
        raise NotImplementedError(f"{type(self).__name__}.step")

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Process a whole padded batch: every block masks for itself."""
        return self.step(x, None, True, lengths)


class Chain(Group):
    """One block after the other."""

    def __init__(self, *blocks: Block, **named: Block) -> None:
        super().__init__(*blocks, **named)
        stride, period = Fraction(1), 1
        lookahead: int | float = 0
        for block in self.parts():
            lookahead = inf if inf in (lookahead, block.lookahead) else lookahead + ceil(stride * block.lookahead)
            period = lcm(period, (stride * block.period).numerator)
            stride = stride * block.stride
        self.stride, self.lookahead, self.period = stride, lookahead, period

    def out_length(self, n: Count) -> Count:
        """Count the output steps of the last block."""
        return reduce(lambda count, block: block.out_length(count), self.parts(), n)

    def step(self, x: Tensor, state: State, last: bool, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Hand each block's finished output to the next; the state is the tuple of theirs."""
        after = []
        for block, before in zip(self.parts(), state or [None] * len(self.order), strict=True):
            x, one = block(x, before, last=last, lengths=lengths)
            after.append(one)
            lengths = total(lengths, block)
        return x, tuple(after)


class Fork(Group):
    """Paths from one input that meet again: merge(a(x), b(x), ...). Every path that is ahead waits for the others.

    Args:
        merge: combines equally long (batch, time, ...) tensors step by step, in the order of the paths.
        trim: let the shortest path decide the length; otherwise paths of unequal length are an error.
        paths: blocks of one common stride.

    Raises:
        ValueError: the paths' strides differ, or (in a call) their lengths do.
    """

    def __init__(self, merge: Callable[..., Tensor], *, trim: bool = False, **paths: Block) -> None:
        super().__init__(**paths)
        self.merge, self.trim = merge, trim
        parts = self.parts()
        if len({block.stride for block in parts}) > 1:
            raise ValueError(f"paths of strides {[str(block.stride) for block in parts]} cannot meet")
        self.stride, self.period = parts[0].stride, lcm(*(block.period for block in parts))
        self.lookahead = max(block.lookahead for block in parts)

    def out_length(self, n: Count) -> Count:
        """Count the steps of the shortest path."""
        return reduce(lambda a, b: a - (a - b) * (a > b), [block.out_length(n) for block in self.parts()])

    def step(self, x: Tensor, state: State, last: bool, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Merge what all paths have finished; the surplus of each and their states are the state."""
        waiting, inner = state or (None, [None] * len(self.order))
        results = [block(x, one, last=last, lengths=lengths) for block, one in zip(self.parts(), inner, strict=True)]
        ys = [y for y, _ in results]
        if waiting is not None:
            ys = [torch.cat([early, y], 1) if early.shape[1] else y for early, y in zip(waiting, ys, strict=True)]
        n = min(y.shape[1] for y in ys)
        if last and not self.trim and any(y.shape[1] > n for y in ys):
            lengths_found = dict(zip(self.order, [y.shape[1] for y in ys], strict=True))
            raise ValueError(f"paths that meet end after {lengths_found} steps\nhint: pad them alike, or use Trim")
        surplus = tuple(y.new_empty(y.shape[0], 0) if y.shape[1] == n else own(y[:, n:]) for y in ys)
        return self.merge(*(y if y.shape[1] == n else y[:, :n] for y in ys)), (
            surplus,
            tuple(one for _, one in results),
        )


def identity() -> Frames:
    """Give a path that hands its input on."""
    return Frames(nn.Identity())


class Skip(Fork):
    """The input merged with what a block makes of it: merge(x, inner(x)); a residual connection by default."""

    def __init__(self, inner: Block, merge: Callable[..., Tensor] = torch.add) -> None:
        super().__init__(merge, direct=identity(), inner=inner)


class Trim(Fork):
    """A block whose output is cut to its input's length: a chain from samples to samples gets its exact length so."""

    def __init__(self, inner: Block) -> None:
        super().__init__(second, trim=True, direct=identity(), inner=inner)


def second(direct: Tensor, inner: Tensor) -> Tensor:
    """Choose the second path."""
    return inner


def concatenate(*paths: Tensor) -> Tensor:
    """Join paths on the last axis: a U-Net's skip connection."""
    return torch.cat(paths, -1)
