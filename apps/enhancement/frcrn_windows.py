"""What is FRCRN's own on signals of any length: the level that it is given them at, and the memory of a pass.

Levels are those of the official decoder, without its faults: silence stays silence. Windows are `core/windows.py`'s,
by the plan that the network carries.
"""

from collections.abc import Callable, Iterable

import numpy as np

LEVEL = 10 ** (-25 / 20)
"""The level that the official decoder brings speech to, as RMS."""
FIXED_BYTES, BYTES_PER_SECOND = 700e6, 24e6
"""Peak memory of one pass, measured: a process with the network loaded, and what each second adds."""


def pass_bytes(seconds: float) -> int:
    """Estimate the peak memory of a process that enhances that many seconds in one pass."""
    return int(FIXED_BYTES + BYTES_PER_SECOND * seconds)


def official_gain(blocks: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
    """Measure the gain that brings each channel to the official level; reads the signal twice.

    The level is the RMS of the samples louder than the RMS of all, so that pauses do not count.

    Args:
        blocks: gives the signal anew on every call, in blocks (channels, samples), at its original rate.

    Returns:
        (channels,) float64; finite for silence and for signals of constant magnitude too.
    """
    count, power = 0, np.zeros(0)
    for block in blocks():
        count, power = count + block.shape[1], _added(power, np.square(block, dtype=np.float64).sum(1))
    power = power / max(count, 1)
    loud, loud_power = np.zeros_like(power), np.zeros_like(power)
    for block in blocks():
        squares = np.square(block, dtype=np.float64)
        above = squares > power[:, None]
        loud += above.sum(1)
        loud_power += np.where(above, squares, 0).sum(1)
    first = LEVEL / (np.sqrt(power) + 1e-6)
    level = np.sqrt(np.where(loud > 0, loud_power / np.maximum(loud, 1), power))
    return first * LEVEL / (first * level + 1e-6)


def _added(total: np.ndarray, block: np.ndarray) -> np.ndarray:
    return block if not total.size else total + block
