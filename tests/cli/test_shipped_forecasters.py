"""The forecasters that ship: the better one is the default for its fields, and both beat persistence on the example."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import wavecast as suite
from wavecast.cards import find_model

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "uk_t2m.nc"
SHIPPED = ("convs5.era5_uk_t2m", "predformer.era5_uk_t2m")


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
