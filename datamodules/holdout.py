"""Which voices and noises are never trained on: the rule behind every validation score of the shipped enhancer.

The rule depends on names alone, so it holds for any copy of the corpus and any order of its files.
"""

from collections.abc import Mapping
from typing import Any
from zlib import crc32


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
    raise ValueError(f"no speaker, voice or source in {dict(entry)}\nhint: write one of them into each line of the index")


def _share(name: str, parts: int) -> bool:
    return crc32(name.encode()) % parts == 0
