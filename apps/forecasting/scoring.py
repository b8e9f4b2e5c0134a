"""The work of `wavecast score`: the forecast and the baselines from the same initial times, against the same truth."""

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from wavecast.apps.forecasting.baselines import Climatology
from wavecast.apps.forecasting.forecast_layout import open_forecast
from wavecast.apps.forecasting.inference import whole
from wavecast.apps.forecasting.jobs import between, reading
from wavecast.apps.forecasting.methods import FITTED, UNFITTED, BaselineMethod
from wavecast.apps.forecasting.pictures import draw_scores
from wavecast.apps.forecasting.scores import score
from wavecast.cards import write_whole
from wavecast.console import JsonReport, UsageError, say, show_error
from wavecast.core.errors import WavecastError
from wavecast.datamodules.weather_fields import Fields
from wavecast.datamodules.weather_files import open_fields
from wavecast.datamodules.weather_times import HOUR
from wavecast.pictures import refuse_existing

Scores = dict[str, xr.Dataset]
SHOWN = ("forecast", *UNFITTED, *FITTED)
MORE = ("bias", "acc", "crps", "spread_skill")  # metrics of the forecast beside RMSE in a table
COLUMNS = ("method", "variable", "region", "level", "lead_hours", "metric", "value", "units")
NANOSECONDS = np.timedelta64(1, "ns")


def check_all(args: argparse.Namespace) -> int:
    """Say what WeatherBench tools will think of a forecast: 0 when they take it, 1 when they do not."""
    from wavecast.apps.forecasting.check import check_forecast

    findings = check_forecast(args.forecast)
    for finding in findings:
        show_error(f"{finding.kind}: {finding.where}: {finding.problem}", finding.hint)
    stands = [finding for finding in findings if finding.kind != "option"]
    if not stands:
        say(f"{args.forecast}: WeatherBench 2 and WeatherBench-X will take it", args.quiet)
    return 1 if stands else 0


def score_all(args: argparse.Namespace) -> int:
    """Score a forecast beside the baselines, and print a table for each variable and region.

    Returns:
        0; whatever goes wrong is an error.

    Raises:
        UsageError: there is no truth.
    """
    if args.truth is None:
        raise UsageError("scores need the truth", "wavecast score FORECAST TRUTH, or --check")
    options = reading(args)
    targets = picture_paths(args)
    with open_forecast(Path(args.forecast)) as forecast, open_fields(args.truth, args.variables, **options) as truth:
        scores = score_beside_baselines(forecast, truth, args.train, args.regions, args.quiet)
        tell(scores, args)
        if targets:
            draw(scores, forecast, truth.dataset, args.leads, targets)
    for path in targets.values():
        say(str(path), args.quiet)
    return 0


def tell(scores: Scores, args: argparse.Namespace) -> None:
    """Give the scores in the ways that the command line asks for.

    Raises:
        WavecastError: a file exists or cannot be written.
    """
    report = JsonReport(args.json, args.overwrite)
    rows = rows_of(scores)
    for row in rows:
        report.add(row)
    report.close()
    if args.csv:
        write_table(Path(args.csv), rows, COLUMNS, args.overwrite)
    if args.json != "-":
        print(tables(scores), end="")
    for line in warnings_of(scores):
        say(f"warning: {line}", args.quiet)


def picture_paths(args: argparse.Namespace) -> dict[str, Path]:
    """Name the pictures that are asked for: "scores", "maps", "animation".

    Raises:
        UsageError: --animate names no GIF, or --leads are for nothing.
        WavecastError: one of them exists.
    """
    if args.leads and not args.plot:
        raise UsageError("--leads chooses maps", "give --plot too")
    paths: dict[str, Path] = {}
    if args.plot:
        beside = Path(args.forecast)
        paths |= {"scores": beside.with_suffix(".png"), "maps": beside.with_suffix(".maps.png")}
    if args.animate:
        paths["animation"] = Path(args.animate)
        if paths["animation"].suffix.lower() != ".gif":
            raise UsageError(f"--animate {args.animate}: only GIF is written", "call it NAME.gif")
    refuse_existing(paths.values(), args.overwrite)
    return paths


def draw(
    scores: Scores, forecast: xr.Dataset, truth: xr.Dataset, hours: Sequence[float] | None, paths: dict[str, Path]
) -> None:
    """Draw pictures.

    Args:
        scores: of all methods.
        forecast: as a forecast file has it.
        truth: canonical fields.
        hours: lead times of the maps; None: the first, the middle and the last.
        paths: from `picture_paths`.

    Raises:
        WavecastError: there is no such lead time, a library is missing, or a picture cannot be written.
    """
    from wavecast.apps.forecasting.maps import Maps, animate, draw_maps

    if "scores" in paths:
        draw_scores(scores, paths["scores"])
    maps = Maps(forecast, truth)
    if "maps" in paths:
        draw_maps(maps, maps.chosen(hours), paths["maps"])
    if "animation" in paths:
        animate(maps, paths["animation"])


def score_beside_baselines(
    forecast: xr.Dataset, truth: Fields, train: Sequence[str] | None, regions: Sequence[str], quiet: bool
) -> Scores:
    """Score a forecast, and the baselines from the same initial times.

    Args:
        forecast: as a forecast file has it.
        truth: fields that hold its valid times.
        train: first and last time of the truth to fit the baselines to that are fitted; None: without those.
        regions: to score.
        quiet: say nothing of baselines that are left out.

    Returns:
        The scores of "forecast" and of each baseline.

    Raises:
        WavecastError: forecast and truth have no variable in common, or do not fit together.
    """
    names = [str(name) for name in forecast.data_vars if name in truth.dataset.data_vars]
    if not names:
        raise WavecastError(
            f"the forecast and {truth.where} have no variable in common",
            f"one has {', '.join(map(str, forecast.data_vars))}, the other {', '.join(truth.channels)}",
        )
    training = between(truth, *train)[names] if train else None
    climatology = None if training is None else Climatology.fit(training, "hour").dataset(training)
    scores = {"forecast": score(forecast, truth.dataset, climatology=climatology, regions=regions)}
    for name in (*UNFITTED, *(FITTED if training is not None else ())):
        beside = baseline_forecast(name, forecast[names], truth, training, quiet)
        if beside is not None:
            scores[name] = score(beside, truth.dataset, climatology=climatology, regions=regions)
    return scores


def baseline_forecast(
    name: str, forecast: xr.Dataset, truth: Fields, training: xr.Dataset | None, quiet: bool
) -> xr.Dataset | None:
    """Let a baseline forecast from the initial times that the truth holds with what the baseline looks back on.

    Returns:
        Its forecast; None, and a word to the user, where there is no such time.
    """
    leads = forecast["prediction_timedelta"].values
    step = np.timedelta64(truth.step, "ns")
    steps = int(leads.max() / step)
    method = BaselineMethod(name, None, training, steps)
    day = round(24 * HOUR / truth.step) if name == "previous_day" else 1
    wanted = truth.dataset.indexes["time"].get_indexer(forecast["time"].values)
    places = [int(place) for place in wanted if place >= day]
    if not places:
        say(f"without {name}: the truth does not reach back before the initial times", quiet)
        return None
    names = list(forecast.data_vars)
    found = whole(method, truth, places, steps)[names]
    same = found.indexes["prediction_timedelta"].get_indexer(leads)
    return found.isel(prediction_timedelta=same[same >= 0])


def rows_of(scores: Scores) -> list[dict[str, Any]]:
    """List every score: method, variable, region, level, lead in hours, metric, value, unit."""
    rows = []
    for method, found in scores.items():
        for name, array in found.data_vars.items():
            series = array.drop_vars("initial_times", errors="ignore").to_series().dropna()
            for place, value in series.items():
                at = dict(zip(series.index.names, place, strict=True))
                row: dict[str, Any] = {"method": method, "variable": str(name), "region": at["region"]}
                row |= {"level": float(at["level"])} if "level" in at else {}
                row |= {"lead_hours": at["prediction_timedelta"].value / HOUR, "metric": at["metric"]}
                rows.append(row | {"value": float(value), "units": array.attrs.get("units", "")})
    return rows


def write_table(path: Path, rows: list[dict[str, Any]], names: Sequence[str], overwrite: bool) -> None:
    """Write all scores as CSV.

    Args:
        path: of the file.
        rows: of scores.
        names: of the columns; a row may lack some.
        overwrite: replace the file if it exists.

    Raises:
        WavecastError: the file exists or cannot be written.
    """
    if path.exists() and not overwrite:
        raise WavecastError(f"{path} exists", "give --overwrite, or another name")
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


def tables(scores: Scores) -> str:
    """Write RMSE of all methods against lead time, the skill beside persistence, and more of the forecast."""
    ours = scores["forecast"]
    lines = []
    for name, array in ours.data_vars.items():
        for region in array["region"].values:
            for level in array["level"].values if "level" in array.dims else [None]:
                lines += table(scores, str(name), str(region), level)
    return "\n".join(lines) + "\n"


def table(scores: Scores, name: str, region: str, level: float | None) -> list[str]:
    """Write one table, a line for each lead time."""

    def values(method: str, metric: str) -> np.ndarray:
        one = scores[method][name].sel(region=region, metric=metric)
        one = one if level is None else one.sel(level=level)
        return np.asarray(one.values, float)

    methods = [method for method in SHOWN if method in scores and name in scores[method].data_vars]
    leads = scores["forecast"]["prediction_timedelta"].values / NANOSECONDS / HOUR
    units = scores["forecast"][name].attrs.get("units", "")
    at = "" if level is None else f" at {level:g} hPa"
    rmse = {method: values(method, "rmse") for method in methods}
    skill = 1 - (rmse["forecast"] / rmse["persistence"]) ** 2 if "persistence" in rmse else None
    metrics = [one for one in MORE if one in scores["forecast"][name]["metric"].values]
    head = [*methods, *(["skill"] if skill is not None else []), *metrics]
    lines = [f"{name}{at}, {region}: RMSE in {units}", f"{'lead':>8}" + "".join(f"{one:>19}" for one in head)]
    others = [values("forecast", metric) for metric in metrics]
    for i, lead in enumerate(leads):
        cells = [rmse[method][i] for method in methods]
        cells += [skill[i]] if skill is not None else []
        lines.append(f"{lead:>6g} h" + "".join(f"{cell:>19.4g}" for cell in [*cells, *(one[i] for one in others)]))
    return [*lines, ""]


def warnings_of(scores: Scores) -> list[str]:
    """Say where the forecast is worse than persistence or climatology."""
    lines = []
    for name, array in scores["forecast"].data_vars.items():
        ours = array.sel(metric="rmse")
        for method in ("persistence", "climatology"):
            if method not in scores or name not in scores[method].data_vars:
                continue
            worse = ours > scores[method][name].sel(metric="rmse")
            worse = worse.any([dim for dim in worse.dims if dim != "prediction_timedelta"])
            hours = [f"{lead / NANOSECONDS / HOUR:g}" for lead in worse["prediction_timedelta"].values[worse.values]]
            if hours:
                lines.append(f"{name} is worse than {method} at {', '.join(hours)} h")
    return lines
