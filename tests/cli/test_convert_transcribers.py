"""`wavecast models` and transcribers: archives become models, a tokenizer beside the weights, and archives again."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from wavecast.apps.transcription.fastconformer_official import read_transcriber, write_transcriber
from wavecast.apps.transcription.tokenizer import Tokenizer, load_tokenizer
from wavecast.cards import TOKENIZER, Card, build_network, find_model, load_network, packed, save_model, sha256
from wavecast.core.errors import WavecastError
from wavecast.official import OFFICIAL

PIECES = ["<unk>", *(f"▁{letter}" for letter in "abcdefgh"), *"abcdefgh"]
OPTIONS = {
    "vocabulary": len(PIECES),
    "width": 16,
    "layers": 1,
    "heads": 2,
    "subsampling_channels": 4,
    "kernel": 3,
    "contexts": [[6, 1], [4, 0]],
    "prediction_width": 8,
    "joint_width": 8,
}
CARD = Card("fastconformer.mine", "fastconformer", "transcribe", OPTIONS, 16_000)
OFFICIAL_NAME = "fastconformer.en_multi"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache, empty."""
    monkeypatch.setenv("WAVECAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network(CARD).eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory, network):
    """An archive of a small network."""
    path = tmp_path_factory.mktemp("archive") / "mine.nemo"
    write_transcriber(network, CARD, Tokenizer.from_pieces(PIECES), path)
    return path


@pytest.fixture
def archive(made, tmp_path):
    """A copy of it."""
    return Path(shutil.copy(made, tmp_path))


@pytest.fixture
def converted(wavecast, archive, tmp_path):
    """The folder of the model it becomes."""
    assert wavecast("models", "convert", archive, "-o", tmp_path / "model").code == 0
    return tmp_path / "model"


def assert_same(network, other):
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_an_archive_becomes_a_model(wavecast, archive, network, tmp_path):
    said = wavecast("models", "convert", archive, "-o", tmp_path / "model")
    assert (said.code, said.out) == (0, "")
    name = "fastconformer.mine"
    files = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert files == [f"{name}.safetensors", f"{name}.tokenizer.model", f"{name}.yaml"]
    card = find_model(str(tmp_path / "model" / f"{name}.yaml"), "transcribe")
    assert {**card.hyperparameters, **OPTIONS} == card.hyperparameters
    assert (card.sample_rate, card.block) == (16_000, 2 * 1280)
    assert card.origin == f"mine.nemo of sha256 {sha256(archive)}"
    assert card.tokenizer == {
        "file": f"{name}.tokenizer.model",
        "sha256": sha256(tmp_path / "model" / f"{name}.tokenizer.model"),
        "bytes": (tmp_path / "model" / f"{name}.tokenizer.model").stat().st_size,
    }
    assert_same(network, load_network(card))
    assert load_tokenizer(card).pieces == tuple(PIECES)
    assert wavecast("models", "verify", card.path).code == 0
    shown = wavecast("models", "show", card.path)
    assert "tokenizer:\n  file: fastconformer.mine.tokenizer.model" in shown.out


def test_a_model_becomes_an_archive_again(wavecast, converted, archive, tmp_path):
    said = wavecast("models", "convert", converted / "fastconformer.mine.yaml", "--to", "nemo", "-o", tmp_path / "back")
    assert (said.code, said.out) == (0, "")
    back = tmp_path / "back" / "fastconformer.mine.nemo"
    assert str(back) in said.err
    assert back.read_bytes() == archive.read_bytes()
    assert read_transcriber(back)[0].name == "fastconformer.mine"


def test_half_precision_and_back(wavecast, archive, network, tmp_path):
    assert wavecast("models", "convert", archive, "-o", tmp_path, "--half").code == 0
    stored = load_file(tmp_path / "fastconformer.mine.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float16}
    assert wavecast("models", "convert", tmp_path / "fastconformer.mine.yaml", "--to", "nemo", "-o", tmp_path).code == 0
    _, other, _ = read_transcriber(tmp_path / "fastconformer.mine.nemo")
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)


def checkpoint(path, network, card=CARD, tokenizer=True):
    """Write what training writes: weights, the card's fields, the tokenizer; it loads without code."""
    fields = {name: getattr(card, name) for name in ("name", "architecture", "task", "hyperparameters", "sample_rate")}
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    content = {"state_dict": state, "wavecast_card": fields, "callbacks": {}}
    if tokenizer:
        content[TOKENIZER] = packed(Tokenizer.from_pieces(PIECES).model)
    path.parent.mkdir(exist_ok=True, parents=True)
    torch.save(content, path)
    torch.load(path, weights_only=True)
    return path


def test_a_checkpoint_of_training_has_its_tokenizer(wavecast, network, tmp_path):
    path = checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt", network)
    for place in (path, tmp_path / "run"):
        card = find_model(str(place), "transcribe")
        assert load_tokenizer(card).model == Tokenizer.from_pieces(PIECES).model
        assert_same(network, load_network(card))
        assert wavecast("models", "verify", place).code == 0
    assert wavecast("models", "convert", path, "-o", tmp_path / "a").code == 0
    assert wavecast("models", "verify", tmp_path / "a" / "fastconformer.mine.safetensors").code == 0
    assert wavecast("models", "convert", path, "--to", "nemo", "-o", tmp_path / "a").code == 0
    _, other, tokenizer = read_transcriber(tmp_path / "a" / "fastconformer.mine.nemo")
    assert_same(network, other)
    assert tokenizer.model == Tokenizer.from_pieces(PIECES).model


def test_a_checkpoint_without_a_tokenizer(wavecast, network, tmp_path):
    path = checkpoint(tmp_path / "last.ckpt", network, tokenizer=False)
    wavecast.fails(1, f"{path} has no tokenizer", "models", "verify", path, hint="train anew")


def test_verify_finds_a_changed_tokenizer(wavecast, converted):
    path = converted / "fastconformer.mine.tokenizer.model"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    words = ("models", "verify", converted / "fastconformer.mine.yaml")
    wavecast.fails(1, f"{path} is not what its card says: sha256", *words, hint="fetch it again")
    path.unlink()
    wavecast.fails(1, "the tokenizer of fastconformer.mine is missing", *words, hint="install the package again")


def test_verify_finds_a_tokenizer_of_another_model(wavecast, network, tmp_path):
    card = save_model(network, CARD, tmp_path, tokenizer=Tokenizer.from_pieces(PIECES[:-1]).model)
    wavecast.fails(1, "has 16 tokens, the model 17", "models", "verify", card.path, hint="different models")
    card = save_model(network, CARD, tmp_path, tokenizer=b"no tokenizer")
    wavecast.fails(1, "the tokenizer cannot be read", "models", "verify", card.path, hint="damaged")


def test_a_model_without_a_tokenizer_file(network, tmp_path):
    card = save_model(network, CARD, tmp_path)
    assert "tokenizer" not in card.text()
    with pytest.raises(WavecastError, match=r"fastconformer\.mine\.tokenizer\.model"):
        load_tokenizer(card)


@pytest.mark.parametrize("ending", [".safetensors", ".yaml", ".tokenizer.model"])
def test_nothing_is_overwritten_unasked(wavecast, archive, tmp_path, ending):
    path = tmp_path / f"fastconformer.mine{ending}"
    path.write_text("mine")
    words = ("models", "convert", archive, "-o", tmp_path)
    wavecast.fails(1, f"{path} exists", *words, hint="--overwrite")
    assert path.read_text() == "mine"
    assert wavecast(*words, "--overwrite").code == 0


def test_no_archive_is_overwritten_unasked(wavecast, converted):
    words = ("models", "convert", converted / "fastconformer.mine.yaml", "--to", "nemo", "-o", converted)
    assert wavecast(*words).code == 0
    wavecast.fails(1, "fastconformer.mine.nemo exists", *words, hint="--overwrite")
    assert wavecast(*words, "--overwrite").code == 0


def test_only_transcribers_become_archives(wavecast):
    words = ("models", "convert", "frcrn.stream16k", "--to", "nemo")
    wavecast.fails(1, "is a model to enhance, not to transcribe", *words, hint="wavecast models list")
    wavecast.fails(1, "there is no model 'zzz'", "models", "convert", "zzz", "--to", "nemo")


@pytest.mark.parametrize(("data", "fault"), [(b"PK\x03\x04", "is a zip"), (b"hello", "is neither a tar file nor")])
def test_a_file_that_is_no_archive(wavecast, tmp_path, data, fault):
    path = tmp_path / "a.nemo"
    path.write_bytes(data)
    wavecast.fails(1, fault, "models", "convert", path, "-o", tmp_path / "out", hint="no .nemo archive")
    assert not (tmp_path / "out").exists()


def test_official_archives_are_listed_and_shown(wavecast):
    said = wavecast("models", "list")
    rows = [line.split() for line in said.out.splitlines() if line.startswith("fastconformer.")]
    official = [name for name, one in OFFICIAL.items() if one.task == "transcribe"]
    assert [row[0] for row in rows if row[-2] == "pull"] == official
    assert all(row[1:3] == ["transcribe", "-"] for row in rows if row[-2] == "pull")
    shown = wavecast("models", "show", OFFICIAL_NAME).out
    assert "repository: nvidia/stt_en_fastconformer_hybrid_large_streaming_multi" in shown
    assert "sha256: not known" in shown
    assert "not verified against the hub" in shown


@pytest.mark.parametrize("name", [name for name, one in OFFICIAL.items() if one.task == "transcribe"])
def test_official_archives_are_nvidias(name):
    official = OFFICIAL[name]
    assert official.repository == f"nvidia/{official.file.removesuffix('.nemo')}"
    assert "neither size nor hash of the file is known" in official.card("a.b").origin
    assert len(name) < 32


def test_an_archive_at_hand_is_pulled_by_name(wavecast, cache, archive, network):
    said = wavecast("models", "pull", OFFICIAL_NAME, "--weights", archive)
    assert (said.code, said.out) == (0, ""), said
    card = find_model(OFFICIAL_NAME, "transcribe")
    assert card.path.parent == cache
    assert f"this one has sha256 {sha256(archive)}" in card.origin
    assert "not verified against the hub" in card.origin
    assert (card.license, card.name) == ("CC-BY-4.0", OFFICIAL_NAME)
    assert_same(network, load_network(card))
    assert load_tokenizer(card).pieces == tuple(PIECES)
    assert wavecast("models", "verify", OFFICIAL_NAME).code == 0


def test_a_file_named_like_an_official_one_gets_its_name(wavecast, archive, tmp_path):
    path = archive.rename(tmp_path / OFFICIAL[OFFICIAL_NAME].file)
    assert wavecast("models", "convert", path, "-o", tmp_path / "out").code == 0
    card = find_model(str(tmp_path / "out" / f"{OFFICIAL_NAME}.yaml"))
    assert card.license == "CC-BY-4.0"
    assert f"sha256 {sha256(path)}, named like the file of nvidia/" in card.origin


def test_a_damaged_download_is_not_kept(wavecast, cache, archive):
    official = OFFICIAL[OFFICIAL_NAME]
    path = cache.parent / "hub" / official.folder / official.file
    path.parent.mkdir(parents=True)
    path.write_bytes(archive.read_bytes()[:5000])
    wavecast.fails(1, "is truncated", "models", "pull", OFFICIAL_NAME, hint="fetch it again")
    assert not path.exists()
    shutil.copy(archive, path)
    assert wavecast("models", "pull", OFFICIAL_NAME).code == 0


def test_a_folder_with_an_archive(wavecast, archive, tmp_path):
    (tmp_path / "folder").mkdir()
    archive.rename(tmp_path / "folder" / "mine.nemo")
    assert wavecast("models", "convert", tmp_path / "folder", "-o", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "fastconformer.mine.yaml").exists()


def test_an_archive_named_as_a_model_says_what_to_do(wavecast, archive):
    wavecast.fails(1, "is not a model of wavecast", "models", "verify", archive, hint="wavecast models convert")
