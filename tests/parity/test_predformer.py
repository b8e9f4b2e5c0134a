"""PredFormer as published: the recorded outputs of the nine variants, its sizes, names and files."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wavecast.apps.forecasting.predformer import VARIANTS, PredFormer
from wavecast.apps.forecasting.predformer_official import (
    convert_state,
    from_official,
    hyperparameters,
    load_official,
    prefixes,
    renamed,
    unwrap,
)
from wavecast.core.errors import WavecastError

HERE = Path(__file__).parent
RECORDED = {
    "full": "FullAttention",
    "fac_st": "FacST",
    "fac_ts": "FacTS",
    "binary_ts": "Binary_TS",
    "binary_st": "Binary_ST",
    "triplet_tst": "Triplet_TST",
    "triplet_sts": "Triplet_STS",
    "quad_tsst": "Quadruplet_TSST",
    "quad_stts": "Quadruplet_STTS",
}
SHAPE = {"time": 3, "rows": 16, "cols": 32, "patch": 4, "heads": 4}


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    with np.load(HERE / "predformer_tiny.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def official_of(recorded: dict[str, Tensor], variant: str) -> dict[str, Tensor]:
    prefix = f"{RECORDED[variant]}|sd|"
    return {name.removeprefix(prefix): t for name, t in recorded.items() if name.startswith(prefix)}


def frames_of(recorded: dict[str, Tensor], variant: str, which: str) -> Tensor:
    return recorded[f"{RECORDED[variant]}|{which}"].permute(0, 1, 3, 4, 2)


def relative(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("gradients", [False, True])
def test_the_recorded_output(recorded: dict[str, Tensor], variant: str, gradients: bool) -> None:
    network = from_official(official_of(recorded, variant), variant, **SHAPE)
    with torch.set_grad_enabled(gradients):
        y, _ = network(frames_of(recorded, variant, "x"))
    assert relative(y.detach(), frames_of(recorded, variant, "y")) < 1e-5


@torch.inference_mode()
def test_the_order_of_tokens_is_right_unless_legacy(recorded: dict[str, Tensor]) -> None:
    """The recorded Fac-S-T reads (patch, time) as (time, patch): sorting its patches back gives what is described."""
    official = official_of(recorded, "fac_st")
    legacy = from_official(official, "fac_st", **SHAPE)
    described = PredFormer(**hyperparameters(official, "fac_st", 4, 4), time=3, rows=16, cols=32).eval()
    described.load_state_dict(legacy.state_dict())
    x, y = frames_of(recorded, "fac_st", "x"), frames_of(recorded, "fac_st", "y")
    patches = y.unflatten(2, (4, 4)).unflatten(4, (8, 4)).permute(0, 1, 2, 4, 3, 5, 6).reshape(2, 32, 3, 4, 4, 2)
    sorted_back = patches.transpose(1, 2).unflatten(2, (4, 8)).permute(0, 1, 2, 4, 3, 5, 6).reshape(y.shape)
    found, _ = described(x)
    assert relative(found, sorted_back) < 1e-5
    assert relative(found, y) > 0.1


@pytest.mark.parametrize(
    ("variant", "depth", "count"),
    [
        ("full", 24, 25_285_952),
        ("fac_st", 12, 25_286_464),
        ("fac_ts", 12, 25_286_464),
        ("binary_ts", 12, 25_297_728),
        ("binary_st", 12, 25_297_728),
        ("triplet_tst", 8, 25_297_728),
        ("triplet_sts", 8, 25_297_728),
        ("quad_tsst", 6, 25_297_728),
        ("quad_stts", 6, 25_297_728),
    ],
)
def test_parameters_for_moving_mnist(variant: str, depth: int, count: int) -> None:
    with torch.device("meta"):
        network = PredFormer(variant, time=10, rows=64, cols=64, channels=1, patch=8, depth=depth)
    assert sum(p.numel() for p in network.parameters()) == count


def test_parameters_for_weather() -> None:
    with torch.device("meta"):
        network = PredFormer("fac_ts", time=12, rows=32, cols=64, channels=1, patch=4, depth=4, scale_dim=2)
    assert sum(p.numel() for p in network.parameters()) == 5_273_360


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_are_the_official_ones(recorded: dict[str, Tensor], variant: str) -> None:
    official = official_of(recorded, variant)
    network = from_official(official, variant, **SHAPE)
    names = [one for _, theirs in renamed(network, variant) for one in theirs]
    assert len(names) == len(set(names))
    assert set(names) == set(official)
    assert {name for name, _ in renamed(network, variant)} == set(network.state_dict())
    # Every number is there once: sums of cubes tell permutations apart from losses.
    cubes = [sum(t.double().pow(3).sum().item() for t in s.values()) for s in (official, network.state_dict())]
    assert cubes[0] == pytest.approx(cubes[1], rel=1e-12)


def test_hyperparameters_are_read_off(recorded: dict[str, Tensor]) -> None:
    common = {"channels": 2, "output_channels": 2, "patch": 4, "dim": 32, "heads": 4, "head_dim": 8, "scale_dim": 2}
    for variant, depth in (("full", 2), ("fac_ts", 2), ("binary_st", 2), ("triplet_sts", 1), ("quad_stts", 1)):
        found = hyperparameters(official_of(recorded, variant), variant, 4, 4)
        assert found == {**common, "variant": variant, "depth": depth}


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def test_the_three_files_of_the_authors_code(recorded: dict[str, Tensor], tmp_path: Path) -> None:
    official = official_of(recorded, "quad_tsst")
    trainer = {"epoch": 7, "optimizer": {"state": {}}, "state_dict": official, "scheduler": {"last_epoch": 7}}
    lightning = {"state_dict": {f"model.{n}": t for n, t in official.items()}, "pytorch-lightning_version": "1.9"}
    expected = from_official(official, "quad_tsst", **SHAPE).state_dict()
    for name, content in (("bare.pth", official), ("latest.pth", trainer), ("best.ckpt", lightning)):
        network = load_official(save(content, tmp_path / name), "quad_tsst", **SHAPE)
        assert not network.training
        assert all(torch.equal(tensor, expected[key]) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize("content", [[], {}, {"epoch": 3}, {"state_dict": {"a": 1}}, {"state_dict": {}}, None])
def test_wrappers_without_tensors(content: object) -> None:
    with pytest.raises(WavecastError, match=r"checkpoint holds.*\nhint:"):
        unwrap(content)


class Harmful:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("exit 3",)


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WavecastError, match="holds code or objects"):
        load_official(save({"state_dict": Harmful()}, tmp_path / "code.pth"), "full", **SHAPE)
    (tmp_path / "junk.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(WavecastError, match=r"junk\.pth"):
        load_official(tmp_path / "junk.pth", "full", **SHAPE)
    with pytest.raises(WavecastError, match="cannot read"):
        load_official(tmp_path / "absent.pth", "full", **SHAPE)


def test_faults_are_listed(recorded: dict[str, Tensor]) -> None:
    faulty = official_of(recorded, "binary_ts")
    del faulty["blocks.1.ts_space_transformer.layers.0.1.fn.fc1_x.weight"]
    faulty["blocks.0.extra"] = torch.zeros(3)
    faulty["mlp_head.0.bias"] = torch.zeros(5)
    with pytest.raises(WavecastError) as error:
        from_official(faulty, "binary_ts", **SHAPE)
    message = str(error.value)
    assert "3 tensors do not fit" in message
    assert "blocks.1.ts_space_transformer.layers.0.1.fn.fc1_x.weight (64, 32) is missing" in message
    assert "blocks.0.extra (3,) is unknown" in message
    assert "mlp_head.0.bias is (5,), expected (32,)" in message
    assert "hint:" in message


def test_projections_of_several_heads_are_never_made_up(recorded: dict[str, Tensor]) -> None:
    faulty = {n: t for n, t in official_of(recorded, "full").items() if ".layers.0.0.fn.to_out" not in n}
    with pytest.raises(WavecastError, match=r"2 tensors do not fit.*to_out\.0\.weight \(32, 32\) is missing"):
        from_official(faulty, "full", **SHAPE)


@torch.inference_mode()
def test_one_head_as_wide_as_a_token_has_no_projection(recorded: dict[str, Tensor]) -> None:
    """The authors' code leaves the projection out there: an identity takes its place."""
    without = {n: t for n, t in official_of(recorded, "full").items() if "to_out" not in n}
    network = from_official(without, "full", **{**SHAPE, "heads": 1})
    attention = network.stages[0].layers[0].attention
    assert attention.heads == 1
    x = torch.randn(5, 3, 2, 32)
    query, key, value = attention.qkv(attention.norm(x)).transpose(1, 2).chunk(3, -1)
    heard = torch.softmax(query @ key.mT / 32**0.5, -1) @ value
    assert relative(attention(x), x + heard.transpose(1, 2)) < 1e-5


@pytest.mark.parametrize(
    ("held", "asked", "message"),
    [
        ("quad_tsst", "full", "is no full: its modules are those of quad_tsst or quad_stts"),
        ("fac_st", "triplet_tst", "is no triplet_tst: its modules are those of fac_st or fac_ts"),
        ("binary_st", "binary_ts", "is no binary_ts: its modules are those of binary_st"),
        ("triplet_sts", "triplet_tst", "is no triplet_tst: its modules are those of triplet_sts"),
        ("full", "sixfold", "no variant 'sixfold'"),
    ],
)
def test_other_variants_are_refused(recorded: dict[str, Tensor], held: str, asked: str, message: str) -> None:
    with pytest.raises(WavecastError, match=message):
        from_official(official_of(recorded, held), asked, **SHAPE)


def test_other_tensors_are_refused() -> None:
    with pytest.raises(WavecastError, match="is no quad_tsst: its modules are"):
        from_official({"encoder.weight": torch.zeros(3, 3)}, "quad_tsst", **SHAPE)


def test_twins_differ_in_the_order_of_names_alone(
    recorded: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    """That order is a hint: the variant that is asked for is built, with a warning."""
    official = official_of(recorded, "quad_stts")
    with caplog.at_level(logging.WARNING):
        from_official(official, "quad_stts", **SHAPE)
        assert not caplog.records
        network = from_official(official, "quad_tsst", **SHAPE)
    assert "the order of the checkpoint's names is that of quad_stts, not of quad_tsst" in caplog.text
    assert network.sequence == "TSST"
    with torch.inference_mode():
        y, _ = network(frames_of(recorded, "quad_stts", "x"))
    assert relative(y, frames_of(recorded, "quad_stts", "y")) > 0.01


@pytest.mark.parametrize("changed", [{"patch": 3}, {"heads": 5}])
def test_patch_and_heads_must_divide(recorded: dict[str, Tensor], changed: dict[str, int]) -> None:
    with pytest.raises(WavecastError, match=r"features, which are no(.|\n)*hint: give the trained patch and heads"):
        from_official(official_of(recorded, "full"), "full", **{**SHAPE, **changed})


def test_converting_needs_the_network_of_the_file(recorded: dict[str, Tensor]) -> None:
    official = official_of(recorded, "full")
    wider = PredFormer(**{**hyperparameters(official, "full", 4, 4), "scale_dim": 3}, time=3, rows=16, cols=32)
    with pytest.raises(WavecastError, match=r"fc1_g\.weight is \(64, 32\), expected \(96, 32\)"):
        convert_state(official, wider, "full")
    assert list(prefixes("binary_ts", 1)) == ["blocks.0.ts_temporal_transformer", "blocks.0.ts_space_transformer"]
