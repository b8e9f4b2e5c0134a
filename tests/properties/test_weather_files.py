"""Weather files: every layout read into one form and given back, refusals that name the cure, damage, laziness."""

import resource
from contextlib import suppress

import dask.array
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.weather_mutations import damage, whole_files
from wavecast.core.errors import WavecastError
from wavecast.datamodules import weather_files
from wavecast.datamodules.atmosphere import synthetic_atmosphere, write_weatherbench1, write_weatherbench2
from wavecast.datamodules.variables import CONVERSIONS, LEXICON, VARIABLES, conversion, find, known, recognize
from wavecast.datamodules.weather_axes import longitude_axis, select_longitudes
from wavecast.datamodules.weather_files import open_fields
from wavecast.datamodules.weather_values import REACH, FieldArray

SURFACE = ["2m_temperature", "10m_u_component_of_wind"]
ROOM = 400 << 20
"""Bytes of memory that reading a small damaged file may add."""


def fields(hours=30, start="2010-12-31", variables=(*SURFACE, "temperature"), **options):
    return synthetic_atmosphere(start, hours, 6, 8, variables=list(variables), **options)


def cf(dataset):
    """Another usual layout: north first, -180 to 180, time last, Pa, degrees Celsius, doubles, y and x."""
    other = dataset.astype(np.float64)
    for name in ("2m_temperature", "temperature"):
        other[name] = (other[name] - 273.15).assign_attrs(units="degC", standard_name="air_temperature")
    other = other.assign_coords(longitude=(other.longitude + 180) % 360 - 180, level=other.level * 100.0)
    other["level"].attrs.update(standard_name="air_pressure", units="Pa")
    other["longitude"].attrs.update(units="degrees_east")
    other = other.sortby("longitude").sortby("latitude", ascending=False).sortby("level", ascending=False)
    other = other.transpose("latitude", "longitude", "level", "time")
    names = {"2m_temperature": "tas", "10m_u_component_of_wind": "uas", "temperature": "ta", "level": "plev"}
    return other.rename({**names, "latitude": "y", "longitude": "x"})


def write_cf(dataset, path):
    cf(dataset).to_netcdf(path, engine="h5netcdf")


def write_netcdf3(dataset, path):
    names = {"latitude": "lat", "longitude": "lon", "2m_temperature": "t2m"}
    dataset.rename(names).to_netcdf(path, engine="scipy", unlimited_dims=["time"])


def write_packed(dataset, path):
    encoding = {name: {"dtype": "i2", "scale_factor": 0.01, "add_offset": 250.0} for name in dataset.data_vars}
    dataset.to_netcdf(path, engine="h5netcdf", encoding={k: {**v, "_FillValue": -32768} for k, v in encoding.items()})


def write_wb2_v2(dataset, path):
    write_weatherbench2(dataset, path, 2, descending=True)


LAYOUTS = {
    "WeatherBench 1": write_weatherbench1,
    "WeatherBench 2, zarr 3": write_weatherbench2,
    "WeatherBench 2, zarr 2, descending": write_wb2_v2,
    "CF": write_cf,
    "NetCDF 3": write_netcdf3,
    "packed": write_packed,
}


def original(path):
    """What xarray itself makes of a file or of the files of a WeatherBench 1 folder."""
    if path.is_dir() and not any((path / name).exists() for name in ("zarr.json", ".zgroup")):
        folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
        parts = [[xr.load_dataset(file) for file in sorted(folder.glob("*.nc"))] for folder in folders]
        return xr.merge([xr.concat(part, "time") for part in parts], compat="override", join="exact")
    options = {"engine": "zarr", "consolidated": (path / ".zmetadata").exists()} if path.is_dir() else {}
    return xr.load_dataset(path, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_into_one_form_and_given_back(layout, tmp_path):
    truth = fields()
    LAYOUTS[layout](truth, tmp_path / "data")
    with open_fields(tmp_path / "data") as opened:
        atol = 0.006 if layout == "packed" else 4e-5 if layout == "CF" else 0
        assert set(opened.dataset.data_vars) == set(truth.data_vars)
        for name, field in truth.items():
            found = opened.dataset[name]
            assert found.dims == field.dims
            assert found.dtype == np.float32
            assert isinstance(found.data, dask.array.Array)
            assert found.attrs["units"] == field.attrs["units"]
            np.testing.assert_allclose(found.values, field.values, rtol=0, atol=atol)
            for dim in field.dims:
                np.testing.assert_array_equal(found[dim].values, field[dim].values)
        restored, own = opened.layout.restore(opened.dataset).load(), original(tmp_path / "data")
        assert set(restored.variables) == set(own.variables)
        for name, variable in own.variables.items():
            assert restored.variables[name].dims == variable.dims, name
            if variable.dtype.kind == "f":
                np.testing.assert_allclose(restored.variables[name].values, variable.values, rtol=0, atol=1e-4)
                assert restored.variables[name].dtype == variable.dtype
            else:
                np.testing.assert_array_equal(restored.variables[name].values, variable.values)
            assert restored.variables[name].attrs == variable.attrs, name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_forecast_of_a_part_goes_back_beside_the_file(layout, tmp_path):
    """New dimensions come behind time; a region keeps the file's orientation."""
    LAYOUTS[layout](fields(), tmp_path / "data")
    with open_fields(tmp_path / "data", SURFACE, region=(-50, 50, -100, 50)) as opened:
        np.testing.assert_array_equal(opened.longitudes, [-90, -45, 0, 45])
        last = opened.dataset.isel(time=[-1])
        leads = np.array([6, 12], "timedelta64[h]").astype("timedelta64[ns]")
        forecast = last.expand_dims(prediction_timedelta=leads)
        restored, own = opened.layout.restore(forecast), original(tmp_path / "data")
    name = next(name for name in ("t2m", "tas", "2m_temperature") if name in restored)
    dims = list(own[name].dims)
    dims.insert(dims.index("time") + 1, "prediction_timedelta")
    assert restored[name].dims == tuple(dims)
    same = own[name].sel({dim: restored[dim] for dim in restored[name].dims if dim in own.dims})
    np.testing.assert_allclose(restored[name].isel(prediction_timedelta=1).values, same.values, rtol=1e-6)


def test_parts_are_selected(tmp_path):
    truth = fields(72, start="2010-12-30", variables=("t2m", "z", "t"), levels=(150, 500, 850))
    write_weatherbench1(truth, tmp_path / "5.625deg")
    asked = ["t2m", "z500", "temperature"]
    with open_fields(tmp_path, asked, [500, 850], 2010, (0, 90, 80, 200), 6) as opened:
        assert opened.channels == ["2m_temperature", "geopotential_500", "temperature_500", "temperature_850"]
        part = (
            truth.sel(time="2010").isel(time=slice(None, None, 6)).sel(latitude=slice(0, 90), longitude=slice(80, 200))
        )
        np.testing.assert_array_equal(opened.times, part.time.values)
        values = opened.read(1, 4)
        np.testing.assert_array_equal(values[..., 0], part["2m_temperature"].values[1:4])
        np.testing.assert_array_equal(values[..., 1], part["geopotential"].sel(level=500).values[1:4])
        np.testing.assert_array_equal(values[..., 3], part["temperature"].sel(level=850).values[1:4])
        np.testing.assert_array_equal(opened.read(1, 4, ["temperature_850"])[..., 0], values[..., 3])
        assert opened.step == 6 * 3_600_000_000_000
        np.testing.assert_array_equal(np.concatenate(list(opened.blocks(0, 8))), opened.read(0, 8))


def test_single_levels_lie_beside_each_other(tmp_path):
    """WeatherBench 1's extracts have scalar levels that contradict each other; channels of their own do not."""
    truth = fields(variables=["z500", "t850"])
    write_weatherbench1(truth, tmp_path / "both")
    with open_fields(tmp_path / "both") as opened:
        assert set(opened.dataset.data_vars) == {"geopotential_500", "temperature_850"}
        np.testing.assert_array_equal(opened.dataset["temperature_850"], truth["temperature_850"])
        assert set(opened.layout.restore(opened.dataset).data_vars) == {"z", "t"}
    with open_fields(tmp_path / "both" / "geopotential_500", ["geopotential"]) as opened:
        restored = opened.layout.restore(opened.dataset)
        assert int(restored["level"]) == 500
        assert restored["z"].dims == ("time", "lat", "lon")


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "julian"])
def test_other_calendars_are_kept(tmp_path, calendar):
    truth = fields(48, start="2010-02-27", variables=["t2m"])
    numbers = 24 * 57 + np.arange(48)
    attributes = {"units": "hours since 2010-01-01", "calendar": calendar}
    raw = truth.assign_coords(time=("time", numbers, attributes))
    raw.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with open_fields(tmp_path / "a.nc", years=2010) as opened:
        assert opened.layout.calendar == calendar
        assert opened.times[0].calendar == calendar
        assert opened.step == 3_600_000_000_000
        opened.layout.restore(opened.dataset).to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    again = xr.open_dataset(tmp_path / "b.nc", decode_times=False)["time"]
    assert (again.attrs["units"], again.attrs["calendar"]) == ("hours since 2010-01-01", calendar)
    np.testing.assert_array_equal(again.values, numbers)


def test_counts_become_times_and_counts_again(tmp_path):
    truth = fields(18, variables=["t2m"], step=6)
    truth.assign_coords(time=np.arange(3)).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.raises(WavecastError, match=r"time counts 0, 1 \.\.\. without units") as caught:
        open_fields(tmp_path / "a.nc")
    assert "--start 1996-01-05T00 (in training --data.start 1996-01-05T00) is the time of" in caught.value.hint
    assert "--hours 6 (in training --data.hours 6) the length of one" in caught.value.hint
    with open_fields(tmp_path / "a.nc", start="2010-12-31", hours=6) as opened:
        np.testing.assert_array_equal(opened.times, truth.time.values)
        restored = opened.layout.restore(opened.dataset)
        np.testing.assert_array_equal(restored["time"].values, [0, 1, 2])
        assert restored["time"].dtype.kind == "i"


def test_a_single_instant_without_a_dimension_of_time(tmp_path):
    one = fields(1, variables=["t2m"]).isel(time=0)
    one.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with open_fields(tmp_path / "a.nc") as opened:
        assert opened.read(0, 1).shape == (1, 6, 8, 1)
        restored = opened.layout.restore(opened.dataset)
        assert restored["2m_temperature"].dims == ("latitude", "longitude")
        np.testing.assert_array_equal(restored["2m_temperature"], one["2m_temperature"])


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    count=st.integers(1, 40),
    spacing=st.sampled_from([0.25, 1.0, 5.625, 9.0, 30.0]),
    west=st.integers(-720, 720),
    turned=st.integers(0, 40),
    convention=st.sampled_from([0, -180, -360]),
    westwards=st.booleans(),
)
def test_longitudes_of_any_convention_and_beginning(count, spacing, west, turned, convention, westwards):
    """Canonical longitudes run on eastwards, in 0 .. 360 or, across Greenwich, in one piece; and lead back."""
    count = min(count, int(360 / spacing))
    meridians = west / 2 + np.arange(count) * spacing
    own = np.roll((meridians - convention) % 360 + convention, turned)
    own = own[::-1] if westwards else own
    axis = longitude_axis("lon", xr.Variable(("lon",), own), "file")
    np.testing.assert_allclose(np.diff(axis.values), spacing)
    assert axis.values[-1] < 360
    if count * spacing == 360:
        assert axis.values[0] >= 0
    np.testing.assert_allclose((own[axis.order] - axis.values + 180) % 360 - 180, 0, atol=1e-9)
    np.testing.assert_array_equal(axis.places(axis.values), axis.order)
    np.testing.assert_array_equal(axis.places(own), np.arange(count))
    middle = axis.values[count // 2]
    kept = select_longitudes(axis, middle - spacing, middle + spacing)
    assert middle % 360 in kept.values % 360
    assert len(kept.values) == min(
        count,
        (count > 1) + (count > 2) + 1 if 0 < count // 2 < count - 1 or count * spacing == 360 else 1 + (count > 1),
    )


def changed(tmp_path, change, **encoding):
    """Write fields after a change; give the path."""
    truth = fields(12, variables=["t2m"])
    change(truth).to_netcdf(tmp_path / "a.nc", engine="h5netcdf", **encoding)
    return tmp_path / "a.nc"


def with_values(dataset, value, place=(3, 2, 1)):
    dataset["2m_temperature"].values[place] = value
    return dataset


def scaled(dataset, units, scale=1.0, offset=0.0):
    other = dataset * np.float32(scale) + np.float32(offset)
    other["2m_temperature"].attrs.update({"units": units} if units else {})
    return other


def at(dataset, dim, order):
    return dataset.isel({dim: order})


REFUSED = {
    "missing values": (
        lambda d: with_values(d, np.nan),
        "1 of 576 values of 2m_temperature are missing",
        "--missing interpolate (in training --data.missing interpolate)",
    ),
    "infinite": (lambda d: with_values(d, np.inf), "1 values of 2m_temperature are infinite", "_FillValue"),
    "Celsius, units unsaid": (lambda d: scaled(d, None, 1, -273.15), "is expected from 160 to 345 K", "degc"),
    "Celsius, called kelvin": (
        lambda d: scaled(d, "K", 1, -273.15),
        "is expected from 160",
        "--units 2m_temperature=degc (in",
    ),
    "units of another": (lambda d: scaled(d, "m s-1"), "'m s-1', which is no unit of it", "'celsius'"),
    "undeclared fill value": (lambda d: with_values(d, 9.96921e36), "runs from", "_FillValue"),
    "gap": (lambda d: at(d, "time", [0, 1, 2, 4, 5, 6]), "1 h as a rule, but 2 h from 2010-12-31T02", "gap"),
    "repeated": (lambda d: at(d, "time", [0, 1, 1, 2]), "has 2010-12-31T01 twice", "repeated"),
    "backwards": (lambda d: at(d, "time", [2, 1, 0]), "times run backwards", "sort"),
    "jumping latitudes": (lambda d: at(d, "latitude", [0, 2, 1, 3]), "latitude is not monotone", "sortby"),
    "jumping longitudes": (lambda d: at(d, "longitude", [0, 4, 2, 6, 1]), "longitude does not run one way", "sortby"),
    "two latitudes alike": (lambda d: at(d, "latitude", [0, 1, 1]), "latitude is not monotone", "drop_duplicates"),
    "Greenwich twice": (
        lambda d: at(d, "longitude", [0, 1, 2, 3, 4, 5, 6, 7, 0]).assign_coords(longitude=np.arange(9) * 45.0),
        "the same meridian twice",
        "slice(None, -1)",
    ),
    "beyond the pole": (lambda d: d.assign_coords(latitude=d.latitude * 2), "beyond a pole", "-90 to 90"),
    "no latitude": (lambda d: d.drop_vars("latitude").rename(latitude="north"), "has no latitude", "degrees_north"),
    "no field": (lambda d: d[["latitude", "longitude"]], "no variable on its grid", "latitude"),
    "curvilinear": (
        lambda d: (
            d.rename(latitude="j", longitude="i")
            .drop_vars(["i", "j"])
            .assign_coords(lat=(("j", "i"), np.zeros((6, 8)), {"units": "degrees_north"}))
        ),
        "curvilinear grid",
        "regrid",
    ),
    "ensemble": (lambda d: d.expand_dims(number=2), "a dimension number of 2 steps", "isel(number=0)"),
    "time without a coordinate": (lambda d: d.drop_vars("time"), "a dimension time of 12 steps", "coordinate"),
    "text": (lambda d: d.astype(str), "is of type", "numbers"),
    "twice the same": (lambda d: d.assign(t2m=d["2m_temperature"]), "has 2m_temperature twice", "ask for one"),
    "all missing": (lambda d: d * np.nan, "has no values at all", "leave it out"),
    "no times left": (lambda d: at(d, "time", []), "has 0 times", "1 to"),
    "unknown calendar": (
        lambda d: d.assign_coords(
            time=("time", np.arange(12), {"units": "days since 2000-01-01", "calendar": "martian"})
        ),
        "unknown calendar 'martian'",
        "noleap",
    ),
    "odd units of time": (
        lambda d: d.assign_coords(time=("time", np.arange(12), {"units": "moons since the flood"})),
        "times in 'moons since the flood' cannot be decoded",
        "hours since 1970",
    ),
    "model levels": (
        lambda d: d.expand_dims(level=np.arange(2000, 1000, -1)[:3] * 1.0).assign_coords(level=("level", [0.0, 1, 2])),
        "no pressures in hPa",
        "interpolated",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unsound_files_are_refused_with_the_cure(case, tmp_path):
    change, message, cure = REFUSED[case]
    path = changed(tmp_path, change)
    with pytest.raises(WavecastError) as caught:
        open_fields(path)
    assert message in str(caught.value), caught.value
    assert cure in caught.value.hint, caught.value.hint
    assert str(path) in str(caught.value)


def test_what_a_file_has_not_got_is_named(tmp_path):
    write_weatherbench1(fields(), tmp_path / "wb1")
    write_weatherbench2(fields(), tmp_path / "wb2")
    for path, cure in ((tmp_path / "wb1", "t2m"), (tmp_path / "wb2", "2m_temperature")):
        for options, message, hint in (
            ({"variables": ["t3m"]}, "has no t3m", cure),
            ({"variables": ["geopotential"]}, "has no geopotential", "2m_temperature"),
            ({"levels": [300]}, "has no level 300 hPa", "500, 850"),
            ({"variables": ["t300"]}, "has no level 300 hPa", "500, 850"),
            ({"years": (1990, 1991)}, "1990", "2010"),
            ({"region": (10, 12, 0, 360)}, "no lat", "-75 to 75"),
            ({"step": 1.5}, "steps of 1 h, not of 1.5 h", "multiple"),
        ):
            with pytest.raises(WavecastError) as caught:
                open_fields(path, **options)
            assert message in str(caught.value), (path, options, caught.value)
            assert hint in caught.value.hint, (path, options, caught.value.hint)


def test_units_given_by_hand_are_the_cure(tmp_path):
    path = changed(tmp_path, lambda d: scaled(d, "K", 1, -273.15))
    with open_fields(path, units={"t2m": "degC"}) as opened:
        expected = fields(12, variables=["t2m"])["2m_temperature"].values
        np.testing.assert_allclose(opened.read(0, 12)[..., 0], expected, atol=1e-4)


def test_unknown_variables_keep_their_names_and_units(tmp_path):
    """As does a known one that says nothing of itself."""
    truth = fields(6, variables=["t2m"])
    truth["salt"] = truth["2m_temperature"].assign_attrs(units="psu", standard_name="sea_water_salinity")
    truth["2m_temperature"].attrs.clear()
    truth.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with open_fields(tmp_path / "a.nc", ["salt", "t2m"]) as opened:
        assert opened.channels == ["salt", "2m_temperature"]
        assert opened.dataset["salt"].attrs["units"] == "psu"
        assert opened.dataset["2m_temperature"].attrs["units"] == "K"
        restored = opened.layout.restore(opened.dataset)
        assert restored["salt"].attrs == truth["salt"].attrs
        assert restored["2m_temperature"].attrs == {}


def test_a_cell_of_missing_values_is_interpolated_in_time_or_filled(tmp_path):
    """Between 3 and 9 hours linear, before the first and behind the last held; the mean of the instant otherwise."""
    truth = fields(12, variables=["t2m"])
    values = truth["2m_temperature"].values
    values[[0, 1], 0, 0] = values[4:9, 2, 3] = values[11, 5, 7] = np.nan
    truth.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with open_fields(tmp_path / "a.nc", missing="interpolate") as opened:
        found = opened.read(0, 12)[..., 0]
        np.testing.assert_allclose(
            found[4:9, 2, 3], np.interp(np.arange(4, 9), [3, 9], values[[3, 9], 2, 3]), rtol=1e-6
        )
        np.testing.assert_array_equal(found[:2, 0, 0], values[2, 0, 0])
        np.testing.assert_array_equal(found[11, 5, 7], values[10, 5, 7])
        np.testing.assert_array_equal(np.concatenate([opened.read(k, k + 1)[..., 0] for k in range(12)]), found)
    with open_fields(tmp_path / "a.nc", missing="fill") as opened:
        found = opened.read(0, 12)[..., 0]
        assert found[4, 2, 3] == pytest.approx(np.nanmean(values[4]), rel=1e-6)
        np.testing.assert_array_equal(found[~np.isnan(values)], values[~np.isnan(values)])


def test_missing_instants_are_bridged_within_reach(tmp_path):
    truth = fields(REACH + 40, variables=["t2m"])
    values = truth["2m_temperature"].values
    values[3:8] = np.nan
    values[20:, 1, 1] = np.nan
    truth.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with open_fields(tmp_path / "a.nc", missing="interpolate") as opened:
        found = opened.read(0, len(opened.times))[..., 0]
        np.testing.assert_allclose(found[5], (values[2] + values[8]) / 2, rtol=1e-6)
        assert found[19 + REACH, 1, 1] == values[19, 1, 1]
        assert found[20 + REACH, 1, 1] == pytest.approx(np.nanmean(values[20 + REACH]), rel=1e-6)
    with (
        open_fields(tmp_path / "a.nc", missing="fill") as opened,
        pytest.raises(WavecastError, match="value at all") as caught,
    ):
        opened.read(0, 5)
    assert "at 2010-12-31T03" in str(caught.value)


def test_what_is_not_asked_for_is_not_read(tmp_path, monkeypatch):
    """A large variable is looked at in five instants when opened; then a request reads its own rows alone."""
    truth = fields(400, variables=["t2m"])
    truth.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    monkeypatch.setattr(weather_files, "CHECKED_BYTES", 0)
    read = []
    reads = FieldArray._read_piece

    def counted(self, piece, rows):
        values = reads(self, piece, rows)
        read.append(len(values))
        return values

    monkeypatch.setattr(FieldArray, "_read_piece", counted)
    with open_fields(tmp_path / "a.nc") as opened:
        assert read == [1] * 5
        opened.read(100, 124)
        opened.dataset["2m_temperature"][7:9, 2].values  # noqa: B018
        assert read == [1] * 5 + [24, 2]


def test_years_are_joined_whatever_their_order_and_overlaps_refused(tmp_path):
    """The file names do not sort as the years do."""
    folder = tmp_path / "t2m"
    folder.mkdir()
    truth = fields(60, start="2010-12-30", variables=["t2m"]).rename({"2m_temperature": "t2m"})
    truth.isel(time=slice(0, 30)).to_netcdf(folder / "z.nc", engine="h5netcdf")
    truth.isel(time=slice(30, 60)).to_netcdf(folder / "a.nc", engine="h5netcdf")
    with open_fields(tmp_path) as opened:
        np.testing.assert_array_equal(opened.read(25, 35)[..., 0], truth["t2m"].values[25:35])
    truth.isel(time=slice(59, 60)).to_netcdf(folder / "b.nc", engine="h5netcdf")
    with pytest.raises(WavecastError, match="overlap: 2011-01-01T11 is in both"):
        open_fields(tmp_path)
    (folder / "b.nc").unlink()
    other = truth.isel(time=slice(30, 60)).assign_coords(latitude=truth.latitude + 1)
    other.to_netcdf(folder / "a.nc", engine="h5netcdf")
    with pytest.raises(WavecastError, match="differ in latitude"):
        open_fields(tmp_path)


def test_files_that_are_no_fields(tmp_path, monkeypatch):
    files = {
        "empty.nc": (b"", "is empty"),
        "picture.png": (b"\x89PNG\r\n\x1a\n" + bytes(99), "is no weather field"),
        "cut.nc": (b"\x89HDF\r\n\x1a\n" + bytes(20), "is damaged"),
        "cut3.nc": (b"CDF\x01\0\0", "is damaged"),
        "a.grib": (b"GRIB" + bytes(20), "needs cfgrib"),
    }
    monkeypatch.setattr("wavecast.datamodules.weather_sources.find_spec", lambda name: None)
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WavecastError, match=message):
            open_fields(tmp_path / name)
    with pytest.raises(WavecastError, match="does not exist"):
        open_fields(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WavecastError, match="holds no NetCDF"):
        open_fields(tmp_path / "folder")
    for resolution in ("5.625deg", "1.40625deg"):
        write_weatherbench1(fields(2), tmp_path / "two" / resolution)
    with pytest.raises(WavecastError, match=r"holds 1.40625deg and 5.625deg"):
        open_fields(tmp_path / "two")


def test_claims_beyond_the_file_are_refused_before_they_are_believed(tmp_path):
    """Nothing is allocated for 2^40 values that a file of a few kilobytes promises."""
    import h5py

    path = changed(tmp_path, lambda d: d)
    with h5py.File(path, "r+") as file:
        del file["2m_temperature"]
        huge = file.create_dataset("2m_temperature", (12, 2**20, 2**20), "f4", chunks=(1, 64, 64))
        huge.attrs["units"] = "K"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WavecastError, match="far more than the file can hold"):
        open_fields(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


@pytest.mark.parametrize(("kind", "cases"), [("netcdf3.nc", 100), ("netcdf4.nc", 40), ("zarr2", 40), ("zarr3", 40)])
def test_damaged_files_are_refused_or_read(kind, cases, tmp_path):
    """No other error, no hang, no memory, whatever the metadata say."""
    whole = whole_files(tmp_path)[kind]
    before, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for k in range(cases):
        path = damage(whole, tmp_path / f"case{k}", k)
        try:
            with open_fields(path, missing="interpolate") as opened, suppress(WavecastError):
                opened.read(0, min(3, len(opened.times)))
        except WavecastError:
            refused += 1
    assert cases / 5 < refused < cases
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < ROOM


def test_every_name_leads_to_one_variable():
    names = [name.lower() for v in VARIABLES for name in (v.name, v.short, *v.aliases)]
    assert len(LEXICON) == len(set(names))
    assert len(names) - len(set(names)) == sum(v.name == v.short for v in VARIABLES)
    assert all(v.units in CONVERSIONS and v.low < v.high for v in VARIABLES)
    for name, found in (
        ("T2M", ("2m_temperature", None)),
        ("u10", ("10m_u_component_of_wind", None)),
        ("u100", ("100m_u_component_of_wind", None)),
        ("u500", ("u_component_of_wind", 500)),
        ("geopotential_500hPa", ("geopotential", 500)),
        ("temperature_850", ("temperature", 850)),
    ):
        variable, level = find(name)
        assert (variable.name, level) == found
    assert known("t9999") is known("msl500") is known("albedo") is None
    with pytest.raises(WavecastError) as caught:
        find("2m_temperatur")
    assert "did you mean 2m_temperature" in caught.value.hint


def test_standard_names_are_the_last_resort():
    assert recognize("x", {"standard_name": "air_temperature"}, on_levels=True)[0].name == "temperature"
    assert recognize("x", {"standard_name": "air_temperature"}, on_levels=False)[0].name == "2m_temperature"
    assert recognize("x", {"standard_name": "eastward_wind"}, on_levels=False) is None  # at 10 or at 100 m
    assert recognize("x", {"standard_name": "eastward_wind"}, False, 100.0)[0].name == "100m_u_component_of_wind"
    assert recognize("x", {}, on_levels=False) is None


@pytest.mark.parametrize(
    ("name", "units", "value", "si"),
    [
        ("t2m", "degC", 0.0, 273.15),
        ("t2m", "Degrees_Celsius", 100.0, 373.15),
        ("t2m", "degF", 212.0, 373.15),
        ("t2m", None, 280.0, 280.0),
        ("u10", "m s**-1", 3.0, 3.0),
        ("u10", "m.s-1", 3.0, 3.0),
        ("u10", "knots", 3600.0, 1852.0),
        ("u10", "km/h", 36.0, 10.0),
        ("msl", "hPa", 1013.25, 101325.0),
        ("z", "m**2 s**-2", 1.0, 1.0),
        ("z", "gpm", 100.0, 980.665),
        ("tcc", "(0 - 1)", 0.5, 0.5),
        ("tcc", "%", 50.0, 0.5),
        ("r", "1", 0.5, 50.0),
        ("q", "g/kg", 5.0, 0.005),
        ("tp", "mm", 3.0, 0.003),
        ("tp", "kg m^-2", 3.0, 0.003),
        ("pv", "PVU", 2.0, 2e-6),
    ],
)
def test_units_become_si(name, units, value, si):
    scale, offset = conversion(find(name)[0], units)
    assert scale * value + offset == pytest.approx(si, rel=1e-12)
