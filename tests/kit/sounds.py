"""Generated recordings for tests: voices, noises, folders and a packed corpus."""

import json
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000


def voice(seed: int, seconds: float, rate: int = RATE) -> np.ndarray:
    """Hum with the rhythm of syllables: float32 (samples,)."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = rng.uniform(90, 250)
    sound = sum(np.sin(2 * np.pi * pitch * k * time + rng.uniform(0, 6)) / k for k in range(1, 12))
    rhythm = np.clip(np.sin(2 * np.pi * rng.uniform(2, 5) * time + rng.uniform(0, 6)), 0, 1)
    return np.asarray(0.1 * rhythm * sound, np.float32)


def hiss(seed: int, seconds: float, rate: int = RATE) -> np.ndarray:
    """White noise: float32 (samples,)."""
    return (0.05 * np.random.default_rng(seed).standard_normal(round(seconds * rate))).astype(np.float32)


def write_folder(folder: Path, make, count: int = 4, seconds: float = 1.5, rate: int = RATE, groups: int = 2) -> Path:
    """Write `count` WAV files into `groups` folders of speakers or sources."""
    for number in range(count):
        path = folder / f"{make.__name__}{number % groups}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, make(number, seconds, rate), rate, subtype="PCM_16")
    return folder


def write_packed(folder: Path, lengths: tuple[int, ...] = (8000, 12000, 5000), suffix: str = ".wav") -> np.ndarray:
    """Write one file of clips end to end with an index; returns all its samples."""
    folder.mkdir(parents=True, exist_ok=True)
    sound = np.concatenate([voice(seed, samples / RATE) for seed, samples in enumerate(lengths)])
    kind = {"format": "OGG", "subtype": "OPUS"} if suffix == ".opus" else {}
    soundfile.write(folder / f"all{suffix}", sound, RATE, **kind)
    starts = np.cumsum([0, *lengths])
    rows = [
        {
            "file": f"all{suffix}",
            "start": int(start),
            "samples": samples,
            "speaker": f"s{number % 2}",
            "id": str(number),
        }
        for number, (start, samples) in enumerate(zip(starts, lengths, strict=False))
    ]
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return sound
