"""What readers of sound and of video have in common."""

from types import TracebackType
from typing import Self


class Reader:
    """A file that is read piece by piece, and let go at the end of a `with`."""

    def close(self) -> None:
        """Let the file go."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
