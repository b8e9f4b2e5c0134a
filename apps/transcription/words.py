"""Words from tokens, with times and confidences; segments of words. Only the vocabulary's pieces are needed."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from wavecast.apps.transcription.decoding import Tokens

WORD_START = "▁"
FRAME_SECONDS = 0.08
UNKNOWN = {"<unk>": "⁇"}
BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Word:
    """A word with its punctuation.

    Attributes:
        text: without spaces around it.
        start: seconds since the beginning of the stream: the frame of its first token.
        end: the end of the frame of its last spoken token; late punctuation does not prolong a word.
        confidence: probability of the least probable of its spoken tokens.
    """

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Segment:
    """Words in a row, an utterance as a rule; never empty.

    Attributes:
        words: in their order.
        speaker: label of speaker or channel; empty where there is only one.
    """

    words: tuple[Word, ...]
    speaker: str = ""

    @property
    def start(self) -> float:
        """Give the start of the first word in seconds."""
        return self.words[0].start

    @property
    def end(self) -> float:
        """Give the end of the last word in seconds."""
        return self.words[-1].end

    @property
    def text(self) -> str:
        """Give the words with spaces between them."""
        return " ".join(word.text for word in self.words)


@dataclass
class Words:
    """Words of one stream as its tokens come in.

    A word is final once the next one has begun; punctuation that stands alone belongs to the word before it. So at most
    two words are held back at any moment.

    Args:
        pieces: text of every token; those that start a word begin with ▁, as in SentencePiece.
        frame_seconds: between encoder frames.
    """

    pieces: Sequence[str]
    frame_seconds: float = FRAME_SECONDS
    groups: list[Tokens] = field(default_factory=list)

    def add(self, tokens: Tokens) -> list[Word]:
        """Take the next tokens; give the words that are final now."""
        final = []
        for token in zip(tokens.ids, tokens.frames, tokens.probabilities, strict=True):
            if not self.groups or self.pieces[token[0]].startswith(WORD_START):
                self.groups = [*self._attached(), Tokens()]
            self.groups[-1].append(*token)
            if len(self.groups) == 2 and self._spoken(self.groups[1]):
                final += self._word(self.groups.pop(0))
        return final

    def open(self) -> list[Word]:
        """Give the words that later tokens may still change or add to: none, one or two."""
        return [word for group in self._attached() for word in self._word(group)]

    def close(self) -> list[Word]:
        """End the sequence: give the words still open; afterwards new ones can begin."""
        words = self.open()
        self.groups = []
        return words

    def _attached(self) -> list[Tokens]:
        """Give the groups, punctuation that stands alone with the word before it."""
        if len(self.groups) < 2 or self._spoken(self.groups[1]):
            return self.groups
        a, b = self.groups
        return [Tokens(a.ids + b.ids, a.frames + b.frames, a.probabilities + b.probabilities)]

    def _spoken(self, group: Tokens) -> list[int]:
        """List the indices of a group's tokens that hold more than punctuation."""
        return [i for i, token in enumerate(group.ids) if is_spoken(self.pieces[token])]

    def _word(self, group: Tokens) -> list[Word]:
        text = text_of([self.pieces[token] for token in group.ids]).replace(" ", "")
        if not text:
            return []
        spoken = self._spoken(group) or range(len(group.ids))
        return [
            Word(
                text,
                round(group.frames[0] * self.frame_seconds, 6),
                round((group.frames[spoken[-1]] + 1) * self.frame_seconds, 6),
                min(group.probabilities[i] for i in spoken),
            )
        ]


def words_of(tokens: Tokens, pieces: Sequence[str], frame_seconds: float = FRAME_SECONDS) -> list[Word]:
    """Make the words of whole utterances."""
    words = Words(pieces, frame_seconds)
    return words.add(tokens) + words.close()


def text_of(pieces: Sequence[str]) -> str:
    """Join pieces to text: ▁ is a space, <0x..> a byte of UTF-8."""
    joined = bytearray()
    for piece in pieces:
        byte = BYTE.fullmatch(piece)
        if byte:
            joined.append(int(byte[1], 16))
        else:
            joined += UNKNOWN.get(piece, piece).replace(WORD_START, " ").encode()
    return joined.decode("utf-8", "replace").strip()


def is_spoken(piece: str) -> bool:
    """Tell pieces with a letter, digit or symbol from punctuation and the bare start of a word."""
    return any(unicodedata.category(one)[0] not in "PZC" for one in piece if one != WORD_START)
