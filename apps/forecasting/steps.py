"""From the past to the future, step by step: where forecasting networks are run, to train and to forecast.

Two kinds of networks are known. A network that streams (ConvS5) forecasts the next frame at every step, and its output
is its next input. A network that needs its whole window (PredFormer) forecasts as many frames as it sees, and the
window moves on. What is known ahead (hours, seasons, places) goes in beside the fields, in the future too.

Axes: batch time row col channel.
"""

from collections.abc import Callable, Iterator
from math import inf

import torch
from torch import Tensor
from torch.nn import functional

from wavecast.core.block import Block
from wavecast.core.stream import flushed_denormals

Known = Callable[[int, int], Tensor]
"""Gives what is known ahead from one instant to before another, counted from the first of the history."""


def forecast(network: Block, past: Tensor, known: Tensor, steps: int, increments: bool = False) -> Tensor:
    """Forecast the steps that follow; differentiable, so that training runs what forecasting runs.

    Args:
        network: `multiple` of its rows and columns fill it.
        past: (batch, history, row, col, channel), standardized.
        known: (batch, history + steps, row, col, extra), what is known ahead; it may have no channels.
        steps: to forecast.
        increments: whether the network's output is what is added to the last frame that it saw.

    Returns:
        (batch, steps, row, col, channel).
    """
    return torch.cat([*pieces(network, past, known_from(known), steps, increments)], 1)


def pieces(network: Block, past: Tensor, known: Known, steps: int, increments: bool = False) -> Iterator[Tensor]:
    """Forecast like `forecast`, and give each piece when it is done: (batch, some steps, row, col, channel).

    What is known ahead is asked for step by step, so that a long forecast needs no more memory than a short one.
    """
    run = windows if network.lookahead == inf else frames
    return run(network, past, known, steps, increments)


def known_from(planes: Tensor) -> Known:
    """Give what is known ahead from planes of all instants, (batch, history + steps, row, col, extra)."""

    def between(first: int, stop: int) -> Tensor:
        return planes[:, first:stop]

    return between


def taught(network: Block, x: Tensor, known: Tensor, increments: bool = False) -> Tensor:
    """Forecast every frame but the first from the true ones before it, in one pass (teacher forcing).

    Args:
        network: one that streams.
        x: (batch, time, row, col, channel), standardized.
        known: (batch, time, row, col, extra).
        increments: see `forecast`.

    Returns:
        (batch, time - 1, row, col, channel): forecasts of x[:, 1:].
    """
    past = x[:, :-1]
    y, _ = network(filled(torch.cat([past, known[:, :-1]], -1), network))
    y = y[:, :, : x.shape[2], : x.shape[3]]
    return y + past if increments else y


def frames(network: Block, past: Tensor, known: Known, steps: int, increments: bool) -> Iterator[Tensor]:
    """Forecast frame by frame with a network that streams."""
    x, state, seen = past, None, 0
    for _ in range(steps):
        here = torch.cat([x, known(seen, seen + x.shape[1])], -1)
        with flushed_denormals():
            y, state = network(filled(here, network), state, last=False)
        y = y[:, -1:, : past.shape[2], : past.shape[3], : past.shape[4]]
        seen += x.shape[1]
        x = y + x[:, -1:] if increments else y
        yield x


def windows(network: Block, past: Tensor, known: Known, steps: int, increments: bool) -> Iterator[Tensor]:
    """Forecast window by window with a network that needs whole ones."""
    history, done = past.shape[1], 0
    while done < steps:
        here = torch.cat([past, known(done, done + history)], -1)
        with flushed_denormals():
            y, _ = network(filled(here, network))
        y = y[:, :, : past.shape[2], : past.shape[3], : past.shape[4]]
        y = (y + past[:, -1:] if increments else y)[:, : steps - done]
        done += y.shape[1]
        past = torch.cat([past, y], 1)[:, -history:]
        yield y


def filled(x: Tensor, network: Block) -> Tensor:
    """Repeat the last row and column until the network's multiples are full."""
    multiple = int(network.multiple)
    below, right = -x.shape[2] % multiple, -x.shape[3] % multiple
    if not (below or right):
        return x
    planes = functional.pad(x.flatten(0, 1).permute(0, 3, 1, 2), (0, right, 0, below), mode="replicate")
    return planes.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])
