"""Encoders: the frames of a video to features, every frame on its own.

He et al.: "Deep Residual Learning for Image Recognition", 2016 (ResNets, from torchvision); any encoder of timm; and a
small one that trains on one processor core. Each modality of a video has an encoder of its own, as in two-stream
networks (Simonyan, Zisserman 2014); their features stand side by side. Axes: batch time row col channel outside,
(frame, channel, row, col) with channels last in memory inside.

Batch normalization in them takes its statistics from all frames of a training batch: clips are of one length, so that
no padding gets into them.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from wavecast.cards import find_model, load_network, load_strict
from wavecast.core.block import Frames
from wavecast.core.errors import WavecastError
from wavecast.datamodules.modalities import Modality, history
from wavecast.official_files import official_file, read_tensors

GRID = 4
"""Rows and columns that the small encoder's last pictures are averaged to."""
WEIGHTS = (".pt", ".pth", ".safetensors")
"""What files of weights of image networks end in."""
CLASSIFIERS = ("fc.", "classifier.", "head.")
PLAIN = ([0.5] * 3, [0.25] * 3)
STATISTICS: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]] = {
    "plain": {"rgb": PLAIN},
    "imagenet": {"rgb": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])},
    "ucf101": {
        "rgb": ([0.3974, 0.3885, 0.3517], [0.2415, 0.2348, 0.2307]),
        "flow": ([-0.01382, -0.15772], [0.12014, 0.1164]),
    },
    "hmdb51": {
        "rgb": ([0.3641, 0.3603, 0.3114], [0.2066, 0.2017, 0.1979]),
        "flow": ([-0.3069, -0.01568], [0.1013, 0.14616]),
    },
}
"""Mean and deviation of each channel by data set and kind of modality; others have mean 0 and deviation 0.25.

Those of UCF101 and HMDB51 are the ones of the TS-LSTM authors' code. It has flow as pictures in [0, 1] of three
channels, the first of them empty; the other two stand here, brought to [-1, 1], as horizontal and vertical.
"""


class FrameEncoder(Frames):
    """The features of every frame: (batch, time, row, col, channel) to (batch, time, width).

    Args:
        modalities: of the video, in the order of its channels; each kind once.
        encoder: "small", a ResNet of torchvision ("resnet101"), or "timm/NAME".
        width: features of "small"; others have their own width.
        statistics: by which channels are normalized, one of STATISTICS.

    Attributes:
        modalities: see above.
        width: features of a frame, of all modalities together.

    Raises:
        ValueError: encoder or statistics are unknown, or a kind of modality comes twice.
        WavecastError: timm is wanted and not installed.
    """

    def __init__(
        self, modalities: Sequence[Modality], encoder: str = "small", width: int = 128, statistics: str = "plain"
    ) -> None:
        history(modalities)  # refuses none at all
        streams = Streams(modalities, encoder, width, statistics)
        super().__init__(streams)
        self.modalities = tuple(modalities)
        self.encoder, self.width = encoder, streams.width


class Streams(nn.Module):
    """One encoder for each modality, under the name of its kind; see `FrameEncoder`."""

    def __init__(self, modalities: Sequence[Modality], encoder: str, width: int, statistics: str) -> None:
        super().__init__()
        if statistics not in STATISTICS:
            raise ValueError(f"statistics of {statistics!r}\nhint: one of {', '.join(STATISTICS)}")
        self.kinds = [one.kind for one in modalities]
        self.channels = [one.channels for one in modalities]
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"modalities of kinds {', '.join(self.kinds)}\nhint: take each kind once")
        self.width = 0
        for one in modalities:
            network, features = build_encoder(encoder, one.channels, width)
            network.to(memory_format=torch.channels_last)
            self.add_module(one.kind, nn.Sequential(Normalization(one, statistics), network))
            self.width += features

    def forward(self, x: Tensor) -> Tensor:
        """Encode the frames (batch, time, row, col, channel), of which there is at least one.

        Raises:
            ValueError: the channels are not those of the modalities.
        """
        if x.ndim != 5 or x.shape[4] != sum(self.channels):
            wanted = ", ".join(f"{n} of {kind}" for kind, n in zip(self.kinds, self.channels, strict=True))
            raise ValueError(f"frames of shape {tuple(x.shape)}\nhint: (batch, time, row, col, channel): {wanted}")
        images = x.flatten(0, 1).permute(0, 3, 1, 2).split(self.channels, 1)
        features = [self.get_submodule(kind)(image) for kind, image in zip(self.kinds, images, strict=True)]
        return torch.cat(features, 1).unflatten(0, x.shape[:2])


class Normalization(nn.Module):
    """The channels of (frame, channel, row, col), each to about mean 0 and deviation 1 by constants."""

    def __init__(self, modality: Modality, statistics: str) -> None:
        super().__init__()
        known = STATISTICS[statistics].get(modality.kind, ([0.0], [0.25]))
        for name, values in zip(("mean", "deviation"), known, strict=True):
            constants = torch.tensor(values).repeat(modality.channels // len(values))
            self.register_buffer(name, constants[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize."""
        return (x - self.mean) / self.deviation


def build_encoder(name: str, channels: int, width: int) -> tuple[nn.Module, int]:
    """Build an encoder with fresh weights: (frame, channel, row, col) to (frame, features).

    Args:
        name: see `FrameEncoder`.
        channels: of a frame.
        width: of "small".

    Returns:
        The encoder, and its features.

    Raises:
        ValueError: it is unknown.
        WavecastError: timm is wanted and not installed.
    """
    if name == "small":
        return small_encoder(channels, width), width
    if name.startswith("timm/"):
        return timm_encoder(name.removeprefix("timm/"), channels)
    from torchvision import models

    known = [one for one in models.list_models(module=models) if one.startswith("resnet")]
    if name not in known:
        raise ValueError(f"encoder {name!r}\nhint: small, {', '.join(known)}, or timm/NAME")
    network = models.get_model(name, weights=None)
    features = network.fc.in_features
    network.fc = nn.Identity()
    if channels != network.conv1.in_channels:
        network.conv1 = nn.Conv2d(channels, network.conv1.out_channels, 7, 2, 3, bias=False)
    return network, features


def small_encoder(channels: int, width: int) -> nn.Sequential:
    """Build a convolutional network for pictures of about 48 to 64 pixels.

    It keeps where in the picture things are, to a quarter of it, since a movement is a change of place.
    """
    layers: list[nn.Module] = []
    for outputs, kernel, stride in ((16, 5, 2), (32, 3, 2), (32, 3, 1), (64, 3, 2), (64, 3, 1), (64, 3, 2), (64, 3, 1)):
        layers += [
            nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
        channels = outputs
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(GRID), nn.Flatten(), nn.Linear(GRID * GRID * channels, width), nn.ReLU()
    )


def timm_encoder(name: str, channels: int) -> tuple[nn.Module, int]:
    """Build an encoder of timm with fresh weights.

    Raises:
        ValueError: timm does not know it.
        WavecastError: timm is not installed.
    """
    if importlib.util.find_spec("timm") is None:
        raise WavecastError(f"the encoder {name} needs timm, which is not installed", "pip install 'wavecast[timm]'")
    import timm

    if name not in timm.list_models():
        close = timm.list_models(f"*{name[:6]}*")[:3]
        raise ValueError(f"timm has no encoder {name!r}\nhint: {', '.join(close) or 'see timm.list_models()'}")
    network = timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels)
    return network, getattr(network, "head_hidden_size", network.num_features)


def load_encoder(encoder: FrameEncoder, source: str | Mapping[str, str]) -> None:
    """Load weights into the encoders of all modalities: every tensor, exactly.

    Of image networks, what classifies images (`fc`, `classifier`, `head`) is left out. Where a modality has other than
    three channels, the first convolution becomes the mean over its colors, the same for every channel ("cross-modality
    initialization", Wang et al. 2016), times 3 / channels, so that what comes out of it keeps its size.

    Args:
        encoder: to fill.
        source: a recognizer, by name or path, that sees the same; a file of weights of an image network (.pt, .pth or
            .safetensors); or "cache": the file that torchvision has left in torch's hub cache, nothing is downloaded.
            Or one of them for each kind of modality: two streams that were trained apart.

    Raises:
        WavecastError: there is no such model or file, or it does not fit.
    """
    kinds = encoder.function.kinds
    sources = dict.fromkeys(kinds, source) if isinstance(source, str) else source
    if set(sources) != set(kinds):
        raise WavecastError(
            f"weights are given for {', '.join(sources)}, and the encoders are for {', '.join(kinds)}",
            "give one source for all, or one for each",
        )
    for kind, one in sources.items():
        stream = encoder.function.get_submodule(kind)
        path = Path(one)
        if one == "cache":
            load_image_network(stream[1], cached_weights(encoder.encoder))
        elif path.suffix in WEIGHTS and not path.with_suffix(".yaml").exists():
            load_image_network(stream[1], official_file(path))
        else:
            load_stream(stream, one, kind)


def load_stream(stream: nn.Sequential, source: str, kind: str) -> None:
    """Load the encoder that a recognizer has for a kind of modality.

    Raises:
        WavecastError: there is no such recognizer, it does not see that, or otherwise.
    """
    parts = load_network(find_model(source, "recognize")).encoder.function
    if kind not in parts.kinds:
        raise WavecastError(f"{source} does not see {kind}: it sees {', '.join(parts.kinds)}", "name another model")
    found = parts.get_submodule(kind)
    if [one.tolist() for one in found[0].buffers()] != [one.tolist() for one in stream[0].buffers()]:
        raise WavecastError(f"{source} normalizes {kind} by other statistics, or sees other channels", "take its own")
    load_strict(stream, found.state_dict(), source)


def load_image_network(network: nn.Module, path: Path) -> None:
    """Load a file of weights of an image network; see `load_encoder`.

    Raises:
        WavecastError: it does not fit.
    """
    expected = network.state_dict()
    found = {name: fitted(tensor, expected.get(name)) for name, tensor in read_tensors(path).items()}
    found = {name: tensor for name, tensor in found.items() if name in expected or not name.startswith(CLASSIFIERS)}
    load_strict(network, found, str(path))


def fitted(weight: Tensor, expected: Tensor | None) -> Tensor:
    """Bring a first convolution for colors to another number of channels; other tensors stay as they are."""
    if expected is None or expected.ndim != 4 or weight.ndim != 4 or weight.shape == expected.shape:
        return weight
    channels = expected.shape[1]
    if weight.shape[1] != 3 or weight.shape[0] != expected.shape[0]:
        return weight
    return weight.mean(1, keepdim=True).repeat(1, channels, 1, 1) * (3 / channels)


def cached_weights(name: str) -> Path:
    """Find the weights of a ResNet in torch's hub cache.

    Raises:
        WavecastError: they are not there.
    """
    from torchvision import models

    if not name.startswith("resnet"):
        raise WavecastError(f"torchvision has no weights of {name}", "give a file of weights")
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    files = [Path(one.url).name for one in reversed(models.get_model_weights(name))]
    for file in files:
        if (folder / file).is_file():
            return folder / file
    raise WavecastError(
        f"no weights of {name} are in {folder}",
        f"nothing is downloaded by itself: bring {' or '.join(files)} there, or name a file",
    )
