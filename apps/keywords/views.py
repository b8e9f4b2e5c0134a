"""Decisions about a stream as the network was trained to make them: from windows of so many frames, each on its own.

A network hears on for as long as the stream does; in training it heard clips. `Views` shows it the stream as clips: the
frames of a window alone, zeros around them where it convolves, memory and membranes at rest at its beginning.

Axes: batch samples; batch frame mel; batch decision classes.
"""

import torch
from torch import Tensor
from torch.nn import functional

from wavecast.apps.keywords.lmuformer import DEVIATION, MEAN, LMUFormer
from wavecast.apps.keywords.spiking_lmuformer import SpikingLMUFormer
from wavecast.core.block import Block, Count
from wavecast.core.state import State, own, state

Network = LMUFormer | SpikingLMUFormer
NOTHING = -MEAN / (2 * DEVIATION)
"""What becomes of a log-mel feature of 0: it fills up short clips."""
TILE = 8
"""Windows that are computed at once."""


@state
class Looking:
    """What later windows still need.

    features: state of the features.
    embedding: state of the embedding; `()` where windows do not share it.
    frames: (batch, frame, mel), from a multiple of the hop on: their number tells how far it is to the next decision.
    embedded: (batch, frame, width), the same frames without the latest; `()` where windows do not share them.
    """

    features: State
    embedding: State
    frames: State
    embedded: State


BEGINNING = Looking(None, None, None, None)
"""Before the first frame."""


class Views(Block):
    """Decide every few frames: (batch, samples) to logits (batch, decision, classes).

    Decision k is the mean of the network's logits over a window that ends with frame k * hop. Near the beginning of a
    stream the window is what was heard so far.

    What lies inside of a window is embedded once for all windows; only within `reach` of its ends it depends on them.
    Neurons remember where a window began: a network of these embeds every window by itself.

    Args:
        network: with the parts features, embedding, blocks and head.
        frames: of a window.
        hop: frames from one decision to the next.

    Raises:
        ValueError: there is no frame in a window or a hop.
    """

    def __init__(self, network: Network, frames: int = 128, hop: int = 8) -> None:
        super().__init__()
        if frames < 1 or hop < 1:
            raise ValueError(f"windows of {frames} frames every {hop}\nhint: both are at least 1")
        self.network, self.frames, self.hop = network, frames, hop
        features = network.features
        self.stride, self.lookahead, self.period = features.stride * hop, features.lookahead, features.period * hop
        self.shared = network.reach is not None and frames >= 2 * network.reach
        self.reach = network.reach or 0
        # Of the frames before the next decision those are kept that its window needs, or that are not embedded yet.
        self.kept = multiple(max(frames, hop + self.reach) - 1, hop)

    def out_length(self, n: Count) -> Count:
        """Count the decisions about n samples."""
        return (self.network.features.out_length(n) + self.hop - 1) // self.hop

    def step(self, x: Tensor, state: Looking | None, last: bool) -> tuple[Tensor, State]:
        """Decide about the windows that the new samples complete."""
        network, before = self.network, state or BEGINNING
        new, features = network.features(x, before.features, last=last)
        frames = joined(before.frames, new)
        heard = frames.shape[1] - new.shape[1]
        embedding: State = ()
        embedded: State = ()
        if self.shared:
            fresh, embedding = network.embedding(new, before.embedding, last=False)
            embedded = joined(before.embedded, fresh)
        ends = range(multiple(heard, self.hop), frames.shape[1], self.hop)
        y = self.decide(frames, embedded, ends)
        unused = max(0, multiple(frames.shape[1], self.hop) - self.kept)
        kept = own(embedded[:, unused:]) if self.shared else ()
        return y, Looking(features, embedding, own(frames[:, unused:]), kept)

    def decide(self, frames: Tensor, embedded: State, ends: range) -> Tensor:
        """Give the logits (batch, window, classes) of the windows that end with the frames `ends`."""
        if not ends:
            return self.network.head(self.network.embedding(frames[:, :0])[0])[0]
        short = [end for end in ends if end + 1 < self.frames]
        alone = [window_logits(self.network, frames[:, : end + 1])[:, None] for end in short]
        starts = [end + 1 - self.frames for end in ends[len(short) :]]
        together = [self.whole_windows(frames, embedded, starts[i : i + TILE]) for i in range(0, len(starts), TILE)]
        return torch.cat([*alone, *together], 1)

    def whole_windows(self, frames: Tensor, embedded: State, starts: list[int]) -> Tensor:
        """Give the logits (batch, window, classes) of whole windows."""
        windows, reach = cut(frames, starts, self.frames), self.reach
        if self.shared:
            inside = cut(embedded, [start + reach for start in starts], self.frames - 2 * reach)
            ends, _ = self.network.embedding(torch.cat([windows[:, : 2 * reach], windows[:, -2 * reach :]]))
            before, behind = ends[: len(windows), :reach], ends[len(windows) :, reach:]
            y = embedded_logits(self.network, torch.cat([before, inside, behind], 1))
        else:
            y = window_logits(self.network, windows)
        return y.unflatten(0, (-1, len(starts)))


def multiple(n: int, hop: int) -> int:
    """Give the first multiple of the hop from n on."""
    return n + -n % hop


def joined(past: Tensor | None, new: Tensor) -> Tensor:
    """Put new frames behind those of the past, if there are any."""
    return new if past is None else torch.cat([past, new], 1)


def cut(x: Tensor, starts: list[int], length: int) -> Tensor:
    """Cut windows out of (batch, frame, channel): (batch * window, length, channel)."""
    return torch.stack([x[:, start : start + length] for start in starts], 1).flatten(0, 1)


def window_logits(network: Network, frames: Tensor) -> Tensor:
    """Apply a network to windows alone.

    Args:
        network: with the parts embedding, blocks and head.
        frames: features (batch, frame, mel), at least one frame.

    Returns:
        Logits (batch, classes), the mean over the frames.
    """
    return embedded_logits(network, network.embedding(frames)[0])


def embedded_logits(network: Network, embedded: Tensor) -> Tensor:
    """Give the logits (batch, classes) of windows that are embedded already: (batch, frame, width)."""
    return network.head(network.blocks(embedded)[0])[0].mean(1)


def clip_features(network: Network, x: Tensor, frames: int = 128) -> Tensor:
    """Give the features of clips as a network was trained on them: cut, or filled with zeros after the logarithm.

    Args:
        network: with the part features.
        x: (batch, samples) at its rate; a second has 98 frames.
        frames: of the clips in training.

    Returns:
        (batch, frames, mel).
    """
    y = network.features(x)[0][:, :frames]
    return functional.pad(y, (0, 0, 0, frames - y.shape[1]), value=NOTHING)


def clip_logits(network: Network, x: Tensor, frames: int = 128) -> Tensor:
    """Classify clips as the official weights were trained.

    Args:
        network: with the parts features, embedding, blocks and head.
        x: (batch, samples) at its rate.
        frames: of the clips in training.

    Returns:
        Logits (batch, classes).
    """
    return window_logits(network, clip_features(network, x, frames))
