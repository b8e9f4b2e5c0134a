"""The recognition task: what it learns from, counts and says of its checkpoints; encoders that have learned already."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kit.recognizers import write_recognizer
from kit.videos import moving_block, write_video
from wavecast.apps.activity.confusion import confusion, draw_confusion, recall
from wavecast.apps.activity.evaluation import Score, mean, table
from wavecast.apps.activity.task import ActivityTask
from wavecast.cards import find_model, load_network
from wavecast.core.errors import WavecastError
from wavecast.datamodules.activities import ActivityData
from wavecast.datamodules.moving_shapes import CLASSES
from wavecast.datamodules.video import VideoData

TINY = {
    "lrcn": {"width": 8, "hidden": 8},
    "ts_lstm": {"width": 8, "hidden": 8, "segments": 2},
    "temporal_inception": {"width": 8, "hidden": 8},
    "frame_average": {"width": 8, "hidden": 8},
}


def generated(**options):
    return ActivityData("moving_shapes", **{"frames": 8, "size": (16, 16), "batch_size": 4, "items": 4, **options})


def task(architecture="lrcn", **options):
    made = ActivityTask(architecture, **{"network": TINY[architecture], **options})
    made.meet(generated())
    return made


def batch(count=5):
    data = generated()
    data.setup("fit")
    items = [data.train_source.item(k) for k in range(count)]
    return {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in ("clip", "target")}


@pytest.mark.parametrize("architecture", list(TINY))
def test_the_network_is_that_of_the_data_and_every_step_of_it_learns(architecture):
    made = task(architecture)
    assert made.card.classes == CLASSES
    hyperparameters = made.card.hyperparameters
    assert (hyperparameters["classes"], hyperparameters["frames"], hyperparameters["size"]) == (22, 8, [16, 16])
    items = batch()
    made.eval()
    logits = made(items["clip"])
    assert logits.shape == (5, 8 if architecture == "lrcn" else 1, 22)
    expected = torch.stack(
        [
            torch.stack([F.cross_entropy(step, target) for step in clip]).mean()
            for clip, target in zip(logits, items["target"], strict=True)
        ]
    )
    torch.testing.assert_close(made._losses(logits, items["target"]), expected)


def test_validation_counts_loss_and_accuracies():
    made = task()
    items = batch(6) | {"target": torch.arange(6)}
    logits = torch.full((6, 2, 22), -20.0)
    for row in range(6):  # right, right, second best, sixth best, right by the mean of its steps, wrong
        logits[row, :, row] = 0.0
    logits[2, :, 3] = 1.0
    logits[3, :, 10:15] = 1.0
    logits[4, 0, 4], logits[4, 1, 4], logits[4, 1, 6] = 5.0, -20.0, -10.0
    logits[5, :, 5], logits[5, :, 7:12] = -40.0, 0.0
    made.forward = lambda clip: logits
    made.on_validation_epoch_start()
    made.eval()
    made.validation_step(items, 0)
    found = {name: total / count for name, (total, count) in zip(made.means, made._sums.tolist(), strict=True)}
    assert found["val_accuracy"] == pytest.approx(3 / 6)
    assert found["val_accuracy_top5"] == pytest.approx(4 / 6)
    assert found["val_loss"] == pytest.approx(made._losses(logits, items["target"]).mean().item(), rel=1e-5)


def test_label_smoothing_spreads_the_target():
    logits, target = torch.randn(3, 2, 4), torch.tensor([0, 1, 2])
    steps = logits.log_softmax(-1)
    expected = -0.9 * steps.gather(2, target[:, None, None].expand(3, 2, 1))[..., 0] - 0.1 * steps.mean(-1)
    torch.testing.assert_close(ActivityTask._losses(logits, target, 0.1), expected.mean(1))


def test_the_card_tells_classes_block_and_what_was_seen():
    made = task(name="mine")
    made.clips_seen = 12
    checkpoint = {}
    made.on_save_checkpoint(checkpoint)
    card = checkpoint["wavecast_card"]
    assert card["name"] == "mine"
    assert card["classes"] == list(CLASSES)
    assert (card["block"], card["training"]) == (1, {"steps": 0, "clips_seen": 12})
    assert task("ts_lstm").card_fields()["block"] == 0
    other = task()
    other.on_load_checkpoint(checkpoint)
    assert other.clips_seen == 12


def test_a_frozen_encoder_stays_as_it_was_learned(tmp_path):
    path = write_recognizer(tmp_path, classes=CLASSES, modalities=["rgb"])
    made = task(encoder_from=str(path), frozen=True)
    other = task(encoder_from=str(path))
    assert not any(one.requires_grad for one in made.network.encoder.parameters())
    assert all(one.requires_grad for one in made.network.head.parameters())
    before = {name: tensor.clone() for name, tensor in made.network.encoder.state_dict().items()}
    for one in (made, other):
        one.train()
        one(batch()["clip"]).sum().backward()
    after, moved = made.network.encoder.state_dict(), other.network.encoder.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert any(not torch.equal(moved[name], tensor) for name, tensor in before.items() if "running" in name)
    assert made.network.head.training


def test_encoders_come_from_models_and_from_files_of_image_networks(tmp_path):
    source = write_recognizer(tmp_path, "ts_lstm", classes=CLASSES, modalities=["rgb"])
    made = task(encoder_from=str(source))
    expected = load_network(find_model(str(source))).encoder.state_dict()
    for name, tensor in made.network.encoder.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    images = made.network.encoder.function.get_submodule("rgb")[1]
    torch.save(images.state_dict(), tmp_path / "images.pth")
    again = task("frame_average", encoder_from=str(tmp_path / "images.pth"))
    for name, tensor in again.network.encoder.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": {"classes": 3}}, "classes of the network follow from the data"),
        ({"network": {"depth": 3}}, "the card does not fit lrcn"),
        ({"encoder_from": "nobody"}, "there is no model 'nobody'"),
        ({"encoder_from": "nowhere.pth"}, "nowhere.pth"),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    with pytest.raises(WavecastError, match=message):
        ActivityTask(**options).meet(generated())


def test_other_data_are_refused():
    with pytest.raises(ValueError, match="VideoData holds no activities"):
        ActivityTask().meet(VideoData("somewhere"))


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(("a", "b")):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for k in range(3):
            write_video(tmp_path / "videos" / name / f"{k}.mp4", moving_block(10) + 40 * label + k)
    return tmp_path / "videos"


def test_features_are_made_once_and_train_the_head_alone(folder, tmp_path, capsys):
    path = write_recognizer(tmp_path / "model", classes=("a", "b"), modalities=["rgb"])
    options = {"features": str(tmp_path / "features"), "frames": 8, "size": (16, 16)}

    def met(**more):
        data = ActivityData(str(folder), **options)
        made = ActivityTask(network=TINY["lrcn"], **more)
        made.meet(data)
        return made, data

    made, data = met(encoder_from=str(path))
    assert "6 made, 0 there already" in capsys.readouterr().err
    item = data.validation_source.item(0)
    assert item["clip"].shape == (8, 8)
    clips = ActivityData(str(folder), frames=8, size=(16, 16))
    clips.setup("fit")
    made.eval()
    seen = torch.from_numpy(clips.validation_source.item(0)["clip"])[None]
    torch.testing.assert_close(made(seen), made(torch.from_numpy(item["clip"])[None]), rtol=1e-4, atol=1e-5)
    met(encoder_from=str(path))
    assert "0 made, 6 there already" in capsys.readouterr().err
    with pytest.raises(WavecastError, match="an encoder that has learned nothing"):
        met()
    other = write_recognizer(tmp_path / "other", classes=("a", "b"), modalities=["rgb"], seed=1)
    with pytest.raises(WavecastError, match="holds features of another encoder"):
        met(encoder_from=str(other))


def test_confusions_are_counted_drawn_and_shared_out(tmp_path):
    true, found = np.array([0, 0, 1, 1, 1, 3]), np.array([0, 1, 1, 1, 0, 3])
    counts = confusion(true, found, 4)
    by_hand = np.zeros((4, 4), int)
    for one, other in zip(true, found, strict=True):
        by_hand[one, other] += 1
    np.testing.assert_array_equal(counts, by_hand)
    np.testing.assert_allclose(recall(counts), [0.5, 2 / 3, math.nan, 1.0])
    for classes in (4, 60):
        draw_confusion(confusion(true, found, classes), [f"c{k}" for k in range(classes)], tmp_path / "c.png")
        assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_scores_of_splits_are_averaged():
    ranks = np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0], [0, 2, 1]])
    classes = ("x", "y", "z")
    first = Score("m", 1, classes, np.array([0, 0, 2, 2]), ranks)
    second = Score("m", 2, classes, np.array([0, 1, 2, 0]), ranks)
    assert first.row()["top1"] == 0.5
    assert first.row()["class_mean"] == pytest.approx(0.5)
    assert first.row()["by_class"] == {"x": 0.5, "z": 0.5}
    assert first.top(2) == 1.0
    assert second.row()["top1"] == 1.0
    assert mean([first, second])["top1"] == 0.75
    lines = table([first, second])
    assert lines[1].split()[-3:] == ["50.00", "100.00", "50.00"]
    assert lines[3].startswith("mean")
    assert lines[3].split()[1:] == ["8", "75.00", "100.00", "75.00"]
    assert [line.split()[0] for line in lines[4:]] == ["z", "x", "y"]
