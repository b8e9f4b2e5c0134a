"""Linear maps in int8: within the bound that the steps of rounding give, row by row, of any shape."""

import copy
from pathlib import Path

import pytest
import torch
from parity.seeded import seeded_signal
from torch import Tensor, nn

from wavecast.apps.transcription import quantized
from wavecast.apps.transcription.fastconformer_official import read_transcriber
from wavecast.apps.transcription.quantized import QuantizedLinear, quantize_linears
from wavecast.core.errors import WavecastError

ARCHIVE = Path(__file__).parents[1] / "parity" / "fastconformer_streaming_tiny.nemo"
LEVELS = 127


def linear(features: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A map whose outputs differ in size by far, so that one step for all would be seen."""
    torch.manual_seed(0)
    made = nn.Linear(features, outputs, bias)
    with torch.no_grad():
        made.weight.mul_(10 ** torch.linspace(-3, 1, outputs)[:, None])
    return made


def bound(made: nn.Linear, x: Tensor) -> Tensor:
    """The largest error: half a step of each input times the weights, half a step of each weight times the inputs.

    A single row's range is widened to hold zero, and its zero is rounded to a step of its own.
    """
    weight = made.weight.double()
    low, high = x.double().aminmax(dim=1, keepdim=True)
    input_step = (high.clamp_min(0) - low.clamp_max(0)) / LEVELS
    weight_step = weight.abs().amax(1) / LEVELS
    rounded_inputs = input_step * (weight.abs() + weight_step[:, None] / 2).sum(1)
    return rounded_inputs + x.double().abs().sum(1, keepdim=True) * weight_step / 2


@pytest.mark.parametrize("rows", [1, 2, 14, 16])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_the_error_is_that_of_the_steps(rows: int, bias: bool) -> None:
    made = linear(512, 96, bias)
    x = torch.randn(rows, 512) * 10 ** torch.linspace(-2, 2, rows)[:, None] + 0.5
    exact = nn.functional.linear(x.double(), made.weight.double(), None if made.bias is None else made.bias.double())
    error = (QuantizedLinear(made)(x).double() - exact).abs()
    assert (error <= bound(made, x) + 1e-5 * exact.abs()).all()
    # Rounding errors of 512 products rarely all agree: the usual one is far below the bound, and not nothing.
    typical = error.mean(1) / exact.abs().mean(1)
    assert (typical < 0.03).all()
    assert (typical > 1e-6).all()


@torch.inference_mode()
def test_extreme_inputs_do_not_overflow() -> None:
    """Products of the largest values add up where 8 bits would not fit into the sums of AVX2."""
    made = nn.Linear(64, 4, bias=False)
    made.weight.fill_(1.0)
    for x in (torch.ones(3, 64), -torch.ones(3, 64), torch.tensor([1.0, -1.0]).repeat(3, 32), torch.zeros(3, 64)):
        x = x.clone()
        x[:, 0] += 0.5
        for rows in (x, x[:1]):
            expected = rows.sum(1, keepdim=True).expand(-1, 4)
            assert (QuantizedLinear(made)(rows) - expected).abs().max() < 64 * 2.5 / LEVELS


@torch.inference_mode()
def test_a_row_is_the_same_beside_any_other() -> None:
    made = QuantizedLinear(linear(64, 32))
    x = torch.randn(5, 64)
    y = made(x)
    loud = torch.cat([x[1:3], 1e6 * torch.randn(4, 64)])
    assert torch.equal(made(loud)[:2], y[1:3])
    assert torch.equal(made(x.flip(0)).flip(0), y)
    # A row alone is rounded from another zero, by steps of the same order.
    assert (made(x[:1]) - y[:1]).abs().max() < 0.05 * y.abs().max()


@torch.inference_mode()
def test_constant_rows_and_zeros_are_exact() -> None:
    made = linear(32, 16)
    x = torch.stack([torch.zeros(32), torch.full((32,), 3.0), torch.full((32,), -1e-3)])
    weight_step = made.weight.abs().amax(1) / LEVELS
    error = (QuantizedLinear(made)(x) - made(x)).abs()
    assert (error <= 1e-5 + x.abs().sum(1, keepdim=True) * weight_step / 2).all()
    assert torch.equal(QuantizedLinear(made)(x)[0], made.bias)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (3, 7), (2, 3, 7), (2, 0, 7), (0, 3, 7), (1, 1, 7), (2, 3, 4, 7)])
@torch.inference_mode()
def test_shapes(shape: tuple[int, ...]) -> None:
    made = linear(7, 5)
    y = QuantizedLinear(made)(torch.randn(shape))
    assert y.shape == (*shape[:-1], 5)
    assert y.dtype == torch.float32
    assert torch.isfinite(y).all()


@torch.inference_mode()
def test_a_recognizer_in_int8() -> None:
    """All its linear maps but those that are spared; it streams, and is near what it was."""
    _, network, _ = read_transcriber(ARCHIVE)
    x = torch.from_numpy(seeded_signal(40_000))[None]
    expected, _ = network(x)
    logits = network.ctc(expected)
    small = quantize_linears(copy.deepcopy(network))
    left = [name for name, module in small.named_modules() if type(module) is nn.Linear]
    assert left == ["encoder.subsampling.out.function", *(f"encoder.layers.{i}.attention.position" for i in range(3))]
    assert isinstance(small.ctc, QuantizedLinear)
    assert isinstance(small.joint.output, QuantizedLinear)
    y, _ = small(x)
    assert (y - expected).abs().mean() < 0.03 * expected.abs().mean()
    assert (y - expected).abs().mean() > 1e-4 * expected.abs().mean()
    assert (small.ctc(y) - logits).abs().mean() < 0.03 * logits.abs().mean()
    begun, state = small(x[:, :20_000], last=False)
    ended, _ = small(x[:, 20_000:], state)
    live = torch.cat([begun, ended], 1)
    assert live.shape == y.shape
    assert (live - y).abs().mean() < 0.03 * y.abs().mean()


def test_a_processor_without_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "ENGINE", "none")
    with pytest.raises(WavecastError, match=r"no int8 products on this processor\nhint: give --precision float32"):
        QuantizedLinear(linear(4, 4))


def test_the_choice_of_a_library_is_left_as_it_was() -> None:
    before = torch.backends.quantized.engine
    QuantizedLinear(linear(4, 4))
    assert torch.backends.quantized.engine == before
