"""Statistics of the signal so far: means that run along, so that what needs a mean can stream."""

import torch
from torch import Tensor

from wavecast.core.block import Block
from wavecast.core.state import State, own, state

TILE = 256  # frames of one matrix product: the decay matrix stays small for any length


@state
class Sums:
    """Decayed sums over the past. total: (batch, channel) of the values; weight: (batch, 1) of the ones."""

    total: Tensor
    weight: Tensor


class RunningMean(Block):
    """The exponential mean of all frames so far: (batch, time, channel) to the same shape.

    mean_t = sum_i decay^(t - i) x_i / sum_i decay^(t - i): without bias at the beginning, and with decay 1 the plain
    mean of the past.

    Args:
        decay: from one frame to the next, in (0, 1].
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        if not 0 < decay <= 1:
            raise ValueError(f"decay {decay} is not in (0, 1]")
        self.decay = decay

    def step(self, x: Tensor, state: Sums | None, last: bool) -> tuple[Tensor, State]:
        """Run the mean on, a tile of frames in one matrix product."""
        if state is None:
            state = Sums(x.new_zeros(x.shape[0], x.shape[2]), x.new_zeros(x.shape[0], 1))
        total, weight = state.total, state.weight
        if x.shape[1] == 1:  # a live stream, frame by frame
            state = Sums(self.decay * total + x[:, 0], self.decay * weight + 1)
            return (state.total / state.weight)[:, None], state
        pieces = []
        for tile in x.split(TILE, 1) if x.shape[1] else ():
            steps = torch.arange(tile.shape[1], device=x.device)
            powers = self.decay ** torch.arange(tile.shape[1] + 1, device=x.device, dtype=x.dtype)
            matrix = powers[(steps[:, None] - steps).clamp_min(0)].tril()
            totals = matrix @ tile + powers[1:, None] * total[:, None]
            weights = matrix.sum(1)[:, None] + powers[1:, None] * weight[:, None]
            pieces.append(totals / weights)
            total, weight = totals[:, -1], weights[:, -1]
        return torch.cat(pieces, 1) if pieces else x, Sums(own(total), own(weight))
