"""The work of `wavecast forecast`: which initial times, by which method, into which file."""

import argparse
import re
import shlex
import shutil
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import wavecast
from wavecast.apps.forecasting.choice import NoChoiceError, fitting_model
from wavecast.apps.forecasting.ensembles import PERTURBATION, Ensemble
from wavecast.apps.forecasting.forecast_files import ForecastPart, ForecastWriter, is_grib
from wavecast.apps.forecasting.forecast_layout import About, open_forecast
from wavecast.apps.forecasting.inference import Forecaster, Method
from wavecast.apps.forecasting.methods import BASELINES, FITTED, STEPS, BaselineMethod
from wavecast.apps.forecasting.processes import device_of, team
from wavecast.console import JsonReport, UsageError, raise_if_interrupted, say
from wavecast.core.errors import WavecastError
from wavecast.datamodules.weather_fields import Fields
from wavecast.datamodules.weather_files import open_fields
from wavecast.datamodules.weather_layout import Layout
from wavecast.datamodules.weather_times import HOUR, nanoseconds, show

SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(h|d)")


def forecast_all(args: argparse.Namespace) -> int:
    """Forecast what a command line asks for.

    Returns:
        0; whatever goes wrong is an error.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    options = reading(args)
    method = choose_method(args, options)
    target = Path(args.output or default_output(args.input))
    begun = time.perf_counter()
    with team() as processes, method.open(args.input, **options) as fields:
        quiet = args.quiet or not processes.first
        steps = args.steps or method.horizon
        places = initial_places(fields, args.init, args.every, method)
        leads = np.arange(1, steps + 1) * np.timedelta64(step_of(fields), "ns")
        first, last = show(fields.times[places[0]]), show(fields.times[places[-1]])
        line = f"{method.name}: {steps} steps of {fields.step / HOUR:g} h from {len(places)} times, {first} to {last}"
        if args.dry_run:
            if processes.first:
                print(f"{line} -> {target}")
            return 0
        say(line, quiet)
        if args.like_input and is_grib(target):
            raise UsageError(f"{target}: GRIB has names of its own", "leave out --like-input, or call it NAME.nc")
        if args.like_input and target.exists() and not args.overwrite:
            raise WavecastError(f"{target} exists", "give --overwrite, or another name with -o")
        report = JsonReport(args.json if processes.first else None, args.overwrite)
        about = About(
            model=method.name,
            checkpoint=method.checkpoint,
            version=wavecast.__version__,
            command=f"wavecast forecast {shlex.quote(args.input)}",
        )
        like = fields.dataset.drop_vars(fields.statics)
        initial, members = fields.times[places], method.members
        part, share = processes.share(
            target, partial(ForecastWriter, target, like, initial, leads, about, members, args.resume, args.overwrite)
        )
        with part or nullcontext():
            if part is not None:
                write_share(part, share, method, fields, places, quiet)
            processes.wait()
            if isinstance(part, ForecastWriter):
                part.finish()
        if not processes.first:
            return 0
        if args.like_input:
            restore(target, fields.layout)
        seconds = time.perf_counter() - begun
        row = {"input": args.input, "output": str(target), "initial_times": len(places), "steps": steps}
        row |= {"step_hours": fields.step / HOUR, "wall_seconds": round(seconds, 3), "model": method.name}
        row |= {"members": members} if members else {}
        report.add(row | {"model_sha256": method.checkpoint or None})
        report.close()
    say(f"{target}: {len(places)} x {steps} steps in {seconds:.1f} s", args.quiet)
    return 0


def write_share(
    part: ForecastPart, share: list[int], method: Method, fields: Fields, places: list[int], quiet: bool
) -> None:
    """Forecast from some of the initial times; warn of the first forecast that drifts.

    Args:
        part: to write to.
        share: which of its initial times.
        method: what forecasts.
        fields: that it opened.
        places: of all initial times in `fields.times`.
        quiet: say nothing of progress.
    """
    if not quiet and (done := len(places) - len(part.remaining())):
        say(f"{done} of {len(places)} were done before")
    warned = False
    for number, k in enumerate(share):
        for piece in method.pieces(fields, places[k], len(part.leads)):
            raise_if_interrupted()
            part.append(k, piece)
        if method.drift and not warned:
            say(f"warning: {method.drift}", quiet)
            warned = True
        if len(share) > 1:
            say(f"{number + 1} of {len(share)}: {show(fields.times[places[k]])}", quiet)


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """Collect the options of `open_fields`.

    Raises:
        UsageError: --units is not understood.
    """
    units = {}
    for text in args.units:
        name, equals, unit = text.partition("=")
        if not (name and equals):
            raise UsageError(f"--units {text!r} is not understood", "for example --units 2m_temperature=degC")
        units[name] = unit
    return {"missing": args.missing, "units": units, "start": args.start, "hours": args.hours}


def choose_method(args: argparse.Namespace, options: dict[str, Any]) -> Method:
    """Find what forecasts: a baseline, models by name or path, or the known model that fits best.

    Raises:
        UsageError: nothing fits, or the options contradict each other.
    """
    models = args.model or []
    baselines = [name for name in models if name in BASELINES]
    if args.train and not (baselines and baselines[0] in FITTED):
        raise UsageError("--train is for the baselines that are fitted", f"--model {'|'.join(FITTED)}")
    if baselines and (len(models) > 1 or args.members):
        raise UsageError(f"{baselines[0]} is no member of an ensemble", "members are forecasts of networks")
    if args.members is None and not (args.perturbation is args.seed is None):
        raise UsageError("--perturbation and --seed are for --members", "for example --members 10")
    if baselines:
        return baseline_method(baselines[0], args, options)
    if args.variables:
        raise UsageError("--variables is for baselines", "a model knows what it forecasts")
    device = device_of(args.device)
    forecasters = [Forecaster.load(name, device) for name in models or [fitting_name(args.input, options)]]
    if args.members is None and len(forecasters) == 1:
        return forecasters[0]
    perturbation = PERTURBATION if args.perturbation is None else args.perturbation
    return Ensemble(forecasters, args.members or 1, perturbation, args.seed or 0)


def baseline_method(name: str, args: argparse.Namespace, options: dict[str, Any]) -> BaselineMethod:
    """Make a baseline, fitted to the input where it must be.

    Raises:
        UsageError: it must be fitted, and nobody says to what.
    """
    if name not in FITTED:
        return BaselineMethod(name, args.variables)
    if not args.train:
        raise UsageError(f"{name} must be fitted", "give --train FIRST LAST: times of the input")
    with open_fields(args.input, args.variables, **options) as fields:
        training = between(fields, *args.train)
        return BaselineMethod(name, args.variables, training, args.steps or STEPS)


def fitting_name(source: str, options: dict[str, Any]) -> str:
    """Name the known model that fits the input.

    Raises:
        UsageError: there is none, or there are several of unknown quality.
    """
    with open_fields(source, **options) as fields:
        try:
            return fitting_model(fields, source)
        except NoChoiceError as error:
            raise UsageError(error.message, error.hint) from error


def between(fields: Fields, first: str, last: str) -> xr.Dataset:
    """Cut fields to a span of time.

    Raises:
        UsageError: a time is not understood, or nothing is between them.
    """
    try:
        found = fields.dataset.sel(time=slice(first, last))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{first} to {last} is no span of time", "write 2019-03-19 or 2019-03-19T06") from error
    if not found.sizes["time"]:
        run = f"{show(fields.times[0])} to {show(fields.times[-1])}"
        raise UsageError(f"{fields.where} has nothing from {first} to {last}", f"it runs from {run}")
    return found


def initial_places(fields: Fields, init: list[str] | None, every: str | None, method: Method) -> list[int]:
    """Choose the initial times: their places in `fields.times`.

    Raises:
        UsageError: the times are not understood.
        WavecastError: the fields have none of them, or too little before them.
    """
    step, earliest, count = step_of(fields), method.history - 1, len(fields.times)
    stride = 1
    if every is not None:
        span = SPAN.fullmatch(every.strip().lower())
        if not span:
            raise UsageError(f"--every {every!r} is not understood", "for example --every 6h or --every 1d")
        length = float(span[1]) * (24 if span[2] == "d" else 1) * HOUR
        stride = round(length / step)
        if stride < 1 or stride * step != length:
            raise UsageError(f"--every {every} is no multiple of the input's {step / HOUR:g} h")
    if init is None:
        if every is None:
            return [count - 1]
        midnight = nanoseconds(fields.times) % (stride * step) == 0  # counted from midnight, so that hours are round
        places = [place for place in range(count) if midnight[place] and place >= earliest]
        if not places:
            raise WavecastError(
                f"no time of {fields.where} is a multiple of {every} and has {method.history} instants behind it",
                "give another --every, or --init",
            )
        return places
    if len(init) > 2:
        raise UsageError(f"--init has {len(init)} times", "give one, or the first and the last")
    cut = between(fields, init[0], init[-1])
    first = int(np.searchsorted(nanoseconds(fields.times), nanoseconds(cut["time"].values[:1])[0]))
    places = list(range(first, first + (cut.sizes["time"] if len(init) == 2 or every else 1), stride))
    if places[0] < earliest:
        raise WavecastError(
            f"{show(fields.times[places[0]])} has {places[0] + 1} instants behind it; {method.name} needs "
            f"{method.history}",
            f"begin at {show(fields.times[earliest])}: --init {show(fields.times[earliest])}",
        )
    return places


def step_of(fields: Fields) -> int:
    """Give the step of fields in nanoseconds.

    Raises:
        WavecastError: there is one instant only.
    """
    if not fields.step:
        raise WavecastError(f"{fields.where} has one instant", "two at least tell what the next one is")
    return fields.step


def default_output(source: str) -> str:
    """Name the output beside the input: era5.nc gives era5.forecast.zarr."""
    path = Path(source)
    return str(path.with_name(f"{path.stem}.forecast.zarr"))


def restore(path: Path, layout: Layout) -> None:
    """Give a finished forecast the names, units and orientation of the input; it is replaced when that is done."""
    new = path.with_name(f".{path.name}.own")
    with open_forecast(path) as forecast:
        own = layout.restore(forecast.drop_vars("valid_time", errors="ignore"))
        for variable in own.variables.values():
            variable.encoding = {}
        if path.suffix == ".nc":
            own.to_netcdf(new, engine="h5netcdf")
        else:
            own.to_zarr(new, mode="w", zarr_format=2, consolidated=True)
    if path.is_dir():
        shutil.rmtree(path)
    new.replace(path)
