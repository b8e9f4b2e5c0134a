"""Transcription of arrays and streams: any rate, any number of channels, text with the times of its words.

    transcriber = wavecast.load("transcribe")
    transcript = transcriber(sound, sample_rate=48_000)    # (samples,) or (channels, samples)
    print(transcript.text)

    stream = transcriber.stream(sample_rate=48_000)
    segments = stream.push(piece)                           # utterances that have ended
    so_far = stream.partial()                               # what is being said
    rest = stream.flush()

Whole arrays and files go through the same stream, so both give the same words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from wavecast.apps.transcription.beam import BeamCTC, BeamTransducer
from wavecast.apps.transcription.boosting import boost_phrases
from wavecast.apps.transcription.decoding import Decoder, GreedyCTC, GreedyTransducer, Tokens, align
from wavecast.apps.transcription.endpoint import Rules, Segmenter
from wavecast.apps.transcription.fastconformer import FRAME, FastConformer
from wavecast.apps.transcription.guides import Guides
from wavecast.apps.transcription.language_model import LanguageModel, read_ngrams
from wavecast.apps.transcription.quantized import quantize_linears
from wavecast.apps.transcription.tokenizer import Tokenizer, load_tokenizer
from wavecast.apps.transcription.words import FRAME_SECONDS, Segment, Word, words_of
from wavecast.cards import Card, find_model, language_model_file, load_network
from wavecast.core.device import choose_device
from wavecast.core.errors import WavecastError
from wavecast.core.recorded import Recorded
from wavecast.core.sound_stream import SoundInput, check_rate, check_sound
from wavecast.core.state import State, own
from wavecast.core.stream import Stream, flushed_denormals

DEFAULT_MODEL = "fastconformer.en_small"
HEADS = ("ctc", "rnnt")
PRECISIONS = ("float32", "int8")
GUIDED = 8
"""Hypotheses that a language model chooses from."""
SUITING = {"ctc": (0.7, 2.0), "rnnt": (0.5, 2.0)}
"""Weight and reward of a language model for each head: a transducer has learned something of the language itself."""
NO_MODEL = "none"
LONGEST_WHOLE = 900.0  # seconds that a model which needs the whole recording is given: its memory grows with the square


@dataclass(frozen=True)
class Options:
    """What a user may want of the text.

    Attributes:
        head: "ctc" or "rnnt"; empty: the transducer (rnnt) where the model has one.
        beam: hypotheses; 1 is greedy, and without a language model; 0: GUIDED with a language model, else 1.
        language_model: file that guides the beam (`read_ngrams`); "none": nothing does; empty: the model's own, if any.
        weight: of its logarithms beside the network's; None: what suits the head.
        reward: for each token beside it; None: what suits the head.
        phrases: texts to expect, and the weight of each.
        align: times and confidences by CTC under the transducer's text, for a model with both heads.
        rules: where an utterance ends.
    """

    head: str = ""
    beam: int = 0
    language_model: str = ""
    weight: float | None = None
    reward: float | None = None
    phrases: tuple[tuple[str, float], ...] = ()
    align: bool = False
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True)
class Transcript:
    """What was said.

    Attributes:
        segments: utterances in the order of their ends.
    """

    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """Give all words with spaces between them."""
        return " ".join(segment.text for segment in self.segments)

    @property
    def words(self) -> tuple[Word, ...]:
        """Give the words with times and confidences."""
        return tuple(word for segment in self.segments for word in segment.words)


class Pieces(Protocol):
    """Sound on its way to encoder frames: `core.stream.Stream` or `Whole`."""

    def push(self, x: Tensor) -> list[Tensor]:
        """Take (channels, samples), give the frames that are finished."""

    def flush(self) -> list[Tensor]:
        """End it, give the rest."""


class Whole:
    """A recording that a network needs whole: it waits until it has ended.

    Args:
        network: from samples to frames.
        longest: samples it may have.
    """

    def __init__(self, network: FastConformer, longest: int) -> None:
        self.network, self.longest, self.waiting = network, longest, [torch.zeros(0, 0)]

    def push(self, x: Tensor) -> list[Tensor]:
        """Keep what comes.

        Raises:
            WavecastError: it becomes too long.
        """
        self.waiting = [*(one for one in self.waiting if one.numel()), x]
        if sum(one.shape[1] for one in self.waiting) > self.longest:
            minutes = self.longest / self.network.sample_rate / 60
            raise WavecastError(
                f"this model needs the whole recording at once, at most {minutes:.0f} minutes of it",
                "cut the recording, or use a model that streams",
            )
        return []

    @torch.inference_mode()
    def flush(self) -> list[Tensor]:
        """Encode all of it."""
        x = torch.cat(self.waiting, 1)
        self.waiting = [x[:, :0]]
        with flushed_denormals():
            return [self.network(x)[0]]


class Transcriber:
    """A loaded model; see the module's text for its use.

    Attributes:
        card: all there is to know of the model.
        network: from samples to encoder frames, its heads beside it, in eval mode.
        tokenizer: of the model.
        sample_rate: the network's, in hertz; other rates are resampled.
        look_aheads: what `choose_look_ahead` takes, in milliseconds.
    """

    def __init__(
        self, card: Card, network: FastConformer, tokenizer: Tokenizer, device: str | torch.device = "cpu"
    ) -> None:
        self.card, self.network, self.tokenizer, self.device = card, network, tokenizer, torch.device(device)
        self.sample_rate = network.sample_rate
        self.look_aheads = {round(1000 * FRAME_SECONDS * right): left for left, right in network.contexts if right >= 0}
        self._recorded: Recorded | None = None
        self._language_models: dict[tuple[Path, float, float], LanguageModel] = {}
        if self.look_aheads:
            self.choose_look_ahead(next(iter(self.look_aheads)))

    @staticmethod
    def load(model: str | None = None, device: str = "auto", precision: str = "float32") -> "Transcriber":
        """Load a model by name or path.

        Args:
            model: None for the small English one that ships.
            device: "auto", "cpu", "cuda" or "cuda:1".
            precision: "float32", or "int8" for the linear maps on a processor.

        Raises:
            WavecastError: no such model, device or precision, or the weights are damaged.
        """
        if precision not in PRECISIONS:
            raise WavecastError(f"there is no precision {precision!r}", f"give one of {', '.join(PRECISIONS)}")
        where = choose_device("cpu" if precision == "int8" and device == "auto" else device)
        if precision == "int8" and where.type != "cpu":
            raise WavecastError("int8 is for processors", "give --device cpu, or --precision float32")
        card = find_model(model or DEFAULT_MODEL, "transcribe")
        network: Any = load_network(card, where)
        if precision == "int8":
            network = quantize_linears(network)
        return Transcriber(card, network, load_tokenizer(card), where)

    @property
    def streams(self) -> bool:
        """Whether the model works on live sound."""
        return self.network.lookahead != inf

    @property
    def look_ahead(self) -> int | None:
        """Milliseconds that the network looks ahead; None where it needs the whole recording."""
        return round(1000 * FRAME_SECONDS * (self.block // FRAME - 1)) if self.streams else None

    @property
    def block(self) -> int:
        """Samples that a stream is fed at once."""
        return self.network.period

    @property
    def latency(self) -> int | float:
        """Samples between a sound and the first chance of its word: a block must be full; inf when all is needed."""
        return self.block if self.streams else inf

    def choose_look_ahead(self, milliseconds: int) -> None:
        """Set how far the network looks ahead: further is more accurate and later. Streams under way must have ended.

        Raises:
            WavecastError: the model is not made for it.
        """
        if milliseconds not in self.look_aheads:
            known = ", ".join(map(str, sorted(self.look_aheads)))
            raise WavecastError(
                f"{self.card.name} has no look-ahead of {milliseconds} ms",
                f"it was trained for {known} ms" if known else "it needs the whole recording: leave the look-ahead out",
            )
        self.network.choose_context(self.look_aheads[milliseconds], round(milliseconds / 1000 / FRAME_SECONDS))
        self._recorded = None

    def __call__(
        self, x: np.ndarray | Tensor, sample_rate: int | None = None, options: Options | None = None
    ) -> Transcript:
        """Transcribe a whole signal.

        Args:
            x: float array or tensor, (samples,) or (channels, samples), full scale 1; channels are speakers.
            sample_rate: of x in hertz; the network's by default.
            options: what is wanted of the text.

        Raises:
            ValueError: x is not floating, or of another number of axes.
            WavecastError: the sample rate is out of range, or the options do not fit the model.
        """
        array = x.detach().cpu().numpy() if isinstance(x, Tensor) else x
        check_sound(array)
        channels = np.atleast_2d(array)
        stream = self.stream(len(channels), sample_rate, options)
        return Transcript((*stream.push(channels), *stream.flush()))

    def stream(
        self, channels: int = 1, sample_rate: int | None = None, options: Options | None = None
    ) -> "TranscriptStream":
        """Begin a signal that comes in pieces.

        Args:
            channels: of it; each is a speaker of its own, named by its number where there are several.
            sample_rate: in hertz; the network's by default.
            options: what is wanted of the text.

        Raises:
            WavecastError: the rate is out of range, or the options do not fit the model.
        """
        options, rate = options or Options(), sample_rate or self.sample_rate
        check_rate(rate, "transcribed")
        return TranscriptStream(self, channels, rate, options)

    def pieces(self) -> Pieces:
        """Begin the way of sound (channels, samples) at the network's rate to encoder frames."""
        if not self.streams:
            return Whole(self.network, int(LONGEST_WHOLE * self.sample_rate))
        if self._recorded is None:
            self._recorded = Recorded(self.network)
        return Stream(self._recorded, self.block)

    def decoder(self, options: Options) -> Decoder:
        """Choose the decoder that the options mean.

        Raises:
            WavecastError: the model has no such head, or cannot spell a phrase.
        """
        ctc, prediction, joint, blank = (
            self.network.ctc,
            self.network.prediction,
            self.network.joint,
            self.network.blank,
        )
        head = options.head or ("ctc" if prediction is None else "rnnt")
        if head not in HEADS:
            raise WavecastError(f"there is no head {head!r}", f"give one of {', '.join(HEADS)}")
        if options.align and (ctc is None or prediction is None):
            raise WavecastError(f"{self.card.name} has one head", "alignment by CTC is for models with both")
        booster = None
        if options.phrases:
            booster = boost_phrases(options.phrases, self.tokenizer.encode, blank + 1, self.tokenizer.unknown)
        model = self.language_model(head, options)
        width = options.beam or (GUIDED if model else 1)
        guide = Guides(model, booster) if model and booster else model or booster
        if head == "ctc" and ctc is not None:
            if width == 1:
                return GreedyCTC(ctc, blank, booster)
            return BeamCTC(ctc, blank, width, guide=guide)
        if head == "rnnt" and prediction is not None and joint is not None:
            if width == 1:
                return GreedyTransducer(prediction, joint, booster=booster)
            return BeamTransducer(prediction, joint, width, guide=guide)
        other = next(one for one in HEADS if one != head)
        raise WavecastError(f"{self.card.name} has no head {head}", f"give --head {other}")

    def language_model(self, head: str, options: Options) -> LanguageModel | None:
        """Choose what guides the beam of a head, and read it unless it has been.

        Raises:
            WavecastError: it cannot be read or is of another model, or is asked for where there is no beam.
        """
        asked, greedy = options.language_model, options.beam == 1
        if asked == NO_MODEL or (greedy and not asked):
            return None
        if greedy:
            raise WavecastError("a language model chooses between hypotheses", f"give --beam {GUIDED}, or leave it out")
        path = Path(asked) if asked else language_model_file(self.card)
        if path is None:
            return None
        weight, reward = SUITING[head]
        weight = weight if options.weight is None else options.weight
        reward = reward if options.reward is None else options.reward
        key = path, weight, reward
        if key not in self._language_models:
            self._language_models[key] = LanguageModel(read_ngrams(path, self.tokenizer), weight, reward)
        return self._language_models[key]


class TranscriptStream:
    """A signal on its way to text.

    Attributes:
        frames: encoder frames decoded so far.
    """

    def __init__(self, transcriber: Transcriber, channels: int, rate: int, options: Options) -> None:
        self._transcriber, self._channels = transcriber, channels
        self._input = SoundInput(channels, rate, transcriber.sample_rate)
        self._pieces, self._decoder = transcriber.pieces(), transcriber.decoder(options)
        pieces = transcriber.tokenizer.pieces
        labels = [""] if channels == 1 else [str(i + 1) for i in range(channels)]
        self._segmenters = [Segmenter(pieces, options.rules, label) for label in labels]
        aligned = options.align and isinstance(self._decoder, GreedyTransducer | BeamTransducer)
        self._aligners = [Aligner(transcriber) for _ in labels] if aligned else []
        self._state: State = None
        self.frames = 0

    @property
    def replaced(self) -> int:
        """Samples that were not finite, and were taken for 0."""
        return self._input.replaced

    @property
    def seconds(self) -> float:
        """Seconds of sound taken."""
        return self._input.seconds

    def push(self, x: np.ndarray) -> list[Segment]:
        """Take float (channels, n), n of any size; give the utterances that have ended.

        Raises:
            ValueError: x has another number of channels.
        """
        return [segment for piece in self._input.push(x) for segment in self._listen(piece)]

    def partial(self) -> list[Segment]:
        """Give the utterances under way, one a channel at most; what is final of them does not change any more."""
        return [one for segmenter in self._segmenters if (one := segmenter.partial()) is not None]

    def flush(self) -> list[Segment]:
        """End the signal and give the rest; afterwards the next one can begin."""
        ended = self._listen(self._input.flush())
        for frames in self._pieces.flush():
            ended += self._decode(frames)
        pending = self._decoder.pending(self._state) if self._state is not None else [Tokens()] * self._channels
        for channel, tokens in enumerate(pending):
            segmenter = self._segmenters[channel]
            ended += self._aligned(channel, segmenter.step(tokens, self.frames) + segmenter.finish())
        self._state = None
        self.frames = 0
        return in_time(ended)

    def _listen(self, x: np.ndarray) -> list[Segment]:
        """Encode and decode samples at the network's rate."""
        sound = torch.from_numpy(np.ascontiguousarray(x)).to(self._transcriber.device)
        return in_time([one for frames in self._pieces.push(sound) for one in self._decode(frames)])

    @torch.inference_mode()
    def _decode(self, frames: Tensor) -> list[Segment]:
        """Decode (channels, frames, width)."""
        found, self._state = self._decoder.step(frames, self._state)
        self.frames += frames.shape[1]
        settled = self._decoder.settled(self._state)
        for aligner, row in zip(self._aligners, frames, strict=False):
            aligner.listen(row)
        ended = []
        for channel, (tokens, until) in enumerate(zip(found, settled, strict=True)):
            ended += self._aligned(channel, self._segmenters[channel].step(tokens, until))
        return ended

    def _aligned(self, channel: int, segments: list[Segment]) -> list[Segment]:
        """Let CTC say when the words of ended utterances were spoken, where that is wanted."""
        if not self._aligners:
            return segments
        aligner, under_way = self._aligners[channel], self._segmenters[channel].partial()
        aligned = [aligner.align(segment) for segment in segments]
        aligner.forget(self.frames if under_way is None else round(under_way.start / FRAME_SECONDS))
        return aligned


class Aligner:
    """Times and confidences of a channel's utterances, by CTC.

    Args:
        transcriber: whose model has both heads.
    """

    KEPT = 25  # frames before an utterance: the transducer finds a token later than it is spoken, never long before

    def __init__(self, transcriber: Transcriber) -> None:
        if transcriber.network.ctc is None:
            raise WavecastError(f"{transcriber.card.name} has no CTC to align by", "leave align out")
        self._head, self._blank, self._tokenizer = (
            transcriber.network.ctc,
            transcriber.network.blank,
            transcriber.tokenizer,
        )
        self._heard: list[Tensor] = []
        self._first = 0

    def listen(self, frames: Tensor) -> None:
        """Take the next encoder frames (frame, width)."""
        if len(frames):
            self._heard.append(self._head(frames).log_softmax(-1).cpu())

    def align(self, segment: Segment) -> Segment:
        """Give an utterance with the times and confidences of CTC; as it was where its tokens do not fit in."""
        heard = torch.cat(self._heard)
        first = max(0, round(segment.start / FRAME_SECONDS) - self._first - self.KEPT)
        stop = round(segment.end / FRAME_SECONDS) - self._first + 1
        ids = self._tokenizer.encode(segment.text)
        try:
            tokens = align(heard[first:stop], ids, self._blank)
        except WavecastError:
            return segment
        frames = [frame + first + self._first for frame in tokens.frames]
        words = words_of(Tokens(tokens.ids, frames, tokens.probabilities), self._tokenizer.pieces)
        return Segment(tuple(words), segment.speaker) if len(words) == len(segment.words) else segment

    def forget(self, frame: int) -> None:
        """Drop what utterances that begin at that frame or later do not need."""
        gone = frame - self.KEPT - self._first
        if gone > self.KEPT:
            self._heard = [own(torch.cat(self._heard)[gone:])]
            self._first += gone


def in_time(segments: Sequence[Segment]) -> list[Segment]:
    """Sort utterances of several channels by their ends."""
    return sorted(segments, key=lambda segment: (segment.end, segment.start))
