"""Views of words: what is a word and who says it, where it lies in its view, what is drawn beside it."""

import json
import pickle
from itertools import pairwise

import numpy as np
import pytest
import soundfile

from kit.sounds import RATE, hiss
from wavecast.core.errors import WavecastError
from wavecast.datamodules.clips import open_clips
from wavecast.datamodules.keyword_clips import open_spoken, part_of, says
from wavecast.datamodules.keyword_items import (
    OVERHANG,
    REST,
    FixedItems,
    KeywordItems,
    Shares,
    active_part,
    put,
)
from wavecast.datamodules.keywords import VIEW, KeywordData
from wavecast.datamodules.planted_words import PlantedWords

PITCH = {"no": 300, "stop": 600, "yes": 1200}
PLAIN = {"augment": False, "speed": [1.0, 1.0]}


def tone(word, seconds=0.4, pause=0.1):
    """A word of one pitch, which does not pause, with silence around it."""
    x = 0.3 * np.sin(2 * np.pi * PITCH[word] * np.arange(round(seconds * RATE)) / RATE)
    return np.pad(x, round(pause * RATE)).astype(np.float32)


def write(path, x):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, x, RATE, subtype="PCM_16")


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Three words of four speakers as Speech Commands has them, its noises, and other speech."""
    folder = tmp_path_factory.mktemp("commands")
    for word in PITCH:
        for speaker in range(4):
            write(folder / "words" / word / f"speaker{speaker}_nohash_0.wav", tone(word))
    write(folder / "words" / "_background_noise_" / "hum.wav", hiss(0, 1.0))
    for number in range(4):
        write(folder / "other" / f"person{number}" / "talk.wav", 0.5 * hiss(number, 3.0))
    return folder


@pytest.fixture(scope="module")
def listed(commands):
    """The same with the official lists."""
    folder = commands.parent / "listed"
    for path in sorted((commands / "words").rglob("*.wav")):
        write(folder / path.relative_to(commands / "words"), soundfile.read(path)[0])
    for name, speaker in (("validation_list.txt", 1), ("testing_list.txt", 2)):
        (folder / name).write_text("".join(f"{word}/speaker{speaker}_nohash_0.wav\r\n" for word in PITCH))
    return folder


def words_of(commands, **only):
    clips = open_spoken(commands / "words", RATE, commands / "cache")
    return clips.where(only=only) if only else clips


def others_of(commands):
    return open_clips(commands / "other", RATE, commands / "cache")


def items_of(commands, shares=None, samples=VIEW, other=True, classes=("no", "stop", "yes"), **options):
    other = others_of(commands) if other else None
    rejection = ("_unknown_", "_silence_") if shares and shares.unknown + shares.silence else ()
    shares, names = shares or Shares(context=0), [*classes, *rejection]
    return KeywordItems(words_of(commands), names, samples, 7, other=other, shares=shares, **options)


def data_of(commands, **options):
    options = {"speech": [str(commands / "words")], "cache": str(commands / "cache"), **options}
    return KeywordData(**{"held_out": ["speaker3"], "test": ["speaker2"], **options})


def test_folders_name_words_and_files_their_speakers(commands):
    clips = words_of(commands)
    assert len(clips) == 12
    assert {about["word"] for about in clips.attributes} == set(PITCH)
    assert {about["speaker"] for about in clips.attributes} == {f"speaker{k}" for k in range(4)}
    assert not any("part" in about for about in clips.attributes)


def test_official_lists_say_what_is_validated_and_tested(commands, listed):
    clips = open_spoken(listed, RATE, commands / "cache")
    parts = {about["speaker"]: part_of(about, ["speaker0"], []) for about in clips.attributes}
    assert parts == {"speaker0": "train", "speaker1": "validation", "speaker2": "test", "speaker3": "train"}


def test_a_list_of_missing_clips_is_an_error(tmp_path, commands):
    write(tmp_path / "w" / "yes" / "a.wav", tone("yes"))
    (tmp_path / "w" / "testing_list.txt").write_text("yes/b.wav\nyes/a.wav\n")
    with pytest.raises(WavecastError, match=r"yes/b.wav, listed in .*testing_list.txt, is missing \(1 such clips\)"):
        open_spoken(tmp_path / "w", RATE, commands / "cache")


def test_a_folder_that_is_not_laid_out_by_words(tmp_path, commands):
    write(tmp_path / "a.wav", tone("yes"))
    with pytest.raises(WavecastError, match=r"is not laid out by words\nhint: put the clips"):
        open_spoken(tmp_path, RATE, commands / "cache")


def test_packed_corpora_name_words_by_their_kind(tmp_path):
    write(tmp_path / "all.wav", np.concatenate([tone("yes"), tone("no"), hiss(0, 1.0)]))
    length = len(tone("yes"))
    rows = [
        {"start": 0, "samples": length, "kind": "word", "voice": "ann", "text": "Yes"},
        {"start": length, "samples": length, "kind": "word", "voice": "ann+bob", "text": "no"},
        {"start": 2 * length, "samples": RATE, "kind": "sent", "voice": "bob", "text": "No, I said."},
    ]
    lines = (json.dumps({"file": "all.wav", **row}) for row in rows)
    (tmp_path / "index.jsonl").write_text("\n".join(lines))
    clips = open_spoken(tmp_path, RATE, tmp_path / "cache")
    assert [about.get("word") for about in clips.attributes] == ["yes", "no", None]
    assert [part_of(about, ["ann"], ["cat"]) for about in clips.attributes] == ["validation", None, "train"]
    assert says(clips.attributes[2], {"no"})
    assert not says(clips.attributes[2], {"none", "sai"})


def test_item_is_a_function_of_seed_and_number(commands):
    shares = Shares(unknown=0.3, silence=0.2, mixed=0.3)
    one, other = (items_of(commands, shares, speed=(0.8, 1.2)) for _ in range(2))
    forth = [one.item(k) for k in range(12)]
    back = [pickle.loads(pickle.dumps(other)).item(k) for k in reversed(range(12))][::-1]
    for a, b in zip(forth, back, strict=True):
        assert a.keys() == b.keys() == {"sound", "target", "number"}
        assert all(np.array_equal(a[name], b[name]) for name in a)
        assert a["sound"].dtype == a["target"].dtype == np.float32
        assert a["sound"].shape == (VIEW,)
    other.seed = 8
    assert not np.array_equal(other.item(0)["sound"], forth[0]["sound"])


def test_every_word_comes_once_each_time_round(commands):
    items = items_of(commands)
    first, second = ([items.row(12 * turn + place) for place in range(12)] for turn in (0, 1))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def pitch(x):
    """The frequency of the strongest bin."""
    return np.argmax(np.abs(np.fft.rfft(x, RATE)))


def test_nine_tenths_of_a_word_lie_in_its_view_anywhere(commands):
    items, starts = items_of(commands), []
    length = round(0.4 * RATE)
    for k in range(200):
        item = items.item(k)
        inside = np.flatnonzero(np.abs(item["sound"]) > 1e-3)
        starts.append(inside[0])
        assert inside[-1] - inside[0] >= (1 - OVERHANG) * length - 200
        assert pitch(item["sound"]) == pytest.approx(list(PITCH.values())[int(item["target"].argmax())], abs=5)
    assert min(starts) < 0.1 * RATE
    assert max(starts) > 0.9 * (VIEW - length)


def test_a_word_keeps_its_level_and_other_speech_is_beside_it(commands):
    alone, among = items_of(commands), items_of(commands, Shares(context=1.0))
    for k in range(20):
        both = among.item(k)["sound"]
        assert np.mean(np.abs(both) > 1e-3) > np.mean(np.abs(alone.item(k)["sound"]) > 1e-3)
        assert np.array_equal(among.item(k)["target"], alone.item(k)["target"])
    loud = np.abs(alone.item(0)["sound"])
    assert np.sqrt(np.mean(np.square(loud[loud > 1e-3]))) == pytest.approx(0.1, rel=0.05)


def test_clips_that_are_not_placed_come_as_they_are(commands):
    items = items_of(commands, samples=RATE, placed=False)
    for k in range(5):
        clip = items.words.clip(items.row(k))
        sound = items.item(k)["sound"]
        assert np.array_equal(sound[: len(clip)], clip)
        assert not sound[len(clip) :].any()


def test_a_word_is_no_word_when_less_than_half_is_inside(commands):
    items = items_of(commands, Shares(unknown=1.0, cut=1.0), other=False)
    at_end = at_begin = 0
    for k in range(60):
        item = items.item(k)
        loud = np.flatnonzero(np.abs(item["sound"]) > 1e-3)
        assert item["target"].tolist() == [0, 0, 0, 1, 0]
        assert len(loud) <= REST * 0.4 * RATE
        at_begin += loud[0] < 20
        at_end += loud[-1] > VIEW - 20
    assert at_begin + at_end == 60
    assert 15 < at_begin < 45


def test_shares_are_those_asked_for(commands):
    items = items_of(commands, Shares(unknown=0.3, silence=0.2))
    drawn = np.mean([items.item(k)["target"] for k in range(1000)], 0)
    assert drawn[3:] == pytest.approx([0.3, 0.2], abs=0.05)
    assert drawn[:3] == pytest.approx([1 / 6] * 3, abs=0.03)
    silent = next(item for item in map(items.item, range(100)) if item["target"][4])
    assert not silent["sound"].any()


def test_mixed_views_have_both_labels_in_their_shares(commands):
    items = items_of(commands, Shares(mixed=1.0, context=0), samples=RATE, placed=False, beta=1.0)
    for k in range(20):
        item = items.item(k)
        spectrum = np.abs(np.fft.rfft(item["sound"][: round(0.6 * RATE)]))
        heard = [spectrum[round(0.6 * hertz)] for hertz in PITCH.values()]
        assert item["target"].sum() == pytest.approx(1)
        assert heard / np.sum(heard) == pytest.approx(item["target"], abs=0.01)


def test_fixed_items_have_every_word_then_the_rest(commands):
    items = items_of(commands, Shares(unknown=0.2, silence=0.1, mixed=0))
    fixed = FixedItems(items, {"word": 12, "unknown": 3, "silence": 2})
    kinds = [int(fixed.item(k)["target"].argmax()) for k in range(len(fixed))]
    assert sorted(kinds[:12]) == [0] * 4 + [1] * 4 + [2] * 4
    assert kinds[12:] == [3] * 3 + [4] * 2


def test_active_part_and_placing_beyond_the_ends():
    x = tone("yes")
    part = active_part(x)
    assert abs(len(part) - 0.4 * RATE) <= 320
    assert np.array_equal(active_part(np.zeros(1000, np.float32)), np.zeros(1000))
    assert len(active_part(np.zeros(3, np.float32))) == 3
    for start in range(-6, 7):
        sound = np.zeros(5)
        put(sound, np.array([1.0, 2.0, 3.0]), start)
        assert sound.tolist() == [{0: 1, 1: 2, 2: 3}.get(k - start, 0) for k in range(5)]


def test_parts_share_no_voice_and_words_beside_those_asked_for_are_other_speech(commands):
    data = data_of(commands, words=["yes", "no"], other=[str(commands / "other")], **PLAIN)
    data.setup("fit")
    assert data.classes == ["yes", "no", "_unknown_", "_silence_"]
    assert {about["speaker"] for about in data.train_source.words.attributes} == {"speaker0", "speaker1"}
    assert {about["word"] for about in data.train_source.words.attributes} == {"yes", "no"}
    other = data.train_source.other
    assert {about["word"] for about in other.attributes if "word" in about} == {"stop"}
    beside = np.array(["word" in about for about in other.attributes])
    assert other.weights[beside].sum() > 0.3 * other.weights.sum()
    validated = data.validation_source
    assert {about["speaker"] for about in validated.items.words.attributes} == {"speaker3"}
    assert validated.counts == {"word": 2, "unknown": 1, "silence": 0}
    tested = data_of(commands, part="test", **PLAIN)
    tested.setup("validate")
    assert {about["speaker"] for about in tested.validation_source.items.words.attributes} == {"speaker2"}
    assert tested.train_source is None


def test_priors_are_how_often_classes_are_drawn(commands):
    data = data_of(commands, **PLAIN, held_out=["speaker0"], test=[], shares=Shares(unknown=0.3, silence=0.1))
    data.setup("fit")
    drawn = np.mean([data.train_source.item(k)["target"] for k in range(900)], 0)
    assert data.priors() == pytest.approx([0.2, 0.2, 0.2, 0.3, 0.1])
    assert drawn == pytest.approx(data.priors(), abs=0.05)


def test_speech_that_says_a_word_is_left_out(commands, tmp_path):
    table = "path,speaker,text\n" + "".join(
        f"{commands}/other/person{k}/talk.wav,p{k},{text}\n" for k, text in enumerate(("go on", "Yes!", "yesterday"))
    )
    (tmp_path / "talk.csv").write_text(table)
    data = data_of(commands, other=[str(tmp_path / "talk.csv")], **PLAIN)
    data.setup("fit")
    assert [about["speaker"] for about in data.train_source.other.attributes] == ["p0", "p2"]


def test_noises_beside_the_words_are_heard_and_augmentation_keeps_the_length(commands):
    data = data_of(commands, rooms=2, samples=RATE)
    assert data.noises() == [str(commands / "words" / "_background_noise_")]
    data.prepare_data()
    data.setup("fit")
    sounds = [data.train_source.item(k)["sound"] for k in range(6)]
    assert all(len(sound) == RATE and np.isfinite(sound).all() for sound in sounds)
    assert data_of(commands, **PLAIN).noises() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speech": []}, "there are no words to learn\nhint: give --data.speech"),
        ({"words": ["yess"]}, "the word 'yess' is in none of the sources\nhint: there are no, stop, yes"),
        ({"rejection": False, "shares": Shares(unknown=0.1)}, "need classes of their own\nhint: give --data.rejection"),
        ({"held_out": []}, "there are no words of the part 'validation'\nhint: give --data.held_out"),
        ({"part": "test", "test": []}, "there are no words of the part 'test'\nhint: give --data.test"),
        ({"held_out": ["speaker0", "speaker1", "speaker3"]}, "holding out leaves no words to train on"),
    ],
)
def test_what_does_not_fit_is_said(commands, options, message):
    with pytest.raises(WavecastError) as error:
        data_of(commands, **{**PLAIN, **options}).setup("fit")
    assert message in str(error.value)


def test_words_are_planted_at_known_times(commands):
    planted = PlantedWords(items_of(commands, other=False), words=3)
    sound, said = planted.recording(1)
    again, same = planted.recording(1)
    assert np.array_equal(sound, again)
    assert said == same
    inside = np.zeros(len(sound), bool)
    for one in said:
        first, last = round(one.start * RATE), round(one.end * RATE)
        inside[first:last] = True
        assert pitch(sound[first:last]) == pytest.approx(PITCH[one.word], abs=5)
    assert not sound[~inside].any()
    assert all(1.5 <= b.start - a.end <= 4.0 for a, b in pairwise(said))
