"""The separator that ships: what its card says holds, and a recording of one voice is left as it is."""

from pathlib import Path

import numpy as np
import soundfile

import wavecast as suite
from kit.sounds import speaker
from wavecast.cards import find_model, load_network

ROOT = Path(__file__).resolve().parents[2]
NAME = "mossformer2.ss2_small"


def test_it_is_the_default_and_small():
    separator = suite.load("separate", device="cpu")
    assert (separator.card.name, separator.speakers, separator.sample_rate) == (NAME, 2, 8_000)
    parameters = sum(parameter.numel() for parameter in load_network(separator.card).parameters())
    assert parameters <= 2_500_000


def test_its_card_says_what_was_measured():
    metrics = find_model(NAME).metrics
    assert metrics["script"] == "scripts/bench/separate_quality.py"
    for mixtures in ("dry_fully_overlapping", "varied"):
        found = metrics[mixtures]["all"]
        assert found["items"] >= 100
        assert found["separated_si_sdr"] > found["mixture_si_sdr"]


def test_a_single_voice_gives_one_file_which_is_the_recording(wavecast, tmp_path):
    heard, rate = soundfile.read(ROOT / "examples" / "clean.flac", dtype="float32")
    soundfile.write(tmp_path / "talk.wav", heard, rate, subtype="FLOAT")
    said = wavecast("separate", tmp_path / "talk.wav")
    assert (said.code, said.out) == (0, "")
    assert "1 output has no voice and is left out" in said.err
    made, _ = soundfile.read(tmp_path / "talk_1.wav", dtype="float32")
    np.testing.assert_allclose(made, heard, atol=1e-5)
    assert not (tmp_path / "talk_2.wav").exists()


def test_voices_sum_to_the_recording():
    mixture = speaker(1, 3.0, 8_000) + speaker(4, 3.0, 8_000)
    voices = suite.load("separate", device="cpu")(mixture)
    np.testing.assert_allclose(voices.sum(0), mixture, atol=1e-5)
