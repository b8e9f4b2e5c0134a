"""Damaged recordings: sound files of every kind, mutated; case k is a function of (seed, k)."""

import io
import os
import resource
import tempfile
from pathlib import Path

import av
import numpy as np
import soundfile

from wavecast.core.errors import WavecastError
from wavecast.datamodules.audio_files import AudioReader, PipeReader, open_audio
from wavecast.datamodules.av_files import open_av_pipe
from wavecast.datamodules.riff import ByteSource, read_header

FORMATS = {
    "wav": ("WAV", "PCM_16", 1),
    "wav24": ("WAVEX", "PCM_24", 2),
    "wavfloat": ("WAV", "FLOAT", 3),
    "adpcm": ("WAV", "IMA_ADPCM", 2),
    "rf64": ("RF64", "PCM_16", 1),
    "flac": ("FLAC", "PCM_16", 1),
    "flac24": ("FLAC", "PCM_24", 2),
    "vorbis": ("OGG", "VORBIS", 1),
    "opus": ("OGG", "OPUS", 2),
    "aiff": ("AIFF", "PCM_24", 2),
    "caf": ("CAF", "ALAC_16", 1),
    "mp3": ("MP3", "MPEG_LAYER_III", 1),
    "m4a": ("m4a", "aac", 1),
    "webm": ("webm", "libopus", 1),
}
NUMBERS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)
FRAMES = 4800
MOST_READS = 20_000  # of READ frames: far more than any of these small files can hold
READ = 4096
ROOM = 600 << 20  # bytes of memory that reading a small file may add


def whole_recordings() -> dict[str, bytes]:
    """Make one undamaged recording of each format, with tags."""
    sound = 0.3 * np.sin(np.arange(FRAMES) / 20) + 0.01 * np.random.default_rng(0).standard_normal(FRAMES)
    made = {}
    for name, (container, subtype, channels) in FORMATS.items():
        x = np.stack([sound] * channels, 1)
        made[name] = _by_pyav(x, container, subtype) if container.islower() else _by_soundfile(x, container, subtype)
    return made


def _by_soundfile(x: np.ndarray, container: str, subtype: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        with soundfile.SoundFile(path, "w", 16000, x.shape[1], subtype, format=container) as file:
            file.title = "A title"
            file.write(x)
        return path.read_bytes()


def _by_pyav(x: np.ndarray, container: str, codec: str) -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format={"m4a": "ipod"}.get(container, container)) as output:
        stream = output.add_stream(codec, rate=48000)
        stream.layout = "mono"
        resampler = av.AudioResampler(stream.codec_context.format.name, "mono", 48000)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(x.T, np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        for one in resampler.resample(frame):
            output.mux(stream.encode(one))
        output.mux(stream.encode(None))
    return target.getvalue()


class Mutations:
    """Mutated recordings by number.

    Args:
        seed: of all of them.
        formats: names out of FORMATS; all by default.
    """

    def __init__(self, seed: int, formats: tuple[str, ...] = tuple(FORMATS)) -> None:
        self._seed, self._formats = seed, formats
        self._whole = whole_recordings()

    def case(self, number: int) -> tuple[str, bytes]:
        """Make a case: the format it was made of, and its bytes."""
        rng = np.random.default_rng((self._seed, number))
        name = self._formats[number % len(self._formats)]
        data = bytearray(self._whole[name])
        for _ in range(rng.integers(1, 5)):
            data = self._mutated(data, rng)
        return name, bytes(data)

    def _mutated(self, data: bytearray, rng: np.random.Generator) -> bytearray:
        """Change one thing, half the time within the header."""
        size = len(data)
        if size < 8:
            return data + rng.bytes(8)
        at = int(rng.integers(0, min(size, 160) if rng.random() < 0.5 else size))
        length = int(min(2 ** rng.uniform(0, 11), size - at))
        other = self._whole[self._formats[int(rng.integers(len(self._formats)))]]
        kind = rng.integers(9)
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            width = int(rng.choice([1, 2, 4, 8]))
            number = int(rng.choice(NUMBERS)) % (1 << 8 * width)
            data[at : at + width] = number.to_bytes(width, str(rng.choice(["little", "big"])))
        elif kind == 2:
            data[at : at + length] = rng.bytes(length)
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + length]
        elif kind == 5:
            data[at:at] = rng.bytes(length)
        elif kind == 6:
            data[at:at] = data[at : at + length]
        elif kind == 7:
            data[at : at + length] = other[at : at + length]
        else:
            data += bytes(length) if rng.random() < 0.5 else other[:length]
        return data


def read_case(data: bytes, path: Path) -> None:
    """Read a case as a file and as a pipe.

    Args:
        data: the bytes.
        path: of a file to put them in.

    Raises:
        AssertionError: what was read is not what a reader may give, or reading has no end, or takes giant memory.
        Exception: whatever is no WavecastError.
    """
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for opened in (lambda: open_audio(path), lambda: _as_pipe(path)):
        try:
            with opened() as reader:
                read_to_the_end(reader)
        except WavecastError as error:
            assert "\n" not in error.message.replace(str(path), ""), error.message
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown << 10 < ROOM, f"reading took {grown >> 10} MiB"


def read_to_the_end(reader: AudioReader) -> None:
    """Read all, and check the shape of every block."""
    info = reader.info
    assert info.channels > 0
    assert info.sample_rate > 0
    for _ in range(MOST_READS):
        x = reader.read(READ)
        assert x.dtype == np.float32
        assert x.shape[0] == info.channels
        assert x.shape[1] <= READ
        if not x.shape[1]:
            return
    raise AssertionError(f"no end after {MOST_READS * READ} frames")


class _Piped(AudioReader):
    """A file read as what comes through a pipe."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            begun = os.read(self._descriptor, 12)
            if begun[:4] in (b"RIFF", b"RF64", b"BW64"):
                source = ByteSource(self._descriptor, begun)
                sound, size = read_header(source)
                self._reader: AudioReader = PipeReader(source, sound, size, "WAV")
            else:
                self._reader = open_av_pipe(self._descriptor, begun)
        except BaseException:
            os.close(self._descriptor)
            raise
        super().__init__(self._reader.info)

    def read(self, frames: int) -> np.ndarray:
        """Read on."""
        return self._reader.read(frames)

    def close(self) -> None:
        """Close both."""
        self._reader.close()
        os.close(self._descriptor)


def _as_pipe(path: Path) -> AudioReader:
    return _Piped(path)
