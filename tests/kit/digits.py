"""Files as MNIST's, of squares instead of digits."""

import gzip
import struct
from pathlib import Path

import numpy as np


def write_digits(folder: Path, name: str = "train-images-idx3-ubyte.gz", count: int = 12, first: int = 100) -> None:
    """Write images of squares, number k as bright as `first` + k."""
    folder.mkdir(exist_ok=True)
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 8:20, 8:20] = first + np.arange(count, dtype=np.uint8)[:, None, None]
    (folder / name).write_bytes(gzip.compress(struct.pack(">4I", 0x803, count, 28, 28) + images.tobytes()))
