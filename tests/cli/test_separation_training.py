"""`wavecast train separation` and `wavecast evaluate separation`: recipes, resuming, models, two processes."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from kit.ranks import launch
from kit.sounds import hiss, voice, write_folder
from kit.training import rows, sound_sources, weights, write_recipe
from wavecast import training
from wavecast.cards import find_model, load_network
from wavecast.main import main

RATE = 8_000
NETWORK = {"channels": 16, "layers": 1, "width": 16, "hidden": 32, "attention": 32, "group": 32, "inner": 8}
TINY = {
    "model": {"network": NETWORK, "schedule": "constant", "learning_rate": 3e-3},
    "data": {
        "seconds": 0.5,
        "validation_seconds": 0.5,
        "batch_size": 2,
        "items": 8,
        "validation_items": 4,
        "rooms": 2,
        "chances": {"single": 0.5},
    },
    "trainer": {"accelerator": "cpu", "max_epochs": 1},
    "checkpoint": {"save_top_k": 1},
}
recipe = partial(write_recipe, TINY)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Folders of six voices and of noises, a folder of mixtures, and a cache that all tests share."""
    folder = tmp_path_factory.mktemp("sounds")
    write_folder(folder / "voices", voice, 12, 0.8, RATE, groups=6)
    write_folder(folder / "noises", hiss, 4, 0.8, RATE)
    for name in ("mix", "s1", "s2"):
        (folder / "tr" / name).mkdir(parents=True)
    for number in range(4):
        sources = [voice(10 * number + k, 0.7, RATE) for k in range(2)]
        for name, sound in (("mix", sources[0] + sources[1]), ("s1", sources[0]), ("s2", sources[1])):
            soundfile.write(folder / "tr" / name / f"{number}.wav", sound, RATE, subtype="FLOAT")
    return folder


def test_a_run_logs_draws_and_its_checkpoint_is_a_model(work, sounds, capsys):
    pictures = [{"class_path": "wavecast.apps.separation.callbacks.SpectrogramPictures", "init_args": {"count": 1}}]
    words = recipe(trainer={"max_epochs": 2, "callbacks": pictures}, model={"name": "mine"})
    assert main(["train", "separation", *words, *sound_sources(sounds), "--run", "run"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "val_si_sdr_gain" in err
    assert "wavecast separate meeting.wav --model" in err
    assert sorted(path.name for path in Path("run/pictures").iterdir()) == ["step0000004-0.png", "step0000008-0.png"]
    logged = rows(Path("run/metrics.csv"))
    validated = [row for row in logged if row["val_loss"]]
    assert len(validated) == 2
    assert all(row["val_si_sdr_gain"] == row["val_si_sdr_gain_real"] and row["val_single"] for row in validated)
    assert float(logged[-1]["heard_hours"]) == pytest.approx(16 * 0.5 / 3600)
    (best,) = Path("run/checkpoints").glob("step*.ckpt")
    card = find_model(str(best), "separate")
    assert (card.name, card.architecture, card.hyperparameters) == ("mine", "mossformer2", NETWORK)
    assert (card.sample_rate, card.block, card.latency_ms) == (RATE, 0, None)
    network, saved = load_network(card), weights(best)
    assert all(torch.equal(tensor, saved[f"network.{name}"]) for name, tensor in network.state_dict().items())


SEPARATION = sorted(name for name in training.shipped_recipes() if name.startswith("separation"))


@pytest.mark.parametrize("name", SEPARATION)
def test_every_shipped_recipe_takes_a_training_step(name, work, sounds):
    settings = training.read_recipe(name)
    assert "smoke" not in settings
    words = ["--config", name, "--smoke", "--run", "run"]
    if settings["data"].get("mixtures"):
        words += [f"--data.{kind}={sounds / 'tr'}" for kind in ("mixtures", "validation_mixtures")]
    else:
        words += sound_sources(sounds)
    assert main(["train", "separation", *words]) == 0
    saved = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 1
    card = find_model("run/checkpoints/last.ckpt", "separate")
    assert (load_network(card).lookahead < math.inf) == ("causal" in name) == bool(card.block)


def test_an_interrupted_run_resumes_to_the_weights_of_an_uninterrupted_one(work, sounds):
    """Interrupted in the middle of the second epoch, with dropout and averaged weights."""
    model = {"network": {"dropout": 0.2}, "average_decay": 0.5}
    words = [*recipe(model=model, trainer={"max_steps": 11, "max_epochs": -1}), *sound_sources(sounds), "--quiet"]
    assert main(["train", "separation", *words, "--run", "whole"]) == 0
    interrupt = "[{class_path: kit.interrupt.Interrupt, init_args: {at: 6}}]"
    assert main(["train", "separation", *words, "--run", "part", "--trainer.callbacks", interrupt]) == 130
    assert torch.load("part/checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
    assert main(["train", "separation", "--resume", "part", "--quiet"]) == 0
    whole, resumed = (weights(Path(run) / "checkpoints" / "last.ckpt") for run in ("whole", "part"))
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-5, atol=1e-6)


def test_warm_start_from_a_run(work, sounds, capsys):
    words = [*recipe(), *sound_sources(sounds), "--quiet"]
    assert main(["train", "separation", *words, "--run", "a"]) == 0
    begun = ["--model.init_from", "a", "--model.learning_rate", "0"]
    assert main(["train", "separation", *words, *begun, "--run", "b"]) == 0
    before, after = (weights(Path(run) / "checkpoints" / "last.ckpt") for run in ("a", "b"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert main(["train", "separation", *words, *begun, "--model.network.width", "32"]) == 1
    assert "does not fit MossFormer2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 1, "there is nothing to train on\nhint: give --data.speech FOLDER or --data.mixtures"),
        (["--data.speakers", "3"], 1, "separates 2 speakers, the data have 3\nhint: give --data.speakers 2"),
        (["--data.sample_rate", "16000"], 1, "is for 8000 Hz, the data have 16000 Hz\nhint: give --data.sample_rate"),
        (["--model.loss", "sdr"], 2, "model.loss"),
        (["--model.architecture", "frcrn_stream", "--model.network", "{}"], 1, "does not separate speakers\nhint:"),
        (["--model.init_from", "nobody"], 1, "there is no model 'nobody'"),
        (["--data.mixtures", "nowhere"], 1, "nowhere holds no mixtures\nhint: give a folder with `mix`"),
        (["--data.speech", "[voices]", "--data.held_out", "[]"], 1, "leaves no speech to validate on"),
        (["--data.speech", "[voices/voice0]"], 1, "2 different people are needed"),
        (["--data.speech", "[voices]", "--data.overlap", "[50, 100]"], 1, "overlap from 50.0 to 100.0\nhint:"),
        (["--data.speech", "[voices]", "--data.voice_pattern", "("], 1, "is no regular expression"),
        (["--data.speech", "[voices]", "--data.voice_pattern", "x(y)"], 1, "names no voice in"),
        (
            [
                *("--data.speech", "[voices]", "--data.validation_speech", "[voices]"),
                *("--data.speakers", "7", "--model.network.speakers", "7"),
            ],
            1,
            "7 different people are needed, all real or all synthetic voices; there are 6 real voices",
        ),
    ],
)
def test_bad_words_say_what_to_type(work, sounds, capsys, monkeypatch, words, code, message):
    tiny = recipe()
    monkeypatch.chdir(sounds)
    assert main(["train", "separation", *tiny, "--run", str(work / "run"), *words]) == code
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""
    assert "Traceback" not in err


def test_evaluate_prints_a_table_and_json(work, sounds, capsys):
    words = [*recipe(), *sound_sources(sounds), "--quiet"]
    assert main(["train", "separation", *words, "--run", "run"]) == 0
    capsys.readouterr()
    words += ["--model", "run/checkpoints/last.ckpt", "--scores", "[si_sdr]"]
    assert main(["evaluate", "separation", *words]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["mixtures", "items", "si_sdr"]
    assert [line[:16].strip() for line in table[1:]][-2:] == ["all", "single speaker"]
    assert main(["evaluate", "separation", *words, "--json", "-"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["item"] for line in lines[:-1]] == [0, 1, 2, 3]
    several = [line["separated"]["si_sdr"] for line in lines[:-1] if line["talking"] > 1]
    assert lines[-1]["groups"]["all"]["separated"]["si_sdr"] == pytest.approx(np.mean(several))
    assert lines[-1]["groups"]["single speaker"]["items"] == 4 - len(several)


def test_evaluate_recorded_mixtures_and_refuse_what_does_not_fit(work, sounds, capsys):
    words = [*recipe(), *sound_sources(sounds), "--quiet"]
    assert main(["train", "separation", *words, "--run", "run"]) == 0
    capsys.readouterr()
    given = ["--model", "run", "--scores", "[si_sdr]", f"--data.validation_mixtures={sounds / 'tr'}"]
    assert main(["evaluate", "separation", *given, "--data.validation_items", "3", "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["all", "3"]
    for more, code, message in (
        (["--data.sample_rate", "16000"], 1, "the model works at 8000 Hz, the data at 16000"),
        (["--data.speakers", "3"], 1, "s3/0.wav is missing"),
        (["--scores", "[mos]"], 2, "there is no score 'mos'"),
        (["--data.validation_mixtures", "nowhere"], 1, "nowhere holds no mixtures"),
    ):
        assert main(["evaluate", "separation", *given, *more]) == code
        out, err = capsys.readouterr()
        assert message in err
        assert out == ""


def test_two_processes_hear_what_one_would(work, sounds):
    """Two ranks of batch 1 see the items of one process of batch 2, and their averaged gradients are its gradients."""
    words = [*recipe(model={"network": {"dropout": 0.0}}), *sound_sources(sounds)]
    assert main(["train", "separation", *words, "--run", "one", "--quiet"]) == 0
    two = ["--run", "two", "--data.batch_size", "1", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    for (out, err), code in launch(2, ["train", "separation", *words, *two], work):
        assert code == 0, err
        assert out == ""
    one, both = (torch.load(work / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("one", "two"))
    assert both["global_step"] == one["global_step"] == 4
    assert both["heard_seconds"] == pytest.approx(one["heard_seconds"])
    for name, tensor in one["state_dict"].items():
        torch.testing.assert_close(both["state_dict"][name], tensor, rtol=1e-3, atol=2e-5)
    logged = [[row for row in rows(work / run / "metrics.csv") if row["val_loss"]][-1] for run in ("one", "two")]
    for name in ("val_loss", "val_si_sdr_gain", "val_single"):
        assert float(logged[0][name]) == pytest.approx(float(logged[1][name]), abs=0.02)
