"""`wavecast transcribe --language-model`: texts and counted n-grams guide the beam; a model may bring its own."""

from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from kit.sounds import RATE, voice
from wavecast.apps.transcription.fastconformer_official import read_transcriber
from wavecast.apps.transcription.inference import Options, Transcriber
from wavecast.apps.transcription.language_model import NGrams
from wavecast.apps.transcription.ngrams import count
from wavecast.cards import find_model, save_model, sha256
from wavecast.core.errors import WavecastError

ARCHIVE = Path(__file__).parents[1] / "parity" / "fastconformer_streaming_tiny.nemo"
STRONG = ("--language-weight", 2, "--token-reward", 4)
SOUND = 5 * voice(0, 4.0)


@pytest.fixture
def model(tmp_path):
    """The tiny model of the recorded outputs, of random weights: the path of its card."""
    card, network, tokenizer = read_transcriber(ARCHIVE)
    starts = [i for i, piece in enumerate(tokenizer.pieces) if piece.startswith("▁")]
    network.joint.output.bias.data[starts] += 0.4
    network.joint.output.bias.data[-1] -= 0.3
    (tmp_path / "model").mkdir()
    return save_model(network, card, tmp_path / "model", tokenizer=tokenizer.model).path


@pytest.fixture
def talk(tmp_path):
    soundfile.write(tmp_path / "talk.wav", SOUND, RATE, subtype="FLOAT")
    return tmp_path / "talk.wav"


def book_of(transcriber: Transcriber, head: str, folder: Path) -> tuple[Path, str]:
    """Write a text of a single word, which the model's beam has said once: its path, and the word."""
    said = transcriber(SOUND, options=Options(head=head, beam=8)).text.split()
    word = next(one for one in said if f"▁{one}" in transcriber.tokenizer.pieces)
    (folder / "book.txt").write_text(f"{word} {word} {word}\n" * 5)
    return folder / "book.txt", word


@pytest.fixture
def book(tmp_path, model):
    return book_of(Transcriber.load(str(model), "cpu"), "ctc", tmp_path)


def with_its_own(model: Path, book: Path) -> Path:
    """Give a model n-grams of its own."""
    card, tokenizer = find_model(str(model)), Transcriber.load(str(model), "cpu").tokenizer
    path = model.with_name("own.ngrams.safetensors")
    NGrams.of(count([tokenizer.encode(book.read_text())], len(tokenizer), 3), tokenizer.model).save(path)
    said = {"file": path.name, "sha256": sha256(path), "bytes": path.stat().st_size}
    replace(card, language_model=said).write(model)
    return path


@pytest.mark.parametrize("head", ["ctc", "rnnt"])
def test_a_text_guides_the_beam(wavecast, talk, model, head, tmp_path):
    path, word = book_of(Transcriber.load(str(model), "cpu"), head, tmp_path)
    words = ("transcribe", talk, "--model", model, "--head", head)
    plain = wavecast(*words, "--beam", 8)
    guided = wavecast(*words, *STRONG, "--language-model", path)
    assert set(guided.out.split()) == {word}
    assert guided.out != plain.out
    unmoved = wavecast(*words, "--language-model", path, "--language-weight", 0, "--token-reward", 0)
    assert unmoved.out == plain.out


def test_live_is_the_file_with_it_and_phrases_too(wavecast, talk, model, book, tmp_path):
    path, word = book
    (tmp_path / "phrases.txt").write_text(f"{word} {word}\t1\n")
    words = ("--model", model, "--language-model", path, "--boost", tmp_path / "phrases.txt", "--verify-streaming")
    said = wavecast("transcribe", talk, *words)
    assert said.code == 0
    assert "live equals whole" in said.err


def test_a_models_own_is_the_default(wavecast, talk, model, book):
    plain = Transcriber.load(str(model), "cpu")(SOUND).text
    guided = Options(language_model=str(book[0]))
    with_its_own(model, book[0])
    transcriber = Transcriber.load(str(model), "cpu")
    assert transcriber(SOUND).text != plain
    assert transcriber(SOUND, options=Options(language_model="none")).text == plain
    assert transcriber(SOUND, options=Options(beam=1)).text == plain
    assert transcriber.decoder(Options()).width == transcriber.decoder(guided).width == 8
    assert transcriber.decoder(Options(beam=3)).width == 3
    assert transcriber.decoder(Options()).guide is transcriber.decoder(Options(beam=3)).guide  # is read once
    assert wavecast("transcribe", talk, "--model", model).out.split() == transcriber(SOUND).text.split()
    assert "language_model:\n  file: own.ngrams" in wavecast("models", "show", model).out
    assert wavecast("models", "verify", model).code == 0


def test_a_damaged_one_of_a_model_is_found(wavecast, talk, model, book):
    path = with_its_own(model, book[0])
    path.write_bytes(path.read_bytes()[:-1])
    for words in (("models", "verify", model), ("transcribe", talk, "--model", model)):
        wavecast.fails(1, "own.ngrams.safetensors is not what its card says", *words, hint="fetch it again")
    path.unlink()
    wavecast.fails(1, "the language model of", "models", "verify", model, hint="install the package again")
    assert wavecast("transcribe", talk, "--model", model, "--language-model", "none").code == 0


def test_what_does_not_go_together(wavecast, talk, model, book, tmp_path):
    words = ("transcribe", talk, "--model", model, "--language-model")
    wavecast.fails(2, "--beam 1 has one", *words, book[0], "--beam", 1, hint="leave one out")
    wavecast.fails(1, "nothing.txt: no language model read", *words, tmp_path / "nothing.txt", hint="count_ngrams.py")
    with pytest.raises(WavecastError, match="a language model chooses"):
        Transcriber.load(str(model), "cpu").decoder(Options(beam=1, language_model="x"))
    wavecast.fails(2, "weight", *words, book[0], "--language-weight", "much")


def test_evaluation_takes_it(wavecast, talk, model, book, tmp_path):
    path, word = book
    (tmp_path / "test.jsonl").write_text(f'{{"audio_filepath": "{talk}", "duration": 4.0, "text": "{word}"}}\n')
    words = ("evaluate", "transcription", tmp_path / "test.jsonl", "--model", model, "--files", "--head", "ctc")
    transcriber = Transcriber.load(str(model), "cpu")
    transcriber.choose_look_ahead(80)
    options = {"head": "ctc", "language_model": str(path)}
    guided = transcriber(SOUND, options=Options(**options, weight=2.0, reward=4.0)).text
    assert guided in wavecast(*words, "--look-ahead", 80, *STRONG, "--language-model", path).out
    assert guided != transcriber(SOUND, options=Options(head="ctc")).text
