"""A recorded network gives the numbers of the network itself, bit for bit, and keeps the law."""

import pytest
import torch
from torch import nn

from kit.streaming import check_block
from wavecast.core.block import Frames
from wavecast.core.fsmn import TimeMemory
from wavecast.core.groups import Chain, Skip
from wavecast.core.recorded import REPEATS, Recorded
from wavecast.core.stream import Stream


def network() -> Chain:
    """A small network with a memory and a path around it."""
    torch.manual_seed(0)
    return Chain(widen=Frames(nn.Linear(3, 8)), memory=Skip(TimeMemory(8, 4, 2)), narrow=Frames(nn.Linear(8, 2)))


def test_a_recording_is_replayed_bit_for_bit():
    plain, x = network().eval(), torch.randn(2, 300, 3)
    recorded = Recorded(plain)
    outputs = []
    for one in (plain, recorded):
        stream = Stream(one, 4)
        outputs.append(torch.cat([*stream.push(x), *stream.flush()], 1))
    assert torch.equal(*outputs)
    assert [key[0] for key in recorded._recordings] == [(2, 4, 3)]


def test_a_recording_keeps_the_law():
    recorded = Recorded(network())
    check_block(recorded, torch.randn(3, 2 * REPEATS + 20, 3))


def test_each_shape_has_its_own_recording():
    recorded = Recorded(network().eval())
    for rows, steps in ((1, 4), (2, 4), (1, 5)):
        recorded.prepare(torch.zeros(rows, steps, 3))
    assert [key[0] for key in recorded._recordings] == [(1, 4, 3), (2, 4, 3), (1, 5, 3)]


def test_training_is_never_recorded():
    recorded = Recorded(network()).train()
    _, state = recorded(torch.randn(1, 20, 3), last=False)
    for _ in range(2 * REPEATS):
        y, state = recorded(torch.randn(1, 4, 3), state, last=False)
    assert not recorded._recordings
    assert y.requires_grad


@pytest.mark.parametrize("rows", [1, 3])
def test_states_of_another_recording_fit(rows):
    x = torch.randn(rows, 40, 3)
    one, other = Recorded(network().eval()), Recorded(network().eval())
    with torch.inference_mode():
        begun, state = one(x[:, :25], last=False)
        ended, _ = other(x[:, 25:], state)
        whole, _ = one(x)
    assert torch.allclose(torch.cat([begun, ended], 1), whole, atol=1e-6)
