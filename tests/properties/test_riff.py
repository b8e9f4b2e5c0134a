"""WAV and raw samples on a pipe: every encoding, every header that occurs, any way the bytes arrive."""

import io
import os
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from wavecast.core.errors import WavecastError
from wavecast.datamodules.audio_files import PipeReader, open_audio
from wavecast.datamodules.riff import ENCODINGS, ByteSource, SampleFormat, check_chunks, header, quantize, read_header

BITS = {"u8": 8, "s16le": 16, "s24le": 24, "s32le": 32, "s16be": 16, "s32be": 32}
GUID = bytes.fromhex("000000001000800000aa00389b71")


class Trickle(ByteSource):
    """Bytes that arrive in pieces of given sizes, over and over."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        super().__init__(-1)
        self._data, self._sizes, self._turn = io.BytesIO(data), sizes, 0

    def some(self, most: int) -> bytes:
        """Read the next piece."""
        self._turn += 1
        return self._data.read(min(most, self._sizes[self._turn % len(self._sizes)]))


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    """A chunk with its padding byte; `size` is what its head says."""
    return name + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def form(code=1, channels=1, rate=16000, bits=16, align=None) -> bytes:
    align = channels * bits // 8 if align is None else align
    return struct.pack("<HHIIHH", code, channels, rate, rate * align, align, bits)


def wav(*chunks: bytes, riff=b"RIFF") -> bytes:
    body = b"".join(chunks)
    return riff + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def open_bytes(data: bytes, sizes=(1 << 20,)) -> PipeReader:
    source = Trickle(data, list(sizes))
    sound, size = read_header(source)
    return PipeReader(source, sound, size, "WAV")


def all_of(reader: PipeReader, frames: int = 1000) -> np.ndarray:
    pieces = [np.zeros((reader.info.channels, 0), np.float32)]
    while (x := reader.read(frames)).shape[1]:
        assert x.shape[1] <= frames
        pieces.append(x)
    return np.concatenate(pieces, 1)


SAMPLES = np.arange(-50, 50, dtype="<i2")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("channels", [1, 2, 7])
def test_bytes_come_back_as_they_were(encoding, channels):
    sound = SampleFormat(encoding, 16000, channels)
    rng = np.random.default_rng(0)
    step = 2.0 ** (1 - min(BITS.get(encoding, 24), 24))  # float32 holds 24 bits
    x = (np.round(rng.uniform(-1, 1 - step, (channels, 501)) / step) * step).astype(np.float32)
    data = sound.encode(x)
    assert len(data) == 501 * sound.frame_bytes
    assert np.array_equal(sound.decode(data), x)
    assert sound.encode(sound.decode(data)) == data


@pytest.mark.parametrize("encoding", BITS)
def test_integers_stop_at_full_scale_and_never_wrap(encoding):
    sound, top = SampleFormat(encoding, 8000), 1 - 2.0 ** (1 - BITS[encoding])
    x = np.array([[1, 1.5, 1e30, np.inf, -1, -1.5, -1e30, -np.inf, np.nan]], np.float32)
    expected = np.array([[top] * 4 + [-1] * 4 + [0]], np.float32)
    assert np.array_equal(sound.decode(sound.encode(x)), expected)


@pytest.mark.parametrize("encoding", ["f32le", "f64le", "f32be"])
def test_floats_pass_beyond_full_scale(encoding):
    x = np.array([[3.5, -7.25, 1e30, np.inf, -np.inf]], np.float32)
    sound = SampleFormat(encoding, 8000)
    assert np.array_equal(sound.decode(sound.encode(x)), x)


def test_doubles_too_large_for_single_become_infinite():
    assert SampleFormat("f64le", 8000).decode(np.array([1e300, -1e300]).tobytes()).tolist() == [[np.inf, -np.inf]]


@given(st.integers(-(2**23), 2**23 - 1))
def test_24_bits_keep_sign_and_value(value):
    data = value.to_bytes(3, "little", signed=True)
    sound = SampleFormat("s24le", 8000)
    assert sound.decode(data)[0, 0] == value / 2**23
    assert sound.encode(sound.decode(data)) == data


def test_rounding_is_to_the_nearest():
    assert quantize(np.array([0.4, 0.6, -0.4, -0.6]) / 128, 8).tolist() == [0, 1, 0, -1]


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_unknown_sizes_mean_until_the_end(size):
    reader = open_bytes(wav(chunk(b"fmt ", form()), chunk(b"data", SAMPLES.tobytes(), size)))
    assert reader.info.frames is None
    assert np.array_equal(all_of(reader)[0] * 32768, SAMPLES)
    assert not reader.truncated


def test_a_known_size_ends_before_what_follows():
    data = wav(chunk(b"fmt ", form()), chunk(b"data", SAMPLES.tobytes()), chunk(b"LIST", b"INFO" + b"\x11" * 60))
    reader = open_bytes(data)
    assert reader.info.frames == len(SAMPLES)
    assert np.array_equal(all_of(reader)[0] * 32768, SAMPLES)
    assert not reader.truncated


def test_odd_chunks_before_the_sound_are_stepped_over():
    chunks = chunk(b"JUNK", b"abc"), chunk(b"fmt ", form() + b"\0\0"), chunk(b"LIST", b"x"), chunk(b"fact", b"\0" * 4)
    reader = open_bytes(wav(*chunks, chunk(b"data", SAMPLES.tobytes())))
    assert np.array_equal(all_of(reader)[0] * 32768, SAMPLES)


@pytest.mark.parametrize("riff", [b"RF64", b"BW64"])
def test_long_sizes_of_rf64(riff):
    long = chunk(b"ds64", struct.pack("<QQQI", 1 << 33, 2 * 60, 60, 0))
    reader = open_bytes(wav(long, chunk(b"fmt ", form()), chunk(b"data", SAMPLES.tobytes(), 0xFFFFFFFF), riff=riff))
    assert reader.info.frames == 60
    assert np.array_equal(all_of(reader)[0] * 32768, SAMPLES[:60])


def test_extensible_names_its_encoding_in_the_guid():
    for code, bits, kind in [(1, 24, "s24le"), (3, 32, "f32le"), (1, 16, "s16le")]:
        extension = struct.pack("<HHIH", 22, bits, 3, code) + GUID
        sound, _ = read_header(
            Trickle(wav(chunk(b"fmt ", form(0xFFFE, 2, 48000, bits) + extension), b"data\0\0\0\0"), [99])
        )
        assert sound == SampleFormat(kind, 48000, 2)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(1, 40))
def test_short_reads_change_nothing(sizes, frames):
    """3 channels of 24 bits: frames of 9 bytes that no piece holds whole."""
    sound = SampleFormat("s24le", 16000, 3)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 57)).astype(np.float32)
    reader = open_bytes(header(sound) + sound.encode(x), sizes)
    assert np.array_equal(all_of(reader, frames), sound.decode(sound.encode(x)))


def test_a_frame_cut_in_two_at_the_end_is_told():
    reader = open_bytes(wav(chunk(b"fmt ", form(channels=2))) + chunk(b"data", SAMPLES.tobytes()[:-1], 0xFFFFFFFF)[:-1])
    assert all_of(reader).shape == (2, len(SAMPLES) // 2 - 1)
    assert reader.truncated


def test_less_sound_than_promised_is_told():
    reader = open_bytes(wav(chunk(b"fmt ", form()), chunk(b"data", SAMPLES.tobytes(), 1000)))
    assert reader.info.frames == 500
    assert all_of(reader).shape == (1, 100)
    assert reader.truncated


@pytest.mark.parametrize("encoding", ["u8", "s16le", "s24le", "s32le", "f32le", "f64le"])
def test_our_header_is_read_by_us_and_by_libsndfile(encoding, tmp_path):
    sound = SampleFormat(encoding, 44100, 2)
    x = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 100)).astype(np.float32)
    data = header(sound) + sound.encode(x)
    assert read_header(Trickle(data, [3])) == (sound, None)
    (tmp_path / "x.wav").write_bytes(data)
    y, rate = soundfile.read(tmp_path / "x.wav", dtype="float32")
    assert rate == 44100
    assert np.array_equal(y.T, sound.decode(sound.encode(x)))


def test_a_real_pipe_gives_what_has_arrived():
    sound = SampleFormat("s16le", 16000)
    out, into = os.pipe()
    os.write(into, header(sound) + SAMPLES.tobytes()[:21])
    source = ByteSource(out)
    reader = PipeReader(source, *read_header(source), "WAV")
    assert reader.read(1000).shape == (1, 10)
    os.write(into, SAMPLES.tobytes()[21:])
    os.close(into)
    assert np.array_equal(all_of(reader)[0] * 32768, SAMPLES[10:])
    os.close(out)


def damaged():
    good = wav(chunk(b"fmt ", form()), chunk(b"data", SAMPLES.tobytes()))
    yield "no WAV", b"OggS" + good[4:]
    yield "no WAV", b"RIFF\0\0\0\0AVI "
    yield "no format", wav(chunk(b"data", b"\0\0"))
    yield "too short", wav(chunk(b"fmt ", form()[:14]), chunk(b"data", b"\0\0"))
    yield "0 channels", wav(chunk(b"fmt ", form(channels=0)), chunk(b"data", b"\0\0"))
    yield "1025 channels", wav(chunk(b"fmt ", form(channels=1025)), chunk(b"data", b"\0\0"))
    yield "0 Hz", wav(chunk(b"fmt ", form(rate=0)), chunk(b"data", b"\0\0"))
    yield "frames of 7", wav(chunk(b"fmt ", form(align=7)), chunk(b"data", b"\0\0"))
    yield "encoding 17 of 4 bits", wav(chunk(b"fmt ", form(code=17, bits=4)), chunk(b"data", b"\0\0"))
    yield "chunk b'JUNK' of 2147483648", wav(chunk(b"fmt ", form()), chunk(b"JUNK", b"", 1 << 31))
    for cut in range(44):
        yield "WAV", good[:cut]


@pytest.mark.parametrize(("text", "data"), list(damaged()))
def test_damaged_headers_are_refused_with_a_reason(text, data):
    with pytest.raises(WavecastError, match=text):
        read_header(Trickle(data, [5]))


def test_a_chunk_longer_than_the_file_is_refused_before_anyone_takes_memory_for_it(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(wav(chunk(b"fmt ", form()), chunk(b"LIST", b"INFO", 0xA5610014), chunk(b"data", b"\0\0")))
    for read in (check_chunks, open_audio):
        with pytest.raises(WavecastError, match="LIST' of 2774597652 bytes"):
            read(path)
    path.write_bytes(wav(chunk(b"fmt ", form(code=0x2000)), chunk(b"LIST", b"INFO"), chunk(b"data", b"", 1 << 31)))
    check_chunks(path)
