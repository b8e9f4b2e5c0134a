"""What the heads that need a whole clip have in common: one output step for all frames.

Axes: batch time feature.
"""

from math import inf

from torch import Tensor, nn

from wavecast.core.block import Block, Count
from wavecast.core.state import State


class ClipHead(Block):
    """A map of a clip's features to one step of logits: (batch, time, feature) to (batch, 1, classes).

    Subclasses write `classify`. A clip that is too short gives no step.

    Args:
        classes: to tell apart.
        least: frames that a clip must have.
    """

    lookahead = inf
    needs_all = "it looks at a whole clip at once"
    instead = "call it with whole clips, or take an lrcn, which follows a stream frame by frame"

    def __init__(self, classes: int, least: int = 1) -> None:
        super().__init__()
        self.classes, self.least = classes, least

    def out_length(self, n: Count) -> Count:
        """Count one step, or none where the clip is too short."""
        return (n >= self.least) * (n - n + 1)

    def classify(self, x: Tensor) -> Tensor:
        """Map the features of clips of at least `least` frames (batch, time, feature) to logits (batch, classes)."""
        raise NotImplementedError(f"{type(self).__name__}.classify")

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Map whole clips."""
        if x.shape[1] < self.least:
            return x.new_zeros(len(x), 0, self.classes), ()
        return self.classify(x)[:, None], ()

    def padded(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Refuse: zeros behind a clip are frames to it.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{type(self).__name__} takes no padded clips\nhint: sample as many frames of every video, or pass one clip"
        )


class BatchNorm(nn.BatchNorm1d):
    """Batch normalization of (batch, feature) that says what it needs.

    Its statistics are those of the batch: clips are of one length, so that no padding gets into them.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize.

        Raises:
            ValueError: a single clip in training has no statistics.
        """
        if self.training and len(x) < 2:
            raise ValueError("batch normalization of a single clip\nhint: train with a batch_size of 2 or more")
        return super().forward(x)
