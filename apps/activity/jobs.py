"""The work of `wavecast recognize`."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from wavecast.apps.activity.formats import TIMELINES, Place, TextTimeline, ranking
from wavecast.apps.activity.inference import BLOCK, Options, Recognizer, RecognizerStream, rate_of
from wavecast.apps.activity.pictures import Album
from wavecast.apps.activity.timeline import NOTHING, Moment, Segmenter
from wavecast.console import UsageError, raise_if_interrupted, say
from wavecast.core.errors import WavecastError
from wavecast.datamodules.arrays import ARRAY_SUFFIXES
from wavecast.datamodules.clip_sampling import open_frames
from wavecast.datamodules.video_files import VIDEO_SUFFIXES, VideoReader
from wavecast.datamodules.video_live import CameraReader, PipedVideoReader, RawVideo, RawVideoReader, open_raw_file
from wavecast.inputs import Source, shown
from wavecast.jobs import Clock, Job, model_row
from wavecast.pictures import refuse_existing
from wavecast.progress import FileProgress
from wavecast.texts import TextWork, text_file

LONG = 30  # windows; of a longer video, a timeline tells more


def recognize_all(args: argparse.Namespace) -> int:
    """Recognize activities in all inputs of a command line.

    Returns:
        0 when all are done, 1 when some failed; a summary says which.
    """
    return Recognition(args).run()


class Recognition(TextWork):
    """All that is to be recognized for a command line."""

    suffixes = VIDEO_SUFFIXES | ARRAY_SUFFIXES
    kind = "video"
    results = "activities"
    json_hint = "give --json a file, or -o"
    verb = "recognize"
    device = ("camera", "camera")
    live = "video"
    formats = tuple(TIMELINES)
    joined = ("txt", "jsonl", "csv")
    begun = False
    """Whether a table on stdout has its header."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.raw = raw_video(args.raw)

    def check(self, sources: list[Source]) -> None:
        """Refuse options that contradict each other."""
        super().check(sources)
        args = self.args
        models = len(args.model or [None])
        if args.weights and len(args.weights) != models:
            raise UsageError(f"{len(args.weights)} weights for {models} models", "give one for each --model")
        if args.raw and args.camera is not None:
            raise UsageError("--raw is of files and pipes", "leave it out: a camera tells what it sends")

    def look(self, source: Source) -> tuple[list[Path], float | None]:
        """Open a video, and choose the file that its text goes to."""
        with open_frames(self._video(source)[0], self._rate()) as reader:
            return self.text_targets(source), reader.seconds()

    def load(self) -> None:
        """Load the models, and say what does not fit them before any file is opened."""
        args = self.args
        self.recognizer = Recognizer.load(args.model, args.device, args.weights)
        self.options = Options(args.window, args.stride, args.threshold, args.min_duration or 0.0)
        self.recognizer.plan(self.options)

    def one(self, job: Job) -> dict[str, Any]:
        """Recognize one input.

        Returns:
            The row of the report.

        Raises:
            WavecastError: the input is damaged, or the output cannot be written.
        """
        clock, kind = Clock(), self.format(job.target)
        if self.args.plot:
            refuse_existing([self.picture(job)], self.args.overwrite)
        with text_file(job, self.args.overwrite) as file:
            told = self._timeline if self._has_timeline(job, kind) else self._whole
            row = told(job, file, kind)
        seconds = row.pop("seconds")
        about = {"input": job.source.path, "output": job.target, "seconds": seconds and round(seconds, 3)}
        row = about | row | clock.row(seconds or 0.0) | model_row(self.recognizer.card)
        if len(self.recognizer.cards) > 1:
            row["models"] = [model_row(card) for card in self.recognizer.cards]
            row["weights"] = [round(float(one), 4) for one in self.recognizer.weights]
        return row

    def line(self, row: dict[str, Any]) -> str:
        """Say in one line what was done."""
        told = f"{row['segments']} segments" if "segments" in row else f"{row['activity']} {row['probability']:.2f}"
        length = "" if row["seconds"] is None else f"{row['seconds']:.1f} s of video, "
        cut = ", the input was cut off" if row["truncated"] else ""
        return f"{row['output']}: {told} in {length}{row['wall_seconds']:.1f} s{cut}"

    def _has_timeline(self, job: Job, kind: str) -> bool:
        args = self.args
        asked = args.timeline or args.window or args.stride or args.min_duration or args.plot or args.partials
        return bool(asked) or kind == "srt" or job.source.is_live

    def _place(self, job: Job) -> Place:
        """Tell where the next text stands; the first one on stdout begins a table."""
        named, begun = self.several and job.target == "-", self.begun
        self.begun = True
        return Place(shown(job.source.path) if named else "", not (named and begun))

    def _whole(self, job: Job, file: TextIO, kind: str) -> dict[str, Any]:
        """Recognize a video as a whole, and give what is to be reported of it."""
        video, cut = self._video(job.source)
        with self.progress.file(job.source.path, job.seconds) as bar:
            found = self.recognizer(video, self._rate())
            bar.advance(found.seconds or 0.0)
        top = [one for one in found.top(self.args.top) if one[1] >= self.args.threshold]
        file.write(ranking(kind, top, found.seconds, self._place(job)))
        seconds, window = found.seconds, self.recognizer.window
        if seconds is not None and seconds > LONG * window:
            long = f"{job.source.path} lasts {seconds:.0f} s, the model looks at {window:g} s"
            say(f"{long}: --timeline tells more", self.args.quiet)
        best, probability = top[0] if top else (NOTHING, 0.0)
        return {"seconds": seconds, "activity": best, "probability": round(probability, 4), "truncated": cut}

    def _timeline(self, job: Job, file: TextIO, kind: str) -> dict[str, Any]:
        """Go through a video, and give what is to be reported of it."""
        reader, cut = self._open(job)
        with reader, self.progress.file(job.source.path, job.seconds) as bar:
            stream = self.recognizer.stream(rate_of(reader, job.source.path), self.options)
            segmenter = Segmenter(self.recognizer.classes, self.options.threshold, self.options.minimum)
            album = Album(self.recognizer.classes) if self.args.plot else None
            writer = TIMELINES[kind](file, self._place(job))
            telling = Telling(stream, segmenter, writer, self.args.partials, album)
            block = 1 if job.source.is_live or self.args.partials else BLOCK
            self.follow(job, blocks(reader, stream, bar, block), telling.push, telling.finish)
        row = {
            "seconds": stream.seconds,
            "frames": stream.frames,
            "segments": telling.count,
            "window_seconds": stream.window,
            "stride_seconds": stream.stride,
            "latency_ms": round(1000 * stream.latency),
            "truncated": cut or getattr(reader, "truncated", False),
        }
        if album is not None:
            album.draw(self.picture(job), Path(job.source.path).name)
            row["plot"] = str(self.picture(job))
        return row

    def _video(self, source: Source) -> tuple[str | np.ndarray, bool]:
        """Give the path of a file, or its frames where they have no header; and whether the last one is cut off."""
        return (source.path, False) if self.raw is None else open_raw_file(Path(source.path), self.raw)

    def _rate(self) -> float | None:
        return self.raw.rate if self.raw else self.args.rate

    def _open(self, job: Job) -> tuple[VideoReader, bool]:
        if job.source.device:
            return CameraReader(self.args.camera), False
        if job.source.is_pipe:
            descriptor = sys.stdin.fileno()
            return (RawVideoReader(descriptor, self.raw) if self.raw else PipedVideoReader(descriptor)), False
        video, cut = self._video(job.source)
        return open_frames(video, self._rate()), cut


def raw_video(text: str | None) -> RawVideo | None:
    """Read what --raw says of frames without a header; None for None.

    Raises:
        UsageError: it is not understood.
    """
    try:
        return RawVideo.parse(text) if text else None
    except ValueError as error:
        raise UsageError(f"--raw {error}", "for example --raw rgb24:320x240:25") from error


def blocks(
    reader: VideoReader, stream: RecognizerStream, bar: FileProgress, block: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read frames and their times until the end, while a bar advances.

    Raises:
        WavecastError: no frame came.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    seconds = 0.0
    while len((piece := reader.read(block))[0]):
        raise_if_interrupted()
        yield piece
        bar.advance(stream.seconds - seconds)
        seconds = stream.seconds
    if not stream.frames:
        raise WavecastError("no frame came", "is it video? frames without a header need --raw rgb24:320x240:25")


class Telling:
    """A video on its way to segments that are written as they end.

    Args:
        stream: from frames to moments.
        segmenter: from moments to segments.
        writer: of them.
        partials: show what seems to be going on: in the text where its format has a place for it, else on a terminal.
        album: that keeps what a picture shows, if one is wanted.

    Attributes:
        count: of segments.
    """

    def __init__(
        self,
        stream: RecognizerStream,
        segmenter: Segmenter,
        writer: TextTimeline,
        partials: bool,
        album: Album | None,
    ) -> None:
        self.stream, self.segmenter, self.writer, self.album = stream, segmenter, writer, album
        self.partials, self.on_terminal = partials, partials and sys.stderr.isatty()
        self.classes, self.count = segmenter.classes, 0
        self.told: tuple[str, float] | None = None

    def push(self, block: tuple[np.ndarray, np.ndarray]) -> None:
        """Take frames and their times."""
        frames, times = block
        self._take(self.stream.push(frames, times))
        if self.album is not None:
            self.album.see(self.stream.seconds, frames[-1])
        if self.partials and (now := self.stream.now()) is not None:
            self._guess(self.classes[int(now.argmax())], round(float(now.max()), 4))

    def finish(self) -> None:
        """End the video."""
        self._take(self.stream.flush())
        self._write(self.segmenter.finish())
        self.writer.close()

    def _guess(self, activity: str, probability: float) -> None:
        if (activity, probability) == self.told:
            return
        self.told = activity, probability
        self.writer.partial(self.stream.seconds, activity, probability)
        if self.on_terminal:
            print(f"\r\x1b[K{activity} {probability:.2f}", end="", file=sys.stderr, flush=True)

    def _take(self, moments: list[Moment]) -> None:
        for moment in moments:
            if self.album is not None:
                self.album.add(moment)
            self._write(self.segmenter.step(moment))

    def _write(self, segments: list[Any]) -> None:
        if segments and self.on_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        for segment in segments:
            self.writer.add(segment)
            self.count += 1
            if self.album is not None:
                self.album.mark(segment)
