"""Noises made from random numbers: what recordings of noise are too few for.

Every maker takes a generator, a number of samples and a sample rate, and gives float32 (samples,) of RMS 1. Spectra
are drawn as spectra and transformed once, which makes a second of noise in well under a millisecond.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import fft, signal

from wavecast.datamodules.clips import Clips

Maker = Callable[[np.random.Generator, int, int], np.ndarray]


def unit(noise: np.ndarray) -> np.ndarray:
    """Scale to RMS 1; silence stays silence."""
    noise = noise.astype(np.float32, copy=False)
    level = float(np.sqrt(np.mean(np.square(noise)))) if len(noise) else 0.0
    return noise / np.float32(level) if level > 1e-9 else noise


def shaped(
    rng: np.random.Generator, samples: int, sample_rate: int, hertz: np.ndarray, decibels: np.ndarray
) -> np.ndarray:
    """Make Gaussian noise whose spectrum runs through (hertz, decibels), interpolated on a logarithmic axis."""
    return _noise(_draw_spectrum(rng, samples, sample_rate, hertz, decibels), samples)


def _draw_spectrum(
    rng: np.random.Generator, samples: int, sample_rate: int, hertz: np.ndarray, decibels: np.ndarray
) -> np.ndarray:
    bins = fft.next_fast_len(max(samples, 2), real=True) // 2 + 1
    spectrum = rng.standard_normal(2 * bins, np.float32).view(np.complex64)
    knots = np.minimum(np.geomspace(1, bins, 200), bins) - 1  # the gain is smooth: interpolated in two steps
    frequency = np.maximum(knots * sample_rate / 2 / bins, 1.0)
    gain = 10 ** (np.interp(np.log(frequency), np.log(hertz), decibels) / 20)
    spectrum *= np.interp(np.arange(bins), knots, gain).astype(np.float32)
    spectrum[0] = 0
    return spectrum


def _noise(spectrum: np.ndarray, samples: int) -> np.ndarray:
    return unit(fft.irfft(spectrum)[:samples])


def envelope(rng: np.random.Generator, samples: int, sample_rate: int, hertz: float, decibels: float) -> np.ndarray:
    """Draw a gain that wanders `hertz` times a second within +-`decibels` or so: float32 (samples,)."""
    step = sample_rate / hertz
    knots = rng.uniform(-decibels, decibels, int(samples / step) + 2)
    line = np.interp(np.arange(0, samples + 15, 16), np.arange(len(knots)) * step, knots)
    return np.repeat((10 ** (line / 20)).astype(np.float32), 16)[:samples]


def colored(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    """Make stationary noise between violet and brown, with a few broad resonances and dips."""
    hertz = np.geomspace(30, sample_rate / 2, 12)
    slope = rng.uniform(-9, 3)
    return shaped(rng, samples, sample_rate, hertz, slope * np.log2(hertz / 1000) + rng.normal(0, 4, len(hertz)))


def rumble(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    """Make the low rumble of traffic, cabins and handling: almost all of it below a few hundred hertz."""
    corner = rng.uniform(40, 400)
    hertz = np.array([15.0, corner, 4 * corner, sample_rate / 2])
    noise = shaped(rng, samples, sample_rate, hertz, np.array([-6, 0, -rng.uniform(12, 30), -rng.uniform(40, 70)]))
    return unit(noise * envelope(rng, samples, sample_rate, rng.uniform(0.3, 3), rng.uniform(0, 8)))


def wind(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    """Make wind on a microphone: noise falling from the lowest frequencies, in gusts."""
    hertz = np.array([10.0, rng.uniform(30, 120), rng.uniform(500, 1500), sample_rate / 2])
    noise = shaped(rng, samples, sample_rate, hertz, np.array([0, 0, -rng.uniform(20, 40), -rng.uniform(50, 80)]))
    return unit(noise * envelope(rng, samples, sample_rate, rng.uniform(1, 8), rng.uniform(6, 18)))


def hum(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    """Make mains or motor hum: harmonics of one frequency over a little noise."""
    base = rng.choice([50.0, 60.0, 100.0, 120.0, rng.uniform(40, 600)]) * rng.uniform(0.995, 1.005)
    flat = np.array([20.0, sample_rate / 2])
    spectrum = _draw_spectrum(rng, samples, sample_rate, flat, np.array([0.0, -rng.uniform(0, 30)]))
    spectrum *= 10 ** (-rng.uniform(10, 50) / 20)
    _add_harmonics(rng, spectrum, base, sample_rate, rng.uniform(0.4, 2.0))
    return _noise(spectrum, samples)


def fan(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    """Make a fan or an engine: broad noise, blade harmonics, and the swell of each turn."""
    blades = rng.uniform(30, 350)
    hertz = np.array([30.0, rng.uniform(100, 400), rng.uniform(800, 3000), sample_rate / 2])
    spectrum = _draw_spectrum(rng, samples, sample_rate, hertz, np.array([-10, 0, -6, -rng.uniform(15, 45)]))
    _add_harmonics(rng, spectrum, blades, sample_rate, rng.uniform(0.8, 2.5), 10 ** rng.uniform(-1.5, 0.3))
    turn = 2 * np.pi * blades / rng.integers(3, 9) / sample_rate
    swell = 1 + np.float32(rng.uniform(0, 0.5)) * np.sin(np.arange(samples, dtype=np.float32) * np.float32(turn))
    return unit(_noise(spectrum, samples) * swell)


def _add_harmonics(
    rng: np.random.Generator,
    spectrum: np.ndarray,
    base: float,
    sample_rate: int,
    fall: float,
    strength: float = 1.0,
) -> None:
    """Add lines at the multiples of `base`, falling as order ** -fall; strength 1: as strong as white noise of 1."""
    count = max(1, min(60, int(0.95 * sample_rate / 2 / base)))
    order = np.arange(1, count + 1)
    at = np.rint(order * base * 2 * (len(spectrum) - 1) / sample_rate).astype(int)
    power = order.astype(float) ** -fall * rng.lognormal(0, 0.6, count)
    scale = strength * np.sqrt(len(spectrum)) / np.sqrt(np.sum(power**2))
    phase = np.exp(2j * np.pi * rng.random(count))
    np.add.at(spectrum, np.minimum(at, len(spectrum) - 1), (scale * power * phase).astype(np.complex64))


def modulated(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    """Make noise whose strength moves as fast as that of speech, or is switched on and off (machines, engines)."""
    noise = colored(rng, samples, sample_rate)
    if rng.random() < 0.6:
        return unit(noise * envelope(rng, samples, sample_rate, rng.uniform(2, 12), rng.uniform(8, 20)))
    turn = np.arange(samples, dtype=np.float32) * np.float32(rng.uniform(0.5, 25) / sample_rate) % 1
    on = (turn < rng.uniform(0.2, 0.8)).astype(np.float32)
    keep = np.float32(np.exp(-1 / (sample_rate * rng.uniform(0.001, 0.01))))
    soft = signal.lfilter(np.array([1 - keep]), np.array([1, -keep]), on)
    return unit(noise * np.maximum(soft, np.float32(rng.uniform(0, 0.3))))


def clicks(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    """Make clicks, taps and knocks: resonances that are struck at random times and die out in milliseconds."""
    count = max(1, rng.poisson(samples / sample_rate * rng.uniform(0.7, 12)))
    struck = np.zeros(samples, np.float32)
    np.add.at(struck, rng.integers(0, samples, count), rng.lognormal(0, 0.7, count).astype(np.float32))
    length = int(rng.uniform(0.004, 0.08) * sample_rate)
    time = np.arange(length) / sample_rate
    body = rng.standard_normal(length) * np.exp(-time * rng.uniform(4, 12) * sample_rate / length)
    for _ in range(rng.integers(0, 4)):
        decay = np.exp(-time * rng.uniform(3, 8) * sample_rate / length)
        body += rng.uniform(0.5, 2) * np.sin(2 * np.pi * rng.uniform(100, 5000) * time) * decay
    return unit(signal.oaconvolve(struck, body.astype(np.float32))[:samples])


def tones(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    """Make beeps, alarms and sirens: one or a few partials, held, switched or sweeping."""
    low, high = np.sort(rng.uniform(200, 3500, 2))
    rate = rng.uniform(0.3, 8)
    turn = np.arange(samples, dtype=np.float32) * np.float32(rate / sample_rate) % 1
    shape = rng.integers(4)
    if shape == 0:
        pitch = np.full(samples, low, np.float32)
    elif shape == 1:
        pitch = np.where(turn < 0.5, low, high)
    elif shape == 2:
        pitch = low + (high - low) * np.abs(2 * turn - 1)
    else:
        pitch = low + (high - low) * turn
    phase = (2 * np.pi * np.cumsum(pitch / sample_rate, dtype=np.float64) % (2 * np.pi)).astype(np.float32)
    sound = np.full(samples, 1e-4, np.float32)
    for partial in range(1, rng.integers(2, 5)):
        sound += np.float32(rng.uniform(0.1, 1) / partial) * np.sin(partial * phase)
    if shape == 0 or rng.random() < 0.4:
        sound *= turn < rng.uniform(0.2, 1)
    return unit(sound)


MAKERS: dict[str, Maker] = {
    "colored": colored,
    "rumble": rumble,
    "wind": wind,
    "hum": hum,
    "fan": fan,
    "modulated": modulated,
    "clicks": clicks,
    "tones": tones,
}
"""Every noise made from random numbers alone, by name."""


def babble(rng: np.random.Generator, samples: int, voices: Clips, count: int | None = None) -> np.ndarray:
    """Let several voices talk at once: float32 (samples,) of RMS 1.

    Args:
        rng: draws the clips.
        samples: how many.
        voices: clips of speech.
        count: voices at a time; 3 to 12 when None.
    """
    total = np.zeros(samples, np.float32)
    for _ in range(count or rng.integers(3, 13)):
        total += np.float32(rng.lognormal(0, 0.4)) * unit(chain(rng, samples, voices))
    return unit(total)


def chain(rng: np.random.Generator, samples: int, clips: Clips) -> np.ndarray:
    """Put clips behind each other, the first begun at random, till they last: float32 (samples,)."""
    sound = np.zeros(samples, np.float32)
    done = 0
    for _ in range(64):
        index = clips.draw(rng)
        start = int(rng.integers(clips.lengths[index])) if done == 0 else 0
        piece = clips.clip(index, start, samples - done)
        sound[done : done + len(piece)] = piece
        done += len(piece)
        if done >= samples:
            break
    return sound


def without_keys(noise: Clips | None, sources: Sequence[str]) -> tuple[Clips | None, Clips | None]:
    """Set recordings of single keystrokes apart from other noises.

    Args:
        noise: recordings of noises.
        sources: values of the attribute `source` that mark keystrokes.

    Returns:
        The other noises, evened out by source, and the keystrokes; None where there is none.
    """
    if noise is None:
        return None, None
    others, keys = noise.where(exclude={"source": sources}), noise.where(only={"source": sources})
    return others.balanced("source") if len(others) else None, keys if len(keys) else None


def typing(rng: np.random.Generator, samples: int, keys: Clips) -> np.ndarray:
    """Type on a keyboard: single keys in bursts with pauses between the words, float32 (samples,) of RMS 1.

    Args:
        rng: draws keys and times.
        samples: how many.
        keys: recordings of single keys.
    """
    sound = np.zeros(samples, np.float32)
    speed = rng.uniform(3, 14)
    at, rate = rng.uniform(0, 0.3), keys.sample_rate
    while (start := int(at * rate)) < samples:
        key = keys.clip(keys.draw(rng), 0, samples - start)
        sound[start : start + len(key)] += np.float32(rng.lognormal(0, 0.3)) * key
        at += rng.gamma(4, 0.25 / speed) + (rng.uniform(0.2, 1.2) if rng.random() < 0.12 else 0)
    return unit(sound)
