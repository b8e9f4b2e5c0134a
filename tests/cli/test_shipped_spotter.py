"""The spotter that ships: what its card says holds, and it finds words of voices that it was not trained on."""

import json
from pathlib import Path

import numpy as np
import soundfile

import wavecast as suite
from kit.sounds import RATE, hiss
from wavecast.apps.keywords.classes import REJECTED
from wavecast.cards import find_model, load_network

ROOT = Path(__file__).resolve().parents[2]
NAME = "lmuformer.commands35"
WORDS = [("yes", 1.4, 1.9), ("stop", 3.3, 3.8), ("seven", 5.2, 5.8), ("marvin", 7.2, 7.9)]
"""In `examples/words.flac`: seconds from beginning to end."""


def test_it_is_the_default_and_small():
    spotter = suite.load("spot", device="cpu")
    assert (spotter.card.name, spotter.sample_rate, len(spotter.words)) == (NAME, RATE, 35)
    assert set(spotter.classes) - set(spotter.words) == set(REJECTED)
    assert spotter.card.weights["bytes"] <= 2 << 20
    assert sum(parameter.numel() for parameter in load_network(spotter.card).parameters()) <= 1_000_000


def test_its_card_says_what_was_measured_and_that_its_voices_are_synthetic():
    card = find_model(NAME)
    assert "synthetic" in card.notes
    assert card.metrics["script"] == "scripts/bench/keyword_quality.py"
    assert card.metrics["views_clean"]["words"] >= 140
    assert card.metrics["planted_clean"]["hours"] > 1
    assert 0 < card.decision["threshold"] < 1


def test_the_words_of_the_example_are_found_and_nothing_else(wavecast):
    said = wavecast("spot", ROOT / "examples" / "words.flac", "--quiet")
    events = [json.loads(line) for line in said.out.splitlines()]
    assert [event["word"] for event in events] == [word for word, _, _ in WORDS]
    for event, (_, start, end) in zip(events, WORDS, strict=True):
        assert event["start"] <= (start + end) / 2 <= event["time"]
        assert event["time"] + event["latency"] < end + 1.5


def test_noise_and_a_voice_without_words_are_no_event():
    spotter = suite.load("spot", device="cpu")
    speech, rate = soundfile.read(ROOT / "examples" / "clean.flac", dtype="float32")
    assert spotter(speech, rate) == []
    assert spotter(hiss(0, 5.0)) == []
    assert spotter(np.zeros(5 * RATE, np.float32)) == []
