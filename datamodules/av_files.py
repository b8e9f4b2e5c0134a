"""Sound that libsndfile cannot read, through PyAV: m4a, aac, webm, sound tracks of videos, containers on a pipe.

The decoder drops the encoder's priming and padding as the container's edit lists say, so samples stay in place.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np

from wavecast.core.errors import WavecastError
from wavecast.datamodules.audio_files import TAGS, AudioInfo, AudioReader
from wavecast.datamodules.riff import ByteSource, check_chunks


class AVReader(AudioReader):
    """The first sound track of a container."""

    def __init__(self, container: Any, name: str) -> None:
        if not container.streams.audio:
            raise WavecastError(f"{name} has no sound track")
        stream = container.streams.audio[0]
        context = stream.codec_context
        if context is None:
            raise WavecastError(f"{name} has a sound track of a kind that cannot be decoded here")
        if (context.sample_rate or 0) < 1 or not context.channels:
            raise WavecastError(f"{name} is damaged: its sound track has no rate or channels")
        found = {key.lower(): text for key, text in container.metadata.items()}
        found.setdefault("tracknumber", found.get("track", ""))
        tags = {name: found[name] for name in TAGS if found.get(name)}
        kind = container.format.name
        super().__init__(AudioInfo(context.sample_rate, context.channels, None, kind, context.name, tags))
        self._container, self._name, self._stream, self._layout = container, name, stream, context.layout
        self._pieces = self._decoded()
        self._rest = np.zeros((context.channels, 0), np.float32)

    def _decoded(self) -> Iterator[np.ndarray]:
        """Decode frame by frame; the last one waits until it is known to be the last, and ends where the track does.

        Broadcasts change channels on the way: all is brought to what the track began with.
        """
        piece, end = np.zeros((self.info.channels, 0), np.float32), 0
        resampler: Any = None
        kind: tuple[str, str, int] | None = None
        try:
            with suppress(av.error.EOFError):
                for frame in self._container.decode(self._stream):
                    yield piece
                    pieces: list[Any] = []
                    if kind != (kind := (frame.format.name, frame.layout.name, frame.sample_rate)):
                        pieces = resampler.resample(None) if resampler is not None else []
                        resampler = av.AudioResampler("flt", self._layout, self.info.sample_rate)
                    pieces += resampler.resample(frame)
                    # Interleaved: PyAV finds no more than 8 planes and reads beyond them.
                    arrays = [one.to_ndarray().reshape(-1, len(piece)).T for one in pieces if one is not None]
                    piece = np.concatenate([piece[:, :0], *arrays], 1)
                    end = self._samples_meant(frame)
        except (av.error.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "its sound changes on the way"
            raise WavecastError(f"{self._name} is damaged: {reason}") from error
        yield piece[:, :end]

    def _samples_meant(self, frame: Any) -> int:
        """Count the samples of the last frame that are sound; encoders fill it up with padding.

        MP4 and its kin tell by the length of the last packet, or else by the length of the track, which is rounded to
        milliseconds. A length that leaves out more than this frame is wrong.
        """
        whole, stream, rate = frame.samples, self._stream, self.info.sample_rate
        if not self.info.container.startswith("mov") or frame.time_base is None or frame.time_base * rate > 1:
            return whole
        packet = round((frame.duration or 0) * frame.time_base * rate)
        if 0 < packet < whole or not stream.duration or frame.pts is None:
            return min(packet, whole) or whole
        end = ((stream.start_time or 0) + stream.duration) * stream.time_base
        left = round((end - frame.pts * frame.time_base) * rate)
        return left if 0 < left < whole - rate // 1000 else whole

    def read(self, frames: int) -> np.ndarray:
        """Decode on until something comes."""
        while not self._rest.shape[1]:
            piece = next(self._pieces, None)
            if piece is None:
                return self._rest
            self._rest = np.asarray(piece, np.float32)
        x, self._rest = self._rest[:, :frames], self._rest[:, frames:]
        return x

    def close(self) -> None:
        """Close the container."""
        self._container.close()


def open_av(path: Path, reason: str) -> AVReader:
    """Open a file that libsndfile refused for `reason`.

    Raises:
        WavecastError: it is no sound at all, or damaged.
    """
    check_chunks(path)
    try:
        container = av.open(f"file:{path}")  # without it, a colon in a name makes a protocol
    except (av.error.FFmpegError, ValueError) as error:
        hint = "raw samples need --raw ENCODING:RATE, as in --raw s16le:16000"
        raise WavecastError(f"{path} is no sound that can be read ({reason})", hint) from error
    return _checked(container, str(path))


def open_av_pipe(descriptor: int, begun: bytes) -> AVReader:
    """Open a container that comes through a pipe.

    Args:
        descriptor: to read from.
        begun: bytes read from it before.

    Raises:
        WavecastError: it is no sound, or of a kind that needs seeking.
    """
    try:
        container = av.open(ByteSource(descriptor, begun), mode="r")
    except (av.error.FFmpegError, ValueError) as error:
        hint = "raw samples need --raw ENCODING:RATE, as in --raw s16le:16000; some containers must be files"
        raise WavecastError("the input is no sound that can be read from a pipe", hint) from error
    return _checked(container, "the input")


def _checked(container: Any, name: str) -> AVReader:
    try:
        return AVReader(container, name)
    except BaseException:
        container.close()
        raise
