"""The depthwise operator on CPUs equals its definition, in outputs and in gradients of first and second order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavecast.core.ops.depthwise import cpu, depthwise, reference

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def generated(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Give a standard normal tensor."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Compare by the law: max|a - b| <= tolerance max|b|; terms are about 1, so that a sum near 0 has cancelled."""
    assert found.shape == expected.shape
    if expected.numel():
        assert (found - expected).abs().max() <= tolerance * max(expected.abs().max(), 0.3)


def compare(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None, **arguments: object) -> None:
    """Compare output and gradients with the definition in fp64."""
    tolerance = TOLERANCE[x.dtype]
    given_tensors = [x, weight] if residual is None or residual is x else [x, weight, residual]
    ours = [tensor.detach().requires_grad_() for tensor in given_tensors]
    exact = [tensor.detach().double().requires_grad_() for tensor in given_tensors]
    outputs = []
    for operator, (a, b, *c) in ((depthwise, ours), (reference.depthwise, exact)):
        outputs.append(operator(a, b, residual=a if residual is x else c[0] if c else None, **arguments))
    assert_close(outputs[0], outputs[1], tolerance)
    assert outputs[0].dtype == x.dtype
    assert outputs[0].is_contiguous()
    grad = generated(*outputs[1].shape, seed=3)
    expected = torch.autograd.grad((outputs[1] * grad).sum() + sum(0 * e.sum() for e in exact), exact)
    for mine, its in zip(torch.autograd.grad(outputs[0], ours, grad.to(x.dtype)), expected, strict=True):
        assert_close(mine, its, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("batch", "time", "channel", "taps", "dilation", "left", "right"),
    [
        (1, 1, 1, 1, 1, 0, 0),  # nothing but a factor
        (2, 63, 33, 3, 1, 2, 0),  # causal
        (1, 1000, 70, 7, 1, 6, 0),
        (3, 63, 64, 39, 1, 38, 38),  # longer than the input
        (2, 63, 48, 39, 1, 19, 19),  # as long as the input
        (2, 63, 20, 64, 1, 63, 0),  # most of the taps in front of it
        (2, 200, 32, 5, 8, 32, 0),
        (2, 201, 17, 8, 3, 10, 11),
        (1, 40, 7, 4, 2, 9, 3),  # further padded than the taps reach
        (1, 5, 3, 2, 1, 40, 0),  # output far behind the input
        (2, 50, 24, 20, 1, 0, 0),  # whole windows, as a stream asks for
        (5, 20, 256, 20, 1, 19, 0),
        (300, 4, 16, 3, 1, 1, 1),
        (600, 9, 20, 1, 1, 0, 0),
        (1, 300, 256, 4, 1, 3, 0),
        (1, 300, 256, 7, 2, 12, 0),
    ],
)
def test_equals_the_definition(batch, time, channel, taps, dilation, left, right, dtype):
    x = generated(batch, time, channel, dtype=dtype)
    weight = generated(channel, taps, seed=1, dtype=dtype)
    compare(x, weight, None, dilation=dilation, left=left, right=right)
    if left + right == (taps - 1) * dilation:
        compare(x, weight, x, dilation=dilation, left=left, right=right)
        compare(x, weight, generated(*x.shape, seed=2, dtype=dtype), dilation=dilation, left=left, right=right)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.data())
def test_any_shape(data):
    batch, time, channel = (data.draw(st.integers(*span)) for span in ((1, 3), (0, 20), (1, 20)))
    taps, dilation = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    left, right = data.draw(st.integers(0, 20)), data.draw(st.integers(0, 20))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    few = data.draw(st.sampled_from([1, cpu.FEW_PRODUCTS]))  # both forms, whatever the size
    x = generated(batch, time, channel, dtype=dtype)
    weight = generated(channel, taps, seed=1, dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "FEW_PRODUCTS", few)
        patch.setattr(cpu, "FEW_ELEMENTS", few)
        compare(x, weight, None, dilation=dilation, left=left, right=right)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.data())
def test_no_tap_crosses_a_boundary(data):
    batch, time, channel = (data.draw(st.integers(*span)) for span in ((1, 3), (1, 25), (1, 5)))
    taps, dilation = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    left = data.draw(st.integers(0, (taps - 1) * dilation))
    row = st.lists(st.integers(0, 2), min_size=time, max_size=time)  # ids that come again, segments of one step
    segments = torch.tensor([data.draw(row) for _ in range(batch)])
    x = generated(batch, time, channel)
    weight = generated(channel, taps, seed=1)
    geometry = {"dilation": dilation, "left": left, "right": (taps - 1) * dilation - left}
    compare(x, weight, x, segments=segments, **geometry)
    compare(x, weight, None, segments=torch.zeros_like(segments), **geometry)


def test_segments_are_sequences_of_their_own():
    x, weight = generated(1, 30, 4), generated(4, 5, seed=1)
    segments = torch.tensor([[7] * 11 + [2] * 1 + [7] * 18])
    whole = depthwise(x, weight, left=3, right=1, segments=segments)
    parts = [depthwise(part, weight, left=3, right=1) for part in x.split([11, 1, 18], 1)]
    assert_close(whole, torch.cat(parts, 1), 1e-12)


@pytest.mark.parametrize("time", [0, 3])
def test_too_short_an_input_gives_no_steps(time):
    x = torch.randn(2, time, 5, requires_grad=True)
    weight = torch.randn(5, 8, requires_grad=True)
    y = depthwise(x, weight)
    assert y.shape == (2, 0, 5)
    y.sum().backward()
    assert x.grad.count_nonzero() == 0
    assert weight.grad.count_nonzero() == 0


@pytest.mark.parametrize(("batch", "channel"), [(0, 5), (2, 0)])
def test_nothing_in_gives_nothing_out(batch, channel):
    x = torch.randn(batch, 9, channel, requires_grad=True)
    weight = torch.randn(channel, 3, requires_grad=True)
    y = depthwise(x, weight, left=2)
    assert y.shape == (batch, 9, channel)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert weight.grad.count_nonzero() == 0


@pytest.mark.parametrize("segments", [None, torch.tensor([[0, 0, 0, 1, 1, 1, 1]] * 2)])
@pytest.mark.parametrize(("dilation", "left", "right"), [(1, 2, 0), (2, 1, 3)])
def test_derivatives_of_first_and_second_order(dilation, left, right, segments):
    x = generated(2, 7, 3).requires_grad_()
    weight = generated(3, 3, seed=1).requires_grad_()
    residual = generated(2, 7, 3, seed=2).requires_grad_()

    def padded(x, weight):
        return depthwise(x, weight, dilation=dilation, left=left, right=right)

    def operator(x, weight, residual):
        return depthwise(
            x, weight, dilation=dilation, left=left, right=2 * dilation - left, segments=segments, residual=residual
        )

    assert torch.autograd.gradcheck(operator, (x, weight, residual))
    assert torch.autograd.gradgradcheck(operator, (x, weight, residual))
    assert torch.autograd.gradcheck(padded, (x, weight))
    assert torch.autograd.gradcheck(lambda x, w: operator(x, w, x), (x, weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_single(dtype):
    x = generated(2, 200, 64, dtype=dtype).requires_grad_()
    weight = generated(64, 20, seed=1, dtype=torch.float32).requires_grad_()
    y = depthwise(x, weight, left=19)
    assert y.dtype == dtype
    exact = depthwise(x.double(), weight.double(), left=19)
    assert_close(y.double(), exact, torch.finfo(dtype).eps)
    y.sum().backward()
    assert x.grad.dtype == dtype
    assert weight.grad.dtype == torch.float32
    assert depthwise(x, weight, left=19, residual=generated(2, 200, 64, dtype=torch.float32)).dtype == torch.float32


def test_autocast_leaves_single_precision_alone():
    x, weight = generated(2, 200, 64, dtype=torch.float32), generated(64, 20, seed=1, dtype=torch.float32)
    plain = depthwise(x, weight, left=19)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(depthwise(x, weight, left=19), plain)


def test_reads_views():
    x, weight = generated(4, 6, 300, dtype=torch.float32), generated(6, 20, seed=1, dtype=torch.float32)
    view = x.transpose(1, 2)
    y = depthwise(view, weight, left=19)
    assert y.is_contiguous()
    assert_close(y, depthwise(view.contiguous(), weight, left=19), 1e-6)
    strided, transposed = view[:, ::2], weight.t().contiguous().t()
    assert_close(depthwise(strided, transposed), depthwise(strided.contiguous(), weight), 1e-6)


def test_the_future_does_not_matter_to_the_past():
    x, weight = generated(2, 100, 64, dtype=torch.float32), generated(64, 20, seed=1, dtype=torch.float32)
    changed = x.clone()
    changed[:, 60:] = torch.nan
    assert torch.equal(depthwise(changed, weight, left=19)[:, :60], depthwise(x, weight, left=19)[:, :60])


@pytest.mark.parametrize(
    ("shape", "weight", "arguments", "message"),
    [
        ((2, 9), (4, 3), {}, r"do not fit\nhint: x is \(batch, time, channel\)"),
        ((2, 9, 4), (4, 1, 3), {}, "do not fit"),
        ((2, 9, 4), (3, 4), {}, "do not fit"),
        ((2, 9, 4), (4, 65), {}, "65 taps\nhint: 1 to 64"),
        ((2, 9, 4), (4, 0), {}, "0 taps"),
        ((2, 9, 4), (4, 3), {"dilation": 0}, "dilation 0"),
        ((2, 9, 4), (4, 3), {"left": -1}, "left -1"),
        ((2, 9, 4), (4, 3), {"right": -2}, "right -2"),
        ((2, 9, 4), (4, 3), {"residual": torch.zeros(2, 9, 4)}, r"output \(2, 7, 4\)"),
        ((2, 9, 4), (4, 3), {"segments": torch.zeros(2, 9).int()}, "= 2, not 0"),
        ((2, 9, 4), (4, 3), {"left": 2, "segments": torch.zeros(2, 8).int()}, "integers of shape"),
        ((2, 9, 4), (4, 3), {"left": 2, "segments": torch.zeros(2, 9)}, "segments are torch.float32"),
    ],
)
def test_says_what_does_not_fit(shape, weight, arguments, message):
    with pytest.raises(ValueError, match=message):
        depthwise(torch.zeros(*shape), torch.zeros(*weight), **arguments)
