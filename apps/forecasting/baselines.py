"""Baselines: forecasts without a network, to be printed beside every score.

    persistence = Persistence()
    damped = DampedAnomaly.fit(training, steps=12)
    damped.forecast(history, initial_times, steps=12)      # dims (time, prediction_timedelta, [level], lat, lon)

All have one face, `Baseline`. None looks at history after an initial time. Fitted ones are made by `fit` from training
data alone, a block of time at a time, and are nothing but a dict of arrays: `numpy.savez(path, **damped.arrays)`, and
`DampedAnomaly(dict(numpy.load(path)))` brings it back.

Time is regular: step s of a forecast is valid s times the step of the history after the initial time.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, Protocol, Self

import numpy as np
import xarray as xr
from einops import rearrange
from numpy.lib.stride_tricks import sliding_window_view

from wavecast.apps.forecasting.forecast_layout import attributes_of, forecast_coordinates
from wavecast.apps.forecasting.scores import is_global
from wavecast.core.errors import WavecastError

BLOCK = 1 << 21  # values of one variable that are fitted at once
DAYS = 366
CHANNELS_LAST = "time channel lat lon -> lat lon time channel"
Arrays = dict[str, np.ndarray]


class Baseline(Protocol):
    """What forecasts without a network."""

    def forecast(self, history: xr.Dataset, initial_times: np.ndarray, steps: int) -> xr.Dataset:
        """Forecast from each initial time.

        Args:
            history: dims (time, [level], latitude, longitude), regular in time, holding what each initial time needs.
            initial_times: datetime64 (time,).
            steps: how many; each as long as the history's.

        Returns:
            dims (time, prediction_timedelta, [level], latitude, longitude), float32, in memory.

        Raises:
            WavecastError: the history lacks a time, is not regular, or is not what the baseline was fitted on.
        """


class Persistence:
    """Tomorrow as now: every lead time is the initial field."""

    def forecast(self, history: xr.Dataset, initial_times: np.ndarray, steps: int) -> xr.Dataset:
        """Forecast as `Baseline` says."""
        initial = as_times(initial_times)
        return _assembled(history, initial, steps, {name: field[:, None] for name, field in _at(history, initial)})


class PreviousSeason:
    """As one season ago: the latest field of the same phase that is known at the initial time.

    Args:
        hours: length of the season; by default a day, so that the forecast for noon is the latest noon.
    """

    def __init__(self, hours: float = 24) -> None:
        self.season = np.timedelta64(round(hours * 3600), "s").astype("timedelta64[ns]")

    def forecast(self, history: xr.Dataset, initial_times: np.ndarray, steps: int) -> xr.Dataset:
        """Forecast as `Baseline` says."""
        initial = as_times(initial_times)
        leads = np.arange(1, steps + 1) * step_of(history)
        back = leads - -(-leads // self.season) * self.season  # at or before the initial time
        times = initial[:, None] + back
        fields = {name: field.reshape(*times.shape, *field.shape[1:]) for name, field in _at(history, times.ravel())}
        return _assembled(history, initial, steps, fields)


class Climatology:
    """The mean of training data at the valid hour of the day, day of the year, both, or over all times.

    Args:
        arrays: from `fit`: (hour, dayofyear, [level], latitude, longitude) of each variable, of size 1 where it does
            not depend on the hour or the day.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = dict(arrays)

    @classmethod
    def fit(
        cls, training: xr.Dataset, by: Literal["hour and day", "hour", "day", "mean"] = "hour and day", window: int = 61
    ) -> Self:
        """Average training data.

        Args:
            training: dims (time, [level], latitude, longitude), in memory or lazy; NaN is left out.
            by: what the mean depends on.
            window: days around the day of the year that are averaged, odd; all weigh alike.

        Raises:
            ValueError: the window is not odd.
        """
        if window % 2 != 1:
            raise ValueError(f"a window of {window} days has no middle\nhint: give an odd number of days")
        hours, days = (24 if "hour" in by else 1), (DAYS if "day" in by else 1)
        when = training.indexes["time"]
        slot = (when.hour.values if hours > 1 else 0) * days + (when.day_of_year.values - 1 if days > 1 else 0)
        slot = np.broadcast_to(slot, len(when))
        arrays = {}
        for name, array in _fields(training):
            total = np.zeros((hours * days, *array.shape[1:]))
            count = np.zeros_like(total)
            for rows, values in _blocks(array):
                for one in np.unique(slot[rows]):
                    chosen = values[slot[rows] == one]
                    total[one] += np.nansum(chosen, axis=0)
                    count[one] += np.isfinite(chosen).sum(0)
            total, count = (x.reshape(hours, days, *array.shape[1:]) for x in (total, count))
            if days > 1:
                total, count = _around(total, window), _around(count, window)
            with np.errstate(invalid="ignore"):
                arrays[name] = (total / count).astype(np.float32)
        return cls(arrays)

    def forecast(self, history: xr.Dataset, initial_times: np.ndarray, steps: int) -> xr.Dataset:
        """Forecast as `Baseline` says; history gives the step and the grid alone."""
        initial = as_times(initial_times)
        valid = initial[:, None] + np.arange(1, steps + 1) * step_of(history)
        return _assembled(history, initial, steps, {name: self.at(name, valid) for name, _ in _fields(history)})

    def at(self, name: str, times: np.ndarray) -> np.ndarray:
        """Give the mean of one variable at some times: (*times.shape, [level], latitude, longitude), float32.

        Raises:
            WavecastError: training had no such variable, or nothing at all at such an hour and day.
        """
        array = _fitted(self.arrays, name)
        when = xr.DataArray(times.ravel(), dims="time").dt
        hours = when.hour.values if array.shape[0] > 1 else 0
        days = when.dayofyear.values - 1 if array.shape[1] > 1 else 0
        values = np.broadcast_to(array[hours, days], (times.size, *array.shape[2:]))
        empty = np.isnan(values).reshape(times.size, -1).all(1)
        if empty.any():
            raise WavecastError(
                f"there is no climatology of {name} at {times.ravel()[empty][0].astype('datetime64[m]')}: training had "
                "nothing at this hour and near this day",
                "train on whole years, or fit by='hour'",
            )
        return values.reshape(*times.shape, *array.shape[2:])

    def dataset(self, like: xr.Dataset) -> xr.Dataset:
        """Give it with coordinates, as scores take it: dims (hour, dayofyear, [level], latitude, longitude)."""
        fields = {}
        for name, array in self.arrays.items():
            dims = ("hour", "dayofyear", *_shaped(like[name]).dims[1:])
            fields[name] = xr.DataArray(array, dims=dims, attrs=like[name].attrs)
        coords = {dim: like[dim] for dim in ("level", "latitude", "longitude") if dim in like.dims}
        sizes = {dim: next(iter(fields.values())).sizes[dim] for dim in ("hour", "dayofyear")}
        coords |= {"hour": np.arange(24)} if sizes["hour"] > 1 else {}
        coords |= {"dayofyear": np.arange(1, DAYS + 1)} if sizes["dayofyear"] > 1 else {}
        return xr.Dataset(fields, coords)


class DampedAnomaly:
    """Persistence of the anomaly, damped: climatology at the valid time + coefficient x initial anomaly.

    The coefficient of a variable, level and lead time is the least-squares one over training times and grid points.

    Args:
        arrays: from `fit`: `climatology/NAME` as in `Climatology`, `coefficient/NAME` (step, [level]), `step` in ns.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = dict(arrays)
        self.climatology = _climatology_in(arrays)

    @classmethod
    def fit(cls, training: xr.Dataset, steps: int, climatology: Climatology | None = None) -> Self:
        """Fit to training data.

        Args:
            training: dims (time, [level], latitude, longitude), regular in time; NaN is left out.
            steps: lead times to fit.
            climatology: to take anomalies from; by default that of the hour of the day.
        """
        climatology = climatology or Climatology.fit(training, "hour")
        arrays = _begun(training, climatology)
        for name, array in _fields(training):
            products = np.zeros((steps, *array.shape[1:-2]))
            squares = np.zeros_like(products)
            for starts, anomalies in _anomalies(training[[name]], climatology, steps):
                anomaly = anomalies[name]
                for s in range(steps):
                    x, y = anomaly[:starts], anomaly[s + 1 : s + 1 + starts]
                    x = x[: len(y)]
                    there = np.isfinite(x) & np.isfinite(y)
                    products[s] += np.where(there, x * y, 0).sum((0, -2, -1))
                    squares[s] += np.where(there, x * x, 0).sum((0, -2, -1))
            with np.errstate(invalid="ignore"):
                arrays[f"coefficient/{name}"] = products / squares
        return cls(arrays)

    def forecast(self, history: xr.Dataset, initial_times: np.ndarray, steps: int) -> xr.Dataset:
        """Forecast as `Baseline` says."""
        initial = as_times(initial_times)
        valid = _valid_times(self.arrays, history, initial, steps)
        fields = {}
        for name, field in _at(history, initial):
            coefficient = _fitted(self.arrays, f"coefficient/{name}")
            _check_steps(steps, len(coefficient))
            anomaly = field - self.climatology.at(name, initial)
            fields[name] = self.climatology.at(name, valid) + coefficient[:steps, ..., None, None] * anomaly[:, None]
        return _assembled(history, initial, steps, fields)


class LinearRegression:
    """Ridge regression at each grid point: anomalies of all variables around the point to the later anomaly there.

    Direct: each lead time has coefficients of its own.

    Args:
        arrays: from `fit`: `climatology/NAME` as in `Climatology`, `weights` (step, channel, latitude, longitude,
            feature), `scale` (channel,), `variables`, `radius`, `step` in ns. Channels are variables and their levels.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = dict(arrays)
        self.climatology = _climatology_in(arrays)

    @classmethod
    def fit(
        cls,
        training: xr.Dataset,
        steps: int,
        radius: int = 0,
        ridge: float = 1e-3,
        climatology: Climatology | None = None,
    ) -> Self:
        """Fit to training data.

        Args:
            training: dims (time, [level], latitude, longitude), regular in time; times with NaN are left out.
            steps: lead times to fit.
            radius: points around the grid point that are seen, in each direction; 0: the point alone.
            ridge: penalty, relative to the variance of a variable's anomalies.
            climatology: to take anomalies from; by default that of the hour of the day.
        """
        climatology = climatology or Climatology.fit(training, "hour")
        arrays = _begun(training, climatology)
        arrays["variables"] = np.array([name for name, _ in _fields(training)])
        arrays["radius"] = np.array(radius)
        around = is_global(training.latitude.values, training.longitude.values)
        width = (2 * radius + 1) ** 2
        squares: np.ndarray = np.zeros(())
        counts: np.ndarray = np.zeros(())
        for starts, anomalies in _anomalies(training, climatology, 0, width):
            channels = _channels(anomalies)[:starts]
            squares = squares + np.nansum(channels**2, axis=(0, 2, 3))
            counts = counts + np.isfinite(channels).sum((0, 2, 3))
        arrays["scale"] = np.sqrt(squares / counts)
        gram: np.ndarray = np.zeros(())
        cross: np.ndarray = np.zeros(())
        used: np.ndarray = np.zeros((steps, 1, 1, 1, 1))
        for starts, anomalies in _anomalies(training, climatology, steps, width):
            channels = _channels(anomalies) / arrays["scale"][:, None, None]
            whole = np.all(np.isfinite(channels), axis=(1, 2, 3), keepdims=True).ravel()
            channels = np.where(whole[:, None, None, None], channels, 0)
            features = _patches(channels[:starts], radius, around)
            grams, crosses = [], []
            for s in range(steps):
                later = channels[s + 1 : s + 1 + starts]
                both = whole[: len(later)] & whole[s + 1 : s + 1 + len(later)]
                x, y = features[: len(later)][both], later[both]
                x, y = rearrange(x, "time lat lon feature -> lat lon time feature"), rearrange(y, CHANNELS_LAST)
                grams.append(x.swapaxes(2, 3) @ x)
                crosses.append(x.swapaxes(2, 3) @ y)
                used[s] += both.sum()
            gram, cross = gram + np.stack(grams), cross + np.stack(crosses)
        gram = gram + ridge * used * np.eye(gram.shape[-1])
        solved = np.linalg.solve(gram, cross)
        arrays["weights"] = np.moveaxis(solved, -1, 1).astype(np.float32)
        return cls(arrays)

    def forecast(self, history: xr.Dataset, initial_times: np.ndarray, steps: int) -> xr.Dataset:
        """Forecast as `Baseline` says; all variables of the training data must be there."""
        initial = as_times(initial_times)
        valid = _valid_times(self.arrays, history, initial, steps)
        names, scale = self.arrays["variables"].tolist(), self.arrays["scale"][:, None, None]
        there = dict(_at(history, initial))
        anomalies = {name: _given(there, name) - self.climatology.at(name, initial) for name in names}
        weights = self.arrays["weights"]
        _check_steps(steps, len(weights))
        around = is_global(history.latitude.values, history.longitude.values)
        features = _patches(_channels(anomalies) / scale, int(self.arrays["radius"]), around)
        channels = np.einsum("nyxf,scyxf->nscyx", features, weights[:steps], optimize=True) * scale
        fields, first = {}, 0
        for name, anomaly in anomalies.items():
            last = first + _channels({name: anomaly}).shape[1]
            shape = (len(initial), steps, *anomaly.shape[1:])
            fields[name] = self.climatology.at(name, valid) + channels[:, :, first:last].reshape(shape)
            first = last
        return _assembled(history, initial, steps, fields)


def as_times(times: np.ndarray) -> np.ndarray:
    """Bring times to datetime64[ns], (time,)."""
    return np.atleast_1d(np.asarray(times)).astype("datetime64[ns]")


def step_of(history: xr.Dataset) -> np.timedelta64:
    """Find the step of regular times.

    Raises:
        WavecastError: there is one time only, or steps differ.
    """
    times = as_times(history.time.values)
    steps = np.diff(times)
    odd = times[1:][steps != steps[:1]]
    if not len(steps) or len(odd) or steps[0] <= np.timedelta64(0):
        found = f"the step changes at {odd[0].astype('datetime64[m]')}" if len(odd) else f"{len(times)} times"
        raise WavecastError(f"the data is not regular in time: {found}", "give data without gaps, in order of time")
    return steps[0]


def _shaped(array: xr.DataArray) -> xr.DataArray:
    return array.transpose("time", "level", "latitude", "longitude", missing_dims="ignore")


def _fields(data: xr.Dataset) -> Iterator[tuple[str, xr.DataArray]]:
    """Give the variables in time and space, (time, [level], latitude, longitude)."""
    for name, array in data.data_vars.items():
        if {"time", "latitude", "longitude"} <= set(array.dims):
            yield str(name), _shaped(array)


def _at(history: xr.Dataset, times: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Read each variable at some times, in any order and number: (time, [level], latitude, longitude).

    Raises:
        WavecastError: the history lacks one.
    """
    unique, place = np.unique(times, return_inverse=True)
    rows = history.indexes["time"].get_indexer(unique)
    if (rows < 0).any():
        there = as_times(history.time.values).astype("datetime64[m]")
        raise WavecastError(
            f"the history has no {unique[rows < 0][0].astype('datetime64[m]')}; it has {there[0]} to {there[-1]}",
            "begin later, or give a longer history",
        )
    for name, array in _fields(history):
        yield name, array.isel(time=rows).values[place]


def _blocks(array: xr.DataArray) -> Iterator[tuple[slice, np.ndarray]]:
    """Read blocks of time: their rows, and float64 (time, [level], latitude, longitude)."""
    size = max(1, BLOCK // int(np.prod(array.shape[1:])))
    for start in range(0, len(array), size):
        rows = slice(start, start + size)
        yield rows, array.isel(time=rows).values.astype(float)


def _anomalies(
    training: xr.Dataset, climatology: Climatology, ahead: int, width: int = 1
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Read blocks of anomalies with some times ahead: how many times the block itself has, and (time, ...) each."""
    times = as_times(training.time.values)
    fields = dict(_fields(training))
    each = width * sum(int(np.prod(array.shape[1:])) for array in fields.values())
    size = max(1, BLOCK // each, ahead)
    for start in range(0, len(times), size):
        stop = min(start + size, len(times))
        rows = slice(start, stop + ahead)
        read = {name: array.isel(time=rows).values.astype(float) for name, array in fields.items()}
        yield stop - start, {name: values - climatology.at(name, times[rows]) for name, values in read.items()}


def _around(values: np.ndarray, window: int) -> np.ndarray:
    """Sum (hour, dayofyear, ...) over a window of days, around the turn of the year."""
    half = window // 2
    whole = np.concatenate([values[:, DAYS - half :], values, values[:, :half]], axis=1) if half else values
    running = np.concatenate([np.zeros_like(whole[:, :1]), whole.cumsum(1)], axis=1)
    return running[:, window:] - running[:, :-window]


def _channels(fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """Stack variables and their levels: (time, channel, latitude, longitude)."""
    return np.concatenate([x if x.ndim == 4 else x[:, None] for x in fields.values()], axis=1)


def _patches(channels: np.ndarray, radius: int, around: bool) -> np.ndarray:
    """Gather what lies around each point: (time, channel, lat, lon) to (time, lat, lon, feature)."""
    width = 2 * radius + 1
    rows = ((0, 0), (0, 0), (radius, radius), (0, 0))
    columns = ((0, 0), (0, 0), (0, 0), (radius, radius))
    padded = np.pad(np.pad(channels, rows, "edge"), columns, "wrap" if around else "edge")
    windows = sliding_window_view(sliding_window_view(padded, width, 2), width, 3)
    patches = np.moveaxis(windows, 1, 3)
    return patches.reshape(*patches.shape[:3], -1)


def _begun(training: xr.Dataset, climatology: Climatology) -> Arrays:
    arrays: Arrays = {f"climatology/{name}": array for name, array in climatology.arrays.items()}
    return arrays | {"step": np.array(step_of(training).astype(int))}


def _climatology_in(arrays: Mapping[str, np.ndarray]) -> Climatology:
    prefix = "climatology/"
    return Climatology({n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)})


def _valid_times(arrays: Arrays, history: xr.Dataset, initial: np.ndarray, steps: int) -> np.ndarray:
    """Give the valid times (time, step).

    Raises:
        WavecastError: the history's step is not that of the training.
    """
    step, fitted = step_of(history), np.timedelta64(int(arrays["step"]), "ns")
    if step != fitted:
        hours = [float(one / np.timedelta64(1, "h")) for one in (step, fitted)]
        raise WavecastError(
            f"the history has a step of {hours[0]:g} h, and the baseline was fitted to {hours[1]:g} h",
            "give history of the same step, or fit again",
        )
    valid: np.ndarray = initial[:, None] + np.arange(1, steps + 1) * step
    return valid


def _check_steps(steps: int, fitted: int) -> None:
    if steps > fitted:
        raise WavecastError(f"the baseline was fitted to {fitted} steps, not {steps}", "forecast fewer, or fit again")


def _fitted(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in arrays:
        raise WavecastError(f"the baseline has no {name}, only {', '.join(arrays)}", "leave the variable out")
    return arrays[name]


def _given(fields: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in fields:
        raise WavecastError(f"the history has no {name}, only {', '.join(fields)}", "the baseline was fitted with it")
    return fields[name]


def _assembled(history: xr.Dataset, initial: np.ndarray, steps: int, fields: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Make the forecast of values (time, step or 1, [level], latitude, longitude)."""
    coords = forecast_coordinates(history, initial, np.arange(1, steps + 1) * step_of(history))
    variables = {}
    for name, values in fields.items():
        dims = ("time", "prediction_timedelta", *_shaped(history[name]).dims[1:])
        whole = np.broadcast_to(values, (len(initial), steps, *values.shape[2:])).astype(np.float32)
        variables[name] = xr.DataArray(whole, dims=dims, attrs=attributes_of(name, history[name]))
    return xr.Dataset(variables, coords)
