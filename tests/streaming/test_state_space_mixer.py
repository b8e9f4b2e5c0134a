"""The state-space mixer: the law, forecasts from its own output, and what it refuses."""

import pytest
import torch

from kit.streaming import assert_close, check_block
from wavecast.apps.forecasting.state_space_mixer import EachPlace, Layer, StateSpaceMixer
from wavecast.apps.forecasting.steps import forecast
from wavecast.core.state_space import S5

SMALL = {"rows": 4, "cols": 6, "patch": 2, "dim": 6, "layers": 2, "size": 4}


@pytest.mark.parametrize("memory", ["s5", "s4d"])
def test_it_keeps_the_law(memory):
    torch.manual_seed(0)
    network = StateSpaceMixer(2, output_channels=1, memory=memory, boundary="longitude", **SMALL)
    check_block(network, torch.randn(3, 12, 4, 6, 2), examples=5, silence=600)


@torch.no_grad()
def test_every_place_is_a_sequence_of_its_own():
    """The block over a field equals the block at each place alone; a place does not hear of another."""
    torch.manual_seed(1)
    system = S5(5, 8).double()
    x = torch.randn(2, 9, 3, 4, 5, dtype=torch.float64)
    y, _ = EachPlace(system)(x)
    for row in range(3):
        for col in range(4):
            assert_close(y[:, :, row, col], system(x[:, :, row, col])[0], 1e-12)


@torch.no_grad()
def test_a_layer_mixes_neighbors_and_goes_round_the_globe():
    torch.manual_seed(2)
    x = torch.randn(1, 1, 5, 7, 4, dtype=torch.float64)
    other = x.clone()
    other[0, 0, 2, 0, 1] += 1
    for boundary, columns in (("zeros", {0, 1}), ("longitude", {0, 1, 6})):
        layer = Layer(S5(4, 4), 4, 3, 0.0, boundary).double().eval()
        changed = (layer(other)[0] - layer(x)[0]).abs().amax((0, 1, 4)) > 1e-12
        assert set(changed.any(0).nonzero().flatten().tolist()) == columns
        assert set(changed.any(1).nonzero().flatten().tolist()) == {1, 2, 3}


@torch.no_grad()
def test_a_forecast_runs_on_its_own_output():
    """Frame by frame with a carried state as from the whole sequence each time; what is known ahead goes in too."""
    torch.manual_seed(3)
    network = StateSpaceMixer(3, output_channels=1, **SMALL).double().eval()
    past, known = torch.randn(2, 5, 3, 6, 1, dtype=torch.float64), torch.randn(2, 8, 3, 6, 2, dtype=torch.float64)
    found = forecast(network, past, known, 3, increments=True)
    frames = past
    for _ in range(3):
        seen = torch.cat([frames, known[:, : frames.shape[1]]], -1)
        filled = torch.cat([seen, seen[:, :, -1:]], 2)
        y, _ = network(filled)
        frames = torch.cat([frames, frames[:, -1:] + y[:, -1:, :3]], 1)
    assert_close(found, frames[:, 5:], 1e-12)


def test_its_default_is_small():
    assert sum(parameter.numel() for parameter in StateSpaceMixer(3, 36, 52, 1).parameters()) < 250_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "s6"}, "there is no memory 's6'\nhint: one of s5, s4d"),
        ({"rows": 5}, "patches of 2 do not fill frames of 5 x 6\nhint:"),
        ({"kernel": 2}, "hint: take an odd number"),
        ({"boundary": "walls"}, "hint: one of zeros, longitude"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        StateSpaceMixer(**{**SMALL, **options})


def test_other_frames_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 8, 1\), and is made for \(4, 6, 1\)\nhint:"):
        StateSpaceMixer(**SMALL)(torch.zeros(1, 2, 4, 8, 1))
