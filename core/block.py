"""The one idea: every block is one function with two uses.

    y, state = block(x, state=None, *, last=True)          # x: (batch, time, ...features)

`block(x)` is the whole sequence and trains in parallel. A stream is `block(a, last=False)`, `block(b, state,
last=False)` and so on, and ends with `last=True`, on `x[:, :0]` if nothing is left. Both give the same numbers for
every way of cutting the sequence.
"""

from collections.abc import Callable
from fractions import Fraction
from math import inf
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wavecast.core.state import Ended, State, Tail, own

Count = TypeVar("Count", int, Tensor)


class Block(nn.Module):
    """A map from one tensor to one tensor along time.

    Subclasses write `step` and declare four facts, which groups compose. All are in the block's own input steps.

    Attributes:
        stride: input steps to an output step; 1/320 for the inverse of an STFT with hop 320.
        lookahead: output j needs no input after floor(stride * j) + lookahead; inf: the block cannot stream.
        period: fed multiples of it, the shapes of output and state settle (a hop, an attention chunk).
    """

    stride: Fraction = Fraction(1)
    lookahead: int | float = 0
    period: int = 1

    def out_length(self, n: Count) -> Count:
        """Count the output steps of a whole sequence of n input steps; arithmetic only, int or int tensor."""
        return n

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Process the next piece: return what no later input can change, and the state after it.

        `state` is None at the beginning; it is never written into. With `last` the sequence ends and everything still
        waiting comes out; the state returned then is dropped.
        """
        raise NotImplementedError(f"{type(self).__name__}.step")

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Process a whole padded batch whose row i has lengths[i] valid steps.

        This form is right for every block that takes zeros for "nothing there". Blocks for which zeros are something
        (attention, statistics of the whole signal) override it.
        """
        return self.step(mask_beyond(x, lengths), None, True)

    def forward(
        self, x: Tensor, state: State = None, *, last: bool = True, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Process a sequence, or the next piece of one.

        Args:
            x: (batch, time, ...); zero time steps are legal.
            state: what the call before returned; None at the beginning.
            last: whether the sequence ends with this piece.
            lengths: (batch,) valid steps of a padded whole batch; neither with a state nor with last=False.

        Returns:
            The finished output (batch, time', ...), and the state for the next call (`Ended()` after the last).

        Raises:
            ValueError: the sequence has ended, the block needs the whole sequence, or lengths come with a state.
        """
        if isinstance(state, Ended):
            raise ValueError("this sequence has ended\nhint: every call but the last one needs last=False")
        if self.lookahead == inf and not (last and state is None):
            raise ValueError(f"{type(self).__name__} cannot stream, {self.needs_all}\nhint: {self.instead}")
        if lengths is None:
            y, state = self.step(x, state, last)
        elif state is None and last:
            y, state = self.padded(x, lengths)
        else:
            raise ValueError(
                "lengths are for whole padded batches\nhint: pass neither a state nor last=False with them"
            )
        return y, (Ended() if last else state)

    needs_all: str = "it needs the whole sequence"
    """Why a block with infinite look-ahead cannot stream; completes the sentence of the error."""
    instead: str = "call it once with all of it (last=True, no state)"
    """The cure that goes with it."""


class Frames(Block):
    """A stateless map of single frames: Linear, LayerNorm, an activation, an FFT of each frame.

    Args:
        function: maps (batch, time, ...) to (batch, time, ...), each time step on its own.
    """

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Map the frames; the state is always `()`."""
        return at_least(1, self.function, x), ()


class Window(Block):
    """A sliding window: output j is `operator` of input steps [j * stride - left, j * stride - left + span).

    Convolutions, FSMN memories and framing are windows. Subclasses write `operator`.

    Args:
        span: input steps an output step reads.
        stride: input steps between output steps, at most span.
        left: zeros before the sequence.
        right: zeros after it.

    Raises:
        ValueError: the stride is larger than the span.
    """

    def __init__(self, span: int, stride: int = 1, left: int = 0, right: int = 0) -> None:
        super().__init__()
        if stride > span:
            extra = stride - span
            raise ValueError(f"stride {stride} is larger than span {span}\nhint: add {extra} to span and to right")
        self.span, self.hop, self.left, self.right = span, stride, left, right
        self.stride, self.lookahead, self.period = Fraction(stride), max(0, span - 1 - left), stride

    def operator(self, x: Tensor) -> Tensor:
        """Compute all whole windows: (batch, time, ...) to (batch, (time - span) // stride + 1, ...), time >= span."""
        raise NotImplementedError(f"{type(self).__name__}.operator")

    def out_length(self, n: Count) -> Count:
        """Count the windows in n steps and their padding."""
        count = (n + self.left + self.right - self.span) // self.hop + 1
        return count * (count > 0)

    def step(self, x: Tensor, state: Tail | None, last: bool) -> tuple[Tensor, Tail]:
        """Compute the windows that are complete, and keep the input that later ones still need."""
        pieces = [zeros_like_steps(x, self.left) if state is None else state.past, x]
        if last:
            pieces.append(zeros_like_steps(x, self.right))
        pieces = [piece for piece in pieces if piece.shape[1]] or [x]
        x = torch.cat(pieces, 1) if len(pieces) > 1 else pieces[0]
        done = max(0, (x.shape[1] - self.span) // self.hop + 1)
        return at_least(self.span, self.operator, x), Tail(own(x[:, done * self.hop :]))


def zeros_like_steps(x: Tensor, steps: int) -> Tensor:
    """Give that many time steps of zeros that fit x: (batch, steps, ...)."""
    return x.new_zeros(x.shape[0], steps, *x.shape[2:])


def at_least(steps: int, operator: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply an operator that needs `steps` time steps; too short an input gives zero steps of the right shape."""
    if x.shape[1] >= steps:
        return operator(x)
    return operator(zeros_like_steps(x, steps))[:, :0]


def mask_beyond(x: Tensor, lengths: Tensor) -> Tensor:
    """Zero what lies at and beyond lengths[i] in row i; junk and NaN there must not reach a valid frame."""
    beyond = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
    return x.masked_fill(beyond.reshape(*beyond.shape, *[1] * (x.ndim - 2)), 0)


def total(lengths: Any, block: Block) -> Any:
    """Carry lengths through a block; None stays None."""
    return None if lengths is None else block.out_length(lengths)
