"""Voices told apart by their long-term sound: cepstra and pitch of voiced frames, no trained network.

A voice is the mean of some features over its voiced frames: directions in the space of 16 cepstral coefficients (of a
mel spectrum up to 3.8 kHz, which every rate in use has) and the logarithm of the pitch, and the level: within one
recording, who is far stays far. The directions are those in which speakers differ most for how much one of them
varies, and independent of each other both within and between speakers (Fisher's linear discriminants). Two such means
are compared under two hypotheses: that they differ only as one speaker's do, or as speakers do. The result is a
log-likelihood ratio in nats, the two-covariance model of speaker verification (Brummer and De Villiers, "The Speaker
Partitioning Problem", Odyssey 2010). The space is measured (`scripts/bench/voice_statistics.py`), the variances of
the level are cautious guesses.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wavecast.core.kaldi import mel_triangles

FRAME, HOP = 0.048, 0.016  # seconds; a frame holds three periods of the lowest pitch
LOWEST, HIGHEST = 62.0, 400.0  # pitch in hertz
BANDS, CEPSTRA = 24, 16
BAND_LOW, BAND_HIGH = 80.0, 3800.0
PITCH_BAND = 1200.0  # hertz that the pitch is found in
OCTAVE_COST = 0.05  # of the correlation, for every octave of a longer period: subharmonics correlate as well
FLOOR = 1e-5  # of a frame's strongest band
VOICED = 0.6  # correlation with itself a period later from which a frame is voiced
DEPENDENT = 16.0  # frames that say as much as one that is independent: neighbors are of the same sound
LEVEL_WITHIN, LEVEL_BETWEEN = 40.0, 16.0
"""Variances of the level in dB, of the frames of one speaker and of their means over speakers."""
SPACE = json.loads((Path(__file__).parent / "voice_space.json").read_text())
DIRECTIONS = np.array(SPACE["directions"])
"""(cepstra and the logarithm of the pitch, direction); along each a variance of 1 is half as much again as
quarters of a second of one speaker have."""
SPREAD = np.array([*SPACE["spread"], LEVEL_BETWEEN / LEVEL_WITHIN])
"""Variance of the features' means over speakers, for a variance of 1 within one."""
SESSION = np.array([0.1] * len(SPACE["spread"]) + [0.2])
"""Variance by which a mood, a room, a leak or a step back may shift a mean; cautious guesses."""
CALIBRATION = 0.5
"""Of what agreement would say for one speaker if frames were as independent of each other as taken for; a guess."""


@dataclass(frozen=True)
class Frames:
    """What is known of the frames of a sound.

    Attributes:
        features: (frames, feature), which voices are told apart by; the last is the level.
        sound: (frames, 17), cepstra and the logarithm of the pitch in hertz to base 2.
        level: (frames,), in dB below full scale.
        voicing: (frames,), correlation of the frame with itself a period later, 1 for a perfect tone.
    """

    features: np.ndarray
    sound: np.ndarray
    level: np.ndarray
    voicing: np.ndarray


class Analyzer:
    """Frames of sounds at one rate, every 16 ms.

    Args:
        rate: in hertz.
    """

    def __init__(self, rate: int) -> None:
        self.frame, self.hop = round(FRAME * rate), round(HOP * rate)
        self.length = 1 << (2 * self.frame - 1).bit_length()  # twice the frame: correlation without wrapping
        self.window = np.hanning(self.frame + 2)[1:-1].astype(np.float32)
        frequency = np.arange(self.length // 2 + 1) * rate / self.length
        bank = mel_triangles(rate, BANDS, self.length, BAND_LOW, min(BAND_HIGH, 0.475 * rate))
        self.bank = bank.numpy().astype(np.float32)
        bands = np.arange(BANDS) + 0.5
        self.cosines = np.sqrt(2 / BANDS) * np.cos(np.pi / BANDS * np.outer(bands, np.arange(1, CEPSTRA + 1)))
        self.low = (frequency < PITCH_BAND).astype(np.float32)
        self.lags = np.arange(int(rate / HIGHEST), int(rate / LOWEST) + 1)
        self.pitch = np.log2(rate / self.lags)
        self.cost = OCTAVE_COST * np.log2(self.lags / self.lags[0])
        correlation = np.fft.irfft(np.abs(np.fft.rfft(self.window, self.length)) ** 2)
        self.taper = correlation[self.lags] / correlation[0]

    def count(self, samples: int) -> int:
        """Count the whole frames in that many samples."""
        return max(0, (samples - self.frame) // self.hop + 1)

    def __call__(self, x: np.ndarray) -> Frames:
        """Analyze the whole frames of a sound (samples,)."""
        if not self.count(len(x)):
            return Frames(np.zeros((0, len(SPREAD))), np.zeros((0, CEPSTRA + 1)), np.zeros(0), np.zeros(0))
        frames = np.lib.stride_tricks.sliding_window_view(x, self.frame)[:: self.hop]
        power = np.abs(np.fft.rfft(frames * self.window, self.length)) ** 2
        bands = power @ self.bank
        floor = FLOOR * bands.max(1, keepdims=True) + 1e-20
        cepstra = np.log(np.maximum(bands, floor)) @ self.cosines
        correlation = np.fft.irfft(power * self.low)
        periodic = correlation[:, self.lags] / (correlation[:, :1] + 1e-20) / self.taper
        best = (periodic - self.cost).argmax(1)
        voicing = periodic[np.arange(len(best)), best]
        level = 10 * np.log10(np.square(frames, dtype=np.float64).mean(1) + 1e-20)
        sound = np.column_stack([cepstra, self.pitch[best]])
        return Frames(np.column_stack([sound @ DIRECTIONS, level / LEVEL_WITHIN**0.5]), sound, level, voicing)

    def power(self, x: np.ndarray) -> np.ndarray:
        """Give the mean square of the frames of sounds (..., samples): (..., frames)."""
        count = self.count(x.shape[-1])
        if not count:
            return np.zeros((*x.shape[:-1], 0))
        running = np.cumsum(np.square(x, dtype=np.float64), -1)
        running = np.concatenate([np.zeros((*x.shape[:-1], 1)), running], -1)
        starts = np.arange(count) * self.hop
        return np.maximum(running[..., starts + self.frame] - running[..., starts], 0) / self.frame


@dataclass(frozen=True)
class Voiceprint:
    """The voiced frames heard of a speaker.

    Attributes:
        frames: their number, or weight.
        total: (feature,), the sum of their features.
    """

    frames: float = 0.0
    total: np.ndarray | float = 0.0

    @staticmethod
    def of(features: np.ndarray) -> "Voiceprint":
        """Make one of voiced frames (frames, feature)."""
        return Voiceprint(float(len(features)), features.sum(0))

    def plus(self, other: "Voiceprint", weight: float = 1.0) -> "Voiceprint":
        """Give a print that has heard another's frames as well, with a weight."""
        return Voiceprint(self.frames + weight * other.frames, self.total + weight * other.total)

    def same_speaker(self, other: "Voiceprint") -> float:
        """Give the log-likelihood ratio of one speaker against two, in nats; 0 when one of them was never heard."""
        if min(self.frames, other.frames) <= 0:
            return 0.0
        difference = (self.total / self.frames - other.total / other.frames) ** 2
        same = DEPENDENT / self.frames + DEPENDENT / other.frames + SESSION
        two = same + 2 * SPREAD
        return 0.5 * float(np.sum(difference / two - difference / same + CALIBRATION * np.log(two / same)))
