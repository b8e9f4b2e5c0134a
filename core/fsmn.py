"""FSMN: feedforward sequential memory networks, memories of learned taps instead of recurrences.

Zhang, Liu, Jiang, Wei, Dai, Hu: "Feedforward Sequential Memory Networks", 2015; deep form: Zhang, Lei, Yan, Dai 2018.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.core.block import Block, Frames, Window
from wavecast.core.groups import Chain, Fork, Skip, concatenate, identity
from wavecast.core.normalization import ChannelPReLU, InstanceNorm, RunningInstanceNorm
from wavecast.core.ops.depthwise import depthwise
from wavecast.core.state import Tail

FEW = 2  # frames up to which a convolution costs more to set up than to multiply out


class TimeMemory(Window):
    """Each channel plus taps of its own past: y_t = x_t + sum_i w_i x_(t - i dilation); (batch, time, ..., channel).

    Args:
        channels: of the last axis.
        taps: of each channel, the current step included.
        dilation: steps between taps.
    """

    def __init__(self, channels: int, taps: int, dilation: int = 1) -> None:
        super().__init__((taps - 1) * dilation + 1, left=(taps - 1) * dilation)
        self.taps, self.dilation = taps, dilation
        self.weight = nn.Parameter(torch.randn(channels, taps) * (0.5 / taps**0.5))

    def operator(self, x: Tensor) -> Tensor:
        """Sum the taps, the newest last, and the step itself."""
        return x[:, self.left :] + taps_over_time(x, self.weight, self.dilation)

    def step(self, x: Tensor, state: Tail | None, last: bool) -> tuple[Tensor, Tail]:
        """Filter the next piece; a live step reads its taps where they lie, for joining them all costs far more."""
        if state is None or x.shape[1] != 1 or self.taps == 1:
            return super().step(x, state, last)
        past = self.weight[:, :-1].T.reshape(-1, *[1] * (x.ndim - 3), x.shape[-1])
        y = x + (x * self.weight[:, -1] + (state.past[:, :: self.dilation] * past).sum(1, keepdim=True))
        return y, Tail(torch.cat([state.past[:, 1:], x], 1))


def taps_over_time(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Convolve each channel along time without padding.

    A dilated depthwise convolution is slow in the backward pass; steps of equal phase viewed as rows of an image make
    it a plain one. Short pieces take the direct way, where that would be mostly padding.

    Args:
        x: (batch, time, ..., channel).
        weight: (channel, taps), oldest first.
        dilation: steps between taps.
    """
    taps, between = weight.shape[1], x.shape[2:-1].numel()
    out = x.shape[1] - (taps - 1) * dilation
    if out <= FEW:
        return (x.unfold(1, x.shape[1] - out + 1, 1)[..., ::dilation] * weight).sum(-1)
    phases = dilation if out >= 4 * dilation else 1
    y = functional.pad(x.flatten(2), (0, 0, 0, -x.shape[1] % phases))
    image = y.reshape(x.shape[0], -1, phases * between, x.shape[-1]).permute(0, 3, 1, 2)
    kernel = weight[:, None, :, None]
    y = functional.conv2d(image, kernel, dilation=(dilation // phases, 1), groups=len(weight)).permute(0, 2, 3, 1)
    return y.reshape(x.shape[0], -1, *x.shape[2:])[:, :out]


class Memory(Window):
    """The memory in full: taps of the past and of the future, each with a stride of its own; (batch, time, channel).

        y_t = x_t + sum_(i < back) w_i x_(t - i back_stride) + sum_(1 <= j <= ahead) v_j x_(t + j ahead_stride)

    With taps of the future the output of a stream comes that much later, and equals that of the whole sequence.

    Args:
        channels: of the last axis.
        back: taps of the past, the current step included; oldest first in `weight`, (channel, back).
        ahead: taps of the future; nearest first in `ahead`, (channel, ahead).
        back_stride: steps between taps of the past.
        ahead_stride: steps between taps of the future.
    """

    def __init__(self, channels: int, back: int, ahead: int = 0, back_stride: int = 1, ahead_stride: int = 1) -> None:
        past, future = (back - 1) * back_stride, ahead * ahead_stride
        super().__init__(past + 1 + future, left=past, right=future)
        self.back_stride, self.ahead_stride = back_stride, ahead_stride
        self.weight = nn.Parameter(torch.empty(channels, back).uniform_(-(back**-0.5), back**-0.5))
        self.ahead = None
        if ahead:
            self.ahead = nn.Parameter(torch.empty(channels, ahead).uniform_(-(ahead**-0.5), ahead**-0.5))

    def operator(self, x: Tensor) -> Tensor:
        """Sum the step itself, its past and its future."""
        steps = x.shape[1] - self.span + 1
        now = x[:, self.left : self.left + steps]
        y = depthwise(x[:, : self.left + steps], self.weight, dilation=self.back_stride, residual=now)
        if self.ahead is None:
            return y
        return depthwise(x[:, self.left + self.ahead_stride :], self.ahead, dilation=self.ahead_stride, residual=y)


class CompactFSMN(Chain):
    """A compact FSMN layer (Zhang et al. 2016): projection, memory, affine, ReLU; (batch, time, channel).

    Args:
        inputs: channels in.
        width: of the projection, on which the memory works.
        outputs: channels out.
        memory: keyword arguments of `Memory` beside the channels.
    """

    def __init__(self, inputs: int, width: int, outputs: int, memory: dict[str, int]) -> None:
        super().__init__(
            project=Frames(nn.Linear(inputs, width, bias=False)),
            memory=Memory(width, **memory),
            affine=Frames(nn.Sequential(nn.Linear(width, outputs), nn.ReLU())),
        )


class DeepFSMN(Skip):
    """A deep FSMN layer (Zhang et al. 2018): two linear layers, memory, and the input added; (batch, time, channel).

    Args:
        channels: in and out.
        hidden: between the linear layers.
        memory: of the layer: `Memory`, `DilatedDense`, or another block over the same channels.
        norm: normalize each step over its channels first, so that many layers train.
    """

    def __init__(self, channels: int, hidden: int, memory: Block, norm: bool = False) -> None:
        linear = nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels, bias=False)
        project = nn.Sequential(*([nn.LayerNorm(channels)] if norm else []), *linear)
        super().__init__(Chain(project=Frames(project), memory=memory))


class GroupedConvolution(Window):
    """Every channel from a few neighboring input channels and both sides of time; (batch, time, inputs channels).

    Args:
        channels: out; output channel g reads input channels [g inputs, (g + 1) inputs).
        inputs: channels that each reads.
        taps: odd; the middle one reads the current step.
        dilation: steps between them.
        causal: the last one reads the current step instead.
    """

    def __init__(self, channels: int, inputs: int, taps: int, dilation: int, causal: bool = False) -> None:
        side = taps // 2 * dilation
        ahead = 0 if causal else side
        super().__init__(2 * side + 1, left=2 * side - ahead, right=ahead)
        bound = (inputs * taps) ** -0.5
        self.weight = nn.Parameter(torch.empty(channels, inputs, taps).uniform_(-bound, bound))
        self.dilation = dilation

    def operator(self, x: Tensor) -> Tensor:
        """Filter each of a channel's inputs by its own taps, and add them up."""
        weight = self.weight.flatten(0, 1)
        return depthwise(x, weight, dilation=self.dilation).unflatten(2, self.weight.shape[:2]).sum(3)


class DilatedDense(Chain):
    """A memory of dilated layers, each of which sees all layers before it: (batch, time, channel) to the same.

    Layer i has dilation 2^i and reads its outputs-so-far next to the input, newest first; it is the memory of
    MossFormer2's separator (Zhao et al. 2024), where the concatenated channels are grouped as they stand.

    Args:
        channels: in and out.
        order: taps on each side of a step, that step included.
        depth: layers.
        running: normalize by the statistics of the signal so far instead of the whole signal's, so that it streams.
        decay: of those statistics, from one step to the next; 1 is all of the past alike.
        causal: all taps read the past.
    """

    def __init__(
        self,
        channels: int,
        order: int,
        depth: int = 2,
        running: bool = False,
        decay: float = 1.0,
        causal: bool = False,
    ) -> None:
        layers: dict[str, Block] = {}
        for i in range(depth):
            layer = Chain(
                convolution=GroupedConvolution(channels, i + 1, 2 * order - 1, 2**i, causal),
                norm=RunningInstanceNorm(channels, decay) if running else InstanceNorm(channels),
                rectify=Frames(ChannelPReLU(channels)),
            )
            layers[f"layer{i}"] = layer if i == depth - 1 else Fork(concatenate, new=layer, old=identity())
        super().__init__(**layers)
