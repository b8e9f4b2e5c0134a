"""Blocks over the plane of time and frequency made from blocks over time."""

from torch import Tensor
from torch.utils._pytree import tree_map

from wavecast.core.block import Block, Count, at_least
from wavecast.core.state import State


class EachFrequency(Block):
    """A block over time that every frequency goes through on its own: (batch, time, freq, channel).

    Args:
        inner: maps (batch, time, channel) to (batch, time', channel').
    """

    def __init__(self, inner: Block) -> None:
        super().__init__()
        self.inner = inner
        self.stride, self.lookahead, self.period = inner.stride, inner.lookahead, inner.period

    def out_length(self, n: Count) -> Count:
        """Count as the inner block does."""
        return self.inner.out_length(n)

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Hand the lengths on: the inner block masks for itself."""
        return self.step(x, None, True, lengths)

    def step(self, x: Tensor, state: State, last: bool, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Run the frequencies as rows; the state's tensors are (batch, freq, ...)."""
        rows = x.transpose(1, 2)
        before = None if state is None else tree_map(lambda leaf: leaf.flatten(0, 1), state)
        each = None if lengths is None else lengths.repeat_interleave(rows.shape[1])
        y, after = self.inner(rows.flatten(0, 1), before, last=last, lengths=each)
        y = y.unflatten(0, rows.shape[:2]).transpose(1, 2)
        return y, tree_map(lambda leaf: leaf.unflatten(0, rows.shape[:2]), after)


class AlongFrequency(Block):
    """A block that runs along frequency instead of time, in each frame anew: (batch, time, freq, channel).

    Args:
        inner: a block whose output is as long as its input.
    """

    def __init__(self, inner: Block) -> None:
        super().__init__()
        self.inner = inner

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Run the inner block over every frame's frequencies; the state is `()`."""
        return at_least(1, self._frames, x), ()

    def _frames(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(0, 1))[0].unflatten(0, x.shape[:2])
