"""The spotter's training step: its loss, its augmentation of features, its metrics; and the counting of detections."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from wavecast.apps.keywords.augmentation import FeatureAugmentation
from wavecast.apps.keywords.decisions import Event
from wavecast.apps.keywords.detection import LEVELS, Heard, Point, at_recall, curve, match, measure
from wavecast.apps.keywords.lmuformer import LMUFormer
from wavecast.apps.keywords.task import KeywordTask, set_priors
from wavecast.core.errors import WavecastError
from wavecast.datamodules.enhancement import EnhancementData
from wavecast.datamodules.planted_words import Said


def features(batch=3, frames=40, mels=20):
    return torch.randn(batch, frames, mels, generator=torch.Generator().manual_seed(0))


def test_bands_and_stretches_are_hidden_by_the_value():
    augment = FeatureAugmentation(8, 10, value=9.5, noise=0.0, roll=0)
    x = features(50)
    y = augment(x, torch.arange(50))
    hidden = y == 9.5
    assert torch.equal(y[~hidden], x[~hidden])
    frames = hidden.all(2).sum(1)
    bands = hidden.all(1).sum(1)
    assert 8 <= int(frames.max()) <= 10
    assert 7 <= int(bands.max()) <= 8
    whole = hidden.all(2)[:, :, None] | hidden.all(1)[:, None]
    assert torch.equal(whole, hidden)


def test_noise_is_uniform_and_what_leaves_enters_at_the_other_end():
    augment = FeatureAugmentation(0, 0, noise=0.1, roll=10)
    x = torch.arange(40.0)[None, :, None].expand(60, 40, 200)
    y = augment(x, torch.arange(60))
    shifts = [round(float(y[row, 0, 0])) for row in range(60)]
    rolled = torch.stack([one.roll(40 - shift, 0) for one, shift in zip(x, shifts, strict=True)])
    noise = y - rolled
    assert float(noise.min()) >= 0
    assert float(noise.max()) <= 0.1
    greatest = noise.amax((1, 2))
    torch.testing.assert_close(noise.mean((1, 2)), greatest / 2, rtol=0.05, atol=1e-3)
    assert float(greatest.max() - greatest.min()) > 0.05
    assert {(-shift) % 40 for shift in shifts} <= {k % 40 for k in range(-10, 10)}


def test_augmentation_of_an_item_is_a_function_of_its_number():
    augment = FeatureAugmentation(8, 10, 0.5, tract=0.2)
    x = features(3)
    together = augment(x, torch.tensor([4, 9, 2]))
    for row, number in enumerate([4, 9, 2]):
        assert torch.equal(together[row], augment(x[row : row + 1], torch.tensor([number]))[0])
    assert not torch.equal(together, FeatureAugmentation(8, 10, 0.5, tract=0.2, seed=1)(x, torch.tensor([4, 9, 2])))


def test_losses_are_those_of_the_definition():
    logits, target = torch.randn(4, 3), torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.3, 0.7, 0], [0, 0, 1]])
    probable = logits.sigmoid()
    expected = -(target * probable.log() + (1 - target) * (1 - probable).log()).mean(1)
    torch.testing.assert_close(KeywordTask(loss="bce").losses(logits, target), expected)
    expected = -(target * logits.softmax(1).log()).sum(1)
    torch.testing.assert_close(KeywordTask(loss="cross_entropy").losses(logits, target), expected)


def test_validation_tells_words_from_what_is_rejected(monkeypatch):
    """Items 0 and 1 are words: the first is found, the second only among the words; 2 is rejected, 3 is not."""
    task = KeywordTask()
    task.words = [0, 1]
    logits = torch.tensor([[2.0, 0, 0, 1], [0, 1, 2, 0], [0, 0, 1, 0], [2, 0, 1, 0]])
    target = torch.eye(4)[[0, 1, 3, 2]]
    task._sums = torch.zeros(len(task.means), 2, dtype=torch.float64)
    monkeypatch.setattr(KeywordTask, "forward", lambda self, sound: logits)
    task.validation_step({"sound": torch.zeros(4, 5), "target": target}, 0)
    totals = dict(zip(task.means, task._sums.tolist(), strict=True))
    assert totals["val_accuracy"] == [2, 2]
    assert totals["val_found"] == [1, 2]
    assert totals["val_rejected"] == [1, 2]
    assert totals["val_loss"][0] == pytest.approx(float(task.losses(logits, target).sum()))


def test_steps_are_those_of_the_published_schedule():
    """Times 0.85 from epoch 10 on, every 10 epochs."""
    task = KeywordTask(schedule="steps", patience=10, factor=0.85)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=2.5e-3)
    scheduler = task._schedule(optimizer)["scheduler"]
    for epoch in range(35):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(2.5e-3 * 0.85 ** (epoch // 10))
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("loss", "read"), [("bce", torch.sigmoid), ("cross_entropy", lambda x: x.softmax(-1))])
def test_a_fresh_network_begins_at_the_priors(loss, read):
    network = LMUFormer(3, mels=8, width=8, order=4, expansion=1).eval()
    network.head.function.weight.data.zero_()
    set_priors(network, np.array([0.2, 0.7, 0.1]), loss)
    with torch.no_grad():
        found = read(network(torch.randn(1, 4000))[0].mean(1))
    torch.testing.assert_close(found, torch.tensor([[0.2, 0.7, 0.1]]))


def test_data_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="EnhancementData holds no keywords"):
        KeywordTask().meet(EnhancementData())


def event(word, time, window=1.0, latency=0.1):
    return Event(word, max(0.0, time - window), time, 0.9, latency)


def test_an_event_finds_a_word_whose_middle_is_in_its_window():
    said = [Said("yes", 1.0, 1.4), Said("no", 3.0, 3.5), Said("yes", 6.0, 6.4)]
    delays, alarms = match([event("yes", 1.3), event("yes", 1.9), event("yes", 3.4), event("no", 4.3)], said)
    assert delays == pytest.approx([1.3 + 0.1 - 1.4])
    assert [one.time for one in alarms] == [1.9, 3.4, 4.3]
    delays, alarms = match([event("no", 4.2), event("yes", 6.2)], said)
    assert delays == pytest.approx([0.8, -0.1])
    assert alarms == []


def decide(posteriors, threshold):
    """A toy rule: an event a second for every class above the threshold, windows of a second."""
    return [event("yes", k + 1.0) for k, row in enumerate(posteriors) if row[0] >= threshold]


def test_points_count_misses_where_words_are_and_alarms_where_none_is():
    words = Heard(np.array([[0.9], [0.2], [0.6]]), [Said("yes", 0.2, 0.6), Said("yes", 1.2, 1.6)], 3.0)
    silent = Heard(np.array([[0.1], [0.7], [0.95], [0.3]]), [], 4.0)
    for threshold in (0.15, 0.5, 0.65, 0.92, 0.99):
        found = sum(row >= threshold for row in (0.9, 0.2))
        alarms = sum(row >= threshold for row in (0.1, 0.7, 0.95, 0.3))
        point = measure([words], [silent], decide, threshold)
        assert (point.said, point.missed, point.alarms, point.seconds) == (2, 2 - found, alarms, 4.0)
        assert point.recall == found / 2
        assert point.alarms_per_hour == pytest.approx(alarms * 900)
    alone = measure([words], [], decide, 0.5)
    assert (alone.alarms, alone.seconds) == (1, 3.0)
    assert math.isnan(measure([], [silent], decide, 0.5).recall)


def test_a_curve_falls_with_its_threshold_and_its_best_point_still_finds_enough():
    rng = np.random.default_rng(0)
    words = Heard(rng.random((50, 1)), [Said("yes", k + 0.2, k + 0.6) for k in range(50)], 50.0)
    points = curve([words], [Heard(rng.random((99, 1)), [], 99.0)], decide)
    assert [point.threshold for point in points] == LEVELS.tolist()
    assert all(a.alarms >= b.alarms and a.missed <= b.missed for a, b in pairwise(points))
    best = at_recall(points, 0.9)
    assert best.recall >= 0.9
    assert all(point.alarms >= best.alarms for point in points if point.recall >= 0.9)
    assert at_recall([Point(0.5, 10, 2, 0, 1.0)], 0.9) is None


def test_nothing_to_listen_to():
    with pytest.raises(WavecastError, match="nothing to listen to\nhint: give --planted"):
        curve([], [], decide)
