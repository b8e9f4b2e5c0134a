"""Clips: the frames that the definition names, whatever the container, with their past, in the right size."""

import math
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from kit.videos import moving_block, write_video
from wavecast.core.errors import WavecastError
from wavecast.datamodules.clip_sampling import (
    Past,
    Shown,
    end_of,
    middles,
    open_frames,
    pasts,
    resize_frames,
    shown_at,
    spread_clip,
    uniform_clip,
    with_past,
)
from wavecast.datamodules.modalities import Modality, join
from wavecast.datamodules.video_files import open_video
from wavecast.datamodules.video_live import RawVideo, open_raw_file

RGB = [Modality("rgb")]
SIZE = (24, 32)


def encode(path, x, codec="libx264", pixels="yuv420p", pts=None, time_base=Fraction(1, 25), **options):
    """Write with PyAV itself, for kinds of files that VideoWriter does not make."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *x.shape[1:3], pixels
        stream.codec_context.time_base = time_base
        for name, value in options.items():
            setattr(stream.codec_context, name, value)
        for k, picture in enumerate(x):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = (k if pts is None else pts[k]), time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read(path):
    with open_video(path) as reader:
        return reader.read(1000)


def by_definition(times, end, frames):
    """Which frame is shown at the middle of each of equal parts, in plain loops."""
    chosen = []
    for i in range(frames):
        middle = times[0] + (i + 0.5) * (end - times[0]) / frames
        chosen.append(max(k for k, time in enumerate(times) if k == 0 or time <= middle + 1e-9))
    return chosen


@pytest.mark.parametrize("there", [1, 2, 5, 8, 180])
@pytest.mark.parametrize("wanted", [1, 4, 16, 25])
@pytest.mark.parametrize("rate", [1, 25, 30, 29.97, 60])
def test_at_a_constant_rate_frames_lie_evenly(there, wanted, rate):
    """To the frame, also where times are rounded to milliseconds and a middle falls on the change of frames.

    A frame that begins within two milliseconds counts as begun; rounded times may be off by as much again.
    """
    places = [Fraction((2 * i + 1) * there, 2 * wanted) for i in range(wanted)]
    begun = [int(place) for place in places]
    for digits, late in ((12, 0.002), (3, 0.004)):
        soon = [min(there - 1, int(float(place) + late * rate)) for place in places]
        times = np.round(np.arange(there) / rate, digits)
        found = shown_at(times, middles(times[0], end_of(times, rate), wanted)).tolist()
        assert all(k in pair for k, *pair in zip(found, begun, soon, strict=True))
        changes = [i for i, place in enumerate(places) if place == int(place)]
        assert [found[i] for i in changes] == [begun[i] for i in changes]


def test_at_a_variable_rate_time_counts(tmp_path):
    pts = np.cumsum([40, 40, 40, 200, 10, 30, 500, 40, 40, 40])
    path = encode(tmp_path / "x.mkv", moving_block(10), "ffv1", "bgr0", pts=pts.tolist(), time_base=Fraction(1, 1000))
    clip, when = uniform_clip(path, 8, SIZE, RGB)
    times = pts / 1000
    end = times[-1] + (times[-1] - times[0]) / 9
    chosen = by_definition(times, end, 8)
    assert len(set(chosen)) < 8  # one frame stays for half a second
    np.testing.assert_allclose(when, times[chosen], atol=1e-9)
    np.testing.assert_array_equal(np.rint(clip * 255), moving_block(10)[chosen])


@pytest.mark.parametrize("kind", ["mkv", "mp4", "avi", "ts", "webm", "h264", "npy", "npz", "gif"])
def test_every_container_gives_the_same_frames(tmp_path, kind):
    """With B-frames, without times of packets (AVI), without any times (raw H.264)."""
    path, x = tmp_path / f"x.{kind}", moving_block(21)
    if kind == "avi":
        encode(path, x, "mpeg4", max_b_frames=2)
    elif kind == "webm":
        encode(path, x, "libvpx-vp9")
    elif kind in ("mp4", "ts", "h264"):
        encode(path, x, gop_size=9, max_b_frames=0 if kind == "h264" else 3)
    else:
        write_video(path, x)
    frames, _ = read(path)
    chosen = [(2 * i + 1) * len(frames) // 14 for i in range(7)]
    assert len(frames) == 21
    clip, _ = uniform_clip(path, 7, SIZE, RGB)
    np.testing.assert_array_equal(np.rint(clip * 255), frames[chosen])


def test_pictures_come_upright(tmp_path):
    path = write_video(tmp_path / "x.mp4", moving_block())
    plain, _ = uniform_clip(path, 5, SIZE, RGB)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # clockwise
    path.write_bytes(data)
    turned, _ = uniform_clip(path, 5, (32, 24), RGB)
    np.testing.assert_array_equal(turned, np.rot90(plain, -1, (1, 2)))


@pytest.mark.parametrize("wanted", [1, 3, 30])
def test_each_frame_comes_after_its_own_past(wanted):
    """The frames just before it, the first one repeated where there are none."""
    x, modalities = moving_block(12), [Modality("rgb"), Modality("difference", 3)]
    clip, when = uniform_clip(x, wanted, SIZE, modalities)
    assert clip.shape == (wanted, *SIZE, 12)
    for k, one in zip(when.astype(int), clip, strict=True):
        past = np.stack([x[max(0, k - 3 + j)] for j in range(4)])
        np.testing.assert_array_equal(one, join(modalities, past)[0])


def test_few_frames_repeat(tmp_path):
    x = moving_block(1)
    clip, when = uniform_clip(write_video(tmp_path / "one.mkv", x), 4, SIZE, [*RGB, Modality("difference")])
    np.testing.assert_array_equal(np.rint(clip[..., :3] * 255), np.repeat(x, 4, 0))
    assert not clip[..., 3:].any() and not when.any()
    clip, when = uniform_clip(moving_block(2), 5, SIZE, RGB, rate=10)
    np.testing.assert_allclose(when, [0, 0, 0.1, 0.1, 0.1])


def test_gray_has_three_equal_colors(tmp_path):
    x = moving_block(4, channels=1)
    for name in ("x.npy", "x.mkv"):
        clip, _ = uniform_clip(write_video(tmp_path / name, x), 4, SIZE, RGB)
        np.testing.assert_array_equal(np.rint(clip * 255), np.repeat(x, 3, -1))


def test_a_video_that_ends_before_it_says_is_refused():
    with open_frames(moving_block(6)) as reader, pytest.raises(WavecastError, match="ends before its frame 6"):
        spread_clip(reader, np.arange(8.0), 8, SIZE, RGB)


def test_giant_pictures_are_refused_before_there_is_memory_for_them(tmp_path):
    data = bytearray(write_video(tmp_path / "x.gif", moving_block()).read_bytes())
    data[6:10] = struct.pack("<HH", 12000, 12000)
    (tmp_path / "x.gif").write_bytes(data)
    with pytest.raises(WavecastError, match=r"12000 x 12000; at most 64 million") as found:
        uniform_clip(tmp_path / "x.gif", 4, SIZE, RGB)
    assert "scale=" in found.value.hint


def test_pictures_that_become_giant_are_refused(tmp_path):
    encode(tmp_path / "x.mjpeg", moving_block(3), "mjpeg", "yuvj420p")
    small = (tmp_path / "x.mjpeg").read_bytes()
    large = bytearray(small)
    place = large.index(b"\xff\xc0") + 5
    large[place : place + 4] = struct.pack(">HH", 15000, 15000)
    (tmp_path / "x.mjpeg").write_bytes(small + large)
    with open_video(tmp_path / "x.mjpeg") as reader, pytest.raises(WavecastError, match="damaged"):
        reader.read(100)


def test_frames_are_resized_by_area_and_cropped_in_the_middle():
    x = np.random.default_rng(0).integers(256, size=(2, 12, 20, 3), dtype=np.uint8)
    expected = np.zeros((2, 4, 4, 3))
    for row in range(4):
        for col in range(4):  # 12 columns of 20 remain, 4 are cut off on each side
            expected[:, row, col] = x[:, 3 * row : 3 * row + 3, 4 + 3 * col : 7 + 3 * col].mean((1, 2))
    np.testing.assert_allclose(resize_frames(x, (4, 4)), expected, atol=0.51)
    squeezed = x.reshape(2, 4, 3, 4, 5, 3).mean((2, 4))
    np.testing.assert_allclose(resize_frames(x, (4, 4), crop=False), squeezed, atol=0.51)
    assert resize_frames(x, (12, 20)) is x
    for size in ((1, 1), (30, 7), (5, 41)):
        assert resize_frames(x, size).shape == (2, *size, 3)
        flat = np.full_like(x, 77)
        np.testing.assert_array_equal(resize_frames(flat, size), np.full((2, *size, 3), 77))


def test_a_stream_sees_what_a_clip_sees():
    x, modalities = moving_block(9, 30, 40), [Modality("difference", 2), Modality("rgb")]
    past = Past(2)
    for k, picture in enumerate(x):
        past.push(picture, (k + 1) / 25)
        window = np.stack([x[max(0, k - 2 + j)] for j in range(3)])
        expected = join(modalities, resize_frames(window, (8, 8)))
        np.testing.assert_array_equal(past.newest((8, 8), modalities), expected)
        np.testing.assert_array_equal(past.newest((30, 40), RGB)[0], np.float32(picture) / np.float32(255))


@pytest.mark.parametrize("rate", [1.0, 5.0, 6.0, 25.0, 60.0])
def test_a_model_with_its_own_rate_sees_the_past_at_that_rate(rate):
    """Frame k of a video of 25 a second is shown from k / 25 on; the second before a frame at rate 1 is 25 frames."""
    x, times = np.random.default_rng(0).integers(256, size=(60, 8, 8, 3), dtype=np.uint8), np.arange(60) / 25
    modalities, past = [Modality("difference", 2), Modality("rgb")], Past(2, 2 / rate)
    chosen = np.array([0, 3, 30, 31, 59])
    wanted = pasts(times, chosen, 2, rate)
    expected = [[max(0, math.floor(k - 25 * j / rate + 0.05)) for j in (2, 1, 0)] for k in chosen]
    assert wanted.tolist() == expected
    with open_frames(x, 25.0) as reader:
        for rows, seen in zip(expected, with_past(reader, wanted, (8, 8)), strict=True):
            np.testing.assert_array_equal(seen, x[rows])
    for k, picture in enumerate(x):
        past.push(picture, (k + 1) / 25)
        if k in chosen:
            expected_now = join(modalities, x[expected[chosen.tolist().index(k)]])
            np.testing.assert_array_equal(past.newest((8, 8), modalities, rate), expected_now)


def test_a_frame_is_shown_until_the_next_one():
    x, times = moving_block(5), np.array([7.0, 7.5, 7.25, 9.0, 9.5])
    frames = Shown(25)
    found = [*frames.push(x[:2], times[:2]), *frames.push(x[2:2]), *frames.push(x[2:], times[2:]), *frames.flush()]
    np.testing.assert_allclose([until for _, until in found], [0.5, 0.5, 2.0, 2.5, 2.5 + 2.5 / 4])
    np.testing.assert_array_equal([picture for picture, _ in found], x)
    assert frames.frames == 5 and frames.seconds == 2.5 + 2.5 / 4
    single = Shown(10)
    assert [*single.push(x[:1])] == [] and [until for _, until in single.flush()] == [0.1]


@pytest.mark.parametrize(
    "text",
    ["", "rgb24", "rgb24:32x24", "rgb24:32x24:25:1", "yuv:32x24:25", "rgb24:0x24:25", "rgb24:32x24:0", "gray:a:b"],
)
def test_raw_frames_must_be_described(text):
    with pytest.raises(ValueError, match=r"PIXELS:WIDTHxHEIGHT:FPS|pixels|size"):
        RawVideo.parse(text)
    with pytest.raises(ValueError, match="64 million"):
        RawVideo.parse("gray:10000x10000:25")


@pytest.mark.parametrize("pixels", ["rgb24", "bgr24", "gray"])
def test_raw_files_are_read_to_the_last_whole_frame(tmp_path, pixels):
    x = moving_block(4, channels=1 if pixels == "gray" else 3)
    data = (x[..., ::-1] if pixels == "bgr24" else x).tobytes()
    raw = RawVideo.parse(f"{pixels}:32x24:25")
    for rest in (b"", b"abc"):
        (tmp_path / "x.raw").write_bytes(data + rest)
        found, cut = open_raw_file(tmp_path / "x.raw", raw)
        np.testing.assert_array_equal(found, x)
        assert cut == bool(rest)
    (tmp_path / "x.raw").write_bytes(b"abc")
    with pytest.raises(WavecastError, match="less than a frame of 24 x 32"):
        open_raw_file(tmp_path / "x.raw", raw)
