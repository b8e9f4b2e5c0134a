"""Separated sound from the network to where it is used: waiting on disk until it is known which voices there are."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from wavecast.apps.separation.inference import Options, Separator, SeparatorStream
from wavecast.apps.separation.presence import Voice, choose_results
from wavecast.apps.separation.tracks import Seam
from wavecast.apps.separation.turns import Turn
from wavecast.apps.sound.recording import BLOCK, blocks, check_one_pass
from wavecast.console import say
from wavecast.core.errors import WavecastError, listed
from wavecast.core.stream import flushed_denormals
from wavecast.datamodules.audio_files import AudioReader
from wavecast.datamodules.new_files import writing
from wavecast.datamodules.readers import Reader
from wavecast.datamodules.riff import SampleFormat
from wavecast.inputs import Source
from wavecast.progress import Progress

FIXED_BYTES, SAMPLE_FLOATS = 750e6, 40
"""Peak memory of one pass: of a process with torch in it, and floats that each sample takes outside of the network."""


class Spool(Reader):
    """Sound on disk, float32, until it is known what becomes of it; gone with the program, however that ends.

    Args:
        outputs: sounds that belong together.
        channels: of each.
        folder: on whose disk; where the system keeps temporary files if None.

    Attributes:
        frames: samples of each channel so far.

    Raises:
        WavecastError: nothing can be written there.
    """

    def __init__(self, outputs: int, channels: int, folder: Path | None = None) -> None:
        self._shape, self.frames = (outputs, channels), 0
        self._path = (folder or Path(tempfile.gettempdir())) / "a temporary file"  # as messages call it
        with writing(self._path):
            self._file = tempfile.TemporaryFile(dir=self._path.parent)  # noqa: SIM115 - closed in close()

    def add(self, y: np.ndarray) -> None:
        """Take (outputs, channels, n) samples.

        Raises:
            WavecastError: the disk is full.
        """
        with writing(self._path):
            self._file.write(np.ascontiguousarray(y.transpose(2, 0, 1), np.float32).tobytes())
        self.frames += y.shape[2]

    def blocks(self) -> Iterator[np.ndarray]:
        """Read from the beginning: float32 (outputs, channels, n)."""
        width, at = 4 * self._shape[0] * self._shape[1], 0
        while at < self.frames:
            with writing(self._path):  # what has not reached the disk yet goes there first
                self._file.seek(width * at)
                data = self._file.read(width * BLOCK)
            x = np.frombuffer(data, np.float32).reshape(-1, *self._shape)
            at += len(x)
            yield x.transpose(1, 2, 0)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


@dataclass(frozen=True)
class Separating:
    """How a command separates.

    Attributes:
        separator: the model.
        options: with `speakers` None, outputs without a voice are left out where that can be known in time.
        raw: how samples without a header are to be read.
        progress: of the command.
        quiet: say nothing.
    """

    separator: Separator
    options: Options
    raw: SampleFormat | None
    progress: Progress
    quiet: bool

    @property
    def auto(self) -> bool:
        """Whether outputs without a voice are left out."""
        return self.options.speakers is None

    def begin(self, reader: AudioReader, source: Source, live: bool) -> SeparatorStream:
        """Begin to separate a recording that is open.

        Raises:
            WavecastError: the model needs all of it and it is live, or the options or the rate do not fit the model.
        """
        model, info = self.separator, reader.info
        if live and not model.streams:
            raise WavecastError(f"{model.card.name} needs the whole recording and cannot work live", "give a file")
        if self.options.whole and not model.streams:
            seconds = model.plan.window / model.sample_rate
            needed = f"windows of {seconds:.0f} s need {pass_bytes(model, seconds) / 1e9:.1f} GB for any length"
            check_one_pass(info, partial(pass_bytes, model), f"leave --whole out: {needed}")
        return model.stream(info.channels, info.sample_rate, self.options, live=live)

    def tell(self, name: str, stream: SeparatorStream, voices: Sequence[Voice]) -> None:
        """Say which outputs were left out, and where it is not certain who is who."""
        there, count = sum(voice.present for voice in voices), len(voices)
        if self.auto and not there:
            say(f"{name}: there is no voice in it; one result is all that is left", self.quiet)
        elif self.auto and there < count:
            left_out = "output has no voice and is" if count - there == 1 else "outputs have no voice and are"
            say(f"{name}: {count - there} {left_out} left out (--speakers {count} keeps all)", self.quiet)
        decisions: list[Seam | Turn] = [*stream.seams, *stream.turns]
        decisions.sort(key=lambda one: one.seconds)
        uncertain = [f"{one.seconds:.1f} s" for one in decisions if not one.certain]
        if uncertain:
            say(f"{name}: it is not certain that speakers stay the same at {listed(uncertain)}", self.quiet)


def pass_bytes(separator: Separator, seconds: float) -> int:
    """Estimate the peak memory of a process that separates that many seconds in one pass.

    For each frame the network's form for inference holds maps of its attention and of its width; how many was measured
    with a published and a small size, at two lengths each.
    """
    sizes, weights = separator.card.hyperparameters, separator.card.weights.get("bytes", 0)
    frame = 2 * sizes.get("hidden", 2048) + 6 * sizes.get("width", 512)
    floats = separator.sample_rate * seconds * (frame / sizes.get("stride", 8) + SAMPLE_FLOATS)
    return int(FIXED_BYTES + weights + 4 * floats)


def separated(sound: Iterable[np.ndarray], stream: SeparatorStream) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Separate block by block: (channels, n) and the outputs (outputs, channels, m); the last pair has no input."""
    for x in sound:
        yield x, stream.push(x)
    yield np.zeros((1, 0), np.float32), stream.flush()


class SeparatedReader(AudioReader):
    """A recording whose channels are its speakers. A file is separated before the first read.

    Args:
        reader: of the recording; not closed here.
        source: of the recording.
        separating: how it is separated.
        live: the recording comes as it is spoken: all outputs are speakers.
        seconds: of the recording, if that is known.

    Raises:
        WavecastError: the model needs whole recordings and this is live, or the recording is damaged.
    """

    def __init__(
        self, reader: AudioReader, source: Source, separating: Separating, live: bool, seconds: float | None
    ) -> None:
        self._reader, self._rest = reader, np.zeros((0, 0), np.float32)
        self._spool: Spool | None = None
        stream = separating.begin(reader, source, live)
        results = [[i] for i in range(stream.outputs)]
        if live:
            self._parts = self._live(stream)
        else:
            self._spool = Spool(stream.outputs, 1)
            try:
                with separating.progress.file(source.path, seconds, counts=False) as bar, flushed_denormals():
                    for _, y in separated(blocks(reader, source.path, bar), stream):
                        self._spool.add(y)
            except BaseException:
                self.close()
                raise
            voices = stream.voices()
            separating.tell(source.path, stream, voices)
            results = choose_results(voices, separating.auto, residual=False)
            self._parts = (np.stack([y[group].sum((0, 1)) for group in results]) for y in self._spool.blocks())
        super().__init__(replace(reader.info, channels=len(results)))
        self.truncated = reader.truncated

    def _live(self, stream: SeparatorStream) -> Iterator[np.ndarray]:
        while (x := self._reader.read(BLOCK)).shape[1]:
            yield stream.push(x)[:, 0]
        yield stream.flush()[:, 0]

    def read(self, frames: int) -> np.ndarray:
        """Read on: float32 (speakers, n)."""
        while not self._rest.shape[1]:
            part = next(self._parts, None)
            if part is None:
                return np.zeros((self.info.channels, 0), np.float32)
            self._rest = part
        x, self._rest = self._rest[:, :frames], self._rest[:, frames:]
        self.truncated = self._reader.truncated
        return x

    def close(self) -> None:
        """Remove what waits on disk."""
        if self._spool is not None:
            self._spool.close()
