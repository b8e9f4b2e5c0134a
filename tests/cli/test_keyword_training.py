"""`wavecast train keywords` and `wavecast evaluate keywords`: recipes, resuming, models, two processes."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from kit.ranks import launch
from kit.sounds import RATE, hiss, write_folder
from kit.spotters import tone, write_spotter
from kit.training import rows, weights, write_recipe
from wavecast import training
from wavecast.cards import find_model, load_network
from wavecast.main import main

NETWORK = {"mels": 8, "width": 8, "order": 4, "expansion": 1}
TINY = {
    "model": {"network": NETWORK, "schedule": "constant", "learning_rate": 3e-3, "band_width": 2, "stretch": 8},
    "data": {"batch_size": 2, "items": 8, "rooms": 2, "held_out": ["ann"], "test": ["bob"]},
    "trainer": {"accelerator": "cpu", "max_epochs": 1},
    "checkpoint": {"save_top_k": -1},  # a last checkpoint is written along with others alone
}
recipe = partial(write_recipe, TINY)
CLASSES = ("high", "low", "_unknown_", "_silence_")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Two words of four speakers, which are tones, other speech, noises, and a cache that all tests share."""
    folder = tmp_path_factory.mktemp("sounds")
    for word in ("low", "high"):
        (folder / "words" / word).mkdir(parents=True)
        for speaker in ("ann", "bob", "cat", "dan"):
            x = np.pad(tone(word, 0.6), 1600)
            soundfile.write(folder / "words" / word / f"{speaker}_nohash_0.wav", x, RATE, subtype="PCM_16")
    for number, name in enumerate(("ann", "bob", "cat", "dan")):
        (folder / "other" / name).mkdir(parents=True)
        soundfile.write(folder / "other" / name / "talk.wav", hiss(number, 2.5), RATE, subtype="PCM_16")
    write_folder(folder / "noises", hiss, 4, 0.8, RATE)
    return folder


def sources(sounds):
    """Name the folders, as options of the data."""
    kinds = {"speech": "words", "other": "other", "noise": "noises"}
    return [f"--data.{kind}=[{sounds / name}]" for kind, name in kinds.items()]


def test_a_run_logs_and_its_checkpoint_is_a_model(work, sounds, capsys):
    words = recipe(trainer={"max_epochs": 2}, model={"name": "mine"})
    assert main(["train", "keywords", *words, *sources(sounds), "--run", "run"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "val_accuracy" in err
    assert "wavecast spot talk.wav --model" in err
    validated = [row for row in rows(Path("run/metrics.csv")) if row["val_loss"]]
    assert len(validated) == 2
    assert all(row["val_accuracy"] and row["val_found"] and row["val_rejected"] for row in validated)
    saved = weights(Path("run/checkpoints/last.ckpt"))
    card = find_model("run/checkpoints/last.ckpt", "spot")
    assert (card.name, card.architecture, card.classes) == ("mine", "lmuformer", CLASSES)
    assert card.hyperparameters == {"classes": 4, **NETWORK}
    assert (card.sample_rate, card.block) == (RATE, 160)
    assert card.latency_ms >= 50  # five frames of look-ahead
    network = load_network(card)
    assert all(torch.equal(tensor, saved[f"network.{name}"]) for name, tensor in network.state_dict().items())


KEYWORDS = sorted(name for name in training.shipped_recipes() if name.startswith("keywords"))


@pytest.mark.parametrize("name", KEYWORDS)
def test_every_shipped_recipe_takes_a_training_step(name, work, sounds):
    settings = training.read_recipe(name)
    assert "smoke" not in settings
    split = ["--data.held_out=[ann]", "--data.test=[bob]"]
    assert main(["train", "keywords", "--config", name, "--smoke", "--run", "run", *sources(sounds), *split]) == 0
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 1
    card = find_model("run/checkpoints/last.ckpt", "spot")
    assert card.classes == (CLASSES if settings["data"].get("rejection", True) else ("high", "low"))
    assert load_network(card).lookahead > 0


def test_an_interrupted_run_resumes_to_the_weights_of_an_uninterrupted_one(work, sounds):
    """Interrupted in the middle of the second epoch, with dropout, augmentation and averaged weights."""
    model = {"network": {"dropout": 0.2}, "average_decay": 0.5, "noise": 0.1, "roll": 4}
    words = [*recipe(model=model, trainer={"max_steps": 9, "max_epochs": -1}), *sources(sounds), "--quiet"]
    assert main(["train", "keywords", *words, "--run", "whole"]) == 0
    interrupt = "[{class_path: kit.interrupt.Interrupt, init_args: {at: 6}}]"
    assert main(["train", "keywords", *words, "--run", "part", "--trainer.callbacks", interrupt]) == 130
    assert torch.load("part/checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
    assert main(["train", "keywords", "--resume", "part", "--quiet"]) == 0
    whole, resumed = (weights(Path(run) / "checkpoints" / "last.ckpt") for run in ("whole", "part"))
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-5, atol=1e-6)


def test_warm_start_from_a_run(work, sounds, capsys):
    words = [*recipe(data={"items": 2}), *sources(sounds), "--quiet"]
    assert main(["train", "keywords", *words, "--run", "a"]) == 0
    begun = ["--model.init_from", "a", "--model.learning_rate", "0"]
    assert main(["train", "keywords", *words, *begun, "--run", "b"]) == 0
    before, after = (weights(Path(run) / "checkpoints" / "last.ckpt") for run in ("a", "b"))
    parameters = [name for name in before if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(before[name], after[name]) for name in parameters)
    assert main(["train", "keywords", *words, *begun, "--model.network.width", "4"]) == 1
    assert "does not fit LMUFormer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--data.speech", "[]"], 1, "there are no words to learn\nhint: give --data.speech"),
        (["--data.speech", "[nowhere]"], 1, "nowhere does not exist"),
        (["--data.words", "[hihg]"], 1, "the word 'hihg' is in none of the sources\nhint: there are high, low"),
        (["--data.rejection", "false", "--data.shares.unknown", "0.2"], 1, "need classes of their own"),
        (["--data.samples", "48000"], 1, "have 298 frames, not 128\nhint: give --model.frames 298"),
        (["--data.samples", "100"], 1, "views of 100 samples have 0 frames"),
        (["--model.loss", "mse"], 2, "model.loss"),
        (["--model.architecture", "lmuforme"], 1, "unknown architecture 'lmuforme'\nhint: did you mean lmuformer"),
        (["--model.init_from", "nobody"], 1, "there is no model 'nobody'"),
    ],
)
def test_bad_words_say_what_to_type(work, sounds, capsys, words, code, message):
    assert main(["train", "keywords", *recipe(), *sources(sounds), "--run", "run", *words]) == code
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""
    assert "Traceback" not in err


def test_evaluate_prints_tables_and_json_and_draws(work, sounds, capsys):
    """The model hears tones, and the words are tones: every one of them is found."""
    model = write_spotter(work)
    words = ["--model", str(model), *sources(sounds)[:2], "--data.held_out=[ann]", "--data.test=[bob]", "--quiet"]
    more = ["--data.part", "test", "--planted", "2", "--data.placed", "false", "--plots", "pictures"]
    assert main(["evaluate", "keywords", *words, *more]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["words", "2"]
    assert lines[1].split() == ["accuracy", "%", "100.00"]
    assert any(line.startswith("false alarms in 0.00 h of real speech, 8 words") for line in lines)
    assert {path.name for path in Path("pictures").iterdir()} == {"confusion.png", "heard.png", "detection.png"}
    assert main(["evaluate", "keywords", *words, *more[:4], "--json", "-"]) == 0
    clips, detection = map(json.loads, capsys.readouterr().out.splitlines())
    assert clips["accuracy"] == 1.0 == clips["accuracy_after_frames"][-1]
    assert len(clips["accuracy_after_frames"]) == 128
    assert np.sum(clips["confusion"]) == clips["words"] + clips["others"]
    assert detection["alarms_in"] == "real speech"
    assert detection["points"][0]["said"] == 8
    assert all(0 <= point["recall"] <= 1 for point in detection["points"])
    assert detection["points"][-1]["alarms_per_hour"] == 0


def test_evaluate_listens_to_recordings_of_ones_own(work, sounds, capsys):
    """Hiss holds no word; the planted words are found all the same."""
    model = write_spotter(work)
    words = ["--model", str(model), sources(sounds)[0], "--data.held_out=[ann]", "--quiet", "--hours", "0"]
    assert main(["evaluate", "keywords", *words, "--without", f"[{sounds / 'noises'}]", "--planted", "1"]) == 0
    out = capsys.readouterr().out
    assert "of --without, 4 words" in out
    assert "real speech" not in out
    lines = out.splitlines()
    assert lines[-2] == "at 90 % recall:"
    assert lines[-1].split()[1:3] == ["100.00", "0.00"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--model", "nobody"], 1, "there is no model 'nobody'"),
        (["--data.sample_rate", "8000"], 1, "the model works at 16000 Hz, the data at 8000"),
        (["--data.words", "[low]", "--data.part", "test", "--data.test", "[]"], 1, "no words of the part 'test'"),
        (["--planted", "-1"], 2, "--planted -1 --hours 0.001\nhint: give numbers from 0 on"),
        (["--without", "[nowhere]"], 1, "nowhere does not exist"),
        (["--plantations", "1"], 2, "wavecast evaluate keywords --help"),
    ],
)
def test_evaluate_says_what_does_not_fit(work, sounds, capsys, words, code, message):
    given = ["--model", str(write_spotter(work)), *sources(sounds)[:2], "--data.held_out=[ann]", "--quiet"]
    assert main(["evaluate", "keywords", *given, "--planted", "0", "--hours", "0.001", *words]) == code
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


def test_words_that_the_model_does_not_know(work, sounds, capsys):
    folder = work / "words" / "hello"
    folder.mkdir(parents=True)
    soundfile.write(folder / "ann_nohash_0.wav", tone("low", 0.5), RATE)
    given = ["--model", str(write_spotter(work)), "--data.speech=[words]", "--data.held_out=[ann]", "--quiet"]
    assert main(["evaluate", "keywords", *given]) == 1
    assert "lmuformer.tones does not know the word 'hello' of the data" in capsys.readouterr().err


def test_two_processes_hear_what_one_would(work, sounds):
    """Two ranks of batch 1 take the items and the steps of one process of batch 2, and count the same validation."""
    words = [*recipe(model={"learning_rate": 0.0}), *sources(sounds)]
    assert main(["train", "keywords", *words, "--run", "one", "--quiet"]) == 0
    two = ["--run", "two", "--data.batch_size", "1", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    for (out, err), code in launch(2, ["train", "keywords", *words, *two], work):
        assert code == 0, err
        assert out == ""
    one, both = (torch.load(work / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("one", "two"))
    assert both["global_step"] == one["global_step"] == 4
    assert both["heard_seconds"] == pytest.approx(one["heard_seconds"])
    for name, tensor in one["state_dict"].items():
        if "running" not in name:  # batch statistics are of each process
            torch.testing.assert_close(both["state_dict"][name], tensor)
