"""Tests of the Legendre memory's kernels in Triton's interpreter.

`test_legendre_triton.py` runs this file, see `kit.interpreter`.
"""

import pytest
import torch

from kit.interpreter import generated, poisoned
from wavecast.core.legendre import impulse_response
from wavecast.core.ops import legendre as operator
from wavecast.core.ops.legendre import cpu, respond
from wavecast.core.ops.legendre import triton as kernels

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # Triton, on its ranges


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Make tiles small and shares few, so that little work has all of their edges; and poison new memory."""
    for name in ("STEPS", "TAPS", "OUTPUTS"):
        monkeypatch.setattr(kernels, name, 16)
    monkeypatch.setattr(kernels, "PROGRAMS", 6)
    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.mark.parametrize(
    ("batch", "time", "taps", "outputs"),
    [(1, 1, 1, 1), (1, 63, 20, 17), (3, 16, 16, 16), (2, 40, 5, None), (2, 1, 40, 3), (1, 1000, 33, 5), (2, 0, 9, 3)],
)
def test_equals_the_cpu_form(batch, time, taps, outputs, monkeypatch):
    response = torch.tensor(impulse_response(7, 10.0, taps))
    given = [generated(batch, taps - 1 + time, seed=0), generated(outputs or 7, 7, seed=1)]
    results = []
    for used, dtype in ((kernels, torch.float32), (cpu, torch.float64)):
        monkeypatch.setattr(operator, "backend", {kernels: use_kernels, cpu: use_torch}[used])
        x, readout = (tensor.to(dtype).requires_grad_() for tensor in given)
        y = respond(x, response.to(dtype), None if outputs is None else readout)
        grad = generated(*y.shape, seed=2).to(dtype)
        results.append([y, *torch.autograd.grad(y, (x, readout), grad, materialize_grads=True)])
    for mine, its in zip(*results, strict=True):
        assert mine.shape == its.shape
        assert mine.dtype == torch.float32
        if its.numel():
            assert (mine - its).abs().max() <= 1e-5 * max(its.abs().max(), 0.3)


def use_kernels(response):
    """Stand in for the dispatch."""
    return kernels


def use_torch(response):
    """Stand in for the dispatch."""
    return cpu


def test_reads_views():
    x, kernel = generated(40, 2, seed=0).T, generated(3, 5, seed=1).T
    expected = cpu.respond(x, kernel.flip(0), None)
    assert (kernels.WindowProduct.apply(x, kernel) - expected).abs().max() < 1e-5


def test_the_gradient_is_deterministic():
    x, grad = generated(2, 100, seed=0), generated(2, 93, 5, seed=1)
    first, second = (kernels.kernel_gradient(x, grad, 8) for _ in range(2))
    assert torch.equal(first, second)
