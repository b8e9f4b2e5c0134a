"""Files that are whole, and the arrays in them, memory-mapped wherever that is possible."""

import contextlib
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from wavecast.core.errors import WavecastError

ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
DAMAGE: tuple[type[Exception], ...] = (ValueError, OverflowError, EOFError, OSError, zipfile.BadZipFile, zlib.error)
DAMAGE += (SyntaxError, tokenize.TokenError)  # numpy takes a header apart as Python
DAMAGE += (RuntimeError,)  # an archive that is encrypted, or compressed in an unknown way
CUT_OFF = "it was cut off or altered: fetch it again"


def check_file(path: Path) -> None:
    """Refuse what is no file with something in it, or ends before it says.

    Raises:
        WavecastError: it is missing, a folder, unreadable, empty or cut off.
    """
    try:
        if path.is_dir():
            raise WavecastError(f"{path} is a folder", "give a file")
        with path.open("rb") as file:
            size, promised = path.stat().st_size, _promised_bytes(file)
    except FileNotFoundError:
        raise WavecastError(f"{path} does not exist", "check the name") from None
    except OSError as error:
        raise WavecastError(f"cannot read {path}: {error.strerror}", "check its permissions") from error
    if not size:
        raise WavecastError(f"{path} is empty", "fetch or write it again")
    if promised is not None and promised > size:
        raise WavecastError(f"{path} ends too early: {size} of {promised} bytes are there", CUT_OFF)


def _promised_bytes(file: IO[bytes]) -> int | None:
    """Find out from a container how long its file must be at least; FFmpeg does not mind when the end is missing."""
    size = os.fstat(file.fileno()).st_size
    head = file.read(64)
    if head[:4] == b"RIFF":
        return 8 + int.from_bytes(head[4:8], "little")
    if head[:4] == b"GIF8":
        file.seek(max(0, size - 1024))
        return None if file.read().rstrip(b"\0").endswith(b"\x3b") else size + 1
    if head[:4] == b"\x1a\x45\xdf\xa3":
        segment = head.find(b"\x18\x53\x80\x67") + 4
        width = 9 - head[segment].bit_length() if segment > 3 and len(head) > segment else 9
        length = int.from_bytes(head[segment : segment + width], "big") & ((1 << 7 * width) - 1)
        unknown = width > 8 or length == (1 << 7 * width) - 1
        return None if unknown else segment + width + length
    if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return None
    place = 0
    while place < size:
        file.seek(place)
        box = file.read(16)
        length = int.from_bytes(box[:4], "big")
        length = int.from_bytes(box[8:16], "big") if length == 1 else length or size - place  # 0: to the end
        place += max(length, 8)
    return place


def open_array(path: Path, key: str | None = None) -> np.ndarray:
    """Open an array of a `.npy` or `.npz` file, memory-mapped unless it lies there compressed.

    Args:
        path: of the file.
        key: which array of a `.npz`; None: the only one.

    Raises:
        WavecastError: it is missing, damaged, holds Python objects, or has no such array.
    """
    check_file(path)
    with _reading_array(path):
        if path.suffix.lower() != ".npz":
            with path.open("rb") as file:
                if file.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
                    raise ValueError("it does not begin as one")
            return np.load(path, mmap_mode="r", allow_pickle=False)
        names = array_names(path)
        if key is None and len(names) == 1:
            key = names[0]
        if key is None or key not in names:
            wanted = f"no array {key!r}" if key is not None else f"{len(names)} arrays where one is wanted"
            raise WavecastError(f"{path} holds {wanted}", f"found: {', '.join(names) or 'nothing'}")
        with zipfile.ZipFile(path) as archive:
            return _open_member(path, archive, archive.getinfo(f"{key}.npy"))


def array_names(path: Path) -> list[str]:
    """List the arrays of a `.npz` file.

    Raises:
        WavecastError: it is damaged.
    """
    with _reading_array(path), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


@contextlib.contextmanager
def _reading_array(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        reason = str(error).splitlines()[0].lower() if str(error) else "it ends too early"
        raise WavecastError(f"{path} is no array that can be read: {reason}", CUT_OFF) from error


def _open_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(file)
        begin = file.tell()
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which may run code")
        if begin + prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(f"{member.filename} has {member.file_size} bytes, which do not fit its shape {shape}")
        order: Any = "F" if by_columns else "C"
        if member.compress_type != zipfile.ZIP_STORED or not prod(shape):
            return np.frombuffer(file.read(), dtype).reshape(shape, order=order)
    with path.open("rb") as whole:
        whole.seek(member.header_offset + 26)
        names = sum(struct.unpack("<HH", whole.read(4)))
    return np.memmap(path, dtype, "r", member.header_offset + 30 + names + begin, shape, order)
