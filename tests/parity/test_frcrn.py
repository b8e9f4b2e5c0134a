"""FRCRN as published: the recorded outputs of the release, its names, its wrappers, and the form for inference."""

from pathlib import Path

import numpy as np
import pytest
import torch
from parity.seeded import moderate_frcrn, seeded_signal, seeded_state
from torch import Tensor

from kit.streaming import check_whole_only
from wavecast.apps.enhancement import frcrn_fast
from wavecast.apps.enhancement.frcrn import FRCRN, UNet
from wavecast.apps.enhancement.frcrn_fast import FastFRCRN, FastUNet
from wavecast.apps.enhancement.frcrn_official import (
    DEAD_PARAMETERS,
    LIVE_PARAMETERS,
    convert_state,
    official_constants,
    official_shapes,
)
from wavecast.core.errors import WavecastError
from wavecast.official_state import unwrap

HERE = Path(__file__).parent
INTERIOR = slice(320, 31680)


def tensors(state: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in state.items()}


@pytest.fixture(scope="module")
def official() -> dict[str, Tensor]:
    return tensors(seeded_state(HERE / "frcrn_se_16k.json"))


@pytest.fixture(scope="module")
def moderate(official: dict[str, Tensor]) -> FRCRN:
    network = FRCRN().eval()
    network.load_state_dict(convert_state(tensors(moderate_frcrn({k: v.numpy() for k, v in official.items()}))))
    return network


def small_network(channels: int = 8) -> FRCRN:
    """An FRCRN of few channels, its statistics and biases random so that nothing can hide."""
    torch.manual_seed(0)
    network = FRCRN(channels, taps=5, reduction=2).eval()
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        if "gates" in name and name.endswith("0.bias"):
            tensor.fill_(1)  # few hidden units: none may be silent by chance
    return network


def relative(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6)).item()


@torch.inference_mode()
def test_the_recorded_output(official: dict[str, Tensor]) -> None:
    """In fp64, because the plain rule saturates every mask: where the pre-tanh sum of numbers around 1e10 comes near
    zero, the record itself has the sign of its own rounding. That is so in 2 of the 98 hops."""
    network = FRCRN().eval().double()
    network.load_state_dict(convert_state(official))
    expected = torch.from_numpy(np.load(HERE / "frcrn_se_16k.npz")["output"])
    y, _ = network(torch.from_numpy(seeded_signal(32000)).double()[None])
    error = (y[0] - expected)[INTERIOR].abs().unflatten(0, (98, 320)).amax(1)
    assert y.shape == (1, 32000)
    assert (error < 1e-4).sum() >= 96
    assert error.max() < 1e-2


@torch.inference_mode()
def test_the_recorded_output_at_moderate_values(moderate: FRCRN) -> None:
    """The same weights scaled until nothing saturates, recorded from the release in fp64: close everywhere."""
    expected = torch.from_numpy(np.load(HERE / "frcrn_se_16k_moderate.npz")["output"])
    x = torch.from_numpy(seeded_signal(32000))[None]
    y, _ = moderate(x)
    fast, _ = FastFRCRN(moderate)(x)
    assert relative(y[0, INTERIOR], expected[INTERIOR]) < 1e-5
    assert relative(fast[0, INTERIOR], expected[INTERIOR]) < 1e-5
    assert relative(fast, y) < 1e-5


def test_parameters(official: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in FRCRN().parameters()) == LIVE_PARAMETERS == 12_824_276
    learned = [name for name in official if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert sum(official[name].numel() for name in learned) - LIVE_PARAMETERS == DEAD_PARAMETERS == 317_568


def test_names_are_the_official_ones(official: dict[str, Tensor]) -> None:
    shapes = {name: tuple(t.shape) for name, t in official.items() if not name.endswith("num_batches_tracked")}
    assert official_shapes() == shapes
    assert len(shapes) + len(official_constants()) == 812


def test_converting_is_complete_and_repeatable(official: dict[str, Tensor]) -> None:
    converted = convert_state(official)
    network = FRCRN()
    network.load_state_dict(converted, strict=True)
    assert all(torch.equal(tensor, converted[name]) for name, tensor in network.state_dict().items())
    # Every living number is there once: sums of cubes tell permutations apart from losses.
    dead = ("fsmn_enc0", "fsmn_dec6", "se_layer_enc6", "se_layer_dec5")
    living = [t for name, t in official.items() if not any(f".{part}." in name for part in dead)]
    cubes = [sum(t.double().pow(3).sum().item() for t in group) for group in (living, converted.values())]
    assert cubes[0] == pytest.approx(cubes[1], rel=1e-12)


def test_prefixes_aliases_constants_and_missing_counters(official: dict[str, Tensor]) -> None:
    expected = convert_state(official)
    aliases = {
        "unet.encoders.0.conv.conv_re.bias": official["unet.encoder0.conv.conv_re.bias"],
        "unet2.fsmn_enc.3.fsmn_im_L1.linear.bias": official["unet2.fsmn_enc3.fsmn_im_L1.linear.bias"],
    }
    without_counters = {name: t for name, t in official.items() if not name.endswith("num_batches_tracked")}
    found = convert_state(
        {f"module.{n}": t for n, t in {**without_counters, **aliases, **official_constants()}.items()}
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_aliases_stand_for_the_plain_names_and_must_agree(official: dict[str, Tensor]) -> None:
    plain, alias = "unet2.se_layer_dec3.fc_r.0.bias", "unet2.se_layers_dec.3.fc_r.0.bias"
    only_alias = {alias if name == plain else name: tensor for name, tensor in official.items()}
    name = "unet2.decoder_gates.3.real.0.bias"
    assert torch.equal(convert_state(only_alias)[name], convert_state(official)[name])
    with pytest.raises(WavecastError, match=r"se_layer_dec3\.fc_r\.0\.bias is there twice"):
        convert_state({**official, alias: official[plain] + 1})


def test_counters_of_unknown_layers_are_refused(official: dict[str, Tensor]) -> None:
    with pytest.raises(WavecastError, match="is unknown"):
        convert_state({**official, "unet.encoder7.bn.bn_re.num_batches_tracked": torch.tensor(1)})


def test_wrappers(official: dict[str, Tensor]) -> None:
    assert unwrap(official).keys() == official.keys()
    assert unwrap({"model": official, "optimizer": {}, "epoch": 3, "step": 1}).keys() == official.keys()
    assert unwrap({"state_dict": {f"model.{n}": t for n, t in official.items()}}).keys() == official.keys()


@pytest.mark.parametrize("content", [[], {}, {"epoch": 3}, {"model": {"a": 1}}, 7, None])
def test_wrappers_without_tensors(content: object) -> None:
    with pytest.raises(WavecastError, match=r"checkpoint holds.*\nhint:"):
        unwrap(content)


def test_faults_are_listed(official: dict[str, Tensor]) -> None:
    faulty = dict(official)
    del faulty["unet.encoder3.conv.conv_re.weight"]
    faulty["unet.extra"] = torch.zeros(3)
    faulty["unet2.linear.conv_im.bias"] = torch.zeros(2)
    with pytest.raises(WavecastError) as error:
        convert_state(faulty)
    message = str(error.value)
    assert "3 tensors do not fit" in message
    assert "unet.encoder3.conv.conv_re.weight (128, 128, 5, 2) is missing" in message
    assert "unet.extra (3,) is unknown" in message
    assert "unet2.linear.conv_im.bias is (2,), expected (1,)" in message
    assert "hint:" in message


def test_dead_tensors_are_checked_too(official: dict[str, Tensor]) -> None:
    faulty = {**official, "unet.fsmn_enc0.fsmn_re_L1.linear.bias": torch.zeros(64)}
    with pytest.raises(WavecastError, match="fsmn_enc0"):
        convert_state(faulty)


def test_other_kernels_than_the_window_are_refused(official: dict[str, Tensor]) -> None:
    wrong = official_constants()["stft.weight"] + 1e-4
    with pytest.raises(WavecastError, match=r"stft\.weight"):
        convert_state({**official, "stft.weight": wrong})


def test_every_parameter_learns() -> None:
    """A training step reaches all parameters, so none is dead."""
    network = small_network().train()
    clean = torch.randn(2, 8000)
    y, _ = network(clean + torch.randn(2, 8000))
    ((y - clean)[:, 320:-320] ** 2).mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_whole_signals_only() -> None:
    network = small_network(4)
    check_whole_only(network, torch.randn(2, 4000))
    with pytest.raises(ValueError, match=r"frcrn\.stream16k"):
        FastFRCRN(network)(torch.randn(1, 640), last=False)
    with pytest.raises(ValueError, match="equal length"):
        network(torch.randn(2, 4000), lengths=torch.tensor([4000, 2000]))


@pytest.mark.parametrize("samples", [1, 319, 640, 641, 4000, 4001, 16000])
@torch.inference_mode()
def test_fast_equals_the_training_form_at_any_length(samples: int) -> None:
    network = small_network().double()
    fast = FastFRCRN(network)
    x = torch.randn(2, samples, dtype=torch.float64)
    assert relative(fast(x)[0], network(x)[0]) < 1e-9


@pytest.mark.parametrize("tile", [1, 300, 1000])
@torch.inference_mode()
def test_tiles_make_no_difference(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    unet = UNet(4, taps=5, reduction=2).eval().double()
    x = torch.randn(1, 23, 321, 2, dtype=torch.float64)
    expected, _ = unet(x)
    monkeypatch.setattr(frcrn_fast, "TILE", tile)
    monkeypatch.setattr(frcrn_fast, "MEMORY_TILE", tile)
    assert relative(FastUNet(unet)(x[0]), expected[0]) < 1e-10


def test_fast_keeps_nothing_of_the_training_form() -> None:
    network = small_network(4)
    fast = FastFRCRN(network)
    x = torch.randn(1, 2000)
    before = fast(x)[0].clone()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.zero_()
    assert torch.equal(fast(x)[0], before)
    assert not any(p.requires_grad for p in fast.parameters())
