"""`wavecast models convert --as`: files of the authors' code become models that forecast frames."""

from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch

import wavecast as suite
from wavecast.main import main

PARITY = Path(__file__).resolve().parents[1] / "parity"


def flax_state(arrays):
    """Write arrays as flax does: {params: nested, step}."""
    tree = {}
    for name, array in arrays.items():
        *folders, leaf = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))
    return msgpack.packb({"params": tree, "step": 3})


@pytest.fixture
def convs5(tmp_path):
    """A tiny ConvS5 as the release writes it, and what it gave."""
    with np.load(PARITY / "convs5_tiny.npz") as file:
        record = dict(file)
    arrays = {name.removeprefix("params/"): array for name, array in record.items() if name.startswith("params/")}
    (tmp_path / "tiny.msgpack").write_bytes(flax_state(arrays))
    return tmp_path, record


def test_convs5(convs5, capsys):
    folder, record = convs5
    video = record["video"]
    size = [str(n) for n in (video.shape[1] // 2, *video.shape[2:4])]
    file = folder / "tiny.msgpack"
    assert main(["models", "convert", str(file), "-o", str(folder), "--as", "convs5", "--frames", *size]) == 0
    assert capsys.readouterr().out == ""
    forecaster = suite.load("forecast", model=str(folder / "convs5.tiny.yaml"))
    with torch.no_grad():
        y, _ = forecaster.network(torch.from_numpy(video)[:, :-1])
    assert np.abs(y.numpy() - record["recon"]).max() < 1e-5 * np.abs(record["recon"]).max()
    frames = np.random.default_rng(0).random((int(size[0]), *video.shape[2:]), np.float32)
    assert forecaster(frames, steps=2).shape == (2, *video.shape[2:])


@torch.no_grad()
def test_predformer(tmp_path):
    with np.load(PARITY / "predformer_tiny.npz") as file:
        record = {name: torch.from_numpy(file[name]) for name in file if name.startswith("Quadruplet_TSST|")}
    tensors = {name.split("|")[-1]: tensor for name, tensor in record.items() if "|sd|" in name}
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "tiny.pth")
    words = ["models", "convert", str(tmp_path / "tiny.pth"), "-o", str(tmp_path), "--as", "predformer"]
    words += ["--frames", "3", "16", "32", "--variant", "quad_tsst", "--patch", "4", "--heads", "4"]
    assert main(words) == 0
    forecaster = suite.load("forecast", model=str(tmp_path / "predformer.tiny.yaml"))
    x, y = (record[f"Quadruplet_TSST|{which}"].permute(0, 1, 3, 4, 2) for which in "xy")
    assert (forecaster.network(x)[0] - y).abs().max() < 1e-5 * y.abs().max()


def test_what_the_file_does_not_tell_must_be_said(tmp_path, capsys):
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    assert main(["models", "convert", str(tmp_path / "x.pth"), "--as", "predformer"]) == 1
    said = capsys.readouterr()
    assert "x.pth does not tell which PredFormer it is" in said.err
    assert "hint: give --patch, and --variant: one of full, fac_st" in said.err


def test_another_file_is_refused(tmp_path, capsys):
    (tmp_path / "x.msgpack").write_bytes(b"no flax")
    assert main(["models", "convert", str(tmp_path / "x.msgpack"), "--as", "convs5"]) == 1
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.glob("*.yaml"))
