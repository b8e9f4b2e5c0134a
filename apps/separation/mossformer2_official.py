"""The official MossFormer2 weights for separation: from their names to ours.

    tensors = unwrap(torch.load(path, weights_only=True))
    network = MossFormer2(**hyperparameters(tensors))
    network.load_state_dict(convert_state(tensors))

There are two naming schemes, that of ClearerVoice-Studio and that of SpeechBrain, and tables of positions that files
of different age hold or not. Everything that is missing, unknown or of another shape is an error.
"""

import re
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from wavecast.apps.separation.mossformer2 import MossFormer2
from wavecast.core.flash import ROTATED
from wavecast.official_state import check, check_constants, once_each

HINT = "the file is not a MossFormer2 for separation (16 kHz or 8 kHz), or it is damaged"
STACK = "mdl.intra_mdl.mossformerM."
"""Where the layers are, inside the mask network."""
SPEECHBRAIN = {
    "encoder.": "enc.",
    "decoder.": "dec.",
    "masknet.dual_mdl.0.intra_mdl.mdl.flashT.": f"mask_net.{STACK}",
    "masknet.dual_mdl.0.intra_mdl.mdl.norm.norm.": "mask_net.mdl.intra_mdl.norm.",
    "masknet.dual_mdl.0.intra_norm.": "mask_net.mdl.intra_norm.",
    "masknet.": "mask_net.",
}
"""Beginnings of names in the other scheme; the first that fits."""
ENDS = ("weight", "bias")
LAYER = re.compile(rf"{re.escape(STACK)}layers\.(\d+)\.")


def convert_state(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of an official file to a state dict of `MossFormer2(**hyperparameters(official))`.

    Args:
        official: tensors by their official names, unwrapped; prefixes `module.` and SpeechBrain's names are allowed.

    Returns:
        A state dict that loads strictly.

    Raises:
        WavecastError: tensors are missing, unknown or misshapen (the first few are listed with expected and found
            shapes), or stored positions are not those of the network.
    """
    tensors, options = plainly_named(official), hyperparameters(official)
    names, shapes = renamed(**options)
    return converted(tensors, names, shapes, mask_constants("mask_net.", options["layers"]), "MossFormer2", HINT)


def renamed(speakers: int, layers: int) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Map our names to the official ones, and to our shapes."""
    with torch.device("meta"):
        network = MossFormer2(speakers, layers=layers)
    names = {"inner.analysis.weight": "enc.conv1d.weight", "inner.synthesis.weight": "dec.weight"}
    names |= mask_names("inner.features.masks.", "mask_net.", layers)
    return names, {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def official_shapes(speakers: int, layers: int = 24) -> dict[str, tuple[int, ...]]:
    """List the names and shapes of an official file; no tables of positions."""
    names, shapes = renamed(speakers, layers)
    return {official: official_shape(official, shapes[ours]) for ours, official in names.items()}


def hyperparameters(official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read off the file what it tells of the network: speakers and layers. Everything else is as published.

    Whether the masks multiply (all published files but WHAMR's) cannot be seen.
    """
    tensors = plainly_named(official)
    split = tensors.get("mask_net.conv1d_out.weight")
    speakers = 2 if split is None else max(1, len(split) // 512)
    return {"speakers": speakers, "layers": count_layers(tensors)}


def count_layers(names: Iterable[str]) -> int:
    """Count the layers that official names speak of; the published number of 24 if there are none."""
    found = [int(match[1]) for match in map(LAYER.search, names) if match]
    return max(found, default=23) + 1


def plainly_named(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the prefix `module.`, and give SpeechBrain's names their counterparts.

    Raises:
        WavecastError: two tensors of one name differ.
    """
    return once_each(((plain_name(name), tensor) for name, tensor in official.items()), HINT)


def plain_name(name: str) -> str:
    """Give a name as ClearerVoice-Studio has it."""
    name = name.removeprefix("module.")
    for theirs, plain in SPEECHBRAIN.items():
        if name.startswith(theirs):
            return plain + name.removeprefix(theirs)
    return name


def mask_names(ours: str, official: str, layers: int, memory: str = "dilated") -> dict[str, str]:
    """Map the names of `MossFormer` to the official ones.

    Args:
        ours: prefix of our names.
        official: prefix of theirs: `mask_net.` in separation, `mossformer.` in enhancement at 48 kHz.
        layers: of the network.
        memory: of the network, "dilated" or "plain".
    """
    names = {"position.scale": "pos_enc.scale", "project.function.weight": "conv1d_encoder.weight"}
    names |= ends("norm", "norm")
    names |= ends("layers.inner.norm.function", "mdl.intra_mdl.norm") | ends("layers.inner.norm_out", "mdl.intra_norm")
    names |= ends("masks.function.split", "conv1d_out")
    names |= ends("masks.function.content", "output.0") | ends("masks.function.gate", "output_gate.0")
    names |= {
        "masks.function.rectify.weight": "prelu.weight",
        "masks.function.output.weight": "conv1_decoder.weight",
    }
    for i in range(layers):
        names |= below(f"layers.inner.layer{i}.attention.", f"{STACK}layers.{i}.", attention_names())
        names |= below(f"layers.inner.layer{i}.memory.inner.", f"{STACK}fsmn.{i}.", memory_names(memory))
    return below(ours, official, names)


def attention_names() -> dict[str, str]:
    """Map the names of one `Flash`."""
    names = {"scale": "qk_offset_scale.gamma", "shift": "qk_offset_scale.beta"}
    for part in ("to_hidden", "to_qk", "to_out"):
        names |= convolved_names(part, part) | {f"{part}.norm.function.scale": f"{part}.mdl.0.g"}
    return names


def memory_names(memory: str) -> dict[str, str]:
    """Map the names of one `GatedFSMN`."""
    names = ends("reduce.function.0", "conv1.0") | {"reduce.function.1.weight": "conv1.1.weight"}
    names |= ends("norm.function", "norm1") | ends("norm_out.function", "norm2") | ends("expand.function", "conv2")
    for ours, theirs in (("gated.remembered.map", "gated_fsmn.to_u"), ("gated.gate", "gated_fsmn.to_v")):
        names |= convolved_names(ours, theirs) | ends(f"{ours}.norm.function", f"{theirs}.mdl.0")
    ours, theirs = "gated.remembered.memory.inner.", "gated_fsmn.fsmn."
    inside = ends("project.function.0", "linear") | {"project.function.2.weight": "project.weight"}
    if memory == "plain":
        return names | below(ours, theirs, inside | {"memory.weight": "conv1.weight"})
    for layer, number in (("memory.layer0.new", 1), ("memory.layer1", 2)):
        inside |= ends(f"{layer}.norm", f"conv.norm{number}")
        inside |= {
            f"{layer}.convolution.weight": f"conv.conv{number}.weight",
            f"{layer}.rectify.function.weight": f"conv.prelu{number}.weight",
        }
    return names | below(ours, theirs, inside)


def convolved_names(ours: str, official: str) -> dict[str, str]:
    """Map the names of one `ConvolvedLinear`, its norm left out."""
    linear = ends(f"{ours}.linear.function", f"{official}.mdl.1")
    return linear | {f"{ours}.filter.weight": f"{official}.mdl.3.sequential.1.conv.weight"}


def ends(ours: str, official: str) -> dict[str, str]:
    """Map weight and bias of a module."""
    return {f"{ours}.{end}": f"{official}.{end}" for end in ENDS}


def below(ours: str, official: str, names: Mapping[str, str]) -> dict[str, str]:
    """Put prefixes before the names."""
    return {ours + name: official + theirs for name, theirs in names.items()}


def mask_constants(official: str, layers: int, width: int = 512) -> dict[str, Tensor]:
    """Compute the tables that official files store, many times over: frequencies of the two kinds of positions.

    Args:
        official: prefix of the names.
        layers: each has the rotary frequencies.
        width: of the network.
    """
    rotary = frequencies(ROTATED // 2)
    tables = {f"{official}{STACK}layers.{i}.rotary_pos_emb.freqs": rotary for i in range(layers)}
    return {f"{official}pos_enc.inv_freq": frequencies(width // 2), **tables}


def frequencies(count: int) -> Tensor:
    """Give 10000^(-j / count) for j < count: float32 (count,)."""
    return (10000.0 ** (-torch.arange(count, dtype=torch.float64) / count)).float()


def converted(
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, Tensor],
    network: str,
    hint: str,
) -> dict[str, Tensor]:
    """Check the tensors of a file, and give them our names and shapes.

    Args:
        tensors: of the file, by plain official names.
        names: ours to theirs, of all there are.
        shapes: of ours, by our names.
        constants: that the file may hold beside.
        network: what it is called in messages.
        hint: what to do when something does not fit.

    Raises:
        WavecastError: they do not fit.
    """
    expected = {official: official_shape(official, shapes[ours]) for ours, official in names.items()}
    optional = {name: tuple(constant.shape) for name, constant in constants.items()}
    check(tensors, expected, optional, network, hint)
    check_constants(tensors, constants, "the table of frequencies that the network has", hint)
    return {ours: tensors[official].reshape(shapes[ours]) for ours, official in names.items()}


def official_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the official shape of a tensor of ours, which has no axes of one for convolutions.

    Their memories are convolutions of images (channels, inputs, taps, 1), other filters of signals (channels, 1, taps),
    and linear maps beside the convolved ones of signals too (out, in, 1).
    """
    if ".gated_fsmn.fsmn.conv" in name and len(shape) > 1:
        return (shape[0], prod(shape[1:-1]), shape[-1], 1)
    if name.endswith((".conv.weight", "enc.conv1d.weight", "dec.weight")):
        return (shape[0], 1, shape[1])
    linear = (".mdl.1.weight", "fsmn.linear.weight", "fsmn.project.weight", ".gamma", ".beta")
    return shape if len(shape) < 2 or name.endswith(linear) else (*shape, 1)
