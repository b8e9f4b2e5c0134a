"""Simulated rooms: early reflections by the image method, a decaying tail after them.

The image method of a shoebox (Allen and Berkley 1979) gives every reflection of the first tens of milliseconds, with
image positions jittered by centimeters against sweeping echoes; the dense rest is noise that decays by 60 dB in T60,
faster above 2 kHz. Responses begin with the direct sound at sample 0, so that speech heard through them stays aligned.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import signal

SPEED_OF_SOUND = 343.0
MIXING_TIME = 0.05  # seconds after the direct sound, from where the tail takes over
TAPS = np.arange(-7, 9)  # of the interpolating sinc


@dataclass(frozen=True)
class Response:
    """What one place in a room makes of a sound.

    Attributes:
        full: float32 (samples,), direct sound 1 at sample 0.
        early: float32 (samples,), its beginning, faded out: what an enhancer should keep.
    """

    full: np.ndarray
    early: np.ndarray


class Rooms:
    """A bank of rooms, each simulated when first asked for; room i is a function of (seed, i).

    Args:
        count: rooms in the bank.
        seed: of the bank.
        sample_rate: in hertz.
        t60: shortest and longest reverberation time in seconds; most rooms are nearer the shortest.
        early: seconds of reflections that belong to the wanted sound.
        places: sources in each room; the first is the nearest to the microphone.
    """

    def __init__(
        self,
        count: int = 400,
        seed: int = 0,
        sample_rate: int = 16_000,
        t60: tuple[float, float] = (0.1, 1.0),
        early: float = 0.05,
        places: int = 3,
    ) -> None:
        self.count, self.seed, self.sample_rate = count, seed, sample_rate
        self.t60, self.early, self.places = t60, early, places
        self._rooms: dict[int, tuple[Response, ...]] = {}

    def __len__(self) -> int:
        return self.count

    def room(self, index: int) -> tuple[Response, ...]:
        """Give the responses of the places of room `index`."""
        if index not in self._rooms:
            self._rooms[index] = self._simulate(np.random.default_rng([self.seed, index, 0x800]))
        return self._rooms[index]

    def _simulate(self, rng: np.random.Generator) -> tuple[Response, ...]:
        size = rng.uniform([2.5, 2.2, 2.2], [9.0, 7.0, 4.0])
        shortest, longest = self.t60
        t60 = shortest + (longest - shortest) * rng.beta(1.3, 2.5)
        microphone = rng.uniform(0.15, 0.85, 3) * size
        sources = rng.uniform(0.08, 0.92, (self.places, 3)) * size
        near = rng.uniform(0.2, 1.0) ** 0.5  # talkers sit closer to their microphones than chance puts them
        sources[0] = microphone + (sources[0] - microphone) * (1 - 0.8 * near)
        return tuple(respond(rng, size, source, microphone, t60, self.sample_rate, self.early) for source in sources)


def respond(
    rng: np.random.Generator,
    size: np.ndarray,
    source: np.ndarray,
    microphone: np.ndarray,
    t60: float,
    sample_rate: int,
    early: float,
) -> Response:
    """Simulate the response from a source to a microphone in a shoebox.

    Args:
        rng: draws wall absorptions, jitter and the tail.
        size: edges in meters (3,).
        source: position in meters (3,).
        microphone: position in meters (3,).
        t60: seconds in which the sound decays by 60 dB.
        sample_rate: in hertz.
        early: seconds after the direct sound that the early response keeps.
    """
    length = max(int(0.85 * t60 * sample_rate), int((early + 0.02) * sample_rate))
    turn = int(MIXING_TIME * sample_rate)
    images = image_sources(rng, size, source, microphone, t60, sample_rate, turn + turn // 2)
    images = np.pad(images, (0, max(0, length - len(images))))[:length]
    last = images[turn - turn // 2 : turn]
    tail = decaying_noise(rng, length, t60, sample_rate)
    here = tail[turn - turn // 2 : turn]
    tail *= np.sqrt(np.sum(last**2) / (np.sum(here**2) + 1e-12))
    fade = np.clip((np.arange(length) - turn) / (turn // 2), 0, 1)
    full = images * np.sqrt(1 - fade) + tail * np.sqrt(fade)
    stop, ramp = int(early * sample_rate), int(0.01 * sample_rate)
    window = np.zeros(length)
    window[:stop] = 1
    window[stop : stop + ramp] = 0.5 + 0.5 * np.cos(np.pi * np.arange(ramp) / ramp)
    return Response(full.astype(np.float32), (full * window).astype(np.float32)[: stop + ramp])


def image_sources(
    rng: np.random.Generator,
    size: np.ndarray,
    source: np.ndarray,
    microphone: np.ndarray,
    t60: float,
    sample_rate: int,
    samples: int,
) -> np.ndarray:
    """Add up the image sources of a shoebox: (samples,) from the direct sound, which is 1 at sample 0.

    Wall absorption follows from T60 by Eyring's formula, varied from wall to wall.
    """
    direct = max(float(np.linalg.norm(source - microphone)), 0.05)
    volume, surface = np.prod(size), 2 * (size[0] * size[1] + size[1] * size[2] + size[0] * size[2])
    absorption = 1 - np.exp(-0.161 * volume / (surface * t60))
    walls = np.sqrt(1 - np.clip(absorption * rng.uniform(0.7, 1.3, (2, 3)), 0.02, 0.98))
    reach = direct + samples / sample_rate * SPEED_OF_SOUND
    orders = np.ceil(reach / (2 * size)).astype(int)
    cells = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in orders), indexing="ij"), -1).reshape(-1, 1, 3)
    mirrored = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(1, 8, 3)
    places = (1 - 2 * mirrored) * source + 2 * cells * size - microphone
    bounces = np.abs(cells - mirrored), np.abs(cells) + 0 * mirrored
    strength = np.prod(walls[0] ** bounces[0] * walls[1] ** bounces[1], -1).ravel()
    order = (bounces[0] + bounces[1]).sum(-1).ravel()
    distance = np.linalg.norm(places, axis=-1).ravel()
    distance = np.where(order > 0, distance + rng.uniform(-0.04, 0.04, len(distance)), direct)
    distance = np.maximum(distance, direct)
    kept = distance < reach
    delay = (distance[kept] - direct) / SPEED_OF_SOUND * sample_rate
    amplitude = strength[kept] * direct / distance[kept]
    whole = np.floor(delay).astype(int)
    offset = TAPS - (delay - whole)[:, None]
    taps = np.sinc(offset) * np.cos(np.pi / 2 * np.clip(offset / 8, -1, 1)) ** 2 * amplitude[:, None]
    at = whole[:, None] + TAPS
    inside = (at >= 0) & (at < samples)
    return np.bincount(at[inside], taps[inside], samples)


def decaying_noise(rng: np.random.Generator, samples: int, t60: float, sample_rate: int) -> np.ndarray:
    """Make noise that decays by 60 dB in t60 below 2 kHz and in 0.6 of it above: (samples,)."""
    noise = rng.standard_normal(samples)
    low = signal.lfilter(*_low_pass(sample_rate), noise)
    time = np.arange(samples) / sample_rate
    decay = -np.log(1000) / t60
    return low * np.exp(decay * time) + (noise - low) * np.exp(decay / 0.6 * time)


@cache
def _low_pass(sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    b, a = signal.butter(1, 2000, fs=sample_rate)
    return b, a
