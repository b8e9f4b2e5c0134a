"""Rooms, noises and mixtures: each is what it says, and item k depends on (seed, k) alone."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from kit.sounds import RATE, hiss, voice, write_folder
from wavecast.core.errors import WavecastError
from wavecast.datamodules import noises
from wavecast.datamodules.clips import open_clips
from wavecast.datamodules.mixing import Chances, NoisySpeech, active_level, mu_law
from wavecast.datamodules.rooms import Rooms, image_sources

NEVER = Chances(**dict.fromkeys(Chances.__dataclass_fields__, 0.0))


def only(**chances):
    """Chances of these happenings alone."""
    return Chances(**{**vars(NEVER), **chances})


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    speech = open_clips(write_folder(folder / "speech", voice), cache=folder / "cache")
    return speech, open_clips(write_folder(folder / "noise", hiss), cache=folder / "cache")


def mixtures(clips, chances=None, seed=3, **options):
    options = {"seconds": 1.0, "rooms": Rooms(4, seed), "keys": clips[1], **options}
    return NoisySpeech(*clips, seed=seed, chances=chances, **options)


def test_item_is_the_same_in_any_order_and_in_another_process(clips, tmp_path):
    forward = mixtures(clips)
    items = [forward.item(k) for k in range(12)]
    backward = mixtures(clips)
    for k in reversed(range(12)):
        for name, value in backward.item(k).items():
            assert value.tobytes() == items[k][name].tobytes()
    script = """
import hashlib, sys
from wavecast.datamodules.clips import open_clips
from wavecast.datamodules.mixing import NoisySpeech
from wavecast.datamodules.rooms import Rooms
speech, noise = (open_clips(folder, cache=sys.argv[1]) for folder in sys.argv[2:])
source = NoisySpeech(speech, noise, seconds=1.0, seed=3, rooms=Rooms(4, 3), keys=noise)
print(hashlib.sha256(source.item(7)["noisy"].tobytes() + source.item(4)["clean"].tobytes()).hexdigest())
"""
    cache = clips[0].maps[0].path.parent
    words = [sys.executable, "-c", script, str(cache), str(cache.parent / "speech"), str(cache.parent / "noise")]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    assert printed == hashlib.sha256(items[7]["noisy"].tobytes() + items[4]["clean"].tobytes()).hexdigest()


def test_items_and_seeds_differ(clips):
    one, two, other = mixtures(clips).item(0), mixtures(clips).item(1), mixtures(clips, seed=4).item(0)
    assert not np.array_equal(one["noisy"], two["noisy"])
    assert not np.array_equal(one["noisy"], other["noisy"])


def test_everything_at_once_stays_finite_and_within_full_scale(clips):
    source = mixtures(clips, Chances(reverberant=1, equalized=1, band_limited=1, clipped=0.5, companded=0.5, gap=0.5))
    for k in range(20):
        item = source.item(k)
        assert {name: (value.dtype, value.shape) for name, value in item.items()} == {
            "noisy": (np.float32, (RATE,)),
            "clean": (np.float32, (RATE,)),
            "snr": (np.float32, ()),
        }
        assert np.isfinite(item["noisy"]).all()
        assert np.isfinite(item["clean"]).all()
        assert np.abs(item["noisy"]).max() <= 1


def test_snr_is_the_one_drawn(clips):
    """In the dry, unprocessed case the noise is the difference, up to 16-bit rounding."""
    source = mixtures(clips, NEVER, snr=(-10, 25), level=(-20, -15))
    seen = []
    for k in range(40):
        item = source.item(k)
        noise = item["noisy"] - item["clean"]
        measured = 20 * np.log10(active_level(item["clean"]) / active_level(noise))
        assert measured == pytest.approx(float(item["snr"]), abs=0.1)
        seen.append(item["snr"])
    assert -10 <= min(seen) < -5
    assert 20 < max(seen) <= 25


def test_level_is_the_one_asked_for(clips):
    source = mixtures(clips, NEVER, level=(-40, -40))
    levels = [20 * np.log10(active_level(source.item(k)["noisy"])) for k in range(10)]
    np.testing.assert_allclose(levels, -40, atol=0.1)


def test_clean_items_and_noise_items(clips):
    item = mixtures(clips, only(clean=1.0)).item(0)
    assert item["snr"] == np.inf
    np.testing.assert_allclose(item["noisy"], item["clean"], atol=0.5 / 32768 + 1e-7)
    item = mixtures(clips, only(noise_only=1.0)).item(0)
    assert item["snr"] == -np.inf
    assert not item["clean"].any()
    assert item["noisy"].any()


def test_target_is_aligned_with_the_speech_in_a_room(clips):
    """Without noise, the target explains the mixture best at lag 0, and what it leaves out is later reverberation."""
    hissing = clips[1], clips[1]
    source = mixtures(hissing, only(clean=1.0, reverberant=1.0), rooms=Rooms(6, t60=(0.5, 0.8)))
    for k in range(6):
        item = source.item(k)
        lags = np.correlate(item["noisy"], item["clean"][200:-200], "valid")
        assert np.argmax(lags) == 200
        late = item["noisy"] - item["clean"]
        first = np.flatnonzero(np.abs(item["clean"]) > 0.02 * np.abs(item["clean"]).max())[0]
        assert np.abs(late[: first + 700]).max(initial=0) <= 1e-3 + 0.05 * np.abs(late).max()


def test_clipped_gapped_and_band_limited_items(clips):
    item = mixtures(clips, only(clipped=1.0)).item(1)
    assert np.mean(np.abs(item["noisy"]) > 0.999) > 1e-4
    muted, whole = (mixtures(clips, only(gap=chance), level=(-20, -20)).item(5) for chance in (1.0, 0.0))
    gap = np.flatnonzero(muted["noisy"] != whole["noisy"])
    assert len(gap) > 0.04 * RATE
    for name in ("noisy", "clean"):
        assert not muted[name][gap[0] : gap[-1] + 1].any()
        np.testing.assert_array_equal(muted[name][: gap[0]], whole[name][: gap[0]])
    limited = mixtures(clips, only(band_limited=1.0), level=(-20, -20)).item(2)
    power = np.abs(np.fft.rfft(limited["noisy"])) ** 2
    assert power[7600:].mean() < 1e-5 * power[:3000].mean()


def test_a_voice_is_resampled(clips):
    """A hissing voice, slowed down, leaves the top of the band empty; its length stays."""
    hissing = clips[1], clips[1]
    sounds = [mixtures(hissing, only(clean=1.0, resampled=1.0)).item(k)["clean"] for k in range(12)]
    power = np.array([np.abs(np.fft.rfft(sound)) ** 2 for sound in sounds])
    top = power[:, 7600:7900].mean(1) / power[:, 2000:6000].mean(1)
    assert top.min() < 1e-3 < 0.1 < top.max()
    assert all(sound.shape == (RATE,) for sound in sounds)


def test_a_narrow_voice_narrows_its_noise(clips):
    narrow = replace(clips[0], attributes=[{**about, "bandwidth": 4000} for about in clips[0].attributes])
    item = mixtures((narrow, clips[1]), NEVER, level=(-20, -20)).item(2)
    power = np.abs(np.fft.rfft(item["noisy"])) ** 2
    assert power[4100:].mean() < 1e-4 * power[:3700].mean()


def test_without_recorded_noise_the_noise_is_made(clips):
    source = NoisySpeech(clips[0], None, seconds=1.0, seed=0, rooms=Rooms(2))
    assert all(source.item(k)["noisy"].any() for k in range(5))


def test_wrong_rate_and_nothing_to_draw_are_refused(clips):
    with pytest.raises(ValueError, match="clips of 16000 Hz for mixtures of 8000 Hz"):
        NoisySpeech(*clips, seconds=1.0, seed=0, sample_rate=8000)
    with pytest.raises(WavecastError, match="no clip to draw"):
        mixtures((clips[0].where(only={"speaker": []}), clips[1])).item(0)


@pytest.mark.parametrize("name", noises.MAKERS)
def test_noises_have_unit_level_and_follow_their_generator(name):
    make = noises.MAKERS[name]
    for samples in (1, 1000, 16_000):
        noise = make(np.random.default_rng(5), samples, RATE)
        assert noise.shape == (samples,)
        assert noise.dtype == np.float32
        assert np.sqrt(np.mean(noise.astype(float) ** 2)) == pytest.approx(1, abs=1e-3) or samples == 1
    np.testing.assert_array_equal(noise, make(np.random.default_rng(5), 16_000, RATE))
    assert not np.array_equal(noise, make(np.random.default_rng(6), 16_000, RATE))


def test_shaped_noise_has_the_spectrum_asked_for():
    """White noise falling 20 dB from 1 to 2 kHz has a hundredth of the power there."""
    hertz, decibels = np.array([10.0, 1000, 2000, 8000]), np.array([0.0, 0, -20, -20])
    noise = noises.shaped(np.random.default_rng(0), 16 * RATE, RATE, hertz, decibels)
    power = np.abs(np.fft.rfft(noise)) ** 2
    ratio = power[16 * 3000 : 16 * 4000].mean() / power[16 * 500 : 16 * 900].mean()
    assert 10 * np.log10(ratio) == pytest.approx(-20, abs=0.3)


def test_rumble_and_wind_are_low_and_hum_has_lines():
    for make in (noises.rumble, noises.wind):
        power = np.abs(np.fft.rfft(make(np.random.default_rng(1), RATE, RATE))) ** 2
        assert power[:2000].sum() > 0.99 * power.sum()
    power = np.sort(np.abs(np.fft.rfft(noises.hum(np.random.default_rng(1), RATE, RATE))) ** 2)
    assert power[-60:].sum() > 0.7 * power.sum()


def test_babble_and_typing_use_their_clips(clips):
    talk = noises.babble(np.random.default_rng(0), RATE, clips[0], count=3)
    assert np.sqrt(np.mean(talk**2)) == pytest.approx(1, abs=1e-3)
    keys = clips[1]
    typed = noises.typing(np.random.default_rng(0), 4 * RATE, keys)
    assert np.sqrt(np.mean(typed**2)) == pytest.approx(1, abs=1e-3)


def test_rooms_are_causal_and_decay_as_asked():
    """Schroeder's backward integral falls 60 dB in T60; the fit runs from -5 to -25 dB."""
    for t60 in (0.3, 0.8):
        rooms = Rooms(8, seed=1, t60=(t60, t60))
        slopes = []
        for index in range(8):
            for response in rooms.room(index):
                assert response.full[0] == pytest.approx(1, abs=0.05)
                stop = int(0.05 * RATE)
                np.testing.assert_array_equal(response.early[:stop], response.full[:stop])
                assert len(response.early) < len(response.full)
                decay = 10 * np.log10(np.cumsum(response.full[::-1] ** 2)[::-1] / np.sum(response.full**2))
                fit = (decay < -5) & (decay > -25)
                slopes.append(np.polyfit(np.flatnonzero(fit) / RATE, decay[fit], 1)[0])
        assert -60 / np.median(slopes) == pytest.approx(t60, rel=0.35)


def test_first_reflection_arrives_when_geometry_says():
    """Source and microphone 1 m apart, 1 m over the floor of a huge hall: the floor's path is sqrt(1 + 4) m."""
    size, microphone = np.array([40.0, 40, 40]), np.array([20.0, 20, 1])
    source = microphone + np.array([1.0, 0, 0])
    response = image_sources(np.random.default_rng(0), size, source, microphone, 5.0, RATE, 400)
    assert response[0] == pytest.approx(1)
    arrival = (np.sqrt(5) - 1) / 343 * RATE
    assert np.argmax(np.abs(response[20:])) + 20 == pytest.approx(arrival, abs=0.05 / 343 * RATE + 1)
    assert np.abs(response[10 : int(arrival) - 12]).max() < 1e-3


def test_mu_law_follows_its_curve():
    """F(x) = ln(1 + 255 x) / ln 256 in 127 steps: full scale and zero are kept, steps near zero are fine."""
    x = np.linspace(-1, 1, 2001, dtype=np.float32)
    y = mu_law(x)
    assert y[[0, 1000, 2000]].tolist() == pytest.approx([-1, 0, 1])
    step = np.log(256) / 127 * (np.abs(x) + 1 / 255)
    assert (np.abs(y - x) <= 0.5 * step * np.exp(np.log(256) / 254) + 1e-6).all()
