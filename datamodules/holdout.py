"""Which voices and noises are never trained on: the rule behind every validation score of the shipped enhancer.

The rule depends on names alone, so it holds for any copy of the corpus and any order of its files.
"""

import re
from collections.abc import Mapping
from typing import Any
from zlib import crc32

VOICES_AMONG_NOISES = re.compile(r"_ack|_select|_die|_desc_")
"""Names of the corpus' sound effects that are spoken: answers of figures in a game, descriptions of pictures."""
ACTED = re.compile(r"[0-9A-F]{6}([A-Z])\d*")
"""Names of the corpus' acted clips: scene, part (a letter), line."""


def held_out(entry: Mapping[str, Any]) -> bool:
    """Tell whether a corpus entry (a line of `index.jsonl`) belongs to validation.

    Args:
        entry: a clip of real speech (`speaker`), of synthetic speech (`voice`, "a+b" for a blend) or of noise
            (`source` and `id`).

    Returns:
        True for one whole language of studio speech, an eighth of the other voices (a blend counts when either of
        its voices does) and a fifth of the noises.

    Raises:
        ValueError: the entry names none of them.
    """
    if "speaker" in entry:
        return entry["speaker"] == "asterisk_es" or _share(f"s{entry['speaker']}", 8)
    if "voice" in entry:
        return any(_share(f"v{voice}", 8) for voice in entry["voice"].split("+"))
    if "source" in entry:
        return _share(f"n{entry['source']}{entry['id']}", 5)
    raise ValueError(
        f"no speaker, voice or source in {dict(entry)}\nhint: write one of them into each line of the index"
    )


def speaks(entry: Mapping[str, Any]) -> bool:
    """Tell whether a noise of the corpus is a voice: an enhancer must not learn to take voices for noise."""
    return "source" in entry and bool(VOICES_AMONG_NOISES.search(entry["id"]))


def voices_of(about: Mapping[str, Any]) -> list[str]:
    """Name the voices of a clip or an utterance: two of a synthetic blend "a+b", its own id where none is known.

    In the corpus' acted recordings `speaker` is a scene, and the letter in a clip's name the part: J is the hero of
    almost all of them, "fotaq_J"; the others are named by their scene.
    """
    speaker = str(about.get("speaker", about.get("voice", about.get("id", ""))))
    if about.get("synthetic") or "voice" in about:
        return speaker.split("+")
    part = ACTED.fullmatch(str(about.get("clip", about.get("id", "")))) if speaker.startswith("fotaq_") else None
    return ["fotaq_J"] if part and part[1] == "J" else [speaker]


def possible_voices(about: Mapping[str, Any]) -> set[str]:
    """Name everybody whose voice a clip may be: one actor may have spoken several of the acted parts."""
    names = voices_of(about)
    return {*names, "fotaq_P"} if names[0].startswith("fotaq_") and names[0] != "fotaq_J" else set(names)


def _share(name: str, parts: int) -> bool:
    return crc32(name.encode()) % parts == 0
