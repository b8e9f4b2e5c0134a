"""Speed and memory of the published Moving-MNIST ConvS5, beside a plain torch version of its formulas.

    python scripts/bench/convs5_speed.py [--frames 10 100] [--threads 1] [--repeats 3]

The plain version is what one writes from the paper: batch, channel, row, col in memory, the complex convolutions as two
real ones each, a Python loop for the recurrence, every intermediate kept. Both have the same weights and the same
input, one film of 64 by 64 pixels; outputs and gradients are compared first, and a mismatch ends the run. Time is
processor time of the best repeat, the versions in turn; memory is the peak that one call adds in a process of its own.
Results: `results/convs5_speed.json`.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from facts import facts
from timing import peak_mib
from torch import Tensor
from torch.nn import functional

from wavecast.apps.forecasting.convs5 import DEPTHS, RESIDUAL_SCALE, ConvS5

HERE = Path(__file__).resolve().parent
LAYERS = 8
Weights = dict[str, Tensor]


def plain(w: Weights, frames: Tensor) -> Tensor:
    """Forecast as the formulas say: (1, time, row, col, 1) to the same."""
    x = frames[0].permute(0, 3, 1, 2)
    x = convolve(w, "encoder.function.convolution", x)
    for i in range(len(DEPTHS)):
        x = residual_block(w, f"encoder.function.levels.{i}.0", functional.avg_pool2d(x, 2) if i else x)
    action = w["entry.function.actions.weight"][0].expand(len(x), 1, *x.shape[2:])
    weight = w["entry.function.linear.weight"][:, :, None, None]
    x = functional.conv2d(torch.cat([x, action], 1), weight, w["entry.function.linear.bias"])
    for i in range(LAYERS):
        x = layer(w, f"sequence.{i}", x)
    x = convolve(w, "decoder.function.convolution", x)
    for i in range(len(DEPTHS)):
        x = residual_block(w, f"decoder.function.levels.{i}.0", functional.interpolate(x, scale_factor=2) if i else x)
    x = channel_norm(w, "decoder.function.norm", x).permute(0, 2, 3, 1)
    return torch.tanh(functional.linear(x, w["decoder.function.linear.weight"], w["decoder.function.linear.bias"]))[
        None
    ]


def layer(w: Weights, name: str, u: Tensor) -> Tensor:
    """Run one sequence layer: (time, channel, row, col) to the same."""
    real = w[f"{name}.system.eigenvalues_real"].clamp(max=-1e-4)
    eigenvalues = torch.complex(real, w[f"{name}.system.eigenvalues_imag"])
    decay = torch.exp(eigenvalues * w[f"{name}.system.log_step"].exp())
    read = w[f"{name}.system.input_kernel"]
    kernel = ((decay - 1) / eigenvalues)[:, None, None, None] * torch.complex(read[:, 0], read[:, 1])
    driven = torch.complex(functional.conv2d(u, kernel.real, padding=1), functional.conv2d(u, kernel.imag, padding=1))
    state = torch.zeros_like(driven[0])
    states = []
    for step in driven:
        state = decay[:, None, None] * state + step
        states.append(state)
    x = torch.stack(states)
    write = w[f"{name}.system.output_kernel"]
    real_part = functional.conv2d(x.real, write[:, :, 0], padding=1)
    y = 2 * (real_part - functional.conv2d(x.imag, write[:, :, 1], padding=1))
    h = convolve(w, f"{name}.nonlinearity.convolution1", gelu(group_norm(w, f"{name}.nonlinearity.norm1", y)))
    h = convolve(w, f"{name}.nonlinearity.convolution2", gelu(group_norm(w, f"{name}.nonlinearity.norm2", h)))
    return channel_norm(w, f"{name}.norm", u + gelu(y + h))


def residual_block(w: Weights, name: str, x: Tensor) -> Tensor:
    """Run one residual block of encoder or decoder."""
    h = convolve(w, f"{name}.convolution1", functional.elu(group_norm(w, f"{name}.norm1", x)))
    h = convolve(w, f"{name}.convolution2", functional.elu(group_norm(w, f"{name}.norm2", h)))
    skip = w.get(f"{name}.skip.weight")
    return (x if skip is None else functional.conv2d(x, skip[:, :, None, None])) + RESIDUAL_SCALE * h


def convolve(w: Weights, name: str, x: Tensor) -> Tensor:
    """Convolve with zeros around."""
    return functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)


def group_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """Normalize groups of channels of every frame."""
    return functional.group_norm(x, 32, w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)


def channel_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """Normalize the channels of every pixel."""
    weight = w[f"{name}.weight"]
    y = functional.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, w[f"{name}.bias"], 1e-6)
    return y.permute(0, 3, 1, 2)


def gelu(x: Tensor) -> Tensor:
    """Activate."""
    return functional.gelu(x, approximate="tanh")


def forecaster(version: str) -> tuple[Callable[[Tensor], Tensor], ConvS5]:
    """Build a version, and the network that holds its weights.

    Args:
        version: "plain", "wavecast", or "wavecast checkpointed" (computed again for the gradient).
    """
    torch.manual_seed(0)
    network = ConvS5(checkpointing=version == "wavecast checkpointed")
    if version != "plain":
        return lambda frames: network(frames)[0], network
    weights = dict(network.named_parameters())
    return lambda frames: plain(weights, frames), network


VERSIONS = ("plain", "wavecast", "wavecast checkpointed")


def film(frames: int) -> Tensor:
    """Make a film of a disc that drifts: (1, frames, 64, 64, 1), in [-1, 1]."""
    time_, row, col = torch.meshgrid(torch.arange(frames), torch.arange(64), torch.arange(64), indexing="ij")
    distance = ((row - 20 - time_ % 24) ** 2 + (col - 40 + time_ % 17) ** 2).sqrt()
    return torch.tanh(8 - distance)[None, ..., None]


def work(version: str, frames: int, backward: bool) -> Callable[[], object]:
    """Give what is measured."""
    forecast, network = forecaster(version)
    x = film(frames)
    if backward:
        return lambda: torch.autograd.grad(forecast(x).square().mean(), list(network.parameters()))

    @torch.no_grad()
    def forward() -> Tensor:
        return forecast(x)

    return forward


def gate() -> None:
    """End the run when the versions disagree, in output or gradients."""
    x = film(3)
    results = []
    for version in VERSIONS:
        forecast, network = forecaster(version)
        with torch.no_grad():
            alone = forecast(x)
        y = forecast(x)
        results.append([alone, y, *torch.autograd.grad(y.square().mean(), list(network.parameters()))])
    for version, result in zip(VERSIONS[1:], results[1:], strict=True):
        for found, expected in zip(result, results[0], strict=True):
            if (found - expected).abs().max() > 1e-3 * expected.abs().max() + 1e-7:
                sys.exit(f"{version} is wrong: off by {(found - expected).abs().max():.3g}; nothing was timed")


def seconds(versions: tuple[str, ...], frames: int, backward: bool, repeats: int) -> dict[str, float]:
    """Time the versions in turn, so that a busy machine is busy for all of them; the first round is not counted."""
    functions = {version: work(version, frames, backward) for version in versions}
    times: dict[str, list[float]] = {version: [] for version in versions}
    for _ in range(repeats + 1):
        for version, function in functions.items():
            begun = time.process_time()
            function()
            times[version].append(time.process_time() - begun)
    return {version: min(found[1:]) for version, found in times.items()}


def memory(version: str, frames: int, backward: bool) -> float:
    """Find the MiB that a version adds to what its process had before; call it in a process of its own."""
    torch.set_num_threads(1)
    function = work(version, frames, backward)
    before = peak_mib()
    function()
    return peak_mib() - before


def main() -> None:
    """Measure all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "convs5_speed.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    gate()
    rows = []
    for frames in args.frames:
        for backward in (False, True):
            versions = VERSIONS if backward else VERSIONS[:2]
            for version, best in seconds(versions, frames, backward, args.repeats).items():
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    peak = pool.apply(memory, (version, frames, backward))
                shape = {"version": version, "frames": frames, "backward": backward}
                rows.append({**shape, "seconds": best, "peak_mib": peak})
                print(json.dumps(rows[-1]), flush=True)
    args.output.write_text(json.dumps({"threads": args.threads, "rows": rows, **facts()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
