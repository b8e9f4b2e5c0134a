"""Flax checkpoints without jax: one MessagePack map of nested names, with arrays as extension values.

Parsing runs no code, and what a file can make it allocate is bounded by the size of the file.
"""

import math
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from wavecast.core.errors import WavecastError

MOST_BYTES = 4 << 30
MOST_ITEMS = 200_000  # names and list entries of a file: optimizer states triple a few hundred parameters
MOST_SIBLINGS = 4096
MOST_LETTERS = 1024
MOST_AXES = 8
ARRAY, SCALAR = 1, 3  # flax's extension types; 2 is a complex number, of which a network has none
DTYPES = ("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "uint32", "bool")
HINT = "the file is no flax checkpoint, or it is damaged"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file that `flax.training.checkpoints` wrote.

    Args:
        path: of the file.

    Returns:
        Nested dicts with arrays at the ends; see `parse`.

    Raises:
        WavecastError: the file cannot be read, is no such checkpoint, is damaged, or is larger than 4 GiB.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise WavecastError(f"{path} has {size} bytes, more than {MOST_BYTES}", HINT)
        data = path.read_bytes()
    except OSError as error:
        raise WavecastError(f"{path} cannot be read: {error.strerror}", "check the path") from error
    return parse(data)


def parse(data: bytes) -> dict[str, Any]:
    """Parse a checkpoint.

    Returns:
        Nested dicts with arrays at the ends: read-only, bfloat16 widened to float32, scalars without axes.

    Raises:
        WavecastError: it is damaged, holds more than a checkpoint does, or is no map.
    """
    items = 0

    def count(more: int) -> None:
        nonlocal items
        items += more
        if items > MOST_ITEMS:
            raise WavecastError(f"the checkpoint has more than {MOST_ITEMS} entries", HINT)

    def mapping(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
        count(len(pairs))
        found = dict(pairs)
        strange = [str(name) for name in found if not isinstance(name, str)]
        if strange or len(found) < len(pairs):
            raise WavecastError("the checkpoint has an entry twice, or one without a name", HINT)
        return found

    def sequence(entries: list[Any]) -> list[Any]:
        count(len(entries))
        return entries

    try:
        tree = msgpack.unpackb(
            data,
            object_pairs_hook=mapping,
            list_hook=sequence,
            ext_hook=extension,
            max_str_len=MOST_LETTERS,
            max_array_len=MOST_SIBLINGS,
            max_map_len=MOST_SIBLINGS,
        )
    except (msgpack.exceptions.UnpackException, ValueError, TypeError, OverflowError, RecursionError) as error:
        reason = shown(str(error) or type(error).__name__)
        raise WavecastError(f"the checkpoint cannot be parsed: {reason}", HINT) from error
    if not isinstance(tree, dict):
        raise WavecastError(f"the checkpoint holds a {type(tree).__name__}, no named parameters", HINT)
    return tree


def extension(code: int, data: bytes) -> np.ndarray:
    """Decode an extension value: an array, or a scalar as an array without axes.

    Raises:
        WavecastError: it is of another type, or shape, dtype and bytes do not fit together.
    """
    if code not in (ARRAY, SCALAR):
        raise WavecastError(f"the checkpoint has a value of the unknown type {code}", HINT)
    parts = msgpack.unpackb(data, raw=True, max_array_len=MOST_AXES, max_map_len=0, max_ext_len=0)
    if not isinstance(parts, list) or len(parts) != 3:
        raise WavecastError("the checkpoint has an array that is not shape, dtype and bytes", HINT)
    shape, dtype, content = parts
    name = dtype.decode("ascii", "replace") if isinstance(dtype, bytes) else ""
    if name not in DTYPES:
        raise WavecastError(f"the checkpoint has an array of dtype {shown(name)}", HINT)
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise WavecastError(f"the checkpoint has an array of shape {shown(str(shape))}", HINT)
    stored = np.dtype("uint16" if name == "bfloat16" else name)
    expected = math.prod(shape) * stored.itemsize
    if not isinstance(content, bytes) or len(content) != expected:
        found = len(content) if isinstance(content, bytes) else 0
        raise WavecastError(f"an array {tuple(shape)} of {name} has {found} bytes, expected {expected}", HINT)
    array = np.frombuffer(content, stored).reshape(shape)
    # bfloat16 is the upper half of a float32.
    return (array.astype(np.uint32) << 16).view(np.float32) if name == "bfloat16" else array


def shown(text: str, most: int = 80) -> str:
    """Make text out of a file fit for a message: one line, printable, short."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= most else text[:most] + "..."
