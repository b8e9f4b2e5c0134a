"""The spiking neuron: leaky, it integrates and fires, and trains by a surrogate gradient.

Neftci, Mostafa, Zenke: "Surrogate Gradient Learning in Spiking Neural Networks", 2019. Fang et al.: "SpikingJelly: An
Open-Source Machine Learning Infrastructure Platform for Spike-Based Intelligence", 2023, whose conventions published
networks were trained with. Axes: batch time, and any features.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from wavecast.core.block import Block
from wavecast.core.ops.scan import scan
from wavecast.core.state import own, state


@state
class Membrane:
    """What a neuron remembers.

    potential: (batch, ...), after the last step and its reset.
    """

    potential: Tensor


class LeakyIntegrateAndFire(Block):
    """A neuron for every feature: (batch, time, ...) to spikes, 0 or 1, of the same shape.

        v = v + (x - v) / tau        s = 1 where v >= threshold, else 0        v = v (1 - s)

    Backward, the derivative of a spike is that of a sigmoid, slope sigmoid(z) (1 - sigmoid(z)) at
    z = slope (v - threshold), and the factor (1 - s) of the reset is a constant.

    Args:
        threshold: potential at which a neuron fires.
        tau: steps by which a potential leaks; 1: it is the input.
        slope: of the sigmoid.

    Raises:
        ValueError: tau below 1.
    """

    def __init__(self, threshold: float = 1.0, tau: float = 2.0, slope: float = 4.0) -> None:
        super().__init__()
        if tau < 1:
            raise ValueError(f"a neuron with tau {tau}\nhint: take 1 (it keeps nothing) or more")
        self.threshold, self.tau, self.slope = threshold, tau, slope

    def step(self, x: Tensor, state: Membrane | None, last: bool) -> tuple[Tensor, Membrane]:
        """Integrate the next steps and fire."""
        potential = x.new_zeros(x.shape[0], *x.shape[2:]) if state is None else state.potential
        spikes, potential = Fire.apply(x, potential, self.threshold, self.tau, self.slope)
        return spikes, Membrane(potential)


class Fire(Function):
    """The neuron's loop along time, with its surrogate gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, potential: Tensor, threshold: float, tau: float, slope: float
    ) -> tuple[Tensor, Tensor]:
        """Give the spikes, like x, and the potential after the last step."""
        reached = torch.empty_like(x)  # before the reset
        for now, v in zip(x.unbind(1), reached.unbind(1), strict=True):
            torch.sub(now, potential, out=v).div_(tau).add_(potential)
            potential = v.masked_fill(v >= threshold, 0)
        ctx.save_for_backward(reached)
        ctx.threshold, ctx.tau, ctx.slope = threshold, tau, slope
        return (reached >= threshold).to(x.dtype), own(potential)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_last: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Run back through time: dv[t] = surrogate(v[t]) ds[t] + (1 - s[t]) (1 - 1 / tau) dv[t + 1], dx = dv / tau."""
        (reached,) = ctx.saved_tensors
        keep = 1 - 1 / ctx.tau
        if not grad.shape[1]:
            return grad, grad_last, None, None, None
        firing = (reached - ctx.threshold).mul_(ctx.slope).sigmoid_()
        driven = torch.ops.aten.sigmoid_backward(grad, firing).mul_(ctx.slope)
        quiet = (reached < ctx.threshold).to(grad.dtype)
        driven[:, -1].addcmul_(quiet[:, -1], grad_last)
        dv, _ = scan(features_last(quiet.mul_(keep)), features_last(driven), reverse=True)
        dv = dv.reshape(grad.shape)
        return dv / ctx.tau, keep * dv[:, 0], None, None, None


def features_last(x: Tensor) -> Tensor:
    """Give (batch, time, features), one feature where there are none."""
    return x[..., None] if x.ndim == 2 else x.flatten(2)
