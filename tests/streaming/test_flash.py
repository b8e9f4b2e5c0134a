"""The FLASH layer against its definition in plain loops, and under the law."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kit.streaming import assert_close, check_block, check_padding, check_whole_only, run
from wavecast.core.flash import ConvolvedLinear, Flash, ResidualFilter, ScaleNorm, rotate
from wavecast.core.state import leaves, to

CHANNELS, HIDDEN, WIDTH, GROUP, TAPS = 6, 8, 36, 5, 3


def layer(causal: bool, **changes: int) -> Flash:
    """A small layer in fp64 whose gates, scales and biases are far from trivial."""
    torch.manual_seed(0)
    sizes = {"channels": CHANNELS, "hidden": HIDDEN, "width": WIDTH, "group": GROUP, "taps": TAPS, **changes}
    made = Flash(**sizes, causal=causal).double().eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name in ("scale", "shift") or name.endswith("norm.function.scale"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def convolved(part: ConvolvedLinear, x: Tensor, left: int) -> Tensor:
    """The convolved linear map of (time, inputs), step by step; ScaleNorm as the specification has it."""
    linear = part.linear.function
    mapped = []
    for step in x:
        size = math.sqrt(sum(float(value) ** 2 for value in step)) * len(step) ** -0.5
        normalized = step / max(size, 1e-5) * part.norm.function.scale
        y = linear.weight @ normalized + linear.bias
        mapped.append(y / (1 + torch.exp(-y)))
    out = []
    for t in range(len(x)):
        total = mapped[t].clone()
        for k in range(TAPS):
            if 0 <= t + k - left < len(x):
                total += part.filter.weight[:, k] * mapped[t + k - left]
        out.append(total)
    return torch.stack(out)


def turned(x: Tensor, t: int) -> Tensor:
    """One query or key at step t."""
    y = x.clone()
    for j in range(16):
        angle = t * 10000 ** (-2 * j / 32)
        a, b = x[2 * j], x[2 * j + 1]
        y[2 * j] = a * math.cos(angle) - b * math.sin(angle)
        y[2 * j + 1] = b * math.cos(angle) + a * math.sin(angle)
    return y


@torch.no_grad()
def definition(flash: Flash, x: Tensor) -> Tensor:
    """The layer on one signal (time, channel), as the specification writes it down."""
    time, half = x.shape[0], x.shape[1] // 2
    left = TAPS - 1 if flash.causal else TAPS // 2
    shifted = x.clone()
    for t in range(time):
        shifted[t, :half] = x[t - 1, :half] if t else 0
    hidden = convolved(flash.to_hidden, shifted, left)
    z = convolved(flash.to_qk, shifted, left)
    kinds = [[turned(z[t] * flash.scale[h] + flash.shift[h], t) for t in range(time)] for h in range(4)]
    query, linear_query, key, linear_key = kinds
    attended = torch.zeros_like(hidden)
    for t in range(time):
        mine = t // GROUP
        for s in range(time):
            if s // GROUP == mine and not (flash.causal and s > t):
                attended[t] += max(0.0, float(query[t] @ key[s]) / GROUP) ** 2 * hidden[s]
            weight = float(linear_query[t] @ linear_key[s])
            if not flash.causal:
                attended[t] += weight / time * hidden[s]
            elif s // GROUP < mine:
                attended[t] += weight / (GROUP * mine) * hidden[s]
    values = hidden.shape[1] // 2
    v, u = hidden[:, :values], hidden[:, values:]
    attended_v, attended_u = attended[:, :values], attended[:, values:]
    gated = (attended_u * v) * torch.sigmoid(attended_v * u)
    return x + convolved(flash.to_out, gated, left)


@pytest.mark.parametrize("time", [1, 3, 5, 6, 17])
@pytest.mark.parametrize("causal", [False, True])
def test_the_layer_is_its_definition(time, causal):
    flash, x = layer(causal), torch.randn(2, time, CHANNELS, dtype=torch.float64)
    y, _ = flash(x)
    for row in range(2):
        assert_close(y[row], definition(flash, x[row]), 1e-12)


def test_the_causal_layer_keeps_the_law():
    check_block(layer(True), torch.randn(3, 23, CHANNELS))


def test_groups_shorter_and_longer_than_the_pieces():
    for group in (1, 2, 64):
        flash, x = layer(True, group=group), torch.randn(2, 37, CHANNELS, dtype=torch.float64)
        for cuts in ([7], [1, 2, 3, 30], list(range(1, 37))):
            assert_close(run(flash, x, cuts)[0], flash(x)[0], 1e-12)


def test_the_published_layer_needs_the_whole_signal():
    check_whole_only(layer(False), torch.randn(2, 12, CHANNELS))
    with pytest.raises(ValueError, match=r"over the whole signal(.|\n)*hint: .*causal"):
        layer(False)(torch.randn(1, 4, CHANNELS, dtype=torch.float64), last=False)


def test_the_published_layer_takes_padded_batches():
    with torch.no_grad():
        check_padding(layer(False), torch.randn(3, 14, CHANNELS, dtype=torch.float64), 1e-12)


@torch.no_grad()
def test_nothing_grows_or_wears_out_in_hours():
    """A layer whose clock says hours: single precision agrees with double, and its memory is as large as before."""
    flash, x = layer(True).float(), torch.randn(2, 40, CHANNELS)
    _, state = flash(x, last=False)
    late = replace(state, group=replace(state.group, position=state.group.position + 4 * 3600 * 2000 // GROUP * GROUP))
    y, after = flash(x, late, last=False)
    expected, _ = copy.deepcopy(flash).double()(x.double(), to(late, dtype=torch.float64), last=False)
    assert_close(y.double(), expected, 1e-5)
    assert [leaf.shape for leaf in leaves(after)] == [leaf.shape for leaf in leaves(state)]
    assert after.group.mean.abs().max() < 1.01 * state.group.mean.abs().max()


def test_turning_leaves_products_at_equal_distance_alone():
    a, b = torch.randn(2, 1, 1, 40, dtype=torch.float64)
    far = 3600 * 2000

    def product(at: int, other: int) -> Tensor:
        return (rotate(a, torch.tensor([at])) * rotate(b, torch.tensor([other]))).sum()

    assert torch.allclose(product(3, 10), product(far + 3, far + 10), rtol=1e-8)
    assert not torch.allclose(product(3, 10), product(3, 11), rtol=1e-3)
    assert torch.equal(rotate(a, torch.tensor([5]))[..., 32:], a[..., 32:])


def test_convolved_linear_maps_and_filters_keep_the_law():
    x = torch.randn(3, 20, 4)
    check_block(ResidualFilter(4, 5), x)
    check_block(ResidualFilter(4, 5, causal=True), x)
    block = ConvolvedLinear(ScaleNorm(), 4, 6, 5)
    assert block.lookahead == 2
    check_block(block, x)
    assert ConvolvedLinear(ScaleNorm(), 4, 6, 5, causal=True).lookahead == 0


def test_dropout_works_in_training_only():
    torch.manual_seed(0)
    flash, x = Flash(CHANNELS, HIDDEN, WIDTH, GROUP, TAPS, dropout=0.5).eval(), torch.randn(1, 12, CHANNELS)
    assert torch.equal(flash(x)[0], flash(x)[0])
    flash.train()
    assert not torch.equal(flash(x)[0], flash(x)[0])
    query, key = torch.ones(2, 50, WIDTH)
    dropped = flash.weights(query, key)
    assert 0.3 < (dropped == 0).float().mean() < 0.7


def test_angles_of_half_precision_are_single():
    """Under mixed precision a step's number alone would be rounded away."""
    whole, position = layer(False).float(), torch.tensor([257, 4001])
    z = torch.randn(1, 2, WIDTH)
    expected = whole.heads(z, position)[0]
    halved = whole.bfloat16().heads(z.bfloat16(), position)[0].float()
    assert (halved - expected).abs().max() < 0.03 * expected.abs().max()


def test_odd_widths_are_refused():
    with pytest.raises(ValueError, match=r"must be even"):
        Flash(channels=5)
