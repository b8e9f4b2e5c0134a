"""Subsampling by 8: three strided convolutions over time and frequency in front of a Conformer, streaming exactly.

"dw_striding" of Rekesh et al.: "Fast Conformer with Linearly Scalable Attention for Efficient Speech Recognition",
2023. Each stage of a stream keeps the one frame that its next window shares with the last. Axes: batch frame freq
channel.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.core.block import Frames, Window, mask_beyond
from wavecast.core.groups import Chain
from wavecast.core.state import State, Tail

FACTOR = 8
TAPS = 3


class Stage(Window):
    """A 3 by 3 convolution that halves frames and frequencies, and a ReLU.

    Causal: zeros for two frames and frequencies before and one behind, n give n // 2 + 1. Otherwise one on both sides,
    n give ceil(n / 2).
    """

    def __init__(self, causal: bool) -> None:
        super().__init__(TAPS, 2, left=2 if causal else 1, right=1)

    def operator(self, x: Tensor) -> Tensor:
        """Convolve over whole windows of frames, and over padded frequencies."""
        return torch.relu_(self.convolve(x, 0, 0)).permute(0, 2, 3, 1)

    def step(self, x: Tensor, state: Tail | None, last: bool) -> tuple[Tensor, Tail]:
        """Process the next piece; a whole sequence needs no copy with zeros around it."""
        if state is None and last and x.shape[1]:
            return self.whole(x, None), Tail(x)
        return super().step(x, state, last)

    def whole(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """Process a whole sequence; output frames that are `hidden`, bool (batch, frame'), are zero."""
        y = self.convolve(x, self.left, self.right)
        if hidden is not None:
            # Before the ReLU, which lets no gradient through where it gives zero: this needs none of its own.
            y.detach().masked_fill_(hidden[:, None, :, None], 0)
        return torch.relu_(y).permute(0, 2, 3, 1)

    def convolve(self, x: Tensor, before: int, behind: int) -> Tensor:
        """Convolve, with that many frames of zeros around: (batch, channel, frame', freq'), in memory channels last."""
        raise NotImplementedError(f"{type(self).__name__}.convolve")


class FirstStage(Stage):
    """The stage that makes channels: (batch, frame, freq) to (batch, frame', freq', channel)."""

    def __init__(self, channels: int, causal: bool) -> None:
        super().__init__(causal)
        self.convolution = nn.Conv2d(1, channels, TAPS, 2)

    def convolve(self, x: Tensor, before: int, behind: int) -> Tensor:
        """Convolve."""
        x = functional.pad(x, (self.left, self.right, before, behind))
        return self.convolution(x[..., None].permute(0, 3, 1, 2))


class SeparableStage(Stage):
    """A stage of every channel by itself, then a product over channels: (batch, frame, freq, channel) to the same."""

    def __init__(self, channels: int, causal: bool) -> None:
        super().__init__(causal)
        self.depthwise = nn.Conv2d(channels, channels, TAPS, 2, groups=channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def convolve(self, x: Tensor, before: int, behind: int) -> Tensor:
        """Convolve each channel, then mix them.

        The input is the largest tensor of a network, so the convolution pads it, alike on both sides, and what that is
        too much is cut. Channels stay last, which takes a third of the time. The bias goes to the product: a
        convolution takes longer for its gradient than for that of its taps.
        """
        frames = (x.shape[1] + before + behind - TAPS) // 2 + 1
        weight = self.depthwise.weight
        with in_single_precision(x.device.type):
            channels = x.permute(0, 3, 1, 2).to(weight.dtype)
            y = functional.conv2d(channels, weight, None, 2, (before, self.left), groups=len(weight))
        extra = y.shape[2] - frames, y.shape[3] - int(self.out_length(x.shape[2]))
        if any(extra):
            y = functional.pad(y, (0, -extra[1], 0, -extra[0]))
        bias = self.pointwise.bias + self.pointwise.weight[:, :, 0, 0] @ self.depthwise.bias
        return functional.conv2d(y, self.pointwise.weight, bias)


def in_single_precision(device: str) -> AbstractContextManager[None]:
    """Keep to single precision on a processor, where the gradient of a depthwise convolution takes 7 times in bf16."""
    return torch.autocast(device, enabled=False) if device == "cpu" else nullcontext()


class ChannelsFirst(nn.Module):
    """Flatten a frame with its channels outermost, as checkpoints have it: (batch, frame, freq, channel) to a row."""

    def forward(self, x: Tensor) -> Tensor:
        """Flatten."""
        return x.transpose(2, 3).flatten(2)


class Subsampling(Chain):
    """Log-mel features to an eighth of the frames: (batch, frame, mel) to (batch, frame', width).

    Causal, frame k of the output reads the frames 8 k - 14 to 8 k of the input, and n frames give
    ceil((n - 1) / 8) + 1: the last one lies at or beyond the end. Otherwise k reads 8 k - 7 to 8 k + 7, and n frames
    give ceil(n / 8).

    Args:
        mels: of the features.
        channels: of the convolutions.
        width: of the output.
        causal: without look-ahead.
    """

    def __init__(self, mels: int, channels: int, width: int, causal: bool = True) -> None:
        first, second, third = (
            FirstStage(channels, causal),
            SeparableStage(channels, causal),
            SeparableStage(channels, causal),
        )
        freqs = int(third.out_length(second.out_length(first.out_length(mels))))
        super().__init__(
            stage1=first,
            stage2=second,
            stage3=third,
            flatten=Frames(ChannelsFirst()),
            out=Frames(nn.Linear(channels * freqs, width)),
        )

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Process a padded batch: every stage must find zeros beyond the end of a row."""
        x = mask_beyond(x, lengths)
        for stage in (self.stage1, self.stage2, self.stage3):
            lengths = stage.out_length(lengths)
            frames = torch.arange(int(stage.out_length(x.shape[1])), device=x.device)
            x = stage.whole(x, frames >= lengths[:, None])
        return self.out(self.flatten(x)[0])[0], ()
