"""`wavecast train forecasting`: two processes, resuming, the state-space mixer; on a synthetic atmosphere."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml

import wavecast as suite
from kit.ranks import launch
from wavecast.datamodules.atmosphere import synthetic_atmosphere

RECIPE = {
    "model": {
        "architecture": "state_space_mixer",
        "network": {"dim": 8, "layers": 1, "size": 8},
        "increments": True,
        "schedule": "constant",
    },
    "data": {
        "train": ["2020-01-01", "2020-01-02"],
        "validation": ["2020-01-03", "2020-01-03"],
        "history": 3,
        "horizon": 2,
        "extras": ["hour"],
        "batch_size": 2,
        "items": 8,
    },
    "trainer": {"accelerator": "cpu", "max_epochs": 1},
    "checkpoint": {"save_top_k": 1},
}


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Hourly temperature on 8 x 16 cells, three days."""
    path = tmp_path_factory.mktemp("fields") / "fields.nc"
    synthetic_atmosphere("2020-01-01", 72, 8, 16, variables=["2m_temperature"]).to_netcdf(path, engine="h5netcdf")
    return path


@pytest.fixture
def words(tmp_path, monkeypatch, fields):
    """The command line of the small recipe, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    return ["train", "forecasting", "--config", "tiny.yaml", "--data.root", str(fields), "--quiet"]


def last(run):
    return torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)


def validated(run):
    with (Path(run) / "metrics.csv").open() as lines:
        return [row for row in csv.DictReader(lines) if row["val_loss"]]


def test_two_processes_see_what_one_would(wavecast, words, tmp_path):
    """Two ranks of batch 1 see the windows of one process of batch 2, and their mean gradients are its gradients."""
    assert wavecast(*words, "--run", "one").code == 0
    two = ["--run", "two", "--data.batch_size", "1", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    for (out, err), code in launch(2, [*words, *two], tmp_path):
        assert code == 0, err
        assert out == ""
    one, both = last("one"), last("two")
    assert both["global_step"] == one["global_step"] == 4
    for name, tensor in one["state_dict"].items():
        torch.testing.assert_close(both["state_dict"][name], tensor, rtol=1e-3, atol=2e-5)
    logged = [validated(run)[-1] for run in ("one", "two")]
    for name in ("val_loss", "val_mse", "val_mse_of_persistence", "val_skill"):
        assert float(logged[0][name]) == pytest.approx(float(logged[1][name]), rel=1e-3)


def test_an_interrupted_run_resumes_to_the_weights_of_an_uninterrupted_one(wavecast, words):
    """Interrupted in the middle of the second epoch, with a cosine schedule and averaged weights."""
    words += ["--model.schedule", "cosine", "--model.average_decay", "0.5", "--trainer.max_epochs", "3"]
    assert wavecast(*words, "--run", "whole").code == 0
    interrupt = "[{class_path: kit.interrupt.Interrupt, init_args: {at: 6}}]"
    assert wavecast(*words, "--run", "part", "--trainer.callbacks", interrupt).code == 130
    assert last("part")["global_step"] == 6
    assert wavecast("train", "forecasting", "--resume", "part", "--quiet").code == 0
    whole, resumed = last("whole"), last("part")
    assert resumed["global_step"] == whole["global_step"] == 12
    for name, tensor in whole["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][name], tensor, rtol=1e-5, atol=1e-6)
    whole_skill, skill = (
        [float(row["val_skill"]) for path in paths for row in validated(path)][-1]
        for paths in (["whole"], Path("part").glob("resumed_*"))
    )
    assert skill == pytest.approx(whole_skill, rel=1e-4)


@pytest.mark.parametrize("memory", ["s5", "s4d"])
def test_the_recipe_of_the_state_space_mixer_trains_and_forecasts(wavecast, words, fields, memory):
    """Longer than it was trained for too, on rows and columns that patches of 3 do not fill."""
    options = ["--model.network.memory", memory, "--model.network.patch", "3", "--data.root", fields]
    spans = [f"--data.{name}={RECIPE['data'][name]}" for name in ("train", "validation")]
    recipe = ["train", "forecasting", "--config", "forecasting_state_space", "--smoke", "--run", "run", "--quiet"]
    assert wavecast(*recipe, *options, *spans).code == 0
    forecaster = suite.load("forecast", model="run", device="cpu")
    assert forecaster.network.network.frame[:2] == (9, 18)
    found = forecaster(str(fields), steps=15)["2m_temperature"]
    assert found.shape == (1, 15, 8, 16)
    assert np.isfinite(found).all()


@pytest.fixture
def celsius(fields, tmp_path):
    """The same fields in degrees Celsius, called kelvin, under the short name."""
    with xr.open_dataset(fields) as truth:
        other = truth.rename({"2m_temperature": "t2m"}).load()
    attributes = other["t2m"].attrs
    other["t2m"] = (other["t2m"].astype(np.float64) - 273.15).assign_attrs(attributes)
    assert attributes["units"] == "K"
    other.to_netcdf(tmp_path / "celsius.nc", engine="h5netcdf")
    return tmp_path / "celsius.nc"


def test_wrong_units_are_seen_by_their_range_and_mended_by_an_option(wavecast, words, fields, celsius):
    """Before a step is taken; the option gives the numbers, and the network, of the file that is right."""
    text = "t2m runs from "
    said = wavecast.fails(1, text, *words, "--data.root", celsius, "--run", "wrong", hint="they look like degc")
    assert "as 2m_temperature it is expected from 160 to 345 K" in said.err
    assert "--data.units '{2m_temperature: degc}'" in said.err
    assert not Path("wrong").exists()
    assert wavecast(*words, "--run", "right").code == 0
    for k, option in enumerate((["--data.units", "{t2m: degC}"], ["--data.units.2m_temperature", "celsius"])):
        assert wavecast(*words, "--data.root", celsius, *option, "--run", f"mended{k}").code == 0
    right, *mended = (last(run) for run in ("right", "mended0", "mended1"))
    mean, deviation = right["wavecast_card"]["fields"]["normalization"]["2m_temperature"]
    assert 200 < mean < 330
    for one in mended:
        assert one["wavecast_card"]["fields"]["channels"] == ["2m_temperature"]
        found = one["wavecast_card"]["fields"]["normalization"]["2m_temperature"]
        assert found == pytest.approx([mean, deviation], rel=1e-6)
        for name, tensor in right["state_dict"].items():
            torch.testing.assert_close(one["state_dict"][name], tensor, rtol=1e-3, atol=1e-4)


def test_units_that_cannot_be(wavecast, words):
    text = "'furlong', which is no unit of it"
    wavecast.fails(1, text, *words, "--data.units", "{t2m: furlong}", "--run", "x", hint="'celsius'")
    text = "has no rain"
    wavecast.fails(1, text, *words, "--data.units", "{rain: mm}", "--run", "x", hint="it has 2m_temperature")
    text = "is expected from 160 to 345 K"
    wavecast.fails(1, text, *words, "--data.units", "{t2m: degC}", "--run", "x", hint="say what they are by --units")
    assert not Path("x").exists()
