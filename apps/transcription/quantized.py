"""Linear maps in int8 for inference on a processor: a quarter of the memory that every step of a stream has to read.

Weights are rounded once, symmetrically, with a step for each output (Krishnamoorthi: "Quantizing deep convolutional
networks for efficient inference", 2018, section 3). Inputs are rounded as they come, every frame by its own range, so
that a loud stream takes no precision from a quiet one beside it in a batch. They get 7 bits: with 8 the sums of
products that AVX2 takes in 16 bits overflow.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wavecast.core.errors import WavecastError

ENGINE = "fbgemm"
WEIGHT_LEVELS, INPUT_LEVELS = 127, 127
SPARED = ("attention.position", "subsampling.out.function")
"""Endings of the names of maps that stay: that of the positions, which is computed once for many steps, and the one
after the strided convolutions, a hundredth of the weights, whose inputs have so wide a range that it alone would make
four times the error of all others together."""


class QuantizedLinear(nn.Module):
    """A linear map with int8 weights: (..., in) float32 to (..., out) float32.

    Args:
        linear: the map it stands for; it is not needed any more afterwards.

    Raises:
        WavecastError: torch has no int8 products on this processor.
    """

    sums: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float().cpu()
        step = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny * WEIGHT_LEVELS) / WEIGHT_LEVELS
        zero = torch.zeros(len(step), dtype=torch.int64)
        rounded = torch.quantize_per_channel(weight, step.double(), zero, 0, torch.qint8)
        with _engine():
            self.packed = torch.ops.quantized.linear_prepack(rounded, None)
        bias = torch.zeros(len(step)) if linear.bias is None else linear.bias.detach().float().cpu().clone()
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("sums", rounded.dequantize().sum(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        rows = x.reshape(x.shape[:-1].numel(), x.shape[-1]).float()
        if len(rows) > 1:
            y = self.by_rows(rows)
        elif len(rows):
            y = torch.ops.quantized.linear_dynamic(rows, self.packed, reduce_range=True).add_(self.bias)
        else:
            y = rows.new_zeros(0, len(self.bias))
        return y.unflatten(0, x.shape[:-1]) if x.ndim > 2 else y.reshape(*x.shape[:-1], -1)

    def by_rows(self, x: Tensor) -> Tensor:
        """Multiply rows (row, in), each put between 0 and 1 before and back after: torch rounds all by one step."""
        low, high = x.aminmax(dim=1, keepdim=True)
        span = (high - low).clamp_min_(torch.finfo(torch.float32).tiny)
        y = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            (x - low).div_(span), 1 / INPUT_LEVELS, 0, self.packed
        )
        return torch.addcmul(torch.addcmul(self.bias, low, self.sums), y, span)


def quantize_linears(network: nn.Module) -> nn.Module:
    """Put int8 in the place of a network's linear maps.

    Args:
        network: for inference on a processor; it is changed.

    Returns:
        The network. It can neither be trained nor saved any more.

    Raises:
        WavecastError: torch has no int8 products on this processor.
    """
    for place, module in [*network.named_modules()]:
        for name, child in module.named_children():
            if type(child) is nn.Linear and not f"{place}.{name}".endswith(SPARED):
                setattr(module, name, QuantizedLinear(child))
    return network.eval()


@contextmanager
def _engine() -> Iterator[None]:
    """Choose the library that packs weights, for a moment."""
    if ENGINE not in torch.backends.quantized.supported_engines:
        raise WavecastError("torch has no int8 products on this processor", "give --precision float32")
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = ENGINE
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
