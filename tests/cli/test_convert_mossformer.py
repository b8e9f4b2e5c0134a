"""`wavecast models` takes every file in which MossFormer2 was published, and says what is wrong with others."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from parity.seeded import seeded_signal, seeded_state
from safetensors.torch import load_file, save_file

from wavecast.apps.enhancement import mossformer2_48k_official
from wavecast.apps.separation import mossformer2_official
from wavecast.cards import find_model, load_network, sha256
from wavecast.official import OFFICIAL, PARTS

PARITY = Path(__file__).parents[1] / "parity"
STACK = "mossformer.mdl.intra_mdl.mossformerM."
SEPARATORS = [name for name, one in OFFICIAL.items() if one.architecture == "mossformer2"]
IN_PARTS = [name for name in SEPARATORS if OFFICIAL[name].beside]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache, empty."""
    monkeypatch.setenv("WAVECAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def tensors(name):
    return {key: torch.from_numpy(value) for key, value in seeded_state(PARITY / f"{name}.json").items()}


@pytest.fixture(scope="module")
def two():
    """The official tensors of a separator of two speakers, with two of the 24 layers."""
    return tensors("mossformer2_ss_2spk_2layers")


@pytest.fixture(scope="module")
def three():
    """The same for three speakers."""
    return tensors("mossformer2_ss_3spk_2layers")


@pytest.fixture(scope="module")
def full_band():
    """The official tensors of the enhancer, with one layer."""
    kept = (f"{STACK}layers.0.", f"{STACK}fsmn.0.")
    every = tensors("mossformer2_se_48k")
    return {name: tensor for name, tensor in every.items() if STACK not in name or name.startswith(kept)}


def speechbrain(state):
    """Name tensors as the standalone separator does."""
    other = {theirs: name for name, theirs in mossformer2_official.SPEECHBRAIN.items()}
    longest_first = sorted(other, key=len, reverse=True)

    def renamed(name):
        start = next(start for start in longest_first if name.startswith(start))
        return other[start] + name.removeprefix(start)

    named = {renamed(name): tensor for name, tensor in state.items()}
    assert len(named) == len(state)
    return named


def write_parts(folder, state):
    """Write the three files of the standalone separator."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in PARTS:
        part = file.removesuffix("ckpt")
        named = speechbrain(state).items()
        torch.save({name.removeprefix(part): t for name, t in named if name.startswith(part)}, folder / file)
    (folder / "config.json").write_text("{}")
    return folder


def training(state):
    """Wrap tensors as the trainer does: two thirds are what Adam remembers."""
    moments = {i: {"step": torch.tensor(700.0), "exp_avg": t, "exp_avg_sq": t} for i, t in enumerate(state.values())}
    optimizer = {"state": moments, "param_groups": [{"lr": 1e-3, "params": list(range(len(state)))}]}
    return {"model": state, "optimizer": optimizer, "epoch": 3, "step": 700}


def write(path, state, wrapper):
    """Write a wrapper; give the path that a user would name."""
    if wrapper == "pointer":
        path.mkdir()
        torch.save(training(state), path / "last_best_checkpoint.pt")
        (path / "last_best_checkpoint").write_text("last_best_checkpoint.pt\n")
        return path
    if wrapper == "parts":
        return write_parts(path, state)
    file = path.with_suffix(".safetensors" if wrapper == "safetensors" else ".pt")
    if wrapper == "training":
        torch.save(training(state), file)
    elif wrapper == "bare":
        torch.save(state, file)
    elif wrapper == "model":
        torch.save({"model": state}, file)
    elif wrapper == "parallel":
        torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, file)
    else:
        save_file(speechbrain(state) if "mask_net.prelu.weight" in state else state, file)
    return file


def converted(folder, name):
    """Load what `models convert` wrote."""
    card = find_model(str(folder / f"{name}.yaml"))
    return card, load_network(card)


@pytest.mark.parametrize("wrapper", ["training", "pointer", "bare", "model", "parallel", "parts", "safetensors"])
def test_convert_takes_every_wrapper_of_a_separator(wavecast, tmp_path, two, wrapper):
    source = write(tmp_path / "theirs", two, wrapper)
    said = wavecast("models", "convert", source, "--rate", "16000", "-o", tmp_path / "out")
    assert (said.code, said.out) == (0, ""), said
    (written,) = (tmp_path / "out").glob("*.safetensors")
    card, network = converted(tmp_path / "out", written.stem)
    assert (card.architecture, card.task, card.sample_rate) == ("mossformer2", "separate", 16_000)
    assert card.hyperparameters == {"speakers": 2, "layers": 2}
    assert "not verified against the hub" in card.origin
    expected = mossformer2_official.convert_state(two)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())
    assert written.stat().st_size < 1.01 * sum(4 * tensor.numel() for tensor in two.values())


@pytest.mark.parametrize("wrapper", ["training", "pointer", "bare", "model", "parallel", "safetensors"])
def test_convert_takes_every_wrapper_of_the_enhancer(wavecast, tmp_path, full_band, wrapper):
    source = write(tmp_path / "theirs", full_band, wrapper)
    said = wavecast("models", "convert", source, "-o", tmp_path / "out")
    assert (said.code, said.out) == (0, ""), said
    name = "mossformer2.se48k" if wrapper == "pointer" else "theirs"
    card, network = converted(tmp_path / "out", name)
    assert (card.architecture, card.task, card.sample_rate) == ("mossformer2_48k", "enhance", 48_000)
    assert card.hyperparameters == {"layers": 1, "dither": 1.0, "seed": 0}
    expected = mossformer2_48k_official.convert_state(full_band)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in network.state_dict().items())


def test_a_converted_separator_gives_the_recorded_output(wavecast, tmp_path, three):
    source = write(tmp_path / "theirs", three, "bare")
    assert wavecast("models", "convert", source, "--rate", 8000, "-o", tmp_path / "out").code == 0
    card, network = converted(tmp_path / "out", "theirs")
    assert (card.sample_rate, card.hyperparameters["speakers"]) == (8000, 3)
    with torch.inference_mode():
        y, _ = network(torch.from_numpy(seeded_signal(16333))[None])
    expected = np.load(PARITY / "mossformer2_ss_3spk_2layers.npz")["output"]
    assert np.abs(y[0].T.numpy() - expected).max() < 1e-5 * np.abs(expected).max()


def test_direct_mapping_is_an_option_because_the_file_does_not_tell(wavecast, tmp_path, two):
    source = write(tmp_path / "theirs", two, "bare")
    words = ("models", "convert", source, "--rate", 8000, "--direct", "--half", "-o", tmp_path / "out")
    assert wavecast(*words).code == 0
    card, _ = converted(tmp_path / "out", "theirs")
    assert card.hyperparameters == {"speakers": 2, "layers": 2, "masking": False}
    half = load_file(tmp_path / "out" / "theirs.safetensors")
    assert {tensor.dtype for tensor in half.values()} == {torch.float16}
    assert wavecast("models", "verify", tmp_path / "out" / "theirs.safetensors").code == 0


@pytest.mark.parametrize("name", IN_PARTS)
def test_a_folder_named_like_its_repository_needs_no_options(wavecast, tmp_path, two, three, name):
    official = OFFICIAL[name]
    state = three if official.hyperparameters["speakers"] == 3 else two
    folder = write_parts(tmp_path / official.repository.split("/")[1], state)
    assert wavecast("models", "convert", folder, "-o", tmp_path / "out").code == 0
    card, _ = converted(tmp_path / "out", name)
    assert card.sample_rate == 8000
    assert card.hyperparameters == {"layers": 2, **official.hyperparameters}
    assert f"in a folder named like {official.repository}; not verified" in card.origin
    assert all(sha256(folder / part) in card.origin for part in PARTS)
    assert wavecast("models", "convert", folder / PARTS[1], "-o", tmp_path / "again").code == 0


def test_a_separator_does_not_tell_its_rate(wavecast, tmp_path, two):
    source = write(tmp_path / "theirs", two, "bare")
    words = ("models", "convert", source, "-o", tmp_path / "out")
    wavecast.fails(1, f"{source} does not tell its sample rate", *words, hint="give --rate 16000 or --rate 8000")
    assert not (tmp_path / "out").exists()


def test_the_pinned_file_is_known_by_its_hash(wavecast, tmp_path, monkeypatch, two, full_band):
    for name, state in (("mossformer2.ss2_16k", two), ("mossformer2.se48k", full_band)):
        source = write(tmp_path / name.replace(".", "_"), state, "pointer") / "last_best_checkpoint.pt"
        pin = replace(OFFICIAL[name], sha256=sha256(source), bytes=source.stat().st_size)
        monkeypatch.setitem(OFFICIAL, name, pin)
        assert wavecast("models", "convert", source, "-o", tmp_path / "out").code == 0
        card, _ = converted(tmp_path / "out", name)
        assert (card.sample_rate, card.license) == (pin.sample_rate, "Apache-2.0")
        assert f"{pin.repository} at {pin.revision}" in card.origin


@pytest.mark.parametrize("wrapper", ["bare", "safetensors", "parts"])
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"mask_net.prelu.weight": None}, "mask_net.prelu.weight (1,) is missing"),
        ({"mask_net.stranger": torch.zeros(2, 3)}, "mask_net.stranger (2, 3) is unknown"),
        ({"mask_net.conv1d_out.bias": torch.zeros(7)}, "mask_net.conv1d_out.bias is (7,), expected (1024,)"),
        ({"mask_net.pos_enc.inv_freq": torch.ones(256)}, "mask_net.pos_enc.inv_freq is not the table"),
    ],
    ids=["missing", "extra", "misshapen", "positions"],
)
def test_convert_is_strict(wavecast, tmp_path, two, wrapper, change, fault):
    changed = {name: tensor for name, tensor in {**two, **change}.items() if tensor is not None}
    source = write(tmp_path / "theirs", changed, wrapper)
    words = ("models", "convert", source, "--rate", 8000, "-o", tmp_path / "out")
    wavecast.fails(1, fault, *words, hint="not a MossFormer2 for separation")
    assert not (tmp_path / "out").exists()


def test_convert_is_strict_with_the_dead_half_too(wavecast, tmp_path, full_band):
    changed = {**full_band, "mossformer.conv1d_out.weight": torch.zeros(512, 512, 1)}
    source = write(tmp_path / "theirs", changed, "bare")
    fault = "mossformer.conv1d_out.weight is (512, 512, 1), expected (1024, 512, 1)"
    wavecast.fails(1, fault, "models", "convert", source, "-o", tmp_path / "out", hint="not MossFormer2_SE_48K")


def test_tensors_of_no_known_model(wavecast, tmp_path):
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "a.pt")
    fault = "a.pt holds the tensors of no model that is known: layer.weight"
    wavecast.fails(1, fault, "models", "convert", tmp_path / "a.pt", hint="known are FRCRN_SE_16K and MossFormer2")


def test_options_that_do_not_fit(wavecast, tmp_path, full_band):
    source = write(tmp_path / "theirs", full_band, "bare")
    for option in (("--rate", 8000), ("--direct",)):
        wavecast.fails(2, "--rate and --direct are for separators", "models", "convert", source, *option)
        wavecast.fails(2, "are for separators", "models", "convert", source, *option, "--as", "convs5")


@pytest.mark.parametrize("missing", PARTS)
def test_parts_that_are_not_all_there(wavecast, tmp_path, two, missing):
    folder = write_parts(tmp_path / "theirs", two)
    (folder / missing).unlink()
    other = next(part for part in PARTS if part != missing)
    for path in (folder, folder / other):
        words = ("models", "convert", path, "--rate", 8000)
        wavecast.fails(1, f"{folder} lacks {missing}", *words, hint="encoder.ckpt, masknet.ckpt, decoder.ckpt")


class Trap:
    """Leaves a file behind when it is unpickled by a reader that runs code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("part", [None, *PARTS])
def test_a_pickle_with_code_is_refused_and_never_run(wavecast, tmp_path, two, part):
    mark = tmp_path / "it_ran"
    trap = {"model": dict(two), "optimizer": Trap(mark)}
    if part is None:
        source = refused = tmp_path / "trap.pt"
    else:
        source = write_parts(tmp_path / "theirs", two)
        refused = source / part
    torch.save(trap, refused)
    words = ("models", "convert", source, "--rate", 8000, "-o", tmp_path / "out")
    wavecast.fails(1, f"{refused} is refused", *words, hint="safetensors")
    assert not mark.exists()
    assert not (tmp_path / "out").exists()
    torch.load(refused, weights_only=False)
    assert mark.exists(), "the trap is none"


def test_pull_a_separator_in_parts(wavecast, hub, cache, tmp_path, two):
    name = "mossformer2.whamr2"
    folder = write_parts(tmp_path / "there", two)
    hub.files = {part: (folder / part).read_bytes() for part in PARTS}
    said = wavecast("models", "pull", name)
    assert (said.code, said.out) == (0, ""), said
    asked = [path for path in hub.asked if not path.startswith("/stored/")]
    assert asked == [f"/alibabasglab/mossformer2-whamr-2spk/resolve/main/{part}" for part in PARTS]
    card = find_model(name, "separate")
    assert card.hyperparameters == {"speakers": 2, "layers": 2, "masking": False}
    assert "neither size nor hash of the file is known" in card.origin
    assert all(f"{sha256(folder / part)} ({part})" in card.origin for part in PARTS)
    hub.asked.clear()
    assert wavecast("models", "pull", name).code == 0
    assert hub.asked == []
    other = "mossformer2.librimix2"
    assert wavecast("models", "pull", other).code == 0
    assert find_model(other).hyperparameters == {"speakers": 2, "layers": 2}


def test_pull_a_separator_that_lies_there_in_one_file(wavecast, hub, tmp_path, two):
    torch.save(speechbrain(two), tmp_path / "whole.bin")
    hub.files = {"pytorch_model.bin": (tmp_path / "whole.bin").read_bytes()}
    assert wavecast("models", "pull", "mossformer2.librimix2").code == 0
    asked = [path.rsplit("/", 1)[1] for path in hub.asked]
    assert asked == ["encoder.ckpt", "pytorch_model.bin", "pytorch_model.bin"]
    assert find_model("mossformer2.librimix2").sample_rate == 8000


def test_pull_of_a_separator_for_another_number_of_speakers(wavecast, hub, cache, tmp_path, two):
    folder = write_parts(tmp_path / "there", two)
    hub.files = {part: (folder / part).read_bytes() for part in PARTS}
    fault = "holds a network of speakers 2, not 3"
    wavecast.fails(1, fault, "models", "pull", "mossformer2.wsj0mix3", hint="it is the file of another model")
    assert list(cache.glob("*")) == []
    assert not [path for path in (cache.parent / "hub").rglob("*") if path.is_file()]
    words = ("models", "pull", "mossformer2.wsj0mix3", "--weights", folder)
    wavecast.fails(1, fault, *words)
    assert all((folder / part).exists() for part in PARTS)


def test_pull_of_another_architecture(wavecast, tmp_path, full_band):
    source = write(tmp_path / "theirs", full_band, "bare")
    words = ("models", "pull", "mossformer2.wsj0mix2", "--weights", source)
    wavecast.fails(1, "holds mossformer2_48k, not mossformer2", *words, hint="it is the file of another model")


def test_pull_that_breaks_between_parts_goes_on(wavecast, hub, tmp_path, two):
    folder = write_parts(tmp_path / "there", two)
    hub.files = {part: (folder / part).read_bytes() for part in PARTS[:1]}
    fault = "cannot fetch mossformer2.librimix2: "
    hint = "bring encoder.ckpt, masknet.ckpt, decoder.ckpt of alibabasglab/mossformer2-librimix-2spk from elsewhere"
    wavecast.fails(1, fault, "models", "pull", "mossformer2.librimix2", hint=hint)
    hub.files = {part: (folder / part).read_bytes() for part in PARTS}
    hub.asked.clear()
    assert wavecast("models", "pull", "mossformer2.librimix2").code == 0
    assert [path.rsplit("/", 1)[1] for path in hub.asked] == [PARTS[1], PARTS[1], PARTS[2], PARTS[2]]


def test_pull_from_the_other_hub(wavecast, hub, tmp_path, monkeypatch, two):
    monkeypatch.setattr("wavecast.official_files.MODELSCOPE", f"{hub.url}/models")
    torch.save(two, tmp_path / "whole.pt")
    hub.files = {"pytorch_model.pt": (tmp_path / "whole.pt").read_bytes()}
    assert wavecast("models", "pull", "mossformer2.wsj0mix2").code == 0
    repository = "damo/speech_mossformer2_separation_temporal_8k"
    assert hub.asked[0] == f"/models/{repository}/resolve/master/pytorch_model.pt"
    assert find_model("mossformer2.wsj0mix2", "separate").sample_rate == 8000


@pytest.mark.parametrize("name", [*SEPARATORS, "mossformer2.se48k"])
def test_what_is_published_is_listed_and_described(wavecast, name):
    official = OFFICIAL[name]
    (line,) = (line for line in wavecast("models", "list").out.splitlines() if line.split()[0] == name)
    assert line.split()[1] == official.task
    shown = wavecast("models", "show", name).out
    assert all(word in shown for word in (official.repository, official.revision, official.files[-1], official.license))
    assert "not verified against the hub" in shown
    assert ("not known" in shown) == (not official.bytes)
