"""The parts of PredFormer against their closed forms, its CPU form against the definition, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from kit.streaming import check_block, check_whole_only
from wavecast.apps.forecasting.predformer import VARIANTS, PredFormer, attend_along, rollout, sinusoids
from wavecast.core import gated_transformer, gated_transformer_cpu
from wavecast.core.block import Frames
from wavecast.core.gated_transformer import Attention, GatedTransformer, GatedUnit, branch_noise
from wavecast.core.patches import PatchEmbedding, PatchHead

SMALL = {"time": 3, "rows": 8, "cols": 12, "patch": 4, "dim": 16, "heads": 2, "head_dim": 4, "scale_dim": 2}


def small_network(variant: str = "quad_tsst", depth: int = 1, **options: object) -> PredFormer:
    """A network whose weights are large enough for attention to choose, in eval mode."""
    torch.manual_seed(0)
    network = PredFormer(variant, depth=depth, **{**SMALL, "channels": 2, **options}).eval()
    return filled(network)


def filled(module: nn.Module, std: float = 0.4) -> nn.Module:
    """Fill a module with weights and biases that leave nothing uniform or hidden."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(1 if "norm.weight" in name else 0, std)
    return module


def relative(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()


@torch.inference_mode()
@pytest.mark.parametrize("fast", [True, False])
def test_attention_is_the_formula(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token by token, with weights so large that attention is far from uniform: a wrong scale shows."""
    monkeypatch.setattr(gated_transformer, "is_fast", lambda x: fast)
    heads, head_dim, time = 2, 9, 5
    module = filled(Attention(6, heads, head_dim, 0.0, 0.0), std=1.0).double()
    x = torch.randn(2, time, 3, 6, dtype=torch.float64)
    normed = module.norm(x)
    expected = x.clone()
    scale = {1 / math.sqrt(head_dim): expected, 1.0: x.clone()}
    for factor, y in scale.items():
        for b, t, p in np.ndindex(2, time, 3):
            heard = []
            for h in range(heads):
                rows = slice(h * head_dim, (h + 1) * head_dim)
                query, key, value = (weight[rows] for weight in module.qkv.weight.chunk(3))
                scores = [(query @ normed[b, t, p]) @ (key @ normed[b, s, p]) * factor for s in range(time)]
                weights = torch.softmax(torch.stack(scores), 0)
                heard.append(sum(weights[s] * (value @ normed[b, s, p]) for s in range(time)))
            y[b, t, p] += module.out(torch.cat(heard))
    assert relative(module(x), expected) < 1e-12
    assert relative(module(x), scale[1.0]) > 0.05


def test_buffers_are_used_again_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those made in inference mode, which later calls with gradients write to."""
    monkeypatch.setattr(gated_transformer_cpu, "TILE", 100)
    kept, x = gated_transformer_cpu.Buffers(), torch.zeros(1)
    with torch.inference_mode():
        first = kept.take("a", x, 10, 10)
    assert not first.is_inference()
    assert kept.take("a", x, 3, 5).data_ptr() == first.data_ptr()
    assert kept.take("b", x, 10).data_ptr() != first.data_ptr()
    assert kept.take("a", x.double(), 10).dtype == torch.float64
    kept.take("c", x, 101)
    assert sum(len(flat) for flat in kept.kept.values()) == 120


@torch.inference_mode()
def test_the_unit_is_the_formula() -> None:
    module = filled(GatedUnit(6, 10, 0.0, 0.0)).double()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, False, keepdim=True) + 1e-5).sqrt()
    normed = normed * module.norm.weight + module.norm.bias
    gate = normed @ module.into.weight[:10].T + module.into.bias[:10]
    value = normed @ module.into.weight[10:].T + module.into.bias[10:]
    expected = x + (gate / (1 + torch.exp(-gate)) * value) @ module.out.weight.T + module.out.bias
    assert relative(module(x), expected) < 1e-12


def poisoned(name: str, like: Tensor, *shape: int) -> Tensor:
    """Take a buffer full of NaN."""
    return buffers.take(name, like, *shape).fill_(float("nan"))


buffers = gated_transformer_cpu.Buffers()


def noises(module: nn.Module, x: Tensor, kind: str) -> list[Tensor | None]:
    """Give the noise arguments of a module: none, or dropout of elements and sequences."""
    if kind == "none":
        return [None] * (2 if isinstance(module, GatedUnit) else 1)
    noise = branch_noise(x, 0.3 if kind == "both" else 0.0, 0.5)
    return [torch.rand(*x.shape[:3], module.hidden), noise] if isinstance(module, GatedUnit) else [noise]


@pytest.mark.parametrize("kind", ["none", "paths", "both"])
@pytest.mark.parametrize("tile", [1, 700, 2**20])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 63, 1), (2, 5, 7), (9, 4, 1), (1, 3, 11), (2, 100, 2)])
@pytest.mark.parametrize("made", [lambda: Attention(12, 3, 5, 0.0, 0.0), lambda: GatedUnit(12, 20, 0.0, 0.0)])
def test_the_cpu_form_is_the_definition(
    made: object, shape: tuple[int, int, int], tile: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and all gradients, for tiles of one sequence, of some and of all, and for the ways that short, long and
    longest sequences go; all memory begins as NaN."""
    monkeypatch.setattr(gated_transformer_cpu, "TILE", tile)
    monkeypatch.setattr(gated_transformer_cpu, "LONG", 50)
    monkeypatch.setattr(gated_transformer_cpu, "MOST_KEPT", 70)
    monkeypatch.setattr(gated_transformer_cpu, "take", poisoned)
    module = filled(made()).double()
    x = torch.randn(*shape, 12, dtype=torch.float64, requires_grad=True)
    noise = [None if one is None else one.double() for one in noises(module, x, kind)]
    leaves = [x, *module.parameters()]
    results = []
    torch.use_deterministic_algorithms(True)
    try:
        for fast in (True, False):
            monkeypatch.setattr(gated_transformer, "is_fast", lambda x, fast=fast: fast)
            y = module.apply_noise(x, *noise)
            results.append([y.detach(), *torch.autograd.grad((y * y.detach().cos()).sum(), leaves)])
        with torch.no_grad():
            monkeypatch.setattr(gated_transformer, "is_fast", lambda x: True)
            assert relative(module.apply_noise(x, *noise), results[1][0]) < 1e-12
    finally:
        torch.use_deterministic_algorithms(False)
    for found, expected in zip(*results, strict=True):
        assert (found - expected).abs().max() < 1e-11 * max(1, expected.abs().max())


def test_gradients_by_differences() -> None:
    torch.manual_seed(0)
    block = filled(GatedTransformer(4, 1, 2, 3, 5)).double()
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: block(x)[0], (x,))
    assert torch.autograd.gradcheck(
        lambda weight: torch.func.functional_call(block, {"layers.0.unit.into.weight": weight}, (x.detach(),))[0],
        (block.layers[0].unit.into.weight,),
    )


def test_a_block_does_not_write_into_its_input() -> None:
    block, x = filled(GatedTransformer(8, 2, 2, 4, 16)), torch.randn(2, 5, 3, 8)
    before = x.clone()
    with torch.no_grad():
        block(x)
    y, _ = block(x)
    y.sum().backward(retain_graph=True)
    first = [p.grad.clone() for p in block.parameters()]
    block.zero_grad()
    y.sum().backward()
    assert torch.equal(x, before)
    assert all(torch.equal(p.grad, one) for p, one in zip(block.parameters(), first, strict=True))


@pytest.mark.parametrize("shape", [(2, 7, 8), (2, 5, 3, 8), (2, 4, 2, 3, 8)])
def test_the_block_needs_whole_sequences(shape: tuple[int, ...]) -> None:
    block = filled(GatedTransformer(8, 2, 2, 4, 16))
    check_whole_only(block, torch.randn(*shape))
    with pytest.raises(ValueError, match="no padded batches"):
        block(torch.randn(2, 5, 8), lengths=torch.tensor([5, 3]))


@torch.inference_mode()
def test_places_do_not_see_each_other_and_order_does_not_matter() -> None:
    block, x = filled(GatedTransformer(8, 1, 2, 4, 16)).double(), torch.randn(2, 6, 3, 8, dtype=torch.float64)
    y, _ = block(x)
    other = x.clone()
    other[0, 2, 1] *= -1  # a shift of all features would not pass the norm
    changed = ((block(other)[0] - y).abs().amax((1, 3)) > 1e-9).nonzero().tolist()
    assert changed == [[0, 1]]
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert relative(block(x[:, order])[0], y[:, order]) < 1e-12


def test_initial_weights() -> None:
    torch.manual_seed(0)
    network = PredFormer("fac_ts", time=2, rows=8, cols=8, patch=4, dim=256, depth=1)
    for name, parameter in network.stages.named_parameters():
        if "norm.weight" in name:
            assert torch.equal(parameter, torch.ones_like(parameter))
        elif "bias" in name:
            assert torch.equal(parameter, torch.zeros_like(parameter))
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.02)
            assert abs(parameter.mean().item()) < 2e-4
    bound = 1 / 4  # torch's own: uniform within 1 / sqrt(16 numbers of a patch)
    assert 0.95 * bound < network.embedding.linear.weight.abs().max().item() <= bound
    assert network.head.linear.bias.abs().max().item() > 0


def test_dropped_paths_are_whole_sequences_at_a_constant_rate() -> None:
    """Every (row, place) keeps its input or gets the branch over 0.75; a quarter keeps it, in the last layer too."""
    torch.manual_seed(0)
    block = filled(GatedTransformer(4, 3, 1, 4, 8, drop_path=0.25)).train()
    x = torch.randn(40, 3, 50, 4)
    for part in (block.layers[0].attention, block.layers[-1].unit):
        with torch.no_grad():
            y = part(x)
            full = x + (part.eval()(x) - x) / 0.75
            part.train()
        kept = (y == x).all(3).all(1)
        assert torch.allclose(y, torch.where(kept[:, None, :, None], x, full), atol=1e-5)
        assert kept.float().mean().item() == pytest.approx(0.25, abs=0.04)
        assert 0 < kept[0].sum() < 50, "places of a row are dropped on their own"


def test_attention_dropout_falls_on_what_the_projection_gives() -> None:
    torch.manual_seed(0)
    module = filled(Attention(16, 2, 4, 0.5, 0.0)).train()
    x = torch.randn(2, 9, 5, 16)
    with torch.no_grad():
        branch = module(x) - x
        whole = 2 * (module.eval()(x) - x)
    zero = branch == 0
    assert zero.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert torch.allclose(branch[~zero], whole[~zero], atol=1e-4)


def test_dropout_of_the_unit_is_inside_and_after() -> None:
    """With one hidden feature and no bias, a dropped product leaves a token's whole branch at zero."""
    torch.manual_seed(0)
    module = filled(GatedUnit(16, 1, 0.5, 0.0)).train()
    module.out.bias.data.zero_()
    x = torch.randn(20, 9, 10, 16)
    with torch.no_grad():
        zero = module(x) == x
    tokens = zero.all(-1)
    assert tokens.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert zero[~tokens].float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_evaluation_is_without_chance() -> None:
    network = small_network("binary_ts", dropout=0.3, attention_dropout=0.3, drop_path=0.3)
    x = torch.randn(2, 3, 8, 12, 2)
    assert torch.equal(network(x)[0], network(x)[0])
    network.train()
    assert not torch.equal(network(x)[0], network(x)[0])


@torch.inference_mode()
def test_patches_are_numbered_by_rows_and_their_numbers_by_row_col_channel() -> None:
    embedding = PatchEmbedding(channels=3, patch=2, dim=12)
    embedding.linear.weight.copy_(torch.eye(12))
    embedding.linear.bias.zero_()
    x = torch.arange(4 * 6 * 3).float().view(1, 1, 4, 6, 3)
    y = embedding(x)
    assert y.shape == (1, 1, 6, 12)
    for patch, p, q, channel in np.ndindex(6, 2, 2, 3):
        row, col = 2 * (patch // 3) + p, 2 * (patch % 3) + q
        assert y[0, 0, patch, 6 * p + 3 * q + channel] == x[0, 0, row, col, channel]


@torch.inference_mode()
def test_the_head_has_its_numbers_by_channel_row_col() -> None:
    head = PatchHead(dim=12, channels=3, patch=2, rows=4)
    head.norm = nn.Identity()
    head.linear.weight.copy_(torch.eye(12))
    head.linear.bias.zero_()
    tokens = torch.arange(6 * 12).float().view(1, 1, 6, 12)
    y = head(tokens)
    assert y.shape == (1, 1, 4, 6, 3)
    for patch, p, q, channel in np.ndindex(6, 2, 2, 3):
        row, col = 2 * (patch // 3) + p, 2 * (patch % 3) + q
        assert y[0, 0, row, col, channel] == tokens[0, 0, patch, 4 * channel + 2 * p + q]


def test_patches_obey_the_law() -> None:
    check_block(Frames(PatchEmbedding(2, 2, 5)), torch.randn(3, 24, 4, 6, 2), examples=5)
    check_block(Frames(PatchHead(5, 2, 2, 4)), torch.randn(3, 24, 6, 5), examples=5)


def test_positions() -> None:
    """In single precision after an angle in double: the table in double is some 1e-5 away, and that is meant."""
    table = sinusoids(12, 128, 256).reshape(12 * 128, 256)
    angles = np.arange(12 * 128)[:, None] / 10000 ** (2 * (np.arange(256) // 2) / 256)
    for exact, tolerance in ((angles.astype("f4"), 2e-7), (angles, 1e-4)):
        expected = np.where(np.arange(256) % 2 == 0, np.sin(exact), np.cos(exact))
        assert np.abs(table.numpy() - expected).max() < tolerance
    assert np.abs(table.numpy() - expected).max() > 1e-5
    assert "positions" not in PredFormer(depth=1, **SMALL).state_dict()


@torch.inference_mode()
@pytest.mark.parametrize("axis", ["T", "S", "A"])
def test_what_attends_to_what(axis: str) -> None:
    """A change of one token reaches its patch in all frames (T), its frame (S), or all of its row (A)."""
    stage = filled(GatedTransformer(8, 1, 2, 4, 16)).double()
    tokens = torch.randn(3, 2, 6, 8, dtype=torch.float64)
    other = tokens.clone()
    other[1, 0, 4] *= -1  # a shift of all features would not pass the norm
    changed = (attend_along(axis, stage, other) - attend_along(axis, stage, tokens)).abs().amax(-1) > 1e-9
    expected = torch.zeros(3, 2, 6, dtype=torch.bool)
    expected[{"T": (slice(None), 0, 4), "S": (1, 0), "A": (slice(None), 0)}[axis]] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_its_sequence(variant: str) -> None:
    """Rows are independent, every parameter learns, and depth counts layers or repetitions."""
    network = small_network(variant, depth=2)
    assert [len(stage.layers) for stage in network.stages] == {
        "full": [2],
        "fac_st": [2, 2],
        "fac_ts": [2, 2],
    }.get(variant, [1] * 2 * len(VARIANTS[variant]))
    x = torch.randn(2, 3, 8, 12, 2)
    y, _ = network(x)
    assert relative(network(x[1:])[0], y[1:]) < 1e-5
    (y - x).square().mean().backward()
    assert not [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0]


@torch.inference_mode()
def test_a_network_is_its_parts_in_their_order() -> None:
    network = small_network("triplet_tst", depth=2)
    x = torch.randn(2, 3, 8, 12, 2)
    tokens = network.embedding(x) + network.positions
    for i, stage in enumerate(network.stages):
        tokens = (stage(tokens.flatten(0, 1)) if i % 3 == 1 else stage(tokens))[0].view(tokens.shape)
    assert relative(network(x)[0], network.head(tokens)) < 1e-5


@torch.inference_mode()
def test_the_outer_skip_adds_the_input_of_every_repetition() -> None:
    network = small_network("triplet_sts", depth=2, outer_skip=True)
    x = torch.randn(2, 3, 8, 12, 2)
    tokens = network.embedding(x) + network.positions
    for i in (0, 3):
        before = tokens
        for axis, stage in zip("STS", network.stages[i : i + 3], strict=True):
            tokens = stage(tokens)[0] if axis == "T" else stage(tokens.flatten(0, 1))[0].view(tokens.shape)
        tokens = tokens + before
    assert relative(network(x)[0], network.head(tokens)) < 1e-5


def test_the_legacy_layout_reads_patch_and_time_crosswise() -> None:
    legacy, plain = (small_network("fac_st", legacy_layout=on) for on in (True, False))
    x = torch.randn(2, 3, 8, 12, 2)
    patches = "batch time (row p) (col q) channel -> batch time (row col) p q channel"
    found, right = (rearrange(network(x)[0], patches, p=4, q=4) for network in (legacy, plain))
    for position in range(3 * 6):
        assert torch.allclose(found[:, position // 6, position % 6], right[:, position % 3, position // 3], atol=1e-5)


def test_other_output_channels() -> None:
    network = small_network("fac_ts", channels=3, output_channels=1)
    y, _ = network(torch.randn(2, 3, 8, 12, 3))
    assert y.shape == (2, 3, 8, 12, 1)
    assert y.is_contiguous()


def test_whole_windows_only() -> None:
    check_whole_only(small_network("binary_st", time=1), torch.randn(2, 1, 8, 12, 2))
    network = small_network()
    y, _ = network(torch.randn(2, 0, 8, 12, 2))
    assert y.shape == (2, 0, 8, 12, 2)
    with pytest.raises(ValueError, match=r"cannot stream, it forecasts(.|\n)*hint:.*rollout\("):
        network(torch.randn(2, 3, 8, 12, 2), last=False)
    with pytest.raises(ValueError, match="no padded batches"):
        network(torch.randn(2, 3, 8, 12, 2), lengths=torch.tensor([3, 2]))


@pytest.mark.parametrize(
    "shape", [(2, 4, 8, 12, 2), (2, 2, 8, 12, 2), (2, 3, 8, 16, 2), (2, 3, 12, 8, 2), (2, 3, 8, 12, 1), (2, 3, 8, 12)]
)
def test_other_windows_are_refused(shape: tuple[int, ...]) -> None:
    found = str(shape[1:]).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"= {found}, and is made for \(3, 8, 12, 2\)\nhint:"):
        small_network()(torch.randn(*shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "octet"}, r"no variant 'octet'\nhint: one of full, fac_st"),
        ({"rows": 10}, r"patches of 4 do not fill frames of 10 x 12\nhint:"),
        ({"cols": 10}, r"patches of 4 do not fill frames of 8 x 10\nhint:"),
        ({"variant": "fac_ts", "legacy_layout": True}, r"fac_ts has no legacy layout\nhint:"),
        ({"variant": "quad_tsst", "outer_skip": True}, r"quad_tsst has no outer skip\nhint:"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PredFormer(**{**SMALL, "depth": 1, **options})


@torch.inference_mode()
def test_rollout_feeds_forecasts_back_and_cuts_the_last() -> None:
    network, x = small_network(), torch.randn(2, 3, 8, 12, 2)
    first, _ = network(x)
    second, _ = network(first)
    whole = torch.cat([first, second], 1)
    for steps in (1, 3, 4, 6):
        y = rollout(network, x, steps)
        assert torch.equal(y, whole[:, :steps])


def test_rollouts_that_cannot_be() -> None:
    network = small_network(channels=3, output_channels=1)
    x = torch.randn(2, 3, 8, 12, 3)
    assert rollout(network, x, 2).shape == (2, 2, 8, 12, 1)
    with pytest.raises(ValueError, match=r"4 frames are more than the 3(.|\n)*hint: forecast at most 3"):
        rollout(network, x, 4)
    with pytest.raises(ValueError, match=r"forecast of 0 frames\nhint:"):
        rollout(network, x, 0)


def test_autocast_and_half_precision_use_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = small_network("fac_ts"), torch.randn(2, 3, 8, 12, 2)
    expected, _ = network(x)
    monkeypatch.delattr(gated_transformer_cpu, "take")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = network(x)
    assert relative(found.float(), expected) < 0.1
    found.float().square().mean().backward()
    assert network.embedding.linear.weight.grad.isfinite().all()
    half, _ = network.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert relative(half.float(), expected) < 0.1
