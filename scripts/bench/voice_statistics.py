"""The space in which `wavecast separate` tells voices apart, measured on corpus voices.

    python scripts/bench/voice_statistics.py --corpus ../shared/corpus [--write]

Fisher's linear discriminants (Fisher, "The Use of Multiple Measurements in Taxonomic Problems", 1936) of cepstra and
pitch at 8 kHz: of means over quarters of a second within a speaker, and of speakers, for all voices of the corpus but
those that `wavecast.datamodules.holdout` leaves for validation. For these it counts how often a clip of one of two
speakers is given to the wrong one, when four clips of each are known. Results: `results/voice_statistics.json`; with
--write `apps/separation/voice_space.json`, which the application reads.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import soxr
from facts import facts
from separate_long import RATE, corpus_clips, is_held_out, read_clip

from wavecast.apps.separation import voices
from wavecast.apps.separation.voices import DEPENDENT, VOICED, Analyzer, Frames, Voiceprint

NETWORK_RATE = 8000
CLIPS, KNOWN = 25, 4
DIRECTIONS = 12
LEAST = 6  # voiced frames of a stretch of DEPENDENT
CAUTION = 1.5  # times the variance within a speaker: recordings are of other rooms and other microphones
RANGE_DB = 25  # below the loud frames of a clip, in which frames count
RESULTS = Path(__file__).parent / "results" / "voice_statistics.json"
SPACE = Path(voices.__file__).parent / "voice_space.json"


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="make this the space of the application")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    draw, analyzer = np.random.default_rng(0), Analyzer(NETWORK_RATE)
    heard = {}
    for name, each in sorted(corpus_clips(args.corpus).items()):
        chosen = [each[k] for k in draw.permutation(len(each))[:CLIPS]]
        sounds = [soxr.resample(read_clip(one), RATE, NETWORK_RATE) for one in chosen]
        heard[name] = [(frames := analyzer(x), clear(frames)) for x in sounds]
    learned = {name: each for name, each in heard.items() if not is_held_out(name)}
    directions, spread = discriminants([stretch_means(each) for each in learned.values()])
    row = {
        "directions": np.round(directions, 5).tolist(),
        "spread": np.round(spread, 4).tolist(),
        "speakers": len(learned),
        **count_wrong([each for name, each in heard.items() if name not in learned]),
    }
    print(json.dumps(row))
    args.output.write_text(json.dumps({**facts(), **row}, indent=1) + "\n")
    if args.write:
        SPACE.write_text(json.dumps({name: row[name] for name in ("directions", "spread")}) + "\n")


def clear(frames: Frames) -> np.ndarray:
    """Find the voiced frames of a clip that are not much weaker than its loud ones."""
    return (frames.voicing > VOICED) & (frames.level > np.percentile(frames.level, 95) - RANGE_DB)


def stretch_means(clips: list[tuple[Frames, np.ndarray]]) -> np.ndarray:
    """Give the means over stretches of a speaker's clips: (stretches, 17)."""
    length, means = int(DEPENDENT), []
    for frames, counts in clips:
        for start in range(0, len(counts) - length + 1, length):
            chosen = counts[start : start + length]
            if chosen.sum() >= LEAST:
                means.append(frames.sound[start : start + length][chosen].mean(0))
    return np.array(means)


def discriminants(speakers: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Find the directions in which speakers differ most.

    Args:
        speakers: of each (stretches, features).

    Returns:
        (features, direction), along each of which the variance within speakers is 1 / CAUTION; and the variance of
        speakers along each (direction,).
    """
    count = sum(len(one) - 1 for one in speakers)
    within = CAUTION * sum((one - one.mean(0)).T @ (one - one.mean(0)) for one in speakers) / count
    between = np.cov(np.array([one.mean(0) for one in speakers]).T)
    values, vectors = np.linalg.eigh(within)
    whitened = vectors / np.sqrt(values)
    spread, turned = np.linalg.eigh(whitened.T @ between @ whitened)
    return (whitened @ turned)[:, ::-1][:, :DIRECTIONS], spread[::-1][:DIRECTIONS]


def count_wrong(speakers: list[list[tuple[Frames, np.ndarray]]]) -> dict[str, int]:
    """Count the clips that are given to the wrong one of two speakers, in the application's present space."""
    wrong = total = 0
    for pair in itertools.permutations(speakers, 2):
        mine, other = (print_of(each[:KNOWN]) for each in pair)
        for clip in pair[0][KNOWN:]:
            total += 1
            wrong += mine.same_speaker(print_of([clip])) < other.same_speaker(print_of([clip]))
    return {"clips_compared": total, "clips_wrong": wrong}


def print_of(clips: list[tuple[Frames, np.ndarray]]) -> Voiceprint:
    """Make the voiceprint of some clips."""
    return Voiceprint.of(np.concatenate([frames.features[counts] for frames, counts in clips]))


if __name__ == "__main__":
    main()
