"""The variances by which `wavecast separate` tells voices apart, measured on corpus voices.

    python scripts/bench/voice_statistics.py --corpus ../shared/corpus

Prints WITHIN and BETWEEN of `wavecast.apps.separation.voices`: of the cepstra and the pitch of voiced frames at 8 kHz,
for every other speaker of the corpus; and how often, for the speakers left out, a clip of one of two speakers is
given to the wrong one, when four clips of each are known. Results: `results/voice_statistics.json`.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import soxr
from facts import facts
from separate_long import RATE, corpus_clips, read_clip

from wavecast.apps.separation.voices import VOICED, Analyzer, Voiceprint

NETWORK_RATE = 8000
CLIPS, KNOWN = 12, 4
RANGE_DB = 25  # below the loud frames of a clip, in which frames count
RESULTS = Path(__file__).parent / "results" / "voice_statistics.json"


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    draw, analyzer = np.random.default_rng(0), Analyzer(NETWORK_RATE)
    clips = {
        name: [one for one in each if one[2] >= 2 * RATE] for name, each in sorted(corpus_clips(args.corpus).items())
    }
    voices = {}
    for name, each in clips.items():
        if len(each) >= CLIPS:
            chosen = [each[k] for k in draw.choice(len(each), CLIPS, replace=False)]
            voices[name] = [
                voiced_frames(analyzer, soxr.resample(read_clip(one), RATE, NETWORK_RATE)) for one in chosen
            ]
    learned, others = list(voices)[::2], list(voices)[1::2]
    within = np.mean([frames.var(0) for name in learned for frames in voices[name] if len(frames) > 20], 0)
    between = np.var([np.concatenate(voices[name]).mean(0) for name in learned], 0)
    wrong = total = 0
    for a, b in itertools.combinations(others, 2):
        known = [print_of(voices[name][:KNOWN]) for name in (a, b)]
        for k in range(KNOWN, CLIPS):
            total += 1
            new = print_of(voices[a][k : k + 1])
            wrong += known[0].same_speaker(new) < known[1].same_speaker(new)
    row = {
        "within": np.round(within[:-1], 3).tolist(),
        "between": np.round(between[:-1], 3).tolist(),
        "speakers": len(voices),
        "clips_compared": total,
        "clips_wrong": int(wrong),
    }
    print(json.dumps(row))
    args.output.write_text(json.dumps({**facts(), **row}, indent=1) + "\n")


def voiced_frames(analyzer: Analyzer, x: np.ndarray) -> np.ndarray:
    """Give the features of the voiced frames of a clip that are not much weaker than its loud ones."""
    frames = analyzer(x)
    level = frames.features[:, -1]
    return frames.features[(frames.voicing > VOICED) & (level > np.percentile(level, 95) - RANGE_DB)]


def print_of(clips: list[np.ndarray]) -> Voiceprint:
    """Make the voiceprint of some clips."""
    return Voiceprint.of(np.concatenate(clips))


if __name__ == "__main__":
    main()
