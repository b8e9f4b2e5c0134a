"""Recorded: a network whose settled step runs without Python between the operators."""

import warnings

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves, tree_structure, tree_unflatten

from wavecast.core.block import Block, Count
from wavecast.core.state import State

REPEATS = 32  # calls of one shape before it is recorded: what repeats less often is not worth the wait
LONGEST_WARMUP = 500  # calls after which shapes that still change will not settle


class Recorded(Block):
    """A block that records the step it repeats, and replays the recording: the same operators, the same numbers.

    Fed pieces of one size, shapes settle after the warm-up; then every call runs the same operators on the same shapes,
    and most of a small network's time is spent between them. Beginnings, ends and training run the block itself.
    The state is the block's as a flat tuple.

    Args:
        block: in eval mode and not changed any more: a recording holds its weights.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.flat = FlatState(block)
        self.stride, self.lookahead, self.period = block.stride, block.lookahead, block.period
        self.needs_all, self.instead = block.needs_all, block.instead
        self.train(block.training)
        self._calls: dict[tuple[object, ...], int] = {}
        self._recordings: dict[tuple[object, ...], torch.jit.ScriptModule] = {}

    def out_length(self, n: Count) -> Count:
        """Count as the block does."""
        return self.flat.block.out_length(n)

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Leave padded batches to the block."""
        return self.flat.block(x, lengths=lengths)

    def step(self, x: Tensor, state: tuple[Tensor, ...] | None, last: bool) -> tuple[Tensor, State]:
        """Replay a step that was recorded, or run the block and see whether it repeats itself."""
        if state is None or last or self.training or torch.is_grad_enabled():
            return self.flat.run(x, state, last)
        key = (x.shape, x.dtype, x.device, *(leaf.shape for leaf in state))
        recording = self._recordings.get(key)
        y, *after = self.flat(x, *state) if recording is None else recording(x, *state)
        if recording is None and [leaf.shape for leaf in after] == [leaf.shape for leaf in state]:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] == REPEATS:
                self._recordings[key] = record(self.flat, x, *state)
        return y, tuple(after)

    @torch.inference_mode()
    def prepare(self, x: Tensor) -> None:
        """Record ahead of a live stream that comes in pieces like x: it takes about half a second."""
        state: State = None
        for _ in range(int(self.lookahead) // x.shape[1] + LONGEST_WARMUP + REPEATS):
            if any(key[0] == x.shape for key in self._recordings):
                return
            _, state = self(x, state, last=False)


class FlatState(nn.Module):
    """A block whose state is a flat tuple of tensors.

    Args:
        block: whose state has one structure from its first call on.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block
        self.example: State = None  # of a state, for its structure

    def run(self, x: Tensor, state: tuple[Tensor, ...] | None, last: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Do any step."""
        if self.example is None:
            with torch.no_grad():
                _, self.example = self.block(x[:, :0], last=False)
        inner = None if state is None else tree_unflatten(list(state), tree_structure(self.example))
        y, after = self.block(x, inner, last=last)
        return y, tuple(tree_leaves(after))

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Do a step in the middle."""
        y, after = self.run(x, state, last=False)
        return y, *after


def record(step: nn.Module, *tensors: Tensor) -> torch.jit.ScriptModule:
    """Record what a step does with tensors of these shapes; weights, and whatever follows from shapes, as constants."""
    operators = make_fx(step)(*tensors).eval()
    with warnings.catch_warnings():
        # torch.export, the successor, gives Python that calls one operator after the other: nothing would be gained.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch.jit")
        return torch.jit.freeze(torch.jit.trace(operators, tensors, check_trace=False))
