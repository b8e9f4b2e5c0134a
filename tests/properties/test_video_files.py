"""Video files: what is written comes back, any frame is found, and what is not whole is refused."""

import resource
import struct
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest

from kit.videos import moving_block as movie
from kit.videos import write_video as write
from kit.videos import write_without_frames
from wavecast.core.errors import WavecastError
from wavecast.datamodules.arrays import open_array
from wavecast.datamodules.video_files import open_video, read_frames
from wavecast.datamodules.video_writer import VideoWriter


def encode(path, x, codec="libx264", pixels="yuv420p", pts=None, time_base=Fraction(1, 25), **options):
    """Write with PyAV itself, for kinds of files that VideoWriter does not make."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "12"} if codec == "libx264" else {})
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


def read(path, channels=None, block=6):
    blocks = list(read_frames(path, block, channels))
    assert all(len(x) == block for x, _ in blocks[:-1])
    return np.concatenate([x for x, _ in blocks]), np.concatenate([times for _, times in blocks])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".mkv", ".npy", ".npz"])
@pytest.mark.parametrize("shape", [(20, 24, 32), (3, 17, 19), (1, 1, 1)])
def test_lossless_files_come_back_to_the_bit(tmp_path, suffix, channels, shape):
    x = np.random.default_rng(0).integers(256, size=(*shape, channels), dtype=np.uint8)
    found, times = read(write(tmp_path / f"x{suffix}", x))
    np.testing.assert_array_equal(found, x)
    np.testing.assert_allclose(times, np.arange(len(x)) / (25 if suffix == ".mkv" else 1), atol=1e-3)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_hold_fractions_and_any_channels(tmp_path, suffix):
    x = np.random.default_rng(0).normal(size=(9, 5, 4, 2)).astype(np.float32)
    found = open_array(write(tmp_path / f"x{suffix}", x))
    np.testing.assert_array_equal(found, x)
    assert found.dtype == np.float32 and isinstance(found, np.memmap)


def test_archives_are_numpys_and_the_same_each_time(tmp_path):
    x = movie()
    first, second = (write(tmp_path / name, x, step=step).read_bytes() for name, step in (("a.npz", 7), ("b.npz", 3)))
    assert first == second
    with np.load(tmp_path / "a.npz") as archive:
        assert archive.files == ["arr_0"]
        np.testing.assert_array_equal(archive["arr_0"], x)


@pytest.mark.parametrize("rows", [24, 25])
@pytest.mark.parametrize("cols", [32, 33])
def test_mp4_has_even_sizes_and_little_loss(tmp_path, rows, cols):
    x = np.repeat(movie(20, rows, cols, 1), 3, -1)
    found, times = read(write(tmp_path / "x.mp4", x, rate=29.97))
    assert found.shape == (20, rows + rows % 2, cols + cols % 2, 3)
    assert np.abs(found[:, :rows, :cols].astype(int) - x).mean() < 3
    edge = np.abs(found[:, -1].astype(int) - found[:, rows - 1])
    assert edge.mean() < 3  # the last row is doubled, not black
    np.testing.assert_allclose(times, np.arange(20) / 29.97, atol=1e-4)


def test_white_is_white_and_red_is_red_in_mp4(tmp_path):
    colors = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255], [128, 128, 128]], np.uint8)
    x = np.broadcast_to(colors[:, None, None], (5, 16, 16, 3))
    found, _ = read(write(tmp_path / "x.mp4", x))
    assert np.abs(found.astype(int) - x).max() <= 4
    gray, _ = read(write(tmp_path / "gray.mp4", np.ascontiguousarray(x[..., :1])), channels=1)
    assert np.abs(gray.astype(int) - x[..., :1]).max() <= 4


def test_gif_keeps_gray(tmp_path):
    x = movie(channels=1)
    found, times = read(write(tmp_path / "x.gif", x), channels=1)
    np.testing.assert_array_equal(found, x)
    np.testing.assert_allclose(times, np.arange(20) / 25, atol=1e-6)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "gif", "npy", "npz", "avi", "webm", "ts"])
def test_any_frame_is_found(tmp_path, kind):
    path, x = tmp_path / f"x.{kind}", movie(40)
    if kind == "avi":
        encode(path, x, "mpeg4", max_b_frames=2)
    elif kind == "webm":
        encode(path, x, "libvpx-vp9", gop_size=7)
    elif kind in ("mp4", "ts"):
        encode(path, x, gop_size=9, max_b_frames=3)
    else:
        write(path, x)
    whole, times = read(path)
    with open_video(path) as reader:
        assert reader.frame_count() == len(whole) == 40
        for k in (17, 3, 39, 0, 8, 9, 10):
            reader.seek(k)
            found, when = reader.read(3)
            np.testing.assert_array_equal(found, whole[k : k + 3])
            np.testing.assert_array_equal(when, times[k : k + 3])
        assert len(reader.read(5)[0]) == 5 and reader.read(0)[0].shape == (0, 24, 32, 3)
        for beyond in (-1, 40):
            with pytest.raises(ValueError, match=f"no frame {beyond}"):
                reader.seek(beyond)


def test_frames_at_uneven_times_tell_them(tmp_path):
    pts = np.cumsum([0, 40, 40, 200, 10, 30, 500, 40])
    path = encode(tmp_path / "x.mkv", movie(8), "ffv1", "bgr0", pts=pts.tolist(), time_base=Fraction(1, 1000))
    found, times = read(path)
    np.testing.assert_allclose(times, pts / 1000)
    np.testing.assert_array_equal(found, movie(8))
    with open_video(path) as reader:
        reader.seek(6)
        np.testing.assert_allclose(reader.read(9)[1], pts[6:] / 1000)


@pytest.mark.parametrize(
    ("matrix", "turns"), [((1, 0, 0, 1), 0), ((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)]
)
def test_pictures_come_upright(tmp_path, matrix, turns):
    """A track's matrix takes (x, y) to (ax + cy, bx + dy), y pointing down; (0, 1, -1, 0) is clockwise."""
    path = write(tmp_path / "x.mp4", movie())
    plain, _ = read(path)
    data, (a, b, c, d) = bytearray(path.read_bytes()), (65536 * number for number in matrix)
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    found, _ = read(path)
    np.testing.assert_array_equal(found, np.rot90(plain, turns, (1, 2)))
    with open_video(path) as reader:
        assert (reader.info.rows, reader.info.cols) == found.shape[1:3]


def test_a_slanting_picture_is_refused(tmp_path):
    path = write(tmp_path / "x.mp4", movie())
    data, half = bytearray(path.read_bytes()), round(65536 / 2**0.5)
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", half, half, 0, -half, half, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    with pytest.raises(WavecastError, match="turned by -45 degrees"):
        open_video(path)


def test_a_change_of_size_is_refused_where_it_happens(tmp_path):
    """Raw H.264 may follow H.264 of another size."""
    small, large = (encode(tmp_path / f"{n}.h264", movie(5, n, 32), max_b_frames=0) for n in (32, 48))
    path = tmp_path / "both.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with open_video(path) as reader, pytest.raises(WavecastError, match="picture at frame 5: 48 x 32 after 32 x 32"):
        while len(reader.read(1)[0]):
            pass


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".npy", ".avi", ".npz"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.7, 0.97])
def test_files_that_were_cut_off_are_refused(tmp_path, suffix, part):
    path = tmp_path / f"x{suffix}"
    if suffix == ".avi":
        encode(path, movie(), "mpeg4")
    elif suffix == ".npz":
        np.savez(path, movie())
    else:
        write(path, movie())
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(WavecastError) as found:
        list(read_frames(path))
    assert str(path) in found.value.message and found.value.hint


def test_a_file_whose_index_comes_first_is_refused_when_cut(tmp_path):
    with av.open(str(tmp_path / "x.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for picture in movie():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    data = (tmp_path / "x.mp4").read_bytes()
    assert len(read(tmp_path / "x.mp4")[0]) == 20
    (tmp_path / "x.mp4").write_bytes(data[:-100])
    with pytest.raises(WavecastError, match=f"{len(data) - 100} of {len(data)} bytes"):
        open_video(tmp_path / "x.mp4")


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video " * 40)
    with av.open(str(tmp_path / "sound.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    write_without_frames(tmp_path / "bare.mkv")
    np.save(tmp_path / "none.npy", np.zeros((0, 4, 4), np.uint8))
    np.save(tmp_path / "flat.npy", np.zeros((4, 4), np.uint8))
    np.save(tmp_path / "large.npy", np.full((2, 4, 4), 1.5, np.float32))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    (tmp_path / "text.npy").write_text("no array " * 40)
    expected = {
        "text.mp4": "is no video that can be read",
        "sound.m4a": "has no moving picture",
        "bare.mkv": "holds no frame",
        "none.npy": "",
        "flat.npy": "of shape (4, 4), not frames",
        "large.npy": "goes beyond [0, 1] between frames 0 and 1",
        "objects.npy": "is no array that can be read",
        "text.npy": "is no array that can be read: it does not begin as one",
        "two.npz": "holds 2 arrays where one is wanted",
        "missing.mp4": "does not exist",
        ".": "is a folder",
    }
    for name, message in expected.items():
        with pytest.raises(WavecastError) as found:
            list(read_frames(tmp_path / name))
        assert message in found.value.message and found.value.hint, name


def test_fractions_are_rounded_to_bytes(tmp_path):
    np.save(tmp_path / "x.npy", np.array([0, 0.2, 0.5, 1])[:, None, None])
    np.testing.assert_array_equal(read(tmp_path / "x.npy")[0].ravel(), [0, 51, 128, 255])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_an_archive_are_mapped_unless_compressed(tmp_path, save, order):
    x = np.asarray(np.random.default_rng(0).normal(size=(5, 6, 7)), order=order)
    save(tmp_path / "x.npz", first=np.arange(3), second=x)
    found = open_array(tmp_path / "x.npz", "second")
    np.testing.assert_array_equal(found, x)
    assert isinstance(found, np.memmap) == (save is np.savez)


def test_a_long_video_passes_in_little_memory(tmp_path):
    pictures = 400
    x = np.zeros((pictures, 100, 100, 1), np.uint8)
    tracemalloc.start()
    write(tmp_path / "x.npy", x, step=20)
    write(tmp_path / "x.mkv", x, step=20)
    seen = sum(len(block) for name in ("x.npy", "x.mkv") for block, _ in read_frames(tmp_path / name, 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == 2 * pictures
    assert peak < x.nbytes / 4


def test_nothing_half_written_is_left(tmp_path):
    path = write(tmp_path / "x.mkv", movie())
    before = path.read_bytes()
    with pytest.raises(WavecastError, match="exists"):
        VideoWriter(path, 25)
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, 25, overwrite=True) as writer:
        writer.write(movie(3))
        raise KeyboardInterrupt
    with pytest.raises(WavecastError, match="there is no frame to write"), VideoWriter(tmp_path / "y.mp4", 25):
        pass
    with pytest.raises(WavecastError, match="exists"), VideoWriter(tmp_path / "z.npy", 25) as writer:
        writer.write(movie(3))
        (tmp_path / "z.npy").write_text("came meanwhile")
    assert (tmp_path / "z.npy").read_text() == "came meanwhile"
    assert path.read_bytes() == before and {found.name for found in tmp_path.iterdir()} == {"x.mkv", "z.npy"}
    with VideoWriter(path, 25, overwrite=True) as writer:
        writer.write(movie(3))
    assert len(read(path)[0]) == 3


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".npy", ".npz"])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, suffix):
    """A limit on the size of files fails a write as a full disk does."""
    x = np.random.default_rng(0).integers(256, size=(40, 64, 64, 3), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(WavecastError, match=r"cannot write .*: File too large") as found:
            write(tmp_path / f"x{suffix}", x)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert found.value.hint and not list(tmp_path.iterdir())


def test_targets_and_frames_that_cannot_be(tmp_path):
    for name, message in [("x.webm", "cannot write .webm"), ("none/x.mp4", "does not exist"), ("x", "cannot write")]:
        with pytest.raises(WavecastError, match=message):
            VideoWriter(tmp_path / name, 25)
    with pytest.raises(ValueError, match="a rate of 0 "):
        VideoWriter(tmp_path / "x.mp4", 0)
    unfit = [(".npy", movie().astype(float)), (".npy", movie()[0]), (".npy", movie()[:, :0])]
    for suffix, bad in [*unfit, (".mkv", movie()[..., :2]), (".mkv", movie().astype(np.float32))]:
        with pytest.raises(ValueError, match="give uint8"), VideoWriter(tmp_path / f"x{suffix}", 25) as writer:
            writer.write(bad)
    with pytest.raises(ValueError, match="have one size"), VideoWriter(tmp_path / "x.npy", 25) as writer:
        writer.write(movie())
        writer.write(movie(rows=26))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.gif", "x.npy", "x.avi", "x.npz", "packed.npz"])
def test_altered_files_are_read_or_refused(tmp_path, name):
    path, rng = tmp_path / name, np.random.default_rng(0)
    if name == "x.avi":
        encode(path, movie(8), "mpeg4")
    elif path.suffix == ".npz":
        (np.savez if name == "x.npz" else np.savez_compressed)(path, movie(8))
    else:
        write(path, movie(8))
    whole, refused = path.read_bytes(), 0
    for k in range(40):
        data = bytearray(whole)
        for place in rng.integers(min(300, len(data)) if k % 2 else len(data), size=3):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            with open_video(path) as reader:
                while len(reader.read(4)[0]):
                    pass
                reader.seek(reader.frame_count() // 2)
        except WavecastError as error:
            refused += 1
            assert str(path) in error.message
    assert refused
