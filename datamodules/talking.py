"""Voices: who may talk, and clips of one voice behind each other, at a common level, for as long as is needed."""

import re
from collections.abc import Sequence

import numpy as np
import soxr

from wavecast.core.errors import WavecastError
from wavecast.datamodules.clips import Attributes, Clips
from wavecast.datamodules.holdout import possible_voices, voices_of


class Talkers:
    """Voices, each of which talks on demand.

    Args:
        speech: their clips.
        names: whose voice each clip is; the attribute `speaker` or `voice` when None.
    """

    def __init__(self, speech: Clips, names: Sequence[str] | None = None) -> None:
        self.speech = speech
        self.names = [voice_of(about) for about in speech.attributes] if names is None else names
        self._same_voice = same_name(self.names)
        self._levels: dict[int, float] = {}

    def talk(self, rng: np.random.Generator, index: int, samples: int, speed: float = 1.0) -> np.ndarray:
        """Let the voice of a clip talk, with pauses, beginning with that clip: float32 (samples,).

        Args:
            rng: draws the pauses and the clips that follow.
            index: of the first clip.
            samples: how many.
            speed: a faster voice is higher, too.

        Returns:
            Speech of a level of 0.1 where it is active.
        """
        same = self._same_voice[index]
        sound = np.zeros(samples, np.float32)
        at = int(rng.integers(samples // 4 + 1)) if rng.random() < 0.3 else 0
        longest, needed = int(self.speech.lengths[index]), int(samples * speed) + 1
        start = int(rng.integers(longest - needed)) if longest > needed else 0
        while at < samples:
            piece = self.speech.clip(index, start, int((samples - at) * speed) + 1)
            if speed != 1.0:
                piece = soxr.resample(piece, 100 * speed, 100, "MQ")
            piece = piece[: samples - at]
            sound[at : at + len(piece)] = piece * np.float32(0.1 / (self.level(index) + 1e-4))
            at += len(piece) + int(rng.exponential(0.3) * self.speech.sample_rate)
            index, start = int(same[rng.integers(len(same))]), 0
        return sound

    def level(self, index: int) -> float:
        """Measure the level of a whole clip, once: a crop may hold nothing but a pause."""
        if index not in self._levels:
            self._levels[index] = active_level(self.speech.clip(index))
        return self._levels[index]


class Voices:
    """Who may talk: voices of two kinds, real and synthetic, drawn by voice and not by clip.

    A voice is drawn in proportion to a power of its seconds: 0 makes all voices equally likely, and 1 all clips.

    Args:
        speech: their clips.
        together: how many different people talk together.
        pattern: regular expression whose first group, found in a clip's `id`, names its voice, such as
            `(?:^|/)([0-9]+)-` for LibriSpeech; None: its attribute `speaker` or `voice`.
        power: of the seconds of a voice.
        real: how often real voices are drawn rather than synthetic ones, where there are enough of both.

    Raises:
        WavecastError: there are not so many different people of either kind, or the pattern names no voices.
    """

    def __init__(
        self, speech: Clips, together: int = 2, pattern: str | None = None, power: float = 0.5, real: float = 0.6
    ) -> None:
        self.speech, self.together = speech, together
        self.clip_names = clip_voices(speech, pattern)
        self.names = sorted(set(self.clip_names))
        row_of = {name: row for row, name in enumerate(self.names)}
        voice = np.array([row_of[name] for name in self.clip_names], np.int64)
        self._clips = [np.flatnonzero(voice == row) for row in range(len(self.names))]
        self.synthetic = np.array([is_synthetic(speech, int(rows[0])) for rows in self._clips], bool)
        seconds = np.bincount(voice, speech.lengths, len(self.names)) / speech.sample_rate
        weights = np.where(seconds > 0, np.maximum(seconds, 1e-3) ** power, 0.0)
        self._people = [
            {name} if pattern else possible_voices(speech.attributes[int(rows[0])])
            for name, rows in zip(self.names, self._clips, strict=True)
        ]
        self._voices_of: dict[str, list[int]] = {}
        for row, names in enumerate(self._people):
            for name in names:
                self._voices_of.setdefault(name, []).append(row)
        kinds = {kind: np.where(self.synthetic == kind, 0.0, weights) for kind in (True, False)}
        self._kinds = {kind: some for kind, some in kinds.items() if self._tried(np.random.default_rng(0), some)}
        if not self._kinds:
            synthetic = int(self.synthetic.sum())
            raise WavecastError(
                f"{together} different people are needed, all real or all synthetic voices; there are "
                f"{len(self) - synthetic} real voices and {synthetic} synthetic ones, blends included",
                "give more voices; the files of a folder count as one voice unless --data.voice_pattern says more",
            )
        self.real = real

    def __len__(self) -> int:
        return len(self.names)

    def draw(self, rng: np.random.Generator) -> list[int]:
        """Draw voices of different people, all of them real or all of them synthetic."""
        real = bool(rng.random() < self.real)
        drawn = self._tried(rng, self._kinds[real if real in self._kinds else not real])
        if not drawn:
            raise ValueError("no voices of different people in many tries\nhint: give more voices")
        return drawn

    def _tried(self, rng: np.random.Generator, weights: np.ndarray, tries: int = 100) -> list[int]:
        """Draw voices of different people by weight, none if that fails: a blend may use up the voices of others."""
        for _ in range(tries):
            left, drawn = weights.copy(), list[int]()
            while left.any() and len(drawn) < self.together:
                total = np.cumsum(left)
                row = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
                drawn.append(row)
                for name in self._people[row]:
                    left[self._voices_of[name]] = 0
            if len(drawn) == self.together:
                return drawn
        return []

    def clip(self, rng: np.random.Generator, voice: int) -> int:
        """Draw a clip of a voice, a longer one more often."""
        rows = self._clips[voice]
        total = np.cumsum(self.speech.lengths[rows])
        return int(rows[np.searchsorted(total, rng.random() * total[-1], side="right")])


def clip_voices(speech: Clips, pattern: str | None) -> list[str]:
    """Name the voice of every clip, "a+b" for a blend.

    Raises:
        WavecastError: the pattern is none, or does not name the voice of a clip.
    """
    if pattern is None:
        return ["+".join(voices_of(about)) for about in speech.attributes]
    hint = "give a regular expression with one group, which names the voice in the id of a clip"
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise WavecastError(f"{pattern!r} is no regular expression: {error}", hint) from error
    found = [(about.get("id", ""), compiled.search(str(about.get("id", "")))) for about in speech.attributes]
    for name, match in found:
        if match is None or not match.groups():
            raise WavecastError(f"the pattern {pattern!r} names no voice in {name!r}", hint)
    return [str(match[1]) for _, match in found if match]


def is_synthetic(speech: Clips, row: int) -> bool:
    """Tell whether a clip is synthetic speech, as the corpus marks it."""
    return "voice" in speech.attributes[row] and "speaker" not in speech.attributes[row]


def draw_speed(rng: np.random.Generator) -> float:
    """Draw how fast a voice is played, in hundredths: 0.84 to 1.23."""
    return float(np.round(2 ** rng.uniform(-0.25, 0.3), 2))


def active_level(sound: np.ndarray, frame: int = 320, floor: float = 40.0) -> float:
    """Measure the RMS over the frames that are at most `floor` dB below the loudest one."""
    whole = len(sound) // frame * frame
    if not whole:
        return float(np.sqrt(np.mean(np.square(sound)))) if len(sound) else 0.0
    frames = sound[:whole].reshape(-1, frame)
    power = np.einsum("ij,ij->i", frames, frames) / frame
    return float(np.sqrt(np.mean(power[power >= power.max() * 10 ** (-floor / 10)])))


def voice_of(about: Attributes) -> str:
    """Name the voice of a clip: its attribute `speaker` or `voice`."""
    return str(about.get("speaker", about.get("voice", "")))


def same_name(names: Sequence[str]) -> list[np.ndarray]:
    """Give each place the places of the same name, itself included."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    arrays = {name: np.asarray(indices) for name, indices in rows.items()}
    return [arrays[name] for name in names]
