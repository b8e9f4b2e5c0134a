"""Heads that hear of time, and the mean over frames, which does not, on generated activities of unseen shapes.

    python scripts/bench/moving_shapes.py --digits FOLDER MODEL MODEL ... [--clips 2200]

FOLDER holds MNIST's IDX files; clips are made of its test images, of shapes, textures and grounds on which nothing was
trained, the same for all models. Groups of classes: `reversed` are each other's time reversal, `reordered` go there and
back in either order. A forced choice takes the more probable of the two classes of a pair, of which one is true: a half
is what guessing gives. Results: `results/moving_shapes.json`, and which class the first model found for which:
`docs/moving_shapes.png`.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from facts import facts

from wavecast.apps.activity.confusion import confusion, draw_confusion, recall
from wavecast.apps.activity.inference import Recognizer
from wavecast.apps.activity.networks import log_probabilities
from wavecast.core.stream import flushed_denormals
from wavecast.datamodules.activities import ActivityData
from wavecast.datamodules.moving_shapes import ALONE, CLASSES, REORDERED, REVERSED

HERE = Path(__file__).resolve().parent
PICTURE = HERE.parents[1] / "docs" / "moving_shapes.png"
PAIRS = {"reversed": list(REVERSED), "reordered": list(REORDERED)}
BATCH = 22


@torch.inference_mode()
def probabilities(recognizer: Recognizer, digits: Path, clips: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Recognize test clips: probabilities (clip, class), labels (clip,), and seconds of the network for each clip."""
    (network,) = recognizer.networks
    data = ActivityData(
        "moving_shapes",
        digits=str(digits),
        frames=network.frames,
        size=network.size,
        modalities=[str(one) for one in network.modalities],
        test_items=clips,
    )
    data.setup("test")
    found, labels, took = [], [], 0.0
    for begin in range(0, clips, BATCH):
        items = [data.test_source.item(k) for k in range(begin, min(begin + BATCH, clips))]
        x = torch.from_numpy(np.stack([item["clip"] for item in items]))
        began = time.process_time()
        with flushed_denormals():
            found.append(log_probabilities(network(x)[0]).exp().numpy())
        took += time.process_time() - began
        labels += [int(item["target"]) for item in items]
    order = [recognizer.classes.index(name) for name in CLASSES]
    return np.concatenate(found)[:, order], np.array(labels), took / clips


def figures(found: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Compute accuracies: of all clips, by group of classes, by class, and of forced choices within pairs."""
    right = found.argmax(1) == labels
    groups = {name: [one for pair in pairs for one in pair] for name, pairs in PAIRS.items()} | {"alone": [*ALONE]}
    result: dict[str, Any] = {"accuracy": float(right.mean())}
    for name, classes in groups.items():
        result[name] = float(right[np.isin(labels, numbers(classes))].mean())
    for name, pairs in PAIRS.items():
        choices = [found[labels == one, one] > found[labels == one, other] for one, other in both_ways(pairs)]
        result[f"{name}_forced_choice"] = float(np.concatenate(choices).mean())
    rates = recall(confusion(labels, found.argmax(1), len(CLASSES)))
    return result | {"by_class": dict(zip(CLASSES, rates.tolist(), strict=True))}


def numbers(classes: Sequence[str]) -> list[int]:
    """Give the labels of classes."""
    return [CLASSES.index(name) for name in classes]


def both_ways(pairs: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    """Give the labels of pairs, in either order."""
    return [(CLASSES.index(one), CLASSES.index(other)) for pair in pairs for one, other in (pair, pair[::-1])]


def main() -> None:
    """Measure all models and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--digits", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--clips", type=int, default=2200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "moving_shapes.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for model in args.models:
        recognizer = Recognizer.load(model, "cpu")
        found, labels, seconds = probabilities(recognizer, args.digits, args.clips)
        (network,) = recognizer.networks
        row = {
            "model": recognizer.card.name,
            "architecture": recognizer.card.architecture,
            "modalities": [str(one) for one in network.modalities],
            "parameters": sum(one.numel() for one in network.parameters()),
            "training": dict(recognizer.card.training),
            "cpu_milliseconds_a_clip": round(1000 * seconds, 2),
            **figures(found, labels),
        }
        print({name: value for name, value in row.items() if name != "by_class"}, flush=True)
        if not rows:
            counts = confusion(labels, found.argmax(1), len(CLASSES))
            draw_confusion(counts, CLASSES, PICTURE, f"{recognizer.card.name}, unseen shapes and grounds")
        rows.append(row)
    result = {"clips": args.clips, "classes": len(CLASSES), "models": rows, **facts()}
    args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
