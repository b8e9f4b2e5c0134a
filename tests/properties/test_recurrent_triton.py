"""The Triton kernels of the recurrent operator: interpreted, compiled ahead of time, and run where a GPU is."""

import re

import pytest
import torch

from kit.interpreter import interpret
from wavecast.core.ops.recurrent import backend, cpu, recurrent
from wavecast.core.ops.recurrent.reference import GATES, PARTS

triton = pytest.importorskip("triton")


def test_interpreted():
    interpret("interpreted_recurrent.py")


@pytest.mark.parametrize(
    ("name", "capability", "kind", "absent"),
    [
        ("walk_kernel", 80, "lstm", ("bias", "n", "m")),
        ("walk_kernel", 90, "gru", ("peepholes", "c", "n", "m")),
        ("walk_kernel", 90, "slstm", ("bias", "peepholes")),
        ("walk_back_kernel", 90, "lstm", ("into_normalizer", "of_normalizer", "direct")),
        ("walk_back_kernel", 80, "gru", ("into_cell", "into_normalizer", "of_normalizer", "direct")),
        ("walk_back_kernel", 90, "slstm", ()),
    ],
)
def test_compiles_ahead_of_time(name, capability, kind, absent, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    binary = compile_kernel(name, capability, kind, absent)
    assert binary.asm["cubin"]
    assert f".target sm_{capability}" in binary.asm["ptx"]
    assert not re.search(r"\b(atom|red)\.", binary.asm["ptx"])  # sums in a fixed order


def compile_kernel(name, capability, kind, absent):
    """Compile one kernel as a launch on a GPU would, for heads of 32 channels."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from wavecast.core.ops.recurrent import triton as kernels

    kernel, shape = getattr(kernels, name), kernels.shape(32)
    constants = {
        "kind": kind,
        "keep": True,
        "gates": GATES[kind],
        "buffers": cpu.BUFFERS[kind],
        "block": shape["block"],
    }
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    constants |= dict.fromkeys(absent)
    numbers = (
        "x_time",
        "x_head",
        "x_batch",
        "x_gate",
        "grad_time",
        "grad_head",
        "grad_batch",
        "time",
        "batch",
        "channels",
    )
    signature = {
        name: "constexpr" if name in constants else "i32" if name in numbers else "*i64" if name == "ends" else "*fp32"
        for name in kernel.arg_names
    }
    source = ASTSource(kernel, signature, constants)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": shape["num_warps"]})


def test_cpu_tensors_never_reach_triton():
    assert backend(torch.zeros(1)) is cpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", list(GATES))
@pytest.mark.parametrize(("heads", "width"), [(1, 1), (3, 33), (2, 64), (1, 200)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_gpu(kind, heads, width, dtype):
    generator, hidden = torch.Generator().manual_seed(0), heads * width
    shapes = [(3, 63, GATES[kind], hidden), (GATES[kind], hidden, width), (GATES[kind], hidden)]
    tensors = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    tensors[1] /= width**0.5
    lengths = torch.tensor([63, 0, 40])
    results = []
    for device, used in (("cuda", dtype), ("cpu", torch.float64)):
        inputs = [x.to(device, used).requires_grad_() for x in tensors]
        outputs = recurrent(kind, *inputs, lengths=lengths.to(device))
        grads = [torch.ones_like(y) for y in outputs]
        results.append([*outputs, *torch.autograd.grad(outputs, inputs, grads)])
    assert results[0][1].shape == (3, PARTS[kind], hidden)
    for mine, its in zip(*results, strict=True):
        assert (mine.cpu().double() - its).abs().max() <= (1e-12 if dtype == torch.float64 else 1e-5) * its.abs().max()
