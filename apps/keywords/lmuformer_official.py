"""The official LMUFormer weights, plain and spiking: from their names to ours.

    tensors = unwrap(torch.load(path, weights_only=True))
    network = LMUFormer(**hyperparameters(tensors))                # or SpikingLMUFormer
    network.load_state_dict(convert_state(tensors))

The authors' code saves a network wrapped for several devices, so that names begin with `module.`, and with it the
constants of its Legendre memory, which are compared with ours and dropped. Everything that is missing, unknown or of
another shape is an error.

The files lie on a private drive and not on a hub: `wavecast models convert FILE` takes them, none can be pulled.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavecast.apps.keywords.lmuformer import HOP, LAYERS, SAMPLE_RATE, LMUFormer
from wavecast.apps.keywords.spiking_lmuformer import SpikingLMUFormer
from wavecast.cards import Card, sha256
from wavecast.core.errors import WavecastError, listed
from wavecast.core.legendre import impulse_response, legendre_matrices
from wavecast.official import UNVERIFIED
from wavecast.official_state import check, check_constants, once_each

HINT = "the file is not an LMUFormer of the authors' code (plain, or spiking with membrane shortcuts), or it is damaged"
NUMBER = re.compile(r"block\.(\d+)\.")
THETA = 128
"""Frames of the memory, and of a clip, in the authors' code."""
LATENCY = 80.0
"""Milliseconds: samples come by the hop, a frame is 25 ms, and 5 frames are looked ahead."""
ROUNDED = 1e-3
"""How far the file's constants may be from ours: it has them from single precision, their spectrum is a sum of 128."""
SPEECH_COMMANDS: tuple[str, ...] = (
    *("backward", "bed", "bird", "cat", "dog", "down", "eight", "five", "follow", "forward", "four", "go", "happy"),
    *("house", "learn", "left", "marvin", "nine", "no", "off", "on", "one", "right", "seven", "sheila", "six", "stop"),
    *("three", "tree", "two", "up", "visual", "wow", "yes", "zero"),
)
"""The words of Speech Commands v2, in the order of the alphabet, as its folders lie."""
EMBEDDING = {
    **{f"embedding.layer{i}.convolution": f"patch_embed.conv_layers.{i}.0" for i in range(LAYERS)},
    **{f"embedding.layer{i}.norm.function": f"patch_embed.conv_layers.{i}.3" for i in range(LAYERS)},
    "embedding.position.inner": "patch_embed.rpe_conv",
    "head.function": "head",
}
BLOCK = {
    "memory.inner.unit.encode": "attn.lmu.W_u",
    "memory.inner.unit.read": "attn.lmu.W_h",
    "memory.inner.project.function": "attn.proj_conv",
    "memory.inner.norm.function": "attn.proj_bn",
    "mixer.inner.expand.function": "mlp.fc1_conv",
    "mixer.inner.norm1.function": "mlp.fc1_bn",
    "mixer.inner.contract.function": "mlp.fc2_conv",
    "mixer.inner.norm2.function": "mlp.fc2_bn",
}
SPIKING_EMBEDDING = {
    "embedding.layer0.convolution": "patch_embed.proj_conv",
    "embedding.layer0.spikes.norm.function": "patch_embed.proj_bn",
    **{f"embedding.layer{i}.convolution": f"patch_embed.proj_conv{i}" for i in range(1, LAYERS - 1)},
    **{f"embedding.layer{i}.spikes.norm.function": f"patch_embed.proj_bn{i}" for i in range(1, LAYERS - 1)},
    "embedding.last": f"patch_embed.proj_conv{LAYERS - 1}",
    "embedding.position.inner.spikes.norm.function": f"patch_embed.proj_bn{LAYERS - 1}",
    "embedding.position.inner.convolution": "patch_embed.rpe_conv",
    "head.spikes.norm.function": "head_bn",
    "head.linear.function": "head",
}
SPIKING_BLOCK = {
    "memory.inner.spikes1.norm.function": "attn.prev_bn",
    "memory.inner.unit.remembered.encode.function": "attn.lmu.W_u",
    "memory.inner.unit.remembered.spikes1.norm.function": "attn.lmu.bn_u",
    "memory.inner.unit.remembered.spikes2.norm.function": "attn.lmu.bn_m",
    "memory.inner.read.function": "attn.lmu.W_h",
    "memory.inner.spikes2.norm.function": "attn.lmu.bn_h",
    "memory.inner.project.function": "attn.proj_conv",
    "memory.inner.norm.function": "attn.proj_bn",
    "mixer.inner.spikes1.norm.function": "mlp.fc1_bn",
    "mixer.inner.expand.function": "mlp.fc1_conv",
    "mixer.inner.spikes2.norm.function": "mlp.fc2_bn",
    "mixer.inner.contract.function": "mlp.fc2_conv",
}
POINTWISE = ("attn.proj_conv.weight", "mlp.fc1_conv.weight", "mlp.fc2_conv.weight")
"""Convolutions over single frames, which are linear layers here."""


NETWORKS = {
    "lmuformer": (LMUFormer, EMBEDDING, BLOCK),
    "spiking_lmuformer": (SpikingLMUFormer, SPIKING_EMBEDDING, SPIKING_BLOCK),
}
"""By architecture: its class, and its modules by their official names, outside of the blocks and in each."""


def card_of(path: Path, official: Mapping[str, Tensor]) -> Card:
    """Make the card of an official file, named after it, without hyper-parameters.

    Raises:
        WavecastError: the tensors do not tell how many words they tell apart.
    """
    architecture, classes = architecture_of(official), hyperparameters(official)["classes"]
    words, order = (
        SPEECH_COMMANDS,
        "are assumed: Speech Commands in the order of the alphabet, not verified",
    )
    if classes != len(words):
        words, order = tuple(f"class{i}" for i in range(classes)), "are not in the file: name its classes here"
    return Card(
        f"{architecture}.{path.stem}",
        architecture,
        "spot",
        {},
        SAMPLE_RATE,
        classes=words,
        block=HOP,
        latency_ms=LATENCY,
        license="of its authors",
        origin=f"{path.name} of sha256 {sha256(path)}, in the format of the authors' code; {UNVERIFIED}",
        notes=f"LMUFormer of github.com/zeyuliu1037/LMUFormer. Its words {order}. It was trained on clips of one word, "
        "filled up with zeros in place of features: it knows neither silence nor other speech.",
    )


def architecture_of(official: Mapping[str, Tensor]) -> str:
    """Tell the spiking network, which alone has a normalization before its head, from the plain one."""
    return "spiking_lmuformer" if "head_bn.weight" in plainly_named(official) else "lmuformer"


def convert_state(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of an official file to a state dict of the network that `hyperparameters` describes.

    Args:
        official: tensors by their official names, unwrapped; prefixes `module.` are allowed.

    Returns:
        A state dict that loads strictly.

    Raises:
        WavecastError: tensors are missing, unknown or misshapen (the first few are listed with expected and found
            shapes), or the stored constants are not those of the memory.
    """
    tensors, options, architecture = plainly_named(official), hyperparameters(official), architecture_of(official)
    names, shapes = renamed(architecture, options)
    constants = memory_constants(options["order"], options["depth"])
    optional = {name: tuple(constant.shape) for name, constant in constants.items()}
    check(tensors, official_shapes(architecture, options), optional, NETWORKS[architecture][0].__name__, HINT)
    check_constants(tensors, constants, f"that of a Legendre memory over {THETA} frames", HINT, ROUNDED)
    return {ours: tensors[theirs].reshape(shapes[ours]) for ours, theirs in names.items()}


def official_shapes(architecture: str, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """List the names and shapes of an official file; no constants."""
    names, shapes = renamed(architecture, options)
    expected = {theirs: shapes[ours] for ours, theirs in names.items()}
    pointwise = [name for name in expected if name.endswith(POINTWISE)]
    return expected | {name: (*expected[name], 1) for name in pointwise}


def renamed(architecture: str, options: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Map our names to the official ones, and to our shapes."""
    network, modules, block = NETWORKS[architecture]
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in network(**options).state_dict().items()}
    modules = dict(modules)
    for i in range(options["depth"]):
        modules |= {f"blocks.{i}.{ours}": f"block.{i}.{theirs}" for ours, theirs in block.items()}
    split = (name.rpartition(".") for name in shapes)
    return {f"{module}.{kind}": f"{modules[module]}.{kind}" for module, _, kind in split}, shapes


def hyperparameters(official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read off the file what it tells of the network: everything but the memory's theta, which is as published.

    Raises:
        WavecastError: tensors that tell of it are missing.
    """
    tensors = plainly_named(official)
    first = "patch_embed.conv_layers.0.0.weight"
    if architecture_of(official) == "spiking_lmuformer":
        first = "patch_embed.proj_conv.weight"
    telling = ("head.weight", first, "block.0.attn.lmu.W_h.weight", "block.0.mlp.fc1_conv.weight")
    missing = [name for name in telling if name not in tensors or tensors[name].ndim < 2]
    if missing:
        raise WavecastError(f"{listed(missing)} is missing, or no matrix: the file does not tell its size", HINT)
    head, convolution, read, expand = (tensors[name].shape for name in telling)
    return {
        "classes": head[0],
        "mels": convolution[1],
        "width": head[1],
        "order": read[1] - head[1],
        "theta": THETA,
        "depth": 1 + max(int(match[1]) for match in map(NUMBER.match, tensors) if match),
        "expansion": expand[0] // head[1],
    }


def plainly_named(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the prefix `module.`, and give complex tensors as real ones with one more axis.

    Raises:
        WavecastError: two tensors of one name differ.
    """
    tensors = once_each(((name.removeprefix("module."), tensor) for name, tensor in official.items()), HINT)
    return {name: torch.view_as_real(one) if one.is_complex() else one for name, one in tensors.items()}


def memory_constants(order: int, depth: int) -> dict[str, Tensor]:
    """Compute the constants that official files store for every block: matrices, impulse response, its spectrum."""
    a, b = legendre_matrices(order, THETA)
    response = impulse_response(order, THETA, THETA).T
    spectrum = np.fft.rfft(response, 2 * THETA)
    constants = {"A": a, "B": b[:, None], "H": response, "fft_H": np.stack([spectrum.real, spectrum.imag], -1)}
    return {
        f"block.{i}.attn.lmu.{name}": torch.tensor(value, dtype=torch.float32)
        for i in range(depth)
        for name, value in constants.items()
    }
