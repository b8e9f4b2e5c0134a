"""`wavecast forecast`, `score`, `train` and `evaluate` on video: from a clip to scored frames."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import wavecast as suite
from kit.digits import write_digits
from kit.videos import moving_block, write_video, write_without_frames
from wavecast.apps.forecasting.strips import compared, spread
from wavecast.apps.forecasting.task import shaped_by
from wavecast.apps.forecasting.video_format import VideoFormat
from wavecast.apps.forecasting.video_inference import VideoForecaster
from wavecast.apps.forecasting.video_jobs import Strip
from wavecast.cards import Card, build_network, save_model
from wavecast.datamodules.arrays import open_array
from wavecast.datamodules.video_files import open_video
from wavecast.training import read_recipe, shipped_recipes

RECIPES = sorted(name for name in shipped_recipes() if name.startswith(("moving_mnist", "taxibj")))
CONVS5 = {"depths": [8, 8], "width": 8, "size": 8, "layers": 1, "groups": 2, "action_path": False}


def movie(frames=8, rows=16, cols=16, channels=1):
    return moving_block(frames, rows, cols, channels)


def write(path, x):
    return write_video(path, x, rate=5)


def read(path):
    with open_video(path) as reader:
        return reader.read(1000)[0]


def save(folder, name="convs5.tiny", channels=1, **changes):
    """Save an untrained network for 16 x 16 frames, 3 in and 4 out; the path of its card."""
    folder.mkdir(parents=True, exist_ok=True)
    made_for = VideoFormat(**{"rows": 16, "cols": 16, "channels": channels, "history": 3, "horizon": 4} | changes)
    card = Card(name, "convs5", "forecast", {**CONVS5, "channels": channels}, fields=made_for.plain())
    torch.manual_seed(0)
    save_model(build_network(card), card, folder)
    return folder / f"{name}.yaml"


@pytest.fixture
def model(tmp_path):
    """The card of an untrained network in [-1, 1]."""
    return save(tmp_path / "models", scale="symmetric")


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """An empty working directory, and no models but those of the test."""
    (tmp_path / "shipped").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAVECAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("wavecast.cards.shipped_folder", lambda: tmp_path / "shipped")


def sources(folder, name):
    """Write what a recipe trains on, as small as can be."""
    if name.startswith("taxibj"):
        rng = np.random.default_rng(0)
        flows = {
            f"{part}_{split}": rng.uniform(-1, 1, (9, 4, 2, 32, 32)) for part in "XY" for split in ("train", "test")
        }
        np.savez(folder / "dataset.npz", **flows)
        return folder / "dataset.npz"
    write_digits(folder)
    write_digits(folder, "t10k-images-idx3-ubyte.gz", 4)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_a_training_step_and_its_checkpoint_forecasts(wavecast, tmp_path, name):
    source = sources(tmp_path, name)
    said = wavecast("train", "video", "--config", name, "--smoke", "--run", "run", "--data.source", source)
    assert (said.code, said.out) == (0, ""), said.err
    assert "val_skill" in said.err and "wavecast forecast CLIP --model" in said.err
    saved = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 1
    assert [path.name for path in Path("run/pictures").iterdir()] == ["step0000001-0.png"]
    forecaster = suite.load("forecast", model="run", device="cpu")
    asked = read_recipe(name, smoke=True)["data"]
    made_for = forecaster.format
    assert (made_for.history, made_for.horizon, made_for.scale) == (asked["history"], asked["horizon"], asked["scale"])
    flows = name.startswith("taxibj")
    assert made_for.shape == ((32, 32, 2) if flows else (64, 64, 1))
    assert made_for.values == ([-1, 1] if flows else None)
    past = np.random.default_rng(0).uniform(-1 if flows else 0, 1, (made_for.history, *made_for.shape))
    future = forecaster(past, steps=made_for.horizon + 2)
    assert future.shape == (made_for.horizon + 2, *made_for.shape) and np.isfinite(future).all()
    words = ["evaluate", "video", "--model", "run", "--data.source", source, "--items", 2, "--json", "-"]
    rows = [json.loads(line) for line in wavecast(*words).out.splitlines()]
    assert {row["method"] for row in rows} == {"forecast", "persistence"}
    assert {row["frame"] for row in rows} == {*range(1, made_for.horizon + 1)}


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("moving_mnist_convs5", (64, 64, 1), 21_681_411),
        ("moving_mnist_predformer", (64, 64, 1), 25_297_728),
        ("taxibj_predformer", (32, 32, 2), pytest.approx(8.4e6, rel=0.01)),
        ("moving_mnist_small", (64, 64, 1), pytest.approx(150_000, rel=1)),
    ],
)
def test_recipes_have_the_published_sizes(name, shape, parameters):
    """And the small one has at most 300,000 parameters, 0.6 MB in half precision."""
    settings = read_recipe(name)
    model, data = settings["model"], settings["data"]
    made_for = VideoFormat(*shape, data["history"], data["horizon"], data["scale"])
    shapes = shaped_by(model["architecture"], made_for, 0, model["network"])
    network = build_network(Card(name, model["architecture"], "forecast", {**model["network"], **shapes}))
    assert sum(one.numel() for one in network.parameters()) == parameters


@pytest.mark.parametrize("suffix", ["npy", "mkv"])
@pytest.mark.parametrize("channels", [1, 3])
def test_persistence_is_the_last_frame_at_the_rate_of_the_clip(wavecast, suffix, channels):
    x = movie(channels=channels)
    write(f"clip.{suffix}", x)
    said = wavecast("forecast", f"clip.{suffix}", "--model", "persistence", "--steps", "3")
    assert (said.code, said.out) == (0, ""), said.err
    np.testing.assert_array_equal(read(f"clip.forecast.{suffix}"), np.repeat(x[-1:], 3, 0))
    if suffix == "mkv":
        with open_video("clip.forecast.mkv") as reader:
            assert reader.info.rate == 5


def test_a_network_forecasts_the_same_from_files_and_arrays(wavecast, model):
    """Beyond its horizon, from the last frames alone; each kind of frame gives its own kind."""
    x = movie()
    forecaster = suite.load("forecast", model=str(model), device="cpu")
    assert isinstance(forecaster, VideoForecaster)
    expected = forecaster(x[..., 0], steps=6)
    assert expected.shape == (6, 16, 16) and expected.dtype == np.uint8 and expected.std() > 1
    other = x.copy()
    other[:5] = 77
    np.testing.assert_array_equal(forecaster(other, steps=6)[..., 0], expected)
    np.testing.assert_array_equal(forecaster(x)[..., 0], expected[:4])
    fractions = forecaster(x.astype(np.float64) / 255, steps=6)
    assert fractions.dtype == np.float32
    np.testing.assert_allclose(fractions[..., 0] * 255, expected, atol=0.51)
    for name in ("clip.npy", "clip.mkv"):
        write(name, x)
        assert wavecast("forecast", name, "--model", model, "--steps", 6).code == 0
        np.testing.assert_array_equal(read(f"clip.forecast{name[4:]}")[..., 0], expected)
    write("clip.mp4", np.repeat(x, 3, -1))
    assert wavecast("forecast", "clip.mp4", "--model", model, "-o", "future.mp4").code == 0
    found = read("future.mp4")
    assert found.shape == (4, 16, 16, 3)
    with open_video("clip.mp4", channels=1) as reader:
        seen = reader.read(8)[0]
    assert np.abs(found.mean(-1) - forecaster(seen)[..., 0]).mean() < 10  # H.264 loses a little


def test_the_network_gets_frames_in_its_scale(model):
    """By hand: [0, 255] to [-1, 1], a rollout, and back."""
    forecaster = VideoForecaster.load(str(model), "cpu")
    x = torch.from_numpy(movie()[-3:].astype(np.float32))[None] / 127.5 - 1
    with torch.no_grad():
        y, state = forecaster.network(x, last=False)
        again, _ = forecaster.network(y[:, -1:], state, last=False)
    expected = ((torch.cat([y[:, -1:], again], 1)[0] + 1) / 2).clamp(0, 1).numpy()
    found = forecaster(movie().astype(np.float32) / 255, steps=2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_arrays_of_any_range_and_channels(wavecast, tmp_path):
    """Flows as TaxiBJ has them, from -1 to 1 in two channels, into an array of the same."""
    model = save(tmp_path / "models", channels=2, scale="unit", values=[-1.0, 1.0])
    past = np.random.default_rng(0).uniform(-1, 1, (5, 16, 16, 2)).astype(np.float32)
    np.savez("flows.npz", past)
    assert wavecast("forecast", "flows.npz", "--model", model).code == 0
    found = open_array(Path("flows.forecast.npz"))
    assert found.dtype == np.float32 and found.shape == (4, 16, 16, 2)
    np.testing.assert_array_equal(found, suite.load("forecast", model=str(model), device="cpu")(past))
    wavecast.fails(
        1, "are no pictures", "forecast", "flows.npz", "--model", model, "-o", "x.mp4", hint="-o NAME.npy or NAME.npz"
    )
    write("clip.mkv", movie())
    wavecast.fails(1, "made for 2 channels", "forecast", "clip.mkv", "--model", model, hint="give an array")


def test_frames_of_another_size_are_refused_or_resized(wavecast, model):
    x = movie(rows=32, cols=48)
    write("clip.mkv", x)
    text = "has frames of 32 x 48; convs5.tiny is made for 16 x 16"
    wavecast.fails(1, text, "forecast", "clip.mkv", "--model", model, hint="resize them (--resize)")
    assert wavecast("forecast", "clip.mkv", "--model", model, "--resize", "-o", "x.npy").code == 0
    small = x.reshape(8, 16, 2, 16, 3, 1).mean((2, 4)).astype(np.float32) / 255
    expected = suite.load("forecast", model=str(model), device="cpu")(small)
    np.testing.assert_allclose(np.load("x.npy"), expected * 255, atol=0.51)


def test_the_one_model_that_fits_is_the_default(wavecast, tmp_path):
    write("clip.mkv", movie())
    write("large.mkv", movie(rows=32))
    wavecast.fails(2, "there is none at all", "forecast", "clip.mkv", hint="wavecast train video --config")
    save(tmp_path / "shipped", scale="symmetric")
    said = wavecast("forecast", "clip.mkv", "--dry-run")
    assert said.out == "convs5.tiny: 4 frames after the last 3 of 8 -> clip.forecast.mkv\n"
    wavecast.fails(2, "no model here fits large.mkv (32 x 16 x 1)", "forecast", "large.mkv", hint="--resize")
    assert wavecast("forecast", "large.mkv", "--resize", "--dry-run").code == 0
    save(tmp_path / "shipped", "convs5.other", scale="unit")
    wavecast.fails(2, "2 models fit clip.mkv: convs5.other, convs5.tiny", "forecast", "clip.mkv", hint="choose one")


def test_models_of_the_other_kind_are_refused(wavecast, tmp_path, model):
    fields = {"channels": ["t2m"], "latitudes": [0.0], "longitudes": [0.0]}
    path = tmp_path / "models" / "convs5.map.yaml"
    Card("convs5.map", "convs5", "forecast", CONVS5, fields=fields).write(path)
    write("clip.mkv", movie())
    wavecast.fails(1, "convs5.map forecasts fields on a map, not video", "forecast", "clip.mkv", "--model", path)
    wavecast.fails(1, "convs5.tiny forecasts video, not fields", "forecast", "era5.nc", "--model", model)
    broken = tmp_path / "models" / "convs5.broken.yaml"
    broken.write_text(model.read_text().replace("history: 3", "histories: 3"))
    wavecast.fails(1, "no history, unknown histories", "forecast", "clip.mkv", "--model", broken, hint="train again")


def test_a_report_tells_what_was_done(wavecast, model):
    write("clip.mkv", movie())
    said = wavecast("forecast", "clip.mkv", "--model", model, "--json", "-", "--quiet")
    row = json.loads(said.out)
    assert said.err == ""
    assert (row["model"], row["steps"], row["history"], row["frames_per_second"]) == ("convs5.tiny", 4, 3, 5)
    assert row["output"] == "clip.forecast.mkv" and len(row["model_sha256"]) == 64
    wavecast.fails(1, "clip.forecast.mkv exists", "forecast", "clip.mkv", "--model", model, hint="--overwrite")
    assert wavecast("forecast", "clip.mkv", "--model", model, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("words", "code", "text", "hint"),
    [
        (["short.mkv"], 1, "short.mkv has 2 frames; convs5.tiny looks back on 3", "give at least 3"),
        (["bare.mkv"], 1, "bare.mkv holds no frame", "moving picture"),
        (["cut.mkv"], 1, "cut.mkv ends too early", "cut off"),
        (["cut.mp4"], 1, "cut.mp4", "cut off"),
        (["text.mp4"], 1, "text.mp4 is no video that can be read", "give a video"),
        (["missing.mp4"], 1, "missing.mp4 does not exist", "check the name"),
        (["changing.ts"], 1, "changing.ts changes its picture at or before frame 9: 32 x 16", "cut it there"),
        (["flat.npy"], 1, "of shape (4, 4), not frames", "shape (time, row, col)"),
        (["nan.npy"], 1, "has values beyond [0, 1], or none", "fill what is missing"),
        (["color.npy"], 1, "has frames of 3 channels; convs5.tiny is made for 1", "convert the frames"),
        (["clip.mkv", "-o", "x.webm"], 1, "cannot write .webm videos", ".mp4 .mkv"),
        (["clip.mkv", "-o", "none/x.mkv"], 1, "the folder none does not exist", "make it first"),
        (["clip.mkv", "--init", "2020-01-01"], 2, "--init is for fields, and clip.mkv is video", "leave it out"),
        (["clip.mkv", "--missing", "fill"], 2, "--missing is for fields", "leave it out"),
        (["clip.mkv", "--like-input"], 2, "--like-input is for fields", "leave it out"),
        (["clip.mkv", "--model", "persistence"], 2, "2 models for one video", "give one --model"),
    ],
)
def test_what_cannot_be(wavecast, monkeypatch, bad_clips, model, words, code, text, hint):
    monkeypatch.chdir(bad_clips)
    before = {path.name for path in bad_clips.iterdir()}
    wavecast.fails(code, text, "forecast", *words, "--model", model, hint=hint)
    assert {path.name for path in bad_clips.iterdir()} == before


BAD = {
    "bare.mkv": "bare.mkv holds no frame",
    "changing.ts": "changing.ts changes its picture at",
    "cut.mp4": "cut.mp4 ends too early",
    "text.mp4": "text.mp4 is no video that can be read",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_clips_are_told_wherever_they_are_given(wavecast, monkeypatch, bad_clips, tmp_path, name):
    """As forecast, as truth, as past, and among others to learn from; nothing is written."""
    monkeypatch.chdir(bad_clips)
    for words in (["score", name, "clip.mkv"], ["score", "clip.mkv", name]):
        wavecast.fails(1, BAD[name], *words, "--plot")
    wavecast.fails(1, BAD[name], "score", "clip.mkv", "clip.mkv", "--past", name, "--csv", tmp_path / "x.csv")
    source = tmp_path / "source"
    source.mkdir()
    for other in ("clip.mkv", name):
        (source / other).symlink_to(bad_clips / other)
    words = ["train", "video", "--config", "moving_mnist_small", "--smoke", "--data.source", source, "--quiet"]
    words += ["--data.channels", 1, "--data.items", 12, "--run", tmp_path / "run"]
    wavecast.fails(1, BAD[name], *words, hint="cut" if name in ("changing.ts", "cut.mp4") else "give a")
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".csv", ".png")] == []
    assert [path.name for path in bad_clips.iterdir() if path.suffix == ".png"] == []


def test_baselines_of_fields_are_none_of_video(wavecast):
    write("clip.mkv", movie())
    wavecast.fails(2, "climatology is a baseline of fields", "forecast", "clip.mkv", "--model", "climatology")


@pytest.fixture(scope="module")
def bad_clips(tmp_path_factory):
    """A folder of clips that cannot be forecast, and one that can."""
    folder = tmp_path_factory.mktemp("clips")
    write(folder / "clip.mkv", movie())
    write(folder / "clip.mp4", movie())
    write(folder / "short.mkv", movie(2))
    (folder / "cut.mkv").write_bytes((folder / "clip.mkv").read_bytes()[:-90])
    (folder / "cut.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:-90])
    (folder / "text.mp4").write_text("not a video " * 40)
    np.save(folder / "flat.npy", np.zeros((4, 4), np.uint8))
    np.save(folder / "nan.npy", np.full((8, 16, 16), np.nan))
    np.save(folder / "color.npy", movie(channels=3))
    write_without_frames(folder / "bare.mkv")
    write_changing(folder / "changing.ts")
    return folder


def write_changing(path):
    """Write six pictures of one size and six of another into one MPEG transport stream."""
    codecs = []
    for rows in (16, 32):
        codec = av.CodecContext.create("mpeg2video", "w")
        codec.width, codec.height, codec.pix_fmt, codec.time_base, codec.max_b_frames = (
            16,
            rows,
            "yuv420p",
            Fraction(1, 25),
            0,
        )
        codecs.append((codec, rows))
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for part, (codec, rows) in enumerate(codecs):
            for k in range(6):
                frame = av.VideoFrame.from_ndarray(np.repeat(movie(8, rows)[k], 3, -1), format="rgb24")
                frame.pts = 6 * part + k
                packets = [*codec.encode(frame.reformat(format="yuv420p")), *(codec.encode(None) if k == 5 else [])]
                for packet in packets:
                    packet.stream, packet.time_base = stream, codec.time_base
                    container.mux(packet)


def test_scores_are_those_of_the_frames(wavecast):
    """Errors by hand: a forecast off by 10, persistence of black, three frames more of truth than needed."""
    truth = np.full((7, 16, 16, 1), 100, np.uint8)
    write("truth.npy", truth)
    write("future.npy", truth[:4] + 10)
    write("clip.npy", np.zeros((5, 16, 16, 1), np.uint8))
    said = wavecast("score", "future.npy", "truth.npy", "--past", "clip.npy", "--json", "-")
    assert "future.npy has 4 frames, truth.npy 7: 4 scored" in said.err
    rows = [json.loads(line) for line in said.out.splitlines()]
    found = {(row["method"], row["frame"], row["metric"]): row["value"] for row in rows}
    for frame in (1, 4):
        assert found["forecast", frame, "mse_sum_pixels"] == pytest.approx(256 * (10 / 255) ** 2, rel=1e-5)
        assert found["persistence", frame, "mae_sum_pixels"] == pytest.approx(256 * 100 / 255, rel=1e-5)
        assert found["forecast", frame, "psnr"] == pytest.approx(20 * np.log10(25.5), rel=1e-5)
    assert ("forecast", 5, "psnr") not in found
    said = wavecast("score", "future.npy", "truth.npy", "--past", "clip.npy", "--csv", "x.csv")
    head, *lines = said.out.splitlines()
    assert head.split()[-2:] == ["mse_persistence", "skill"] and lines[-1].split()[0] == "mean"
    assert float(lines[-1].split()[-1]) == pytest.approx(0.99)
    assert len(Path("x.csv").read_text().splitlines()) == 1 + 2 * 4 * 5
    assert "--past CLIP tells" in wavecast("score", "future.npy", "truth.npy").err
    write("bad.npy", truth[:4] - 100 + 255)
    write("near.npy", truth[:1] - 1)
    said = wavecast("score", "bad.npy", "truth.npy", "--past", "near.npy")
    assert "warning: worse than persistence at frame 1, 2, 3, 4" in said.err


def colors_of(path):
    """The colors of a picture, and how many."""
    with Image.open(path) as picture:
        return {color for _, color in picture.convert("RGB").getcolors(1 << 24)}


@pytest.mark.parametrize(("suffix", "channels"), [("mkv", 3), ("npz", 1)])
def test_a_picture_of_a_forecast(wavecast, suffix, channels):
    """The last frame seen and every frame of persistence show the block, and its color is in the picture."""
    write(f"clip.{suffix}", movie(channels=channels))
    words = ["forecast", f"clip.{suffix}", "--model", "persistence", "--steps", 3, "--plot"]
    said = wavecast(*words, "--json", "-")
    assert said.code == 0, said.err
    assert json.loads(said.out)["plot"] == "clip.forecast.strip.png"
    with Image.open("clip.forecast.strip.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    block = np.array([230, 90, 40] if channels == 3 else [230, 230, 230])
    columns = np.flatnonzero((np.abs(pixels - block).max(-1) < 3).sum(0) > 10)
    assert np.count_nonzero(np.diff(columns) > 20) == 3  # between four frames
    wavecast.fails(1, "clip.forecast.strip.png exists", *words, "-o", f"clip.forecast.{suffix}", hint="--overwrite")
    Path(f"clip.forecast.{suffix}").unlink()
    wavecast.fails(1, "clip.forecast.strip.png exists", *words, hint="--overwrite")
    assert not Path(f"clip.forecast.{suffix}").exists()
    assert wavecast(*words, "--overwrite").code == 0
    wavecast.fails(2, "--plot is for video here", "forecast", "era5.nc", "--plot", hint="wavecast score FORECAST TRUTH")


def test_pictures_of_scores(wavecast):
    """Truth, forecast and error at lead times; scores beside persistence where the past is known."""
    truth = movie(12)
    write("truth.npy", truth[2:])
    write("future.npy", np.repeat(truth[1:2], 10, 0))
    write("clip.npy", truth[:2])
    said = wavecast("score", "future.npy", "truth.npy", "--past", "clip.npy", "--plot")
    assert said.code == 0 and said.err.splitlines()[-2:] == ["future.png", "future.frames.png"]
    assert {(176, 83, 60), (42, 111, 151)} <= colors_of("future.png")  # the lines of the forecast and of persistence
    assert max(red - blue for red, _, blue in colors_of("future.frames.png")) > 100  # errors of both signs
    assert max(blue - red for red, _, blue in colors_of("future.frames.png")) > 100
    wavecast.fails(1, "future.png exists", "score", "future.npy", "truth.npy", "--plot", hint="--overwrite")
    assert wavecast("score", "future.npy", "truth.npy", "--plot", "--overwrite").code == 0
    assert (42, 111, 151) not in colors_of("future.png")


def test_a_strip_shows_the_frames_it_is_given(tmp_path):
    """Of a hundred frames eight, the first and the last among them; the error is forecast less truth."""
    assert spread(100) == [0, 14, 28, 42, 57, 71, 85, 99]
    assert spread(3) == [0, 1, 2] and spread(1) == [0]
    truth, forecast, error = compared([np.full((4, 4), 0.75)], [np.full((4, 4), 0.5)])
    assert (truth.frames[0][0, 0], forecast.frames[0][0, 0], error.frames[0][0, 0]) == (0.5, 0.75, 0.25)
    assert error.limits == (-0.25, 0.25)
    *_, error = compared([np.array([[[1.0, 0, 0]]])], [np.array([[[0.0, 0, 0]]])])
    assert error.frames[0].shape == (1, 1) and error.frames[0][0, 0] == pytest.approx(1 / 3)
    strip = Strip(tmp_path / "x.png", np.zeros((2, 2, 1)), 20, False)
    for k in range(0, 20, 3):
        strip.add(np.arange(k, min(k + 3, 20), dtype=float)[:, None, None, None] * np.ones((1, 2, 2, 1)))
    assert [frame[0, 0] for frame in strip._frames] == [0, *spread(20)]


def test_gray_and_color_are_compared_in_gray(wavecast):
    gray = movie(4)
    write("gray.npy", gray)
    write("color.mkv", np.repeat(gray, 3, -1))
    table = wavecast("score", "color.mkv", "gray.npy").out.splitlines()
    assert float(table[-1].split()[1]) < 0.02
    write("tiny.npy", gray[:, :8, :8])
    assert "ssim" not in wavecast("score", "tiny.npy", "tiny.npy").out
    wavecast.fails(1, "gray.npy has frames of 16 x 16 x 1, tiny.npy of 8 x 8 x 1", "score", "gray.npy", "tiny.npy")
    wavecast.fails(2, "scores need the truth", "score", "gray.npy")
    wavecast.fails(2, "--check is for fields, and gray.npy is video", "score", "gray.npy", "gray.npy", "--check")
    wavecast.fails(2, "--past is for video", "score", "x.zarr", "y.nc", "--past", "gray.npy")
    wavecast.fails(2, "--resize is for video", "forecast", "y.nc", "--resize")


def test_bad_words_of_the_training(wavecast, tmp_path):
    wavecast.fails(1, "there is no video to learn from", "train", "video", hint="--data.source")
    source = sources(tmp_path, "moving_mnist_predformer")
    words = ["train", "video", "--config", "moving_mnist_predformer", "--smoke", "--data.source", source]
    text = "predformer forecasts whole windows"
    wavecast.fails(1, text, *words, "--model.teacher_forcing", "true", hint="leave out teacher_forcing")
    wavecast.fails(1, "have no areas on the globe", *words, "--model.area_weighted", "true", hint="area_weighted")
