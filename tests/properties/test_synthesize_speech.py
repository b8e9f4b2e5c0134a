"""Sentences of texts become a packed corpus, apart from those of another corpus; the synthesizers are stand-ins."""

import json
import runpy
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavecast.datamodules.manifests import open_manifest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "synthesize_speech.py"
TEXT = """The river was high in the morning. It said "no" to nobody, and everybody knew.
%
Version 2.1 has 14 new things in it. This sentence is said by somebody else in the other corpus. Too short.
\t\t-- Somebody
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Texts, a corpus that says one of their sentences, and programs that say everything alike."""
    (tmp_path / "texts").write_text(TEXT)
    (tmp_path / "page.html").write_text(
        "<p>Nothing <i>could</i> be further from it.</p><p>Again &amp; again it was.</p>"
    )
    (tmp_path / "other").mkdir()
    line = {"text": "I hear: this sentence is said by somebody."}
    (tmp_path / "other" / "index.jsonl").write_text(json.dumps(line) + "\n")
    sound = np.concatenate([np.zeros(4000), 0.1 * np.random.default_rng(0).standard_normal(8000), np.zeros(4000)])
    soundfile.write(tmp_path / "said.wav", sound, 16000)
    (tmp_path / "bin").mkdir()
    for name, option in (("flite", "-o"), ("espeak-ng", "-w")):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\nwhile [ "$1" != "{option}" ]; do shift; done\ncp {tmp_path}/said.wav "$2"\n')
        program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return tmp_path


def synthesize(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
    monkeypatch.syspath_prepend(SCRIPT.parent)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return stop.value.code


def test_sentences_become_a_corpus_apart_from_another(folder, monkeypatch, capsys):
    sources = (folder / "texts", folder / "page.html", "--apart-from", folder / "other")
    for out in ("one", "two"):
        assert synthesize(monkeypatch, *sources, "--out", folder / out, "--hours", 1) == 0
    assert "h are missing" in capsys.readouterr().err
    said = list(open_manifest(str(folder / "one")))
    assert sorted(one.text for one in said) == [
        "It said no to nobody, and everybody knew.",
        "Nothing could be further from it.",
        "The river was high in the morning.",
    ]
    assert all(one.synthetic and one.language == "en" for one in said)
    assert all(abs(one.samples - (8000 + 2 * 800)) < 100 for one in said)  # noise fades in and out, too
    first, second = ((folder / out / "index.jsonl").read_text() for out in ("one", "two"))
    assert first == second
    (file,) = {json.loads(line)["file"] for line in first.splitlines()}
    assert soundfile.info(folder / "one" / file).frames == sum(one.samples for one in said)


def test_it_stops_when_there_are_enough_hours_and_writes_over_nothing(folder, monkeypatch, capsys):
    words = (folder / "texts", "--out", folder / "one", "--hours", 0.0001)
    assert synthesize(monkeypatch, *words) == 0
    assert len((folder / "one" / "index.jsonl").read_text().splitlines()) == 1
    assert synthesize(monkeypatch, *words) == 2
    assert "choose another --out" in capsys.readouterr().err


def test_what_is_missing_is_named_before_anything_is_written(folder, monkeypatch, capsys):
    assert synthesize(monkeypatch, folder / "nothing", "--out", folder / "one") == 2
    assert "there is no text" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(folder))
    assert synthesize(monkeypatch, folder / "texts", "--out", folder / "one") == 2
    assert "apt install flite espeak-ng" in capsys.readouterr().err
    assert not (folder / "one").exists()


def test_a_sentence_that_is_not_said_is_left_out(folder, monkeypatch):
    soundfile.write(folder / "said.wav", np.zeros(4000), 16000)
    assert synthesize(monkeypatch, folder / "texts", "--out", folder / "one") == 0
    assert (folder / "one" / "index.jsonl").read_text() == ""


def test_other_languages_have_letters_of_their_own(folder, monkeypatch):
    (folder / "texts").write_text("Žádný učený z nebe nespadl. Это было давно. Ein IBM aus Köln steht hier.\n")
    words = (folder / "texts", "--out", folder / "one", "--language", "cs")
    (folder / "bin" / "flite").unlink()
    assert synthesize(monkeypatch, *words) == 0
    said = list(open_manifest(str(folder / "one")))
    assert sorted(one.text for one in said) == ["Žádný učený z nebe nespadl."]
    assert {one.language for one in said} == {"cs"}


HIBARI = """
import numpy as np
from hibari import dsp


class Hibari:
    voice = "heart"

    def __init__(self):
        self.sess = self

    def phonemize(self, text):
        return [text[:5], text[5:]]

    def ids(self, phonemes):
        return [0, *map(ord, phonemes), 0]

    def run(self, outputs, given):
        assert given["ids"].shape[0] == 1 and given["ids"].dtype == np.int64 and given["speed"].dtype == np.float32
        frames = round(given["ids"].shape[1] * 8 / given["speed"][0])
        return [np.ones((1, 3, frames), np.float32)] * 5 + [np.full((1, frames), 200, np.float32)]
"""
DSP = """
import numpy as np
SR = 24000


def synth(lh, th, ln, lr, phi, f0, rng):
    return 0.1 * np.sin(np.cumsum(2 * np.pi * np.repeat(f0, 300) / SR)).astype(np.float32)
"""


def test_a_neural_voice_says_every_sentence_otherwise(folder, monkeypatch):
    words = (folder / "texts", folder / "page.html", "--out", folder / "one", "--neural")
    for program in ("flite", "espeak-ng"):
        (folder / "bin" / program).unlink()
    (folder / "hibari").mkdir()
    (folder / "hibari" / "__init__.py").write_text(HIBARI)
    (folder / "hibari" / "dsp.py").write_text(DSP)
    monkeypatch.syspath_prepend(folder)
    assert synthesize(monkeypatch, *words) == 0
    for name in ("hibari", "hibari.dsp"):
        del sys.modules[name]
    said = [json.loads(line) for line in (folder / "one" / "index.jsonl").read_text().splitlines()]
    assert len(said) > 3
    assert {one["voice"] for one in said} == {"hibari_heart"}
    sound, rate = soundfile.read(folder / "one" / said[0]["file"])
    pitches, speeds = [], []
    for one in said:
        part = sound[one["start"] : one["start"] + one["samples"]]
        pitches.append(np.abs(np.fft.rfft(part)).argmax() * rate / len(part))
        speeds.append(len(one["text"]) * rate / len(part))
    assert all(100 < pitch < 400 for pitch in pitches)
    assert max(pitches) > 1.1 * min(pitches)
    assert max(speeds) > 1.1 * min(speeds)


def test_a_neural_voice_that_is_missing_is_named(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "hibari", None)
    assert synthesize(monkeypatch, folder / "texts", "--out", folder / "one", "--neural") == 2
    assert "pip install hibari-tts" in capsys.readouterr().err
    assert synthesize(monkeypatch, folder / "texts", "--out", folder / "one", "--neural", "--language", "cs") == 2
    assert not (folder / "one").exists()
