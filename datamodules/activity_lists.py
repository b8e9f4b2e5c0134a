"""Which videos there are of which activity, and which of them are for testing: folders, and published lists.

    lists = open_lists(Path("UCF-101"), Path("ucfTrainTestlist"), split=1)
    lists.classes, lists.train, lists.test                       # names; videos with a label and a group each

- a folder for each class, in it or below `train`, `validation` (or `val`) and `test`.
- UCF101: `classInd.txt`, `trainlist0N.txt`, `testlist0N.txt`. Labels come from the folders' names: the files of
  HandstandPushups are called v_HandStandPushups.
- HMDB51: `CLASS_test_splitN.txt`, whose lines say 0 (unused), 1 (train) or 2 (test) behind a name.
- a list in the manner of mmaction2: `path label`, or `path frames label`.

A video is a file, or a folder of frames (`img_00001.jpg`, with optical flow in `flow_x_00001.jpg`, `flow_y_00001.jpg`)
of the same name without its suffix.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from wavecast.core.errors import WavecastError
from wavecast.datamodules.arrays import ARRAY_SUFFIXES
from wavecast.datamodules.frame_folders import FIRST_FRAME
from wavecast.datamodules.video_files import VIDEO_SUFFIXES

logger = logging.getLogger(__name__)

HELD_OUT = 8
"""One group in so many validates."""
UNUSED, TRAIN, TEST = "0", "1", "2"
UCF_GROUP = re.compile(r"_(g\d+)_c\d+$", re.IGNORECASE)


@dataclass(frozen=True)
class Video:
    """A video of an activity.

    Attributes:
        path: of the file, or of the folder of frames.
        label: number of its class.
        group: videos of one group are cut from one recording, or show the same person; splits do not part them.
    """

    path: Path
    label: int
    group: str


@dataclass(frozen=True)
class Lists:
    """Videos to train, validate and test on.

    Attributes:
        classes: names; a label is a place in them.
        train: to train on.
        test: to test on; empty: there are none.
        validation: to validate on; empty: none but what is held out of `train`.
    """

    classes: tuple[str, ...]
    train: tuple[Video, ...]
    test: tuple[Video, ...] = ()
    validation: tuple[Video, ...] = ()


@dataclass
class Faults:
    """What is wrong with the lines of lists.

    Args:
        skip: leave the videos of such lines out; else the first is an error.
    """

    skip: bool = False
    count: int = 0

    def add(self, what: str, cure: str) -> None:
        """Take note of a line that cannot be used.

        Raises:
            WavecastError: nothing is to be skipped.
        """
        if not self.skip:
            raise WavecastError(what, f"{cure}; --data.skip_bad true leaves such lines out")
        self.count += 1
        logger.warning("left out: %s", what)


def open_lists(
    source: Path, annotations: Path | None = None, test: Path | None = None, split: int = 1, skip_bad: bool = False
) -> Lists:
    """Find the videos of a data set.

    Args:
        source: folder of the videos.
        annotations: folder of the lists of UCF101 or HMDB51, or one list to train on; None: the folders tell.
        test: a list to test on, where `annotations` is one.
        split: 1, 2 or 3, of UCF101 and HMDB51.
        skip_bad: leave out what is missing or of no known class, with a warning; else it is an error.

    Raises:
        WavecastError: there is no such folder or list, a line of a list cannot be used, or no video is found.
    """
    if not source.is_dir():
        raise WavecastError(f"{source} is no folder", "give the folder of the videos as --data.source")
    faults = Faults(skip_bad)
    if annotations is None:
        lists = _from_folders(source)
    elif annotations.is_dir():
        reader = _from_ucf if (annotations / "classInd.txt").exists() else _from_hmdb
        lists = reader(source, annotations, split, faults)
    else:
        lists = _from_files(source, annotations, test, faults)
    if not lists.train and not lists.test:
        raise WavecastError(f"there are no videos in {source}", "give a folder with a folder of videos for each class")
    if len(lists.classes) < 2:
        raise WavecastError(f"{source} has a single class, {lists.classes[0]}", "give two classes or more")
    return lists


def hold_out(videos: Sequence[Video], share: int = HELD_OUT) -> tuple[list[Video], list[Video]]:
    """Part videos to validate on from those to train on: of every class one group in `share`, at least one.

    Which groups is a function of their names. A class with a single group has none to give.

    Returns:
        What is left to train on, and what is held out.
    """
    groups: dict[int, set[str]] = {}
    for video in videos:
        groups.setdefault(video.label, set()).add(video.group)
    chosen = {
        (label, group)
        for label, names in groups.items()
        for group in sorted(names, key=lambda name: crc32(name.encode()))[: _held_out_count(len(names), share)]
    }
    train = [video for video in videos if (video.label, video.group) not in chosen]
    return train, [video for video in videos if (video.label, video.group) in chosen]


def _held_out_count(groups: int, share: int) -> int:
    return max(1, groups // share) if groups > 1 else 0


def is_video(path: Path) -> bool:
    """Tell whether a path is a video file, an array of frames, or a folder of frames."""
    if path.is_dir():
        return (path / FIRST_FRAME).is_file()
    return path.suffix.lower() in VIDEO_SUFFIXES | ARRAY_SUFFIXES and path.is_file()


def find_video(path: Path) -> Path | None:
    """Find a video as a list names it: the file itself, or the folder of its frames; None: there is neither."""
    return next((one for one in (path, path.with_suffix("")) if is_video(one)), None)


def group_of(name: str, class_name: str) -> str:
    """Name the group of a video by its file: UCF101's `gXX`, what HMDB51 has before the class, else the file itself."""
    stem = Path(name).stem
    if found := UCF_GROUP.search(stem):
        return found[1].lower()
    before, found_class, _ = stem.partition(f"_{class_name}_")
    return before if found_class else stem


def _from_folders(source: Path) -> Lists:
    """Take the names of folders for classes."""
    parts = [name for name in ("train", "validation", "val", "test") if (source / name).is_dir()]
    roots = {name: source / name for name in parts} if "train" in parts else {"train": source}
    classes = sorted({path.name for root in roots.values() for path in root.iterdir() if _holds_videos(path)})
    found = {name: tuple(_in_folders(root, classes)) for name, root in roots.items()}
    if not classes:
        raise WavecastError(f"there are no videos in {source}", "give a folder with a folder of videos for each class")
    validation = found.get("validation") or found.get("val", ())
    return Lists(tuple(classes), found["train"], found.get("test", ()), validation)


def _holds_videos(path: Path) -> bool:
    visible = path.is_dir() and not path.name.startswith(".") and not is_video(path)
    return visible and any(is_video(one) for one in path.iterdir())


def _in_folders(root: Path, classes: Sequence[str]) -> Iterator[Video]:
    for label, name in enumerate(classes):
        if (root / name).is_dir():
            for path in sorted((root / name).iterdir()):
                if is_video(path) and not path.name.startswith("."):
                    yield Video(path, label, group_of(path.name, name))


def _from_ucf(source: Path, folder: Path, split: int, faults: Faults) -> Lists:
    """Read the lists of UCF101."""
    classes = read_classes(folder / "classInd.txt")
    labels = {name: label for label, name in enumerate(classes)}

    def videos(file: Path) -> Iterator[Video]:
        for where, line in lines_of(file):
            words = line.rsplit(maxsplit=1) if file.name.startswith("train") else [line]
            class_name, name = Path(words[0]).parent.name, words[0]
            if class_name not in labels:
                faults.add(f"{where}: {name} is of no class of classInd.txt", "write it as CLASS/NAME.avi")
            elif len(words) > 1 and words[1] != str(labels[class_name] + 1):
                faults.add(
                    f"{where}: {name} has the number {words[1]}, and {class_name} is {labels[class_name] + 1}",
                    "fetch the lists again",
                )
            else:
                yield from _video(where, source / name, labels[class_name], class_name, faults)

    train, test = (_existing(folder, f"{part}list{split:02d}.txt") for part in ("train", "test"))
    return Lists(tuple(classes), tuple(videos(train)), tuple(videos(test)))


def _from_hmdb(source: Path, folder: Path, split: int, faults: Faults) -> Lists:
    """Read the lists of HMDB51; classes are in the order of their names."""
    ending = f"_test_split{split}.txt"
    files = {path.name.removesuffix(ending): path for path in sorted(folder.glob(f"*{ending}"))}
    if not files:
        others = sorted({path.name[-10:-4] for path in folder.glob("*_test_split?.txt")})
        hint = f"its splits: {', '.join(others)}" if others else "it holds classInd.txt or CLASS_test_split1.txt"
        raise WavecastError(f"{folder} has no lists of split {split}", hint)
    found: dict[str, list[Video]] = {UNUSED: [], TRAIN: [], TEST: []}
    for label, (class_name, file) in enumerate(files.items()):
        for where, line in lines_of(file):
            name, _, part = line.rpartition(" ")
            if part not in found or not name:
                faults.add(f"{where}: {line!r} does not end in 0, 1 or 2", "fetch the lists again")
            elif part != UNUSED:
                found[part] += _video(where, source / class_name / name.strip(), label, class_name, faults)
    return Lists(tuple(files), tuple(found[TRAIN]), tuple(found[TEST]))


def _from_files(source: Path, train: Path, test: Path | None, faults: Faults) -> Lists:
    """Read lists as mmaction2 has them; names of the classes lie beside them in classInd.txt, or are the numbers."""
    index = next((one for one in (train.parent / "classInd.txt", source / "classInd.txt") if one.exists()), None)
    names = read_classes(index) if index else None
    files = [_existing(path.parent, path.name) for path in (train, test) if path is not None]
    rows = [[(where, *_path_and_label(where, line, source)) for where, line in lines_of(path)] for path in files]
    count = len(names) if names else 1 + max(label for some in rows for _, _, label in some)
    classes = names or [str(label) for label in range(count)]

    def videos(some: list[tuple[str, str, int]]) -> Iterator[Video]:
        for where, name, label in some:
            if label >= count:
                faults.add(f"{where}: the label {label} of {name} is of no class", f"labels are 0 to {count - 1}")
            else:
                yield from _video(where, source / name, label, classes[label], faults)

    found = [tuple(videos(some)) for some in rows]
    return Lists(tuple(classes), *found)


def _path_and_label(where: str, line: str, source: Path) -> tuple[str, int]:
    """Split `path label` or `path frames label`; names may have blanks."""
    name, _, label = line.rpartition(" ")
    if not name or not label.isdecimal():
        raise WavecastError(f"{where}: {line!r} is neither `path label` nor `path frames label`", "labels are numbers")
    shorter, _, frames = name.strip().rpartition(" ")
    if shorter and frames.isdecimal() and find_video(source / name.strip()) is None:
        name = shorter
    return name.strip(), int(label)


def _video(where: str, path: Path, label: int, class_name: str, faults: Faults) -> Iterator[Video]:
    found = find_video(path)
    if found is None:
        faults.add(f"{where}: {path} does not exist", "check --data.source")
    else:
        yield Video(found, label, group_of(path.name, class_name))


def read_classes(path: Path) -> list[str]:
    """Read the names of classes by number, from 1 on: `1 ApplyEyeMakeup`.

    Raises:
        WavecastError: a line is of another form, or a number or name is missing or comes twice.
    """
    names: dict[int, str] = {}
    for where, line in lines_of(path):
        number, _, name = line.partition(" ")
        if not number.isdecimal() or not name or int(number) in names or name in names.values():
            raise WavecastError(
                f"{where}: {line!r} is not a new number and a new name", "write `NUMBER NAME`, from 1 on"
            )
        names[int(number)] = name.strip()
    if sorted(names) != list(range(1, len(names) + 1)):
        missing = min(set(range(1, len(names) + 1)) - set(names))
        raise WavecastError(f"{path} has no class {missing}", "number the classes from 1 on")
    return [names[number] for number in sorted(names)]


def lines_of(path: Path) -> list[tuple[str, str]]:
    """Read the lines of a list that are not empty, each after where it stands ("list.txt, line 3").

    Raises:
        WavecastError: the list cannot be read, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise WavecastError(f"cannot read {path}: {error.strerror}", "check the folder of the lists") from error
    except UnicodeDecodeError as error:
        raise WavecastError(f"{path} is no list: it is not text", "give a list of videos") from error
    lines = [(f"{path}, line {number}", line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(where, line) for where, line in lines if line]
    if not lines:
        raise WavecastError(f"{path} is empty", "give a list with a video on each line")
    return lines


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise WavecastError(f"{folder} has no {name}", "check the folder of the lists, and --data.split")
    return folder / name
