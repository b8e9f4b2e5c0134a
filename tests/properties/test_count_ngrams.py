"""Texts of all kinds become a language model, apart from those of a corpus; what it expects is what they say."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from wavecast.apps.transcription.language_model import LanguageModel, read_ngrams
from wavecast.apps.transcription.tokenizer import load_tokenizer
from wavecast.cards import find_model

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "count_ngrams.py"
MODEL = "fastconformer.en_small"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)

    def run(*words):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return stop.value.code

    return run


def test_texts_become_a_language_model(script, tmp_path, capsys):
    (tmp_path / "page.html").write_text("<p>The <i>old</i> house stood; by the river.</p><p>The old house fell.</p>")
    (tmp_path / "scene.cfg").write_text('[message] message= _ "The old house is $name burning!" [/message]')
    (tmp_path / "talk.lua").write_text('Npc:says(_"The old house, I said.\\nYes.") Npc:says("never _shown")')
    (tmp_path / "plain").write_text("The old horse of Bob Smith and of Ann\n%\nThe old 7 mice.\n%\n")
    (tmp_path / "other").mkdir()
    said = {"text": "And the old horse of Bob Smith is here"}
    (tmp_path / "other" / "index.jsonl").write_text(json.dumps(said) + "\n")
    texts = [tmp_path / name for name in ("page.html", "scene.cfg", "talk.lua", "plain")]
    out = tmp_path / "some.ngrams.safetensors"
    words = (*texts, "--model", MODEL, "--out", out, "--threshold", 0, "--apart-from", tmp_path / "other")
    assert script(*words) == 0
    assert "n-grams of 22 words" in capsys.readouterr().err

    tokenizer = load_tokenizer(find_model(MODEL))
    model = LanguageModel(read_ngrams(out, tokenizer), 1.0, 0.0)

    def expects(text: str) -> float:
        place, log = 0, 0.0
        for token in tokenizer.encode(text):
            log += float(model.change(place)[token])
            place = model.next(place, token)
        return log

    assert expects("the old house") > expects("the old horse")
    assert script(*words) == 2
    assert "choose another --out" in capsys.readouterr().err


def test_what_is_missing_is_named(script, tmp_path, capsys):
    assert script(tmp_path / "nothing", "--model", MODEL, "--out", tmp_path / "x.safetensors") == 2
    assert "there is no text" in capsys.readouterr().err
