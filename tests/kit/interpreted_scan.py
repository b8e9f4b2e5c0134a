"""Tests of the scan's kernels in Triton's interpreter.

`test_scan_triton.py` runs this file, see `kit.interpreter`.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton.runtime import interpreter

from kit.interpreter import generated, poisoned
from wavecast.core.ops.scan import cpu, scan
from wavecast.core.ops.scan import triton as kernels

pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),  # Triton, on its ranges
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # numpy, on infinite numbers
]
CALL = interpreter.InterpretedFunction.__call__


def call(function: interpreter.InterpretedFunction, *args: object, **options: object) -> object:
    """Call a helper of the kernels without patching Triton's language for it, which takes longer than all the rest."""
    if function.fn.__module__ == kernels.__name__:  # the kernel's launch has patched what it uses
        return function.rewrite()(*args, **options)
    return CALL(function, *args, **options)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Make everything small, because the interpreter is slow: rounds of two steps, chunks of four, blocks of four."""
    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call)
    monkeypatch.setattr(kernels, "UNROLLED", 2)
    monkeypatch.setattr(kernels, "SHORT", 4)
    monkeypatch.setattr(kernels, "BLOCK", 4)


def wide(x: torch.Tensor) -> torch.Tensor:
    """Give x in double precision."""
    return x.to(torch.promote_types(x.dtype, torch.float64))


def compare(shape, dtype, *, constant, real, starts, reverse, leaving, programs):
    """Compare outputs and gradients with the CPU form in double precision."""
    batch, _, *inner = shape
    a = 0.7 * generated(*(inner[-1:] if constant else shape), seed=0, dtype=dtype.to_real() if real else dtype)
    b, grad = (generated(*shape, seed=seed, dtype=dtype) for seed in (1, 2))
    initial, grad_last = (generated(batch, *inner, seed=seed, dtype=dtype) for seed in (3, 4))
    exact = cpu.recur(wide(a), wide(b), wide(initial), starts, reverse, leaving)
    h = exact[0].to(dtype)
    backward = [h, initial, grad, grad_last]
    exact += cpu.adjoint(wide(a), *map(wide, backward), starts, reverse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", poisoned)
        patch.setattr(kernels, "PROGRAMS", programs)
        found = kernels.recur(a, b, initial, starts, reverse, leaving)
        found += kernels.adjoint(a, *backward, starts, reverse)
    for mine, its, like in zip(found, exact, (b, initial, a, b, initial), strict=True):
        assert mine.shape == its.shape
        assert mine.dtype == like.dtype
        assert mine.is_contiguous()
        if its.numel():
            assert (mine - its).abs().max() <= 1e-5 * max(its.abs().max(), 0.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("shape", "programs"),
    [
        ((1, 1, 1), 1),
        ((1, 2, 3), 1),
        ((2, 0, 3), 1),
        ((0, 4, 3), 1),
        ((1, 13, 5), 64),  # chunks and blocks, none of them full at the end
        ((1, 9, 2, 3), 1),
    ],
)
def test_equals_the_cpu_form(shape, constant, dtype, programs):
    odd = len(shape) % 2 == 1
    compare(shape, dtype, constant=constant, real=False, starts=None, reverse=odd, leaving=not odd, programs=programs)


@settings(deadline=None, max_examples=12, derandomize=True)
@given(st.data())
def test_any_shape(data):
    flags = {name: data.draw(st.booleans()) for name in ("constant", "real", "reverse", "leaving")}
    batch, time, channel = (data.draw(st.integers(*span)) for span in ((1, 2), (1, 14), (1, 5)))
    row = st.lists(st.booleans(), min_size=time, max_size=time)
    starts = torch.tensor([data.draw(row) for _ in range(batch)]) if data.draw(st.booleans()) else None
    dtype = data.draw(st.sampled_from([torch.float32, torch.complex64]))
    programs = data.draw(st.sampled_from([1, 64]))
    compare((batch, time, channel), dtype, starts=starts, programs=programs, **flags)


def test_the_gradient_of_a_constant_is_deterministic():
    a, h, grad = generated(4, seed=0), generated(2, 7, 4, seed=1), generated(2, 7, 4, seed=2)
    state = generated(2, 4, seed=3)
    first, second = (kernels.adjoint(a, h, state, grad, state, None, False)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_large_factors_leave_zero_alone(monkeypatch):
    monkeypatch.setattr(kernels, "PROGRAMS", 64)
    a, b = torch.full((1, 14, 2), 1e15), torch.zeros(1, 14, 2)
    b[:, 12:] = 1
    h, last = kernels.recur(a, b, torch.zeros(1, 2), None, False, False)
    assert h[:, :12].count_nonzero() == 0
    assert torch.equal(last, torch.full((1, 2), 1e15))


@pytest.mark.parametrize(("reverse", "leaving"), [(False, False), (True, True)])
def test_nothing_leaks_over_a_boundary(monkeypatch, reverse, leaving):
    monkeypatch.setattr(kernels, "PROGRAMS", 64)
    a, b, initial = generated(1, 12, 2, seed=0), generated(1, 12, 2, seed=1), torch.zeros(1, 2)
    starts = (torch.arange(12) == 5)[None]
    broken, valid = b.clone(), slice(0, 5) if reverse else slice(5, 12)
    broken[:, slice(8, 11) if reverse else slice(2, 5)] = torch.inf
    h, _ = kernels.recur(a, broken, initial, starts, reverse, leaving)
    expected, _ = kernels.recur(a, b, initial, starts, reverse, leaving)
    assert torch.equal(h[:, valid], expected[:, valid])


def test_reads_views_and_lazy_conjugates():
    x = generated(2, 12, 3, seed=0, dtype=torch.complex64)
    a, b = x.conj()[:, ::2], x.transpose(1, 2).conj()[:, :, :6].transpose(1, 2)
    initial = x[:, 0].conj()
    for mine, its in zip(
        kernels.recur(a, b, initial, None, False, False), cpu.recur(a, b, initial, None, False, False), strict=True
    ):
        assert (mine - its).abs().max() < 1e-5
    imaginary = x.conj().imag
    found, _ = kernels.recur(imaginary, imaginary, initial.imag, None, True, True)
    expected, _ = cpu.recur(imaginary, imaginary, initial.imag, None, True, True)
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("constant", [True, False])
def test_gradients_come_from_the_kernels(monkeypatch, constant):
    monkeypatch.setattr(kernels, "PROGRAMS", 64)
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2]])
    results = []
    for used, double in ((kernels, False), (cpu, True)):
        monkeypatch.setattr("wavecast.core.ops.scan.backend", lambda b, used=used: used)
        shapes = ((2,) if constant else (1, 9, 2), (1, 9, 2), (1, 2))
        tensors = [generated(*shape, seed=seed, dtype=torch.complex64) for seed, shape in enumerate(shapes)]
        tensors = [(wide(x) if double else x).requires_grad_() for x in tensors]
        h, last = scan(*tensors, segments=segments)
        loss = h.abs().square().sum() + last.real.sum()
        plain = torch.autograd.grad(loss, tensors, retain_graph=True)
        first = torch.autograd.grad(loss, tensors, create_graph=True)
        second = torch.autograd.grad(sum(g.abs().square().sum() for g in first), tensors)
        results.append([h, last, *plain, *first, *second])
    for mine, its in zip(*results, strict=True):
        assert (mine - its).abs().max() <= 1e-5 * its.abs().max()
