"""ConvS5 as published: the recorded outputs of the release, its names, and its training states."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wavecast.apps.forecasting.convs5 import ConvS5, published_losses, rollout
from wavecast.apps.forecasting.convs5_official import convert_state, hyperparameters, parameters, renamed
from wavecast.core.errors import WavecastError

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def record() -> dict[str, np.ndarray]:
    with np.load(HERE / "convs5_tiny.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def official(record: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix("params/"): array for name, array in record.items() if name.startswith("params/")}


@pytest.fixture(scope="module")
def network(official: dict[str, np.ndarray]) -> ConvS5:
    network = ConvS5(**hyperparameters(official)).eval()
    network.load_state_dict(convert_state(official))
    return network


def relative(found: Tensor, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return ((found - torch.from_numpy(expected)).abs().max() / np.abs(expected).max()).item()


@pytest.mark.parametrize("grad", [True, False])
def test_the_recorded_training_pass(network: ConvS5, record: dict[str, np.ndarray], grad: bool) -> None:
    video = torch.from_numpy(record["video"])
    with torch.set_grad_enabled(grad):
        y, _ = network(video[:, :-1])
        losses = published_losses(y, video[:, 1:])
    assert relative(y.detach(), record["recon"]) < 1e-5
    assert losses.loss.item() == pytest.approx(record["out_loss"], rel=1e-5)
    assert losses.squared.item() == pytest.approx(record["out_mse_loss"], rel=1e-5)
    assert losses.absolute.item() == pytest.approx(record["out_l1_loss"], rel=1e-5)


@torch.no_grad()
def test_the_recorded_latents_and_states(network: ConvS5, record: dict[str, np.ndarray]) -> None:
    x = torch.from_numpy(record["video"])[:, :-1]
    encoded, _ = network.get_submodule("encoder")(x)
    entered, _ = network.get_submodule("entry")(encoded)
    latents, state = network.get_submodule("sequence")(entered, last=False)
    assert relative(latents, record["deter"]) < 1e-5
    assert relative(network.get_submodule("decoder")(latents)[0], record["recon"]) < 1e-5
    for i, after in enumerate(state):
        assert relative(torch.view_as_complex(after.parts), record[f"last_state_{i}"]) < 1e-5


def test_the_recorded_rollout(network: ConvS5, record: dict[str, np.ndarray]) -> None:
    """The second and third frame come from the first ones fed back: rounding grows on the way."""
    forecasts = rollout(network, torch.from_numpy(record["video"]), 3)
    assert relative(forecasts[:, :1], record["rollout3"][:, :1]) < 1e-5
    assert relative(forecasts, record["rollout3"]) < 2e-5


@torch.no_grad()
def test_the_accurate_discretization_is_close(network: ConvS5, record: dict[str, np.ndarray]) -> None:
    accurate = ConvS5(channels=1, depths=(32, 32, 64), width=32, size=16, layers=2)
    accurate.load_state_dict(network.state_dict())
    y, _ = accurate(torch.from_numpy(record["video"])[:, :-1])
    assert relative(y, record["recon"]) < 5e-5


def test_the_clip_is_not_idle(official: dict[str, np.ndarray], record: dict[str, np.ndarray]) -> None:
    """The record does not reach it: an eigenvalue above the bound gives what the bound gives."""
    name = "sequence_model/layers_0/seq/Lambda_re"
    outputs = []
    for value in (0.3, -1e-4):
        network = ConvS5(**hyperparameters(official)).eval()
        network.load_state_dict(convert_state({**official, name: np.full_like(official[name], value)}))
        with torch.no_grad():
            outputs.append(network(torch.from_numpy(record["video"]))[0])
    assert torch.equal(*outputs)


def test_the_published_size() -> None:
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in ConvS5().named_children()}
    expected = {"encoder": 1_223_552, "entry": 66_050, "sequence": 18_893_824, "decoder": 1_497_985}
    assert parts == expected
    assert sum(parts.values()) == 21_681_411


def test_every_number_is_converted_once(official: dict[str, np.ndarray]) -> None:
    arguments = hyperparameters(official)
    assert arguments == {
        "channels": 1,
        "depths": (32, 32, 64),
        "width": 32,
        "size": 16,
        "layers": 2,
        "kernel": 3,
        "frame_blocks": 1,
        "discretization": "published",
    }
    table = renamed(arguments)
    assert sorted(row.theirs for row in table) == sorted(official)
    converted = convert_state(official)
    cubes = [sum((np.asarray(a, np.float64) ** 3).sum() for a in group.values()) for group in (official, converted)]
    assert cubes[0] == pytest.approx(cubes[1], rel=1e-12)


def test_depths_and_blocks_are_read_off_the_shapes() -> None:
    """Moving-MNIST's own shapes, and those of more blocks at each resolution."""
    for blocks in (1, 3):
        arguments: dict[str, Any] = {
            "channels": 1,
            "depths": (64, 128, 256),
            "width": 256,
            "size": 256,
            "layers": 8,
            "kernel": 3,
            "frame_blocks": blocks,
        }
        # Arrays of one number, broadcast to their shapes: nothing is allocated.
        arrays = {row.theirs: np.broadcast_to(np.float32(0), row.shape) for row in renamed(arguments)}
        assert hyperparameters(arrays) == {**arguments, "discretization": "published"}
        with torch.device("meta"):
            ours = ConvS5(**{**arguments, "layers": 0}).state_dict()
        rows = {row.ours: row for row in renamed(arguments) if not row.ours.startswith("sequence.")}
        assert rows.keys() == ours.keys()


def tree_of(arrays: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *above, last = name.split("/")
        inner = tree
        for part in above:
            inner = inner.setdefault(part, {})
        inner[last] = array
    return tree


def test_training_states_bare_trees_and_vmapped_names(official: dict[str, np.ndarray]) -> None:
    vmapped = {name.replace("ResNetBlock", "VmapResNetBlock"): array for name, array in official.items()}
    state = {"step": np.int32(7), "params": tree_of(vmapped), "opt_state": {"0": {}}, "model_state": {}}
    for tree in (state, tree_of(official)):
        found = parameters(tree)
        assert found.keys() == official.keys()
        assert all(np.array_equal(found[name], official[name]) for name in official)


def test_faults_are_listed(official: dict[str, np.ndarray]) -> None:
    faulty = {**official, "encoder/extra": np.zeros(3, "f4"), "decoder/Dense_0/bias": np.zeros(2, "f4")}
    del faulty["sequence_model/layers_1/seq/log_step"]
    with pytest.raises(WavecastError) as error:
        convert_state(faulty)
    message = str(error.value)
    assert "3 arrays do not fit" in message
    assert "sequence_model/layers_1/seq/log_step (8, 1) is missing" in message
    assert "encoder/extra (3,) is unknown" in message
    assert "decoder/Dense_0/bias is (2,), expected (1,)" in message
    assert "hint:" in message


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("encoder/Conv_0/kernel", None, "encoder/Conv_0/kernel is missing"),
        ("encoder/Conv_0/kernel", np.zeros((3, 3), "f4"), "expected 4 axes"),
        ("encoder/Conv_0/kernel", np.zeros((3, 3, 0, 32), "f4"), "expected 4 axes of 1 to"),
        ("sequence_model/layers_0/seq/C", np.zeros((3, 3, 8, 5000, 2), "f4"), "expected 5 axes of 1 to 4096"),
        ("decoder/ResNetBlock_0/Conv_0/kernel", None, "3 residual blocks in the encoder, 0 in the decoder"),
    ],
)
def test_shapes_that_tell_nothing(official: dict[str, np.ndarray], name: str, value: Any, fault: str) -> None:
    faulty = {key: array for key, array in official.items() if key != name}
    with pytest.raises(WavecastError, match=fault):
        convert_state(faulty if value is None else {**faulty, name: value})


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (np.full(32, np.nan, "f4"), "encoder/x is not finite"),
        (np.zeros(3, "i4"), "encoder/x is no array of numbers"),
        (3, "encoder/x is no array of numbers"),
        ({"a\nb": [1]}, r"encoder/x/a\\nb' is no array"),
        (tree_of({"/".join("a" * 40): 1}), "nested too deep"),
    ],
)
def test_trees_with_more_than_arrays(official: dict[str, np.ndarray], value: Any, fault: str) -> None:
    tree = tree_of(official)
    tree["encoder"]["x"] = value
    with pytest.raises(WavecastError, match=fault):
        parameters({"params": tree})


@pytest.mark.parametrize("tree", [{}, {"params": 3}, {"params": {"encoder": {}}}, {"model\n": {}}])
def test_trees_without_parameters(tree: dict[str, Any]) -> None:
    with pytest.raises(WavecastError, match="no parameters of ConvS5 among"):
        parameters(tree)
