"""Items of activities: how videos, folders of frames, features and generated clips become clips and labels."""

import numpy as np
import pytest
from PIL import Image

from kit.digits import write_digits
from kit.videos import moving_block, write_video
from wavecast.core.errors import WavecastError
from wavecast.datamodules.activities import ActivityData
from wavecast.datamodules.activity_clips import Look, VideoClips, choose, read_clip
from wavecast.datamodules.activity_lists import Video
from wavecast.datamodules.clip_sampling import open_frames, uniform_clip
from wavecast.datamodules.feature_files import FeatureFolder
from wavecast.datamodules.frame_folders import FrameFolderReader
from wavecast.datamodules.modalities import Modality
from wavecast.datamodules.moving_shapes import CLASSES

SEEN = (Modality("rgb"), Modality("difference", 2))


def look(frames=4, size=(12, 16), modalities=SEEN, rate=None):
    return Look(frames, size, modalities, rate)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of four videos each, of 20 frames, and two of one class to test on."""
    root = tmp_path_factory.mktemp("videos")
    for label, name in enumerate(("dark", "light")):
        (root / "train" / name).mkdir(parents=True)
        for k in range(4):
            write_video(root / "train" / name / f"{k}.mp4", moving_block() // (2 - label) + k)
    (root / "test" / "light").mkdir(parents=True)
    for k in range(2):
        write_video(root / "test" / "light" / f"{k}.mp4", moving_block() + 40 + k)
    return root


def data(source, stage="fit", **options):
    made = ActivityData(str(source), **{"frames": 4, "size": (12, 16), "batch_size": 2, **options})
    made.setup(stage)
    return made


def test_a_clip_without_chance_is_that_of_the_recognizer(folder):
    video = Video(folder / "train" / "dark" / "0.mp4", 0, "")
    clip, _ = uniform_clip(video.path, 4, (12, 16), SEEN)
    np.testing.assert_array_equal(read_clip(video, look()), clip)


def test_a_clip_at_a_rate_is_a_window_of_the_video(folder):
    """Frames of 25 a second; a clip at 12.5 takes every second one, without chance in the middle."""
    with open_frames(folder / "train" / "dark" / "0.mp4") as reader:
        middle = choose(reader, look(rate=12.5), None)
        np.testing.assert_array_equal(np.diff(middle), 2)
        assert abs(middle.mean() - 10) <= 1.5
        windows = [choose(reader, look(rate=12.5), np.random.default_rng(seed)) for seed in range(20)]
        assert all((np.diff(window) == 2).all() for window in windows)
        assert len({window[0] for window in windows}) > 5
        spread = [choose(reader, look(), np.random.default_rng(seed)) for seed in range(20)]
        for one in spread:
            np.testing.assert_array_equal(one // 5, range(4))
        too_long = choose(reader, look(rate=2.0), None)
        assert too_long[-1] == 19


def test_chance_moves_and_mirrors_the_cut_of_all_frames_alike(tmp_path):
    np.save(tmp_path / "still.npy", np.repeat(moving_block(1), 5, 0))
    video = Video(tmp_path / "still.npy", 1, "")
    rgb = look(modalities=(Modality("rgb"),))
    clips = [read_clip(video, rgb, np.random.default_rng(seed), flip=True) for seed in range(16)]
    assert all(clip.shape == (4, 12, 16, 3) for clip in clips)
    for clip in clips:
        assert np.abs(clip - clip[:1]).max() == 0
    assert len({clip.tobytes() for clip in clips}) > 8
    leaning = [clip[..., :8, :].mean() > clip[..., 8:, :].mean() for clip in clips]
    assert 2 < sum(leaning) < 14


def test_an_epoch_has_every_video_once_in_its_own_order(folder):
    made = data(folder)
    assert made.classes == ["dark", "light"]
    videos = made.train_source.videos
    assert (len(videos), made.train_count, made.validation_count) == (6, 6, 2)
    source = VideoClips(videos, look(), seed=5)
    epochs = [[source.item(k)["clip"].tobytes() for k in range(6 * epoch, 6 * epoch + 6)] for epoch in (0, 1)]
    again = VideoClips(videos, look(), seed=5)
    assert [again.item(k)["clip"].tobytes() for k in range(6)] == epochs[0]
    assert not set(epochs[0]) & set(epochs[1])
    labels = [int(source.item(k)["target"]) for k in range(6)]
    assert sorted(labels) == [0, 0, 0, 1, 1, 1]


def test_validation_is_held_out_of_what_is_trained_on(folder):
    made = data(folder)
    train, validation = made.parts()
    assert not {one.path for one in train} & {one.path for one in validation}
    assert all("train" in one.path.parts for one in validation)
    made.setup("test")
    assert made.test_count == 2
    assert {int(made.test_source.item(k)["target"]) for k in range(2)} == {1}
    np.testing.assert_array_equal(
        made.validation_source.item(0)["clip"], data(folder).validation_source.item(0)["clip"]
    )


def write_frames(folder, clip, flow=True):
    folder.mkdir(parents=True)
    for k, frame in enumerate(clip, 1):
        Image.fromarray(frame).save(folder / f"img_{k:05d}.jpg", quality=100, subsampling=0)
        if flow and k < len(clip):
            for axis, level in (("x", 10 * k), ("y", 255 - 10 * k)):
                Image.fromarray(np.full(frame.shape[:2], level, np.uint8)).save(folder / f"flow_{axis}_{k:05d}.jpg")


def test_folders_of_frames_are_videos_with_the_flow_beside_them(tmp_path):
    clip = moving_block(6)
    write_frames(tmp_path / "a", clip)
    video = Video(tmp_path / "a", 0, "")
    seen = read_clip(video, look(6, clip.shape[1:3], (Modality("flow", 2), Modality("rgb"))))
    assert seen.shape == (6, 24, 32, 7)
    np.testing.assert_allclose(seen[..., 4:], clip / 255, atol=0.1)
    steps = np.array([128, 128, *(10 * k for k in range(1, 6))]) / 127.5 - 1
    np.testing.assert_allclose(seen[:, 3, 3, 0], steps[:6], atol=0.02)
    np.testing.assert_allclose(seen[:, 3, 3, 2], steps[1:], atol=0.02)
    down = np.array([128, 128, *(255 - 10 * k for k in range(1, 6))]) / 127.5 - 1
    np.testing.assert_allclose(seen[:, 3, 3, 1], down[:6], atol=0.02)
    np.testing.assert_allclose(seen[:, 3, 3, 3], down[1:], atol=0.02)


def test_a_mirror_turns_the_flow(tmp_path):
    write_frames(tmp_path / "a", moving_block(6))
    flows = look(6, (24, 32), (Modality("flow"),))
    plain = read_clip(Video(tmp_path / "a", 0, ""), flows)
    mirrored = [read_clip(Video(tmp_path / "a", 0, ""), flows, np.random.default_rng(k), True) for k in range(12)]
    across = [clip[-1, 3, 3, 0] for clip in mirrored]
    assert {round(float(value), 1) for value in across} == {
        round(float(x), 1) for x in (plain[-1, 3, 3, 0], -plain[-1, 3, 3, 0])
    }
    np.testing.assert_allclose([clip[-1, 3, 3, 1] for clip in mirrored], plain[-1, 3, 3, 1], atol=0.2)


def test_frame_folders_read_as_videos_do(tmp_path):
    write_frames(tmp_path / "a", moving_block(5), flow=False)
    with FrameFolderReader(tmp_path / "a") as reader:
        assert reader.frame_count() == 5
        assert reader.skip(2) == 2
        frames, times = reader.read(10)
        assert frames.shape == (3, 24, 32, 3)
        np.testing.assert_array_equal(times, [2, 3, 4])
        assert reader.skip(3) == 0
        reader.seek(1)
        assert len(reader.read(1)[0]) == 1
        with pytest.raises(ValueError, match="has no frame 5"):
            reader.seek(5)


def test_folders_of_frames_are_at_the_rate_of_the_clip(tmp_path):
    write_frames(tmp_path / "a", moving_block(9), flow=False)
    with FrameFolderReader(tmp_path / "a") as reader:
        np.testing.assert_array_equal(choose(reader, look(5, rate=25.0), None), [2, 3, 4, 5, 6])
        np.testing.assert_array_equal(choose(reader, look(3), None), [1, 4, 7])


def test_damaged_folders_of_frames_are_named(tmp_path):
    write_frames(tmp_path / "a", moving_block(4), flow=False)
    (tmp_path / "a" / "img_00003.jpg").write_bytes(b"not a picture")
    reader = FrameFolderReader(tmp_path / "a")
    with pytest.raises(WavecastError, match=r"img_00003.jpg is damaged"):
        reader.read(4)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a" / "img_00003.jpg")
    with (
        FrameFolderReader(tmp_path / "a") as reader,
        pytest.raises(WavecastError, match="changes its picture at frame 2"),
    ):
        reader.read(4)
    with pytest.raises(WavecastError, match=r"img_00001.jpg does not exist"):
        FrameFolderReader(tmp_path)


def test_generated_clips_begin_as_files_do(tmp_path):
    write_digits(tmp_path / "digits")
    write_digits(tmp_path / "digits", "t10k-images-idx3-ubyte.gz", first=200)
    made = data("moving_shapes", digits=str(tmp_path / "digits"), size=(16, 16), modalities=["rgb", "difference:2"])
    made.setup("test")
    assert made.classes == list(CLASSES)
    item = made.train_source.item(3)
    assert item["clip"].shape == (4, 16, 16, 9)
    assert item["clip"].dtype == np.float32
    assert item["target"] == made.train_source.clips.clip(3)[1]
    assert not item["clip"][0, ..., 3:].any()
    np.testing.assert_allclose(item["clip"][1, ..., 6:], item["clip"][1, ..., :3] - item["clip"][0, ..., :3], atol=1e-6)
    parts = (made.train_source, made.validation_source, made.test_source)
    assert [part.clips.unseen for part in parts] == [False, False, True]
    brightness = [part.clips.digits.max((1, 2)) for part in parts]
    assert [len(one) for one in brightness] == [10, 2, 12]
    assert not {*brightness[0]} & {*brightness[1]}
    assert len({part.clips.seed for part in parts}) == 3


def test_features_take_the_place_of_clips(folder, tmp_path):
    features = FeatureFolder.begin(tmp_path / "features", {"frames": 4, "width": 3})
    train, validation = data(folder).parts()
    for k, video in enumerate([*train, *validation]):
        features.write(video.path, np.full((4, 3), k, np.float32))
    made = data(folder, features=str(tmp_path / "features"))
    seen = [made.train_source.item(k)["clip"][0, 0] for k in range(6)]
    assert sorted(seen) == list(range(6))
    assert made.validation_source.item(1)["clip"].shape == (4, 3)
    made = data(folder, stage="test", features=str(tmp_path / "features"))
    with pytest.raises(WavecastError, match="has no features of"):
        made.test_source.item(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": None}, "there are no activities to learn from\nhint: give --data.source"),
        ({"source": "nowhere"}, "nowhere is no folder"),
        ({"size": (12, 16)}, "moving shapes of 12 x 16\nhint: their pictures are square"),
        ({"digits": "nowhere"}, "nowhere has no digits to train on"),
        ({"modalities": ["smell"]}, "modality 'smell'\nhint: one of"),
    ],
)
def test_what_cannot_be_opened_is_named(options, message):
    with pytest.raises(WavecastError) as error:
        ActivityData(**{"source": "moving_shapes", **options}).setup("fit")
    assert message in str(error.value)


def test_sides_without_a_video_are_named(tmp_path, folder):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_video(tmp_path / name / "one.mp4", moving_block(4))
    with pytest.raises(WavecastError, match="has nothing to validate on, of 2 videos"):
        data(tmp_path)
    with pytest.raises(WavecastError, match="has nothing to test on"):
        data(tmp_path, stage="test")
    with pytest.raises(ValueError, match="the data is not set up"):
        ActivityData(str(folder)).parts()
