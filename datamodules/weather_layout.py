"""The layout of a weather file: what turns canonical fields back into the file's own names, order and units."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from wavecast.datamodules.weather_axes import Axis
from wavecast.datamodules.weather_times import TimeAxis


@dataclass(frozen=True)
class OwnVariable:
    """How a file writes one variable.

    Attributes:
        name: in the file.
        dims: in the file's order, by canonical names; those of one step keep their own.
        scale: canonical = scale * own + offset.
        offset: see scale.
        dtype: in the file, after unpacking.
        attributes: in the file.
    """

    name: Hashable
    dims: tuple[Hashable, ...]
    scale: float
    offset: float
    dtype: np.dtype[Any]
    attributes: dict[str, Any]

    def restore(self, canonical: xr.DataArray) -> xr.DataArray:
        """Bring values back to the file's units, type and order of dimensions; new dimensions come behind time."""
        dtype = self.dtype if self.dtype.kind == "f" else np.dtype(np.float32)
        values = canonical
        if (self.scale, self.offset) != (1.0, 0.0):
            values = (canonical.astype(np.float64) - self.offset) / self.scale
        values = values.astype(dtype)
        dims: list[Hashable] = [dim for dim in self.dims if dim in values.dims]
        behind = dims.index("time") + 1 if "time" in dims else 0
        dims[behind:behind] = [dim for dim in values.dims if dim not in dims]
        restored = values.transpose(*dims)
        for place, dim in enumerate(self.dims):
            if dim not in ("time", "level", "latitude", "longitude"):
                restored = restored.expand_dims(dim, min(place, restored.ndim))
        restored = restored.rename(self.name)
        restored.attrs = dict(self.attributes)
        return restored


@dataclass(frozen=True)
class Layout:
    """What a file calls its variables and coordinates, and how it orders them.

    Attributes:
        latitude: the file's latitudes beside the canonical ones.
        longitude: its longitudes.
        level: its levels; None without any.
        time: how it writes times; None where nothing has one.
        variables: by canonical names.
        scalars: its coordinates of one value.
        attributes: of the whole file.
    """

    latitude: Axis
    longitude: Axis
    level: Axis | None
    time: TimeAxis | None
    variables: Mapping[str, OwnVariable]
    scalars: Mapping[Hashable, xr.Variable]
    attributes: Mapping[str, Any]

    @property
    def latitude_descends(self) -> bool:
        """Whether the file's first row is the northernmost."""
        return bool(self.latitude.own[0] > self.latitude.own[-1])

    @property
    def longitude_range(self) -> tuple[float, float]:
        """The file's least and greatest longitude: (0, 354.375), (-180, 174.375) ..."""
        return float(self.longitude.own.min()), float(self.longitude.own.max())

    @property
    def calendar(self) -> str | None:
        """The CF calendar of the file's times."""
        return self.time.calendar if self.time else None

    def restore(self, dataset: xr.Dataset) -> xr.Dataset:
        """Give fields the names, units, orientation and order of dimensions of the file they come from.

        Args:
            dataset: canonical fields on the file's grid or a part of it, with the file's variables or some of them.
                Dimensions that the file has not got (lead time, member) come behind time; unknown variables are left
                as they are.

        Returns:
            A data set that lies beside the file: the same calls select the same places.

        Raises:
            WavecastError: a place of the fields is not on the file's grid.
        """
        dataset = dataset.copy()
        names: dict[Hashable, Hashable] = {}
        for role, axis in (("latitude", self.latitude), ("longitude", self.longitude), ("level", self.level)):
            if axis is not None and role in dataset.dims:
                places = axis.places(dataset[role].values)
                order = np.argsort(places)
                own = xr.Variable((role,), axis.own[places[order]], axis.attributes)
                dataset = dataset.isel({role: order}).drop_vars(role).assign_coords({axis.name: own})
                names[role] = axis.dim
        if self.time is not None and self.time.dim is None and dataset.sizes.get("time") == 1:
            dataset = dataset.isel(time=0)
        if self.time is not None and "time" in dataset.coords:
            time = self.time.restore(dataset["time"].variable)
            dataset = dataset.drop_vars("time").assign_coords({self.time.name: time})
            names["time"] = self.time.name if self.time.dim is None else self.time.dim
        own_names = [self.variables[str(name)].name for name in dataset.data_vars if name in self.variables]
        arrays = {}
        for name, canonical in dataset.data_vars.items():
            own_variable = self.variables.get(str(name))
            if own_variable is None:
                arrays[name] = canonical
                continue
            unique = own_names.count(own_variable.name) == 1
            arrays[own_variable.name if unique else name] = own_variable.restore(canonical)
        restored = xr.Dataset(arrays, dataset.coords, {**self.attributes, **dataset.attrs})
        moved = {dim: own for dim, own in names.items() if dim != own and dim in restored.dims}
        restored = restored.swap_dims(moved)
        taken = {*restored.variables, *restored.dims}
        free = {name: value for name, value in self.scalars.items() if name not in taken or name in restored.dims}
        return restored.assign_coords(free)
