"""`wavecast models` lists, shows, fetches, converts and verifies, and refuses what it should."""

import os
import pickle
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from parity.seeded import seeded_state
from safetensors.torch import load_file, save_file

from kit.hub import Hub, point_to
from wavecast.apps.enhancement import frcrn_official
from wavecast.apps.enhancement.frcrn import FRCRN
from wavecast.cards import Card, build_network, find_model, known_cards, load_network, sha256, shipped_folder
from wavecast.official import OFFICIAL

NAME = "frcrn.se16k"
MANIFEST = Path(__file__).parents[1] / "parity" / "frcrn_se_16k.json"
CHANNELS = 4
NARROW = {128: CHANNELS, 256: 2 * CHANNELS, 16: 2}
"""Sizes of the official network, and those of the narrow one in its place: the same names, a thousandth of the size."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache, empty."""
    monkeypatch.setenv("WAVECAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture(scope="module")
def state():
    """The tensors of an official file under their official names, of a narrow network."""
    full = {name: torch.from_numpy(value) for name, value in seeded_state(MANIFEST).items()}
    narrow = {name: tensor[tuple(slice(NARROW.get(n, n)) for n in tensor.shape)] for name, tensor in full.items()}
    return {name: tensor.clone() for name, tensor in narrow.items()}


@pytest.fixture
def narrow(monkeypatch):
    """Put a narrow network into the place of the official one."""
    size = {"channels": CHANNELS, "reduction": CHANNELS // NARROW[16]}
    monkeypatch.setattr(frcrn_official, "FRCRN", partial(FRCRN, **size))
    monkeypatch.setitem(OFFICIAL, NAME, replace(OFFICIAL[NAME], hyperparameters=size))


@pytest.fixture
def shipped(tmp_path):
    """A copy of the shipped model; gives its weights."""
    for suffix in (".yaml", ".safetensors"):
        shutil.copy(shipped_folder() / f"frcrn.stream16k{suffix}", tmp_path)
    return tmp_path / "frcrn.stream16k.safetensors"


@pytest.fixture
def pinned(tmp_path, monkeypatch, narrow, state):
    """An official file, and the pin of its hash."""
    path = tmp_path / "elsewhere" / "last_best_checkpoint.pt"
    path.parent.mkdir()
    torch.save({"model": state}, path)
    pin = replace(OFFICIAL[NAME], sha256=sha256(path), bytes=path.stat().st_size)
    monkeypatch.setitem(OFFICIAL, NAME, pin)
    return path


def folder_with_pointer(path, state, pointer, text="model.ckpt-3-700.pt\n"):
    """Write what the trainer of ClearerVoice-Studio leaves: a text file with the name of the weights, and these."""
    path.mkdir()
    optimizer = {"state": {0: {"step": torch.tensor(700.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    torch.save({"model": state, "optimizer": optimizer, "epoch": 3, "step": 700}, path / "model.ckpt-3-700.pt")
    torch.save({"model": {}}, path / "model.ckpt-4-800.pt")
    (path / pointer).write_text(text)
    return path


def lightning(state):
    """Wrap tensors as a checkpoint of Lightning."""
    parts = {"optimizer_states": [], "lr_schedulers": [], "callbacks": {}, "loops": {}, "hyper_parameters": {"lr": 0.1}}
    named = {f"model.{name}": tensor for name, tensor in state.items()}
    return {"state_dict": named, "epoch": 3, "global_step": 700, "pytorch-lightning_version": "2.6.0", **parts}


def aliased(state):
    """Add the second name under which the official classes register an encoder, as files of today have it."""
    return {**state, **{k.replace("encoder0.", "encoders.0."): v for k, v in state.items() if ".encoder0." in k}}


def wrappers(folder, state):
    """Write every official wrapper; gives the path that a user would name, and the name the model should get."""
    torch.save({"model": state}, folder / "with_model.pt")
    torch.save(state, folder / "without.pt")
    torch.save(state, folder / "pytorch_model.bin")
    torch.save(lightning(state), folder / "tuned.ckpt")
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, folder / "parallel.pt")
    torch.save({"model": aliased(state)}, folder / "aliases.pt")
    torch.save({**state, **frcrn_official.official_constants()}, folder / "constants.pt")
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, folder / "uncounted.pt")
    save_file(state, folder / "tensors.safetensors")
    (folder / "alone").mkdir()
    torch.save(state, folder / "alone" / "mine.pt")


WRAPPERS = {
    "best": "model.ckpt-3-700",
    "best/last_best_checkpoint": "model.ckpt-3-700",
    "last": "model.ckpt-3-700",
    "with_model.pt": "with_model",
    "without.pt": "without",
    "pytorch_model.bin": NAME,
    "tuned.ckpt": "tuned",
    "parallel.pt": "parallel",
    "aliases.pt": "aliases",
    "constants.pt": "constants",
    "uncounted.pt": "uncounted",
    "tensors.safetensors": "tensors",
    "alone": "mine",
}


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory, state):
    """A folder with every official wrapper of the same tensors."""
    folder = tmp_path_factory.mktemp("wrapped")
    wrappers(folder, state)
    folder_with_pointer(folder / "best", state, "last_best_checkpoint")
    folder_with_pointer(folder / "last", state, "last_checkpoint")
    return folder


def test_list_has_what_is_here_and_what_can_be_fetched(wavecast):
    said = wavecast("models", "list")
    lines = said.out.splitlines()
    here, there = ([line for line in lines if line.endswith(" here") is known] for known in (True, False))
    assert (said.code, said.err) == (0, "")
    assert [line.split()[:2] for line in here] == [[card.name, card.task] for card in known_cards()]
    assert [line.split()[:2] for line in there] == [[name, one.task] for name, one in OFFICIAL.items()]
    (ours,) = (line for line in there if line.startswith(f"{NAME} "))
    assert ours.split()[:4] == [NAME, "enhance", "161.1", "MB"]
    assert all(line.endswith(f"wavecast models pull {line.split()[0]}") for line in there)
    assert wavecast("models").out == said.out


def test_list_reports_a_broken_card_and_goes_on(wavecast, cache):
    cache.mkdir(parents=True)
    (cache / "broken.one.yaml").write_text("name: [")
    said = wavecast("models", "list")
    assert said.code == 1
    assert "broken.one.yaml is no card: it is not YAML" in said.err
    assert "frcrn.stream16k" in said.out


def test_show_prints_the_card(wavecast, tmp_path):
    said = wavecast("models", "show", "frcrn.stream16k")
    assert said.code == 0
    (tmp_path / "shown.yaml").write_text(said.out)
    shipped = find_model("frcrn.stream16k")
    assert Card.read(tmp_path / "shown.yaml") == replace(shipped, path=tmp_path / "shown.yaml")


def test_show_of_an_official_model_says_what_is_not_known(wavecast):
    said = wavecast("models", "show", NAME)
    assert said.code == 0
    assert "not verified against the hub" in said.out
    for word in (OFFICIAL[NAME].revision, OFFICIAL[NAME].sha256, OFFICIAL[NAME].repository, "license: Apache-2.0"):
        assert word in said.out


@pytest.mark.parametrize("official", OFFICIAL.values(), ids=OFFICIAL)
def test_every_official_card_says_that_nobody_verified_it(official):
    assert "not verified against the hub" in official.card("a.b").origin


@pytest.mark.parametrize("verb", ["show", "verify"])
def test_an_unknown_name(wavecast, verb):
    wavecast.fails(
        1, "no model 'frcrn.steam16k'", "models", verb, "frcrn.steam16k", hint="did you mean frcrn.stream16k?"
    )
    wavecast.fails(1, "there is no model 'zzz'", "models", verb, "zzz", hint="wavecast models list")


def test_pull_of_an_unknown_name(wavecast):
    wavecast.fails(
        1, "no official model 'frcrn.se16'", "models", "pull", "frcrn.se16", hint="did you mean frcrn.se16k?"
    )
    wavecast.fails(1, "no official model 'zzz'", "models", "pull", "zzz", hint=f"known: {NAME}")
    wavecast.fails(1, "no official model", "models", "pull", "frcrn.stream16k", hint="frcrn.stream16k is here already")


def test_the_command_line_is_checked(wavecast):
    for verb in ("show", "pull", "convert", "verify"):
        wavecast.fails(2, f"{verb} needs a model", "models", verb, hint=f"wavecast models {verb} NAME")
    wavecast.fails(2, "invalid choice: 'fetch'", "models", "fetch")


def test_verify_the_shipped_model(wavecast):
    card = find_model("frcrn.stream16k")
    said = wavecast("models", "verify", "frcrn.stream16k")
    assert (said.code, said.out) == (0, "")
    count = sum(p.numel() for p in load_network(card).parameters())
    assert f"frcrn.stream16k: complete, {count:,} parameters; unchanged, sha256 {card.weights['sha256']}" in said.err
    assert wavecast("models", "verify", "frcrn.stream16k", "--quiet").err == ""


def test_verify_a_file(wavecast, shipped):
    assert wavecast("models", "verify", shipped).code == 0
    assert wavecast("models", "verify", shipped.with_suffix(".yaml")).code == 0


@pytest.mark.parametrize("place", [0, 5000, -1])
def test_verify_finds_a_changed_byte(wavecast, shipped, place):
    content = bytearray(shipped.read_bytes())
    content[place] ^= 1
    shipped.write_bytes(content)
    wavecast.fails(1, "is not what its card says: sha256", "models", "verify", shipped, hint="fetch it again")


@pytest.mark.parametrize("size", [-1, 1000, 0])
def test_verify_finds_a_truncated_file(wavecast, shipped, size):
    shipped.write_bytes(shipped.read_bytes()[:size])
    wavecast.fails(1, "is not what its card says: sha256", "models", "verify", shipped, hint="damaged")


def test_verify_finds_a_missing_file(wavecast, shipped):
    shipped.unlink()
    wavecast.fails(1, "weights of frcrn.stream16k are missing", "models", "verify", shipped.with_suffix(".yaml"))


def test_verify_finds_that_card_and_weights_disagree(wavecast, shipped):
    tensors = load_file(shipped)
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    found, expected = (3, 5), tuple(tensors[name].shape)
    save_file({**tensors, name: torch.zeros(found)}, shipped)
    card = Card.read(shipped.with_suffix(".yaml"))
    replace(card, weights={**card.weights, "sha256": sha256(shipped)}).write(card.path)
    wavecast.fails(1, f"{name} is {found}, expected {expected}", "models", "verify", shipped, hint="different models")


def test_verify_a_checkpoint_of_training_claims_no_hash(wavecast, tmp_path, narrow):
    card = OFFICIAL[NAME].card("frcrn.mine")
    said = wavecast("models", "verify", trained(tmp_path, card))
    assert said.code == 0
    assert "frcrn.mine: complete" in said.err
    assert "no hash is known" in said.err


def trained(folder, card):
    """Write a checkpoint as `wavecast train` does."""
    fields = ("name", "architecture", "task", "hyperparameters", "sample_rate")
    weights = {f"network.{name}": tensor for name, tensor in build_network(card).state_dict().items()}
    path = folder / "last.ckpt"
    torch.save({"state_dict": weights, "wavecast_card": {name: getattr(card, name) for name in fields}}, path)
    return path


@pytest.mark.parametrize(("source", "name"), WRAPPERS.items(), ids=WRAPPERS)
def test_convert_takes_every_official_wrapper(wavecast, tmp_path, narrow, wrapped, state, source, name):
    said = wavecast("models", "convert", wrapped / source, "-o", tmp_path / "out")
    target = tmp_path / "out" / f"{name}.safetensors"
    assert (said.code, said.out) == (0, ""), said
    assert str(target) in said.err
    assert sorted(path.name for path in target.parent.iterdir()) == [target.name, f"{name}.yaml"]
    card = find_model(str(target), "enhance")
    assert (card.name, card.architecture, card.sample_rate) == (name, "frcrn", 16000)
    assert "not verified against the hub" in card.origin
    assert_holds(load_network(card), state)


def assert_holds(network, state):
    """Compare a network with official tensors: a few by hand, all by the map of names."""
    ours = network.state_dict()
    kernel = state["unet2.decoder3.transconv.tconv_im.weight"]
    assert torch.equal(ours["unet2.decoders.3.convolution.imag.weight"], kernel.transpose(2, 3))
    assert torch.equal(ours["unet1.bottleneck.1.real.linear.bias"], state["unet.fsmn.fsmn_re_L2.linear.bias"])
    for name, tensor in frcrn_official.convert_state(state).items():
        assert torch.equal(ours[name], tensor), name


def test_convert_the_official_size(wavecast, tmp_path):
    full = {name: torch.from_numpy(value) for name, value in seeded_state(MANIFEST).items()}
    source = tmp_path / "pytorch_model.bin"
    torch.save(full, source)
    assert wavecast("models", "convert", source, "-o", tmp_path / "out").code == 0
    source.unlink()
    target = tmp_path / "out" / f"{NAME}.safetensors"
    assert "12,824,276 parameters" in wavecast("models", "verify", target).err
    assert_holds(load_network(find_model(str(target))), full)
    target.unlink()


def test_convert_a_checkpoint_of_training(wavecast, tmp_path, narrow):
    path = trained(tmp_path, OFFICIAL[NAME].card("frcrn.mine"))
    assert wavecast("models", "convert", path, "-o", tmp_path / "out").code == 0
    converted = load_network(find_model(str(tmp_path / "out" / "frcrn.mine.safetensors"))).state_dict()
    for name, tensor in load_network(find_model(str(path))).state_dict().items():
        assert torch.equal(converted[name], tensor)
    assert wavecast("models", "convert", path, "-o", tmp_path / "half", "--half").code == 0
    half = load_file(tmp_path / "half" / "frcrn.mine.safetensors")
    assert {tensor.dtype for tensor in half.values() if tensor.is_floating_point()} == {torch.float16}
    for name, tensor in half.items():
        torch.testing.assert_close(tensor.to(converted[name].dtype), converted[name], rtol=1e-3, atol=1e-6)


def test_the_card_tells_the_pinned_file_from_others(wavecast, tmp_path, pinned, wrapped):
    assert wavecast("models", "convert", pinned, "-o", tmp_path / "a").code == 0
    assert f"at {OFFICIAL[NAME].revision}" in find_model(str(tmp_path / "a" / f"{NAME}.yaml")).origin
    other = wrapped / "tuned.ckpt"
    assert wavecast("models", "convert", other, "-o", tmp_path / "b").code == 0
    origin = find_model(str(tmp_path / "b" / "tuned.yaml")).origin
    assert sha256(other) in origin
    assert "not the pinned file" in origin
    assert OFFICIAL[NAME].revision not in origin


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"unet.linear.conv_re.bias": None}, "unet.linear.conv_re.bias (1,) is missing"),
        ({"unet.stranger": torch.zeros(2, 3)}, "unet.stranger (2, 3) is unknown"),
        ({"unet.linear.conv_re.bias": torch.zeros(2)}, "unet.linear.conv_re.bias is (2,), expected (1,)"),
        ({"unet.fsmn_enc0.fsmn_re_L1.linear.bias": None}, "unet.fsmn_enc0.fsmn_re_L1.linear.bias (4,) is missing"),
        ({"stft.weight": torch.zeros(642, 1, 640)}, "stft.weight is not made from a square-root Hann window"),
    ],
    ids=["missing", "extra", "misshapen", "unused", "window"],
)
def test_convert_is_strict(wavecast, tmp_path, narrow, state, change, fault, suffix):
    changed = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
    path = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        torch.save({"model": changed}, path)
    else:
        save_file(changed, path)
    wavecast.fails(1, fault, "models", "convert", path, "-o", tmp_path / "out", hint="not FRCRN_SE_16K")
    assert not (tmp_path / "out").exists()


def test_convert_says_how_much_is_wrong(wavecast, tmp_path, narrow, state):
    few = dict(list(state.items())[:20])
    torch.save(few, tmp_path / "a.pt")
    said = wavecast.fails(1, "tensors do not fit FRCRN", "models", "convert", tmp_path / "a.pt")
    assert "; and " in said.err
    assert len(said.err) < 1000


class Trap:
    """Leaves a file behind when it is unpickled by a reader that runs code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", ["trap.pt", "trap.bin", "trap.ckpt"])
@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_with_code_is_refused_and_never_run(wavecast, tmp_path, state, name, write):
    path, mark = tmp_path / name, tmp_path / "it_ran"
    write({"model": dict(state), "wavecast_card": Trap(mark)}, path)
    wavecast.fails(1, f"{path} is refused", "models", "convert", path, "-o", tmp_path / "out", hint="safetensors")
    assert not mark.exists()
    assert not (tmp_path / "out").exists()
    torch.load(tmp_path / name, weights_only=False) if write is torch.save else pickle.loads(path.read_bytes())
    assert mark.exists(), "the trap is none"


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.pt", b"hello", "it is damaged"),
        ("a.pt", b"", "no torch checkpoint, or it is damaged"),
        ("a.safetensors", b"hello", "is no safetensors file"),
    ],
)
def test_convert_something_else(wavecast, tmp_path, name, content, fault):
    (tmp_path / name).write_bytes(content)
    wavecast.fails(1, fault, "models", "convert", tmp_path / name, "-o", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (torch.zeros(3), "holds a Tensor, not named tensors"),
        ({}, "holds no named tensors"),
        ({"model": {"a": 1.0}}, "holds more than tensors: a"),
    ],
)
def test_convert_a_checkpoint_of_something_else(wavecast, tmp_path, content, fault):
    torch.save(content, tmp_path / "a.pt")
    wavecast.fails(1, fault, "models", "convert", tmp_path / "a.pt")


def test_convert_a_truncated_checkpoint(wavecast, tmp_path, wrapped):
    content = (wrapped / "without.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: len(content) // 2])
    wavecast.fails(1, "damaged", "models", "convert", tmp_path / "a.pt")


def test_convert_a_folder_that_is_not_clear(wavecast, tmp_path, state):
    wavecast.fails(1, "nothing does not exist", "models", "convert", tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    wavecast.fails(1, "holds 0 files of weights", "models", "convert", tmp_path / "empty")
    for name in ("a.pt", "b.pt"):
        (tmp_path / "empty" / name).touch()
    wavecast.fails(1, "holds 2 files of weights", "models", "convert", tmp_path / "empty", hint="name the one")
    (tmp_path / "outside.pt").touch()
    for text, name in (("gone.pt\n", "gone.pt"), ("../outside.pt", "outside.pt"), ("", "last_best_checkpoint")):
        folder = folder_with_pointer(tmp_path / f"of {len(text)}", {}, "last_best_checkpoint", text)
        wavecast.fails(1, f"names {name}, which is not there", "models", "convert", folder, hint="fetch it too")


@pytest.mark.parametrize("existing", ["without.safetensors", "without.yaml"])
def test_convert_never_overwrites_unasked(wavecast, tmp_path, narrow, wrapped, existing):
    path = tmp_path / existing
    path.write_text("mine")
    words = ("models", "convert", wrapped / "without.pt", "-o", tmp_path)
    wavecast.fails(1, f"{path} exists", *words, hint="--overwrite")
    assert path.read_text() == "mine"
    assert wavecast(*words, "--overwrite").code == 0
    assert wavecast("models", "verify", tmp_path / "without.safetensors").code == 0


def test_pull(wavecast, cache, hub, pinned, state):
    hub.content = pinned.read_bytes()
    said = wavecast("models", "pull", NAME)
    assert (said.code, said.out) == (0, ""), said
    assert str(cache / f"{NAME}.safetensors") in said.err
    official = OFFICIAL[NAME]
    assert hub.asked == [f"/{official.repository}/resolve/{official.revision}/{official.file}", "/stored/file"]
    card = find_model(NAME)
    assert "not verified against the hub" in card.origin
    assert_holds(load_network(card), state)
    assert wavecast("models", "verify", NAME).code == 0
    here = [line.split()[0] for line in wavecast("models", "list").out.splitlines() if line.endswith(" here")]
    assert NAME in here


def test_pull_again_needs_no_network(wavecast, cache, hub, pinned):
    hub.content = pinned.read_bytes()
    assert wavecast("models", "pull", NAME).code == 0
    (cache / f"{NAME}.safetensors").write_bytes(b"damaged")
    hub.asked.clear()
    assert wavecast("models", "pull", NAME, "--quiet").err == ""
    assert hub.asked == []
    assert wavecast("models", "verify", NAME).code == 0


@pytest.mark.parametrize("length", [-1000, 0, 1000], ids=["shorter", "changed", "longer"])
def test_pull_refuses_another_file_and_then_takes_the_right_one(wavecast, cache, hub, pinned, length):
    right = pinned.read_bytes()
    hub.content = bytes(len(right) + length)
    said = wavecast.fails(1, f"the pinned file has {sha256(pinned)[:16]}", "models", "pull", NAME, hint="damaged")
    assert "last_best_checkpoint.pt has sha256 " in said.err
    assert not cache.exists()
    hub.content = right
    assert wavecast("models", "pull", NAME).code == 0
    assert hub.ranges[-1] == ""


def test_pull_goes_on_when_the_line_breaks_for_a_moment(wavecast, hub, pinned):
    hub.content = pinned.read_bytes()
    hub.cuts = [50_000, 20_000]
    assert wavecast("models", "pull", NAME).code == 0
    assert hub.ranges == ["", "bytes=50000-", "bytes=70000-"]
    assert wavecast("models", "verify", NAME).code == 0


def test_a_quiet_pull_says_nothing_of_a_line_that_breaks(wavecast, hub, pinned, caplog):
    hub.content = pinned.read_bytes()
    hub.cuts = [50_000]
    said = wavecast("models", "pull", NAME, "--quiet")
    assert (said.code, said.out, said.err) == (0, "", "")
    assert len(hub.ranges) == 2
    assert [record for record in caplog.records if record.name.startswith("huggingface_hub")] == []


def test_a_broken_pull_goes_on_the_next_time(wavecast, cache, hub, pinned):
    hub.content = pinned.read_bytes()
    hub.cuts = [50_000] + [0] * 50
    wavecast.fails(1, f"cannot fetch {NAME}: ", "models", "pull", NAME, hint="it goes on where it stopped")
    assert not cache.exists()
    hub.cuts.clear()
    hub.ranges.clear()
    assert wavecast("models", "pull", NAME).code == 0
    assert hub.ranges == ["bytes=50000-"]
    assert wavecast("models", "verify", NAME).code == 0


def test_a_pull_that_was_stopped_before_its_last_act(wavecast, cache, hub, pinned):
    """All bytes are there under the temporary name: none is fetched again."""
    folder = cache.parent / "hub" / OFFICIAL[NAME].folder
    folder.mkdir(parents=True)
    shutil.copy(pinned, folder / "last_best_checkpoint.pt.part")
    assert wavecast("models", "pull", NAME).code == 0
    assert hub.asked == []


def test_pull_without_a_network(wavecast, cache, hub, pinned, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, so that nobody else gets it, and not listening
        point_to(f"http://127.0.0.1:{closed.getsockname()[1]}", monkeypatch)
        said = wavecast.fails(1, f"cannot fetch {NAME}: ", "models", "pull", NAME, hint="check the network")
    assert f"wavecast models pull {NAME} --weights FILE" in said.err
    assert "last_best_checkpoint.pt of alibabasglab/FRCRN_SE_16K" in said.err
    assert not cache.exists()


def test_pull_when_the_hub_is_switched_off(wavecast, hub, pinned, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    wavecast.fails(1, "offline mode is enabled", "models", "pull", NAME, hint="--weights FILE")
    assert hub.asked == []


def test_pull_of_what_the_hub_does_not_have(wavecast, hub, pinned):
    hub.missing = True
    wavecast.fails(1, f"cannot fetch {NAME}: ", "models", "pull", NAME, hint="--weights FILE")


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_pull_from_weights_at_hand(wavecast, hub, pinned, state, folder):
    if folder:
        (pinned.parent / "last_best_checkpoint").write_text("last_best_checkpoint.pt\n")
    assert wavecast("models", "pull", NAME, "--weights", pinned.parent if folder else pinned).code == 0
    assert hub.asked == []
    assert_holds(load_network(find_model(NAME)), state)


def test_weights_at_hand_that_are_others_stay_where_they_are(wavecast, cache, pinned, wrapped):
    other = wrapped / "tuned.ckpt"
    words = ("models", "pull", NAME, "--weights", other)
    wavecast.fails(1, "tuned.ckpt has sha256", *words, hint="wavecast models convert")
    assert other.exists()
    assert not cache.exists()
    wavecast.fails(1, "nowhere does not exist", "models", "pull", NAME, "--weights", other.parent / "nowhere")


def test_pull_as_a_process_asks_the_hub_of_the_environment(tmp_path):
    """The real pin, which no small file meets: the hub that HF_ENDPOINT names is asked, its answer refused."""
    hub = Hub(content=b"something else")
    server = hub.start()
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1", "HF_HOME": str(tmp_path / "home")}
    words = [sys.executable, "-m", "wavecast", "models", "pull", NAME]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    server.shutdown()
    server.server_close()
    assert (done.returncode, done.stdout) == (1, "")
    assert "the pinned file has b22256adbb91b68c" in done.stderr
    assert "Traceback" not in done.stderr
    revision = "3766e6a64b0d8cb58f08d913d617bf129f11ed53"
    assert hub.asked[0] == f"/alibabasglab/FRCRN_SE_16K/resolve/{revision}/last_best_checkpoint.pt"
