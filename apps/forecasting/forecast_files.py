"""Forecast files: written step by step in bounded memory, resumable after a kill, readable by WeatherBench tools.

    with ForecastWriter("run.zarr", like=history, initial_times=times, leads=leads, about=about) as writer:
        for k in writer.remaining():
            for fields in model.steps(times[k]):        # {"2m_temperature": (steps, latitude, longitude), ...}
                writer.append(k, fields)
        writer.finish()

While it grows a forecast lies in `run.zarr.partial/`: `forecast.zarr` with all metadata, an empty file `done/000012`
for every finished initial time, and locks that end with the process that holds them. `finish` renames the store to
`run.zarr`, or turns it into `run.nc` or `run.grib` first; under the final name there is a whole forecast or nothing. An
initial time that was cut off is written again from its beginning, so a resumed file equals an uninterrupted one byte
for byte.

Several processes may write one forecast: one holds the `ForecastWriter`, the others take initial times of their own by
`ForecastPart("run.zarr")`. A chunk of the file belongs to one initial time, so they never meet.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import h5netcdf
import numpy as np
import xarray as xr
import zarr

from wavecast.apps.forecasting.forecast_layout import ORDER, About, open_forecast, same_plan, template
from wavecast.apps.forecasting.grib import GRIB_SUFFIXES, check_grib, to_grib
from wavecast.core.errors import WavecastError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STORE = "forecast.zarr"


class ForecastPart:
    """One process's share of a forecast that a `ForecastWriter` keeps open, maybe in another process.

    Args:
        path: of the finished file, such as `run.zarr`.

    Raises:
        WavecastError: no writer keeps such a forecast open.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.folder = partial_folder(self.path)
        if not (self.folder / STORE).is_dir() or not Lock.is_held(self.folder / "lock"):
            raise WavecastError(
                f"no process is writing {self.path}",
                "open a ForecastWriter first, and keep it open until all parts are done",
            )
        self._open()

    def _open(self) -> None:
        """Open the unfinished store."""
        self.group = zarr.open_group(self.folder / STORE, mode="r+", zarr_format=2)
        self.plan = xr.open_zarr(self.folder / STORE, chunks=None)
        self.initial_times, self.leads = self.plan.time.values, self.plan.prediction_timedelta.values
        self.names = [str(name) for name in self.plan.data_vars]
        self.chunk = self.group[self.names[0]].chunks[1]
        self.buffers: dict[int, dict[str, np.ndarray]] = {}
        self.positions: dict[int, int] = {}
        self.claims: dict[int, Lock] = {}

    def remaining(self) -> list[int]:
        """List the initial times that are not done, by their places in `initial_times`."""
        done = {int(flag.name) for flag in (self.folder / "done").iterdir()}
        return [k for k in range(len(self.initial_times)) if k not in done]

    def append(self, k: int, fields: Mapping[str, np.ndarray]) -> None:
        """Write the next lead times of one initial time; those of several may come in turn.

        Args:
            k: place of the initial time.
            fields: for each variable (steps, [number], [level], latitude, longitude), in SI units.

        Raises:
            WavecastError: another process writes this initial time, it is done already, or the disk is full.
            ValueError: variables or shapes are not those of the forecast.
        """
        steps = self._check(k, fields)
        with room_for(self.path):
            if k not in self.claims:
                self._begin(k)
            for step in range(steps):
                position = self.positions[k]
                for name, buffer in self.buffers[k].items():
                    buffer[position % self.chunk] = fields[name][step]
                self.positions[k] = position + 1
                if self.positions[k] % self.chunk == 0 or self.positions[k] == len(self.leads):
                    self._write(k)
            if self.positions[k] == len(self.leads):
                self._end(k)

    def close(self) -> None:
        """Leave; what is not done begins anew when the forecast is resumed."""
        for claim in self.claims.values():
            claim.release()
        self.claims.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, k: int, fields: Mapping[str, np.ndarray]) -> int:
        """Compare with the plan; give the number of steps."""
        if set(fields) != set(self.names):
            raise ValueError(f"the fields are {sorted(fields)}\nhint: the forecast has {sorted(self.names)}")
        steps = len(fields[self.names[0]])
        for name in self.names:
            expected = (steps, *self.plan[name].shape[2:])
            if fields[name].shape != expected:
                dims = ", ".join(("steps", *map(str, self.plan[name].dims[2:])))
                raise ValueError(f"{name} is {fields[name].shape}, expected {expected}\nhint: these are ({dims})")
        left = len(self.leads) - self.positions.get(k, 0)
        if not 0 <= k < len(self.initial_times) or steps > left:
            raise ValueError(
                f"{steps} steps of initial time {k} are too many: {left} are left\n"
                f"hint: there are {len(self.initial_times)} initial times of {len(self.leads)} lead times"
            )
        return steps

    def _begin(self, k: int) -> None:
        """Claim an initial time for this process."""
        claim = Lock(self.folder / "claims" / f"{k:06d}", f"initial time {k} of {self.path}")
        if (self.folder / "done" / f"{k:06d}").exists():
            claim.release()
            raise WavecastError(
                f"initial time {k} of {self.path} is done already", "write those that remaining() lists"
            )
        self.claims[k], self.positions[k] = claim, 0
        shapes = {name: (self.chunk, *self.plan[name].shape[2:]) for name in self.names}
        self.buffers[k] = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}

    def _write(self, k: int) -> None:
        """Write the chunk that the buffer holds."""
        stop = self.positions[k]
        start = (stop - 1) // self.chunk * self.chunk
        for name, buffer in self.buffers[k].items():
            self.group[name][k, start:stop] = buffer[: stop - start]

    def _end(self, k: int) -> None:
        """Flag an initial time as done."""
        (self.folder / "done" / f"{k:06d}").touch()
        self.claims.pop(k).release()
        del self.buffers[k], self.positions[k]


class ForecastWriter(ForecastPart):
    """Begin or resume a forecast file, write to it, and finish it. One process at a time holds the writer.

    Args:
        path: NAME.zarr, NAME.nc or NAME.grib.
        like: data set with the variables ([level], latitude, longitude), such as the fields the forecast starts from;
            its times and values are not used.
        initial_times: datetime64 (time,).
        leads: timedelta64 (prediction_timedelta,).
        about: where the forecast comes from.
        members: of an ensemble; 0 without the dimension `number`.
        resume: go on with an unfinished forecast of the same plan; with none, begin; with a finished one, do nothing.
        overwrite: replace a finished file at the end, and without `resume` discard an unfinished one now.

    Raises:
        WavecastError: the file exists, an unfinished one exists or has another plan, another process writes it, the
            name or the folder is wrong, or the disk is full.
    """

    def __init__(
        self,
        path: str | Path,
        like: xr.Dataset,
        initial_times: np.ndarray,
        leads: np.ndarray,
        about: About,
        members: int = 0,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path, self.overwrite = Path(path), overwrite
        self.folder = partial_folder(self.path)
        wanted = template(like, initial_times, leads, members, about)
        if is_grib(self.path):
            check_grib(self.path, wanted)
        if not self.path.absolute().parent.is_dir():
            raise WavecastError(f"the folder {self.path.absolute().parent} does not exist", "make it first")
        self.finished = self.path.exists() and not overwrite
        if self.finished and not resume:
            raise WavecastError(f"{self.path} exists", "give overwrite (--overwrite) to replace it, or another name")
        if self.finished and is_grib(self.path):
            raise WavecastError(
                f"{self.path} exists, and GRIB does not tell of which model it is", "give overwrite (--overwrite)"
            )
        if self.finished:
            with open_forecast(self.path) as existing:
                same_plan(self.path, existing, wanted)
        with room_for(self.path):
            begun = self.folder.exists()
            self.folder.mkdir(exist_ok=True)
            self.lock = Lock(self.folder / "lock", str(self.path))
            try:
                if self.finished:
                    self._tidy()
                    return
                self._prepare(wanted, begun, resume)
                self._open()
            except BaseException:
                self.lock.release()
                raise

    def _prepare(self, wanted: xr.Dataset, begun: bool, resume: bool) -> None:
        """Make the unfinished store, or see that it is the one that is wanted."""
        store = self.folder / STORE
        if store.exists() and resume:
            with xr.open_zarr(store, chunks=None) as existing:
                same_plan(self.path, existing, wanted)
            return
        if store.exists() and not self.overwrite:
            done, total = len(list((self.folder / "done").iterdir())), wanted.sizes["time"]
            raise WavecastError(
                f"{self.folder} is there, with {done} of {total} initial times done",
                "give resume (--resume) to go on with it, or overwrite (--overwrite) to begin anew",
            )
        if begun:
            for claim in sorted((self.folder / "claims").glob("*")):
                Lock(claim, f"{claim.name} of {self.path}").release()
            for old in (STORE, "new.zarr", "done", "claims"):
                shutil.rmtree(self.folder / old, ignore_errors=True)
        for flags in ("done", "claims"):
            (self.folder / flags).mkdir()
        wanted.to_zarr(self.folder / "new.zarr", compute=False, zarr_format=2, consolidated=True)
        (self.folder / "new.zarr").rename(store)

    def remaining(self) -> list[int]:
        """List the initial times that are not done, by their places in `initial_times`."""
        return [] if self.finished else super().remaining()

    def finish(self) -> Path:
        """Bring the forecast to its final name.

        Returns:
            The path of the finished file.

        Raises:
            WavecastError: initial times are missing, or the disk is full.
        """
        if self.finished:
            return self.path
        left = self.remaining()
        if left:
            raise WavecastError(
                f"{len(left)} of {len(self.initial_times)} initial times are not done, the first is "
                f"{self.initial_times[left[0]].astype('datetime64[m]')}",
                "write them, or resume (--resume) later",
            )
        whole = self.folder / STORE
        with room_for(self.path):
            for stray in whole.glob("*/*.partial"):  # of zarr, when a process was killed
                stray.unlink()
            if self.path.suffix == ".nc":
                whole = self.folder / "forecast.nc"
                to_netcdf(self.folder / STORE, whole)
            elif is_grib(self.path):
                whole = self.folder / "forecast.grib"
                to_grib(self.folder / STORE, whole)
            if self.path.is_dir() and not self.path.is_symlink():
                shutil.rmtree(self.folder / "old", ignore_errors=True)
                self.path.rename(self.folder / "old")
            whole.replace(self.path)
        self.finished = True
        self._tidy()
        return self.path

    def close(self) -> None:
        """Leave; a forecast that is not finished can be resumed."""
        if hasattr(self, "claims"):
            super().close()
        self.lock.release()

    def _tidy(self) -> None:
        """Remove the folder of the unfinished forecast; the lock goes last."""
        if (self.folder / STORE).exists():  # so that no half-removed store is ever taken for an unfinished one
            (self.folder / STORE).rename(self.folder / "written.zarr")
        for entry in self.folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()
        shutil.rmtree(self.folder)
        self.lock.release()


def write_forecast(
    path: str | Path, forecast: xr.Dataset, about: About, resume: bool = False, overwrite: bool = False
) -> Path:
    """Write a forecast that is at hand, one initial time after the other.

    Args:
        path: NAME.zarr, NAME.nc or NAME.grib.
        forecast: dims (time, prediction_timedelta, [number], [level], latitude, longitude), in memory or lazy.
        about: where it comes from.
        resume: as of `ForecastWriter`.
        overwrite: as of `ForecastWriter`.
    """
    like = forecast.isel(time=0, prediction_timedelta=0, drop=True)
    members = forecast.sizes.get("number", 0)
    like = like.isel(number=0, drop=True) if members else like
    times, leads = forecast.time.values, forecast.prediction_timedelta.values
    with ForecastWriter(path, like, times, leads, about, members, resume, overwrite) as writer:
        for k in writer.remaining():
            dims = [dim for dim in ORDER if dim != "time"]
            one = forecast.isel(time=k).transpose(*dims, missing_dims="ignore")
            writer.append(k, {name: one[name].values for name in writer.names})
        return writer.finish()


def to_netcdf(store: Path, path: Path) -> None:
    """Turn a Zarr store into a NetCDF-4 file, one initial time after the other; the same store gives the same bytes.

    Raises:
        OSError: there is no room for it, uncompressed; HDF5 itself may crash on a disk that is full.
    """
    with xr.open_zarr(store, chunks=None, decode_cf=False) as raw:
        reserve(path, raw.nbytes)
        with h5netcdf.File(path, "w") as file:
            file.dimensions = dict(raw.sizes)
            file.attrs.update(raw.attrs)
            for name, variable in raw.variables.items():
                attributes = dict(variable.attrs)
                packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
                packed["chunks"] = variable.encoding["chunks"]
                made = file.create_variable(
                    name,
                    variable.dims,
                    variable.dtype,
                    fillvalue=attributes.pop("_FillValue", None),
                    **(packed if variable.ndim > 2 else {}),
                )
                made.attrs.update(attributes)
                for k in range(variable.shape[0]):
                    made[k] = variable[k].values


def reserve(path: Path, size: int) -> None:
    """See that a file of this size could be written.

    Raises:
        OSError: it could not.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS: quotas and limits on the size of files go unseen
        if shutil.disk_usage(path.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        finally:
            file.truncate(0)


def is_grib(path: Path) -> bool:
    """Tell by its suffix whether a file is to be GRIB."""
    return path.suffix.lower() in GRIB_SUFFIXES


def partial_folder(path: Path) -> Path:
    """Name the folder of an unfinished forecast.

    Raises:
        WavecastError: the name is of no forecast file.
    """
    if path.suffix not in (".zarr", ".nc") and not is_grib(path):
        raise WavecastError(f"{path} is no name of a forecast file", "call it NAME.zarr, NAME.nc or NAME.grib")
    return path.with_name(f"{path.name}.partial")


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Turn a full disk into a clear error.

    Raises:
        WavecastError: there is no room left, or files may not become that large.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise WavecastError(
            f"{path} cannot be written: {os.strerror(error.errno or 0)}",
            f"make room and go on with resume (--resume); what is done lies in {partial_folder(path)}",
        ) from error


class Lock:
    """A lock on a file, which says who holds it. It ends with the process, however that ends.

    Args:
        path: of the lock.
        what: is locked, for the message.

    Raises:
        WavecastError: another process, or another object of this one, holds it.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        while True:
            self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(self.file).st_nlink:  # the holder before may have removed it in between
                    break
            except BlockingIOError:
                holder = os.pread(self.file, 32, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(self.file)
                message = f"{what} is being written by another process (PID {holder})"
                raise WavecastError(message, "wait for it, or stop it and resume (--resume)") from None
            os.close(self.file)
        os.ftruncate(self.file, 0)
        os.pwrite(self.file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others have it."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    @staticmethod
    def is_held(path: Path) -> bool:
        """Tell whether anyone holds it."""
        try:
            Lock(path, "").release()
        except (WavecastError, FileNotFoundError) as error:
            return isinstance(error, WavecastError)
        return False
