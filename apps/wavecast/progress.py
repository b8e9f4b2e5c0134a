"""Progress on stderr: a bar a file and one for all, with the time left; nothing where no terminal is."""

import sys
from pathlib import Path
from typing import Any


class Progress:
    """The bars of one command.

    Args:
        files: how many there are.
        seconds: of sound in all; None when it is not known.
        quiet: show nothing.
    """

    def __init__(self, files: int, seconds: float | None, quiet: bool) -> None:
        self._bars: Any = None
        self._all: Any = None
        if quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bars = Bars(*columns, console=Console(stderr=True), transient=True)
        if files > 1:
            self._all = self._bars.add_task(f"all {files}", total=seconds)

    def __enter__(self) -> "Progress":
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def file(self, name: str, seconds: float | None, counts: bool = True) -> "FileProgress":
        """Begin a file of that many seconds, or a step before it that does not count for all."""
        return FileProgress(self._bars, self._all if counts else None, name, seconds)


class FileProgress:
    """The bar of one file; gone when the file is done."""

    def __init__(self, bars: Any, overall: Any, name: str, seconds: float | None) -> None:
        self._bars, self._overall = bars, overall
        if bars is not None:
            self._task = bars.add_task(Path(name).name, total=seconds)

    def __enter__(self) -> "FileProgress":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars is not None:
            self._bars.remove_task(self._task)

    def advance(self, seconds: float) -> None:
        """Count sound that is done."""
        if self._bars is not None:
            self._bars.advance(self._task, seconds)
            if self._overall is not None:
                self._bars.advance(self._overall, seconds)
