"""PredFormer checkpoints of the authors' code: out of their wrappers, and from their names to ours.

    network = load_official("checkpoint.pth", "quad_tsst", time=10, rows=64, cols=64, patch=8)

Files known: a bare state dict, {epoch, optimizer, state_dict, scheduler}, and Lightning's, whose names begin with
`model.`. They do not tell everything. The variant must be given: fac_st and fac_ts hold the same names, and so do
quad_tsst and quad_stts (there the order of the names differs, which is a hint and no proof). Window, frame, patch and
number of heads must be given too; all else is read off the shapes.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavecast.apps.forecasting.predformer import DEEP, VARIANTS, PredFormer
from wavecast.cards import load_pickle
from wavecast.core.errors import WavecastError, listed

MODULES = {
    "full": ("space_temporal_transformer",),
    "fac_st": ("space_transformer", "temporal_transformer"),
    "fac_ts": ("temporal_transformer", "space_transformer"),
    "binary_ts": ("ts_temporal_transformer", "ts_space_transformer"),
    "binary_st": ("st_space_transformer", "st_temporal_transformer"),
    "triplet_tst": ("temporal_transformer_first", "space_transformer", "temporal_transformer_second"),
    "triplet_sts": ("space_transformer_first", "temporal_transformer", "space_transformer_second"),
    "quad_tsst": (
        "ts_temporal_transformer",
        "ts_space_transformer",
        "st_space_transformer",
        "st_temporal_transformer",
    ),
    "quad_stts": (
        "st_space_transformer",
        "st_temporal_transformer",
        "ts_temporal_transformer",
        "ts_space_transformer",
    ),
}
"""The official names of each variant's modules, in the order in which they compute."""
EMBEDDING, HEAD = "to_patch_embedding.1", "mlp_head.1"
HINT = "the file is not a PredFormer of this variant, or it is damaged"
logger = logging.getLogger(__name__)


def load_official(
    path: Path | str,
    variant: str,
    *,
    time: int,
    rows: int,
    cols: int,
    patch: int,
    heads: int = 8,
    outer_skip: bool = False,
) -> PredFormer:
    """Load a checkpoint that the authors' code wrote; see `from_official` for the arguments.

    Raises:
        WavecastError: the file cannot be read, is none of those known, or does not fit.
    """
    tensors = unwrap(load_pickle(Path(path)))
    return from_official(
        tensors, variant, time=time, rows=rows, cols=cols, patch=patch, heads=heads, outer_skip=outer_skip
    )


def from_official(
    official: Mapping[str, Tensor],
    variant: str,
    *,
    time: int,
    rows: int,
    cols: int,
    patch: int,
    heads: int = 8,
    outer_skip: bool = False,
) -> PredFormer:
    """Build a network for official tensors and fill it.

    Args:
        official: tensors by their official names, unwrapped.
        variant: of the network that was trained; fac_st gets the layout it was trained with.
        time: frames of its window.
        rows: of a frame.
        cols: of a frame.
        patch: side of a patch.
        heads: of attention; the published configurations have 8.
        outer_skip: whether it was trained with one (the triplets for Human3.6m).

    Returns:
        The network in eval mode; its rates of dropout, which only training needs, are 0.

    Raises:
        WavecastError: tensors are missing, unknown or misshapen (listed with expected and found shapes).
    """
    network = PredFormer(
        **hyperparameters(official, variant, patch, heads),
        time=time,
        rows=rows,
        cols=cols,
        legacy_layout=variant == "fac_st",
        outer_skip=outer_skip,
    )
    network.load_state_dict(convert_state(official, network, variant))
    return network.eval()


def unwrap(checkpoint: Any) -> dict[str, Tensor]:
    """Find the tensors in what a file holds: bare, {"state_dict": ...} or {"state_dict": {"model. ...": ...}}.

    Raises:
        WavecastError: it holds no named tensors.
    """
    if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get("state_dict"), Mapping):
        checkpoint = {str(name).removeprefix("model."): tensor for name, tensor in checkpoint["state_dict"].items()}
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise WavecastError("the checkpoint holds no named tensors", HINT)
    strange = [str(name) for name, tensor in checkpoint.items() if not isinstance(tensor, Tensor)]
    if strange:
        raise WavecastError(f"the checkpoint holds more than tensors: {listed(strange)}", HINT)
    return dict(checkpoint)


def hyperparameters(official: Mapping[str, Tensor], variant: str, patch: int, heads: int = 8) -> dict[str, Any]:
    """Read off the shapes what they tell: channels in and out, dim, head_dim, depth, scale_dim.

    Raises:
        WavecastError: the variant is unknown or not the file's, or shapes do not divide as they should.
    """
    if variant not in VARIANTS:
        raise WavecastError(f"PredFormer has no variant {variant!r}", f"one of {', '.join(VARIANTS)}")
    check_variant(official, variant)
    first = next(prefixes(variant, 1))
    needed = [f"{EMBEDDING}.weight", f"{HEAD}.weight", f"{first}.layers.0.0.fn.to_qkv.weight"]
    needed += [f"{first}.layers.0.1.fn.fc2.weight"]
    missing = [name for name in needed if name not in official]
    if missing:
        raise WavecastError(f"missing {listed(missing)}", HINT)
    flat = [name for name in needed if official[name].ndim != 2]
    if flat:
        raise WavecastError(f"{flat[0]} is {tuple(official[flat[0]].shape)}, expected a matrix", HINT)
    embedding, head, qkv, out = (tuple(official[name].shape) for name in needed)
    dim = embedding[0]
    for name, size, unit, why in (
        (needed[0], embedding[1], patch * patch, f"patches of {patch} x {patch}"),
        (needed[1], head[0], patch * patch, f"patches of {patch} x {patch}"),
        (needed[2], qkv[0], 3 * heads, f"queries, keys and values of {heads} heads"),
        (needed[3], out[1], dim, f"multiples of dim {dim}"),
    ):
        if not size or size % unit:
            raise WavecastError(f"{name} has {size} features, which are no {why}", "give the trained patch and heads")
    place = "layers" if variant in DEEP else "blocks"
    numbers = [re.search(rf"(?:^|\.){place}\.(\d+)\.", name) for name in official]
    return {
        "variant": variant,
        "channels": embedding[1] // patch**2,
        "output_channels": head[0] // patch**2,
        "patch": patch,
        "dim": dim,
        "heads": heads,
        "head_dim": qkv[0] // 3 // heads,
        "depth": 1 + max(int(number[1]) for number in numbers if number),
        "scale_dim": out[1] // dim,
    }


def check_variant(official: Mapping[str, Tensor], variant: str) -> None:
    """Compare the names of the modules with the variant's; of two quads warn when their order is the other's.

    Raises:
        WavecastError: they are another variant's.
    """
    found = list(dict.fromkeys(match[1] for name in official if (match := re.match(r"(?:blocks\.0\.)?(\w+)\.", name))))
    deep = not any(name.startswith("blocks.") for name in official)
    found = [name for name in found if name.endswith(("_transformer", "_first", "_second"))]
    fitting = [one for one, names in MODULES.items() if set(names) == set(found) and (one in DEEP) == deep]
    if variant not in fitting:
        held = f"its modules are those of {' or '.join(fitting)}" if fitting else f"its modules are {listed(found)}"
        raise WavecastError(f"the checkpoint is no {variant}: {held}", HINT)
    ordered = [one for one in fitting if MODULES[one] == tuple(found)]
    if variant.startswith("quad") and ordered and ordered != [variant]:
        logger.warning("the order of the checkpoint's names is that of %s, not of %s", ordered[0], variant)


def convert_state(official: Mapping[str, Tensor], network: PredFormer, variant: str) -> dict[str, Tensor]:
    """Rename and join official tensors to a state dict of the network.

    Args:
        official: tensors by their official names, unwrapped.
        network: that they are for.
        variant: of the network.

    Returns:
        A state dict that loads strictly.

    Raises:
        WavecastError: tensors are missing, unknown or misshapen (the first few are listed).
    """
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    names = dict(renamed(network, variant))
    expected = {
        one: (ours[name][0] // len(theirs), *ours[name][1:]) for name, theirs in names.items() for one in theirs
    }
    alone = network.stages[0].layers[0].attention.heads == 1
    tensors = {**(identity_projections(official, expected) if alone else {}), **official}
    faults = [f"{name} {shape} is missing" for name, shape in expected.items() if name not in tensors]
    faults += [f"{name} {tuple(tensor.shape)} is unknown" for name, tensor in tensors.items() if name not in expected]
    faults += [
        f"{name} is {tuple(tensors[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if faults:
        raise WavecastError(f"{len(faults)} tensors do not fit PredFormer: {listed(faults)}", HINT)
    return {name: torch.cat([tensors[one] for one in theirs]) for name, theirs in names.items()}


def renamed(network: PredFormer, variant: str) -> Iterator[tuple[str, list[str]]]:
    """Give every tensor of ours with the official one it is, or the two it joins (the gate's, then the value's)."""
    kinds = ("weight", "bias")
    for kind in kinds:
        yield f"embedding.linear.{kind}", [f"{EMBEDDING}.{kind}"]
        yield f"head.norm.{kind}", [f"mlp_head.0.{kind}"]
        yield f"head.linear.{kind}", [f"{HEAD}.{kind}"]
    for i, prefix in zip(range(len(network.stages)), prefixes(variant, len(network.stages)), strict=False):
        for j in range(len(network.stages[i].layers)):
            layer, theirs = f"stages.{i}.layers.{j}", f"{prefix}.layers.{j}"
            yield f"{layer}.attention.qkv.weight", [f"{theirs}.0.fn.to_qkv.weight"]
            for kind in kinds:
                yield f"{layer}.attention.norm.{kind}", [f"{theirs}.0.norm.{kind}"]
                yield f"{layer}.attention.out.{kind}", [f"{theirs}.0.fn.to_out.0.{kind}"]
                yield f"{layer}.unit.norm.{kind}", [f"{theirs}.1.norm.{kind}"]
                yield f"{layer}.unit.into.{kind}", [f"{theirs}.1.fn.fc1_g.{kind}", f"{theirs}.1.fn.fc1_x.{kind}"]
                yield f"{layer}.unit.out.{kind}", [f"{theirs}.1.fn.fc2.{kind}"]
        for kind in kinds:
            yield f"stages.{i}.norm.{kind}", [f"{prefix}.norm.{kind}"]


def prefixes(variant: str, repeats: int) -> Iterator[str]:
    """Give the official prefix of every module, in the order in which they compute."""
    for i in range(repeats):
        for name in MODULES[variant]:
            yield name if variant in DEEP else f"blocks.{i}.{name}"


def identity_projections(official: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Make the projections that the authors' code leaves out: of a single head that is as wide as a token."""
    made: dict[str, Tensor] = {}
    for name, shape in expected.items():
        if name.endswith("to_out.0.weight") and shape[0] == shape[1]:
            bias = name.replace("weight", "bias")
            if name not in official and bias not in official:
                made |= {name: torch.eye(shape[0]), bias: torch.zeros(shape[0])}
    return made
