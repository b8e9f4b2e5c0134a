"""Pool: streams in several threads share one network, which runs what they ask for at the same time as one batch."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from wavecast.core.block import Block
from wavecast.core.state import Ended, State, gather, leaves, stack
from wavecast.core.stream import flushed_denormals


class PoolClosed(BaseException):
    """The pool stopped serving: whoever still asks unwinds, and nothing catches it on the way by mistake."""


@dataclass(frozen=True)
class Seat:
    """A stream's rows in the state of the batch that it was in.

    Attributes:
        batch: that state.
        start: first row.
        rows: how many.
        size: rows of the batch.
        shapes: of the state's tensors without the batch; streams whose shapes agree may sit together.
    """

    batch: State
    start: int
    rows: int
    size: int
    shapes: tuple[torch.Size, ...]


class Request:
    """A step that a stream waits for."""

    def __init__(self, x: Tensor, seat: Seat | None, last: bool) -> None:
        self.x, self.seat, self.last = x, seat, last
        self.answer: tuple[Tensor, Seat | Ended] | None = None
        self.error: BaseException | None = None

    def kind(self) -> tuple[object, ...]:
        """Tell what steps may run together: equal shapes at equal points of the warm-up."""
        return self.x.shape[1:], self.last, self.seat and self.seat.shapes


class Pool:
    """A network for `Stream` that is called from threads which are its members, and runs in the thread that serves.

    Rows that are batched agree with a stream of their own to rounding (about 1e-6), not byte for byte.

    Args:
        network: in eval mode, whose rows do not depend on each other.
    """

    def __init__(self, network: Block) -> None:
        self.network, self.training = network, network.training
        self.lookahead, self.period = network.lookahead, network.period
        self.needs_all, self.instead = network.needs_all, network.instead
        self._turn = threading.Condition()
        self._waiting: list[Request] = []
        self._members = 0
        self._closed = False

    def join(self, members: int = 1) -> None:
        """Announce threads that will ask: nothing runs until each of them waits or has left."""
        with self._turn:
            self._members += members

    @contextmanager
    def member(self) -> Iterator[None]:
        """Hold one announced membership, and leave at the end."""
        try:
            yield
        finally:
            with self._turn:
                self._members -= 1
                self._turn.notify_all()

    def __call__(self, x: Tensor, state: Seat | None = None, *, last: bool = True) -> tuple[Tensor, Seat | Ended]:
        """Ask for a step, and wait for it.

        Raises:
            PoolClosed: nobody serves any more.
        """
        request = Request(x, state, last)
        with self._turn:
            self._waiting.append(request)
            self._turn.notify_all()
            self._turn.wait_for(lambda: request.answer or request.error or self._closed)
        if request.error is not None:
            raise request.error
        if request.answer is None:
            raise PoolClosed
        return request.answer

    def serve(self) -> None:
        """Run what the members ask for, until the last one has left."""
        try:
            while True:
                with self._turn:
                    self._turn.wait_for(lambda: self._closed or len(self._waiting) >= self._members)
                    if self._closed or not self._members:
                        return
                    requests, self._waiting = self._waiting, []
                kinds: dict[tuple[object, ...], list[Request]] = {}
                for request in requests:
                    kinds.setdefault(request.kind(), []).append(request)
                for alike in kinds.values():
                    self._run(sorted(alike, key=lambda request: request.seat.start if request.seat else 0))
                with self._turn:
                    self._turn.notify_all()
        finally:
            self.close()

    def close(self) -> None:
        """Serve no more: members that ask, or wait, unwind."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()

    def _run(self, requests: Sequence[Request]) -> None:
        """Run steps of one kind as a batch, and hand out the rows."""
        try:
            answers = run_together(
                self.network,
                [request.x for request in requests],
                [request.seat for request in requests],
                requests[0].last,
            )
        except Exception as error:  # an answer like any other: it belongs to those who asked
            for request in requests:
                request.error = error
            return
        for request, answer in zip(requests, answers, strict=True):
            request.answer = answer


@torch.inference_mode()
def run_together(
    network: Block, inputs: Sequence[Tensor], seats: Sequence[Seat | None], last: bool
) -> list[tuple[Tensor, Seat | Ended]]:
    """Run a step of several streams as one batch.

    Args:
        network: in eval mode.
        inputs: of each stream, (rows, time, ...), alike but for the rows.
        seats: of the streams, alike in the shapes of their states; None at the beginning.
        last: whether the streams end here.

    Returns:
        What each has finished, and its new seat.
    """
    with flushed_denormals():
        y, state = network(torch.cat(list(inputs)), seated(seats), last=last)
    shapes = tuple(leaf.shape[1:] for leaf in leaves(state))
    answers, start = [], 0
    for x in inputs:
        rows = len(x)
        seat = Ended() if last else Seat(state, start, rows, len(y), shapes)
        answers.append((y[start : start + rows].clone(), seat))
        start += rows
    return answers


def seated(seats: Sequence[Seat | None]) -> State:
    """Give the state of seats, sorted by their rows; when they are one batch as it was, nothing is copied."""
    taken = [seat for seat in seats if seat is not None]
    if not taken:
        return None
    first = taken[0]
    if all(seat.batch is first.batch for seat in taken) and sum(seat.rows for seat in taken) == first.size:
        return first.batch
    return stack([gather(seat.batch, range(seat.start, seat.start + seat.rows)) for seat in taken])
