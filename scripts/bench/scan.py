"""Speed of the scan against its floor and against a plain loop in torch.

    python scripts/bench/scan.py [--device cpu|cuda] [--threads 1]

The floor is memory: forward reads b, and a where it varies in time, and writes h; backward reads h and the gradient
(and a) and writes the gradient of b (and of a). Each time is set beside that many bytes over the measured copy
bandwidth. The peer is the loop that one writes without the operator, `h[t] = a[t] * h[t-1] + b[t]`, its gradients by
autograd. A CPU's copy goes into memory that is in use already; h is new, and the system's zeroing of it counts.
`compiled` in the result tells whether the installation had built `native.c`; where it had, the form in plain torch is
timed too. Correctness comes first: a mismatch with the definition ends the run. Results: `results/scan_DEVICE.json`.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from facts import facts
from timing import bandwidth, seconds
from torch import Tensor

from wavecast.core.ops.scan import cpu, scan
from wavecast.core.ops.scan.reference import scan as definition

HERE = Path(__file__).resolve().parent
# shape of b, dtype, whether a is constant: the states of a ConvS5 layer, and long sequences
GPU_SHAPES = [
    ((8, 100, 16, 16, 128), "complex64", True),
    ((8, 16384, 1536), "float32", False),
    ((8, 16384, 1536), "bfloat16", False),
    ((4, 16384, 256), "float32", True),
    ((1, 65536, 64), "float32", False),
]
CPU_SHAPES = [
    ((1, 20, 16, 16, 128), "complex64", True),
    ((4, 20, 16, 16, 128), "complex64", True),
    ((4, 16384, 256), "float32", True),
    ((4, 16384, 256), "float32", False),
]
LOOPED = 2**14
"""Steps up to which the plain loop is timed on a GPU; it takes as many launches."""


def operator(a: Tensor, b: Tensor) -> Tensor:
    """Scan."""
    return scan(a, b)[0]


def built(device: str) -> bool:
    """Tell whether the compiled form is what computes."""
    return device == "cpu" and cpu.compiled() is not None


@contextmanager
def in_torch() -> Iterator[None]:
    """Leave the compiled form aside."""
    kept = cpu.compiled
    cpu.compiled = nothing
    try:
        yield
    finally:
        cpu.compiled = kept


def nothing() -> None:
    """Stand for a compiled form that is not there."""


def loop(a: Tensor, b: Tensor) -> Tensor:
    """Run the recurrence as one writes it without the operator."""
    state, h = torch.zeros_like(b[:, 0]), []
    for t in range(b.shape[1]):
        state = (a if a.ndim == 1 else a[:, t]) * state + b[:, t]
        h.append(state)
    return torch.stack(h, 1)


def inputs(shape: tuple[int, ...], dtype: torch.dtype, constant: bool, device: str) -> list[Tensor]:
    """Generate a, of magnitude 0.8 to 1, and b."""
    factors = shape[-1:] if constant else shape
    a = 0.8 + 0.2 * torch.rand(factors, device=device)
    a = torch.polar(a, torch.rand(factors, device=device)) if dtype.is_complex else a
    return [
        a.to(dtype),
        torch.randn(shape, device=device, dtype=torch.float32 if dtype.itemsize == 2 else dtype).to(dtype),
    ]


def gate(device: str, dtype: torch.dtype, constant: bool, inner: tuple[int, ...]) -> None:
    """End the run when the operator and its definition disagree, in outputs or gradients."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    tensors = inputs((2, 300, *inner), wide, constant, "cpu")
    found, expected = ([x.to(place).requires_grad_() for x in tensors] for place in (device, "cpu"))
    y, z = scan(*found), definition(*expected)
    for h, last in (y, z):
        (h.abs().square().sum() + last.abs().sum()).backward()
    pairs = [*zip(y, z, strict=True), *((a.grad, b.grad) for a, b in zip(found, expected, strict=True))]
    if not all(torch.allclose(a.cpu(), b, rtol=1e-9, atol=1e-9) for a, b in pairs):
        sys.exit(f"the scan is wrong for {dtype} on {device}, a constant: {constant}; nothing was timed")


def measure(shape: tuple[int, ...], name: str, constant: bool, device: str, copies: float) -> dict[str, object]:
    """Time forward and forward with backward, ours and the loop's."""
    dtype, cuda = getattr(torch, name), device == "cuda"
    gate(device, dtype, constant, (2, 3) if len(shape) > 3 else (5,))
    with in_torch():
        gate(device, dtype, constant, (2, 3) if len(shape) > 3 else (5,))
    tensors = inputs(shape, dtype, constant, device)
    leaves = [x.clone().requires_grad_() for x in tensors]
    grad = torch.randn_like(tensors[1])
    row: dict[str, object] = {"shape": shape, "dtype": name, "constant": constant}
    moved = tensors[1].numel() * tensors[1].element_size()
    forward_bytes, both_bytes = (2 * moved, 5 * moved) if constant else (3 * moved, 8 * moved)
    versions = ["wavecast", *(["wavecast in torch"] if built(device) else [])]
    versions += [] if cuda and shape[1] > LOOPED else ["loop"]
    for whose in versions:
        function = loop if whose == "loop" else operator
        with in_torch() if whose == "wavecast in torch" else nullcontext():
            with torch.no_grad():
                forward = seconds(partial(function, *tensors), cuda)
            row[whose] = {"forward_ms": 1000 * forward, "forward_of_copy": forward_bytes / copies / forward}
            if whose == "loop" and shape[1] > 1000:  # autograd keeps a node and a tensor for every step
                continue
            both = seconds(lambda f=function: torch.autograd.grad(f(*leaves), leaves, grad), cuda)
            row[whose] |= {"both_ms": 1000 * both, "both_of_copy": both_bytes / copies / both}  # type: ignore[operator]
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
        rows.append(measure(*shape, args.device, copies))
        print(json.dumps(rows[-1]), flush=True)
    name = torch.cuda.get_device_name() if args.device == "cuda" else ""
    result = {"copy_bytes_per_second": copies, "threads": args.threads, "rows": rows, **facts(name)}
    if args.device == "cpu":
        result["compiled"] = built(args.device)
    path = HERE / "results" / f"scan_{args.device}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
