"""Attention within chunks against its definition, pair by pair, and the law for it and for TCNCA."""

from math import erf, pi, sqrt

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kit.streaming import check_block
from wavecast.core.tcn import DilatedStack
from wavecast.core.tcnca import TCNCA, ChunkAttention

WIDTH, VALUES, CHUNK = 3, 4, 5
KINDS = [("softmax", "simple"), ("softmax", "rotary"), ("laplace", "simple"), ("relu2", "rotary")]


def definition(attention: ChunkAttention, x: Tensor, weighting: str) -> Tensor:
    """Attend pair by pair."""
    bias, rows = attention.bias(), []
    for batch in x:
        query, key, value = batch.split((WIDTH, WIDTH, VALUES), -1)
        for t in range(len(batch)):
            seen = range(t // CHUNK * CHUNK, t + 1)
            product = torch.stack([query[t] @ key[s] for s in seen])
            distance = torch.stack([bias[t - s] for s in seen])
            if weighting == "softmax":
                weights = torch.softmax(product / sqrt(WIDTH) + distance, 0)
            elif weighting == "relu2":
                weights = (product / len(seen) + distance).clamp_min(0) ** 2
            else:
                score = product / len(seen) + distance
                mean, deviation = sqrt(1 / 2), sqrt(1 / (4 * pi))
                weights = torch.tensor(
                    [0.5 * (1 + erf((one - mean) / (deviation * sqrt(2)))) for one in score.tolist()],
                    dtype=torch.float64,
                )
            rows.append(sum(weight * value[s] for weight, s in zip(weights, seen, strict=True)))
    return torch.stack(rows).reshape(*x.shape[:2], VALUES)


@pytest.mark.parametrize(("weighting", "bias"), KINDS)
def test_attention_is_its_definition(weighting, bias):
    torch.manual_seed(0)
    attention = ChunkAttention(WIDTH, VALUES, CHUNK, weighting, bias).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_()
    x = torch.randn(2, 17, 2 * WIDTH + VALUES, dtype=torch.float64)
    assert torch.allclose(attention(x)[0], definition(attention, x, weighting), atol=1e-12)


def test_the_rotary_bias_turns_one_vector_by_the_distance():
    bias = ChunkAttention(4, 1, 7, bias="rotary").double().bias
    for distance in range(7):
        expected = 0.0
        for k in range(2):
            angle = torch.tensor(distance * 10_000 ** (-k / 2))
            turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]], dtype=torch.float64)
            expected += turn @ bias.one[:, k] @ bias.other[:, k]
        assert torch.allclose(bias()[distance], expected, atol=1e-6)


@pytest.mark.parametrize(("weighting", "bias"), KINDS)
def test_attention_keeps_the_law(weighting, bias):
    check_block(ChunkAttention(WIDTH, VALUES, CHUNK, weighting, bias), torch.randn(3, 33, 2 * WIDTH + VALUES))


def test_rows_at_different_places_of_their_chunks_are_batched():
    attention = ChunkAttention(WIDTH, VALUES, CHUNK).double().eval()
    x = torch.randn(2, 30, 2 * WIDTH + VALUES, dtype=torch.float64)
    whole, _ = attention(x)
    _, cache = attention(x[:, :4], last=False)
    _, later = attention(x[1:, 4:7], type(cache)(cache.keys[1:], cache.values[1:], cache.count[1:]), last=False)
    mixed = type(cache)(
        torch.cat([cache.keys[:1], later.keys]),
        torch.cat([cache.values[:1], later.values]),
        torch.cat([cache.count[:1], later.count]),
    )
    y, _ = attention(torch.stack([x[0, 4:12], x[1, 7:15]]), mixed, last=False)
    assert torch.allclose(y, torch.stack([whole[0, 4:12], whole[1, 7:15]]), atol=1e-12)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(("weighting", "bias"), KINDS)
def test_tcnca_is_its_definition(weighting, bias, share):
    torch.manual_seed(0)
    block = TCNCA(6, WIDTH, VALUES, CHUNK, 2, 4, 2, share, weighting, bias).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_()
    stack = DilatedStack(6, taps=2, factor=4, layers=2, share_weights=share).double()
    stack.load_state_dict(block.memory.state_dict())
    x = torch.randn(2, 17, 6, dtype=torch.float64)
    normed = functional.layer_norm(x, (6,), block.norm.weight, block.norm.bias)
    gates = stack(normed)[0] @ block.gates.weight.T + block.gates.bias
    update, shared, reset, hidden = gates[..., :6], gates[..., 6:9], gates[..., 9:13], gates[..., 13:]
    query, key = (functional.silu(shared) * block.scale[i] + block.shift[i] for i in range(2))
    value = functional.silu(normed @ block.value.weight.T + block.value.bias)
    attended = definition(block.attention, torch.cat([query, key, value], -1), weighting)
    hidden = functional.silu(hidden + (attended * functional.silu(reset)) @ block.hidden.weight.T)
    update = torch.sigmoid(update)
    assert torch.allclose(block(x)[0], update * hidden + (1 - update) * x, atol=1e-11)


@pytest.mark.parametrize("share", [False, True])
def test_tcnca_keeps_the_law(share):
    block = TCNCA(6, WIDTH, VALUES, CHUNK, taps=3, factor=2, layers=2, share_weights=share)
    check_block(block, torch.randn(3, 33, 6), silence=1000)


def test_tcnca_forgets_what_lies_before_chunk_and_convolutions():
    block = TCNCA(6, WIDTH, VALUES, CHUNK, taps=2, factor=2, layers=2).double().eval()
    x = torch.randn(1, 40, 6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x)[0][0, 39].sum(), x)
    first = 35 - (block.memory.receptive_field - 1)  # the chunk of step 39 begins at 35
    reached = gradient[0].abs().sum(1) > 0
    assert reached[first:].all()
    assert not reached[:first].any()


@pytest.mark.parametrize(("weighting", "bias"), [("sigmoid", "simple"), ("softmax", "alibi")])
def test_unknown_kinds_are_refused(weighting, bias):
    with pytest.raises(ValueError, match="hint: weighting is one of softmax, laplace, relu2, bias one of simple"):
        ChunkAttention(WIDTH, VALUES, CHUNK, weighting, bias)
