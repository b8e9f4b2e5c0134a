"""`wavecast doctor`: check this installation, each line ok or with its cure."""

import argparse
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec

import wavecast
from wavecast.console import JsonReport, talk_arguments
from wavecast.core.errors import WavecastError

NEEDED = (
    *("torch", "torchaudio", "numpy", "scipy", "soundfile", "soxr", "av", "xarray", "zarr", "h5netcdf"),
    *("safetensors", "pytorch-lightning"),
)
OPTIONAL = {
    "matplotlib": "pip install 'wavecast[plot]' for --plot",
    "pesq": "pip install 'wavecast[metrics]' for PESQ",
    "pystoi": "pip install 'wavecast[metrics]' for STOI",
    "lhotse": "pip install 'wavecast[lhotse]' for lhotse manifests",
    "cfgrib": "pip install 'wavecast[grib]' for GRIB files",
    "tensorboard": "pip install 'wavecast[tensorboard]' for TensorBoard logs",
}
ROOM = 2 << 30  # bytes on the cache's disk below which fetching weights may fail


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: what was looked at.
        found: what it is.
        state: "ok", "note" (works, could be better) or "broken".
        cure: what to do, when it is not ok.
    """

    name: str
    found: str
    state: str = "ok"
    cure: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("--json", metavar="FILE|-", help="write the report as JSON, one object a line")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    talk_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check all: 0 when nothing is broken."""
    report = JsonReport(args.json, args.overwrite)
    broken = False
    for group in (versions, optional_packages, compiled_code, devices, threads, codecs, disk, models):
        for check in _guarded(group):
            broken |= check.state == "broken"
            report.add(asdict(check))
            if args.json != "-":
                cure = f"\n{'':8}hint: {check.cure}" if check.cure else ""
                print(f"{check.state:8}{check.name:24}{check.found}{cure}")
    report.close()
    return 1 if broken else 0


def _guarded(group: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from group()
    except (ImportError, OSError) as error:
        yield Check(group.__name__, f"{type(error).__name__}: {error}", "broken", "install the package again")


def versions() -> Iterator[Check]:
    """Python, the suite, and what it needs."""
    yield Check("python", platform.python_version())
    yield Check("wavecast", wavecast.__version__)
    for name in NEEDED:
        try:
            yield Check(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check(name, "missing", "broken", f"pip install {name}")


def optional_packages() -> Iterator[Check]:
    """What some options need."""
    for name, cure in OPTIONAL.items():
        there = find_spec(name) is not None
        yield Check(
            name, metadata.version(name) if there else "not installed", "ok" if there else "note", "" if there else cure
        )


def compiled_code() -> Iterator[Check]:
    """What installing compiles where it can."""
    from wavecast.core.ops.scan.cpu import compiled

    if compiled() is not None:
        yield Check("scan in C", "built")
    else:
        cure = "with a C compiler and Python's headers, install again: pip install --force-reinstall --no-deps wavecast"
        yield Check("scan in C", "not built: plain torch computes, 2 to 4 times slower", "note", cure)


def devices() -> Iterator[Check]:
    """Processor and accelerators."""
    import torch

    yield Check("processor", f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}")
    count = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(count))
    yield Check("cuda", names or "none: the processor is used")


def threads() -> Iterator[Check]:
    """How many threads compute, and how idle ones wait."""
    import torch

    yield Check("threads", f"{torch.get_num_threads()} (--threads N changes it)")
    policy = os.environ.get("OMP_WAIT_POLICY", "")
    if policy.upper() == "PASSIVE":
        yield Check("OMP_WAIT_POLICY", policy)
    else:
        cure = "export OMP_WAIT_POLICY=PASSIVE where cores are shared: spinning threads slow each other down"
        yield Check("OMP_WAIT_POLICY", policy or "not set", "note", cure)


def codecs() -> Iterator[Check]:
    """What can be read and written."""
    import soundfile

    formats = soundfile.available_formats()
    missing = [name for name in ("WAV", "FLAC", "OGG", "MP3") if name not in formats]
    yield Check("libsndfile", soundfile.__libsndfile_version__)
    cure = "pip install --upgrade soundfile"
    yield Check("formats", f"{len(formats)} containers", "note" if missing else "ok", cure if missing else "")
    import av

    wanted = {"aac", "opus", "vorbis", "mp3"}
    lacking = sorted(wanted - av.codecs_available)
    yield Check("ffmpeg (PyAV)", ".".join(map(str, av.library_versions["libavcodec"])))
    if lacking:
        yield Check("ffmpeg codecs", f"without {', '.join(lacking)}", "note", "pip install --upgrade av")


def disk() -> Iterator[Check]:
    """Where fetched weights go."""
    from wavecast.cards import cache_folder

    folder = cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        yield Check("cache", f"{folder}: not writable", "note", "export WAVECAST_CACHE=a folder of yours")
    elif free < ROOM:
        yield Check("cache", f"{folder}: {free >> 20} MiB free", "note", "make room, or export WAVECAST_CACHE")
    else:
        yield Check("cache", f"{folder}: {free >> 30} GiB free")


def models() -> Iterator[Check]:
    """Whether the weights that ship and those that were fetched are whole."""
    from wavecast.cards import known_cards, sha256

    for card in known_cards():
        try:
            whole = card.file.exists() and sha256(card.file) == card.weights["sha256"]
        except (WavecastError, KeyError):
            whole = False
        cure = "" if whole else "install the package again, or fetch it: wavecast models pull"
        yield Check(card.name, "whole" if whole else "damaged or missing", "ok" if whole else "broken", cure)
