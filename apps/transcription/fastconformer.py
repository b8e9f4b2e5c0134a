"""FastConformer: speech to encoder frames, with heads for CTC and for a transducer, streaming with exact caches.

Rekesh et al.: "Fast Conformer with Linearly Scalable Attention for Efficient Speech Recognition", 2023; Noroozi et al.:
"Stateful Conformer with Cache-based Inference for Streaming Automatic Speech Recognition", 2023. Weights that load:
NeMo's FastConformer CTC, transducer and hybrid models (`fastconformer_official`), and our own.

Different from the published code, whose live output is not its offline output:
- a stream ends exactly: no tail is lost, and the first chunk of a stream without look-ahead is that of the file;
- keys and values are cached after projection;
- batch normalization, where a model has it, trains on the valid frames of a padded batch only.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from wavecast.apps.transcription.transducer import Joint, Prediction
from wavecast.core.block import Block, Frames
from wavecast.core.conformer import Conformer, ConformerLayer
from wavecast.core.dropout import dropout
from wavecast.core.groups import Chain
from wavecast.core.log_mel import LogMel, PerFeatureNorm
from wavecast.core.subsampling import Subsampling

SAMPLE_RATE = 16_000
FRAME = 1280
"""Samples of an encoder frame: 80 ms."""


class Enter(nn.Module):
    """Scale what enters the layers by the root of its width, if asked, and drop of it in training."""

    def __init__(self, factor: float, dropout: float) -> None:
        super().__init__()
        self.factor, self.dropout = factor, dropout

    def forward(self, x: Tensor) -> Tensor:
        """Scale, and drop."""
        return dropout(x * self.factor, self.dropout, self.training)


class FastConformer(Chain):
    """Recognize speech: (batch, samples) at 16 kHz to encoder frames (batch, frame, width), one every 80 ms.

    The heads hang beside the chain: `ctc` maps frames to logits, `prediction` and `joint` are a transducer's. The last
    class of each is the blank, `blank`.

    Args:
        vocabulary: tokens, without the blank.
        width: of an encoder frame.
        layers: of the encoder.
        heads: of the attention.
        kernel: taps of the convolutions.
        expansion: of the feed-forward layers, in widths.
        subsampling_channels: of the convolutions in front.
        mels: bands of the features.
        contexts: attention contexts [left, right] in frames that the network is trained for, the first is the default.
        style: of the contexts, "chunked_limited" or "regular".
        causal_subsampling: convolutions in front without look-ahead.
        causal_convolution: convolutions in the layers without look-ahead.
        norm: in the convolutions, "layer" or "batch".
        scale_input: multiply what enters the layers by the root of the width.
        bias: of the layers' linear maps and convolutions.
        normalize: of the features, "" or "per_feature" (needs the whole utterance).
        ctc: with a head for CTC.
        prediction_width: of the transducer's prediction network; 0: no transducer.
        prediction_layers: of it.
        prediction_kind: of its layers: "lstm", "gru" or "slstm".
        joint_width: of the transducer's joint network.
        dropout: in the layers, and of what each part of a layer adds.
        dropout_pre_encoder: of what enters the layers.
        dropout_attention: of the attention's weights.
        dropout_transducer: of the prediction and the joint network.
        dither: deviation of the noise that training adds to the samples.

    Raises:
        ValueError: values that do not fit together.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 512,
        layers: int = 17,
        heads: int = 8,
        kernel: int = 9,
        expansion: int = 4,
        subsampling_channels: int = 256,
        mels: int = 80,
        contexts: Sequence[Sequence[int]] = ((70, 13), (70, 6), (70, 1), (70, 0)),
        style: str = "chunked_limited",
        causal_subsampling: bool = True,
        causal_convolution: bool = True,
        norm: str = "layer",
        scale_input: bool = True,
        bias: bool = True,
        normalize: str = "",
        ctc: bool = True,
        prediction_width: int = 0,
        prediction_layers: int = 1,
        prediction_kind: str = "lstm",
        joint_width: int = 640,
        dropout: float = 0.1,
        dropout_pre_encoder: float = 0.1,
        dropout_attention: float = 0.1,
        dropout_transducer: float = 0.2,
        dither: float = 1e-5,
    ) -> None:
        check(vocabulary, contexts, normalize, ctc, prediction_width)
        left, right = contexts[0]
        stack = [
            ConformerLayer(
                width, heads, kernel, expansion, left, right, style, causal_convolution, norm, bias, dropout,
                dropout_attention,
            )
            for _ in range(layers)
        ]  # fmt: skip
        features: dict[str, Block] = {"log_mel": LogMel(SAMPLE_RATE, mels, dither=dither)}
        if normalize:
            features["normalization"] = PerFeatureNorm()
        encoder = Chain(
            subsampling=Subsampling(mels, subsampling_channels, width, causal_subsampling),
            enter=Frames(Enter(width**0.5 if scale_input else 1.0, dropout_pre_encoder)),
            layers=Conformer(*stack),
        )
        super().__init__(features=Chain(**features), encoder=encoder)
        self.sample_rate, self.vocabulary, self.blank = SAMPLE_RATE, vocabulary, vocabulary
        self.contexts = [tuple(context) for context in contexts]
        self.ctc = self.prediction = self.joint = None
        if ctc:
            self.ctc = nn.Linear(width, vocabulary + 1)
            nn.init.xavier_uniform_(self.ctc.weight)
        if prediction_width:
            self.prediction = Prediction(
                vocabulary, prediction_width, prediction_layers, dropout_transducer, prediction_kind
            )
            self.joint = Joint(width, prediction_width, joint_width, vocabulary, dropout_transducer)

    def choose_context(self, left: int, right: int) -> None:
        """Set how many frames the attention sees on each side, and declare look-ahead and period anew."""
        encoder = self.get_submodule("encoder")
        encoder.get_submodule("layers").choose_context(left, right)
        for group in (encoder, self):
            fresh = Chain(*group.parts())
            group.lookahead, group.period = fresh.lookahead, fresh.period


def check(vocabulary: int, contexts: Sequence[Sequence[int]], normalize: str, ctc: bool, prediction_width: int) -> None:
    """Refuse values that no network can have.

    Raises:
        ValueError: one does not fit.
    """
    if vocabulary < 1:
        raise ValueError(f"a vocabulary of {vocabulary} tokens\nhint: count the tokens without the blank")
    if not contexts or any(len(context) != 2 for context in contexts):
        raise ValueError(f"contexts {contexts}\nhint: give pairs [left, right] of frames, like [[70, 13], [70, 0]]")
    if normalize not in ("", "per_feature"):
        raise ValueError(f"normalization {normalize!r} of features\nhint: use per_feature, or nothing")
    if not (ctc or prediction_width):
        raise ValueError("a network without a head\nhint: set ctc, or give the transducer a prediction_width")
