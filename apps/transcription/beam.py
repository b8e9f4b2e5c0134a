"""Beam search over encoder frames, in pieces: CTC prefixes, and the transducer frame by frame.

Several hypotheses are kept for every stream, each a text with its probability, summed over all the ways found to say
it. Tokens are final once all hypotheses share them, or once they are `lag` frames old: then hypotheses that disagree
with the best one are dropped, so that the state has a fixed size, and silence settles the text. All of that goes frame
by frame: the pieces in which a stream comes change nothing. A guide (`guides`) adds to a hypothesis what it says of its
tokens, and takes back at the end what is owed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, inf, log1p
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from wavecast.apps.transcription.decoding import Tokens, device_of
from wavecast.apps.transcription.guides import ROOT, Guide
from wavecast.apps.transcription.transducer import Joint, Prediction, Read
from wavecast.core.state import gather, state

CAPACITY = 32
"""Tokens of a hypothesis that may wait to become final."""


@dataclass
class Hypothesis:
    """One text that may have been said.

    Attributes:
        ids, frames, probabilities: of its tokens that are not final yet.
        blank, token: logarithm of its probability, of the ways that end in a blank and of those that end in its last
            token; the transducer only has the first.
        bonus: what the guide added, and `place` in it.
        slot: where its prediction network's state is kept.
    """

    ids: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    blank: float = 0.0
    token: float = -inf
    bonus: float = 0.0
    place: int = ROOT
    slot: int = 0

    @property
    def score(self) -> float:
        """Give the logarithm of its probability, and its bonus."""
        return log_add(self.blank, self.token) + self.bonus

    def tokens(self, first: int) -> Tokens:
        """Give its first tokens."""
        return Tokens(list(self.ids[:first]), list(self.frames[:first]), list(self.probabilities[:first]))


NOBODY = Hypothesis(blank=-inf)


@state
class Beams:
    """Hypotheses of every stream between two pieces.

    ids, frames, probabilities: (batch, width, capacity) of tokens not final.
    count: (batch, width) how many there are, -1 where there is no hypothesis.
    scores: (batch, width, 3) float64 `blank`, `token` and `bonus`; place: (batch, width).
    last: (batch,) the last final token, or the blank; frame: (batch,) frames so far.
    """

    ids: Tensor
    frames: Tensor
    probabilities: Tensor
    count: Tensor
    scores: Tensor
    place: Tensor
    last: Tensor
    frame: Tensor


class BeamSearch:
    """What both searches share: which hypotheses stay, which tokens are final, and the state between pieces.

    Args:
        blank: the last class.
        width: most hypotheses.
        margin: hypotheses so far below the best, in log-probability, are dropped.
        lag: frames after which a token of the best hypothesis is final.
        guide: what it is told beside what it hears.
    """

    def __init__(self, blank: int, width: int, margin: float, lag: int, guide: Guide | None) -> None:
        if width < 1 or lag < 1 or margin <= 0:
            raise ValueError(f"no beam of width {width}, margin {margin} and lag {lag}\nhint: use positive numbers")
        self.blank, self.width, self.margin, self.lag, self.guide = blank, width, margin, lag, guide

    def empty(self, rows: int, device: Any) -> Beams:
        """Give the beams of so many streams before their first frame."""
        start = self.pack([[Hypothesis()]] * rows, [self.blank] * rows, [0] * rows)
        return tree_map(lambda leaf: leaf.to(device), start)

    def likeliest(self, logs: Tensor, beam: list[Hypothesis]) -> list[list[tuple[int, float, float]]]:
        """Choose the tokens that may follow each hypothesis, the likeliest with their bonus first; never the blank.

        Args:
            logs: (hypotheses, classes) log-probabilities.
            beam: so many hypotheses.

        Returns:
            Token, its log-probability and its bonus, for each hypothesis.
        """
        logs, bonus = logs[:, :-1], torch.zeros_like(logs[:, :-1])
        if self.guide is not None:
            bonus = torch.stack([self.guide.change(one.place)[:-1] for one in beam])
        tokens = (logs + bonus).topk(min(self.width, logs.shape[1])).indices
        columns = [column.tolist() for column in (tokens, logs.gather(1, tokens), bonus.gather(1, tokens))]
        return [list(zip(*row, strict=True)) for row in zip(*columns, strict=True)]

    def longer(self, one: Hypothesis, token: int, frame: int, log: float, bonus: float) -> Hypothesis:
        """Give a hypothesis with one more token, of that log-probability."""
        return replace(
            one,
            ids=(*one.ids, token),
            frames=(*one.frames, frame),
            probabilities=(*one.probabilities, exp(log)),
            bonus=one.bonus + bonus,
            place=ROOT if self.guide is None else self.guide.next(one.place, token),
        )

    def whole(self, one: Hypothesis) -> float:
        """Give a hypothesis' score if its stream ended here: a phrase under way gains nothing."""
        return one.score - (0.0 if self.guide is None else self.guide.owed(one.place))

    def best(self, hypotheses: Iterable[Hypothesis]) -> list[Hypothesis]:
        """Keep the best hypotheses, the very best first."""
        ranked = sorted(hypotheses, key=score_of, reverse=True)[: self.width]
        return [one for one in ranked if one.score > ranked[0].score - self.margin]

    def settle(self, beam: list[Hypothesis], now: int) -> tuple[Tokens, list[Hypothesis]]:
        """Make tokens final: those that all share, and those that are old. Scores are counted from the best again."""
        top, old = max(beam, key=self.whole), now - self.lag

        def agrees(one: Hypothesis) -> bool:
            sure = max(len(top.ids) - CAPACITY, *(sum(frame < old for frame in each.frames) for each in (top, one)))
            return one.ids[:sure] == top.ids[:sure]

        beam = [one for one in beam if agrees(one)]
        shared = 0  # tokens
        while shared < len(top.ids) and all(one.ids[: shared + 1] == top.ids[: shared + 1] for one in beam):
            shared += 1
        edge = max(old, top.frames[shared - 1] if shared else 0)
        ways = log_add(top.blank, top.token)
        kept = [
            replace(
                one,
                ids=one.ids[shared:],
                frames=tuple(max(frame, edge) for frame in one.frames[shared:]),
                probabilities=one.probabilities[shared:],
                blank=one.blank - ways,
                token=one.token - ways,
                bonus=one.bonus - top.bonus,
            )
            for one in beam
            if len(one.ids) - shared <= CAPACITY
        ]
        return top.tokens(shared), kept

    def pack(self, beams: Sequence[list[Hypothesis]], last: list[int], frame: list[int]) -> Beams:
        """Make tensors of hypotheses; lists of one shape become tensors much faster than piece by piece."""
        slots = [one for beam in beams for one in (*beam, *[NOBODY] * (self.width - len(beam)))]
        each = (len(beams), self.width)

        def tensor(values: list[Any], dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.tensor(values, dtype=dtype).unflatten(0, each)

        return Beams(
            ids=tensor([filled(one.ids) for one in slots]),
            frames=tensor([filled(one.frames) for one in slots]),
            probabilities=tensor([filled(one.probabilities) for one in slots], torch.float32),
            count=tensor([-1 if one is NOBODY else len(one.ids) for one in slots]),
            scores=tensor([(one.blank, one.token, one.bonus) for one in slots], torch.float64),
            place=tensor([one.place for one in slots]),
            last=torch.tensor(last),
            frame=torch.tensor(frame),
        )

    def unpack(self, beams: Beams) -> list[list[Hypothesis]]:
        """Make hypotheses of tensors; hypothesis i of a row has the slot row * width + i."""
        made = []
        columns = (beams.ids, beams.frames, beams.probabilities, beams.count, beams.scores, beams.place)
        for row, lists in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            beam = []
            for i, (ids, frames, probabilities, n, (blank, token, bonus), place) in enumerate(zip(*lists, strict=True)):
                if n >= 0:
                    tokens = (tuple(ids[:n]), tuple(frames[:n]), tuple(probabilities[:n]))
                    beam.append(Hypothesis(*tokens, blank, token, bonus, place, row * self.width + i))
            made.append(beam)
        return made

    def edge(self, beams: Beams) -> list[int]:
        """Give the frame of each stream before which all tokens are final."""
        rows = zip(self.unpack(beams), beams.frame.tolist(), strict=True)
        return [min([now, *(one.frames[0] for one in beam if one.frames)]) for beam, now in rows]

    def rest(self, beams: Beams) -> list[Tokens]:
        """Give the tokens of each stream's best hypothesis that are not final."""
        tops = [max(beam, key=self.whole) for beam in self.unpack(beams)]
        return [top.tokens(len(top.ids)) for top in tops]


class BeamCTC(BeamSearch):
    """CTC prefix beam search (Graves et al. 2006; Hannun et al. 2014): paths that give the same text count together.

    Args:
        head: maps frames (..., width) to logits (..., classes).
        blank: its last class.
        width: most hypotheses.
        margin: hypotheses so far below the best, in log-probability, are dropped.
        lag: frames after which a token of the best hypothesis is final; 25 are two seconds.
        guide: what it is told beside what it hears.
    """

    def __init__(
        self,
        head: nn.Module,
        blank: int,
        width: int = 8,
        margin: float = 12.0,
        lag: int = 25,
        guide: Guide | None = None,
    ) -> None:
        super().__init__(blank, width, margin, lag, guide)
        self.head = head

    def begin(self, rows: int) -> Beams:
        """Give the state before the first frame of so many streams."""
        return self.empty(rows, device_of(self.head))

    @torch.inference_mode()
    def step(self, frames: Tensor, state: Beams | None, lengths: Tensor | None = None) -> tuple[list[Tokens], Beams]:
        """Decode the next frames of every stream."""
        state = self.begin(len(frames)) if state is None else state
        batch, time = frames.shape[:2]
        if not time:
            return [Tokens() for _ in range(batch)], state
        logs = self.head(frames).log_softmax(-1).cpu()
        beams, last, now = self.unpack(state), state.last.tolist(), state.frame.tolist()
        found = [Tokens() for _ in range(batch)]
        for row, n in enumerate([time] * batch if lengths is None else lengths.tolist()):
            for heard in logs[row, :n]:
                beams[row] = self.listen(beams[row], heard, last[row], now[row])
                now[row] += 1
                tokens, beams[row] = self.settle(beams[row], now[row])
                last[row] = tokens.ids[-1] if tokens.ids else last[row]
                found[row].extend(tokens)
        after = self.pack(beams, last, now)
        return found, tree_map(lambda leaf: leaf.to(frames.device), after)

    def listen(self, beam: list[Hypothesis], logs: Tensor, last: int, frame: int) -> list[Hypothesis]:
        """Extend the hypotheses of one stream by one frame of log-probabilities (classes,)."""
        classes = logs.tolist()
        floor = beam[0].score + max(classes) - self.margin
        grown: dict[tuple[int, ...], Hypothesis] = {}
        for one, following in zip(beam, self.likeliest(logs.expand(len(beam), -1), beam), strict=True):
            ways = log_add(one.blank, one.token)
            end = one.ids[-1] if one.ids else last
            repeated = one.token + classes[end] if end != self.blank else -inf
            merge(grown, replace(one, blank=ways + classes[self.blank], token=repeated))
            for token, log, change in following:
                score = log + (one.blank if token == end else ways)
                if score + one.bonus + change > floor:
                    longer = self.longer(one, token, frame, log, change)
                    merge(grown, replace(longer, blank=-inf, token=score))
        return self.best(grown.values())

    def pending(self, state: Beams) -> list[Tokens]:
        """Give the tokens that would still come if the streams ended here."""
        return self.rest(state)

    def settled(self, state: Beams) -> list[int]:
        """Give the frame of each stream before which all tokens are final."""
        return self.edge(state)


@state
class Speakers:
    """The transducer's hypotheses between two pieces.

    beams: the texts. read: (batch, width, layer, width of the network) and said: (batch, width, hidden) of each.
    """

    beams: Beams
    read: Read
    said: Tensor


class BeamTransducer(BeamSearch):
    """Time-synchronous beam search (Saon et al. 2020): in a frame each hypothesis may say some tokens, then a blank.

    All hypotheses of all streams go through the networks together, and a text that is in the beam already is not read
    again.

    Args:
        prediction: the network that reads tokens.
        joint: of the same vocabulary.
        width: most hypotheses.
        max_symbols: most tokens in one frame.
        margin: hypotheses so far below the best, in log-probability, are dropped.
        lag: frames after which a token of the best hypothesis is final; 25 are two seconds.
        guide: what it is told beside what it hears.
    """

    def __init__(
        self,
        prediction: Prediction,
        joint: Joint,
        width: int = 4,
        max_symbols: int = 3,
        margin: float = 6.0,
        lag: int = 25,
        guide: Guide | None = None,
    ) -> None:
        super().__init__(prediction.blank, width, margin, lag, guide)
        self.prediction, self.joint, self.max_symbols = prediction, joint, max_symbols

    @torch.inference_mode()
    def begin(self, rows: int) -> Speakers:
        """Give the state before the first frame of so many streams: the start symbol was read."""
        device = device_of(self.joint)
        y, read = self.prediction(torch.full((rows, 1), self.blank, device=device), last=False)
        each = (rows, self.width)
        read = tree_map(lambda leaf: leaf[:, None].repeat_interleave(self.width, 1), read)
        return Speakers(self.empty(rows, device), read, self.joint.speak(y).expand(*each, -1).contiguous())

    @torch.inference_mode()
    def step(
        self, frames: Tensor, state: Speakers | None, lengths: Tensor | None = None
    ) -> tuple[list[Tokens], Speakers]:
        """Decode the next frames of every stream."""
        state = self.begin(len(frames)) if state is None else state
        batch, time = frames.shape[:2]
        if not time:
            return [Tokens() for _ in range(batch)], state
        heard = self.joint.listen(frames)
        beams, last, now = self.unpack(state.beams), state.beams.last.tolist(), state.beams.frame.tolist()
        valid = [time] * batch if lengths is None else lengths.tolist()
        memory = tree_map(lambda leaf: leaf.flatten(0, 1), (state.read, state.said))
        found = [Tokens() for _ in range(batch)]
        for t in range(max(valid, default=0)):
            rows = [row for row in range(batch) if t < valid[row]]
            memory = self.listen(beams, rows, heard[:, t], memory, now)
            for row in rows:
                now[row] += 1
                tokens, beams[row] = self.settle(beams[row], now[row])
                last[row] = tokens.ids[-1] if tokens.ids else last[row]
                found[row].extend(tokens)
            memory = self.forget(beams, memory)
        slots = [(beam[i] if i < len(beam) else beam[0]).slot for beam in beams for i in range(self.width)]
        read, said = tree_map(lambda leaf: leaf.unflatten(0, (batch, self.width)), gather(memory, slots))
        packed = tree_map(lambda leaf: leaf.to(frames.device), self.pack(beams, last, now))
        return found, Speakers(packed, read, said)

    def listen(self, beams: list[list[Hypothesis]], rows: list[int], heard: Tensor, memory: Any, now: list[int]) -> Any:
        """Extend the hypotheses of some rows by one frame, in place; give the memory with what was read for it.

        Args:
            beams: hypotheses of each row.
            rows: those that hear this frame.
            heard: (batch, hidden) the frame.
            memory: state and projected output (slots, ...) of the prediction network.
            now: number of the frame in each row.
        """
        closed: dict[int, dict[tuple[int, ...], Hypothesis]] = {row: {} for row in rows}
        slots = {(row, one.ids): one.slot for row in rows for one in beams[row]}
        saying = [(row, one) for row in rows for one in beams[row]]
        for symbols in range(self.max_symbols + 1):
            f = heard[[row for row, _ in saying]]
            g = memory[1][[one.slot for _, one in saying]]
            logs = self.joint.combine(f, g).log_softmax(-1).cpu()
            blanks = logs[:, self.blank].tolist()
            for (row, one), blank in zip(saying, blanks, strict=True):
                merge(closed[row], replace(one, blank=one.blank + blank))
            if symbols == self.max_symbols:
                break
            saying = self.say(saying, logs, closed, now)
            new = [(row, one) for row, one in saying if (row, one.ids) not in slots]
            if new:
                ids = torch.tensor([[one.ids[-1]] for _, one in new], device=heard.device)
                y, read = self.prediction(ids, gather(memory[0], [one.slot for _, one in new]), last=False)
                free = len(memory[1])
                memory = tree_map(lambda a, b: torch.cat([a, b]), memory, (read, self.joint.speak(y[:, 0])))
                slots.update({(row, one.ids): free + i for i, (row, one) in enumerate(new)})
            for row, one in saying:
                one.slot = slots[row, one.ids]
            if not saying:
                break
        for row in rows:
            beams[row] = self.best(closed[row].values())
        return memory

    def forget(self, beams: list[list[Hypothesis]], memory: Any) -> Any:
        """Keep the slots of the hypotheses that are left, once most are free."""
        left = [one for beam in beams for one in beam]
        if len(memory[1]) < 4 * len(left):
            return memory
        memory = gather(memory, [one.slot for one in left])
        for slot, one in enumerate(left):
            one.slot = slot
        return memory

    def say(
        self,
        saying: list[tuple[int, Hypothesis]],
        logs: Tensor,
        closed: dict[int, dict[tuple[int, ...], Hypothesis]],
        now: list[int],
    ) -> list[tuple[int, Hypothesis]]:
        """Let hypotheses say one more token; give the best of each row that may still get among its best.

        A hypothesis keeps its parent's slot until it has been read.
        """
        longer: dict[int, list[Hypothesis]] = {row: [] for row in closed}
        for (row, one), following in zip(saying, self.likeliest(logs, [one for _, one in saying]), strict=True):
            for token, log, bonus in following:
                said = replace(one, blank=one.blank + log)
                longer[row].append(self.longer(said, token, now[row], log, bonus))
        best = []
        for row, hypotheses in longer.items():
            ranked = self.best(closed[row].values())
            floor = ranked[0].score - self.margin
            if len(ranked) == self.width:
                floor = max(floor, ranked[-1].score)
            best += [(row, one) for one in self.best(hypotheses) if one.score > floor]
        return best

    def pending(self, state: Speakers) -> list[Tokens]:
        """Give the tokens that would still come if the streams ended here."""
        return self.rest(state.beams)

    def settled(self, state: Speakers) -> list[int]:
        """Give the frame of each stream before which all tokens are final."""
        return self.edge(state.beams)


def score_of(one: Hypothesis) -> float:
    """Give a hypothesis' score."""
    return one.score


def filled(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give a hypothesis' values in all places for tokens that it may have."""
    return values + (0,) * (CAPACITY - len(values))


def log_add(a: float, b: float) -> float:
    """Add probabilities given by their logarithms."""
    a, b = max(a, b), min(a, b)
    return a if b == -inf else a + log1p(exp(b - a))


def merge(beam: dict[tuple[int, ...], Hypothesis], one: Hypothesis) -> None:
    """Add a hypothesis to others; equal texts count together, with the times of the likelier."""
    known = beam.get(one.ids)
    if known is None:
        beam[one.ids] = one
        return
    likelier = one if one.score > known.score else known
    beam[one.ids] = replace(
        likelier, blank=log_add(known.blank, one.blank), token=log_add(known.token, one.token), slot=known.slot
    )
