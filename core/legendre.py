"""Legendre memory: a signal's past as the coefficients of Legendre polynomials, kept by a linear recurrence.

Voelker, Kajic, Eliasmith: "Legendre Memory Units: Continuous-Time Representation in Recurrent Neural Networks", NeurIPS
2019 (the memory, the cell). Chilkuri, Eliasmith: "Parallelizing Legendre Memory Unit Training", ICML 2021 (the unit).
Axes: batch time channel; then batch time channel order.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from scipy.linalg import expm
from torch import Tensor, nn
from torch.nn import functional

from wavecast.core.block import Block
from wavecast.core.ops.legendre import CHUNK, legendre, respond
from wavecast.core.state import State, Tail, own, state

METHODS = ("zoh", "euler")
LONGEST = 3
"""Taps of an impulse response, in orders: longer ones cost more to multiply with than chunks of the recurrence."""


@state
class Coefficients:
    """The memories after the last step.

    values: (batch, channel, order).
    """

    values: Tensor


class RoundedOnce(Block):
    """A block whose constants are rounded from double precision to whatever dtype is in use, fp32 at least.

    Converted with the weights, constants would go through fp32 to fp64, and the forms that compute from different ones
    of them would no longer be equal.
    """

    def constants(self, dtype: torch.dtype) -> Mapping[str, np.ndarray]:
        """Compute the constants, which become buffers, in double precision."""
        raise NotImplementedError(f"{type(self).__name__}.constants")

    def fill(self, like: Tensor) -> None:
        """Compute the constants for the dtype and device of a tensor."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        for name, values in self.constants(dtype).items():
            self.register_buffer(name, torch.tensor(values, dtype=dtype, device=like.device), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert as modules do, then round anew where the dtype is another one."""
        before = next(self.buffers()).dtype
        super()._apply(fn, recurse)
        after = next(self.buffers())
        if after.dtype != before:
            self.fill(after)
        return self


class LegendreMemory(RoundedOnce):
    """A memory for every channel: (batch, time, channel) to (batch, time, channel, order).

        m[t] = A m[t-1] + B u[t]

    Without taps it is the recurrence: a whole sequence is computed by products with the impulse response A^k B, a
    stream goes on from the memory. With taps the response is cut short, and a stream keeps the last inputs.

    Args:
        order: coefficients of each memory.
        theta: steps of the past that they describe.
        taps: steps that the memory lasts at most; None: until it has died away.

    Raises:
        ValueError: an order or taps below 1, or a theta not above 0.
    """

    response: Tensor
    powers: Tensor

    def __init__(self, order: int, theta: float, taps: int | None = None) -> None:
        super().__init__()
        if taps is not None and taps < 1:
            raise ValueError(f"a memory of {taps} taps\nhint: at least 1, or None for the recurrence")
        self.memory_order, self.theta, self.taps = order, theta, taps
        self.settled = False
        self.fill(torch.empty(0))

    def constants(self, dtype: torch.dtype) -> Mapping[str, np.ndarray]:
        """Compute the impulse response as far as it is needed, and the powers of A that carry a memory on."""
        if self.taps is not None:
            return {"response": impulse_response(self.memory_order, self.theta, self.taps)}
        response, self.settled = settled_response(self.memory_order, self.theta, torch.finfo(dtype).eps)
        return {"response": response, "powers": doubling_powers(self.memory_order, self.theta)}

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Drive the memories by the next steps."""
        return self.read(x, None, state)

    def read(self, u: Tensor, readout: Tensor | None, state: State) -> tuple[Tensor, State]:
        """Drive the memories by the next steps, and read them out.

        Args:
            u: (batch, time, channel).
            readout: (output, order), the same for every channel; None: the memories themselves.
            state: of this block.

        Returns:
            (batch, time, channel, output), and the state after them.
        """
        batch, steps, channels = u.shape
        if self.taps is None:
            initial = None if state is None else state.values.flatten(0, 1)
            y, memory = legendre(rows(u), self.response, self.powers, readout, initial, settled=self.settled)
            after: State = Coefficients(memory.unflatten(0, (batch, channels)))
        else:
            past = u.new_zeros(batch, self.taps - 1, channels) if state is None else state.past
            joined = torch.cat([past, u], 1)
            y = respond(rows(joined), self.response, readout)
            after = Tail(own(joined[:, steps:]))
        return y.unflatten(0, (batch, channels)).transpose(1, 2), after


class LegendreUnit(Block):
    """A layer around one memory, without feedback: (batch, time, inputs) to (batch, time, outputs).

        u = relu(W_u x + b_u)        m[t] = A m[t-1] + B u[t]        h = relu(W_h [m; x] + b_h)

    The memory is read out as it is computed, and never kept over time.

    Args:
        inputs: channels in.
        outputs: channels out.
        order: coefficients of the memory.
        theta: steps of the past that they describe.
        taps: steps that the memory lasts at most; None: until it has died away.
    """

    def __init__(self, inputs: int, outputs: int, order: int, theta: float, taps: int | None = None) -> None:
        super().__init__()
        self.encode = nn.Linear(inputs, 1)
        self.memory = LegendreMemory(order, theta, taps)
        self.read = nn.Linear(order + inputs, outputs)

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Encode the next steps, remember them, and read memory and input."""
        order = self.memory.memory_order
        remembered, direct = self.read.weight[:, :order], self.read.weight[:, order:]
        y, after = self.memory.read(functional.relu(self.encode(x)), remembered, state)
        return functional.relu(y.squeeze(2) + functional.linear(x, direct, self.read.bias)), after


@state
class Feedback:
    """What the cell feeds back.

    hidden: (batch, outputs), its output.
    memory: (batch, order).
    """

    hidden: Tensor
    memory: Tensor


class LegendreCell(RoundedOnce):
    """The original unit, with feedback: (batch, time, inputs) to (batch, time, outputs), step by step always.

        u[t] = e_x x[t] + e_h h[t-1] + e_m m[t-1]        m[t] = A m[t-1] + B u[t]
        h[t] = tanh(W_x x[t] + W_h h[t-1] + W_m m[t])

    Args:
        inputs: channels in.
        outputs: channels out.
        order: coefficients of the memory.
        theta: steps of the past that they describe.

    Raises:
        ValueError: an order below 1, or a theta not above 0.
    """

    transition: Tensor
    entry: Tensor

    def __init__(self, inputs: int, outputs: int, order: int, theta: float) -> None:
        super().__init__()
        self.memory_order, self.theta = order, theta
        self.fill(torch.empty(0))
        self.encode_input = lecun_uniform(inputs)
        self.encode_hidden = lecun_uniform(outputs)
        self.encode_memory = nn.Parameter(torch.zeros(order))
        self.read_input, self.read_hidden, self.read_memory = (
            nn.Parameter(nn.init.xavier_normal_(torch.empty(outputs, size))) for size in (inputs, outputs, order)
        )

    def constants(self, dtype: torch.dtype) -> Mapping[str, np.ndarray]:
        """Give A and B."""
        transition, entry = legendre_matrices(self.memory_order, self.theta)
        return {"transition": transition, "entry": entry}

    def step(self, x: Tensor, state: Feedback | None, last: bool) -> tuple[Tensor, Feedback]:
        """Go through the next steps one by one."""
        hidden = x.new_zeros(len(x), len(self.read_hidden)) if state is None else state.hidden.clone()
        memory = x.new_zeros(len(x), self.memory_order) if state is None else state.memory.clone()
        encoded, direct = x @ self.encode_input, x @ self.read_input.T
        outputs = []
        for t in range(x.shape[1]):
            u = encoded[:, t] + hidden @ self.encode_hidden + memory @ self.encode_memory
            memory = memory @ self.transition.T + u[:, None] * self.entry
            hidden = torch.tanh(direct[:, t] + hidden @ self.read_hidden.T + memory @ self.read_memory.T)
            outputs.append(hidden)
        return torch.stack(outputs, 1) if outputs else direct, Feedback(own(hidden), own(memory))


def lecun_uniform(size: int) -> nn.Parameter:
    """Draw the weights of a sum of so many numbers, so that it varies as they do: (size,)."""
    return nn.Parameter((3 / size) ** 0.5 * torch.empty(size).uniform_(-1, 1))


def rows(u: Tensor) -> Tensor:
    """Turn channels into rows of the batch: (batch, time, channel) to (batch * channel, time)."""
    return u.transpose(1, 2).flatten(0, 1)


@lru_cache(maxsize=16)
def legendre_matrices(order: int, theta: float, method: str = "zoh") -> tuple[np.ndarray, np.ndarray]:
    """Compute the matrices of m[t] = A m[t-1] + B u[t], in double precision.

    They make theta m' = A m + B u discrete, A[i, j] = (2i + 1) (-1 if i < j else (-1)^(i - j + 1)) and
    B[i] = (2i + 1) (-1)^i.

    Args:
        order: coefficients of the memory.
        theta: steps of the past that they describe.
        method: "zoh", for an input that is constant within a step; or "euler", a step along the derivative, which is
            stable only where theta is large beside the order (above 4 times it).

    Returns:
        A (order, order) and B (order,), float64, read-only.

    Raises:
        ValueError: an order below 1, a theta not above 0, or no such method.
    """
    if order < 1 or theta <= 0:
        raise ValueError(f"a memory of order {order} over {theta} steps\nhint: both must be positive")
    if method not in METHODS:
        raise ValueError(f"method {method!r}\nhint: one of {', '.join(METHODS)}")
    row, col = np.indices((order, order))
    rate = (2 * np.arange(order) + 1) / theta
    derivative = rate[:, None] * np.where(row < col, -1.0, (-1.0) ** (row - col + 1))
    entry = rate * (-1.0) ** np.arange(order)
    if method == "euler":
        return frozen(np.eye(order) + derivative), frozen(entry)
    joint = expm(np.block([[derivative, entry[:, None]], [np.zeros((1, order + 1))]]))
    return frozen(joint[:order, :order]), frozen(joint[:order, order])


@lru_cache(maxsize=16)
def impulse_response(order: int, theta: float, taps: int) -> np.ndarray:
    """Compute A^k B for k = 0 ... taps - 1, in double precision: (taps, order), read-only."""
    transition, entry = legendre_matrices(order, theta)
    response = [entry]
    for _ in range(taps - 1):
        response.append(transition @ response[-1])
    return frozen(np.stack(response))


def settled_response(order: int, theta: float, eps: float) -> tuple[np.ndarray, bool]:
    """Compute the impulse response until it has died away, or that of a chunk where this takes too long to be of use.

    Args:
        order: coefficients of the memory.
        theta: steps of the past that they describe.
        eps: part of the largest value that is nothing.

    Returns:
        (taps, order), float64, CHUNK taps at least, and whether it has died away.
    """
    response = impulse_response(order, theta, max(CHUNK, LONGEST * order))
    size = np.abs(response).max(1)
    taps = np.nonzero(size > eps * size.max())[0].max() + 1
    return (response[: max(CHUNK, taps)], True) if taps < len(response) else (response[:CHUNK], False)


@lru_cache(maxsize=16)
def doubling_powers(order: int, theta: float) -> np.ndarray:
    """Compute A, A^2, A^4 ... A^(CHUNK / 2), in double precision: (count, order, order), read-only."""
    powers = [legendre_matrices(order, theta)[0]]
    while 2 ** len(powers) < CHUNK:
        powers.append(powers[-1] @ powers[-1])
    return frozen(np.stack(powers))


def frozen(x: np.ndarray) -> np.ndarray:
    """Copy an array that several share, and let nobody write into it."""
    copy = np.array(x)
    copy.flags.writeable = False
    return copy
