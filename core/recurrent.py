"""Recurrent layers as blocks: LSTM (with or without peepholes), GRU and sLSTM.

Hochreiter and Schmidhuber: "Long Short-Term Memory", 1997; peepholes: Gers and Schmidhuber: "Recurrent Nets that Time
and Count", 2000; Cho et al.: "Learning Phrase Representations using RNN Encoder-Decoder", 2014 (its reset gate after
the product, as in cuDNN and torch); Beck et al.: "xLSTM: Extended Long Short-Term Memory", 2024. The weights of torch's
LSTM and GRU load (`from_torch`). Axes: batch time channel.
"""

import torch
from torch import Tensor, nn

from wavecast.core.block import Block
from wavecast.core.groups import Chain
from wavecast.core.ops.recurrent import GATES, recurrent
from wavecast.core.state import State, state

ROWS_WORTH = 32
"""Weights a gate's channel may have, for every row and step of a call, for torch's layout of them to pay."""


@state
class Memory:
    """What a recurrent layer remembers.

    parts: (batch, part, hidden): the output, then the cell of an LSTM; of an sLSTM also normalizer and stabilizer.
    """

    parts: Tensor


class RecurrentLayer(Block):
    """One recurrent layer: (batch, time, inputs) to (batch, time, hidden).

    Args:
        kind: "lstm", "gru" or "slstm".
        inputs: channels in.
        hidden: channels out, and of the state.
        heads: groups of channels whose recurrent weights see only their own group.
        peepholes: the gates of an LSTM see its cell, too.

    Raises:
        ValueError: a kind there is not, or heads that do not divide the channels.
    """

    def __init__(self, kind: str, inputs: int, hidden: int, heads: int = 1, peepholes: bool = False) -> None:
        super().__init__()
        if kind not in GATES:
            raise ValueError(f"no recurrent layer of kind {kind!r}\nhint: one of {', '.join(GATES)}")
        if heads < 1 or hidden % heads:
            raise ValueError(f"{heads} heads of {hidden} channels\nhint: use a number of heads that divides {hidden}")
        self.kind, gates = kind, GATES[kind]
        self.enter = nn.Linear(inputs, gates * hidden)
        self.weight = nn.Parameter(torch.empty(gates, hidden, hidden // heads))
        self.bias = nn.Parameter(torch.zeros(gates, hidden)) if kind == "gru" else None
        self.peepholes = nn.Parameter(torch.zeros(3, hidden)) if peepholes else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start anew: what enters by Glorot's rule, what recurs orthogonal in each gate and head, forget gates open."""
        gates, hidden, width = self.weight.shape
        for part in self.enter.weight.split(hidden):
            nn.init.xavier_uniform_(part)
        for part in self.weight.unflatten(1, (-1, width)).flatten(0, 1):
            nn.init.orthogonal_(part)
        nn.init.zeros_(self.enter.bias)
        if gates == GATES["lstm"]:
            nn.init.ones_(self.enter.bias[hidden : 2 * hidden])

    def step(self, x: Tensor, state: Memory | None, last: bool, lengths: Tensor | None = None) -> tuple[Tensor, Memory]:
        """Run on from where the piece before ended."""
        if lengths is None and self.suits_torch(x):
            return self.step_by_torch(x, state)
        entering = self.enter(x).unflatten(-1, self.weight.shape[:2])
        initial = None if state is None else state.parts
        y, parts = recurrent(self.kind, entering, self.weight, self.bias, self.peepholes, initial, lengths)
        return y, Memory(parts)

    def suits_torch(self, x: Tensor) -> bool:
        """Tell whether torch's own LSTM is faster: a plain one, on a CPU, in calls so large that setting up pays.

        It lays out all weights anew in every call. On one thread, 32 x 100 steps of 256 -> 256 took it 35 ms and the
        operator 52, 25 steps of 4096 -> 512 took it 32 and the operator 13 (`scripts/bench/recurrent.py`).
        """
        plain = self.kind == "lstm" and self.peepholes is None and self.weight.shape[1] == self.weight.shape[2]
        usual = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return plain and usual and x.shape[0] * x.shape[1] * ROWS_WORTH >= x.shape[2] + self.weight.shape[1]

    def step_by_torch(self, x: Tensor, state: Memory | None) -> tuple[Tensor, Memory]:
        """Do the same by torch's LSTM."""
        hidden = self.weight.shape[1]
        parts = x.new_zeros(x.shape[0], 2, hidden) if state is None else state.parts
        before = [part[None].contiguous() for part in parts.unbind(1)]
        weights = [self.enter.weight, self.weight.flatten(0, 1), self.enter.bias, torch.zeros_like(self.enter.bias)]
        y, output, cell = torch.lstm(x, before, weights, True, 1, 0.0, self.training, False, True)
        return y, Memory(torch.stack([output[0], cell[0]], 1))

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Run every row of a padded batch to its end; the output is zero beyond."""
        return self.step(x, None, True, lengths)


class LSTM(Chain):
    """Layers of LSTM, one on the other: (batch, time, inputs) to (batch, time, hidden).

    Args:
        inputs: channels in.
        hidden: channels of each layer.
        layers: how many.
        peepholes: the gates see the cell, too.
        heads: groups of channels whose recurrent weights see only their own group.
    """

    def __init__(self, inputs: int, hidden: int, layers: int = 1, peepholes: bool = False, heads: int = 1) -> None:
        widths = [inputs, *[hidden] * (layers - 1)]
        super().__init__(*(RecurrentLayer("lstm", width, hidden, heads, peepholes) for width in widths))


class GRU(Chain):
    """Layers of GRU, one on the other: (batch, time, inputs) to (batch, time, hidden); arguments as of LSTM."""

    def __init__(self, inputs: int, hidden: int, layers: int = 1, heads: int = 1) -> None:
        widths = [inputs, *[hidden] * (layers - 1)]
        super().__init__(*(RecurrentLayer("gru", width, hidden, heads) for width in widths))


class ScalarLSTM(Chain):
    """Layers of sLSTM, one on the other: (batch, time, inputs) to (batch, time, hidden); arguments as of LSTM."""

    def __init__(self, inputs: int, hidden: int, layers: int = 1, heads: int = 1) -> None:
        widths = [inputs, *[hidden] * (layers - 1)]
        super().__init__(*(RecurrentLayer("slstm", width, hidden, heads) for width in widths))


def from_torch(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the weights of torch's `nn.LSTM` or `nn.GRU` to those of LSTM or GRU here.

    The order of the gates is the same: input, forget, cell, output; reset, update, new. torch keeps two biases for each
    gate; an LSTM needs their sum, and a GRU keeps the second apart, because its reset gate scales a part of it.

    Args:
        weights: a state_dict with weight_ih_l0 (gate * hidden, inputs), weight_hh_l0, bias_ih_l0, bias_hh_l0 and so on.

    Returns:
        A state_dict for as many layers.

    Raises:
        ValueError: keys of something else: two directions, a projection.
    """
    layers = len(weights) // 4
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    expected = {f"{kind}_l{layer}" for kind in kinds for layer in range(layers)}
    if set(weights) != expected:
        raise ValueError(
            f"weights {sorted(weights)}\nhint: of a unidirectional LSTM or GRU with biases and without a projection"
        )
    converted = {}
    for layer in range(layers):
        enter, recur, first, second = (weights[f"{kind}_l{layer}"] for kind in kinds)
        hidden = recur.shape[1]
        is_gru = len(recur) == GATES["gru"] * hidden
        converted[f"{layer}.enter.weight"] = enter
        converted[f"{layer}.enter.bias"] = first if is_gru else first + second
        converted[f"{layer}.weight"] = recur.unflatten(0, (-1, hidden))
        if is_gru:
            converted[f"{layer}.bias"] = second.unflatten(0, (-1, hidden))
    return converted
