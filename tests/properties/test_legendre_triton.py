"""The Triton kernels of the Legendre memory: interpreted, compiled ahead of time, and run where a GPU is."""

import re

import pytest
import torch

from kit.interpreter import generated, interpret
from wavecast.core.legendre import impulse_response
from wavecast.core.ops.legendre import respond

triton = pytest.importorskip("triton")


def test_interpreted():
    interpret("interpreted_legendre.py")


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", ["respond_kernel", "response_gradient_kernel"])
def test_compiles_ahead_of_time(name, capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    binary = compile_kernel(name, capability)
    assert binary.asm["cubin"]
    assert f".target sm_{capability}" in binary.asm["ptx"]
    assert "mma" in binary.asm["ptx"]  # on tensor cores
    assert not re.search(r"\b(atom|red)\.", binary.asm["ptx"])  # sums in a fixed order


def compile_kernel(name, capability):
    """Compile one kernel as a launch on a GPU would."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from wavecast.core.ops.legendre import triton as kernels

    kernel = getattr(kernels, name)
    constants = {argument: value for argument, value in kernels.sides().items() if argument in kernel.arg_names}
    pointers = dict.fromkeys(("x", "kernel", "y", "grad", "parts"), "*fp32")
    signature = {
        argument: "constexpr" if argument in constants else pointers.get(argument, "i32")
        for argument in kernel.arg_names
    }
    attributes = {
        (place,): [["tt.divisibility", 16]]
        for place, argument in enumerate(kernel.arg_names)
        if argument in pointers or argument == "outputs"
    }
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": kernels.WARPS})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("batch", "time", "taps"), [(1, 1, 1), (32, 128, 128), (3, 63, 20), (1, 3000, 216)])
def test_on_a_gpu(batch, time, taps):
    response = torch.tensor(impulse_response(256, 128.0, taps))
    given = generated(batch, taps - 1 + time, seed=0), generated(256, 256, seed=1)
    results = []
    for device, dtype in (("cuda", torch.float32), ("cpu", torch.float64)):
        x, readout = (tensor.to(device, dtype).requires_grad_() for tensor in given)
        y = respond(x, response.to(device, dtype), readout)
        grad = generated(*y.shape, seed=2).to(device, dtype)
        results.append([y, *torch.autograd.grad(y, (x, readout), grad)])
    for mine, its in zip(*results, strict=True):
        assert (mine.cpu().double() - its).abs().max() <= 1e-5 * its.abs().max()
