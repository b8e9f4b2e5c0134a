"""Transcription data: batches, what is held out, nested shares, augmentation, SpecAugment; all functions of numbers."""

import json

import numpy as np
import pytest
import soundfile
import torch

from kit.sounds import RATE, hiss, voice, write_folder
from wavecast.core.errors import WavecastError
from wavecast.datamodules.clips import open_clips
from wavecast.datamodules.holdout import voices_of
from wavecast.datamodules.items import Onward
from wavecast.datamodules.mixing import Chances, Surroundings, active_level
from wavecast.datamodules.rooms import Rooms
from wavecast.datamodules.spec_augment import SpecAugment
from wavecast.datamodules.transcription import (
    Batches,
    TranscriptionData,
    Utterances,
    cut,
    nested_share,
)

NEVER = Chances(**{**dict.fromkeys(Chances.__dataclass_fields__, 0.0), "clean": 1.0})
VOICES = ["al", "bo", "cy", "al+bo", "bo+cy", "cy+al"]
SCENES = [("fotaq_1", "0001AFP2"), ("fotaq_1", "0001B0J1"), ("fotaq_2", "0002FFP1"), ("fotaq_2", "0002B0J7")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A packed corpus: 60 utterances of synthetic voices, 12 of acted real ones, some in another language."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    lengths = rng.integers(5000, 20_000, 72).tolist()
    starts = np.cumsum([0, *lengths])
    soundfile.write(folder / "all.wav", voice(0, starts[-1] / RATE), RATE, subtype="PCM_16")
    rows = []
    for number, (start, samples) in enumerate(zip(starts.tolist(), lengths, strict=False)):
        about = {"voice": VOICES[number % 6], "text": f"Say {'abcdefghij'[number % 10]} {'klmnopqr'[number // 10]}."}
        if number >= 60:
            scene, clip = SCENES[number % 4]
            about = {"speaker": scene, "id": clip, "text": f"Real {'abcdefghijkl'[number - 60]}", "bandwidth": 5500}
        language = "fr" if number in (5, 17) else "en"
        rows.append({"file": "all.wav", "start": start, "samples": samples, "language": language, **about})
    rows[0]["text"] = "(sigh)"
    rows[2]["text"] = rows[1]["text"]  # cy says what bo says
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_folder(folder / "noises", hiss, 3, 0.6)
    return folder


def data(corpus, **options):
    given = {"speech": [str(corpus)], "languages": ["en"], "held_out": ["cy", "fotaq_J"], "rooms": 2, "augment": False}
    given |= {"batch_seconds": 4.0, "window": 16, "cache": str(corpus / "cache")}
    one = TranscriptionData(**{**given, **options})
    one.setup("fit")
    return one


def spoken(batches):
    return batches.utterances.clips.attributes


def test_held_out_voices_never_train_and_validate_on_unseen_sentences(corpus):
    whole = data(corpus)
    trained = spoken(whole.train_batches)
    assert {about["speaker"] for about in trained} == {"al", "bo", "al+bo", "fotaq_1", "fotaq_2"}
    assert all("J" not in about["clip"] for about in trained)
    assert set(whole.validation_sets) == {"synthetic", "real"}
    synthetic, real = (spoken(whole.validation_sets[name]) for name in ("synthetic", "real"))
    assert {about["speaker"] for about in synthetic} == {"cy"}
    assert len(synthetic) == 9  # of ten, one says what is trained on
    assert {about["clip"][6] for about in real} == {"J"}
    said = {about["text"] for about in trained}
    assert said.isdisjoint(about["text"] for about in (*synthetic, *real))


def test_without_names_an_eighth_of_the_voices_is_held_out(corpus):
    """By the rule of the enhancer's corpus; none of these six falls under it, so there is nothing to validate on."""
    with pytest.raises(WavecastError, match="nothing to validate on"):
        data(corpus, held_out=None)


def test_validation_manifests_are_taken_whole(corpus):
    both = data(corpus, validation=[str(corpus)], held_out=None)
    count = sum(len(spoken(one)) for one in both.validation_sets.values())
    assert count == len(spoken(both.train_batches)) == 69


def test_voices_by_name():
    assert voices_of({"speaker": "a+b", "synthetic": True}) == ["a", "b"]
    assert voices_of({"speaker": "a+b", "synthetic": False}) == ["a+b"]
    assert voices_of({"speaker": "fotaq_7", "clip": "75003BBJ1"}) == ["fotaq_7"]  # not a name of that kind
    assert voices_of({"speaker": "fotaq_7", "clip": "750BBBJ1"}) == ["fotaq_J"]
    assert voices_of({"speaker": "fotaq_7", "clip": "75J03BP1"}) == ["fotaq_7"]


def test_texts_languages_lengths_and_attributes_choose_what_is_heard(corpus):
    texts = data(corpus).training_texts()
    assert "sigh" not in texts
    assert all(text == text.lower() and "." not in text for text in texts)
    assert any("." in text for text in data(corpus, style="lower").training_texts())
    everything = data(corpus, languages=None, leave_out="")
    assert len(everything.training_texts()) == len(texts) + 1  # "(sigh)"; both French ones are of cy+al
    assert all("bandwidth" not in about for about in spoken(data(corpus, exclude={"bandwidth": [5500]}).train_batches))
    short = spoken(data(corpus, longest=0.8, shortest=0.4).train_batches)
    lengths = data(corpus, longest=0.8, shortest=0.4).train_batches.utterances.clips.lengths
    assert 0 < len(short) < len(texts)
    assert 0.4 * RATE <= lengths.min() <= lengths.max() <= 0.8 * RATE


def test_shares_are_nested_and_leave_validation_alone(corpus):
    parts = {share: data(corpus, share=share) for share in (0.25, 0.5, 1.0)}
    ids = {share: {about["id"] for about in spoken(part.train_batches)} for share, part in parts.items()}
    assert ids[0.25] < ids[0.5] < ids[1.0]
    whole = parts[1.0].train_batches.utterances.clips.seconds
    for share, part in parts.items():
        assert share * whole - 1.25 <= part.train_batches.utterances.clips.seconds <= share * whole + 1e-9
        assert [spoken(one) for one in part.validation_sets.values()] == [
            spoken(one) for one in parts[1.0].validation_sets.values()
        ]
    with pytest.raises(WavecastError, match="a share of 0"):
        nested_share(parts[1.0].train_batches.utterances.clips, 0.0)


def test_each_time_round_has_every_utterance_once_in_batches_of_bounded_length(corpus):
    batches = data(corpus, speed=(0.9, 1.1)).train_batches
    count = len(spoken(batches))
    b = 0
    orders = []
    for turn in range(3):
        numbers = [batches.numbers(b + k) for k in range(batches.count(turn))]
        b += batches.count(turn)
        assert sorted(np.concatenate(numbers)) == list(range(turn * count, (turn + 1) * count))
        orders.append([batches.utterances.turn(turn)[0].tolist(), *numbers])
        lengths = batches.utterances.lengths(turn)
        for row in numbers:
            assert lengths[row % count].max() * len(row) <= 4.0 * RATE or len(row) == 1
    assert orders[0][0] != orders[1][0]
    padded = sum(batches.item(k)["sound"].size for k in range(batches.count()))
    assert 1 - batches.utterances.lengths(0).sum() / padded < 0.25


def test_the_first_time_round_may_go_from_short_to_long(corpus):
    batches = data(corpus, ascending=True).train_batches
    count = len(spoken(batches))
    first, second = ([batches.numbers(sum(map(batches.count, range(turn))) + b) for b in range(3)] for turn in (0, 1))
    whole = np.concatenate([batches.numbers(b) for b in range(batches.count(0))])
    assert (np.diff(batches.utterances.lengths(0)[whole]) >= 0).all()
    assert sorted(whole) == list(range(count))
    assert (np.diff(batches.utterances.lengths(1)[np.concatenate(second) - count]) < 0).any()
    assert not np.array_equal(first[0], second[0] - count)


def test_batches_are_functions_of_their_numbers(corpus):
    """Read in another order, by another object that begins in the middle, they are the same."""
    first, second = (data(corpus, augment=True, seed=3).train_batches for _ in range(2))
    far = first.count(0) + first.count(1) + 2
    for b in (far, 1, far, 0):
        one, other = first.item(b), second.item(b)
        np.testing.assert_array_equal(one["sound"], other["sound"])
        assert one["texts"] == other["texts"]
    other = data(corpus, augment=True, seed=4).train_batches.item(0)
    assert not np.array_equal(first.item(0)["numbers"], other["numbers"])


def test_two_processes_and_a_resumed_run_share_out_the_batches():
    assert [list(Onward(6, rank, 2)) for rank in range(2)] == [[0, 2, 4], [1, 3, 5]]


def test_batches_hold_sounds_texts_and_lengths_of_the_same_utterances(corpus):
    batches = data(corpus, speed=(1.0, 1.0)).train_batches
    clips, batch = batches.utterances.clips, batches.item(2)
    order, *_ = batches.utterances.turn(0)
    for row, number in enumerate(batch["numbers"]):
        place = order[number]
        assert batch["texts"][row] == clips.attributes[place]["text"]
        np.testing.assert_array_equal(batch["sound"][row, : batch["lengths"][row]], clips.clip(place))
        assert not batch["sound"][row, batch["lengths"][row] :].any()


def test_a_batch_is_cut_where_padding_would_exceed_the_bound():
    places = cut(np.arange(6), np.array([1, 1, 2, 4, 4, 9]), 8)
    assert [part.tolist() for part in places] == [[0, 1, 2], [3, 4], [5]]


def test_a_faster_voice_is_shorter_and_higher(corpus, tmp_path):
    (tmp_path / "tone").mkdir()
    tone = 0.3 * np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE)
    soundfile.write(tmp_path / "tone" / "a.wav", tone, RATE, subtype="PCM_16")
    clips = open_clips(tmp_path / "tone", cache=tmp_path / "cache")
    clips.attributes[0]["text"] = "tone"
    utterances = Utterances(clips, 0, (1.1, 1.1))
    sound, text = utterances.item(0)
    assert text == "tone"
    assert len(sound) == utterances.lengths(0)[0] == round(RATE / 1.1)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    assert np.argmax(spectrum) * RATE / len(sound) == pytest.approx(550, abs=2)


def test_surroundings_keep_length_and_place_and_set_level_and_noise(corpus):
    noises = open_clips(corpus / "noises", cache=corpus / "cache")
    sound = voice(1, 1.0)
    quiet = Surroundings(None, noises, rooms=Rooms(1), level=(-30, -30), chances=NEVER)
    heard = quiet.record(np.random.default_rng(0), sound)
    assert heard.shape == sound.shape
    assert heard.dtype == np.float32
    assert 20 * np.log10(active_level(heard)) == pytest.approx(-30, abs=0.1)
    np.testing.assert_allclose(heard / active_level(heard), sound / active_level(sound), atol=2e-2)
    noisy = Surroundings(
        noises,
        noises,
        rooms=Rooms(1),
        snr=(0, 0),
        level=(-30, -30),
        chances=Chances(**{**NEVER.__dict__, "clean": 0.0}),
    )
    mixture = noisy.record(np.random.default_rng(0), sound)
    gain = np.dot(mixture, sound) / np.dot(sound, sound)
    rest = mixture - gain * sound
    assert 20 * np.log10(active_level(gain * sound) / active_level(rest)) == pytest.approx(0, abs=1)


def test_masks_are_those_of_the_paper_and_of_the_item_alone():
    """At most 2 bands of 4 and 3 stretches of a tenth; the rest is untouched, what is hidden is the item's mean."""
    augment = SpecAugment(bands=2, band_width=4, stretches=3, stretch_share=0.1, seed=1)
    features = torch.randn(3, 60, 20, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([60, 40, 0])
    masked = augment(features, lengths, torch.tensor([7, 8, 9]))
    again = augment(features[1:2], lengths[1:2], torch.tensor([8]))
    torch.testing.assert_close(masked[1:2], again, rtol=0, atol=1e-6)
    torch.testing.assert_close(masked[1, 40:], features[1, 40:], rtol=0, atol=0)
    seen = []
    for row, (frames, number) in enumerate([(60, 7), (40, 8)]):
        hidden = torch.from_numpy(augment.hidden(frames, 20, number))
        mean = features[row, :frames].mean()
        torch.testing.assert_close(masked[row, :frames][hidden], mean.expand(int(hidden.sum())))
        assert torch.equal(masked[row, :frames][~hidden], features[row, :frames][~hidden])
        assert hidden.all(0).sum() <= 8
        assert hidden.all(1).sum() <= 3 * frames // 10
        seen.append(hidden.any())
    assert any(seen)
    assert not np.array_equal(augment.hidden(60, 20, 7), augment.hidden(60, 20, 8))


def test_masks_cover_what_their_distribution_says():
    """One band of up to 9 of 20 hides 4.5 bands on average, whatever the frames."""
    augment = SpecAugment(bands=1, band_width=9, stretches=0, seed=0)
    widths = [augment.hidden(5, 20, k)[0].sum() for k in range(2000)]
    assert np.mean(widths) == pytest.approx(4.5, abs=0.25)
    assert (min(widths), max(widths)) == (0, 9)


def test_nothing_to_train_on_is_said(corpus):
    with pytest.raises(WavecastError, match="nothing to train on"):
        data(corpus, speech=[])
    with pytest.raises(WavecastError, match="leaves nothing to train on"):
        data(corpus, held_out=["al", "bo", "cy", "fotaq_J", "fotaq_1", "fotaq_2"])
    with pytest.raises(WavecastError, match=r"no utterance that is wanted \(languages \['de'\]"):
        data(corpus, languages=["de"])
    with pytest.raises(ValueError, match="not set up"):
        TranscriptionData().training_texts()


def test_validation_items_are_a_fixed_sample(corpus):
    few = data(corpus, validation_items=3).validation_sets["real"]
    more = data(corpus, validation_items=5).validation_sets["real"]
    assert [about["id"] for about in spoken(few)] == [about["id"] for about in spoken(more)][:3]
    assert isinstance(few, Batches)
    assert sorted(np.concatenate([few.numbers(b) for b in range(few.count())])) == [0, 1, 2]


def test_pauses_lie_around_utterances_and_hiss_faintly(corpus):
    plain, paused = (
        data(corpus, speed=(1.0, 1.0), seed=5, pause=pause).train_batches.utterances for pause in (0.0, 2.0)
    )
    lengths = paused.lengths(0) - plain.lengths(0)
    assert 0 <= lengths.min() < 0.1 * RATE < lengths.max() <= 4 * RATE
    assert np.array_equal(paused.turn(0)[0], plain.turn(0)[0])
    for k in range(len(plain.clips)):
        (sound, text), (longer, same) = plain.item(k), paused.item(k)
        before, behind = paused.turn(0)[2][k]
        assert same == text
        assert len(longer) == len(sound) + before + behind == paused.lengths(0)[k]
        np.testing.assert_allclose(longer[before : before + len(sound)], sound, atol=0.02)
        rest = np.concatenate([longer[:before], longer[before + len(sound) :]])
        assert rest.size == 0 or 0 < np.abs(rest).max() < 0.02
    held = data(corpus, pause=2.0).validation_sets.values()
    assert all(np.array_equal(one.utterances.lengths(0), one.utterances.clips.lengths) for one in held)
