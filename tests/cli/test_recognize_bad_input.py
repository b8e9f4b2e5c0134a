"""What is no video, or not whole, is refused with a cure: exit code, empty stdout, text on stderr."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from kit.recognizers import write_recognizer
from kit.separators import write_separator
from kit.videos import moving_block, write_video, write_without_frames


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The path of the card of a model that follows."""
    return write_recognizer(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """An empty working directory, and no models but those of the test."""
    (tmp_path / "shipped").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAVECAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("wavecast.cards.shipped_folder", lambda: tmp_path / "shipped")


def h264(path, rows, frames=5):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = rows, 32, "yuv420p"
        stream.codec_context.max_b_frames = 0
        for picture in moving_block(frames, rows):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


def write(folder, kind):
    """Write a file that is wrong in some way; its name."""
    path = folder / {"changing": "changing.h264", "huge": "huge.gif", "name": "name.npy"}.get(kind, f"{kind}.mkv")
    if kind == "cut":
        write_video(path, moving_block())
        path.write_bytes(path.read_bytes()[:-500])
    elif kind == "bare":
        write_without_frames(path)
    elif kind == "sound":
        with av.open(str(path), "w") as container:
            sound = container.add_stream("pcm_s16le", rate=16000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), "s16", "mono")
            frame.sample_rate = 16000
            container.mux([*sound.encode(frame), *sound.encode(None)])
    elif kind == "changing":
        path.write_bytes(h264(folder / "a.h264", 32) + h264(folder / "b.h264", 48))
    elif kind == "huge":
        write_video(path, moving_block())
        data = bytearray(path.read_bytes())
        data[6:10] = struct.pack("<HH", 12000, 12000)
        path.write_bytes(data)
    elif kind == "name":
        write_video(folder / "x.mkv", moving_block()).rename(path)
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no video at all\n" * 20)
    return path.name


@pytest.mark.parametrize(
    ("kind", "text", "hint"),
    [
        ("missing", "missing.mkv does not exist", "check the name"),
        ("empty", "empty.mkv is empty", "fetch or write it again"),
        ("text", "text.mkv is no video that can be read", "give a video"),
        ("cut", "cut.mkv ends too early", "cut off"),
        ("bare", "bare.mkv holds no frame", "moving picture"),
        ("sound", "sound.mkv has no moving picture", "moving picture"),
        ("changing", "changing.h264 changes its picture", "cut it there"),
        ("huge", "huge.gif has pictures of 12000 x 12000; at most 64 million pixels", "scale="),
        ("name", "name.npy is no array that can be read", "cut off or altered"),
    ],
)
@pytest.mark.parametrize("timeline", [False, True])
def test_videos_that_cannot_be_read(wavecast, tmp_path, model, kind, text, hint, timeline):
    name = write(tmp_path, kind)
    words = ("--timeline",) if timeline else ()
    said = wavecast.fails(1, text, "recognize", name, "--model", model, *words, hint=hint)
    assert said.err.count("error:") == 1
    wavecast.fails(1, text, "recognize", name, "--model", model, "-o", "out.json", *words, hint=hint)
    assert not (tmp_path / "out.json").exists()


def test_a_wrong_suffix_does_not_matter(wavecast, tmp_path, model):
    write_video(tmp_path / "x.mkv", moving_block()).rename(tmp_path / "x.avi")
    assert wavecast("recognize", "x.avi", "--model", model).code == 0


def test_an_unreadable_file(wavecast, tmp_path, model, monkeypatch):
    """Root may read everything, so the system is made to refuse."""
    write_video(tmp_path / "x.mkv", moving_block())
    opened = Path.open

    def refuse(path, *args, **options):
        if path.name == "x.mkv":
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    text = "cannot read x.mkv: Permission denied"
    wavecast.fails(1, text, "recognize", "x.mkv", "--model", model, hint="check its permissions")


def test_one_frame_is_a_video(wavecast, tmp_path, model):
    for name in ("one.mkv", "one.npy"):
        write_video(tmp_path / name, moving_block(1))
        assert len(wavecast("recognize", name, "--model", model, "--rate", 25).out.splitlines()) == 4
        said = wavecast("recognize", name, "--model", model, "--timeline", "--rate", 25)
        assert [float(word) for word in said.out.split()[:2]] == [0, 0.04]


def test_one_bad_file_does_not_stop_the_others(wavecast, tmp_path, model):
    folder = tmp_path / "in"
    folder.mkdir()
    write_video(folder / "a.mkv", moving_block())
    write(folder, "cut")
    write_video(folder / "z.mp4", moving_block())
    said = wavecast("recognize", "in", "--model", model, "-o", "out/", "--json", "report.jsonl")
    assert (said.code, said.out) == (1, "")
    assert "cut.mkv ends too early" in said.err and said.err.endswith("1 failed\n")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.txt", "z.txt"]


def test_damage_in_a_pipe_keeps_what_came_before(wavecast, tmp_path, model, streams):
    write(tmp_path, "changing")
    with Path("changing.h264").open("rb") as file:
        streams(stdin=file)
        said = wavecast("recognize", "-", "--model", model, "--window", 0.1, "-o", "x.txt")
    assert said.code == 1 and "the input changes its picture at frame 5" in said.err
    assert float((tmp_path / "x.txt").read_text().split()[-3]) == 0.2


@pytest.mark.parametrize("data", [b"", b"no video at all" * 99, np.arange(1000).tobytes()])
def test_pipes_without_video(wavecast, tmp_path, model, streams, data):
    (tmp_path / "x").write_bytes(data)
    with Path("x").open("rb") as file:
        streams(stdin=file)
        wavecast.fails(1, "the input is no video that can be read", "recognize", "-", "--model", model, hint="--raw")
    with Path("x").open("rb") as file:
        streams(stdin=file)
        words = ("recognize", "-", "--model", model, "--raw", "gray:1000x1000:25")
        wavecast.fails(1, "no frame came", *words, hint="is it video?")


def test_an_mp4_on_a_pipe_must_be_fragmented(wavecast, tmp_path, model, streams):
    write_video(tmp_path / "x.mp4", moving_block())
    with av.open("y.mp4", "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for picture in moving_block():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    with Path("x.mp4").open("rb") as file:
        streams(stdin=file)
        assert wavecast("recognize", "-", "--model", model).code in (0, 1)
    with Path("y.mp4").open("rb") as file:
        streams(stdin=file)
        said = wavecast("recognize", "-", "--model", model)
    assert said.code == 0 and said.out


@pytest.mark.parametrize(
    ("words", "text", "hint"),
    [
        ((), "there is nothing to recognize", "--camera"),
        (("a.mkv", "--camera"), "--camera goes without inputs", "second call"),
        (("a.mkv", "b.mkv", "-o", "x.json"), "2 inputs cannot go to one file", "x.json/"),
        (("a.mkv", "b.mkv", "--format", "srt"), "2 inputs cannot be one srt", "-o FOLDER/"),
        (("a.mkv", "--resume"), "--resume leaves out inputs whose output exists", "-o FOLDER/"),
        (("-", "-o", "out/"), "live video has no name of its own", "out/NAME.txt"),
        (("-", "a.mkv"), "stdin (-) goes alone", "second call"),
        (("a.mkv", "--json", "-"), "activities and report cannot both go to stdout", "--json a file"),
        (("a.mkv", "--weights", "1", "2"), "2 weights for 1 models", "one for each"),
        (("a.mkv", "--raw", "rgb24:32"), "--raw 'rgb24:32' is not PIXELS:WIDTHxHEIGHT:FPS", "rgb24:320x240:25"),
        (("a.mkv", "--raw", "gray:99999x99999:1"), "more than 64 million pixels", "rgb24:320x240:25"),
        (("--camera", "--raw", "gray:9x9:1"), "--raw is of files and pipes", "leave it out"),
        (("a.mkv", "--threshold", "2"), "'2' is no probability from 0 to 1", "--help"),
        (("a.mkv", "--window", "0"), "'0' is no time in seconds", "--help"),
        (("a.mkv", "--top", "0"), "not a whole number above 0", "--help"),
        (("a.mkv", "--format", "vtt"), "invalid choice: 'vtt'", "--help"),
        (("a.mkv", "--name-template", "{x}"), "--name-template '{x}' is not understood", "{stem}"),
        (("a.mkv", "--timelin"), "unrecognized argument --timelin", "did you mean --timeline?"),
    ],
)
def test_command_lines_that_are_wrong(wavecast, model, words, text, hint):
    wavecast.fails(2, text, "recognize", *words, "--model", model, hint=hint)


def test_folders_and_patterns_without_videos(wavecast, tmp_path, model):
    (tmp_path / "bare").mkdir()
    wavecast.fails(1, "bare holds no video files", "recognize", "bare", "--model", model, hint=".mp4")
    wavecast.fails(1, "nothing matches *.mp4", "recognize", "*.mp4", "--model", model)


def test_a_camera_that_is_not_there(wavecast, model):
    text = "the camera /dev/video250 cannot be opened: no such file or directory"
    wavecast.fails(1, text, "recognize", "--camera", 250, "--model", model, hint="ls /dev/video*")


def test_models_that_do_not_fit(wavecast, tmp_path, model):
    write_video(tmp_path / "x.mkv", moving_block())
    wavecast.fails(1, "there is no model 'lrcn.moving_shapes'", "recognize", "x.mkv", hint="wavecast models list")
    other = write_separator(tmp_path / "shipped")
    text = "mossformer2.two is a model to separate, not to recognize"
    wavecast.fails(1, text, "recognize", "x.mkv", "--model", other, hint="models list")
    strange = write_recognizer(tmp_path / "m", name="strange", classes=("rise", "fall", "turn", "jump"))
    text = "lrcn.strange and lrcn.tiny tell different activities apart: bounce, jump are not in both"
    wavecast.fails(1, text, "recognize", "x.mkv", "--model", model, "--model", strange, hint="same classes")
    text = strange.read_text().replace("- jump\n", "")
    strange.write_text(text)
    wavecast.fails(1, "names 3 classes; its network has 4 outputs", "recognize", "x.mkv", "--model", strange)
    strange.write_text(text.replace("classes: 4", "classes: 5").replace("- turn\n", "- turn\n- a\n- b\n"))
    wavecast.fails(1, "does not fit", "recognize", "x.mkv", "--model", strange)
