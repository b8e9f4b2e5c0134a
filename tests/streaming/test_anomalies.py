"""The forecaster of anomalies: the law, the fit against closed forms, and the fallback to the linear forecast."""

from math import pi

import pytest
import torch

from kit.streaming import check_block
from wavecast.apps.forecasting.anomalies import (
    Anomalies,
    convs5_anomalies,
    predformer_anomalies,
    state_space_mixer_anomalies,
)
from wavecast.apps.forecasting.steps import forecast

CONVS5 = {
    "depths": [4, 4], "width": 4, "size": 4, "layers": 1, "groups": 2, "action_path": False, "bounded": False
}  # fmt: skip
PREDFORMER = {"variant": "binary_ts", "patch": 4, "dim": 8, "heads": 2, "head_dim": 4, "depth": 1}
MIXER = {"patch": 4, "dim": 8, "layers": 1, "size": 4}
ROWS, COLS, TIME = 5, 6, 4


def hours(count: int, start: int = 0) -> torch.Tensor:
    """Sine and cosine of some hours on every point: (time, row, col, 2)."""
    turn = 2 * pi * torch.arange(start, start + count).double() / 24
    return torch.stack([turn.sin(), turn.cos()], -1)[:, None, None].expand(-1, ROWS, COLS, 2)


def made(kind: str, channels: int = 1) -> Anomalies:
    """A small one with random weights."""
    torch.manual_seed(0)
    if kind == "convs5":
        network = convs5_anomalies(ROWS, COLS, channels, 2, 24, CONVS5)
    elif kind == "state_space_mixer":
        network = state_space_mixer_anomalies(ROWS, COLS, channels, 2, 24, MIXER)
    else:
        network = predformer_anomalies(TIME, ROWS, COLS, channels, 2, 24, PREDFORMER)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point() and not tensor.any():
            tensor.data.normal_(std=0.1)
    return network.double().eval()


@pytest.mark.parametrize("kind", ["convs5", "state_space_mixer"])
def test_around_a_network_that_streams_it_does(kind):
    x = torch.cat([torch.randn(3, 20, ROWS, COLS, 2).double(), hours(20).expand(3, -1, -1, -1, -1)], -1)
    check_block(made(kind, 2), x, examples=10, silence=200)


def test_around_predformer_it_needs_its_window():
    x = torch.cat([torch.randn(2, TIME, ROWS, COLS, 1).double(), hours(TIME).expand(2, -1, -1, -1, -1)], -1)
    network = made("predformer")
    assert network(x)[0].shape == (2, TIME, ROWS, COLS, 1)
    assert network(x[:, :0])[0].shape == (2, 0, ROWS, COLS, 1)
    with pytest.raises(ValueError, match="cannot stream, it forecasts from its whole window"):
        network(x, last=False)


def diurnal(count: int) -> torch.Tensor:
    """A field with a mean and two harmonics of the day at each point: (time, row, col, 1)."""
    generator = torch.Generator().manual_seed(3)
    mean, one, two = torch.randn(3, ROWS, COLS, generator=generator).double()
    turn = (2 * pi * torch.arange(count).double() / 24)[:, None, None]
    return (3 + mean + one * torch.sin(turn + 0.4) + 0.3 * two * torch.cos(2 * turn - 1))[..., None]


def windows(field: torch.Tensor, history: int = TIME, horizon: int = TIME) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """All windows of a field: inputs with their hours, and what follows."""
    inputs = torch.cat([field, hours(len(field))], -1)
    count = len(field) - history - horizon + 1
    return [(inputs[k : k + history], field[k + history : k + history + horizon]) for k in range(count)]


@pytest.mark.parametrize("kind", ["convs5", "predformer"])
def test_a_daily_cycle_is_the_climate_and_an_anomaly_fades_as_fitted(kind):
    """Anomalies that halve every step are forecast exactly, to all leads, once the network says nothing."""
    field = diurnal(30 * 24)
    torch.manual_seed(1)
    anomaly = torch.zeros_like(field)
    for k in range(1, len(field)):
        anomaly[k] = 0.5 * anomaly[k - 1] + 0.1 * torch.randn(ROWS, COLS, 1).double()
    anomaly -= anomaly.mean()
    network = made(kind)
    network.fit(windows(field + anomaly))
    network.spread.zero_()
    past = diurnal(30 * 24)[100 : 100 + TIME] + 1.0
    known = hours(2 * TIME, 100)
    y = forecast(network, past[None], known[None], TIME)[0]
    expected = diurnal(30 * 24)[100 + TIME : 100 + 2 * TIME] + 0.5 ** torch.arange(1, TIME + 1)[:, None, None, None]
    assert (y - expected).abs().max() < 0.12


@pytest.mark.parametrize("kind", ["convs5", "predformer"])
def test_the_fit_is_the_least_squares_one(kind):
    torch.manual_seed(2)
    field = diurnal(6 * 24) + torch.randn(6 * 24, ROWS, COLS, 1).double().cumsum(0) * 0.1
    network = made(kind)
    network.fit(windows(field))
    features, wanted = [], []
    for inputs, future in windows(field):
        hour = inputs[None, -3:, 0, 0, 1:]
        known = network.features(inputs[None, -3:, ..., :1] - network.climate_at(hour))[0, 0, ..., 0]
        features.append(known.flatten(2).flatten(0, 1).T)
        lead = network.leads
        climate = network.climate_at(hour[:, -1:], lead)[0, 0, ..., 0]
        wanted.append((future[lead - 1, ..., 0] - climate).flatten())
    a, b = torch.cat(features), torch.cat(wanted)
    weight = network.weight[-1, ..., 0].flatten()
    left = b - a @ weight
    assert (network.spread[-1, 0] - left.square().mean().sqrt()).abs() < 1e-6
    best = b - a @ torch.linalg.lstsq(a, b[:, None]).solution[:, 0]
    assert left.square().mean() <= 1.001 * best.square().mean()


def test_it_begins_with_the_linear_forecast():
    network = predformer_anomalies(TIME, ROWS, COLS, 1, 2, 24, PREDFORMER).double().eval()
    x = torch.cat([torch.randn(2, TIME, ROWS, COLS, 1).double(), hours(TIME).expand(2, -1, -1, -1, -1)], -1)
    assert torch.equal(network(x)[0], x[:, -1:, ..., :1].expand(-1, TIME, -1, -1, -1))


def test_even_boxes_are_refused():
    with pytest.raises(ValueError, match="hint: give odd sides"):
        Anomalies(made("convs5").network, ROWS, COLS, 1, 1, 24, boxes=(1, 4))
