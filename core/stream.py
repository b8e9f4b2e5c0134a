"""Stream: what a user holds. Pieces of any size go in; the network sees blocks of one size, so that the bytes that come
out do not depend on how the input was cut."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any, Protocol

import torch
from torch import Tensor

from wavecast.core.block import Block
from wavecast.core.state import State, own


class Network(Protocol):
    """What a stream calls: a block, or a pool that several streams share."""

    training: bool
    lookahead: int | float
    period: int
    needs_all: str
    instead: str

    def __call__(self, x: Tensor, state: Any = None, *, last: bool = True) -> tuple[Tensor, Any]:
        """Process the next piece."""


SUBNORMAL = 5e-324
ROUNDS = 16  # blocks after which a stream's delay has settled


class Stream:
    """One sequence (or a batch that runs in step) on its way through a network.

    Args:
        network: a block in eval mode that can stream.
        block: input steps to a call, a multiple of the network's period. Other sizes differ by rounding (about 1e-6).

    Raises:
        ValueError: the network is in training mode, cannot stream, or not in blocks of that size.
    """

    def __init__(self, network: Network, block: int) -> None:
        if network.training:
            raise ValueError("the network is in training mode\nhint: network.eval()")
        if network.lookahead == inf:
            raise ValueError(f"{type(network).__name__} cannot stream, {network.needs_all}\nhint: {network.instead}")
        if block < 1 or block % network.period:
            raise ValueError(f"no stream in blocks of {block}\nhint: use a multiple of the period, {network.period}")
        self.network, self.block = network, block
        self.state: State = None
        self.rest: Tensor | None = None

    @torch.inference_mode()
    def push(self, x: Tensor) -> list[Tensor]:
        """Take any number of steps (batch, time, ...); give the finished pieces, often none."""
        x = x if self.rest is None else torch.cat([self.rest, x], 1)
        full = x.shape[1] - x.shape[1] % self.block
        pieces = [self._call(own(x[:, i : i + self.block]), False) for i in range(0, full, self.block)]
        self.rest = own(x[:, full:])
        return pieces

    @torch.inference_mode()
    def flush(self) -> list[Tensor]:
        """End the sequence and give its last piece; afterwards the stream is new."""
        pieces = [] if self.rest is None else [self._call(self.rest, True)]
        self.state = self.rest = None
        return pieces

    def _call(self, x: Tensor, last: bool) -> Tensor:
        with flushed_denormals():
            y, self.state = self.network(x, self.state, last=last)
        return y


@torch.no_grad()
def latency(network: Block, block: int) -> int:
    """Measure the latency of a stream fed blocks of this size, in input steps: the block and what it holds back."""
    training = network.training
    network.eval()
    first = next(network.parameters())
    state, sent, came = None, 0, 0
    for _ in range(ROUNDS):
        y, state = network(torch.zeros(1, block, device=first.device, dtype=first.dtype), state, last=False)
        sent, came = sent + block, came + y.shape[1]
    network.train(training)
    return int(block + sent - came * network.stride)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Round subnormal numbers to zero meanwhile: silence after speech is full of them, and they cost 60 times more.

    It is the thread that rounds. A generator must not yield inside: abandoned there, it would leave its thread so.
    """
    already = SUBNORMAL * 1.0 == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)
