"""What is done in a video: the whole of it, piece by piece along a timeline, or live.

    recognizer = wavecast.load("recognize")
    for name, probability in recognizer("clip.mp4").top(5): ...      # a path, or uint8 (time, row, col, 3) and a rate

    stream = recognizer.stream(rate=25)
    moments = stream.push(frames)                                     # of any number
    rest = stream.flush()

Several models together are fused late: the weighted mean of their probabilities. Files go through the same stream as
live video, so both give the same timeline.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavecast.apps.activity.networks import ActivityNetwork, log_probabilities
from wavecast.apps.activity.timeline import Blend, Moment, Segment, Segmenter
from wavecast.apps.activity.windows import SlidingWindows
from wavecast.cards import Card, find_model, load_network
from wavecast.core.device import choose_device
from wavecast.core.errors import WavecastError
from wavecast.core.stream import flushed_denormals
from wavecast.datamodules.clip_sampling import Past, Shown, end_of, open_frames, spread_clip
from wavecast.datamodules.modalities import history
from wavecast.datamodules.video_files import VideoReader

DEFAULT_MODEL = "lrcn.moving_shapes"
WINDOW = 4.0  # seconds, of a model that was trained on whole videos
MOST_WINDOWS = 50  # that a moment is in: each costs time and memory
BLOCK = 16  # frames read at once
Video = str | Path | np.ndarray


@dataclass(frozen=True)
class Recognition:
    """What a video shows.

    Attributes:
        classes: the activities told apart.
        probabilities: float32 (classes,).
        seconds: of the video; None: an array does not tell.
    """

    classes: tuple[str, ...]
    probabilities: np.ndarray
    seconds: float | None

    def top(self, count: int = 1) -> list[tuple[str, float]]:
        """Give the most probable activities and their probabilities, the most probable first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[k], float(self.probabilities[k])) for k in order]

    @property
    def activity(self) -> str:
        """The most probable one."""
        return self.top()[0][0]


@dataclass(frozen=True)
class Options:
    """What a user may want of a timeline.

    Attributes:
        window: seconds that are looked at together; None: as the model has it.
        stride: seconds from one window to the next; None: half a window.
        threshold: least probability of an activity; below it is nothing.
        minimum: seconds of a segment at least.
    """

    window: float | None = None
    stride: float | None = None
    threshold: float = 0.0
    minimum: float = 0.0


class Recognizer:
    """One loaded model or several that are fused; see the module's text for its use.

    Attributes:
        card: all there is to know of the first model.
        cards: of all.
        networks: from clips to logits, in eval mode.
        classes: that are told apart, in the order of the first model.
        weights: of the models, their sum is 1.
    """

    def __init__(
        self,
        cards: Sequence[Card],
        networks: Sequence[ActivityNetwork],
        device: str | torch.device = "cpu",
        weights: Sequence[float] | None = None,
    ) -> None:
        self.cards, self.networks, self.device = tuple(cards), tuple(networks), torch.device(device)
        self.card, self.classes = cards[0], cards[0].classes
        self.weights = normalized(weights, len(cards))
        self._orders = [order_of(card, self.card) for card in cards]

    @staticmethod
    def load(
        model: str | Sequence[str] | None = None, device: str = "auto", weights: Sequence[float] | None = None
    ) -> "Recognizer":
        """Load models by name or path.

        Args:
            model: one, or several to be fused; None for the small one that ships.
            device: "auto", "cpu", "cuda" or "cuda:1".
            weights: of several models; None: all alike.

        Raises:
            WavecastError: no such model or device, the weights are damaged, or the models tell different things apart.
        """
        where = choose_device(device)
        names = [model] if isinstance(model, str) else [*(model or [DEFAULT_MODEL])]
        cards = [find_model(name, "recognize") for name in names]
        for card in cards:
            order_of(card, cards[0])
        networks: list[Any] = [load_network(card, where) for card in cards]
        return Recognizer(cards, networks, where, weights)

    @property
    def streams(self) -> bool:
        """Whether all models follow a video frame by frame."""
        return all(network.lookahead == 0 for network in self.networks)

    @property
    def window(self) -> float:
        """Seconds that are looked at together where nobody says: those of the clips that the first model learned."""
        network = self.networks[0]
        return self.card.window_seconds or (network.frames / network.rate if network.rate else WINDOW)

    def plan(self, options: Options) -> tuple[float, float]:
        """Choose window and stride in seconds.

        Raises:
            WavecastError: they do not go together.
        """
        window = options.window or self.window
        stride = options.stride or window / 2
        if not window / MOST_WINDOWS <= stride <= window:
            raise WavecastError(
                f"windows of {window:g} s every {stride:g} s",
                f"give a stride between {window / MOST_WINDOWS:g} and {window:g} s",
            )
        return window, stride

    def __call__(self, video: Video, rate: float | None = None) -> Recognition:
        """Recognize what a whole video shows.

        Models that were trained on whole videos see frames spread evenly over it. Those with a rate of their own see
        windows, each half over the one before it, and the mean counts.

        Args:
            video: a path, or frames (time, row, col, 1 or 3), uint8 or fractions in [0, 1].
            rate: frames per second of an array, which does not tell.

        Raises:
            WavecastError: the video cannot be read, is damaged, has no frame, or lacks the rate.
        """
        with open_frames(video, rate) as reader:
            times, told = reader.times(), reader.info.rate
        seconds = end_of(times, told) - float(times[0])
        found = []
        for network in self.networks:
            with open_frames(video, rate) as reader:
                if network.rate is None:
                    clip, _ = spread_clip(reader, times, network.frames, network.size, network.modalities)
                    found.append(self._whole(network, clip))
                else:
                    found.append(self._by_windows(network, reader, seconds))
        return Recognition(self.classes, self.fused(found), seconds if told else None)

    @torch.inference_mode()
    def _whole(self, network: ActivityNetwork, clip: np.ndarray) -> np.ndarray:
        x: Tensor = torch.from_numpy(clip)[None].to(self.device)
        with flushed_denormals():
            return log_probabilities(network(x)[0].float())[0].exp().cpu().numpy()

    def _by_windows(self, network: ActivityNetwork, reader: VideoReader, seconds: float) -> np.ndarray:
        window = network.frames / (network.rate or 1)
        windows = SlidingWindows(network, self.device, window, window / 2, seconds)
        past = past_of([network])
        seen, found = partial(past.newest, network.size, network.modalities, network.rate), list[Any]()
        for picture, until in shown(reader):
            past.push(picture, until)
            found += windows.show(seen, until)
        if not found:
            found = [windows.rest(seen)]
        return np.mean(found, 0)

    def fused(self, probabilities: Sequence[np.ndarray]) -> np.ndarray:
        """Put the probabilities of all models together: their weighted mean, float32 (classes,)."""
        ordered = [one[order] for one, order in zip(probabilities, self._orders, strict=True)]
        return np.average(ordered, 0, self.weights).astype(np.float32)

    def stream(self, rate: float, options: Options | None = None) -> "RecognizerStream":
        """Begin a video that comes in pieces.

        Args:
            rate: frames per second, where nothing tells when frames are shown.
            options: what is wanted of the timeline.

        Raises:
            WavecastError: window and stride do not go together.
        """
        return RecognizerStream(self, rate, options or Options())

    def moments(self, video: Video, rate: float | None = None, options: Options | None = None) -> Iterator[Moment]:
        """Go through a video of any length.

        Args:
            video: as for a call.
            rate: as for a call.
            options: what is wanted of the timeline.

        Raises:
            WavecastError: as a call.
        """
        with open_frames(video, rate) as reader:
            stream = self.stream(rate_of(reader, str(video)), options)
            while len((block := reader.read(BLOCK))[0]):
                yield from stream.push(*block)
            yield from stream.flush()

    def segments(self, video: Video, rate: float | None = None, options: Options | None = None) -> list[Segment]:
        """Find what happens when in a video; the arguments are those of `moments`."""
        wanted = options or Options()
        segmenter = Segmenter(self.classes, wanted.threshold, wanted.minimum)
        found = [one for moment in self.moments(video, rate, options) for one in segmenter.step(moment)]
        return found + segmenter.finish()


class RecognizerStream:
    """A video on its way to a timeline.

    A moment is told when the window that begins with it is complete; a frame counts when the next one has come.

    Attributes:
        window: seconds of a window.
        stride: from one to the next.
        latency: seconds from the beginning of a moment until it is told.
    """

    def __init__(self, recognizer: Recognizer, rate: float, options: Options) -> None:
        self._recognizer = recognizer
        self.window, self.stride = recognizer.plan(options)
        self.latency = self.window + 1 / rate
        networks = recognizer.networks
        self._windows = [SlidingWindows(one, recognizer.device, self.window, self.stride) for one in networks]
        self._complete: list[list[np.ndarray]] = [[] for _ in networks]
        self._shown, self._past = Shown(rate), past_of(networks)
        self._views = [partial(self._past.newest, one.size, one.modalities, one.rate) for one in networks]
        self._blend = Blend(self.window, self.stride)

    @property
    def seconds(self) -> float:
        """Seconds of video taken."""
        return self._shown.seconds

    @property
    def frames(self) -> int:
        """Frames taken."""
        return self._shown.frames

    def push(self, frames: np.ndarray, times: np.ndarray | None = None) -> list[Moment]:
        """Take frames; give the moments that are final.

        Args:
            frames: uint8 (time, row, col, 1 or 3), any number of them.
            times: when each is shown, in seconds from anywhere; by default they follow at the stream's rate.

        Raises:
            ValueError: the frames are of another kind.
        """
        if frames.ndim != 4 or frames.shape[-1] not in (1, 3) or frames.dtype != np.uint8:
            raise ValueError(f"{frames.dtype} of shape {frames.shape}\nhint: give uint8 (time, row, col, 1 or 3)")
        return [moment for one in self._shown.push(frames, times) for moment in self._take(*one)]

    def flush(self) -> list[Moment]:
        """End the video, and give the rest of the timeline; the stream has ended then."""
        moments = [moment for one in self._shown.flush() for moment in self._take(*one)]
        rests: list[np.ndarray | None] = []
        for windows, seen, complete in zip(self._windows, self._views, self._complete, strict=True):
            if self.frames:
                rests.append(complete[0] if complete else windows.rest(seen))
        return moments + self._blend.finish(self.seconds, self._fused(rests))

    def now(self) -> np.ndarray | None:
        """Give the probabilities (classes,) of the window under way that has seen most; None: no frame was seen yet."""
        return self._fused([windows.oldest() for windows in self._windows])

    def _fused(self, probabilities: Sequence[np.ndarray | None]) -> np.ndarray | None:
        """Put the probabilities of all models together, if all of them have some."""
        found = [one for one in probabilities if one is not None]
        return self._recognizer.fused(found) if len(found) == len(self._windows) else None

    def _take(self, picture: np.ndarray, until: float) -> list[Moment]:
        self._past.push(picture, until)
        for windows, seen, complete in zip(self._windows, self._views, self._complete, strict=True):
            complete += windows.show(seen, until)
        moments = []
        while all(self._complete):
            moments.append(self._blend.add(self._recognizer.fused([one.pop(0) for one in self._complete])))
        return moments


def past_of(networks: Sequence[ActivityNetwork]) -> Past:
    """Make room for the past that networks look back at."""
    frames = [history(one.modalities) for one in networks]
    seconds = [count / one.rate for count, one in zip(frames, networks, strict=True) if one.rate]
    return Past(max(frames), max(seconds, default=0.0))


def shown(reader: VideoReader) -> Iterator[tuple[np.ndarray, float]]:
    """Read a video: each frame, and until when it is shown, in seconds since the first.

    Raises:
        WavecastError: the video is damaged, or an array without a rate.
    """
    frames = Shown(rate_of(reader, "the array"))
    while len((block := reader.read(BLOCK))[0]):
        yield from frames.push(*block)
    yield from frames.flush()


def rate_of(reader: VideoReader, name: str) -> float:
    """Give the frames per second of a video.

    Raises:
        WavecastError: nobody knows.
    """
    if reader.info.rate is None:
        raise WavecastError(f"{name} does not tell its frames per second", "give the rate (--rate FPS)")
    return reader.info.rate


def normalized(weights: Sequence[float] | None, count: int) -> np.ndarray:
    """Give the weights of models with the sum 1: float64 (count,).

    Raises:
        WavecastError: there are not as many, or they are negative or all 0.
    """
    given = np.ones(count) if weights is None else np.array(weights, np.float64)
    if len(given) != count or not np.isfinite(given).all() or given.min() < 0 or not given.sum():
        told = " ".join(f"{one:g}" for one in given)
        raise WavecastError(f"weights {told} for {count} models", "give one for each, none below 0 and not all 0")
    return given / given.sum()


def order_of(card: Card, first: Card) -> list[int]:
    """Find the outputs of a model in the order of another's.

    Raises:
        WavecastError: the models tell different things apart, or a card has not as many classes as its network.
    """
    outputs = card.hyperparameters.get("classes")
    if len(set(card.classes)) != len(card.classes) or outputs != len(card.classes):
        raise WavecastError(
            f"the card of {card.name} names {len(set(card.classes))} classes; its network has {outputs} outputs",
            "the card is damaged: fetch it again",
        )
    strange = sorted({*card.classes} ^ {*first.classes})
    if strange:
        raise WavecastError(
            f"{card.name} and {first.name} tell different activities apart: {', '.join(strange[:5])} are not in both",
            "fuse models of the same classes",
        )
    return [card.classes.index(one) for one in first.classes]
