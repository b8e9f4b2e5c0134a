"""The losses of the separator, whose outputs have no order: the best assignment to the speakers counts.

`si_snr` is the published recipe's. `snr` keeps the level of every speaker, which SI-SNR does not, and limits what can
be gained (Wisdom et al. 2021, "What's all the FUSS about free universal sound separation data?"); after the same paper
is the loss of an output that should be silent, in both.
"""

from itertools import permutations
from math import inf
from typing import Literal

import torch
from torch import Tensor

EPSILON = 1e-8
BEST_SNR = 1e-3  # of what is left: beyond 30 dB nothing more is asked for
SILENT = 1e-4  # energy of a source in a mixture of energy 1, below which it counts as silence
FLOOR = 1e-8  # power of a mixture, at least: 80 dB below full scale

Kind = Literal["si_snr", "snr"]


def pit(
    estimate: Tensor, sources: Tensor, mixture: Tensor, kind: Kind = "si_snr", threshold: float = -inf
) -> tuple[Tensor, Tensor]:
    """Compute the permutation-invariant loss of a batch (Yu et al. 2017).

    Args:
        estimate: (batch, samples, speakers).
        sources: (batch, samples, speakers), in any order.
        mixture: (batch, samples), the level that silence is measured against.
        kind: "si_snr" or "snr".
        threshold: items of a smaller loss are dropped: they are done.

    Returns:
        The loss in dB, without axes; and the order, int64 (batch, speakers): which output each source has.
    """
    losses, order = best_order(pair_losses(estimate, sources, mixture, kind))
    kept = losses > threshold
    return (losses * kept).sum() / kept.sum().clamp_min(1), order


def best_order(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Find the assignment of least loss among all.

    Args:
        pairs: (batch, outputs, sources), loss of every output for every source.

    Returns:
        Its mean over the sources (batch,), and the output of each source, int64 (batch, sources).
    """
    speakers = pairs.shape[-1]
    orders = torch.tensor(list(permutations(range(speakers))), device=pairs.device)
    losses = pairs[:, orders, torch.arange(speakers, device=pairs.device)].mean(-1)
    least, which = losses.min(-1)
    return least, orders[which]


def reorder(estimate: Tensor, order: Tensor) -> Tensor:
    """Bring outputs (batch, samples, speakers) into the order of the sources: (batch, speakers)."""
    return estimate.gather(-1, order[:, None].expand_as(estimate))


def pair_losses(estimate: Tensor, sources: Tensor, mixture: Tensor, kind: Kind = "si_snr") -> Tensor:
    """Compute the loss of every output for every source, in dB: (batch, outputs, sources).

    A silent source costs 10 log10 of the output's share in the energy, -30 at least: for "snr" in that of the mixture,
    for "si_snr" in that of all outputs, for where no scale counts, all of them could be made smaller instead of one.
    """
    whole = mixture.square().sum(1, keepdim=True) + FLOOR * mixture.shape[1]
    silent = sources.square().sum(1) <= SILENT * whole
    distance = negative_si_snr if kind == "si_snr" else negative_snr
    safe = torch.where(silent[:, None], mixture[..., None], sources)  # so that no gradient is infinite
    spoken = distance(estimate[..., None], safe[:, :, None])
    energy = estimate.square().sum(1)
    measure = energy.sum(-1, keepdim=True) + EPSILON if kind == "si_snr" else whole
    unwanted = 10 * torch.log10(energy / measure + BEST_SNR)
    return torch.where(silent[:, None], unwanted[..., None], spoken)


def negative_si_snr(estimate: Tensor, source: Tensor) -> Tensor:
    """Compute minus the scale-invariant signal-to-noise ratio in dB, means removed, over axis 1."""
    estimate = estimate - estimate.mean(1, keepdim=True)
    source = source - source.mean(1, keepdim=True)
    scale = (estimate * source).sum(1, keepdim=True) / (source.square().sum(1, keepdim=True) + EPSILON)
    wanted = scale * source
    ratio = wanted.square().sum(1) / ((estimate - wanted).square().sum(1) + EPSILON)
    return -10 * torch.log10(ratio + EPSILON)


def negative_snr(estimate: Tensor, source: Tensor) -> Tensor:
    """Compute minus the signal-to-noise ratio in dB over axis 1, 30 at most."""
    power = source.square().sum(1) + EPSILON
    return 10 * torch.log10((estimate - source).square().sum(1) / power + BEST_SNR)
