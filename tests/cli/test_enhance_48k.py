"""`wavecast enhance` with a full-band model that needs the whole recording: any rate, music-grade, equal every run."""

import json
import os

import numpy as np
import pytest
import soundfile
import torch

import wavecast as package
from wavecast.apps.enhancement.mossformer2_48k import full_band_pass_bytes
from wavecast.cards import Card, build_network, find_model, load_network, save_model
from wavecast.core.windows import Windows

RATE = 48_000
SIZES = {"layers": 1, "width": 16, "hidden": 32, "attention": 32, "group": 16, "inner": 8}


def read(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


@pytest.fixture
def save(tmp_path):
    """Write a small random model: save(dither=1.0) gives its path."""

    def write(window_seconds=0.0, **options):
        torch.manual_seed(0)
        card = Card("mossformer2.small", "mossformer2_48k", "enhance", {**SIZES, **options}, RATE)
        card = Card(**{**card.__dict__, "window_seconds": window_seconds})
        network = build_network(card)
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        (tmp_path / "model").mkdir(exist_ok=True)
        return save_model(network, card, tmp_path / "model").file

    return write


@pytest.fixture
def model(save):
    """The path of a small random model."""
    return save()


@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("a.wav", 48000, 2, "PCM_24"),
        ("a.wav", 44100, 2, "PCM_24"),
        ("a.wav", 48000, 1, "FLOAT"),
        ("a.wav", 96000, 2, "FLOAT"),
        ("a.flac", 44100, 2, "PCM_24"),
        ("a.wav", 48000, 2, "PCM_32"),
        ("a.wav", 16000, 1, "PCM_16"),
        ("a.mp3", 44100, 2, None),
    ],
)
def test_any_rate_and_encoding_stays(wavecast, sound, model, name, rate, channels, subtype):
    path = sound(name, rate=rate, channels=channels, subtype=subtype)
    target = path.with_stem("a.enhanced")
    said = wavecast("enhance", path, "--model", model)
    assert (said.code, said.out) == (0, ""), said
    before, after = soundfile.info(path), soundfile.info(target)
    assert (after.samplerate, after.channels, after.frames) == (rate, channels, before.frames)
    assert (after.format, after.subtype) == (before.format, before.subtype)
    x, y = read(path), read(target)
    assert np.isfinite(y).all()
    assert not np.allclose(x, y, atol=1e-3)
    assert np.abs(y[:, -200:]).max() > 0.001, "the tail is silent"


def test_the_file_holds_what_the_network_gives(wavecast, sound, model, tmp_path):
    """No level is changed on the way: the network hears the samples of the file."""
    path = sound(rate=RATE, channels=2, subtype="FLOAT")
    assert wavecast("enhance", path, "--model", model, "-o", tmp_path / "y.wav").code == 0
    x, network = read(path), package.load("enhance", model=str(model)).network
    lead = network.plan.lead
    with torch.inference_mode():
        y, _ = network(torch.nn.functional.pad(torch.from_numpy(x), (lead, lead)))
        as_trained, _ = load_network(find_model(str(model)))(torch.nn.functional.pad(torch.from_numpy(x), (lead, lead)))
    assert np.array_equal(read(tmp_path / "y.wav"), y[:, lead : lead + x.shape[1]].numpy())
    assert torch.allclose(y, as_trained, atol=1e-5 * y.abs().max().item())
    assert np.array_equal(package.load("enhance", model=str(model))(x), read(tmp_path / "y.wav"))


@pytest.mark.parametrize("dither", [0.0, 1.0])
def test_every_run_is_equal(wavecast, sound, save, tmp_path, dither):
    model = save(dither=dither)
    path = sound(rate=44100, channels=2, subtype="PCM_24")
    for name in ("a.wav", "b.wav"):
        assert wavecast("enhance", path, "--model", model, "-o", tmp_path / name).code == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_dither_changes_what_is_quiet(wavecast, tmp_path, save):
    x = 1e-5 * np.random.default_rng(0).standard_normal(RATE // 2)
    soundfile.write(tmp_path / "x.wav", x, RATE, subtype="FLOAT")
    found = []
    for options in ({}, {"dither": 1.0}, {"dither": 1.0, "seed": 7}):
        words = ("enhance", tmp_path / "x.wav", "--model", save(**options), "-o", tmp_path / "y.wav", "--overwrite")
        assert wavecast(*words).code == 0
        found.append(read(tmp_path / "y.wav"))
    assert not np.allclose(found[0], found[1], rtol=1e-3)
    assert not np.array_equal(found[1], found[2])


def test_each_channel_is_enhanced_on_its_own_or_all_by_one_mask(wavecast, tmp_path, model):
    left, right = 0.1 * np.random.default_rng(0).standard_normal((2, RATE // 2))
    x = np.stack([left, 0.5 * left + 0.01 * right], 1)
    soundfile.write(tmp_path / "x.wav", x, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "left.wav", left, RATE, subtype="FLOAT")
    assert wavecast("enhance", tmp_path / "x.wav", tmp_path / "left.wav", "--model", model).code == 0
    each = read(tmp_path / "x.enhanced.wav")
    assert np.array_equal(each[:1], read(tmp_path / "left.enhanced.wav"))

    soundfile.write(tmp_path / "x.wav", np.stack([left, 0.5 * left], 1), RATE, subtype="FLOAT")
    words = ("enhance", tmp_path / "x.wav", "--model", model, "--channels", "shared", "-o", tmp_path / "y.wav")
    assert wavecast(*words).code == 0
    one, other = read(tmp_path / "y.wav")
    assert np.allclose(other, 0.5 * one, atol=1e-7)
    assert np.abs(one).max() > 0.01


def test_the_band_above_the_model(wavecast, tmp_path, model):
    """At 48 kHz and below there is none, so that the option changes nothing; at 96 kHz it keeps or drops."""
    for rate, differs in ((44100, False), (48000, False), (96000, True)):
        t = np.arange(rate // 2) / rate
        x = 0.1 * np.sin(2 * np.pi * 0.45 * rate * t) + 0.05 * np.random.default_rng(0).standard_normal(len(t))
        soundfile.write(tmp_path / "x.wav", x, rate, subtype="FLOAT")
        found = []
        for policy in ("follow", "keep", "drop"):
            words = ("enhance", tmp_path / "x.wav", "--model", model, "-o", tmp_path / "y.wav", "--overwrite")
            assert wavecast(*words, "--high-band", policy).code == 0
            found.append(read(tmp_path / "y.wav"))
        assert np.array_equal(found[1], found[2]) != differs
        assert np.array_equal(found[0], found[2]) != differs
        if differs:
            keep, drop = (np.abs(np.fft.rfft(y[0, 5000:-5000]))[-4000:].max() for y in found[1:])
            assert keep > 100 * drop


def test_long_recordings_go_in_windows(wavecast, sound, save, tmp_path):
    """Windows of 4 s differ from one pass as their statistics do, and exactly by nothing from `Windows`."""
    model = save(window_seconds=4.0)
    for samples in (4 * RATE, 7 * RATE, 8 * RATE + 1):
        path = sound(f"{samples}.wav", seconds=samples / RATE, rate=RATE, subtype="FLOAT")
        whole, parts = tmp_path / f"w{samples}.wav", tmp_path / f"p{samples}.wav"
        assert (
            wavecast("enhance", path, "--model", model, "-o", parts, "--json", tmp_path / f"{samples}.json").code == 0
        )
        assert wavecast("enhance", path, "--model", model, "-o", whole, "--whole").code == 0
        x, y, together = read(path), read(parts), read(whole)
        assert y.shape == together.shape == x.shape
        assert np.array_equal(y, together) == (samples == 4 * RATE)
        assert np.abs(y[:, -200:]).max() > 0.001
        network = package.load("enhance", model=str(model)).network
        windows = Windows(network, network.plan.lasting(4.0, RATE))
        pieces = [*windows.push(torch.from_numpy(x)), *windows.flush()]
        assert np.array_equal(torch.cat(pieces, 1).numpy(), y)
        row = json.loads((tmp_path / f"{samples}.json").read_text())
        assert row["latency_ms"] is None
        assert row["model"] == "mossformer2.small"


@pytest.mark.parametrize("samples", [0, 1, 480, 1919, 1920, 1921])
@pytest.mark.parametrize("rate", [44100, 48000])
def test_short_files(wavecast, tmp_path, model, samples, rate):
    soundfile.write(tmp_path / "x.wav", 0.1 * np.random.default_rng(0).standard_normal(samples), rate)
    assert wavecast("enhance", tmp_path / "x.wav", "--model", model).code == 0
    y = read(tmp_path / "x.enhanced.wav")
    assert y.shape[1] == samples
    assert np.isfinite(y).all()


def test_silence_stays_silence(wavecast, tmp_path, model):
    soundfile.write(tmp_path / "x.wav", np.zeros((RATE // 4, 2)), RATE, subtype="FLOAT")
    assert wavecast("enhance", tmp_path / "x.wav", "--model", model).code == 0
    assert not read(tmp_path / "x.enhanced.wav").any()


def test_samples_that_are_no_numbers_are_replaced_and_counted(wavecast, tmp_path, model):
    x = 0.1 * np.random.default_rng(0).standard_normal(RATE // 4)
    x[1000:1010] = np.nan
    soundfile.write(tmp_path / "x.wav", x, RATE, subtype="FLOAT")
    assert wavecast("enhance", tmp_path / "x.wav", "--model", model, "--json", tmp_path / "r.json").code == 0
    assert json.loads((tmp_path / "r.json").read_text())["not_finite_samples"] == 10
    assert np.isfinite(read(tmp_path / "x.enhanced.wav")).all()


def test_an_official_model_that_was_not_fetched(wavecast, sound, tmp_path, monkeypatch):
    monkeypatch.setenv("WAVECAST_CACHE", str(tmp_path / "cache"))
    words = ("enhance", sound(seconds=0.1), "--model", "mossformer2.se48k")
    wavecast.fails(1, "mossformer2.se48k is not here yet", *words, hint="wavecast models pull mossformer2.se48k")


def test_a_pipe_needs_a_model_that_streams(wavecast, sound, streams, model):
    with sound(seconds=0.1, rate=RATE).open() as pipe:
        streams(stdin=pipe)
        words = ("enhance", "-", "--model", model)
        wavecast.fails(1, "needs the whole recording", *words, hint="--model frcrn.stream16k works live")


def test_one_pass_over_more_than_the_memory_holds(wavecast, sound, tmp_path, model, monkeypatch):
    path = sound(seconds=3, rate=RATE)
    there = full_band_pass_bytes(2.0)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": there}.get)
    words = ("enhance", path, "--model", model, "--whole", "-o", tmp_path / "y.wav")
    wavecast.fails(1, "one pass over 3 s needs about", *words, hint="leave --whole out: windows of 20 s need 1.4 GB")
    assert not (tmp_path / "y.wav").exists()
    monkeypatch.undo()
    assert wavecast(*words).code == 0
