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


def speaker(seed: int, seconds: float, rate: int = RATE, take: int = 0) -> np.ndarray:
    """Babble vowels with the pitch and the throat of one speaker, 8 of them a second: float32 (samples,).

    Other takes of a seed are other words of the same speaker.
    """
    body, words = np.random.default_rng(seed), np.random.default_rng([seed, take])
    pitch, throat = 100 * 2 ** ((seed * 0.45 + body.uniform(0, 0.2)) % 1.3), 0.85 + (seed * 0.13) % 0.4
    vowels = np.array([[730, 1090], [270, 2290], [300, 870], [530, 1840], [640, 1190]]) * throat
    syllables = int(8 * seconds) + 1
    length = round(rate / 8)
    sound = np.zeros(syllables * length)
    for number in range(syllables):
        time = np.arange(length) / rate
        phase = 2 * np.pi * np.cumsum(pitch * 2 ** (words.normal(0, 0.08) + 0.05 * np.sin(9 * time))) / rate
        harmonics = np.arange(1, int(0.45 * rate / pitch))
        formants = vowels[words.integers(5)]
        shape = sum(1 / (1 + ((harmonics * pitch - formant) / 90) ** 2) for formant in formants) + 0.02
        tones = np.sin(np.outer(harmonics, phase)) * (shape / np.sqrt(harmonics))[:, None]
        loud = 0.2 + 0.8 * words.random()
        sound[number * length : (number + 1) * length] = loud * np.sin(np.pi * time * 8) ** 0.5 * tones.sum(0)
    sound = sound[: round(seconds * rate)]
    return np.asarray(0.05 * sound / np.sqrt(np.mean(sound**2)), np.float32)


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
