"""Recordings as one memory map: decoded once to mono 16-bit samples, then read by slice.

A source is a packed corpus (a folder with `index.jsonl`), a folder of audio files, a CSV or scp list, or a lhotse
manifest. Every clip keeps its attributes (speaker, source, id ...), so that speakers and noises can be held out.

    speech = open_clips("corpus/speech").where(exclude={"speaker": ["asterisk_es"]})
    speech.clip(7)                                         # float32 (samples,)
"""

import csv
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from wavecast.core.errors import WavecastError

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".w64", ".rf64", ".au", ".caf"})
LISTS = frozenset({".csv", ".tsv", ".scp", ".txt", ".lst"})
BLOCK = 1 << 20
CACHE_VERSION = 1

Attributes = Mapping[str, Any]
Values = Mapping[str, Iterable[Any]]


class Samples:
    """The decoded samples of a cache file, mapped when first read, so that it pickles as a path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def mapped(self) -> np.ndarray:
        """The int16 samples (total,)."""
        if self.path.stat().st_size == 0:
            return np.zeros(0, np.int16)
        return np.memmap(self.path, np.int16, "r")

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}


@dataclass(frozen=True)
class Clips:
    """Clips of one sample rate, each with attributes and a weight for drawing.

    Attributes:
        sample_rate: in hertz.
        maps: decoded sample files.
        places: int64 (clips, 3): which map, first sample, samples.
        attributes: one mapping a clip.
        weights: float64 (clips,), how often a clip is drawn; its length unless `weighted` changed it.
    """

    sample_rate: int
    maps: tuple[Samples, ...]
    places: np.ndarray
    attributes: tuple[Attributes, ...]
    weights: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def lengths(self) -> np.ndarray:
        """Samples of every clip, int64 (clips,)."""
        return self.places[:, 2]

    @property
    def seconds(self) -> float:
        """Seconds of all clips together."""
        return float(self.lengths.sum() / self.sample_rate)

    def clip(self, index: int, start: int = 0, samples: int | None = None) -> np.ndarray:
        """Read a clip or a part of it: float32 (samples,) in -1 to 1."""
        which, first, length = (int(value) for value in self.places[index])
        stop = length if samples is None else min(length, start + samples)
        piece = self.maps[which].mapped[first + start : first + stop]
        return piece.astype(np.float32) * np.float32(1 / 32768)

    def draw(self, rng: np.random.Generator) -> int:
        """Draw the index of a clip by weight."""
        return int(np.searchsorted(self._cumulated, rng.random() * self._cumulated[-1], side="right"))

    @cached_property
    def _cumulated(self) -> np.ndarray:
        if not len(self) or self.weights.sum() <= 0:
            raise WavecastError("there is no clip to draw from", "check the folder and what is held out")
        return np.cumsum(self.weights)

    def where(
        self,
        only: Values | None = None,
        exclude: Values | None = None,
        test: Callable[[Attributes], bool] | None = None,
    ) -> "Clips":
        """Keep clips by attributes.

        Args:
            only: attribute to the values kept; a clip without the attribute goes.
            exclude: attribute to the values dropped; a clip without the attribute stays.
            test: any other condition on the attributes.

        Returns:
            The clips that meet all three, on the same memory map.
        """
        kept = {name: set(values) for name, values in (only or {}).items()}
        gone = {name: set(values) for name, values in (exclude or {}).items()}
        rows = [
            row
            for row, about in enumerate(self.attributes)
            if all(about.get(name) in values for name, values in kept.items())
            and not any(name in about and about[name] in values for name, values in gone.items())
            and (test is None or test(about))
        ]
        return self.take(rows)

    def take(self, rows: Sequence[int]) -> "Clips":
        """Keep the clips of these rows, in this order."""
        index = np.asarray(rows, np.int64)
        about = tuple(self.attributes[row] for row in rows)
        return replace(self, places=self.places[index], attributes=about, weights=self.weights[index])

    def weighted(self, factor: float) -> "Clips":
        """Draw these clips `factor` times as often, beside others they are joined with."""
        return replace(self, weights=self.weights * factor)

    def balanced(self, attribute: str, power: float = 0.5) -> "Clips":
        """Even out how often each value of an attribute is drawn: its share grows as its weight to this power."""
        weights = self.weights.copy()
        names = np.array([str(about.get(attribute, "")) for about in self.attributes])
        for name in np.unique(names):
            rows = names == name
            if (total := weights[rows].sum()) > 0:
                weights[rows] *= total ** (power - 1)
        return replace(self, weights=weights)

    @staticmethod
    def join(parts: Sequence["Clips"]) -> "Clips":
        """Put several sets of clips of one sample rate into one.

        Raises:
            ValueError: no parts, or unequal sample rates.
        """
        rates = {part.sample_rate for part in parts}
        if len(rates) != 1:
            raise ValueError(f"clips to join need one sample rate, got {sorted(rates)}")
        firsts = np.cumsum([0, *(len(part.maps) for part in parts)])
        places = [part.places + np.array([first, 0, 0]) for part, first in zip(parts, firsts[:-1], strict=True)]
        return Clips(
            rates.pop(),
            tuple(samples for part in parts for samples in part.maps),
            np.concatenate(places),
            tuple(about for part in parts for about in part.attributes),
            np.concatenate([part.weights for part in parts]),
        )


@dataclass(frozen=True)
class Entry:
    """Where a clip lies: a file, or a part of it in samples of that file."""

    path: Path
    attributes: Attributes
    start: int = 0
    samples: int | None = None


def open_clips(source: str | Path, sample_rate: int = 16_000, cache: str | Path | None = None) -> Clips:
    """Open a packed corpus, a folder, a CSV or scp list, or a lhotse manifest; decode it if that was not done yet.

    Args:
        source: a folder (with `index.jsonl`: packed), a list (.csv .tsv .scp .txt .lst), or a manifest (.jsonl[.gz]).
        sample_rate: clips of another rate are resampled to it, channels are averaged.
        cache: folder of decoded samples; $WAVECAST_CACHE/clips or ~/.cache/wavecast/clips by default.

    Raises:
        WavecastError: the source does not exist, holds no audio, or cannot be decoded.
    """
    path = Path(source)
    if not path.exists():
        raise WavecastError(f"{path} does not exist", "give a folder, a CSV or scp list, or a lhotse manifest")
    if path.is_dir():
        entries = packed_entries(path) if (path / "index.jsonl").exists() else folder_entries(path)
    elif path.suffix in LISTS:
        entries = [entry for entry, _ in list_entries(path)]
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        entries = lhotse_entries(path)
    else:
        raise WavecastError(f"{path} is not a source of clips", "give a folder, .csv, .scp, or a lhotse .jsonl[.gz]")
    return decode(entries, path, sample_rate, cache)


def open_pairs(source: str | Path, sample_rate: int = 16_000, cache: str | Path | None = None) -> tuple[Clips, Clips]:
    """Open a list of noisy recordings and their clean originals (`noisy clean [seconds]` a line, or CSV columns).

    Returns:
        The noisy clips and the clean ones, in the same order.

    Raises:
        WavecastError: a line has no second file, or the two of a line differ in length.
    """
    path = Path(source)
    if not path.is_file():
        raise WavecastError(f"{path} does not exist", "give a CSV or scp list with a noisy and a clean file a line")
    rows = list_entries(path)
    clean = [other for _, other in rows if other is not None]
    if len(clean) < len(rows):
        raise WavecastError(f"{path}: {len(rows) - len(clean)} lines have no clean file", "write `noisy clean` a line")
    noisy_clips = decode([entry for entry, _ in rows], path, sample_rate, cache)
    clean_clips = decode(clean, path, sample_rate, cache)
    unequal = np.flatnonzero(noisy_clips.lengths != clean_clips.lengths)
    if len(unequal):
        entry = rows[int(unequal[0])][0]
        raise WavecastError(f"{entry.path} and its clean original differ in length ({len(unequal)} such pairs)")
    return noisy_clips, clean_clips


def packed_entries(folder: Path) -> list[Entry]:
    """Read the index of a packed corpus: a JSON object a line with `file`, `start`, `samples` and attributes."""
    entries = []
    with (folder / "index.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            path, start, samples = folder / row.pop("file"), row.pop("start"), row.pop("samples")
            entries.append(Entry(path, row, start, samples))
    return entries


def folder_entries(folder: Path) -> list[Entry]:
    """Find the audio files below a folder; the folder a file lies in counts as its speaker and source."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not paths:
        raise WavecastError(f"{folder} holds no audio", f"known suffixes: {' '.join(sorted(AUDIO_SUFFIXES))}")
    return [
        Entry(path, {"id": str(path.relative_to(folder)), "speaker": path.parent.name, "source": path.parent.name})
        for path in paths
    ]


def list_entries(path: Path) -> list[tuple[Entry, Entry | None]]:
    """Read a list: CSV with a header (`path`, or `noisy` and `clean`; the rest are attributes), or an scp of lines.

    A line of an scp is `file`, `id file`, or `noisy clean`, each with seconds after it or not. Files are looked for
    from the list's folder, then from the working directory.
    """
    if path.suffix in {".csv", ".tsv"}:
        return list(_csv_entries(path))
    rows: list[tuple[Entry, Entry | None]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.replace("|", " ").replace("\t", " ").split()
        if len(words) > 1 and is_number(words[-1]):
            words = words[:-1]
        if len(words) > 1 and Path(words[0]).suffix.lower() not in AUDIO_SUFFIXES:
            rows.append((Entry(find_listed(words[1], path), {"id": words[0]}), None))
        elif words:
            files = [Entry(find_listed(word, path), {"id": Path(word).stem}) for word in words[:2]]
            rows.append((files[0], files[1] if len(files) > 1 else None))
    if not rows:
        raise WavecastError(f"{path} lists no files", "write one file a line")
    return rows


def _csv_entries(path: Path) -> Iterator[tuple[Entry, Entry | None]]:
    with path.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",")
        columns = list(reader.fieldnames or [])
        main = next((name for name in ("path", "noisy", "file") if name in columns), None)
        if main is None:
            raise WavecastError(f"{path} has no column `path` or `noisy`", f"its header says: {', '.join(columns)}")
        for row in reader:
            clean = row.pop("clean", None)
            file = row.pop(main)
            about = {"id": Path(file).stem, **row}
            yield Entry(find_listed(file, path), about), Entry(find_listed(clean, path), about) if clean else None


def is_number(word: str) -> bool:
    """Tell whether a word of a list is a number, such as seconds."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def find_listed(file: str, listed_in: Path) -> Path:
    """Find a file of a list, from the list's folder, then from the working directory.

    Raises:
        WavecastError: it does not exist.
    """
    for path in (listed_in.parent / file, Path(file)):
        if path.is_file():
            return path
    raise WavecastError(f"{file}, listed in {listed_in}, does not exist", f"paths are relative to {listed_in.parent}")


def lhotse_entries(path: Path) -> list[Entry]:
    """Read a lhotse manifest of cuts or recordings whose sound lies in single files."""
    try:
        import lhotse
    except ModuleNotFoundError as error:
        raise WavecastError(f"{path} needs lhotse", "pip install 'wavecast[lhotse]'") from error
    entries = []
    for item in lhotse.load_manifest(path):
        recording = getattr(item, "recording", item)
        spoken = next(iter(getattr(item, "supervisions", [])), None)
        about = {"id": item.id, "speaker": getattr(spoken, "speaker", None), "text": getattr(spoken, "text", None)}
        start = round(getattr(item, "start", 0) * recording.sampling_rate)
        known = {name: value for name, value in about.items() if value is not None}
        entries.append(Entry(Path(recording.sources[0].source), known, start, item.num_samples))
    return entries


def decode(entries: Sequence[Entry], source: Path, sample_rate: int, cache: str | Path | None = None) -> Clips:
    """Map the decoded samples of these entries, decoding them first if the cache has not got them.

    The cache is keyed by every file's path, size and time of change, so a changed corpus is decoded anew.

    Raises:
        WavecastError: a file is missing or cannot be decoded.
    """
    if not entries:
        raise WavecastError(f"{source} lists no clips")
    folder = Path(cache) if cache is not None else cache_folder()
    base = folder / f"{source.stem}-{_fingerprint(entries, sample_rate)}"
    samples, places = base.with_suffix(".i16"), base.with_suffix(".npy")
    if not (samples.exists() and places.exists()):
        logger.info("decoding %d clips of %s to %s", len(entries), source, samples)
        folder.mkdir(parents=True, exist_ok=True)
        _write_cache(entries, sample_rate, samples, places)
    where = np.load(places)
    about = tuple(entry.attributes for entry in entries)
    return Clips(sample_rate, (Samples(samples),), where, about, where[:, 2].astype(np.float64))


def cache_folder() -> Path:
    """Where decoded clips are kept: $WAVECAST_CACHE/clips, else ~/.cache/wavecast/clips."""
    return Path(os.environ.get("WAVECAST_CACHE") or Path.home() / ".cache" / "wavecast") / "clips"


def _fingerprint(entries: Sequence[Entry], sample_rate: int) -> str:
    digest = hashlib.sha256(f"{CACHE_VERSION} {sample_rate}".encode())
    known: dict[Path, str] = {}
    for entry in entries:
        if entry.path not in known:
            try:
                stat = entry.path.stat()
            except OSError as error:
                raise WavecastError(f"{entry.path} cannot be read: {error.strerror}") from error
            known[entry.path] = f"{entry.path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
        digest.update(f"{known[entry.path]} {entry.start} {entry.samples}\n".encode())
    return digest.hexdigest()[:16]


def _write_cache(entries: Sequence[Entry], sample_rate: int, samples: Path, places: Path) -> None:
    """Decode file by file in the order of the entries' starts; both files appear whole or not at all."""
    order = sorted(range(len(entries)), key=lambda row: (str(entries[row].path), entries[row].start))
    where = np.zeros((len(entries), 3), np.int64)
    written = 0
    partial = samples.with_name(f"{samples.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as target:
            for path, rows in groupby(order, key=lambda row: entries[row].path):
                listed = list(rows)
                for row, sound in zip(listed, _read_parts(path, [entries[row] for row in listed]), strict=True):
                    piece = to_int16(sound, sample_rate)
                    where[row] = 0, written, len(piece)
                    target.write(piece.tobytes())
                    written += len(piece)
        table = places.with_name(f"{places.name}.{os.getpid()}.part")
        with table.open("wb") as target:
            np.save(target, where)
        partial.replace(samples)
        table.replace(places)
    finally:
        partial.unlink(missing_ok=True)


def _read_parts(path: Path, parts: Sequence[Entry]) -> Iterator[tuple[np.ndarray, int]]:
    """Read parts of one file in order of their starts: float32 (samples,) and the file's rate.

    Reading runs forward without seeking, which is exact in every codec; parts may overlap.
    """
    try:
        with soundfile.SoundFile(path) as file:
            kept, kept_start = np.zeros(0, np.float32), 0
            for part in parts:
                stop = np.inf if part.samples is None else part.start + part.samples
                pieces = [kept]
                position = kept_start + len(kept)
                while position < stop and len(block := _read_mono(file, int(min(BLOCK, stop - position)))):
                    pieces.append(block)
                    position += len(block)
                whole = np.concatenate(pieces)[part.start - kept_start :]
                yield whole[: part.samples], file.samplerate
                kept, kept_start = whole, part.start
    except soundfile.LibsndfileError as error:
        raise WavecastError(f"{path} cannot be decoded: {error.error_string}", "remove it from the data") from error


def _read_mono(file: soundfile.SoundFile, samples: int) -> np.ndarray:
    block: np.ndarray = file.read(samples, dtype="float32", always_2d=True)
    return block[:, 0] if block.shape[1] == 1 else block.mean(1)


def to_int16(sound: tuple[np.ndarray, int], sample_rate: int) -> np.ndarray:
    """Resample to `sample_rate` and round to 16 bits; what exceeds full scale is limited, what is not a number is 0."""
    samples, rate = sound
    if rate != sample_rate:
        samples = soxr.resample(samples, rate, sample_rate)
    return np.clip(np.rint(np.nan_to_num(samples, nan=0.0) * 32768), -32768, 32767).astype(np.int16)
