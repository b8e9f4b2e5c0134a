"""The Triton kernels of the scan: interpreted, compiled ahead of time, and run where a GPU is."""

import re

import pytest
import torch

from kit.interpreter import interpret
from wavecast.core.ops.scan import backend, cpu, scan

triton = pytest.importorskip("triton")


def test_interpreted():
    interpret("interpreted_scan.py")


@pytest.mark.parametrize(
    ("name", "capability", "a", "b", "varying", "adjoint", "segments"),
    [
        ("recur_kernel", 80, "fp32", "fp32", True, True, True),
        ("recur_kernel", 90, "fp32", "fp32", True, True, True),
        ("recur_kernel", 90, "fp32", "bf16", True, False, False),
        ("recur_kernel", 90, "fp64", "fp64", False, True, False),
        ("recur_kernel", 80, "complex64", "complex64", False, True, False),
        ("recur_kernel", 90, "complex64", "complex64", True, True, True),
        ("recur_kernel", 90, "fp32", "complex64", True, True, False),
        ("chunk_kernel", 80, "fp32", "fp32", True, False, True),
        ("chunk_kernel", 90, "complex64", "complex64", False, False, False),
    ],
)
def test_compiles_ahead_of_time(name, capability, a, b, varying, adjoint, segments, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    binary = compile_kernel(name, capability, a, b, varying, adjoint, segments)
    assert binary.asm["cubin"]
    assert f".target sm_{capability}" in binary.asm["ptx"]
    assert not re.search(r"\b(atom|red)\.", binary.asm["ptx"])  # sums in a fixed order


def compile_kernel(name, capability, a, b, varying, adjoint, segments):
    """Compile one kernel as a launch on a GPU would."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from wavecast.core.ops.scan import triton as kernels

    kernel = getattr(kernels, name)
    constants = {
        "varying": varying,
        "complex_a": a == "complex64",
        "complex_b": b == "complex64",
        "conjugate": adjoint,
        "reverse": adjoint,
        "leaving": int(adjoint),
        "guarded": False,
        "unrolled": 4,  # fewer than in use compile faster
        "block": kernels.BLOCK,
        "wide": triton.language.float64 if b == "fp64" else triton.language.float32,
    }
    if not segments:
        constants["starts"] = None
    if not adjoint:
        constants |= dict.fromkeys(("states", "initial", "da"))
    pointers = dict.fromkeys(("a", "da", "of_one"), "*" + a.replace("complex64", "fp32"))
    pointers |= dict.fromkeys(("b", "h", "states"), "*" + b.replace("complex64", "fp32"))
    pointers |= dict.fromkeys(("entered", "last", "initial", "of_zero"), "*fp64" if b == "fp64" else "*fp32")
    pointers["starts"] = "*i8"
    constants = {argument: value for argument, value in constants.items() if argument in kernel.arg_names}
    signature = {
        argument: "constexpr" if argument in constants else pointers.get(argument, "i32")
        for argument in kernel.arg_names
    }
    attributes = {
        (place,): [["tt.divisibility", 16]]
        for place, argument in enumerate(kernel.arg_names)
        if argument in [*pointers, "lanes", "channels"] and argument not in constants
    }
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": kernels.WARPS})


def test_cpu_tensors_never_reach_triton():
    assert backend(torch.zeros(1)) is cpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 63, 33), (2, 1000, 256), (1, 5000, 64), (4, 20, 8, 8, 32)])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("segmented", [False, True])
def test_on_a_gpu(shape, dtype, constant, segmented):
    batch, time, *inner = shape
    generator = torch.Generator().manual_seed(0)
    state = torch.promote_types(dtype, torch.float32)
    b, grad = (torch.randn(*shape, generator=generator, dtype=state).to(dtype) for _ in range(2))
    initial, grad_last = (torch.randn(batch, *inner, generator=generator, dtype=state) for _ in range(2))
    a = torch.randn(*(inner[-1:] if constant else shape), generator=generator, dtype=state)
    a = (a / a.abs() * (0.8 + 0.2 * torch.rand(a.shape, generator=generator))).to(dtype)
    segments = (torch.arange(time) // 50).expand(batch, time) if segmented else None
    results = []
    for device in ("cuda", "cpu"):
        wide = torch.promote_types(dtype, torch.float64)
        inputs = [x.to(device, x.dtype if device == "cuda" else wide).requires_grad_() for x in (a, b, initial)]
        outputs = scan(*inputs, segments=None if segments is None else segments.to(device), reverse=segmented)
        grads = [g.to(device, y.dtype) for g, y in zip((grad, grad_last), outputs, strict=True)]
        results.append([*outputs, *torch.autograd.grad(outputs, inputs, grads)])
    tolerance = {torch.float64: 1e-12, torch.bfloat16: 4 * torch.finfo(torch.bfloat16).eps}.get(dtype, 1e-5)
    for mine, its in zip(*results, strict=True):
        assert (mine.cpu().to(its.dtype) - its).abs().max() <= tolerance * its.abs().max()
