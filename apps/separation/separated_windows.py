"""Windows of a separator: at the mixture's level, speakers the same within each and from one to the next."""

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from wavecast.apps.separation.levels import least_squares_gains, momentary_power, products, with_rest
from wavecast.apps.separation.tracks import (
    CERTAIN,
    NATS,
    SECONDS,
    Decision,
    Order,
    Seam,
    Tracks,
    inverted,
    same_sound,
)
from wavecast.apps.separation.turns import STRETCH, Conversation, Heard, Turn, gather, quietest, rearranged
from wavecast.apps.separation.voices import HOP, VOICED, Analyzer, Voiceprint
from wavecast.core.block import Block
from wavecast.core.windows import Plan, Windows

LEVEL = 10 ** (-25 / 20)
"""The level that every window is given to the network at, as RMS: published separators were trained near it."""
WINDOW_SECONDS, SHORTEST_SECONDS = 30.0, 1.0
OVERLAP_SECONDS = 3.0
OVERLAP_SHARE = 0.25
"""Of a window, at most, that it shares with the one before."""
DOMINANT = 0.5
"""Of the power of all others together, what a voice must have for a frame to tell of it."""
QUIET, SILENT = 10**-2.5, 10**-4.5
"""Below the loud parts of the signal: where frames tell of no voice, and where there is no sound."""
MOST_HELD = 4
"""Windows that may wait for what comes after them."""
FADE_SECONDS = 0.02
"""In which a speaker passes from one of the network's outputs to another."""


def plan_of(network: Block, rate: int, seconds: float = 0) -> Plan:
    """Choose windows for a separator: its own, if it has any, else 30 s.

    Args:
        network: of which `plan` counts.
        rate: in hertz.
        seconds: of a window, from the card; 0: as said.

    Raises:
        ValueError: windows of that length are too short.
    """
    plan = getattr(network, "plan", None)
    if plan is not None:
        return plan.lasting(seconds, rate)
    seconds = seconds or WINDOW_SECONDS
    if seconds < SHORTEST_SECONDS:
        raise ValueError(f"windows of {seconds} s are too short\nhint: at least {SHORTEST_SECONDS} s")
    fifth = int(min(OVERLAP_SECONDS, OVERLAP_SHARE * seconds) * rate / 5)
    return Plan(int(seconds * rate), 2 * fifth, fifth)


class SeparatedWindows(Windows):
    """A signal on its way through a separator that needs the whole of it.

    Pieces are (channels, samples, outputs), and sum to what went in. Windows whose order is in doubt wait: what comes
    after them may tell who was who.

    Args:
        network: a block from (channels, samples) to (channels, samples, speaker), in eval mode.
        plan: lengths of windows and of what they share.
        rate: in hertz.
        speakers: that the network gives.
        residual: keep what belongs to no voice as one more output; otherwise it is shared out.
        whole: one pass whatever the length.
        turns: put the network's outputs together by voice where they change speakers within a window; a network
            that keeps its order needs none of it, and may be harmed.

    Attributes:
        seams: decisions about the order of the speakers, of the signal begun last.
        turns: decisions within windows about who speaks, of the same.
    """

    def __init__(
        self,
        network: Block,
        plan: Plan,
        rate: int,
        speakers: int,
        residual: bool = False,
        whole: bool = False,
        turns: bool = False,
    ) -> None:
        self.rate, self.speakers, self.residual, self.follow = rate, speakers, residual, turns
        self.analyzer = Analyzer(rate)
        self.seams: list[Seam] = []
        self.turns: list[Turn] = []
        super().__init__(network, plan, whole=whole)

    def _restart(self) -> None:
        super()._restart()
        self.tracks = Tracks(self.speakers)
        self.conversations: list[Conversation] = []  # of each channel
        self.loud = 0.0  # mean square of loud parts, the most so far
        self.held: list[Tensor] = []  # pieces in doubt, of windows bound to each other
        self.release = 0  # of them, those that nothing more will be known of
        self.doubt = False
        self.faded = torch.zeros(0)  # what fades out at the beginning of the first piece held

    def flush(self) -> list[Tensor]:
        """End the signal and give its last pieces; afterwards the next one can begin."""
        held = [] if self.total > self.end else self.held
        return [*held, *super().flush()]

    def _window(self, start: int, end: int, last: bool) -> Tensor:
        """Work on [start, end); give the pieces that are no longer in doubt, often none."""
        piece = super()._window(start, end, last)
        self.held.append(piece)
        if last or not self.doubt or len(self.held) > MOST_HELD:
            self.release = len(self.held)
        ready, self.held = self.held[: self.release], self.held[self.release :]
        self.release = 0
        return torch.cat([piece[:, :0], *ready], 1)

    def _run(self, x: Tensor, zeros: int = 0) -> Tensor:
        """Run the network at its level; what scale comes out does not matter."""
        root = x.square().mean(1, keepdim=True).sqrt()
        return super()._run(x * torch.where(root > 0, LEVEL / root, 1.0), zeros)

    def align(self, heard: Tensor, made: Tensor, before: Tensor | None, start: int) -> Tensor:
        """Bring the voices to their levels, in the order of the window before, and share out what is left."""
        made = made * least_squares_gains(*products(heard, made)).to(made.dtype)[:, None]
        if before is None:
            self.seams, self.turns = [], []
            self.conversations = [Conversation(self.speakers, self.follow) for _ in made]
        sound = made.cpu().numpy()
        power = self._power(sound)
        if power.size:
            self.loud = max(self.loud, float(np.percentile(power.sum(1).mean(0), 95)))
        each = zip(self.conversations, sound, power, strict=True)
        windows = [self._take_turns(*one, start, 0 if before is None else self.end - start) for one in each]
        sound = np.stack([one for one, _ in windows])
        prints = [window.prints(self.speakers) for _, window in windows]
        orders = match_channels(self._power(sound), prints, self.loud * SILENT)
        sound = np.stack([one[:, list(order)] for one, order in zip(sound, orders, strict=True)])
        made = torch.from_numpy(sound).to(made.device)
        prints = [[each[k] for k in order] for each, order in zip(prints, orders, strict=True)]
        voices = [max((each[k] for each in prints), key=lambda one: one.frames) for k in range(self.speakers)]
        order = tuple(range(self.speakers))
        if before is None:
            self.tracks.begin(voices, self._active(made))
        else:
            order = self._decide(made, before, start, voices)
            made = made[..., list(order)]
        for conversation, own in zip(self.conversations, orders, strict=True):
            conversation.rename(inverted(tuple(own[k] for k in order)), -1)
        return with_rest(heard, made, momentary_power(made, self.rate), self.residual)

    def _take_turns(
        self, conversation: Conversation, sound: np.ndarray, power: np.ndarray, start: int, shared: int
    ) -> tuple[np.ndarray, Heard]:
        """Give every speaker of a channel's window the outputs that are his, and say what was heard.

        Args:
            conversation: of the channel.
            sound: (samples, output).
            power: (output, frames).
            start: where in the signal the window begins.
            shared: samples that the window before has as well.
        """
        total, stretch = power.sum(0), STRETCH * self.analyzer.hop
        firsts = np.arange(0, len(total), STRETCH)
        sounding = np.maximum.reduceat(total, firsts) > self.loud * SILENT if len(total) else np.zeros(0, bool)
        clear = (power > DOMINANT * (total - power)) & (power > self.loud * QUIET)
        evidence = []
        for output, counts in zip(sound.T, clear, strict=True):
            frames = self.analyzer(output)
            evidence.append(gather(frames.features, counts & (frames.voicing > VOICED)))
        window, changes = conversation.hear(np.stack(evidence, 1), sounding, round(shared / stretch))
        places = 1 + np.flatnonzero((window.speakers[1:] != window.speakers[:-1]).any(1))
        at = {k: quietest(total, k) * self.analyzer.hop + self.analyzer.frame // 2 for k in places.tolist()}
        for k, confidence in changes:
            if at[k] >= shared - self.plan.context:
                seconds, rounded = (start + at[k]) / self.rate, round(confidence, 4)
                self.turns.append(Turn(round(seconds, 3), rounded, rounded >= CERTAIN))
        parts = window.speakers[[0, *at]] if len(total) else np.arange(self.speakers)[None]
        return rearranged(sound, parts, [0, *at.values()], round(FADE_SECONDS * self.rate)), window

    def _power(self, sound: np.ndarray) -> np.ndarray:
        """Give the mean square of the frames of (channels, samples, output): (channels, output, frames)."""
        return self.analyzer.power(np.moveaxis(sound, 1, 2))

    def _decide(self, made: Tensor, before: Tensor, start: int, voices: list[Voiceprint]) -> Order:
        """Decide the order of the speakers, and note it."""
        overlap = self.plan.overlap
        at, stretch = self.end - overlap - start, round(SECONDS * self.rate)
        after = made[:, at : at + overlap].cpu().numpy()
        sound = same_sound(before[..., : self.speakers].cpu().numpy(), after, stretch, self.loud * SILENT)
        decision = self.tracks.decide(sound, voices, self._active(made))
        certain = decision.confidence >= CERTAIN
        if self.held and decision.bound:
            self._judge_again(decision, certain)
        else:
            self.release = len(self.held)
            self.faded = self.ending[:, self.plan.context : self.plan.context + self.plan.fade]
        self.doubt = not certain
        seconds = (self.end - self.plan.context - self.plan.fade / 2) / self.rate
        self.seams.append(Seam(round(seconds, 3), decision.order, round(decision.confidence, 4), certain))
        return decision.order

    def _judge_again(self, decision: Decision, certain: bool) -> None:
        """Put the pieces held, and the seams before them, in the order that now seems right."""
        places = inverted(decision.before)
        for conversation in self.conversations:
            conversation.rename(decision.before, -1 - len(self.held), -1)
        index = [*places, *range(self.speakers, self.ending.shape[2])]
        self.held = [piece[..., index] for piece in self.held]
        fade = self.plan.fade
        # What fades out there was in order already.
        ramp = torch.linspace(1, 0, fade, device=self.faded.device)[:, None]
        self.held[0][:, :fade] += ramp * (self.faded - self.faded[..., index])
        self.ending = self.ending[..., index]
        for k in range(len(self.seams) - len(self.held), len(self.seams)):
            seam = self.seams[k]
            order = tuple(seam.order[place] for place in places)
            likely = round(decision.hindsight, 4) if certain else seam.confidence
            self.seams[k] = Seam(seam.seconds, order, likely, likely >= CERTAIN)

    def _active(self, made: Tensor) -> list[bool]:
        """Tell which outputs hold any sound."""
        return [power > self.loud * SILENT for power in made.square().mean((0, 1)).tolist()]


def match_channels(power: np.ndarray, prints: Sequence[Sequence[Voiceprint]], silence: float) -> list[Order]:
    """Choose the order of each channel's outputs in which they are the same speakers as in the loudest channel.

    Speakers are the same who rise and fall together, and whose voices are alike.

    Args:
        power: (channels, output, frames).
        prints: of each channel's outputs.
        silence: power of a frame below which a channel hears nothing.
    """
    channels, count = power.shape[:2]
    plain = tuple(range(count))
    first = int(power.sum((1, 2)).argmax())
    heard, envelopes = power.sum(1) > silence, power**0.25  # nearer to loudness than power is
    orders = []
    for channel in range(channels):
        both = heard[channel] & heard[first]
        alike = NATS * both.sum() * HOP / SECONDS * correlations(envelopes[first][:, both], envelopes[channel][:, both])
        alike = alike + np.array([[a.same_speaker(b) for b in prints[channel]] for a in prints[first]])
        best = max(permutations(plain), key=lambda order: sum(alike[k, order[k]] for k in plain))
        orders.append(plain if channel == first else best)
    return orders


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlate every row of a with every row of b, (rows, n); what is constant correlates with nothing."""
    if not a.shape[1]:
        return np.zeros((len(a), len(b)))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    sizes = np.outer(np.sqrt(np.square(a).sum(1)), np.sqrt(np.square(b).sum(1)))
    return np.where(sizes > 0, a @ b.T / np.where(sizes > 0, sizes, 1), 0)
