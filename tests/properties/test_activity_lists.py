"""Lists of activities as published: UCF101, HMDB51, mmaction2, and folders; what is wrong in them is named."""

import pytest

from wavecast.core.errors import WavecastError
from wavecast.datamodules.activity_lists import Video, find_video, group_of, hold_out, open_lists, read_classes


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def names(videos):
    return [video.path.name for video in videos]


@pytest.fixture
def ucf(tmp_path):
    """A small UCF101: three classes, lists with CRLF, and the class whose files spell it otherwise."""
    videos, lists = tmp_path / "UCF-101", tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    files = {"Archery": "v_Archery", "HandstandPushups": "v_HandStandPushups", "YoYo": "v_YoYo"}
    for folder, stem in files.items():
        for group in range(1, 4):
            for clip in (1, 2):
                touch(videos / folder / f"{stem}_g{group:02d}_c{clip:02d}.avi")
    order = list(files)
    (lists / "classInd.txt").write_text("".join(f"{k} {name}\r\n" for k, name in enumerate(order, 1)), newline="")
    for split in (1, 2):
        train, test = [], []
        for number, (folder, stem) in enumerate(files.items(), 1):
            for group in range(1, 4):
                lines = [f"{folder}/{stem}_g{group:02d}_c{clip:02d}.avi" for clip in (1, 2)]
                if group == split:
                    test += [f"{line}\r\n" for line in lines]
                else:
                    train += [f"{line} {number}\r\n" for line in lines]
        (lists / f"trainlist0{split}.txt").write_text("".join(train), newline="")
        (lists / f"testlist0{split}.txt").write_text("".join(test), newline="")
    return videos, lists


def test_ucf101_takes_labels_from_folders_and_splits_by_its_lists(ucf):
    for split in (1, 2):
        lists = open_lists(*ucf, split=split)
        assert lists.classes == ("Archery", "HandstandPushups", "YoYo")
        assert (len(lists.train), len(lists.test)) == (12, 6)
        assert {video.group for video in lists.test} == {f"g0{split}"}
        assert all(lists.classes[video.label] == video.path.parent.name for video in (*lists.train, *lists.test))
        assert all(video.path.is_file() for video in lists.train)


def test_what_is_held_out_of_ucf101_are_whole_groups_of_the_training_list(ucf):
    lists = open_lists(*ucf, split=1)
    train, validation = hold_out(lists.train)
    assert {video.label for video in validation} == {0, 1, 2}
    assert not {(one.label, one.group) for one in train} & {(one.label, one.group) for one in validation}
    assert not {one.path for one in validation} & {one.path for one in lists.test}
    assert len(train) + len(validation) == len(lists.train)
    assert hold_out(lists.train) == (train, validation)


def test_one_group_in_eight_is_held_out_and_none_of_a_single_one():
    videos = [Video(f"{k}.avi", 0, f"g{k:02d}") for k in range(17)] + [Video("a.avi", 1, "a")]
    train, validation = hold_out(videos)
    assert (len(train), len(validation)) == (16, 2)
    assert {video.label for video in validation} == {0}
    assert hold_out(videos[-1:]) == (videos[-1:], [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Archery/v_Archery_g09_c01.avi 1", "line 2: .*v_Archery_g09_c01.avi does not exist\nhint: .*--data.source"),
        ("Arrows/v_Archery_g02_c01.avi 1", "line 2: Arrows/v_Archery_g02_c01.avi is of no class of classInd.txt"),
        ("Archery/v_Archery_g02_c01.avi 3", "line 2: Archery/v_Archery_g02_c01.avi has the number 3, and Archery is 1"),
    ],
)
def test_a_bad_line_is_named_or_left_out(ucf, line, message, caplog):
    (ucf[1] / "trainlist01.txt").write_text(f"Archery/v_Archery_g02_c01.avi 1\r\n{line}\r\n", newline="")
    with pytest.raises(WavecastError, match=f"trainlist01.txt, {message}") as error:
        open_lists(*ucf)
    assert "--data.skip_bad true" in str(error.value.hint)
    lists = open_lists(*ucf, skip_bad=True)
    assert names(lists.train) == ["v_Archery_g02_c01.avi"]
    assert "trainlist01.txt, line 2" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("1 Archery\n1 YoYo\n", "line 2: '1 YoYo' is not a new number and a new name"),
        ("1 Archery\n2 Archery\n", "line 2: '2 Archery' is not"),
        ("Archery\n", "line 1: 'Archery' is not"),
        ("1 Archery\n3 YoYo\n", "has no class 2"),
    ],
)
def test_a_damaged_class_index_is_refused(tmp_path, content, message):
    path = tmp_path / "classInd.txt"
    path.write_text(content)
    with pytest.raises(WavecastError, match=message):
        read_classes(path)


def test_a_list_that_is_missing_empty_or_binary_is_refused(ucf):
    videos, lists = ucf
    with pytest.raises(WavecastError, match=r"has no trainlist03.txt") as error:
        open_lists(videos, lists, split=3)
    assert "--data.split" in str(error.value.hint)
    (lists / "testlist01.txt").write_text("\r\n\r\n")
    with pytest.raises(WavecastError, match=r"testlist01.txt is empty"):
        open_lists(videos, lists)
    (lists / "testlist01.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(WavecastError, match="it is not text"):
        open_lists(videos, lists)
    with pytest.raises(WavecastError, match="nowhere is no folder"):
        open_lists(videos / "nowhere", lists)


@pytest.fixture
def hmdb(tmp_path):
    """A small HMDB51: lines with a blank at their end, names with odd characters."""
    videos, lists = tmp_path / "videos", tmp_path / "splits"
    lists.mkdir()
    for class_name in ("brush_hair", "cartwheel"):
        lines = []
        for movie, part in (("April_09", 1), ("#[x]!_;2", 1), ("Two_Men", 2), ("Old", 0)):
            for clip in range(2):
                name = f"{movie}_{class_name}_u_nm_np1_ba_goo_{clip}.avi"
                touch(videos / class_name / name)
                lines.append(f"{name} {part} \n")
        (lists / f"{class_name}_test_split1.txt").write_text("".join(lines))
    return videos, lists


def test_hmdb51_is_read_with_its_unused_videos_left_out(hmdb):
    lists = open_lists(*hmdb)
    assert lists.classes == ("brush_hair", "cartwheel")
    assert (len(lists.train), len(lists.test)) == (8, 4)
    assert {video.group for video in lists.train} == {"April_09", "#[x]!_;2"}
    assert all(name.startswith("Two_Men") for name in names(lists.test))
    train, validation = hold_out(lists.train)
    assert [len({video.group for video in some if video.label == 0}) for some in (train, validation)] == [1, 1]


def test_bad_lists_of_hmdb51_are_named(hmdb):
    with pytest.raises(WavecastError, match="has no lists of split 2") as error:
        open_lists(*hmdb, split=2)
    assert "split1" in str(error.value.hint)
    (hmdb[1] / "cartwheel_test_split1.txt").write_text("a_cartwheel_b.avi 3 \n")
    with pytest.raises(WavecastError, match=r"line 1: 'a_cartwheel_b.avi 3' does not end in 0, 1 or 2"):
        open_lists(*hmdb)


def test_lists_of_mmaction2_have_frames_or_not_and_names_with_blanks(tmp_path):
    videos = tmp_path / "videos"
    for name in ("a/x.mp4", "b/two words.mp4", "b/z.mp4"):
        touch(videos / name)
    touch(videos / "b" / "frames" / "img_00001.jpg")
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text("a/x.mp4 0\nb/two words.mp4 1\nb/frames 27 1\n")
    test.write_text("b/z.mp4 1\n")
    lists = open_lists(videos, train, test)
    assert lists.classes == ("0", "1")
    assert names(lists.train) == ["x.mp4", "two words.mp4", "frames"]
    assert [video.label for video in lists.train] == [0, 1, 1]
    assert names(lists.test) == ["z.mp4"]
    (tmp_path / "classInd.txt").write_text("1 Archery\n2 YoYo\n")
    assert open_lists(videos, train).classes == ("Archery", "YoYo")
    train.write_text("a/x.mp4 2\n")
    with pytest.raises(WavecastError, match=r"train.txt, line 1: the label 2 of a/x.mp4 is of no class"):
        open_lists(videos, train)
    train.write_text("a/x.mp4 zero\n")
    with pytest.raises(WavecastError, match=r"line 1: 'a/x.mp4 zero' is neither `path label` nor `path frames label`"):
        open_lists(videos, train)
    with pytest.raises(WavecastError, match=r"has no nothing.txt"):
        open_lists(videos, tmp_path / "nothing.txt")


def test_folders_tell_classes_and_parts(tmp_path):
    for name in ("walk/a.mp4", "walk/.hidden.mp4", "run/b.avi", "run/c.npy", "run/notes.txt", ".cache/x.mp4"):
        touch(tmp_path / "flat" / name)
    lists = open_lists(tmp_path / "flat")
    assert lists.classes == ("run", "walk")
    assert names(lists.train) == ["b.avi", "c.npy", "a.mp4"]
    assert (lists.validation, lists.test) == ((), ())
    for name in ("train/walk/a.mp4", "train/run/b.mp4", "val/walk/c.mp4", "test/run/d.mp4", "test/run/e.mp4"):
        touch(tmp_path / "parts" / name)
    lists = open_lists(tmp_path / "parts")
    assert (names(lists.train), names(lists.validation), names(lists.test)) == (
        ["b.mp4", "a.mp4"],
        ["c.mp4"],
        ["d.mp4", "e.mp4"],
    )


@pytest.mark.parametrize(
    ("files", "message"), [([], "there are no videos in"), (["one/a.mp4"], "has a single class, one")]
)
def test_folders_without_classes_are_refused(tmp_path, files, message):
    (tmp_path / "videos").mkdir()
    for name in files:
        touch(tmp_path / "videos" / name)
    with pytest.raises(WavecastError, match=message):
        open_lists(tmp_path / "videos")


def test_a_folder_of_frames_stands_for_the_file_of_its_name(tmp_path):
    touch(tmp_path / "v_Archery_g01_c01" / "img_00001.jpg")
    assert find_video(tmp_path / "v_Archery_g01_c01.avi") == tmp_path / "v_Archery_g01_c01"
    assert find_video(tmp_path / "v_Archery_g01_c02.avi") is None


@pytest.mark.parametrize(
    ("name", "class_name", "group"),
    [
        ("v_HandStandPushups_g07_c02.avi", "HandstandPushups", "g07"),
        ("April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair", "April_09"),
        ("mine.mp4", "walk", "mine"),
    ],
)
def test_groups_are_named_by_the_file(name, class_name, group):
    assert group_of(name, class_name) == group
