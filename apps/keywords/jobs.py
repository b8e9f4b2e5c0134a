"""The work of `wavecast spot`."""

import argparse
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from wavecast.apps.keywords.decisions import Event
from wavecast.apps.keywords.formats import FORMATS, EventWriter
from wavecast.apps.keywords.inference import Options, Spotter, SpotterStream
from wavecast.apps.keywords.pictures import Curves
from wavecast.apps.sound.jobs import Job
from wavecast.apps.sound.listening import Listening
from wavecast.apps.sound.report import faults
from wavecast.inputs import shown
from wavecast.jobs import Clock, model_row
from wavecast.pictures import refuse_existing
from wavecast.texts import text_file


def spot_all(args: argparse.Namespace) -> int:
    """Find the words in all inputs of a command line.

    Returns:
        0 when all are done, 1 when some failed; a summary says which.
    """
    return Spotting(args).run()


class Spotting(Listening):
    """All that is to be spotted for a command line."""

    results = "events"
    json_hint = "give --json a file, or -o"
    verb = "spot"
    formats = tuple(FORMATS)
    joined = formats
    begun = False
    """Whether a table on stdout has its header."""

    def load(self) -> None:
        """Load the model, and say what does not fit it before any file is opened."""
        args = self.args
        self.spotter = Spotter.load(args.model, args.device)
        self.options = Options(
            words=tuple(args.words),
            thresholds=args.thresholds,
            threshold=args.threshold,
            smoothing=args.smoothing,
            refractory=args.refractory,
            early=args.early,
            hop=args.hop,
        )
        self.spotter.decider(self.options)

    def one(self, job: Job) -> dict[str, Any]:
        """Spot one input.

        Returns:
            The row of the report.

        Raises:
            WavecastError: the input is damaged, or the output cannot be written.
        """
        args, spotter, clock = self.args, self.spotter, Clock()
        picture = self.picture(job) if args.plot else None
        if picture is not None:
            refuse_existing([picture], args.overwrite)
        with ExitStack() as stack:
            reader = stack.enter_context(self.open(job, spotter.sample_rate))
            mixed = args.channels == "mix"
            channels = 1 if mixed else reader.info.channels
            stream = spotter.stream(channels, reader.info.sample_rate, self.options)
            file = stack.enter_context(text_file(job, args.overwrite))
            named = self.several and job.target == "-"
            source = shown(job.source.path) if named else ""
            writer = EventWriter(file, self.format(job.target), source, not mixed, not (named and self.begun))
            self.begun = True
            curves = None if picture is None else Curves(spotter.classes, spotter.timing(stream.views))
            heard = Heard(stream, writer, curves, mixed)
            self.listen(job, reader, heard.push, heard.finish)
        row = {
            "input": job.source.path,
            "output": job.target,
            "seconds": round(heard.seconds, 3),
            "sample_rate": reader.info.sample_rate,
            "channels": reader.info.channels,
            "events": heard.words.total(),
            "words": dict(heard.words.most_common()),
            **clock.row(heard.seconds),
            "latency_ms": round(1000 * spotter.latency / spotter.sample_rate, 1),
            "not_finite_samples": stream.replaced,
            "truncated": reader.truncated,
            **model_row(spotter.card),
        }
        if picture is not None and curves is not None:
            curves.draw(picture, Path(job.source.path).name)
            row["plot"] = str(picture)
        return row

    def line(self, row: dict[str, Any]) -> str:
        """Say in one line what was done."""
        took = f"{row['seconds']:.1f} s of sound, {row['wall_seconds']:.1f} s"
        return f"{row['output']}: {row['events']} words in {took}{faults(row)}"


class Heard:
    """A recording on its way to events that are written as they come.

    Args:
        stream: from sound to events.
        writer: of them.
        curves: of a picture, if one is wanted.
        mixed: channels are heard as one.

    Attributes:
        words: how often each came.
        seconds: of sound, at its end.
    """

    def __init__(self, stream: SpotterStream, writer: EventWriter, curves: Curves | None, mixed: bool) -> None:
        self.stream, self.writer, self.curves, self.mixed = stream, writer, curves, mixed
        self.words: Counter[str] = Counter()
        self.seconds = 0.0

    def push(self, x: np.ndarray) -> None:
        """Take (channels, n) samples."""
        self._write(self.stream.push(x.mean(0, keepdims=True) if self.mixed else x))

    def finish(self) -> None:
        """End the sound."""
        self.seconds = self.stream.seconds
        self._write(self.stream.flush())

    def _write(self, events: list[Event]) -> None:
        for event in events:
            self.writer.add(event)
            self.words[event.word] += 1
        if self.curves is not None:
            self.curves.add(self.stream.posteriors, events)
