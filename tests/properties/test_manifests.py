"""Manifests of every kind say the same; faults are counted and named with the cure."""

import csv
import gzip
import json

import numpy as np
import pytest
import soundfile

from kit.sounds import voice, write_packed
from wavecast.core.errors import WavecastError
from wavecast.datamodules.clips import decode
from wavecast.datamodules.manifests import normalize, open_manifest

RATE = 8000
SPOKEN = [("a", 0.0, 0.5, "Hello there.", "ann"), ("b", 0.5, 0.75, "It's me!", "bob")]
"""Two utterances of one recording of 1.5 s: id, start, seconds, text, speaker."""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "talk.wav", voice(0, 1.5, RATE), RATE, subtype="PCM_16")
    return tmp_path


def write_lines(path, rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def nemo(folder, **changes):
    rows = [
        {"audio_filepath": "audio/talk.wav", "offset": start, "duration": seconds, "text": text, "speaker": speaker,
         "id": name, "lang": "en"}
        for name, start, seconds, text, speaker in SPOKEN
    ]  # fmt: skip
    return write_lines(folder / "nemo.jsonl", [rows[0], {**rows[1], **changes}])


def recording(folder):
    source = {"type": "file", "channels": [0], "source": "audio/talk.wav"}
    return {"id": "talk", "sources": [source], "sampling_rate": RATE, "num_samples": 12_000, "duration": 1.5}


def supervision(name, start, seconds, text, speaker):
    said = {"text": text, "speaker": speaker, "language": "en"}
    return {"id": name, "recording_id": "talk", "start": start, "duration": seconds, "channel": 0, **said}


def cuts(folder):
    """Each utterance in a cut that begins a quarter of a second before it, where there is room."""
    rows = []
    for name, start, seconds, text, speaker in SPOKEN:
        before = min(start, 0.25)
        inside = supervision(name, before, seconds, text, speaker)
        cut = {"id": f"cut-{name}", "start": start - before, "duration": seconds + before, "channel": 0}
        rows.append({**cut, "supervisions": [inside], "recording": recording(folder), "type": "MonoCut"})
    return write_lines(folder / "cuts.jsonl.gz", rows)


def supervisions(folder):
    write_lines(folder / "my_recordings.jsonl", [recording(folder)])
    return write_lines(folder / "my_supervisions.jsonl", [supervision(*row) for row in SPOKEN])


def kaldi(folder):
    (folder / "wav.scp").write_text("talk audio/talk.wav\n")
    (folder / "segments").write_text("".join(f"{n} talk {start} {start + length}\n" for n, start, length, *_ in SPOKEN))
    for file, column in (("text", 3), ("utt2spk", 4)):
        (folder / file).write_text("".join(f"{row[0]} {row[column]}\n" for row in SPOKEN))
    (folder / "utt2lang").write_text("a en\nb en\n")
    return folder


def table(folder, suffix=".csv"):
    path = folder / f"table{suffix}"
    with path.open("w", newline="") as lines:
        writer = csv.writer(lines, delimiter="\t" if suffix == ".tsv" else ",")
        writer.writerow(["id", "path", "start", "duration", "text", "speaker", "language"])
        writer.writerows([name, "audio/talk.wav", *rest, "en"] for name, *rest in SPOKEN)
    return path


def tabs(folder):
    return table(folder, ".tsv")


@pytest.mark.parametrize("write", [nemo, cuts, supervisions, kaldi, table, tabs])
def test_every_kind_of_manifest_says_the_same(folder, write):
    found = open_manifest(write(folder))
    assert [(one.id, one.start, one.samples, one.text, one.speaker, one.language) for one in found] == [
        ("a", 0, 4000, "Hello there.", "ann", "en"),
        ("b", 4000, 6000, "It's me!", "bob", "en"),
    ]
    assert all(one.path == folder / "audio" / "talk.wav" and not one.synthetic for one in found)


def test_a_packed_corpus_and_the_sound_of_its_utterances(tmp_path):
    sound = write_packed(tmp_path / "packed", (8000, 12000))
    index = tmp_path / "packed" / "index.jsonl"
    rows = [json.loads(line) for line in index.read_text().splitlines()]
    rows[0] |= {"text": "one", "language": "en"}
    rows[1] |= {"text": "two", "voice": "x+y", "bandwidth": 5500}
    del rows[1]["speaker"]
    write_lines(index, rows)
    one, two = open_manifest(tmp_path / "packed")
    assert (one.id, one.speaker, one.synthetic, one.language) == ("all-0", "s0", False, "en")
    assert (two.id, two.speaker, two.synthetic, two.language) == ("all-8000", "x+y", True, "")
    assert two.attributes == {"bandwidth": 5500, "clip": "1"}
    clips = decode([one.entry(), two.entry()], index, 16_000, tmp_path / "cache")
    np.testing.assert_allclose(clips.clip(1), sound[8000:], atol=1 / 32768)
    assert clips.attributes[1]["text"] == "two"


def test_a_whole_recording_needs_no_times(folder):
    path = write_lines(folder / "whole.json", [{"audio_filepath": "audio/talk.wav", "text": "all of it"}])
    (one,) = open_manifest(path)
    assert (one.start, one.samples, one.id) == (0, None, "talk-1")


def test_a_duration_that_was_rounded_up_is_cut_to_the_recording(folder):
    (_, two) = open_manifest(nemo(folder, duration=1.03))
    assert two.start + two.samples == 12_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_filepath": "gone.wav"}, "line 2 names .*gone.wav, which does not exist"),
        ({"text": "  "}, "line 2 has no text"),
        ({"text": None}, "line 2 has no text"),
        ({"duration": -1}, "line 2 begins at 0.5 s and lasts -1 s"),
        ({"offset": -1}, "line 2 begins at -1 s"),
        ({"duration": 3600}, "line 2 ends at 3600.50 s, and talk.wav at 1.50 s"),
        ({"duration": float("nan")}, "line 2 begins at 0.5 s and lasts nan s"),
        ({"duration": "long"}, "line 2 has times that are no numbers"),
        ({"id": "a"}, "line 2 has the id a of another"),
    ],
)
def test_faults_are_named_and_can_be_left_out(folder, change, message):
    path = nemo(folder, **change)
    with pytest.raises(WavecastError, match=f"1 of 2 utterances cannot be used: {message}") as raised:
        open_manifest(path)
    assert "--data.skip_bad true" in raised.value.hint
    assert [one.id for one in open_manifest(path, skip_bad=True)] == ["a"]


def test_all_faults_are_counted_and_the_first_are_named(folder):
    rows = [{"audio_filepath": f"{k}.wav", "text": "x"} for k in range(40)]
    with pytest.raises(WavecastError, match=r"40 of 40 utterances .*line 5 names .*4\.wav.*; and 35 more"):
        open_manifest(write_lines(folder / "many.jsonl", rows))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'text': 1}", "line 2 is not JSON"),
        ("[1, 2]", "line 2 is a JSON list, not an object"),
        ('{"text": "x"}', "line 2 names no recording: it has text"),
        ('{"audio_filepath": 3, "text": "x"}', "line 2 is no utterance"),
        ('{"recording": {"sources": []}, "supervisions": [{}], "start": 0}', "line 2 has no recording source"),
        ('{"recording": {}, "supervisions": [{}], "start": 0}', "line 2 has no sources"),
    ],
)
def test_lines_that_are_no_utterances_are_named(folder, line, message):
    first = nemo(folder).read_text().splitlines()[0]
    path = write_lines(folder / "bad.jsonl", [first, line])
    with pytest.raises(WavecastError, match=message):
        open_manifest(path)
    assert len(open_manifest(path, skip_bad=True)) == 1


def test_what_is_no_manifest_is_refused(folder, tmp_path):
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "no_text.csv").write_text("path,words\na.wav,b\n")
    (tmp_path / "cut_short.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 99)[:-9])
    (tmp_path / "nothing").mkdir()
    (tmp_path / "piped").mkdir()
    (tmp_path / "piped" / "wav.scp").write_text("a sph2pipe a.sph |\n")
    (tmp_path / "piped" / "text").write_text("a x\n")
    write_lines(tmp_path / "alone_supervisions.jsonl", [supervision(*SPOKEN[0])])
    for name, message in {
        "gone.jsonl": "does not exist",
        "notes.md": "of no known kind",
        "empty.jsonl": "lists no utterances",
        "no_text.csv": "has no column text",
        "cut_short.jsonl.gz": "cannot be read",
        "nothing": "a folder needs index.jsonl",
        "piped": r"runs commands \(a\), which are not run here",
        "alone_supervisions.jsonl": "their recordings are not beside it",
    }.items():
        with pytest.raises(WavecastError, match=message):
            open_manifest(tmp_path / name)


def test_a_file_that_is_no_sound_is_named(folder):
    (folder / "audio" / "noise.wav").write_text("not sound")
    with pytest.raises(WavecastError, match=r"line 2 names .*noise\.wav, which cannot be decoded"):
        open_manifest(nemo(folder, audio_filepath="audio/noise.wav"))


def test_kaldi_folders_without_segments_and_with_strange_ones(folder):
    kaldi(folder)
    (folder / "text").write_text("talk all of it\n")
    (folder / "segments").unlink()
    (one,) = open_manifest(folder)
    assert (one.id, one.start, one.text, one.samples) == ("talk", 0, "all of it", None)
    (folder / "segments").write_text("a gone 0 1\nb talk zero 1\n")
    with pytest.raises(WavecastError, match=r"the recording gone, which wav\.scp has not; segment b is 'talk zero 1'"):
        open_manifest(folder)


@pytest.mark.parametrize(
    ("text", "style", "expected"),
    [
        ("Who made 'this' — I can’t tell; 'Tis made!", "spoken", "who made this i can't tell tis made"),
        ("eco-system  1984_x\n(the boys')", "spoken", "eco system 1984 x the boys"),
        ("ÉTÉ ﬁn", "spoken", "été fin"),
        ("Stop,  He said.", "lower", "stop, he said."),
        ("Stop,  He said.", "verbatim", "Stop, He said."),
        ("...!", "spoken", ""),
    ],
)
def test_normalized_texts(text, style, expected):
    assert normalize(text, style) == expected
