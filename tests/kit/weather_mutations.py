"""Damaged weather files: small NetCDF files and zarr stores whose metadata is mutated; case k is a function of k."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np

from wavecast.datamodules.atmosphere import synthetic_atmosphere, write_weatherbench2

ODD = (
    None,
    True,
    -1,
    0,
    1,
    3,
    7,
    2**31,
    2**40,
    2**63,
    1e300,
    -0.5,
    float("nan"),
    "",
    "x",
    "zlib",
    "int64",
    [],
    {},
    [-1],
)
TEXTS = (
    "",
    "x",
    "hours since",
    "hours since the flood",
    "hours since 0000-00-00",
    "fortnights since 1970-01-01",
    "days since 99999999-01-01",
    "seconds since 1970-01-01",
    "degrees_north",
    "degrees_east",
    "latitude",
    "time",
    "air_pressure",
    "martian",
    "360_day",
    "degC",
    "K",
)
ATTRIBUTES = ("units", "calendar", "standard_name", "_FillValue", "scale_factor", "add_offset", "axis", "missing_value")


def whole_files(folder: Path) -> dict[str, Path]:
    """Write one undamaged file of each kind."""
    fields = synthetic_atmosphere("2010-01-01", 6, 4, 8, variables=["t2m", "t"])
    files = {name: folder / name for name in ("netcdf3.nc", "netcdf4.nc", "zarr2", "zarr3")}
    fields.to_netcdf(files["netcdf3.nc"], engine="scipy")
    fields.to_netcdf(files["netcdf4.nc"], engine="h5netcdf")
    write_weatherbench2(fields, files["zarr2"], 2)
    write_weatherbench2(fields, files["zarr3"], 3)
    return files


def damage(whole: Path, place: Path, k: int) -> Path:
    """Write case k of a damaged file to `place`."""
    rng = np.random.default_rng([k, len(whole.name)])
    if whole.is_dir():
        return _damage_store(rng, whole, place)
    if whole.name == "netcdf3.nc" or k % 4 == 0:
        return _damage_bytes(rng, whole, place, everywhere=whole.name == "netcdf3.nc")
    return _damage_attributes(rng, whole, place)


def _damage_bytes(rng: np.random.Generator, whole: Path, place: Path, everywhere: bool) -> Path:
    """Cut the file off; or change some bytes of its header, where the reader is written in Python."""
    data = bytearray(whole.read_bytes())
    if not everywhere or rng.random() < 0.3:
        data = data[: rng.integers(len(data))]
    else:
        for _ in range(rng.integers(1, 5)):
            at = int(rng.integers(4, 1200))
            if rng.random() < 0.5:
                data[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)]))
            else:
                at -= at % 4
                data[at : at + 4] = int(rng.choice([0, 1, 6, 11, 12, 0x7FFFFFFF, 0xFFFFFFFF])).to_bytes(4, "big")
    place.write_bytes(data)
    return place


def _damage_attributes(rng: np.random.Generator, whole: Path, place: Path) -> Path:
    """Change or remove attributes, and put arrays of other sizes in the place of variables."""
    shutil.copy(whole, place)
    with h5py.File(place, "r+") as file:
        for _ in range(rng.integers(1, 4)):
            name = str(rng.choice(["time", "latitude", "longitude", "level", "2m_temperature", "temperature"]))
            choice = rng.random()
            if choice < 0.15 and name in file:
                del file[name]
            elif choice < 0.3:
                if name in file:
                    del file[name]
                shape = [(2**40,), (3,), (), (2**20, 2**20), (6, 4, 8), (6, 2**30, 8)][rng.integers(6)]
                file.create_dataset(name, shape, "f4", chunks=(1,) * len(shape) if shape else None)
            elif name in file:
                attribute = str(rng.choice(ATTRIBUTES))
                numbers = [np.nan, np.inf, 0.0, -1.0, 1e300, np.float32(0), np.arange(3.0)]
                value = TEXTS[rng.integers(len(TEXTS))] if rng.random() < 0.5 else numbers[rng.integers(len(numbers))]
                file[name].attrs[attribute] = value
    return place


def _damage_store(rng: np.random.Generator, whole: Path, place: Path) -> Path:
    """Change a few values in the metadata of a zarr store, remove files, or cut them off."""
    shutil.copytree(whole, place)
    if rng.random() < 0.7:
        (place / ".zmetadata").unlink(missing_ok=True)  # the files beside it count then
    files = sorted(path for path in place.rglob("*") if path.is_file())
    metadata = [path for path in files if path.name.startswith((".z", "zarr.json"))]
    if rng.random() < 0.2:
        victim = files[rng.integers(len(files))]
        if rng.random() < 0.5:
            victim.unlink()
        else:
            victim.write_bytes(victim.read_bytes()[: rng.integers(max(1, victim.stat().st_size))])
        return place
    victim = metadata[rng.integers(len(metadata))]
    tree = json.loads(victim.read_text())
    for _ in range(rng.integers(1, 3)):
        _mutate(rng, tree)
    victim.write_text(json.dumps(tree))
    return place


def _mutate(rng: np.random.Generator, tree: dict | list) -> None:
    """Replace, or remove, one value somewhere in a tree of JSON."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = keys[rng.integers(len(keys))]
        if isinstance(tree[key], dict | list) and rng.random() < 0.85:
            tree = tree[key]
            continue
        if rng.random() < 0.2:
            del tree[key]
        else:
            tree[key] = (*ODD, *TEXTS)[rng.integers(len(ODD) + len(TEXTS))]
        return
