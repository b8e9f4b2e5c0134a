"""The synthetic atmosphere: plausible, known at any time, turning, and written as WeatherBench writes."""

import numpy as np
import pytest
import xarray as xr

from wavecast.core.errors import WavecastError
from wavecast.datamodules.atmosphere import (
    EPOCH,
    PERIOD,
    SURFACE,
    field_at,
    synthetic_atmosphere,
    write_weatherbench1,
    write_weatherbench2,
)
from wavecast.datamodules.variables import find

EVERYTHING = [*SURFACE, "z", "t", "u", "v", "r", "q"]


def test_every_variable_is_plausible_for_any_seed():
    for seed in range(5):
        fields = synthetic_atmosphere("2010-01-01", 200, 16, 32, seed, EVERYTHING, (50, 500, 850, 1000), step=11)
        for name, field in fields.items():
            variable, _ = find(str(name))
            assert variable.low <= float(field.min()), name
            assert float(field.max()) <= variable.high, name
            assert field.attrs["units"] == variable.units
            assert float(field.std("time").max()) > 0


def test_the_future_is_known_without_the_past():
    """A later, shorter or coarser run of one seed is part of the longer one; another seed is not."""
    long = synthetic_atmosphere("2010-12-30", 72, 8, 16, seed=3)
    late = synthetic_atmosphere("2011-01-01", 24, 8, 16, seed=3, step=6)
    xr.testing.assert_identical(long.sel(time=late.time), late)
    other = synthetic_atmosphere("2011-01-01", 24, 8, 16, seed=4, step=6)
    assert not np.allclose(late["2m_temperature"], other["2m_temperature"], atol=0.5)


def test_the_flow_carries_waves_around_without_change_of_shape():
    """Of a variable without diurnal cycle, what the flow carries repeats after PERIOD; what runs west does not.

    With wave k of the flow at speed w and of the others at -w / 2k, all phases return after 2 PERIOD: k w 2 PERIOD and
    (w / 2) 2 PERIOD are whole turns.
    """
    times = EPOCH + np.array([5, 5 + PERIOD, 5 + 2 * PERIOD]).astype("timedelta64[h]")
    now, once, twice = field_at("mean_sea_level_pressure", times, np.linspace(-80, 80, 9), np.arange(16) * 22.5)
    np.testing.assert_allclose(now, twice, rtol=0, atol=1e-6)
    assert np.abs(now - once).max() > 100


def test_the_sun_warms_the_afternoon():
    """The mean over whole turns of the waves leaves the diurnal cycle: warmest at 14 h local time."""
    times = EPOCH + np.arange(0, int(2 * PERIOD)).astype("timedelta64[h]")
    for degrees_east in (0.0, 90.0):
        at = field_at("2m_temperature", times, np.array([0.0]), np.array([degrees_east]))[:, 0, 0]
        daily = at.reshape(-1, 24).mean(0)
        local = (np.arange(24) + degrees_east / 15) % 24
        turn = np.exp(2j * np.pi * local / 24)
        warmest = np.angle((daily * turn).sum()) / (2 * np.pi) * 24 % 24
        assert warmest == pytest.approx(14, abs=1.5)


def test_cells_are_those_of_weatherbench():
    fields = synthetic_atmosphere("2010-01-01", 1)
    np.testing.assert_allclose(fields.latitude[[0, -1]], [-87.1875, 87.1875])
    np.testing.assert_allclose(fields.longitude[[0, -1]], [0, 354.375])


def test_weatherbench_1_as_published(tmp_path):
    fields = synthetic_atmosphere("2010-12-31", 48, variables=["t2m", "geopotential_500", "t"])
    write_weatherbench1(fields, tmp_path)
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.nc"))
    assert names[0] == "2m_temperature/2m_temperature_2010_5.625deg.nc"
    assert "geopotential_500/geopotential_500hPa_2011_5.625deg.nc" in names
    with xr.open_dataset(tmp_path / names[0]) as file:
        assert file["t2m"].dims == ("time", "lat", "lon")
        assert file["t2m"].dtype == np.float32
        assert file.sizes["time"] == 24
    with xr.open_dataset(tmp_path / "geopotential_500/geopotential_500hPa_2011_5.625deg.nc") as file:
        assert file["z"].dims == ("time", "lat", "lon")
        assert int(file["level"]) == 500


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_weatherbench_2_as_published(tmp_path, zarr_format):
    fields = synthetic_atmosphere("2010-01-01", 24, step=6, variables=["t2m", "t"])
    write_weatherbench2(fields, tmp_path / "a.zarr", zarr_format, descending=True)
    assert (tmp_path / "a.zarr" / (".zgroup" if zarr_format == 2 else "zarr.json")).is_file()
    with xr.open_zarr(tmp_path / "a.zarr", consolidated=zarr_format == 2) as file:
        assert file["temperature"].dims == ("time", "level", "longitude", "latitude")
        assert file["latitude"][0] > file["latitude"][-1]


def test_what_it_has_not_got_is_said():
    with pytest.raises(WavecastError, match="has no snow_depth") as caught:
        synthetic_atmosphere("2010-01-01", 2, variables=["snow_depth"])
    assert "2m_temperature" in caught.value.hint
    with pytest.raises(WavecastError, match="no variable is called"):
        synthetic_atmosphere("2010-01-01", 2, variables=["warmth"])
