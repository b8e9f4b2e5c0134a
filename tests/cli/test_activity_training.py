"""`wavecast train activity` and `wavecast evaluate activity`: recipes, resuming, models, splits, two processes."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from kit.ranks import launch
from kit.recognizers import write_recognizer
from kit.training import rows, weights, write_recipe
from kit.videos import moving_block, write_video
from wavecast import training
from wavecast.cards import find_model, load_network
from wavecast.datamodules.moving_shapes import CLASSES
from wavecast.main import main

TINY = {
    "model": {"network": {"width": 8, "hidden": 8, "dropout": 0.2}, "schedule": "constant", "learning_rate": 3e-3},
    "data": {
        "source": "moving_shapes",
        "frames": 8,
        "size": [16, 16],
        "rate": 4.0,
        "modalities": ["rgb", "difference"],
        "batch_size": 2,
        "items": 8,
        "validation_items": 4,
        "test_items": 24,
    },
    "trainer": {"accelerator": "cpu", "max_epochs": 1},
    "checkpoint": {"save_top_k": 1},
}
recipe = partial(write_recipe, TINY)
VIDEO_CLASSES = ("Archery", "YoYo")


@pytest.fixture(scope="module")
def ucf(tmp_path_factory):
    """Videos of two classes in three groups, and the lists of two splits."""
    root = tmp_path_factory.mktemp("ucf")
    (root / "lists").mkdir()
    (root / "lists" / "classInd.txt").write_text("1 Archery\r\n2 YoYo\r\n", newline="")
    files = []
    for label, name in enumerate(VIDEO_CLASSES):
        (root / "videos" / name).mkdir(parents=True)
        for group in (1, 2, 3):
            files.append((f"{name}/v_{name}_g{group:02d}_c01.mp4", label + 1, group))
            write_video(root / "videos" / files[-1][0], moving_block(10) // (label + 1) + group)
    for split in (1, 2):
        train = [f"{name} {label}\r\n" for name, label, group in files if group != split]
        test = [f"{name}\r\n" for name, _, group in files if group == split]
        (root / "lists" / f"trainlist0{split}.txt").write_text("".join(train), newline="")
        (root / "lists" / f"testlist0{split}.txt").write_text("".join(test), newline="")
    return root


def last(run):
    return torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_run_logs_and_its_checkpoint_is_a_model(work, capsys):
    words = recipe(trainer={"max_epochs": 2}, model={"name": "mine"}, checkpoint={"save_top_k": -1})
    assert main(["train", "activity", *words, "--run", "run"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "val_accuracy" in err
    assert "wavecast recognize clip.mp4 --model" in err
    assert len([row for row in rows(Path("run/metrics.csv")) if row["val_loss"]]) == 2
    best = max(Path("run/checkpoints").glob("step*.ckpt"))
    card = find_model(str(best), "recognize")
    assert (card.name, card.architecture, card.classes) == ("mine", "lrcn", CLASSES)
    assert card.hyperparameters["modalities"] == ["rgb", "difference"]
    assert last("run")["clips_seen"] == 16
    network, saved = load_network(card), weights(best)
    assert (network.frames, network.size, network.rate) == (8, (16, 16), 4.0)
    assert all(torch.equal(tensor, saved[f"network.{name}"]) for name, tensor in network.state_dict().items())


RECIPES = sorted(name for name in training.shipped_recipes() if name.startswith(("activity", "moving_shapes")))


@pytest.mark.parametrize("name", RECIPES)
def test_every_shipped_recipe_takes_a_training_step(name, work):
    settings = training.read_recipe(name)
    assert "smoke" not in settings
    assert main(["train", "activity", "--config", name, "--smoke", "--run", "run"]) == 0
    assert last("run")["global_step"] == 1
    load_network(find_model("run/checkpoints/last.ckpt", "recognize"))


def test_an_interrupted_run_resumes_to_the_weights_of_an_uninterrupted_one(work):
    """Interrupted in the middle of the second epoch, with dropout, averaged weights and batch normalization."""
    every = {"save_top_k": -1}
    words = [*recipe(model={"average_decay": 0.5}, trainer={"max_epochs": 3}, checkpoint=every), "--quiet"]
    assert main(["train", "activity", *words, "--run", "whole"]) == 0
    interrupt = "[{class_path: kit.interrupt.Interrupt, init_args: {at: 6}}]"
    assert main(["train", "activity", *words, "--run", "part", "--trainer.callbacks", interrupt]) == 130
    assert last("part")["global_step"] == 6
    assert main(["train", "activity", "--resume", "part", "--quiet"]) == 0
    whole, resumed = last("whole"), last("part")
    assert whole["clips_seen"] == resumed["clips_seen"] == 24
    for name, tensor in whole["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][name], tensor, rtol=1e-5, atol=1e-6)


def test_warm_start_and_another_head_on_a_frozen_encoder(work, capsys):
    words = [*recipe(), "--quiet"]
    assert main(["train", "activity", *words, "--run", "a"]) == 0
    begun = ["--model.init_from", "a", "--model.learning_rate", "0"]
    assert main(["train", "activity", *words, *begun, "--run", "b"]) == 0
    before, after = (weights(Path(run) / "checkpoints" / "last.ckpt") for run in ("a", "b"))
    assert all(
        torch.equal(before[name], after[name]) for name in before if "running" not in name and "num_" not in name
    )
    frozen = ["--model.encoder_from", "a", "--model.frozen", "true", "--model.architecture", "frame_average"]
    assert main(["train", "activity", *words, *frozen, "--run", "c"]) == 0
    after = weights(Path("c/checkpoints/last.ckpt"))
    encoder = [name for name in before if name.startswith("network.encoder.")]
    assert encoder
    assert all(torch.equal(before[name], after[name]) for name in encoder)
    assert main(["train", "activity", *words, *begun, "--model.network.width", "16"]) == 1
    assert "does not fit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--data.source", "null"], 1, "there are no activities to learn from\nhint: give --data.source FOLDER"),
        (["--data.source", "nowhere"], 1, "nowhere is no folder\nhint: give the folder of the videos"),
        (["--data.modalities", "[smell]"], 1, "modality 'smell'\nhint: one of rgb"),
        (["--data.size", "[16, 20]"], 1, "moving shapes of 16 x 20\nhint: their pictures are square"),
        (["--data.digits", "nowhere"], 1, "nowhere has no digits to train on"),
        (["--model.architecture", "c3d"], 2, "model.architecture"),
        (["--model.network.rate", "3"], 1, "rate of the network follow from the data\nhint: leave them out"),
        (["--model.init_from", "nobody"], 1, "there is no model 'nobody'"),
        (["--data.frames", "many"], 2, "data.frames"),
    ],
)
def test_bad_words_say_what_to_type(work, capsys, words, code, message):
    assert main(["train", "activity", *recipe(), "--run", "run", *words]) == code
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""
    assert "Traceback" not in err


def test_evaluate_scores_generated_clips_of_unseen_shapes(work, capsys):
    path = write_recognizer(work, "lrcn", classes=CLASSES[::-1], rate=4.0)
    words = ["evaluate", "activity", *recipe(), "--model", str(path)]
    assert main([*words, "--plot", "picture.png"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[:2] == ["model", "videos"]
    assert out[1].split()[:2] == ["lrcn.tiny", "24"]
    assert {line[:32].strip() for line in out[2:]} <= set(CLASSES)
    assert Path("picture.png").read_bytes()[:4] == b"\x89PNG"
    assert main([*words, "--json", "-", "--quiet", "--part", "validation"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert {line["true"] for line in lines[:-1]} <= set(CLASSES)
    assert len(lines) == 5
    assert lines[-1]["top1"] == np.mean([line["true"] == line["found"] for line in lines[:-1]])
    assert main([*words, "--plot", "picture.png"]) == 1
    assert "picture.png exists\nhint: give --overwrite" in capsys.readouterr().err


def test_evaluate_scores_the_splits_of_a_data_set_with_their_mean(work, ucf, capsys):
    words = ["evaluate", "activity", f"--data.source={ucf / 'videos'}", f"--data.annotations={ucf / 'lists'}"]
    first, second = (write_recognizer(work, "ts_lstm", f"s{k}", VIDEO_CLASSES, seed=k) for k in (1, 2))
    assert main([*words, "--model", f"[{first}, {second}]", "--json", "-", "--quiet"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    videos = [line for line in lines if "video" in line]
    assert [(Path(line["video"]).stem[-7:-4], line["split"]) for line in videos] == [
        ("g01", 1),
        ("g01", 1),
        ("g02", 2),
        ("g02", 2),
    ]
    splits = [line for line in lines if "by_class" in line]
    assert [line["split"] for line in splits] == [1, 2]
    assert lines[-1]["splits"] == 2
    assert lines[-1]["top1"] == pytest.approx(np.mean([line["top1"] for line in splits]))
    fused = [*words, "--model", f"{first}+{second}", "--weights", "[1, 2]"]
    assert main([*fused, "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("ts_lstm.s1 + ts_lstm.s2")


def test_evaluate_refuses_what_does_not_fit(work, ucf, capsys):
    path = write_recognizer(work, "lrcn", classes=CLASSES)
    words = ["evaluate", "activity", "--model", str(path)]
    videos = [f"--data.source={ucf / 'videos'}"]
    for more, code, message in (
        ([*videos, f"--data.annotations={ucf / 'lists'}"], 1, "tells other classes apart than the data have"),
        (videos, 1, "has nothing to test on"),
        ([*videos, "--model", f"[{path}, {path}]"], 2, "several models are for the splits of a data set"),
        (["--data.size", "x"], 2, "data.size"),
        (["--model", "nobody"], 1, "there is no model 'nobody'"),
    ):
        assert main([*words, *more]) == code
        out, err = capsys.readouterr()
        assert message in err
        assert out == ""


def test_two_processes_see_what_one_would(work):
    """Two ranks of batch 1 see the items of one process of batch 2; the encoder is frozen, its statistics with it."""
    path = write_recognizer(work, "lrcn", classes=CLASSES)
    words = [*recipe(model={"network": {"dropout": 0.0}, "frozen": True, "encoder_from": str(path)})]
    assert main(["train", "activity", *words, "--run", "one", "--quiet"]) == 0
    two = ["--run", "two", "--data.batch_size", "1", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    for (out, err), code in launch(2, ["train", "activity", *words, *two], work):
        assert code == 0, err
        assert out == ""
    one, both = last("one"), last("two")
    assert both["global_step"] == one["global_step"] == 4
    assert both["clips_seen"] == one["clips_seen"] == 8
    for name, tensor in one["state_dict"].items():
        torch.testing.assert_close(both["state_dict"][name], tensor, rtol=1e-3, atol=2e-5)
    logged = [[row for row in rows(work / run / "metrics.csv") if row["val_loss"]][-1] for run in ("one", "two")]
    for name in ("val_loss", "val_accuracy", "val_accuracy_top5"):
        assert float(logged[0][name]) == pytest.approx(float(logged[1][name]), rel=1e-3)
