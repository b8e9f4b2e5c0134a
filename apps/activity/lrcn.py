"""LRCN: an LSTM that follows a video's features frame by frame, and says at every frame what it sees.

Donahue et al.: "Long-term Recurrent Convolutional Networks for Visual Recognition and Description", 2015. No weights
are loaded. Axes: batch time feature.
"""

from torch import nn

from wavecast.core.block import Frames
from wavecast.core.dropout import Dropout
from wavecast.core.groups import Chain
from wavecast.core.recurrent import LSTM


class LRCN(Chain):
    """An LSTM and a layer on each of its steps: features (batch, time, feature) to logits (batch, time, classes).

    Args:
        features: of a frame.
        classes: to tell apart.
        hidden: width of the LSTM.
        layers: of the LSTM.
        dropout_features: before the LSTM; the published network drops 0.9 of 4096.
        dropout: before the last layer.
        uniform: fresh weights of the LSTM are drawn from [-uniform, uniform], its biases are 0, as published with
            0.01; 0: the LSTM's own choice.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        hidden: int = 256,
        layers: int = 1,
        dropout_features: float = 0.0,
        dropout: float = 0.5,
        uniform: float = 0.0,
    ) -> None:
        super().__init__(
            dropout=Frames(Dropout(dropout_features)),
            lstm=LSTM(features, hidden, layers),
            classifier=Frames(nn.Sequential(Dropout(dropout), nn.Linear(hidden, classes))),
        )
        if uniform:
            for parameter in self.get_submodule("lstm").parameters():
                nn.init.uniform_(parameter, -uniform, uniform) if parameter.ndim > 1 else nn.init.zeros_(parameter)
