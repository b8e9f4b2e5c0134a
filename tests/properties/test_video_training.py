"""Training on video: teacher forcing is what a stream forecasts, the format is its own inverse, new files are whole."""

import sys

import numpy as np
import pytest
import torch

from wavecast.apps.forecasting import callbacks
from wavecast.apps.forecasting.convs5 import ConvS5
from wavecast.apps.forecasting.format import FieldFormat
from wavecast.apps.forecasting.steps import taught
from wavecast.apps.forecasting.video_format import VideoFormat
from wavecast.core.errors import WavecastError
from wavecast.datamodules.new_files import NewFile, writing


@pytest.mark.parametrize("increments", [False, True])
def test_teacher_forcing_forecasts_every_frame_from_all_before_it(increments):
    """Frames of 7 x 9 are filled up to the network's multiple, and an extra input is known ahead."""
    torch.manual_seed(0)
    network = ConvS5(2, 1, (8, 8), 8, 8, 1, groups=2, action_path=False).eval()
    x, known = torch.rand(2, 5, 7, 9, 1), torch.rand(2, 5, 7, 9, 1)
    with torch.no_grad():
        found = taught(network, x, known, increments)
        assert found.shape == (2, 4, 7, 9, 1)
        full = torch.nn.functional.pad(
            torch.cat([x, known], -1).flatten(0, 1).movedim(-1, 1), (0, 1, 0, 1), "replicate"
        )
        full = full.movedim(1, -1).unflatten(0, (2, 5))
        for t in range(4):
            y, _ = network(full[:, : t + 1], last=False)
            expected = y[:, -1, :7, :9] + (x[:, t] if increments else 0)
            torch.testing.assert_close(found[:, t], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("scale", "black", "white"), [("unit", 0.0, 1.0), ("symmetric", -1.0, 1.0)])
def test_the_scale_of_a_format_and_back(scale, black, white):
    made_for = VideoFormat(2, 2, 1, 3, 4, scale)
    x = np.random.default_rng(0).random((3, 2, 2, 1)).astype(np.float32)
    np.testing.assert_allclose(made_for.denormalize(made_for.normalize(x)), x, atol=1e-6)
    assert (made_for.normalize(np.zeros(1)), made_for.normalize(np.ones(1))) == (black, white)
    assert made_for.denormalize(np.array([black - 1, white + 1])).tolist() == [0, 1]
    assert VideoFormat.of(made_for.plain(), "x") == made_for


def test_cards_that_describe_no_video():
    plain = VideoFormat(2, 2, 1, 3, 4, "unit").plain()
    with pytest.raises(WavecastError, match="no rows, unknown row"):
        VideoFormat.of({"row" if name == "rows" else name: value for name, value in plain.items()}, "x")
    with pytest.raises(WavecastError, match="scale 'bytes'"):
        VideoFormat.of({**plain, "scale": "bytes"}, "x")


class Trainer:
    """What the pictures ask of a trainer."""

    is_global_zero, sanity_checking, global_step = True, False, 7

    def __init__(self, folder):
        self.log_dir = str(folder)


def validate(pictures, trainer, made_for, outputs, targets, batches=2):
    module = type("Module", (), {"format": made_for})()
    for index in range(batches):
        pictures.on_validation_batch_end(trainer, module, outputs, {"targets": targets}, index)
    pictures.on_validation_epoch_end(trainer, module)


@pytest.mark.parametrize("kind", ["video", "fields"])
def test_pictures_in_the_log_are_of_the_first_items_in_their_own_numbers(tmp_path, monkeypatch, kind):
    """Video in [0, 1], fields in their unit, south at the bottom; every second validation, three items."""
    drawn = []
    monkeypatch.setattr(callbacks, "draw_strip", lambda *words, **options: drawn.append((*words, options)))
    if kind == "video":
        made_for = VideoFormat(2, 3, 1, 1, 9, "symmetric")
        titles, south, first = [f"+{k}" for k in (1, 2, 3, 4, 6, 7, 8, 9)], {}, 0.75
    else:
        made_for = FieldFormat(["t2m"], [], {"t2m": [280.0, 4.0]}, [0.0, 1.0], [0.0, 1.0, 2.0], 6.0, 1, 9)
        titles, south, first = [f"+{6 * k} h" for k in (1, 2, 3, 4, 6, 7, 8, 9)], {"south_first": True}, 282.0
    outputs, targets = torch.full((2, 9, 2, 3, 1), 0.5), torch.rand(2, 9, 2, 3, 1)
    pictures = callbacks.ForecastPictures(count=3, every=2)
    for _ in range(3):
        validate(pictures, Trainer(tmp_path), made_for, outputs, targets)
    assert len(drawn) == 6  # of the first and the third validation
    assert [path.name for _, _, path, _ in drawn[:3]] == [f"step0000007-{k}.png" for k in range(3)]
    rows, found, path, options = drawn[1]
    assert (found, options, path.parent) == (titles, south, tmp_path / "pictures")
    truth, forecast, error = rows
    np.testing.assert_allclose(np.stack(forecast.frames), first, rtol=1e-6)
    scaled = (targets[1, [0, 1, 2, 3, 5, 6, 7, 8], ..., 0].numpy() + 1) / 2 if kind == "video" else None
    scaled = 280 + 4 * targets[1, [0, 1, 2, 3, 5, 6, 7, 8], ..., 0].numpy() if scaled is None else scaled
    np.testing.assert_allclose(np.stack(truth.frames), scaled, rtol=1e-6)
    np.testing.assert_allclose(np.stack(error.frames), first - scaled, atol=1e-4)


def test_without_matplotlib_training_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    pictures = callbacks.ForecastPictures()
    for _ in range(2):
        validate(pictures, Trainer(tmp_path), VideoFormat(2, 2, 1, 1, 2, "unit"), *[torch.rand(2, 2, 2, 2, 1)] * 2)
    assert [record.message for record in caplog.records] == ["no pictures: a picture needs matplotlib"]


def test_new_files_appear_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x"
    one = NewFile(path, overwrite=False)
    one.temporary.write_text("one")
    assert [other.name for other in tmp_path.iterdir()] == [one.temporary.name]
    one.keep()
    one.discard()
    assert path.read_text() == "one" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(WavecastError, match="x exists"):
        NewFile(path, overwrite=False)
    NewFile(path, overwrite=True).discard()
    lost = NewFile(path, overwrite=True)
    lost.temporary.write_text("two")
    del lost
    assert path.read_text() == "one" and len(list(tmp_path.iterdir())) == 1
    late = NewFile(tmp_path / "y", overwrite=False)
    (tmp_path / "y").write_text("came meanwhile")
    with pytest.raises(WavecastError, match="y exists"):
        late.keep()
    assert (tmp_path / "y").read_text() == "came meanwhile"


def test_errors_of_writing_carry_the_cure(tmp_path):
    with pytest.raises(WavecastError, match="none does not exist") as found:
        NewFile(tmp_path / "none" / "x", overwrite=False)
    assert found.value.hint == "make it first"
    with pytest.raises(WavecastError, match=r"cannot write .*x: no room"), writing(tmp_path / "x", KeyError):
        raise OSError(28, "no room")
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "x"):
        raise ZeroDivisionError
