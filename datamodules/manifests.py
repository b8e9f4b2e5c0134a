"""Utterances: which part of which recording says what. Read from the manifests that speech recognizers are trained on.

    NeMo              JSONL of `audio_filepath`, `text`, `duration`, `offset` (seconds)
    lhotse            JSONL[.gz] of cuts, or of supervisions with their recordings beside them
    Kaldi             a folder of `wav.scp`, `text`, and perhaps `segments`, `utt2spk`, `utt2lang`
    CSV, TSV          columns `path`, `text`, and perhaps `start`, `duration` (seconds), `speaker`, `language`, `id`
    packed corpus     a folder with `index.jsonl`: `file`, `start`, `samples`, `text`, `speaker` or `voice`

Paths in a manifest are relative to the manifest.
"""

import csv
import gzip
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import soundfile

from wavecast.core.errors import WavecastError, listed
from wavecast.datamodules.clips import Attributes, Entry

TextStyle = Literal["spoken", "lower", "verbatim"]
TOLERANCE = 0.05
"""Seconds that a manifest may promise beyond the end of a file: durations are often rounded."""
QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "`": "'"})
NOT_SPOKEN = re.compile(r"[^\w' ]|_")
NOT_INSIDE = re.compile(r"(?<!\w)'+|'+(?!\w)")


@dataclass(frozen=True)
class Utterance:
    """A part of a recording and what is said in it.

    Attributes:
        path: of the recording.
        text: what is said.
        id: its name, unique in its manifest.
        start: first sample, at the recording's own rate.
        samples: how many; None: to the end.
        speaker: who says it; empty when unknown. A synthetic voice may be a blend, "a+b".
        synthetic: whether a machine says it.
        language: its code; empty when unknown.
        attributes: what else the manifest says, such as `bandwidth`.
    """

    path: Path
    text: str
    id: str
    start: int
    samples: int | None
    speaker: str
    synthetic: bool
    language: str
    attributes: Attributes

    def entry(self) -> Entry:
        """Give where its sound lies and all that is known of it, for `wavecast.datamodules.clips.decode`."""
        about = {name: getattr(self, name) for name in ("text", "id", "speaker", "synthetic", "language")}
        return Entry(self.path, {**self.attributes, **about}, self.start, self.samples)


@dataclass(frozen=True)
class Line:
    """An utterance as a manifest has it: times not yet checked against the recording.

    Attributes:
        where: what an error calls it, such as "line 7".
        path: of the recording.
        start: where it begins.
        length: how long it is; None: to the end.
        unit: of start and length.
        about: text, id, speaker or voice, language, and any other attribute.
    """

    where: str
    path: Path
    start: float
    length: float | None
    unit: Literal["seconds", "samples"]
    about: Mapping[str, Any]


def normalize(text: str, style: TextStyle = "spoken") -> str:
    """Bring a text into the form that is trained on and compared.

    Args:
        text: as somebody wrote it.
        style: "spoken": lower-case letters, digits, apostrophes inside words, and single spaces; every other
            character separates words. Numbers stay as they are written. "lower": lower case with its punctuation.
            "verbatim": as it is. All have Unicode's composed form (NFKC), straight apostrophes and single spaces.
    """
    text = unicodedata.normalize("NFKC", text).translate(QUOTES)
    if style != "verbatim":
        text = text.lower()
    if style == "spoken":
        text = NOT_INSIDE.sub(" ", NOT_SPOKEN.sub(" ", text))
    return " ".join(text.split())


def open_manifest(source: str | Path, skip_bad: bool = False) -> list[Utterance]:
    """Read the utterances of a manifest.

    Args:
        source: a packed corpus or Kaldi folder, or a .jsonl, .json, .jsonl.gz, .csv or .tsv file.
        skip_bad: leave out utterances that have a fault, instead of stopping.

    Raises:
        WavecastError: it does not exist, is of no known kind, or has faults: all are counted, the first ones named.
    """
    path = Path(source)
    faults: list[str] = []
    if not path.exists():
        raise WavecastError(
            f"{path} does not exist", "give a manifest (.jsonl, .csv, .tsv), or a corpus or Kaldi folder"
        )
    lines = list(_lines(path, faults))
    utterances = list(_checked(lines, faults))
    if faults and not skip_bad:
        count = f"{len(faults)} of {len(lines) + sum('JSON' in fault for fault in faults)} utterances cannot be used"
        raise WavecastError(
            f"{path}: {count}: {listed(faults)}",
            f"paths are relative to {_folder(path)}; correct the manifest, or leave these out: --data.skip_bad true",
        )
    if not utterances:
        raise WavecastError(f"{path} lists no utterances", "write one utterance a line")
    return utterances


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _lines(path: Path, faults: list[str]) -> Iterator[Line]:
    if path.is_dir():
        if (path / "index.jsonl").exists():
            return _json_lines(path / "index.jsonl", faults)
        if (path / "wav.scp").exists():
            return _kaldi_lines(path, faults)
        raise WavecastError(f"{path} is no manifest", "a folder needs index.jsonl, or Kaldi's wav.scp and text")
    if path.suffix in {".csv", ".tsv"}:
        return _table_lines(path, faults)
    if path.name.removesuffix(".gz").endswith((".jsonl", ".json")):
        return _json_lines(path, faults)
    raise WavecastError(f"{path} is of no known kind", "give a manifest (.jsonl, .csv, .tsv), or a Kaldi folder")


def _json_objects(path: Path, faults: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as texts:
            for number, text in enumerate(texts, 1):
                if not text.strip():
                    continue
                try:
                    row = json.loads(text)
                except json.JSONDecodeError as error:
                    faults.append(f"line {number} is not JSON ({error.msg} at column {error.colno})")
                    continue
                if isinstance(row, dict):
                    yield f"line {number}", row
                else:
                    faults.append(f"line {number} is a JSON {type(row).__name__}, not an object")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise WavecastError(f"{path} cannot be read: {error}", "write it anew, as UTF-8") from error


def _json_lines(path: Path, faults: list[str]) -> Iterator[Line]:
    recordings: dict[str, dict[str, Any]] | None = None
    for where, row in _json_objects(path, faults):
        try:
            if "audio_filepath" in row:
                yield _nemo_line(where, row, path.parent)
            elif "file" in row:
                yield _packed_line(where, row, path.parent)
            elif "recording" in row:
                yield from _cut_lines(where, row, path.parent)
            elif "recording_id" in row:
                recordings = _recordings_beside(path) if recordings is None else recordings
                yield _supervised(where, row, recordings[row["recording_id"]], 0.0, path.parent)
            else:
                faults.append(f"{where} names no recording: it has {', '.join(row) or 'nothing'}")
        except (KeyError, IndexError) as error:
            faults.append(f"{where} has no {error.args[0] if isinstance(error, KeyError) else 'recording source'}")
        except (TypeError, AttributeError, ValueError) as error:
            faults.append(f"{where} is no utterance ({error})")


def _packed_line(where: str, row: Mapping[str, Any], folder: Path) -> Line:
    """Name an utterance by its place: an `id` names a clip of its source, and several files may have one of a name."""
    start = row.get("start", 0)
    about = {name: value for name, value in row.items() if name not in ("file", "start", "samples", "id")}
    about |= {"clip": row.get("id", ""), "id": f"{Path(row['file']).stem}-{start}"}
    return Line(where, folder / row["file"], start, row.get("samples"), "samples", about)


def _nemo_line(where: str, row: Mapping[str, Any], folder: Path) -> Line:
    known = ("audio_filepath", "duration", "offset", "lang")
    about = {name: value for name, value in row.items() if name not in known}
    about.setdefault("language", row.get("lang", ""))
    about.setdefault("text", row.get("text") or "")
    return Line(where, folder / row["audio_filepath"], row.get("offset") or 0.0, row.get("duration"), "seconds", about)


def _cut_lines(where: str, cut: Mapping[str, Any], folder: Path) -> Iterator[Line]:
    """Give one utterance a supervision; lhotse counts its start from the beginning of the cut."""
    for supervision in cut["supervisions"]:
        yield _supervised(where, supervision, cut["recording"], cut["start"], folder)


def _supervised(
    where: str, supervision: Mapping[str, Any], recording: Mapping[str, Any], start: float, folder: Path
) -> Line:
    source = recording["sources"][0]
    if source["type"] != "file":
        raise ValueError(f"its recording is a {source['type']}, not a file")
    about = {name: supervision.get(name) or "" for name in ("id", "text", "speaker", "language")}
    length = supervision["duration"]
    return Line(where, folder / source["source"], start + supervision["start"], length, "seconds", about)


def _recordings_beside(path: Path) -> dict[str, dict[str, Any]]:
    """Read the manifest of recordings that lies beside one of supervisions."""
    beside = path.with_name(path.name.replace("supervisions", "recordings"))
    if beside == path or not beside.exists():
        hint = "name them supervisions....jsonl and recordings....jsonl, or write cuts"
        raise WavecastError(f"{path} has supervisions, and their recordings are not beside it", hint)
    return {row["id"]: row for _, row in _json_objects(beside, [])}


def _table_lines(path: Path, faults: list[str]) -> Iterator[Line]:
    with path.open(newline="", encoding="utf-8-sig") as texts:
        reader = csv.DictReader(texts, delimiter="\t" if path.suffix == ".tsv" else ",")
        missing = [name for name in ("path", "text") if name not in (reader.fieldnames or [])]
        if missing:
            hint = f"its first line must name the columns path and text; it says: {', '.join(reader.fieldnames or [])}"
            raise WavecastError(f"{path} has no column {' and '.join(missing)}", hint)
        for row in reader:
            where = f"line {reader.line_num}"
            given = {name: value for name, value in row.items() if name and value}
            if "path" not in given:
                faults.append(f"{where} has no path")
                continue
            file, start, length = given.pop("path"), given.pop("start", None), given.pop("duration", None)
            try:
                times = float(start or 0), None if length is None else float(length)
            except ValueError:
                faults.append(f"{where}: start {start!r} and duration {length!r} are not seconds")
                continue
            yield Line(where, path.parent / file, *times, "seconds", given)


def _kaldi_lines(folder: Path, faults: list[str]) -> Iterator[Line]:
    recordings, texts = _kaldi_table(folder / "wav.scp"), _kaldi_table(folder / "text")
    speakers, languages = (_kaldi_table(folder / name, needed=False) for name in ("utt2spk", "utt2lang"))
    piped = [name for name, file in recordings.items() if file.endswith("|")]
    if piped:
        hint = "write the recordings to files first"
        raise WavecastError(f"{folder / 'wav.scp'} runs commands ({listed(piped)}), which are not run here", hint)
    segments = _kaldi_table(folder / "segments", needed=False) or {name: f"{name} 0 -1" for name in recordings}
    for name, segment in segments.items():
        words = segment.split()
        try:
            recording, start, end = words[0], float(words[1]), float(words[2])
        except (IndexError, ValueError):
            faults.append(f"segment {name} is {segment!r}, not: recording start end")
            continue
        if recording not in recordings:
            faults.append(f"segment {name} is of the recording {recording}, which wav.scp has not")
            continue
        about = {"id": name, "text": texts.get(name, ""), "speaker": speakers.get(name, "")}
        about["language"] = languages.get(name, "")
        length = None if end == -1 else end - start
        yield Line(f"utterance {name}", folder / recordings[recording], start, length, "seconds", about)


def _kaldi_table(path: Path, needed: bool = True) -> dict[str, str]:
    if not path.exists():
        if needed:
            raise WavecastError(f"{path} does not exist", "a Kaldi folder has wav.scp and text")
        return {}
    rows = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {row[0]: row[1].strip() if len(row) > 1 else "" for row in rows}


def _checked(lines: list[Line], faults: list[str]) -> Iterator[Utterance]:
    """Check lines against each other and their recordings, and count in samples."""
    known: dict[Path, tuple[int, int] | str] = {}
    names: set[str] = set()
    for line in lines:
        name = str(line.about.get("id") or f"{line.path.stem}-{line.where.removeprefix('line ')}")
        text = line.about.get("text")
        if line.path not in known:
            known[line.path] = _rate_and_samples(line.path)
        found = known[line.path]
        fault = found if isinstance(found, str) else _time_fault(line, *found)
        if not isinstance(text, str) or not text.strip():
            fault = "has no text"
        elif name in names:
            fault = f"has the id {name} of another"
        if fault or isinstance(found, str):
            faults.append(f"{line.where} {fault}")
            continue
        names.add(name)
        factor = found[0] if line.unit == "seconds" else 1
        start = round(line.start * factor)
        samples = None if line.length is None else min(round(line.length * factor), found[1] - start)
        speaker = line.about.get("speaker") or line.about.get("voice") or ""
        rest = {
            key: value
            for key, value in line.about.items()
            if key not in ("text", "id", "speaker", "voice", "language") and value is not None
        }
        language = str(line.about.get("language") or "")
        synthetic = "voice" in line.about and not line.about.get("speaker")
        yield Utterance(line.path, str(text), name, start, samples, str(speaker), synthetic, language, rest)


def _rate_and_samples(path: Path) -> tuple[int, int] | str:
    """Give a file's sample rate and samples, or what is wrong with it."""
    if not path.is_file():
        return f"names {path}, which does not exist"
    try:
        about = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError) as error:
        return f"names {path}, which cannot be decoded ({error})"
    return about.samplerate, about.frames


def _time_fault(line: Line, rate: int, samples: int) -> str:
    try:
        factor = 1 if line.unit == "seconds" else 1 / rate
        start, length = line.start * factor, None if line.length is None else line.length * factor
        if start < 0 or (length is not None and not length > 0):
            return f"begins at {start:g} s and lasts {length:g} s"
        end = start if length is None else start + length
    except TypeError:
        return f"has times that are no numbers: {line.start!r}, {line.length!r}"
    if not end <= samples / rate + TOLERANCE:
        return f"ends at {end:.2f} s, and {line.path.name} at {samples / rate:.2f} s"
    return ""
