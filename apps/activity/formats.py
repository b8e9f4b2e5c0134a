"""Formats of what was recognized: txt, json, jsonl, csv and srt, for whole videos and for timelines.

writer = TIMELINES["srt"](file, Place())
writer.add(segment)                      # as often as segments end
writer.partial(time, activity, 0.7)      # what seems to be going on; only jsonl shows it
writer.close()                           # ends the format; the file itself stays open
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from wavecast.apps.activity.timeline import NOTHING, Segment
from wavecast.apps.transcription.formats import SubRipWriter
from wavecast.apps.transcription.words import Segment as Utterance
from wavecast.apps.transcription.words import Word
from wavecast.texts import Lines, csv_fields, json_line


@dataclass(frozen=True)
class Place:
    """Where a text stands.

    Attributes:
        source: of it, where texts of several inputs follow one another; else empty.
        begins: whether a table begins here and gets its header.
    """

    source: str = ""
    begins: bool = True

    def row(self, **fields: Any) -> dict[str, Any]:
        """Put the source before other fields, if there is one."""
        return ({"input": self.source} if self.source else {}) | fields


def ranking(kind: str, found: Sequence[tuple[str, float]], seconds: float | None, place: Place) -> str:
    """Write the most probable activities of a whole video.

    Args:
        kind: "txt", "json", "jsonl" or "csv".
        found: activities and their probabilities, the most probable first; none: nothing was probable enough.
        seconds: of the video, if they are known.
        place: where the text stands.
    """
    if kind in ("json", "jsonl"):
        activities = [{"activity": name, "probability": round(probability, 4)} for name, probability in found]
        known = {} if seconds is None else {"seconds": round(seconds, 3)}
        return json_line(place.row(**known, activities=activities))
    if kind == "csv":
        rows = [
            place.row(rank=k + 1, activity=name, probability=round(probability, 4))
            for k, (name, probability) in enumerate(found)
        ]
        header = csv_fields(place.row(rank=0, activity="", probability=0)) if place.begins else ""
        return header + "".join(csv_fields(row.values()) for row in rows)
    named = f"{place.source}: " if place.source else ""
    width = max((len(name) for name, _ in found), default=0)
    lines = [f"{named}{name:{width}} {probability:.4f}\n" for name, probability in found]
    return "".join(lines) or f"{named}{NOTHING}\n"


class TextTimeline(Lines):
    """A line a segment, for people: start, end, activity, confidence; and what writers have in common.

    Args:
        file: a text file open for writing.
        place: where the text stands.
    """

    def __init__(self, file: TextIO, place: Place) -> None:
        self.place = place
        super().__init__(file)

    def row(self, segment: Segment) -> Mapping[str, Any]:
        """Give a segment as plain data, times in seconds."""
        start, end = round(segment.start, 3), round(segment.end, 3)
        return self.place.row(start=start, end=end, activity=segment.activity, confidence=round(segment.confidence, 4))

    def add(self, segment: Segment) -> None:
        """Write a segment that has ended."""
        named = f"{self.place.source}: " if self.place.source else ""
        self.write(f"{named}{segment.start:9.3f} {segment.end:9.3f} {segment.activity} {segment.confidence:.4f}\n")

    def partial(self, time: float, activity: str, probability: float) -> None:
        """Write nothing: the format has finished segments only."""

    def close(self) -> None:
        """Write nothing more."""


class EventTimeline(TextTimeline):
    """JSON lines: an event a line, `"type": "final"` a segment, "partial" what seems to be going on."""

    def add(self, segment: Segment) -> None:
        """Write the event of a segment that has ended."""
        self.write(json_line({"type": "final", **self.row(segment)}))

    def partial(self, time: float, activity: str, probability: float) -> None:
        """Write the event of a frame."""
        row = self.place.row(time=round(time, 3), activity=activity, probability=round(probability, 4))
        self.write(json_line({"type": "partial", **row}))


class TableTimeline(TextTimeline):
    """A table with commas (csv)."""

    def __init__(self, file: TextIO, place: Place) -> None:
        names = place.row(start=0, end=0, activity="", confidence=0)
        self.header = csv_fields(names) if place.begins else ""
        super().__init__(file, place)

    def add(self, segment: Segment) -> None:
        """Write the row of a segment."""
        self.write(csv_fields(self.row(segment).values()))


class JSONTimeline(TextTimeline):
    """One JSON object with the list of segments; complete only when it is closed."""

    header = '{"segments": ['
    count = 0

    def add(self, segment: Segment) -> None:
        """Write the next element of the list."""
        self.write((",\n" if self.count else "\n") + json.dumps(self.row(segment), ensure_ascii=False))
        self.count += 1

    def close(self) -> None:
        """End the object."""
        self.write("]}\n")


class SubRipTimeline(TextTimeline):
    """Subtitles (srt) that name the activity while it goes on."""

    def __init__(self, file: TextIO, place: Place) -> None:
        super().__init__(file, place)
        self._cues = SubRipWriter(file)

    def add(self, segment: Segment) -> None:
        """Write a cue."""
        word = Word(segment.activity, segment.start, segment.end, segment.confidence)
        self._cues.add(Utterance((word,)))


TIMELINES: Mapping[str, type[TextTimeline]] = {
    "txt": TextTimeline,
    "json": JSONTimeline,
    "jsonl": EventTimeline,
    "csv": TableTimeline,
    "srt": SubRipTimeline,
}
