"""Speakers that stay who they are: ten minutes of two voices, separated in windows, swaps counted against the truth.

    python scripts/bench/separate_long.py --corpus ../shared/corpus --oracle
    python scripts/bench/separate_long.py --corpus ../shared/corpus --model mossformer2.ss2_small --pairs 2

The recording is a conversation of corpus voices: turns of unequal levels, speech over speech, pauses longer than what
windows share. With `--oracle` every window is separated perfectly, but in random order and at random scales, with a
leak: that measures who is who alone. Results go to results/separate_long.json.
"""

import argparse
import itertools
import json
from collections import defaultdict
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from facts import facts
from timing import peak_mib
from torch import Tensor

from wavecast.apps.separation.inference import Options, Separator
from wavecast.apps.separation.separated_windows import plan_of
from wavecast.apps.separation.voices import VOICED, Analyzer
from wavecast.apps.sound.metrics import si_sdr
from wavecast.cards import Card
from wavecast.core.block import Block
from wavecast.core.state import State
from wavecast.core.windows import Plan
from wavecast.datamodules.holdout import held_out

RATE = 16_000
RESULTS = Path(__file__).parent / "results" / "separate_long.json"
SCALE_DB = 6.0
BLOCK = 1 << 16
RECORDED = ("asterisk_", "festvox_", "fillets_", "tuxpaint_")
"""How the names of real speakers begin."""

Clips = list[tuple[Path, int, int]]


class Oracle(Block):
    """A perfect separator that gives every window's speakers in another order, at other scales, with a leak."""

    lookahead = inf

    def __init__(self, sources: np.ndarray, plan: Plan, seed: int, leak: float) -> None:
        super().__init__()
        self.leak = leak
        self.sources, self.speakers, self.step_size = (
            torch.from_numpy(sources),
            len(sources),
            plan.window - plan.overlap,
        )
        self.draw, self.at = np.random.default_rng(seed), 0

    def step(self, x: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Separate the next window."""
        start = min(self.at, self.sources.shape[1] - x.shape[1])
        self.at += self.step_size
        y = self.sources[:, start : start + x.shape[1]]
        y = (1 - self.leak) * y + self.leak * y.sum(0)
        scales = 10 ** (self.draw.uniform(-SCALE_DB, SCALE_DB, (len(y), 1)) / 20)
        y = (y * torch.from_numpy(scales.astype(np.float32)))[self.draw.permutation(len(y))]
        return y.T[None], ()


def corpus_clips(corpus: Path) -> dict[str, Clips]:
    """List the clips of at least a second by speaker: real voices, and synthetic ones that are no blends."""
    clips: dict[str, Clips] = defaultdict(list)
    for folder in ("speech", "tts"):
        for line in (corpus / folder / "index.jsonl").read_text().splitlines():
            row = json.loads(line)
            speaker = row.get("speaker") or row["voice"]
            if row["samples"] >= RATE and "+" not in speaker and not speaker.startswith("fotaq"):
                clips[speaker].append((corpus / folder / row["file"], row["start"], row["samples"]))
    return {speaker: each for speaker, each in clips.items() if sum(one[2] for one in each) > 200 * RATE}


def is_held_out(speaker: str) -> bool:
    """Tell whether no network was trained on a speaker of the corpus; synthetic ones are named without their kind."""
    return held_out({"speaker" if speaker.startswith(RECORDED) else "voice": speaker})


def read_clip(clip: tuple[Path, int, int]) -> np.ndarray:
    """Read a clip at a level of -26 dB."""
    path, start, samples = clip
    x, _ = soundfile.read(path, start=start, frames=samples, dtype="float32")
    return x * np.float32(0.05 / (np.sqrt(np.mean(np.square(x))) + 1e-9))


def conversation(clips: list[Clips], seconds: int, seed: int) -> np.ndarray:
    """Lay turns of several speakers one after the other, over each other, and apart: (speakers, samples) at 16 kHz."""
    draw = np.random.default_rng(seed)
    sources = np.zeros((len(clips), seconds * RATE), np.float32)
    levels = 10 ** (-np.array([0, *draw.uniform(3, 12, len(clips) - 1)]) / 20)
    speaker, at = 0, 0
    while at < sources.shape[1]:
        level = levels[speaker] * 10 ** (draw.normal(0, 2) / 20)
        for _ in range(draw.integers(1, 4)):
            x = read_clip(clips[speaker][draw.integers(len(clips[speaker]))]) * np.float32(level)
            part = sources[speaker, at : at + len(x)]
            part[:] = x[: len(part)]
            at += len(x)
        gap = draw.uniform(4, 9) if draw.random() < 0.15 else draw.uniform(-2, 1)
        at = max(0, at + int(gap * RATE))
        if draw.random() < 0.7:
            speaker = (speaker + int(draw.integers(1, len(clips)))) % len(clips)
    return sources


def pitch_of(clips: Clips, seed: int) -> float:
    """Measure the median pitch of a speaker, in octaves."""
    draw, analyzer = np.random.default_rng(seed), Analyzer(RATE)
    frames = [analyzer(read_clip(clips[k])) for k in draw.integers(len(clips), size=6)]
    return float(np.median(np.concatenate([one.sound[one.voicing > VOICED, -1] for one in frames])))


def choose_pairs(clips: dict[str, Clips], count: int, seed: int) -> list[tuple[str, str]]:
    """Choose pairs of speakers: half of them those nearest in pitch, of one sex then, the others at random."""
    draw = np.random.default_rng(seed)
    pitch = {speaker: pitch_of(each, seed) for speaker, each in clips.items()}
    pairs = list(itertools.combinations(sorted(clips), 2))
    near = sorted(pairs, key=lambda pair: abs(pitch[pair[0]] - pitch[pair[1]]))[: count * 10]
    chosen = [near[k] for k in draw.choice(len(near), (count + 1) // 2, replace=False)]
    return chosen + [pairs[k] for k in draw.choice(len(pairs), count // 2, replace=False)]


def count_swaps(found: np.ndarray, sources: np.ndarray, second: int) -> tuple[int, float, list[int]]:
    """Compare who is who second by second. Speakers who are silent in it are in any order.

    Returns:
        How often the order changes, the seconds in another order than most, and that order.
    """
    orders = list(itertools.permutations(range(len(sources))))
    fits = []  # of every second, whether each order is as good as the best one
    for start in range(0, sources.shape[1] - second + 1, second):
        s, y = sources[:, start : start + second].astype(np.float64), found[:, start : start + second]
        if np.square(s).mean() < 1e-6:
            continue
        products = y.astype(np.float64) @ s.T
        scores = np.array([sum(products[order[k], k] for k in range(len(s))) for order in orders])
        fits.append(scores > scores.max() - 0.1 * np.square(s).sum(1).max())
    fitting = np.array(fits)
    usual = int(fitting.sum(0).argmax())
    swaps, now = 0, usual
    for fit in fitting:
        if not fit[now]:
            swaps, now = swaps + 1, int(fit.argmax())
    return swaps, float((~fitting[:, usual]).sum()), list(orders[usual])


def measure(separator: Separator, sources: np.ndarray) -> dict[str, Any]:
    """Separate the sum of the sources in blocks, and compare."""
    mixture = sources.sum(0)
    stream = separator.stream(options=Options(), live=False)
    pieces = [stream.push(mixture[None, k : k + BLOCK]) for k in range(0, len(mixture), BLOCK)]
    found = np.concatenate([*pieces, stream.flush()], 2)[:, 0]
    swaps, wrong, order = count_swaps(found, sources, separator.sample_rate)
    gains = [
        float(si_sdr(found[order[k]], s) - si_sdr(mixture, s))
        for k, s in enumerate(sources)
        if np.square(s).mean() > 1e-9
    ]
    return {
        "seams": len(stream.seams),
        "turns": len(stream.turns),
        "swaps": swaps,
        "seconds_swapped": wrong,
        "si_sdr_gain": [round(gain, 2) for gain in gains],
        "sum_error": float(np.abs(found.sum(0) - mixture).max()),
        "uncertain_seams": sum(not seam.certain for seam in stream.seams),
        "uncertain_turns": sum(not turn.certain for turn in stream.turns),
        "voices": [asdict(voice) for voice in stream.voices()],
    }


def oracle_separator(sources: np.ndarray, window: float, seed: int, leak: float) -> Separator:
    """Make a separator of an oracle at 16 kHz."""
    card = Card("oracle.windows", "mossformer2", "separate", {}, RATE, window_seconds=window)
    plan = plan_of(Oracle(sources, Plan(0, 0, 0), seed, leak), RATE, window)
    return Separator(card, Oracle(sources, plan, seed, leak).eval())


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--oracle", action="store_true")
    what.add_argument("--model")
    parser.add_argument("--window", type=float, default=0, help="seconds of the oracle's windows (the default plan's)")
    parser.add_argument("--leak", type=float, default=0.03, help="of everything into the oracle's voices, 0 to 1")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--speakers", type=int, default=2)
    parser.add_argument("--unseen", action="store_true", help="only speakers that no network was trained on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--add", action="store_true", help="keep the rows that the results have")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    clips = {name: each for name, each in corpus_clips(args.corpus).items() if not args.unseen or is_held_out(name)}
    rows = json.loads(args.output.read_text())["rows"] if args.add and args.output.exists() else []
    draw = np.random.default_rng(args.seed)
    for number, pair in enumerate(choose_pairs(clips, args.pairs, args.seed)):
        others = [name for name in clips if name not in pair]
        names = [*pair, *draw.choice(others, args.speakers - 2, replace=False).tolist()]
        seed = 1000 * args.seed + number
        sources = conversation([clips[name] for name in names], args.seconds, seed)
        if args.oracle:
            separator = oracle_separator(sources, args.window, seed, args.leak)
        else:
            separator = Separator.load(args.model, "cpu")
            sources = soxr.resample(sources.T, RATE, separator.sample_rate).T.copy()
        row = {
            "separator": f"oracle, leak {args.leak}" if args.oracle else separator.card.name,
            "window_seconds": separator.plan.window / separator.sample_rate if not separator.streams else None,
            "seconds": args.seconds,
            "speakers": names,
            "unseen": args.unseen,
            "near_in_pitch": number < (args.pairs + 1) // 2,
            "seed": seed,
            **measure(separator, sources),
            "peak_memory_mib": round(peak_mib()),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
        args.output.write_text(json.dumps({**facts(), "rows": rows}, indent=1) + "\n")
    print(f"{sum(row['swaps'] > 0 for row in rows)} of {len(rows)} recordings have a swap")


if __name__ == "__main__":
    main()
