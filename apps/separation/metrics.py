"""How well speakers were separated: SI-SDR of each, in the assignment that is best."""

import torch
from torch import Tensor

from wavecast.apps.separation.losses import best_order, reorder
from wavecast.apps.sound.metrics import level, si_sdr

LOUD_ENOUGH = -80.0
"""A source below this level in dB counts as silence: it has no SI-SDR."""


def separated(estimate: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
    """Assign outputs to speakers by SI-SDR, and measure it.

    Args:
        estimate: (batch, samples, speakers).
        sources: (batch, samples, speakers), in any order.

    Returns:
        SI-SDR in dB, (batch, speakers) in the order of the sources, not a number for silent ones; and the outputs in
        that order, (batch, samples, speakers).
    """
    speakers = sources.shape[-1]
    outputs = estimate.transpose(1, 2)[:, :, None].expand(-1, -1, speakers, -1)
    wanted = sources.transpose(1, 2)[:, None].expand(-1, speakers, -1, -1)
    ratios = si_sdr(outputs, wanted)
    silent = level(sources.transpose(1, 2)) <= LOUD_ENOUGH
    ratios = ratios.masked_fill(silent[:, None], torch.nan)
    _, order = best_order(-ratios.nan_to_num(0.0))
    measured = ratios.gather(1, order[:, None])[:, 0]
    return measured, reorder(estimate, order)


def unprocessed(mixture: Tensor, sources: Tensor) -> Tensor:
    """Measure the SI-SDR of the mixture itself for every speaker: (batch, speakers) in dB, NaN for silent ones."""
    everywhere = mixture[..., None].expand_as(sources)
    ratios = si_sdr(everywhere.transpose(1, 2), sources.transpose(1, 2))
    return ratios.masked_fill(level(sources.transpose(1, 2)) <= LOUD_ENOUGH, torch.nan)
