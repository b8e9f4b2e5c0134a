"""StreamPool: live streams of different ages in one network, which takes them a step further together.

    pool = StreamPool(network, block=1280, capacity=16)
    stream = pool.join()
    taken = pool.push(stream, samples)      # (1, n): as many as there is room for
    for stream, piece in pool.step(): ...   # what is finished, of every stream that had a block ready
    pool.finish(stream)                     # its rest comes with the next steps; then it has left

A step runs what is there: a stream that is late, or silent, delays nobody. Streams whose states have the same shapes
are one batch; those that begin or end run beside it.
"""

from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor

from wavecast.core.block import Block
from wavecast.core.errors import WavecastError
from wavecast.core.pool import Seat, run_together
from wavecast.core.state import Ended, gather, own


@dataclass
class Member:
    """A stream in the pool: input that waits (1, time, ...), where its state is, and whether its input has ended."""

    waiting: Tensor | None = None
    seat: Seat | None = None
    ended: bool = False

    @property
    def held(self) -> int:
        """Steps of input that wait."""
        return 0 if self.waiting is None else self.waiting.shape[1]

    def take(self, steps: int) -> Tensor:
        """Take the first of the waiting input out."""
        if self.waiting is None:
            raise ValueError("nothing was pushed yet\nhint: step only streams that are ready")
        x, self.waiting = self.waiting[:, :steps], own(self.waiting[:, steps:])
        return x


class StreamPool:
    """Streams of a network, batched. Each gives what it would give alone, to rounding (about 1e-6).

    Args:
        network: in eval mode, whose rows do not depend on each other.
        block: input steps that a stream goes further at a time, a multiple of the network's period.
        capacity: streams at a time.
        backlog: blocks of a stream that may wait.

    Raises:
        ValueError: the network is in training mode, cannot stream, or not in blocks of that size.
    """

    def __init__(self, network: Block, block: int, capacity: int, backlog: int = 8) -> None:
        if network.training:
            raise ValueError("the network is in training mode\nhint: network.eval()")
        if network.lookahead == inf:
            raise ValueError(f"{type(network).__name__} cannot stream, {network.needs_all}\nhint: {network.instead}")
        if block < 1 or block % network.period:
            raise ValueError(f"no stream in blocks of {block}\nhint: use a multiple of the period, {network.period}")
        self.network, self.block, self.capacity, self.backlog = network, block, capacity, backlog
        self._members: dict[int, Member] = {}
        self._joined = 0

    def __len__(self) -> int:
        """Count the streams in the pool."""
        return len(self._members)

    def __contains__(self, stream: int) -> bool:
        """Tell whether a stream is still in the pool."""
        return stream in self._members

    def join(self) -> int:
        """Admit a stream.

        Returns:
            Its number, never given twice.

        Raises:
            WavecastError: the pool is full.
        """
        if len(self._members) >= self.capacity:
            hint = "wait until one has left, or make the pool larger if steps are fast enough"
            raise WavecastError(f"the pool holds {self.capacity} streams and no more", hint)
        self._joined += 1
        self._members[self._joined] = Member()
        return self._joined

    def push(self, stream: int, x: Tensor) -> int:
        """Take input (1, time, ...), as much as there is room for.

        Returns:
            The steps taken; give the others again after the next `step`.

        Raises:
            ValueError: there is no such stream, its input has ended, or it is not one row.
        """
        member = self._member(stream)
        if len(x) != 1:
            raise ValueError(f"{len(x)} rows of one stream\nhint: give each stream's input as (1, time, ...)")
        taken = min(x.shape[1], self.block * self.backlog - member.held)
        new = own(x[:, :taken])
        member.waiting = new if member.waiting is None else torch.cat([member.waiting, new], 1)
        return taken

    def finish(self, stream: int) -> None:
        """End a stream's input: the next steps give the rest, and the stream leaves with the last piece."""
        member = self._member(stream)
        if member.waiting is None:  # nothing ever came
            del self._members[stream]
        else:
            member.ended = True

    def leave(self, stream: int) -> None:
        """Drop a stream and whatever it still had to say."""
        self._member(stream)
        del self._members[stream]

    def ready(self) -> list[int]:
        """List the streams that the next step takes further."""
        return [stream for stream, member in self._members.items() if self._step_of(member) is not None]

    def step(self) -> list[tuple[int, Tensor]]:
        """Take every stream that has a block ready, or has ended, one step further.

        Returns:
            The streams and what each has finished, (1, time, ...), in the order of their joining.
        """
        kinds: dict[tuple[Any, ...], list[int]] = {}
        for stream, member in self._members.items():
            if (step := self._step_of(member)) is not None:
                kinds.setdefault((*step, member.seat and member.seat.shapes), []).append(stream)
        pieces = {}
        for (steps, last, _), streams in kinds.items():
            members = sorted(((self._members[one], one) for one in streams), key=row_of)
            inputs = [member.take(steps) for member, _ in members]
            answers = run_together(self.network, inputs, [member.seat for member, _ in members], last)
            for (member, stream), (y, seat) in zip(members, answers, strict=True):
                pieces[stream] = y
                if isinstance(seat, Ended):
                    del self._members[stream]
                else:
                    member.seat = seat
        self._own_rows(pieces)
        return [(stream, pieces[stream]) for stream in sorted(pieces)]

    def _member(self, stream: int) -> Member:
        member = self._members.get(stream)
        if member is None or member.ended:
            raise ValueError(f"there is no stream {stream} that takes input\nhint: join() gives a new one")
        return member

    def _step_of(self, member: Member) -> tuple[int, bool] | None:
        """Tell how many steps of input a stream goes further, and whether it ends; None: not yet."""
        if member.held >= self.block:
            return self.block, False
        return (member.held, True) if member.ended else None

    def _own_rows(self, moved: dict[int, Tensor]) -> None:
        """Copy the states of those that stayed behind: a batch is not kept for one row."""
        for stream, member in self._members.items():
            seat = member.seat
            if stream not in moved and seat is not None and seat.size > seat.rows:
                row = gather(seat.batch, range(seat.start, seat.start + seat.rows))
                member.seat = Seat(row, 0, seat.rows, seat.rows, seat.shapes)


def row_of(one: tuple[Member, int]) -> int:
    """Give the row of a member in the batch that it was in, so that a batch that stays together is not sorted anew."""
    seat = one[0].seat
    return 0 if seat is None else seat.start
