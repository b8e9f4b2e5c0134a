"""Words in arrays and streams: any rate, any number of channels, each word with its time.

    spotter = wavecast.load("spot")
    for event in spotter(sound, sample_rate=48_000):        # (samples,) or (channels, samples)
        print(event.time, event.word, event.confidence)

    stream = spotter.stream(sample_rate=48_000, options=Options(words=("yes", "no"), early=True))
    events = stream.push(piece)                             # of any size
    rest = stream.flush()

Whole arrays and files go through the same stream, so both give the same events.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavecast.apps.keywords.classes import REJECTED
from wavecast.apps.keywords.decisions import REFRACTORY, SMOOTHING, THRESHOLD, Decider, Event, Timing
from wavecast.apps.keywords.lmuformer import HOP, WINDOW
from wavecast.apps.keywords.views import Views
from wavecast.cards import Card, find_model, load_network
from wavecast.console import did_you_mean
from wavecast.core.block import Block
from wavecast.core.device import choose_device
from wavecast.core.errors import WavecastError
from wavecast.core.sound_stream import SoundInput, check_rate, check_sound
from wavecast.core.stream import Stream, latency

DEFAULT_MODEL = "lmuformer.commands35"
LIMITS = (("threshold", 0, 1), ("smoothing", 0, 60), ("refractory", 0, 3600), ("hop", 1, 1000))
"""What the `decision` of a card may say, each with its smallest and greatest value: `threshold` of all words, seconds
of `smoothing` and `refractory` time, frames from one decision to the next. It may have `thresholds` of single words
and `posteriors`, too: "sigmoid" (every class by itself, as the networks are published), or "softmax" (one of them)."""
POSTERIORS = {"sigmoid": torch.sigmoid, "softmax": partial(torch.softmax, dim=-1)}
"""Of logits (..., classes)."""
HOP_FRAMES = 8
"""Frames from one decision to the next."""


@dataclass(frozen=True)
class Options:
    """What a user may want of the events. None: as the model's card says, or the usual value.

    Attributes:
        words: that are wanted; empty: all of the model. The others only keep these back.
        thresholds: of some words, posteriors from 0 to 1.
        threshold: of all other words.
        smoothing: seconds over which posteriors are averaged.
        refractory: seconds after an event without another one.
        early: events come as soon as a word is above its threshold, not when it has been most probable.
        hop: frames of 10 ms from one decision to the next.
    """

    words: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    threshold: float | None = None
    smoothing: float | None = None
    refractory: float | None = None
    early: bool = False
    hop: int | None = None


class Spotter:
    """A loaded model; see the module's text for its use.

    Attributes:
        card: all there is to know of the model.
        network: from samples to logits of every frame, in eval mode.
        sample_rate: the network's, in hertz; other rates are resampled.
        classes: what the network tells apart.
        words: of these, what may become an event.
        activation: from logits (..., classes) to posteriors.
    """

    def __init__(self, card: Card, network: Block, device: str | torch.device = "cpu") -> None:
        outputs = card.hyperparameters.get("classes", len(card.classes))
        if outputs != len(card.classes):
            counts = f"{card.name} has {outputs} outputs, its card {len(card.classes)} classes"
            raise WavecastError(counts, "the card and the weights are of different models")
        self.card, self.network, self.device = card, network, torch.device(device)
        self.sample_rate, self.classes = card.sample_rate, card.classes
        self.words = tuple(one for one in card.classes if one not in REJECTED)
        self._decision = card.decision
        self._check(self._decision, f"the card of {card.name}")
        self.activation: Callable[[Tensor], Tensor] = POSTERIORS[self._decision.get("posteriors", "sigmoid")]

    @staticmethod
    def load(model: str | None = None, device: str = "auto") -> "Spotter":
        """Load a model by name or path.

        Args:
            model: None for the one that ships.
            device: "auto", "cpu", "cuda" or "cuda:1".

        Raises:
            WavecastError: no such model or device, or the weights are damaged.
        """
        where = choose_device(device)
        card = find_model(model or DEFAULT_MODEL, "spot")
        network: Any = load_network(card, where)
        return Spotter(card, network, where)

    @property
    def streams(self) -> bool:
        """Whether the model works on live sound."""
        return self.network.lookahead != inf

    def views(self, options: Options | None = None) -> Views:
        """Give the block from samples to the logits of decisions."""
        network: Any = self.network
        return Views(network, hop=self._chosen(options or Options(), "hop", HOP_FRAMES)).eval()

    def block(self, views: Views) -> int:
        """Count the samples that a stream is fed at once: the card's, or more where decisions are further apart."""
        return -(-max(self.card.block, 1) // views.period) * views.period

    @cached_property
    def latency(self) -> int:
        """Samples between a sound and the decision about it."""
        views = self.views()
        return latency(views, self.block(views))

    def timing(self, views: Views) -> Timing:
        """Tell when decisions are made."""
        rate = self.sample_rate
        window = (views.frames - 1) * HOP + WINDOW
        return Timing(float(views.stride) / rate, (int(views.lookahead) + 1) / rate, window / rate)

    def decider(self, options: Options | None = None, channel: int = 0) -> Decider:
        """Begin the decisions of a stream; posteriors of `posteriors` may be given to it, too.

        Raises:
            WavecastError: the options name a word that the model does not know, or are out of range.
        """
        options = options or Options()
        wanted = options.words or self.words
        values = {
            name: getattr(options, name) for name in ("threshold", "thresholds", "smoothing", "refractory", "hop")
        }
        self._check({name: value for name, value in values.items() if value is not None}, "an option")
        self._know(wanted)
        threshold = self._chosen(options, "threshold", THRESHOLD)
        of_card = {} if options.threshold is not None else self._decision.get("thresholds", {})
        thresholds = {one: options.thresholds.get(one, of_card.get(one, threshold)) for one in wanted}
        return Decider(
            self.classes,
            thresholds,
            self.timing(self.views(options)),
            self._chosen(options, "smoothing", SMOOTHING),
            self._chosen(options, "refractory", REFRACTORY),
            options.early,
            channel,
        )

    def posteriors(self, x: np.ndarray, options: Options | None = None) -> np.ndarray:
        """Give the posteriors of all decisions about a mono sound of the network's rate.

        Args:
            x: float (samples,).
            options: `hop` counts here.

        Returns:
            Float32 (decision, classes): how probable each class is.

        Raises:
            ValueError: x is no mono sound.
        """
        check_sound(x)
        stream = SpotterStream(self, 1, self.sample_rate, options or Options())
        stream.push(np.atleast_2d(x))
        pushed = stream.posteriors
        stream.flush()
        return np.concatenate([pushed, stream.posteriors], 1)[0]

    def __call__(
        self, x: np.ndarray | Tensor, sample_rate: int | None = None, options: Options | None = None
    ) -> list[Event]:
        """Find the words of a whole signal.

        Args:
            x: float array or tensor, (samples,) or (channels, samples), full scale 1; each channel for itself.
            sample_rate: of x in hertz; the network's by default.
            options: what is wanted.

        Returns:
            The events in the order in which they came.

        Raises:
            ValueError: x is not floating, or of another number of axes.
            WavecastError: the sample rate is out of range, or the options do not fit the model.
        """
        array = x.detach().cpu().numpy() if isinstance(x, Tensor) else x
        check_sound(array)
        channels = np.atleast_2d(array)
        stream = self.stream(len(channels), sample_rate, options)
        return [*stream.push(channels), *stream.flush()]

    def stream(
        self, channels: int = 1, sample_rate: int | None = None, options: Options | None = None
    ) -> "SpotterStream":
        """Begin a signal that comes in pieces.

        Args:
            channels: of it; each is spotted for itself.
            sample_rate: in hertz; the network's by default.
            options: what is wanted.

        Raises:
            WavecastError: the rate is out of range, or the options do not fit the model.
        """
        rate = sample_rate or self.sample_rate
        check_rate(rate, "listened to")
        return SpotterStream(self, channels, rate, options or Options())

    def _chosen(self, options: Options, name: str, otherwise: Any) -> Any:
        """Give the value of an option: as chosen, as the card says, or the usual one."""
        chosen = getattr(options, name)
        return self._decision.get(name, otherwise) if chosen is None else chosen

    def _know(self, words: Iterable[str]) -> None:
        for word in words:
            if word not in self.words:
                known = f"it knows {', '.join(self.words)}"
                raise WavecastError(
                    f"{self.card.name} does not know the word {word!r}", did_you_mean(word, self.words, known)
                )

    def _check(self, values: Mapping[str, Any], source: str) -> None:
        """Refuse values that make no events, wherever they come from."""
        thresholds = values.get("thresholds", {})
        self._know(thresholds)
        for name in thresholds:
            check_number(name, thresholds[name], 0, 1, source)
        if values.get("posteriors", "sigmoid") not in POSTERIORS:
            kinds = " or ".join(POSTERIORS)
            raise WavecastError(f"{source} says posteriors {values['posteriors']}", f"give {kinds}")
        for name, lowest, highest in LIMITS:
            check_number(name, values.get(name, lowest), lowest, highest, source)


def check_number(name: str, value: Any, lowest: float, highest: float, source: str) -> None:
    """Refuse what is no number from `lowest` to `highest`.

    Raises:
        WavecastError: says where it comes from.
    """
    if not isinstance(value, int | float) or not lowest <= value <= highest:
        raise WavecastError(f"{source} says {name} {value}", f"give a number from {lowest} to {highest}")


class SpotterStream:
    """A signal on its way to events.

    Args:
        spotter: whose network listens.
        channels: of the signal.
        rate: of it in hertz.
        options: what is wanted.

    Attributes:
        views: the block that it goes through.
        block: samples that this is fed at once.
    """

    def __init__(self, spotter: Spotter, channels: int, rate: int, options: Options) -> None:
        self._spotter, self._channels = spotter, channels
        self._deciders = [spotter.decider(options, i + 1 if channels > 1 else 0) for i in range(channels)]
        self.views = spotter.views(options)
        self.block = spotter.block(self.views)
        self._input, self._stream = SoundInput(channels, rate, spotter.sample_rate), Stream(self.views, self.block)
        self._fed = self._decided = 0  # samples at the network's rate: all, and those of blocks that are done
        self._pieces: list[np.ndarray] = []

    @property
    def replaced(self) -> int:
        """Samples that were not finite, or impossibly loud, and were taken for 0."""
        return self._input.replaced

    @property
    def seconds(self) -> float:
        """Seconds of sound taken."""
        return self._input.seconds

    @property
    def posteriors(self) -> np.ndarray:
        """Of the decisions that the last call brought, float32 (channels, decision, classes)."""
        nothing = np.zeros((self._channels, 0, len(self._spotter.classes)), np.float32)
        return np.concatenate([nothing, *self._pieces], 1)

    def push(self, x: np.ndarray) -> list[Event]:
        """Take float (channels, n), n of any size; give the events that are certain.

        Raises:
            ValueError: x has another number of channels.
        """
        self._pieces = []
        return [event for piece in self._input.push(x) for event in self._listen(piece)]

    def flush(self) -> list[Event]:
        """End the signal and give the rest; afterwards the next one can begin."""
        self._pieces = []
        events = self._listen(self._input.flush())
        for logits in self._stream.flush():
            events += self._decide(logits, self._fed)
        for decider in self._deciders:
            events += decider.flush(self._fed / self._spotter.sample_rate)
        self._fed = self._decided = 0
        return events

    def _listen(self, x: np.ndarray) -> list[Event]:
        """Take samples at the network's rate, in whole blocks; decide what they bring."""
        self._fed += x.shape[1]
        events = []
        for logits in self._stream.push(torch.from_numpy(np.ascontiguousarray(x)).to(self._spotter.device)):
            self._decided += self.block
            events += self._decide(logits, self._decided)
        return events

    def _decide(self, logits: Tensor, heard: int) -> list[Event]:
        """Decide on logits (channels, decision, classes), when so many samples were heard."""
        posteriors = self._spotter.activation(logits).cpu().numpy()
        self._pieces.append(posteriors)
        seconds = heard / self._spotter.sample_rate
        rows = zip(self._deciders, posteriors, strict=True)
        return [event for decider, row in rows for event in decider.push(row, seconds)]
