"""The work of `wavecast transcribe`."""

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from wavecast.apps.sound.jobs import Job
from wavecast.apps.sound.listening import Listening
from wavecast.apps.sound.report import faults
from wavecast.apps.transcription.boosting import read_phrases
from wavecast.apps.transcription.endpoint import Rules
from wavecast.apps.transcription.formats import FORMATS, CTMWriter, EventWriter, Writer
from wavecast.apps.transcription.inference import NO_MODEL, Options, Transcriber, TranscriptStream
from wavecast.apps.transcription.verification import verify
from wavecast.apps.transcription.words import Segment
from wavecast.console import UsageError, say
from wavecast.core.errors import WavecastError
from wavecast.datamodules.audio_files import AudioReader, open_audio
from wavecast.inputs import Source, shown
from wavecast.jobs import Clock, model_row
from wavecast.texts import text_file

if TYPE_CHECKING:
    from wavecast.apps.separation.inference import Separator
    from wavecast.apps.separation.speakers import SeparatedReader


def transcribe_all(args: argparse.Namespace) -> int:
    """Transcribe all inputs of a command line.

    Returns:
        0 when all are done, 1 when some failed; a summary says which.
    """
    return Transcription(args).run()


class Transcription(Listening):
    """All that is to be transcribed for a command line."""

    results = "text"
    json_hint = "give --json a file, or -o"
    formats = tuple(FORMATS)
    joined = ("txt", "ctm", "jsonl")

    def check(self, sources: list[Source]) -> None:
        """Refuse options that contradict each other."""
        super().check(sources)
        args = self.args
        if self.separates and (args.channels == "each" or args.verify_streaming):
            other = "--channels each" if args.channels == "each" else "--verify-streaming"
            raise UsageError(f"--separate mixes the channels and finds the speakers, {other} does not", "leave one out")
        if args.beam == 1 and args.language_model not in ("", NO_MODEL):
            raise UsageError("--language-model chooses between hypotheses, and --beam 1 has one", "leave one out")
        if args.verify_streaming and any(source.is_live for source in sources):
            raise UsageError("--verify-streaming goes through a recording twice", "give a file")

    def load(self) -> None:
        """Load the model, and say what does not fit it before any file is opened."""
        args = self.args
        self.transcriber = Transcriber.load(args.model, args.device, args.precision)
        if args.look_ahead is not None:
            self.transcriber.choose_look_ahead(args.look_ahead)
        self.options = Options(
            head=args.head or "",
            beam=args.beam,
            language_model=args.language_model,
            weight=args.language_weight,
            reward=args.token_reward,
            phrases=tuple(read_phrases(args.boost)) if args.boost else (),
            align=args.align,
            rules=Rules(args.pause, max(args.pause, Rules.silence)),
        )
        self.transcriber.decoder(self.options)
        self.separator = None
        if self.separates:
            from wavecast.apps.separation.inference import Separator

            self.separator = Separator.load(args.separate_model, args.device)

    @property
    def separates(self) -> bool:
        """Whether mixed voices are parted."""
        return bool(self.args.separate or self.args.separate_model)

    def one(self, job: Job) -> dict[str, Any]:
        """Transcribe one input.

        Returns:
            The row of the report.

        Raises:
            WavecastError: the input is damaged, the model needs whole recordings and this is live, or the output
                cannot be written.
        """
        args, transcriber, live = self.args, self.transcriber, job.source.is_live
        latency_ms = 1000 * transcriber.latency / transcriber.sample_rate
        if live and not transcriber.streams:
            hint = "give a file, or a model that streams"
            raise WavecastError(f"{transcriber.card.name} needs the whole recording and cannot listen live", hint)
        clock = Clock()
        with ExitStack() as stack:
            reader = recorded = stack.enter_context(self.open(job, transcriber.sample_rate))
            if self.separator is not None:
                reader = stack.enter_context(self._separated(reader, job, self.separator))
            mixed = args.channels == "mix" and self.separator is None
            channels = 1 if mixed else reader.info.channels
            stream = transcriber.stream(channels, reader.info.sample_rate, self.options)
            file = stack.enter_context(text_file(job, args.overwrite))
            text = Live(stream, self._writer(job, file), args.partials, self._label(job), mixed)
            self.listen(job, reader, text.push, text.finish)
        row = {
            "input": job.source.path,
            "output": job.target,
            "seconds": round(text.heard, 3),
            "sample_rate": reader.info.sample_rate,
            "channels": recorded.info.channels,
            "words": text.words,
            "utterances": text.utterances,
            **clock.row(text.heard),
            "look_ahead_ms": transcriber.look_ahead,
            "latency_ms": round(latency_ms, 1) if transcriber.streams else None,
            "not_finite_samples": stream.replaced,
            "truncated": reader.truncated,
            **model_row(transcriber.card),
        }
        if self.separator is not None:
            row |= {f"separate_{key}": value for key, value in model_row(self.separator.card).items()}
            row["speakers"] = reader.info.channels
        if args.verify_streaming:
            with open_audio(job.source.path, self.raw) as again:
                row |= verify(again, transcriber, self.options, mixed)
            proven = f"{row['verified_tokens']} tokens in {row['verified_seconds']:.0f} s"
            say(f"{job.source.path}: live equals whole, {proven}, frames to {row['streaming_error']:.0e}", args.quiet)
        return row

    def line(self, row: dict[str, Any]) -> str:
        """Say in one line what was done."""
        took = f"{row['seconds']:.1f} s of sound, {row['wall_seconds']:.1f} s"
        return f"{row['output']}: {row['words']} words in {took}{faults(row)}"

    def _separated(self, reader: AudioReader, job: Job, separator: "Separator") -> "SeparatedReader":
        from wavecast.apps.separation.inference import Options as Parting
        from wavecast.apps.separation.speakers import SeparatedReader, Separating

        separating = Separating(separator, Parting(), self.raw, self.progress, self.args.quiet)
        return SeparatedReader(reader, job.source, separating, job.source.is_live, job.seconds)

    def _label(self, job: Job) -> str:
        """Name the input where several go to stdout; CTM names its recording itself."""
        named = self.several and job.target == "-" and self.format("-") != "ctm"
        return shown(job.source.path) if named else ""

    def _writer(self, job: Job, file: TextIO) -> Writer:
        kind = self.format(job.target)
        return CTMWriter(file, Path(shown(job.source.path)).stem) if kind == "ctm" else FORMATS[kind](file)


class Live:
    """Text as it comes: utterances that have ended, and what is being said where that is wanted.

    Args:
        stream: from sound to text.
        writer: of the text.
        partials: show what is being said, in the text where its format has a place for it, else on a terminal.
        label: put before every utterance, as its speaker.
        mixed: channels are one voice.

    Attributes:
        heard: seconds of sound, at its end.
    """

    def __init__(self, stream: TranscriptStream, writer: Writer, partials: bool, label: str, mixed: bool) -> None:
        self.stream, self.writer, self.partials, self.label, self.mixed = stream, writer, partials, label, mixed
        self.heard = 0.0
        self.on_terminal = partials and sys.stderr.isatty() and not isinstance(writer, EventWriter)
        self.begun, self.utterances, self.words = time.perf_counter(), 0, 0
        self.under_way: list[Segment] = []

    def push(self, x: np.ndarray) -> None:
        """Take (channels, n) samples."""
        self._write(self.stream.push(x.mean(0, keepdims=True) if self.mixed else x))
        if not self.partials or (under_way := self.stream.partial()) == self.under_way:
            return
        self.under_way = under_way
        for segment in under_way:
            self.writer.partial(self._labelled(segment), self._now())
        if self.on_terminal:
            print("\r\x1b[K" + " | ".join(one.text for one in under_way), end="", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """End the sound."""
        self.heard = self.stream.seconds
        self._write(self.stream.flush())
        self.writer.close()

    def _write(self, segments: list[Segment]) -> None:
        if segments and self.on_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        for segment in segments:
            self.writer.add(self._labelled(segment), self._now())
            self.utterances += 1
            self.words += len(segment.words)

    def _labelled(self, segment: Segment) -> Segment:
        return replace(segment, speaker=" ".join(filter(None, (self.label, segment.speaker))))

    def _now(self) -> float:
        return time.perf_counter() - self.begun
