"""Video into files, frame by frame, in constant memory.

with open_video("radar.mp4") as reader, VideoWriter("copy.mkv", reader.info.rate or 25) as writer:
    while len(frames := reader.read(64)[0]):
        writer.write(frames)                                # uint8 (time, row, col, channel)
"""

import contextlib
import os
import shutil
from fractions import Fraction
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any, Self
from zipfile import ZipFile, ZipInfo

import av
import numpy as np

from wavecast.core.errors import WavecastError
from wavecast.datamodules.arrays import ARRAY_SUFFIXES
from wavecast.datamodules.new_files import NewFile, writing

WRITTEN_SUFFIXES = (".mp4", ".mkv", ".gif", ".npy", ".npz")
MEMBER = "arr_0.npy"  # as numpy calls the only array of an archive
COPIED_AT_ONCE = 1 << 20  # bytes


class VideoWriter:
    """A video that appears whole under its name at the end, or not at all; a context manager.

    The suffix chooses how: `.mp4` is H.264 for any player (lossy; its frames have even sizes, so the last row or
    column of an odd picture is doubled), `.mkv` is FFV1 and keeps every number, `.gif` keeps gray and reduces color to
    256 shades, `.npy` is the array, of which the numbers may also be float32 and the channels any, and `.npz` an
    archive of that array alone, not compressed, so that it can be mapped.

    Args:
        target: a path.
        rate: frames per second.
        overwrite: replace a file that exists.

    Raises:
        WavecastError: the target exists or cannot be written, or its suffix is unknown.
        ValueError: the rate is not above 0.
    """

    def __init__(self, target: str | Path, rate: float, overwrite: bool = False) -> None:
        path = Path(target)
        if path.suffix.lower() not in WRITTEN_SUFFIXES:
            raise WavecastError(
                f"cannot write {path.suffix or 'nameless'} videos", f"known: {' '.join(WRITTEN_SUFFIXES)}"
            )
        if path.is_dir():
            raise WavecastError(f"{path} is a folder", "give a file name")
        if not 0 < rate < float("inf"):
            raise ValueError(f"a rate of {rate} frames per second\nhint: give a number above 0")
        self._path, self._rate, self._new = path, Fraction(rate).limit_denominator(1001), NewFile(path, overwrite)
        os.close(self._new.descriptor)
        self._encoder: _AVEncoder | _ArrayEncoder | None = None
        self._kind: tuple[tuple[int, ...], np.dtype] | None = None

    def write(self, frames: np.ndarray) -> None:
        """Write uint8 (time, row, col, channel), with 1 or 3 channels; into arrays float32 and other channels too.

        Raises:
            WavecastError: the disk is full, or the target is gone.
            ValueError: the frames are of another kind, or of another size than those before.
        """
        array = self._path.suffix.lower() in ARRAY_SUFFIXES
        known = frames.dtype == np.uint8 or (array and frames.dtype == np.float32)
        if not known or frames.ndim != 4 or not prod(frames.shape[1:]) or not (array or frames.shape[-1] in (1, 3)):
            raise ValueError(
                f"frames of {frames.dtype} and shape {frames.shape}\nhint: give uint8 (time, row, col, 1 or 3)"
            )
        self._kind = self._kind or (frames.shape[1:], frames.dtype)
        if (frames.shape[1:], frames.dtype) != self._kind:
            raise ValueError(
                f"frames of {frames.shape[1:]} after {self._kind[0]}\nhint: frames of a video have one size and type"
            )
        with writing(self._path, av.error.FFmpegError):
            if self._encoder is None:
                self._encoder = self._begin(*self._kind)
            self._encoder.write(frames)

    def _begin(self, shape: tuple[int, ...], dtype: np.dtype) -> "_AVEncoder | _ArrayEncoder":
        suffix = self._path.suffix.lower()
        if suffix == ".npz":
            return _ArchiveEncoder(self._new.temporary, shape, dtype)
        if suffix == ".npy":
            return _ArrayEncoder(self._new.temporary.open("r+b"), shape, dtype)
        return _AVEncoder(self._new.temporary, suffix, self._rate, shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._encoder is None:
                raise WavecastError(f"there is no frame to write to {self._path}", "write at least one")
            if kind is None and self._encoder is not None:
                with writing(self._path, av.error.FFmpegError):
                    self._encoder.close()
                self._new.keep()
        finally:
            if self._encoder is not None:
                with contextlib.suppress(OSError, ValueError, av.error.FFmpegError):
                    self._encoder.close()
            self._new.discard()


class _AVEncoder:
    """Frames into a container."""

    def __init__(self, path: Path, suffix: str, rate: Fraction, shape: tuple[int, ...]) -> None:
        rows, cols, channels = shape
        gray = channels == 1
        kinds: dict[str, tuple[str, str, str, dict[str, str]]] = {
            ".mp4": ("mp4", "libx264", "yuv420p", {"crf": "18"}),
            ".mkv": ("matroska", "ffv1", "gray" if gray else "bgr0", {}),
            ".gif": ("gif", "gif", "gray" if gray else "rgb8", {}),
        }
        container, codec, pixels, options = kinds[suffix]
        self._even = suffix == ".mp4"
        self._pixels, self._rate, self._format, self._written = pixels, rate, "gray" if gray else "rgb24", 0
        self._container: Any = av.open(f"file:{path}", "w", format=container)
        self._stream = self._container.add_stream(codec, rate=rate, options=options)
        self._stream.width, self._stream.height = (cols + cols % 2, rows + rows % 2) if self._even else (cols, rows)
        self._stream.pix_fmt = pixels

    def write(self, frames: np.ndarray) -> None:
        """Encode frames."""
        if self._even:
            odd = [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)]
            frames = np.pad(frames, odd, mode="edge")
        for picture in frames:
            plain = np.ascontiguousarray(picture if self._format == "rgb24" else picture[..., 0])
            frame = av.VideoFrame.from_ndarray(plain, format=self._format)
            frame.pts, frame.time_base = self._written, 1 / self._rate
            self._written += 1
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Encode what still waits, and end the file."""
        container, self._container = self._container, None
        if container is not None:
            try:
                container.mux(self._stream.encode(None))
            finally:
                container.close()


class _ArrayEncoder:
    """Frames into a `.npy` file, whose header is written again when their number is known."""

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._file, self._shape, self._dtype, self._written = file, shape, dtype, 0
        self._header()

    def _header(self) -> None:
        shape = (self._written, *self._shape)  # numpy leaves room in the header for a longer first axis
        about = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, about)

    def write(self, frames: np.ndarray) -> None:
        """Append frames."""
        self._file.write(np.ascontiguousarray(frames).data)
        self._written += len(frames)

    def close(self) -> None:
        """Write the number of frames, and end the file."""
        if not self._file.closed:
            with self._file:
                self._file.seek(0)
                self._header()
                self._finish()

    def _finish(self) -> None:
        """Do what is left when the array is whole."""


class _ArchiveEncoder(_ArrayEncoder):
    """Frames into a `.npz` file by way of a nameless file beside it, because the archive says first how long it is."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
        super().__init__(TemporaryFile(dir=path.parent), shape, dtype)  # noqa: SIM115 (closed by `close`)
        self._path = path

    def _finish(self) -> None:
        self._file.seek(0)
        member = ZipInfo(MEMBER)  # of 1980: the same frames give the same bytes
        with ZipFile(self._path, "w") as archive, archive.open(member, "w", force_zip64=True) as target:
            shutil.copyfileobj(self._file, target, COPIED_AT_ONCE)
