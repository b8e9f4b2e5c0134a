"""TS-LSTM: max pooling within segments of a clip, and an LSTM over the segments.

Ma, Chen, Kira, AlRegib: "TS-LSTM and Temporal-Inception: Exploiting Spatiotemporal Dynamics for Activity Recognition",
2017. No weights are published. Axes: batch time feature.

Different from the published code:
- every frame counts: segments of 25 frames are 8, 8 and 9 long, where it drops the 25th;
- the LSTM begins anew with every clip, where it carries its state from one batch to the next (`remember('both')`);
- it gives logits, to which softmax is applied once, where its test applies it twice.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from wavecast.apps.activity.clip_head import BatchNorm, ClipHead
from wavecast.core.dropout import Dropout
from wavecast.core.recurrent import LSTM


class TSLSTM(ClipHead):
    """A clip's features in segments, each as its maximum over time, read by an LSTM: one step of logits.

    Every segment has a batch normalization of its own, whose statistics are those of the batch at each time step.

    Args:
        features: of a frame; 4096 of two ResNets side by side.
        classes: to tell apart.
        hidden: width of the LSTM.
        segments: of a clip, as long as each other or one frame longer.
        layers: of the LSTM.
        peepholes: let the LSTM's gates see its cell, as the published one does.
        dropout: before the last layer.
        uniform: fresh weights are drawn from [-uniform, uniform], all of them; 0: every layer's own choice.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        hidden: int = 512,
        segments: int = 3,
        layers: int = 1,
        peepholes: bool = True,
        dropout: float = 0.0,
        uniform: float = 0.0,
    ) -> None:
        super().__init__(classes, least=segments)
        self.norms = nn.ModuleList([BatchNorm(features) for _ in range(segments)])
        self.lstm = LSTM(features, hidden, layers, peepholes)
        self.classifier = nn.Sequential(BatchNorm(hidden), Dropout(dropout), nn.Linear(hidden, classes))
        if uniform:
            for parameter in self.parameters():
                nn.init.uniform_(parameter, -uniform, uniform)

    def classify(self, x: Tensor) -> Tensor:
        """Pool, read and classify."""
        count = len(self.norms)
        edges = [k * x.shape[1] // count for k in range(count + 1)]
        pooled = []
        for norm, (begin, end) in zip(self.norms, pairwise(edges), strict=True):
            pooled.append(torch.stack([norm(frame) for frame in x[:, begin:end].unbind(1)], 1).amax(1))
        read, _ = self.lstm(torch.stack(pooled, 1))
        logits: Tensor = self.classifier(read[:, -1])
        return logits
