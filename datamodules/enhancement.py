"""Training and validation data of the enhancer: mixtures made as they are needed, or recorded pairs.

Item k of training is a function of (seed, k), and a run reads items 0, 1, 2 ... in order over all its processes, so
that a resumed run sees what an uninterrupted one would have seen. Validation items are the same in every run.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch.utils.data import DataLoader

from wavecast.core.errors import WavecastError
from wavecast.datamodules.clips import Attributes, Clips, open_clips, open_pairs
from wavecast.datamodules.holdout import held_out
from wavecast.datamodules.items import Item, ItemsData, Source
from wavecast.datamodules.mixing import Chances, NoisySpeech
from wavecast.datamodules.noises import without_keys
from wavecast.datamodules.rooms import Rooms

logger = logging.getLogger(__name__)

VALIDATION_SEED = 20_000_003


class Pairs:
    """Recorded pairs, in another order each time round; item k is a function of (seed, k).

    Args:
        noisy: noisy recordings.
        clean: their originals, in the same order and of the same lengths.
        seconds: crops of this length, drawn at random; shorter pairs are filled with zeros. None: whole pairs in the
            order of the list.
        seed: another seed gives another order and other crops.
        level: "kept", or "published": noisy and clean each brought to -25 dB on their own, as the published recipe
            does although the scale between them is lost, or "joint": both by the gain of the noisy one.
    """

    def __init__(
        self,
        noisy: Clips,
        clean: Clips,
        seconds: float | None = None,
        seed: int = 0,
        level: Literal["kept", "joint", "published"] = "kept",
    ) -> None:
        self.noisy, self.clean, self.seed, self.level = noisy, clean, seed, level
        self.samples = None if seconds is None else round(seconds * noisy.sample_rate)

    def item(self, k: int) -> Item:
        """Give crop k: noisy and clean, float32 (samples,)."""
        if self.samples is None:
            noisy, clean = self.noisy.clip(k % len(self.noisy)), self.clean.clip(k % len(self.clean))
        else:
            turn, place = divmod(k, len(self.noisy))
            row = int(np.random.default_rng([self.seed, turn, 1]).permutation(len(self.noisy))[place])
            rng = np.random.default_rng([self.seed, k])
            spare = int(self.noisy.lengths[row]) - self.samples
            start = int(rng.integers(spare + 1)) if spare > 0 else 0
            crops = (clips.clip(row, start, self.samples) for clips in (self.noisy, self.clean))
            noisy, clean = (np.pad(crop, (0, self.samples - len(crop))) for crop in crops)
        if self.level != "kept":
            gain = published_gain(noisy)
            noisy, clean = noisy * gain, clean * (gain if self.level == "joint" else published_gain(clean))
        return {"noisy": noisy, "clean": clean}


def published_gain(sound: np.ndarray) -> np.float32:
    """Find the gain that brings the louder half of a recording to -25 dB, in two steps as ClearerVoice does."""
    first = 10 ** (-25 / 20) / (np.sqrt(np.mean(np.square(sound))) + 1e-6)
    power = np.square(sound * first)
    loud = power[power > power.mean()]
    second = 10 ** (-25 / 20) / (np.sqrt(loud.mean()) + 1e-6) if len(loud) else 1.0
    return np.float32(first * second)


class EnhancementData(ItemsData):
    """Noisy speech to learn from: mixed from voices and noises, or read as pairs.

    A source is a packed corpus, a folder, a CSV or scp list, or a lhotse manifest (`wavecast.datamodules.clips`).

    Args:
        speech: sources of clean voices.
        noise: sources of noises; without any, noises are synthetic and babble.
        pairs: list of noisy and clean files to train on instead of mixing.
        validation_speech: sources of voices to validate on; without any, voices are held out by name.
        validation_noise: the same for noises.
        validation_pairs: list of noisy and clean files to validate on.
        sample_rate: in hertz; other rates are resampled when decoded.
        seconds: length of a training item.
        validation_seconds: length of a validation mixture.
        batch_size: items of one process in a batch.
        items: training items an epoch, over all processes.
        validation_items: validation mixtures.
        seed: of the training items.
        workers: processes that make the items; 0 makes them in the training process.
        snr: lowest and highest signal-to-noise ratio in dB.
        level: lowest and highest level of the mixtures in dB of full scale.
        pair_level: level of recorded pairs, see `Pairs`.
        noises_at_once: how many noises a mixture has at most.
        exclude: attributes and the values of clips that are left out, such as `bandwidth: [5500]`.
        keys: values of the attribute `source` that mark recordings of single keystrokes, sequenced into typing.
        rooms: how many rooms are simulated.
        t60: shortest and longest reverberation time in seconds.
        chances: how often things happen in a mixture.
        cache: folder of decoded clips; $WAVECAST_CACHE/clips or ~/.cache/wavecast/clips by default.
    """

    def __init__(
        self,
        speech: list[str] | None = None,
        noise: list[str] | None = None,
        pairs: str | None = None,
        validation_speech: list[str] | None = None,
        validation_noise: list[str] | None = None,
        validation_pairs: str | None = None,
        sample_rate: int = 16_000,
        seconds: float = 4.0,
        validation_seconds: float = 6.0,
        batch_size: int = 8,
        items: int = 8_000,
        validation_items: int = 96,
        seed: int = 0,
        workers: int = 0,
        snr: tuple[float, float] = (-10.0, 25.0),
        level: tuple[float, float] = (-50.0, -15.0),
        pair_level: Literal["kept", "joint", "published"] = "kept",
        noises_at_once: int = 3,
        exclude: dict[str, list[Any]] | None = None,
        keys: list[str] | None = None,
        rooms: int = 400,
        t60: tuple[float, float] = (0.1, 1.0),
        chances: Chances | None = None,
        cache: str | None = None,
    ) -> None:
        super().__init__(batch_size, workers)
        self.speech, self.noise, self.pairs = speech or [], noise or [], pairs
        self.validation_speech, self.validation_noise = validation_speech or [], validation_noise or []
        self.validation_pairs = validation_pairs
        self.sample_rate, self.seconds, self.validation_seconds = sample_rate, seconds, validation_seconds
        self.items, self.validation_items = items, validation_items
        self.seed, self.snr, self.level, self.pair_level = seed, snr, level, pair_level
        self.noises_at_once, self.exclude = noises_at_once, exclude or {}
        self.keys = ["bucklespring"] if keys is None else keys
        self.rooms, self.t60, self.chances, self.cache = rooms, t60, chances or Chances(), cache
        self.train_source: Source | None = None
        self.validation_source: Source | None = None

    def prepare_data(self) -> None:
        """Decode every source once, in one process; the others find the cache."""
        for source in (*self.speech, *self.noise, *self.validation_speech, *self.validation_noise):
            open_clips(source, self.sample_rate, self.cache)
        for source in filter(None, (self.pairs, self.validation_pairs)):
            open_pairs(source, self.sample_rate, self.cache)

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
        if self.pairs:
            return Pairs(*self._open_pairs(self.pairs), self.seconds, self.seed, self.pair_level)
        if not self.speech:
            raise WavecastError("there is nothing to train on", "give --data.speech FOLDER or --data.pairs LIST")
        speech, noise = self._open(self.speech), self._open(self.noise)
        if not (self.validation_speech or self.validation_pairs):
            speech = self._kept(speech, "speech", validation=False)
        if noise and not (self.validation_noise or self.validation_pairs):
            noise = self._kept(noise, "noise", validation=False)
        return self._mixtures(speech, noise, self.seconds, self.seed)

    def _validation(self) -> Source:
        if self.validation_pairs:
            return Pairs(*self._open_pairs(self.validation_pairs), level=self.pair_level)
        speech, noise = self._open(self.validation_speech), self._open(self.validation_noise)
        if speech is None and not self.speech:
            hint = "give --data.validation_pairs LIST, or --data.speech FOLDER, of which an eighth is held out"
            raise WavecastError("there is nothing to validate on", hint)
        if speech is None:
            speech = self._kept(self._open(self.speech), "speech", validation=True)
        if noise is None and self.noise:
            noise = self._kept(self._open(self.noise), "noise", validation=True)
        return self._mixtures(speech, noise, self.validation_seconds, VALIDATION_SEED)

    def _mixtures(self, speech: Clips | None, noise: Clips | None, seconds: float, seed: int) -> NoisySpeech:
        if speech is None:
            raise WavecastError("there are no voices", "give --data.speech FOLDER")
        others, keys = without_keys(noise, self.keys)
        return NoisySpeech(
            speech,
            others,
            seconds=seconds,
            seed=seed,
            sample_rate=self.sample_rate,
            snr=self.snr,
            level=self.level,
            noises_at_once=self.noises_at_once,
            keys=keys,
            rooms=Rooms(self.rooms, seed, self.sample_rate, self.t60),
            chances=self.chances,
        )

    def _open(self, sources: Sequence[str]) -> Clips | None:
        if not sources:
            return None
        clips = Clips.join([open_clips(source, self.sample_rate, self.cache) for source in sources])
        return clips.where(exclude=self.exclude)

    def _open_pairs(self, source: str) -> tuple[Clips, Clips]:
        return open_pairs(source, self.sample_rate, self.cache)

    def _kept(self, clips: Clips | None, kind: Literal["speech", "noise"], validation: bool) -> Clips:
        """Keep one side of the split by name."""
        if clips is None:
            raise WavecastError(f"there is no {kind}", f"give --data.{kind} FOLDER")
        names = voice_name if kind == "speech" else noise_name
        kept = clips.where(test=lambda about: held_out(names(about)) == validation)
        if not len(kept):
            side = "validate" if validation else "train"
            raise WavecastError(
                f"holding out by name leaves no {kind} to {side} on ({len(clips)} clips in all)",
                f"give --data.validation_{kind} a source of its own",
            )
        logger.info("%s to %s: %d clips", kind, "validate on" if validation else "train on", len(kept))
        return kept

    def validation_count(self) -> int:
        """Count the validation items; `setup` must have been called."""
        if isinstance(self.validation_source, Pairs):
            return len(self.validation_source.noisy)
        return self.validation_items

    def train_dataloader(self) -> DataLoader[Item]:
        """Give batches of items that continue where the run stands."""
        return self.onward(self.train_source, self.items)

    def val_dataloader(self) -> DataLoader[Item]:
        """Give the fixed validation items, shared out over the processes; recorded pairs come whole, one by one."""
        whole_pairs = isinstance(self.validation_source, Pairs)
        return self.fixed(self.validation_source, self.validation_count(), 1 if whole_pairs else None)


def voice_name(about: Attributes) -> Mapping[str, Any]:
    """Give what names a voice: `speaker`, else `voice`, else the clip's own id."""
    for name in ("speaker", "voice"):
        if name in about:
            return {name: about[name]}
    return {"speaker": about.get("id", "")}


def noise_name(about: Attributes) -> Mapping[str, Any]:
    """Give what names a noise: its `source` and `id`."""
    return {"source": about.get("source", ""), "id": about.get("id", "")}
