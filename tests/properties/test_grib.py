"""GRIB, in and out: what is written comes back to the bit, what is read is whole; where cfgrib is installed."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import xarray as xr

from wavecast.apps.forecasting.forecast_files import ForecastWriter, write_forecast
from wavecast.apps.forecasting.forecast_layout import About, open_forecast, template
from wavecast.apps.forecasting.grib import SHORT_NAMES
from wavecast.core.errors import WavecastError
from wavecast.datamodules.variables import find
from wavecast.datamodules.weather_files import open_fields

installed = pytest.mark.skipif(find_spec("cfgrib") is None, reason="cfgrib is not installed")
HOURS = np.arange(1, 4) * np.timedelta64(1, "h")
TIMES = np.array(["2020-01-01T23", "2020-01-02T05"], "datetime64[ns]")
GRIDS = {
    "region over Greenwich": (np.arange(49.5, 53, 0.35), np.arange(-2, 1, 0.35)),
    "globe": (np.linspace(-80, 80, 8), np.arange(0, 360, 45.0)),
}
SHORT = {"2m_temperature": "t2m", "temperature_850": "t", "geopotential": "z"}


def forecast(grid="globe", members=0, leads=HOURS, names=("2m_temperature", "temperature_850")):
    """A forecast of noise; geopotential lies on two levels."""
    latitudes, longitudes = GRIDS[grid]
    field = np.zeros((len(latitudes), len(longitudes)), np.float32)
    fields = dict.fromkeys(names, (("latitude", "longitude"), field))
    coords = {"latitude": latitudes, "longitude": longitudes}
    if "geopotential" in names:
        fields["geopotential"] = (("level", "latitude", "longitude"), np.stack([field, field]))
        coords["level"] = [500, 850]
    found = template(xr.Dataset(fields, coords), TIMES, leads, members, About("noise")).load()
    rng = np.random.default_rng(0)
    for array in found.data_vars.values():
        array.values[:] = 280 + 10 * rng.standard_normal(array.shape)
    return found


def read(path, name):
    """One variable, by cfgrib, in the layout of a forecast."""
    import cfgrib

    sets = cfgrib.open_datasets(str(path), backend_kwargs={"indexpath": ""}, decode_timedelta=True)
    (found,) = [one[SHORT[name]] for one in sets if SHORT[name] in one]
    dims = {"step": "prediction_timedelta", "isobaricInhPa": "level"}
    return found.rename({old: new for old, new in dims.items() if old in found.coords}).sortby("latitude")


@installed
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("members", [0, 3])
def test_a_forecast_comes_back_to_the_bit(tmp_path, grid, members):
    made = forecast(grid, members, names=[*SHORT])
    path = write_forecast(tmp_path / "x.grib", made, About("noise"))
    assert [one.name for one in tmp_path.iterdir()] == ["x.grib"]
    for name in SHORT:
        found, expected = read(path, name), made[name]
        if "level" in expected.dims:
            found = found.sel(level=expected["level"].values)
        assert found.attrs["units"].replace("**", "") == expected.attrs["units"]
        np.testing.assert_array_equal(found.transpose(*expected.dims).values, expected.values)
        np.testing.assert_array_equal(found["time"], expected["time"])
        np.testing.assert_array_equal(found["prediction_timedelta"], expected["prediction_timedelta"])
        np.testing.assert_allclose(found["latitude"], expected["latitude"], atol=1e-5)
        np.testing.assert_allclose((found["longitude"] - expected["longitude"].values + 180) % 360, 180, atol=1e-5)
    assert read(path, "temperature_850")["level"] == 850
    again = write_forecast(tmp_path / "y.grib", made, About("noise"))
    assert again.read_bytes() == path.read_bytes()


@installed
@pytest.mark.parametrize("minutes", [20, 1.5])
def test_lead_times_need_not_be_whole_hours(tmp_path, minutes):
    leads = np.arange(1, 4) * np.timedelta64(round(60 * minutes), "s")
    path = write_forecast(tmp_path / "x.grb2", forecast(leads=leads), About("noise"))
    np.testing.assert_array_equal(read(path, "2m_temperature")["prediction_timedelta"], leads)


@installed
def test_every_variable_has_its_message(tmp_path):
    """By its name, its unit, and the height or level it lies on."""
    import eccodes

    names = [f"{name}_500" if find(name)[0].on_levels else name for name in SHORT_NAMES]
    path = write_forecast(tmp_path / "x.grib", forecast(names=names), About("noise"))
    found = {}
    with path.open("rb") as file:
        while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
            keys = [eccodes.codes_get(handle, key) for key in ("shortName", "units", "level")]
            found[keys[0]] = keys[1].replace("**", ""), keys[2]
            eccodes.codes_release(handle)
    assert {*found} == {*SHORT_NAMES.values()}
    for name, short in SHORT_NAMES.items():
        variable = find(name)[0]
        assert found[short][0] == variable.units, name
        level = 500 if variable.on_levels else variable.height or 0
        assert found[short][1] == level, name


@installed
def test_missing_values_stay_missing(tmp_path):
    made = forecast()
    made["2m_temperature"].values[1, 2, 3, 4] = np.nan
    path = write_forecast(tmp_path / "x.grib", made, About("noise"))
    np.testing.assert_array_equal(read(path, "2m_temperature").values, made["2m_temperature"].values)


@installed
def test_a_finished_file_is_not_gone_on_with(tmp_path):
    made = forecast()
    path = write_forecast(tmp_path / "x.grib", made, About("noise"))
    with pytest.raises(WavecastError, match="GRIB does not tell of which model it is"):
        write_forecast(path, made, About("noise"), resume=True)
    with pytest.raises(WavecastError, match=r"x\.grib exists"):
        write_forecast(path, made, About("noise"))
    before = path.read_bytes()
    made["2m_temperature"].values[:] += 1
    assert write_forecast(path, made, About("noise"), overwrite=True).read_bytes() != before


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda plan: plan.rename({"2m_temperature": "total_precipitation"}), "is known here for total_precipitation"),
        (lambda plan: plan.isel(latitude=[0, 1, 3]), "the latitudes are not evenly spaced"),
        (lambda plan: plan.isel(longitude=[0]), "the longitudes are not evenly spaced"),
    ],
)
def test_what_grib_has_no_place_for_is_refused_before_the_work(tmp_path, change, text):
    with pytest.raises(WavecastError, match=text) as found:
        begin(tmp_path / "x.grib", change(forecast()))
    assert "NAME.zarr or NAME.nc" in found.value.hint
    assert not list(tmp_path.iterdir())


def test_without_the_library_the_cure_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "eccodes", None)
    with pytest.raises(WavecastError, match=r"x\.GRIB2: GRIB needs ecCodes") as found:
        begin(tmp_path / "x.GRIB2", forecast())
    assert found.value.hint == "pip install 'wavecast[grib]', or call it NAME.zarr or NAME.nc"
    assert not list(tmp_path.iterdir())


def test_scores_want_another_file(tmp_path):
    (tmp_path / "x.grib").write_bytes(b"GRIB")
    with pytest.raises(WavecastError, match=r"x\.grib is GRIB, which is written and not read back"):
        open_forecast(tmp_path / "x.grib")


def begin(path, plan):
    """Open a writer."""
    like = plan.isel(time=0, prediction_timedelta=0)
    return ForecastWriter(path, like, TIMES, HOURS, About("noise"))


def analyses(path, names, hours=4):
    """Write fields as they were, in GRIB, north first; {(short name, level): (hour, row, col)}, south first."""
    import eccodes

    rng, truth = np.random.default_rng(0), {}
    with path.open("wb") as file:
        for hour in range(hours):
            for name, level in names:
                handle = eccodes.codes_grib_new_from_samples("GRIB2")
                keys = {"dataDate": 20200101, "dataTime": 100 * hour, "Ni": 6, "Nj": 5, "jScansPositively": 0}
                keys |= {"latitudeOfFirstGridPointInDegrees": 60.0, "latitudeOfLastGridPointInDegrees": 56.0}
                keys |= {"longitudeOfFirstGridPointInDegrees": 357.0, "longitudeOfLastGridPointInDegrees": 2.0}
                keys |= {"iDirectionIncrementInDegrees": 1.0, "jDirectionIncrementInDegrees": 1.0, "shortName": name}
                keys |= {"typeOfLevel": "isobaricInhPa", "level": level} if level else {}
                for key, value in (keys | {"packingType": "grid_ieee", "precision": 1}).items():
                    eccodes.codes_set(handle, key, value)
                x = (rng.standard_normal((5, 6)) + (280 if name in ("2t", "t") else 0)).astype(np.float32)
                eccodes.codes_set_values(handle, x.astype(float).ravel())
                file.write(eccodes.codes_get_message(handle))
                eccodes.codes_release(handle)
                truth.setdefault((name, level), []).append(x[::-1])
    return {key: np.stack(fields) for key, fields in truth.items()}


@installed
def test_variables_at_different_heights_are_all_read(tmp_path):
    """Together they make no data set for cfgrib, which then leaves out all but one."""
    truth = analyses(tmp_path / "x.grib", [("2t", None), ("10u", None), ("t", 500), ("t", 850)])
    with open_fields(tmp_path / "x.grib") as fields:
        assert {*fields.channels} == {
            "2m_temperature",
            "10m_u_component_of_wind",
            "temperature_500",
            "temperature_850",
        }
        np.testing.assert_array_equal(fields.longitudes, np.arange(-3, 3))
        np.testing.assert_array_equal(fields.latitudes, np.arange(56, 61))
        assert len(fields.times) == 4 and fields.step == 3_600_000_000_000
        names = ["2m_temperature", "10m_u_component_of_wind", "temperature_500", "temperature_850"]
        found = fields.read(0, 4, names)
    for k, one in enumerate(truth.values()):
        np.testing.assert_allclose(found[..., k], one, rtol=1e-6)


@installed
def test_a_file_that_was_cut_off_is_refused(tmp_path):
    analyses(tmp_path / "x.grib", [("2t", None)])
    data = (tmp_path / "x.grib").read_bytes()
    for size in (len(data) - 30, len(data) // 2 + 7, 60):
        (tmp_path / "x.grib").write_bytes(data[:size])
        with pytest.raises(WavecastError, match=r"x\.grib is damaged"):
            open_fields(tmp_path / "x.grib")


@installed
def test_from_grib_to_grib_on_the_command_line(tmp_path):
    from wavecast.main import main

    truth = analyses(tmp_path / "x.grib", [("2t", None), ("10u", None)])
    words = ["forecast", str(tmp_path / "x.grib"), "--model", "persistence", "--steps", "2", "--quiet"]
    assert main([*words, "-o", str(tmp_path / "y.grib")]) == 0
    found = read(tmp_path / "y.grib", "2m_temperature")
    np.testing.assert_array_equal(found.values, np.stack([truth["2t", None][-1]] * 2))
    assert found["time"].values == np.datetime64("2020-01-01T03")
