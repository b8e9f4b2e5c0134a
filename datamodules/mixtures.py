"""Recorded mixtures with their sources: folders laid out as LibriMix or WSJ0-mix, and lists.

LibriMix    Libri2Mix/wav8k/min/train-100: `mix_clean`, `mix_both` or `mix_single`, and `s1`, `s2` (`s3`)
WSJ0-mix    2speakers/wav8k/min/tr: `mix`, and `s1`, `s2` (`s3`)
scp list    `mixture.wav s1.wav s2.wav [seconds]` a line
CSV         columns `mixture`, `s1`, `s2`, or those of LibriMix' metadata (`mixture_path`, `source_1_path`, ...)
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from wavecast.core.errors import WavecastError
from wavecast.datamodules.clips import AUDIO_SUFFIXES, LISTS, Clips, Entry, decode, find_listed, is_number
from wavecast.datamodules.items import Item

MIXTURE_FOLDERS = ("mix_clean", "mix_both", "mix_single", "mix")
SINGLE = "mix_single"
"""The folder of LibriMix in which only the first source is heard."""


class Mixtures:
    """Recorded mixtures, in another order each time round; item k is a function of (seed, k).

    Args:
        mixture: the mixtures.
        sources: those of every speaker, in the same order and of the same lengths; fewer than `speakers`: the others
            are silent.
        seconds: crops of this length, drawn at random, the same of mixture and sources; shorter ones are filled with
            zeros. None: whole mixtures in the order of the list.
        seed: another seed gives another order and other crops.
        speakers: how many sources an item has; as many as there are when None.
    """

    def __init__(
        self,
        mixture: Clips,
        sources: Sequence[Clips],
        seconds: float | None = None,
        seed: int = 0,
        speakers: int | None = None,
    ) -> None:
        self.mixture, self.sources, self.seed = mixture, sources, seed
        self.samples = None if seconds is None else round(seconds * mixture.sample_rate)
        self.speakers = speakers or len(sources)

    def item(self, k: int) -> Item:
        """Give crop k.

        Returns:
            mixture: float32 (samples,); sources: float32 (samples, speakers); talking: int64, how many are heard.
        """
        if self.samples is None:
            row, start, samples = k % len(self.mixture), 0, int(self.mixture.lengths[k % len(self.mixture)])
        else:
            turn, place = divmod(k, len(self.mixture))
            row = int(np.random.default_rng([self.seed, turn, 1]).permutation(len(self.mixture))[place])
            rng, samples = np.random.default_rng([self.seed, k]), self.samples
            spare = int(self.mixture.lengths[row]) - samples
            start = int(rng.integers(spare + 1)) if spare > 0 else 0
        sources = np.zeros((samples, self.speakers), np.float32)
        for number, clips in enumerate(self.sources):
            crop = clips.clip(row, start, samples)
            sources[: len(crop), number] = crop
        mixture = self.mixture.clip(row, start, samples)
        return {
            "mixture": np.pad(mixture, (0, samples - len(mixture))),
            "sources": sources,
            "talking": np.array(np.any(sources, 0).sum()),
        }


def open_mixtures(
    source: str | Path,
    speakers: int,
    sample_rate: int,
    cache: str | Path | None = None,
    mixture: str | None = None,
) -> tuple[Clips, list[Clips]]:
    """Open recorded mixtures and their sources; decode them if that was not done yet.

    Args:
        source: a folder laid out as LibriMix or WSJ0-mix, an scp list or a CSV.
        speakers: how many sources each mixture has.
        sample_rate: what has another rate is resampled.
        cache: folder of decoded samples.
        mixture: name of the folder of the mixtures; the first of MIXTURE_FOLDERS when None.

    Returns:
        The mixtures, and the sources of every speaker in the same order.

    Raises:
        WavecastError: the source does not exist, has fewer sources, or lengths differ.
    """
    path = Path(source)
    if path.is_dir():
        rows = list(folder_rows(path, speakers, mixture))
    elif path.is_file() and path.suffix in LISTS:
        rows = list(csv_rows(path, speakers) if path.suffix in (".csv", ".tsv") else scp_rows(path, speakers))
    else:
        raise WavecastError(
            f"{path} holds no mixtures", "give a folder with `mix` (or mix_clean ...), `s1` and `s2`, a CSV or scp list"
        )
    if not rows:
        raise WavecastError(f"{path} lists no mixtures", "write `mixture s1 s2` a line")
    columns = [decode([entry(file) for file in column], path, sample_rate, cache) for column in zip(*rows, strict=True)]
    for number, clips in enumerate(columns[1:], 1):
        unequal = np.flatnonzero(clips.lengths != columns[0].lengths)
        if len(unequal):
            first = rows[int(unequal[0])]
            raise WavecastError(
                f"{first[0]} and its source {first[number]} differ in length ({len(unequal)} such mixtures)",
                "leave them out, or make them anew",
            )
    return columns[0], columns[1:]


def entry(file: Path) -> Entry:
    """Make the entry of a whole file."""
    return Entry(file, {"id": file.stem})


def folder_rows(folder: Path, speakers: int, mixture: str | None) -> Iterator[tuple[Path, ...]]:
    """Find the mixtures of a folder, each with the files of its sources: the same name in `s1`, `s2` ...

    Raises:
        WavecastError: there is no folder of mixtures or of a source, or a file is missing.
    """
    names = [mixture] if mixture else MIXTURE_FOLDERS
    place = next((folder / name for name in names if (folder / name).is_dir()), None)
    if place is None:
        inside = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())) or "none"
        raise WavecastError(
            f"{folder} has no folder {' or '.join(names)} (folders in it: {inside})",
            "give the folder of one split, such as Libri2Mix/wav8k/min/train-100 or 2speakers/wav8k/min/tr",
        )
    for path in sorted(path for path in place.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES):
        sources = [folder / f"s{number + 1}" / path.name for number in range(1 if place.name == SINGLE else speakers)]
        for file in sources:
            if not file.is_file():
                raise WavecastError(f"{file} is missing, a source of {path}", f"--data.speakers is {speakers}")
        yield (path, *sources)


def scp_rows(path: Path, speakers: int) -> Iterator[tuple[Path, ...]]:
    """Read lines of `mixture s1 s2 [seconds]`; files are looked for from the list's folder.

    Raises:
        WavecastError: a line has another number of files, or one does not exist.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.replace("|", " ").split()
        if words and is_number(words[-1]):
            words = words[:-1]
        if words and len(words) != speakers + 1:
            raise WavecastError(
                f"{path}, line {number}: {len(words)} files, expected a mixture and {speakers} sources",
                "write `mixture s1 s2` a line, or set --data.speakers",
            )
        if words:
            yield tuple(find_listed(word, path) for word in words)


def csv_rows(path: Path, speakers: int) -> Iterator[tuple[Path, ...]]:
    """Read a CSV with the columns `mixture`, `s1`, `s2` ..., or those of LibriMix' metadata.

    Raises:
        WavecastError: there are no such columns, or a file does not exist.
    """
    with path.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",")
        header = list(reader.fieldnames or [])
        numbers = range(1, speakers + 1)
        layouts = [
            ["mixture", *(f"s{number}" for number in numbers)],
            ["mixture_path", *(f"source_{number}_path" for number in numbers)],
        ]
        columns = next((names for names in layouts if set(names) <= set(header)), None)
        if columns is None:
            raise WavecastError(
                f"{path} has no columns {', '.join(layouts[0])}", f"its header says: {', '.join(header) or 'nothing'}"
            )
        for row in reader:
            yield tuple(find_listed(row[name], path) for name in columns)
