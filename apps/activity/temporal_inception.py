"""Temporal-Inception: convolutions along a clip's time, several sizes of kernel side by side.

Ma, Chen, Kira, AlRegib: "TS-LSTM and Temporal-Inception: Exploiting Spatiotemporal Dynamics for Activity Recognition",
2017. No weights are published. Axes: a clip's features are an image (batch, map, feature, time).

Different from the published code:
- what spatial dropout would drop of the one map that is left is all of the video: rows of features are dropped;
- convolutions before a batch normalization have no bias, which it would take away;
- it gives logits, to which softmax is applied once, where its test applies it twice.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wavecast.apps.activity.clip_head import BatchNorm, ClipHead
from wavecast.core.dropout import Dropout

LEAST = 8
"""Frames of a clip: three modules halve the time, the last pools what is left."""


class InceptionModule(nn.Module):
    """Convolutions along time with kernels of several sizes, each with norm, ReLU and max pooling, side by side.

    Maps (batch, inputs, feature, time) to (batch, kernels * outputs, feature, time // pool). All features share the
    kernels.

    Args:
        inputs: maps in.
        outputs: maps out of each size of kernel.
        kernels: sizes along time, odd.
        pool: time steps that become one; 0: all of them.
    """

    def __init__(self, inputs: int, outputs: int, kernels: Sequence[int], pool: int) -> None:
        super().__init__()
        self.pool = pool
        self.flows = nn.ModuleList([flow(inputs, outputs, kernel) for kernel in kernels])

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and pool."""
        y = torch.cat([flow(x) for flow in self.flows], 1)
        pool = self.pool or y.shape[3]
        return y[..., : y.shape[3] // pool * pool].unflatten(3, (-1, pool)).amax(4)


def flow(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Build a convolution along time with norm and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, (1, kernel), padding=(0, kernel // 2), bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class TemporalInception(ClipHead):
    """A clip's features through four inception modules that end time, then two layers: one step of logits.

    Args:
        features: of a frame; 4096 of two ResNets side by side.
        classes: to tell apart.
        hidden: width of the layer before the last.
        kernels: sizes along time.
        dropout: of feature rows, and before the last layer.
    """

    def __init__(
        self, features: int, classes: int, hidden: int = 1024, kernels: Sequence[int] = (5, 7), dropout: float = 0.2
    ) -> None:
        super().__init__(classes, LEAST)
        maps = [1, *(size * len(kernels) for size in (1, 2, 4, 8))]
        modules = [
            InceptionModule(maps[k], maps[k + 1] // len(kernels), kernels, pool) for k, pool in enumerate((2, 2, 2, 0))
        ]
        self.time = nn.Sequential(*modules, flow(maps[-1], 4, 1), flow(4, 2, 1), flow(2, 1, 1))
        self.classifier = nn.Sequential(
            Dropout(dropout),
            nn.Linear(features, hidden),
            BatchNorm(hidden),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def classify(self, x: Tensor) -> Tensor:
        """Convolve and classify."""
        logits: Tensor = self.classifier(self.time(x.transpose(1, 2)[:, None])[:, 0, :, 0])
        return logits
