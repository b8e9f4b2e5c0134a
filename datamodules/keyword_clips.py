"""Clips of single words, and of other speech: Speech Commands, any folder a word, packed corpora, lists.

Every clip that is a word has the attribute `word`; a clip without it is other speech. `part` says which of the official
lists of Speech Commands (Warden 2018) it is on, `speaker` or `voice` who says it.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from wavecast.core.errors import WavecastError
from wavecast.datamodules.clips import Attributes, Clips, Entry, decode, folder_entries, open_clips
from wavecast.datamodules.holdout import held_out, voices_of

UNKNOWN, SILENCE = "_unknown_", "_silence_"
"""Classes beside the words: other speech, and no speech at all."""
BACKGROUND = "_background_noise_"
"""The folder of Speech Commands that holds noises."""
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
SPEAKER = re.compile(r"([^/]+)_nohash_\d+\.\w+$")
"""Names of Speech Commands: a hash of the speaker, and which time they say the word."""

Part = Literal["train", "validation", "test"]


def open_spoken(source: str | Path, sample_rate: int = 16_000, cache: str | Path | None = None) -> Clips:
    """Open clips of words and of other speech.

    Args:
        source: a folder with a folder a word (Speech Commands, its lists included), a packed corpus (clips of `kind`
            "word" say their `text`), a CSV list (column `word`), or a lhotse manifest.
        sample_rate: clips of another rate are resampled to it.
        cache: of decoded samples, see `open_clips`.

    Raises:
        WavecastError: it does not exist, holds no audio, or a list names clips that are not there.
    """
    path = Path(source)
    if path.is_dir() and not (path / "index.jsonl").exists():
        return decode(word_entries(path), path, sample_rate, cache)
    clips = open_clips(source, sample_rate, cache)
    return replace(clips, attributes=tuple(with_word(about) for about in clips.attributes))


def with_word(about: Attributes) -> Attributes:
    """Give a clip of a packed corpus its word."""
    word = about.get("word") or (about.get("text") if about.get("kind") == "word" else None)
    return {**about, "word": str(word).strip().lower()} if word else about


def word_entries(folder: Path) -> list[Entry]:
    """Find the clips of folders that are named after words; folders whose names begin with _ are not.

    Raises:
        WavecastError: there is none, or an official list names a clip that is missing.
    """
    entries = [entry for entry in folder_entries(folder) if not entry.path.parent.name.startswith("_")]
    if not entries or any(entry.path.parent == folder for entry in entries):
        raise WavecastError(f"{folder} is not laid out by words", "put the clips of a word into a folder of its name")
    listed = read_lists(folder, {str(entry.attributes["id"]) for entry in entries})
    return [replace(entry, attributes=describe(entry, listed)) for entry in entries]


def describe(entry: Entry, listed: dict[str, Part]) -> Attributes:
    """Give a clip of a word its attributes; where there are lists, what is on none of them trains."""
    name = str(entry.attributes["id"])
    match = SPEAKER.search(name)
    about = {"id": name, "word": entry.path.parent.name.lower(), "speaker": match[1] if match else name}
    return {**about, "part": listed.get(name, "train")} if listed else about


def read_lists(folder: Path, known: set[str]) -> dict[str, Part]:
    """Read the official lists, as far as they are there: which part each clip on them belongs to.

    Raises:
        WavecastError: a clip is missing.
    """
    parts: dict[str, Part] = {}
    for part, file in (("validation", LISTS["validation"]), ("test", LISTS["test"])):
        path = folder / file
        names = path.read_text(encoding="utf-8").split() if path.is_file() else []
        missing = [name for name in names if name not in known]
        if missing:
            hint = "unpack the data set again"
            raise WavecastError(f"{missing[0]}, listed in {path}, is missing ({len(missing)} such clips)", hint)
        parts |= dict.fromkeys(names, "validation" if part == "validation" else "test")
    return parts


def part_of(about: Attributes, validation: Sequence[str] | None, test: Sequence[str]) -> Part | None:
    """Tell what a clip is for: as the official lists have it, else by voice.

    Args:
        about: the clip.
        validation: voices to validate on; None: an eighth of them, by the rule of `wavecast.datamodules.holdout`.
        test: voices for the final score.

    Returns:
        "train", "validation" or "test"; None for a blend of voices of different parts, which is for nothing.
    """
    if "part" in about:
        part: Part = about["part"]
        return part
    parts = {voice_part(name, "voice" in about, validation, test) for name in voices_of(about)}
    return parts.pop() if len(parts) == 1 else None


def voice_part(name: str, synthetic: bool, validation: Sequence[str] | None, test: Sequence[str]) -> Part:
    """Tell what a voice is for."""
    if name in test:
        return "test"
    kept = held_out({"voice" if synthetic else "speaker": name}) if validation is None else name in validation
    return "validation" if kept else "train"


def says(about: Attributes, words: set[str]) -> bool:
    """Tell whether the text of a clip, as far as it is known, has one of these words in it."""
    return not words.isdisjoint(re.findall(r"\w+", str(about.get("text", "")).lower()))
