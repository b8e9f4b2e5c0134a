"""Speed of the Legendre memory on a CPU: its forms beside each other and beside their floor.

    python scripts/bench/legendre.py [--threads 1]

The memory is LMUFormer's (order 256 over 128 frames, read out to 256 channels). The forms of a whole sequence:

    windows   windows of the input times the impulse response of the readout (what the operator does at rest)
    chunks    128 steps at a time from the memory before them (what it does where a sequence goes on)
    spectra   the impulse response of the readout by FFT
    memory    the impulse response of the memory by FFT, then the readout: the memory is kept over time
    loop      step by step

The floor is the operations of `windows` (every step reads as many taps as the sequence has or the response lasts, and
the readout's response is computed once) over the rate of a large matrix product measured in the same run. A live unit
is timed with pieces of 1, 8 and 128 frames, the original cell, which can only go step by step, beside it. Correctness
comes first: a form that differs from the definition in double precision ends the run. Result:
`results/legendre_cpu.json`.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from facts import facts
from timing import seconds
from torch import Tensor

from wavecast.core.block import Block
from wavecast.core.legendre import LegendreCell, LegendreMemory, LegendreUnit
from wavecast.core.ops.legendre import cpu, legendre
from wavecast.core.ops.legendre.reference import legendre as definition

RESULT = Path(__file__).resolve().parent / "results" / "legendre_cpu.json"
ORDER, THETA, OUTPUTS = 256, 128, 256
SHAPES = [(1, 128), (32, 128), (1, 3000)]
"""Batch and frames: one decision, a training batch, half a minute."""
PIECES = (1, 8, 128)
TOLERANCE = 1e-5


def windows(u: Tensor, memory: LegendreMemory, readout: Tensor) -> Tensor:
    """Compute as the operator does."""
    return legendre(u, memory.response, memory.powers, readout, settled=memory.settled)[0]


def chunks(u: Tensor, memory: LegendreMemory, readout: Tensor) -> Tensor:
    """Go on from a memory of zeros."""
    return cpu.chunks(u, memory.response, memory.powers, readout, u.new_zeros(len(u), ORDER))[0]


def spectra(u: Tensor, memory: LegendreMemory, readout: Tensor) -> Tensor:
    """Multiply the spectra of the input and of the readout's impulse response."""
    response = readout @ memory.response[: u.shape[1]].T
    length = 2 * u.shape[1]
    product = torch.fft.rfft(u, n=length)[:, None] * torch.fft.rfft(response, n=length)
    return torch.fft.irfft(product, n=length)[..., : u.shape[1]].transpose(1, 2)


def kept(u: Tensor, memory: LegendreMemory, readout: Tensor) -> Tensor:
    """Compute the memory by FFT, as the published network does, and read it out."""
    return spectra(u, memory, torch.eye(ORDER)) @ readout.T


def loop(u: Tensor, memory: LegendreMemory, readout: Tensor) -> Tensor:
    """Go step by step."""
    return definition(u, memory.powers[0], memory.response[0], readout)[0]


FORMS = {"windows": windows, "chunks": chunks, "spectra": spectra, "memory": kept, "loop": loop}


def operations(batch: int, time: int, taps: int) -> int:
    """Count the floating point operations of `windows`."""
    taps = min(taps, time)
    return 2 * OUTPUTS * taps * (batch * time + ORDER)


def compare(batch: int, time: int, memory: LegendreMemory, readout: Tensor, rate: float) -> dict[str, object]:
    """Time every form on one shape, without gradients and with them."""
    u = torch.relu(torch.randn(batch, time))
    exact, _ = definition(u.double(), *(x.double() for x in (memory.powers[0], memory.response[0], readout)))
    row: dict[str, object] = {"batch": batch, "frames": time}
    row["floor_ms"] = 1000 * operations(batch, time, len(memory.response)) / rate
    leaves = u.clone().requires_grad_(), readout.clone().requires_grad_()
    grad = torch.randn(batch, time, OUTPUTS)
    for name, form in FORMS.items():
        error = (form(u, memory, readout) - exact).abs().max().item() / exact.abs().max().item()
        if error > TOLERANCE:
            sys.exit(f"{name} is off by {error:.2g} at {batch} x {time}; nothing more was timed")
        with torch.no_grad():
            forward = seconds(partial(form, u, memory, readout), False)
        both = seconds(partial(backward, form, memory, leaves, grad), False)
        row[name] = {"forward_ms": 1000 * forward, "both_ms": 1000 * both, "relative_error": error}
    return row


def backward(form: Callable[..., Tensor], memory: LegendreMemory, leaves: tuple[Tensor, Tensor], grad: Tensor) -> None:
    """Compute output and gradients."""
    torch.autograd.grad(form(leaves[0], memory, leaves[1]), leaves, grad)


@torch.inference_mode()
def live(block: Block) -> dict[str, float]:
    """Time a stream's pieces, in microseconds a piece."""
    block.eval()
    x = torch.randn(1, 400, OUTPUTS)
    whole, _ = block(x)
    _, state = block(x[:, :200], last=False)
    times = {}
    for piece in PIECES:
        y, _ = block(x[:, 200 : 200 + piece], state, last=False)
        if not torch.allclose(y, whole[:, 200 : 200 + piece], atol=1e-4 * whole.abs().max().item()):
            sys.exit(f"a stream of {type(block).__name__} differs from the whole; nothing more was timed")
        times[str(piece)] = 1e6 * seconds(partial(repeat, block, x[:, 200 : 200 + piece], state), False) / 20
    return times


def repeat(block: Block, x: Tensor, state: object) -> None:
    """Process the same piece 20 times: one is too short to time."""
    for _ in range(20):
        block(x, state, last=False)


def main() -> None:
    """Measure everything and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    rate = 2 * 1024**3 / seconds(lambda: left @ right, False)
    memory, readout = LegendreMemory(ORDER, THETA), torch.randn(OUTPUTS, ORDER) / ORDER**0.5
    rows = [compare(*shape, memory, readout, rate) for shape in SHAPES]
    result: dict[str, object] = {
        "order": ORDER,
        "theta": THETA,
        "taps": len(memory.response),
        "outputs": OUTPUTS,
        "threads": args.threads,
        "matmul_flops_per_second": rate,
        "rows": rows,
    }
    result["live_us_per_piece"] = {
        "unit": live(LegendreUnit(OUTPUTS, OUTPUTS, ORDER, THETA)),
        "unit, 128 taps": live(LegendreUnit(OUTPUTS, OUTPUTS, ORDER, THETA, 128)),
        "cell": live(LegendreCell(OUTPUTS, OUTPUTS, ORDER, THETA)),
    }
    text = json.dumps(result | facts(), indent=2)
    print(text)
    RESULT.write_text(text + "\n")


if __name__ == "__main__":
    main()
