"""Text formats: read back by small parsers of their definitions, golden files, growing files, hostile text."""

import csv
import io
import json
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavecast.apps.transcription.formats import FORMATS, CTMWriter, clock, cues, wrap
from wavecast.apps.transcription.words import Segment, Word

SOME = settings(max_examples=50, deadline=None, derandomize=True, database=None)


def said(text: str, start: float, speaker: str = "", seconds: float = 0.4) -> Segment:
    words = [
        Word(word, round(start + i * seconds, 3), round(start + (i + 0.8) * seconds, 3), 0.5)
        for i, word in enumerate(text.split())
    ]
    return Segment(tuple(words), speaker)


TALK = [said("Hello there.", 0.4), said("R & D <b>costs</b> 5 --> 6", 3661.24)]


def written(name: str, segments: list[Segment], emitted: float | None = None, partials: bool = True) -> str:
    file = io.StringIO()
    writer = FORMATS[name](file)
    for segment in segments:
        if partials:
            writer.partial(segment, emitted)
        writer.add(segment, emitted)
    writer.close()
    return file.getvalue()


def seconds_of(stamp: str, comma: str) -> float:
    hours, minutes, rest = re.fullmatch(rf"(\d\d+):([0-5]\d):([0-5]\d{comma}\d\d\d)", stamp).groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(rest.replace(",", "."))


def parse_srt(text: str) -> list[tuple[float, float, list[str]]]:
    blocks = text.split("\n\n")
    assert blocks.pop() == ""
    parsed = []
    for number, block in enumerate(blocks, 1):
        index, times, *lines = block.split("\n")
        assert int(index) == number
        assert lines
        start, end = times.split(" --> ")
        assert not any("-->" in line for line in lines)
        parsed.append((seconds_of(start, ","), seconds_of(end, ","), lines))
    return parsed


def parse_vtt(text: str) -> list[tuple[float, float, list[str]]]:
    header, *blocks = text.split("\n\n")
    assert header == "WEBVTT"
    assert blocks.pop() == ""
    parsed = []
    for block in blocks:
        times, *lines = block.split("\n")
        start, end = times.split(" --> ")
        assert not any("-->" in line for line in lines)
        bare = [re.sub(r"<v [^<>]*>", "", line) for line in lines]
        assert not any(re.search("[<>]|&(?!amp;|lt;|gt;)", line) for line in bare)
        plain = [line.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for line in bare]
        parsed.append((seconds_of(start, r"\."), seconds_of(end, r"\."), plain))
    return parsed


def test_srt_is_the_golden_file():
    assert written("srt", TALK) == (
        "1\n00:00:00,400 --> 00:00:01,120\nHello there.\n\n"
        "2\n01:01:01,240 --> 01:01:03,960\nR & D <b>costs</b> 5 -> 6\n\n"
    )


def test_vtt_is_the_golden_file():
    assert written("vtt", TALK) == (
        "WEBVTT\n\n00:00:00.400 --> 00:00:01.120\nHello there.\n\n"
        "01:01:01.240 --> 01:01:03.960\nR &amp; D &lt;b&gt;costs&lt;/b&gt; 5 --&gt; 6\n\n"
    )


def test_text_table_and_ctm_are_the_golden_files():
    assert written("txt", TALK) == "Hello there.\nR & D <b>costs</b> 5 --> 6\n"
    assert written("tsv", TALK[:1]) == "start\tend\tspeaker\ttext\n400\t1120\t\tHello there.\n"
    assert written("ctm", TALK[:1]) == "stream 1 0.400 0.320 Hello 0.5000\nstream 1 0.800 0.320 there. 0.5000\n"


def test_events_carry_audio_time_emission_time_and_words():
    partial, final = map(json.loads, written("jsonl", TALK[:1], emitted=2.5).splitlines())
    words = [
        {"text": "Hello", "start": 0.4, "end": 0.72, "confidence": 0.5},
        {"text": "there.", "start": 0.8, "end": 1.12, "confidence": 0.5},
    ]
    assert final == {
        "type": "final", "start": 0.4, "end": 1.12, "text": "Hello there.", "emitted": 2.5, "words": words
    }  # fmt: skip
    assert partial == {**final, "type": "partial"}


def test_json_is_one_object():
    found = json.loads(written("json", TALK, 7.0))
    assert found["text"] == "Hello there. R & D <b>costs</b> 5 --> 6"
    assert [segment["emitted"] for segment in found["segments"]] == [7.0, 7.0]
    assert found["segments"][1]["words"][-1]["text"] == "6"
    assert json.loads(written("json", [])) == {"segments": [], "text": ""}


def test_speakers_are_labelled():
    talk = [said("good morning", 0.0, "left"), said("hi", 0.4, "A & B")]
    assert written("txt", talk) == "left: good morning\nA & B: hi\n"
    assert [lines for _, _, lines in parse_srt(written("srt", talk))] == [["left: good morning"], ["A & B: hi"]]
    assert "<v left>good morning\n" in written("vtt", talk)
    assert "<v A &amp; B>hi\n" in written("vtt", talk)
    assert [row.split()[1] for row in written("ctm", talk).splitlines()] == ["left", "left", "A_&_B"]
    assert [row["speaker"] for row in csv.DictReader(io.StringIO(written("tsv", talk)), delimiter="\t")] == [
        "left",
        "A & B",
    ]
    assert [row["speaker"] for row in json.loads(written("json", talk))["segments"]] == ["left", "A & B"]


def test_cues_of_one_speaker_do_not_overlap():
    talk = [said("one", 0.0, "left"), said("two", 0.3, "left"), said("three", 0.3, "right"), said("four", 0.5, "left")]
    times = [(start, end) for start, end, _ in parse_srt(written("srt", talk))]
    assert times == [(0.0, 0.32), (0.32, 0.62), (0.3, 0.62), (0.62, 0.82)]


def test_ctm_names_the_recording_in_one_column():
    file = io.StringIO()
    CTMWriter(file, "my talk").add(Segment((Word(";;comment", 1.0, 1.5, 0.25),)))
    assert file.getvalue() == "my_talk 1 1.000 0.500 _;;comment 0.2500\n"


@pytest.mark.parametrize("name", ["txt", "jsonl", "srt", "vtt", "ctm", "tsv"])
def test_a_growing_file_is_valid_at_any_moment(name):
    file, talk = io.StringIO(), TALK * 2
    writer = FORMATS[name](file)
    for count in range(4):
        assert file.getvalue() == written(name, talk[:count], partials=False)
        writer.add(talk[count])
    writer.close()
    assert file.getvalue() == written(name, talk, partials=False)


@pytest.mark.parametrize(
    ("seconds", "stamp"),
    [
        (0, "00:00:00.000"),
        (59.9996, "00:01:00.000"),
        (3599.9994, "00:59:59.999"),
        (3600, "01:00:00.000"),
        (86_400 * 5 + 61.08, "120:01:01.080"),
    ],
)
def test_times_are_written_right_beyond_an_hour(seconds, stamp):
    assert clock(seconds) == stamp


def test_cues_are_cut_between_words():
    text = "the quick brown fox jumps over the lazy dog and runs away from all of the hounds of the old mansion now"
    made = cues(said(text, 10.0, seconds=0.2).words)
    assert " ".join(word for _, _, lines in made for line in lines for word in line.split()) == text
    assert [len(lines) for _, _, lines in made] == [2, 1]
    assert made[0][2] == ["the quick brown fox jumps over the lazy", "dog and runs away from all of the hounds"]
    slow = cues(said("one two three four five six seven", 0.0, seconds=1.5).words)
    assert [(start, lines) for start, _, lines in slow] == [(0.0, ["one two three four"]), (6.0, ["five six seven"])]
    long = "x" * 100
    assert [lines for _, _, lines in cues(said(f"a {long} b", 0.0).words)] == [["a", long], ["b"]]


words = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=30)
hostile = st.sampled_from(
    ["&", "<", "-->", "&amp;", "<v", "WEBVTT", "NOTE", "1", ";;", '"', "\\", "00:00:00.000", "--"]
)
talks = st.lists(st.lists(words | hostile, min_size=1, max_size=25), max_size=4)


@SOME
@given(talks, st.sampled_from(["", "left", "R&D <x>"]))
def test_every_text_is_read_back(texts, speaker):
    segments, start = [], 3590.0
    for one in texts:
        segments.append(said(" ".join(one), start, speaker))
        start = segments[-1].end + 0.1
    text = [word for one in texts for word in one]
    shorter = [word.replace("-->", "->") for word in text]  # SubRip has no escapes
    for made, mark, expected in (
        (parse_srt(written("srt", segments)), f"{speaker}: " if speaker else "", shorter),
        (parse_vtt(written("vtt", segments)), "", text),
    ):
        assert " ".join(" ".join(lines).removeprefix(mark) for _, _, lines in made).split() == expected
        for start, end, lines in made:
            assert start < end <= start + 6.1
            assert len(lines) <= 2 or any(len(line) > 40 for line in lines)
            assert all(len(line) <= 42 or " " not in line for line in lines)
        assert all(one[1] <= other[0] + 1e-9 for one, other in pairwise(made))
    table = list(csv.DictReader(io.StringIO(written("tsv", segments)), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [row["text"] for row in table] == [segment.text for segment in segments]
    rows = [row.split(" ") for row in written("ctm", segments).splitlines()]
    assert all(len(row) == 6 for row in rows)
    assert [row[4].removeprefix("_") for row in rows] == [word.removeprefix("_") for word in text]
    events = [json.loads(line) for line in written("jsonl", segments).splitlines()]
    assert [event["text"] for event in events if event["type"] == "final"] == [segment.text for segment in segments]
    whole = json.loads(written("json", segments))
    assert [word["text"] for segment in whole["segments"] for word in segment["words"]] == text


@SOME
@given(st.lists(words, min_size=1, max_size=40))
def test_lines_are_short_and_nothing_is_lost(text):
    lines = wrap(" ".join(text))
    assert " ".join(lines).split() == text
    assert all(len(line) <= 42 or " " not in line for line in lines)
