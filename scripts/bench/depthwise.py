"""Speed of the depthwise operator against its floor and against torch's own convolution.

    python scripts/bench/depthwise.py [--device cpu|cuda] [--threads 1]

The floor is memory: forward reads x and writes y; backward reads x and grad and writes dx, with the taps' gradient in
the same pass. Each time is set beside that many bytes over the measured copy bandwidth; the goal on a GPU is 85 % of
it. The peer is `torch.nn.functional.conv1d` with groups on (batch, channel, time), its natural layout. Correctness
comes first: a mismatch with the definition ends the run. Results: `results/depthwise_DEVICE.json`.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from facts import facts
from timing import bandwidth, seconds
from torch import Tensor
from torch.nn import functional

from wavecast.core.ops.depthwise import depthwise
from wavecast.core.ops.depthwise.reference import depthwise as definition

HERE = Path(__file__).resolve().parent
# batch, time, channel, taps, dilation, dtype: FSMN of FRCRN, of MossFormer2, a Conformer's, a TCN's
GPU_SHAPES = [
    (32, 8192, 512, 20, 1, "float32"),
    (32, 8192, 512, 20, 1, "bfloat16"),
    (32, 8192, 512, 39, 1, "bfloat16"),
    (32, 8192, 512, 9, 1, "bfloat16"),
    (32, 8192, 512, 3, 8, "bfloat16"),
]
CPU_SHAPES = [(1, 8192, 128, 20, 1, "float32"), (1, 8192, 512, 39, 1, "float32"), (1, 8192, 256, 3, 8, "float32")]


def gate(device: str, taps: int, dilation: int) -> None:
    """End the run when the operator and its definition disagree, in output or gradients."""
    inputs = [torch.randn(2, 100, 8, dtype=torch.float64), torch.randn(8, taps, dtype=torch.float64)]
    left = (taps - 1) * dilation
    found, expected = ([one.to(device).requires_grad_() for one in inputs] for device in (device, "cpu"))
    y = depthwise(*found, dilation=dilation, left=left)
    z = definition(*expected, dilation=dilation, left=left)
    (y.square().sum() + 0).backward()
    (z.square().sum() + 0).backward()
    pairs = [(y, z), *((a.grad, b.grad) for a, b in zip(found, expected, strict=True))]
    if not all(torch.allclose(a.cpu(), b, rtol=1e-9, atol=1e-9) for a, b in pairs):
        sys.exit(f"the operator is wrong for {taps} taps with dilation {dilation} on {device}: nothing was timed")


def measure(shape: tuple[int, int, int, int, int, str], device: str, copies: float) -> dict[str, object]:
    """Time forward and forward with backward, ours and torch's."""
    batch, steps, channel, taps, dilation, name = shape
    dtype, left, cuda = getattr(torch, name), (taps - 1) * dilation, device == "cuda"
    gate(device, taps, dilation)
    x = torch.randn(batch, steps, channel, device=device, dtype=dtype)
    weight = torch.randn(channel, taps, device=device, dtype=dtype)
    wide = x.transpose(1, 2).contiguous()

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return depthwise(x, weight, dilation=dilation, left=left)

    def theirs(x: Tensor, weight: Tensor) -> Tensor:
        padded = functional.pad(x, (left, 0))
        return functional.conv1d(padded, weight[:, None], dilation=dilation, groups=channel)

    row: dict[str, object] = {"shape": shape}
    moved = x.numel() * x.element_size()
    for whose, function, signal in (("wavecast", ours, x), ("torch", theirs, wide)):
        with torch.no_grad():
            forward = seconds(lambda f=function, s=signal: f(s, weight), cuda)
        leaves = [signal.clone().requires_grad_(), weight.clone().requires_grad_()]
        grad = torch.randn_like(signal)

        def both(f: Callable[[Tensor, Tensor], Tensor] = function, inputs: list[Tensor] = leaves) -> None:
            torch.autograd.grad(f(*inputs), inputs, grad)  # noqa: B023

        row[whose] = {
            "forward_ms": 1000 * forward,
            "forward_of_copy": 2 * moved / copies / forward,
            "both_ms": 1000 * (total := seconds(both, cuda)),
            "both_of_copy": 5 * moved / copies / total,
        }
    return row


def main() -> None:
    """Measure all shapes and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    copies = bandwidth(args.device)
    rows = []
    for shape in GPU_SHAPES if args.device == "cuda" else CPU_SHAPES:
        rows.append(measure(shape, args.device, copies))
        print(json.dumps(rows[-1]))
    name = torch.cuda.get_device_name() if args.device == "cuda" else ""
    result = {"copy_bytes_per_second": copies, "threads": args.threads, "rows": rows, **facts(name)}
    path = HERE / "results" / f"depthwise_{args.device}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
