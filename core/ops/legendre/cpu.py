"""The Legendre memory in plain torch: matrix products, for CPUs and for whatever has no kernel of its own.

On one thread (`scripts/bench/legendre.py`; order 256 over 128 steps, read out to 256) the product of windows with the
impulse response comes near what the processor's best rate allows. An FFT takes up to a third less where sequences are
no longer than the response, so that half of the windows is zero, and half as much again beyond. Chunks of one memory
that goes on take a quarter of the time of single steps; of many at once, about as long.
"""

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 128
"""Steps computed at a time where a memory goes on; a power of two."""


def respond(x: Tensor, response: Tensor, readout: Tensor | None) -> Tensor:
    """Multiply the windows of x with the impulse response of the readout; see the operator for the arguments."""
    taps = len(response)
    windows = x.unfold(1, taps, 1) if x.shape[1] >= taps else x.new_zeros(len(x), 0, taps)
    rows, oldest_first = windows.reshape(-1, taps), response.flip(0)
    # Many windows are read out by the response of the readout, few by way of their memories: by what costs less.
    y = rows @ oldest_first if readout is None else torch.linalg.multi_dot([rows, oldest_first, readout.T])
    return y.unflatten(0, windows.shape[:2])


def chunks(
    u: Tensor, response: Tensor, powers: Tensor, readout: Tensor | None, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute CHUNK steps at a time: what the memory becomes by itself, and what the input adds.

    Args:
        u: (batch, time).
        response: (taps, order), of CHUNK steps at least.
        powers: (count, order, order), A, A^2, A^4 ...
        readout: (output, order) or None.
        memory: (batch, order), before the first step.

    Returns:
        y: (batch, time, output), and the memory after the last step: (batch, order), an own copy.
    """
    pieces = []
    for piece in u.split(CHUNK, 1):
        m = unforced(memory, powers, piece.shape[1])
        if piece.shape[1]:
            m = m + driven(piece, response)
            memory = m[:, -1]
        pieces.append(m if readout is None else m @ readout.T)
    return torch.cat(pieces, 1), memory.clone()


def unforced(memory: Tensor, powers: Tensor, steps: int) -> Tensor:
    """Compute A^k memory for k = 1 ... steps, twice as many with every product: (batch, steps, order)."""
    m = (memory @ powers[0].T)[:, None]
    for power in powers:
        if m.shape[1] >= steps:
            break
        m = torch.cat([m, m[:, : steps - m.shape[1]] @ power.T], 1)
    return m[:, :steps]


def driven(u: Tensor, response: Tensor) -> Tensor:
    """Compute what a memory at rest makes of u, (batch, steps), in one step or in many: (batch, steps, order)."""
    steps = u.shape[1]
    if steps == 1:
        return u[..., None] * response[0]
    return respond(functional.pad(u, (steps - 1, 0)), response[:steps], None)


def sum_diagonals(x: Tensor) -> Tensor:
    """Give y[s] = sum over j of x[s - j, j]: (batch, time, taps) to (batch, time + taps - 1)."""
    batch, time, taps = x.shape
    # With the last axis turned around and zeros on both sides, y[s] = sum over i of z[s + i, i].
    z = functional.pad(x.flip(2), (0, 0, taps - 1, taps - 1))
    return z.as_strided((batch, time + taps - 1, taps), (z.stride(0), taps, taps + 1)).sum(2)
