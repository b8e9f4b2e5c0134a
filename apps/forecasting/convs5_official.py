"""The official Moving-MNIST weights of ConvS5: out of their flax training state, and from their names to ours.

    arrays = parameters(read_checkpoint(path))
    network = ConvS5(**hyperparameters(arrays))
    network.load_state_dict(convert_state(arrays))

Anything among the parameters that is missing, unknown or of another shape is an error. The release clips eigenvalues
and discretizes in single precision; it keeps neither among its parameters.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wavecast.apps.forecasting.flax_checkpoint import shown
from wavecast.core.errors import WavecastError, listed

MOST_CHANNELS = 4096
MOST_NESTED = 16
VMAPPED = re.compile(r"^Vmap(?=[A-Z])")
"""What older flax puts before the names of classes that are mapped over time."""
CONVOLUTION = (3, 2, 0, 1)  # row, col, in, out to out, in, row, col
LINEAR = (1, 0)  # in, out to out, in
INPUT = (0, 4, 1, 2, 3)  # state, in, row, col, part to state, part, in, row, col
OUTPUT = (3, 2, 4, 0, 1)  # row, col, state, out, part to out, state, part, row, col
HINT = "the file is no checkpoint of ConvS5 for Moving-MNIST, or it is damaged"


class Renamed(NamedTuple):
    """A tensor of ours and the official array it is made of.

    Attributes:
        ours: its name.
        theirs: path of the array.
        shape: of the array.
        axes: the array's axes in our order; None: as they are.
        unfolded: the array's shape before the axes are ordered, if it is another.
    """

    ours: str
    theirs: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    unfolded: tuple[int, ...] | None = None


def parameters(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Take the parameters out of a training state (step, params, opt_state ...), or out of a bare tree of them.

    Returns:
        Arrays by their paths, `encoder/Conv_0/kernel`, without the prefix of vmapped classes.

    Raises:
        WavecastError: there are none, or something among them is no array of finite numbers.
    """
    params = tree.get("params", tree)
    if not isinstance(params, Mapping) or not {"encoder", "sequence_model"} <= params.keys():
        raise WavecastError(f"no parameters of ConvS5 among {listed([shown(str(name)) for name in tree])}", HINT)
    arrays: dict[str, np.ndarray] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), params)]
    while waiting:
        place, value = waiting.pop()
        name = "/".join(place)
        if isinstance(value, Mapping):
            if len(place) > MOST_NESTED:
                raise WavecastError(f"{shown(name)} is nested too deep", HINT)
            waiting += [((*place, VMAPPED.sub("", key)), inner) for key, inner in value.items()]
        elif not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            raise WavecastError(f"{shown(name)} is no array of numbers", HINT)
        elif not np.isfinite(value).all():
            raise WavecastError(f"{shown(name)} is not finite", HINT)
        elif name in arrays:
            raise WavecastError(f"{shown(name)} is there twice", HINT)
        else:
            arrays[name] = value
    return arrays


def hyperparameters(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Read the arguments of `ConvS5` off the shapes.

    Raises:
        WavecastError: an array that tells one is missing or has no such shape.
    """
    encoder, decoder = block_depths(arrays, "encoder"), block_depths(arrays, "decoder")
    # The encoder has one block at the finest resolution, the decoder as many as everywhere.
    blocks = len(decoder) - len(encoder) + 1
    if blocks < 1 or not encoder or len(decoder) % blocks:
        raise WavecastError(f"{len(encoder)} residual blocks in the encoder, {len(decoder)} in the decoder", HINT)
    kernel, _, states, width, _ = shape_of(arrays, "sequence_model/layers_0/seq/C", 5)
    return {
        "channels": shape_of(arrays, "encoder/Conv_0/kernel", 4)[2],
        "depths": tuple(decoder[::-blocks]),
        "width": width,
        "size": 2 * states,
        "layers": consecutive(arrays, "sequence_model/layers_{}/seq/C"),
        "kernel": kernel,
        "frame_blocks": blocks,
        "discretization": "published",
    }


def block_depths(arrays: Mapping[str, np.ndarray], side: str) -> list[int]:
    """List the channels of a side's residual blocks."""
    name = f"{side}/ResNetBlock_{{}}/Conv_0/kernel"
    return [shape_of(arrays, name.format(i), 4)[3] for i in range(consecutive(arrays, name))]


def consecutive(arrays: Mapping[str, np.ndarray], name: str) -> int:
    """Count how far the number in a name goes without a gap."""
    count = 0
    while name.format(count) in arrays:
        count += 1
    return count


def shape_of(arrays: Mapping[str, np.ndarray], name: str, axes: int) -> tuple[int, ...]:
    """Give the shape of an array.

    Raises:
        WavecastError: it is missing, has more or fewer axes, or sizes out of range.
    """
    if name not in arrays:
        raise WavecastError(f"{name} is missing", HINT)
    shape = arrays[name].shape
    if len(shape) != axes or not all(0 < n <= MOST_CHANNELS for n in shape):
        raise WavecastError(f"{name} is {shape}, expected {axes} axes of 1 to {MOST_CHANNELS}", HINT)
    return shape


def convert_state(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Rename official arrays to a state dict of `ConvS5(**hyperparameters(arrays))`.

    Args:
        arrays: by their paths, as `parameters` gives them.

    Returns:
        A state dict that loads strictly, in float32.

    Raises:
        WavecastError: arrays are missing, unknown or misshapen (the first few are listed with expected and found).
    """
    table = renamed(hyperparameters(arrays))
    check(arrays, {row.theirs: row.shape for row in table})
    converted = {}
    for row in table:
        tensor = torch.from_numpy(arrays[row.theirs].astype(np.float32)).reshape(row.unfolded or row.shape)
        converted[row.ours] = tensor if row.axes is None else tensor.permute(row.axes).contiguous()
    return converted


def renamed(arguments: Mapping[str, Any]) -> list[Renamed]:
    """List every tensor of ours with the official array it is made of."""
    channels, depths, width = arguments["channels"], arguments["depths"], arguments["width"]
    table = [
        *convolution("encoder.function.convolution", "encoder/Conv_0", 3, channels, depths[0]),
        *frame_levels("encoder", depths[0], [1] + [arguments["frame_blocks"]] * (len(depths) - 1), depths),
        Renamed("entry.function.actions.weight", "action_embeds/embedding", (2, 1)),
        *pixel("entry.function.linear", "action_conv/Conv_0", depths[-1] + 1, width),
        Renamed("entry.function.linear.bias", "action_conv/Conv_0/bias", (width,)),
        *convolution("decoder.function.convolution", "decoder/Conv_0", 3, width, depths[0]),
        *frame_levels("decoder", depths[0], [arguments["frame_blocks"]] * len(depths), depths[::-1]),
        *norm("decoder.function.norm", "decoder/LayerNorm_0", depths[0]),
        Renamed("decoder.function.linear.weight", "decoder/Dense_0/kernel", (depths[0], channels), LINEAR),
        Renamed("decoder.function.linear.bias", "decoder/Dense_0/bias", (channels,)),
    ]
    for i in range(arguments["layers"]):
        table += sequence_layer(i, width, arguments["size"] // 2, arguments["kernel"])
    return table


def sequence_layer(i: int, width: int, states: int, kernel: int) -> Iterator[Renamed]:
    """List the tensors of a sequence layer."""
    ours, theirs = f"sequence.{i}", f"sequence_model/layers_{i}"
    yield from norm(f"{ours}.norm", f"{theirs}/norm", width)
    for part, short in (("real", "re"), ("imag", "im")):
        yield Renamed(f"{ours}.system.eigenvalues_{part}", f"{theirs}/seq/Lambda_{short}", (states,))
    yield Renamed(f"{ours}.system.log_step", f"{theirs}/seq/log_step", (states, 1), unfolded=(states,))
    unfolded = (states, width, kernel, kernel, 2)
    shape = (states, width * kernel**2, 2)
    yield Renamed(f"{ours}.system.input_kernel", f"{theirs}/seq/B", shape, INPUT, unfolded)
    yield Renamed(f"{ours}.system.output_kernel", f"{theirs}/seq/C", (kernel, kernel, states, width, 2), OUTPUT)
    for j in range(2):
        name, official = f"{ours}.nonlinearity", f"{theirs}/seq/C_D_conv"
        yield from norm(f"{name}.norm{j + 1}", f"{official}/GroupNorm_{j}", width)
        yield from convolution(f"{name}.convolution{j + 1}", f"{official}/Conv_{j}", kernel, width, width)


def frame_levels(side: str, channels: int, blocks: list[int], depths: tuple[int, ...]) -> Iterator[Renamed]:
    """List the tensors of a side's residual blocks, which the official names number through."""
    number = 0
    for level, (count, depth) in enumerate(zip(blocks, depths, strict=True)):
        for i in range(count):
            ours, theirs = f"{side}.function.levels.{level}.{i}", f"{side}/ResNetBlock_{number}"
            yield from norm(f"{ours}.norm1", f"{theirs}/GroupNorm_0", channels)
            yield from convolution(f"{ours}.convolution1", f"{theirs}/Conv_0", 3, channels, depth)
            yield from norm(f"{ours}.norm2", f"{theirs}/GroupNorm_1", depth)
            shape = (3, 3, depth, depth)
            yield Renamed(f"{ours}.convolution2.weight", f"{theirs}/Conv_1/kernel", shape, CONVOLUTION)
            yield Renamed(f"{ours}.convolution2.bias", f"{theirs}/AddBias_0/bias", (depth,))
            if channels != depth:
                yield from pixel(f"{ours}.skip", f"{theirs}/skip", channels, depth)
            channels, number = depth, number + 1


def convolution(ours: str, theirs: str, kernel: int, inputs: int, outputs: int) -> Iterator[Renamed]:
    """List the tensors of a convolution."""
    yield Renamed(f"{ours}.weight", f"{theirs}/kernel", (kernel, kernel, inputs, outputs), CONVOLUTION)
    yield Renamed(f"{ours}.bias", f"{theirs}/bias", (outputs,))


def pixel(ours: str, theirs: str, inputs: int, outputs: int) -> Iterator[Renamed]:
    """List the tensor of a convolution of single pixels, which is a linear map here."""
    yield Renamed(f"{ours}.weight", f"{theirs}/kernel", (1, 1, inputs, outputs), LINEAR, (inputs, outputs))


def norm(ours: str, theirs: str, channels: int) -> Iterator[Renamed]:
    """List the tensors of a normalization."""
    yield Renamed(f"{ours}.weight", f"{theirs}/scale", (channels,))
    yield Renamed(f"{ours}.bias", f"{theirs}/bias", (channels,))


def check(arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare names and shapes strictly.

    Raises:
        WavecastError: anything is missing, unknown or of another shape.
    """
    faults = [f"{name} {shape} is missing" for name, shape in expected.items() if name not in arrays]
    faults += [f"{shown(name)} {array.shape} is unknown" for name, array in arrays.items() if name not in expected]
    faults += [
        f"{name} is {arrays[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if faults:
        raise WavecastError(f"{len(faults)} arrays do not fit ConvS5: {listed(faults)}", HINT)
