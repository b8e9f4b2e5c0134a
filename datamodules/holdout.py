"""Which voices and noises are never trained on: the rule behind every validation score of the shipped enhancer.

The rule depends on names alone, so it holds for any copy of the corpus and any order of its files.
"""

import re
from collections.abc import Mapping
from typing import Any
from zlib import crc32

VOICES_AMONG_NOISES = re.compile(r"_ack|_select|_die|_desc_")
"""Names of the corpus' sound effects that are spoken: answers of figures in a game, descriptions of pictures."""


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


def _share(name: str, parts: int) -> bool:
    return crc32(name.encode()) % parts == 0
