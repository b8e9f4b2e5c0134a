"""Deep FSMN layers against recorded outputs of MossFormer2's, both forms of the memory, in float64.

Recorded from clearvoice 0.1.2 (Apache-2.0): its layers for 6 channels, 8 hidden, order 3, with seeded weights.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kit.streaming import run
from wavecast.core.fsmn import DeepFSMN, DilatedDense, Memory

ORDER = 3


def recorded(name: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Give the input, and the weights and the output of one layer under its official names."""
    with np.load(Path(__file__).parent / "deep_fsmn.npz") as file:
        tensors = {key: torch.from_numpy(file[key]).double() for key in file.files}
    return tensors["input"], {key.split("|")[1]: value for key, value in tensors.items() if key.startswith(f"{name}|")}


def linear_layers(official: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "inner.project.function.0.weight": official["linear.weight"],
        "inner.project.function.0.bias": official["linear.bias"],
        "inner.project.function.2.weight": official["project.weight"],
    }


@torch.no_grad()
def test_the_memory_of_both_sides_is_the_published_one_whole_and_streamed() -> None:
    x, official = recorded("plain")
    layer = DeepFSMN(6, 8, Memory(6, ORDER, ORDER - 1)).double()
    taps = official["conv1.weight"][:, 0, :, 0]
    memory = {"inner.memory.weight": taps[:, :ORDER], "inner.memory.ahead": taps[:, ORDER:]}
    layer.load_state_dict(linear_layers(official) | memory)
    torch.testing.assert_close(layer(x)[0], official["output"], rtol=0, atol=1e-12)
    torch.testing.assert_close(run(layer, x, [1, 2, 9, 30])[0], official["output"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("depth", [2, 3])
@torch.no_grad()
def test_the_dilated_dense_memory_is_the_published_one(depth: int) -> None:
    x, official = recorded(f"dilated{depth}")
    layer = DeepFSMN(6, 8, DilatedDense(6, ORDER, depth)).double()
    state = linear_layers(official)
    for i in range(depth):
        path = f"inner.memory.layer{i}" + (".new" if i < depth - 1 else "")
        state[f"{path}.convolution.weight"] = official[f"conv.conv{i + 1}.weight"][..., 0]
        state[f"{path}.norm.weight"] = official[f"conv.norm{i + 1}.weight"]
        state[f"{path}.norm.bias"] = official[f"conv.norm{i + 1}.bias"]
        state[f"{path}.rectify.function.weight"] = official[f"conv.prelu{i + 1}.weight"]
    layer.load_state_dict(state)
    torch.testing.assert_close(layer(x)[0], official["output"], rtol=0, atol=1e-12)
