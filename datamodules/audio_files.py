"""Sound in and out of files and pipes, block by block, in constant memory.

    with open_audio("talk.m4a") as reader, create_audio("talk.wav", reader.info) as writer:
        while (x := reader.read(65536)).shape[1]:
            writer.write(x)                                     # float32 (channels, n)

libsndfile reads and writes what it can; PyAV reads the rest (m4a, aac, webm, sound tracks of videos, and any container
but WAV on a pipe); WAV and raw samples on a pipe go through `riff`.
"""

import contextlib
import io
import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import soundfile

from wavecast.core.errors import WavecastError
from wavecast.datamodules import riff
from wavecast.datamodules.new_files import NewFile, writing
from wavecast.datamodules.readers import Reader
from wavecast.datamodules.riff import ENCODINGS, ByteSource, SampleFormat

TAGS = ("title", "artist", "album", "date", "genre", "tracknumber", "comment", "copyright", "license", "software")
LOSSY = {"VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"}
PLAIN = {"PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"}  # what `riff` understands too
INTEGER_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32, "ALAC_16": 16, "ALAC_24": 24}
SUFFIXES = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".opus": "OGG", ".mp3": "MP3", ".aif": "AIFF"}
SUFFIXES |= {".aiff": "AIFF", ".w64": "W64", ".rf64": "RF64", ".au": "AU", ".caf": "CAF"}
VIDEO_SUFFIXES = frozenset({".mp4", ".m4a", ".aac", ".webm", ".mkv", ".mov", ".avi", ".wma", ".mka", ".m4v", ".3gp"})
AUDIO_SUFFIXES = frozenset(SUFFIXES) | VIDEO_SUFFIXES


@dataclass(frozen=True)
class AudioInfo:
    """What a recording is.

    Attributes:
        sample_rate: in hertz.
        channels: of it.
        frames: samples of each channel; None when only its end will tell.
        container: libsndfile's name ("WAV", "FLAC" ...), "RAW", or PyAV's ("mov,mp4,m4a").
        subtype: libsndfile's name of the encoding ("PCM_16"), the raw encoding ("s16le"), or the codec ("aac").
        tags: title, artist and so on, as far as the container has them.
    """

    sample_rate: int
    channels: int
    frames: int | None
    container: str
    subtype: str
    tags: Mapping[str, str] = field(default_factory=dict)


def parse_raw(text: str) -> SampleFormat:
    """Parse ENCODING:RATE[:CHANNELS], as in "s16le:16000" or "f32le:48000:2".

    Raises:
        ValueError: it is not of that form.
    """
    parts = text.lower().split(":")
    if len(parts) not in (2, 3) or parts[0] not in ENCODINGS or not all(part.isdecimal() for part in parts[1:]):
        raise ValueError(f"{text!r} is not ENCODING:RATE[:CHANNELS]; encodings: {', '.join(ENCODINGS)}")
    rate, channels = int(parts[1]), int(parts[2]) if len(parts) == 3 else 1
    if not rate or not 0 < channels <= riff.MOST_CHANNELS:
        raise ValueError(f"{text!r}: the rate must be above 0, and channels 1 to {riff.MOST_CHANNELS}")
    return SampleFormat(parts[0], rate, channels)


class AudioReader(Reader):
    """A recording that is read from its beginning to its end; a context manager.

    Attributes:
        info: what it is.
        truncated: the file promised more than it held.
    """

    def __init__(self, info: AudioInfo) -> None:
        self.info = info
        self.truncated = False

    def read(self, frames: int) -> np.ndarray:
        """Read float32 (channels, n), n at most `frames`, and 0 only at the end; a pipe gives what has arrived.

        Raises:
            WavecastError: the sound is damaged here.
        """
        raise NotImplementedError(type(self).__name__)


class SoundfileReader(AudioReader):
    """A file that libsndfile understands."""

    def __init__(self, path: Path) -> None:
        self._file = soundfile.SoundFile(os.fsencode(path))  # also names that are no UTF-8
        file = self._file
        if file.samplerate < 1 or file.channels < 1:
            file.close()
            raise WavecastError(f"{path} is damaged: {file.channels} channels at {file.samplerate} Hz")
        tags = {name: text for name in TAGS if (text := getattr(file, name, ""))}
        super().__init__(AudioInfo(file.samplerate, file.channels, file.frames, file.format, file.subtype, tags))
        self._path, self._left = path, max(0, file.frames)
        self.truncated = _ends_early(file.extra_info, path.stat().st_size)

    def read(self, frames: int) -> np.ndarray:
        """Read on; a file that ends early is marked truncated."""
        if not self._left:  # libsndfile may have gone beyond the end, and soundfile stumbles over it
            return np.zeros((self.info.channels, 0), np.float32)
        try:
            x = self._file.read(min(frames, self._left), dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            hint = "it was cut off or altered: fetch it again, or save what is left of it with another program"
            raise WavecastError(f"{self._path} is damaged: {_reason(error)}", hint) from error
        self._left -= len(x)
        if not len(x) and frames:
            self.truncated, self._left = True, 0
        return np.ascontiguousarray(x.T)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _ends_early(log: str, file_bytes: int) -> bool:
    """Find out from libsndfile's notes whether a header promises more sound than the file holds."""
    found = re.search(
        r"^ *(?:data|data size|SSND) *: (\d+)(?: \(should be (\d+)\))?", log, re.IGNORECASE | re.MULTILINE
    )
    if found is None:
        return False
    promised, there = int(found[1]), int(found[2] or file_bytes)
    return there < promised < riff.ENDLESS


class PipeReader(AudioReader):
    """WAV or raw samples as they arrive."""

    def __init__(self, source: ByteSource, sound: SampleFormat, size: int | None, container: str) -> None:
        frames = None if size is None else size // sound.frame_bytes
        super().__init__(AudioInfo(sound.sample_rate, sound.channels, frames, container, sound.encoding))
        self._source, self._sound, self._size, self._rest = source, sound, size, b""

    def read(self, frames: int) -> np.ndarray:
        """Read the whole frames that have arrived; wait for the first one."""
        width = self._sound.frame_bytes
        data = self._rest
        while len(data) < width:
            most = frames * width if self._size is None else min(frames * width, self._size)
            more = self._source.some(most) if most else b""
            if not more:
                self.truncated = bool(data) or bool(self._size)
                return np.zeros((self._sound.channels, 0), np.float32)
            data += more
            self._size = None if self._size is None else self._size - len(more)
        whole = min(len(data) // width, frames) * width
        self._rest = data[whole:]
        return self._sound.decode(data[:whole])


def open_audio(source: str | Path, raw: SampleFormat | None = None) -> AudioReader:
    """Open a recording.

    Args:
        source: a path, or "-" for stdin.
        raw: how the samples lie, for input without a header.

    Raises:
        WavecastError: it is missing, a folder, empty, unreadable, or no sound; the hint says what to do.
    """
    if str(source) == "-":
        return _open_pipe(sys.stdin.fileno(), raw)
    path = Path(source)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise WavecastError(f"{path} is a folder", "give a file")
        if not stat.S_ISREG(mode) or raw is not None:
            return _FileClosing(os.open(path, os.O_RDONLY), raw)
        if not path.stat().st_size:
            raise WavecastError(f"{path} is empty")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise WavecastError(f"{path} does not exist") from None
    except OSError as error:
        raise WavecastError(f"cannot read {path}: {error.strerror}") from error
    try:
        reader = SoundfileReader(path)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        from wavecast.datamodules.av_files import open_av

        return open_av(path, _reason(error))
    if not reader.info.frames and reader.info.subtype in PLAIN and _is_unfinished(path):
        reader.close()
        return _FileClosing(os.open(path, os.O_RDONLY), None)
    return reader


def _is_unfinished(path: Path) -> bool:
    """Tell whether a WAV holds more than its header says: the recorder never came back to write the sizes."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[:4] == b"RIFF" and head[8:] == b"WAVE" and 8 + int.from_bytes(head[4:8], "little") < path.stat().st_size


def _open_pipe(descriptor: int, raw: SampleFormat | None) -> AudioReader:
    if raw is not None:
        return PipeReader(ByteSource(descriptor), raw, None, "RAW")
    begun = ByteSource(descriptor).exactly(12)
    if not begun:
        raise WavecastError("the input is empty")
    if begun[:4] in (b"RIFF", b"RF64", b"BW64"):
        source = ByteSource(descriptor, begun)
        sound, size = riff.read_header(source)
        return PipeReader(source, sound, size, "WAV")
    from wavecast.datamodules.av_files import open_av_pipe

    return open_av_pipe(descriptor, begun)


class _FileClosing(AudioReader):
    """A named pipe or a raw file: read as a pipe is, and closed at the end."""

    def __init__(self, descriptor: int, raw: SampleFormat | None) -> None:
        self._descriptor = descriptor
        try:
            self._reader = _open_pipe(descriptor, raw)
        except BaseException:
            os.close(descriptor)
            raise
        super().__init__(self._reader.info)

    def read(self, frames: int) -> np.ndarray:
        """Read on."""
        x = self._reader.read(frames)
        self.truncated = self._reader.truncated
        return x

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


def load_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """Read a whole recording: float32 (channels, frames), and its sample rate in hertz.

    Raises:
        WavecastError: as `open_audio`.
    """
    with open_audio(path) as reader:
        pieces = []
        while (x := reader.read(1 << 18)).shape[1]:
            pieces.append(x)
        empty = np.zeros((reader.info.channels, 0), np.float32)
        return np.concatenate([empty, *pieces], 1), reader.info.sample_rate


class AudioWriter:
    """A recording that is written from its beginning to its end; a context manager.

    Attributes:
        clipped: samples beyond full scale that an integer or lossy encoding limited.
        wanted: whether the recording is kept at the end.
    """

    def __init__(self, limits: bool) -> None:
        self.clipped, self.wanted = 0, True
        self._limits = limits

    def write(self, x: np.ndarray) -> None:
        """Write float32 (channels, n).

        Raises:
            WavecastError: the disk is full, or the target is gone.
        """
        if self._limits:
            self.clipped += int(np.count_nonzero(np.abs(x) > 1))
        self._write(x)

    def _write(self, x: np.ndarray) -> None:
        raise NotImplementedError(type(self).__name__)

    def finish(self) -> None:
        """Write all that is left, so that nothing but the name is missing; there is nothing to write afterwards.

        Raises:
            WavecastError: the disk is full, or the container cannot hold what was written.
        """

    def withdraw(self) -> None:
        """Remove the file again that was kept, unless it took the place of another."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(kept=kind is None and self.wanted)

    def _end(self, kept: bool) -> None:
        raise NotImplementedError(type(self).__name__)


class FileWriter(AudioWriter):
    """A file that appears whole under its name at the end, or not at all."""

    def __init__(self, path: Path, info: AudioInfo, overwrite: bool) -> None:
        super().__init__(limits=info.subtype not in ("FLOAT", "DOUBLE"))
        self._info, self._new = info, NewFile(path, overwrite)
        self._disk, self._written = Disk(self._new.descriptor), 0
        self._replaces, self._kept = path.exists(), False
        self._file: Any = None
        try:
            with self._to_disk():
                self._file = _begin(self._disk, info)
            for name in TAGS:
                if info.tags.get(name):
                    with contextlib.suppress(soundfile.LibsndfileError, RuntimeError):
                        setattr(self._file, name, info.tags[name])  # containers differ in what they hold
        except BaseException:
            self._discard()
            raise

    def _write(self, x: np.ndarray) -> None:
        self._written += x.shape[1]
        with self._to_disk():
            self._file.write(_for_libsndfile(x, self._info.subtype))

    def finish(self) -> None:
        """Write all that is left."""
        with self._to_disk():
            self._file.close()
        if not self._written:
            self._check_empty()

    def withdraw(self) -> None:
        """Remove the file again."""
        if self._kept and not self._replaces:
            self._new.path.unlink(missing_ok=True)

    def _end(self, kept: bool) -> None:
        try:
            if kept:
                self.finish()
                self._new.keep()
                self._kept = True
        finally:
            self._discard()

    def _check_empty(self) -> None:
        try:
            soundfile.info(os.fsencode(self._new.temporary))
        except (soundfile.LibsndfileError, RuntimeError) as error:
            what = f"{self._info.container} of {self._info.subtype}"
            raise WavecastError(f"{what} cannot hold a recording of no samples", "give --format wav") from error

    @contextlib.contextmanager
    def _to_disk(self) -> Iterator[None]:
        """Give errors a cure; what the disk said comes before what libsndfile made of it."""
        with _to_file(self._new.path), interrupts_held():
            try:
                yield
            finally:
                if self._disk.error is not None:
                    raise self._disk.error

    def _discard(self) -> None:
        if self._file is not None:  # before its descriptor means something else
            with contextlib.suppress(soundfile.LibsndfileError, RuntimeError):
                self._file.close()
        os.close(self._disk.descriptor)
        self._new.discard()


class Disk:
    """A file as libsndfile sees it, which drops the errors of the last writes to a disk that is full.

    Attributes:
        descriptor: of the file; not closed here.
        error: the first that a write met; nothing is written after it.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.error: OSError | None = None

    def write(self, data: memoryview) -> int:
        """Write all of it, or keep the error."""
        try:
            done = 0
            while self.error is None and done < len(data):
                done += os.write(self.descriptor, data[done:])
        except OSError as error:
            self.error = error
        return done

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        return os.lseek(self.descriptor, offset, whence)

    def tell(self) -> int:
        """Tell the place."""
        return os.lseek(self.descriptor, 0, os.SEEK_CUR)

    def read(self, size: int) -> bytes:
        """Read on."""
        return os.read(self.descriptor, size)


def _begin(target: Disk | IO[bytes], info: AudioInfo) -> soundfile.SoundFile:
    return soundfile.SoundFile(target, "w", info.sample_rate, info.channels, info.subtype, format=info.container)


def can_hold(info: AudioInfo) -> bool:
    """Try whether the container takes the encoding with this rate and these channels."""
    try:
        with interrupts_held():
            _begin(io.BytesIO(), info).close()
    except (soundfile.LibsndfileError, RuntimeError, ValueError, TypeError):
        return False
    return True


def _for_libsndfile(x: np.ndarray, subtype: str) -> np.ndarray:
    """Lay samples out as (n, channels), and round them ourselves where the encoding is of integers."""
    bits = INTEGER_BITS.get(subtype, 0 if subtype in LOSSY or subtype in ("FLOAT", "DOUBLE") else 16)
    if not bits:
        return np.ascontiguousarray((np.clip(x, -1, 1) if subtype in LOSSY else x).T)
    whole = riff.quantize(x.T, bits)
    return (whole << 32 - bits).astype(np.int32) if bits > 16 else (whole << 16 - bits).astype(np.int16)


class PipeWriter(AudioWriter):
    """WAV or raw samples to stdout, as they come."""

    def __init__(self, descriptor: int, sound: SampleFormat, container: str) -> None:
        super().__init__(limits=not sound.encoding.startswith("f"))
        self._descriptor, self._sound = descriptor, sound
        if container == "WAV":
            self._all(riff.header(sound))

    def _write(self, x: np.ndarray) -> None:
        self._all(self._sound.encode(x))

    def _all(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise WavecastError(f"cannot write to stdout: {error.strerror}", "check where it leads") from error

    def _end(self, kept: bool) -> None:
        """Leave stdout open: it belongs to the process."""


def create_audio(target: str | Path, info: AudioInfo, overwrite: bool = False) -> AudioWriter:
    """Begin to write a recording.

    Args:
        target: a path, or "-" for stdout.
        info: rate, channels, container, subtype and tags; `frames` does not matter. For a pipe: container "WAV" or
            "RAW", subtype an encoding of `riff`.
        overwrite: replace a file that exists.

    Raises:
        WavecastError: the target exists, cannot be written, or the container does not take the encoding.
    """
    if str(target) == "-":
        sound = SampleFormat(info.subtype, info.sample_rate, info.channels)
        return PipeWriter(sys.stdout.fileno(), sound, info.container)
    path = Path(target)
    if path.is_dir():
        raise WavecastError(f"{path} is a folder", f"give a file name, or -o {path}/ with a slash")
    if path.exists() and not overwrite:
        raise WavecastError(f"{path} exists", "give --overwrite, or another name with -o")
    if not can_hold(info):
        what = f"{info.subtype} of {info.channels} channels at {info.sample_rate} Hz"
        raise WavecastError(f"{info.container} cannot hold {what}", "choose another --format, --subtype or --rate")
    return FileWriter(path, info, overwrite)


def pipe_info(info: AudioInfo) -> AudioInfo:
    """Choose what goes to a pipe for what came in: raw for raw, WAV for all else, in the nearest encoding."""
    if info.subtype in ENCODINGS:
        return info
    names = {"PCM_16": "s16le", "PCM_24": "s24le", "PCM_32": "s32le", "FLOAT": "f32le", "DOUBLE": "f64le"}
    return replace(info, container="WAV", subtype=names.get(info.subtype, "s16le"))


def file_info(info: AudioInfo, suffix: str = "", subtype: str = "") -> AudioInfo:
    """Choose container and encoding of a file for what came in.

    What libsndfile can write again stays as it is; all else becomes FLAC. A suffix chooses the container, and the
    encoding stays where the container holds it.

    Args:
        info: of the input.
        suffix: of the output's name, or empty.
        subtype: libsndfile's name of the encoding wanted, or empty.

    Raises:
        WavecastError: no container is known by that suffix, or it does not hold the encoding.
    """
    names = {"s16le": "PCM_16", "s16be": "PCM_16", "s24le": "PCM_24", "s32le": "PCM_32", "s32be": "PCM_32"}
    names |= {"u8": "PCM_U8", "f32le": "FLOAT", "f32be": "FLOAT", "f64le": "DOUBLE"}
    kept = names.get(info.subtype, info.subtype)
    container = "WAV" if info.container == "RAW" else info.container
    if suffix:
        if suffix.lower() not in SUFFIXES:
            raise WavecastError(f"cannot write {suffix} files", f"known: {' '.join(SUFFIXES)}")
        container = SUFFIXES[suffix.lower()]
    subtype = subtype or ("OPUS" if suffix.lower() == ".opus" else "")
    if subtype and not soundfile.check_format(container, subtype.upper()):
        raise WavecastError(f"{container} cannot hold {subtype}", f"it holds {', '.join(_subtypes(container))}")
    if subtype:
        return replace(info, container=container, subtype=subtype.upper())
    fine = "PCM_24" if kept in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE") else ""
    usual = soundfile.default_subtype(container) if soundfile.check_format(container) else ""
    wanted = [replace(info, container=container, subtype=name) for name in (kept, fine, usual)]
    flac = replace(info, container="FLAC", subtype=fine or "PCM_16")
    return next(filter(can_hold, wanted), wanted[-1] if suffix else flac)


def _subtypes(container: str) -> list[str]:
    return [name for name in soundfile.available_subtypes() if soundfile.check_format(container, name)]


def file_suffix(info: AudioInfo, like: str = "") -> str:
    """Give the suffix of a container: the input's where it fits, else the usual one (".wav"); Ogg Opus is ".opus"."""
    if SUFFIXES.get(like.lower()) == info.container and (like.lower() == ".opus") == (info.subtype == "OPUS"):
        return like
    if info.container == "OGG" and info.subtype == "OPUS":
        return ".opus"
    usual = {"WAVEX": ".wav", "RF64": ".wav", **{name: suffix for suffix, name in reversed(SUFFIXES.items())}}
    return usual.get(info.container, f".{info.container.lower()}")


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back meanwhile: libsndfile calls our Python, and what is raised in such a call is lost."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(signal.SIGINT, None)


@contextlib.contextmanager
def _to_file(path: Path) -> Iterator[None]:
    """Turn what goes wrong while writing into an error with a cure; libsndfile's errors too."""
    with writing(path):
        try:
            yield
        except (soundfile.LibsndfileError, RuntimeError, AssertionError) as error:
            # soundfile asserts that all samples were taken; a full disk takes fewer.
            reason = _reason(error) or "the disk took no more"
            raise WavecastError(f"cannot write {path}: {reason}", "check the space on the disk") from error


def _reason(error: BaseException) -> str:
    text = getattr(error, "error_string", None) or str(error)
    return text.removeprefix("Error : ").rstrip(".").lower() if text else ""
