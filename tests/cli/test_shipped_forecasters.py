"""The forecasters that ship: the better one is the default for its fields, and both beat persistence on the example."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import wavecast as suite
from wavecast.cards import Card, find_model
from wavecast.core.errors import WavecastError

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "uk_t2m.nc"
SHIPPED = (
    "convs5.era5_uk_t2m",
    "predformer.era5_uk_t2m",
    "state_space_mixer.era5_uk_t2m",
    "state_space_mixer.era5_uk_t2m_s4d",
)


def test_the_default_is_the_one_with_the_least_error(wavecast):
    said = wavecast("forecast", EXAMPLE, "--dry-run")
    best = min(SHIPPED, key=lambda name: find_model(name).metrics["mean_rmse"])
    assert said.code == 0
    assert said.out.startswith(f"{best}: 12 steps of 1 h from 1 times, 2019-03-22T23")


@pytest.mark.parametrize("name", SHIPPED)
def test_it_beats_persistence_on_a_day_it_has_not_seen(name):
    with xr.open_dataset(EXAMPLE) as fields:
        t2m = fields.load().sortby("latitude")["t2m"]
    future = suite.load("forecast", model=name)(t2m[:12].to_dataset(), steps=12)["2m_temperature"]
    truth = t2m.values[12:]
    error = np.sqrt(np.square(future.values[0] - truth).mean((1, 2)))
    persistence = np.sqrt(np.square(t2m.values[11] - truth).mean((1, 2)))
    assert error.mean() < 0.75 * persistence.mean()
    assert error[0] < persistence[0]
    assert error[-1] < 0.5 * persistence[-1]


def test_python_chooses_the_same_model_by_the_data():
    forecaster = suite.load("forecast", device="cpu")
    with xr.open_dataset(EXAMPLE) as fields:
        fields = fields.load()
    future = forecaster(fields, steps=3)
    best = min(SHIPPED, key=lambda name: find_model(name).metrics["mean_rmse"])
    assert forecaster.chosen.name == best
    first = forecaster.chosen
    xr.testing.assert_identical(future, suite.load("forecast", model=best, device="cpu")(fields, steps=3))
    xr.testing.assert_identical(forecaster(EXAMPLE, steps=3), future)
    assert forecaster.chosen is first  # loaded once


def test_python_refuses_fields_that_no_model_is_made_for(tmp_path, monkeypatch):
    forecaster = suite.load("forecast", device="cpu")
    with xr.open_dataset(EXAMPLE) as fields:
        fields = fields.load()
    with pytest.raises(WavecastError, match=r"no model here fits the data set \(2m_temperature on 20 x 49") as found:
        forecaster(fields.isel(latitude=slice(0, 20)), steps=3)
    assert "convs5.era5_uk_t2m: 2m_temperature on 33 x 49 points" in found.value.message
    assert "wavecast train forecasting --config forecasting_predformer --data.root FILE" in found.value.hint
    fields.isel(longitude=slice(0, 20)).to_netcdf(tmp_path / "part.nc", engine="h5netcdf")
    with pytest.raises(WavecastError, match=r"--data\.root .*part\.nc,"):
        forecaster(tmp_path / "part.nc")
    with pytest.raises(WavecastError, match="does not tell its variables"):
        forecaster(fields["t2m"].values)
    for name in SHIPPED:
        card = find_model(name)
        Card(name, card.architecture, "forecast", card.hyperparameters, fields=card.fields).write(
            tmp_path / f"{name}.yaml"
        )
    monkeypatch.setattr("wavecast.cards.shipped_folder", lambda: tmp_path)
    monkeypatch.setenv("WAVECAST_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WavecastError, match=f"4 models fit the data set: {', '.join(SHIPPED)}") as found:
        forecaster(fields)
    assert found.value.hint == f"choose one as model (--model {SHIPPED[0]})"


def test_python_refuses_a_device_at_once():
    with pytest.raises(WavecastError, match="nothing:0"):
        suite.load("forecast", device="nothing:0")
