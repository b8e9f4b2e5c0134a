"""Several speakers in one recording, mixed as they are needed: item k is a function of (seed, k) and of nothing else.

An item is two or three voices that talk at once, in turns or anything between, each at its own level and its own place
in a room, and what a recording does to them (`wavecast.datamodules.mixing`). The sources are the voices with their
early reflections, at the level they have in the mixture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from wavecast.core.errors import WavecastError
from wavecast.datamodules.clips import Clips
from wavecast.datamodules.items import Item
from wavecast.datamodules.mixing import Chances, Range, Surroundings
from wavecast.datamodules.rooms import Rooms
from wavecast.datamodules.talking import Talkers, Voices, draw_speed

FADE = 0.01  # seconds in which a voice falls silent when its turn is over


@dataclass(frozen=True)
class SpeakerChances(Chances):
    """How often things happen in a mixture of speakers: those of `Chances`, most of them rarer.

    Attributes:
        single: one speaker fewer, or more than that; the other sources are silence.
        noise_only: nobody speaks.
    """

    noise_only: float = 0.0
    single: float = 0.1
    clean: float = 0.75
    reverberant: float = 0.25
    equalized: float = 0.3
    band_limited: float = 0.05
    clipped: float = 0.02
    companded: float = 0.01
    gap: float = 0.02
    babble: float = 0.0


class Conversations(Surroundings):
    """A stream of mixtures of speakers without end, addressed by number.

    Args:
        voices: who may talk; as many sources as talk together.
        noise: recorded noises; None: synthetic ones.
        seconds: length of an item.
        seed: another seed gives other items.
        sample_rate: in hertz; that of the clips.
        overlap: from turn taking (0) to all talking all of the time (1), lowest and highest; of two speakers the share
            of the time in which both talk.
        turn: shortest and longest turn in seconds; no longer than gives each speaker one in every item.
        difference: least and most that a speaker is below the loudest one, in dB.
        snr: lowest and highest ratio of all speech to noise in dB.
        level: lowest and highest level of the mixture's active parts in dB of full scale.
        noises_at_once: how many noises at most.
        rooms: simulated rooms with a place for every speaker and for noises; 400 of them when None.
        chances: how often things happen.

    Raises:
        ValueError: clips of another sample rate, or rooms too small.
        WavecastError: an overlap that is no share.
    """

    def __init__(
        self,
        voices: Voices,
        noise: Clips | None = None,
        *,
        seconds: float = 4.0,
        seed: int = 0,
        sample_rate: int = 8_000,
        overlap: Range = (0.0, 1.0),
        turn: Range = (1.5, 5.0),
        difference: Range = (0.0, 10.0),
        snr: Range = (0.0, 25.0),
        level: Range = (-40.0, -15.0),
        noises_at_once: int = 2,
        rooms: Rooms | None = None,
        chances: SpeakerChances | None = None,
    ) -> None:
        speakers = voices.together
        super().__init__(
            noise,
            voices.speech,
            sample_rate=sample_rate,
            snr=snr,
            level=level,
            noises_at_once=noises_at_once,
            rooms=rooms or Rooms(sample_rate=sample_rate, places=speakers + 2),
            chances=chances or SpeakerChances(),
        )
        if self.rooms.places <= speakers:
            raise ValueError(
                f"rooms of {self.rooms.places} places for {speakers} speakers and a noise\nhint: Rooms(places=...)"
            )
        if not 0 <= overlap[0] <= overlap[1] <= 1:
            raise WavecastError(f"overlap from {overlap[0]} to {overlap[1]}", "give --data.overlap '[0, 1]' or less")
        self.speakers, self.samples, self.seed = speakers, round(seconds * sample_rate), seed
        self.overlap, self.turn, self.difference = overlap, turn, difference
        self.single = (chances or SpeakerChances()).single
        self.people = voices
        self.talkers = Talkers(voices.speech, voices.clip_names)

    def item(self, k: int) -> Item:
        """Mix item k.

        Returns:
            mixture: float32 (samples,) in full scale; sources: float32 (samples, speakers), those who do not talk
            silent; talking: int64, how many talk; real: float32, 1 for real voices and 0 for synthetic ones;
            difference: float32, by how many dB the quietest is below the loudest.
        """
        rng = np.random.default_rng([self.seed, k])
        nobody, single = (self._happens(rng, chance) for chance in (self.chances.noise_only, self.single))
        clean = self._happens(rng, self.chances.clean)
        room = self._draw_room(rng)
        voices, places = self.people.draw(rng), rng.permutation(self.speakers)
        below = rng.uniform(*self.difference, self.speakers)
        below[0] = 0.0
        talking = int(rng.integers(1, self.speakers)) if single and self.speakers > 1 else self.speakers
        talking = 0 if nobody else talking
        turns = self._draw_turns(rng, talking)
        said = [self._say(rng, voice, when) for voice, when in zip(voices, turns, strict=False)]
        color = self._recording_response(rng, min([band for _, band in said], default=inf), self.samples)
        heard: np.ndarray = np.zeros(self.samples, np.float32)
        sources = np.zeros((self.samples, self.speakers), np.float32)
        for (sound, _), place, quieter in zip(said, places, below, strict=False):
            spectrum = self._transform(sound * np.float32(10 ** (-quieter / 20)), self.samples) * color
            whole = early = self._signal(spectrum, self.samples)
            if room:
                whole, early = (
                    self._signal(spectrum * self._transform(response, self.samples), self.samples)
                    for response in (room[place].full, room[place].early)
                )
            heard, sources[:, place] = heard + whole, early
        mixture = heard
        if nobody or not clean:
            mixture, _ = self._among_noises(rng, heard, room and room[self.speakers - 1 :], color)
        mixture, sources = self._finish(rng, mixture, sources)
        return {
            "mixture": mixture,
            "sources": sources,
            "talking": np.array(talking),
            "real": np.array(not self.people.synthetic[voices[0]], np.float32),
            "difference": np.array(below[:talking].max(initial=0), np.float32),
        }

    def _draw_turns(self, rng: np.random.Generator, talking: int) -> list[list[tuple[int, int]]]:
        """Draw when each of several talks: first and last sample of each turn.

        Turns of one length follow each other round after round, and each is stretched till all overlap as is drawn.
        """
        if not talking:
            return []
        overlap = rng.uniform(*self.overlap)
        length = min(rng.uniform(*self.turn) * self.sample_rate, self.samples / talking)
        begin, stretched = rng.uniform(0, talking * length), length * (1 + overlap * (talking - 1))
        if stretched > 0.98 * talking * length:
            return [[(0, self.samples)] for _ in range(talking)]
        turns = []
        for number in range(talking):
            starts = np.arange(begin + (number - 2 * talking) * length, self.samples, talking * length)
            edges = [(max(0, int(start)), min(self.samples, int(start + stretched))) for start in starts]
            turns.append([(start, stop) for start, stop in edges if stop > start])
        return turns

    def _say(self, rng: np.random.Generator, voice: int, turns: Sequence[tuple[int, int]]) -> tuple[np.ndarray, float]:
        """Let a voice talk in its turns: float32 (samples,), and its bandwidth in hertz."""
        speed = draw_speed(rng) if self._happens(rng, self.chances.resampled) else 1.0
        sound, bandwidth = np.zeros(self.samples, np.float32), inf
        for start, stop in turns:
            clip = self.people.clip(rng, voice)
            bandwidth = min(bandwidth, speed * float(self.people.speech.attributes[clip].get("bandwidth", inf)))
            sound[start:stop] = self.talkers.talk(rng, clip, stop - start, speed)
            fade = np.linspace(0, 1, min(round(FADE * self.sample_rate), stop - start), dtype=np.float32)
            if start > 0:
                sound[start : start + len(fade)] *= fade
            if stop < self.samples:
                sound[stop - len(fade) : stop] *= fade[::-1]
        return sound, bandwidth
