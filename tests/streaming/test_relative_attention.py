"""Attention with relative positions against its definition, pair by pair, and the law for it."""

from math import exp, log, sqrt

import pytest
import torch
from torch import Tensor

from kit.streaming import assert_close, check_block, check_padding, check_whole_only
from wavecast.core.relative_attention import RelativeAttention
from wavecast.core.state import gather, leaves, stack

WIDTH, HEADS = 8, 2
LIMITED = [
    ("chunked_limited", 6, 2),
    ("chunked_limited", 4, 0),
    ("chunked_limited", 0, 2),
    ("regular", 5, 3),
    ("regular", 0, 0),
]
UNLIMITED = [("regular", -1, -1), ("chunked_limited", -1, 2), ("chunked_limited", 6, -1), ("regular", -1, 2)]


def attention(style: str, left: int, right: int) -> RelativeAttention:
    torch.manual_seed(0)
    block = RelativeAttention(WIDTH, HEADS, left, right, style).double().eval()
    for bias in (block.content_bias, block.position_bias):
        torch.nn.init.normal_(bias)
    return block


def sees(style: str, left: int, right: int, i: int, j: int) -> bool:
    """Whether step i sees step j."""
    if style == "regular" or right < 0:
        return (left < 0 or i - left <= j) and (right < 0 or j <= i + right)
    chunk = right + 1
    return i // chunk >= j // chunk and (left < 0 or i // chunk - j // chunk <= left // chunk)


def definition(block: RelativeAttention, x: Tensor, style: str, left: int, right: int) -> Tensor:
    """Pair by pair, from the state dict alone."""
    named = block.state_dict()
    features = WIDTH // HEADS

    def project(name: str, x: Tensor) -> Tensor:
        return x @ named[f"{name}.weight"].T + named[f"{name}.bias"]

    def position(distance: int) -> Tensor:
        angles = [distance * exp(-2 * m / WIDTH * log(10_000)) for m in range(WIDTH // 2)]
        turned = torch.tensor(angles, dtype=x.dtype)
        sinusoid = torch.stack([turned.sin(), turned.cos()], 1).flatten()
        return sinusoid @ named["position.weight"].T

    rows = []
    for one in x:
        q, k, v = (project(name, one) for name in ("query", "key", "value"))
        row = []
        for i in range(len(one)):
            seen = [j for j in range(len(one)) if sees(style, left, right, i, j)]
            heads = []
            for h in range(HEADS):
                part = slice(h * features, (h + 1) * features)
                scores = [
                    (q[i, part] + named["content_bias"][h]) @ k[j, part]
                    + (q[i, part] + named["position_bias"][h]) @ position(i - j)[part]
                    for j in seen
                ]
                weights = torch.softmax(torch.stack(scores) / sqrt(features), 0)
                heads.append(weights @ v[seen][:, part])
            row.append(torch.cat(heads))
        rows.append(project("out", torch.stack(row)))
    return torch.stack(rows)


@pytest.mark.parametrize(("style", "left", "right"), LIMITED + UNLIMITED)
def test_attention_is_its_definition(style, left, right):
    block, x = attention(style, left, right), torch.randn(2, 17, WIDTH, dtype=torch.float64)
    expected = definition(block, x, style, left, right)
    assert_close(block(x)[0], expected, 1e-12)
    with torch.no_grad():
        assert_close(block(x)[0], expected, 1e-12)


@pytest.mark.parametrize(("style", "left", "right"), [*LIMITED[:2], LIMITED[3], UNLIMITED[0]])
def test_a_long_sequence_goes_tile_by_tile(style, left, right, monkeypatch):
    block, x = attention(style, left, right), torch.randn(1, 100, WIDTH, dtype=torch.float64)
    whole, _ = block(x)
    for tile in (1, 7, 1000):
        monkeypatch.setattr("wavecast.core.relative_attention.TILE", tile)
        assert_close(block(x)[0], whole, 1e-12)


@pytest.mark.parametrize(("style", "left", "right"), LIMITED[:1] + LIMITED[3:4])
def test_attention_keeps_the_law(style, left, right):
    check_block(attention(style, left, right), torch.randn(3, 33, WIDTH), examples=8)


@pytest.mark.parametrize(("style", "left", "right"), UNLIMITED)
def test_attention_without_limits_needs_the_whole(style, left, right):
    block, x = attention(style, left, right), torch.randn(3, 20, WIDTH, dtype=torch.float64)
    check_whole_only(block, x)
    check_padding(block, x, 1e-12)


@torch.no_grad()
def test_streams_of_any_age_are_batched():
    block, x = attention("chunked_limited", 6, 2), torch.randn(3, 30, WIDTH, dtype=torch.float64)
    whole, _ = block(x)
    starts = [3, 9, 21]
    states = [block(x[row : row + 1, :start], last=False)[1] for row, start in enumerate(starts)]
    together = torch.cat([x[row : row + 1, start : start + 9] for row, start in enumerate(starts)])
    y, state = block(together, stack(states), last=False)
    assert_close(y, torch.cat([whole[r : r + 1, s : s + 9] for r, s in enumerate(starts)]), 1e-12)
    left, _ = block(x[:1, 12:], gather(state, [0]))
    assert_close(left, whole[:1, 12:], 1e-12)


@torch.no_grad()
def test_the_state_is_constant_and_small():
    block = attention("chunked_limited", 6, 2)
    sizes = set()
    state = None
    for _ in range(20):
        _, state = block(torch.randn(1, 3, WIDTH, dtype=torch.float64), state, last=False)
        sizes.add(sum(leaf.numel() for leaf in leaves(state)))
    assert sizes == {2 * (6 + 3) * WIDTH + 1}


def test_kept_positions_follow_the_weights():
    block, x = attention("chunked_limited", 4, 0), torch.randn(1, 9, WIDTH, dtype=torch.float64)
    for change in ("in place", "replaced", "loaded"):
        with torch.no_grad():
            block(x)
            if change == "in place":
                block.position.weight.mul_(2)
            elif change == "replaced":
                block.position.weight = torch.nn.Parameter(2 * block.position.weight)
            else:
                block.load_state_dict({name: -2 * tensor for name, tensor in block.state_dict().items()})
            found, _ = block(x)
        assert_close(found, definition(block, x, "chunked_limited", 4, 0), 1e-12)
    with torch.no_grad():
        block.choose_context(6, 2)
        assert_close(block(x)[0], definition(block, x, "chunked_limited", 6, 2), 1e-12)


def test_kept_positions_follow_autocast():
    block, x = attention("chunked_limited", 4, 0).float(), torch.randn(1, 9, WIDTH)
    with torch.no_grad():
        expected, _ = block(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert block(x)[0].dtype == torch.bfloat16
        assert torch.equal(block(x)[0], expected)


def test_rows_without_a_step_give_zeros():
    block, x = attention("chunked_limited", 6, 2), torch.full((2, 5, WIDTH), torch.nan, dtype=torch.float64)
    x[0] = torch.randn(5, WIDTH)
    y, _ = block(x, lengths=torch.tensor([5, 0]))
    assert not y[1].any()
    y.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in block.parameters())


def test_scores_of_half_precision_are_weighed_in_single():
    block = attention("chunked_limited", 6, 2)
    x = torch.randn(1, 17, WIDTH, dtype=torch.float64)
    expected, _ = block(x)
    found, _ = block.bfloat16()(x.bfloat16())
    assert_close(found.double(), expected, 0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 3}, "8 does not split into 3 heads"),
        ({"style": "windowed"}, "style 'windowed'"),
        ({"left": 70, "right": 12}, "chunks of 13 steps do not divide 70(.|\n)*on the left, like 65"),
        ({"left": -2}, r"context \[-2, 0\]"),
    ],
)
def test_what_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message + "(.|\n)*hint: |" + message):
        RelativeAttention(**{"width": WIDTH, "heads": HEADS, "left": 0, **arguments})
