"""MossFormer2 for inference: the numbers of `mossformer2.py` in less time, and in memory that masks do not fill.

The network is `core/mossformer_fast.py`. Masks, the mixture's features under them, and their way back through the
filter bank are computed tile by tile, so that what is kept of a frame is no more than its samples.
"""

import copy
from math import inf

import torch
from torch import Tensor
from torch.nn import functional

from wavecast.apps.separation.mossformer2 import MossFormer2
from wavecast.core.block import Block
from wavecast.core.mossformer_fast import NARROW_TILE, FastMossFormer
from wavecast.core.state import State


class FastMossFormer2(Block):
    """The inference form of a MossFormer2 that needs the whole signal: (batch, samples) to (batch, samples, speakers).

    Args:
        network: trained, on the CPU; its weights are copied in folded form, later changes to it do not reach this one.

    Raises:
        ValueError: the network is causal.
    """

    lookahead = inf
    needs_all = MossFormer2.needs_all
    instead = MossFormer2.instead

    def __init__(self, network: MossFormer2) -> None:
        super().__init__()
        parts = network.inner
        self.network = FastMossFormer(parts.features.masks)
        self.analysis, self.synthesis = copy.deepcopy((parts.analysis, parts.synthesis))
        self.speakers, self.masking = network.speakers, network.masking
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Separate whole signals, one after the other."""
        return torch.stack([self.whole(one) for one in x]), ()

    def whole(self, x: Tensor) -> Tensor:
        """Separate one signal: (samples,) to (samples, speakers)."""
        features = self.analysis(x[None])[0][0]
        if not len(features):
            return x.new_zeros(len(x), self.speakers)
        hidden = self.network.hidden(features)
        frames = []
        for some, mixture in zip(hidden.split(NARROW_TILE), features.split(NARROW_TILE), strict=True):
            masks = self.network.masks(some)
            sources = mixture[..., None] * masks if self.masking else masks
            frames.append(self.synthesis.filter(sources[None]))
        y = self.synthesis.overlap(torch.cat(frames, 1))[0, : len(x)]
        return functional.pad(y, (0, 0, 0, len(x) - len(y)))
