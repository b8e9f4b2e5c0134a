"""Scores of forecasts: closed forms derived in comments, an independent numpy version, weights, NaN and misfits."""

import numpy as np
import pytest
import xarray as xr

from wavecast.apps.forecasting import scores as module
from wavecast.apps.forecasting.scores import REGIONS, cell_areas, fair_crps, is_global, openstl_table, score
from wavecast.core.errors import WavecastError

LATITUDE = np.linspace(-87.1875, 87.1875, 32)
LONGITUDE = np.arange(64) * 5.625
HOUR = np.timedelta64(1, "h").astype("timedelta64[ns]")
START = np.datetime64("2020-02-28T00", "ns")


def truth_of(hours: int = 40, latitude=LATITUDE, longitude=LONGITUDE, levels=(500, 850), seed: int = 0) -> xr.Dataset:
    """Make random truth with a surface variable and winds on levels."""
    rng = np.random.default_rng(seed)
    coords = {
        "time": START + np.arange(hours) * HOUR,
        "level": list(levels),
        "latitude": latitude,
        "longitude": longitude,
    }
    surface = ("time", "latitude", "longitude")
    upper = ("time", "level", "latitude", "longitude")
    shape = {dim: len(values) for dim, values in coords.items()}

    def field(dims):
        return dims, rng.standard_normal([shape[dim] for dim in dims])

    return xr.Dataset(
        {
            "2m_temperature": field(surface),
            "u_component_of_wind": field(upper),
            "v_component_of_wind": field(upper),
        },
        coords,
    )


def forecast_of(truth: xr.Dataset, inits=(0, 6, 12), leads=(1, 6), error: float = 0.5, seed: int = 1) -> xr.Dataset:
    """Make the truth at the valid times, disturbed."""
    rng = np.random.default_rng(seed)
    steps = [truth.isel(time=[i + lead for i in inits]) for lead in leads]
    steps = [one.assign_coords(time=START + np.array(inits) * HOUR) for one in steps]
    forecast = xr.concat(steps, "prediction_timedelta").assign_coords(prediction_timedelta=np.array(leads) * HOUR)
    for name in forecast.data_vars:
        forecast[name] = forecast[name] + error * rng.standard_normal(forecast[name].shape)
    return forecast.transpose("time", "prediction_timedelta", ...)


def value(scores: xr.Dataset, name: str, metric: str, region: str = "global", **at) -> float:
    return float(scores[name].sel(metric=metric, region=region).isel(prediction_timedelta=at.pop("lead", 0), **at))


def test_areas_of_centered_cells_are_the_cosine_weights() -> None:
    """sin(c + h) - sin(c - h) = 2 sin(h) cos(c): cells of one height weigh as the cosine of their centers."""
    cosine = np.cos(np.radians(LATITUDE))
    np.testing.assert_allclose(cell_areas(LATITUDE), cosine / cosine.mean(), rtol=1e-12)
    np.testing.assert_allclose(cell_areas(LATITUDE[::-1]), cell_areas(LATITUDE)[::-1], rtol=1e-13)


def test_areas_of_rows_at_the_poles() -> None:
    """Rows -90, 0, 90 have bounds -90, -45, 45, 90: areas 1 - s, 2 s, 1 - s with s = sin 45, of 2 in all."""
    s = np.sin(np.pi / 4)
    np.testing.assert_allclose(cell_areas(np.array([-90.0, 0, 90])), np.array([1 - s, 2 * s, 1 - s]) * 1.5, rtol=1e-13)


def test_a_gaussian_grid_reaches_the_pole_and_a_regional_one_half_a_cell() -> None:
    """Rows 80 and 86 lie 6 apart, 92 would be beyond the pole: bounds 77, 83, 90. Rows 50, 51, 52: 49.5 to 52.5."""
    sines = np.sin(np.radians([77.0, 83.0, 90.0]))
    np.testing.assert_allclose(cell_areas(np.array([80.0, 86.0])), np.diff(sines) / np.diff(sines).mean(), rtol=1e-12)
    sines = np.sin(np.radians([49.5, 50.5, 51.5, 52.5]))
    regional = cell_areas(np.array([50.0, 51, 52]))
    np.testing.assert_allclose(regional, np.diff(sines) / np.diff(sines).mean(), rtol=1e-12)


def test_global_grids_are_told() -> None:
    assert is_global(LATITUDE, LONGITUDE)
    assert is_global(np.linspace(-90, 90, 121), np.arange(240) * 1.5)
    assert not is_global(LATITUDE, LONGITUDE[:32])
    assert not is_global(np.arange(50, 58.25, 0.25), np.arange(-10, 2.25, 0.25))


def test_errors_of_one_row_weigh_as_its_area() -> None:
    """Rows of area 1, 2, 1 (bounds -90, -30, 30, 90: sines -1, -.5, .5, 1; centers -60, 0, 60), an error of 2 at the
    equator: mse = 2 * 4 / 4 = 2, mae = bias = 2 * 2 / 4 = 1. Cosines 1/2, 1, 1/2 weigh alike. Unweighted 4 / 3."""
    truth = truth_of(4, np.array([-60.0, 0, 60]), np.arange(4) * 90.0)
    forecast = forecast_of(truth, (0, 1), (1,), error=0)
    forecast["2m_temperature"].loc[{"latitude": 0}] += 2
    scores = score(forecast, truth)
    found = {m: value(scores, "2m_temperature", m) for m in ("rmse", "rmse_wb1", "rmse_openstl")}
    assert found == pytest.approx({"rmse": 2**0.5, "rmse_wb1": 2**0.5, "rmse_openstl": (4 / 3) ** 0.5}, rel=1e-12)
    found = {m: value(scores, "2m_temperature", m) for m in ("mae", "mae_wb1", "mae_openstl", "bias")}
    assert found == pytest.approx({"mae": 1, "mae_wb1": 1, "mae_openstl": 2 / 3, "bias": 1}, rel=1e-12)
    assert "whole globe" in scores.attrs["weights"]


def test_conventions_differ_where_times_lack_truth() -> None:
    """Errors 3 and 1 at two times, the second with truth in one of two equal rows. WB2 averages times alike: mse =
    (9 + 1) / 2 = 5. WB1 and OpenSTL pool all points: (2 * 9 + 1) / 3."""
    truth = truth_of(3, np.array([-45.0, 45.0]), np.arange(4) * 90.0)
    forecast = forecast_of(truth, (0, 1), (1,), error=0)
    forecast["2m_temperature"] += xr.DataArray([3.0, -1.0], dims="time")
    truth["2m_temperature"][2, 1] = np.nan
    scores = score(forecast, truth, variables=["2m_temperature"])
    assert value(scores, "2m_temperature", "rmse") == pytest.approx(5**0.5, rel=1e-12)
    assert value(scores, "2m_temperature", "rmse_wb1") == pytest.approx((19 / 3) ** 0.5, rel=1e-12)
    assert value(scores, "2m_temperature", "rmse_openstl") == pytest.approx((19 / 3) ** 0.5, rel=1e-12)
    assert value(scores, "2m_temperature", "bias") == pytest.approx(1.0, rel=1e-12)
    assert value(scores, "2m_temperature", "missing_truth") == 4
    assert value(scores, "2m_temperature", "missing_forecast") == 0


def test_wind_vector_error_is_the_length_of_the_difference() -> None:
    """du = 3, dv = 4 everywhere: rmse 5, of the components 3 and 4."""
    truth = truth_of(3)
    forecast = forecast_of(truth, (0, 1), (1,), error=0)
    forecast["u_component_of_wind"] += 3
    forecast["v_component_of_wind"] -= 4
    scores = score(forecast, truth)
    for metric in ("rmse", "rmse_wb1", "rmse_openstl"):
        assert value(scores, "wind_vector", metric, level=1) == pytest.approx(5, rel=1e-12)
        assert value(scores, "v_component_of_wind", metric, level=0) == pytest.approx(4, rel=1e-12)
    assert np.isnan(value(scores, "wind_vector", "bias", level=0))


def climatology_of(truth: xr.Dataset) -> xr.Dataset:
    rng = np.random.default_rng(5)
    shape = (24, 366, len(truth.latitude), len(truth.longitude))
    dims = ("hour", "dayofyear", "latitude", "longitude")
    field = rng.standard_normal(shape)
    coords = {"hour": np.arange(24), "dayofyear": np.arange(1, 367)}
    coords |= {"latitude": truth.latitude, "longitude": truth.longitude}
    return xr.Dataset({"2m_temperature": (dims, field)}, coords)


def test_anomalies_of_the_forecast_as_multiples_of_the_truth() -> None:
    """f' = c o' correlates fully for any c > 0, and f' = -o' inversely. If f' = 0 at the poles, o' at the equator:
    areas 1, 2, 1 and |o'| = 1: sum(w f' o') = 2, sum(w f'^2) = 2, sum(w o'^2) = 4: acc = 2 / sqrt(8)."""
    truth = truth_of(5, np.array([-60.0, 0, 60]), np.arange(4) * 90.0).drop_dims("level")
    climatology = xr.full_like(truth.isel(time=0, drop=True), 7.0)
    sign = xr.DataArray([1.0, -1, 1, -1], dims="longitude")
    truth["2m_temperature"][:] = 7 + (sign * xr.ones_like(truth["2m_temperature"])).transpose(*truth.dims).values
    forecast = forecast_of(truth, (0, 1), (1,), error=0)
    for factor, acc in {0.1: 1.0, 30.0: 1.0, -1.0: -1.0}.items():
        found = score(7 + factor * (forecast - 7), truth, climatology=climatology)
        assert value(found, "2m_temperature", "acc") == pytest.approx(acc, rel=1e-12)
    forecast["2m_temperature"].loc[{"latitude": [-60, 60]}] = 7
    found = score(forecast, truth, climatology=climatology)
    assert value(found, "2m_temperature", "acc") == pytest.approx(2 / 8**0.5, rel=1e-12)


def test_climatology_is_that_of_the_valid_time() -> None:
    """A forecast equal to the truth plus the climatology of the valid time has the anomalies of the truth + clim."""
    truth = truth_of(40)[["2m_temperature"]]
    climatology = climatology_of(truth)
    forecast = forecast_of(truth, (0, 20, 30), (1, 6))
    scores = score(forecast, truth, climatology=climatology)
    w = cell_areas(LATITUDE)[:, None]
    for k, lead in enumerate((1, 6)):
        expected = []
        for i, start in enumerate((0, 20, 30)):
            time = np.datetime64("2020-02-28T00", "h") + start + lead
            day = int((time.astype("datetime64[D]") - np.datetime64("2020-01-01")).astype(int))
            climate = climatology["2m_temperature"].values[int((start + lead) % 24), day]
            f = forecast["2m_temperature"].values[i, k] - climate
            o = truth["2m_temperature"].values[start + lead] - climate
            expected.append((w * f * o).sum() / np.sqrt((w * f * f).sum() * (w * o * o).sum()))
        assert value(scores, "2m_temperature", "acc", lead=k) == pytest.approx(np.mean(expected), rel=1e-11)


def test_everything_equals_independent_numpy_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = truth_of()
    forecast = forecast_of(truth, (0, 6, 12, 18, 24), (1, 6, 12))
    whole = score(forecast, truth, regions=("global", "tropics"))
    for block in (1, 64 * 32 * 3, 64 * 32 * 8):
        monkeypatch.setattr(module, "BLOCK", block)
        xr.testing.assert_allclose(
            score(forecast.chunk(time=2), truth, regions=("global", "tropics")), whole, rtol=1e-11
        )
    name = "v_component_of_wind"
    inside = np.abs(LATITUDE) <= 20
    edges = np.radians(np.linspace(-90, 90, 33))
    area = np.diff(np.sin(edges))[inside, None] * np.ones(64)
    cosine = np.cos(np.radians(LATITUDE))[inside, None] * np.ones(64)
    a = np.stack([truth[name].values[[i + 6 for i in (0, 6, 12, 18, 24)], 1]])[0][:, inside]
    f = forecast[name].values[:, 1, 1][:, inside]
    at = {"region": "tropics", "lead": 1, "level": 1}
    mse = ((f - a) ** 2 * area).sum((1, 2)) / area.sum()
    assert value(whole, name, "rmse", **at) == pytest.approx(np.sqrt(mse.mean()), rel=1e-11)
    pooled = (cosine * (f - a) ** 2).sum() / (5 * cosine.sum())
    assert value(whole, name, "rmse_wb1", **at) == pytest.approx(np.sqrt(pooled), rel=1e-11)
    assert value(whole, name, "rmse_openstl", **at) == pytest.approx(np.sqrt(((f - a) ** 2).mean()), rel=1e-11)
    assert value(whole, name, "mae_openstl", **at) == pytest.approx(np.abs(f - a).mean(), rel=1e-11)
    assert value(whole, name, "mae_wb1", **at) == pytest.approx(
        (cosine * np.abs(f - a)).sum() / (5 * cosine.sum()), rel=1e-11
    )
    times = sorted({i + lead for i in (0, 6, 12, 18, 24) for lead in (1, 6, 12)})
    mean = truth[name].values[times, 1].mean(0)[inside]
    one, two = f - mean, a - mean
    one, two = one - one.mean(), two - two.mean()
    acc = (cosine * one * two).sum() / np.sqrt((cosine * one**2).sum() * (cosine * two**2).sum())
    assert value(whole, name, "acc_wb1", **at) == pytest.approx(acc, rel=1e-10)


def test_a_nan_in_the_forecast_makes_the_score_nan_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    truth = truth_of()
    forecast = forecast_of(truth)
    forecast["2m_temperature"][1, 0, 16, 3] = np.nan  # at 2.8 degrees north: in the tropics, not in Europe
    scores = score(forecast, truth, regions=("global", "europe"))
    for metric in ("rmse", "rmse_wb1", "rmse_openstl", "mae", "bias", "acc_wb1"):
        assert np.isnan(value(scores, "2m_temperature", metric))
        assert np.isfinite(value(scores, "2m_temperature", metric, "europe"))
        assert np.isfinite(value(scores, "2m_temperature", metric, lead=1))
    assert value(scores, "2m_temperature", "missing_forecast") == 1
    assert value(scores, "2m_temperature", "missing_forecast", "europe") == 0
    assert "2m_temperature: 1 values of the forecast are NaN" in caplog.text


def test_regions_are_those_of_weatherbench_2() -> None:
    rows, columns = np.arange(-88.75, 90, 2.5), np.arange(0, 360, 2.5)
    marked = {name: region.weights(rows, columns) for name, region in REGIONS.items()}
    assert marked["global"].all()
    np.testing.assert_array_equal(marked["tropics"] + marked["extra-tropics"], 1)
    both = marked["northern-hemisphere"] + marked["southern-hemisphere"]
    np.testing.assert_array_equal(both, marked["extra-tropics"])
    europe = np.flatnonzero(marked["europe"].any(0)) * 2.5  # across Greenwich
    np.testing.assert_array_equal(europe, [*np.arange(0, 45, 2.5), *np.arange(347.5, 360, 2.5)])
    west = REGIONS["europe"].weights(rows, np.arange(-180, 180, 2.5))  # the other way of counting longitudes
    np.testing.assert_array_equal(np.roll(west, 72, axis=1), marked["europe"])
    assert marked["north-pacific"].sum() == 14 * 35  # 26.25 to 58.75 north, 145 to 230 east


def test_a_mask_is_a_region() -> None:
    """A mask of weights 1 and 1/2 on two points with errors 1 and 2: mse = (1 + 4 / 2) / (3 / 2) = 2, unweighted."""
    truth = truth_of(3)
    forecast = forecast_of(truth, (0, 1), (1,), error=0)
    mask = xr.zeros_like(truth["2m_temperature"].isel(time=0, drop=True))
    mask[10, 3], mask[10, 9] = 1.0, 0.5
    forecast["2m_temperature"][:, :, 10, 3] += 1
    forecast["2m_temperature"][:, :, 10, 9] += 2
    scores = score(forecast, truth, regions={"land": mask.transpose()})
    assert value(scores, "2m_temperature", "rmse_openstl", "land") == pytest.approx(2**0.5, rel=1e-12)


def test_order_of_dimensions_and_longitudes_do_not_matter() -> None:
    truth = truth_of()
    forecast = forecast_of(truth)
    expected = score(forecast, truth)
    turned = forecast.transpose("longitude", "level", "latitude", "prediction_timedelta", "time").isel(
        latitude=slice(None, None, -1)
    )
    turned = turned.assign_coords(longitude=(turned.longitude + 180) % 360 - 180)
    xr.testing.assert_allclose(score(turned, truth).drop_attrs(), expected.drop_attrs(), rtol=1e-11)


def test_times_without_truth_are_left_out_and_counted() -> None:
    truth = truth_of(20)
    forecast = forecast_of(truth, (0, 6), (1, 6))
    without = truth.isel(time=[t for t in range(20) if t != 7])
    scores = score(forecast, without)
    assert scores.initial_times.values.tolist() == [1, 2]
    xr.testing.assert_allclose(
        scores["2m_temperature"].isel(prediction_timedelta=0).sel(metric=["rmse", "mae", "bias"]),
        score(forecast.isel(time=[0]), truth)["2m_temperature"]
        .isel(prediction_timedelta=0)
        .sel(metric=["rmse", "mae", "bias"])
        .assign_coords(initial_times=1),
    )


def test_fair_crps_closed_forms() -> None:
    """Members 0 and 2: truth 0 gives 1 - |0 - 2| / 2 = 0, truth 1 gives 1 - 1 = 0, truth 5 gives 4 - 1 = 3. With one
    member it is the absolute error."""
    members = np.array([[0.0, 2.0]] * 3)
    np.testing.assert_allclose(fair_crps(members, np.array([0.0, 1.0, 5.0]), 1), [0, 0, 3], atol=1e-15)
    np.testing.assert_allclose(fair_crps(members[:, :1], np.array([0.0, 1.0, -5.0]), 1), [0, 1, 5])


def test_fair_crps_equals_the_double_sum_and_is_unbiased() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((6, 200_000)), rng.standard_normal(200_000)
    pairs = np.abs(x[:, None, :50] - x[None, :, :50]).sum((0, 1)) / (6 * 5)
    np.testing.assert_allclose(fair_crps(x, y, 0)[:50], np.abs(x - y)[:, :50].mean(0) - pairs / 2, rtol=1e-12)
    # For X and Y both standard normal E|X - Y| = 2 / sqrt(pi), so crps = 1 / sqrt(pi), for any number of members.
    for count in (2, 6):
        assert fair_crps(x[:count], y, 0).mean() == pytest.approx(1 / np.pi**0.5, abs=0.005)


def test_ensembles() -> None:
    """Members +1 and -1 around truth + 0.5: mean error 0.5, variance (1 + 1) / 1 = 2, crps = (1.5 + 0.5) / 2 - 1 = 0,
    spread_skill = sqrt(2) / 0.5."""
    truth = truth_of(10)
    mean = forecast_of(truth, (0, 1), (1, 6), error=0) + 0.5
    forecast = xr.concat([mean - 1, mean + 1], "number")
    scores = score(forecast, truth)
    expected = {"rmse": 0.5, "spread": 2**0.5, "spread_skill": 2**0.5 / 0.5, "crps": 0.0, "bias": 0.5, "mae": 0.5}
    found = {metric: value(scores, "2m_temperature", metric) for metric in expected}
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    alone = score(forecast.isel(number=[0]), truth)
    assert value(alone, "2m_temperature", "crps") == pytest.approx(0.5)
    assert value(alone, "2m_temperature", "spread") == 0


def test_the_table_of_openstl_pools_leads_and_channels() -> None:
    """Errors 1 and 3 at two leads in one channel, 0 in the other: mse (1 + 9 + 0 + 0) / 4, mae 1, rmse sqrt(mse)."""
    truth = truth_of(10, levels=(500,))
    forecast = forecast_of(truth, (0, 1), (1, 6), error=0)
    forecast["u_component_of_wind"] += xr.DataArray([1.0, -3.0], dims="prediction_timedelta")
    table = openstl_table(score(forecast, truth), ["u_component_of_wind", "v_component_of_wind"])
    assert table == pytest.approx({"mse": 2.5, "mae": 1.0, "rmse": 2.5**0.5}, rel=1e-12)


def test_misfits_are_told() -> None:
    truth = truth_of()
    forecast = forecast_of(truth)
    with pytest.raises(WavecastError, match=r"truth has no latitude -85.1875, as the forecast has; it has 32 values"):
        score(forecast.assign_coords(latitude=LATITUDE + 2), truth)
    with pytest.raises(WavecastError, match=r"truth has no level 1000.*500 to 850"):
        score(forecast.assign_coords(level=[850, 1000]), truth)
    with pytest.raises(WavecastError, match=r"no variable in common: t2m and 2m_temperature.*\nhint: rename"):
        score(forecast[["2m_temperature"]].rename({"2m_temperature": "t2m"}), truth)
    with pytest.raises(WavecastError, match=r"the forecast has no geopotential, only"):
        score(forecast, truth, variables=["geopotential"])
    with pytest.raises(WavecastError, match=r"no valid time of the forecast \(2021.* is in the truth \(2020"):
        score(forecast.assign_coords(time=forecast.time + 366 * 24 * HOUR), truth)
    with pytest.raises(WavecastError, match=r"no region atlantis\nhint: the regions are global, tropics"):
        score(forecast, truth, regions=("atlantis",))
    with pytest.raises(WavecastError, match=r"int64, not a timedelta"):
        score(forecast.assign_coords(prediction_timedelta=[1, 6]), truth)
    with pytest.raises(WavecastError, match="no forecast with lead times"):
        score(truth, truth)
    with pytest.raises(WavecastError, match="truth has times twice"):
        score(forecast, xr.concat([truth, truth.isel(time=[3])], "time"))
    europe = {"latitude": slice(35, 75), "longitude": slice(0, 40)}
    with pytest.raises(WavecastError, match=r"no point of the grid .* lies in the region tropics"):
        score(forecast.sel(europe), truth, regions=("tropics",))
    climatology = climatology_of(truth).sel(hour=[0, 6, 12, 18])
    with pytest.raises(WavecastError, match=r"no hour 1 \(it has 0 to 18, 4 values\), which 2020-02-28T01:00 needs"):
        score(forecast, truth, climatology=climatology, variables=["2m_temperature"])
