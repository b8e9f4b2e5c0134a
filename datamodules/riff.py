"""WAV on a pipe: a RIFF reader that takes what has arrived, and a writer that never seeks back.

Sizes on a pipe are often unknown: 0, 0x7FFFFFFF and more, 0xFFFFFFFF all mean "until the end". Understood: RIFF, RF64
and BW64 WAVE with PCM of 8, 16, 24 or 32 bits, float of 32 or 64 bits, WAVE_FORMAT_EXTENSIBLE of these.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wavecast.core.errors import WavecastError

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
ENDLESS = 0x7FFFF000  # sizes from here up were never known; so was 0
MOST_CHANNELS = 1024  # as in libsndfile; a header that names more is damaged
LONGEST_CHUNK = 1 << 20  # bytes of a chunk that is not sound; a header that promises more is damaged
MOST_BYTES = 1 << 20  # asked for at once: a read takes that much memory, whatever comes
ENCODINGS = {
    "u8": ("u1", 1),
    "s16le": ("<i2", 2),
    "s24le": ("s24", 3),
    "s32le": ("<i4", 4),
    "f32le": ("<f4", 4),
    "f64le": ("<f8", 8),
    "s16be": (">i2", 2),
    "s32be": (">i4", 4),
    "f32be": (">f4", 4),
}
"""Sample encodings: numpy's name and the bytes of a sample."""


@dataclass(frozen=True)
class SampleFormat:
    """How samples lie in a byte stream.

    Attributes:
        encoding: a key of ENCODINGS.
        sample_rate: in hertz.
        channels: interleaved.
    """

    encoding: str
    sample_rate: int
    channels: int = 1

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return ENCODINGS[self.encoding][1] * self.channels

    def decode(self, data: bytes) -> np.ndarray:
        """Turn whole frames of bytes into float32 (channels, frames); integers are scaled by 2^(bits - 1)."""
        kind, _ = ENCODINGS[self.encoding]
        if kind == "s24":
            triples = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int32)
            values = (triples[:, 0] << 8 | triples[:, 1] << 16 | triples[:, 2] << 24).astype(np.float32) / 2**31
        else:
            raw = np.frombuffer(data, kind)
            if raw.dtype.kind == "f":
                with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold becomes infinite
                    values = raw.astype(np.float32)
            elif raw.dtype.kind == "u":
                values = (raw.astype(np.float32) - 128) / 128
            else:
                values = (raw / 2.0 ** (8 * raw.itemsize - 1)).astype(np.float32)
        return np.ascontiguousarray(values.reshape(-1, self.channels).T)

    def encode(self, x: np.ndarray) -> bytes:
        """Turn float (channels, frames) into bytes: integers rounded and limited to their range, never wrapped."""
        kind, size = ENCODINGS[self.encoding]
        values = np.ascontiguousarray(x.T)
        if kind == "s24":
            whole = quantize(values, 24).astype("<i4")
            return whole.reshape(-1, 1).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
        if np.dtype(kind).kind == "f":
            return values.astype(kind).tobytes()
        if np.dtype(kind).kind == "u":
            return (quantize(values, 8) + 128).astype(kind).tobytes()
        return quantize(values, 8 * size).astype(kind).tobytes()


def quantize(x: np.ndarray, bits: int) -> np.ndarray:
    """Round to integers of that many bits, limited to their range, NaN to 0: float to int64."""
    limit = 2.0 ** (bits - 1)
    return np.nan_to_num(np.clip(np.rint(x.astype(np.float64) * limit), -limit, limit - 1)).astype(np.int64)


class ByteSource:
    """Bytes of a pipe or file as they come, over `os.read`.

    Args:
        descriptor: to read from; not closed here.
        begun: bytes read from it before.
    """

    def __init__(self, descriptor: int, begun: bytes = b"") -> None:
        self.descriptor, self._begun = descriptor, begun

    def some(self, most: int) -> bytes:
        """Read what has arrived, at most that much; waits for the first byte; empty at the end."""
        if self._begun:
            data, self._begun = self._begun[:most], self._begun[most:]
            return data
        return os.read(self.descriptor, min(most, MOST_BYTES))

    def read(self, size: int) -> bytes:
        """Read what has arrived; PyAV reads so from what cannot seek."""
        return self.some(size)

    def exactly(self, count: int) -> bytes:
        """Read that much, or less at the end."""
        parts: list[bytes] = []
        while count and (data := self.some(min(count, 1 << 16))):
            parts.append(data)
            count -= len(data)
        return b"".join(parts)


def read_header(source: ByteSource) -> tuple[SampleFormat, int | None]:
    """Read a WAV header up to the first sample.

    Returns:
        The format, and the bytes of sound that follow; None when only the end of the stream tells.

    Raises:
        WavecastError: it is no WAV, is cut off, or holds what is not understood.
    """
    riff = source.exactly(12)
    if len(riff) < 12 or riff[:4] not in (b"RIFF", b"RF64", b"BW64") or riff[8:] != b"WAVE":
        raise WavecastError("the input is no WAV", "raw samples need --raw ENCODING:RATE, as in --raw s16le:16000")
    found: SampleFormat | None = None
    long_size: int | None = None
    while True:
        head = source.exactly(8)
        if len(head) < 8:
            raise WavecastError("the WAV ends before its sound begins", "it was cut off, or holds a header only")
        name, size = head[:4], struct.unpack("<I", head[4:])[0]
        if name == b"data":
            if found is None:
                raise WavecastError("the WAV has no format chunk before its sound")
            if size == 0xFFFFFFFF and long_size:
                return found, long_size
            return found, None if size == 0 or size >= ENDLESS else size
        if size > LONGEST_CHUNK:
            raise WavecastError(f"the WAV is damaged: a chunk {name!r} of {size} bytes")
        body = source.exactly(size + size % 2)
        if len(body) < size:
            raise WavecastError("the WAV ends inside its header", "it was cut off")
        if name == b"fmt ":
            found = read_format(body)
        elif name == b"ds64" and size >= 16:
            long_size = struct.unpack("<Q", body[8:16])[0]


def check_chunks(path: Path) -> None:
    """Refuse a WAV that promises longer chunks before its sound than the file is: FFmpeg takes memory for them first.

    Raises:
        WavecastError: names the chunk.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
            return
        while len(head := file.read(8)) == 8 and head[:4] != b"data":
            long = struct.unpack("<I", head[4:])[0]
            if file.tell() + long > size:
                what = f"{path} is damaged: a chunk {head[:4]!r} of {long} bytes goes beyond its end"
                raise WavecastError(what, "it was cut off or altered: fetch it again")
            file.seek(long + long % 2, os.SEEK_CUR)


def read_format(body: bytes) -> SampleFormat:
    """Read a format chunk.

    Raises:
        WavecastError: it is too short, contradicts itself, or names an encoding that is not understood.
    """
    if len(body) < 16:
        raise WavecastError("the WAV is damaged: its format chunk is too short")
    code, channels, rate, _, align, bits = struct.unpack("<HHIIHH", body[:16])
    if code == EXTENSIBLE and len(body) >= 26:
        code = struct.unpack("<H", body[24:26])[0]
    names = {(PCM, 8): "u8", (PCM, 16): "s16le", (PCM, 24): "s24le", (PCM, 32): "s32le"}
    names |= {(FLOAT, 32): "f32le", (FLOAT, 64): "f64le"}
    name = names.get((code, bits))
    if name is None:
        raise WavecastError(f"WAV with encoding {code} of {bits} bits is not understood on a pipe", "pass it as a file")
    if not 0 < channels <= MOST_CHANNELS or not rate or align != channels * bits // 8:
        raise WavecastError(f"the WAV is damaged: {channels} channels, {rate} Hz, frames of {align} bytes")
    return SampleFormat(name, rate, channels)


def header(sound: SampleFormat) -> bytes:
    """Make a WAV header for a stream of unknown length."""
    size = ENCODINGS[sound.encoding][1]
    code = FLOAT if sound.encoding.startswith("f") else PCM
    rate, frame = sound.sample_rate, sound.frame_bytes
    form = struct.pack("<HHIIHH", code, sound.channels, rate, rate * frame, frame, 8 * size)
    unknown = 0xFFFFFFFF
    return (
        struct.pack("<4sI4s4sI", b"RIFF", unknown, b"WAVE", b"fmt ", 16) + form + struct.pack("<4sI", b"data", unknown)
    )
