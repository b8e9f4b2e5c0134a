"""The work of a command on sound: `wavecast.jobs` with recordings for inputs."""

import argparse
from pathlib import Path

from wavecast.datamodules.audio_files import AUDIO_SUFFIXES, AudioInfo, open_audio
from wavecast.inputs import Source, raw_format
from wavecast.jobs import Job
from wavecast.jobs import Work as AnyWork

__all__ = ["Job", "Work"]


class Work(AnyWork):
    """All that is to be done for a command line on sound.

    Args:
        args: of the command.

    Attributes:
        raw: how samples without a header are to be read.
    """

    suffixes = AUDIO_SUFFIXES
    kind = "audio"
    results = "sound"

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.raw = raw_format(args.raw)

    def look(self, source: Source) -> tuple[list[Path], float | None]:
        """Open a recording, and choose the files that its results go to."""
        with open_audio(source.path, self.raw) as reader:
            info = reader.info
            targets = self.targets(source, info)
        return targets, None if info.frames is None else info.frames / info.sample_rate

    def targets(self, source: Source, info: AudioInfo) -> list[Path]:
        """Choose the files that the results of an input go to; `-` for stdout.

        Raises:
            WavecastError: there can be none.
        """
        raise NotImplementedError(f"{type(self).__name__}.targets")
