"""Baselines against closed forms: what they forecast, what they learn, and that none looks ahead."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from wavecast.apps.forecasting import baselines as module
from wavecast.apps.forecasting.baselines import (
    Climatology,
    DampedAnomaly,
    LinearRegression,
    Persistence,
    PreviousSeason,
)
from wavecast.core.errors import WavecastError

NAME, UPPER = "2m_temperature", "temperature"
START = np.datetime64("2020-01-01T00", "ns")


def data(values: np.ndarray, step: int = 1, start: np.datetime64 = START, **levels: np.ndarray) -> xr.Dataset:
    """Put values (time, latitude, longitude) on a regional grid, and levels (time, level, ...) beside them."""
    time = start + np.arange(len(values)) * np.timedelta64(step, "h")
    coords = {"time": time, "latitude": 50 + np.arange(values.shape[1]), "longitude": np.arange(values.shape[2]) * 1.0}
    dims = ("time", "level", "latitude", "longitude")
    fields = {NAME: (("time", *dims[2:]), values)}
    if levels:
        coords["level"] = [500, 850]
        fields |= {name: (dims, array) for name, array in levels.items()}
    return xr.Dataset(fields, coords)


def noise(hours: int, seed: int = 0, grid: tuple[int, int] = (3, 4)) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    return data(rng.standard_normal((hours, *grid)), **{UPPER: rng.standard_normal((hours, 2, *grid))})


def nothing(history: xr.Dataset) -> Climatology:
    """Make a climatology of zeros."""
    return Climatology({str(n): np.zeros((1, 1, *history[n].shape[1:]), np.float32) for n in history.data_vars})


def all_of(training: xr.Dataset, steps: int) -> dict[str, module.Baseline]:
    return {
        "persistence": Persistence(),
        "previous day": PreviousSeason(),
        "climatology": Climatology.fit(training, "hour"),
        "damped anomaly": DampedAnomaly.fit(training, steps),
        "regression": LinearRegression.fit(training, steps, radius=1),
    }


def test_persistence_is_the_initial_field() -> None:
    history = noise(40)
    forecast = Persistence().forecast(history, history.time.values[[5, 20]], 3)
    assert forecast[UPPER].dims == ("time", "prediction_timedelta", "level", "latitude", "longitude")
    for name in (NAME, UPPER):
        for i, k in enumerate((5, 20)):
            expected = np.repeat(history[name].values[k][None], 3, axis=0).astype(np.float32)
            np.testing.assert_array_equal(forecast[name][i], expected)
    np.testing.assert_array_equal(forecast.prediction_timedelta, np.arange(1, 4) * np.timedelta64(1, "h"))
    np.testing.assert_array_equal(forecast.valid_time[1], history.time.values[21:24])
    assert forecast[NAME].attrs["units"] == "K"


@pytest.mark.parametrize(("step", "hours", "period"), [(1, 24, 24), (6, 24, 4), (6, 48, 8), (12, 60, 5)])
def test_the_previous_season_is_exact_on_periodic_data(step: int, hours: int, period: int) -> None:
    wave = np.random.default_rng(1).standard_normal((period, 2, 2))
    history = data(np.tile(wave, (5, 1, 1)), step)
    initial = period + 2
    forecast = PreviousSeason(hours).forecast(history, history.time.values[[initial]], 2 * period + 3)
    expected = history[NAME].values[initial + 1 : initial + 2 * period + 4].astype(np.float32)
    np.testing.assert_array_equal(forecast[NAME][0], expected)


def test_the_previous_day_is_the_latest_that_is_known() -> None:
    """From hour 30: lead 1 is hour 7, lead 24 is hour 30 itself, lead 25 hour 7 again."""
    history = noise(60)
    forecast = PreviousSeason().forecast(history, history.time.values[[30]], 25)
    for lead, hour in {1: 7, 23: 29, 24: 30, 25: 7}.items():
        np.testing.assert_array_equal(forecast[NAME][0, lead - 1], history[NAME].values[hour].astype(np.float32))


def test_climatology_of_hours_and_of_everything() -> None:
    history = noise(24 * 5)
    whole = Climatology.fit(history, "mean").forecast(history, history.time.values[[3]], 2)
    np.testing.assert_allclose(whole[UPPER][0, 1], history[UPPER].mean("time"), rtol=1e-5, atol=1e-6)
    hourly = Climatology.fit(history, "hour").forecast(history, history.time.values[[23]], 2)
    for lead in (1, 2):
        expected = history[NAME].values[lead - 1 :: 24].mean(0)
        np.testing.assert_allclose(hourly[NAME][0, lead - 1], expected, rtol=1e-5, atol=1e-6)


def test_climatology_of_days_is_a_mean_over_the_window_around_the_turn_of_the_year() -> None:
    """Values are the day of the year d. Window 5 around day 100: the mean of 98..102 is 100. Around day 1 of years
    with 365 days: days 364, 365, 1, 2, 3, since 366 has no data and counts as none: days 365, 366, 1, 2, 3 are the
    window, with data 365, 1, 2, 3: 371 / 4."""
    time = np.datetime64("2021-01-01", "ns") + np.arange(2 * 365) * np.timedelta64(1, "D")
    day = xr.DataArray(time, dims="time").dt.dayofyear.values.astype(float)
    training = data(np.ones((730, 2, 2)) * day[:, None, None], 24, time[0])
    climatology = Climatology.fit(training, "day", window=5)
    found = climatology.at(NAME, np.array(["2023-04-10", "2023-01-01"], "datetime64[ns]"))
    np.testing.assert_allclose(found[:, 0, 0], [100, 371 / 4], rtol=1e-6)
    both = Climatology.fit(training, "hour and day", window=5)
    assert both.arrays[NAME].shape == (24, 366, 2, 2)
    np.testing.assert_allclose(both.at(NAME, np.array(["2023-04-10"], "datetime64[ns]"))[0, 0, 0], 100)
    with pytest.raises(WavecastError, match=r"no climatology of 2m_temperature at 2023-04-10T05:00"):
        both.at(NAME, np.array(["2023-04-10T05"], "datetime64[ns]"))


def test_climatology_leaves_nan_out() -> None:
    history = noise(24 * 4)
    history[NAME][3, 0, 0] = np.nan
    found = Climatology.fit(history, "hour").arrays[NAME][3, 0]
    expected = np.nanmean(history[NAME].values[3::24], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_climatology_goes_to_the_scores() -> None:
    from wavecast.apps.forecasting.scores import score

    history = noise(24 * 6)
    climatology = Climatology.fit(history, "hour")
    damped = DampedAnomaly.fit(history, 3, climatology)
    damped.arrays["coefficient/" + NAME] = np.full(3, 0.5)
    forecast = damped.forecast(history, history.time.values[30:60], 3)
    scores = score(forecast, history, climatology=climatology.dataset(history), variables=[NAME])
    direct = []
    for i in range(30, 60):  # the pattern correlation of the anomalies at i and i + 2
        one, two = (history[NAME].values[j] - climatology.arrays[NAME][j % 24, 0] for j in (i, i + 2))
        w = np.cos(np.radians(50 + np.arange(3)))[:, None] * np.ones(4)
        direct.append((w * one * two).sum() / np.sqrt((w * one**2).sum() * (w * two**2).sum()))
    found = float(scores[NAME].sel(metric="acc").isel(prediction_timedelta=1).squeeze())
    assert found == pytest.approx(np.mean(direct), abs=1e-5)


def test_damping_of_a_decay_is_its_power() -> None:
    """x_t = phi^t x_0 has x_(t+s) = phi^s x_t, so least squares give phi^s exactly; the other level has phi = -1/2."""
    start = np.random.default_rng(0).standard_normal((1, 3, 4))
    one = 0.9 ** np.arange(30)[:, None, None] * start
    two = np.stack([one, (-0.5) ** np.arange(30)[:, None, None] * start], axis=1)
    training = data(one, **{UPPER: two})
    damped = DampedAnomaly.fit(training, 5, nothing(training))
    np.testing.assert_allclose(damped.arrays[f"coefficient/{NAME}"], 0.9 ** np.arange(1, 6), rtol=1e-12)
    powers = np.stack([0.9 ** np.arange(1, 6), (-0.5) ** np.arange(1, 6)], axis=1)
    np.testing.assert_allclose(damped.arrays[f"coefficient/{UPPER}"], powers, rtol=1e-12)
    forecast = damped.forecast(training, training.time.values[[4]], 5)
    np.testing.assert_allclose(forecast[UPPER][0], two[5:10], rtol=1e-6)


def test_damping_of_an_autoregressive_process_about_a_daily_cycle() -> None:
    """x_t = c(hour) + a_t, a_t = 0.8 a_(t-1) + noise: the coefficients are 0.8^s up to 1 / sqrt(samples) ~ 0.01, and
    the error variance of lead s is (1 - 0.8^(2 s)) var(a)."""
    rng = np.random.default_rng(0)
    a = np.zeros((24 * 40, 6, 6))
    for t in range(1, len(a)):
        a[t] = 0.8 * a[t - 1] + 0.6 * rng.standard_normal((6, 6))
    x = data(a + 10 * np.sin(2 * np.pi * np.arange(len(a)) / 24)[:, None, None])
    damped = DampedAnomaly.fit(x.isel(time=slice(0, 720)), 6)
    np.testing.assert_allclose(damped.arrays[f"coefficient/{NAME}"], 0.8 ** np.arange(1, 7), atol=0.03)
    test = np.arange(720, 950)
    forecast = damped.forecast(x, x.time.values[test], 6)
    for s in (1, 3, 6):
        error = forecast[NAME].values[:, s - 1] - x[NAME].values[test + s]
        assert error.var() == pytest.approx(1 - 0.8 ** (2 * s), rel=0.1)


def test_regression_finds_advection() -> None:
    """x_(t+1, i) = 0.7 x_(t, i-1): one coefficient of 0.7 at the western neighbor, and 0.49 two to the west."""
    rng = np.random.default_rng(2)
    first = rng.standard_normal((2, 64))
    steps = [first]
    for _ in range(150):
        steps.append(0.7 * np.roll(steps[-1], 1, axis=1) + rng.standard_normal((2, 64)))
    x = data(np.stack(steps))
    x = x.assign_coords(longitude=np.arange(64) * 5.625, latitude=[-45.0, 45.0])  # around the globe
    exact = data(np.stack([first, 0.7 * np.roll(first, 1, axis=1), 0.49 * np.roll(first, 2, axis=1)]))
    exact = exact.assign_coords(longitude=x.longitude, latitude=x.latitude)
    fitted = LinearRegression.fit(x, 2, radius=2, ridge=1e-6, climatology=nothing(x))
    forecast = fitted.forecast(exact, exact.time.values[[0]], 2)
    weights = fitted.arrays["weights"].reshape(2, 2, 64, 5, 5).mean((1, 2))
    expected = np.zeros((2, 5, 5))
    expected[0, 2, 1], expected[1, 2, 0] = 0.7, 0.49
    np.testing.assert_allclose(weights.sum(1), expected.sum(1), atol=0.05)
    for s in (1, 2):
        error = forecast[NAME].values[0, s - 1] - exact[NAME].values[s]
        assert np.sqrt((error**2).mean()) < 0.5 * exact[NAME].values[s].std()


def test_regression_is_exact_where_the_data_are() -> None:
    """Two variables that turn into each other: u' = 0.6 u - 0.8 v, v' = 0.8 u + 0.6 v, at each point."""
    rng = np.random.default_rng(3)
    state = rng.standard_normal((2, 3, 4))
    states = [state]
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    for _ in range(40):
        states.append(np.einsum("ij,jyx->iyx", turn, states[-1]))
    levels = np.stack(states)
    x = data(np.zeros((41, 3, 4)), **{UPPER: levels})[[UPPER]]
    fitted = LinearRegression.fit(x, 3, ridge=1e-9, climatology=nothing(x))
    forecast = fitted.forecast(x, x.time.values[[5, 20]], 3)
    np.testing.assert_allclose(forecast[UPPER][1], levels[21:24], atol=1e-5)


def test_regression_of_one_point_with_a_ridge() -> None:
    """One channel at the point alone, scale s = rms(x): z = x / s, w = sum z_t z_(t+1) / (sum z_t^2 + ridge n)."""
    x = noise(50, grid=(2, 2))[[NAME]]
    fitted = LinearRegression.fit(x, 1, ridge=0.3, climatology=nothing(x))
    z = x[NAME].values / np.sqrt((x[NAME].values ** 2).mean())
    expected = (z[:-1] * z[1:]).sum(0) / ((z[:-1] ** 2).sum(0) + 0.3 * 49)
    np.testing.assert_allclose(fitted.arrays["weights"][0, 0, :, :, 0], expected, rtol=1e-5)


def test_blocks_of_time_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    training = noise(24 * 2)
    whole = all_of(training, 5)
    for block, lazy in ((1, training), (12 * 3 * 7, training.chunk(time=10))):
        monkeypatch.setattr(module, "BLOCK", block)
        for name, baseline in all_of(lazy, 5).items():
            for key, array in getattr(baseline, "arrays", {}).items():
                if array.dtype.kind == "f":
                    np.testing.assert_allclose(array, whole[name].arrays[key], rtol=1e-4, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", ["persistence", "previous day", "climatology", "damped anomaly", "regression"])
def test_none_looks_ahead(name: str) -> None:
    """What comes after the initial time changes nothing."""
    history = noise(24 * 6)
    baseline = all_of(history.isel(time=slice(0, 72)), 4)[name]
    times = history.time.values[[80, 100]]
    before = baseline.forecast(history, times, 4)
    for i, k in enumerate((80, 100)):
        later = history.copy(deep=True)
        for field in later.data_vars:
            later[field][k + 1 :] = np.nan
        after = baseline.forecast(later, times[[i]], 4)
        xr.testing.assert_identical(after, before.isel(time=[i]))


@pytest.mark.parametrize("name", ["climatology", "damped anomaly", "regression"])
def test_fitted_baselines_are_plain_arrays(name: str, tmp_path: Path) -> None:
    history = noise(24 * 4)
    baseline = all_of(history, 3)[name]
    np.savez(tmp_path / "baseline.npz", **baseline.arrays)
    with np.load(tmp_path / "baseline.npz", allow_pickle=False) as file:
        again = type(baseline)(dict(file))
    times = history.time.values[[30]]
    xr.testing.assert_identical(again.forecast(history, times, 3), baseline.forecast(history, times, 3))


def test_misfits_are_told() -> None:
    history = noise(24 * 4)
    times = history.time.values
    with pytest.raises(WavecastError, match=r"no 2019-12-31T02:00; it has 2020-01-01T00:00 to 2020-01-04T23"):
        PreviousSeason().forecast(history, times[[1]], 1)
    with pytest.raises(WavecastError, match=r"not regular in time: the step changes at 2020-01-01T04:00"):
        Persistence().forecast(history.isel(time=[0, 1, 2, 4, 5]), times[[0]], 1)
    with pytest.raises(WavecastError, match=r"not regular in time: 1 times"):
        Persistence().forecast(history.isel(time=[0]), times[[0]], 1)
    damped = DampedAnomaly.fit(history, 3)
    with pytest.raises(WavecastError, match=r"fitted to 3 steps, not 4\nhint:"):
        damped.forecast(history, times[[30]], 4)
    with pytest.raises(WavecastError, match=r"step of 2 h, and the baseline was fitted to 1 h"):
        damped.forecast(history.isel(time=slice(None, None, 2)), times[[30]], 1)
    with pytest.raises(WavecastError, match=r"the baseline has no coefficient/geopotential"):
        damped.forecast(history.rename({NAME: "geopotential"}), times[[30]], 1)
    with pytest.raises(WavecastError, match=r"the history has no temperature, only 2m_temperature"):
        LinearRegression.fit(history, 2).forecast(history[[NAME]], times[[30]], 1)
    with pytest.raises(ValueError, match=r"60 days has no middle\nhint:"):
        Climatology.fit(history, window=60)
