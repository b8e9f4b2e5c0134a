"""The transcriber that ships: what its card says holds, and it writes down a voice that it was not trained on."""

import json
from pathlib import Path

import numpy as np
import pytest

import wavecast as suite
from kit.sounds import RATE, hiss
from wavecast.apps.transcription.decoding import GreedyTransducer
from wavecast.apps.transcription.error_rates import character_errors
from wavecast.apps.transcription.inference import Options, Transcriber
from wavecast.apps.transcription.language_model import LanguageModel
from wavecast.cards import find_model, load_network

ROOT = Path(__file__).resolve().parents[2]
NAME = "fastconformer.en_small"
TEXT = "a visit to a fresh place will bring strange work"
"""Of `examples/sentence.flac`."""


def test_it_is_the_default_streams_and_is_small():
    transcriber = suite.load("transcribe", device="cpu")
    assert (transcriber.card.name, transcriber.sample_rate, transcriber.look_ahead) == (NAME, RATE, 480)
    assert sorted(transcriber.look_aheads) == [0, 80, 480, 1040]
    assert sum(parameter.numel() for parameter in load_network(transcriber.card).parameters()) <= 5_000_000


def test_its_language_model_guides_it_unless_it_is_greedy():
    transcriber = suite.load("transcribe", device="cpu")
    assert isinstance(transcriber.decoder(Options()).guide, LanguageModel)
    assert isinstance(transcriber.decoder(Options(beam=1)), GreedyTransducer)
    likely, unlikely = (
        log_probability(transcriber, text) for text in ("there are many of them", "there are mini of dem")
    )
    assert likely > unlikely + 5


def log_probability(transcriber: Transcriber, text: str) -> float:
    """Ask the language model for a text."""
    guide, place, found = transcriber.decoder(Options()).guide, 0, 0.0
    for token in transcriber.tokenizer.encode(text):
        found += float(guide.log_probabilities(place)[token])
        place = guide.next(place, token)
    return found


def test_its_card_says_what_was_measured_and_what_it_learned_from():
    card = find_model(NAME)
    assert card.metrics["script"] == "scripts/bench/transcribe_quality.py"
    assert card.metrics["synthetic_rnnt_480ms"]["words"] > 1000
    assert card.metrics["synthetic_rnnt_480ms"]["wer"] < card.metrics["synthetic_rnnt_480ms_greedy"]["wer"]
    assert card.metrics["cpu_seconds_per_second"] < 0.1
    assert any("synthetic" in line for line in card.data)


@pytest.mark.parametrize("head", ["ctc", "rnnt"])
def test_the_sentence_of_the_example_is_recognized(wavecast, head):
    said = wavecast("transcribe", ROOT / "examples" / "sentence.flac", "--head", head, "--quiet")
    assert said.code == 0
    assert character_errors(TEXT, said.out).rate < 0.2


def test_silence_and_noise_are_no_words():
    transcriber = suite.load("transcribe", device="cpu")
    assert transcriber(np.zeros(5 * RATE, np.float32)).text == ""
    assert len(transcriber(hiss(0, 5.0)).text.split()) <= 2


@pytest.mark.parametrize("milliseconds", [0, 80, 480, 1040])
def test_live_is_the_file(wavecast, tmp_path, milliseconds):
    report = tmp_path / "report.jsonl"
    words = ("--look-ahead", milliseconds, "--verify-streaming", "--json", report)
    assert wavecast("transcribe", ROOT / "examples" / "sentence.flac", *words).code == 0
    (row,) = (json.loads(line) for line in report.read_text().splitlines())
    assert row["streaming_error"] < 1e-5
    assert row["verified_tokens"] > 5
