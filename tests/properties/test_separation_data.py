"""Mixtures of speakers: items are functions of (seed, k), speakers drawn by voice, levels and overlap as asked."""

import csv

import numpy as np
import pytest
import soundfile

from kit.sounds import hiss, voice, write_folder
from wavecast.core.errors import WavecastError
from wavecast.datamodules.clips import Clips, open_clips
from wavecast.datamodules.conversations import Conversations, SpeakerChances
from wavecast.datamodules.holdout import held_out, possible_voices, voices_of
from wavecast.datamodules.mixtures import Mixtures, open_mixtures
from wavecast.datamodules.rooms import Rooms
from wavecast.datamodules.separation import SeparationData
from wavecast.datamodules.talking import Voices, active_level

RATE = 8_000
NEVER = dict.fromkeys(SpeakerChances.__dataclass_fields__, 0.0)


def only(**chances):
    """Chances of these happenings alone, and no noise."""
    return SpeakerChances(**{**NEVER, "clean": 1.0, **chances})


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Voices that never pause, noises, and the cache of both."""
    folder = tmp_path_factory.mktemp("sounds")
    write_folder(folder / "hissing", hiss, 8, 4.0, RATE, groups=4)
    write_folder(folder / "voices", voice, 12, 1.0, RATE, groups=6)
    return folder


def clips(sounds, name="hissing"):
    return open_clips(sounds / name, RATE, sounds / "cache")


def conversations(sounds, chances=None, name="hissing", seed=3, **options):
    speakers = options.pop("speakers", 2)
    options = {"seconds": 1.0, "rooms": Rooms(3, seed, RATE, places=speakers + 2), **options}
    voices = Voices(clips(sounds, name), speakers)
    return Conversations(voices, seed=seed, sample_rate=RATE, chances=chances, **options)


def named(names, seconds=None, **same):
    """Clips of these names, `voice:` for synthetic ones, without sound."""
    about = [
        {"voice": name[6:], **same} if name.startswith("voice:") else {"speaker": name, "id": str(row), **same}
        for row, name in enumerate(names)
    ]
    lengths = np.asarray(seconds if seconds else [1] * len(names)) * RATE
    places = np.stack([np.zeros(len(names)), np.zeros(len(names)), lengths], 1).astype(np.int64)
    return Clips(RATE, (), places, tuple(about), lengths.astype(float))


def test_item_is_the_same_in_any_order(sounds):
    everything = SpeakerChances(reverberant=0.5, equalized=0.5, clean=0.5, gap=0.3, single=0.3, resampled=0.5)
    forward = conversations(sounds, everything, "voices")
    items = [forward.item(k) for k in range(8)]
    backward = conversations(sounds, everything, "voices")
    for k in reversed(range(8)):
        for name, value in backward.item(k).items():
            assert value.tobytes() == items[k][name].tobytes()
    assert not np.array_equal(items[0]["mixture"], items[1]["mixture"])
    other = conversations(sounds, everything, "voices", seed=4)
    assert not np.array_equal(items[0]["mixture"], other.item(0)["mixture"])
    for item in items:
        assert {name: (value.dtype, value.shape) for name, value in item.items()} == {
            "mixture": (np.float32, (RATE,)),
            "sources": (np.float32, (RATE, 2)),
            "talking": (np.int64, ()),
            "real": (np.float32, ()),
            "difference": (np.float32, ()),
        }
        assert np.isfinite(item["sources"]).all()
        assert np.abs(item["mixture"]).max() <= 1


@pytest.mark.parametrize("speakers", [2, 3])
def test_dry_sources_sum_to_the_mixture_at_its_level(sounds, speakers):
    source = conversations(sounds, only(), speakers=speakers, level=(-30, -30))
    for k in range(6):
        item = source.item(k)
        assert item["talking"] == speakers
        np.testing.assert_allclose(item["sources"].sum(1), item["mixture"], atol=0.5 / 32768 + 1e-7)
        assert 20 * np.log10(active_level(item["mixture"])) == pytest.approx(-30, abs=0.1)


def test_levels_differ_as_drawn_and_any_place_may_be_the_louder_one(sounds):
    source = conversations(sounds, only(), overlap=(1.0, 1.0), difference=(2.0, 9.0), seconds=2.0)
    seen = []
    for k in range(24):
        item = source.item(k)
        first, second = (20 * np.log10(active_level(item["sources"][:, place])) for place in range(2))
        assert abs(first - second) == pytest.approx(float(item["difference"]), abs=0.3)
        seen.append(first - second)
    assert min(np.abs(seen)) > 1.7
    assert max(np.abs(seen)) > 6
    assert 4 < sum(value > 0 for value in seen) < 20


@pytest.mark.parametrize("speakers", [2, 3])
@pytest.mark.parametrize("overlap", [0.0, 0.4, 1.0])
def test_speakers_overlap_as_asked(sounds, overlap, speakers):
    """Turns alone are looked at: clips pause, and a few voices begin late."""
    source = conversations(sounds, speakers=speakers, overlap=(overlap, overlap), turn=(0.3, 2.0), seconds=4.0)
    rng, shares, alone = np.random.default_rng(0), [], []
    for _ in range(60):
        talk = np.zeros((source.samples, speakers), bool)
        for number, turns in enumerate(source._draw_turns(rng, speakers)):
            for start, stop in turns:
                talk[start:stop, number] = True
        assert talk.any(0).all()
        assert talk.any(1).all()
        shares.append(talk.all(1).mean())
        alone.append((talk.sum(1) == 1).mean())
    if overlap == 1.0:
        assert np.mean(shares) == 1
    elif overlap == 0.0:
        assert np.mean(alone) > 0.99
    elif speakers == 2:
        assert np.mean(shares) == pytest.approx(overlap, abs=0.05)
        assert np.std(shares) < 0.1


def test_a_single_speaker_and_nobody(sounds):
    for talking, chances in ((1, only(single=1.0)), (0, only(noise_only=1.0))):
        item = conversations(sounds, chances).item(2)
        assert item["talking"] == talking
        assert np.any(item["sources"], 0).sum() == talking
        assert item["mixture"].any()
    counts = {int(conversations(sounds, only(single=1.0), speakers=3).item(k)["talking"]) for k in range(12)}
    assert counts == {1, 2}


def test_in_a_room_sources_are_early_and_aligned(sounds):
    rooms = Rooms(4, 1, RATE, (0.5, 0.8), places=4)
    source = conversations(sounds, only(reverberant=1.0, single=1.0), rooms=rooms)
    for k in range(4):
        item = source.item(k)
        (place,) = np.flatnonzero(item["sources"].any(0))
        target = item["sources"][:, place]
        lags = np.correlate(item["mixture"], target[100:-100], "valid")
        assert np.argmax(lags) == 100
        late = item["mixture"] - target
        assert 0.01 < np.mean(late**2) / np.mean(item["mixture"] ** 2) < 1.5


def test_places_of_a_room_are_those_of_the_speakers_and_one_is_left_for_noise(sounds):
    with pytest.raises(ValueError, match="places"):
        conversations(sounds, rooms=Rooms(3, 0, RATE, places=2))
    with pytest.raises(ValueError, match="clips of 8000 Hz"):
        Conversations(Voices(clips(sounds)), sample_rate=16_000)
    noisy = conversations(sounds, only(clean=0.0, reverberant=1.0), snr=(0.0, 0.0)).item(0)
    rest = noisy["mixture"] - noisy["sources"].sum(1)
    assert np.mean(rest**2) > 0.2 * np.mean(noisy["mixture"] ** 2)


def test_every_voice_is_drawn_and_never_twice_in_an_item():
    """Two voices of 100 and of 1 second: equally often by voice, ten to one by the root of their seconds."""
    speech = named(["a", "b", "c"], [100, 1, 100])
    for power, share in ((0.0, 1 / 3), (0.5, 1 / 21), (1.0, 1 / 201)):
        voices = Voices(speech, 1, power=power)
        rng = np.random.default_rng(0)
        drawn = [voices.draw(rng)[0] for _ in range(3000)]
        assert np.mean(np.array(drawn) == 1) == pytest.approx(share, abs=0.02)
    rng = np.random.default_rng(1)
    assert all(len(set(Voices(speech, 3).draw(rng))) == 3 for _ in range(50))
    with pytest.raises(WavecastError, match=r"4 different people are needed.*there are 3 real voices and 0"):
        Voices(speech, 4)


def test_blends_share_no_part_and_kinds_are_not_mixed():
    voices = Voices(named(["voice:a", "voice:b", "voice:a+b", "voice:c+a", "voice:d", "x", "y", "z"]), real=0.5)
    rng, real = np.random.default_rng(0), []
    for _ in range(300):
        names = [voices.names[row] for row in voices.draw(rng)]
        kinds = {name in ("x", "y", "z") for name in names}
        assert len(kinds) == 1
        assert not set(names[0].split("+")) & set(names[1].split("+"))
        real += kinds
    assert 0.4 < np.mean(real) < 0.6


def test_a_kind_of_too_few_voices_is_left_alone_and_blends_do_not_use_up_the_others():
    """One real voice is no conversation, and neither is a blend with one of its own voices."""
    voices = Voices(named(["x", "voice:a", "voice:b", "voice:a+b"]), real=1.0)
    rng = np.random.default_rng(0)
    drawn = {tuple(sorted(voices.names[row] for row in voices.draw(rng))) for _ in range(50)}
    assert drawn == {("a", "b")}
    with pytest.raises(WavecastError, match="1 real voices and 2 synthetic ones"):
        Voices(named(["x", "voice:a", "voice:a+b"]))


def test_the_hero_of_the_acted_scenes_is_one_voice_and_other_parts_never_meet():
    hero = [{"speaker": f"fotaq_{scene}", "id": f"{scene}001J1"} for scene in ("010", "020")]
    other = [{"speaker": f"fotaq_{scene}", "id": f"{scene}001P1"} for scene in ("010", "020")]
    assert [voices_of(about) for about in hero + other] == [["fotaq_J"]] * 2 + [["fotaq_010"], ["fotaq_020"]]
    assert possible_voices(hero[0]) == {"fotaq_J"}
    assert possible_voices(other[0]) & possible_voices(other[1]) == {"fotaq_P"}
    speech = named(["x"] * 4)
    voices = Voices(Clips(RATE, (), speech.places, tuple(hero + other), speech.weights), power=0.0)
    assert voices.names == ["fotaq_010", "fotaq_020", "fotaq_J"]
    rng = np.random.default_rng(0)
    assert all("fotaq_J" in [voices.names[row] for row in voices.draw(rng)] for _ in range(50))
    assert voices_of({"id": "nameless"}) == ["nameless"]


def test_a_pattern_names_the_voices_of_files(sounds):
    speech = named(["chapter1", "chapter2"], id="a")
    about = ({"speaker": "198", "id": "19/198/19-198-0001.flac"}, {"speaker": "227", "id": "19/227/19-227-0000.flac"})
    speech = Clips(RATE, (), speech.places, about, speech.weights)
    assert Voices(speech).names == ["198", "227"]
    assert Voices(speech, 1, r"(?:^|/)([0-9]+)-").names == ["19"]


def data(sounds, **options):
    given = {"speech": [str(sounds / "voices")], "validation_speech": [str(sounds / "voices")], "rooms": 2}
    given |= {"seconds": 0.25, "validation_seconds": 0.25, "validation_items": 5, "cache": str(sounds / "cache")}
    return SeparationData(**{**given, **options})


def test_held_out_voices_are_never_trained_on_and_blends_of_both_sides_are_left_out(tmp_path):
    write_folder(tmp_path / "many", voice, 40, 0.3, RATE, groups=40)
    both = data(tmp_path, speech=[str(tmp_path / "many")], validation_speech=[])
    both.setup("fit")
    train, valid = both.train_source.people, both.validation_source.people
    assert len(train) + len(valid) == 40
    assert valid.names
    assert all(held_out({"speaker": name}) for name in valid.names)
    assert not any(held_out({"speaker": name}) for name in train.names)
    chosen = data(tmp_path, held_out=["b"])
    blends = named(["voice:a", "voice:b", "voice:a+b", "voice:c+a", "b"])
    assert Voices(chosen._kept_voices(blends, validation=True), 1).names == ["b"]
    assert Voices(chosen._kept_voices(blends, validation=False), 1).names == ["a", "c+a"]


def test_data_without_anything_to_learn_from_say_what_to_type(sounds):
    for options, message in (
        ({"speech": [], "validation_speech": []}, "nothing to train on"),
        ({"validation_speech": [], "held_out": []}, "leaves no speech to validate on"),
        ({"exclude": {"speaker": [f"voice{n}" for n in range(6)]}}, "different"),
    ):
        with pytest.raises(WavecastError, match=message):
            some = data(sounds, **options)
            some.setup("fit")
            some.train_source.item(0)
    with pytest.raises(WavecastError, match="nothing to validate on"):
        data(sounds, speech=[], validation_speech=[]).setup("validate")


def write_mixtures(folder, names, count=4, speakers=2, seconds=0.5):
    """Write LibriMix- or WSJ0-like folders; returns the sources (mixture, sample, speaker)."""
    sources = np.stack([[voice(10 * n + k, seconds, RATE) for k in range(speakers)] for n in range(count)])
    for number, sounds in enumerate(sources):
        files = {f"s{k + 1}": sound for k, sound in enumerate(sounds)}
        files |= dict.fromkeys(names, sounds.sum(0))
        for name, sound in files.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / name / f"{number}.wav", sound, RATE, subtype="PCM_16")
    return sources.transpose(0, 2, 1)


@pytest.mark.parametrize("names", [["mix"], ["mix_clean", "mix_both"]])
def test_folders_of_wsj0_and_librimix(tmp_path, names):
    expected = write_mixtures(tmp_path / "tr", names)
    given = open_mixtures(tmp_path / "tr", 2, RATE, tmp_path / "cache", names[-1])
    whole = Mixtures(*given)
    for k in range(4):
        item = whole.item(k)
        np.testing.assert_allclose(item["sources"], expected[k], atol=1 / 32768)
        np.testing.assert_allclose(item["mixture"], expected[k].sum(1), atol=1 / 32768)
        assert item["talking"] == 2


def test_mixtures_of_a_single_speaker_leave_the_second_silent(tmp_path):
    write_mixtures(tmp_path / "tr", ["mix_single"])
    item = Mixtures(*open_mixtures(tmp_path / "tr", 2, RATE, tmp_path / "cache"), speakers=2).item(0)
    assert item["sources"].shape == (RATE // 2, 2)
    assert item["talking"] == 1
    assert not item["sources"][:, 1].any()


def test_lists_of_lines_and_columns(tmp_path):
    expected = write_mixtures(tmp_path, ["mix"])
    lines = [f"mix/{k}.wav s1/{k}.wav s2/{k}.wav 0.5" for k in range(4)]
    (tmp_path / "tr.scp").write_text("\n".join(lines) + "\n\n")
    for name, columns in (
        ("own.csv", ["mixture", "s1", "s2"]),
        ("librimix.csv", ["mixture_ID", "mixture_path", "source_1_path", "source_2_path", "length"]),
    ):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            rows = [[f"mix/{k}.wav", f"s1/{k}.wav", f"s2/{k}.wav"] for k in range(4)]
            writer.writerows(rows if len(columns) == 3 else [[str(k), *row, "4000"] for k, row in enumerate(rows)])
    for name in ("tr.scp", "own.csv", "librimix.csv"):
        item = Mixtures(*open_mixtures(tmp_path / name, 2, RATE, tmp_path / "cache")).item(3)
        np.testing.assert_allclose(item["sources"], expected[3], atol=1 / 32768)


def test_crops_are_aligned_filled_and_come_in_another_order_each_round(tmp_path):
    write_mixtures(tmp_path, ["mix"])
    given = open_mixtures(tmp_path, 2, RATE, tmp_path / "cache")
    whole = [Mixtures(*given).item(k) for k in range(4)]
    crops, long = Mixtures(*given, seconds=0.2, seed=1), Mixtures(*given, seconds=1.0)
    orders = []
    for k in range(16):
        item = crops.item(k)
        assert item["mixture"].shape == (RATE // 5,)
        (place,) = [
            (row, start)
            for row, one in enumerate(whole)
            for start in np.flatnonzero(one["mixture"] == item["mixture"][0])
            if np.array_equal(one["mixture"][start : start + RATE // 5], item["mixture"])
        ]
        row, start = place
        np.testing.assert_array_equal(item["sources"], whole[row]["sources"][start : start + RATE // 5])
        orders.append(row)
        filled = long.item(k)
        assert filled["sources"].shape == (RATE, 2)
        assert not filled["mixture"][RATE // 2 :].any()
    rounds = [tuple(orders[first : first + 4]) for first in range(0, 16, 4)]
    assert all(sorted(one) == [0, 1, 2, 3] for one in rounds)
    assert len(set(rounds)) > 1


def test_mixtures_that_do_not_fit_are_refused(tmp_path):
    write_mixtures(tmp_path / "tr", ["mix"])
    soundfile.write(tmp_path / "short.wav", voice(0, 0.1, RATE), RATE)
    (tmp_path / "uneven.scp").write_text("tr/mix/0.wav tr/s1/0.wav short.wav")
    (tmp_path / "few.scp").write_text("tr/mix/0.wav tr/s1/0.wav")
    (tmp_path / "lost.scp").write_text("tr/mix/0.wav tr/s1/0.wav tr/s2/9.wav")
    (tmp_path / "empty.scp").write_text("\n")
    (tmp_path / "other.csv").write_text("path,text\n")
    for source, speakers, message in (
        ("uneven.scp", 2, "short.wav differ in length"),
        ("few.scp", 2, "few.scp, line 1: 2 files, expected a mixture and 2 sources"),
        ("lost.scp", 2, "s2/9.wav"),
        ("empty.scp", 2, "lists no mixtures"),
        ("other.csv", 2, "its header says: path, text"),
        ("tr", 3, "is missing, a source of"),
        ("tr/s1", 2, r"has no folder mix_clean or .* \(folders in it: none\)"),
        ("none", 2, "holds no mixtures"),
    ):
        with pytest.raises(WavecastError, match=message):
            open_mixtures(tmp_path / source, speakers, RATE, tmp_path / "cache")


def test_validation_takes_recorded_mixtures_whole(tmp_path, sounds):
    write_mixtures(tmp_path / "cv", ["mix_both"])
    some = data(sounds, mixtures=str(tmp_path / "cv"), validation_mixtures=str(tmp_path / "cv"))
    some.prepare_data()
    some.setup("fit")
    assert some.train_source.item(0)["mixture"].shape == (RATE // 4,)
    assert some.validation_source.item(0)["mixture"].shape == (RATE // 2,)
    assert some.validation_count() == 4
    assert data(sounds, validation_items=0).validation_count() == 0
