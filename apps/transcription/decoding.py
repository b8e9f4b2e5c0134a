"""Tokens from encoder frames, greedily, in pieces: CTC and the transducer; alignment of known tokens by CTC.

All decoders have one face, `Decoder`. Their states are tensors with the batch on axis 0, so rows of streams of any age
are gathered and stacked like every other state; they never grow with the stream. Axes: batch time width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from wavecast.apps.transcription.boosting import Booster
from wavecast.apps.transcription.transducer import Joint, Prediction, Read
from wavecast.core.errors import WavecastError
from wavecast.core.state import State, gather, own, state

AT_ONCE = 4  # frames that the transducer looks at together: most of them hold no token


@dataclass
class Tokens:
    """Tokens of one stream, in their order.

    Attributes:
        ids: of the tokens; never the blank.
        frames: encoder frame of each, counted from the beginning of the stream.
        probabilities: of each where it was found, boosting left aside.
    """

    ids: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)

    def append(self, token: int, frame: int, probability: float) -> None:
        """Add a token."""
        self.ids.append(token)
        self.frames.append(frame)
        self.probabilities.append(probability)

    def extend(self, other: "Tokens") -> None:
        """Add the tokens of a later piece."""
        self.ids += other.ids
        self.frames += other.frames
        self.probabilities += other.probabilities


class Decoder(Protocol):
    """What finds tokens in encoder frames. What `step` returns is final: later frames only add to it."""

    def begin(self, rows: int) -> State:
        """Give the state before the first frame of so many streams."""

    def step(self, frames: Tensor, state: State, lengths: Tensor | None = None) -> tuple[list[Tokens], State]:
        """Decode the next frames of every stream.

        Args:
            frames: (batch, time, width) of the encoder.
            state: what the step before returned; None at the beginning.
            lengths: (batch,) valid frames of each row, the rest is padding; all when None.

        Returns:
            The tokens found in each row, and the state for the next step.
        """

    def pending(self, state: State) -> list[Tokens]:
        """Give the tokens of each row that would still come if its stream ended here; greedy decoders have none."""

    def settled(self, state: State) -> list[int]:
        """Give the frame of each row before which all tokens are found; greedy decoders find them at once."""


@state
class Repeating:
    """Where greedy CTC stands.

    last: (batch,) class of the last frame; frame: (batch,) frames so far; place: (batch,) in the boosted phrases.
    """

    last: Tensor
    frame: Tensor
    place: Tensor


class GreedyCTC:
    """The most probable class of every frame; repetitions are merged, blanks dropped (Graves et al. 2006).

    A token's frame is the first of its run. Boosted tokens are favored over others and over the blank.

    Args:
        head: maps frames (..., width) to logits (..., classes).
        blank: its last class.
        booster: of phrases.
    """

    def __init__(self, head: nn.Module, blank: int, booster: Booster | None = None) -> None:
        self.head, self.blank, self.booster = head, blank, booster

    def begin(self, rows: int) -> Repeating:
        """Give the state before the first frame of so many streams."""
        count = torch.zeros(rows, dtype=torch.int64, device=device_of(self.head))
        return Repeating(torch.full_like(count, self.blank), count, count.clone())

    @torch.inference_mode()
    def step(
        self, frames: Tensor, state: Repeating | None, lengths: Tensor | None = None
    ) -> tuple[list[Tokens], Repeating]:
        """Decode the next frames of every stream."""
        state = self.begin(len(frames)) if state is None else state
        batch, time = frames.shape[:2]
        if not time:
            return [Tokens() for _ in range(batch)], state
        lengths = state.frame.new_full((batch,), time) if lengths is None else lengths.to(state.frame)
        logits = self.head(frames)
        if self.booster is None:
            best, place = logits.argmax(-1), state.place
        else:
            best, place = self.boosted(logits, state, lengths, self.booster)
        before = torch.cat([state.last[:, None], best[:, :-1]], 1)
        valid = torch.arange(time, device=best.device) < lengths[:, None]
        new = (best != before) & (best != self.blank) & valid
        rows, times = new.nonzero(as_tuple=True)
        ids = best[rows, times]
        probabilities = logits[rows, times].softmax(-1).gather(1, ids[:, None])[:, 0]
        found = found_in_rows(batch, [(rows, ids, state.frame[rows] + times, probabilities)])
        end = (lengths - 1).clamp_min(0)[:, None]
        last = torch.where(lengths > 0, best.gather(1, end)[:, 0], state.last)
        return found, Repeating(last, state.frame + lengths, own(place))

    def boosted(self, logits: Tensor, state: Repeating, lengths: Tensor, booster: Booster) -> tuple[Tensor, Tensor]:
        """Choose the class of every frame, token by token, for each changes what is boosted next."""
        last, place, classes = state.last, state.place, []
        rows = torch.arange(len(logits), device=logits.device)
        for t in range(logits.shape[1]):
            bonus = booster.bonus(place).to(logits)
            bonus[rows, last] = 0  # a repetition spells nothing new
            best = (logits[:, t] + bonus).argmax(-1)
            valid = t < lengths
            place = torch.where(valid & (best != last) & (best != self.blank), booster.advance(place, best), place)
            last = torch.where(valid, best, last)
            classes.append(best)
        return torch.stack(classes, 1), place

    def pending(self, state: Repeating) -> list[Tokens]:
        """Give nothing: all tokens found are final."""
        return [Tokens() for _ in range(len(state.last))]

    def settled(self, state: Repeating) -> list[int]:
        """Give the number of frames so far."""
        return state.frame.tolist()


@state
class Spoken:
    """Where the greedy transducer stands.

    read: of the prediction network; said: (batch, hidden) its projected output; frame: (batch,) frames so far;
    place: (batch,) in the boosted phrases.
    """

    read: Read
    said: Tensor
    frame: Tensor
    place: Tensor


class GreedyTransducer:
    """The most probable symbol at every point: a blank moves on to the next frame, a token is read and stays.

    Rows move through the piece independently: each looks at its next few frames at once, jumps to its first token, and
    all rows that found one read it together (label looping: Bataev et al. 2024). Boosted tokens are favored over others
    and over the blank.

    Args:
        prediction: the network that reads tokens.
        joint: of the same vocabulary.
        max_symbols: most tokens in one frame.
        booster: of phrases.
    """

    def __init__(
        self, prediction: Prediction, joint: Joint, max_symbols: int = 10, booster: Booster | None = None
    ) -> None:
        self.prediction, self.joint, self.max_symbols, self.booster = prediction, joint, max_symbols, booster
        self.blank = prediction.blank

    @torch.inference_mode()
    def begin(self, rows: int) -> Spoken:
        """Give the state before the first frame of so many streams: the start symbol was read."""
        start = torch.full((rows, 1), self.blank, device=device_of(self.joint))
        y, read = self.prediction(start, last=False)
        count = torch.zeros_like(start[:, 0])
        return Spoken(read, self.joint.speak(y[:, 0]), count, count.clone())

    @torch.inference_mode()
    def step(self, frames: Tensor, state: Spoken | None, lengths: Tensor | None = None) -> tuple[list[Tokens], Spoken]:
        """Decode the next frames of every stream."""
        state = self.begin(len(frames)) if state is None else state
        batch, time = frames.shape[:2]
        if not time:
            return [Tokens() for _ in range(batch)], state
        heard = self.joint.listen(frames)
        lengths = state.frame.new_full((batch,), time) if lengths is None else lengths.to(state.frame)
        now, symbols = torch.zeros_like(lengths), torch.zeros_like(lengths)
        read, said, place = state.read, state.said, state.place
        found = []
        ahead = torch.arange(min(AT_ONCE, time), device=lengths.device)
        while len(rows := (now < lengths).nonzero()[:, 0]):
            times = now[rows, None] + ahead
            window = heard[rows[:, None], times.clamp_max(time - 1)]
            logits = self.joint.combine(window, said[rows, None])
            boosted = logits if self.booster is None else logits + self.booster.bonus(place[rows])[:, None].to(logits)
            best = boosted.argmax(-1)
            token = (best != self.blank) & (times < lengths[rows, None])
            first = token.int().argmax(1)
            some = token.any(1)
            now[rows] += torch.where(some, first, len(ahead))
            symbols[rows] *= some & (first == 0)

            rows, first = rows[some], first[some]
            if not len(rows):
                continue
            ids = best[some, first]
            probabilities = logits[some, first].softmax(-1).gather(1, ids[:, None])[:, 0]
            found.append((rows, ids, state.frame[rows] + now[rows], probabilities))
            y, after = self.prediction(ids[:, None], gather(read, rows), last=False)
            read = replace_rows(read, rows, after)
            said = said.index_copy(0, rows, self.joint.speak(y[:, 0]))
            if self.booster is not None:
                place = place.index_copy(0, rows, self.booster.advance(place[rows], ids))
            symbols[rows] += 1
            full = rows[symbols[rows] >= self.max_symbols]
            now[full] += 1
            symbols[full] = 0
        return found_in_rows(batch, found), Spoken(read, said, state.frame + lengths, place)

    def pending(self, state: Spoken) -> list[Tokens]:
        """Give nothing: all tokens found are final."""
        return [Tokens() for _ in range(len(state.frame))]

    def settled(self, state: Spoken) -> list[int]:
        """Give the number of frames so far."""
        return state.frame.tolist()


def found_in_rows(batch: int, found: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> list[Tokens]:
    """Sort what was found, (rows, ids, frames, probabilities) in the order of finding, by rows."""
    tokens = [Tokens() for _ in range(batch)]
    for columns in found:
        for row, *token in zip(*(column.tolist() for column in columns), strict=True):
            tokens[row].append(*token)
    return tokens


def replace_rows(state: State, rows: Tensor, new: State) -> State:
    """Give a state whose named rows are those of another."""
    return tree_map(lambda leaf, other: leaf.index_copy(0, rows, other), state, new)


def device_of(module: nn.Module) -> Any:
    """Find where a module computes; quantized modules hold no parameters and live on the CPU."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


@torch.inference_mode()
def align(log_probabilities: Tensor, ids: Sequence[int], blank: int, begin: int = 0) -> Tokens:
    """Find when known tokens were spoken, by the best path of CTC through them (torchaudio's forced alignment).

    In a hybrid model the transducer gives the text, and CTC its times and confidences.

    Args:
        log_probabilities: (time, classes) of a whole utterance.
        ids: its tokens.
        blank: the class that is no token.
        begin: frame of the stream at which the utterance begins.

    Returns:
        The tokens with the first frame and the mean probability of their runs.

    Raises:
        WavecastError: the tokens do not fit into the frames: CTC needs one each, and one more between equal neighbors.
    """
    from torchaudio.functional import forced_align

    needed = len(ids) + sum(a == b for a, b in pairwise(ids))
    if needed > len(log_probabilities):
        raise WavecastError(
            f"{len(ids)} tokens need {needed} frames to be aligned, and there are {len(log_probabilities)}",
            "keep the times of the transducer",
        )
    tokens = Tokens()
    if not ids:
        return tokens
    path, scores = forced_align(log_probabilities[None].float(), torch.tensor([ids], dtype=torch.int32), blank=blank)
    before, run = blank, 0
    for frame, (one, probability) in enumerate(zip(path[0].tolist(), scores[0].exp().tolist(), strict=True)):
        run = run + 1 if one == before else 1
        if one != blank and run == 1:
            tokens.append(one, begin + frame, probability)
        elif one != blank:
            tokens.probabilities[-1] += (probability - tokens.probabilities[-1]) / run
        before = one
    return tokens
