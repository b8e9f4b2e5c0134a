"""Tensors of official files: out of their wrappers, under one name each, and checked against what a network needs."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from wavecast.core.errors import WavecastError, listed

if TYPE_CHECKING:
    from torch import Tensor

HINT = "the file is not an official one of this network, or it is damaged"


def unwrap(checkpoint: Any, hint: str = HINT) -> "dict[str, Tensor]":
    """Find the tensors in what an official file holds: {"model": ...}, {"state_dict": {"model. ...": ...}} or bare.

    Raises:
        WavecastError: it holds no named tensors.
    """
    from torch import Tensor

    if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get("model"), Mapping):
        checkpoint = checkpoint["model"]
    elif isinstance(checkpoint, Mapping) and isinstance(checkpoint.get("state_dict"), Mapping):
        checkpoint = {name.removeprefix("model."): tensor for name, tensor in checkpoint["state_dict"].items()}
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise WavecastError("the checkpoint holds no named tensors", hint)
    strange = [str(name) for name, tensor in checkpoint.items() if not isinstance(tensor, Tensor)]
    if strange:
        raise WavecastError(f"the checkpoint holds more than tensors: {listed(strange)}", hint)
    return dict(checkpoint)


def once_each(named: "Iterable[tuple[str, Tensor]]", hint: str = HINT) -> "dict[str, Tensor]":
    """Collect tensors of which some are there twice, under two names that mean the same.

    Raises:
        WavecastError: two tensors of one name differ.
    """
    import torch

    tensors: dict[str, Tensor] = {}
    for name, tensor in named:
        if name in tensors and not torch.equal(tensors[name], tensor):
            raise WavecastError(f"{name} is there twice, with different values", hint)
        tensors[name] = tensor
    return tensors


def check(
    tensors: "Mapping[str, Tensor]",
    expected: Mapping[str, tuple[int, ...]],
    optional: Mapping[str, tuple[int, ...]],
    network: str,
    hint: str = HINT,
) -> None:
    """Compare names and shapes strictly.

    Args:
        tensors: of the file, by their official names.
        expected: shapes of what must be there.
        optional: shapes of what may be there.
        network: whose tensors they are, for the message.
        hint: what to do when they do not fit.

    Raises:
        WavecastError: anything is missing, unknown or of another shape.
    """
    known = {**expected, **optional}
    faults = [f"{name} {shape} is missing" for name, shape in expected.items() if name not in tensors]
    faults += [f"{name} {tuple(tensor.shape)} is unknown" for name, tensor in tensors.items() if name not in known]
    faults += [
        f"{name} is {tuple(tensor.shape)}, expected {known[name]}"
        for name, tensor in tensors.items()
        if name in known and tuple(tensor.shape) != known[name]
    ]
    if faults:
        raise WavecastError(f"{len(faults)} tensors do not fit {network}: {listed(faults)}", hint)


def check_constants(
    tensors: "Mapping[str, Tensor]",
    constants: "Mapping[str, Tensor]",
    reason: str,
    hint: str = HINT,
    tolerance: float = 1e-6,
) -> None:
    """Compare those constants of a network that a file stores with what they must be.

    Args:
        tensors: of the file.
        constants: as the architecture defines them.
        reason: completes the message "NAME is not ...".
        hint: what to do when they differ.
        tolerance: largest difference that is rounding.

    Raises:
        WavecastError: one differs.
    """
    import torch

    for name, constant in constants.items():
        if name in tensors and not torch.allclose(tensors[name].float(), constant, rtol=0, atol=tolerance):
            raise WavecastError(f"{name} is not {reason}", hint)
