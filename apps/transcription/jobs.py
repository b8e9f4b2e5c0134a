"""The work of `wavecast transcribe`."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from wavecast.apps.sound.jobs import Job, Work
from wavecast.apps.sound.recording import blocks
from wavecast.apps.sound.report import Clock, faults, model_row
from wavecast.apps.transcription.boosting import read_phrases
from wavecast.apps.transcription.endpoint import Rules
from wavecast.apps.transcription.formats import FORMATS, CTMWriter, EventWriter, Writer
from wavecast.apps.transcription.inference import Options, Transcriber, TranscriptStream
from wavecast.apps.transcription.verification import verify
from wavecast.apps.transcription.words import Segment
from wavecast.console import UsageError, say
from wavecast.core.errors import WavecastError
from wavecast.core.stream import flushed_denormals
from wavecast.datamodules.audio_files import AudioInfo, AudioReader, open_audio
from wavecast.datamodules.microphone import MicrophoneReader
from wavecast.datamodules.new_files import NewFile, writing
from wavecast.inputs import Source, is_folder, make_folder, plan_target, shown

if TYPE_CHECKING:
    from wavecast.apps.separation.inference import Separator
    from wavecast.apps.separation.speakers import SeparatedReader

MICROPHONE = "microphone"


def transcribe_all(args: argparse.Namespace) -> int:
    """Transcribe all inputs of a command line.

    Returns:
        0 when all are done, 1 when some failed; a summary says which.
    """
    return Transcription(args).run()


class Transcription(Work):
    """All that is to be transcribed for a command line."""

    sound = "text"
    json_hint = "give --json a file, or -o"

    def find(self) -> tuple[list[Source], list[WavecastError]]:
        """Find the inputs; the microphone is one."""
        if self.args.mic is not None:
            if self.args.inputs:
                raise UsageError("--mic goes without inputs", "transcribe the files in a second call")
            return [Source(MICROPHONE, Path())], []
        if not self.args.inputs:
            raise UsageError("there is nothing to transcribe", "name files, - for stdin, or --mic")
        return super().find()

    def check(self, sources: list[Source]) -> None:
        """Refuse options that contradict each other."""
        args, to_stdout, live = self.args, self.args.output in (None, "-"), any(map(is_live, sources))
        self.check_outputs(sources, to_stdout)
        if to_stdout and len(sources) > 1 and args.format not in (None, "txt", "ctm", "jsonl"):
            raise UsageError(f"{len(sources)} inputs cannot be one {args.format}", "give -o FOLDER/")
        if args.resume and to_stdout:
            raise UsageError("--resume leaves out inputs whose output exists", "give -o FOLDER/")
        if live and not to_stdout and is_folder(args.output):
            raise UsageError("live sound has no name of its own", f"give -o {args.output.rstrip('/')}/NAME.txt")
        if self.separates and (args.channels == "each" or args.verify_streaming):
            other = "--channels each" if args.channels == "each" else "--verify-streaming"
            raise UsageError(f"--separate mixes the channels and finds the speakers, {other} does not", "leave one out")
        if args.verify_streaming and live:
            raise UsageError("--verify-streaming goes through a recording twice", "give a file")

    def unopened(self, source: Source) -> bool:
        """Tell whether an input must not be opened before its turn."""
        return is_live(source)

    def targets(self, source: Source, info: AudioInfo) -> list[Path]:
        """Choose the file that the text of an input goes to; `-` for stdout."""
        args = self.args
        if args.output in (None, "-"):
            return [Path("-")]
        return [plan_target(source, args.output, f".{args.format or 'txt'}", args.name_template)]

    def load(self) -> None:
        """Load the model, and say what does not fit it before any file is opened."""
        args = self.args
        self.transcriber = Transcriber.load(args.model, args.device, args.precision)
        if args.look_ahead is not None:
            self.transcriber.choose_look_ahead(args.look_ahead)
        self.options = Options(
            head=args.head or "",
            beam=args.beam,
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
        args, transcriber, live = self.args, self.transcriber, is_live(job.source)
        latency_ms = 1000 * transcriber.latency / transcriber.sample_rate
        if live and not transcriber.streams:
            hint = "give a file, or a model that streams"
            raise WavecastError(f"{transcriber.card.name} needs the whole recording and cannot listen live", hint)
        clock = Clock()
        with ExitStack() as stack:
            reader = recorded = stack.enter_context(self._open(job))
            if self.separator is not None:
                reader = stack.enter_context(self._separated(reader, job, self.separator))
            mixed = args.channels == "mix" and self.separator is None
            channels = 1 if mixed else reader.info.channels
            stream = transcriber.stream(channels, reader.info.sample_rate, self.options)
            file = stack.enter_context(_output(job, args.overwrite))
            text = Live(stream, _writer(job, args, file), args.partials, self._label(job))
            bar = stack.enter_context(self.progress.file(job.source.path, job.seconds))
            try:
                with flushed_denormals():
                    for x in blocks(reader, job.source.path, bar):
                        text.push(x.mean(0, keepdims=True) if mixed else x)
                    heard = stream.seconds
                    text.finish()
            except KeyboardInterrupt:
                if not live:
                    raise
                heard = stream.seconds
                text.finish()  # what was said is kept
                if job.source.is_pipe:
                    raise
        row = {
            "input": job.source.path,
            "output": job.target,
            "seconds": round(heard, 3),
            "sample_rate": reader.info.sample_rate,
            "channels": recorded.info.channels,
            "words": text.words,
            "utterances": text.utterances,
            **clock.row(heard),
            "look_ahead_ms": transcriber.look_ahead,
            "latency_ms": round(latency_ms, 1) if transcriber.streams else None,
            "not_finite_samples": stream.replaced,
            "truncated": reader.truncated,
            **model_row(transcriber.card),
        }
        if self.separator is not None:
            row |= {f"separate_{key}": value for key, value in model_row(self.separator.card).items()}
            row["speakers"] = reader.info.channels
        if isinstance(recorded, MicrophoneReader) and recorded.lost:
            say(f"{recorded.lost / 100:.1f} s of sound were lost: this machine is too slow", args.quiet)
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

    def summary(self, done: int, failed: int) -> str:
        """Say how it went when some failed."""
        return f"{failed} failed"

    def _open(self, job: Job) -> AudioReader:
        if job.source.path == MICROPHONE:
            device = int(self.args.mic) if self.args.mic.isdecimal() else self.args.mic or None
            return MicrophoneReader(self.transcriber.sample_rate, device)
        return open_audio(job.source.path, self.raw)

    def _separated(self, reader: AudioReader, job: Job, separator: "Separator") -> "SeparatedReader":
        from wavecast.apps.separation.inference import Options as Parting
        from wavecast.apps.separation.speakers import SeparatedReader, Separating

        separating = Separating(separator, Parting(), self.raw, self.progress, self.args.quiet)
        return SeparatedReader(reader, job.source, separating, is_live(job.source), job.seconds)

    def _label(self, job: Job) -> str:
        """Name the input where several go to stdout; CTM names its recording itself."""
        named = self.several and job.target == "-" and _format(self.args, "-") != "ctm"
        return shown(job.source.path) if named else ""


def is_live(source: Source) -> bool:
    """Tell whether an input comes as it is spoken."""
    return source.is_pipe or source.path == MICROPHONE


class Live:
    """Text as it comes: utterances that have ended, and what is being said where that is wanted.

    Args:
        stream: from sound to text.
        writer: of the text.
        partials: show what is being said, in the text where its format has a place for it, else on a terminal.
        label: put before every utterance, as its speaker.
    """

    def __init__(self, stream: TranscriptStream, writer: Writer, partials: bool, label: str) -> None:
        self.stream, self.writer, self.partials, self.label = stream, writer, partials, label
        self.on_terminal = partials and sys.stderr.isatty() and not isinstance(writer, EventWriter)
        self.begun, self.utterances, self.words = time.perf_counter(), 0, 0
        self.under_way: list[Segment] = []

    def push(self, x: np.ndarray) -> None:
        """Take (channels, n) samples."""
        self._write(self.stream.push(x))
        if not self.partials or (under_way := self.stream.partial()) == self.under_way:
            return
        self.under_way = under_way
        for segment in under_way:
            self.writer.partial(self._labelled(segment), self._now())
        if self.on_terminal:
            print("\r\x1b[K" + " | ".join(one.text for one in under_way), end="", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """End the sound."""
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


@contextmanager
def _output(job: Job, overwrite: bool) -> Iterator[TextIO]:
    """Open what the text goes to. Of live sound it grows line by line; else it appears whole, or not at all.

    Raises:
        WavecastError: the target exists, or cannot be written.
    """
    if job.target == "-":
        yield sys.stdout
        return
    path = Path(job.target)
    make_folder(path.parent)
    if is_live(job.source):
        if path.exists() and not overwrite:
            raise WavecastError(f"{path} exists", "give --overwrite, or another name with -o")
        with writing(path), path.open("w", encoding="utf-8", buffering=1) as file:
            yield file
        return
    new = NewFile(path, overwrite)
    try:
        with writing(path), os.fdopen(new.descriptor, "w", encoding="utf-8") as file:
            yield file
        new.keep()
    finally:
        new.discard()


def _format(args: argparse.Namespace, target: str) -> str:
    """Choose the format: as asked for, as the target is named, or plain text."""
    suffix = Path(target).suffix.lstrip(".")
    return args.format or (suffix if suffix in FORMATS else "txt")


def _writer(job: Job, args: argparse.Namespace, file: TextIO) -> Writer:
    kind = _format(args, job.target)
    return CTMWriter(file, Path(shown(job.source.path)).stem) if kind == "ctm" else FORMATS[kind](file)
