"""Sentences of texts: for scripts/synthesize_speech.py to say, for scripts/count_ngrams.py to count."""

import argparse
import html
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

BLOCK = r"</?(p|h\d|li|blockquote|title)\b[^>]*>"
"""Tags that begin or end a paragraph."""
STRINGS = {
    ".cfg": r'_\s*"((?:[^"]|"")*)"',
    ".lua": r'_"((?:[^"\\]|\\.)*)"',
}
"""What games let people translate, in their files: of Wesnoth, of FreedroidRPG."""
LETTER = r"[^\W\d_]"
"""One of any language."""
SHARED = 5
"""Words in a row that make two sentences the same text."""


def paragraphs(path: Path) -> Iterator[str]:
    """Split a text at blank lines and before signatures: plain or HTML, or what is said in a game."""
    text = path.read_text(errors="replace")
    if path.suffix in STRINGS:
        for said in re.findall(STRINGS[path.suffix], text):
            yield re.sub(r"<[^>]*>|\$\w+", "", said).replace("\\n", " ")
        return
    if path.suffix in (".html", ".htm"):
        text = html.unescape(re.sub(r"<[^>]*>", "", re.sub(BLOCK, "\n%\n", text)))
    yield from re.split(r"\n%\n|\n\s*\n|\n\s+--", text)


def sentences(path: Path, letter: str = "[A-Za-z]") -> Iterator[str]:
    """Find what can be said as it is written: sentences of letters and plain punctuation, no abbreviations.

    Args:
        path: of the text.
        letter: pattern of one; LETTER for languages with others than English.
    """
    for part in paragraphs(path):
        for sentence in re.split(r"(?<=[.!?])[\"')]*\s+", " ".join(part.split())):
            plain = re.sub(r"\s+", " ", re.sub(r"[\"()]|\s--+\s|\.\.+", " ", sentence)).strip()
            said = re.fullmatch(rf"{letter}(?:{letter}|[' ,;:-])*{letter}[.!?]", plain)
            if said and plain[0].isupper() and plain[-2].islower() and not shouts(plain):
                yield plain


def shouts(text: str) -> bool:
    """Tell whether two capitals stand side by side."""
    return any(one.isupper() and other.isupper() for one, other in pairwise(text))


def clauses(path: Path) -> Iterator[str]:
    """Find what is made of words alone, without its punctuation, as a transcriber writes: in lower case."""
    for part in paragraphs(path):
        for clause in re.split(r"(?<=[.!?;:])[\"')]*\s+", " ".join(part.split())):
            plain = " ".join(re.sub(r"[\"()_*`?!,.;:-]", " ", clause.replace("\u2019", "'")).split())
            if re.fullmatch(r"[A-Za-z' ]+", plain):
                yield plain.lower()


def words(text: str) -> list[str]:
    """Split into words in lower case."""
    return re.findall(rf"(?:{LETTER}|')+", text.lower())


def runs(text: str) -> set[tuple[str, ...]]:
    """Give all runs of SHARED words; the whole text when it is shorter."""
    some = words(text)
    return {tuple(some[k : k + SHARED]) for k in range(max(1, len(some) - SHARED + 1))}


def known_runs(corpus: Path | None) -> set[tuple[str, ...]]:
    """Give all runs of words in the texts of a packed corpus."""
    lines = (corpus / "index.jsonl").read_text().splitlines() if corpus else []
    return {run for line in lines for run in runs(json.loads(line)["text"])}


def text_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the texts, and what they are kept apart from."""
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--apart-from", type=Path, metavar="CORPUS", help="packed corpus whose texts are left out")


def check_texts(parser: argparse.ArgumentParser, texts: list[Path]) -> None:
    """End the program where there is no such text."""
    for missing in [path for path in texts if not path.is_file()]:
        parser.error(f"there is no text {missing}\nhint: name files, of Debian's package fortunes for example")
