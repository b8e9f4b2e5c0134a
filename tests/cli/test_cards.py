"""Cards and the weights beside them: what is read, found, refused, and comes back as it was saved."""

from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from wavecast.cards import (
    ARCHITECTURES,
    Card,
    build_network,
    find_model,
    known_cards,
    load_network,
    load_strict,
    save_model,
    sha256,
    shipped_folder,
)
from wavecast.core.errors import WavecastError

SMALL = {"channels": 4, "taps": 3, "reduction": 2}
CARD = Card("small.one", "frcrn", "enhance", SMALL, 16_000, data=("noise (CC0)",), metrics={"dnsmos": 3.1}, notes="µ")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where fetched models would be: nothing is there."""
    monkeypatch.setenv("WAVECAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture(scope="module")
def network():
    """A small network of random weights, its statistics as after training."""
    torch.manual_seed(0)
    network = build_network(CARD).eval()
    for name, buffer in network.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.fill_(2**24 + 1)  # single precision has no such number
        elif "running" in name:
            buffer.uniform_(0.5, 1.5)
    return network


def assert_same(network, other):
    expected, found = network.state_dict(), other.state_dict()
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def write_card(path, **changes):
    """Write a card by hand; a field that is None is left out."""
    fields = {"name": "a.b", "architecture": "frcrn", "task": "enhance", "hyperparameters": SMALL, "sample_rate": 16000}
    fields = {name: value for name, value in {**fields, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return path


def test_a_saved_model_loads_with_the_same_numbers(tmp_path, network):
    card = save_model(network, CARD, tmp_path)
    loaded = load_network(Card.read(tmp_path / "small.one.yaml"))
    assert_same(network, loaded)
    assert not loaded.training
    x = torch.randn(1, 1600)
    with torch.inference_mode():
        assert torch.equal(loaded(x)[0], network(x)[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.one.safetensors", "small.one.yaml"]
    assert card.weights == {
        "file": "small.one.safetensors",
        "sha256": sha256(card.file),
        "bytes": card.file.stat().st_size,
    }


def test_a_card_reads_as_it_was_written(tmp_path, network):
    written = save_model(network, CARD, tmp_path)
    assert Card.read(tmp_path / "small.one.yaml") == written
    assert replace(written, weights={}, path=None) == CARD


def test_half_precision_loads_as_single(tmp_path, network):
    half = save_model(network, CARD, tmp_path, half=True)
    stored = {tensor.dtype for tensor in load_file(half.file).values()}
    assert stored == {torch.float16, torch.int64}
    loaded = load_network(half).state_dict()
    for name, tensor in network.state_dict().items():
        found = loaded[name]
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor.half().float() if tensor.is_floating_point() else tensor), name


def test_saving_again_replaces_both_files(tmp_path, network):
    save_model(network, replace(CARD, notes="old"), tmp_path)
    torch.manual_seed(1)
    other = build_network(CARD)
    save_model(other, CARD, tmp_path)
    card = Card.read(tmp_path / "small.one.yaml")
    assert card.notes == CARD.notes
    assert_same(other, load_network(card))


def test_saving_into_a_missing_folder(tmp_path, network):
    with pytest.raises(WavecastError, match=r"cannot write .*small\.one\.safetensors"):
        save_model(network, CARD, tmp_path / "missing")


@pytest.mark.parametrize("suffix", [".safetensors", ".yaml"])
def test_a_model_is_found_by_either_file(tmp_path, network, suffix):
    card = save_model(network, CARD, tmp_path)
    assert find_model(str(tmp_path / f"small.one{suffix}")) == card


def test_a_checkpoint_of_training_is_a_model(tmp_path, network):
    fields = {"name": "frcrn.mine", "architecture": "frcrn", "task": "enhance", "hyperparameters": SMALL}
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    state["loss.window"] = torch.zeros(3)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": state, "wavecast_card": {**fields, "sample_rate": 16000}}, path)
    card = find_model(str(path))
    assert (card.name, card.file) == ("frcrn.mine", path)
    assert_same(network, load_network(card))


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"name": "a.b", "architecture": "frcrn"}, "it has no task; it has no hyperparameters"),
        ({**dict.fromkeys(("name", "architecture", "task", "hyperparameters", "sample_rate"), 1), "tempo": 1}, "tempo"),
    ],
)
def test_a_checkpoint_with_a_strange_card(tmp_path, fields, fault):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "wavecast_card": fields}, path)
    with pytest.raises(WavecastError, match=fault):
        find_model(str(path))


def test_a_checkpoint_of_another_program(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(WavecastError, match="was not written by `wavecast train`"):
        find_model(str(path))


@pytest.mark.parametrize("missing", ["name", "architecture", "task", "hyperparameters", "sample_rate"])
def test_a_missing_field_is_named(tmp_path, missing):
    with pytest.raises(WavecastError, match=f"no card: it has no {missing}"):
        Card.read(write_card(tmp_path / "a.yaml", **{missing: None}))


def test_an_unknown_field_is_named(tmp_path):
    with pytest.raises(WavecastError, match="no card: unknown colour; unknown licence") as error:
        Card.read(write_card(tmp_path / "a.yaml", colour="red", licence="MIT"))
    assert "license" in error.value.hint


@pytest.mark.parametrize(
    ("field", "value"),
    [("hyperparameters", [1]), ("weights", "a.safetensors"), ("sample_rate", "fast"), ("data", 3), ("name", 5)],
)
def test_a_field_of_another_kind_is_named(tmp_path, field, value):
    with pytest.raises(WavecastError, match=f"no card: {field} is"):
        Card.read(write_card(tmp_path / "a.yaml", **{field: value}))


@pytest.mark.parametrize("name", ["../up.one", "a/b", "", ".hidden"])
def test_a_name_that_is_no_file_name(tmp_path, name):
    with pytest.raises(WavecastError, match="no card: name is"):
        Card.read(write_card(tmp_path / "a.yaml", name=name))


@pytest.mark.parametrize("text", ["name: [1, 2", "\tname: x", "a: b: c", "name: !!python/object/apply:os.getcwd []"])
def test_broken_yaml(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(WavecastError, match=r"a\.yaml is no card: it is not YAML"):
        Card.read(path)


@pytest.mark.parametrize(("content", "kind"), [(b"", "NoneType"), (b"- a\n", "list"), (b"some text", "str")])
def test_yaml_of_something_else(tmp_path, content, kind):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(WavecastError, match=f"no card: it holds a {kind}"):
        Card.read(path)


def test_a_card_that_is_no_text_or_not_there(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(WavecastError, match="it is not YAML"):
        Card.read(tmp_path / "a.yaml")
    with pytest.raises(WavecastError, match=r"cannot read the card .*: No such file"):
        Card.read(tmp_path / "b.yaml")


def test_an_unsupported_architecture(tmp_path):
    with pytest.raises(WavecastError, match="unknown architecture 'frcrm'") as error:
        build_network(Card.read(write_card(tmp_path / "a.yaml", architecture="frcrm")))
    assert error.value.hint == "did you mean frcrn?"
    with pytest.raises(WavecastError, match="unknown architecture 'zzz'") as error:
        build_network(replace(CARD, architecture="zzz"))
    assert error.value.hint == f"known: {', '.join(ARCHITECTURES)}"


@pytest.mark.parametrize("hyperparameters", [{"chanels": 4}, {"channels": "many"}])
def test_hyperparameters_that_do_not_fit(hyperparameters):
    with pytest.raises(WavecastError, match=r"small\.one: the card does not fit FRCRN"):
        build_network(replace(CARD, hyperparameters=hyperparameters))


def test_tensors_that_do_not_fit_are_named_with_shapes(network):
    tensors = dict(network.state_dict())
    tensors["stranger"] = torch.zeros(2, 3)
    tensors["unet1.output.real.bias"] = torch.zeros(7)
    del tensors["unet1.output.real.weight"]
    with pytest.raises(WavecastError) as error:
        load_strict(build_network(CARD), tensors, "a.safetensors")
    text = error.value.message
    assert "a.safetensors does not fit FRCRN" in text
    assert "missing unet1.output.real.weight (1, 1, 1, 1)" in text
    assert "unexpected stranger (2, 3)" in text
    assert "unet1.output.real.bias is (7,), expected (1,)" in text


def test_a_tensor_that_does_not_fit_changes_nothing(network):
    other = build_network(CARD)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    tensors = {**network.state_dict(), "stranger": torch.zeros(1)}
    with pytest.raises(WavecastError):
        load_strict(other, tensors, "a.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_many_faults_are_counted(network):
    with pytest.raises(WavecastError, match=f"and {len(network.state_dict()) - 5} more"):
        load_strict(network, {}, "a.safetensors")


def test_weights_without_a_card(tmp_path, network):
    save_model(network, CARD, tmp_path).path.unlink()
    with pytest.raises(WavecastError, match="has no card beside it") as error:
        find_model(str(tmp_path / "small.one.safetensors"))
    assert "wavecast models convert" in error.value.hint


def test_a_card_without_weights(tmp_path, network):
    card = save_model(network, CARD, tmp_path)
    card.file.unlink()
    with pytest.raises(WavecastError, match=r"weights of small\.one are missing: .*small\.one\.safetensors"):
        load_network(card)
    with pytest.raises(WavecastError, match="names no weights"):
        load_network(Card.read(write_card(tmp_path / "a.yaml")))


def test_a_file_that_is_no_safetensors_though_its_hash_is_right(tmp_path, network):
    card = save_model(network, CARD, tmp_path)
    card.file.write_bytes(b"not tensors at all")
    card = replace(card, weights={**card.weights, "sha256": sha256(card.file)})
    with pytest.raises(WavecastError, match="is no safetensors file"):
        load_network(card)


def test_a_model_for_another_task(tmp_path, network):
    card = save_model(network, replace(CARD, task="separate"), tmp_path)
    assert find_model(str(card.path), "separate") == card
    with pytest.raises(WavecastError, match=r"small\.one is a model to separate, not to enhance"):
        find_model(str(card.path), "enhance")


def test_fetched_models_are_known_by_name(cache, network):
    cache.mkdir(parents=True)
    card = save_model(network, CARD, cache)
    assert find_model("small.one") == card
    assert {"small.one", "frcrn.stream16k"} <= {one.name for one in known_cards()}


def test_a_fetched_model_never_hides_a_shipped_one(cache, network):
    cache.mkdir(parents=True)
    save_model(network, replace(CARD, name="frcrn.stream16k"), cache)
    assert find_model("frcrn.stream16k").path.parent == shipped_folder()


def test_a_broken_card_in_the_cache_spoils_nothing_else(cache):
    cache.mkdir(parents=True)
    (cache / "old.model.yaml").write_text("name: old.model\n", encoding="utf-8")
    assert find_model("frcrn.stream16k").path.parent == shipped_folder()
    with pytest.raises(WavecastError, match=r"old\.model\.yaml is no card"):
        find_model("old.model")
