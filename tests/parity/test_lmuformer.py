"""LMUFormer, plain and spiking: the recorded outputs of the authors' code, its names, and what it does not take."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from parity.seeded import seeded_state
from torch import Tensor

from wavecast.apps.keywords import lmuformer_official
from wavecast.apps.keywords.lmuformer import LMUFormer
from wavecast.apps.keywords.lmuformer_official import (
    architecture_of,
    convert_state,
    hyperparameters,
    memory_constants,
    official_shapes,
)
from wavecast.apps.keywords.spiking_lmuformer import SpikingLMUFormer
from wavecast.apps.keywords.views import embedded_logits, window_logits
from wavecast.core.errors import WavecastError
from wavecast.core.spiking import LeakyIntegrateAndFire
from wavecast.core.statistics import RunningMean

HERE = Path(__file__).parent
LMU = "block.0.attn.lmu"
BLOCK, MEMORY = "blocks.0", "blocks.0.memory.inner"
NEURONS = {
    "patch_embed.proj_lif": "embedding.layer0.spikes",
    "patch_embed.proj_lif1": "embedding.layer1.spikes",
    "patch_embed.proj_lif2": "embedding.layer2.spikes",
    "patch_embed.proj_lif3": "embedding.position.inner.spikes",
    "block.0.attn.prev_lif": f"{MEMORY}.spikes1",
    "block.0.attn.lmu.f_u": f"{MEMORY}.unit.remembered.spikes1",
    "block.0.attn.lmu.f_m": f"{MEMORY}.unit.remembered.spikes2",
    "block.0.attn.lmu.f_h": f"{MEMORY}.spikes2",
    "block.0.mlp.fc1_lif": f"{BLOCK}.mixer.inner.spikes1",
    "block.0.mlp.fc2_lif": f"{BLOCK}.mixer.inner.spikes2",
    "head_lif": "head.spikes",
}
FRAME_FIRST = ("block.0.attn.lmu.f_u", "block.0.attn.lmu.f_h")
"""Layers whose spikes were recorded as (frame, batch, channel), not (frame, channel, batch)."""


def seeded(kind: str) -> dict[str, Tensor]:
    path = HERE / f"lmuformer_{kind}.json"
    gain = json.loads(path.read_text())["bn_weight_gain"]
    state = {name: torch.from_numpy(value) for name, value in seeded_state(path).items()}
    return {name: one * gain if "bn" in name and name.endswith("weight") else one for name, one in state.items()}


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    return seeded("plain")


@pytest.fixture(scope="module")
def spiking() -> dict[str, Tensor]:
    return seeded("spiking")


@pytest.fixture(scope="module")
def features() -> Tensor:
    return torch.from_numpy(np.random.default_rng([128, 0]).standard_normal((2, 128, 128)).astype("f4"))


def loaded(official: dict[str, Tensor]) -> LMUFormer | SpikingLMUFormer:
    network = lmuformer_official.NETWORKS[architecture_of(official)][0](**hyperparameters(official)).eval()
    network.load_state_dict(convert_state(official), strict=True)
    return network


def relative(found: Tensor, expected: np.ndarray) -> float:
    assert tuple(found.shape) == expected.shape
    return np.abs(found.numpy() - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("kind", ["plain", "spiking"])
@torch.inference_mode()
def test_the_recorded_outputs(kind: str, features: Tensor, request: pytest.FixtureRequest) -> None:
    network, recorded = loaded(request.getfixturevalue(kind)), np.load(HERE / f"lmuformer_{kind}.npz")
    embedded, _ = network.embedding(features)
    before_head, _ = network.blocks(embedded)
    logits, _ = network.head(before_head)
    assert relative(before_head.transpose(1, 2), recorded["features"]) < 1e-5
    assert relative(logits.mean(1), recorded["logits"]) < 1e-5
    assert relative(RunningMean(1.0)(logits)[0].transpose(0, 1), recorded["running_logits"]) < 1e-5
    assert torch.equal(window_logits(network, features), embedded_logits(network, embedded))
    assert relative(window_logits(network, features), recorded["logits"]) < 1e-5


@torch.inference_mode()
def test_the_recorded_spikes(spiking: dict[str, Tensor], features: Tensor) -> None:
    network, recorded = loaded(spiking), np.load(HERE / "lmuformer_spiking.npz")
    fired: dict[str, Tensor] = {}

    def listen(name: str, neurons: LeakyIntegrateAndFire) -> None:
        neurons.register_forward_hook(lambda module, inputs, output: fired.update({name: output[0]}))

    for theirs, ours in NEURONS.items():
        listen(theirs, network.get_submodule(f"{ours}.neurons"))
    window_logits(network, features)
    assert sum(isinstance(one, LeakyIntegrateAndFire) for one in network.modules()) == len(NEURONS) == len(fired)
    different = total = 0
    for name, spikes in fired.items():
        shape = recorded[f"spikes_shape|{name}"]
        expected = np.unpackbits(recorded[f"spikes|{name}"])[: np.prod(shape)].reshape(shape)
        found = spikes.permute(*((1, 0, 2) if name in FRAME_FIRST else (1, 2, 0))).numpy()
        assert found.shape == expected.shape
        assert 0 < expected.mean() < 1
        different, total = different + (found != expected).sum(), total + expected.size
    assert different <= total / 10_000


def test_parameters_of_the_published_size() -> None:
    with torch.device("meta"):
        for network, parameters in ((LMUFormer, 1_621_796), (SpikingLMUFormer, 1_689_894)):
            assert sum(p.numel() for p in network(35).parameters()) == parameters


@pytest.mark.parametrize("kind", ["plain", "spiking"])
def test_names_are_the_official_ones(kind: str, request: pytest.FixtureRequest) -> None:
    official = request.getfixturevalue(kind)
    options = hyperparameters(official)
    shapes = official_shapes(architecture_of(official), options)
    assert shapes == {name: tuple(tensor.shape) for name, tensor in official.items()}
    constants = json.loads((HERE / f"lmuformer_{kind}.json").read_text())["constants"]
    assert set(memory_constants(options["order"], 1)) == set(constants)
    assert {**options, "order": 0} == {
        "classes": 35, "mels": 128, "width": 256, "order": 0, "theta": 128, "depth": 1, "expansion": 4
    }  # fmt: skip
    assert options["order"] == (512 if kind == "spiking" else 256)


@pytest.mark.parametrize("kind", ["plain", "spiking"])
def test_converting_keeps_every_number(kind: str, request: pytest.FixtureRequest) -> None:
    official = request.getfixturevalue(kind)
    groups = (official.values(), convert_state(official).values())
    cubes = [sum(tensor.double().pow(3).sum().item() for tensor in group) for group in groups]
    assert cubes[0] == pytest.approx(cubes[1], rel=1e-12)


@pytest.mark.parametrize("depth", [2])
def test_more_blocks_than_one(depth: int) -> None:
    sizes = {"classes": 4, "mels": 6, "width": 8, "order": 5, "theta": 128, "depth": depth, "expansion": 2}
    for architecture, (network, _, _) in lmuformer_official.NETWORKS.items():
        official = {name: torch.rand(shape) for name, shape in official_shapes(architecture, sizes).items()}
        official |= memory_constants(5, depth)
        assert hyperparameters(official) == sizes
        network(**sizes).load_state_dict(convert_state(official), strict=True)


def stored(order: int) -> dict[str, Tensor]:
    """What a published file holds of its memory, in its own precision: steps of the recurrence in fp32."""
    constants = memory_constants(order, 1)
    a, b = constants[f"{LMU}.A"], constants[f"{LMU}.B"]
    response = [b[:, 0]]
    for _ in range(127):
        response.append(a @ response[-1])
    h = torch.stack(response, 1)
    return {f"{LMU}.A": a, f"{LMU}.B": b, f"{LMU}.H": h, f"{LMU}.fft_H": torch.fft.rfft(h, 256)}


def test_the_prefix_and_the_stored_constants(plain: dict[str, Tensor]) -> None:
    file = {f"module.{name}": tensor for name, tensor in {**plain, **stored(256)}.items()}
    converted, expected = convert_state(file), convert_state(plain)
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["A", "B", "H", "fft_H"])
def test_constants_of_another_memory(plain: dict[str, Tensor], name: str) -> None:
    constant = stored(256)[f"{LMU}.{name}"]
    with pytest.raises(WavecastError, match=rf"{LMU}.{name} is not that of a Legendre memory over 128 frames"):
        convert_state({**plain, f"{LMU}.{name}": 1.1 * constant})
    with pytest.raises(WavecastError, match=rf"{LMU}.{name} is \(.*, expected \("):
        convert_state({**plain, f"{LMU}.{name}": constant[..., :-1] if name != "B" else constant[:-1]})


@pytest.mark.parametrize("kind", ["plain", "spiking"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.bias": None}, r"1 tensors do not fit \w+: head.bias \(35,\) is missing"),
        ({"stranger": torch.zeros(2)}, r"stranger \(2,\) is unknown"),
        ({"head.bias": torch.zeros(34)}, r"head.bias is \(34,\), expected \(35,\)"),
        ({"block.0.mlp.fc1_conv.weight": None}, r"fc1_conv.weight is missing, or no matrix"),
        ({"module.head.bias": torch.ones(35)}, "head.bias is there twice, with different values"),
    ],
)
def test_what_does_not_fit(kind: str, change: dict, message: str, request: pytest.FixtureRequest) -> None:
    official = {**request.getfixturevalue(kind), **change}
    with pytest.raises(WavecastError, match=rf"{message}(.|\n)*hint: the file is not an LMUFormer"):
        convert_state({name: tensor for name, tensor in official.items() if tensor is not None})
