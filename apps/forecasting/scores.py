"""Scores of weather forecasts: per lead time, variable, level and region, in three published conventions side by side.

| metric | of one lead time |
|---|---|
| `rmse` | WeatherBench 2: mean squared error over cell areas for each time, then mean over times, then the root |
| `rmse_wb1` | WeatherBench 1: one root after the mean over times and space, weighted with the cosine of latitude |
| `rmse_openstl` | OpenSTL: one root after the mean over times and space, not weighted: polar rows count fully |
| `mae`, `mae_wb1`, `mae_openstl` | mean absolute error with the same weights |
| `bias` | mean of forecast less truth over cell areas, then over times |
| `acc` | WeatherBench 2: correlation of anomalies from a climatology for each time, then mean over times |
| `acc_wb1` | WeatherBench 1: anomalies from the time mean of the truth, less their overall mean, all times in one sum |
| `crps` | of ensembles, fair: unbiased for any number of members |
| `spread` | of ensembles: root of the mean variance of the members (of n - 1) |
| `spread_skill` | spread / rmse of the ensemble mean; sqrt(m / (m + 1)) in a reliable ensemble of m members |
| `missing_forecast` | values that are NaN in the forecast though there is truth: they make the scores NaN |
| `missing_truth` | values left out because the truth is NaN there |

Of ensembles, the metrics without "of ensembles" score the ensemble mean. Definitions: Rasp et al. 2020, "WeatherBench",
doi:10.1029/2020MS002203; Rasp et al. 2024, "WeatherBench 2", doi:10.1029/2023MS004019; Zamo and Naveau 2018 for the
fair CRPS, doi:10.1007/s11004-017-9709-7.

WeatherBench 2 stretches the outer rows of a regional grid to the poles; here they end half a cell beyond.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from wavecast.core.errors import WavecastError

logger = logging.getLogger(__name__)

BLOCK = 1 << 20  # values of one variable that are scored at once: about 100 MB at work
DEGREES = 1e-3  # coordinates that differ less are the same
AREA, COSINE, EQUAL = 0, 1, 2  # the three weightings
WINDS = {
    "wind_vector": ("u_component_of_wind", "v_component_of_wind"),
    "10m_wind_vector": ("10m_u_component_of_wind", "10m_v_component_of_wind"),
}
"""Vectors that are scored besides their components: the error is the length of the difference, rmse only."""


@dataclass(frozen=True)
class Region:
    """A part of the globe: cells whose centers lie in one of the bands of latitude and in the range of longitude.

    Args:
        latitudes: (south, north) of each band in degrees, ends included.
        longitudes: (west, east) in degrees, eastward from west, ends included; None: all around.
    """

    latitudes: tuple[tuple[float, float], ...] = ((-90, 90),)
    longitudes: tuple[float, float] | None = None

    def weights(self, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
        """Mark the cells inside: 1.0 or 0.0, (latitude, longitude)."""
        rows = np.any([(south <= latitude) & (latitude <= north) for south, north in self.latitudes], axis=0)
        columns = np.ones(len(longitude), bool)
        if self.longitudes is not None:
            west, east = self.longitudes
            columns = (longitude - west) % 360 <= east - west
        return np.outer(rows, columns).astype(float)


REGIONS = {
    "global": Region(),
    "tropics": Region(((-20, 20),)),
    "extra-tropics": Region(((-90, -20), (20, 90))),
    "northern-hemisphere": Region(((20, 90),)),
    "southern-hemisphere": Region(((-90, -20),)),
    "europe": Region(((35, 75),), (-12.5, 42.5)),
    "north-america": Region(((25, 60),), (-120, -75)),
    "north-atlantic": Region(((25, 65),), (-70, -10)),
    "north-pacific": Region(((25, 60),), (145, 230)),
    "east-asia": Region(((25, 60),), (102.5, 150)),
    "ausnz": Region(((-45, -12.5),), (120, 175)),
    "arctic": Region(((60, 90),)),
    "antarctic": Region(((-90, -60),)),
}
"""The regions of WeatherBench 2."""


def score(
    forecast: xr.Dataset,
    truth: xr.Dataset,
    *,
    climatology: xr.Dataset | None = None,
    regions: Sequence[str] | Mapping[str, Region | xr.DataArray] = ("global",),
    variables: Sequence[str] | None = None,
) -> xr.Dataset:
    """Score a forecast against the truth, block by block: memory does not grow with the number of initial times.

    Forecasts whose valid time the truth does not have are left out; `initial_times` counts what was scored.

    Args:
        forecast: dims (time, prediction_timedelta, [number], [level], latitude, longitude) in any order; `time` is the
            initial time.
        truth: dims (time, [level], latitude, longitude), holding the forecast's grid and levels; longitudes may be
            0..360 in one and -180..180 in the other.
        climatology: dims ([hour], [dayofyear], [level], latitude, longitude), for `acc`.
        regions: names from `REGIONS`, or regions of one's own under names: boxes, or weights (latitude, longitude)
            such as a land-sea mask. On a regional grid, "global" is the whole grid.
        variables: of both; by default all that both have.

    Returns:
        One variable for each of the forecast's and for each wind vector, dims (metric, region, prediction_timedelta,
        [level]), in the variable's unit; coordinate `initial_times` (prediction_timedelta). A metric that a variable
        does not have (most of a wind vector) is NaN.

    Raises:
        WavecastError: dimensions, variables, grid, levels or times do not fit.
    """
    leads = _leads(forecast)
    names = _names(forecast, truth, variables)
    truth = on_grid_of(forecast, truth, "truth")
    if climatology is not None:
        climatology = on_grid_of(forecast, climatology, "climatology")
    latitude, longitude = forecast.latitude.values.astype(float), forecast.longitude.values.astype(float)
    areas = _region_weights(regions, latitude, longitude)
    valid, known = _valid_times(forecast.time.values, leads, truth.time.values)
    results = {}
    vectors = {name: parts for name, parts in WINDS.items() if set(parts) <= set(names)}
    for name, parts in {**{name: (name,) for name in names}, **vectors}.items():
        results[name] = _Scorer(
            [forecast[part] for part in parts],
            [truth[part] for part in parts],
            None if climatology is None or len(parts) > 1 else _variable(climatology, name, "climatology"),
            areas,
            valid,
            known,
        ).run()
        results[name].attrs = {k: v for k, v in forecast[parts[0]].attrs.items() if k == "units"}
        _tell_missing(name, results[name])
    scores = xr.Dataset(results, coords={"prediction_timedelta": forecast.prediction_timedelta.copy(data=leads)})
    scores = scores.assign_coords(initial_times=("prediction_timedelta", known.sum(0)))
    reach = "the whole globe" if is_global(latitude, longitude) else "a regional grid, half a cell beyond its centers"
    scores.attrs = {
        "weights": f"cell areas of {reach}; _wb1: cosine of latitude; _openstl: equal",
        "first_initial_time": str(forecast.time.values[known.any(1)].min().astype("datetime64[s]")),
        "last_initial_time": str(forecast.time.values[known.any(1)].max().astype("datetime64[s]")),
    }
    return scores


def openstl_table(scores: xr.Dataset, variables: Sequence[str], region: str = "global") -> dict[str, float]:
    """Compute the three numbers of an OpenSTL or PredFormer weather table: means over leads, variables and levels.

    Args:
        scores: from `score`.
        variables: the channels of the task, such as both wind components.
        region: one of those scored.

    Returns:
        mse, mae, and rmse: the root of the mse.
    """
    chosen = [scores[name].sel(region=region, drop=True) for name in variables]
    squares = np.concatenate([one.sel(metric="rmse_openstl").values.ravel() ** 2 for one in chosen])
    absolute = np.concatenate([one.sel(metric="mae_openstl").values.ravel() for one in chosen])
    mse = float(squares.mean())
    return {"mse": mse, "mae": float(absolute.mean()), "rmse": mse**0.5}


def cell_areas(latitude: np.ndarray) -> np.ndarray:
    """Weight rows with the true areas of their cells: sin(upper bound) - sin(lower bound), mean 1.

    Bounds lie half way between centers; the outer ones half a cell beyond, and at a pole that is less than a cell away.

    Args:
        latitude: centers in degrees, ascending or descending, at least two.

    Returns:
        (latitude,), mean 1.
    """
    south, north = _bounds(latitude)
    areas = np.abs(np.sin(np.radians(north)) - np.sin(np.radians(south)))
    return areas / areas.mean()


def is_global(latitude: np.ndarray, longitude: np.ndarray) -> bool:
    """Tell whether cells cover the globe."""
    around = abs(np.ptp(longitude) * len(longitude) / max(len(longitude) - 1, 1) - 360) < DEGREES * len(longitude)
    return bool(around and np.ptp(np.concatenate(_bounds(latitude))) == 180)


def fair_crps(members: np.ndarray, truth: np.ndarray, axis: int) -> np.ndarray:
    """Compute E|X - Y| - E|X - X'| / 2 with all pairs of different members: unbiased for any number of them.

    Args:
        members: of an ensemble, along `axis`; one member gives the absolute error.
        truth: the same shape without that axis.
        axis: of the members.
    """
    members = np.sort(np.moveaxis(members, axis, 0), axis=0)
    count = len(members)
    skill = np.abs(members - truth).mean(0)
    if count == 1:
        return skill
    rank = 2 * np.arange(1, count + 1) - count - 1
    return skill - np.tensordot(rank, members, 1) / (count * (count - 1))


class _Scorer:
    """Sums of one variable, or of the components of one vector, over blocks of times, leads and levels."""

    def __init__(
        self,
        forecast: list[xr.DataArray],
        truth: list[xr.DataArray],
        climatology: xr.DataArray | None,
        areas: dict[str, tuple[np.ndarray | slice, np.ndarray]],
        valid: np.ndarray,
        known: np.ndarray,
    ) -> None:
        self.level = forecast[0].level if "level" in forecast[0].dims else None
        self.members = forecast[0].sizes.get("number", 0)
        ensemble = ["number"] if self.members else []
        self.forecast = [_shaped(part, ["time", "prediction_timedelta", *ensemble]) for part in forecast]
        self.truth = [_shaped(part, ["time"]) for part in truth]
        self.climatology = None if climatology is None else _shaped(climatology, ["hour", "dayofyear"])
        self.areas, self.valid, self.known = areas, valid, known
        self.levels = self.forecast[0].sizes["level"]
        self.points = self.forecast[0].sizes["latitude"] * self.forecast[0].sizes["longitude"]
        self.mean: np.ndarray = np.zeros(())  # of the truth over time, for the levels at work
        self.sums: dict[str, np.ndarray] = {}
        self.means: dict[str, np.ndarray] = {}
        self.shape = (len(areas), valid.shape[1], self.levels)
        self.times = np.zeros(self.shape)

    def run(self) -> xr.DataArray:
        """Go through all blocks and finish the scores: (metric, region, prediction_timedelta, [level])."""
        rows = np.flatnonzero(self.known.any(1))
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            for levels, leads, starts in self._blocks(rows):
                self._add(levels, leads, starts)
            metrics = self._metrics()
        dims = ["metric", "region", "prediction_timedelta", "level"]
        coords = {"metric": list(metrics), "region": list(self.areas)}
        result = xr.DataArray(np.stack(list(metrics.values())), dims=dims, coords=coords)
        return result.isel(level=0) if self.level is None else result.assign_coords(level=self.level)

    def _blocks(self, rows: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
        field = self.points * max(self.members, 1)
        levels = min(self.levels, max(1, BLOCK // field))
        leads = min(self.valid.shape[1], max(1, BLOCK // (field * levels)))
        times = max(1, BLOCK // (field * levels * leads))
        for level in range(0, self.levels, levels):
            chosen = slice(level, level + levels)
            if len(self.truth) == 1:
                self.mean = self._time_mean(chosen)
            for lead in range(0, self.valid.shape[1], leads):
                for time in range(0, len(rows), times):
                    yield chosen, slice(lead, lead + leads), rows[time : time + times]

    def _time_mean(self, levels: slice) -> np.ndarray:
        """Average the truth over all valid times: (level, points)."""
        times = np.unique(self.valid[self.known])
        total, count = np.zeros(()), np.zeros(())
        step = max(1, BLOCK // (self.points * (levels.stop - levels.start)))
        for start in range(0, len(times), step):
            values = self._truth_at(self.truth[0], times[start : start + step], levels)
            total = total + np.nansum(values, axis=0)
            count = count + np.isfinite(values).sum(0)
        return total / count

    def _truth_at(self, truth: xr.DataArray, times: np.ndarray, levels: slice) -> np.ndarray:
        """Read the truth: (time, level, points)."""
        places = truth.indexes["time"].get_indexer(times)
        runs_on = np.all(np.diff(places) == 1)
        values = truth.isel(level=levels, time=slice(places[0], places[-1] + 1) if runs_on else places).values
        return values.astype(float).reshape(*values.shape[:2], -1)

    def _climate_at(self, climatology: xr.DataArray, times: np.ndarray, levels: slice) -> np.ndarray:
        """Read the climatology of each time's hour and day of the year: (time, level, points)."""
        values = at_slots(climatology.isel(level=levels), times).values
        return values.astype(float).reshape(*values.shape[:2], -1)

    def _add(self, levels: slice, leads: slice, rows: np.ndarray) -> None:
        """Add one block; all fields are (time, lead, level, points)."""
        valid, known = self.valid[rows, leads], self.known[rows, leads]
        if not known.any():
            return
        times = np.unique(valid[known])
        place = np.minimum(np.searchsorted(times, valid), len(times) - 1)
        present, square = np.array(True), np.zeros(())
        for forecast, truth in zip(self.forecast, self.truth, strict=True):
            values = forecast.isel(time=rows, prediction_timedelta=leads, level=levels).values.astype(float)
            values = values.reshape(*values.shape[:-2], -1)
            target = self._truth_at(truth, times, levels)[place]
            mean = values.mean(2) if self.members else values
            present = present & known[..., None, None] & ~np.isnan(target)
            square = square + (mean - target) ** 2
        fields = {"present": present, "square": square}
        if len(self.forecast) == 1:
            error = mean - target
            fields |= {"absolute": np.abs(error), "error": error}
            one, two = mean - self.mean, target - self.mean
            fields |= {"f": one, "a": two, "ff": one * one, "aa": two * two, "fa": one * two}
            fields |= {"no_forecast": np.isnan(mean), "no_truth": known[..., None, None] & np.isnan(target)}
            if self.climatology is not None:
                climate = self._climate_at(self.climatology, times, levels)[place]
                one, two = mean - climate, target - climate
                fields |= {"cff": one * one, "caa": two * two, "cfa": one * two}
            if self.members:
                fields |= {"crps": fair_crps(values, target, 2)}
                fields |= {"variance": values.var(2, ddof=1) if self.members > 1 else 0 * mean}
        for name, field in fields.items():
            if name not in ("present", "no_truth"):
                fields[name] = np.where(present, field, 0.0)
        for region, (index, weights) in enumerate(self.areas.values()):
            self._add_region(region, leads, levels, {k: field[..., index] @ weights for k, field in fields.items()})

    def _add_region(self, region: int, leads: slice, levels: slice, sums: dict[str, np.ndarray]) -> None:
        """Add the weighted sums of one region, (time, lead, level, weighting); times without any truth do not count."""
        there = sums["present"][..., AREA] > 0
        self.times[region, leads, levels] += there.sum(0)
        for name, value in sums.items():
            total = self.sums.setdefault(name, np.zeros((*self.shape, 3)))
            total[region, leads, levels] += value.sum(0)
        averaged = {"square", "absolute", "error", "crps", "variance"} & set(sums)
        means = {name: sums[name][..., AREA] / sums["present"][..., AREA] for name in averaged}
        if "cfa" in sums:
            means["acc"] = (sums["cfa"] / np.sqrt(sums["cff"] * sums["caa"]))[..., AREA]
        for name, value in means.items():
            total = self.means.setdefault(name, np.zeros(self.shape))
            total[region, leads, levels] += np.where(there, value, 0.0).sum(0)

    def _metrics(self) -> dict[str, np.ndarray]:
        """Finish: each metric (region, lead, level)."""
        means = {name: total / self.times for name, total in self.means.items()}
        whole = {name: total / self.sums["present"] for name, total in self.sums.items()}
        metrics = {
            "rmse": np.sqrt(means["square"]),
            "rmse_wb1": np.sqrt(whole["square"][..., COSINE]),
            "rmse_openstl": np.sqrt(whole["square"][..., EQUAL]),
        }
        if len(self.forecast) > 1:
            return metrics
        metrics |= {
            "mae": means["absolute"],
            "mae_wb1": whole["absolute"][..., COSINE],
            "mae_openstl": whole["absolute"][..., EQUAL],
            "bias": means["error"],
        }
        if "acc" in means:
            metrics["acc"] = means["acc"]
        metrics["acc_wb1"] = self._acc_wb1(whole)
        if self.members:
            spread = np.sqrt(means["variance"])
            metrics |= {"crps": means["crps"], "spread": spread, "spread_skill": spread / metrics["rmse"]}
        return metrics | {
            "missing_forecast": self.sums["no_forecast"][..., EQUAL],
            "missing_truth": self.sums["no_truth"][..., EQUAL],
        }

    def _acc_wb1(self, whole: dict[str, np.ndarray]) -> np.ndarray:
        """Correlate f - mean(f) and a - mean(a): plain means over times and space, sums weighted with the cosine."""
        f, a = whole["f"][..., EQUAL], whole["a"][..., EQUAL]
        moments = {name: whole[name][..., COSINE] for name in ("f", "a", "ff", "aa", "fa")}
        product = moments["fa"] - f * moments["a"] - a * moments["f"] + f * a
        ff = moments["ff"] - 2 * f * moments["f"] + f * f
        aa = moments["aa"] - 2 * a * moments["a"] + a * a
        return product / np.sqrt(ff * aa)


def at_slots(climatology: xr.DataArray, times: np.ndarray) -> xr.DataArray:
    """Select a climatology's hour and day of the year for each time.

    Args:
        climatology: dims (hour, dayofyear, ...); a dim of size 1 without coordinate holds for all.
        times: datetime64 (time,).

    Returns:
        dims (time, ...).

    Raises:
        WavecastError: the climatology does not have an hour or a day that is asked for.
    """
    when = xr.DataArray(times, dims="time").dt
    index = {}
    for dim, wanted in {"hour": when.hour, "dayofyear": when.dayofyear}.items():
        places = np.zeros(len(times), int)
        if dim in climatology.coords:
            places = climatology.indexes[dim].get_indexer(wanted.values)
        if (places < 0).any():
            there = climatology[dim].values
            raise WavecastError(
                f"the climatology has no {dim} {wanted.values[places < 0][0]} (it has {there[0]} to {there[-1]}, "
                f"{len(there)} values), which {times[places < 0][0].astype('datetime64[m]')} needs",
                "give a climatology of every valid time, or thin the forecast to those that it has",
            )
        index[dim] = xr.DataArray(places, dims="time")
    return climatology.isel(index).drop_vars(["hour", "dayofyear"], errors="ignore").transpose("time", ...)


def _shaped(array: xr.DataArray, first: list[str]) -> xr.DataArray:
    """Order dims as (*first, level, latitude, longitude); those not there get size 1."""
    array = array.drop_vars("level", errors="ignore")
    missing = {dim: 1 for dim in (*first, "level") if dim not in array.dims}
    return array.expand_dims(missing).transpose(*first, "level", "latitude", "longitude")


def _leads(forecast: xr.Dataset) -> np.ndarray:
    """Give the lead times, timedelta64[ns]."""
    missing = {"time", "prediction_timedelta", "latitude", "longitude"} - set(forecast.dims)
    if missing or forecast.prediction_timedelta.dtype.kind != "m":
        raise WavecastError(
            f"this is no forecast with lead times: dims {tuple(map(str, forecast.dims))}"
            + ("" if missing else f", prediction_timedelta is {forecast.prediction_timedelta.dtype}, not a timedelta"),
            "open forecast files with wavecast.apps.forecasting.forecast_layout.open_forecast",
        )
    return forecast.prediction_timedelta.values.astype("timedelta64[ns]")


def _names(forecast: xr.Dataset, truth: xr.Dataset, variables: Sequence[str] | None) -> list[str]:
    if variables is None:
        names = [str(name) for name in forecast.data_vars if name in truth.data_vars]
        if not names:
            raise WavecastError(
                f"forecast and truth have no variable in common: {listed(forecast)} and {listed(truth)}",
                "rename with .rename({'t2m': '2m_temperature'})",
            )
        return names
    for name in variables:
        _variable(forecast, name, "forecast")
        _variable(truth, name, "truth")
    return list(variables)


def _variable(dataset: xr.Dataset, name: str, what: str) -> xr.DataArray:
    if name not in dataset.data_vars:
        raise WavecastError(f"the {what} has no {name}, only {listed(dataset)}", "choose with variables=[...]")
    return dataset[name]


def listed(dataset: xr.Dataset) -> str:
    """Join the names of a data set's variables."""
    return ", ".join(map(str, dataset.data_vars)) or "none"


def on_grid_of(forecast: xr.Dataset, other: xr.Dataset, what: str) -> xr.Dataset:
    """Select the forecast's grid and levels from another data set, in the forecast's order.

    Raises:
        WavecastError: it has not got them.
    """
    for dim, period in {"latitude": np.inf, "longitude": 360.0, "level": np.inf}.items():
        if dim not in forecast.dims or (dim == "level" and dim not in other.dims):
            continue
        if dim not in other.dims:
            raise WavecastError(f"the {what} has no {dim}, only {tuple(map(str, other.dims))}", f"rename it to {dim}")
        wanted, there = forecast[dim].values.astype(float), other[dim].values.astype(float)
        apart = np.abs(wanted[:, None] - there)
        apart = np.minimum(apart % period, -apart % period) if dim == "longitude" else apart
        places = apart.argmin(1)
        far = apart.min(1) > DEGREES
        if far.any():
            raise WavecastError(
                f"the {what} has no {dim} {wanted[far][0]:g}, as the forecast has; it has {len(there)} values "
                f"from {there.min():g} to {there.max():g}",
                "bring both to one grid first; scores are not computed across grids",
            )
        if not np.array_equal(places, np.arange(len(there))):
            other = other.isel({dim: places})
    return other


def _valid_times(initial: np.ndarray, leads: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the valid times, and whether the truth has them: both (time, lead).

    Raises:
        WavecastError: it has none of them, or has a time twice.
    """
    initial, truth = initial.astype("datetime64[ns]"), truth.astype("datetime64[ns]")
    valid = initial[:, None] + leads
    known = np.isin(valid, truth)
    if not known.any():
        raise WavecastError(
            f"no valid time of the forecast ({_span(valid)}) is in the truth ({_span(truth)})",
            "give the truth of these times",
        )
    if len(np.unique(truth)) < len(truth):
        raise WavecastError("the truth has times twice", "drop them with .drop_duplicates('time')")
    return valid, known


def _span(times: np.ndarray) -> str:
    return (
        f"{times.min().astype('datetime64[h]')} to {times.max().astype('datetime64[h]')}" if times.size else "nothing"
    )


def _bounds(latitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the lower and upper bound of each row in degrees, in the order of the rows."""
    if len(latitude) < 2:
        raise WavecastError("a grid of one row has no cell area", "score at least two latitudes")
    order = np.argsort(latitude)
    centers = latitude[order].astype(float)
    between = (centers[1:] + centers[:-1]) / 2
    first, last = np.diff(centers)[[0, -1]]
    south = -90.0 if centers[0] - first < -90 else centers[0] - first / 2
    north = 90.0 if centers[-1] + last > 90 else centers[-1] + last / 2
    edges = np.concatenate([[south], between, [north]])
    lower, upper = np.empty_like(centers), np.empty_like(centers)
    lower[order], upper[order] = edges[:-1], edges[1:]
    return lower, upper


def _region_weights(
    regions: Sequence[str] | Mapping[str, Region | xr.DataArray], latitude: np.ndarray, longitude: np.ndarray
) -> dict[str, tuple[np.ndarray | slice, np.ndarray]]:
    """Find the points of each region and their weights: (points,) and (points, weighting)."""
    if not isinstance(regions, Mapping):
        unknown = [name for name in regions if name not in REGIONS]
        if unknown:
            raise WavecastError(f"there is no region {unknown[0]}", f"the regions are {', '.join(REGIONS)}")
        regions = {name: REGIONS[name] for name in regions}
    cosine = np.cos(np.radians(latitude))
    rows = np.stack([cell_areas(latitude), cosine / cosine.mean(), np.ones(len(latitude))], axis=-1)
    grid = xr.Dataset(coords={"latitude": latitude, "longitude": longitude})
    found = {}
    for name, region in regions.items():
        if isinstance(region, Region):
            inside = region.weights(latitude, longitude)
        else:
            mask = on_grid_of(grid, region.to_dataset(name="mask"), f"mask of {name}").mask
            inside = mask.transpose("latitude", "longitude").values.astype(float)
        index = np.flatnonzero(inside > 0)
        if not len(index):
            raise WavecastError(
                f"no point of the grid ({latitude.min():g} to {latitude.max():g} north, {longitude.min():g} to "
                f"{longitude.max():g} east) lies in the region {name}",
                "leave it out",
            )
        weights = (rows[:, None] * inside[..., None]).reshape(-1, 3)[index]
        found[name] = (slice(None) if len(index) == inside.size else index, weights)
    return found


def _tell_missing(name: str, result: xr.DataArray) -> None:
    """Warn of NaN in the forecast."""
    if "missing_forecast" in result.metric:
        missing = int(result.sel(metric="missing_forecast").max("region").sum())
        if missing:
            logger.warning("%s: %d values of the forecast are NaN, and so are the scores that need them", name, missing)
