"""One recording from its file to those of its speakers: block by block, in memory that does not grow."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from wavecast.apps.enhancement.inference import Enhancer
from wavecast.apps.separation.inference import SeparatorStream
from wavecast.apps.separation.presence import Voice, choose_results
from wavecast.apps.separation.reference import References
from wavecast.apps.separation.speakers import Separating, Spool, separated
from wavecast.apps.sound.jobs import Job
from wavecast.apps.sound.pictures import Drawn
from wavecast.apps.sound.recording import HIGHEST_PEAK_DB, blocks, create_together, file_info_for
from wavecast.apps.sound.report import Level, resampling_latency_ms
from wavecast.console import raise_if_interrupted, say
from wavecast.core.resample import Resampler
from wavecast.core.sound_stream import soft_peaks
from wavecast.core.stream import flushed_denormals
from wavecast.datamodules.audio_files import AudioInfo, AudioReader, AudioWriter, create_audio, open_audio, pipe_info
from wavecast.inputs import make_folder
from wavecast.jobs import Clock, model_row
from wavecast.pictures import refuse_existing
from wavecast.progress import FileProgress

Blocks = Callable[[], Iterable[np.ndarray]]
"""Gives sound anew on every call, block by block: (sounds, channels, n)."""


@dataclass
class Heard:
    """What is to be known of a recording and its results when they are done.

    Attributes:
        drawn: their picture, if one is wanted.
        references: what the results are compared with, if that is wanted.
        level: of the recording.
        frames: samples of each of its channels.
        levels: of the results.
    """

    drawn: Drawn | None
    references: References | None
    level: Level = field(default_factory=Level)
    frames: int = 0
    levels: list[Level] = field(default_factory=list)

    def add(self, x: np.ndarray) -> None:
        """Take the next block of the recording: (channels, n)."""
        self.level.add(x)
        self.frames += x.shape[1]
        if self.drawn is not None:
            self.drawn.add("mixture", x)
        if self.references is not None:
            self.references.add(x)

    def add_results(self, y: np.ndarray, names: Sequence[str]) -> None:
        """Take the next block of the results: (results, channels, n)."""
        self.levels = self.levels or [Level() for _ in names]
        for level, name, sound in zip(self.levels, names, y, strict=True):
            level.add(sound)
            if self.drawn is not None:
                self.drawn.add(name, sound)
        if self.references is not None:
            self.references.add_results(y[: len(self.references.voices)])


@dataclass
class Recording:
    """A recording and what is wanted of it.

    Attributes:
        job: where it is and where its speakers go.
        names: of its targets: "1", "2" and so on, and "residual".
        separating: how it is separated.
        enhancer: takes noise from the voices; None where that is not wanted.
        args: of the command.
    """

    job: Job
    names: Sequence[str]
    separating: Separating
    enhancer: Enhancer | None
    args: argparse.Namespace

    def separate(self) -> dict[str, Any]:
        """Separate it.

        Returns:
            The row of the report.

        Raises:
            WavecastError: it is damaged, or a result cannot be written; nothing is left of any result then.
        """
        args, source, clock = self.args, self.job.source, Clock()
        with ExitStack() as stack:
            reader = stack.enter_context(open_audio(source.path, self.separating.raw))
            info = reader.info
            drawn = Drawn(info.sample_rate) if args.plot and not self.to_pipe else None
            heard = Heard(drawn, References.read(args.reference) if args.reference else None)
            if heard.references is not None and info.frames is not None:
                heard.references.check(info.frames, info.sample_rate)
            stream = self.separating.begin(reader, source, source.is_pipe)
            channels = info.channels if args.channels == "each" else 1
            writers = [] if self.to_pipe else stack.enter_context(self._files(replace(info, channels=channels)))
            bar = stack.enter_context(self._bar(counts=True))

            def outputs() -> Iterator[np.ndarray]:
                for x, y in separated(blocks(reader, source.path, bar), stream):
                    heard.add(x)
                    yield y

            if source.is_pipe and self.to_pipe:
                groups, made = [[i] for i in range(stream.outputs)], outputs
            else:
                where = None if self.to_pipe else Path(self.job.target).parent
                spool = stack.enter_context(Spool(stream.outputs, channels, where))
                with flushed_denormals():
                    for y in outputs():
                        spool.add(y)
                groups = choose_results(stream.voices(), self.separating.auto, args.residual)
                self.separating.tell(source.path, stream, stream.voices())
                made = spool.blocks
            if self.to_pipe:
                writers = [stack.enter_context(self._pipe(replace(info, channels=channels * len(groups))))]
            results = self._results(groups)
            for name, writer in zip(self.names, writers, strict=False):
                writer.wanted = self.to_pipe or name in results
            with flushed_denormals():
                self._write(made, groups, [w for w in writers if w.wanted], channels, info.sample_rate, heard)
        return self._row(reader, stream, heard, groups, clock, sum(writer.clipped for writer in writers))

    @property
    def to_pipe(self) -> bool:
        """Whether all results go to stdout, as the channels of one sound."""
        return self.job.target == "-"

    def _results(self, groups: Sequence[Sequence[int]]) -> list[str]:
        """Name the results that there are."""
        speakers = len(groups) - self.args.residual
        return [*(str(i + 1) for i in range(speakers)), *["residual"] * self.args.residual]

    @property
    def _picture(self) -> Path:
        """The picture beside the results, named after all of them."""
        first = Path(self.job.target)
        return first.with_name(f"{first.stem}.png")

    def _files(self, info: AudioInfo) -> AbstractContextManager[list[AudioWriter]]:
        make_folder(Path(self.job.target).parent)
        if self.args.plot:
            refuse_existing([self._picture], self.args.overwrite)
        targets = [(target, file_info_for(info, self.args, target)) for target in self.job.targets]
        return create_together(targets, self.args.overwrite)

    def _pipe(self, info: AudioInfo) -> AudioWriter:
        return create_audio("-", replace(pipe_info(info), sample_rate=self.args.rate or info.sample_rate))

    def _write(
        self,
        outputs: Blocks,
        groups: Sequence[Sequence[int]],
        writers: Sequence[AudioWriter],
        channels: int,
        sample_rate: int,
        heard: Heard,
    ) -> None:
        """Make results of outputs, and write them."""

        def summed() -> Iterator[np.ndarray]:
            return (np.stack([y[group].sum(0) for group in groups]) for y in outputs())

        def results() -> Iterator[np.ndarray]:
            if self.enhancer is None:
                return summed()
            return enhanced(summed, len(groups), channels, self.enhancer, sample_rate)

        gain_db = self.args.gain_db
        if self.args.peaks == "rescale":
            gain_db = self._rescaled(results, gain_db)
        gain = np.float32(10 ** (gain_db / 20))
        rows = len(groups) * channels
        last = Resampler(sample_rate, self.args.rate or sample_rate, rows)
        names = self._results(groups)
        with self._bar(counts=False) as bar:
            for y in results():
                raise_if_interrupted()
                y = y * gain if gain != 1 else y
                if self.args.peaks == "soft":
                    y = soft_peaks(y)
                heard.add_results(y, names)
                _share_out(last.push(y.reshape(rows, y.shape[2])), writers)
                bar.advance(y.shape[2] / sample_rate)
        _share_out(last.flush(), writers)

    def _bar(self, counts: bool) -> FileProgress:
        return self.separating.progress.file(self.job.source.path, self.job.seconds, counts)

    def _rescaled(self, results: Blocks, gain_db: float) -> float:
        """Lower the gain of all results so that none is above full scale, which takes a pass of its own."""
        level = Level()
        for y in results():
            raise_if_interrupted()
            level.add(y)
        peak = level.row()["peak_db"]
        return gain_db if peak is None else min(gain_db, HIGHEST_PEAK_DB - peak)

    def _row(
        self,
        reader: AudioReader,
        stream: SeparatorStream,
        heard: Heard,
        groups: Sequence[Sequence[int]],
        clock: Clock,
        clipped: int,
    ) -> dict[str, Any]:
        """Draw the picture, say what there is to say, and make the row of the report."""
        args, info, model, name = self.args, reader.info, self.separating.separator, self.job.source.path
        seconds, names = heard.frames / info.sample_rate, self._results(groups)
        if not heard.frames:
            say(f"{name} has no samples", args.quiet)
        targets = dict(zip(self.names, self.job.targets, strict=False))
        for left_out in [target for one, target in targets.items() if one not in names and Path(target).exists()]:
            say(f"{left_out} is of an earlier run: there is no such voice now", args.quiet)
        row: dict[str, Any] = {
            "input": name,
            "outputs": ["-"] if self.to_pipe else [targets[one] for one in names],
            "seconds": round(seconds, 3),
            "sample_rate": info.sample_rate,
            "channels": info.channels,
            "speakers": len(groups) - args.residual,
            **clock.row(seconds),
            "latency_ms": round(1000 * model.latency / model.sample_rate, 2) if model.streams else None,
            "resampling_latency_ms": resampling_latency_ms(info.sample_rate, model.sample_rate),
            "level_in": heard.level.row(),
            "levels_out": {one: level.row() for one, level in zip(names, heard.levels, strict=False)},
            "voices": [_voice(i, voice, groups) for i, voice in enumerate(stream.voices())],
            "seams": [
                {
                    "seconds": round(seam.seconds, 3),
                    "order": list(seam.order),
                    "confidence": round(seam.confidence, 3),
                    "certain": seam.certain,
                }
                for seam in stream.seams
            ],
            "uncertain_seams": sum(not seam.certain for seam in stream.seams),
            "turns": [asdict(turn) for turn in stream.turns],
            "uncertain_turns": sum(not turn.certain for turn in stream.turns),
            "clipped_samples": clipped,
            "not_finite_samples": stream.replaced,
            "truncated": reader.truncated,
            **model_row(model.card),
        }
        if self.enhancer is not None:
            row |= {f"enhance_{key}": value for key, value in model_row(self.enhancer.card).items()}
        if heard.references is not None:
            heard.references.check(heard.frames, info.sample_rate)
            row |= heard.references.row()
        if heard.drawn is not None:
            heard.drawn.draw(self._picture, Path(name).name)
            row["plot"] = str(self._picture)
        return row


def enhanced(sound: Blocks, sounds: int, channels: int, enhancer: Enhancer, rate: int) -> Iterator[np.ndarray]:
    """Take noise from sounds, each channel on its own; they stay as long as they were.

    Args:
        sound: blocks (sounds, channels, n).
        sounds: of a block.
        channels: of each.
        enhancer: the model.
        rate: of the sounds, in hertz.
    """

    def rows() -> Iterator[np.ndarray]:
        return (y.reshape(sounds * channels, y.shape[2]) for y in sound())

    gain = None if enhancer.streams else enhancer.input_gain(rows)
    stream = enhancer.stream(sounds * channels, rate, None, gain, live=False)
    for y in rows():
        done = stream.push(y)
        yield done.reshape(sounds, channels, done.shape[1])
    rest = stream.flush()
    yield rest.reshape(sounds, channels, rest.shape[1])


def _share_out(y: np.ndarray, writers: Sequence[AudioWriter]) -> None:
    """Write (sounds x channels, n), as many channels to each writer."""
    for writer, sound in zip(writers, np.split(y, len(writers)), strict=True):
        if y.shape[1]:
            writer.write(sound)


def _voice(output: int, voice: Voice, groups: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Say what was found in an output, and in which result it is."""
    return {
        "result": next(i for i, group in enumerate(groups) if output in group) + 1,
        "kept": any(group[0] == output for group in groups),
        "level_db": None if voice.level_db is None else round(voice.level_db, 2),
        "active_seconds": round(voice.active_seconds, 3),
    }
