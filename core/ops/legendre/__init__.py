"""Legendre memory with its readout: m[t] = A m[t-1] + B u[t], y[t] = R m[t].

Fused with the readout, the memory is never kept over time. A sequence that begins at rest is a product of its input's
windows with the readout's impulse response R A^k B, which dies away; one that goes on from a memory is computed in
chunks. `legendre` is the entry, `respond` the one for a response that is cut short; `reference` is the definition,
`cpu` and `triton` compute it.
"""

from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from wavecast.core.ops.backends import choose, form
from wavecast.core.ops.legendre.cpu import CHUNK, chunks

__all__ = ["CHUNK", "legendre", "respond"]


def legendre(
    u: Tensor,
    response: Tensor,
    powers: Tensor,
    readout: Tensor | None = None,
    initial: Tensor | None = None,
    *,
    settled: bool = False,
) -> tuple[Tensor, Tensor]:
    """Drive memories by u and read them out.

    Args:
        u: (batch, time); zero steps are legal.
        response: (taps, order), A^k B for k = 0, 1 ..., CHUNK of them at least; fp32 or fp64, in which all is computed.
        powers: (count, order, order), A, A^2, A^4 ... up to A^(CHUNK / 2).
        readout: (output, order), R; None: the memory itself is the output.
        initial: (batch, order), the memory before the first step; zeros when None.
        settled: whether A^k B is nothing from k = taps on.

    Returns:
        y: (batch, time, output), in u's dtype.
        last: (batch, order), the memory after the last step, in the response's dtype; an own copy.

    Raises:
        ValueError: shapes that do not fit.
    """
    check(u, response, readout)
    if len(response) < CHUNK or 2 ** len(powers) < CHUNK or powers.shape[1:] != 2 * response.shape[1:]:
        raise ValueError(
            f"a response {tuple(response.shape)} with powers {tuple(powers.shape)}\n"
            f"hint: {CHUNK} steps of the response at least, and A, A^2, A^4 ... up to A^{CHUNK // 2}"
        )
    if initial is not None and initial.shape != (len(u), response.shape[1]):
        raise ValueError(
            f"the initial memory is {tuple(initial.shape)}\nhint: give (batch, order), {(len(u), response.shape[1])}"
        )
    time, order = u.shape[1], response.shape[1]
    with torch.autocast(u.device.type, enabled=False):
        if initial is None and (settled or time <= len(response)) and time:
            part = response[:time]
            y = respond(functional.pad(u, (len(part) - 1, 0)), part, readout)
            return y, u[:, -len(part) :].to(part.dtype) @ part.flip(0)
        initial = response.new_zeros(len(u), order) if initial is None else initial.to(response.dtype)
        y, last = chunks(u.to(response.dtype), response, powers, as_response(readout, response), initial)
    return y.to(u.dtype), last


def respond(x: Tensor, response: Tensor, readout: Tensor | None = None) -> Tensor:
    """Read out memories whose impulse response ends after some taps: each window of so many steps by itself.

        y[t] = sum over k of R response[k] x[t + taps - 1 - k]

    Args:
        x: (batch, taps - 1 + time), the input and what came before it.
        response: (taps, order), fp32 or fp64, in which it is computed.
        readout: (output, order); None: the memory itself is the output.

    Returns:
        (batch, time, output), in x's dtype.

    Raises:
        ValueError: shapes that do not fit.
    """
    check(x, response, readout)
    with torch.autocast(x.device.type, enabled=False):
        y = backend(response).respond(x.to(response.dtype), response, as_response(readout, response))
    return y.to(x.dtype)


def as_response(readout: Tensor | None, response: Tensor) -> Tensor | None:
    """Give the readout in the response's dtype."""
    return None if readout is None else readout.to(response.dtype)


def backend(response: Tensor) -> ModuleType:
    """Choose who computes: the Triton kernels for CUDA tensors of fp32 where Triton is installed, else plain torch."""
    return choose("legendre", response) if response.dtype == torch.float32 else form("legendre", "cpu")


def check(x: Tensor, response: Tensor, readout: Tensor | None) -> None:
    """Refuse arguments that do not fit together."""
    if x.ndim != 2:
        raise ValueError(f"the input is {tuple(x.shape)}\nhint: give (batch, time); channels are rows of the batch")
    if response.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the response is {response.dtype}\nhint: give fp32 or fp64, the input may be less")
    if readout is not None and readout.shape[1:] != response.shape[1:]:
        raise ValueError(
            f"the readout {tuple(readout.shape)} and the response {tuple(response.shape)} do not fit\n"
            "hint: (output, order) and (taps, order)"
        )
