"""The work of `wavecast transcribe`: one input after the other, none stopped by another's fault."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from wavecast.apps.transcription.boosting import read_phrases
from wavecast.apps.transcription.endpoint import Rules
from wavecast.apps.transcription.formats import FORMATS, CTMWriter, EventWriter, Writer
from wavecast.apps.transcription.inference import Options, Transcriber, TranscriptStream
from wavecast.apps.transcription.verification import verify
from wavecast.apps.transcription.words import Segment
from wavecast.console import JsonReport, UsageError, raise_if_interrupted, say, show_error
from wavecast.core.errors import WavecastError
from wavecast.core.stream import flushed_denormals
from wavecast.datamodules.audio_files import AudioReader, open_audio
from wavecast.datamodules.microphone import MicrophoneReader
from wavecast.datamodules.new_files import NewFile, writing
from wavecast.datamodules.riff import SampleFormat
from wavecast.inputs import (
    Source,
    find_sources,
    is_folder,
    keep_apart,
    make_folder,
    naming,
    plan_target,
    raw_format,
    shown,
)
from wavecast.progress import Progress

BLOCK = 1 << 15  # samples of a channel read at once
MICROPHONE = "microphone"


@dataclass(frozen=True)
class Job:
    """One input, where its text goes, and how long it is if that is known."""

    source: Source
    target: str
    seconds: float | None = None

    @property
    def live(self) -> bool:
        """Whether the input comes as it is spoken."""
        return self.source.is_pipe or self.source.path == MICROPHONE


def transcribe_all(args: argparse.Namespace) -> int:
    """Transcribe all inputs of a command line.

    Returns:
        0 when all are done, 1 when some failed; a summary says which.
    """
    raw = raw_format(args.raw)
    if args.threads:
        torch.set_num_threads(args.threads)
    sources, errors = find_sources(args.inputs)
    if args.mic is not None:
        if args.inputs:
            raise UsageError("--mic goes without inputs", "transcribe the files in a second call")
        sources = [Source(MICROPHONE, Path())]
    elif not args.inputs:
        raise UsageError("there is nothing to transcribe", "name files, - for stdin, or --mic")
    for error in errors:
        show_error(error.message, error.hint)
    _check_together(args, sources)
    jobs, failed = _plan(args, sources, raw)
    failed += len(errors)
    if args.dry_run:
        for job in jobs:
            print(f"{shown(job.source.path)} -> {shown(job.target)}")
        return 1 if failed else 0
    if not jobs:
        return 1 if failed or not sources else 0
    transcriber = Transcriber.load(args.model, args.device, args.precision)
    if args.look_ahead is not None:
        transcriber.choose_look_ahead(args.look_ahead)
    options = Options(
        head=args.head or "",
        beam=args.beam,
        phrases=tuple(read_phrases(args.boost)) if args.boost else (),
        align=args.align,
        rules=Rules(args.pause, max(args.pause, Rules.silence)),
    )
    transcriber.decoder(options)  # what does not fit the model is said before any file is opened
    lengths = [job.seconds for job in jobs]
    seconds = None if None in lengths else sum(filter(None, lengths))
    report = JsonReport(args.json, args.overwrite)
    try:
        with Progress(len(jobs), seconds, args.quiet or jobs[0].target == "-") as progress:
            for job in jobs:
                try:
                    row = transcribe_one(job, transcriber, options, args, raw, progress, len(sources) > 1)
                except WavecastError as error:
                    failed += 1
                    report.add({"input": job.source.path, "error": error.message})
                    show_error(naming(job.source, error), error.hint)
                    continue
                report.add(row)
                say(_line(row), args.quiet or job.target == "-")
    finally:
        report.close()
    if failed:
        say(f"{failed} failed", args.quiet)
    return 1 if failed else 0


def transcribe_one(
    job: Job,
    transcriber: Transcriber,
    options: Options,
    args: argparse.Namespace,
    raw: SampleFormat | None,
    progress: Progress,
    several: bool,
) -> dict[str, Any]:
    """Transcribe one input.

    Args:
        job: which.
        transcriber: the model.
        options: what is wanted of the text.
        args: of the command.
        raw: how samples without a header are to be read.
        progress: of the command.
        several: inputs share one output, so that each names itself.

    Returns:
        The row of the report.

    Raises:
        WavecastError: the input is damaged, the model needs whole recordings and this is live, or the output cannot be
            written.
    """
    if job.live and not transcriber.streams:
        hint = "give a file, or a model that streams"
        raise WavecastError(f"{transcriber.card.name} needs the whole recording and cannot listen live", hint)
    begun = time.perf_counter(), time.process_time()
    with ExitStack() as stack:
        reader = stack.enter_context(_open(job, args, raw, transcriber))
        mixed = args.channels == "mix"
        channels = 1 if mixed else reader.info.channels
        stream = transcriber.stream(channels, reader.info.sample_rate, options)
        file = stack.enter_context(_output(job, args.overwrite))
        live = Live(stream, _writer(job, args, file), args.partials, _label(job, args) if several else "")
        bar = stack.enter_context(progress.file(job.source.path, job.seconds))
        try:
            with flushed_denormals():
                while (x := reader.read(BLOCK)).shape[1]:
                    raise_if_interrupted()
                    live.push(x.mean(0, keepdims=True) if mixed else x)
                    bar.advance(x.shape[1] / reader.info.sample_rate)
                heard = stream.seconds
                live.finish()
        except KeyboardInterrupt:
            if not job.live:
                raise
            heard = stream.seconds
            live.finish()  # what was said is kept
            if job.source.is_pipe:
                raise
        if reader.truncated and not heard:
            raise WavecastError(f"{job.source.path} holds no sound: it ends after its header", "it was cut off")
    wall = time.perf_counter() - begun[0]
    row = {
        "input": job.source.path,
        "output": job.target,
        "seconds": round(heard, 3),
        "sample_rate": reader.info.sample_rate,
        "channels": reader.info.channels,
        "words": live.words,
        "utterances": live.utterances,
        "wall_seconds": round(wall, 3),
        "cpu_seconds": round(time.process_time() - begun[1], 3),
        "real_time_factor": round(wall / heard, 4) if heard else None,
        "look_ahead_ms": transcriber.look_ahead,
        "latency_ms": round(1000 * transcriber.latency / transcriber.sample_rate, 1) if transcriber.streams else None,
        "not_finite_samples": stream.replaced,
        "truncated": reader.truncated,
        "model": transcriber.card.name,
        "model_sha256": transcriber.card.weights.get("sha256"),
    }
    if isinstance(reader, MicrophoneReader) and reader.lost:
        say(f"{reader.lost / 100:.1f} s of sound were lost: this machine is too slow", args.quiet)
    if args.verify_streaming:
        with open_audio(job.source.path, raw) as again:
            row |= verify(again, transcriber, options, mixed)
        proven = f"{row['verified_tokens']} tokens in {row['verified_seconds']:.0f} s"
        say(f"{job.source.path}: live equals whole, {proven}, frames to {row['streaming_error']:.0e}", args.quiet)
    return row


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


def _open(job: Job, args: argparse.Namespace, raw: SampleFormat | None, transcriber: Transcriber) -> AudioReader:
    if job.source.path == MICROPHONE:
        device = int(args.mic) if args.mic.isdecimal() else args.mic or None
        return MicrophoneReader(transcriber.sample_rate, device)
    return open_audio(job.source.path, raw)


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
    if job.live:
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


def _label(job: Job, args: argparse.Namespace) -> str:
    """Name the input where several go to stdout; CTM names its recording itself."""
    return shown(job.source.path) if job.target == "-" and _format(args, "-") != "ctm" else ""


def _check_together(args: argparse.Namespace, sources: list[Source]) -> None:
    """Refuse options that contradict each other.

    Raises:
        UsageError: says which, and what to give instead.
    """
    to_stdout = args.output in (None, "-")
    live = any(source.is_pipe or source.path == MICROPHONE for source in sources)
    if args.json == "-" and to_stdout:
        raise UsageError("text and report cannot both go to stdout", "give --json a file, or -o")
    if to_stdout and len(sources) > 1 and args.format not in (None, "txt", "ctm", "jsonl"):
        raise UsageError(f"{len(sources)} inputs cannot be one {args.format}", "give -o FOLDER/")
    if args.resume and to_stdout:
        raise UsageError("--resume leaves out inputs whose output exists", "give -o FOLDER/")
    if not to_stdout and len(sources) > 1 and not is_folder(args.output):
        raise UsageError(f"{len(sources)} inputs cannot go to one file {args.output}", f"give -o {args.output}/")
    if live and not to_stdout and is_folder(args.output):
        raise UsageError("live sound has no name of its own", f"give -o {args.output.rstrip('/')}/NAME.txt")
    if args.verify_streaming and live:
        raise UsageError("--verify-streaming goes through a recording twice", "give a file")
    try:
        args.name_template.format(stem="x")
    except (KeyError, IndexError, ValueError) as error:
        raise UsageError(f"--name-template {args.name_template!r} is not understood", "use {stem}") from error


def _plan(args: argparse.Namespace, sources: list[Source], raw: SampleFormat | None) -> tuple[list[Job], int]:
    """Choose the target of every input that can be opened; the number of those that cannot, beside them."""
    jobs, failed = [], 0
    suffix = f".{args.format or 'txt'}"
    for source in sources:
        if source.is_pipe or source.path == MICROPHONE:
            jobs.append(Job(source, args.output or "-"))
            continue
        try:
            with open_audio(source.path, raw) as reader:
                frames, rate = reader.info.frames, reader.info.sample_rate
        except WavecastError as error:
            failed += 1
            show_error(naming(source, error), error.hint)
            continue
        seconds = None if frames is None else frames / rate
        if args.output in (None, "-"):
            jobs.append(Job(source, "-", seconds))
        else:
            jobs.append(Job(source, str(plan_target(source, args.output, suffix, args.name_template)), seconds))
    if args.output not in (None, "-") and jobs and not jobs[0].live:
        targets = keep_apart([Path(job.target) for job in jobs], [job.source for job in jobs])
        jobs = [Job(job.source, str(target), job.seconds) for job, target in zip(jobs, targets, strict=True)]
    if args.resume:
        waiting = [job for job in jobs if not Path(job.target).exists()]
        say(f"{len(jobs) - len(waiting)} of {len(jobs)} were done before", args.quiet)
        jobs = waiting
    return jobs, failed


def _line(row: dict[str, Any]) -> str:
    """Say in one line what was done."""
    text = f"{row['output']}: {row['words']} words in {row['seconds']:.1f} s of sound, {row['wall_seconds']:.1f} s"
    if row["not_finite_samples"]:
        text += f", {row['not_finite_samples']} samples were not numbers and became 0"
    return text + (", the input was cut off" if row["truncated"] else "")
