"""The law itself, and the kit that tests it, on small blocks written here."""

from dataclasses import fields
from fractions import Fraction
from math import inf

import pytest
import torch
from torch import Tensor, nn

from kit.streaming import check_block, check_whole_only
from wavecast.core.block import Block, Frames, Window
from wavecast.core.groups import Chain, Fork, Skip, Trim, concatenate
from wavecast.core.state import Ended, State, Tail, gather, leaves, own, stack, state, to
from wavecast.core.stream import Stream, flushed_denormals


class Convolution(Window):
    """A dense convolution over time, (batch, time, channel)."""

    def __init__(self, inputs: int, outputs: int, taps: int, stride: int = 1, left: int = 0, right: int = 0) -> None:
        super().__init__(taps, stride, left, right)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, taps) / taps)

    def operator(self, x: Tensor) -> Tensor:
        """Convolve without padding."""
        return nn.functional.conv1d(x.transpose(1, 2), self.weight, stride=self.hop).transpose(1, 2)


class Repeat(Block):
    """Every step `times` over: the smallest block that makes more steps than it takes."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.stride = times, Fraction(1, times)

    def out_length(self, n):
        """Count the repeated steps."""
        return n * self.times

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Repeat; there is nothing to remember."""
        return x.repeat_interleave(self.times, 1), ()


@state
class Level:
    """A leaky mean. mean: (batch, channel)."""

    mean: Tensor


class Leaky(Block):
    """An exponential mean along time, step by step."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.keep = nn.Parameter(torch.full((channels,), 0.9))

    def step(self, x: Tensor, state: Level | None, last: bool) -> tuple[Tensor, Level]:
        """Run the recurrence."""
        mean = x.new_zeros(x.shape[0], x.shape[2]) if state is None else state.mean
        ys = [x[:, :0]]
        for i in range(x.shape[1]):
            mean = self.keep * mean + (1 - self.keep) * x[:, i]
            ys.append(mean[:, None])
        return torch.cat(ys, 1), Level(own(mean))


class Mean(Block):
    """The mean of the whole signal, at every step."""

    lookahead = inf
    needs_all = "it averages the whole signal"

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Average over time."""
        return x.mean(1, keepdim=True).expand_as(x) if x.shape[1] else x, ()


def unet() -> Block:
    """Nested strides 2 and 3 with skips, look-ahead and a recurrence inside."""
    inner = Chain(Convolution(4, 4, 3, 3, 0, 2), Leaky(4), Repeat(3))
    middle = Chain(Convolution(4, 4, 4, 2, 1, 3), Skip(Trim(inner)), Repeat(2))
    return Chain(
        enter=Convolution(2, 4, 5, left=2, right=2),
        body=Fork(concatenate, trim=True, skip=Convolution(4, 4, 1), deep=middle),
        leave=Frames(nn.Linear(8, 2)),
    )


BLOCKS = {
    "causal": lambda: Convolution(3, 4, 5, left=4),
    "centred": lambda: Convolution(3, 4, 5, left=2, right=2),
    "strided": lambda: Convolution(3, 2, 4, stride=2, left=1, right=3),
    "frames": lambda: Frames(nn.Linear(3, 5)),
    "recurrent": lambda: Leaky(3),
    "residual": lambda: Skip(Chain(Convolution(3, 6, 3, left=1, right=1), Frames(nn.Linear(6, 3)))),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_keep_the_law(name):
    torch.manual_seed(1)
    check_block(BLOCKS[name](), torch.randn(3, 41, 3), silence=1000)


def test_nested_unet_keeps_the_law():
    torch.manual_seed(2)
    check_block(unet(), torch.randn(3, 67, 2), silence=1000)


def test_groups_compose_stride_lookahead_period_and_length():
    chain = Chain(Convolution(1, 1, 4, 2, 0, 2), Convolution(1, 1, 3, 3, 0, 2), Repeat(6))
    assert (chain.stride, chain.lookahead, chain.period) == (1, 3 + 2 * 2, 6)
    assert chain.out_length(12) == 12
    assert unet().stride == 1
    assert Skip(Mean()).lookahead == inf
    assert Chain(Repeat(2), Mean()).lookahead == inf


def test_whole_signal_blocks_refuse_to_stream():
    check_whole_only(Mean(), torch.randn(3, 20, 2))
    check_whole_only(Chain(Convolution(2, 2, 3, left=2), Mean()), torch.randn(3, 20, 2))
    with pytest.raises(ValueError, match="cannot stream"):
        Stream(Mean().eval(), 4)


class Broken(Convolution):
    """A convolution with one fault, to show that the kit finds it."""

    def __init__(self, fault: str) -> None:
        super().__init__(3, 3, 5, left=4)
        self.fault = fault

    def step(self, x: Tensor, state: Tail | None, last: bool) -> tuple[Tensor, Tail]:
        """Do what the window does, but for the fault."""
        steps = x.shape[1]
        y, after = super().step(x, state, last)
        if self.fault == "forgets":
            after = Tail(torch.zeros_like(after.past))
        if self.fault == "views":
            after = Tail(torch.cat([after.past, after.past])[: len(x)])
        if self.fault == "writes" and state is not None:
            state.past.zero_()
        if self.fault == "drops the end" and last and steps > 1:
            y = y[:, :-1]
        if self.fault == "peeks" and steps > 1:
            y = y + x.mean(1, keepdim=True)
        if self.fault == "waits" and not last:
            y, after = y[:, :0], Tail(own(x if state is None else torch.cat([state.past, x], 1)))
        return y, after


@pytest.mark.parametrize("fault", ["forgets", "views", "writes", "drops the end", "peeks", "waits"])
def test_the_kit_finds_faults(fault):
    with pytest.raises((AssertionError, ValueError)):
        check_block(Broken(fault), torch.randn(3, 41, 3), silence=1000)


def test_the_kit_passes_the_same_block_without_fault():
    check_block(Broken("none"), torch.randn(3, 41, 3), silence=1000)


def test_paths_of_unequal_length_are_an_error():
    fork = Fork(torch.add, a=Convolution(1, 1, 3), b=Convolution(1, 1, 3, left=2))
    with pytest.raises(ValueError, match="hint: pad them alike"):
        fork(torch.randn(1, 10, 1))
    with pytest.raises(ValueError, match="strides"):
        Fork(torch.add, a=Repeat(2), b=Leaky(1))


def test_lengths_go_with_whole_batches_only():
    block = Leaky(1)
    with pytest.raises(ValueError, match="lengths"):
        block(torch.randn(2, 5, 1), last=False, lengths=torch.tensor([5, 2]))


def test_states_move_gather_and_refuse_to_mix_phases():
    @state
    class Counted:
        value: Tensor
        count: Tensor

    assert [field.name for field in fields(Counted)] == ["value", "count"]
    one = Counted(torch.randn(3, 2), torch.tensor([1, 2, 3]))
    assert gather(one, [2]).count.tolist() == [3]
    assert gather(one, torch.tensor([True, False, True])).count.tolist() == [1, 3]
    double = to(one, dtype=torch.float64)
    assert (double.value.dtype, double.count.dtype) == (torch.float64, torch.int64)
    assert leaves(Ended()) == []
    with pytest.raises(ValueError, match="warming up"):
        stack([Tail(torch.randn(1, 2, 3)), Tail(torch.randn(1, 4, 3))])


@pytest.mark.parametrize("pushes", [[1000], [1] * 100 + [900], [0, 333, 0, 667], [7] * 142 + [6]])
def test_stream_bytes_do_not_depend_on_the_pushes(pushes):
    torch.manual_seed(3)
    network = unet().eval()
    x = torch.randn(2, 1000, 2)
    stream = Stream(network, 60)
    pieces = [piece for part in x.split(pushes, 1) for piece in stream.push(part)] + stream.flush()
    once = Stream(network, 60)
    assert torch.equal(torch.cat(pieces, 1), torch.cat(once.push(x) + once.flush(), 1))
    whole = network(x)[0]
    assert (torch.cat(pieces, 1) - whole).abs().max() <= 1e-5 * whole.abs().max()
    assert torch.equal(torch.cat(stream.push(x) + stream.flush(), 1), torch.cat(pieces, 1))


def test_stream_refuses_training_mode_and_odd_blocks():
    with pytest.raises(ValueError, match="eval"):
        Stream(unet(), 60)
    with pytest.raises(ValueError, match="period"):
        Stream(unet().eval(), 61)
    assert Stream(unet().eval(), 60).flush() == []


@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_flushed_only_inside(before):
    tiny = torch.tensor(1e-40)
    torch.set_flush_denormal(before)
    with flushed_denormals():
        assert tiny * 1 == 0
    assert (tiny * 1 == 0) == before
    torch.set_flush_denormal(False)
