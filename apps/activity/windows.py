"""A network over the sliding windows of a video that goes on and on.

A window lasts some seconds and begins some seconds after the one before it. Its frames lie evenly in it: frame i is the
one that is shown at the middle of the i-th of equal parts. Each frame is encoded once, for all windows that see it, and
let go; windows keep features, or the state of a head that follows them frame by frame.
"""

from collections.abc import Callable, Iterator
from math import inf
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from wavecast.apps.activity.networks import ActivityNetwork
from wavecast.core.block import Block
from wavecast.core.state import State
from wavecast.core.stream import flushed_denormals
from wavecast.datamodules.clip_sampling import ROUNDING, middles


class Head(Protocol):
    """The head of a network within one window."""

    taken: int

    def take(self, features: Tensor, count: int) -> None:
        """Take the features (1, 1, width) of a frame that the window sees `count` times."""

    def now(self) -> Tensor:
        """Give the probabilities (classes,) as far as frames were taken, one at least."""


class Following:
    """A head that streams: the mean of what it says at its steps, each window from its own beginning.

    Args:
        head: (batch, time, feature) to logits (batch, time, class).
    """

    def __init__(self, head: Block) -> None:
        self._head, self._total = head, torch.zeros(())
        self._state: State = None
        self._steps = self.taken = 0

    def take(self, features: Tensor, count: int) -> None:
        """Follow on."""
        logits, self._state = self._head(features.expand(-1, count, -1), self._state, last=False)
        self._total = self._total.to(logits) + logits[0].softmax(-1).sum(0)
        self._steps += logits.shape[1]
        self.taken += count

    def now(self) -> Tensor:
        """Give the mean so far."""
        return self._total / self._steps


class Gathering:
    """A head that needs the whole clip: the features wait until it is there.

    Args:
        head: (batch, time, feature) to logits (batch, 1, class).
        frames: of a clip. Of a window that ends early, the frames that are there are spread over it.
    """

    def __init__(self, head: Block, frames: int) -> None:
        self._head, self._frames = head, frames
        self._features: list[Tensor] = []
        self.taken = 0

    def take(self, features: Tensor, count: int) -> None:
        """Keep the features."""
        self._features += [features] * count
        self.taken += count

    def now(self) -> Tensor:
        """Look at the clip."""
        spread = middles(0, self.taken, self._frames).astype(int)
        clip = torch.cat([self._features[k] for k in spread], 1)
        return self._head(clip)[0][0].softmax(-1).mean(0)


class SlidingWindows:
    """A network over the windows of one video.

    Args:
        network: in eval mode.
        device: where it is.
        window: seconds of a window.
        stride: seconds from one to the next.
        end: of the video in seconds, where that is known: the last window ends there then. Else windows begin for ever.
    """

    def __init__(
        self, network: ActivityNetwork, device: torch.device, window: float, stride: float, end: float | None = None
    ) -> None:
        self._encoder, self._head = network.get_submodule("encoder"), network.get_submodule("head")
        self._device, self._window = device, window
        self.follows = network.lookahead != inf
        self._frames = network.frames
        if self.follows and network.rate is not None:
            self._frames = max(1, round(window * network.rate))
        self._starts = starts(window, stride, end)
        self._next = next(self._starts, None)
        self._begun = False
        self._open: list[tuple[np.ndarray, Head]] = []

    @torch.inference_mode()
    def show(self, seen: Callable[[], np.ndarray], until: float) -> list[np.ndarray]:
        """Take the next frame.

        Args:
            seen: gives what the network sees of it: float32 (1, row, col, channel); called when a window needs it.
            until: when it is not shown any more, in seconds since the beginning.

        Returns:
            float32 (classes,) for every window that is complete now: probabilities.
        """
        while self._next is not None and self._ticks(self._next)[0] + ROUNDING < until:
            self._begin(self._next)
            self._next = next(self._starts, None)
        features: Tensor | None = None
        done = []
        for ticks, head in self._open:
            count = int(np.searchsorted(ticks, until - ROUNDING)) - head.taken
            if count > 0:
                with flushed_denormals():
                    features = self._encode(seen()) if features is None else features
                    head.take(features, count)
            if head.taken == len(ticks):
                done.append(_probabilities(head))
        self._open = [(ticks, head) for ticks, head in self._open if head.taken < len(ticks)]
        return done

    @torch.inference_mode()
    def oldest(self) -> np.ndarray | None:
        """Give the probabilities of the window that has begun first and is not complete; None: there is none."""
        return _probabilities(self._open[0][1]) if self._open else None

    @torch.inference_mode()
    def rest(self, seen: Callable[[], np.ndarray]) -> np.ndarray | None:
        """End the video, and give the probabilities of the window that the end cuts off; None: nothing is left.

        Args:
            seen: gives what the network sees of the last frame. It counts where the video was too short for any.
        """
        if not self._begun:
            self._begin(0.0)
            with flushed_denormals():
                self._open[0][1].take(self._encode(seen()), 1)
        return self.oldest()

    def _ticks(self, start: float) -> np.ndarray:
        return middles(start, start + self._window, self._frames)

    def _begin(self, start: float) -> None:
        head: Head = Following(self._head) if self.follows else Gathering(self._head, self._frames)
        self._open.append((self._ticks(start), head))
        self._begun = True

    def _encode(self, frame: np.ndarray) -> Tensor:
        return self._encoder(torch.from_numpy(frame)[None].to(self._device))[0]


def _probabilities(head: Head) -> np.ndarray:
    with flushed_denormals():
        return head.now().float().cpu().numpy()


def starts(window: float, stride: float, end: float | None) -> Iterator[float]:
    """Give the beginnings of windows: every stride, and where the end is known one more that ends there, if needed."""
    k = 0
    while end is None or k * stride + window <= end + ROUNDING:
        yield k * stride
        k += 1
    covered = (k - 1) * stride + window if k else 0.0
    if covered < end - ROUNDING:
        yield max(0.0, end - window)
