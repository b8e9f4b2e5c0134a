"""Files of every container and encoding: what is written comes back, to the sample, or not at all."""

import errno
import fractions
import gc
import os
import signal
import struct

import av
import numpy as np
import pytest
import soundfile

from wavecast.core.errors import WavecastError
from wavecast.datamodules import audio_files
from wavecast.datamodules.audio_files import (
    AUDIO_SUFFIXES,
    TAGS,
    AudioInfo,
    can_hold,
    create_audio,
    file_info,
    file_suffix,
    load_audio,
    open_audio,
    parse_raw,
    pipe_info,
)
from wavecast.datamodules.av_files import open_av

CONTAINERS = ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3", "NIST", "MAT5"]
BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 24, "ALAC_16": 16, "ALAC_24": 24}
WHOLE_BLOCKS = ("ADPCM", "GSM610", "G72", "DWVW", "DPCM")  # encodings that round a length up to their blocks
COMBINATIONS = [
    (container, subtype, channels)
    for container in CONTAINERS
    for subtype in soundfile.available_subtypes(container)
    for channels in (1, 2, 3, 8)
    if not any(name in subtype for name in WHOLE_BLOCKS)
    and can_hold(AudioInfo(16000, channels, None, container, subtype))
]


def hum(channels: int, frames: int, rate: int = 16000) -> np.ndarray:
    """A hum with a rhythm, another level in every channel: float32 (channels, frames)."""
    time = np.arange(frames) / rate
    rhythm = np.clip(np.sin(2 * np.pi * 3 * time), 0, 1)
    return (0.5 * rhythm * np.sin(2 * np.pi * 200 * time) / np.arange(1, channels + 1)[:, None]).astype(np.float32)


def write(path, x, container="WAV", subtype="PCM_16", rate=16000, tags=None, step=1000):
    """Write in pieces."""
    with create_audio(path, AudioInfo(rate, len(x), None, container, subtype, tags or {})) as writer:
        for start in range(0, x.shape[1], step):
            writer.write(x[:, start : start + step])
    return writer


def iter_blocks(reader, frames=700):
    """Give block by block."""
    while (x := reader.read(frames)).shape[1]:
        yield x


def lag(x: np.ndarray, y: np.ndarray) -> int:
    """Samples that y comes after x."""
    size = 2 * max(len(x), len(y))
    match = np.fft.irfft(np.fft.rfft(y, size) * np.conj(np.fft.rfft(x, size)), size)
    best = int(match.argmax())
    return best if best < size // 2 else best - size


@pytest.mark.parametrize(("container", "subtype", "channels"), COMBINATIONS)
def test_what_is_written_comes_back(tmp_path, container, subtype, channels):
    x, path = hum(channels, 4800), tmp_path / "x"
    writer = write(path, x, container, subtype)
    y, rate = load_audio(path)
    with open_audio(path) as reader:
        info = reader.info
    assert (info.container, info.subtype, info.channels) == (container, subtype, channels)
    assert (rate, info.frames) == (16000, 4800)
    assert y.shape == x.shape
    assert writer.clipped == 0
    if subtype in BITS:
        assert np.abs(y - x).max() <= 0.51 * 2.0 ** (1 - BITS[subtype])
    elif subtype in ("FLOAT", "DOUBLE"):
        assert np.array_equal(x, y)
    else:
        assert abs(lag(x[0], y[0])) <= 1
        assert np.sqrt(np.mean((x[0] - y[0]) ** 2)) < 0.2 * np.sqrt(np.mean(x[0] ** 2))


@pytest.mark.parametrize("frames", [0, 1, 2, 4095, 4097])
@pytest.mark.parametrize("container", ["WAV", "AIFF", "CAF", "W64", "RF64"])
def test_lengths_are_exact(tmp_path, container, frames):
    x = hum(2, frames)
    write(tmp_path / "x", x, container)
    assert load_audio(tmp_path / "x")[0].shape == (2, frames)


@pytest.mark.parametrize(("container", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
@pytest.mark.parametrize("frames", [1000, 16001, 48000])
@pytest.mark.parametrize("rate", [16000, 48000])
def test_lossy_lengths_are_exact(tmp_path, container, subtype, frames, rate):
    x = hum(1, frames, rate)
    write(tmp_path / "x", x, container, subtype, rate)
    y, found = load_audio(tmp_path / "x")
    assert (y.shape, found) == (x.shape, rate)
    assert abs(lag(x[0], y[0])) <= 1  # filters of a codec turn phases by that much


@pytest.mark.parametrize(("container", "subtype"), [("FLAC", "PCM_16"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_a_recording_of_no_samples_is_refused_where_no_reader_would_open_it(tmp_path, container, subtype):
    with pytest.raises(WavecastError, match="no samples") as caught:
        write(tmp_path / "x", hum(1, 0), container, subtype)
    assert "--format wav" in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_integers_of_a_file_come_back_unchanged(tmp_path, bits):
    """Read as float and written again: 24 bits fit float32, so every one of theirs stays."""
    top = 2 ** (min(bits, 24) - 1)
    whole = np.random.default_rng(0).integers(-top, top, 5000) << 32 - min(bits, 24)
    soundfile.write(tmp_path / "a.wav", whole.astype(np.int32), 16000, subtype=f"PCM_{bits}")
    write(tmp_path / "b.wav", load_audio(tmp_path / "a.wav")[0], subtype=f"PCM_{bits}")
    assert np.array_equal(soundfile.read(tmp_path / "b.wav", dtype="int32")[0], whole)


def test_floats_beyond_full_scale_stay_and_integers_are_cut_and_counted(tmp_path):
    x = np.array([[0.5, 1.0, 1.5, -3.0, 1e20, np.nan, np.inf]], np.float32)
    assert write(tmp_path / "f.wav", x, subtype="FLOAT").clipped == 0
    assert np.array_equal(load_audio(tmp_path / "f.wav")[0], x, equal_nan=True)
    assert write(tmp_path / "i.wav", x).clipped == 4
    expected = np.array([[0.5, 1, 1, -1, 1, 0, 1]])
    assert np.allclose(load_audio(tmp_path / "i.wav")[0], expected, atol=2**-15)


def test_tags_stay_in_the_containers_that_have_them(tmp_path):
    """What each of them holds, as libsndfile has it."""
    tags = {name: f"a {name}" for name in TAGS if name not in ("tracknumber", "date")} | {"date": "2024"}
    kept = {}
    for container, subtype in [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]:
        write(tmp_path / container, hum(1, 4000), container, subtype, tags=tags)
        with open_audio(tmp_path / container) as reader:
            kept[container] = dict(reader.info.tags)
    for name in ("title", "artist", "date", "comment"):
        for container, found in kept.items():
            assert found[name].startswith(tags[name]), container
    for name in set(tags) - {"software"}:
        assert kept["FLAC"][name] == tags[name]
    write(tmp_path / "far", hum(1, 4000), "FLAC", tags={"title": "Żółw 亀"})
    with open_audio(tmp_path / "far") as reader:
        assert reader.info.tags["title"] == "Żółw 亀"


@pytest.mark.parametrize(
    ("info", "suffix", "container", "subtype"),
    [
        (("WAV", "PCM_24"), "", "WAV", "PCM_24"),
        (("RAW", "s24le"), "", "WAV", "PCM_24"),
        (("WAV", "MPEG_LAYER_III"), "", "WAV", "PCM_16"),
        (("MP3", "MPEG_LAYER_II"), "", "MP3", "MPEG_LAYER_III"),
        (("mov,mp4,m4a", "aac"), "", "FLAC", "PCM_16"),
        (("WAV", "FLOAT"), ".flac", "FLAC", "PCM_24"),
        (("WAV", "FLOAT"), ".OGG", "OGG", "VORBIS"),
        (("OGG", "VORBIS"), ".opus", "OGG", "OPUS"),
        (("MP3", "MPEG_LAYER_III"), ".wav", "WAV", "PCM_16"),
        (("AIFF", "PCM_S8"), ".au", "AU", "PCM_S8"),
    ],
)
def test_the_nearest_encoding_is_chosen(info, suffix, container, subtype):
    found = file_info(AudioInfo(48000, 2, None, *info), suffix)
    assert (found.container, found.subtype) == (container, subtype)
    assert can_hold(found)


@pytest.mark.parametrize(
    ("subtype", "encoding"), [("PCM_16", "s16le"), ("PCM_24", "s24le"), ("FLOAT", "f32le"), ("VORBIS", "s16le")]
)
def test_pipes_take_the_nearest_encoding(subtype, encoding):
    assert pipe_info(AudioInfo(48000, 2, None, "WAV", subtype)).subtype == encoding


def test_raw_formats_are_parsed_or_explained():
    sound = parse_raw("S24LE:48000:2")
    assert (sound.encoding, sound.sample_rate, sound.channels) == ("s24le", 48000, 2)
    for text in (
        "",
        "s16le",
        "s16le:",
        "s16le:0",
        "s16le:8000:0",
        "s17le:8000",
        "s16le:8000:1:1",
        "s16le:-8",
        "s16le:8k",
    ):
        with pytest.raises(ValueError, match=r"ENCODING:RATE|above 0"):
            parse_raw(text)


@pytest.mark.parametrize(
    ("name", "info", "text"),
    [
        ("x.flac", AudioInfo(16000, 9, None, "FLAC", "PCM_16"), "9 channels"),
        ("x.mp3", AudioInfo(96000, 2, None, "MP3", "MPEG_LAYER_III"), "at 96000 Hz"),
        ("x.opus", AudioInfo(44100, 2, None, "OGG", "OPUS"), "at 44100 Hz"),
        ("x.wav", AudioInfo(16000, 1, None, "WAV", "VORBIS"), "cannot hold VORBIS"),
    ],
)
def test_what_a_container_cannot_hold_is_refused_before_anything_is_written(tmp_path, name, info, text):
    with pytest.raises(WavecastError, match=text) as caught:
        create_audio(tmp_path / name, info)
    assert "--format" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept_and_one_that_appears_meanwhile_too(tmp_path):
    path = tmp_path / "x.wav"
    info = AudioInfo(16000, 1, None, "WAV", "PCM_16")
    with pytest.raises(WavecastError, match="exists"), create_audio(path, info) as writer:
        writer.write(hum(1, 100))
        path.write_text("someone else's")
    with pytest.raises(WavecastError, match="exists"):
        create_audio(path, info)
    assert path.read_text() == "someone else's"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_when_the_work_stops_as_the_file_is_made(tmp_path, monkeypatch):
    """Ctrl-C right after the system made the file, before anyone holds it."""
    real = os.open

    def interrupted(*words):
        os.close(real(*words))
        raise KeyboardInterrupt

    monkeypatch.setattr(audio_files.os, "open", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        create_audio(tmp_path / "x.wav", AudioInfo(16000, 1, None, "WAV", "PCM_16"))
    assert len(list(tmp_path.iterdir())) == 1
    del caught  # at the latest when the process ends, all objects go
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_when_the_work_stops(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        create_audio(tmp_path / "x.wav", AudioInfo(16000, 1, None, "WAV", "PCM_16")) as writer,
    ):
        writer.write(hum(1, 100))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", ["write", "seek", "tell"])
def test_an_interrupt_within_libsndfile_is_not_lost(tmp_path, monkeypatch, keyboard, call):
    """What is raised while libsndfile calls our Python would be printed and forgotten."""
    real, calls = getattr(audio_files.Disk, call), []

    def pressed(disk, *words):
        if not calls:
            calls.append(call)
            signal.raise_signal(signal.SIGINT)
        return real(disk, *words)

    info = AudioInfo(16000, 1, None, "WAV", "PCM_16")
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), create_audio(tmp_path / "x.wav", info) as writer:
        monkeypatch.setattr(audio_files.Disk, call, pressed)
        writer.write(hum(1, 100_000))
    assert calls
    assert signal.getsignal(signal.SIGINT) is handler
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("AIFF", "PCM_24"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
@pytest.mark.parametrize("missing", [1, 600, 10**9])
def test_a_disk_that_fills_up_is_noticed_to_the_last_byte(tmp_path, monkeypatch, container, subtype, missing):
    """The disk ends one byte before the file would, or in its last page, or before its first byte."""
    x, info = 0.1 * np.random.default_rng(0).standard_normal((1, 20000)), AudioInfo(16000, 1, None, container, subtype)
    write(tmp_path / "whole", x, container, subtype)
    room = max(0, (tmp_path / "whole").stat().st_size - missing)
    real = os.write

    def limited(descriptor, data):
        left = room - os.lseek(descriptor, 0, os.SEEK_CUR)
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[:left])

    monkeypatch.setattr(audio_files.os, "write", limited)
    with pytest.raises(WavecastError, match="No space left") as caught, create_audio(tmp_path / "x", info) as writer:
        writer.write(x)
    assert "space" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "MP3"])
def test_a_file_that_ends_early_gives_what_it_has_and_is_told(tmp_path, container):
    path = tmp_path / "x"
    write(path, hum(1, 30000), container, "PCM_16" if container != "MP3" else "MPEG_LAYER_III")
    with open_audio(path) as reader:
        assert not reader.truncated
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_audio(path) as reader:
        assert 11000 < sum(iter(lambda: reader.read(1000).shape[1], 0)) < 16000
        assert reader.truncated


@pytest.mark.parametrize("size", [0, 36, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_recording_with_an_unknown_size_in_its_header_is_not_cut_off(tmp_path, size):
    """Programs that write WAV to a pipe leave such headers in files, and recorders that crash."""
    path = tmp_path / "x.wav"
    write(path, hum(1, 3000))
    content = path.read_bytes()
    assert content[36:40] == b"data"
    sound = 0 if size == 36 else size
    path.write_bytes(content[:4] + struct.pack("<I", size) + content[8:40] + struct.pack("<I", sound) + content[44:])
    with open_audio(path) as reader:
        assert sum(iter(lambda: reader.read(1000).shape[1], 0)) == 3000
        assert not reader.truncated


def test_a_recording_of_no_samples_with_more_chunks_behind_stays_empty(tmp_path):
    write(tmp_path / "x.wav", hum(1, 0), tags={"title": "Nothing"})
    assert load_audio(tmp_path / "x.wav")[0].shape == (1, 0)


def test_a_flac_that_ends_early_is_refused_with_a_cure(tmp_path):
    write(tmp_path / "x.flac", hum(1, 30000), "FLAC")
    content = (tmp_path / "x.flac").read_bytes()
    (tmp_path / "x.flac").write_bytes(content[: len(content) // 2])
    with pytest.raises(WavecastError, match="damaged") as caught:
        load_audio(tmp_path / "x.flac")
    assert "cut off" in caught.value.hint


def test_blocks_of_any_size_give_the_same(tmp_path):
    write(tmp_path / "x.ogg", hum(2, 9000), "OGG", "VORBIS")
    whole = load_audio(tmp_path / "x.ogg")[0]
    with open_audio(tmp_path / "x.ogg") as reader:
        pieces = []
        while (x := reader.read(7 + len(pieces))).shape[1]:
            pieces.append(x)
    assert np.array_equal(np.concatenate(pieces, 1), whole)


def write_av(path, x, codec, rate=48000, options=None, stamps=True):
    """Write a container by PyAV, as programs that use FFmpeg do."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = {1: "mono", 2: "stereo"}[len(x)]
        container.metadata["title"] = "A talk"
        sample = stream.codec_context.format.name
        resampler = av.AudioResampler(sample, stream.layout, rate)
        for start in range(0, x.shape[1], 1000):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(x[:, start : start + 1000]), "fltp", stream.layout.name
            )
            frame.sample_rate = rate
            if stamps:
                frame.pts, frame.time_base = start, fractions.Fraction(1, rate)
            for one in resampler.resample(frame):
                container.mux(stream.encode(one))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.m4a", "aac", 48000),
        ("a.m4a", "aac", 44100),
        ("a.mp4", "aac", 16000),
        ("a.mov", "aac", 48000),
        ("a.m4a", "alac", 48000),
        ("a.mp4", "libopus", 48000),
        ("a.webm", "libopus", 48000),
        ("a.mkv", "libmp3lame", 48000),
        ("a.mka", "flac", 48000),
        ("a.avi", "pcm_s16le", 22050),
    ],
)
@pytest.mark.parametrize("frames", [1100, 28801, 44032])
@pytest.mark.parametrize("channels", [1, 2])
def test_priming_and_padding_are_taken_off_where_the_container_tells_them(
    tmp_path, name, codec, rate, frames, channels
):
    x = hum(channels, frames, rate)
    path = write_av(tmp_path / name, x, codec, rate)
    y, found = load_audio(path)
    assert (found, y.shape) == (rate, x.shape)
    if frames > 20000:
        assert abs(lag(x[0], y[0])) <= 1  # filters of a codec turn phases by that much
        assert np.sqrt(np.mean((x - y) ** 2)) < 0.15 * np.sqrt(np.mean(x**2))


def test_padding_goes_even_when_the_priming_is_not_told(tmp_path):
    """Without an edit list no reader can know the encoder's delay of 1024 samples; the end is known."""
    path = write_av(tmp_path / "a.m4a", hum(1, 28800, 48000), "aac", options={"use_editlist": "0"})
    assert load_audio(path)[0].shape == (1, 28800 + 1024)


def test_streams_without_lengths_are_read_to_their_last_packet(tmp_path):
    """ADTS tells nothing: a whole number of packets comes, priming and padding with them."""
    path = write_av(tmp_path / "a.aac", hum(1, 28800, 48000), "aac")
    y = load_audio(path)[0]
    assert y.shape[1] % 1024 == 0
    assert lag(hum(1, 28800, 48000)[0], y[0]) == 1024


@pytest.mark.parametrize(
    ("channels", "rate"), [((1, 2), (48000, 48000)), ((2, 1), (48000, 48000)), ((1, 1), (48000, 32000))]
)
def test_a_broadcast_that_changes_on_the_way_stays_what_it_began_with(tmp_path, channels, rate):
    parts = []
    for number in range(2):
        x = hum(channels[number], 19200, rate[number])
        parts.append(write_av(tmp_path / "part.aac", x, "aac", rate[number]).read_bytes())
    (tmp_path / "x.aac").write_bytes(b"".join(parts))
    y, found = load_audio(tmp_path / "x.aac")
    assert (found, len(y)) == (48000, channels[0])
    assert abs(y.shape[1] - sum(20480 * 48000 / each for each in rate)) < 3000
    assert np.abs(y[:, :19200]).max() == pytest.approx(np.abs(y[:, 22000:]).max(), rel=0.45)


def test_tags_and_encoding_of_a_container_by_pyav(tmp_path):
    path = write_av(tmp_path / "a.m4a", hum(2, 4000, 48000), "aac")
    with open_audio(path) as reader:
        info = reader.info
    assert (info.subtype, info.channels, dict(info.tags)) == ("aac", 2, {"title": "A talk"})
    assert (file_info(info).container, file_suffix(file_info(info), ".m4a")) == ("FLAC", ".flac")


@pytest.mark.parametrize("channels", [1, 3, 8, 9, 18, 64])
def test_any_number_of_channels_by_pyav(tmp_path, channels):
    x = hum(channels, 3000)
    write(tmp_path / "x.aiff", x, "AIFF")
    with open_av(tmp_path / "x.aiff", "of this test") as reader:
        assert reader.info.channels == channels
        y = np.concatenate(list(iter_blocks(reader)), 1)
    assert np.allclose(x, y, atol=2**-15)


def test_a_video_without_sound_is_refused(tmp_path):
    path = tmp_path / "silent.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(stream.encode(None))
    with pytest.raises(WavecastError, match="no sound track"):
        open_audio(path)


@pytest.mark.parametrize("name", ["12:30 talk", "pipe:0", "concat:a|b", "-dash", "new\nline", "talk 🎤", "100%d"])
@pytest.mark.parametrize("suffix", [".wav", ".m4a"])
def test_names_mean_files_and_nothing_else(tmp_path, monkeypatch, name, suffix):
    monkeypatch.chdir(tmp_path)
    x = hum(1, 3000, 48000)
    if suffix == ".wav":
        write(name + suffix, x)
    else:
        write_av("plain.m4a", x, "aac")
        os.rename("plain.m4a", name + suffix)  # noqa: PTH104 - the very name
    assert load_audio(name + suffix)[0].shape == x.shape


def test_every_suffix_that_folders_are_searched_for_is_lower_case():
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in AUDIO_SUFFIXES)
