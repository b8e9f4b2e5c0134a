"""Frame average: what is in a video, whatever its order. The baseline of the heads that hear of time.

Karpathy et al.: "Large-scale Video Classification with Convolutional Neural Networks", 2014, call it the single-frame
baseline. Axes: batch time feature.
"""

from torch import Tensor, nn

from wavecast.apps.activity.clip_head import ClipHead
from wavecast.core.block import mask_beyond
from wavecast.core.dropout import Dropout
from wavecast.core.state import State


class FrameAverage(ClipHead):
    """The mean of the frames' features, and two layers on it: the same logits for every order of the frames.

    Args:
        features: of a frame.
        classes: to tell apart.
        hidden: width between the layers.
        dropout: before the last layer.
    """

    def __init__(self, features: int, classes: int, hidden: int = 256, dropout: float = 0.5) -> None:
        super().__init__(classes)
        self.layers = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), Dropout(dropout), nn.Linear(hidden, classes)
        )

    def classify(self, x: Tensor) -> Tensor:
        """Average and classify."""
        logits: Tensor = self.layers(x.mean(1))
        return logits

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Average over the valid frames only."""
        mean = mask_beyond(x, lengths).sum(1) / lengths.clamp_min(1)[:, None]
        return self.layers(mean)[:, None], ()
