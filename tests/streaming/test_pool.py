"""Streams in threads that share a network: each gets what it would get alone, and none waits for ever."""

import threading

import pytest
import torch
from torch import Tensor, nn

from wavecast.core.block import Block, Frames
from wavecast.core.fsmn import TimeMemory
from wavecast.core.groups import Chain, Skip
from wavecast.core.pool import Pool, PoolClosed
from wavecast.core.state import State
from wavecast.core.stream import Stream


class Counted(Chain):
    """A small network that counts its calls, and fails on numbers above 100."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        memory = Skip(TimeMemory(4, 3, 2))
        super().__init__(widen=Frames(nn.Linear(2, 4)), memory=memory)
        self.calls = 0

    def step(self, x: Tensor, state: State, last: bool, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Count, and run."""
        self.calls += 1
        if x.numel() and x.max() > 100:
            raise ValueError("too loud")
        return super().step(x, state, last, lengths)


def enhance(network: Block | Pool, x: Tensor) -> Tensor:
    stream = Stream(network, 4)
    return torch.cat([*stream.push(x), *stream.flush()], 1)


def serve(network: Block, inputs: list[Tensor]) -> list[Tensor | Exception]:
    """Run each input in a thread of its own."""
    pool = Pool(network)
    pool.join(len(inputs))
    results: list[Tensor | Exception] = [ValueError("no answer")] * len(inputs)

    def work(i: int) -> None:
        with pool.member():
            try:
                results[i] = enhance(pool, inputs[i])
            except ValueError as error:
                results[i] = error

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    pool.serve()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


def test_each_stream_gets_what_it_gets_alone():
    network = Counted().eval()
    inputs = [torch.randn(rows, steps, 2) for rows, steps in ((1, 40), (2, 40), (1, 17), (1, 0), (3, 90))]
    for found, x in zip(serve(network, inputs), inputs, strict=True):
        expected = enhance(network, x)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-6)


def test_streams_of_one_length_run_as_one():
    network = Counted().eval()
    enhance(network, torch.randn(1, 80, 2))
    alone, network.calls = network.calls, 0
    serve(network, [torch.randn(1, 80, 2) for _ in range(4)])
    assert network.calls == alone


def test_an_error_reaches_those_who_asked():
    network = Counted().eval()
    quiet, loud = torch.zeros(1, 30, 2), torch.full((1, 8, 2), 200.0)
    late = torch.cat([torch.zeros(1, 30, 2), loud], 1)
    first, second = serve(network, [quiet, late])
    assert first.shape == (1, 30, 4)
    assert isinstance(second, ValueError)
    assert "too loud" in str(second)


def test_members_of_a_pool_that_stopped_unwind():
    pool = Pool(Counted().eval())
    pool.join(2)
    unwound = threading.Event()

    def work() -> None:
        with pool.member():
            try:
                enhance(pool, torch.randn(1, 40, 2))
            except PoolClosed:
                unwound.set()

    def leave() -> None:
        with pool.member():
            raise_in_server.wait(60)

    raise_in_server = threading.Event()
    threads = [threading.Thread(target=work, daemon=True), threading.Thread(target=leave, daemon=True)]
    for thread in threads:
        thread.start()
    pool.close()
    assert unwound.wait(60)
    raise_in_server.set()
    pool.serve()
    with pytest.raises(PoolClosed):
        pool(torch.randn(1, 4, 2))
