"""Training and validation data of the transcriber: utterances with their texts, in batches of like length.

Utterance k and batch b are functions of (seed, k) and (seed, b), and a run reads batches 0, 1, 2 ... in order over all
its processes, so that a resumed run sees what an uninterrupted one would have seen. Voices are held out by name, and
held-out voices are validated on sentences that are never trained on.
"""

import logging
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import soxr
from torch.utils.data import DataLoader

from wavecast.core.errors import WavecastError
from wavecast.datamodules.clips import Attributes, Clips, decode, open_clips
from wavecast.datamodules.holdout import held_out, voices_of
from wavecast.datamodules.items import Item, ItemsData, Onward
from wavecast.datamodules.manifests import TextStyle, normalize, open_manifest
from wavecast.datamodules.mixing import Chances, Surroundings
from wavecast.datamodules.noises import without_keys
from wavecast.datamodules.rooms import Rooms

logger = logging.getLogger(__name__)

SYNTHETIC, REAL = "synthetic", "real"


class Utterances:
    """Utterances in another order each time round; utterance k is a function of (seed, k).

    Args:
        clips: their sounds; the attribute `text` is what is said.
        seed: another seed gives another order and other augmentation. None: the order of the clips, as they are.
        speed: slowest and fastest; a voice that is faster is higher, too.
        surroundings: the room, noises and recording they are heard through; None: as they are.
        pause: longest that there is before and behind an utterance, in seconds; most are much shorter, and all hiss
            faintly. A transcriber that has never heard one writes words into it.
    """

    def __init__(
        self,
        clips: Clips,
        seed: int | None = None,
        speed: tuple[float, float] = (1.0, 1.0),
        surroundings: Surroundings | None = None,
        pause: float = 0.0,
    ) -> None:
        self.clips, self.seed, self.speed, self.surroundings, self.pause = clips, seed, speed, surroundings, pause
        self._turns: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def turn(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw a time round.

        Returns:
            The clips in their order, int64 (clips,); how fast each is played, in hundredths, int64 (clips,); samples of
            the pauses before and behind it, int64 (clips, 2).
        """
        if number not in self._turns:
            forget_oldest(self._turns)
            self._turns[number] = self._draw_turn(number)
        return self._turns[number]

    def _draw_turn(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self.seed is None:
            return np.arange(len(self.clips)), np.full(len(self.clips), 100), np.zeros((len(self.clips), 2), np.int64)
        rng = np.random.default_rng([self.seed, number, 1])
        order = rng.permutation(len(self.clips))
        slowest, fastest = (round(100 * speed) for speed in self.speed)
        speeds = rng.integers(slowest, fastest + 1, len(order))
        pauses = self.pause * self.clips.sample_rate * rng.random((len(order), 2)) ** 4
        return order, speeds, pauses.astype(np.int64)

    def lengths(self, turn: int) -> np.ndarray:
        """Count the samples of the utterances of a time round, in its order."""
        order, speeds, pauses = self.turn(turn)
        return np.rint(self.clips.lengths[order] * 100 / speeds).astype(np.int64) + pauses.sum(1)

    def item(self, k: int) -> tuple[np.ndarray, str]:
        """Give the sound of utterance k, float32 (samples,), and its text."""
        turn, place = divmod(k, len(self.clips))
        order, speeds, pauses = self.turn(turn)
        row, speed = int(order[place]), int(speeds[place])
        sound, about = self.clips.clip(row), self.clips.attributes[row]
        if speed != 100:
            sound = soxr.resample(sound, speed, 100, "MQ")
        rng = np.random.default_rng([self.seed or 0, k])
        if pauses[place].any():
            sound = np.pad(sound, tuple(pauses[place])) + faint_hiss(rng, len(sound) + int(pauses[place].sum()))
        if self.surroundings is not None:
            bandwidth = float(about.get("bandwidth", inf)) * speed / 100
            sound = self.surroundings.record(rng, sound, bandwidth)
        return sound, about["text"]


def faint_hiss(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Draw what a microphone hears of silence: white noise of -110 to -50 dB of full scale, float32 (samples,)."""
    return np.float32(10 ** (rng.uniform(-110, -50) / 20)) * rng.standard_normal(samples, dtype=np.float32)


class Batches:
    """Utterances in batches with little padding; batch b is a function of the utterances and b.

    Each time round is cut into windows of utterances; a window is sorted by length and cut into batches, which come in
    a random order. So lengths mix over a window, and the cost of a batch is bounded.

    Args:
        utterances: of the batches.
        samples: most samples of a batch, padding included; an utterance longer than that is a batch of its own.
        window: utterances that are sorted together.
        ascending: the first time round goes from the shortest utterances to the longest, all in one window.
    """

    def __init__(self, utterances: Utterances, samples: int, window: int = 512, ascending: bool = False) -> None:
        self.utterances, self.samples, self.window, self.ascending = utterances, samples, window, ascending
        self._firsts = [0]
        self._plans: dict[int, list[np.ndarray]] = {}

    def count(self, turn: int = 0) -> int:
        """Count the batches of a time round."""
        return len(self._plan(turn))

    def numbers(self, b: int) -> np.ndarray:
        """Give the numbers of the utterances of batch b."""
        while self._firsts[-1] <= b:
            self._firsts.append(self._firsts[-1] + self.count(len(self._firsts) - 1))
        turn = bisect_right(self._firsts, b) - 1
        return self._plan(turn)[b - self._firsts[turn]]

    def item(self, b: int) -> Item:
        """Make batch b.

        Returns:
            sound: float32 (batch, samples), zeros beyond the lengths; lengths: int64 (batch,); texts: list of str;
            numbers: int64 (batch,), those of the utterances.
        """
        numbers = self.numbers(b)
        items = [self.utterances.item(int(k)) for k in numbers]
        lengths = np.array([len(sound) for sound, _ in items])
        sound = np.zeros((len(items), lengths.max()), np.float32)
        for row, (one, _) in enumerate(items):
            sound[row, : len(one)] = one
        batch: dict[str, Any] = {"sound": sound, "lengths": lengths, "numbers": numbers}
        return {**batch, "texts": [text for _, text in items]}

    def _plan(self, turn: int) -> list[np.ndarray]:
        if turn not in self._plans:
            forget_oldest(self._plans)
            self._plans[turn] = self._draw_plan(turn)
        return self._plans[turn]

    def _draw_plan(self, turn: int) -> list[np.ndarray]:
        lengths, seed = self.utterances.lengths(turn), self.utterances.seed
        plan: list[np.ndarray] = []
        shuffled = seed is not None and not (self.ascending and turn == 0)
        window = self.window if shuffled else len(lengths)
        for first in range(0, len(lengths), window):
            by_length = first + np.argsort(lengths[first : first + window], kind="stable")
            batches = cut(by_length, lengths[by_length], self.samples)
            if shuffled:
                order = np.random.default_rng([seed or 0, turn, first, 2]).permutation(len(batches))
                batches = [batches[place] for place in order]
            plan += [turn * len(lengths) + batch for batch in batches]
        return plan


def forget_oldest(remembered: dict[int, Any], most: int = 4) -> None:
    """Make room for one more of at most `most` things remembered."""
    if len(remembered) >= most:
        del remembered[next(iter(remembered))]


def cut(places: np.ndarray, lengths: np.ndarray, most: int) -> list[np.ndarray]:
    """Cut a row of places, sorted by length, into batches that hold at most `most` when padded to their longest."""
    cuts, first = [], 0
    for row, length in enumerate(lengths.tolist()):
        if row > first and (row - first + 1) * length > most:
            cuts.append(row)
            first = row
    return np.split(places, cuts)


class TranscriptionData(ItemsData):
    """Speech with its texts to learn from: see `wavecast.datamodules.manifests` for what a source is.

    Args:
        speech: manifests to train on, and to hold voices out of.
        validation: manifests to validate on; without any, voices of `speech` are held out.
        noise: sources of noises (`wavecast.datamodules.clips`); without any, noises are synthetic and babble.
        languages: codes of the languages kept; utterances of unknown language are kept, too. None: all.
        style: what becomes of the texts, see `wavecast.datamodules.manifests.normalize`.
        leave_out: utterances are left out in whose written text this regular expression is found.
        exclude: attributes and the values of utterances left out, such as `kind: [word]`.
        held_out: voices to validate on; a blend "a+b" never trains when one of its voices is held out, and validates
            when both are. None: an eighth of the voices, chosen by name.
        shortest: utterances of fewer seconds are left out.
        longest: utterances of more seconds are left out.
        share: of the training utterances, by seconds; a smaller share is a part of every larger one.
        batch_seconds: most seconds of sound in a batch of one process, padding included.
        window: utterances that are sorted by length together.
        ascending: go through the data from short to long the first time, which CTC learns from sooner (Amodei et al.
            2016: "Deep Speech 2", SortaGrad).
        batches: training batches an epoch, over all processes; None: as many as go once through the data.
        validation_items: most utterances of a validation set.
        seed: of order and augmentation.
        workers: processes that make the batches; 0 makes them in the training process.
        sample_rate: in hertz; other rates are resampled when decoded.
        augment: through rooms, noises and recordings; else utterances are as they are, but for their speed.
        speed: slowest and fastest an utterance is played.
        pause: longest before and behind an utterance in seconds; most are much shorter.
        snr: lowest and highest signal-to-noise ratio in dB.
        level: lowest and highest level of the mixtures in dB of full scale.
        noises_at_once: how many noises a mixture has at most.
        keys: values of the attribute `source` that mark recordings of single keystrokes, sequenced into typing.
        rooms: how many rooms are simulated.
        t60: shortest and longest reverberation time in seconds.
        chances: how often things happen to an utterance.
        skip_bad: leave out utterances whose line in the manifest has a fault, instead of stopping.
        cache: folder of decoded clips; $WAVECAST_CACHE/clips or ~/.cache/wavecast/clips by default.
    """

    def __init__(
        self,
        speech: list[str] | None = None,
        validation: list[str] | None = None,
        noise: list[str] | None = None,
        languages: list[str] | None = None,
        style: TextStyle = "spoken",
        leave_out: str = r"[<>(){}\[\]^_]",
        exclude: dict[str, list[Any]] | None = None,
        held_out: list[str] | None = None,
        shortest: float = 0.3,
        longest: float = 20.0,
        share: float = 1.0,
        batch_seconds: float = 120.0,
        window: int = 512,
        ascending: bool = False,
        batches: int | None = None,
        validation_items: int = 500,
        seed: int = 0,
        workers: int = 0,
        sample_rate: int = 16_000,
        augment: bool = True,
        speed: tuple[float, float] = (0.9, 1.1),
        pause: float = 0.0,
        snr: tuple[float, float] = (0.0, 30.0),
        level: tuple[float, float] = (-45.0, -15.0),
        noises_at_once: int = 2,
        keys: list[str] | None = None,
        rooms: int = 200,
        t60: tuple[float, float] = (0.1, 0.8),
        chances: Chances | None = None,
        skip_bad: bool = False,
        cache: str | None = None,
    ) -> None:
        super().__init__(1, workers)
        self.speech, self.validation, self.noise = speech or [], validation or [], noise or []
        self.languages, self.style, self.leave_out, self.exclude = languages, style, leave_out, exclude or {}
        self.held_out, self.shortest, self.longest, self.share = held_out, shortest, longest, share
        self.batch_seconds, self.window, self.ascending, self.batches = batch_seconds, window, ascending, batches
        self.validation_items, self.seed, self.sample_rate = validation_items, seed, sample_rate
        self.augment, self.speed, self.pause, self.snr, self.level = augment, speed, pause, snr, level
        self.noises_at_once, self.keys = noises_at_once, ["bucklespring"] if keys is None else keys
        self.rooms, self.t60, self.skip_bad, self.cache = rooms, t60, skip_bad, cache
        self.chances = chances or Chances(noise_only=0.0, clean=0.4, reverberant=0.4, equalized=0.3, gap=0.0)
        self.train_batches: Batches | None = None
        self.validation_sets: dict[str, Batches] = {}

    def prepare_data(self) -> None:
        """Decode every source once, in one process; the others find the cache."""
        for source in (*self.speech, *self.validation):
            self._open_one(source)
        for source in self.noise if self.augment else []:
            open_clips(source, self.sample_rate, self.cache)

    def setup(self, stage: str) -> None:
        """Open the sources and split them.

        Raises:
            WavecastError: nothing to train on, or nothing left on one side of the split.
        """
        if self.validation_sets:
            return
        clips = self._open(self.speech)
        if stage == "fit" and clips is None:
            raise WavecastError("there is nothing to train on", "give --data.speech '[MANIFEST]'")
        training, validated = clips, self._open(self.validation)
        if clips is not None and not self.validation:
            training = clips.where(test=lambda about: not self._held_out(about, some=True))
            validated = self._unheard(clips, training)
        if validated is None or not len(validated):
            raise WavecastError(
                "there is nothing to validate on", "give --data.validation '[MANIFEST]', or --data.held_out '[VOICE]'"
            )
        if stage == "fit" and training is not None:
            self.train_batches = self._training(training)
        self.validation_sets = {name: self._fixed(part) for name, part in by_kind(validated).items()}

    def training_texts(self) -> list[str]:
        """Give the texts of all training utterances; `setup("fit")` must have been called."""
        return [about["text"] for about in self._training_clips().attributes]

    def training_seconds(self) -> float:
        """Give the seconds of all training utterances; `setup("fit")` must have been called."""
        return self._training_clips().seconds

    def _training_clips(self) -> Clips:
        if self.train_batches is None:
            raise ValueError("the data is not set up\nhint: call setup('fit') first")
        return self.train_batches.utterances.clips

    def _training(self, clips: Clips) -> Batches:
        clips = nested_share(clips, self.share)
        if not len(clips):
            raise WavecastError("holding out leaves nothing to train on", "hold out fewer voices: --data.held_out")
        logger.info("training on %d utterances, %.2f h", len(clips), clips.seconds / 3600)
        surroundings = self._surroundings(clips) if self.augment else None
        utterances = Utterances(clips, self.seed, self.speed, surroundings, self.pause)
        return Batches(utterances, round(self.batch_seconds * self.sample_rate), self.window, self.ascending)

    def _surroundings(self, voices: Clips) -> Surroundings:
        parts = [open_clips(source, self.sample_rate, self.cache) for source in self.noise]
        noise = Clips.join(parts) if parts else None
        others, keys = without_keys(noise, self.keys)
        return Surroundings(
            others,
            voices,
            sample_rate=self.sample_rate,
            snr=self.snr,
            level=self.level,
            noises_at_once=self.noises_at_once,
            keys=keys,
            rooms=Rooms(self.rooms, self.seed, self.sample_rate, self.t60),
            chances=self.chances,
        )

    def _fixed(self, clips: Clips) -> Batches:
        """Keep the first `validation_items` in the order of a hash, so that any number is a fair sample."""
        kept = clips.take(by_hash(clips)[: self.validation_items])
        logger.info("validating on %d utterances, %.2f h", len(kept), kept.seconds / 3600)
        return Batches(Utterances(kept), round(self.batch_seconds * self.sample_rate))

    def _open(self, sources: Sequence[str]) -> Clips | None:
        if not sources:
            return None
        clips = Clips.join([self._open_one(source) for source in sources])
        rows = np.flatnonzero(
            (clips.lengths >= self.shortest * self.sample_rate) & (clips.lengths <= self.longest * self.sample_rate)
        )
        return clips.take(rows.tolist()).where(exclude=self.exclude)

    def _open_one(self, source: str) -> Clips:
        """Decode the utterances of a source in the wanted languages, and keep those whose text can be spoken."""
        wanted = ("", *self.languages) if self.languages else None
        spoken = [one for one in open_manifest(source, self.skip_bad) if wanted is None or one.language in wanted]
        texts = [normalize(one.text, self.style) for one in spoken]
        left_out = re.compile(self.leave_out) if self.leave_out else None
        rows = [row for row, one in enumerate(spoken) if texts[row] and not (left_out and left_out.search(one.text))]
        if not rows:
            kept = f"languages {self.languages}, leave_out {self.leave_out!r}"
            raise WavecastError(f"{source} has no utterance that is wanted ({kept})", "check --data.languages")
        entries = [replace(one, text=text).entry() for one, text in zip(spoken, texts, strict=True)]
        return decode(entries, Path(source), self.sample_rate, self.cache).take(rows)

    def _held_out(self, about: Attributes, some: bool) -> bool:
        names = voices_of(about)
        if self.held_out is None:
            kind = "voice" if about.get("synthetic") else "speaker"
            held = [held_out({kind: name}) for name in names]
        else:
            held = [name in self.held_out for name in names]
        return any(held) if some else all(held)

    def _unheard(self, clips: Clips, training: Clips) -> Clips:
        """Keep held-out voices, and of them what no training utterance says."""
        said = {about["text"] for about in training.attributes}
        return clips.where(test=lambda about: self._held_out(about, some=False) and about["text"] not in said)

    def train_dataloader(self) -> DataLoader[Item]:
        """Give batches that continue where the run stands."""
        if self.train_batches is None:
            raise ValueError("the data is not set up\nhint: call setup('fit') first")
        trainer = self._trainer()
        whole = trainer.world_size * trainer.accumulate_grad_batches
        batches = max(1, round((self.batches or self.train_batches.count()) / whole)) * whole
        return self._loader(self.train_batches, Onward(batches, trainer.global_rank, trainer.world_size, trainer), None)

    def val_dataloader(self) -> list[DataLoader[Item]]:
        """Give the fixed validation batches of every set, in the order of `validation_sets`."""
        rank, processes = self._trainer().global_rank, self._trainer().world_size
        return [self._loader(one, Onward(one.count(), rank, processes), None) for one in self.validation_sets.values()]


def by_kind(clips: Clips) -> dict[str, Clips]:
    """Split into synthetic and real speech; a kind without utterances is absent."""
    kinds = {
        SYNTHETIC: clips.where(test=lambda about: bool(about.get("synthetic"))),
        REAL: clips.where(test=lambda about: not about.get("synthetic")),
    }
    return {name: part for name, part in kinds.items() if len(part)}


def by_hash(clips: Clips) -> list[int]:
    """Order rows by a hash of their ids: the same on every machine, and unrelated to what they are."""
    hashes = [crc32(f"{about['id']} {about['text']}".encode()) for about in clips.attributes]
    return sorted(range(len(clips)), key=lambda row: (hashes[row], row))


def nested_share(clips: Clips, share: float) -> Clips:
    """Keep a share of the utterances by seconds, so that a smaller share is a part of every larger one.

    Raises:
        WavecastError: the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise WavecastError(f"a share of {share} of the data", "give --data.share above 0 and at most 1")
    order = by_hash(clips)
    kept = np.cumsum(clips.lengths[order]) <= share * clips.lengths.sum()
    return clips.take(sorted(row for row, keep in zip(order, kept, strict=True) if keep))
