"""`scripts/bench/forecast_quality.py`: what it measures, and when it fails."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from wavecast.datamodules.atmosphere import synthetic_atmosphere

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"
SPANS = ["--train", "2020-01-01", "2020-01-03", "--report", "2020-01-04", "2020-01-04"]


class Perfect:
    """A network that knows the future, off by some kelvin."""

    name, checkpoint, history, horizon, members, drift = "perfect", "", 1, 12, 0, ""

    def __init__(self, script, error):
        self.open = script.BaselineMethod("persistence").open
        self.error, self.format = error, SimpleNamespace(channels=["2m_temperature"])

    def pieces(self, fields, at, steps):
        yield {"2m_temperature": fields.read(at + 1, at + 1 + steps, ["2m_temperature"])[..., 0] + self.error}


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("forecast_quality")


@pytest.fixture
def fields(tmp_path):
    path = tmp_path / "fields.nc"
    data = synthetic_atmosphere("2020-01-01", 96, 6, 12, variables=["2m_temperature"])
    data.to_netcdf(path, engine="h5netcdf")
    return path, data["2m_temperature"].values.astype(float)


def test_every_baseline_from_every_initial_time(script, fields, tmp_path, monkeypatch):
    """12 initial times: 0 to 11 h of the last day; persistence and the day before by the formula."""
    path, x = fields
    monkeypatch.setattr(script, "shipped_models", lambda fields: [])
    assert script.main(["--fields", str(path), *SPANS, "--output", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["initial_times"], found["lead_hours"]) == (12, [float(hour) for hour in range(1, 13)])
    assert {*found["rmse"]["2m_temperature"]} == {*script.BASELINES}
    edges = np.radians(np.linspace(-90, 90, 7))
    areas = np.diff(np.sin(edges))[:, None]
    begins = 72 + np.arange(12)
    for lead in (1, 7, 12):
        for name, seen in (("persistence", begins), ("previous_day", begins + lead - 24)):
            squares = ((x[seen] - x[begins + lead]) ** 2 * areas / areas.mean()).mean((1, 2))
            expected = np.sqrt(squares.mean())
            assert found["rmse"]["2m_temperature"][name][lead - 1] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("error", "code"), [(1e-3, 0), (50.0, 1)])
def test_a_network_must_beat_persistence_and_the_day_before(script, fields, tmp_path, monkeypatch, capsys, error, code):
    path, _ = fields
    monkeypatch.setattr(script.Forecaster, "load", lambda name, device: Perfect(script, error))
    words = ["--fields", str(path), *SPANS, "--model", "x", "--output", str(tmp_path / "out.json")]
    assert script.main(words) == code
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["rmse"]["2m_temperature"]["perfect"] == pytest.approx([error] * 12, rel=0.2)
    won = found["better_at_every_lead_than"]["perfect"]["2m_temperature"]
    assert won == (list(script.BASELINES) if code == 0 else [])
    assert ("better at every lead than persistence, previous_day" in capsys.readouterr().out) == (code == 0)


def test_a_short_span_is_refused(script, fields, tmp_path):
    words = ["--fields", str(fields[0]), "--train", "2020-01-01", "2020-01-03", "--output", str(tmp_path / "out.json")]
    with pytest.raises(script.WavecastError, match="has 6 times"):
        script.main([*words, "--report", "2020-01-04T00", "2020-01-04T05"])
