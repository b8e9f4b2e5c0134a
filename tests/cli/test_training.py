"""`wavecast train` and `wavecast evaluate`: recipes, resuming, early stop, checkpoints as models, two processes."""

import json
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

SMALL = {"bands": 32, "single_bins": 8, "channels": [4, 4, 8], "layers": 1, "hidden": 8}
TINY = {
    "model": {"architecture": "frcrn_stream", "network": SMALL, "loss": "spectral", "schedule": "constant"},
    "data": {
        "seconds": 0.5,
        "validation_seconds": 0.5,
        "batch_size": 2,
        "items": 8,
        "validation_items": 3,
        "rooms": 2,
        "chances": {"noise_only": 0.0},
    },
    "trainer": {"accelerator": "cpu", "max_epochs": 1},
    "checkpoint": {"save_top_k": 1},
}
recipe = partial(write_recipe, TINY)

PUBLISHED = ["--model.architecture", "frcrn", "--model.network", "{channels: 4}", "--model.loss", "published"]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Folders of voices and noises, a list of pairs, and a cache that all tests share."""
    folder = tmp_path_factory.mktemp("sounds")
    write_folder(folder / "voices", voice, 6, 0.8, groups=3)
    write_folder(folder / "noises", hiss, 4, 0.8)
    lines = [f"noises/hiss{k % 2}/{k}.wav voices/voice{k % 3}/{k}.wav 0.8" for k in range(4)]
    (folder / "pairs.scp").write_text("\n".join(lines))
    return folder


def test_everything_a_run_writes_lies_in_its_folder_and_the_checkpoint_is_a_model(work, sounds, capsys):
    pictures = [{"class_path": "wavecast.apps.enhancement.callbacks.SpectrogramPictures", "init_args": {"count": 1}}]
    words = recipe(trainer={"max_epochs": 2, "callbacks": pictures}, model={"name": "mine", "perceptual": 1})
    assert main(["train", "enhancement", *words, *sound_sources(sounds)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "val_si_sdr" in err
    assert "wavecast enhance noisy.wav --model" in err
    assert {path.name for path in work.iterdir()} == {"runs", "tiny.yaml"}
    (run,) = (work / "runs" / "enhancement").iterdir()
    assert {"config.yaml", "metrics.csv", "pictures", "checkpoints"} <= {path.name for path in run.iterdir()}
    assert sorted(path.name for path in (run / "pictures").iterdir()) == ["step0000004-0.png", "step0000008-0.png"]
    logged = rows(run / "metrics.csv")
    assert len([row for row in logged if row["val_si_sdr"]]) == 2
    assert float(logged[-1]["heard_hours"]) == pytest.approx(16 * 0.5 / 3600)
    (best,) = (run / "checkpoints").glob("step*.ckpt")
    card = find_model(str(best), "enhance")
    assert (card.name, card.architecture, card.hyperparameters) == ("mine", "frcrn_stream", SMALL)
    assert (card.sample_rate, card.block, card.latency_ms) == (16_000, 256, 32.0)
    network = load_network(card)
    saved = weights(best)
    assert all(torch.equal(tensor, saved[f"network.{name}"]) for name, tensor in network.state_dict().items())
    noisy = sounds / "noises" / "hiss0" / "0.wav"
    assert main(["enhance", str(noisy), "-o", "clean.wav", "--model", str(best), "--quiet"]) == 0
    assert soundfile.info("clean.wav").frames == soundfile.info(noisy).frames


ENHANCEMENT = sorted(name for name in training.shipped_recipes() if name.startswith("enhancement"))


@pytest.mark.parametrize("name", ENHANCEMENT)
def test_every_shipped_recipe_takes_a_training_step(name, work, sounds):
    """Those of the forecaster are in test_forecast.py."""
    settings = training.read_recipe(name)
    assert "smoke" not in settings
    words = ["--config", name, "--smoke", "--run", "run"]
    words += [
        f"--data.{kind}={sounds / 'pairs.scp'}" for kind in ("pairs", "validation_pairs") if settings["data"].get(kind)
    ]
    words += sound_sources(sounds) if settings["data"].get("speech") else []
    if settings["model"].get("init_from"):
        begun = [*recipe(), *PUBLISHED, "--run", "first", "--quiet"]
        assert main(["train", "enhancement", *begun, *sound_sources(sounds)]) == 0
        words += ["--model.init_from", "first/checkpoints/last.ckpt"]
    assert main(["train", "enhancement", *words]) == 0
    saved = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 1
    load_network(find_model("run/checkpoints/last.ckpt", "enhance"))


def test_an_interrupted_run_resumes_to_the_weights_of_an_uninterrupted_one(work, sounds):
    """Interrupted in the middle of the second epoch, with gradient noise and averaged weights."""
    model = {"gradient_noise": 0.01, "average_decay": 0.5}
    words = [*recipe(model=model, trainer={"max_steps": 11, "max_epochs": -1}), *sound_sources(sounds), "--quiet"]
    assert main(["train", "enhancement", *words, "--run", "whole"]) == 0
    interrupt = "[{class_path: kit.interrupt.Interrupt, init_args: {at: 6}}]"
    assert main(["train", "enhancement", *words, "--run", "part", "--trainer.callbacks", interrupt]) == 130
    names = {path.name for path in Path("part/checkpoints").iterdir()}
    assert {"last.ckpt", "stopped-step0000006.ckpt"} <= names, names
    assert torch.load("part/checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
    assert main(["train", "enhancement", "--resume", "part", "--quiet"]) == 0
    whole, resumed = (weights(Path(run) / "checkpoints" / "last.ckpt") for run in ("whole", "part"))
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-5, atol=1e-6)
    assert rows(Path("part") / "metrics.csv")  # the first part's log is still there
    assert list(Path("part").glob("resumed_*/metrics.csv"))


def test_a_run_is_never_written_over_another(work, sounds, capsys):
    words = [*recipe(), *sound_sources(sounds), "--quiet", "--run", "run"]
    assert main(["train", "enhancement", *words]) == 0
    before = (Path("run") / "metrics.csv").read_bytes()
    assert main(["train", "enhancement", *words]) == 1
    assert "run holds a run\nhint: give another folder, or go on with it: --resume run" in capsys.readouterr().err
    assert main(["train", "enhancement", "--resume", "run", "--run", "run", "--quiet"]) == 0
    assert (Path("run") / "metrics.csv").read_bytes() == before


def test_early_stop(work, sounds):
    """A learning rate of zero improves nothing, so training ends after `patience` more epochs."""
    stop = {
        "class_path": "pytorch_lightning.callbacks.EarlyStopping",
        "init_args": {"monitor": "val_loss", "patience": 2},
    }
    changes = {"trainer": {"max_epochs": 20, "callbacks": [stop]}, "model": {"learning_rate": 0.0}}
    words = recipe(**changes, data={"items": 2})
    assert main(["train", "enhancement", *words, *sound_sources(sounds), "--run", "run"]) == 0
    validated = [row for row in rows(Path("run") / "metrics.csv") if row["val_loss"]]
    assert 3 <= len(validated) < 20


def test_bad_words_say_what_to_type(work, sounds, capsys):
    cases = [
        (["train"], 2, "", "usage"),
        (["train", "enhancment"], 2, "there is no task 'enhancment'\nhint: did you mean enhancement?", ""),
        (["train", "enhancement", "--model.lossy", "1"], 2, "unrecognized arguments: --model.lossy", ""),
        (["train", "enhancement", "--data.seconds", "long"], 2, "data.seconds", ""),
        (["train", "enhancement", "--config", "enhancement_frcn"], 1, "hint: did you mean enhancement_frcrn?", ""),
        (["train", "enhancement", "--resume", "last"], 1, "there is nothing to resume", ""),
        (["train", "enhancement"], 1, "there is nothing to train on\nhint: give --data.speech", ""),
        (["train", "enhancement", "--model.loss", "published"], 1, "has no mask of that kind\nhint:", ""),
        (["train", "enhancement", "--model.architecture", "frcm"], 1, "unknown architecture 'frcm'", ""),
        (
            ["evaluate", "enhancement", "--scores", "[mos]", *sound_sources(sounds, ["validation_speech"])],
            2,
            "no score 'mos'",
            "",
        ),
        (["evaluate", "enhancement"], 1, "there is nothing to validate on", ""),
    ]
    for words, code, message, printed in cases:
        assert main(words) == code, words
        out, err = capsys.readouterr()
        assert message in err, words
        assert printed in out, words
        assert out == "" or printed, words


def test_recipes_that_are_none_are_refused(work, capsys):
    for text, message in (("a: [", "is not YAML"), ("- 1", "holds a list, not settings")):
        (work / "bad.yaml").write_text(text)
        assert main(["train", "enhancement", "--config", "bad.yaml"]) == 1
        assert message in capsys.readouterr().err


def test_help_of_both_commands(work, capsys):
    assert main(["train", "--help"]) == 0
    assert "enhancement_frcrn_stream" in capsys.readouterr().out
    assert main(["train", "enhancement", "--help"]) == 0
    assert "usage: wavecast train enhancement" in capsys.readouterr().out


def test_warm_start_refuses_another_architecture(work, sounds, capsys):
    words = [*recipe(), *sound_sources(sounds), "--quiet"]
    assert main(["train", "enhancement", *words, "--run", "a"]) == 0
    begun = ["--model.init_from", "a/checkpoints/last.ckpt"]
    assert main(["train", "enhancement", *words, *begun, "--model.network.hidden", "16"]) == 1
    assert "does not fit FRCRNStream" in capsys.readouterr().err
    assert main(["train", "enhancement", *words, *begun, *PUBLISHED]) == 1
    assert "is a frcrn_stream, and the network to train is a frcrn" in capsys.readouterr().err


def test_evaluate_prints_a_table_and_json(work, sounds, capsys):
    words = [*recipe(), *sound_sources(sounds), "--quiet", "--run", "run"]
    assert main(["train", "enhancement", *words]) == 0
    capsys.readouterr()
    words = [*recipe(), *sound_sources(sounds), "--model", "run/checkpoints/last.ckpt", "--scores", "[si_sdr, stoi]"]
    assert main(["evaluate", "enhancement", *words]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["snr", "items", "si_sdr", "stoi"]
    assert table[-1].split()[:2] == ["all", "3"]
    assert main(["evaluate", "enhancement", *words, "--json", "-"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["item"] for line in lines[:-1]] == [0, 1, 2]
    mean = np.mean([line["enhanced"]["si_sdr"] for line in lines[:-1]])
    assert lines[-1]["mean"]["enhanced"]["si_sdr"] == pytest.approx(mean)
    assert main(["evaluate", "enhancement", *words, "--json", "a.json"]) == 0
    assert main(["evaluate", "enhancement", *words, "--json", "a.json"]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_two_processes_hear_what_one_would(work, sounds):
    """Two ranks of batch 1 see the items of one process of batch 2, and their averaged gradients are its gradients."""
    words = [*recipe(model={"loss": "si_snr"}), *sound_sources(sounds)]
    assert main(["train", "enhancement", *words, "--run", "one", "--quiet"]) == 0
    two = ["--run", "two", "--data.batch_size", "1", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    for (out, err), code in launch(2, ["train", "enhancement", *words, *two], work):
        assert code == 0, err
        assert out == ""
    one, both = (torch.load(work / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("one", "two"))
    assert both["global_step"] == one["global_step"] == 4
    assert both["heard_seconds"] == pytest.approx(one["heard_seconds"])
    for name, tensor in one["state_dict"].items():
        torch.testing.assert_close(both["state_dict"][name], tensor, rtol=1e-3, atol=2e-5)
    logged = [[row for row in rows(work / run / "metrics.csv") if row["val_si_sdr"]][-1] for run in ("one", "two")]
    assert float(logged[0]["val_si_sdr"]) == pytest.approx(float(logged[1]["val_si_sdr"]), abs=0.02)
