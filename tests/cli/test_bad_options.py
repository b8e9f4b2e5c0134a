"""Models and options of `wavecast enhance` that cannot be: a clear word, the right exit code, nothing written.

Cards and weights on their own are in test_cards.py.
"""

import os
import pickle

import pytest
import torch

from wavecast.apps.enhancement.frcrn_windows import pass_bytes
from wavecast.cards import Card, build_network, save_model, shipped_folder

RATE = 16000


def names(folder):
    """All that lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def model(tmp_path):
    """A copy of the shipped model: its card, changed as asked, and its weights; gives the path of the weights."""

    def copy(content=None, **changes):
        card = Card.read(shipped_folder() / "frcrn.stream16k.yaml")
        path = tmp_path / "models" / "frcrn.stream16k.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(card.file.read_bytes() if content is None else content)
        fields = {name: getattr(card, name) for name in card.__dataclass_fields__} | changes
        Card(**fields).write(path.with_suffix(".yaml"))
        return path

    return copy


@pytest.fixture
def useless(wavecast, sound, tmp_path):
    """Enhance with a model that must be refused."""

    def run(path, text, hint=""):
        words = "enhance", sound(seconds=0.1), "-o", tmp_path / "out" / "y.wav", "--model", path
        said = wavecast.fails(1, text, *words, hint=hint)
        assert not (tmp_path / "out").exists()
        return said

    return run


def test_a_copied_model_works(wavecast, sound, model):
    assert wavecast("enhance", sound(seconds=0.1), "--model", model()).code == 0


def test_an_unknown_model(useless):
    useless("frcrn.strem16k", "there is no model 'frcrn.strem16k'", "did you mean frcrn.stream16k?")


def test_a_corrupt_checkpoint(useless, model):
    content = bytearray((shipped_folder() / "frcrn.stream16k.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    useless(model(bytes(content)), "is not what its card says", "damaged")


def test_weights_that_are_missing(useless, model):
    path = model()
    path.unlink()
    useless(path.with_suffix(".yaml"), "the weights of frcrn.stream16k are missing", "pull")


def test_a_foreign_checkpoint(useless, tmp_path):
    torch.save({"model": {"conv.weight": torch.zeros(3)}}, tmp_path / "theirs.pt")
    useless(tmp_path / "theirs.pt", "theirs.pt is not a model of wavecast", "wavecast models convert")
    torch.save({"state_dict": {"conv.weight": torch.zeros(3)}}, tmp_path / "theirs.ckpt")
    useless(tmp_path / "theirs.ckpt", "was not written by `wavecast train`", "wavecast models convert")


class Malice:
    """A pickle that runs a command when it is loaded carelessly."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["evil.ckpt", "evil.pt", "evil.safetensors"])
@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_malicious_checkpoint_never_runs(useless, tmp_path, name, write):
    write({"state_dict": {}, "wavecast_card": Malice(tmp_path / "ran")}, tmp_path / name)
    useless(tmp_path / name, "evil", "")
    assert not (tmp_path / "ran").exists()


def test_a_card_and_weights_that_disagree(useless, model):
    useless(model(hyperparameters={"width": -1}), "the card does not fit FRCRNStream")
    useless(
        model(architecture="frcrn", hyperparameters={"channels": 4}), "does not fit FRCRN: missing", "different models"
    )
    useless(model(architecture="frcn"), "unknown architecture 'frcn'", "did you mean frcrn?")
    useless(model(task="separate"), "is a model to separate, not to enhance", "models list")


@pytest.fixture
def whole_model(tmp_path):
    """A small model that needs whole signals."""
    torch.manual_seed(0)
    sizes = {"channels": 4, "taps": 3, "reduction": 2}
    card = Card("frcrn.small", "frcrn", "enhance", sizes, RATE)
    return save_model(build_network(card), card, tmp_path).file


def test_not_enough_memory_for_one_pass(wavecast, sound, tmp_path, whole_model, monkeypatch):
    short, long = sound("short.wav", seconds=0.2), sound("long.wav", seconds=5)
    room = pass_bytes(1.0)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": room}.get)
    words = "enhance", short, long, "-o", tmp_path / "out", "--model", whole_model, "--whole"
    said = wavecast.fails(1, "one pass over 5 s needs about", *words, hint="leave --whole out")
    assert f"there are {room / 1e9:.1f} GB" in said.err
    assert names(tmp_path / "out") == ["short.enhanced.wav"]


def test_a_model_that_needs_whole_signals_on_a_pipe(wavecast, sound, streams, whole_model):
    with sound(seconds=0.1).open() as pipe:
        streams(stdin=pipe)
        words = "enhance", "-", "--model", whole_model
        wavecast.fails(1, "cannot work on a pipe", *words, hint="--model frcrn.stream16k works live")


# Options that make no sense.


@pytest.mark.parametrize(
    ("words", "text", "hint"),
    [
        (["--mix", "1.5"], "1.5", "--help"),
        (["--mix", "half"], "half", "--help"),
        (["--limit-db", "0"], "not above 0", "--help"),
        (["--rate", "-1"], "-1", "--help"),
        (["--name-template", "{name}"], "is not understood", "use {stem}"),
        (["--raw", "s17le:16000"], "is not ENCODING:RATE", "--raw s16le:16000"),
        (["--overwrit"], "unrecognized argument", "did you mean --overwrite?"),
        (["--json", "-", "-o", "-"], "cannot both go to stdout", "give --json a file"),
    ],
)
def test_a_wrong_option(wavecast, sound, tmp_path, words, text, hint):
    wavecast.fails(2, text, "enhance", sound(), *words, hint=hint)
    assert names(tmp_path) == ["noisy.wav"]


@pytest.mark.parametrize(
    ("words", "text", "hint"),
    [
        (["--format", "doc"], "cannot write .doc files", "known: .wav"),
        (["--subtype", "mp3"], "WAV cannot hold mp3", "it holds PCM"),
        (["--block", "100"], "no blocks of 100 samples", "multiple of"),
        (["--device", "gpu"], "there is no device 'gpu'", "give auto, cpu"),
        (["--reference", "nowhere.wav"], "nowhere.wav does not exist", ""),
    ],
)
def test_an_option_that_does_not_fit(wavecast, sound, tmp_path, words, text, hint):
    wavecast.fails(1, text, "enhance", sound(), *words, hint=hint)
    assert names(tmp_path) == ["noisy.wav"]


def test_a_reference_of_another_length(wavecast, sound, tmp_path):
    words = "enhance", sound(seconds=0.5), "--reference", sound("clean.wav", seconds=0.6)
    wavecast.fails(1, "the reference has 9600 samples", *words, hint="the clean original")
