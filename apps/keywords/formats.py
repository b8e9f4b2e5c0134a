"""Formats of events: jsonl, csv and txt, a line an event."""

from collections.abc import Callable, Mapping
from typing import Any, TextIO

from wavecast.apps.keywords.decisions import Event
from wavecast.texts import Lines, csv_fields, json_line

Row = Mapping[str, Any]


class EventWriter(Lines):
    """Writes events as they come.

    Args:
        file: a text file open for writing.
        kind: a key of FORMATS.
        source: of the events, for a column of it; empty: no such column.
        channels: a column tells the channel.
        begins: the file begins here: a table gets its header.
    """

    def __init__(self, file: TextIO, kind: str, source: str = "", channels: bool = False, begins: bool = True) -> None:
        self.line, self.source, self.channels = FORMATS[kind], source, channels
        if kind == "csv" and begins:
            self.header = csv_fields(self.row(Event("", 0, 0, 0, 0)))
        super().__init__(file)

    def add(self, event: Event) -> None:
        """Write an event."""
        self.write(self.line(self.row(event)))

    def row(self, event: Event) -> Row:
        """Give an event as plain data, times in seconds."""
        row: dict[str, Any] = {"input": self.source} if self.source else {}
        if self.channels:
            row["channel"] = max(1, event.channel)
        row |= {"word": event.word, "start": round(event.start, 3), "time": round(event.time, 3)}
        return row | {"confidence": round(event.confidence, 4), "latency": round(event.latency, 3)}


def text_line(row: Row) -> str:
    """Give the time, the word and its confidence, after input and channel where these are told, for people."""
    named = [f"{row[name]}:" for name in ("input", "channel") if name in row]
    return " ".join([*named, f"{row['time']:8.3f}", row["word"], f"{row['confidence']:.4f}"]) + "\n"


def csv_line(row: Row) -> str:
    """Give the values with commas between them."""
    return csv_fields(row.values())


FORMATS: dict[str, Callable[[Row], str]] = {"jsonl": json_line, "csv": csv_line, "txt": text_line}
