"""The Legendre memory equals its definition, in outputs and gradients, and its matrices are the published ones."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.signal import cont2discrete
from scipy.special import eval_sh_legendre
from torch.utils._python_dispatch import TorchDispatchMode

from kit.interpreter import generated
from wavecast.core.legendre import doubling_powers, impulse_response, legendre_matrices, settled_response
from wavecast.core.ops.legendre import CHUNK, backend, cpu, legendre, reference, respond

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
SETTLED, SLOW = (6, 12.0), (5, 300.0)
"""Order and steps of a memory whose response dies away within a chunk, and of one whose response is not used whole."""


def system(order, theta, dtype):
    """Give the response, the powers of A, and whether the response has died away."""
    response, settled = settled_response(order, theta, torch.finfo(dtype).eps)
    powers = torch.tensor(doubling_powers(order, theta), dtype=dtype)
    return torch.tensor(response, dtype=dtype), powers, settled


def assert_close(found, expected, tolerance):
    """Compare by the law."""
    assert found.shape == expected.shape
    if expected.numel():
        assert (found - expected).abs().max() <= tolerance * max(expected.abs().max(), 0.3)


def continuous(order):
    """Write the matrices of theta m' = A m + B u down by their formula."""
    a, b = np.zeros((order, order)), np.zeros((order, 1))
    for i in range(order):
        b[i] = (2 * i + 1) * (-1) ** i
        for j in range(order):
            a[i, j] = (2 * i + 1) * (-1 if i < j else (-1) ** (i - j + 1))
    return a, b


@pytest.mark.parametrize(("order", "theta"), [(1, 1.0), (4, 20.0), (9, 4.5), (64, 128.0)])
def test_matrices_equal_scipys(order, theta):
    a, b = continuous(order)
    for method in ("zoh", "euler"):
        expected = cont2discrete((a / theta, b / theta, np.eye(order), np.zeros((order, 1))), 1.0, method)
        transition, entry = legendre_matrices(order, theta, method)
        assert transition.dtype == entry.dtype == np.float64
        np.testing.assert_allclose(transition, expected[0], rtol=0, atol=1e-13)
        np.testing.assert_allclose(entry, expected[1][:, 0], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("order", "radius"), [(256, 0.861), (512, 0.826)])
def test_the_published_memory_forgets(order, radius):
    transition, _ = legendre_matrices(order, 128)
    assert abs(np.abs(np.linalg.eigvals(transition)).max() - radius) < 5e-4
    powers = doubling_powers(order, 128)
    assert np.linalg.norm(powers[-1] @ powers[-1] @ powers[-1], 2) < 1e-3 * np.linalg.norm(powers[0], 2)


def test_the_published_response_is_cut_while_it_is_loud():
    """So a memory of 128 taps is not the recurrence: |H| is 0.50 at its first step and 0.39 at its last."""
    loudness = np.linalg.norm(impulse_response(256, 128, 128)[[0, 127]], axis=1)
    np.testing.assert_allclose(loudness, [0.5, 0.39], atol=0.005)


def test_powers_and_response_are_those_of_the_matrix():
    a, b = continuous(7)
    joint = expm(np.block([[a, b], [np.zeros((1, 8))]]) / 20)
    response = impulse_response(7, 20.0, 40)
    for k in (0, 1, 13, 39):
        np.testing.assert_allclose(response[k], np.linalg.matrix_power(joint[:7, :7], k) @ joint[:7, 7], atol=1e-13)
    for i, power in enumerate(doubling_powers(7, 20.0)):
        np.testing.assert_allclose(power, np.linalg.matrix_power(joint[:7, :7], 2**i), atol=1e-13)


@pytest.mark.parametrize("order", [256, 512])
def test_impulse_response_and_recurrence_agree_in_single_precision(order):
    """The published code multiplies spectra, of the length of its window; ours must be as near the recurrence."""
    u = generated(2, 128, seed=0)
    response, powers, settled = system(order, 128.0, torch.float32)
    memory, _ = legendre(u, response, powers, settled=settled)
    expected, _ = reference.legendre(u, powers[0], response[0])
    spectra = torch.fft.rfft(u, n=256)[..., None] * torch.fft.rfft(response[:128], n=256, dim=0)
    assert (memory - expected).abs().max() < 6e-6
    assert (torch.fft.irfft(spectra, n=256, dim=1)[:, :128] - memory).abs().max() < 6e-6


def test_the_memory_holds_the_past():
    """Its coefficients are those of shifted Legendre polynomials over the last theta steps."""
    order, theta = 12, 100
    time = torch.arange(400, dtype=torch.float64)
    u = torch.sin(time / 15)
    response, powers, settled = system(order, theta, torch.float64)
    memory, _ = legendre(u[None], response, powers, settled=settled)
    for delay in (0, 25, 50, 99):
        readout = torch.tensor([eval_sh_legendre(i, delay / theta) for i in range(order)])
        # A step holds its input, which lies half a step in the past on average.
        expected = torch.sin((time[300:] - delay + 0.5) / 15)
        assert (memory[0, 300:] @ readout - expected).abs().max() < 0.01


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("memory", [SETTLED, SLOW])
@pytest.mark.parametrize("outputs", [None, 3])
@pytest.mark.parametrize(("batch", "time"), [(1, 1), (1, 2), (1, 63), (3, CHUNK), (2, CHUNK + 1), (1, 1000), (2, 0)])
def test_equals_the_definition(batch, time, outputs, memory, dtype):
    response, powers, settled = system(*memory, dtype)
    assert settled == (memory == SETTLED)
    exact = [torch.tensor(matrix) for matrix in legendre_matrices(*memory)]
    shapes = (batch, time), (outputs or 1, memory[0]), (batch, memory[0])
    for begun in (False, True):
        ours = [generated(*shape, seed=i).to(dtype).requires_grad_() for i, shape in enumerate(shapes)]
        its = [x.detach().double().requires_grad_() for x in ours]
        chosen, like = ([x[0], x[1] if outputs else None, x[2] if begun else None] for x in (ours, its))
        found = legendre(chosen[0], response, powers, *chosen[1:], settled=settled)
        expected = reference.legendre(like[0], *exact, *like[1:])
        for mine, definition in zip(
            [*found, *gradients(found, ours)], [*expected, *gradients(expected, its)], strict=True
        ):
            assert mine.dtype == dtype
            assert_close(mine, definition, TOLERANCE[dtype])
        last = found[1]
        assert last.untyped_storage().nbytes() == last.numel() * last.element_size()
        assert last.data_ptr() != ours[2].data_ptr()


def gradients(outputs, inputs):
    """Give the gradients of the same random sum of two outputs, zero for an input that is not used."""
    loss = 0 * sum(x.sum() for x in inputs)
    for i, y in enumerate(outputs):
        loss = loss + (y * generated(*y.shape, seed=3 + i).to(y.dtype)).sum()
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("memory", [SETTLED, SLOW])
def test_a_sequence_may_be_cut_anywhere(memory):
    response, powers, settled = system(*memory, torch.float64)
    u, readout = generated(2, 400, seed=0).double(), generated(3, memory[0], seed=1).double()
    whole, end = legendre(u, response, powers, readout, settled=settled)
    for cut in (0, 1, 130, 399, 400):
        first, state = legendre(u[:, :cut], response, powers, readout, settled=settled)
        second, state = legendre(u[:, cut:], response, powers, readout, state)
        assert_close(torch.cat([first, second], 1), whole, 1e-13)
        assert_close(state, end, 1e-13)


@pytest.mark.parametrize(("taps", "time"), [(1, 1), (1, 5), (7, 1), (7, 63), (20, 1000), (5, 0)])
@pytest.mark.parametrize("outputs", [None, 4])
def test_a_response_cut_short_equals_its_sum(taps, time, outputs):
    response = torch.tensor(impulse_response(6, 12.0, taps))
    x = generated(2, taps - 1 + time, seed=0).double().requires_grad_()
    readout = generated(outputs or 6, 6, seed=1).double().requires_grad_()
    y = respond(x, response, None if outputs is None else readout) + 0 * x.sum()
    by_hand = torch.eye(6).double() if outputs is None else readout
    expected = torch.zeros(2, time, len(by_hand)).double() + 0 * x.sum()
    for k in range(taps):
        expected = expected + x[:, taps - 1 - k : taps - 1 - k + time, None] * (by_hand @ response[k])
    assert_close(y, expected, 1e-13)
    grad = generated(*y.shape, seed=2).double()
    for mine, its in zip(
        torch.autograd.grad(y, (x, readout), grad, materialize_grads=True),
        torch.autograd.grad(expected, (x, readout), grad, materialize_grads=True),
        strict=True,
    ):
        assert_close(mine, its, 1e-13)


@pytest.mark.parametrize("begun", [False, True])
def test_derivatives_of_first_and_second_order(begun):
    response, powers, settled = system(*SETTLED, torch.float64)
    u, readout, initial = (generated(2, 5, seed=0), generated(3, 6, seed=1), generated(2, 6, seed=2))
    inputs = [x.double().requires_grad_() for x in (u, readout, initial)]

    def operator(u, readout, initial):
        return legendre(u, response, powers, readout, initial if begun else None, settled=settled)

    used = inputs if begun else inputs[:2]
    arguments = [*used, *inputs[len(used) :]]
    assert torch.autograd.gradcheck(operator, arguments)
    assert torch.autograd.gradgradcheck(operator, arguments)


class Largest(TorchDispatchMode):
    """Remember the size of the largest tensor that anything computed."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Look at what comes out."""
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("begun", [False, True])
def test_the_memory_is_never_kept_over_time(begun):
    batch, time, order = 2, 2000, 256
    response, powers, settled = system(order, 60.0, torch.float32)
    initial = torch.zeros(batch, order) if begun else None
    with torch.no_grad(), Largest() as largest:
        legendre(
            generated(batch, time, seed=0), response, powers, generated(8, order, seed=1), initial, settled=settled
        )
    assert len(response) < 150
    assert largest.elements <= batch * time * len(response)  # the windows of the input
    assert largest.elements <= 7 * order**2 or not begun  # the powers; a chunk of memories is less


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    response, powers, settled = system(*SETTLED, torch.float32)
    u, readout = generated(2, 300, seed=0).to(dtype), generated(3, 6, seed=1).to(dtype)
    y, last = legendre(u, response, powers, readout, settled=settled)
    expected, end = legendre(u.float(), response, powers, readout.float(), settled=settled)
    assert y.dtype == dtype
    assert torch.equal(y, expected.to(dtype))
    assert torch.equal(last, end)
    with torch.autocast("cpu", torch.bfloat16):
        again, _ = legendre(u.float(), response, powers, readout.float(), settled=settled)
        going_on, _ = legendre(u.float(), response, powers, readout.float(), torch.zeros(2, 6))
    assert torch.equal(again, expected)
    assert_close(going_on, expected, 1e-6)


def test_diagonals():
    x = generated(2, 5, 3, seed=0)
    expected = torch.zeros(2, 7)
    for t in range(5):
        for j in range(3):
            expected[:, t + j] += x[:, t, j]
    assert_close(cpu.sum_diagonals(x), expected, 1e-6)
    assert torch.equal(cpu.sum_diagonals(x[:, :0]), torch.zeros(2, 2))


def test_cpu_tensors_never_reach_triton():
    assert backend(torch.zeros(1)) is cpu


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"u": torch.zeros(2, 9, 1)}, r"the input is \(2, 9, 1\)\nhint: give \(batch, time\)"),
        ({"response": torch.zeros(128, 6).half()}, "the response is torch.float16\nhint: give fp32"),
        ({"response": torch.zeros(20, 6)}, r"\(20, 6\)(.|\n)*hint: 128 steps"),
        ({"powers": torch.zeros(3, 6, 6)}, r"powers \(3, 6, 6\)\nhint:"),
        ({"readout": torch.zeros(6, 3)}, r"do not fit\nhint: \(output, order\)"),
        ({"initial": torch.zeros(2, 1, 6)}, r"hint: give \(batch, order\), \(2, 6\)"),
    ],
)
def test_says_what_does_not_fit(changes, message):
    arguments = {"u": torch.zeros(2, 9), "response": torch.zeros(128, 6), "powers": torch.zeros(7, 6, 6)}
    with pytest.raises(ValueError, match=message):
        legendre(**arguments | changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10.0), r"order 0 over 10.0 steps\nhint: both must be positive"),
        ((4, 0.0), "over 0.0 steps"),
        ((4, 10.0, "tustin"), "method 'tustin'\nhint: one of zoh, euler"),
    ],
)
def test_says_which_matrices_there_are(arguments, message):
    with pytest.raises(ValueError, match=message):
        legendre_matrices(*arguments)
