"""States: what a block remembers between two pieces of one sequence.

A state is a pytree of tensors with the batch on axis 0 and nothing else: frozen dataclasses in leaf blocks, tuples in
groups, `()` in a stateless block. Positions and counts are int64 tensors of shape (batch,). Its shapes alone tell how
far the warm-up has come, so rows whose state shapes agree may be batched, and only those.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, dataclass_transform

import torch
from torch import Tensor
from torch.utils._pytree import register_dataclass, tree_flatten, tree_map

State = Any
"""`None` (the sequence begins), a pytree of tensors, or `Ended()`."""

Class = TypeVar("Class", bound=type)


@dataclass_transform(frozen_default=True)
def state(cls: Class) -> Class:
    """Make a class of tensors a state: a frozen dataclass that tree_map, export and compile know."""
    made: Any = dataclass(frozen=True)(cls)
    register_dataclass(made, field_names=[field.name for field in fields(made)])
    return made


@state
class Ended:
    """What a block hands back after `last=True`: it holds no tensor, and no block accepts it."""


@state
class Tail:
    """Input that later output still needs.

    past: (batch, time, ...); its length tells where in the warm-up the sequence is.
    """

    past: Tensor


def own(x: Tensor) -> Tensor:
    """Copy a slice contiguously: a view would keep its whole chunk alive, in odd strides."""
    return x.clone(memory_format=torch.contiguous_format)


def gather(state: State, rows: Tensor | Sequence[int]) -> State:
    """Take rows of a state, in any order and number: indices of shape (rows,), or a mask of shape (batch,)."""
    index = torch.as_tensor(rows)
    return tree_map(lambda leaf: leaf[index.to(leaf.device)], state)


def stack(states: Sequence[State]) -> State:
    """Join states of several streams along the batch.

    Raises:
        ValueError: the streams are at different points of their warm-up.
    """
    shapes = [[tuple(leaf.shape[1:]) for leaf in leaves(one)] for one in states]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            f"states of different shapes cannot be stacked: {shapes}\n"
            "hint: run streams that are still warming up on their own until their state shapes agree"
        )
    return tree_map(lambda *parts: torch.cat(parts), *states)


def detach(state: State) -> State:
    """Cut the gradient at this point of the sequence."""
    return tree_map(Tensor.detach, state)


def to(state: State, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
    """Move a state to a device, and its floating leaves to a dtype; counts stay int64."""

    def move(leaf: Tensor) -> Tensor:
        return leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None)

    return tree_map(move, state)


def leaves(state: State) -> list[Tensor]:
    """List the tensors of a state in a fixed order: what to save, export or count."""
    return tree_flatten(state)[0]
