"""The official FRCRN_SE_16K weights: from their names to ours.

    network.load_state_dict(convert_state(unwrap(torch.load(path, weights_only=True))))

The official classes register most modules twice, and hold modules that their forward pass never uses; files of
different age have aliases, prefixes and counters or not. What is known to be superfluous is checked and dropped,
anything else that is missing, unknown or of another shape is an error.
"""

import math
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from wavecast.apps.enhancement.frcrn import ENCODER_KERNELS, FRCRN, WINDOW
from wavecast.official_state import check, check_constants, once_each

LIVE_PARAMETERS = 12_824_276
DEAD_PARAMETERS = 317_568
DEPTH = len(ENCODER_KERNELS)
UNETS = {"unet1": "unet", "unet2": "unet2"}
PARTS = {"real": "re", "imag": "im"}
SIDES = {"encoders": "encoder", "decoders": "decoder"}
ALIAS = re.compile(r"^(unet2?)\.(encoder|decoder|se_layer|fsmn)s?(_enc|_dec)?\.(\d+)\.")
COUNTER = ".num_batches_tracked"
DEAD = {
    "fsmn_enc0": "fsmn_enc1",
    "fsmn_dec6": "fsmn_dec5",
    "se_layer_enc6": "se_layer_enc5",
    "se_layer_dec5": "se_layer_dec4",
}
"""Modules that the forward pass never uses (or computes and ignores), and living ones of the same shape."""
HINT = "the file is not FRCRN_SE_16K of ClearerVoice-Studio, or it is damaged"


def convert_state(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and join the tensors of an official file to a state dict of `FRCRN()`.

    Args:
        official: tensors by their official names, unwrapped; `module.` prefixes and aliases are allowed.

    Returns:
        A state dict that loads strictly into `FRCRN()`.

    Raises:
        WavecastError: tensors are missing, unknown or misshapen (the first few are listed with expected and found
            shapes), or the stored window kernels are not those of the network.
    """
    tensors = plainly_named(official)
    shapes = official_shapes()
    counted = [name.replace(".running_mean", COUNTER) for name in shapes if name.endswith(".running_mean")]
    counters = {name: tensors.pop(name, torch.tensor(0)) for name in counted}
    constants = official_constants()
    optional = {name: tuple(constant.shape) for name, constant in constants.items()}
    check(tensors, shapes, optional, "FRCRN", HINT)
    check_constants(tensors, constants, f"made from a square-root Hann window of {WINDOW} samples", HINT)
    converted = {ours: joined([tensors[name] for name in names]) for ours, names in renamed()}
    for ours, names in renamed():
        if ours.endswith(".running_mean"):
            counter = counters[names[0].replace(".running_mean", COUNTER)]
            converted[ours.replace(".running_mean", COUNTER)] = counter
    return converted


def plainly_named(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the prefix `module.`, and give aliases (`unet.encoders.0.` for `unet.encoder0.`) their plain names.

    Raises:
        WavecastError: two tensors of one name differ.
    """
    plain = ((ALIAS.sub(r"\1.\2\3\4.", alias.removeprefix("module.")), tensor) for alias, tensor in official.items())
    return once_each(plain, HINT)


def renamed() -> Iterator[tuple[str, list[str]]]:
    """Give every tensor of ours with the official ones it is made of: one, or the real and the imaginary part."""
    for unet, theirs in UNETS.items():
        for side, layer in SIDES.items():
            convolution = "conv.conv" if side == "encoders" else "transconv.tconv"
            for i in range(DEPTH):
                ours, name = f"{unet}.{side}.{i}", f"{theirs}.{layer}{i}"
                for part, short in PARTS.items():
                    for kind in ("weight", "bias"):
                        yield f"{ours}.convolution.{part}.{kind}", [f"{name}.{convolution}_{short}.{kind}"]
                for kind in ("weight", "bias", "running_mean", "running_var"):
                    yield f"{ours}.norm.function.{kind}", [f"{name}.bn.bn_{short}.{kind}" for short in PARTS.values()]
                if (side, i) not in (("encoders", 0), ("decoders", DEPTH - 1)):
                    yield from renamed_memory(f"{ours}.memory.inner", f"{theirs}.fsmn_{layer[:3]}{i}", 1)
        for level in (1, 2):
            yield from renamed_memory(f"{unet}.bottleneck.{level - 1}", f"{theirs}.fsmn", level)
        for gates, side, count in (("skip_gates", "enc", DEPTH - 1), ("decoder_gates", "dec", DEPTH - 2)):
            for i in range(count):
                for part, short in (("real", "r"), ("imag", "i")):
                    for kind in ("0.weight", "0.bias", "2.weight", "2.bias"):
                        name = f"{theirs}.se_layer_{side}{i}.fc_{short}.{kind}"
                        yield f"{unet}.{gates}.{i}.{part}.{kind}", [name]
        for part, short in PARTS.items():
            for kind in ("weight", "bias"):
                yield f"{unet}.output.{part}.{kind}", [f"{theirs}.linear.conv_{short}.{kind}"]


def renamed_memory(ours: str, theirs: str, level: int) -> Iterator[tuple[str, list[str]]]:
    """Give the tensors of one complex FSMN."""
    for part, short in PARTS.items():
        for name, official in (
            ("linear.weight", "linear.weight"),
            ("linear.bias", "linear.bias"),
            ("project.weight", "project.weight"),
            ("memory.weight", "conv1.weight"),
        ):
            yield f"{ours}.{part}.{name}", [f"{theirs}.fsmn_{short}_L{level}.{official}"]


def joined(tensors: list[Tensor]) -> Tensor:
    """Turn official tensors into one of ours: axes (freq, time) swapped, FSMN taps flat, normalizations joined."""
    if len(tensors) == 2:
        return torch.cat(tensors)
    (tensor,) = tensors
    if tensor.ndim != 4:
        return tensor
    return tensor.flatten(1) if is_memory(tuple(tensor.shape)) else tensor.transpose(2, 3).contiguous()


def is_memory(shape: tuple[int, ...]) -> bool:
    """Tell the taps of an FSMN (channels, 1, order, 1) from the kernels of a convolution."""
    return len(shape) == 4 and shape[0] > 1 and shape[1] == shape[3] == 1


def official_shapes() -> dict[str, tuple[int, ...]]:
    """List the names and shapes of an official file, the dead ones included; no constants, aliases or counters."""
    with torch.device("meta"):
        ours = {name: tuple(tensor.shape) for name, tensor in FRCRN().state_dict().items()}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, names in renamed():
        shape = ours[name]
        if len(names) == 2:
            shape = (shape[0] // 2,)
        elif name.endswith(".memory.weight"):
            shape = (shape[0], 1, shape[1], 1)
        elif len(shape) == 4:
            shape = (*shape[:2], shape[3], shape[2])
        shapes |= dict.fromkeys(names, shape)
    for unet in UNETS.values():
        for dead, alive in DEAD.items():
            like = {name: shape for name, shape in shapes.items() if name.startswith(f"{unet}.{alive}.")}
            shapes |= {name.replace(alive, dead): shape for name, shape in like.items()}
    return shapes


def official_constants() -> dict[str, Tensor]:
    """Compute the kernels that official files store for analysis and synthesis by convolution."""
    window = torch.hann_window(WINDOW, dtype=torch.float64).sqrt()
    bins = WINDOW // 2 + 1
    phase = 2 * math.pi / WINDOW * torch.outer(torch.arange(bins), torch.arange(WINDOW)).double()
    waves = torch.cat([phase.cos(), -phase.sin()])
    # The two bins without a mirror image count once in the inverse.
    weight = torch.full((bins,), 2 / WINDOW, dtype=torch.float64)
    weight[0] = weight[-1] = 1 / WINDOW
    constants = {
        "stft.weight": (waves * window)[:, None],
        "istft.weight": (waves * weight.repeat(2)[:, None] * window)[:, None],
        "istft.window": window[None, :, None],
        "istft.enframe": torch.eye(WINDOW)[:, None],
    }
    return {name: constant.float() for name, constant in constants.items()}
