"""Noisy speech mixed as it is needed: item k is a function of (seed, k) and of nothing else.

An item is speech in a room, one to three noises at other places of that room, and what a recording does to both: a
frequency response, a band limit, a level between whisper and clipping, gaps, 16 bits. The wanted signal is the speech
with its early reflections, through the same recording chain and at the level it has in the mixture.
"""

from dataclasses import dataclass
from math import inf

import numpy as np
import soxr
from scipy import fft

from wavecast.datamodules import noises
from wavecast.datamodules.clips import Clips
from wavecast.datamodules.rooms import Response, Rooms
from wavecast.datamodules.talking import Talkers, active_level, draw_speed

Range = tuple[float, float]
LONGEST_RESPONSE = 0.85  # of the longest T60


@dataclass(frozen=True)
class Chances:
    """How often things happen in a mixture: probabilities of an item, or of each noise.

    Attributes:
        noise_only: no speech; the wanted signal is silence.
        clean: no noise.
        reverberant: in a room.
        equalized: a microphone that is not flat.
        band_limited: sound above 3 to 7 kHz missing, or below 80 to 300 Hz.
        clipped: recorded too loud, up to 8 dB over full scale.
        companded: 8-bit mu-law, as telephones have it.
        gap: a stretch of digital silence.
        resampled: the voice faster and higher, or slower and lower, so that a few voices sound like many.
        synthetic: of a noise: made from random numbers.
        babble: of a noise: other voices.
        typing: of a noise: a keyboard, when `keys` are given.
    """

    noise_only: float = 0.05
    clean: float = 0.05
    reverberant: float = 0.6
    equalized: float = 0.4
    band_limited: float = 0.15
    clipped: float = 0.05
    companded: float = 0.02
    gap: float = 0.04
    resampled: float = 0.5
    synthetic: float = 0.35
    babble: float = 0.12
    typing: float = 0.05


class Surroundings:
    """What a microphone hears beside a voice: a room, noises, and the recording itself.

    Args:
        noise: recorded noises; None: synthetic ones and babble only.
        voices: speech for babble.
        sample_rate: in hertz; that of the clips.
        snr: lowest and highest ratio of speech to noise in dB, both measured where they are active.
        level: lowest and highest level of the mixture's active parts in dB of full scale.
        noises_at_once: how many noises at most.
        keys: single keystrokes, to be typed with.
        rooms: simulated rooms; 400 of them when None.
        chances: how often things happen.

    Raises:
        ValueError: clips of another sample rate.
    """

    def __init__(
        self,
        noise: Clips | None,
        voices: Clips,
        *,
        sample_rate: int = 16_000,
        snr: Range = (-10.0, 25.0),
        level: Range = (-50.0, -15.0),
        noises_at_once: int = 3,
        keys: Clips | None = None,
        rooms: Rooms | None = None,
        chances: Chances | None = None,
    ) -> None:
        for clips in (voices, noise):
            if clips is not None and clips.sample_rate != sample_rate:
                raise ValueError(f"clips of {clips.sample_rate} Hz for mixtures of {sample_rate} Hz")
        self.noise, self.keys, self.voices = noise, keys, voices
        self.sample_rate, self.snr, self.level, self.noises_at_once = sample_rate, snr, level, noises_at_once
        self.rooms = rooms or Rooms(sample_rate=sample_rate)
        self.chances = chances or Chances()
        self._tail = int(LONGEST_RESPONSE * self.rooms.t60[1] * sample_rate)

    def record(self, rng: np.random.Generator, speech: np.ndarray, bandwidth: float = inf) -> np.ndarray:
        """Record speech among noises, in a room or not, as the chances have it.

        Args:
            rng: draws everything.
            speech: float32 (samples,).
            bandwidth: of the speech in hertz; what lies above is not heard of the noises either.

        Returns:
            float32 (samples,), aligned with the speech.
        """
        clean = self._happens(rng, self.chances.clean)
        room = self._draw_room(rng)
        color = self._recording_response(rng, bandwidth, len(speech))
        spectrum = self._transform(speech, len(speech)) * color
        if room:
            spectrum *= self._transform(room[0].full, len(speech))
        heard = self._signal(spectrum, len(speech))
        mixture, _ = (heard, inf) if clean else self._among_noises(rng, heard, room, color)
        return self._finish(rng, mixture, heard)[0]

    def _draw_room(self, rng: np.random.Generator) -> tuple[Response, ...] | None:
        happens = self._happens(rng, self.chances.reverberant)
        return self.rooms.room(int(rng.integers(len(self.rooms)))) if happens else None

    def _among_noises(
        self, rng: np.random.Generator, heard: np.ndarray, room: tuple[Response, ...] | None, color: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """Add noises to what is heard of the speech; give the mixture and its SNR in dB, -inf without speech."""
        snr = rng.uniform(*self.snr)
        background = self._signal(self._background(rng, room, len(heard)) * color, len(heard))
        loudness = active_level(heard)
        silent = loudness < 1e-5  # nothing was to be said, or the crop fell into a pause
        ratio = 0.1 if silent else loudness / (active_level(background) + 1e-12)
        mixture = heard + background * np.float32(ratio * 10 ** (-snr / 20))
        return mixture, -inf if silent else snr

    def _background(self, rng: np.random.Generator, room: tuple[Response, ...] | None, samples: int) -> np.ndarray:
        """Add up one to several noises, up to 12 dB apart, at places of the room: complex64 (bins,)."""
        total: np.ndarray = np.zeros(self._size(samples) // 2 + 1, np.complex64)
        for number in range(rng.integers(1, self.noises_at_once + 1)):
            sound = self._transform(self._noise(rng, samples), samples) * np.float32(10 ** (rng.uniform(-12, 0) / 20))
            if room:
                response = room[1 + number % (len(room) - 1)].full
                sound *= self._transform(response / np.linalg.norm(response), samples)
            total += sound
        return total

    def _happens(self, rng: np.random.Generator, chance: float) -> bool:
        return bool(rng.random() < chance)

    def _size(self, samples: int) -> int:
        """Give the length of the transforms: the longest response must not wrap around."""
        return int(fft.next_fast_len(samples + self._tail, real=True))

    def _transform(self, sound: np.ndarray, samples: int) -> np.ndarray:
        spectrum: np.ndarray = fft.rfft(sound, self._size(samples))
        return spectrum

    def _signal(self, spectrum: np.ndarray, samples: int) -> np.ndarray:
        sound: np.ndarray = fft.irfft(spectrum, self._size(samples))[:samples]
        return sound

    def _noise(self, rng: np.random.Generator, samples: int) -> np.ndarray:
        """Draw one noise: float32 (samples,) of RMS 1."""
        chances, kind = self.chances, rng.random()
        if kind < chances.synthetic:
            return self._synthetic(rng, samples)
        if kind < chances.synthetic + chances.babble:
            return noises.babble(rng, samples, self.voices)
        if self.keys is not None and kind < chances.synthetic + chances.babble + chances.typing:
            return noises.typing(rng, samples, self.keys)
        if self.noise is not None:
            return self._recorded(rng, self.noise, samples)
        return self._synthetic(rng, samples)

    def _synthetic(self, rng: np.random.Generator, samples: int) -> np.ndarray:
        names = list(noises.MAKERS)
        return noises.MAKERS[names[rng.integers(len(names))]](rng, samples, self.sample_rate)

    def _recorded(self, rng: np.random.Generator, noise: Clips, samples: int) -> np.ndarray:
        """Take recorded noise, half of the time slower or faster (lower or higher) by up to a fifth."""
        speed = float(np.round(rng.uniform(0.8, 1.25), 2)) if rng.random() < 0.5 else 1.0
        sound = noises.chain(rng, int(samples * speed) + 1, noise)
        if speed != 1.0:
            sound = soxr.resample(sound, 100 * speed, 100, "QQ")
        return noises.unit(np.resize(sound, samples))

    def _recording_response(self, rng: np.random.Generator, bandwidth: float, samples: int) -> np.ndarray:
        """Draw the gain of the recording at every bin, zero phase: float32 (bins,).

        Nothing above the voice's bandwidth is heard of the noise either: else it would be noise without any voice.
        """
        bins, nyquist = self._size(samples) // 2 + 1, self.sample_rate / 2
        hertz = np.linspace(0, nyquist, 257)
        decibels = np.zeros(257)
        if self._happens(rng, self.chances.equalized):
            knots = np.geomspace(60, nyquist, 7)
            curve = rng.normal(0, 3, 7) + rng.uniform(-2, 2) * np.log2(knots / 1000)
            decibels += np.interp(np.log(np.maximum(hertz, 60)), np.log(knots), curve)
        if self._happens(rng, self.chances.band_limited):
            high = rng.choice([3400, 4000, 5500, 6000, 7000]) * nyquist / 8000
            decibels += np.clip((high - hertz) / (0.06 * high), -1, 0) * 80
            if rng.random() < 0.5:
                low = rng.uniform(80, 300)
                decibels += np.clip((hertz - low) / low, -1, 0) * 40
        decibels += np.clip((0.94 * bandwidth - hertz) / (0.06 * bandwidth), -1, 0) * 80 if bandwidth < nyquist else 0
        gain = np.interp(np.linspace(0, nyquist, bins), hertz, 10 ** (decibels / 20))
        return gain.astype(np.float32)

    def _finish(
        self, rng: np.random.Generator, mixture: np.ndarray, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Set the level, clip, mute, and round to 16 bits as a recording is; the wanted part gets the same level."""
        peak = float(np.max(np.abs(mixture), initial=1e-9))
        gain = 10 ** (rng.uniform(*self.level) / 20) / (active_level(mixture) + 1e-9)
        gain = min(gain, 0.99 / peak)
        if self._happens(rng, self.chances.clipped):
            gain = 10 ** (rng.uniform(0, 8) / 20) / peak
        noisy, clean = mixture * np.float32(gain), wanted * np.float32(gain)
        if self._happens(rng, self.chances.companded):
            noisy = mu_law(noisy)
        if self._happens(rng, self.chances.gap):
            length = int(rng.uniform(0.05, 1.0) * self.sample_rate)
            start = 0 if rng.random() < 0.3 else int(rng.integers(len(noisy)))
            noisy[start : start + length] = 0
            clean[start : start + length] = 0
        return np.clip(np.rint(noisy * 32768), -32768, 32767) * np.float32(1 / 32768), clean


class NoisySpeech(Surroundings):
    """A stream of mixtures without end, addressed by number.

    Args:
        speech: voices to keep.
        noise: recorded noises; None: synthetic ones and babble only.
        seconds: length of an item.
        seed: another seed gives other items.
        sample_rate: in hertz; that of the clips.
        snr: lowest and highest ratio of speech to noise in dB, both measured where they are active.
        level: lowest and highest level of the mixture's active parts in dB of full scale.
        noises_at_once: how many noises at most.
        keys: single keystrokes, to be typed with.
        voices: speech for babble; `speech` when None.
        rooms: simulated rooms; 400 of them when None.
        chances: how often things happen.

    Raises:
        ValueError: clips of another sample rate.
    """

    def __init__(
        self,
        speech: Clips,
        noise: Clips | None,
        *,
        seconds: float,
        seed: int,
        sample_rate: int = 16_000,
        snr: Range = (-10.0, 25.0),
        level: Range = (-50.0, -15.0),
        noises_at_once: int = 3,
        keys: Clips | None = None,
        voices: Clips | None = None,
        rooms: Rooms | None = None,
        chances: Chances | None = None,
    ) -> None:
        super().__init__(
            noise,
            voices or speech,
            sample_rate=sample_rate,
            snr=snr,
            level=level,
            noises_at_once=noises_at_once,
            keys=keys,
            rooms=rooms,
            chances=chances,
        )
        if speech.sample_rate != sample_rate:
            raise ValueError(f"clips of {speech.sample_rate} Hz for mixtures of {sample_rate} Hz")
        self.speech, self.samples, self.seed = speech, round(seconds * sample_rate), seed
        self.talkers = Talkers(speech)

    def item(self, k: int) -> dict[str, np.ndarray]:
        """Mix item k.

        Returns:
            noisy, clean: float32 (samples,) in full scale; snr: float32 in dB, inf without noise, -inf without speech.
        """
        rng = np.random.default_rng([self.seed, k])
        noise_only, clean = self._happens(rng, self.chances.noise_only), self._happens(rng, self.chances.clean)
        room = self._draw_room(rng)
        voice = self.speech.draw(rng)
        bandwidth = float(self.speech.attributes[voice].get("bandwidth", inf))
        color = self._recording_response(rng, bandwidth, self.samples)
        heard: np.ndarray = np.zeros(self.samples, np.float32)
        wanted = heard
        if not noise_only:
            speed = draw_speed(rng) if self._happens(rng, self.chances.resampled) else 1.0
            spectrum = self._transform(self.talkers.talk(rng, voice, self.samples, speed), self.samples) * color
            if room:
                heard = self._signal(spectrum * self._transform(room[0].full, self.samples), self.samples)
                wanted = self._signal(spectrum * self._transform(room[0].early, self.samples), self.samples)
            else:
                heard = wanted = self._signal(spectrum, self.samples)
        if clean and not noise_only:
            rng.uniform(*self.snr)  # drawn all the same: what follows is that of the noisy item
            snr, mixture = inf, heard
        else:
            mixture, snr = self._among_noises(rng, heard, room, color)
        noisy, clean_part = self._finish(rng, mixture, wanted)
        return {"noisy": noisy, "clean": clean_part, "snr": np.array(snr, np.float32)}


def mu_law(sound: np.ndarray) -> np.ndarray:
    """Quantize to 8-bit mu-law (ITU-T G.711's curve, mu = 255) and back; what exceeds full scale is limited."""
    squeezed = np.rint(np.sign(sound) * np.log1p(255 * np.minimum(np.abs(sound), 1)) / np.log(256) * 127) / 127
    return (np.sign(squeezed) * np.expm1(np.abs(squeezed) * np.log(256)) / 255).astype(np.float32)
