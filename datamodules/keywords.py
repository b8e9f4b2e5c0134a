"""Training and validation data of the keyword spotter: views of words, of other speech, and of silence.

Item k of training is a function of (seed, k), and a run reads items 0, 1, 2 ... in order over all its processes, so
that a resumed run sees what an uninterrupted one would have seen. Validation items are the same in every run.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from torch.utils.data import DataLoader

from wavecast.core.errors import WavecastError
from wavecast.datamodules.clips import Attributes, Clips, open_clips
from wavecast.datamodules.enhancement import VALIDATION_SEED, noise_name
from wavecast.datamodules.holdout import held_out
from wavecast.datamodules.items import Item, ItemsData
from wavecast.datamodules.keyword_clips import BACKGROUND, SILENCE, UNKNOWN, Part, open_spoken, part_of, says
from wavecast.datamodules.keyword_items import FixedItems, KeywordItems, Kind, Shares
from wavecast.datamodules.mixing import Chances, Surroundings
from wavecast.datamodules.noises import without_keys
from wavecast.datamodules.rooms import Rooms

logger = logging.getLogger(__name__)

VIEW = 400 + 127 * 160
"""Samples of the 128 frames that a spotter decides on: windows of 25 ms every 10 ms, at 16 kHz."""


class KeywordData(ItemsData):
    """Words to learn from, among other speech and noise: see `wavecast.datamodules.keyword_clips` for what a source is.

    Args:
        speech: sources of words; clips in them that are no words are other speech.
        other: sources of other speech (`wavecast.datamodules.clips`); a clip whose text has one of the words in it is
            left out.
        noise: sources of noises; without any, noises are synthetic and babble.
        words: those to be told apart; None: all that the sources have. The others count as other speech.
        rejection: `_unknown_` and `_silence_` are classes, too.
        held_out: voices to validate on; an eighth of them, by name, when None. The official lists of Speech Commands
            say it for their clips.
        test: voices for the final score: neither trained nor validated on.
        part: what the validation items are made of: "validation", or "test" for the final score.
        samples: of a view; 128 frames, or 16000 for clips of a second as published.
        sample_rate: in hertz; other rates are resampled when decoded.
        batch_size: items of one process in a batch.
        items: training items an epoch, over all processes; None: as many as there are words to train on.
        validation_rounds: how often every word is validated on; placed views differ.
        validation_augmented: validate through rooms and noises that are held out by name.
        seed: of the training items.
        workers: processes that make the items; 0 makes them in the training process.
        placed: words anywhere in their views; else clips as they are, from their first sample on.
        shares: how views are made.
        speed: slowest and fastest a word is played.
        beta: of the share in which two sounds are mixed.
        augment: through rooms, noises and recordings.
        snr: lowest and highest signal-to-noise ratio in dB.
        level: lowest and highest level of the views in dB of full scale.
        noises_at_once: how many noises a view has at most.
        keys: values of the attribute `source` that mark recordings of single keystrokes, sequenced into typing.
        rooms: how many rooms are simulated.
        t60: shortest and longest reverberation time in seconds.
        chances: how often things happen to a view.
        cache: folder of decoded clips; $WAVECAST_CACHE/clips or ~/.cache/wavecast/clips by default.
    """

    def __init__(
        self,
        speech: list[str] | None = None,
        other: list[str] | None = None,
        noise: list[str] | None = None,
        words: list[str] | None = None,
        rejection: bool = True,
        held_out: list[str] | None = None,
        test: list[str] | None = None,
        part: Literal["validation", "test"] = "validation",
        samples: int = VIEW,
        sample_rate: int = 16_000,
        batch_size: int = 64,
        items: int | None = None,
        validation_rounds: int = 1,
        validation_augmented: bool = False,
        seed: int = 0,
        workers: int = 0,
        placed: bool = True,
        shares: Shares | None = None,
        speed: tuple[float, float] = (0.85, 1.18),
        beta: float = 10.0,
        augment: bool = True,
        snr: tuple[float, float] = (-3.0, 30.0),
        level: tuple[float, float] = (-45.0, -15.0),
        noises_at_once: int = 2,
        keys: list[str] | None = None,
        rooms: int = 200,
        t60: tuple[float, float] = (0.1, 0.8),
        chances: Chances | None = None,
        cache: str | None = None,
    ) -> None:
        super().__init__(batch_size, workers)
        self.speech, self.other, self.noise = speech or [], other or [], noise or []
        self.words, self.rejection = words, rejection
        self.held_out, self.test, self.part = held_out, test or [], part
        self.samples, self.sample_rate, self.items = samples, sample_rate, items
        self.validation_rounds, self.validation_augmented = validation_rounds, validation_augmented
        self.seed, self.placed, self.speed, self.beta = seed, placed, speed, beta
        self.shares = shares or (Shares(unknown=0.25, silence=0.1) if rejection else Shares())
        self.augment, self.snr, self.level, self.noises_at_once = augment, snr, level, noises_at_once
        self.keys = ["bucklespring"] if keys is None else keys
        self.rooms, self.t60, self.cache = rooms, t60, cache
        self.chances = chances or Chances(noise_only=0.0, clean=0.3, reverberant=0.4, gap=0.0)
        self.classes: list[str] = []
        self.train_source: KeywordItems | None = None
        self.validation_source: FixedItems | None = None

    def prepare_data(self) -> None:
        """Decode every source once, in one process; the others find the cache."""
        for source in self.speech:
            open_spoken(source, self.sample_rate, self.cache)
        for source in (*self.other, *self.noises()):
            open_clips(source, self.sample_rate, self.cache)

    def setup(self, stage: str) -> None:
        """Open the sources and split them.

        Raises:
            WavecastError: nothing to train or to validate on, a word that is nowhere, or shares that do not fit.
        """
        if self.validation_source is not None:
            return
        self.check_shares()
        words, other = self.open_all()
        if stage == "fit":
            self.train_source = self.training(of_part(words, self, "train"), of_part(other, self, "train"))
        self.validation_source = self.validation(of_part(words, self, self.part), of_part(other, self, self.part))

    def check_shares(self) -> None:
        """See that views of what is rejected have a class to be rejected by.

        Raises:
            WavecastError: they have none.
        """
        if not self.rejection and (self.shares.unknown or self.shares.silence):
            hint = "give --data.rejection true, or --data.shares.unknown 0 --data.shares.silence 0"
            raise WavecastError("views of other speech or silence need classes of their own", hint)

    def open_all(self) -> tuple[Clips, Clips | None]:
        """Open the words, and other speech; note the classes.

        Raises:
            WavecastError: there are no words, or a wanted one is nowhere.
        """
        if not self.speech:
            raise WavecastError("there are no words to learn", "give --data.speech '[FOLDER]', a folder a word")
        clips = Clips.join([open_spoken(source, self.sample_rate, self.cache) for source in self.speech])
        known = sorted({about["word"] for about in clips.attributes if "word" in about})
        wanted = known if self.words is None else self.words
        for word in wanted:
            if word not in known:
                hint = f"there are {', '.join(known) or 'none'}"
                raise WavecastError(f"the word {word!r} is in none of the sources", hint)
        self.classes = [*wanted, *((UNKNOWN, SILENCE) if self.rejection else ())]
        asked = set(wanted)
        if not asked:
            raise WavecastError("the sources hold no words", "put the clips of a word into a folder of its name")
        return clips.where(only={"word": asked}), self.open_other(clips, asked)

    def open_other(self, clips: Clips, asked: set[str]) -> Clips | None:
        """Gather other speech; words that are not asked for are drawn as often as all the rest of it."""
        parts = [clips.where(test=is_no_word)]
        parts += [open_clips(source, self.sample_rate, self.cache) for source in self.other]
        speech = Clips.join(parts).where(test=without(asked))
        rest = clips.where(test=is_word_beside(asked))
        if len(rest) and len(speech):
            rest = rest.weighted(speech.weights.sum() / rest.weights.sum())
        other = Clips.join([speech, rest])
        return other if len(other) else None

    def training(self, words: Clips | None, other: Clips | None) -> KeywordItems:
        """Make the source of the training items.

        Raises:
            WavecastError: there is no word left.
        """
        if words is None or not len(words):
            raise WavecastError("holding out leaves no words to train on", "hold out fewer voices: --data.held_out")
        logger.info("training on %d words, %.2f h of other speech", len(words), other.seconds / 3600 if other else 0)
        surroundings = self.surroundings(other or words, validated=False) if self.augment else None
        return self.source(words, other, self.seed, self.shares, self.speed, surroundings)

    def validation(self, words: Clips | None, other: Clips | None) -> FixedItems:
        """Make the fixed validation items: every word, and other speech and silence in their shares.

        Raises:
            WavecastError: there is no word.
        """
        if words is None or not len(words):
            held = "give --data.held_out '[VOICE, ...]', or null for an eighth of the voices"
            hint = held if self.part == "validation" else "give --data.test '[VOICE, ...]'"
            raise WavecastError(f"there are no words of the part {self.part!r}", hint)
        shares, count = self.shares, len(words) * self.validation_rounds
        surroundings = self.surroundings(other or words, validated=True) if self.validation_augmented else None
        plain = Shares(cut=shares.cut if other else 1.0, context=shares.context if surroundings else 0.0)
        items = self.source(words, other, VALIDATION_SEED, plain, (1.0, 1.0), surroundings)
        rest = count / max(1e-6, 1 - shares.unknown - shares.silence)
        counts: dict[Kind, int] = {
            "word": count,
            "unknown": round(rest * shares.unknown),
            "silence": round(rest * shares.silence),
        }
        return FixedItems(items, counts)

    def priors(self) -> np.ndarray:
        """Give how often each class is that of a training view: float64 (classes,); `setup("fit")` must have run."""
        if self.train_source is None:
            raise ValueError("the data is not set up\nhint: call setup('fit') first")
        words = [about["word"] for about in self.train_source.words.attributes]
        rest = {UNKNOWN: self.shares.unknown, SILENCE: self.shares.silence}
        share = (1 - sum(rest.values())) / len(words)
        return np.array([rest.get(name, share * words.count(name)) for name in self.classes])

    def source(
        self,
        words: Clips,
        other: Clips | None,
        seed: int,
        shares: Shares,
        speed: tuple[float, float],
        surroundings: Surroundings | None,
    ) -> KeywordItems:
        """Make a source of views."""
        return KeywordItems(
            words,
            self.classes,
            self.samples,
            seed,
            other=other,
            shares=shares,
            placed=self.placed,
            speed=speed,
            beta=self.beta,
            surroundings=surroundings,
        )

    def noises(self) -> list[str]:
        """List the sources of noises, with those that lie beside the words."""
        beside = [Path(source) / BACKGROUND for source in self.speech]
        return [*self.noise, *(str(path) for path in beside if path.is_dir())] if self.augment else []

    def surroundings(self, voices: Clips, validated: bool) -> Surroundings:
        """Make rooms, noises and recordings; with --data.validation_augmented, a fifth of the noises is held out."""
        parts = [open_clips(source, self.sample_rate, self.cache) for source in self.noises()]
        recorded = Clips.join(parts).where(test=noise_of(validated)) if parts else None
        noise, keys = without_keys(recorded, self.keys)
        seed = VALIDATION_SEED if validated else self.seed
        return Surroundings(
            noise,
            voices,
            sample_rate=self.sample_rate,
            snr=self.snr,
            level=self.level,
            noises_at_once=self.noises_at_once,
            keys=keys,
            rooms=Rooms(self.rooms, seed, self.sample_rate, self.t60),
            chances=self.chances,
        )

    def train_dataloader(self) -> DataLoader[Item]:
        """Give batches of items that continue where the run stands."""
        count = self.items or (len(self.train_source.words) if self.train_source else 1)
        return self.onward(self.train_source, count)

    def val_dataloader(self) -> DataLoader[Item]:
        """Give the fixed validation items, shared out over the processes."""
        return self.fixed(self.validation_source, len(self.validation_source or ()))


def of_part(clips: Clips | None, data: KeywordData, part: Part) -> Clips | None:
    """Keep the clips of a part; None when there is none."""
    if clips is None:
        return None
    kept = clips.where(test=lambda about: part_of(about, data.held_out, data.test) == part)
    return kept if len(kept) else None


def is_no_word(about: Attributes) -> bool:
    """Tell whether a clip is other speech."""
    return "word" not in about


def without(words: set[str]) -> Callable[[Attributes], bool]:
    """Give a test of clips: none of these words is in what is said, as far as that is known."""
    return lambda about: not says(about, words)


def is_word_beside(words: set[str]) -> Callable[[Attributes], bool]:
    """Give a test of clips: they are words, but none of these."""
    return lambda about: "word" in about and about["word"] not in words


def noise_of(validated: bool) -> Callable[[Attributes], bool]:
    """Give a test of noises: those of one side of the split by name."""
    return lambda about: held_out(noise_name(about)) == validated
