"""The work of a command that listens and writes text: recordings, or live sound from stdin or a microphone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from wavecast.apps.sound.jobs import Job, Work
from wavecast.apps.sound.recording import blocks
from wavecast.console import say
from wavecast.core.stream import flushed_denormals
from wavecast.datamodules.audio_files import AudioInfo, AudioReader, open_audio
from wavecast.datamodules.microphone import MicrophoneReader
from wavecast.inputs import Source
from wavecast.texts import TextWork


class Listening(TextWork, Work):
    """All that is to be listened to for a command line."""

    def targets(self, source: Source, info: AudioInfo) -> list[Path]:
        """Choose the file that the text of an input goes to; `-` for stdout."""
        return self.text_targets(source)

    @contextmanager
    def open(self, job: Job, sample_rate: int) -> Iterator[AudioReader]:
        """Open an input; a microphone is asked for that sample rate.

        Raises:
            WavecastError: it is no sound, or there is no microphone.
        """
        if not job.source.device:
            with open_audio(job.source.path, self.raw) as reader:
                yield reader
            return
        device = int(self.args.mic) if self.args.mic.isdecimal() else self.args.mic or None
        with MicrophoneReader(sample_rate, device) as microphone:
            yield microphone
        if microphone.lost:
            say(f"{microphone.lost / 100:.1f} s of sound were lost: this machine is too slow", self.args.quiet)

    def listen(
        self, job: Job, reader: AudioReader, push: Callable[[np.ndarray], None], finish: Callable[[], None]
    ) -> None:
        """Hand on sound until it ends, as `follow` does.

        Args:
            job: the input.
            reader: of it.
            push: takes the next block (channels, n).
            finish: is called once at the end.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; with a microphone that is how it is meant to end.
        """
        with self.progress.file(job.source.path, job.seconds) as bar, flushed_denormals():
            self.follow(job, blocks(reader, job.source.path, bar), push, finish)
