"""The Triton kernels of the depthwise operator: interpreted, compiled ahead of time, and run where a GPU is."""

import re

import pytest
import torch

from kit.interpreter import interpret
from wavecast.core.ops.depthwise import backend, cpu, depthwise

triton = pytest.importorskip("triton")


def test_interpreted():
    interpret("interpreted_depthwise.py")


@pytest.mark.parametrize("name", ["correlate_kernel", "tap_gradient_kernel"])
@pytest.mark.parametrize(
    ("capability", "taps", "dilation", "dtype", "segments"),
    [
        (80, 3, 2, "fp32", True),
        (90, 3, 2, "fp32", True),
        (80, 3, 1, "bf16", False),
        (90, 3, 1, "bf16", False),
        (90, 3, 1, "fp64", False),
        (90, 10, 1, "bf16", False),
    ],
)
def test_compiles_ahead_of_time(name, capability, taps, dilation, dtype, segments, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    binary = compile_kernel(name, capability, taps, dilation, dtype, segments)
    assert binary.asm["cubin"]
    assert f".target sm_{capability}" in binary.asm["ptx"]
    assert not re.search(r"\b(atom|red)\.", binary.asm["ptx"])  # sums in a fixed order


def compile_kernel(name, capability, taps, dilation, dtype, segments):
    """Compile one kernel as a launch on a GPU would, with everything optional in use or nothing."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from wavecast.core.ops.depthwise import triton as kernels

    kernel = getattr(kernels, name)
    torch_type = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}[dtype]
    *_, constants = kernels.tiling(8, 1000, 256, taps, dilation, torch_type)
    options = {"num_warps": constants.pop("num_warps")}
    if not segments:
        constants |= {"runs": None, "residual": None}
    pointers = dict.fromkeys(("x", "grad", "residual", "y"), f"*{dtype}") | {"runs": "*i32"}
    pointers |= dict.fromkeys(("weight", "partial"), "*fp64" if dtype == "fp64" else "*fp32")
    constants = {argument: value for argument, value in constants.items() if argument in kernel.arg_names}
    signature = {
        argument: "constexpr" if argument in constants else pointers.get(argument, "i32")
        for argument in kernel.arg_names
    }
    aligned = [*pointers, "channels", "x_batch", "x_step", "grad_batch", "grad_step"]
    attributes = {
        (place,): [["tt.divisibility", 16]]
        for place, argument in enumerate(kernel.arg_names)
        if argument in aligned and argument not in constants
    }
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def test_cpu_tensors_never_reach_triton():
    assert backend(torch.zeros(1)) is cpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (3, 63, 33, 3, 2), (2, 1000, 256, 20, 1), (1, 1000, 64, 64, 8)])
@pytest.mark.parametrize("segmented", [False, True])
def test_on_a_gpu(shape, dtype, segmented):
    batch, time, channel, taps, dilation = shape
    generator = torch.Generator().manual_seed(0)
    x, residual, grad = (torch.randn(batch, time, channel, generator=generator).to(dtype) for _ in range(3))
    weight = torch.randn(channel, taps, generator=generator)
    segments = (torch.arange(time) // 50).expand(batch, time) if segmented else None
    results = []
    for device, wide in (("cuda", dtype), ("cpu", torch.float64)):
        inputs = [tensor.to(device, wide).requires_grad_() for tensor in (x, residual)]
        inputs.append(weight.to(device, torch.promote_types(wide, torch.float32)).requires_grad_())
        y = depthwise(
            inputs[0],
            inputs[2],
            dilation=dilation,
            left=(taps - 1) * dilation,
            segments=None if segments is None else segments.to(device),
            residual=inputs[1],
        )
        results.append([y, *torch.autograd.grad(y, inputs, grad.to(device, wide))])
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}.get(dtype, 2 * torch.finfo(dtype).eps)
    for mine, its in zip(*results, strict=True):
        assert (mine.cpu().double() - its).abs().max() <= tolerance * its.abs().max()
