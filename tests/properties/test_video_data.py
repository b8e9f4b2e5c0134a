"""Video data: what is history and what comes next, splits that share nothing, the order of items over runs."""

import numpy as np
import pytest
from pytorch_lightning import LightningModule, Trainer
from torch import nn, optim

from kit.digits import write_digits
from wavecast.core.errors import WavecastError
from wavecast.datamodules.video import VideoData
from wavecast.datamodules.video_windows import ArrayRecording, Windows, resize_by_area
from wavecast.datamodules.video_writer import VideoWriter


def numbered(frames, rows=4, cols=6, channels=1, first=0):
    """Frames whose every pixel is the number of the frame: uint8 (time, row, col, channel)."""
    numbers = (first + np.arange(frames)).astype(np.uint8)
    return np.tile(numbers[:, None, None, None], (1, rows, cols, channels))


def numbers(item, scale=255):
    """Read which frames an item holds."""
    return [np.rint(item[name][:, 0, 0, 0] * scale).astype(int).tolist() for name in ("inputs", "targets")]


def windows(lengths=(9, 5, 12), **options):
    recordings = [ArrayRecording([numbered(n, first=20 * k)], None, "x") for k, n in enumerate(lengths)]
    return Windows(recordings, **{"history": 3, "horizon": 2, "stride": 2, **options})


def write_videos(folder, count, frames=12, first=0, suffix=".mkv"):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        with VideoWriter(folder / f"{k}{suffix}", 25) as writer:
            writer.write(numbered(frames, first=first + k * frames))


def fitted(source, stage="fit", **options):
    data = VideoData(source=str(source), **{"history": 3, "horizon": 2, "batch_size": 2, **options})
    data.setup(stage)
    return data


def frames_of(source, count, scale=255):
    return {number for k in range(count) for part in numbers(source.item(k), scale) for number in part}


def test_windows_are_cut_in_order_and_targets_follow_inputs():
    fixed = windows()
    assert len(fixed) == 3 + 1 + 4
    starts = [0, 2, 4, 20, 40, 42, 44, 46]
    assert [numbers(fixed.item(k)) for k in range(8)] == [[[s, s + 1, s + 2], [s + 3, s + 4]] for s in starts]
    assert numbers(fixed.item(8)) == numbers(fixed.item(0))
    item = fixed.item(1)
    assert item["inputs"].shape == (3, 4, 6, 1) and item["inputs"].dtype == item["targets"].dtype == np.float32


def test_each_time_round_the_order_is_another_and_nothing_is_left_out():
    drawn, same, other = windows(seed=1), windows(seed=1), windows(seed=2)
    late = numbers(same.item(13))  # asked first, out of order
    found = [numbers(drawn.item(k))[0][0] for k in range(24)]
    assert numbers(drawn.item(13)) == late
    rounds = [found[k : k + 8] for k in (0, 8, 16)]
    assert [sorted(one) for one in rounds] == [[0, 2, 4, 20, 40, 42, 44, 46]] * 3
    assert len({*map(tuple, rounds), tuple(numbers(other.item(k))[0][0] for k in range(8))}) == 4


def test_fewer_windows_are_taken_at_equal_distances():
    few = windows(most=4)
    assert [numbers(few.item(k))[0][0] for k in range(len(few))] == [0, 4, 40, 44]


def test_symmetric_items_go_from_minus_one_to_one():
    unit, symmetric = windows(), windows(scale="symmetric")
    for name in ("inputs", "targets"):
        np.testing.assert_allclose(symmetric.item(4)[name], 2 * unit.item(4)[name] - 1, atol=1e-6)


def test_windows_that_cannot_be():
    with pytest.raises(WavecastError, match=r"no recording of 3 has the 13 frames .* has 12"):
        windows(horizon=10)
    shapes = [ArrayRecording([numbered(9, rows)], None, "x") for rows in (4, 5)]
    with pytest.raises(WavecastError, match=r"differ in rows, columns and channels: \(4, 6, 1\), \(5, 6, 1\)"):
        Windows(shapes, 3, 2)
    assert Windows(shapes, 3, 2, size=(2, 3)).item(7)["inputs"].shape == (3, 2, 3, 1)


def test_resizing_keeps_areas():
    """Of three pixels brought to two, each new one holds a whole old one and half of the middle one."""
    x = np.array([1, 2, 6], np.float32).reshape(1, 1, 3, 1)
    np.testing.assert_allclose(resize_by_area(x, (1, 2)).ravel(), [4 / 3, 14 / 3], rtol=1e-6)
    x = np.random.default_rng(0).random((2, 12, 9, 3), np.float32)
    np.testing.assert_allclose(resize_by_area(x, (4, 3)), x.reshape(2, 4, 3, 3, 3, 3).mean((2, 4)), rtol=1e-5)
    np.testing.assert_allclose(resize_by_area(x, (24, 9))[:, ::2], x, rtol=1e-6)
    np.testing.assert_allclose(resize_by_area(x, (7, 5)).mean((1, 2)), x.mean((1, 2)), rtol=1e-5)


def test_values_beyond_black_and_white_are_refused():
    x = np.linspace(0, 2, 40, dtype=np.float32).reshape(10, 2, 2, 1)
    with pytest.raises(WavecastError, match=r"x has values beyond \[0, 1\], or none, in frames 4 to 6"):
        ArrayRecording([x], None, "x").window(4, 3)
    np.testing.assert_allclose(ArrayRecording([x], (0, 2), "x").window(4, 3), x[4:7] / 2)
    x[8, 0, 0, 0] = np.nan
    with pytest.raises(WavecastError, match="or none"):
        ArrayRecording([x], (0, 2), "x").window(7, 3)


def test_a_window_may_reach_over_the_arrays_of_a_recording():
    parts = [numbered(4), numbered(3, first=4), numbered(5, first=7)]
    joined = Windows([ArrayRecording(parts, None, "x")], 3, 2)
    assert [numbers(joined.item(k)) for k in range(8)] == [[[k, k + 1, k + 2], [k + 3, k + 4]] for k in range(8)]


def test_digits_that_validate_are_never_trained_on(tmp_path):
    write_digits(tmp_path)
    write_digits(tmp_path, "t10k-images-idx3-ubyte.gz", 3, 200)
    data = fitted(tmp_path, validation_items=30, test_items=40, scale="unit")
    data.setup("test")

    def brightness(source):
        items = (source.item(k) for k in range(40))
        return {round(float(value) * 255) for item in items for value in np.unique(item["inputs"])} - {0}

    assert brightness(data.train_source) == set(range(100, 110))
    assert brightness(data.validation_source) == {110, 111}
    assert brightness(data.test_source) == {200, 201, 202}
    assert (data.validation_count, data.test_count) == (30, 40)
    assert data.train_source.item(0)["targets"].shape == (2, 64, 64, 1)
    assert fitted(tmp_path, size=(32, 32)).train_source.item(0)["inputs"].shape == (3, 32, 32, 1)
    with pytest.raises(WavecastError, match="Moving MNIST of 20 x 20"):
        fitted(tmp_path, size=(20, 20))


def test_step_length_and_number_of_digits_reach_the_clips(tmp_path):
    write_digits(tmp_path)
    still = fitted(tmp_path, step_length=0.0, digits_per_clip=1).train_source.item(0)
    np.testing.assert_array_equal(still["inputs"][0], still["targets"][-1])
    assert (still["inputs"] > 0).sum() == 3 * 12 * 12


def test_the_published_test_set_is_tested_on_and_nothing_else(tmp_path):
    write_digits(tmp_path)
    x = np.random.default_rng(0).integers(256, size=(20, 4, 64, 64), dtype=np.uint8)
    np.save(tmp_path / "mnist_test_seq.npy", x)
    data = fitted(tmp_path, "test", test=str(tmp_path / "mnist_test_seq.npy"), history=10, horizon=10)
    assert data.test_count == 4
    item = data.test_source.item(2)
    np.testing.assert_allclose(item["inputs"][..., 0], x[:10, 2] / 255.0, atol=1e-6)
    np.testing.assert_allclose(item["targets"][..., 0], x[10:, 2] / 255.0, atol=1e-6)
    with pytest.raises(WavecastError, match="is the published test set"):
        fitted(tmp_path / "mnist_test_seq.npy")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_taxibj_windows_that_validate_share_no_instant_with_training(tmp_path, save):
    """Window k holds instants k to k + 7, as in the published file; the number of the instant is its value."""
    instants = np.arange(40, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 3, 3), np.float32)
    instants[:, 1] += 0.5
    cut = np.stack([instants[k : k + 8] for k in range(33)]) / 20 - 1
    save(tmp_path / "dataset.npz", X_train=cut[:24, :4], Y_train=cut[:24, 4:], X_test=cut[24:, :4], Y_test=cut[24:, 4:])
    data = fitted(tmp_path / "dataset.npz", history=4, horizon=4)
    data.setup("test")
    assert len(data.train_source) == 24 - 3 - 7 and data.validation_count == 3 and data.test_count == 9
    assert [numbers(data.validation_source.item(k), 40)[0][0] for k in range(3)] == [21, 22, 23]
    assert numbers(data.test_source.item(0), 40) == [[24, 25, 26, 27], [28, 29, 30, 31]]
    assert data.test_source.item(0)["inputs"].shape == (4, 3, 3, 2)
    np.testing.assert_allclose(data.test_source.item(0)["inputs"][1, 2, 0], [25 / 40, 25.5 / 40], atol=1e-6)
    train, validation = (frames_of(data.train_source, 14, 40), {21 + k for k in range(10)})
    assert max(train) == 20 and train.isdisjoint(validation)


def test_files_that_validate_are_held_out_by_name(tmp_path):
    write_videos(tmp_path / "own", 16)
    data = fitted(tmp_path / "own")
    assert len(data.train_source) == 14 * 8 and data.validation_count == 2 * 8
    train, validation = frames_of(data.train_source, 14 * 8), frames_of(data.validation_source, 16)
    assert len(train) == 14 * 12 and len(validation) == 2 * 12 and train.isdisjoint(validation)
    assert frames_of(fitted(tmp_path / "own", seed=5).validation_source, 16) == validation
    with pytest.raises(WavecastError, match="has nothing to test on"):
        data.setup("test")


def test_folders_named_for_their_use_are_used_so(tmp_path):
    write_videos(tmp_path / "train" / "deep", 3, first=0)
    write_videos(tmp_path / "test", 1, first=100)
    (tmp_path / "train" / ".hidden.mkv").write_text("not a video")
    data = fitted(tmp_path)
    data.setup("test")
    assert len(frames_of(data.train_source, 16)) == 24 and len(frames_of(data.validation_source, 8)) == 12
    assert frames_of(data.test_source, 8) == set(range(100, 112))
    write_videos(tmp_path / "val", 1, first=200)
    data = fitted(tmp_path)
    assert frames_of(data.train_source, 24) == set(range(36))
    assert frames_of(data.validation_source, 8) == set(range(200, 212))
    (tmp_path / "train").rename(tmp_path / "more")
    assert frames_of(fitted(tmp_path).train_source, 24) == set(range(36))


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.mkv"])
def test_one_recording_is_split_in_time(tmp_path, name):
    x = numbered(80)
    if name == "x.npz":
        np.savez(tmp_path / name, x)
    else:
        with VideoWriter(tmp_path / name, 25) as writer:
            writer.write(x)
    data = fitted(tmp_path / name)
    assert frames_of(data.train_source, len(data.train_source)) == set(range(70))
    assert frames_of(data.validation_source, data.validation_count) == set(range(70, 80))


def test_sequences_of_convs5_go_from_0_to_255(tmp_path):
    for part, count in (("train", 3), ("test", 1)):
        (tmp_path / part / "a").mkdir(parents=True)
        for k in range(count):
            np.savez(tmp_path / part / "a" / f"{k}.npz", data=numbered(9, 64, 64).astype(np.float32))
    data = fitted(tmp_path, scale="symmetric")
    data.setup("test")
    np.testing.assert_allclose(data.test_source.item(4)["targets"][1], 8 / 127.5 - 1, atol=1e-6)


def test_videos_are_brought_to_size_and_gray(tmp_path):
    with VideoWriter(tmp_path / "x.mkv", 25) as writer:
        writer.write(np.random.default_rng(0).integers(256, size=(60, 12, 16, 3), dtype=np.uint8))
    color = fitted(tmp_path / "x.mkv", size=(3, 4))
    gray = fitted(tmp_path / "x.mkv", size=(3, 4), channels=1)
    a, b = color.validation_source.item(0)["inputs"], gray.validation_source.item(0)["inputs"]
    assert a.shape == (3, 3, 4, 3) and b.shape == (3, 3, 4, 1)
    np.testing.assert_allclose(a @ np.array([[0.299], [0.587], [0.114]], np.float32), b, atol=0.01)


def test_sources_that_cannot_be(tmp_path):
    np.save(tmp_path / "x.npy", numbered(60, channels=2))
    (tmp_path / "nothing").mkdir()
    expected = {
        "nothing": "holds nothing to train on",
        "missing": "does not exist",
        "x.npy": "has 2 channels where 3 are wanted",
    }
    for name, message in expected.items():
        with pytest.raises(WavecastError, match=message) as found:
            fitted(tmp_path / name, channels=3)
        assert found.value.hint
    with pytest.raises(WavecastError, match="there is no video to learn from"):
        VideoData().setup("fit")
    with pytest.raises(WavecastError, match="a history of 0"):
        VideoData(history=0)
    with pytest.raises(WavecastError, match="black and white are both 1"):
        VideoData(values=(1.0, 1.0))


class Watcher(LightningModule):
    """Learns nothing; remembers every item it was given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(nn.init.zeros_(nn.Linear(1, 1).weight))
        self.seen = {"training": [], "validation": [], "test": []}

    def keep(self, kind, batch):
        self.seen[kind] += [item.tobytes() for item in batch["targets"].numpy()]

    def training_step(self, batch, index):
        self.keep("training", batch)
        return self.weight.sum()

    def validation_step(self, batch, index):
        self.keep("validation", batch)

    def test_step(self, batch, index):
        self.keep("test", batch)

    def configure_optimizers(self):
        return optim.SGD(self.parameters(), lr=0.0)


def trainer(folder, steps):
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    given = {"max_epochs": -1, "max_steps": steps, "num_sanity_val_steps": 0, "enable_checkpointing": False}
    return Trainer(accelerator="cpu", default_root_dir=folder, **given, **silent)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own use of torch
@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(tmp_path, workers):
    write_videos(tmp_path / "videos", 3)
    write_videos(tmp_path / "videos" / "test", 1, first=200)

    def data():
        return VideoData(str(tmp_path / "videos"), history=3, horizon=2, batch_size=2, items=6, workers=workers)

    whole, first, second = Watcher(), Watcher(), Watcher()
    run = trainer(tmp_path, 6)
    run.fit(whole, datamodule=data())
    run.test(whole, datamodule=data(), verbose=False)
    source = fitted(tmp_path / "videos")
    assert whole.seen["training"] == [source.train_source.item(k)["targets"].tobytes() for k in range(12)]
    assert whole.seen["validation"] == [source.validation_source.item(k)["targets"].tobytes() for k in range(8)] * 2
    assert len(whole.seen["test"]) == 8
    stopped = trainer(tmp_path, 3)
    stopped.fit(first, datamodule=data())
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    trainer(tmp_path, 6).fit(second, datamodule=data(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert first.seen["training"] + second.seen["training"] == whole.seen["training"]
