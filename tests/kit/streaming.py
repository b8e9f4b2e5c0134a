"""The test kit of the law `y, state = block(x, state=None, *, last=True)`: every block and network goes through it.

check_block(block, example)              # a block that streams; example: (batch >= 3, time, ...)
check_whole_only(block, example)         # a block with infinite look-ahead: it must refuse to stream
"""

import copy
from collections.abc import Sequence
from itertools import pairwise
from math import floor, inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wavecast.core.block import Block
from wavecast.core.state import Ended, State, detach, gather, leaves, stack, to
from wavecast.core.stream import flushed_denormals

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def check_block(
    block: Block,
    example: Tensor,
    *,
    examples: int = 15,
    silence: int = 4000,
    prompt: bool = True,
    padded: bool = True,
    tolerance: dict[torch.dtype, float] = TOLERANCE,
) -> None:
    """Put a block through the whole law.

    Args:
        block: any block that can stream; it is deep-copied, used in eval mode, in fp64 and fp32.
        example: (batch >= 3, time, ...) input long enough for several periods after the warm-up.
        examples: random cuts to try.
        silence: steps that make up a minute of silence.
        prompt: whether everything must come out as soon as the declared look-ahead allows.
        padded: whether padded batches with lengths are supported.
        tolerance: largest relative error by dtype.
    """
    block = copy.deepcopy(block).eval()
    double, x = copy.deepcopy(block).double(), example.double()
    check_cuts(double, x, examples, tolerance[torch.float64])
    check_cuts(block.float(), example.float(), 3, tolerance[torch.float32])
    check_lengths(double, x, tolerance[torch.float64])
    check_causality(double, x, prompt)
    check_rows(double, x, tolerance[torch.float64])
    check_states(double, x)
    check_shapes_settle(double, x)
    check_gradients(double, x, tolerance[torch.float64])
    check_silence(block.float(), example.float(), silence)
    check_state_dict(double, x)
    if padded:
        check_padding(double, x, tolerance[torch.float64])


def check_whole_only(block: Block, example: Tensor) -> None:
    """Show that a block with infinite look-ahead works on whole signals, refuses to stream, and says why."""
    block = copy.deepcopy(block).eval().double()
    example = example.double()
    assert block.lookahead == inf
    y, state = block(example)
    assert y.shape[1] == block.out_length(example.shape[1])
    assert isinstance(state, Ended)
    with pytest.raises(ValueError, match=r"cannot stream(.|\n)*hint:"):
        block(example, last=False)
    with pytest.raises(ValueError, match=r"cannot stream(.|\n)*hint:"):
        block(example, (), last=True)
    for steps in (0, 1):
        assert block(example[:, :steps])[0].shape[1] == block.out_length(steps)
    check_state_dict(block, example)


def run(block: Block, x: Tensor, cuts: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Stream x cut at the given places; give the whole output and how much had come out after each piece."""
    state: State = None
    pieces, counts = [], []
    edges = [0, *sorted(cuts), x.shape[1]]
    for i, (a, b) in enumerate(pairwise(edges)):
        y, state = block(x[:, a:b], state, last=i == len(edges) - 2)
        pieces.append(y)
        counts.append(sum(piece.shape[1] for piece in pieces))
    assert isinstance(state, Ended)
    return torch.cat(pieces, 1), counts


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare shapes exactly and values relative to the largest one."""
    assert found.shape == expected.shape, f"shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    if expected.numel():
        error = (found - expected).abs().max().item()
        scale = max(expected.abs().max().item(), 1e-3)
        assert error <= tolerance * scale, f"off by {error:.3g} where the largest value is {scale:.3g}"


@torch.no_grad()
def check_cuts(block: Block, x: Tensor, examples: int, tolerance: float) -> None:
    """Equality to the last element for random cuts, single steps, empty pieces and one long piece."""
    time = x.shape[1]
    whole, _ = block(x)

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(st.lists(st.integers(0, time), max_size=8))
    def random_cuts(cuts: list[int]) -> None:
        assert_close(run(block, x, cuts)[0], whole, tolerance)

    random_cuts()
    some = min(time, max(40, 3 * block.period))
    short = x[:, :some]
    singles = range(some) if some <= 200 else [*range(0, some - 100, 37), *range(some - 100, some)]
    assert_close(run(block, short, list(singles))[0], block(short)[0], tolerance)
    assert_close(run(block, x, [0, 0, time // 2, time // 2, time, time])[0], whole, tolerance)
    period = block.period
    assert_close(run(block, x, list(range(period, time, period)))[0], whole, tolerance)


@torch.no_grad()
def check_lengths(block: Block, x: Tensor, tolerance: float) -> None:
    """Every length down to nothing gives `out_length` steps, whole and streamed; out_length takes tensors too."""
    for steps in sorted({0, 1, 2, block.period, block.period + 1, x.shape[1] - 1} & set(range(x.shape[1]))):
        y, _ = block(x[:, :steps])
        assert y.shape[1] == block.out_length(steps), f"{steps} steps gave {y.shape[1]}"
        assert int(block.out_length(torch.tensor(steps))) == y.shape[1]
        assert torch.isfinite(y).all()
        begun, state = block(x[:, :steps], last=False)
        ended, _ = block(x[:, :0], state)
        assert_close(torch.cat([begun, ended], 1), y, tolerance)
    nothing, _ = block(x[:, :0], last=False)
    assert nothing.shape[1] == 0


@torch.no_grad()
def check_causality(block: Block, x: Tensor, prompt: bool) -> None:
    """Later input changes nothing beyond the declared look-ahead, and what can come out does."""
    whole, _ = block(x)
    needed = [floor(block.stride * j) + block.lookahead for j in range(whole.shape[1])]
    for at in {1, x.shape[1] // 3, x.shape[1] // 2, x.shape[1] - 1}:
        other = x.clone()
        other[:, at:] = 1 - 2 * other[:, at:]
        safe = sum(n < at for n in needed)
        assert_close(block(other)[0][:, :safe], whole[:, :safe], 1e-12)
        y, _ = block(x[:, :at], last=False)
        assert_close(y, whole[:, : y.shape[1]], 1e-12)
        if prompt:
            assert y.shape[1] >= safe, f"only {y.shape[1]} of {safe} steps out after {at} steps in"


@torch.no_grad()
def check_rows(block: Block, x: Tensor, tolerance: float) -> None:
    """Rows of a state are gathered in any order, restarted, and batched across streams."""
    if len(x) < 3:
        raise ValueError("the example needs at least three rows")
    half = x.shape[1] // 2 - (x.shape[1] // 2) % block.period
    whole, _ = block(x)
    begun, state = block(x[:, :half], last=False)
    order = torch.tensor([2, 0])
    ended, _ = block(x[order, half:], gather(state, order))
    assert_close(torch.cat([begun[order], ended], 1), whole[order], tolerance)

    alone = [block(x[row : row + 1, :half], last=False) for row in (0, 2)]
    ended, _ = block(x[[0, 2], half:], stack([state for _, state in alone]))
    assert_close(torch.cat([torch.cat([y for y, _ in alone]), ended], 1), whole[[0, 2]], tolerance)

    late = x.flip(0)[:1]
    restarted, fresh = block(late[:, :half], last=False)
    joined = stack([gather(state, [1]), fresh])
    ended, _ = block(torch.cat([x[1:2, half:], late[:, half:]]), joined)
    assert_close(torch.cat([begun[1:2], ended[:1]], 1), whole[1:2], tolerance)
    assert_close(torch.cat([restarted, ended[1:]], 1), block(late)[0], tolerance)


@torch.no_grad()
def check_states(block: Block, x: Tensor) -> None:
    """A state is tensors with the batch first, owned, untouched by the next call, movable, and ends for good."""
    half = x.shape[1] // 2
    _, state = block(x[:, :half], last=False)
    for leaf in leaves(state):
        assert isinstance(leaf, Tensor)
        assert leaf.ndim >= 1
        assert leaf.shape[0] == x.shape[0], f"a state tensor of shape {tuple(leaf.shape)}: the batch is not first"
        assert leaf.is_contiguous()
        assert leaf.untyped_storage().nbytes() == leaf.numel() * leaf.element_size(), "a view of something larger"
        assert leaf.is_floating_point() or leaf.dtype in (torch.int64, torch.bool)
    kept = [leaf.clone() for leaf in leaves(state)]
    first, following = block(x[:, half:], state, last=False)
    inputs = {leaf.data_ptr() for leaf in leaves(state) if leaf.numel()} | {x.data_ptr(), x[:, half:].data_ptr()}
    for before, after in zip(kept, leaves(state), strict=True):
        assert torch.equal(before, after), "the call wrote into the state it was given"
    for leaf in leaves(following):
        assert not (leaf.numel() and leaf.data_ptr() in inputs), "the new state shares memory with what was given"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    again, _ = block(x[:, half:], detach(to(to(state, device), "cpu")), last=False)
    assert torch.equal(first, again)
    assert all(leaf.dtype != torch.float64 for leaf in leaves(to(state, dtype=torch.float32)))
    with pytest.raises(ValueError, match="has ended"):
        block(x, block(x)[1])


@torch.no_grad()
def check_shapes_settle(block: Block, x: Tensor) -> None:
    """Fed multiples of the period, output and state keep their shapes after the warm-up."""
    size = block.period * max(1, x.shape[1] // (8 * block.period))
    warmup = int(block.lookahead) // size + 2
    repeat = torch.cat([x] * ((warmup + 8) * size // x.shape[1] + 2), 1)
    state: State = None
    shapes = []
    # Memories of a finite past fill within their own length, which only the state knows: run until it repeats.
    for i in range(warmup + 8):
        y, state = block(repeat[:, i * size : (i + 1) * size], state, last=False)
        shapes.append([tuple(y.shape), *(tuple(leaf.shape) for leaf in leaves(state))])
    assert shapes[-1] == shapes[-2] == shapes[-3], f"shapes still change: {shapes[-3:]}"


def check_gradients(block: Block, x: Tensor, tolerance: float) -> None:
    """The gradient through a stream equals the gradient of the whole, for the input and every parameter."""
    time = x.shape[1]
    parameters = [p for p in block.parameters() if p.requires_grad]

    def gradients(cuts: Sequence[int]) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        y, _ = run(block, leaf, cuts)
        torch.manual_seed(0)
        return torch.autograd.grad((y * torch.randn_like(y)).sum(), [leaf, *parameters], materialize_grads=True)

    for found, expected in zip(gradients([time // 3, time // 2]), gradients([]), strict=True):
        assert_close(found, expected, 1e3 * tolerance)


@torch.no_grad()
def check_silence(block: Block, x: Tensor, steps: int) -> None:
    """After a minute of silence the state holds no subnormal number, which would slow every later call."""
    tiny = torch.finfo(torch.float32).tiny
    size = block.period * max(1, 500 // block.period)
    with flushed_denormals():
        _, state = block(x, last=False)
        for _ in range(max(1, steps // size)):
            _, state = block(x.new_zeros(len(x), size, *x.shape[2:]), state, last=False)
    for leaf in leaves(state):
        if leaf.is_floating_point():
            assert torch.isfinite(leaf).all()
            assert not ((leaf != 0) & (leaf.abs() < tiny)).any(), "subnormal numbers in the state"


@torch.no_grad()
def check_state_dict(block: Block, x: Tensor) -> None:
    """Weights saved from one block and loaded strictly into another give the same output."""
    other = copy.deepcopy(block)
    for tensor in [*other.parameters(), *other.buffers()]:
        tensor.data = torch.ones_like(tensor)
    other.load_state_dict(block.state_dict())
    constants = dict(block.named_buffers())
    for name, buffer in other.named_buffers():
        if name not in block.state_dict():
            buffer.copy_(constants[name])
    assert torch.equal(other(x)[0], block(x)[0])


@torch.no_grad()
def check_padding(block: Block, x: Tensor, tolerance: float) -> None:
    """Rows padded with junk and NaN to one length give the frames that each row gives alone."""
    time = x.shape[1]
    lengths = torch.tensor([time, time // 2, time - 1])
    junk = x[:3].clone()
    junk[1, lengths[1] :] = float("nan")
    junk[2, lengths[2] :] = 1e6
    y, _ = block(junk, lengths=lengths)
    for row, n in enumerate(lengths.tolist()):
        alone, _ = block(x[row : row + 1, :n])
        valid = alone.shape[1]
        assert int(block.out_length(lengths)[row]) == valid
        assert_close(y[row : row + 1, :valid], alone, tolerance)
