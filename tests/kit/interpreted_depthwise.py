"""Tests of the depthwise kernels in Triton's interpreter.

`test_depthwise_triton.py` runs this file, see `kit.interpreter`.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.interpreter import generated, poisoned
from wavecast.core.ops.depthwise import Correlate, TapGradient, cpu, number_runs
from wavecast.core.ops.depthwise import triton as kernels

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # Triton, on its ranges


def compare(batch, time, channel, taps, dilation, left, steps, segments=None, residual=False, programs=1):
    """Compare outputs and the gradient of the taps with the CPU form in fp64."""
    x, weight = generated(batch, time, channel, seed=0), generated(channel, taps, seed=1)
    grad = generated(batch, steps, channel, seed=2)
    added = generated(batch, steps, channel, seed=3) if residual else None
    runs = None if segments is None else number_runs(segments)
    exact = cpu.correlate(
        x.double(), weight.double(), dilation, left, steps, runs, None if added is None else added.double()
    )
    exact_gradient = cpu.tap_gradient(x.double(), grad.double(), taps, dilation, left, runs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", poisoned)
        patch.setattr(kernels, "PROGRAMS", programs)  # 1: walks are long and a program has many tiles; 512: neither
        found = kernels.correlate(x, weight, dilation, left, steps, runs, added)
        gradient = kernels.tap_gradient(x, grad, taps, dilation, left, runs)
    for mine, its in ((found, exact), (gradient, exact_gradient)):
        assert mine.shape == its.shape
        assert mine.dtype == torch.float32
        if its.numel():
            assert (mine - its).abs().max() <= 1e-5 * max(its.abs().max(), 0.3)


@pytest.mark.parametrize(
    ("batch", "time", "channel", "taps", "dilation", "left", "steps"),
    [
        (1, 1, 1, 1, 1, 0, 1),
        (2, 63, 33, 3, 1, 2, 63),
        (1, 1000, 5, 4, 3, 9, 1000),
        (1, 150, 130, 2, 1, 1, 150),  # two blocks of channels
        (2, 63, 16, 20, 1, 19, 63),
        (1, 63, 8, 39, 2, 38, 63),
        (1, 63, 4, 64, 1, 63, 63),  # two kernels
        (2, 70, 13, 5, 2, 11, 75),  # further padded than the taps reach
        (3, 63, 13, 5, 2, -3, 20),  # the gradient of x, far padded
        (2, 63, 13, 64, 1, 0, 0),
        (0, 63, 13, 3, 1, 2, 63),
        (2, 0, 13, 3, 1, 2, 0),
        (9, 3, 2, 3, 1, 1, 3),
    ],
)
def test_equals_the_cpu_form(batch, time, channel, taps, dilation, left, steps):
    compare(batch, time, channel, taps, dilation, left, steps)
    if steps == time:
        segments = (torch.arange(time) // 7 % 2).expand(batch, time)
        compare(batch, time, channel, taps, dilation, left, steps, segments, residual=True)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.data())
def test_any_shape(data):
    batch, time, channel = (data.draw(st.integers(*span)) for span in ((1, 3), (1, 40), (1, 9)))
    taps, dilation = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    left = data.draw(st.integers(0, (taps - 1) * dilation))
    row = st.lists(st.integers(0, 2), min_size=time, max_size=time)
    segments = torch.tensor([data.draw(row) for _ in range(batch)]) if data.draw(st.booleans()) else None
    compare(
        batch,
        time,
        channel,
        taps,
        dilation,
        left,
        time,
        segments,
        data.draw(st.booleans()),
        data.draw(st.sampled_from([1, 512])),
    )


def test_the_gradient_of_the_taps_is_deterministic():
    x, grad = generated(3, 200, 4, seed=0), generated(3, 200, 4, seed=1)
    first, second = (kernels.tap_gradient(x, grad, 3, 1, 2, None) for _ in range(2))
    assert torch.equal(first, second)


def test_reads_views_in_place():
    x = generated(3, 40, 7, seed=0)
    weight = generated(7, 3, seed=1)
    for view in (x[:, 5:35:3], x[::2, 1:], x[:, :, :7].transpose(0, 1), x.transpose(1, 2)[:, :7, :7]):
        found = kernels.correlate(view, weight, 1, 2, view.shape[1], None, None)
        assert (found - cpu.correlate(view, weight, 1, 2, view.shape[1], None, None)).abs().max() < 1e-5


def test_gradients_come_from_the_kernels(monkeypatch):
    monkeypatch.setattr("wavecast.core.ops.depthwise.backend", lambda x: kernels)
    found, expected = [], []
    for results, dtype in ((found, torch.float32), (expected, torch.float64)):
        if dtype == torch.float64:
            monkeypatch.setattr("wavecast.core.ops.depthwise.backend", lambda x: cpu)
        x = generated(2, 30, 5, seed=0).to(dtype).requires_grad_()
        weight = generated(5, 4, seed=1).to(dtype).requires_grad_()
        y = Correlate.apply(x, weight, x, None, 2, 5, 30)
        first = torch.autograd.grad((y**3).sum(), (x, weight), create_graph=True)
        assert isinstance(TapGradient.apply(x, y, None, 4, 2, 5), torch.Tensor)
        results += [y, *first, *torch.autograd.grad(sum((g**2).sum() for g in first), (x, weight))]
    for mine, its in zip(found, expected, strict=True):
        assert (mine - its).abs().max() <= 1e-5 * its.abs().max()
