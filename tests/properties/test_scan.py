"""The scan on CPUs equals its definition, in outputs and in gradients of first and second order."""

import shutil
import subprocess
import sysconfig
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavecast.core.ops.scan import cpu, reference, scan

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.complex64: 1e-5, torch.complex128: 1e-12}
DTYPES = list(TOLERANCE)
INSTALLED = cpu.compiled


@pytest.fixture(scope="module", params=["torch", "compiled"])
def form(request, tmp_path_factory):
    """Run a test in plain torch, and with the compiled form, built for the purpose."""
    module = None
    if request.param == "compiled":
        compiler = shutil.which("cc")
        header = Path(sysconfig.get_path("include")) / "Python.h"
        if compiler is None or not header.exists():
            pytest.skip("needs a C compiler and Python's headers")
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        built = tmp_path_factory.mktemp("native") / f"native{suffix}"
        source = Path(cpu.__file__).with_name("native.c")
        options = ["-O3", "-Wall", "-Werror", "-shared", "-fPIC", f"-I{header.parent}"]
        subprocess.run([compiler, *options, str(source), "-o", str(built)], check=True)
        loader = ExtensionFileLoader("native", str(built))
        module = module_from_spec(spec_from_loader("native", loader))
        loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "compiled", lambda: module)
        yield request.param


def generated(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Give a standard normal tensor."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=wide).to(dtype)


def factors(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Give factors of magnitude up to one, of any sign or phase."""
    x = generated(*shape, seed=seed, dtype=torch.complex128)
    x = x / x.abs() * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) ** 0.1
    return x.to(dtype) if dtype.is_complex else (x.abs() * x.real.sign()).to(dtype)


def exact(x: torch.Tensor) -> torch.Tensor:
    """Give x in double precision, on its own."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float64)).requires_grad_()


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Compare by the law: max|a - b| <= tolerance max|b|; terms are about 1, so that a sum near 0 has cancelled."""
    assert found.shape == expected.shape
    if expected.numel():
        assert (found - expected).abs().max() <= tolerance * max(expected.abs().max(), 0.3)


def compare(a: torch.Tensor, b: torch.Tensor, initial: torch.Tensor | None, **arguments: object) -> None:
    """Compare outputs and gradients with the definition in double precision."""
    tensors = [a, b] if initial is None else [a, b, initial]
    ours, its = [x.detach().requires_grad_() for x in tensors], [exact(x) for x in tensors]
    found, expected = scan(*ours, **arguments), reference.scan(*its, **arguments)
    expected = [y + 0 * sum(x.sum() for x in its) for y in expected]  # gradients exist without steps too
    tolerance = TOLERANCE[found[1].dtype]
    for mine, definition in zip(found, expected, strict=True):
        assert_close(mine, definition, tolerance)
        assert mine.is_contiguous()
    assert found[1].untyped_storage().nbytes() == found[1].numel() * found[1].element_size()
    grads = [generated(*y.shape, seed=3, dtype=y.dtype) for y in expected]
    gradients = torch.autograd.grad(found, ours, [g.to(y.dtype) for g, y in zip(grads, found, strict=True)])
    for mine, definition in zip(gradients, torch.autograd.grad(expected, its, grads), strict=True):
        assert_close(mine, definition, tolerance)


def inputs(batch, time, *inner, dtype=torch.float64, constant=False, real=False):
    """Generate a, b and initial; real: of the factors, whatever the rest is."""
    a_dtype = dtype.to_real() if real else dtype
    a = factors(*(inner[-1:] if constant else (batch, time, *inner)), dtype=a_dtype)
    b, initial = generated(batch, time, *inner, dtype=dtype), generated(batch, *inner, seed=2, dtype=dtype)
    return a, b, initial


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 0, 3),
        (2, 1, 1),
        (1, 2, 5),
        (3, 63, 4),
        (2, 64, 3),
        (1, 1000, 7),
        (2, 130, 2, 3, 4),
        (2, 3, 16, 16, 33),  # a step is large enough to walk alone
        (1, 4, 128, 129),
    ],
)
def test_equals_the_definition(shape, constant, dtype):
    batch, time, *_ = shape
    for reverse in (False, True):
        a, b, initial = inputs(*shape, dtype=dtype, constant=constant)
        segments = (torch.arange(time) // 9 % 2).expand(batch, time)
        if time < 1000 or reverse:  # the definition takes its time
            compare(a, b, initial, reverse=reverse)
        if time < 1000 or not reverse:
            compare(a, b, None, reverse=reverse, segments=segments)


@pytest.mark.usefixtures("form")
@settings(deadline=None, max_examples=80, derandomize=True)
@given(st.data())
def test_any_shape(data):
    batch, time, channel = (data.draw(st.integers(*span)) for span in ((1, 3), (0, 90), (1, 5)))
    dtype, real = data.draw(st.sampled_from(DTYPES)), data.draw(st.booleans())
    a, b, initial = inputs(batch, time, channel, dtype=dtype, constant=data.draw(st.booleans()), real=real)
    row = st.lists(st.integers(0, 2), min_size=time, max_size=time)  # ids that come again, segments of one step
    segments = torch.tensor([data.draw(row) for _ in range(batch)]).long() if data.draw(st.booleans()) else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "FEW", data.draw(st.sampled_from([4, 64, 10_000])))  # both forms, whatever the size
        patch.setattr(cpu, "SIDE", data.draw(st.integers(2, 9)))
        patch.setattr(cpu, "BLOCK", data.draw(st.sampled_from([1, 20, 10_000])))
        compare(
            a,
            b,
            initial if data.draw(st.booleans()) else None,
            segments=segments,
            reverse=data.draw(st.booleans()),
        )


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.complex64), (torch.complex64, torch.float32)])
def test_real_and_complex_mix(dtypes, constant):
    _, b, initial = inputs(2, 70, 3, dtype=dtypes[1])
    a, *_ = inputs(2, 70, 3, dtype=dtypes[0], constant=constant)
    h, last = scan(a, b, initial)
    assert h.dtype == last.dtype == torch.complex64
    compare(a, b, initial)
    compare(a, b.real, generated(2, 3, dtype=torch.complex64))


def test_small_steps_are_left_to_the_compiled_form_where_there_is_one(form, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("plain torch ran")

    monkeypatch.setattr(cpu, "run_steps", refuse)
    monkeypatch.setattr(cpu, "run_chunks", refuse)
    small, large = inputs(2, 100, 3, constant=True), inputs(1, 4, 128, 129, constant=True)
    if form == "compiled":
        scan(*small)
    for tensors in (small, large) if form == "torch" else (large,):
        with pytest.raises(AssertionError, match="plain torch ran"):
            scan(*tensors)


def test_a_compiled_form_for_another_system_is_not_in_the_way(monkeypatch):
    def fail(name):
        raise ImportError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(cpu, "import_module", fail)
    assert INSTALLED.__wrapped__() is None


def test_geometric_series():
    h, last = scan(torch.tensor([0.5, -0.5]).double(), torch.ones(1, 50, 2).double())
    t = torch.arange(1, 51).double()
    assert_close(h[0, :, 0], 2 - 2 * 0.5**t, 1e-14)
    assert_close(h[0, :, 1], (1 - (-0.5) ** t) / 1.5, 1e-14)
    assert torch.equal(last, h[:, -1])


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_a_sequence_may_be_cut_anywhere(constant, reverse):
    a, b, initial = inputs(2, 200, 3, constant=constant)
    whole, end = scan(a, b, initial, reverse=reverse)
    for cut in (0, 1, 77, 199, 200):
        pieces, state = [], initial
        for span in (slice(cut, 200), slice(0, cut)) if reverse else (slice(0, cut), slice(cut, 200)):
            h, state = scan(a if constant else a[:, span], b[:, span], state, reverse=reverse)
            pieces.append(h)
        assert_close(torch.cat(pieces[::-1] if reverse else pieces, 1), whole, 1e-14)
        assert_close(state, end, 1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_zero_steps_hand_the_state_on(dtype):
    a, b, initial = inputs(2, 0, 3, 5, dtype=dtype, constant=True)
    h, last = scan(a, b, initial.requires_grad_())
    assert h.shape == (2, 0, 3, 5)
    assert torch.equal(last, initial)
    assert last.data_ptr() != initial.data_ptr()
    (grad,) = torch.autograd.grad(last.abs().sum(), initial)
    assert torch.allclose(grad.abs(), torch.ones(2, 3, 5, dtype=dtype.to_real()))
    assert scan(a, b)[1].count_nonzero() == 0


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 5, 0), (2, 100, 4, 0)])
def test_nothing_in_gives_nothing_out(shape):
    a, b, initial = inputs(*shape, constant=True)
    a, b = a.requires_grad_(), b.requires_grad_()
    h, last = scan(a, b, initial)
    assert h.shape == shape
    assert last.shape == initial.shape
    h.sum().backward()
    assert b.grad.shape == shape
    assert a.grad.count_nonzero() == 0


def test_segments_are_sequences_of_their_own():
    a, b, initial = inputs(1, 30, 4)
    segments = torch.tensor([[7] * 11 + [2] * 1 + [7] * 18])
    lengths = [11, 1, 18]
    parts = list(zip(a.split(lengths, 1), b.split(lengths, 1), strict=True))
    for reverse in (False, True):
        whole, last = scan(a, b, initial, segments=segments, reverse=reverse)
        states = [None, None, initial] if reverse else [initial, None, None]
        alone = [scan(*part, state, reverse=reverse) for part, state in zip(parts, states, strict=True)]
        assert_close(whole, torch.cat([h for h, _ in alone], 1), 1e-14)
        assert_close(last, alone[0 if reverse else -1][1], 1e-14)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("time", "boundary"), [(8, 5), (200, 5), (200, 45)])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_leaks_over_a_boundary(constant, time, boundary, reverse):
    a, b, _ = inputs(2, time, 4, constant=constant)
    segments = (torch.arange(time) >= boundary).expand(2, time).long()
    broken, valid = b.clone(), slice(0, boundary) if reverse else slice(boundary, time)
    broken[:, slice(boundary, boundary + 3) if reverse else slice(boundary - 3, boundary)] = torch.inf
    h, _ = scan(a, broken, segments=segments, reverse=reverse)
    assert torch.equal(h[:, valid], scan(a, b, segments=segments, reverse=reverse)[0][:, valid])


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("constant", [True, False])
def test_large_factors_leave_zero_alone(constant):
    a = torch.full((3,) if constant else (1, 5000, 3), 4.0)
    b = torch.zeros(1, 5000, 3)
    b[:, 4980:] = 1
    h, _ = scan(a, b)
    assert h[:, :4980].count_nonzero() == 0
    assert_close(h[0, -1, 0], torch.tensor((4.0**20 - 1) / 3), 1e-6)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(("reverse", "segmented"), [(False, False), (True, False), (False, True), (True, True)])
def test_derivatives_of_first_and_second_order(constant, reverse, segmented, dtype, monkeypatch):
    monkeypatch.setattr(cpu, "FEW", 4)
    segments = torch.tensor([[0, 0, 1, 1], [0, 1, 2, 2]]) if segmented else None
    a, b, initial = (x.requires_grad_() for x in inputs(2, 4, 1, dtype=dtype, constant=constant))

    def operator(a, b, initial):
        return scan(a, b, initial, segments=segments, reverse=reverse)

    assert torch.autograd.gradcheck(operator, (a, b, initial))
    assert torch.autograd.gradgradcheck(operator, (a, b, initial))
    if dtype.is_complex and not (segmented or reverse):
        real = a.detach().real.clone().requires_grad_()
        assert torch.autograd.gradcheck(operator, (real, b, initial))
        assert torch.autograd.gradgradcheck(operator, (real, b, initial))


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("constant", [True, False])
def test_derivatives_of_second_order_equal_the_definitions(constant):
    """The gradient with and without a graph, and the gradient of it, at a length where chunks are in use."""
    tensors = [x.requires_grad_() for x in inputs(2, 100, 3, constant=constant)]
    results = []
    for operator in (scan, reference.scan):
        h, last = operator(*tensors)
        loss = (h**3).sum() + (last**2).sum()
        first = torch.autograd.grad(loss, tensors, create_graph=True)
        without_graph = torch.autograd.grad(loss, tensors, retain_graph=True)
        results.append([*first, *without_graph, *torch.autograd.grad(sum((g**2).sum() for g in first), tensors)])
    for mine, its in zip(*results, strict=True):
        assert_close(mine, its, 1e-11)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("constant", [True, False])
def test_half_precision_keeps_its_state_in_single(dtype, constant):
    a, b, initial = inputs(2, 200, 16, constant=constant, dtype=torch.float32)
    b = b.to(dtype).requires_grad_()
    a = (a if constant else a.to(dtype)).requires_grad_()
    h, last = scan(a, b, initial)
    assert h.dtype == dtype
    assert last.dtype == torch.float32
    exact_h, exact_last = scan(a.double(), b.double(), initial.double())
    assert_close(h.double(), exact_h, torch.finfo(dtype).eps)
    assert_close(last.double(), exact_last, 1e-5)
    found = torch.autograd.grad(h, (a, b), torch.ones_like(h))
    for mine, its, source in zip(found, torch.autograd.grad(exact_h.sum(), (a, b)), (a, b), strict=True):
        assert mine.dtype == source.dtype
        assert_close(mine.double(), its.double(), 4 * torch.finfo(dtype).eps)


@pytest.mark.usefixtures("form")
def test_reads_views_and_writes_into_nothing_given():
    a, b, initial = inputs(4, 100, 6)
    kept = [x.clone() for x in (a, b, initial)]
    transposed = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (a, b)]
    for tensors in ((a, b), transposed, (a[:, ::2], b[:, ::2]), (a[::2].expand(2, 100, 6), b[1:3])):
        state = initial[: len(tensors[1])]
        for mine, its in zip(scan(*tensors, state), reference.scan(*tensors, state), strict=True):
            assert_close(mine, its, 1e-13)
            assert mine.is_contiguous()
    assert all(torch.equal(x, before) for x, before in zip((a, b, initial), kept, strict=True))
    lazy = [x.conj() for x in inputs(2, 70, 3, dtype=torch.complex128)]
    for arguments in (lazy, [lazy[0].imag, lazy[1].imag, lazy[2].imag]):
        for mine, its in zip(scan(*arguments), reference.scan(*arguments), strict=True):
            assert_close(mine, its, 1e-13)


def test_the_future_does_not_matter_to_the_past():
    a, b, initial = inputs(2, 300, 5, constant=True)
    changed = b.clone()
    changed[:, 180:] = torch.nan
    assert torch.equal(scan(a, changed, initial)[0][:, :180], scan(a, b, initial)[0][:, :180])
    changed = b.clone()
    changed[:, :180] = torch.nan
    for x in (changed, b):
        h, _ = scan(a, x, initial, reverse=True)
        assert_close(h[:, 180:], scan(a, b[:, 180:], initial, reverse=True)[0], 1e-13)


@pytest.mark.parametrize(
    ("a", "b", "arguments", "message"),
    [
        ((4,), (2, 4), {}, r"hint: give \(batch, time, ..., channel\)"),
        ((3,), (2, 9, 4), {}, r"do not fit\nhint: a is \(4,\)"),
        ((9, 4), (2, 9, 4), {}, "do not fit"),
        ((2, 9, 1), (2, 9, 4), {}, "do not fit"),
        ((4,), (2, 9, 4), {"initial": torch.zeros(2, 9, 4)}, r"a step of b \(2, 4\)\nhint: it is one step"),
        ((4,), (2, 9, 4), {"initial": torch.zeros(2, 4).int()}, "initial is torch.int32\nhint: one of torch.float16"),
        ((4,), (2, 9, 4), {"segments": torch.zeros(2, 8).int()}, r"hint: give integers of shape \(2, 9\)"),
        ((4,), (2, 9, 4), {"segments": torch.zeros(2, 9)}, "segments are torch.float32"),
    ],
)
def test_says_what_does_not_fit(a, b, arguments, message):
    with pytest.raises(ValueError, match=message):
        scan(torch.zeros(*a), torch.zeros(*b), **arguments)
