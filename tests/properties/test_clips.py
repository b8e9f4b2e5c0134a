"""Clips: every kind of source, decoded once, read back exactly."""

import pickle

import numpy as np
import pytest
import soundfile

from kit.sounds import RATE, hiss, voice, write_folder, write_packed
from wavecast.core.errors import WavecastError
from wavecast.datamodules.clips import Clips, open_clips, open_pairs

HALF_STEP = 0.5 / 32768 + 1e-7


def test_packed_corpus_gives_every_clip_in_index_order(tmp_path):
    sound = write_packed(tmp_path / "corpus")
    clips = open_clips(tmp_path / "corpus", cache=tmp_path / "cache")
    assert list(clips.lengths) == [8000, 12000, 5000]
    assert clips.seconds == pytest.approx(25000 / RATE)
    assert [about["id"] for about in clips.attributes] == ["0", "1", "2"]
    got = np.concatenate([clips.clip(i) for i in range(3)])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, sound, atol=2 * HALF_STEP)
    np.testing.assert_array_equal(clips.clip(1, 100, 50), clips.clip(1)[100:150])
    assert len(clips.clip(2, 4990, 50)) == 10


def test_packed_opus_is_cut_where_the_index_says(tmp_path):
    write_packed(tmp_path / "corpus", suffix=".opus")
    whole, _ = soundfile.read(tmp_path / "corpus" / "all.opus", dtype="float32")
    clips = open_clips(tmp_path / "corpus", cache=tmp_path / "cache")
    np.testing.assert_allclose(clips.clip(1), whole[8000:20000], atol=HALF_STEP)


def test_index_out_of_order_with_gaps_and_overlaps(tmp_path):
    sound = write_packed(tmp_path / "corpus")
    index = tmp_path / "corpus" / "index.jsonl"
    spans = [(9000, 3000), (100, 500), (400, 9000), (24990, 100)]
    index.write_text("".join(f'{{"file": "all.wav", "start": {a}, "samples": {n}}}\n' for a, n in spans))
    clips = open_clips(tmp_path / "corpus", cache=tmp_path / "cache")
    for i, (start, samples) in enumerate(spans):
        np.testing.assert_allclose(clips.clip(i), sound[start : start + samples], atol=2 * HALF_STEP)


def test_cache_is_used_again_and_made_anew_when_a_file_changes(tmp_path):
    folder, cache = write_folder(tmp_path / "voices", voice, 2), tmp_path / "cache"
    first = open_clips(folder, cache=cache)
    stamps = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert open_clips(folder, cache=cache).clip(0).tobytes() == first.clip(0).tobytes()
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == stamps
    path = folder / "voice0" / "0.wav"
    soundfile.write(path, hiss(0, 0.5), RATE)
    assert len(open_clips(folder, cache=cache).clip(0)) == RATE // 2
    assert not [path for path in cache.iterdir() if path.suffix == ".part"]


def test_folder_is_resampled_and_mixed_down(tmp_path):
    folder = tmp_path / "in" / "ann"
    folder.mkdir(parents=True)
    time = np.arange(48_000) / 48_000
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(folder / "a.flac", np.stack([tone, 0 * tone], 1), 48_000)
    (folder / "notes.md").write_text("no audio")
    clips = open_clips(tmp_path / "in", cache=tmp_path / "cache")
    assert clips.attributes[0]["speaker"] == "ann"
    expected = 0.25 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(clips.clip(0)[500:-500], expected[500:-500], atol=1e-3)


def test_lists_csv_scp_and_pairs(tmp_path):
    write_folder(tmp_path / "v", voice, 2)
    (tmp_path / "a.csv").write_text("path,speaker,age\nv/voice0/0.wav,ann,30\nv/voice1/1.wav,bob,40\n")
    clips = open_clips(tmp_path / "a.csv", cache=tmp_path / "c")
    assert [(about["speaker"], about["age"]) for about in clips.attributes] == [("ann", "30"), ("bob", "40")]
    (tmp_path / "a.scp").write_text("utt1 v/voice0/0.wav\nutt2 v/voice1/1.wav\n")
    clips = open_clips(tmp_path / "a.scp", cache=tmp_path / "c")
    assert [about["id"] for about in clips.attributes] == ["utt1", "utt2"]
    (tmp_path / "p.scp").write_text("v/voice0/0.wav v/voice1/1.wav 1.5\nv/voice1/1.wav v/voice0/0.wav 1.5\n")
    noisy, clean = open_pairs(tmp_path / "p.scp", cache=tmp_path / "c")
    np.testing.assert_array_equal(noisy.clip(0), clean.clip(1))
    np.testing.assert_array_equal(noisy.clip(1), clean.clip(0))
    assert not np.array_equal(noisy.clip(0), clean.clip(0))
    (tmp_path / "p.csv").write_text("noisy,clean\nv/voice0/0.wav,v/voice1/1.wav\n")
    np.testing.assert_array_equal(open_pairs(tmp_path / "p.csv", cache=tmp_path / "c")[1].clip(0), noisy.clip(1))


def test_lhotse_cuts_and_recordings(tmp_path):
    lhotse = pytest.importorskip("lhotse")
    path = write_folder(tmp_path / "v", voice, 1) / "voice0" / "0.wav"
    recording = lhotse.Recording.from_file(path, recording_id="r")
    lhotse.RecordingSet.from_recordings([recording]).to_file(tmp_path / "recordings.jsonl.gz")
    spoken = lhotse.SupervisionSegment("s", "r", 0.25, 0.5, text="hello", speaker="ann")
    cut = lhotse.MonoCut("cut", 0.25, 0.5, 0, recording=recording, supervisions=[spoken])
    lhotse.CutSet.from_cuts([cut]).to_file(tmp_path / "cuts.jsonl")
    whole = open_clips(tmp_path / "recordings.jsonl.gz", cache=tmp_path / "c")
    part = open_clips(tmp_path / "cuts.jsonl", cache=tmp_path / "c")
    assert part.attributes[0] == {"id": "cut", "speaker": "ann", "text": "hello"}
    np.testing.assert_array_equal(part.clip(0), whole.clip(0)[4000:12000])


def test_choosing_by_attribute_weighing_and_joining(tmp_path):
    write_packed(tmp_path / "a")
    write_packed(tmp_path / "b", (4000, 4000))
    a, b = (open_clips(tmp_path / name, cache=tmp_path / "c") for name in "ab")
    assert list(a.where(only={"speaker": ["s1"]}).lengths) == [12000]
    assert list(a.where(exclude={"speaker": ["s1"], "age": [3]}).lengths) == [8000, 5000]
    assert not len(a.where(only={"age": [3]}))
    assert list(a.where(test=lambda about: about["id"] == "2").lengths) == [5000]
    both = Clips.join([a.weighted(0), b])
    assert len(both) == 5
    np.testing.assert_array_equal(both.clip(4), b.clip(1))
    rng = np.random.default_rng(0)
    assert {both.draw(rng) for _ in range(50)} == {3, 4}
    even = a.balanced("speaker", 0.0)
    assert even.weights[[0, 2]].sum() == pytest.approx(even.weights[1])
    again = pickle.loads(pickle.dumps(both))
    assert len(pickle.dumps(both)) < 3000  # a path, not the samples
    np.testing.assert_array_equal(again.clip(1), a.clip(1))


def test_out_of_range_and_broken_samples_are_limited(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.array([2.0, -2.0, np.nan, 0.25], np.float32), RATE, subtype="FLOAT")
    clip = open_clips(tmp_path, cache=tmp_path / "c").clip(0)
    np.testing.assert_allclose(clip, [32767 / 32768, -1, 0, 0.25])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing", "does not exist"),
        (lambda folder: folder, "holds no audio"),
        (lambda folder: _write(folder / "x.json", "{}"), "is not a source"),
        (lambda folder: _write(folder / "x.csv", "name\nb\n"), "no column"),
        (lambda folder: _write(folder / "x.scp", "gone.wav\n"), "gone.wav, listed in"),
        (lambda folder: _write(folder / "x.scp", "\n"), "lists no files"),
        (lambda folder: _write(folder / "w" / "x.wav", "not audio").parent, "cannot be decoded"),
        (
            lambda folder: _write(folder / "index.jsonl", '{"file": "a", "start": 0, "samples": 3}\n').parent,
            "a cannot be",
        ),
    ],
)
def test_bad_sources_say_what_is_wrong(tmp_path, make, message):
    with pytest.raises(WavecastError, match=message):
        open_clips(make(tmp_path), cache=tmp_path.parent / f"{tmp_path.name}-cache")


def test_pairs_without_partner_or_of_unequal_length_are_refused(tmp_path):
    write_folder(tmp_path / "v", voice, 1)
    soundfile.write(tmp_path / "v" / "short.wav", voice(0, 0.5), RATE)
    with pytest.raises(WavecastError, match="1 lines have no clean file"):
        open_pairs(_write(tmp_path / "a.scp", "v/short.wav v/voice0/0.wav\nv/short.wav\n"), cache=tmp_path / "c")
    with pytest.raises(WavecastError, match="differ in length"):
        open_pairs(_write(tmp_path / "b.scp", "v/short.wav v/voice0/0.wav\n"), cache=tmp_path / "c")


def _write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path
