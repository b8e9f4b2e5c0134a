"""Measure MossFormer2 beside the `clearvoice` package in one run: CPU seconds per second of audio, and peak memory.

    python scripts/bench/separate_speed.py [--threads 1 2] [--seconds 2 10] [--networks separate enhance48]

Makes an environment for clearvoice in the cache folder (it shares this one's torch). Both networks are of full size,
filled by the rule of the parity fixtures, and must agree; each measurement is a process of its own. Beside them stand
the plain form that trains, and the floor: the products of the separator at the speed of one large product.
The result goes to `results/separate_speed.json`.
"""

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import types
from argparse import Namespace
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from enhance_speed import PARITY, clearvoice_python, cpu_seconds

if TYPE_CHECKING:
    import torch

RESULT = Path(__file__).resolve().parent / "results" / "separate_speed.json"
NEEDS = ("rotary_embedding_torch==0.8.3", "torchinfo==1.8.0")
"""What clearvoice's MossFormer2 imports beside torch and einops."""
RATES = {"separate": 16_000, "enhance48": 48_000}
TOLERANCE = 1e-4
"""Of the peak: 24 layers of random weights in single precision are that far from double precision after 10 s."""
GIGAFLOPS = 331.0
"""Billion operations to a second of audio at 16 kHz: the specification's count, convolutions included."""
REPEATS = {2: 2}
"""Passes of which the fastest counts, by seconds of audio; one of other lengths."""


def main() -> None:
    """Check that the networks agree, measure all cases, write and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--networks", nargs="+", default=list(RATES), choices=list(RATES))
    parser.add_argument("--worker", nargs=5, metavar="WORD", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        system, network, seconds, threads, output = options.worker
        worker(system, network, int(seconds), int(threads), Path(output))
        return

    from facts import facts

    pythons = {"clearvoice": peer_python(), "wavecast": Path(sys.executable), "plain": Path(sys.executable)}
    result: dict[str, Any] = {**facts(), "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        for network, threads, seconds in product(options.networks, options.threads, options.seconds):
            row: dict[str, Any] = {"network": network, "threads": threads, "seconds": seconds}
            outputs = {system: Path(folder) / f"{system}.npy" for system in pythons}
            for system, python in pythons.items():
                row[system] = measured(python, system, network, seconds, threads, outputs[system])
            row["difference"] = difference(outputs["wavecast"], outputs["clearvoice"])
            if row["difference"] > TOLERANCE:
                sys.exit(f"the networks disagree by {row['difference']:.1e} of the peak, allowed is {TOLERANCE:.0e}")
            row["times_less"] = row["clearvoice"]["cpu_per_second"] / row["wavecast"]["cpu_per_second"]
            result["rows"].append(row)
            print(json.dumps(row), flush=True)
    result["floor"] = measured(pythons["wavecast"], "floor", "separate", 1, 1, Path(os.devnull))
    print(json.dumps(result["floor"]))
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def peer_python() -> Path:
    """Make the environment for clearvoice, once, and give its interpreter."""
    python = clearvoice_python()
    marker = python.parents[1] / "ready for MossFormer2"
    if not marker.exists():
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *NEEDS], check=True)
        marker.touch()
    return python


def difference(ours: Path, reference: Path) -> float:
    """Compare two outputs: the largest difference, relative to the peak."""
    expected = np.load(reference)
    return float(np.abs(np.load(ours) - expected).max() / np.abs(expected).max())


def measured(python: Path, system: str, network: str, seconds: int, threads: int, output: Path) -> dict[str, float]:
    """Measure one case in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    words = [python, __file__, "--worker", system, network, seconds, threads, output]
    run = subprocess.run([*map(str, words)], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout)


def worker(system: str, network: str, seconds: int, threads: int, output: Path) -> None:
    """Run one case and print its measurements as JSON."""
    import torch

    torch.set_num_threads(threads)
    sys.path.insert(0, str(PARITY))
    from seeded import seeded_signal

    if system == "floor":
        print(json.dumps(floor()))
        return
    builders = {
        ("clearvoice", "separate"): clearvoice_separator,
        ("clearvoice", "enhance48"): clearvoice_mask,
        ("wavecast", "separate"): fast_separator,
        ("wavecast", "enhance48"): fast_mask,
        ("plain", "separate"): plain_separator,
        ("plain", "enhance48"): plain_mask,
    }
    function = builders[system, network]()
    x = torch.from_numpy(seeded_signal(seconds * RATES[network]))[None]
    if network == "enhance48":
        x = features(seconds)
    with torch.inference_mode():
        function(x[:, : x.shape[1] // seconds])
        cpu, wall = [], []
        for _ in range(REPEATS.get(seconds, 1)):
            begun, clock = cpu_seconds(), time.perf_counter()
            y = function(x)
            cpu.append((cpu_seconds() - begun) / seconds)
            wall.append((time.perf_counter() - clock) / seconds)
    np.save(output, y.numpy())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"cpu_per_second": min(cpu), "wall_per_second": min(wall), "peak_gb": peak / 1e9}))


def floor() -> dict[str, float]:
    """Measure what a large matrix product reaches, and what all operations of the separator would take at that."""
    import torch

    x, weight, times = torch.randn(4000, 512), torch.randn(2048, 512), []
    with torch.inference_mode():
        for _ in range(10):
            begun = cpu_seconds()
            torch.nn.functional.linear(x, weight)
            times.append(cpu_seconds() - begun)
    speed = 2e-9 * 4000 * 512 * 2048 / min(times)
    return {"gigaflops": speed, "cpu_per_second": GIGAFLOPS / speed}


def seeded(shapes: "dict[str, tuple[int, ...]]") -> "dict[str, torch.Tensor]":
    """Fill official names by the rule of the fixtures; tables of positions are left out."""
    import torch
    from seeded import seeded_tensor

    names = [name for name in shapes if not name.endswith(("freqs", "inv_freq"))]
    return {name: torch.from_numpy(seeded_tensor(name, tuple(shapes[name]), "float32")) for name in names}


def package(name: str) -> types.ModuleType:
    """Import a network of clearvoice without its parent packages, which import all networks and their demos."""
    (folder,) = {path for entry in sys.path if (path := Path(entry) / "clearvoice" / "models").is_dir()}
    for parent, path in (("clearvoice", folder.parent), ("clearvoice.models", folder)):
        sys.modules[parent] = stub = types.ModuleType(parent)
        stub.__path__ = [str(path)]
    return importlib.import_module(f"clearvoice.models.{name}")


def filled(network: Any) -> Any:
    """Fill a network of clearvoice, whose own names are the official ones."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    network.load_state_dict(seeded(shapes), strict=False)
    return network.eval()


def clearvoice_separator() -> Callable:
    """Build the package's separator: (batch, samples) to (samples, speakers)."""
    import torch

    sizes = Namespace(
        encoder_embedding_dim=512,
        mossformer_sequence_dim=512,
        num_mossformer_layer=24,
        encoder_kernel_size=16,
        num_spks=2,
    )
    network = filled(package("mossformer2_ss.mossformer2").MossFormer2_SS_16K(sizes).model)
    return lambda x: torch.stack(network(x), 2)[0]


def clearvoice_mask() -> Callable:
    """Build the package's mask network at 48 kHz: features (batch, frames, 180) to the mask (frames, 961)."""
    network = filled(package("mossformer2_se.mossformer2_se_wrapper").MossFormer2_SE_48K(Namespace()).model)
    return lambda x: network(x)[0][0]


def features(seconds: int) -> "torch.Tensor":
    """Draw the features of some seconds at 48 kHz: (1, frames, 180)."""
    import torch

    draw = np.random.default_rng([48, seconds])
    return torch.from_numpy(draw.standard_normal((1, 125 * seconds, 180)).astype("f4"))


def plain_separator() -> Callable:
    """Build our separator in the form that trains."""
    network = our_separator()
    return lambda x: network(x)[0][0]


def fast_separator() -> Callable:
    """Build our separator in the form for inference."""
    from wavecast.apps.separation.mossformer2_fast import FastMossFormer2

    network = FastMossFormer2(our_separator())
    return lambda x: network(x)[0][0]


def our_separator() -> Any:
    """Build our separator with the same weights."""
    from wavecast.apps.separation.mossformer2 import MossFormer2
    from wavecast.apps.separation.mossformer2_official import convert_state, official_shapes

    network = MossFormer2()
    network.load_state_dict(convert_state(seeded(official_shapes(2, 24))))
    return network.eval()


def plain_mask() -> Callable:
    """Build our mask network at 48 kHz in the form that trains."""
    network = our_mask()
    return lambda x: network(x)[0][0, ..., 0]


def fast_mask() -> Callable:
    """Build our mask network at 48 kHz in the form for inference."""
    from wavecast.core.mossformer_fast import FastMossFormer

    network = FastMossFormer(our_mask())
    return lambda x: network(x)[0][0, ..., 0]


def our_mask() -> Any:
    """Build our mask network at 48 kHz with the same weights, without the half that clearvoice computes for nothing."""
    from wavecast.apps.separation.mossformer2_official import mask_names, official_shape
    from wavecast.core.mossformer import MossFormer

    network = MossFormer(180, 961, speakers=1, memory="plain").eval()
    names = mask_names("", "mossformer.", 24, "plain")
    ours = network.state_dict()
    shapes = {theirs: official_shape(theirs, tuple(ours[name].shape)) for name, theirs in names.items()}
    shapes["mossformer.conv1d_out.weight"], shapes["mossformer.conv1d_out.bias"] = (1024, 512, 1), (1024,)
    tensors = seeded(shapes)
    state = {name: tensors[theirs] for name, theirs in names.items()}
    network.load_state_dict(
        {name: tensor[: len(ours[name])].reshape(ours[name].shape) for name, tensor in state.items()}
    )
    return network


if __name__ == "__main__":
    main()
