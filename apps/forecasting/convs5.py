"""ConvS5: the next frame of a film or a field from all frames before it.

Smith, De Mello, Kautz, Linderman, Byeon: "Convolutional State Space Models for Long-Range Spatiotemporal Modeling",
NeurIPS 2023 (arXiv 2310.19694). With its default arguments this is the published Moving-MNIST model, whose weights load
(`convs5_official`). Different: the discretization is accurate unless asked for as published, every convolution can go
round the globe, and a model without the action path, of other depths or for other channels is one argument away.

Output step t is the forecast of input step t + 1. Teacher forcing is `network(frames[:, :-1])` against `frames[:, 1:]`;
a rollout feeds the last output back in with `last=False` (`rollout`).

Axes: batch time row col channel.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from wavecast.core.block import Block, Frames, mask_beyond
from wavecast.core.convssm import ConvS5Layer
from wavecast.core.frame_layers import EPSILON, FrameConvolution, FrameGroupNorm, FrameUpsampling, recomputed
from wavecast.core.groups import Chain
from wavecast.core.hippo import truncated_normal
from wavecast.core.state import State

DEPTHS = (64, 128, 256)
RESIDUAL_SCALE = 0.1
FRAMES_AT_ONCE = 16  # of all batch rows together, where no frame need be kept: more are no faster


class ConvS5(Chain):
    """Forecast frames: (batch, time, row, col, channels) to the same, step t the forecast of step t + 1.

    Args:
        channels: of a frame.
        output_channels: of the forecast; those of a frame by default, so that it can be the next input.
        depths: channels of the encoder at each resolution, the finest first; each halves rows and columns.
        width: channels of the sequence layers.
        size: of their real state.
        layers: of the sequence model.
        kernel: rows and columns of the sequence layers' convolutions, odd.
        state_blocks: the initial state matrix is that many smaller HiPPO matrices.
        frame_blocks: residual blocks at each resolution (the encoder has one at the finest).
        nonlinearity: of the sequence layers, see `ConvS5Layer`.
        groups: of the group normalizations.
        action_path: keep the path of the published model through which it would be told actions; its only action here
            is "nothing".
        bounded: outputs within [-1, 1] by a tanh, as frames are; False for fields.
        clip: the eigenvalues, see `ConvSSM`.
        discretization: "accurate" or "published", see `ConvSSM`.
        boundary: "zeros" (published) or "longitude" (global grids), see `convolve_frames`.
        checkpointing: in training keep only the input of encoder, decoder and each sequence layer, and compute the rest
            again for the gradient: memory for long sequences against about a third more time.

    Attributes:
        multiple: of rows and columns that frames must fill.
    """

    def __init__(
        self,
        channels: int = 1,
        output_channels: int | None = None,
        depths: tuple[int, ...] = DEPTHS,
        width: int = 256,
        size: int = 256,
        layers: int = 8,
        kernel: int = 3,
        state_blocks: int = 1,
        frame_blocks: int = 1,
        nonlinearity: str = "resnet",
        groups: int = 32,
        action_path: bool = True,
        bounded: bool = True,
        clip: bool = True,
        discretization: str = "accurate",
        boundary: str = "zeros",
        checkpointing: bool = False,
    ) -> None:
        sequence = (
            ConvS5Layer(width, size, kernel, state_blocks, nonlinearity, groups, clip, discretization, boundary)
            for _ in range(layers)
        )
        outputs = output_channels or channels
        each_frame = CheckpointedFrames if checkpointing else Frames
        super().__init__(
            encoder=each_frame(FrameEncoder(channels, depths, frame_blocks, groups, boundary)),
            entry=Frames(Entry(depths[-1], width, action_path)),
            sequence=CheckpointedLayers(*sequence) if checkpointing else Chain(*sequence),
            decoder=each_frame(FrameDecoder(width, outputs, depths, frame_blocks, groups, bounded, boundary)),
        )
        self.multiple = 2 ** (len(depths) - 1)

    def step(self, x: Tensor, state: State, last: bool, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Forecast; without gradients a few frames at a time, as a stream would."""
        if torch.is_grad_enabled() or not x.numel():
            return super().step(x, state, last)
        outputs = []
        for piece in few_frames(x):
            y, state = super().step(piece, state, last=False)
            outputs.append(y)
        return torch.cat(outputs, 1), state

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Mask at the door: nothing behind it looks ahead, so what lies beyond the lengths reaches no valid frame."""
        return self.step(mask_beyond(x, lengths), None, True)


def few_frames(x: Tensor) -> tuple[Tensor, ...]:
    """Cut a sequence into pieces of a few frames, all batch rows together."""
    return x.split(max(1, FRAMES_AT_ONCE // x.shape[0]), 1)


class CheckpointedLayers(Chain):
    """Blocks in a row of which only the inputs are kept for the gradient."""

    def step(
        self, x: Tensor, state: tuple[State, ...] | None, last: bool, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run the blocks on."""
        if not torch.is_grad_enabled():
            return super().step(x, state, last, lengths)
        after = []
        for block, before in zip(self.parts(), state or [None] * len(self.order), strict=True):
            x, one = checkpoint(block.step, x, before, last, use_reentrant=False, preserve_rng_state=False)
            after.append(one)
        return x, tuple(after)


class CheckpointedFrames(Frames):
    """A map of single frames of which only the input is kept for the gradient, which takes a few frames at a time."""

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Map the frames."""
        if not torch.is_grad_enabled() or not x.numel():
            return super().step(x, state, last)
        pieces = [
            checkpoint(self.function, piece, use_reentrant=False, preserve_rng_state=False) for piece in few_frames(x)
        ]
        return torch.cat(pieces, 1), ()


class FrameEncoder(nn.Module):
    """Frames to latents: (batch, time, row, col, channels) to (batch, time, row / 2^n, col / 2^n, depths[-1]).

    Args:
        channels: of a frame.
        depths: channels at each of the n + 1 resolutions, the finest first.
        blocks: at each resolution but the finest, which has one.
        groups: of the normalizations.
        boundary: of the convolutions.

    Raises:
        ValueError: (in a call) rows or columns cannot be halved n times.
    """

    def __init__(self, channels: int, depths: tuple[int, ...], blocks: int, groups: int, boundary: str) -> None:
        super().__init__()
        self.factor = 2 ** (len(depths) - 1)
        self.convolution = FrameConvolution(channels, depths[0], boundary=boundary)
        self.levels = nn.ModuleList()
        before = depths[0]
        for i, depth in enumerate(depths):
            self.levels.append(level(before, depth, blocks if i else 1, groups, boundary))
            before = depth

    def forward(self, x: Tensor) -> Tensor:
        """Encode every frame."""
        if x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(
                f"frames of {x.shape[2]} rows and {x.shape[3]} columns\n"
                f"hint: cut or pad both to multiples of {self.factor}"
            )
        x = self.convolution(x)
        for i, blocks in enumerate(self.levels):
            x = blocks(halved(x) if i else x)
        return x


class Entry(nn.Module):
    """From the encoder's latents to the sequence layers' width, a pixel at a time; (..., channel).

    Args:
        inputs: channels of the latents.
        outputs: the width.
        action_path: join the embedding of the action "nothing" to every pixel.
    """

    def __init__(self, inputs: int, outputs: int, action_path: bool) -> None:
        super().__init__()
        self.linear = pixelwise(inputs + action_path, outputs)
        self.actions = nn.Embedding(2, 1) if action_path else None  # "nothing", and the published model's "unknown"

    def forward(self, x: Tensor) -> Tensor:
        """Project; what the embedding adds is the same everywhere, so it is a bias."""
        if self.actions is None:
            return self.linear(x)
        weight = self.linear.weight
        bias = self.linear.bias + weight[:, -1] * self.actions.weight[0]
        return functional.linear(x, weight[:, :-1], bias)


class FrameDecoder(nn.Module):
    """Latents to frames: (batch, time, row, col, width) to (batch, time, row * 2^n, col * 2^n, channels).

    Args:
        width: channels of the latents.
        channels: of a frame.
        depths: channels at each of the n + 1 resolutions, the finest first, as in the encoder.
        blocks: at each resolution.
        groups: of the normalizations.
        bounded: end with a tanh.
        boundary: of the convolutions.
    """

    def __init__(
        self, width: int, channels: int, depths: tuple[int, ...], blocks: int, groups: int, bounded: bool, boundary: str
    ) -> None:
        super().__init__()
        self.bounded = bounded
        self.convolution = FrameConvolution(width, depths[0], boundary=boundary)
        self.levels = nn.ModuleList()
        before = depths[0]
        for i, depth in enumerate(reversed(depths)):
            self.levels.append(level(before, depth, blocks, groups, boundary, doubling=i > 0))
            before = depth
        self.norm = nn.LayerNorm(before, EPSILON)
        self.linear = pixelwise(before, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Decode every frame."""
        x = self.convolution(x)
        for blocks in self.levels:
            x = blocks(x)
        x = self.linear(self.norm(x))
        return torch.tanh(x) if self.bounded else x


class ResidualBlock(nn.Module):
    """skip(x) + 0.1 convolve(act(norm(convolve(act(norm(x)))))); (batch, time, row, col, inputs) to outputs.

    Args:
        inputs: channels in.
        outputs: channels out; where they differ, skip is linear, else it is x.
        groups: of the normalizations.
        boundary: of the convolutions.
        doubling: rows and columns are doubled first. What works on single pixels or averages over the frame is the same
            before and after, so it is done on the small frame.
    """

    def __init__(self, inputs: int, outputs: int, groups: int, boundary: str, doubling: bool = False) -> None:
        super().__init__()
        self.doubling = doubling
        self.norm1 = FrameGroupNorm(inputs, groups)
        first = FrameUpsampling if doubling else FrameConvolution
        self.convolution1 = first(inputs, outputs, boundary=boundary)
        self.norm2 = FrameGroupNorm(outputs, groups)
        self.convolution2 = FrameConvolution(outputs, outputs, boundary=boundary)
        self.skip = pixelwise(inputs, outputs, bias=False) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Add what two convolutions make of it."""
        h = recomputed(self.second, recomputed(self.first, x))
        skip = self.skip(x)
        return torch.add(doubled(skip) if self.doubling else skip, h, alpha=RESIDUAL_SCALE)

    def first(self, x: Tensor) -> Tensor:
        """Normalize, activate, convolve."""
        return self.convolution1(functional.elu(self.norm1(x), inplace=True))

    def second(self, h: Tensor) -> Tensor:
        """Normalize, activate, convolve."""
        return self.convolution2(functional.elu(self.norm2(h), inplace=True))


def level(inputs: int, outputs: int, blocks: int, groups: int, boundary: str, doubling: bool = False) -> nn.Sequential:
    """Build the residual blocks of one resolution."""
    first = ResidualBlock(inputs, outputs, groups, boundary, doubling)
    return nn.Sequential(first, *(ResidualBlock(outputs, outputs, groups, boundary) for _ in range(blocks - 1)))


def pixelwise(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """Build a linear map of the channels, initialized like the convolutions."""
    linear = nn.Linear(inputs, outputs, bias)
    linear.weight.data = truncated_normal(outputs, inputs, variance=1 / inputs)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def halved(x: Tensor) -> Tensor:
    """Average pixels two by two."""
    frames = functional.avg_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), 2)
    return frames.permute(0, 2, 3, 1).contiguous().unflatten(0, x.shape[:2])


def doubled(x: Tensor) -> Tensor:
    """Repeat every pixel two by two."""
    batch, time, row, col, channel = x.shape
    x = x[:, :, :, None, :, None].expand(batch, time, row, 2, col, 2, channel)
    return x.reshape(batch, time, 2 * row, 2 * col, channel)


@torch.no_grad()
def rollout(network: Block, frames: Tensor, steps: int) -> Tensor:
    """Forecast the frames that follow: every forecast is the next input.

    Args:
        network: its output step t is the forecast of input step t + 1.
        frames: (batch, time, row, col, channel) to begin from, at least one.
        steps: to forecast, at least one.

    Returns:
        (batch, steps, row, col, channel), as the network gives them: values are not clipped.

    Raises:
        ValueError: there is no frame to begin from, or nothing to forecast.
    """
    if frames.shape[1] < 1 or steps < 1:
        raise ValueError(f"{frames.shape[1]} frames and {steps} steps\nhint: a rollout takes at least one of each")
    y, state = network(frames, last=False)
    forecasts = [y[:, -1:]]
    for _ in range(steps - 1):
        y, state = network(forecasts[-1], state, last=False)
        forecasts.append(y)
    return torch.cat(forecasts, 1)


@dataclass(frozen=True)
class PublishedLosses:
    """The loss the published models were trained by, and its parts; 0-d tensors."""

    loss: Tensor
    squared: Tensor
    absolute: Tensor


def published_losses(forecast: Tensor, target: Tensor, weight: float = 0.5) -> PublishedLosses:
    """Weigh squared and absolute errors as published: summed over col and channel, averaged over the rest.

    It is `col * channel` times a mean over pixels: for frames of 64 columns a learning rate goes with that.

    Args:
        forecast: (batch, time, row, col, channel).
        target: the same shape.
        weight: of the squared error; the absolute one has the rest.
    """
    error = forecast - target
    squared = error.square().sum((-2, -1)).mean()
    absolute = error.abs().sum((-2, -1)).mean()
    return PublishedLosses(weight * squared + (1 - weight) * absolute, squared, absolute)
