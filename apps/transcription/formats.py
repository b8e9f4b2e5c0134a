"""Text formats of a transcript: txt, json, jsonl, srt, vtt, ctm and tsv, written while the transcript grows.

    writer = FORMATS["srt"](file)            # a text file, open for writing, newline="" or "\\n"
    writer.add(segment, emitted=12.3)        # as often as segments end
    writer.partial(segment, emitted=12.7)    # what is under way; only jsonl shows it
    writer.close()                           # ends the format; the file itself stays open

What was written is valid at any moment, but for json, which is one object and ends with `close`.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TextIO

from wavecast.apps.transcription.words import Segment, Word
from wavecast.texts import Lines, json_line

LINE = 42  # characters of a line of subtitles
LINES = 2  # of a cue
LONGEST = 6.0  # seconds of a cue
SHORTEST = 0.2  # seconds that a cue stays at least


class Writer(Protocol):
    """What writes a transcript."""

    def add(self, segment: Segment, emitted: float | None = None) -> None:
        """Write a segment that has ended; `emitted`: seconds since the stream began, when it was known."""

    def partial(self, segment: Segment, emitted: float | None = None) -> None:
        """Write what is under way, where the format has a place for it."""

    def close(self) -> None:
        """Write what the format still needs at its end."""


class LineWriter(Lines):
    """Writes what one function makes of each segment, and flushes."""

    def lines(self, segment: Segment, emitted: float | None) -> str:
        """Give the lines of a segment that has ended."""
        raise NotImplementedError(f"{type(self).__name__}.lines")

    def add(self, segment: Segment, emitted: float | None = None) -> None:
        """Write a segment that has ended."""
        self.write(self.lines(segment, emitted))

    def partial(self, segment: Segment, emitted: float | None = None) -> None:
        """Write nothing: the format has finished text only."""

    def close(self) -> None:
        """Write nothing more."""


class TextWriter(LineWriter):
    """Plain text, a line a segment; where there are several speakers, `speaker: text`."""

    def lines(self, segment: Segment, emitted: float | None) -> str:
        """Give the line of a segment."""
        text = " ".join(segment.text.split())
        return f"{segment.speaker}: {text}\n" if segment.speaker else f"{text}\n"


class EventWriter(LineWriter):
    """JSON lines: an event a line, `"type": "final"` or `"partial"`, with audio time, emission time and words.

    A partial event shows the segment under way; the next event of its speaker replaces it.
    """

    def lines(self, segment: Segment, emitted: float | None) -> str:
        """Give the event of a segment that has ended."""
        return json_line({"type": "final", **fields(segment, emitted)})

    def partial(self, segment: Segment, emitted: float | None = None) -> None:
        """Write the event of the segment under way."""
        self.write(json_line({"type": "partial", **fields(segment, emitted)}))


class JSONWriter(LineWriter):
    """One JSON object: the segments with their words, and the whole text; complete only when it is closed."""

    header = '{"segments": ['

    def __init__(self, file: TextIO) -> None:
        super().__init__(file)
        self.texts: list[str] = []

    def lines(self, segment: Segment, emitted: float | None) -> str:
        """Give the next element of the list of segments."""
        self.texts.append(segment.text)
        return (",\n" if len(self.texts) > 1 else "\n") + json.dumps(fields(segment, emitted), ensure_ascii=False)

    def close(self) -> None:
        """Write the text and end the object."""
        self.write(f'],\n"text": {json.dumps(" ".join(self.texts), ensure_ascii=False)}}}\n')


class SubRipWriter(LineWriter):
    """SubRip subtitles (srt): numbered cues; where there are several speakers, `speaker: text`."""

    def __init__(self, file: TextIO) -> None:
        super().__init__(file)
        self.count = 0
        self.shown_until: dict[str, float] = {}

    def cue(self, start: str, end: str, lines: list[str], speaker: str) -> str:
        """Give the text of a cue. SubRip has no escapes, so an arrow in the text is drawn shorter."""
        text = "\n".join(lines).replace("-->", "->")
        return f"{self.count}\n{start.replace('.', ',')} --> {end.replace('.', ',')}\n{text}\n\n"

    def prefix(self, speaker: str) -> str:
        """Give what a cue of a speaker begins with."""
        return f"{speaker}: " if speaker else ""

    def lines(self, segment: Segment, emitted: float | None) -> str:
        """Give the cues of a segment; a speaker's cue begins no earlier than the one before it ends."""
        text, speaker = "", " ".join(segment.speaker.split())
        for start, end, lines in cues(segment.words, self.prefix(speaker)):
            start = max(start, self.shown_until.get(speaker, 0.0))
            self.shown_until[speaker] = max(end, start + SHORTEST)
            self.count += 1
            text += self.cue(clock(start), clock(self.shown_until[speaker]), lines, speaker)
        return text


class WebVTTWriter(SubRipWriter):
    """WebVTT subtitles (vtt): a header, cues, and voice tags for speakers."""

    header = "WEBVTT\n\n"

    def cue(self, start: str, end: str, lines: list[str], speaker: str) -> str:
        """Give the text of a cue."""
        voice = f"<v {escape_markup(speaker)}>" if speaker else ""
        return f"{start} --> {end}\n{voice}" + "\n".join(escape_markup(line) for line in lines) + "\n\n"

    def prefix(self, speaker: str) -> str:
        """Give nothing: the voice tag names the speaker, and is not shown as text."""
        return ""


class CTMWriter(LineWriter):
    """NIST's time-marked conversations (ctm): `recording channel start duration word confidence`, a word a line.

    Args:
        file: a text file open for writing.
        recording: name of it in the first column.
    """

    def __init__(self, file: TextIO, recording: str = "stream") -> None:
        super().__init__(file)
        self.recording = recording

    def lines(self, segment: Segment, emitted: float | None) -> str:
        """Give the lines of a segment's words; no column may hold a space."""
        names = f"{one_column(self.recording)} {one_column(segment.speaker) or '1'}"
        return "".join(
            f"{names} {word.start:.3f} {word.end - word.start:.3f} {one_column(word.text)} {word.confidence:.4f}\n"
            for word in segment.words
        )


class TableWriter(LineWriter):
    """A table with tabs between its columns (tsv): start and end in milliseconds, speaker, text."""

    header = "start\tend\tspeaker\ttext\n"

    def lines(self, segment: Segment, emitted: float | None) -> str:
        """Give the row of a segment; tabs and line ends within a column become spaces."""
        speaker, text = " ".join(segment.speaker.split()), " ".join(segment.text.split())
        return f"{milliseconds(segment.start)}\t{milliseconds(segment.end)}\t{speaker}\t{text}\n"


FORMATS: dict[str, Callable[[TextIO], Writer]] = {
    "txt": TextWriter,
    "json": JSONWriter,
    "jsonl": EventWriter,
    "srt": SubRipWriter,
    "vtt": WebVTTWriter,
    "ctm": CTMWriter,
    "tsv": TableWriter,
}


def fields(segment: Segment, emitted: float | None) -> dict[str, Any]:
    """Give a segment as plain data: times in seconds, `emitted` where it is known, `speaker` where there is one."""
    row: dict[str, Any] = {"start": round(segment.start, 3), "end": round(segment.end, 3), "text": segment.text}
    if segment.speaker:
        row["speaker"] = segment.speaker
    if emitted is not None:
        row["emitted"] = round(emitted, 3)
    row["words"] = [
        {
            "text": word.text,
            "start": round(word.start, 3),
            "end": round(word.end, 3),
            "confidence": round(word.confidence, 4),
        }
        for word in segment.words
    ]
    return row


def milliseconds(seconds: float) -> int:
    """Round to milliseconds."""
    return round(1000 * seconds)


def clock(seconds: float) -> str:
    """Give hours:minutes:seconds.milliseconds; hours have at least two digits."""
    total = milliseconds(seconds)
    return f"{total // 3_600_000:02}:{total // 60_000 % 60:02}:{total // 1000 % 60:02}.{total % 1000:03}"


def escape_markup(text: str) -> str:
    """Write characters that are markup in WebVTT as references; `-->` cannot remain either then."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def one_column(text: str) -> str:
    """Give text without spaces; CTM takes a leading `;;` for a comment."""
    text = "_".join(text.split())
    return f"_{text}" if text.startswith(";;") else text


def cues(words: Iterable[Word], prefix: str = "") -> list[tuple[float, float, list[str]]]:
    """Cut words into cues of subtitles, between words only.

    A cue holds at most 2 lines of 42 characters and about 6 seconds; a single word may be longer than either.

    Args:
        words: of a segment.
        prefix: what each cue begins with.

    Returns:
        Start and end in seconds, and the lines of each cue.
    """
    made: list[tuple[float, float, list[str]]] = []
    start, end, held = 0.0, 0.0, ""
    for word in words:
        longer = f"{held} {word.text}" if held else f"{prefix}{word.text}"
        if held and (len(wrap(longer)) > LINES or word.end - start > LONGEST):
            made.append((start, end, wrap(held)))
            held, longer = "", f"{prefix}{word.text}"
        if not held:
            start = word.start
        held, end = longer, word.end
    if held:
        made.append((start, end, wrap(held)))
    return made


def wrap(text: str) -> list[str]:
    """Break text into lines of at most 42 characters, two of about the same length where two are needed."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > LINE:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    if len(lines) != 2:
        return lines
    words = text.split()
    halves = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
    return list(min(halves, key=lambda pair: max(map(len, pair))))
