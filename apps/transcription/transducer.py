"""The transducer's head: a prediction network that reads the tokens found so far, and the joint that hears and reads.

Graves: "Sequence Transduction with Recurrent Neural Networks", 2012. The blank is the last class; as a token it is the
start symbol, and its embedding stays the zero vector. Axes: batch time width.
"""

import torch
from torch import Tensor, nn

from wavecast.core.block import Block, Frames
from wavecast.core.dropout import Dropout
from wavecast.core.groups import Chain
from wavecast.core.recurrent import RecurrentLayer
from wavecast.core.state import State, own, state

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@state
class Read:
    """What an LSTM remembers of the tokens it has read.

    hidden, cell: (batch, layer, width).
    """

    hidden: Tensor
    cell: Tensor


class Prediction(Block):
    """A recurrent network over embedded tokens: ids (batch, time) int64 to (batch, time, width).

    A transducer begins with the start symbol, `blank`, so that step u of its output has read u tokens.

    Args:
        vocabulary: tokens without the blank.
        width: of the embedding, the layers and the output.
        layers: recurrent ones.
        dropout: between the layers and after the last.
        kind: of the layers: "lstm", the published one, or "gru" or "slstm".

    Raises:
        ValueError: a kind there is not.
    """

    def __init__(self, vocabulary: int, width: int, layers: int = 1, dropout: float = 0.2, kind: str = "lstm") -> None:
        super().__init__()
        self.blank, self.width = vocabulary, width
        self.embedding = nn.Embedding(vocabulary + 1, width, padding_idx=vocabulary)
        self.layers: Chain | None = None
        if kind != "lstm":
            stack = [(RecurrentLayer(kind, width, width), Frames(Dropout(dropout))) for _ in range(layers)]
            self.layers = Chain(*(part for pair in stack for part in pair))
            return
        self.lstm = nn.LSTM(width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = Dropout(dropout)
        with torch.no_grad():  # open the forget gates, the second of torch's four
            for layer in range(layers):
                getattr(self.lstm, f"bias_ih_l{layer}")[width : 2 * width] = 1
                getattr(self.lstm, f"bias_hh_l{layer}")[width : 2 * width] = 0

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Read the next tokens."""
        if self.layers is not None:
            y, after = self.layers(self.embedding(x), state, last=last)
            return y, after
        if state is None:
            zeros = self.embedding.weight.new_zeros(x.shape[0], self.lstm.num_layers, self.width)
            state = Read(zeros, zeros.clone())
        if not x.shape[1]:
            return state.hidden.new_zeros(x.shape[0], 0, self.width), Read(own(state.hidden), own(state.cell))
        if x.shape[1] == 1 and not self.training:
            return self.read_one(x, state)
        before = state.hidden.transpose(0, 1).contiguous(), state.cell.transpose(0, 1).contiguous()
        y, (hidden, cell) = self.lstm(self.embedding(x), before)
        return self.dropout(y), Read(own(hidden.transpose(0, 1)), own(cell.transpose(0, 1)))

    def read_one(self, x: Tensor, state: Read) -> tuple[Tensor, Read]:
        """Read one token, as decoding does, by cells: torch takes ten times longer to set up its LSTM for it."""
        y, after = self.embedding(x[:, 0]), []
        for layer, before in enumerate(zip(state.hidden.unbind(1), state.cell.unbind(1), strict=True)):
            weights = [getattr(self.lstm, f"{name}_l{layer}") for name in WEIGHTS]
            y, cell = torch.lstm_cell(y, before, *weights)
            after.append((y, cell))
        hidden, cells = (torch.stack(leaf, 1) for leaf in zip(*after, strict=True))
        return y[:, None], Read(hidden, cells)

    def with_start(self, tokens: Tensor) -> Tensor:
        """Put the start symbol before whole sequences: (batch, time) to (batch, time + 1)."""
        return torch.cat([tokens.new_full((tokens.shape[0], 1), self.blank), tokens], 1)


class Joint(nn.Module):
    """Logits of the next symbol from what is heard and what was read so far.

    Args:
        encoder_width: of the encoder's frames.
        prediction_width: of the prediction network's output.
        hidden: width in which both meet.
        vocabulary: tokens without the blank, which is the last class.
        dropout: before the output layer.
    """

    def __init__(
        self, encoder_width: int, prediction_width: int, hidden: int, vocabulary: int, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.encoder = nn.Linear(encoder_width, hidden)
        self.prediction = nn.Linear(prediction_width, hidden)
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(hidden, vocabulary + 1)

    def listen(self, frames: Tensor) -> Tensor:
        """Project encoder frames: (..., encoder_width) to (..., hidden)."""
        projected: Tensor = self.encoder(frames)
        return projected

    def speak(self, predictions: Tensor) -> Tensor:
        """Project the prediction network's output: (..., prediction_width) to (..., hidden)."""
        projected: Tensor = self.prediction(predictions)
        return projected

    def combine(self, f: Tensor, g: Tensor) -> Tensor:
        """Compute logits (..., vocabulary + 1) of projected frames f and predictions g (..., hidden) that broadcast."""
        logits: Tensor = self.output(self.dropout(torch.relu(f + g)))
        return logits

    def forward(self, frames: Tensor, predictions: Tensor) -> Tensor:
        """Compute the logits of every frame with every prediction, as the transducer's loss wants them.

        Args:
            frames: (batch, time, encoder_width).
            predictions: (batch, tokens + 1, prediction_width), the start symbol's first.

        Returns:
            (batch, time, tokens + 1, vocabulary + 1).
        """
        return self.combine(self.listen(frames)[:, :, None], self.speak(predictions)[:, None])
