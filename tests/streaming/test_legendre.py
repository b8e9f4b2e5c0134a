"""Blocks with a Legendre memory obey the law, are what their formulas say, and last for hours."""

import copy

import pytest
import torch

from kit.streaming import assert_close, check_block
from wavecast.core.legendre import LegendreCell, LegendreMemory, LegendreUnit, impulse_response, legendre_matrices
from wavecast.core.state import leaves
from wavecast.core.stream import Stream

HOUR = 360_000
"""Frames of 10 ms."""
FEW = {"examples": 5, "silence": 2000}


@pytest.mark.parametrize("taps", [None, 1, 16])
def test_memory_law(taps):
    check_block(LegendreMemory(5, 12.0, taps), torch.randn(3, 150, 2), **FEW)


@pytest.mark.parametrize(("order", "theta", "taps"), [(6, 12.0, None), (5, 300.0, None), (6, 12.0, 20)])
def test_unit_law(order, theta, taps):
    check_block(LegendreUnit(4, 3, order, theta, taps), torch.randn(3, 300, 4), **FEW)


def test_cell_law():
    cell = LegendreCell(4, 3, 6, 12.0)
    torch.nn.init.normal_(cell.encode_memory, std=0.1)
    check_block(cell, torch.randn(3, 40, 4), examples=3, silence=500)


@pytest.mark.parametrize("taps", [None, 30])
def test_unit_is_its_formula(taps):
    unit, x = LegendreUnit(4, 3, 6, 12.0, taps).double(), torch.randn(2, 50, 4).double()
    transition, entry = (torch.tensor(matrix) for matrix in legendre_matrices(6, 12.0))
    response = torch.tensor(impulse_response(6, 12.0, 50))
    u = torch.relu(x @ unit.encode.weight.T + unit.encode.bias)[..., 0]
    memory = torch.zeros(2, 6).double()
    for t in range(50):
        memory = memory @ transition.T + u[:, t, None] * entry
        if taps is not None:
            memory = sum(u[:, t - k, None] * response[k] for k in range(min(taps, t + 1)))
        expected = torch.relu(torch.cat([memory, x[:, t]], 1) @ unit.read.weight.T + unit.read.bias)
        assert_close(unit(x)[0][:, t], expected, 1e-12)


def test_unit_has_the_published_parameters():
    unit = LegendreUnit(256, 256, 256, 128)
    assert {name: tuple(p.shape) for name, p in unit.named_parameters()} == {
        "encode.weight": (1, 256),
        "encode.bias": (1,),
        "read.weight": (256, 512),
        "read.bias": (256,),
    }
    assert set(unit.state_dict()) == set(dict(unit.named_parameters()))


def test_taps_matter_from_the_step_on_where_they_end():
    recurrence, cut = LegendreMemory(6, 12.0).double(), LegendreMemory(6, 12.0, 10).double()
    x = torch.randn(1, 30, 1).double()
    assert_close(cut(x)[0][:, :10], recurrence(x)[0][:, :10], 1e-13)
    assert (cut(x)[0][:, 10:] - recurrence(x)[0][:, 10:]).abs().amax((0, 2, 3)).min() > 1e-3


def test_cell_is_its_formula():
    cell, x = LegendreCell(4, 3, 6, 12.0).double(), torch.randn(2, 20, 4).double()
    assert cell.encode_memory.count_nonzero() == 0
    assert cell.encode_input.abs().max() <= (3 / 4) ** 0.5
    torch.nn.init.normal_(cell.encode_memory)
    transition, entry = (torch.tensor(matrix) for matrix in legendre_matrices(6, 12.0))
    hidden, memory = torch.zeros(2, 3).double(), torch.zeros(2, 6).double()
    y, _ = cell(x)
    for t in range(20):
        u = x[:, t] @ cell.encode_input + hidden @ cell.encode_hidden + memory @ cell.encode_memory
        memory = torch.stack([transition @ memory[row] + u[row] * entry for row in range(2)])
        hidden = torch.tanh(x[:, t] @ cell.read_input.T + hidden @ cell.read_hidden.T + memory @ cell.read_memory.T)
        assert_close(y[:, t], hidden, 1e-12)


@pytest.mark.parametrize("make", [LegendreMemory, LegendreUnit, LegendreCell])
def test_constants_are_rounded_once(make):
    sizes = {LegendreMemory: (6, 12.0), LegendreUnit: (4, 3, 6, 12.0), LegendreCell: (4, 3, 6, 12.0)}[make]
    block = make(*sizes)
    there_and_back = copy.deepcopy(block).half().float().double()
    for (name, found), expected in zip(there_and_back.named_buffers(), block.double().buffers(), strict=True):
        assert found.dtype == torch.float64
        assert torch.equal(found, expected), name


def test_half_precision_keeps_its_memory_in_single():
    unit, x = LegendreUnit(4, 3, 6, 12.0).bfloat16(), torch.randn(1, 40, 4).bfloat16()
    y, state = unit(x[:, :30], last=False)
    assert y.dtype == torch.bfloat16
    assert [leaf.dtype for leaf in leaves(state)] == [torch.float32]
    rest, _ = unit(x[:, 30:], state)
    assert_close(torch.cat([y, rest], 1).float(), unit(x)[0].float(), 0.02)


def test_an_hour_stays_bounded_and_exact():
    """Every memory of a long stream is the sum of its last inputs, in double precision, to fp32's last digits."""
    order, piece = 256, 1000
    memory = LegendreMemory(order, 128).eval()
    past = torch.tensor(impulse_response(order, 128, piece)).flip(0)
    generator, stream, largest = torch.Generator().manual_seed(0), Stream(memory, piece), 0.0
    for i in range(HOUR // piece):
        u = torch.rand(1, piece, 1, generator=generator)
        (y,) = stream.push(u)
        largest = max(largest, y.abs().max().item())
        if i % 60 == 59:
            expected = u[0, :, 0].double() @ past
            assert_close(y[0, -1, 0].double(), expected, 1e-5)
    assert largest < 2
    assert [tuple(leaf.shape) for leaf in leaves(stream.state)] == [(1, 1, order)]


def test_silence_leaves_nothing_behind():
    stream = Stream(LegendreMemory(256, 128).eval(), 100)
    stream.push(torch.randn(1, 500, 1))
    for _ in range(100):
        (y,) = stream.push(torch.zeros(1, 100, 1))
    tiny = torch.finfo(torch.float32).tiny
    assert not ((y != 0) & (y.abs() < tiny)).any()
    assert stream.state.values.abs().max() < 1e-30


@pytest.mark.parametrize("taps", [None, 3])
def test_needs_a_size(taps):
    with pytest.raises(ValueError, match="hint: both must be positive"):
        LegendreMemory(4, -1.0, taps)
    with pytest.raises(ValueError, match=r"a memory of 0 taps\nhint: at least 1"):
        LegendreUnit(4, 3, 6, 12.0, 0)
