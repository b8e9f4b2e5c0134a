"""`wavecast transcribe` does what its options say; the model is the tiny one of the recorded outputs."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import wavecast as package
from kit.separators import write_separator
from kit.sounds import voice
from wavecast.apps.transcription.fastconformer import FRAME
from wavecast.apps.transcription.fastconformer_official import read_transcriber
from wavecast.apps.transcription.inference import Aligner, Options, Transcriber
from wavecast.apps.transcription.pool import TranscriptPool
from wavecast.cards import save_model
from wavecast.core.errors import WavecastError
from wavecast.core.recorded import Recorded

ARCHIVE = Path(__file__).parents[1] / "parity" / "fastconformer_streaming_tiny.nemo"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The tiny model as files of ours: the path of its card. Its weights are random; so it says many words."""
    card, network, tokenizer = read_transcriber(ARCHIVE)
    starts = [i for i, piece in enumerate(tokenizer.pieces) if piece.startswith("▁")]
    network.joint.output.bias.data[starts] += 0.4
    network.joint.output.bias.data[-1] -= 0.3
    return save_model(network, card, tmp_path_factory.mktemp("model"), tokenizer=tokenizer.model).path


@pytest.fixture(scope="module")
def transcriber(model):
    """It, loaded."""
    return Transcriber.load(str(model), "cpu")


@pytest.fixture
def talk(tmp_path):
    """Write a voice: talk("a.wav", seconds, channels) gives its path."""

    def write(name="talk.wav", seconds=4.0, channels=1, rate=16_000):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sound = np.stack([5 * voice(i, seconds, rate) for i in range(channels)], 1)
        soundfile.write(path, sound, rate, subtype="FLOAT")
        return path

    return write


def test_prints_the_text_and_nothing_else(wavecast, talk, model, transcriber):
    path = talk()
    said = wavecast("transcribe", path, "--model", model)
    expected = transcriber(soundfile.read(path, dtype="float32")[0])
    assert said.code == 0
    assert said.out.split() == expected.text.split()
    assert len(expected.words) > 3
    assert said.err == ""


@pytest.mark.parametrize("suffix", ["txt", "json", "jsonl", "srt", "vtt", "ctm", "tsv"])
def test_every_format_holds_the_words(wavecast, talk, model, tmp_path, suffix, transcriber):
    path = talk()
    words = [word.text for word in transcriber(soundfile.read(path, dtype="float32")[0]).words]
    target = tmp_path / f"out.{suffix}"
    assert wavecast("transcribe", path, "-o", target, "--model", model, "--quiet").code == 0
    text = target.read_text()
    place = 0
    for word in words:
        one = word.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") if suffix == "vtt" else word
        place = text.find(json.dumps(one, ensure_ascii=False)[1:-1] if "json" in suffix else one, place)
        assert place >= 0, (word, text)


def test_a_folder_is_mirrored_and_resumed(wavecast, talk, model, tmp_path):
    for name in ("in/a.wav", "in/deep/b.wav"):
        talk(name, 1.0)
    words = ("transcribe", tmp_path / "in", "-o", tmp_path / "out", "--format", "srt", "--model", model)
    assert wavecast(*words).code == 0
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert found == ["a.srt", "deep/b.srt"]
    (tmp_path / "out" / "a.srt").unlink()
    said = wavecast(*words, "--resume")
    assert said.code == 0
    assert "1 of 2 were done before" in said.err
    wavecast.fails(1, "exists", *words, hint="--overwrite")
    assert wavecast(*words, "--overwrite").code == 0


def test_several_to_stdout_name_themselves(wavecast, talk, model):
    first, second = talk("one.wav"), talk("two.wav", 3.0)
    said = wavecast("transcribe", first, second, "--model", model)
    assert said.code == 0
    assert {line.split(": ")[0] for line in said.out.splitlines()} == {str(first), str(second)}


@pytest.mark.parametrize("milliseconds", [0, 80, 480, 1040])
@pytest.mark.parametrize("head", ["ctc", "rnnt"])
def test_look_aheads_and_heads_live_equals_whole(wavecast, talk, model, tmp_path, milliseconds, head):
    report = tmp_path / "report.jsonl"
    words = ("--look-ahead", milliseconds, "--head", head, "--verify-streaming", "--json", report, "--model", model)
    said = wavecast("transcribe", talk(), *words)
    row = json.loads(report.read_text())
    assert said.code == 0
    assert row["look_ahead_ms"] == milliseconds
    assert row["latency_ms"] == milliseconds + 80
    assert row["streaming_error"] < 1e-5
    assert row["verified_tokens"] > 3


def test_channels_are_speakers_or_one_voice(wavecast, talk, model):
    path = talk(channels=2)
    said = wavecast("transcribe", path, "--channels", "each", "--format", "jsonl", "--model", model)
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert {row["speaker"] for row in rows} == {"1", "2"}
    mixed = wavecast("transcribe", path, "--format", "jsonl", "--model", model)
    assert all("speaker" not in json.loads(line) for line in mixed.out.splitlines())


@pytest.fixture(scope="module")
def separators(tmp_path_factory):
    """Separators: one of whose outputs the second is silent, one for two voices, and one that streams."""
    folder = tmp_path_factory.mktemp("separators")
    one, two = write_separator(folder, "one", silent=(1,)), write_separator(folder, "two", rate=16_000)
    return {"one": one, "two": two, "live": write_separator(folder, "live", causal=True, rate=16_000)}


def test_separated_voices_are_speakers(wavecast, talk, model, separators, tmp_path):
    """They are transcribed as the files of `wavecast separate` would be."""
    path = talk()
    words = "transcribe", path, "--model", model, "--format", "jsonl", "--separate-model", separators["two"]
    said = wavecast(*words, "--json", tmp_path / "r.json")
    assert said.code == 0
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert wavecast("separate", path, "--model", separators["two"], "--format", "wav", "--subtype", "FLOAT").code == 0
    files = sorted(tmp_path.glob("talk_*.wav"))
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["speakers"], report["channels"], report["separate_model"]) == (len(files), 1, "mossformer2.two")
    for number, file in enumerate(files, 1):
        found = [row["text"] for row in rows if row.get("speaker", "1") == str(number)]
        assert " ".join(found).split() == wavecast("transcribe", file, "--model", model).out.split()


def test_one_speaker_is_transcribed_as_without_separation(wavecast, talk, model, separators):
    words = "transcribe", talk(), "--model", model
    plain = wavecast(*words)
    said = wavecast(*words, "--separate-model", separators["one"])
    assert "1 output has no voice and is left out" in said.err
    assert said.out.split() == plain.out.split()


@pytest.mark.parametrize("suffix", ["txt", "json", "jsonl", "srt", "vtt", "ctm", "tsv"])
def test_separated_voices_in_every_format(wavecast, talk, model, separators, tmp_path, suffix):
    target = tmp_path / f"out.{suffix}"
    words = "transcribe", talk(seconds=2.0), "-o", target, "--model", model, "--separate-model", separators["two"]
    assert wavecast(*words).code == 0
    assert target.stat().st_size


def test_live_voices_are_separated(wavecast, talk, model, separators, streams, tmp_path, monkeypatch):
    monkeypatch.setattr(Recorded, "prepare", lambda *_: None)
    path = talk(seconds=2.0)
    words = "--model", model, "--format", "jsonl", "--separate-model"
    for name, code in (("live", 0), ("two", 1)):
        with path.open() as pipe:
            streams(stdin=pipe)
            said = wavecast("transcribe", "-", *words, separators[name])
        assert said.code == code
        if code:
            assert "needs the whole recording and cannot work live" in said.err
        else:
            assert {json.loads(line)["speaker"] for line in said.out.splitlines()} in ({"1"}, {"2"}, {"1", "2"})


@pytest.mark.parametrize("words", [("--channels", "each"), ("--verify-streaming",)])
def test_what_separation_does_not_go_with(wavecast, talk, model, words):
    text = f"{' '.join(words)} does not"
    wavecast.fails(2, text, "transcribe", talk(), "--model", model, "--separate", *words, hint="leave one out")


def test_events_carry_their_times(wavecast, talk, model):
    said = wavecast("transcribe", talk(), "--format", "jsonl", "--partials", "--model", model)
    rows = [json.loads(line) for line in said.out.splitlines()]
    finals = [row for row in rows if row["type"] == "final"]
    assert len(finals) < len(rows)
    assert all(0 <= row["start"] < row["end"] <= 4.1 and row["emitted"] > 0 for row in rows)
    assert all(0 < word["confidence"] <= 1 for row in finals for word in row["words"])


def test_beams_boosts_and_alignment_run(wavecast, talk, model, tmp_path, transcriber):
    path = talk()
    sound = soundfile.read(path, dtype="float32")[0]
    phrase = transcriber(sound, options=Options(head="ctc")).words[0].text
    (tmp_path / "phrases.txt").write_text(f"# to expect\n{phrase}\t4\n")
    for head in ("ctc", "rnnt"):
        said = wavecast("transcribe", path, "--head", head, "--beam", 3, "--model", model)
        boosted = wavecast("transcribe", path, "--head", head, "--boost", tmp_path / "phrases.txt", "--model", model)
        assert said.code == boosted.code == 0
        assert said.out
        assert boosted.out.count(phrase) >= wavecast("transcribe", path, "--head", head, "--model", model).out.count(
            phrase
        )


def test_ctc_says_when_the_words_of_a_transducer_were_spoken(transcriber):
    sound = 5 * voice(0, 6.0)
    (segment,) = transcriber(sound, options=Options(head="ctc")).segments
    late = replace(segment, words=tuple(replace(word, start=0.0, end=segment.end) for word in segment.words))
    aligner = Aligner(transcriber)
    with torch.inference_mode():
        aligner.listen(transcriber.network(torch.from_numpy(sound)[None])[0][0])
    aligned = aligner.align(late)
    assert aligned.text == segment.text
    starts = [word.start for word in aligned.words]
    assert starts == sorted(starts)
    assert starts[-1] > 1.0
    assert all(word.start < word.end <= segment.end + 0.1 and 0 < word.confidence <= 1 for word in aligned.words)
    aligner.forget(70)  # all but the frames that an utterance from there on may need
    assert aligner.align(replace(late, words=late.words[-1:])).words[0].start >= 45 * 0.08


def test_alignment_keeps_the_text(transcriber):
    sound = 5 * voice(0, 4.0)
    assert transcriber(sound, options=Options(align=True)).text == transcriber(sound).text


def test_int8_is_near(wavecast, talk, model):
    path = talk()
    exact = wavecast("transcribe", path, "--model", model, "--head", "ctc")
    rough = wavecast("transcribe", path, "--model", model, "--head", "ctc", "--precision", "int8")
    assert rough.code == 0
    assert len(rough.out.split()) == pytest.approx(len(exact.out.split()), rel=0.5, abs=3)


def test_a_pipe_gives_what_the_file_gives(wavecast, talk, model, tmp_path):
    path = talk()
    samples = soundfile.read(path, dtype="float32")[0].tobytes()
    whole = wavecast("transcribe", path, "--model", model).out
    command = [sys.executable, "-m", "wavecast", "transcribe", "-", "--raw", "f32le:16000", "--model", str(model)]
    out = tmp_path / "live.vtt"
    piped = subprocess.run([*command, "--format", "txt"], input=samples, capture_output=True, timeout=120, check=True)
    assert piped.stdout.decode() == whole
    subprocess.run([*command, "-o", str(out)], input=samples, capture_output=True, timeout=120, check=True)
    assert out.read_text().startswith("WEBVTT\n\n")


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_keeps_what_was_said(talk, model, tmp_path):
    path, out = talk(seconds=8.0), tmp_path / "live.txt"
    command = [sys.executable, "-m", "wavecast", "transcribe", "-", "--raw", "f32le:16000", "--model", str(model)]
    with subprocess.Popen([*command, "-o", str(out)], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdin.write(soundfile.read(path, dtype="float32")[0].tobytes())
        running.stdin.flush()
        wait_for = 60
        for _ in range(wait_for * 10):
            if out.exists() and running.poll() is None:
                try:
                    running.wait(2)
                except subprocess.TimeoutExpired:
                    break
        running.send_signal(2)
        running.stdin.close()
        running.wait(60)
    assert running.returncode == 130
    assert len(out.read_text().split()) > 3


def test_a_consumer_that_leaves_stops_it_quietly(talk, model):
    path = talk(seconds=6.0)
    command = (
        f"{sys.executable} -m wavecast transcribe {path} {path} {path} --model {model} --format jsonl | head -c 10"
    )
    done = subprocess.run(command, shell=True, capture_output=True, timeout=120)
    assert b"Traceback" not in done.stderr
    assert b"error" not in done.stderr


def test_python_takes_arrays_and_streams(model):
    transcriber = package.load("transcribe", str(model), "cpu")
    sound = 5 * voice(3, 5.0, 44_100)
    transcript = transcriber(sound, sample_rate=44_100)
    stream = transcriber.stream(sample_rate=44_100)
    pieces = [stream.push(sound[None, i : i + 5000]) for i in range(0, len(sound), 5000)]
    segments = [segment for piece in [*pieces, stream.flush()] for segment in piece]
    assert tuple(segments) == transcript.segments
    assert transcript.words[-1].end <= 5.1
    with pytest.raises(ValueError, match="expected floats"):
        transcriber(np.zeros(10, np.int16))
    with pytest.raises(WavecastError, match="sample rate of 10 Hz"):
        transcriber(np.zeros(10, np.float32), sample_rate=10)


def test_speakers_of_a_pool_get_what_they_get_alone(transcriber):
    sounds = [5 * voice(seed, 3.0 + seed) for seed in range(4)]
    pool = TranscriptPool(transcriber, capacity=4)
    heard, at, segments = {}, {}, {}
    rng = np.random.default_rng(0)
    for sound in sounds:
        speaker = pool.join()
        heard[speaker], at[speaker], segments[speaker] = sound, 0, []
    while len(pool):
        for speaker in [*at]:
            if rng.random() < 0.5:
                continue
            at[speaker] += pool.push(speaker, heard[speaker][at[speaker] : at[speaker] + int(rng.integers(1, 40_000))])
            if at[speaker] == len(heard[speaker]):
                pool.finish(speaker)
                del at[speaker]
        for speaker, ended in pool.step():
            segments[speaker] += ended
    for speaker, sound in heard.items():
        alone = transcriber(sound)
        assert [word.text for one in segments[speaker] for word in one.words] == [word.text for word in alone.words]
        assert [word.start for one in segments[speaker] for word in one.words] == [word.start for word in alone.words]


@pytest.mark.parametrize("seconds", [0.0, 0.0001, 0.001, 0.079, 0.5])
def test_short_sounds(wavecast, tmp_path, model, seconds):
    path = tmp_path / "short.wav"
    soundfile.write(path, np.zeros(round(seconds * 16_000)), 16_000)
    said = wavecast("transcribe", path, "--model", model)
    assert (said.code, said.err) == (0, "")


def test_silence_noise_and_numbers_that_are_none(wavecast, tmp_path, model):
    rng = np.random.default_rng(0)
    sounds = {"silence": np.zeros(48_000), "noise": rng.standard_normal(48_000), "nan": np.full(48_000, np.nan)}
    for name, x in sounds.items():
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, x.astype(np.float32), 16_000, subtype="FLOAT")
        said = wavecast("transcribe", path, "--model", model, "-o", tmp_path / f"{name}.json")
        assert said.code == 0, said
        assert isinstance(json.loads((tmp_path / f"{name}.json").read_text())["text"], str)
    assert "48000 samples were not numbers" in said.err


@pytest.mark.parametrize(
    ("words", "text", "hint"),
    [
        (("--look-ahead", 100), "no look-ahead of 100 ms", "0, 80, 480, 1040"),
        (("--boost", "nothing.txt"), "nothing.txt", "one phrase a line"),
        (("--resume",), "--resume", "-o FOLDER/"),
        (("--pause", "soon"), "no time in seconds", ""),
        (("--json", "-"), "stdout", "-o"),
        (("--name-template", "{x}", "-o", "out/"), "--name-template", "{stem}"),
        (("--mic",), "--mic goes without inputs", "second call"),
        (("--raw", "s17"), "--raw", "s16le:16000"),
    ],
)
def test_wrong_options(wavecast, talk, model, words, text, hint):
    said = wavecast("transcribe", talk(seconds=0.5), "--model", model, *words)
    assert said.code in (1, 2)
    assert said.out == ""
    assert text in said.err
    assert "hint: " in said.err
    assert hint in said.err


def test_one_bad_file_does_not_stop_the_others(wavecast, talk, model, tmp_path):
    good, bad = talk("good.wav", 1.0), tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF nothing")
    said = wavecast("transcribe", bad, good, "-o", f"{tmp_path}/out/", "--model", model)
    assert said.code == 1
    assert "bad.wav" in said.err
    assert (tmp_path / "out" / "good.txt").exists()


def test_nothing_is_overwritten_and_nothing_half_written(wavecast, talk, model, tmp_path, monkeypatch):
    path, target = talk(), tmp_path / "talk.txt"
    target.write_text("mine")
    wavecast.fails(1, "exists", "transcribe", path, "-o", target, "--model", model, hint="--overwrite")
    assert target.read_text() == "mine"

    class Full(io.StringIO):
        def flush(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdopen", lambda *_, **__: Full())
    wavecast.fails(1, "No space left", "transcribe", path, "-o", target, "--overwrite", "--model", model)
    assert target.read_text() == "mine"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["talk.txt", "talk.wav"]


def test_without_a_microphone_library_the_cure_is_named(wavecast, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    wavecast.fails(1, "sounddevice", "transcribe", "--mic", "--model", model, hint="wavecast[mic]")


class Loud:
    """A stand-in for sounddevice: its microphone gives a second of sound, then Ctrl-C."""

    PortAudioError = RuntimeError

    class InputStream:
        """Calls back at once."""

        def __init__(self, samplerate, blocksize, device, channels, dtype, callback):
            self.callback, self.blocksize = callback, blocksize
            assert (samplerate, channels, dtype) == (16_000, 1, "float32")

        def start(self):
            """Give all of it."""
            for part in np.split(5 * voice(0, 4.0), 400):
                assert len(part) == self.blocksize
                self.callback(part[:, None], len(part), None, None)

        def close(self):
            """Do nothing."""


@pytest.mark.usefixtures("keyboard")
def test_the_microphone_until_ctrl_c(wavecast, talk, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", Loud)
    from wavecast.datamodules import microphone

    class Interrupted(microphone.queue.Queue):
        def get(self, *words, **names):
            if self.empty():
                raise KeyboardInterrupt
            return super().get(*words, **names)

    monkeypatch.setattr(microphone.queue, "Queue", Interrupted)
    said = wavecast("transcribe", "--mic", "--model", model)
    assert said.code == 0
    assert said.out.split() == wavecast("transcribe", talk(), "--model", model).out.split()


def test_a_speaker_too_many_is_refused(transcriber):
    pool = TranscriptPool(transcriber, capacity=1, backlog=2)
    speaker = pool.join()
    with pytest.raises(WavecastError, match="holds 1 streams"):
        pool.join()
    assert pool.push(speaker, np.zeros(10**6, np.float32)) == 2 * transcriber.block
    assert transcriber.block == FRAME * 14
    pool.finish(speaker)
    while len(pool):
        pool.step()
    pool.join()
