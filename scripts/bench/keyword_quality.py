"""The shipped keyword spotter on voices that it was never trained on: accuracy, misses, false alarms, cost.

    python scripts/bench/keyword_quality.py CORPUS --choose       # thresholds, on the validation part: into the card
    python scripts/bench/keyword_quality.py CORPUS                # what is reported, on the test part

Voices and speakers of the parts are those of the recipe `keywords_small`. Words of the test voices are scored as views
of their own, clean and through rooms and noises, and planted in recordings among other speech of the test part. False
alarms are counted in real speech of the test speakers, of which no text has one of the words in it.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from facts import facts

from wavecast.apps.keywords.decisions import Event
from wavecast.apps.keywords.detection import LEVELS, Heard, Point, at_recall, curve, measure
from wavecast.apps.keywords.evaluation import (
    REAL,
    SYNTHETIC,
    decide,
    heard,
    kinds,
    planted_words,
    point_row,
    score_clips,
)
from wavecast.apps.keywords.inference import Spotter
from wavecast.datamodules.keywords import KeywordData
from wavecast.datamodules.mixing import Chances
from wavecast.training import read_recipe

RESULTS = Path(__file__).parent / "results" / "keyword_quality.json"
RECIPE = "keywords_small"
RECALL = 0.9
"""Share of the clean planted words of the validation part that is found."""
NOISY: dict[str, Any] = {
    "validation_augmented": True,
    "snr": (5.0, 25.0),
    "level": (-40.0, -15.0),
    "noises_at_once": 1,
    "chances": Chances(noise_only=0.0, clean=0.0, reverberant=0.3, equalized=0.3, band_limited=0.1, gap=0.0),
}
"""Rooms and held-out noises."""
DECIDING: dict[str, Any] = {"hop": 12, "smoothing": 0.72}
"""Frames between decisions, a third less work than 8; seconds over which they are averaged: false alarms are shorter
than words, and a third of them is left when averages are three times as long as usual."""
BLOCK = 30_720
"""Samples that are heard at once here: posteriors are the same, and come in less than half of the time."""
EVERYTHING = 100.0
"""Hours: more than there are."""


def data_of(corpus: Path, cache: str | None, part: str, **options: Any) -> KeywordData:
    """Open a part of the corpus as the recipe splits it."""
    settings = read_recipe(RECIPE)["data"]
    names = {"speech": ["tts"], "other": ["speech"], "noise": ["noise"]}
    sources = {kind: [str(corpus / name) for name in found] for kind, found in names.items()}
    held = {name: settings[name] for name in ("held_out", "test")}
    data = KeywordData(**sources, **held, part=part, cache=cache, **options)
    data.prepare_data()
    data.setup("validate")
    return data


def listen(spotter: Spotter, data: KeywordData, noisy: KeywordData, planted: int) -> dict[str, list[Heard]]:
    """Hear the words planted in recordings, clean and noisy, and the other speech."""
    args = argparse.Namespace(hours=EVERYTHING, without=[])
    spotter = Spotter(replace(spotter.card, block=BLOCK), spotter.network, spotter.device)
    speech = {name: [heard(spotter, sound) for sound in sounds] for name, sounds in kinds(data, args).items()}
    return {
        "clean": planted_words(spotter, data, planted),
        "noisy": planted_words(spotter, noisy, planted),
        **speech,
    }


def deciding(spotter: Spotter, decision: dict[str, Any]) -> Spotter:
    """Let a spotter decide in another way."""
    return Spotter(replace(spotter.card, decision=decision), spotter.network, spotter.device)


def choose(spotter: Spotter, sounds: dict[str, list[Heard]]) -> dict[str, Any]:
    """Choose thresholds: the highest common one that finds enough, a higher one for words that often are false alarms.

    Returns:
        What a card says of decisions.
    """
    points = curve(sounds["clean"], sounds[REAL], partial(decide, spotter))
    most = max(point.recall for point in points)
    common = max(point.threshold for point in points if point.recall >= min(RECALL, most))
    higher = float(LEVELS[min(len(LEVELS) - 1, int(np.searchsorted(LEVELS, common)) + 3)])
    alarms = Counter(event.word for one in sounds[REAL] for event in decide(spotter, one.posteriors, common))
    hours = sum(one.seconds for one in sounds[REAL]) / 3600
    thresholds = {word: higher for word, count in sorted(alarms.items()) if count > hours}
    return {"threshold": common, "thresholds": thresholds, **DECIDING}


def as_chosen(spotter: Spotter, posteriors: np.ndarray, threshold: float) -> list[Event]:
    """Make events at the thresholds of the card, whatever the threshold."""
    decider = spotter.decider()
    return [*decider.push(posteriors), *decider.flush()]


def cost(spotter: Spotter, seconds: int = 60) -> float:
    """Measure the real-time factor on one thread: processor seconds for a second of sound."""
    torch.set_num_threads(1)
    sound = 0.05 * np.random.default_rng(0).standard_normal(seconds * spotter.sample_rate).astype(np.float32)
    spotter(sound[: 5 * spotter.sample_rate])
    began = time.process_time()
    spotter(sound)
    return (time.process_time() - began) / seconds


def report(spotter: Spotter, data: KeywordData, noisy: KeywordData, sounds: dict[str, list[Heard]]) -> dict[str, Any]:
    """Give all figures of a part."""
    scores = {name: score_clips(spotter, one)[1] for name, one in (("clean", data), ("noisy", noisy))}
    rows: dict[str, Any] = {"model": spotter.card.name, "sha256": spotter.card.weights.get("sha256", "")}
    for name, score in scores.items():
        kept = ("words", "accuracy", "found", "others", "rejected", "accuracy_after_frames")
        rows[f"views_{name}"] = {key: score[key] for key in kept}
    for name in ("clean", "noisy"):
        points = curve(sounds[name], sounds[REAL], partial(decide, spotter))
        rows[f"planted_{name}"] = {
            "as_chosen": point_row(measure(sounds[name], sounds[REAL], partial(as_chosen, spotter), 0.0)),
            "at_90_percent_recall": best_row(at_recall(points, 0.9)),
            "points": [point_row(point) for point in points],
        }
    chosen = measure([], sounds[SYNTHETIC], partial(as_chosen, spotter), 0.0)
    rows["synthetic_speech"] = {"hours": chosen.seconds / 3600, "alarms_per_hour": chosen.alarms_per_hour}
    rows["alarms"] = [
        {"word": event.word, "confidence": round(event.confidence, 3)}
        for one in sounds[REAL]
        for event in as_chosen(spotter, one.posteriors, 0.0)
    ]
    rows["real_time_factor"] = cost(spotter)
    rows["latency_ms"] = 1000 * spotter.latency / spotter.sample_rate
    return rows


def best_row(point: Point | None) -> dict[str, Any] | None:
    """Give a point as plain data, if there is one."""
    return None if point is None else point_row(point)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--choose", action="store_true", help="print thresholds chosen on the validation part")
    parser.add_argument("--planted", type=int, default=105, help="recordings with four words each")
    parser.add_argument("--rounds", type=int, default=4, help="how often a word is heard in noise")
    parser.add_argument("--cache", help="of decoded clips")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args(words)
    spotter = Spotter.load(args.model, "cpu")
    if args.choose:
        spotter = deciding(spotter, DECIDING)
    part = "validation" if args.choose else "test"
    data = data_of(args.corpus, args.cache, part)
    noisy = data_of(args.corpus, args.cache, part, validation_rounds=args.rounds, **NOISY)
    sounds = listen(spotter, data, noisy, args.planted)
    if args.choose:
        decision = choose(spotter, sounds)
        spotter = deciding(spotter, decision)
        chosen = partial(as_chosen, spotter)
        points = {name: point_row(measure(sounds[name], sounds[REAL], chosen, 0.0)) for name in ("clean", "noisy")}
        print(json.dumps({"decision": decision, **points}, indent=1))
        return
    rows = {**facts(), "part": part, **report(spotter, data, noisy, sounds)}
    args.output.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps({name: value for name, value in rows.items() if name != "points"}, indent=1))


if __name__ == "__main__":
    main()
