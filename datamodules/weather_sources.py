"""Finding and opening the files of a weather data set: NetCDF, zarr, GRIB, a folder in WeatherBench 1's layout.

Files are opened lazily: nothing is read but what describes the data, and what they claim to hold is checked against
their size before a byte of it is taken into memory.
"""

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import xarray as xr

from wavecast.core.errors import WavecastError
from wavecast.datamodules.variables import Variable, known

MOST_FILES = 20_000
MOST_CHUNK_BYTES = 1 << 30  # of one chunk in a file, unpacked
CLAIMED_FREELY = 64 << 20  # bytes a variable may claim whatever the size of its file
MOST_PACKED = 2000  # times a variable may be larger than its file: no codec packs weather as tightly

RAW: dict[str, Any] = {
    "decode_times": False,
    "decode_timedelta": False,
    "cache": False,
    "create_default_indexes": False,
}
"""How xarray opens files here: nothing decoded that would read, no index built."""

Wanted = Sequence[tuple[Variable, int | None]]
_RESOLUTION = re.compile(r"\d+(\.\d+)?deg")
_YEAR = re.compile(r"_(\d{4})(?=[_.])")


@dataclass
class Sources:
    """The opened files of a data set.

    Attributes:
        groups: data sets that belong together along time; variables of different groups lie beside each other.
        others: names of folders of variables that nobody asked for and that were not opened.
    """

    groups: list[list[xr.Dataset]]
    others: list[str] = field(default_factory=list)

    def close(self) -> None:
        """Close the files."""
        for group in self.groups:
            for dataset in group:
                dataset.close()


def open_sources(path: Path, wanted: Wanted | None = None, years: tuple[int, int] | None = None) -> Sources:
    """Open a file or folder in any layout.

    Args:
        path: a NetCDF or GRIB file, a zarr store, or a folder of NetCDF files with a folder for each variable.
        wanted: variables (and levels) that will be read; None: all.
        years: first and last year that will be read; None: all.

    Raises:
        WavecastError: nothing is there, or it is no weather data that can be read here.
    """
    if not path.exists():
        hint = "give a NetCDF or GRIB file, a zarr store or a WeatherBench folder"
        raise WavecastError(f"{path} does not exist", hint)
    if not path.is_dir():
        return Sources([[dataset] for dataset in _open_file(path)])
    if any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata")):
        return Sources([[_open(path, "zarr", **({"consolidated": False} if _lacks_index(path) else {}))]])
    return _open_folder(path, wanted, years)


def sources_in_memory(dataset: xr.Dataset) -> Sources:
    """Give a data set in memory as if it had just been opened from a file: times as numbers, nothing decoded."""
    variables = {name: variable.to_base_variable() for name, variable in dataset.variables.items()}
    for name, variable in variables.items():
        if variable.dtype.kind in "mMO":
            variables[name] = xr.conventions.encode_cf_variable(variable, name=name)
    data = {name: variables[name] for name in dataset.data_vars}
    return Sources([[xr.Dataset(data, {name: variables[name] for name in dataset.coords}, dataset.attrs)]])


def _open_folder(path: Path, wanted: Wanted | None, years: tuple[int, int] | None) -> Sources:
    """Open a WeatherBench 1 folder: <path>/[5.625deg/]<variable>/<variable>_<year>_5.625deg.nc."""
    files = sorted(file for file in path.rglob("*.nc") if file.is_file())[: MOST_FILES + 1]
    if not files:
        raise WavecastError(f"{path} holds no NetCDF files and is no zarr store", "give a file, or the folder above it")
    if len(files) > MOST_FILES:
        raise WavecastError(f"{path} holds more than {MOST_FILES} NetCDF files", "give a folder with one data set")
    resolutions = sorted({part for file in files for part in file.parts if _RESOLUTION.fullmatch(part)})
    if len(resolutions) > 1 and not _RESOLUTION.fullmatch(path.name):
        raise WavecastError(f"{path} holds {' and '.join(resolutions)}", f"give one of them: {path / resolutions[0]}")
    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
    opened = {folder: inside for folder, inside in folders.items() if _relevant(folder.name, wanted)}
    groups: dict[tuple[Any, ...], list[xr.Dataset]] = {}
    try:
        for folder, inside in opened.items():
            for file in inside:
                if _within(file.name, years):
                    for dataset in _open_file(file):
                        groups.setdefault((folder, *sorted(map(str, dataset.data_vars))), []).append(dataset)
    except BaseException:
        Sources(list(groups.values())).close()
        raise
    if opened and not groups:
        found = sorted({year for inside in opened.values() for file in inside for year in _YEAR.findall(file.name)})
        raise WavecastError(f"{path} has no files of the years {years}", f"its files are of {found[0]} to {found[-1]}")
    return Sources(list(groups.values()), [folder.name for folder in folders if folder not in opened])


def _relevant(folder: str, wanted: Wanted | None) -> bool:
    """Tell whether a folder may hold something wanted; folders without a known name and constants always may."""
    found = known(folder)
    if wanted is None or found is None:
        return True
    variable, level = found
    return any(variable is one and (level is None or at in (None, level)) for one, at in wanted)


def _within(name: str, years: tuple[int, int] | None) -> bool:
    year = _YEAR.search(name)
    return years is None or year is None or years[0] <= int(year[1]) <= years[1]


def _open_file(path: Path) -> list[xr.Dataset]:
    """Open a file by what it begins with, whatever it is called: one data set, of GRIB maybe several."""
    try:
        with path.open("rb") as file:
            begin = file.read(8)
    except OSError as error:
        raise WavecastError(f"{path} cannot be read: {error.strerror}") from error
    if not begin:
        raise WavecastError(f"{path} is empty", "fetch it again")
    if begin.startswith(b"\x89HDF"):
        return [_open(path, "h5netcdf")]
    if begin.startswith((b"CDF\x01", b"CDF\x02")):
        return [_open(path, "scipy")]
    if begin.startswith(b"GRIB"):
        if find_spec("cfgrib") is None:
            hint = "pip install 'wavecast[grib]', or convert it to NetCDF"
            raise WavecastError(f"{path} is GRIB, which needs cfgrib", hint)
        return _open_grib(path)
    hint = "NetCDF (3 and 4), zarr folders and GRIB are read; unpack archives first"
    raise WavecastError(f"{path} is no weather field: it begins with {begin!r}", hint)


def _open_grib(path: Path) -> list[xr.Dataset]:
    """Open the variables of a GRIB file together, or each by itself where they do not go together: 2 m beside 10 m."""
    cfgrib: Any = import_module("cfgrib")
    options = {"indexpath": "", "errors": "raise"}  # it leaves out what it cannot place, with a word in the log
    try:
        return [_open(path, "cfgrib", backend_kwargs=options)]
    except WavecastError as error:
        if not isinstance(error.__cause__, cfgrib.DatasetBuildError):
            raise
    with _reading(path):
        found: list[xr.Dataset] = cfgrib.xarray_store.open_variable_datasets(str(path), options, **RAW)
    for dataset in found:
        check_claims(dataset, path)
    return found


def _open(path: Path, engine: str, **options: Any) -> xr.Dataset:
    """Open lazily: nothing decoded that would read, no index built."""
    with _reading(path):
        dataset = xr.open_dataset(path, engine=engine, **RAW, **options)
    try:
        check_claims(dataset, path)
    except BaseException:
        dataset.close()
        raise
    return dataset


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while opening into a clear error: damaged files make the readers raise everything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what xarray finds odd and reads nevertheless is checked below
            yield
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise WavecastError(f"{path} is damaged or no weather data: {reason[:200]}", "fetch it again") from error


def _lacks_index(path: Path) -> bool:
    """Tell whether a zarr store has no consolidated metadata, and must be listed instead."""
    if (path / ".zmetadata").is_file():
        return False
    try:
        return not json.loads((path / "zarr.json").read_bytes()).get("consolidated_metadata")
    except (OSError, ValueError, AttributeError):
        return True


def check_claims(dataset: xr.Dataset, path: Path) -> None:
    """Check what the variables claim to hold before anything is allocated for it.

    Raises:
        WavecastError: a variable claims far more than its file can hold, or its chunks do not fit in memory.
    """
    for name, variable in dataset.variables.items():
        chunk = variable.encoding.get("chunksizes") or variable.encoding.get("chunks") or ()
        chunk_bytes = variable.dtype.itemsize
        for size in chunk:
            chunk_bytes *= int(size)
        if chunk_bytes > MOST_CHUNK_BYTES:
            hint = f"rewrite it in chunks of at most {MOST_CHUNK_BYTES >> 20} MiB"
            raise WavecastError(f"{path}: one chunk of {name} claims {chunk_bytes:,} bytes", hint)
        claimed = variable.size * variable.dtype.itemsize
        if claimed > CLAIMED_FREELY and not _holds(path, claimed // MOST_PACKED):
            sizes = " x ".join(f"{dim} {size:,}" for dim, size in variable.sizes.items())
            raise WavecastError(
                f"{path} is damaged: {name} claims {claimed:,} bytes ({sizes}), far more than the file can hold",
                "fetch it again",
            )


def _holds(path: Path, least: int) -> bool:
    """Tell whether a file or store holds at least that many bytes; stops counting when it does."""
    total = 0
    for file in path.rglob("*") if path.is_dir() else [path]:
        total += file.stat().st_size
        if total >= least:
            return True
    return False
