"""Features of videos on disk: what an encoder made of each, found again by what the video holds.

    folder = FeatureFolder(Path("features"))
    folder.read(Path("videos/Archery/v_Archery_g01_c01.avi"))           # float32 (frames, width)

A folder belongs to one encoder and one way of sampling, which `features.json` tells. Each video's features lie in a
file that is named by the SHA-256 of its content, so that videos may be moved and renamed, and a changed one is another.
Files appear whole or not at all; damage is found by their checksums. `wavecast.apps.activity.features` makes them.
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wavecast.core.errors import WavecastError
from wavecast.datamodules.arrays import DAMAGE
from wavecast.datamodules.new_files import NewFile, writing

FACTS = "features.json"
UNREADABLE: tuple[type[Exception], ...] = (*DAMAGE, LookupError)


class FeatureFolder:
    """The features that one encoder made of videos.

    Args:
        folder: that `begin` has begun.

    Attributes:
        folder: where they are.
        facts: what made them: `frames` of a clip, `width` of a frame, and what else `begin` was told.

    Raises:
        WavecastError: it is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / FACTS
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            hint = "name a folder that `wavecast train activity` has filled with features"
            raise WavecastError(f"{folder} holds no features: {path} cannot be read", hint) from error
        except ValueError as error:
            raise WavecastError(f"{path} is damaged: it is not JSON", f"remove {folder}: it is made anew") from error
        if not isinstance(facts, dict) or not all(isinstance(facts.get(name), int) for name in ("frames", "width")):
            raise WavecastError(f"{path} tells no frames and width", f"remove {folder}: it is made anew")
        self.folder, self.facts = folder, facts

    @staticmethod
    def begin(folder: Path, facts: Mapping[str, Any]) -> "FeatureFolder":
        """Begin a folder, or go on with one.

        Args:
            folder: is made where it is missing.
            facts: plain data that tell encoders and ways of sampling apart, `frames` and `width` among them.

        Raises:
            WavecastError: it holds the features of another encoder, or cannot be written.
        """
        if not (folder / FACTS).exists():
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            _write(folder / FACTS, json.dumps(dict(facts), indent=1).encode())
        found = FeatureFolder(folder)
        wanted = json.loads(json.dumps(dict(facts)))
        other = [name for name in {**wanted, **found.facts} if wanted.get(name) != found.facts.get(name)]
        if other:
            differences = "; ".join(f"{name} {found.facts.get(name)}, not {wanted.get(name)}" for name in other)
            raise WavecastError(f"{folder} holds features of another encoder: {differences}", "name another folder")
        return found

    def path_of(self, video: Path) -> Path:
        """Tell where a video's features lie, or would.

        Raises:
            WavecastError: the video cannot be read.
        """
        digest = content_hash(video)
        return self.folder / digest[:2] / f"{digest}.npz"

    def find(self, video: Path) -> np.ndarray | None:
        """Give a video's features, float32 (frames, width); None where they are missing or damaged.

        Raises:
            WavecastError: the video cannot be read.
        """
        try:
            with self.path_of(video).open("rb") as file:
                features = np.load(file, allow_pickle=False)["features"]
        except UNREADABLE:
            return None
        shape = (self.facts["frames"], self.facts["width"])
        return features if features.shape == shape and features.dtype == np.float32 else None

    def read(self, video: Path) -> np.ndarray:
        """Give a video's features: float32 (frames, width).

        Raises:
            WavecastError: they are missing or damaged, or the video cannot be read.
        """
        features = self.find(video)
        if features is None:
            raise WavecastError(
                f"{self.folder} has no features of {video}, or they are damaged",
                "run the training again: it makes what is missing",
            )
        return features

    def write(self, video: Path, features: np.ndarray) -> None:
        """Write a video's features (frames, width), whole or not at all; what was there is replaced.

        Raises:
            ValueError: they are of another shape.
            WavecastError: the video cannot be read, or the file not be written.
        """
        shape = (self.facts["frames"], self.facts["width"])
        if features.shape != shape:
            raise ValueError(f"features of shape {features.shape}\nhint: this folder holds {shape}")
        path = self.path_of(video)
        with writing(path):
            path.parent.mkdir(exist_ok=True)
        content = io.BytesIO()
        np.savez(content, features=features.astype(np.float32))
        _write(path, content.getvalue())


def content_hash(video: Path) -> str:
    """Give the SHA-256 of a video: of a file's bytes, or of the names and bytes of all files in a folder of frames.

    Raises:
        WavecastError: it cannot be read.
    """
    try:
        if not video.is_dir():
            with video.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        whole = hashlib.sha256()
        for path in sorted(path for path in video.iterdir() if path.is_file()):
            with path.open("rb") as file:
                whole.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return whole.hexdigest()
    except OSError as error:
        raise WavecastError(f"cannot read {video}: {error.strerror}", "check the path, or leave it out") from error


def _write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    new = NewFile(path, overwrite=True)
    try:
        with writing(path), os.fdopen(new.descriptor, "wb") as file:
            file.write(content)
        new.keep()
    finally:
        new.discard()
