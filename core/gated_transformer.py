"""The gated transformer block: self-attention and a SwiGLU unit, each with layer norm before and a residual around.

x = x + attention(norm(x))
x = x + out(silu(gate(norm(x))) * value(norm(x)))

Vaswani et al.: "Attention Is All You Need", 2017; Shazeer: "GLU Variants Improve Transformer", 2020; with stochastic
depth after Huang et al.: "Deep Networks with Stochastic Depth", 2016. This file is the definition, in plain torch, and
what a GPU runs; on a CPU `gated_transformer_cpu.py` computes the same.

Axes: batch time place dim. Attention is along time, every place on its own.
"""

from math import inf, prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavecast.core import gated_transformer_cpu as cpu
from wavecast.core.block import Block
from wavecast.core.state import State


class GatedTransformer(Block):
    """Layers of attention and gated unit, and a layer norm after the last: (batch, time, ..., dim) to the same shape.

    Attention is along time; axes between time and dim are places, which do not see each other. A sequence is one place
    of one row.

    Args:
        dim: features of a token.
        depth: layers.
        heads: of attention.
        head_dim: features of a head.
        hidden: features inside the gated unit.
        dropout: of the gated unit, inside and after it.
        attention_dropout: after the projection of attention (not of its weights).
        drop_path: chance that a sequence skips an attention or a unit, the same in all layers.
    """

    lookahead = inf
    needs_all = "every step attends to all others"

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        head_dim: int,
        hidden: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            GatedLayer(
                Attention(dim, heads, head_dim, attention_dropout, drop_path),
                GatedUnit(dim, hidden, dropout, drop_path),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Map whole sequences."""
        if not x.numel():
            return x.clone(), ()
        y = x.reshape(*x.shape[:2], prod(x.shape[2:-1]), x.shape[-1])
        for layer in self.layers:
            y = layer(y)
        return self.norm(y).view(x.shape), ()

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Refuse padded batches: a step would attend to the padding."""
        raise ValueError("GatedTransformer takes no padded batches\nhint: give sequences of one length")


class GatedLayer(nn.Module):
    """An attention, then a gated unit: (batch, time, place, dim) to the same shape."""

    def __init__(self, attention: "Attention", unit: "GatedUnit") -> None:
        super().__init__()
        self.attention, self.unit = attention, unit

    def forward(self, x: Tensor) -> Tensor:
        """Apply both."""
        return self.unit(self.attention(x))


class Attention(nn.Module):
    """x + attention(norm(x)) along time: (batch, time, place, dim) to the same shape.

    Args:
        dim: features of a token.
        heads: of attention.
        head_dim: features of a head; products of queries and keys are divided by its square root.
        dropout: after the projection.
        drop_path: chance that a sequence skips this.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.heads, self.dropout, self.drop_path = heads, dropout, drop_path
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the others tell; in training with noise drawn anew."""
        return self.apply_noise(x, branch_noise(x, self.dropout, self.drop_path) if self.training else None)

    def apply_noise(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Add what the others tell, times the noise (broadcast to x; None: 1)."""
        if is_fast(x):
            return cpu.attend(x, self.norm, self.qkv.weight, self.out, self.heads, noise)
        qkv = self.qkv(self.norm(x)).unflatten(3, (3, self.heads, -1))
        query, key, value = qkv.permute(3, 0, 2, 4, 1, 5)  # (batch, place, head, time, head_dim)
        y = functional.scaled_dot_product_attention(query, key, value)
        y = self.out(y.permute(0, 3, 1, 2, 4).flatten(3))
        return x + (y if noise is None else y * noise)


class GatedUnit(nn.Module):
    """x + out(silu(gate) * value), (gate, value) = into(norm(x)): (batch, time, place, dim) to the same shape.

    Args:
        dim: features of a token.
        hidden: features of gate and value each; `into` holds the rows of the gate first.
        dropout: of the product, and after the unit.
        drop_path: chance that a sequence skips this.
    """

    def __init__(self, dim: int, hidden: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.hidden, self.dropout, self.drop_path = hidden, dropout, drop_path
        self.norm = nn.LayerNorm(dim)
        self.into = nn.Linear(dim, 2 * hidden)
        self.out = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Add the unit; in training with noise drawn anew."""
        if not self.training:
            return self.apply_noise(x, None, None)
        inner = dropout_noise(x, (*x.shape[:3], self.hidden), self.dropout) if self.dropout else None
        return self.apply_noise(x, inner, branch_noise(x, self.dropout, self.drop_path))

    def apply_noise(self, x: Tensor, inner: Tensor | None, noise: Tensor | None) -> Tensor:
        """Add the unit, its product times the inner noise (..., hidden), the whole times the noise (None: 1)."""
        if is_fast(x):
            return cpu.gate(x, self.norm, self.into, self.out, inner, noise)
        gate, value = self.into(self.norm(x)).chunk(2, -1)
        product = functional.silu(gate) * value
        y = self.out(product if inner is None else product * inner)
        return x + (y if noise is None else y * noise)


def is_fast(x: Tensor) -> bool:
    """Tell whether the CPU form computes: in fp32 and fp64; autocast knows only torch's own operators."""
    plain = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return plain and x.device.type == "cpu"


def branch_noise(x: Tensor, dropout: float, drop_path: float) -> Tensor | None:
    """Draw what a branch is multiplied by: dropout of elements times dropout of sequences; None when there is none."""
    noise = dropout_noise(x, tuple(x.shape), dropout) if dropout else None
    if drop_path:
        paths = dropout_noise(x, (x.shape[0], 1, x.shape[2], 1), drop_path)
        noise = paths if noise is None else noise * paths
    return noise


def dropout_noise(x: Tensor, shape: tuple[int, ...], chance: float) -> Tensor:
    """Draw zeros with this chance, else 1 / (1 - chance), which keeps the mean."""
    return x.new_empty(shape).bernoulli_(1 - chance).div_(1 - chance)
