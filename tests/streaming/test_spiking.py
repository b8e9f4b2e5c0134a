"""The spiking neuron obeys the law, is its formula, and has the surrogate gradient."""

import pytest
import torch

from kit.streaming import assert_close, check_block, run
from wavecast.core.spiking import LeakyIntegrateAndFire


def by_formula(x, potential, threshold, tau, slope):
    """Run the neuron step by step; autograd differentiates a sigmoid where a step function stands."""
    spikes = []
    for t in range(x.shape[1]):
        potential = potential + (x[:, t] - potential) / tau
        fires = (potential >= threshold).to(x.dtype)
        smooth = torch.sigmoid(slope * (potential - threshold))
        spikes.append(fires + (smooth - smooth.detach()))
        potential = potential * (1 - fires)
    return torch.stack(spikes, 1), potential


@pytest.mark.parametrize("shape", [(3, 60), (3, 60, 4), (3, 40, 2, 3)])
def test_law(shape):
    check_block(LeakyIntegrateAndFire(0.5), torch.randn(shape), examples=5, silence=1000)


@pytest.mark.parametrize(("threshold", "tau", "slope"), [(1.0, 2.0, 4.0), (0.5, 2.0, 4.0), (0.3, 1.0, 2.0), (1, 5, 1)])
@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 63, 4), (1, 1000, 2), (2, 9), (2, 7, 3, 2)])
def test_equals_its_formula(shape, threshold, tau, slope):
    torch.manual_seed(0)
    neuron = LeakyIntegrateAndFire(threshold, tau, slope)
    x = (2 * torch.randn(shape).double()).requires_grad_()
    begun = (0.4 * torch.rand(shape[0], *shape[2:]).double()).requires_grad_()
    _, state = neuron(x[:, :0], last=False)
    y, after = neuron(x, type(state)(begun), last=False)
    expected, potential = by_formula(x, begun, threshold, tau, slope)
    assert torch.equal(y, expected)
    assert torch.equal(after.potential, potential)
    assert 0 < y.mean() < 1 or y.numel() < 4
    grads = [torch.randn_like(y), torch.randn_like(potential)]
    found = torch.autograd.grad([y, after.potential], [x, begun], grads)
    for mine, its in zip(found, torch.autograd.grad([expected, potential], [x, begun], grads), strict=True):
        assert_close(mine, its, 1e-12)


def test_a_spike_resets_to_zero():
    y, state = LeakyIntegrateAndFire()(torch.tensor([[2.0, 1.9, 1.9, 1.9, 0.0]]), last=False)
    assert y.tolist() == [[1, 0, 1, 0, 0]]  # 1 fires; 0.95; 1.425 fires; 0.95; 0.475
    assert_close(state.potential, torch.tensor([0.475]), 1e-6)


def test_a_stream_gives_the_very_same_spikes():
    torch.manual_seed(0)
    neuron, x = LeakyIntegrateAndFire().eval(), 2 * torch.randn(2, 300, 8)
    assert torch.equal(run(neuron, x, [0, 1, 7, 7, 120, 299])[0], neuron(x)[0])


def test_zero_steps_hand_the_gradient_on():
    neuron, x = LeakyIntegrateAndFire(), torch.rand(1, 3, 2, requires_grad=True)
    _, state = neuron(x, last=False)
    _, after = neuron(x[:, :0], state, last=False)
    (grad,) = torch.autograd.grad(after.potential.sum(), x)
    assert grad.count_nonzero() > 0


def test_needs_a_leak():
    with pytest.raises(ValueError, match=r"tau 0.5\nhint: take 1"):
        LeakyIntegrateAndFire(tau=0.5)
