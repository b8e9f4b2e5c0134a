"""The pool of live streams: each gives what it gives alone, whoever comes, waits or leaves beside it."""

import random

import pytest
import torch
from torch import Tensor, nn

from kit.streaming import assert_close
from wavecast.core.block import Frames
from wavecast.core.errors import WavecastError
from wavecast.core.fsmn import DeepFSMN, Memory
from wavecast.core.groups import Chain
from wavecast.core.state import leaves
from wavecast.core.stream_pool import StreamPool

BLOCK = 4


def network() -> Chain:
    """Two memories, one of which looks ahead."""
    torch.manual_seed(0)
    first = DeepFSMN(6, 8, Memory(6, 5, ahead=3))
    return Chain(first=first, second=Memory(6, 4), out=Frames(nn.Linear(6, 2))).eval()


class Tape:
    """What a test gives a stream and what came back."""

    def __init__(self, seed: int, steps: int) -> None:
        self.x = torch.randn(1, steps, 6, generator=torch.Generator().manual_seed(seed))
        self.at = 0
        self.pieces: list[Tensor] = []

    def give(self, pool: StreamPool, stream: int, most: int) -> None:
        """Push up to that many steps; end when all are taken."""
        self.at += pool.push(stream, self.x[:, self.at : self.at + most])
        if self.at == self.x.shape[1]:
            pool.finish(stream)


def test_every_stream_gives_what_it_gives_alone():
    block, dice = network(), random.Random(1)
    pool, tapes, waiting = StreamPool(block, BLOCK, capacity=5), {}, [Tape(i, dice.randrange(0, 70)) for i in range(14)]
    begun, done = [], 0
    while waiting or len(pool):
        if waiting and len(pool) < pool.capacity and dice.random() < 0.5:
            stream = pool.join()
            tapes[stream] = waiting.pop()
            begun.append(stream)
        for stream in [*begun]:
            if dice.random() < 0.6:  # the others are late
                tapes[stream].give(pool, stream, dice.randrange(0, 9))
                if tapes[stream].at == tapes[stream].x.shape[1]:
                    begun.remove(stream)
        for stream, piece in pool.step():
            tapes[stream].pieces.append(piece)
            done += 1
    assert done > 50
    for tape in tapes.values():
        expected = block(tape.x)[0]
        found = torch.cat(tape.pieces, 1) if tape.pieces else expected[:, :0]
        assert_close(found, expected, 1e-5)


def test_a_late_stream_delays_nobody():
    pool = StreamPool(network(), BLOCK, capacity=2)
    prompt, late = pool.join(), pool.join()
    pool.push(prompt, torch.randn(1, BLOCK, 6))
    pool.push(late, torch.randn(1, BLOCK - 1, 6))
    assert pool.ready() == [prompt]
    assert [stream for stream, _ in pool.step()] == [prompt]


def test_a_full_pool_refuses_and_a_full_stream_takes_less():
    pool = StreamPool(network(), BLOCK, capacity=1, backlog=2)
    stream = pool.join()
    with pytest.raises(WavecastError, match="holds 1 streams"):
        pool.join()
    assert pool.push(stream, torch.randn(1, 100, 6)) == 2 * BLOCK
    assert pool.push(stream, torch.randn(1, 100, 6)) == 0
    pool.step()
    assert pool.push(stream, torch.randn(1, 100, 6)) == BLOCK
    pool.leave(stream)
    with pytest.raises(ValueError, match=r"no stream(.|\n)*hint:"):
        pool.push(stream, torch.randn(1, 1, 6))
    assert pool.join() != stream


def test_ends_without_input_and_twice():
    pool = StreamPool(network(), BLOCK, capacity=2)
    pool.finish(pool.join())
    assert len(pool) == 0
    stream = pool.join()
    pool.push(stream, torch.randn(1, 1, 6))
    pool.finish(stream)
    with pytest.raises(ValueError, match="takes input"):
        pool.push(stream, torch.randn(1, 1, 6))
    assert [piece.shape[1] for _, piece in pool.step()] == [1]
    assert len(pool) == 0


def test_who_stays_behind_holds_no_batch():
    pool = StreamPool(network(), BLOCK, capacity=8)
    streams = [pool.join() for _ in range(8)]
    for _ in range(6):
        for stream in streams:
            pool.push(stream, torch.randn(1, BLOCK, 6))
        pool.step()
    pool.push(streams[0], torch.randn(1, BLOCK, 6))
    pool.step()
    for member in pool._members.values():
        assert all(len(leaf) == 1 for leaf in leaves(member.seat.batch))


@pytest.mark.parametrize(("change", "message"), [("train", "training mode"), ("block", "no stream in blocks of 0")])
def test_refuses_what_cannot_stream(change, message):
    block = network().train(change == "train")
    with pytest.raises(ValueError, match=message):
        StreamPool(block, BLOCK if change == "train" else 0, capacity=1)
