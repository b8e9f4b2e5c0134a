"""MossFormer2 for separation: the recorded outputs of the release, its names, and what it does not take."""

from pathlib import Path

import numpy as np
import pytest
import torch
from parity.seeded import seeded_signal, seeded_state
from torch import Tensor
from torch.nn import functional

from wavecast.apps.separation.mossformer2 import MossFormer2
from wavecast.apps.separation.mossformer2_fast import FastMossFormer2
from wavecast.apps.separation.mossformer2_official import (
    SPEECHBRAIN,
    convert_state,
    hyperparameters,
    mask_constants,
    official_shapes,
)
from wavecast.core.errors import WavecastError

HERE = Path(__file__).parent
P = "mask_net.mdl.intra_mdl.mossformerM."


def seeded(speakers: int) -> dict[str, Tensor]:
    state = seeded_state(HERE / f"mossformer2_ss_{speakers}spk_2layers.json")
    return {name: torch.from_numpy(value) for name, value in state.items()}


@pytest.fixture(scope="module")
def official() -> dict[str, Tensor]:
    return seeded(2)


def loaded(official: dict[str, Tensor], masking: bool = True) -> MossFormer2:
    network = MossFormer2(**hyperparameters(official), masking=masking).eval()
    network.load_state_dict(convert_state(official), strict=True)
    return network


def relative(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("speakers", [2, 3])
@torch.inference_mode()
def test_the_recorded_output(speakers: int) -> None:
    official = seeded(speakers)
    assert hyperparameters(official) == {"speakers": speakers, "layers": 2}
    network, x = loaded(official), torch.from_numpy(seeded_signal(16333))[None]
    y, _ = network(x)
    expected = torch.from_numpy(np.load(HERE / f"mossformer2_ss_{speakers}spk_2layers.npz")["output"])
    assert relative(y[0].T, expected) < 1e-5
    assert (expected[:, 16328:] == 0).all()  # where no whole frame fits, the release gives zeros
    assert (y[0, 16328:] == 0).all()
    fast, _ = FastMossFormer2(network)(x)
    assert relative(fast[0].T, expected) < 1e-5
    assert (fast[0, 16328:] == 0).all()


@torch.inference_mode()
def test_without_masking_the_network_gives_the_features(official: dict[str, Tensor]) -> None:
    """WHAMR's network: what else are masks goes to the filter bank as it is."""
    x = torch.from_numpy(seeded_signal(4000))[None]
    network = loaded(official, masking=False)
    features = functional.relu(functional.conv1d(x[:, None], official["enc.conv1d.weight"], stride=8))
    masks, _ = network.inner.features.masks(features.transpose(1, 2))
    for speaker in range(2):
        one = masks[..., speaker].transpose(1, 2)
        expected = functional.conv_transpose1d(one, official["dec.weight"], stride=8)[:, 0]
        assert relative(network(x)[0][..., speaker], functional.pad(expected, (0, 4000 - expected.shape[1]))) < 1e-5
    assert relative(loaded(official)(x)[0], network(x)[0]) > 0.1


def test_parameters_of_the_full_size() -> None:
    with torch.device("meta"):
        for speakers, trainable in ((2, 55_735_394), (3, 55_998_050)):
            assert sum(p.numel() for p in MossFormer2(speakers).parameters()) == trainable


@pytest.mark.parametrize("speakers", [2, 3])
def test_names_are_the_official_ones(speakers: int) -> None:
    official = seeded(speakers)
    assert official_shapes(speakers, 2) == {name: tuple(tensor.shape) for name, tensor in official.items()}
    full = official_shapes(speakers)
    constants = mask_constants("mask_net.", 24)
    assert len(full) + len(constants) == 1099
    assert len(full) + 2 == 1076  # the rotary frequencies are one tensor under 24 names


def test_converting_keeps_every_number(official: dict[str, Tensor]) -> None:
    converted = convert_state(official)
    cubes = [sum(t.double().pow(3).sum().item() for t in group) for group in (official.values(), converted.values())]
    assert cubes[0] == pytest.approx(cubes[1], rel=1e-12)


def speechbrain(name: str) -> str:
    """Give a name as SpeechBrain has it."""
    for theirs, plain in SPEECHBRAIN.items():
        if name.startswith(plain):
            return theirs + name.removeprefix(plain)
    raise ValueError(name)


def test_other_names_prefixes_and_tables(official: dict[str, Tensor]) -> None:
    expected = convert_state(official)
    constants = mask_constants("mask_net.", 2)
    assert set(constants) == {"mask_net.pos_enc.inv_freq", *(f"{P}layers.{i}.rotary_pos_emb.freqs" for i in (0, 1))}
    some = {f"{P}layers.1.rotary_pos_emb.freqs": constants[f"{P}layers.1.rotary_pos_emb.freqs"]}
    for tables in ({}, some, constants):
        whole = {**official, **tables}
        for rename in (str, speechbrain, "module.{}".format):
            found = convert_state({rename(name): tensor for name, tensor in whole.items()})
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_speechbrains_names_are_as_published() -> None:
    assert speechbrain(f"{P}layers.3.to_qk.mdl.0.g") == "masknet.dual_mdl.0.intra_mdl.mdl.flashT.layers.3.to_qk.mdl.0.g"
    assert speechbrain("mask_net.mdl.intra_mdl.norm.bias") == "masknet.dual_mdl.0.intra_mdl.mdl.norm.norm.bias"
    assert speechbrain("mask_net.mdl.intra_norm.bias") == "masknet.dual_mdl.0.intra_norm.bias"
    assert speechbrain("mask_net.conv1d_out.bias") == "masknet.conv1d_out.bias"
    assert (speechbrain("enc.conv1d.weight"), speechbrain("dec.weight")) == ("encoder.conv1d.weight", "decoder.weight")


def test_tables_that_are_others_are_refused(official: dict[str, Tensor]) -> None:
    for name in mask_constants("mask_net.", 2):
        wrong = mask_constants("mask_net.", 2)[name] + 1e-4
        with pytest.raises(WavecastError, match=r"is not the table of frequencies(.|\n)*hint:"):
            convert_state({**official, name: wrong})


def test_one_tensor_under_two_names_must_agree(official: dict[str, Tensor]) -> None:
    double = official["dec.weight"]
    assert convert_state({**official, "decoder.weight": double})
    with pytest.raises(WavecastError, match=r"dec\.weight is there twice, with different values"):
        convert_state({**official, "decoder.weight": double + 1})


def test_faults_are_listed(official: dict[str, Tensor]) -> None:
    faulty = dict(official)
    del faulty[f"{P}fsmn.1.gated_fsmn.fsmn.conv.conv2.weight"]
    faulty["mask_net.extra"] = torch.zeros(3)
    faulty["mask_net.prelu.weight"] = torch.zeros(2)
    with pytest.raises(WavecastError) as error:
        convert_state(faulty)
    message = str(error.value)
    assert "3 tensors do not fit MossFormer2" in message
    assert "fsmn.1.gated_fsmn.fsmn.conv.conv2.weight (256, 2, 39, 1) is missing" in message
    assert "mask_net.extra (3,) is unknown" in message
    assert "mask_net.prelu.weight is (2,), expected (1,)" in message
    assert "hint:" in message


def test_a_missing_layer_and_other_files_are_refused(official: dict[str, Tensor]) -> None:
    gap = {name: tensor for name, tensor in official.items() if f"{P}layers.0." not in name}
    with pytest.raises(WavecastError, match=r"layers\.0\..* is missing"):
        convert_state(gap)
    with pytest.raises(WavecastError, match=r"not a MossFormer2 for separation"):
        convert_state({"unet.encoder0.conv.conv_re.weight": torch.zeros(1)})
    uneven = {**official, "mask_net.conv1d_out.weight": torch.zeros(1000, 512, 1)}
    with pytest.raises(WavecastError, match=r"conv1d_out\.weight is \(1000, 512, 1\), expected \(512, 512, 1\)"):
        convert_state(uneven)
