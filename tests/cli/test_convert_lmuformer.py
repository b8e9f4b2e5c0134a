"""`wavecast models convert` takes the files of LMUFormer's authors, plain and spiking, and no others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from parity.seeded import seeded_state
from safetensors.torch import save_file

from wavecast.apps.keywords import lmuformer_official
from wavecast.apps.keywords.views import window_logits
from wavecast.cards import find_model, load_network, sha256
from wavecast.core.stream import latency

PARITY = Path(__file__).parents[1] / "parity"
ARCHITECTURES = {"lmuformer": "plain", "spiking_lmuformer": "spiking"}


def tensors(architecture):
    state = seeded_state(PARITY / f"lmuformer_{ARCHITECTURES[architecture]}.json")
    return {name: torch.from_numpy(value) for name, value in state.items()}


def published(architecture):
    """Tensors as a published file has them: the prefix of parallel training, and the memory's constants."""
    state = tensors(architecture)
    constants = lmuformer_official.memory_constants(lmuformer_official.hyperparameters(state)["order"], 1)
    spectrum = "block.0.attn.lmu.fft_H"
    constants[spectrum] = torch.view_as_complex(constants[spectrum].contiguous())
    return {f"module.{name}": tensor for name, tensor in {**state, **constants}.items()}


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def architecture(request):
    """The name of an architecture."""
    return request.param


@pytest.fixture
def file(architecture, tmp_path):
    """A published file."""
    torch.save(published(architecture), tmp_path / "best_model.pth")
    return tmp_path / "best_model.pth"


@pytest.mark.parametrize("given", [True, False], ids=["named", "told by the file"])
def test_convert_takes_a_published_file(wavecast, tmp_path, architecture, file, given):
    options = ("--as", architecture) if given else ()
    said = wavecast("models", "convert", file, *options, "-o", tmp_path / "out")
    assert (said.code, said.out) == (0, ""), said
    card = find_model(str(tmp_path / "out" / f"{architecture}.best_model.yaml"), "spot")
    assert (card.architecture, card.sample_rate, len(card.classes)) == (architecture, 16_000, 35)
    assert (card.classes[0], card.classes[5], card.classes[-1]) == ("backward", "down", "zero")
    assert list(card.classes) == sorted(card.classes)
    assert "in the order of the alphabet, not verified" in card.notes
    assert sha256(file) in card.origin
    network = load_network(card)
    assert card.latency_ms == 1000 * latency(network, card.block) / card.sample_rate
    expected = lmuformer_official.convert_state(tensors(architecture))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())
    assert wavecast("models", "verify", tmp_path / "out" / f"{architecture}.best_model.safetensors").code == 0


def test_a_converted_model_gives_the_recorded_output(wavecast, tmp_path):
    torch.save({"state_dict": tensors("lmuformer")}, tmp_path / "a.pt")
    assert wavecast("models", "convert", tmp_path / "a.pt", "-o", tmp_path / "out").code == 0
    network = load_network(find_model(str(tmp_path / "out" / "lmuformer.a.yaml")))
    x = np.random.default_rng([128, 0]).standard_normal((2, 128, 128)).astype("f4")
    with torch.inference_mode():
        y = window_logits(network, torch.from_numpy(x)).numpy()
    expected = np.load(PARITY / "lmuformer_plain.npz")["logits"]
    assert np.abs(y - expected).max() < 1e-5 * np.abs(expected).max()


def test_other_words_are_named_by_number(wavecast, tmp_path):
    state = tensors("lmuformer")
    save_file({**state, "head.weight": torch.zeros(12, 256), "head.bias": torch.zeros(12)}, tmp_path / "a.safetensors")
    assert wavecast("models", "convert", tmp_path / "a.safetensors", "-o", tmp_path / "out").code == 0
    card = find_model(str(tmp_path / "out" / "lmuformer.a.yaml"))
    assert card.classes == tuple(f"class{i}" for i in range(12))
    assert "name its classes here" in card.notes


def test_the_other_architecture(wavecast, tmp_path, architecture, file):
    other = next(one for one in ARCHITECTURES if one != architecture)
    words = ("models", "convert", file, "--as", other, "-o", tmp_path / "out")
    wavecast.fails(1, f"{file} holds {architecture}, not {other}", *words, hint=f"--as {architecture}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"module.head.bias": None}, "head.bias (35,) is missing"),
        ({"module.stranger": torch.zeros(2, 3)}, "stranger (2, 3) is unknown"),
        ({"module.head.bias": torch.zeros(7)}, "head.bias is (7,), expected (35,)"),
        ({"module.block.0.attn.lmu.B": torch.zeros(256, 1)}, "attn.lmu.B is not that of a Legendre memory"),
        ({"module.head.weight": None}, "head.weight is missing, or no matrix"),
    ],
    ids=["missing", "extra", "misshapen", "memory", "size"],
)
def test_convert_is_strict(wavecast, tmp_path, change, fault):
    changed = {name: tensor for name, tensor in {**published("lmuformer"), **change}.items() if tensor is not None}
    torch.save(changed, tmp_path / "a.pth")
    words = ("models", "convert", tmp_path / "a.pth", "-o", tmp_path / "out")
    wavecast.fails(1, fault, *words, hint="not an LMUFormer of the authors' code")
    assert not (tmp_path / "out").exists()


def test_options_of_separators_do_not_fit(wavecast, file):
    for option in (("--rate", 8000), ("--direct",)):
        wavecast.fails(2, "--rate and --direct are for separators", "models", "convert", file, *option)
