"""The official MossFormer2_SE_48K weights: from their names to ours.

    tensors = unwrap(torch.load(path, weights_only=True))
    network = MossFormer2Enhancer(**hyperparameters(tensors))
    network.load_state_dict(convert_state(tensors))

The official network predicts two masks and uses the first: the half of `conv1d_out` that makes the second is dropped.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wavecast.apps.enhancement.mossformer2_48k import MossFormer2Enhancer
from wavecast.apps.separation.mossformer2_official import (
    converted,
    count_layers,
    mask_constants,
    mask_names,
    plainly_named,
)

LIVE_PARAMETERS = 54_999_498
DEAD_PARAMETERS = 262_656
PREFIX = "mossformer."
SPLIT = "masks.function.split."
"""The layer of which half is never used, below our network of masks."""
HINT = "the file is not MossFormer2_SE_48K of ClearerVoice-Studio, or it is damaged"


def hyperparameters(official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read off the file what it tells of the network: its layers. Everything else is as published."""
    return {"layers": count_layers(official)}


def convert_state(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of an official file to a state dict of `MossFormer2Enhancer(**hyperparameters(official))`.

    Args:
        official: tensors by their official names, unwrapped; prefixes `module.` are allowed.

    Returns:
        A state dict that loads strictly.

    Raises:
        WavecastError: tensors are missing, unknown or misshapen (the first few are listed with expected and found
            shapes), or stored positions are not those of the network.
    """
    tensors, options = plainly_named(official), hyperparameters(official)
    with torch.device("meta"):
        ours = {name: tuple(tensor.shape) for name, tensor in MossFormer2Enhancer(**options).state_dict().items()}
    names = mask_names(PREFIX, PREFIX, options["layers"], memory="plain")
    halves = {name for name in names if name.startswith(PREFIX + SPLIT)}
    theirs = {name: (2 * shape[0], *shape[1:]) if name in halves else shape for name, shape in ours.items()}
    constants = mask_constants(PREFIX, options["layers"])
    state = converted(tensors, names, theirs, constants, "MossFormer2_SE_48K", HINT)
    return {name: tensor[: len(tensor) // 2].clone() if name in halves else tensor for name, tensor in state.items()}
