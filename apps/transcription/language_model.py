"""What a beam expects to be said next: a language model of n-grams over the tokens of a transcriber.

    levels = prune(count([tokenizer.encode(line) for line in lines], len(tokenizer), 6), 3e-7)
    NGrams.of(levels, tokenizer.model).save(Path("english.ngrams.safetensors"))

    guide = LanguageModel(read_ngrams(Path("english.ngrams.safetensors"), tokenizer), weight=0.5, reward=2.0)

A stream's place in it is the longest end of its text that anything followed in the texts that were counted.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch
from torch import Tensor

from wavecast.apps.transcription.guides import ROOT
from wavecast.apps.transcription.ngrams import Level, count, prune
from wavecast.apps.transcription.tokenizer import Tokenizer
from wavecast.cards import write_whole
from wavecast.core.errors import WavecastError
from wavecast.datamodules.manifests import TextStyle, normalize

ORDER = 6
"""Tokens of the longest n-grams: two or three words."""
THRESHOLD = 3e-7
"""Relative entropy, in nats a token, that an n-gram must be worth; a twelfth of those of two million words are."""
MOST_TEXT = 16 << 20
"""Bytes of a text that is counted when it is given in place of a model."""
STEPS = 16
"""Logarithms are stored in parts of a nat; rounding changes the probability of a token by 3 % at most."""
KEPT = 10_000
"""Places whose vectors are kept: 10 MB at 256 tokens."""
HINT = "it is damaged, or no language model: make one with scripts/count_ngrams.py, or give a text file"


@dataclass(frozen=True)
class NGrams:
    """Counted and smoothed n-grams as a trie, its nodes level by level: node 0 is the empty text, then all tokens.

    Attributes:
        token: (nodes,) the last of each n-gram.
        log_probability: (nodes,) natural, of that token after those before it; 0 at the root.
        backoff: (nodes,) logarithm of the factor for tokens that never followed.
        first: (nodes + 1,) the first child of each; the next node's first child comes behind its last.
        suffix: (nodes,) the node without the first token.
        tokenizer: SHA-256 of the SentencePiece model whose tokens were counted.
    """

    token: np.ndarray
    log_probability: np.ndarray
    backoff: np.ndarray
    first: np.ndarray
    suffix: np.ndarray
    tokenizer: str

    def __len__(self) -> int:
        return len(self.token)

    @staticmethod
    def of(levels: Sequence[Level], tokenizer: bytes) -> "NGrams":
        """Join the levels that `ngrams.count` gave.

        Args:
            levels: from the empty n-gram on.
            tokenizer: bytes of the SentencePiece model.
        """
        begins = np.cumsum([0, *(len(level) for level in levels)])
        parents = np.concatenate([begins[n] + level.parent for n, level in enumerate(levels[1:])])
        return NGrams.from_children(
            np.concatenate([level.token for level in levels]),
            np.concatenate([np.log(level.probability) for level in levels]),
            np.concatenate([np.log(np.maximum(level.backoff, 1e-7)) for level in levels]),
            np.bincount(parents, minlength=begins[-1]),
            hashlib.sha256(tokenizer).hexdigest(),
        )

    @staticmethod
    def from_children(
        token: np.ndarray, log_probability: np.ndarray, backoff: np.ndarray, children: np.ndarray, tokenizer: str
    ) -> "NGrams":
        """Make the trie of its nodes, given how many children each has.

        Raises:
            ValueError: they are no trie of n-grams whose ends are n-grams too.
        """
        token, children, tokens = token.astype(np.int64), children.astype(np.int64), int(children[0])
        nodes = len(token)
        if any(one.shape != (nodes,) for one in (log_probability, backoff, children)):
            raise ValueError("arrays of different lengths")
        if children.sum() != nodes - 1 or not np.array_equal(token[1 : tokens + 1], np.arange(tokens)):
            raise ValueError("no trie")
        first = 1 + np.concatenate([[0], np.cumsum(children)])
        suffix, begin, end = np.zeros(nodes, np.int64), 1, tokens + 1
        keys = token[begin:end]
        while end < nodes:
            parents = np.repeat(np.arange(begin, end), children[begin:end])
            if not len(parents):
                raise ValueError("no trie")
            found, wanted = end + np.arange(len(parents)), suffix[parents] * tokens + token[end : end + len(parents)]
            at = np.searchsorted(keys, wanted)
            if at.max() >= len(keys) or not np.array_equal(keys[at], wanted):
                raise ValueError("an n-gram's end is missing")
            suffix[found] = begin + at
            keys = parents * tokens + token[found]
            if not (np.diff(keys) > 0).all() or token[found].max() >= tokens:
                raise ValueError("n-grams are out of order")
            begin, end = end, end + len(parents)
        log_probability, backoff = log_probability.astype(np.float32), backoff.astype(np.float32)
        return NGrams(token.astype(np.int32), log_probability, backoff, first, suffix, tokenizer)

    def save(self, path: Path) -> None:
        """Write safetensors; logarithms in steps, nodes without children only by what they need."""
        children = np.diff(self.first)
        inner = int(np.flatnonzero(children)[-1]) + 1
        stored = {
            "token": self.token.astype(np.min_scalar_type(int(children[0]) - 1)),
            "log_probability": np.rint(-STEPS * self.log_probability).clip(0, 255).astype(np.uint8),
            "backoff": np.rint(STEPS * self.backoff[:inner]).clip(-128, 127).astype(np.int8),
            "children": children[:inner].astype(np.min_scalar_type(int(children.max()))),
        }
        write_whole(path, safetensors.numpy.save(stored, {"tokenizer": self.tokenizer}))


def read_ngrams(path: Path, tokenizer: Tokenizer) -> NGrams:
    """Read a language model, or count one in a text, line by line.

    Args:
        path: of `NGrams.save`; or of a text in UTF-8.
        tokenizer: of the transcriber.

    Raises:
        WavecastError: the file cannot be read, is neither, or counts the tokens of another tokenizer.
    """
    if path.suffix != ".safetensors":
        return count_text(path, tokenizer)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            made_for = (file.metadata() or {}).get("tokenizer", "")
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        children, backoff = (np.zeros(len(stored["token"]), np.float32) for _ in range(2))
        children[: len(stored["children"])] = stored["children"]
        backoff[: len(stored["backoff"])] = stored["backoff"]
        logs = stored["log_probability"].astype(np.float32) / -STEPS
        ngrams = NGrams.from_children(stored["token"], logs, backoff / STEPS, children, made_for)
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, IndexError, TypeError) as error:
        raise WavecastError(f"{path}: no language model read: {' '.join(str(error).split())}", HINT) from error
    if made_for != hashlib.sha256(tokenizer.model).hexdigest():
        raise WavecastError(
            f"{path} counts the tokens of another tokenizer", "count the texts anew for this model, or give them"
        )
    return ngrams


def count_text(path: Path, tokenizer: Tokenizer) -> NGrams:
    """Count the n-grams of a text, as the transcriber would write it; lines that it cannot spell are left out.

    Raises:
        WavecastError: it cannot be read, is too long, or has too few tokens.
    """
    try:
        if path.stat().st_size > MOST_TEXT:
            hint = "count it once with scripts/count_ngrams.py, and give the result"
            raise WavecastError(f"{path} has more than {MOST_TEXT >> 20} MiB", hint)
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        style: TextStyle = "spoken" if tokenizer.unknown in tokenizer.encode("A") else "verbatim"
        spelled = [tokenizer.encode(normalize(line, style)) for line in lines]
        levels = count([ids for ids in spelled if tokenizer.unknown not in ids], len(tokenizer), ORDER)
    except (OSError, ValueError) as error:
        raise WavecastError(f"{path}: no language model read: {str(error).splitlines()[0]}", HINT) from error
    return NGrams.of(prune(levels, THRESHOLD), tokenizer.model)


class LanguageModel:
    """n-grams as the guide of a beam (shallow fusion: Gulcehre et al. 2015).

    Each token adds weight log P(token | text before) + reward to a text's score; without a reward, longer texts would
    only lose.

    Args:
        ngrams: of the decoder's tokens.
        weight: of its logarithms beside the network's.
        reward: for each token.
    """

    def __init__(self, ngrams: NGrams, weight: float, reward: float) -> None:
        self.ngrams, self.weight, self.reward = ngrams, weight, reward
        self._vectors: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.ngrams)

    def next(self, place: int, token: int) -> int:
        """Give the place after one more token."""
        first, suffix = self.ngrams.first, self.ngrams.suffix
        while (longer := self._child(place, token)) is None:
            place = int(suffix[place])
        while first[longer] == first[longer + 1]:
            longer = int(suffix[longer])
        return longer

    def change(self, place: int) -> Tensor:
        """Give what each class adds to a text's score at a place: (classes,), 0 for the blank."""
        if place not in self._vectors:
            if len(self._vectors) >= KEPT:
                self._vectors.clear()
            vector = self.weight * self.log_probabilities(place) + self.reward
            self._vectors[place] = torch.from_numpy(np.append(vector, np.float32(0)))
        return self._vectors[place]

    def log_probabilities(self, place: int) -> np.ndarray:
        """Give the logarithm of each token's probability at a place: float32 (tokens,)."""
        ngrams, ends = self.ngrams, [place]
        while ends[-1] != ROOT:
            ends.append(int(ngrams.suffix[ends[-1]]))
        logs = np.zeros(ngrams.first[1] - ngrams.first[0], np.float32)
        for end in reversed(ends):
            children = slice(ngrams.first[end], ngrams.first[end + 1])
            logs += ngrams.backoff[end]
            logs[ngrams.token[children]] = ngrams.log_probability[children]
        return logs

    def owed(self, place: int) -> float:
        """Give what a text that ends at a place has to give back: nothing."""
        return 0.0

    def _child(self, place: int, token: int) -> int | None:
        begin, end = self.ngrams.first[place], self.ngrams.first[place + 1]
        at = int(begin + np.searchsorted(self.ngrams.token[begin:end], token))
        return at if at < end and self.ngrams.token[at] == token else None
