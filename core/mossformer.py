"""MossFormer2's network: attention and gated memory in turn, from features to a mask for every speaker.

Zhao et al.: "MossFormer2: Combining Transformer and RNN-Free Recurrent Network for Enhanced Time-Domain Monaural Speech
Separation", 2024. Axes: batch time channel.
"""

import torch
from torch import Tensor, nn

from wavecast.core.block import Block, Frames
from wavecast.core.flash import Flash, waves
from wavecast.core.gated_fsmn import DECAY, GatedFSMN
from wavecast.core.groups import Chain, Skip
from wavecast.core.normalization import RunningSignalNorm, SignalNorm
from wavecast.core.state import State, state


class MossFormer(Chain):
    """Predict masks: (batch, time, inputs) to (batch, time, outputs, speakers), not negative.

    The published form needs the whole signal. The causal one streams: taps read the past, attention and statistics
    what was heard so far.

    Args:
        inputs: channels of the features.
        outputs: channels of a mask.
        speakers: masks.
        width: channels inside, even.
        layers: pairs of attention and memory.
        memory: "dilated" (of separation) or "plain" (of enhancement).
        hidden: channels inside the attention.
        attention: channels of its queries and keys.
        group: steps that see each other directly.
        inner: channels of the memory.
        causal: the form that streams.
        dropout: inside both, in training.
    """

    needs_all = "its attention and its statistics reach over the whole signal"
    instead = "call it once with all of it (last=True, no state), or train a causal one"

    def __init__(
        self,
        inputs: int = 512,
        outputs: int = 512,
        speakers: int = 2,
        width: int = 512,
        layers: int = 24,
        memory: str = "dilated",
        hidden: int = 2048,
        attention: int = 128,
        group: int = 256,
        inner: int = 256,
        causal: bool = False,
        dropout: float = 0.1,
    ) -> None:
        pairs = {
            f"layer{i}": Chain(
                attention=Flash(width, hidden, attention, group, causal=causal, dropout=dropout),
                memory=GatedFSMN(width, inner, memory, causal=causal, dropout=dropout),
            )
            for i in range(layers)
        }
        norms = {"norm": Frames(nn.LayerNorm(width, eps=1e-6)), "norm_out": signal_norm(width, causal)}
        super().__init__(
            norm=signal_norm(inputs, causal),
            project=Frames(nn.Linear(inputs, width, bias=False)),
            position=PositionEncoding(exact=causal),
            layers=Skip(Chain(**pairs, **norms)),
            masks=Frames(Masks(width, outputs, speakers)),
        )


def signal_norm(channels: int, causal: bool) -> Block:
    """Build the normalization over channels and time."""
    return RunningSignalNorm(channels, decay=DECAY) if causal else SignalNorm(channels)


@state
class Position:
    """How far a signal has come: int64 (batch,) steps."""

    steps: Tensor


class PositionEncoding(Block):
    """Add sines, then cosines, of the time since the signal began, times a learned scale; (batch, time, channel).

    Args:
        exact: compute angles in double precision, whatever the input's.
    """

    def __init__(self, exact: bool = True) -> None:
        super().__init__()
        self.exact = exact
        self.scale = nn.Parameter(torch.ones(1))

    def step(self, x: Tensor, state: Position | None, last: bool) -> tuple[Tensor, State]:
        """Add the encodings of the next steps."""
        before = torch.zeros(len(x), dtype=torch.int64, device=x.device) if state is None else state.steps
        position = torch.arange(x.shape[1], device=x.device)
        if state is not None:
            position = position + before[:, None]
        precision = torch.float64 if self.exact else torch.promote_types(x.dtype, torch.float32)
        cosine, sine = waves(position, x.shape[2] // 2, precision)
        return x + self.scale * torch.cat([sine, cosine], -1).to(x.dtype), Position(before + x.shape[1])


class Masks(nn.Module):
    """Masks of single steps: (batch, time, width) to (batch, time, outputs, speakers), not negative.

    Args:
        width: channels in, and of every speaker inside.
        outputs: channels of a mask.
        speakers: masks.
    """

    def __init__(self, width: int, outputs: int, speakers: int) -> None:
        super().__init__()
        self.rectify = nn.PReLU()
        self.split = nn.Linear(width, width * speakers)
        self.content, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        self.output = nn.Linear(width, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Give every speaker channels of its own, then the same gated map and projection to all of them."""
        each = self.split(self.rectify(x)).unflatten(-1, (-1, x.shape[-1]))
        gated = torch.tanh(self.content(each)) * torch.sigmoid(self.gate(each))
        return torch.relu(self.output(gated)).transpose(-1, -2)
