"""The Conformer layer against its definition, the law for it and for stacks, and its batch norm on padded batches."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kit.streaming import assert_close, check_block
from wavecast.core.conformer import Conformer, ConformerLayer, ConvolutionModule
from wavecast.core.relative_attention import RelativeAttention

WIDTH, KERNEL = 8, 5


def randomized(module: torch.nn.Module) -> torch.nn.Module:
    """Random norms, biases and statistics, so that nothing can hide."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point() and (tensor.ndim == 1 or "_bias" in name):
                tensor.normal_(std=0.5)
    return module


def definition(named: dict[str, Tensor], x: Tensor, attention: RelativeAttention, causal: bool, norm: str) -> Tensor:
    """A layer over a whole sequence, from its tensors and its attention."""

    def layer_norm(name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (WIDTH,), named[f"{name}.weight"], named[f"{name}.bias"], 1e-5)

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, named[f"{name}.weight"], named[f"{name}.bias"])

    def feed_forward(name: str, x: Tensor) -> Tensor:
        return linear(f"{name}.linear2", functional.silu(linear(f"{name}.linear1", x)))

    x = x + 0.5 * feed_forward("feed_forward1", layer_norm("norm_feed_forward1", x))
    x = x + attention(layer_norm("norm_attention", x))[0]
    y = linear("convolution.expand", layer_norm("norm_convolution", x))
    y = y[..., :WIDTH] * torch.sigmoid(y[..., WIDTH:])
    sides = (KERNEL - 1, 0) if causal else (KERNEL // 2, KERNEL // 2)
    taps, shift = named["convolution.depthwise.weight"][:, None], named["convolution.depthwise.bias"]
    y = functional.conv1d(functional.pad(y.transpose(1, 2), sides), taps, shift, groups=WIDTH).transpose(1, 2)
    if norm == "layer":
        y = layer_norm("convolution.norm", y)
    else:
        mean, variance = named["convolution.norm.running_mean"], named["convolution.norm.running_var"]
        y = (y - mean) / (variance + 1e-5).sqrt() * named["convolution.norm.weight"] + named["convolution.norm.bias"]
    x = x + linear("convolution.contract", functional.silu(y))
    x = x + 0.5 * feed_forward("feed_forward2", layer_norm("norm_feed_forward2", x))
    return layer_norm("norm_out", x)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_a_layer_is_its_definition(causal, norm):
    layer = randomized(ConformerLayer(WIDTH, 2, KERNEL, 3, 6, 2, causal=causal, norm=norm)).double().eval()
    x = torch.randn(2, 20, WIDTH, dtype=torch.float64)
    assert_close(layer(x)[0], definition(layer.state_dict(), x, layer.attention, causal, norm), 1e-12)


def stack(style: str, left: int, right: int, causal: bool, norm: str = "layer") -> Conformer:
    layers = [
        ConformerLayer(WIDTH, 2, KERNEL, 2, left, right, style, causal, norm, dropout=0.1, dropout_attention=0.1)
        for _ in range(2)
    ]
    return randomized(Conformer(*layers))


@pytest.mark.parametrize(
    ("style", "left", "right", "causal", "norm", "lookahead"),
    [
        ("chunked_limited", 6, 2, True, "batch", 2),  # chunks on one grid: layers do not add up
        ("chunked_limited", 4, 0, False, "layer", 4),  # two centred convolutions of two steps each
        ("regular", 5, 3, True, "layer", 6),
    ],
)
def test_layers_keep_the_law(style, left, right, causal, norm, lookahead):
    block = stack(style, left, right, causal, norm)
    assert block.lookahead == lookahead
    check_block(block, torch.randn(3, 30, WIDTH), examples=3)


def test_centred_convolutions_reach_over_chunks():
    """A step needs its chunk; with two steps ahead in every convolution, the next chunks too, chunk by chunk."""
    block = stack("chunked_limited", 6, 2, causal=False)
    ends = [((((j + 2) // 3 * 3 + 2) + 2) // 3 * 3 + 2) - j for j in range(3)]
    assert block.lookahead == max(ends)
    assert block.period == 3


def test_another_context_is_declared_on_the_way_up():
    block = stack("chunked_limited", 6, 2, causal=True).double().eval()
    x = torch.randn(1, 20, WIDTH, dtype=torch.float64)
    block.choose_context(8, 3)
    assert (block.lookahead, block.period) == (3, 4)
    other = stack("chunked_limited", 8, 3, causal=True).double().eval()
    other.load_state_dict(block.state_dict())
    assert torch.equal(block(x)[0], other(x)[0])
    block.choose_context(-1, -1)
    with pytest.raises(ValueError, match=r"Conformer cannot stream, its context has no limit(.|\n)*hint: "):
        block(x, last=False)


def test_batch_norm_in_training_counts_the_valid_steps():
    torch.manual_seed(0)
    module = ConvolutionModule(WIDTH, KERNEL, norm="batch").double()
    x = torch.randn(2, 12, WIDTH, dtype=torch.float64)
    lengths = torch.tensor([12, 7])
    y, _ = module(x.clone(), lengths=lengths)
    found = module.norm.running_mean.clone(), module.norm.running_var.clone()

    gated = functional.glu(module.expand(x), -1)
    valid = [module.depthwise(gated[i : i + 1, :n])[0][0] for i, n in enumerate(lengths.tolist())]
    steps = torch.cat(valid)
    mean, variance = steps.mean(0), steps.var(0, correction=0)
    assert_close(found[0], 0.1 * mean, 1e-12)
    assert_close(found[1], 0.9 + 0.1 * steps.var(0), 1e-12)
    normed = (steps - mean) / (variance + 1e-5).sqrt()
    expected = module.contract(functional.silu(normed))
    assert_close(torch.cat([y[0], y[1, :7]]), expected, 1e-12)


def test_dropout_is_of_training_only():
    block = stack("chunked_limited", 6, 2, causal=True)
    x = torch.randn(1, 9, WIDTH)
    assert not torch.equal(block(x)[0], block(x)[0])
    block.eval()
    assert torch.equal(block(x)[0], block(x)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"kernel": 4, "causal": False}, "4 taps has no middle"), ({"norm": "group"}, "norm 'group'")],
)
def test_what_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message + r"(.|\n)*hint: "):
        ConvolutionModule(**{"width": WIDTH, "kernel": 5, **arguments})
