"""What is common to all that goes from a recording to files: blocks, containers, and models that need all of it."""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from wavecast.console import raise_if_interrupted
from wavecast.core.errors import WavecastError
from wavecast.datamodules.audio_files import (
    AudioInfo,
    AudioReader,
    AudioWriter,
    create_audio,
    file_info,
    file_suffix,
    open_audio,
)
from wavecast.datamodules.riff import SampleFormat
from wavecast.inputs import Source
from wavecast.progress import FileProgress

HIGHEST_PEAK_DB = -0.1  # of a result that is rescaled: another sample rate or a lossy format may raise it a little
BLOCK = 1 << 15  # samples of a channel read at once


def blocks(reader: AudioReader, path: str, bar: FileProgress) -> Iterator[np.ndarray]:
    """Read block by block (channels, n) until the end, where n is 0, while a bar advances.

    Raises:
        WavecastError: there is no sound after the header.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    frames = 0
    while (x := reader.read(BLOCK)).shape[1]:
        raise_if_interrupted()
        yield x
        frames += x.shape[1]
        bar.advance(x.shape[1] / reader.info.sample_rate)
    if reader.truncated and not frames:
        raise WavecastError(f"{path} holds no sound: it ends after its header", "it was cut off")


def blocks_anew(source: Source, raw: SampleFormat | None) -> Callable[[], Iterable[np.ndarray]]:
    """Make a function that reads a file from its beginning, block by block, on every call."""

    def read() -> Iterator[np.ndarray]:
        with open_audio(source.path, raw) as reader:
            while (x := reader.read(BLOCK)).shape[1]:
                yield x

    return read


def file_info_for(info: AudioInfo, args: argparse.Namespace, target: str | None) -> AudioInfo:
    """Choose rate, container and encoding of a file."""
    suffix = Path(target).suffix if target else ""
    if args.format:
        suffix = f".{args.format.lstrip('.')}"
    return replace(file_info(info, suffix, args.subtype or ""), sample_rate=args.rate or info.sample_rate)


def suffix_for(info: AudioInfo, args: argparse.Namespace, source: Source) -> str:
    """Choose the suffix of a file, like the input's where it fits."""
    return file_suffix(file_info_for(info, args, None), Path(source.path).suffix)


def check_one_pass(info: AudioInfo, pass_bytes: Callable[[float], int], hint: str) -> None:
    """Refuse one pass over more than the memory holds.

    Args:
        info: of the recording.
        pass_bytes: peak memory of a pass over that many seconds.
        hint: what to do instead.

    Raises:
        WavecastError: it does not fit.
    """
    seconds = (info.frames or 0) / info.sample_rate
    needed, there = pass_bytes(seconds), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise WavecastError(
            f"one pass over {seconds:.0f} s needs about {needed / 1e9:.1f} GB of memory; "
            f"there are {there / 1e9:.1f} GB",
            hint,
        )


@contextmanager
def create_together(
    targets: Sequence[tuple[str | Path, AudioInfo]], overwrite: bool = False
) -> Iterator[list[AudioWriter]]:
    """Begin to write several recordings that appear together: all that are still wanted, the first one last, or none.

    Args:
        targets: a path and what to write there, as for `create_audio`.
        overwrite: replace files that exist; where one takes the place of another, it stays.

    Raises:
        WavecastError: as `create_audio`.
    """
    writers: list[AudioWriter] = []
    try:
        with ExitStack() as stack:
            for target, info in targets:
                writers.append(stack.enter_context(create_audio(target, info, overwrite)))
            yield writers
            for writer in writers:
                if writer.wanted:
                    writer.finish()
    except BaseException:
        for writer in writers:
            writer.withdraw()
        raise
