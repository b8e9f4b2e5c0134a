"""Networks that recognize activities: an encoder of frames, and a head that hears of time.

lrcn follows a stream frame by frame; ts_lstm, temporal_inception and frame_average look at a whole clip. A card names
one of these functions; its hyper-parameters are their arguments. Axes: batch time row col channel.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from wavecast.apps.activity.clip_head import ClipHead
from wavecast.apps.activity.encoders import FrameEncoder
from wavecast.apps.activity.frame_average import FrameAverage
from wavecast.apps.activity.lrcn import LRCN
from wavecast.apps.activity.temporal_inception import TemporalInception
from wavecast.apps.activity.ts_lstm import TSLSTM
from wavecast.core.block import Block
from wavecast.core.groups import Chain
from wavecast.datamodules.modalities import Modality


class ActivityNetwork(Chain):
    """Recognize activities: clips (batch, time, row, col, channel) to logits (batch, time', classes).

    The channels are those of all modalities side by side, as `wavecast.datamodules.modalities.join` gives them. time'
    is time with an LRCN, 1 with heads that look at a whole clip. Parts: `encoder` to features (batch, time, width),
    `head` from there; features that lie on disk go to `head` alone.

    Args:
        encoder: of the frames.
        head: from features to logits.
        size: rows and columns of the frames it is trained on.
        frames: of a clip in training, and of a window over a long video.
        rate: frames a second that a clip takes of a video; None: as many as there are, spread over all of it.

    Raises:
        ValueError: size, frames or rate do not fit.
    """

    def __init__(
        self, encoder: FrameEncoder, head: Block, size: Sequence[int], frames: int, rate: float | None
    ) -> None:
        super().__init__(encoder=encoder, head=head)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"frames of size {list(size)}\nhint: give rows and columns, like [64, 64]")
        least = head.least if isinstance(head, ClipHead) else 1
        if frames < least:
            raise ValueError(f"clips of {frames} frames\nhint: {type(head).__name__} needs {least} or more")
        if rate is not None and rate <= 0:
            raise ValueError(f"{rate} frames a second\nhint: give a positive rate, or none")
        self.modalities = encoder.modalities
        self.size, self.frames, self.rate = (int(size[0]), int(size[1])), frames, rate


def log_probabilities(logits: Tensor) -> Tensor:
    """Give the log-probabilities of whole clips: the mean of the probabilities at each output step.

    Fusing models averages what it gives by weights, after `exp`.

    Args:
        logits: (batch, time', classes), at least one step.

    Returns:
        (batch, classes).
    """
    return logits.log_softmax(-1).logsumexp(1) - math.log(logits.shape[1])


def lrcn(
    classes: int,
    modalities: Sequence[str] = ("rgb",),
    encoder: str = "small",
    width: int = 128,
    statistics: str = "plain",
    size: Sequence[int] = (64, 64),
    frames: int = 16,
    rate: float | None = None,
    hidden: int = 256,
    layers: int = 1,
    dropout_features: float = 0.0,
    dropout: float = 0.5,
    uniform: float = 0.0,
) -> ActivityNetwork:
    """Build a network that follows a video frame by frame, and streams.

    Args:
        classes: to tell apart.
        modalities: what it sees: "rgb", "difference", "difference:3", "flow:10", "flow:10:tvl1"; each kind once.
        encoder: "small", a ResNet of torchvision ("resnet101"), or "timm/NAME".
        width: features of the encoder "small"; others have their own.
        statistics: by which colors and flow are normalized: "plain", "imagenet", "ucf101" or "hmdb51".
        size: rows and columns of the frames.
        frames: of a clip.
        rate: frames a second of a clip; None: spread over the whole video.
        hidden: width of the LSTM.
        layers: of the LSTM.
        dropout_features: before the LSTM.
        dropout: before the last layer.
        uniform: range of the LSTM's fresh weights; see `LRCN`.

    Raises:
        ValueError: a value does not fit.
    """
    frame_encoder = see(modalities, encoder, width, statistics)
    head = LRCN(frame_encoder.width, classes, hidden, layers, dropout_features, dropout, uniform)
    return ActivityNetwork(frame_encoder, head, size, frames, rate)


def ts_lstm(
    classes: int,
    modalities: Sequence[str] = ("rgb",),
    encoder: str = "small",
    width: int = 128,
    statistics: str = "plain",
    size: Sequence[int] = (64, 64),
    frames: int = 25,
    rate: float | None = None,
    hidden: int = 512,
    segments: int = 3,
    layers: int = 1,
    peepholes: bool = True,
    dropout: float = 0.0,
    uniform: float = 0.0,
) -> ActivityNetwork:
    """Build a network that pools a clip's features within segments, and reads the segments with an LSTM.

    Args:
        classes: to tell apart.
        modalities: see `lrcn`.
        encoder: see `lrcn`.
        width: see `lrcn`.
        statistics: see `lrcn`.
        size: rows and columns of the frames.
        frames: of a clip, at least as many as segments.
        rate: frames a second of a clip; None: spread over the whole video.
        hidden: width of the LSTM.
        segments: of a clip.
        layers: of the LSTM.
        peepholes: let the LSTM's gates see its cell.
        dropout: before the last layer.
        uniform: range of the head's fresh weights; see `TSLSTM`.

    Raises:
        ValueError: a value does not fit.
    """
    frame_encoder = see(modalities, encoder, width, statistics)
    head = TSLSTM(frame_encoder.width, classes, hidden, segments, layers, peepholes, dropout, uniform)
    return ActivityNetwork(frame_encoder, head, size, frames, rate)


def temporal_inception(
    classes: int,
    modalities: Sequence[str] = ("rgb",),
    encoder: str = "small",
    width: int = 128,
    statistics: str = "plain",
    size: Sequence[int] = (64, 64),
    frames: int = 25,
    rate: float | None = None,
    hidden: int = 1024,
    kernels: Sequence[int] = (5, 7),
    dropout: float = 0.2,
) -> ActivityNetwork:
    """Build a network that convolves a clip's features along time with kernels of several sizes.

    Args:
        classes: to tell apart.
        modalities: see `lrcn`.
        encoder: see `lrcn`.
        width: see `lrcn`.
        statistics: see `lrcn`.
        size: rows and columns of the frames.
        frames: of a clip, at least 8.
        rate: frames a second of a clip; None: spread over the whole video.
        hidden: width of the layer before the last.
        kernels: sizes along time, odd.
        dropout: of feature rows, and before the last layer.

    Raises:
        ValueError: a value does not fit.
    """
    frame_encoder = see(modalities, encoder, width, statistics)
    head = TemporalInception(frame_encoder.width, classes, hidden, kernels, dropout)
    return ActivityNetwork(frame_encoder, head, size, frames, rate)


def frame_average(
    classes: int,
    modalities: Sequence[str] = ("rgb",),
    encoder: str = "small",
    width: int = 128,
    statistics: str = "plain",
    size: Sequence[int] = (64, 64),
    frames: int = 16,
    rate: float | None = None,
    hidden: int = 256,
    dropout: float = 0.5,
) -> ActivityNetwork:
    """Build a network that sees the frames in no order: the baseline.

    Args:
        classes: to tell apart.
        modalities: see `lrcn`.
        encoder: see `lrcn`.
        width: see `lrcn`.
        statistics: see `lrcn`.
        size: rows and columns of the frames.
        frames: of a clip.
        rate: frames a second of a clip; None: spread over the whole video.
        hidden: width between the head's layers.
        dropout: before the last layer.

    Raises:
        ValueError: a value does not fit.
    """
    frame_encoder = see(modalities, encoder, width, statistics)
    head = FrameAverage(frame_encoder.width, classes, hidden, dropout)
    return ActivityNetwork(frame_encoder, head, size, frames, rate)


def see(modalities: Sequence[str], encoder: str, width: int, statistics: str) -> FrameEncoder:
    """Build the encoder of modalities that are given by name."""
    return FrameEncoder([Modality.parse(one) for one in modalities], encoder, width, statistics)
