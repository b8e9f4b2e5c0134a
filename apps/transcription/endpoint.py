"""Where an utterance ends: runs of frames without a token cut the stream of words into segments.

Decoding goes on across a cut with the state it has; only the text is cut. All rules count frames, so that the segments
do not depend on the pieces in which a stream came.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from wavecast.apps.transcription.decoding import Tokens
from wavecast.apps.transcription.words import FRAME_SECONDS, WORD_START, Segment, Word, Words


@dataclass(frozen=True)
class Rules:
    """When a segment ends, in seconds. Silence is time without a token.

    Attributes:
        pause: so much silence after text, and the next token starts a word: the segment ends before that token.
        silence: so much silence after text ends the segment at once, without waiting for the next token; longer than
            `pause`, so that a word spoken haltingly, or its late punctuation, is not cut.
        longest: so long after its first token a segment ends before the next token that starts a word; after twice
            that time before any token.

    Silence without text has nothing to cut.
    """

    pause: float = 0.8
    silence: float = 1.6
    longest: float = 30.0

    def __post_init__(self) -> None:
        """Refuse rules that contradict each other or end nothing.

        Raises:
            ValueError: a time is not positive, or silence is shorter than a pause.
        """
        if not 0 < self.pause <= self.silence or self.longest <= 0:
            raise ValueError(
                f"no segments end by {self}\nhint: use positive seconds, and a silence of at least a pause"
            )


class Segmenter:
    """The segments of one stream as its tokens come in.

    Args:
        pieces: text of every token, as for `Words`.
        rules: of cutting.
        speaker: label of the segments.
        frame_seconds: between encoder frames.
    """

    def __init__(
        self, pieces: Sequence[str], rules: Rules | None = None, speaker: str = "", frame_seconds: float = FRAME_SECONDS
    ) -> None:
        self.pieces, self.speaker = pieces, speaker
        self.rules = Rules() if rules is None else rules
        self.frame_seconds = frame_seconds
        self.words = Words(pieces, frame_seconds)
        self.said: list[Word] = []
        self.began: int | None = None
        self.quiet_from = 0

    def step(self, tokens: Tokens, until: int) -> list[Segment]:
        """Take the next tokens; give the segments that have ended.

        Args:
            tokens: found since the last step, at frames before `until`.
            until: all tokens of earlier frames are known; a decoder's `settled`.
        """
        ended = []
        for token, frame, probability in zip(tokens.ids, tokens.frames, tokens.probabilities, strict=True):
            ended += self._wait(frame)
            if self.began is not None and self._cut_before(token, frame, self.began):
                ended += self.finish()
            if self.began is None:
                self.began = frame
            self.said += self.words.add(Tokens([token], [frame], [probability]))
            self.quiet_from = frame + 1
        return ended + self._wait(until)

    def partial(self) -> Segment | None:
        """Give the segment under way, its last word perhaps unfinished; None when nothing was said."""
        words = [*self.said, *self.words.open()]
        return Segment(tuple(words), self.speaker) if words else None

    def finish(self) -> list[Segment]:
        """End the segment under way and give it, if anything was said."""
        words = [*self.said, *self.words.close()]
        self.said, self.began = [], None
        return [Segment(tuple(words), self.speaker)] if words else []

    def _cut_before(self, token: int, frame: int, began: int) -> bool:
        """Decide whether the segment under way ends before a token: the first of a word, as a rule."""
        pause, length = self._seconds(frame, self.quiet_from), self._seconds(frame, began)
        if self.pieces[token].startswith(WORD_START):
            return pause >= self.rules.pause or length >= self.rules.longest
        return length >= 2 * self.rules.longest

    def _wait(self, until: int) -> list[Segment]:
        """Let silence pass up to a frame."""
        if self.began is None or self._seconds(until, self.quiet_from) < self.rules.silence:
            return []
        return self.finish()

    def _seconds(self, frame: int, since: int) -> float:
        return round((frame - since) * self.frame_seconds, 6)
