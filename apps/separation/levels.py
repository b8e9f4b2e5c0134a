"""Separated voices at the level they have in the mixture, and nothing of the mixture lost.

A network trained for SI-SDR gives voices at any scale. The scales are those whose sum comes nearest to the mixture
(least squares); what is left then belongs to nobody, and is shared out or kept as a sound of its own.
"""

import torch
from torch import Tensor
from torch.nn import functional

from wavecast.core.stream import Stream

PRIOR = 1e-3
"""Weight of one common gain against gains of their own, as a share of the voices' mean power. It decides what the
mixture cannot: an output without a voice, or one that holds another's echo, stays as small as the network made it."""
SMOOTHING = 0.02
"""Seconds of the power by which the rest is shared out."""
MEMORY = 10.0
"""Seconds that the gains of a live stream look back."""


def products(mixture: Tensor, voices: Tensor) -> tuple[Tensor, Tensor]:
    """Give the products that least squares needs, in double precision.

    Args:
        mixture: (batch, samples).
        voices: (batch, samples, voice).

    Returns:
        (batch, voice, voice) of the voices with each other, and (batch, voice) with the mixture.
    """
    mixture, voices = mixture.double(), voices.double()
    return voices.mT @ voices, (voices.mT @ mixture[..., None])[..., 0]


def least_squares_gains(among: Tensor, with_mixture: Tensor) -> Tensor:
    """Give the gains (batch, voice) whose sum of voices is nearest to the mixture; 0 where nothing is heard.

    Args:
        among: (batch, voice, voice), products of the voices.
        with_mixture: (batch, voice), their products with the mixture.
    """
    count = with_mixture.shape[-1]
    energy = among.diagonal(dim1=-2, dim2=-1).mean(-1)
    heard = energy > 0
    scale = torch.where(heard, energy, 1.0)[:, None]
    among, with_mixture = among / scale[..., None], with_mixture / scale
    total = among.sum((-2, -1))
    common = torch.where(total > 1e-12, with_mixture.sum(-1) / total.clamp(min=1e-12), 0.0)
    prior = PRIOR * torch.eye(count, dtype=among.dtype, device=among.device)
    gains = torch.linalg.solve(among + prior, with_mixture + PRIOR * common[:, None])
    return torch.where(heard[:, None], gains, 0.0)


def shares(power: Tensor) -> Tensor:
    """Give each voice's part of the power, (..., voice); equal parts of nothing."""
    total = power.sum(-1, keepdim=True)
    return torch.where(total > 0, power / torch.where(total > 0, total, 1.0), 1 / power.shape[-1])


def momentary_power(voices: Tensor, rate: int) -> Tensor:
    """Average the power over 20 ms around each sample: (batch, samples, voice) to the same shape."""
    half = max(1, round(SMOOTHING * rate / 2))
    return functional.avg_pool1d(voices.square().mT, 2 * half + 1, 1, half, count_include_pad=False).mT


def with_rest(mixture: Tensor, voices: Tensor, power: Tensor, residual: bool) -> Tensor:
    """Add what belongs to no voice: the result's sum over its last axis is the mixture.

    Args:
        mixture: (batch, samples).
        voices: (batch, samples, voice), leveled.
        power: the same shape, by which the rest is shared out.
        residual: keep it as one more output instead.
    """
    rest = (mixture - voices.sum(-1))[..., None]
    return torch.cat([voices, rest], -1) if residual else voices + rest * shares(power)


class LeveledStream:
    """A causal separator's stream whose voices have the mixture's level; used like `core.stream.Stream`.

    The gains follow what was heard in the last ten seconds, and pass linearly from block to block.

    Args:
        stream: of a network from (batch, samples) to (batch, samples, voice).
        rate: of the network in hertz.
        residual: keep what belongs to no voice as one more output.
    """

    def __init__(self, stream: Stream, rate: int, residual: bool) -> None:
        self.stream, self.rate, self.residual = stream, rate, residual
        self._restart()

    def _restart(self) -> None:
        self.waiting: Tensor | None = None  # mixture (batch, samples) whose voices are still to come
        self.among: Tensor | float = 0.0
        self.with_mixture: Tensor | float = 0.0
        self.gains: Tensor | None = None
        self.power: Tensor | None = None

    @torch.inference_mode()
    def push(self, x: Tensor) -> list[Tensor]:
        """Take any number of samples (batch, samples); give the finished pieces."""
        self.waiting = x if self.waiting is None else torch.cat([self.waiting, x], 1)
        return [self._level(piece) for piece in self.stream.push(x) if piece.shape[1]]

    @torch.inference_mode()
    def flush(self) -> list[Tensor]:
        """End the signal and give its last pieces; afterwards the next one can begin."""
        pieces = [self._level(piece) for piece in self.stream.flush() if piece.shape[1]]
        self._restart()
        return pieces

    def _level(self, voices: Tensor) -> Tensor:
        samples = voices.shape[1]
        if self.waiting is None:
            return voices
        mixture, self.waiting = self.waiting[:, :samples], self.waiting[:, samples:].clone()
        among, with_mixture = products(mixture, voices)
        kept = 0.5 ** (samples / (MEMORY * self.rate))
        self.among, self.with_mixture = kept * self.among + among, kept * self.with_mixture + with_mixture
        gains = least_squares_gains(self.among, self.with_mixture).to(voices.dtype)
        before = gains if self.gains is None else self.gains
        ramp = torch.linspace(0, 1, samples + 1, device=voices.device, dtype=voices.dtype)[1:, None]
        voices = voices * torch.lerp(before[:, None], gains[:, None], ramp)
        self.gains = gains
        return with_rest(mixture, voices, self._running_power(voices), self.residual)

    def _running_power(self, voices: Tensor) -> Tensor:
        """Average the power over the 20 ms before each sample, across blocks."""
        past = round(SMOOTHING * self.rate)
        squares = voices.square()
        before = squares.new_zeros(len(squares), past, squares.shape[2]) if self.power is None else self.power
        joined = torch.cat([before, squares], 1)
        self.power = joined[:, joined.shape[1] - past :].clone()
        return functional.avg_pool1d(joined.mT, past + 1, 1).mT
