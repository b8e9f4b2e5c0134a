"""Features of videos, made once and kept on disk, so that heads train on them in minutes.

    made = make_features(network, videos, Path("features"))
    features = FeatureFolder(Path("features"))                          # wavecast.datamodules.feature_files
    features.read(video)                                                # float32 (frames, width): goes to network.head

What is there already is kept: an interrupted run goes on where it stopped, and what is damaged is made anew. Features
are those of one clip of every video: by default of its frames at equal distances over all of it, cropped in the middle.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wavecast.apps.activity.networks import ActivityNetwork
from wavecast.core.errors import WavecastError
from wavecast.datamodules.clip_sampling import uniform_clip
from wavecast.datamodules.feature_files import FeatureFolder


@dataclass
class Made:
    """What became of the videos.

    Attributes:
        new: how many were encoded.
        kept: how many had their features already.
        failed: what is wrong with the others, by path.
    """

    new: int = 0
    kept: int = 0
    failed: dict[Path, WavecastError] = field(default_factory=dict)


def make_features(
    network: ActivityNetwork,
    videos: Iterable[Path],
    folder: Path,
    sample: Callable[[Path], np.ndarray] | None = None,
) -> Made:
    """Encode the videos whose features are not on disk yet.

    Args:
        network: whose encoder makes them, on the device where it is.
        videos: files, or folders of frames where `sample` reads those.
        folder: of the features.
        sample: makes a clip (frames, row, col, channel) of a video; None: `uniform_clip`.

    Returns:
        How many are new, kept and failed: one bad video does not stop the others.

    Raises:
        WavecastError: the folder holds features of another encoder, or cannot be written.
    """
    features = FeatureFolder.begin(folder, facts(network))
    made = Made()
    for video in videos:
        try:
            if features.find(video) is not None:
                made.kept += 1
                continue
            clip = sample(video) if sample else spread_clip(network, video)
        except WavecastError as error:
            made.failed[video] = error
            continue
        features.write(video, encode(network, clip))
        made.new += 1
    return made


def spread_clip(network: ActivityNetwork, video: Path) -> np.ndarray:
    """Take the clip that a network sees of a whole video: float32 (frames, row, col, channel)."""
    return uniform_clip(video, network.frames, network.size, network.modalities)[0]


@torch.inference_mode()
def encode(network: ActivityNetwork, clip: np.ndarray) -> np.ndarray:
    """Encode one clip: float32 (time, row, col, channel) to float32 (time, width)."""
    encoder = network.encoder
    training = encoder.training
    encoder.eval()
    features, _ = encoder(torch.from_numpy(clip).to(next(encoder.parameters()).device)[None])
    encoder.train(training)
    return features[0].float().cpu().numpy()


def facts(network: ActivityNetwork) -> dict[str, Any]:
    """Tell what features depend on: the encoder with its weights, and how a video is sampled and seen."""
    return {
        "encoder": network.encoder.encoder,
        "sha256": fingerprint(network.encoder),
        "modalities": [str(one) for one in network.modalities],
        "size": list(network.size),
        "frames": network.frames,
        "rate": network.rate,
        "width": network.encoder.width,
    }


def fingerprint(module: nn.Module) -> str:
    """Give the SHA-256 of all parameters and buffers, and of their names."""
    whole = hashlib.sha256()
    tensors: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous()
        whole.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        whole.update(values.numpy().tobytes())
    return whole.hexdigest()
