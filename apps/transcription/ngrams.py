"""n-grams of tokens: counted in texts, smoothed after Kneser and Ney, pruned, and kept in a few arrays.

They are the nodes of a trie, numbered level by level, and within a level by parent and token: the children of a node
lie side by side, and how many there are tells where they begin.

Chen, Goodman: "An empirical study of smoothing techniques for language modeling", 1998 (modified Kneser-Ney,
interpolated); Stolcke: "Entropy-based pruning of backoff language models", 1998.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

USUAL_DISCOUNTS = (0.5, 1.0, 1.5)
"""Of n-grams that came once, twice and more often, where a text is too small to estimate them."""


@dataclass(frozen=True)
class Level:
    """The n-grams of one length.

    Attributes:
        parent: (n-grams,) which of the level before is left without the last token.
        suffix: (n-grams,) which of the level before is left without the first token.
        token: (n-grams,) the last one.
        probability: (n-grams,) of the last token after the others.
        backoff: (n-grams,) factor for tokens that never followed; 1 where none ever did.
        times: (n-grams,) in the text.
    """

    parent: np.ndarray
    suffix: np.ndarray
    token: np.ndarray
    probability: np.ndarray
    backoff: np.ndarray
    times: np.ndarray

    def __len__(self) -> int:
        return len(self.token)

    def of(self, kept: np.ndarray, numbers: np.ndarray) -> "Level":
        """Keep some n-grams; those of the level before have new numbers."""
        rest = (one[kept] for one in (self.token, self.probability, self.backoff, self.times))
        return Level(numbers[self.parent[kept]], numbers[self.suffix[kept]], *rest)


def count(texts: Sequence[Sequence[int]], tokens: int, order: int) -> list[Level]:
    """Count n-grams of 1 to `order` tokens and smooth them.

    Texts are taken as a single one: what is spoken comes without marks of its sentences.

    Args:
        texts: token ids.
        tokens: how many there are; all of them become n-grams of length 1.
        order: of the longest n-grams.

    Returns:
        The levels, from the empty n-gram on.

    Raises:
        ValueError: there are fewer tokens in the texts than in an n-gram.
    """
    text = np.concatenate([np.asarray(one, dtype=np.int64) for one in texts] or [np.zeros(0, np.int64)])
    if len(text) < order:
        raise ValueError(f"{len(text)} tokens of text\nhint: give more text, or an order below {order}")
    zero, one = np.zeros(1, np.int64), np.ones(1)
    levels = [Level(zero, zero, zero, one, one, np.array([len(text)]))]
    every = np.arange(tokens)
    found = [(np.zeros_like(every), np.zeros_like(every), every, np.bincount(text, minlength=tokens))]
    at = text  # the n-gram that begins at each place
    for _ in range(1, order):
        keys, first, longer, times = np.unique(
            at[:-1] * tokens + text[len(text) - len(at) + 1 :],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        found.append((keys // tokens, at[first + 1], keys % tokens, times))
        at = longer
    below = np.full(1, 1 / tokens)
    for n, (parent, suffix, token, times) in enumerate(found):
        counts = times if n == order - 1 else np.bincount(found[n + 1][1], minlength=len(token))
        taken = discounts(counts)[np.minimum(counts, 3)]
        total = np.bincount(parent, counts, len(levels[n]))
        left = np.bincount(parent, taken, len(levels[n]))
        some = total > 0
        levels[n].backoff[:] = np.divide(left, total, out=np.ones(len(some)), where=some)
        alone = np.divide(counts - taken, total[parent], out=np.zeros(len(token)), where=some[parent])
        probability = alone + levels[n].backoff[parent] * below[suffix]
        levels.append(Level(parent, suffix, token, probability, np.ones(len(token)), times))
        below = probability
    return levels


def discounts(counts: np.ndarray) -> np.ndarray:
    """Estimate what n-grams that were counted 0, 1, 2 and at least 3 times give to others (Chen, Goodman, eq. 17)."""
    n1, n2, n3, n4 = (int((counts == times).sum()) for times in range(1, 5))
    if min(n1, n2, n3, n4) == 0:
        return np.array([0.0, *USUAL_DISCOUNTS])
    y = n1 / (n1 + 2 * n2)
    estimated = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    usual = any(not 0 < value < times for times, value in enumerate(estimated, 1))
    return np.array([0.0, *(USUAL_DISCOUNTS if usual else estimated)])


def prune(levels: Sequence[Level], threshold: float) -> list[Level]:
    """Drop n-grams whose loss hardly changes the distribution; those that longer ones need stay.

    Args:
        levels: of `count`.
        threshold: an n-gram is dropped if the relative entropy, in nats a token, grows less without it.
    """
    kept = [np.ones(len(level), dtype=bool) for level in levels]
    for n in range(len(levels) - 1, 1, -1):
        keep = costs(levels, n) >= threshold
        if n + 1 < len(levels):
            keep[levels[n + 1].parent[kept[n + 1]]] = True
            keep[levels[n + 1].suffix[kept[n + 1]]] = True
        kept[n] = keep
    numbers = [np.cumsum(keep) - 1 for keep in kept]
    pruned = [levels[0]]
    for n in range(1, len(levels)):
        pruned.append(levels[n].of(kept[n], numbers[n - 1]))
    for n in range(len(pruned) - 1):
        said, else_said = masses(pruned, n + 1)
        pruned[n].backoff[:] = np.divide(1 - said, 1 - else_said, out=np.ones(len(said)), where=else_said < 1)
    return pruned


def masses(levels: Sequence[Level], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum the probabilities of the children of each n-gram of level n - 1: after it, and after its suffix."""
    level, size = levels[n], len(levels[n - 1])
    shorter = levels[n - 1].probability[level.suffix] if n > 1 else np.full(len(level), 1 / len(level))
    return np.bincount(level.parent, level.probability, size), np.bincount(level.parent, shorter, size)


def costs(levels: Sequence[Level], n: int) -> np.ndarray:
    """Give the relative entropy that dropping each n-gram of level n alone would cost (Stolcke, eq. 3).

    How often its parent comes is counted, not the product of probabilities, which Kneser-Ney makes for another purpose.
    """
    level = levels[n]
    said, else_said = (mass[level.parent] for mass in masses(levels, n))
    p, shorter = level.probability, levels[n - 1].probability[level.suffix]
    backoff = levels[n - 1].backoff[level.parent]
    raised = (1 - said + p) / np.maximum(1 - else_said + shorter, 1e-12)
    often = levels[n - 1].times[level.parent] / levels[0].times[0]
    change = np.log(raised) - np.log(np.maximum(backoff, 1e-12))
    return -often * (p * (np.log(shorter * raised) - np.log(p)) + (1 - said) * change)
