"""Dilated causal convolutions over time that stream: the TCN, and a depthwise stack with a free factor.

Bai, Kolter, Koltun: "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling",
2018. Axes: batch time channel.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from wavecast.core.block import Block, Frames, Window, zeros_like_steps
from wavecast.core.dropout import Dropout
from wavecast.core.groups import Chain, Fork
from wavecast.core.ops.depthwise import depthwise
from wavecast.core.state import State, Tail, own


class CausalConvolution(Window):
    """A dense convolution over the current step and the ones before it, weight-normed.

    Args:
        inputs: channels in.
        outputs: channels out.
        taps: steps it reads.
        dilation: steps between them.
    """

    def __init__(self, inputs: int, outputs: int, taps: int, dilation: int = 1) -> None:
        past = (taps - 1) * dilation
        super().__init__(past + 1, left=past)
        convolution = nn.Conv1d(inputs, outputs, taps, dilation=dilation)
        nn.init.normal_(convolution.weight, std=0.01)
        self.convolution = weight_norm(convolution)

    def operator(self, x: Tensor) -> Tensor:
        """Convolve without padding."""
        return self.convolution(x.transpose(1, 2)).transpose(1, 2)


class TCN(Chain):
    """A temporal convolutional network: levels of two convolutions and a residual path; dilation doubles.

    Args:
        inputs: channels in.
        channels: out of each level.
        taps: of every convolution.
        dropout: after every convolution.
    """

    def __init__(self, inputs: int, channels: tuple[int, ...], taps: int = 2, dropout: float = 0.2) -> None:
        before = (inputs, *channels)
        levels = {f"level{i}": level(before[i], channels[i], taps, 2**i, dropout) for i in range(len(channels))}
        super().__init__(**levels)
        self.receptive_field = 1 + 2 * (taps - 1) * (2 ** len(channels) - 1)


def level(inputs: int, outputs: int, taps: int, dilation: int, dropout: float) -> Fork:
    """Two convolutions, and a path around them that is 1x1 where the channels differ."""
    around = nn.Linear(inputs, outputs) if inputs != outputs else nn.Identity()
    inner = Chain(
        convolution1=CausalConvolution(inputs, outputs, taps, dilation),
        after1=Frames(nn.Sequential(nn.ReLU(), Dropout(dropout))),
        convolution2=CausalConvolution(outputs, outputs, taps, dilation),
        after2=Frames(nn.Sequential(nn.ReLU(), Dropout(dropout))),
    )
    return Fork(add_and_rectify, around=Frames(around), inner=inner)


def add_and_rectify(around: Tensor, inner: Tensor) -> Tensor:
    """Add two paths, then cut below zero."""
    return torch.relu(around + inner)


class DilatedStack(Block):
    """Depthwise dilated convolutions, weight-normed, each with a residual path: a long past from few layers.

        y_t = x_t + ReLU(sum_k w_k x_(t - (taps - 1 - k) factor^l))          layer l = 0, 1, ...

    With factor <= taps no step of the past is skipped. The channels never mix, and what passes by a layer is not cut.

    Args:
        channels: in and out.
        taps: of every layer.
        factor: from one layer's dilation to the next one's.
        layers: how many.
        share_weights: the same taps in all layers.
    """

    def __init__(self, channels: int, taps: int, factor: int, layers: int, share_weights: bool = False) -> None:
        super().__init__()
        self.dilations = [factor**i for i in range(layers)]
        self.receptive_field = 1 + (taps - 1) * sum(self.dilations)
        sets = 1 if share_weights else layers
        self.direction = nn.Parameter(torch.randn(sets, channels, taps))
        self.size = nn.Parameter(torch.full((sets, channels, 1), taps**-0.5))

    def step(self, x: Tensor, state: tuple[Tail, ...] | None, last: bool) -> tuple[Tensor, State]:
        """Run the layers; the state is the past of each."""
        weights = functional.normalize(self.direction, dim=2) * self.size
        after = []
        for i, dilation in enumerate(self.dilations):
            weight = weights[min(i, len(weights) - 1)]
            past = (weight.shape[1] - 1) * dilation
            window = torch.cat([zeros_like_steps(x, past) if state is None else state[i].past, x], 1)
            after.append(Tail(own(window[:, window.shape[1] - past :])))
            x = x + torch.relu(depthwise(window, weight, dilation=dilation))
        return x, tuple(after)
