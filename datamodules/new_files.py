"""Files that appear whole under their name at the end, or not at all."""

import contextlib
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from wavecast.core.errors import WavecastError


class NewFile:
    """A file under a temporary name beside its target, whose place it takes when it is kept.

    It is gone when it was not kept, however the program ends, unless it is killed.

    Args:
        path: of the target.
        overwrite: take the place of a file that exists.

    Attributes:
        path: of the target.
        temporary: the path to write to.
        descriptor: of the empty file there, open for reading and writing; the caller closes it.

    Raises:
        WavecastError: the target exists, or its folder does not or cannot be written.
    """

    def __init__(self, path: Path, overwrite: bool) -> None:
        self.path, self._overwrite = path, overwrite
        self._check_free()
        self.temporary = path.with_name(f".wavecast-{uuid4().hex}.part")
        # Known before the file is there: Ctrl-C may come between any two lines.
        self._remove = weakref.finalize(self, self.temporary.unlink, missing_ok=True)
        with writing(path):
            self.descriptor = os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)

    def keep(self) -> None:
        """Give the file, which is written and closed, its name.

        Raises:
            WavecastError: there is a file of that name by now, or it cannot be renamed.
        """
        self._check_free()
        with writing(self.path):
            self.temporary.replace(self.path)

    def discard(self) -> None:
        """Remove what was not kept; once is enough."""
        self._remove()

    def _check_free(self) -> None:
        if self.path.exists() and not self._overwrite:
            raise WavecastError(f"{self.path} exists", "give --overwrite, or another name with -o")


@contextlib.contextmanager
def writing(path: Path, *others: type[Exception]) -> Iterator[None]:
    """Turn what goes wrong while writing a file into an error with a cure.

    Args:
        path: the file that the error names.
        others: exceptions of a library that mean the same as those of the system.
    """
    faults: tuple[type[Exception], ...] = (OSError, *others)
    try:
        yield
    except FileNotFoundError as error:
        raise WavecastError(f"cannot write {path}: the folder {path.parent} does not exist", "make it first") from error
    except faults as error:
        reason = getattr(error, "strerror", None) or error
        raise WavecastError(f"cannot write {path}: {reason}", "check the folder and the space on it") from error
