"""Training and validation data of the separator: speakers mixed as they are needed, or recorded mixtures.

Item k of training is a function of (seed, k), and a run reads items 0, 1, 2 ... in order over all its processes, so
that a resumed run sees what an uninterrupted one would have seen. Validation items are the same in every run.
"""

import logging
from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader

from wavecast.core.errors import WavecastError
from wavecast.datamodules.clips import Clips, open_clips
from wavecast.datamodules.conversations import Conversations, SpeakerChances
from wavecast.datamodules.enhancement import VALIDATION_SEED, noise_name
from wavecast.datamodules.holdout import held_out
from wavecast.datamodules.items import Item, ItemsData, Source
from wavecast.datamodules.mixtures import Mixtures, open_mixtures
from wavecast.datamodules.rooms import Rooms
from wavecast.datamodules.talking import Voices, clip_voices

logger = logging.getLogger(__name__)


class SeparationData(ItemsData):
    """Mixtures of speakers to learn from: mixed from voices, or read as recorded.

    A source of voices is a packed corpus, a folder, a CSV or scp list, or a lhotse manifest; recorded mixtures are a
    folder laid out as LibriMix or WSJ0-mix, or a list (`wavecast.datamodules.mixtures`).

    Args:
        speech: sources of clean voices, at least as many as there are speakers.
        noise: sources of noises; without any, noises are synthetic.
        mixtures: recorded mixtures with their sources to train on instead of mixing: a folder or a list.
        validation_speech: sources of voices to validate on; without any, voices are held out by name.
        validation_noise: the same for noises.
        validation_mixtures: recorded mixtures to validate on.
        mixture: which folder of LibriMix holds the mixtures: mix_clean, mix_both or mix_single; the first there is.
        speakers: how many sources there are.
        sample_rate: in hertz; other rates are resampled when decoded.
        seconds: length of a training item.
        validation_seconds: length of a validation mixture; recorded ones come whole.
        batch_size: items of one process in a batch.
        items: training items an epoch, over all processes.
        validation_items: validation mixtures; of recorded ones the first so many, all for 0.
        seed: of the training items.
        workers: processes that make the items; 0 makes them in the training process.
        overlap: from turn taking (0) to all talking all of the time (1), lowest and highest; of two speakers the share
            of the time in which both talk.
        turn: shortest and longest turn in seconds.
        difference: least and most that a speaker is below the loudest one, in dB.
        snr: lowest and highest ratio of all speech to noise in dB.
        level: lowest and highest level of the mixtures in dB of full scale.
        noises_at_once: how many noises a mixture has at most.
        exclude: attributes and the values of clips that are left out, such as `speaker: [fillets_cs_unknown]`.
        voice_pattern: regular expression whose first group, found in a clip's path, names its voice, such as
            `(?:^|/)([0-9]+)-` for LibriSpeech; without it the folder of a file does.
        voice_power: voices are drawn in proportion to this power of their seconds; 0: all equally often.
        real: how often real voices are mixed rather than synthetic ones, where there are both.
        held_out: names of the voices to validate on; an eighth of them, by the rule of
            `wavecast.datamodules.holdout`, when None.
        rooms: how many rooms are simulated.
        t60: shortest and longest reverberation time in seconds.
        chances: how often things happen in a mixture.
        cache: folder of decoded clips; $WAVECAST_CACHE/clips or ~/.cache/wavecast/clips by default.
    """

    def __init__(
        self,
        speech: list[str] | None = None,
        noise: list[str] | None = None,
        mixtures: str | None = None,
        validation_speech: list[str] | None = None,
        validation_noise: list[str] | None = None,
        validation_mixtures: str | None = None,
        mixture: str | None = None,
        speakers: int = 2,
        sample_rate: int = 8_000,
        seconds: float = 4.0,
        validation_seconds: float = 5.0,
        batch_size: int = 4,
        items: int = 8_000,
        validation_items: int = 120,
        seed: int = 0,
        workers: int = 0,
        overlap: tuple[float, float] = (0.0, 1.0),
        turn: tuple[float, float] = (1.5, 5.0),
        difference: tuple[float, float] = (0.0, 10.0),
        snr: tuple[float, float] = (0.0, 25.0),
        level: tuple[float, float] = (-40.0, -15.0),
        noises_at_once: int = 2,
        exclude: dict[str, list[Any]] | None = None,
        voice_pattern: str | None = None,
        voice_power: float = 0.5,
        real: float = 0.6,
        held_out: list[str] | None = None,
        rooms: int = 400,
        t60: tuple[float, float] = (0.1, 0.7),
        chances: SpeakerChances | None = None,
        cache: str | None = None,
    ) -> None:
        super().__init__(batch_size, workers)
        self.speech, self.noise, self.mixtures = speech or [], noise or [], mixtures
        self.validation_speech, self.validation_noise = validation_speech or [], validation_noise or []
        self.validation_mixtures, self.mixture, self.speakers = validation_mixtures, mixture, speakers
        self.sample_rate, self.seconds, self.validation_seconds = sample_rate, seconds, validation_seconds
        self.items, self.validation_items, self.seed = items, validation_items, seed
        self.overlap, self.turn, self.difference = overlap, turn, difference
        self.snr, self.level, self.noises_at_once = snr, level, noises_at_once
        self.exclude, self.voice_pattern = exclude or {}, voice_pattern
        self.voice_power, self.real, self.held_out = voice_power, real, held_out
        self.rooms, self.t60, self.chances, self.cache = rooms, t60, chances or SpeakerChances(), cache
        self.train_source: Source | None = None
        self.validation_source: Source | None = None

    def prepare_data(self) -> None:
        """Decode every source once, in one process; the others find the cache."""
        for source in (*self.speech, *self.noise, *self.validation_speech, *self.validation_noise):
            open_clips(source, self.sample_rate, self.cache)
        for source in filter(None, (self.mixtures, self.validation_mixtures)):
            self._open_mixtures(source)

    def setup(self, stage: str) -> None:
        """Open the sources and split them.

        Raises:
            WavecastError: nothing to train on, or nothing left on one side of the split.
        """
        if stage == "fit" and self.train_source is None:
            self.train_source = self._training()
        if self.validation_source is None:
            self.validation_source = self._validation()

    def _training(self) -> Source:
        if self.mixtures:
            return Mixtures(*self._open_mixtures(self.mixtures), self.seconds, self.seed, self.speakers)
        if not self.speech:
            hint = "give --data.speech FOLDER or --data.mixtures FOLDER|LIST"
            raise WavecastError("there is nothing to train on", hint)
        speech, noise = self._open(self.speech), self._open(self.noise)
        if not (self.validation_speech or self.validation_mixtures):
            speech = self._kept_voices(speech, validation=False)
        if noise and not (self.validation_noise or self.validation_mixtures):
            noise = self._kept_noise(noise, validation=False)
        return self._conversations(speech, noise, self.seconds, self.seed)

    def _validation(self) -> Source:
        if self.validation_mixtures:
            return Mixtures(*self._open_mixtures(self.validation_mixtures), speakers=self.speakers)
        if not (self.speech or self.validation_speech):
            hint = (
                "give --data.validation_mixtures FOLDER|LIST, or --data.speech FOLDER, of which an eighth is held out"
            )
            raise WavecastError("there is nothing to validate on", hint)
        speech, noise = self._open(self.validation_speech), self._open(self.validation_noise)
        if speech is None:
            speech = self._kept_voices(self._open(self.speech), validation=True)
        if noise is None and self.noise:
            noise = self._kept_noise(self._open(self.noise), validation=True)
        return self._conversations(speech, noise, self.validation_seconds, VALIDATION_SEED)

    def _conversations(self, speech: Clips | None, noise: Clips | None, seconds: float, seed: int) -> Conversations:
        if speech is None:
            raise WavecastError("there are no voices", "give --data.speech FOLDER")
        return Conversations(
            Voices(speech, self.speakers, self.voice_pattern, self.voice_power, self.real),
            noise.balanced("source") if noise else None,
            seconds=seconds,
            seed=seed,
            sample_rate=self.sample_rate,
            overlap=self.overlap,
            turn=self.turn,
            difference=self.difference,
            snr=self.snr,
            level=self.level,
            noises_at_once=self.noises_at_once,
            rooms=Rooms(self.rooms, seed, self.sample_rate, self.t60, places=self.speakers + 2),
            chances=self.chances,
        )

    def _open(self, sources: Sequence[str]) -> Clips | None:
        if not sources:
            return None
        clips = Clips.join([open_clips(source, self.sample_rate, self.cache) for source in sources])
        return clips.where(exclude=self.exclude)

    def _open_mixtures(self, source: str) -> tuple[Clips, list[Clips]]:
        return open_mixtures(source, self.speakers, self.sample_rate, self.cache, self.mixture)

    def _kept_voices(self, clips: Clips | None, validation: bool) -> Clips:
        """Keep one side of the split by name: blends of held-out and other voices are on neither side."""
        if clips is None:
            raise WavecastError("there are no voices", "give --data.speech FOLDER")
        wanted = all if validation else any
        rows = []
        for row, name in enumerate(clip_voices(clips, self.voice_pattern)):
            kind = "voice" if "voice" in clips.attributes[row] else "speaker"
            held = wanted(self._is_held_out(kind, one) for one in name.split("+"))
            if held == validation:
                rows.append(row)
        return left(clips.take(rows), len(clips), "speech", validation)

    def _is_held_out(self, kind: str, name: str) -> bool:
        return held_out({kind: name}) if self.held_out is None else name in self.held_out

    def _kept_noise(self, clips: Clips | None, validation: bool) -> Clips:
        if clips is None:
            raise WavecastError("there is no noise", "give --data.noise FOLDER")
        kept = clips.where(test=lambda about: held_out(noise_name(about)) == validation)
        return left(kept, len(clips), "noise", validation)

    def validation_count(self) -> int:
        """Count the validation items; `setup` must have been called."""
        if isinstance(self.validation_source, Mixtures):
            recorded = len(self.validation_source.mixture)
            return min(recorded, self.validation_items) if self.validation_items else recorded
        return self.validation_items

    def train_dataloader(self) -> DataLoader[Item]:
        """Give batches of items that continue where the run stands."""
        return self.onward(self.train_source, self.items)

    def val_dataloader(self) -> DataLoader[Item]:
        """Give the fixed validation items, shared out over the processes; recorded mixtures come one by one."""
        whole = isinstance(self.validation_source, Mixtures)
        return self.fixed(self.validation_source, self.validation_count(), 1 if whole else None)


def left(kept: Clips, whole: int, kind: str, validation: bool) -> Clips:
    """Give the clips that one side of the split is left with, and say how many they are.

    Raises:
        WavecastError: none of all is left.
    """
    side = "validate" if validation else "train"
    if not len(kept):
        raise WavecastError(
            f"holding out by name leaves no {kind} to {side} on ({whole} clips in all)",
            f"give --data.validation_{kind} a source of its own",
        )
    logger.info("%s to %s on: %d clips", kind, side, len(kept))
    return kept
