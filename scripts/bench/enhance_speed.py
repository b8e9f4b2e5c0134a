"""Measure FRCRN beside the `clearvoice` package in one run: CPU seconds per second of audio, and peak memory.

    python scripts/bench/enhance_speed.py [--threads 1 2] [--seconds 10 60]

Makes an environment for clearvoice in the cache folder (it shares this one's torch). Both networks are filled by the
rule of the parity fixtures and must first agree; then each measurement is a process of its own. Then the windows of
30 s are set against one pass over the whole, in time, memory and result (with the fixtures' weights: the trained ones
would be heard differently). The result goes to `results/enhance_speed.json`.
"""

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
import types
import venv
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wavecast.apps.enhancement.frcrn_fast import FastFRCRN

HERE = Path(__file__).resolve().parent
PARITY = HERE.parents[1] / "tests" / "parity"
RESULT = HERE / "results" / "enhance_speed.json"
RATE = 16000
CLEARVOICE = "clearvoice==0.1.2"
TOLERANCE = 1e-5
LONG = 75
"""Seconds of the signal that windows and one pass are compared on."""
REPEATS = {10: 3}
"""Passes of which the fastest counts, by seconds of audio; one of other lengths."""


def main() -> None:
    """Check that the networks agree, measure all cases, write and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=int, nargs="+", default=[10, 60])
    parser.add_argument("--worker", nargs=4, metavar=("SYSTEM", "SECONDS", "THREADS", "OUTPUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        system, seconds, threads, output = options.worker
        worker(system, int(seconds), int(threads), Path(output))
        return

    from facts import facts

    pythons = {"clearvoice": clearvoice_python(), "wavecast": Path(sys.executable)}
    error = disagreement(pythons)
    print(f"largest difference {error:.1e} of the peak")
    if error > TOLERANCE:
        sys.exit(f"the networks disagree: {error:.1e} of the peak, at most {TOLERANCE:.0e} allowed")
    rows = []
    for threads in options.threads:
        for seconds in options.seconds:
            row = {"threads": threads, "seconds": seconds}
            for system, python in pythons.items():
                row[system] = measured(python, system, seconds, threads)
            row["times_less"] = row["clearvoice"]["cpu_per_second"] / row["wavecast"]["cpu_per_second"]
            rows.append(row)
            print(json.dumps(row))
    windows = {**facts(), **windows_against_whole(pythons["wavecast"])}
    result = {**facts(), "agreement": error, "rows": rows, "windows": windows}
    streaming = measured(pythons["wavecast"], "stream", 60, 1)
    if streaming:
        result["stream"] = streaming
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def clearvoice_python() -> Path:
    """Make the environment for clearvoice, once, and give its interpreter."""
    cache = Path(os.environ.get("WAVECAST_CACHE", Path.home() / ".cache" / "wavecast"))
    folder = cache / "bench" / "clearvoice"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", CLEARVOICE], check=True)
        (site,) = (folder / "lib").glob("python*/site-packages")
        (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (folder / "ready").touch()
    return python


def disagreement(pythons: dict[str, Path]) -> float:
    """Run both networks on 4 s and give their largest difference, relative to the peak; the bare edges left out."""
    outputs = []
    with tempfile.TemporaryDirectory() as folder:
        for system, python in pythons.items():
            path = Path(folder) / f"{system}.npy"
            measured(python, system, 4, 1, path)
            outputs.append(np.load(path)[RATE // 50 : -RATE // 50])
    reference, ours = outputs
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def windows_against_whole(python: Path) -> dict:
    """Enhance a long signal in windows and in one pass; the difference in dB of the whole's power."""
    outputs, rows = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for system in ("windows", "whole"):
            path = Path(folder) / f"{system}.npy"
            rows[system] = measured(python, system, LONG, 1, path)
            outputs.append(np.load(path))
    windows, whole = outputs
    difference = 10 * np.log10(np.square(windows - whole).mean() / np.square(whole).mean())
    return {"seconds": LONG, **rows, "difference_db": float(difference)}


def measured(
    python: Path, system: str, seconds: int, threads: int, output: Path = Path(os.devnull)
) -> dict[str, float]:
    """Measure one case in a process of its own; {} when it has nothing to measure."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [python, __file__, "--worker", system, str(seconds), str(threads), str(output)]
    run = subprocess.run([*map(str, command)], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout)


def worker(system: str, seconds: int, threads: int, output: Path) -> None:
    """Run one case and print its measurements as JSON."""
    import torch

    torch.set_num_threads(threads)
    sys.path.insert(0, str(PARITY))
    from seeded import seeded_signal

    networks = {
        "clearvoice": clearvoice_network,
        "wavecast": wavecast_network,
        "windows": windowed_network,
        "whole": whole_network,
        "stream": streaming_network,
    }
    network = networks[system]()
    if network is None:
        print("{}")
        return
    x = torch.from_numpy(seeded_signal(seconds * RATE))[None]
    with torch.inference_mode():
        network(x[:, : 2 * RATE])
        cpu, wall = [], []
        for _ in range(REPEATS.get(seconds, 1)):
            begun, clock = cpu_seconds(), time.perf_counter()
            y = network(x)
            cpu.append((cpu_seconds() - begun) / seconds)
            wall.append((time.perf_counter() - clock) / seconds)
    if output != Path(os.devnull):
        np.save(output, y.flatten().numpy())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"cpu_per_second": min(cpu), "wall_per_second": min(wall), "peak_gb": peak / 1e9}))


def cpu_seconds() -> float:
    """Sum the CPU time of this process so far, the kernel's included."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def seeded_weights() -> dict:
    """Fill the official names by the rule of the fixtures."""
    import torch
    from seeded import moderate_frcrn, seeded_state

    state = moderate_frcrn(seeded_state(PARITY / "frcrn_se_16k.json"))
    return {name: torch.from_numpy(value) for name, value in state.items()}


def clearvoice_network() -> Callable:
    """Build the package's network. Its parent packages and imports for plots and demos are left out by stubs."""
    (package,) = {path for entry in sys.path if (path := Path(entry) / "clearvoice" / "models").is_dir()}
    for name, folder in (
        ("clearvoice", package.parent),
        ("clearvoice.models", package),
        ("clearvoice.models.frcrn_se", package / "frcrn_se"),
    ):
        stub = types.ModuleType(name)
        stub.__path__ = [str(folder)]
        sys.modules[name] = stub
    sys.modules["librosa"] = types.ModuleType("librosa")
    module = importlib.import_module("clearvoice.models.frcrn_se.frcrn")
    network = module.FRCRN_SE_16K(Namespace(win_len=640, win_inc=320, fft_len=640, win_type="hanning")).model.eval()
    # Its aliases and window kernels are missing from the fixture; nothing may be unknown.
    unexpected = network.load_state_dict(seeded_weights(), strict=False).unexpected_keys
    if unexpected:
        sys.exit(f"clearvoice does not know {unexpected[:5]}")
    return network.inference


def fast_network() -> "FastFRCRN":
    """Build the inference form of ours."""
    from wavecast.apps.enhancement.frcrn import FRCRN
    from wavecast.apps.enhancement.frcrn_fast import FastFRCRN
    from wavecast.apps.enhancement.frcrn_official import convert_state

    network = FRCRN()
    network.load_state_dict(convert_state(seeded_weights()))
    return FastFRCRN(network.eval())


def wavecast_network() -> Callable:
    """Give the bare network, as clearvoice's is."""
    network = fast_network()
    return lambda x: network(x)[0]


def windowed_network(whole: bool = False) -> Callable:
    """Give what the command does with files."""
    import torch

    from wavecast.core.windows import Windows

    network = fast_network()
    windows = Windows(network, network.plan, whole=whole)

    def enhance(x: torch.Tensor) -> torch.Tensor:
        pieces = [piece for part in x.split(RATE, 1) for piece in windows.push(part)]
        return torch.cat([*pieces, *windows.flush()], 1)

    return enhance


def whole_network() -> Callable:
    """Give what the command does with `--whole`."""
    return windowed_network(whole=True)


def streaming_network() -> Callable | None:
    """Build the shipped streaming model as it runs live; None while there is none."""
    import torch

    from wavecast.cards import find_model, load_network
    from wavecast.core.errors import WavecastError
    from wavecast.core.recorded import Recorded
    from wavecast.core.stream import Stream

    try:
        card = find_model("frcrn.stream16k", "enhance")
    except WavecastError:
        return None
    network = Recorded(load_network(card))
    network.prepare(torch.zeros(1, card.block))

    def enhance(x: torch.Tensor) -> torch.Tensor:
        stream = Stream(network, card.block)
        pieces = [piece for part in x.split(card.block, 1) for piece in stream.push(part)]
        return torch.cat([*pieces, *stream.flush()], 1)

    return enhance


if __name__ == "__main__":
    main()
