"""The recurrent operator on CPUs equals its definition, in outputs, last states and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavecast.core.ops.recurrent import recurrent, reference
from wavecast.core.ops.recurrent.reference import GATES, PARTS

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
KINDS = [("lstm", False), ("lstm", True), ("gru", False), ("slstm", False)]


def generated(*shape: int, seed: int) -> torch.Tensor:
    """Give a standard normal tensor."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(kind, batch, time, heads, width, *, bias=True, peepholes=False, begun=True):
    """Generate x, weight, bias, peepholes and initial, None where not wanted."""
    hidden, gates = heads * width, GATES[kind]
    initial = generated(batch, PARTS[kind], hidden, seed=4)
    if kind == "slstm":  # a state that the operator gives
        initial[:, 2] = 1 + initial[:, 2].abs()
        initial[:1] = 0
    return [
        generated(batch, time, gates, hidden, seed=0),
        generated(gates, hidden, width, seed=1) / width**0.5,
        generated(gates, hidden, seed=2) if bias else None,
        generated(3, hidden, seed=3) if peepholes else None,
        initial if begun else None,
    ]


def compare(kind, tensors, lengths=None, dtype=torch.float64):
    """Compare outputs, last states and gradients with the definition in double precision."""
    results = []
    for operator, used in ((recurrent, dtype), (reference.recurrent, torch.float64)):
        arguments = [None if x is None else x.to(used).requires_grad_() for x in map(copied, tensors)]
        leaves = [x for x in arguments if x is not None]
        y = [
            one + 0 * sum(x.sum() for x in leaves) for one in operator(kind, *arguments, lengths)
        ]  # without steps, too
        grads = [generated(*one.shape, seed=5).to(used) for one in y]
        gradients = torch.autograd.grad(y, leaves, grads, materialize_grads=True)
        with torch.no_grad():
            again = operator(kind, *arguments, lengths)
        results.append([*y, *again, *gradients])
    for mine, its in zip(*results, strict=True):
        assert mine.shape == its.shape
        assert mine.dtype == dtype
        if its.numel():
            assert (mine - its).abs().max() <= TOLERANCE[dtype] * max(its.abs().max(), 0.3)


def copied(x):
    """Copy a tensor, if it is one."""
    return None if x is None else x.clone()


@pytest.mark.parametrize(("kind", "peepholes"), KINDS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 0, 1, 3), (0, 4, 1, 3), (1, 63, 1, 8), (3, 10, 2, 5)])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_equals_the_definition(kind, peepholes, shape, dtype):
    compare(kind, inputs(kind, *shape, peepholes=peepholes), dtype=dtype)


@pytest.mark.parametrize(("kind", "peepholes"), KINDS)
def test_many_steps(kind, peepholes):
    compare(kind, inputs(kind, 1, 300, 1, 4, peepholes=peepholes, begun=False), dtype=torch.float32)


@settings(deadline=None, max_examples=40, derandomize=True, database=None)
@given(st.data())
def test_any_shape(data):
    kind, peepholes = data.draw(st.sampled_from(KINDS))
    batch, time, heads, width = (data.draw(st.integers(*span)) for span in ((1, 4), (0, 12), (1, 3), (1, 4)))
    lengths = data.draw(st.lists(st.integers(0, time), min_size=batch, max_size=batch))
    tensors = inputs(
        kind, batch, time, heads, width,
        bias=data.draw(st.booleans()), peepholes=peepholes, begun=data.draw(st.booleans()),
    )  # fmt: skip
    compare(kind, tensors, torch.tensor(lengths) if data.draw(st.booleans()) else None)


@pytest.mark.parametrize(("kind", "peepholes"), KINDS)
def test_derivatives(kind, peepholes):
    tensors = inputs(kind, 2, 4, 2, 2, peepholes=peepholes)
    if kind == "slstm":
        tensors[-1] = tensors[-1][1:].repeat(2, 1, 1)  # at a state that is new nothing is differentiable
    leaves = [x.requires_grad_() for x in tensors if x is not None]

    def operator(*given):
        left = list(given)
        arguments = [None if x is None else left.pop(0) for x in tensors]
        return recurrent(kind, *arguments, lengths=torch.tensor([4, 2]))

    assert torch.autograd.gradcheck(operator, leaves)


@pytest.mark.parametrize(("kind", "peepholes"), KINDS)
def test_a_sequence_may_be_cut_anywhere(kind, peepholes):
    x, *others, initial = inputs(kind, 2, 30, 1, 4, peepholes=peepholes)
    whole, end = recurrent(kind, x, *others, initial)
    for cut in (0, 1, 17, 29, 30):
        first, state = recurrent(kind, x[:, :cut], *others, initial)
        second, last = recurrent(kind, x[:, cut:], *others, state)
        assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-14)
        assert torch.allclose(last, end, atol=1e-14)
        assert last.is_contiguous()
        assert last.untyped_storage().nbytes() == last.numel() * last.element_size()


@pytest.mark.parametrize(("kind", "peepholes"), KINDS)
def test_padding_changes_nothing(kind, peepholes):
    """Rows with NaN and junk beyond their lengths give the numbers and gradients of each alone."""
    x, *others, initial = inputs(kind, 3, 8, 1, 4, peepholes=peepholes)
    lengths = torch.tensor([8, 3, 0], dtype=torch.int32)
    x[1, 3:], x[2] = torch.nan, 1e300
    leaves = [one.requires_grad_() for one in (x, *others) if one is not None]
    y, last = recurrent(kind, x, *others, initial, lengths)
    (y.sum() + last.sum()).backward()
    found = [leaf.grad for leaf in leaves]
    alone = [recurrent(kind, x[i : i + 1, :n], *others, initial[i : i + 1]) for i, n in enumerate(lengths.tolist())]
    for row, (y_row, last_row) in enumerate(alone):
        assert torch.allclose(y[row, : y_row.shape[1]], y_row[0], atol=1e-13)
        assert y[row, y_row.shape[1] :].eq(0).all()
        assert torch.allclose(last[row], last_row[0], atol=1e-13)
    expected = torch.autograd.grad(sum(y.sum() + last.sum() for y, last in alone), leaves)
    for mine, its in zip(found, expected, strict=True):
        assert torch.allclose(mine, its, atol=1e-12)


def test_an_lstm_whose_gates_are_open_adds_up():
    x = torch.zeros(1, 50, 4, 1, dtype=torch.float64)
    x[:, :, (0, 1, 3)] = 1e3
    x[:, :, 2] = 0.01
    y, last = recurrent("lstm", x, torch.zeros(4, 1, 1, dtype=torch.float64))
    steps = torch.arange(1, 51, dtype=torch.float64)
    assert torch.allclose(y[0, :, 0], torch.tanh(steps * torch.tanh(torch.tensor(0.01).double())))
    assert torch.equal(last[:, 0], y[:, -1])


def test_an_slstm_is_a_weighted_mean_at_any_magnitude():
    """Its memory is a mean with weights exp(input gate), whose scale does not matter, and nothing overflows."""
    levels = torch.tensor([0.0, 1.0, -2.0, 3.0])
    for shift in (0.0, 80.0, 1e4, -1e4):
        x = torch.zeros(1, 4, 4, 1)
        x[0, :, 0, 0] = levels + shift
        x[:, :, (1, 3)] = 1e9
        x[0, :, 2, 0] = torch.tensor([1.0, -1.0, 0.5, 2.0])
        x.requires_grad_()
        y, last = recurrent("slstm", x, torch.zeros(4, 1, 1))
        weights = (levels.double()[None] * torch.ones(4, 1)).exp().tril()
        expected = (weights * x.detach()[0, :, 2, 0].double().tanh()).sum(1) / weights.sum(1)
        assert torch.allclose(y[0, :, 0].double(), expected, rtol=2e-3 if abs(shift) > 100 else 1e-5)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert gradient.isfinite().all()
        assert last.isfinite().all()


@pytest.mark.parametrize("kind", list(GATES))
def test_half_precision_keeps_its_state_in_single(kind):
    tensors = inputs(kind, 2, 20, 1, 4, begun=False)
    x = tensors[0].bfloat16().requires_grad_()
    others = [None if one is None else one.float() for one in tensors[1:]]
    y, last = recurrent(kind, x, *others)
    expected, _ = recurrent(kind, x.float(), *others)
    assert y.dtype == torch.bfloat16
    assert last.dtype == torch.float32
    assert torch.equal(y, expected.bfloat16())
    y.float().sum().backward()
    assert x.grad.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(recurrent(kind, x.float(), *others)[0], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "rnn"}, "no recurrence of kind 'rnn'"),
        ({"x": torch.zeros(2, 3, 3, 4)}, "x is"),
        ({"x": torch.zeros(2, 3, 16)}, "x is"),
        ({"weight": torch.zeros(4, 4, 3)}, "recurrent weights"),
        ({"weight": torch.zeros(4, 4, 0)}, "recurrent weights"),
        ({"bias": torch.zeros(16)}, "bias"),
        ({"peepholes": torch.zeros(4, 4)}, "peepholes"),
        ({"kind": "slstm", "peepholes": torch.zeros(3, 4)}, "hint: only an LSTM"),
        ({"initial": torch.zeros(2, 4)}, "initial state"),
        ({"lengths": torch.ones(3)}, "lengths"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    arguments = {"kind": "lstm", "x": torch.zeros(2, 3, 4, 4), "weight": torch.zeros(4, 4, 4)} | change
    with pytest.raises(ValueError, match=message) as raised:
        recurrent(**arguments)
    assert "\nhint: " in str(raised.value)
