"""A block over the plane of time and frequency made from a block over time."""

from torch import Tensor

from wavecast.core.block import Block, at_least
from wavecast.core.state import State


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
