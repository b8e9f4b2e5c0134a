"""Training, validation and test data of the forecaster: windows of weather fields from any file.

Splits are years or spans of time; no window crosses from one to another, and mean and deviation are those of the
training split alone. The published OpenSTL numbers were made otherwise, and `protocol="openstl"` does as they did:

- the last instant of each split is dropped, and the last window that would still fit is left out;
- every split is standardized by its own mean and deviation, the test split by those of the test split;
- validation runs on the test split, so that the best checkpoint is chosen on what it is then scored on.

Such numbers are comparable with the published ones and with nothing else.
"""

import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from torch.utils.data import DataLoader

from wavecast.core.errors import WavecastError
from wavecast.datamodules.items import Item, ItemsData
from wavecast.datamodules.variables import canonical
from wavecast.datamodules.weather_files import Fields, Region, open_fields
from wavecast.datamodules.weather_times import HOUR, nanoseconds, show
from wavecast.datamodules.weather_values import Missing
from wavecast.datamodules.weather_windows import Extras, Normalization, Shuffled, Windows, measure

logger = logging.getLogger(__name__)

Span = tuple[int | str, int | str]
"""First and last year, or first and last date or time as in "2019-03-19"; both belong to it."""
Split = Literal["train", "validation", "test"]
Protocol = Literal["strict", "openstl"]
GIGABYTE = 1e9


class WeatherData(ItemsData):
    """Windows of weather fields: items as `wavecast.datamodules.weather_windows.Windows.item` gives them.

    Args:
        root: whatever `wavecast.datamodules.weather_files.open_fields` opens.
        variables: that are forecast, by any of their names; each level is a channel.
        train: first and last year or date to train on.
        validation: the same to validate on.
        test: the same to test on.
        levels: in hPa; all when None.
        region: (south, north, west, east) in degrees; the whole grid when None.
        step: hours between instants; the file's own when None.
        history: instants of the input.
        horizon: instants of the target.
        extras: more inputs: "hour", "day", "latitude", "longitude", or constants such as "land_sea_mask".
        constants: file of these constants; the data themselves when None.
        protocol: "strict", or "openstl" to reproduce published numbers, leaks included.
        normalization: {channel: [mean, std]} of a checkpoint that goes on; measured on the training split when None.
        missing: what to do with missing values: "refuse", "interpolate" or "fill".
        units: of variables whose file says nothing of them, or something wrong.
        start: time of count 0, where times are counts without units.
        hours: of one count then.
        batch_size: windows of one process in a batch.
        items: training windows an epoch, over all processes; each once when None.
        seed: of the order of training windows.
        workers: processes that make the items; 0 makes them in the training process.
        memory_gb: splits that together fit into so many gigabytes are read into memory; else each window is read when
            it is needed.
    """

    def __init__(
        self,
        root: str,
        variables: list[str] | None = None,
        train: Span | None = None,
        validation: Span | None = None,
        test: Span | None = None,
        levels: list[float] | None = None,
        region: Region | None = None,
        step: float | None = None,
        history: int = 12,
        horizon: int = 12,
        extras: list[str] | None = None,
        constants: str | None = None,
        protocol: Protocol = "strict",
        normalization: dict[str, list[float]] | None = None,
        missing: Missing = "refuse",
        units: dict[str, str] | None = None,
        start: str | None = None,
        hours: float | None = None,
        batch_size: int = 16,
        items: int | None = None,
        seed: int = 0,
        workers: int = 0,
        memory_gb: float = 4.0,
    ) -> None:
        super().__init__(batch_size, workers)
        self.path, self.variables, self.levels, self.region, self.step = root, variables, levels, region, step
        self.spans: dict[Split, Span | None] = {"train": train, "validation": validation, "test": test}
        self.history, self.horizon, self.extras = history, horizon, extras or []
        self.constants, self.protocol, self.missing = constants, protocol, missing
        self.units, self.start, self.hours = units, start, hours
        self.given = normalization
        self.items, self.seed, self.memory_gb = items, seed, memory_gb
        self.windows: dict[Split, Windows] = {}
        self.normalization: Normalization | None = None
        self._opened: dict[Split, tuple[Fields, int, int]] = {}

    def setup(self, stage: str) -> None:
        """Open the splits that a stage ("fit", "validate" or "test") needs, and measure or take the normalization.

        Raises:
            WavecastError: a split is missing, empty, or overlaps another, or the data are unsound.
        """
        stages: dict[str, list[Split]] = {"fit": ["train", "validation"], "validate": ["validation"]}
        needed = stages.get(stage, ["test"])
        if self.protocol == "openstl":
            needed = ["test" if split == "validation" else split for split in needed]
            logger.warning(
                "protocol openstl: validates on the test split and standardizes it by itself, as published; "
                "its scores compare with published ones alone"
            )
        opened = [split for split in needed if split not in self.windows]
        if self.given is None and "train" not in opened and self.normalization is None:
            opened.insert(0, "train")
        for split in opened:
            self._open(split)
        self._check_apart()
        if not opened:
            return
        channels = self.channels
        if self.normalization is None:
            self.normalization = self._measure("train") if self.given is None else None
        if self.normalization is None:
            self.normalization = Normalization.from_plain(self.given or {}, channels)
        statics = self._statics()
        loaded = [split for split in needed if split not in self.windows]
        in_memory = self._bytes(dict.fromkeys([*self.windows, *loaded])) <= self.memory_gb * GIGABYTE
        for split in loaded:
            self.windows[split] = self._windows(split, statics, in_memory)
            logger.info("%s: %d windows, %s memory", split, len(self.windows[split]), "in" if in_memory else "not in")

    def _open(self, split: Split) -> None:
        """Open the years of a split, and find its instants there."""
        if split in self._opened:
            return
        span = self.spans[split]
        if span is None:
            hint = f"give --data.{split} [FIRST, LAST], years or dates"
            raise WavecastError(
                f"there is no span of time to {'validate' if split == 'validation' else split} on", hint
            )
        fields = open_fields(
            self.path,
            self.variables,
            self.levels,
            (_year(span[0]), _year(span[1])),
            self.region,
            self.step,
            missing=self.missing,
            units=self.units,
            start=self.start,
            hours=self.hours,
        )
        first, stop = _instants(fields, span)
        if self.protocol == "openstl" and fields.stride == 1:  # thinned, the last instant is gone already
            stop -= 1
        self._opened[split] = fields, first, stop

    def _check_apart(self) -> None:
        """Check that no instant is in two splits, and that all splits are of one kind."""
        runs = []
        for split, (fields, first, stop) in self._opened.items():
            at = nanoseconds(fields.times[[first, stop - 1]])
            runs.append((int(at[0]), int(at[1]), split))
            kinds = [(one.channels, one.latitudes.shape, one.longitudes.shape) for one in (fields, self._any())]
            if kinds[0] != kinds[1]:
                raise WavecastError(
                    f"{self.path}: the {split} split has other variables or another grid", "open one set"
                )
        runs.sort()
        for (_, last, one), (begin, _, other) in pairwise(runs):
            if begin <= last:
                raise WavecastError(
                    f"{one} and {other} overlap in time", "windows of one must not hold instants of the other"
                )

    def _any(self) -> Fields:
        if not self._opened:
            raise ValueError("the data are not set up\nhint: call setup('fit') first")
        return next(iter(self._opened.values()))[0]

    @property
    def channels(self) -> list[str]:
        """What is forecast; the data must be set up."""
        return self._any().channels

    @property
    def input_channels(self) -> list[str]:
        """What goes in: the channels that are forecast, then the extras; the data must be set up."""
        return [*self.channels, *next(iter(self.windows.values())).extras.channels]

    def describe(self) -> dict[str, Any]:
        """Describe the data as plain values, for a checkpoint and its card; the data must be set up."""
        fields = self._any()
        if self.normalization is None:
            raise ValueError("the data are not set up\nhint: call setup('fit') first")
        extras = next(iter(self.windows.values())).extras
        return {
            "channels": self.channels,
            "input_channels": self.input_channels,
            "extras": list(self.extras),
            "normalization": {**self.normalization.plain(), **extras.normalization},
            "latitudes": fields.latitudes.tolist(),
            "longitudes": fields.longitudes.tolist(),
            "step_hours": fields.step / HOUR,
            "history": self.history,
            "horizon": self.horizon,
            "protocol": self.protocol,
        }

    def _measure(self, split: Split) -> Normalization:
        fields, first, stop = self._opened[split]
        return measure(fields.blocks(first, stop), fields.channels)

    def _statics(self) -> dict[str, np.ndarray]:
        """Read the constants among the extras: variables without time, or the first instant of others."""
        wanted = [name for name in self.extras if name not in ("hour", "day", "latitude", "longitude")]
        if not wanted:
            return {}
        fields, source = self._any(), self.constants or self.path
        asked = {*map(canonical, wanted)}
        units = {name: unit for name, unit in (self.units or {}).items() if canonical(name) in asked}
        with open_fields(
            source, wanted, region=self.region, units=units, start=self.start, hours=self.hours
        ) as constants:
            statics = {name: array.read(0, 1) for name, array in constants.arrays.items()}
            grids = [(one.latitudes.shape, one.longitudes.shape) for one in (constants, fields)]
            if grids[0] != grids[1] or not np.allclose(constants.latitudes, fields.latitudes, atol=1e-3):
                raise WavecastError(f"{source} is on another grid than {self.path}", "regrid it")
        return {name: static[0] if static.ndim == 3 else static for name, static in statics.items()}

    def _bytes(self, splits: dict[Split, None]) -> int:
        """Count the bytes of splits in memory."""
        total = 0
        for split in splits:
            fields, first, stop = self._opened[split]
            total += 4 * (stop - first) * len(fields.latitudes) * len(fields.longitudes) * len(fields.channels)
        return total

    def _windows(self, split: Split, statics: dict[str, np.ndarray], in_memory: bool) -> Windows:
        fields, first, stop = self._opened[split]
        normalization, count = self.normalization, None
        if self.protocol == "openstl":
            normalization = self._measure(split)
            count = stop - first - self.history - self.horizon
        if normalization is None:
            raise ValueError("the data are not set up\nhint: call setup('fit') first")
        extras = Extras(self.extras, fields.latitudes, fields.longitudes, statics, self.given)
        return Windows(
            fields,
            fields.channels,
            first,
            stop,
            self.history,
            self.horizon,
            normalization,
            extras,
            count,
            in_memory,
        )

    def train_dataloader(self) -> DataLoader[Item]:
        """Give shuffled windows that continue where the run stands."""
        windows = self._of("train")
        return self.onward(Shuffled(windows, self.seed), self.items or len(windows))

    def val_dataloader(self) -> DataLoader[Item]:
        """Give the validation windows in order, shared out over the processes; those of the test split for openstl."""
        windows = self._of("test" if self.protocol == "openstl" else "validation")
        return self.fixed(windows, len(windows))

    def test_dataloader(self) -> DataLoader[Item]:
        """Give the test windows in order, shared out over the processes."""
        windows = self._of("test")
        return self.fixed(windows, len(windows))

    def _of(self, split: Split) -> Windows:
        if split not in self.windows:
            raise ValueError(f"the {split} data are not set up\nhint: call setup('fit') or setup('test') first")
        return self.windows[split]


def _year(date: int | str) -> int:
    """Give the year of a year, date or time.

    Raises:
        WavecastError: it is none.
    """
    text = str(date)
    if not text[:4].isdigit():
        raise WavecastError(f"{date!r} is no year or date", "write 2015, 2015-03-01 or 2015-03-01T06")
    return int(text[:4])


def _instants(fields: Fields, span: Sequence[int | str]) -> tuple[int, int]:
    """Find the first instant of a span, and the one behind its last; a year or a date is whole.

    Raises:
        WavecastError: the span is no time, or the data have nothing in it.
    """
    try:
        found = fields.dataset.indexes["time"].slice_indexer(str(span[0]), str(span[1]))
    except (ValueError, KeyError, TypeError) as error:
        raise WavecastError(f"{span[0]} to {span[1]} is no span of time", "write 2015 or 2015-03-01T06") from error
    first, stop = found.start or 0, len(fields.times) if found.stop is None else found.stop
    if stop - first < 1:
        run = f"{show(fields.times[0])} to {show(fields.times[-1])}"
        raise WavecastError(f"{fields.where} has nothing from {span[0]} to {span[1]}", f"it runs from {run}")
    return first, stop
