"""`wavecast evaluate activity`: how often a recognizer is right on videos that it was not trained on.

wavecast evaluate activity --model lrcn.moving_shapes --data.source moving_shapes --data.digits digits/
wavecast evaluate activity --model "[s1.ckpt, s2.ckpt, s3.ckpt]" --data.source UCF-101 --data.annotations lists/
wavecast evaluate activity --model rgb.ckpt+flow.ckpt --weights '[1, 2]' --data.source UCF-101 ...

Several models are those of the splits 1, 2 ... of one data set, and their mean counts. Models joined by + are fused.
Videos are recognized as `wavecast recognize` does it: whole, each with one answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wavecast.apps.activity.confusion import confusion, draw_confusion, recall
from wavecast.console import JsonReport, UsageError, say
from wavecast.core.errors import WavecastError
from wavecast.evaluation import evaluation_parser, parsed

Part = Literal["test", "validation"]
TOP = 5
RATE = 8.0
"""Frames a second of generated clips, and of folders of frames, where the model does not have its own."""


@dataclass
class Score:
    """How a model did on the videos of one split.

    Attributes:
        model: its name.
        split: number of the split; 0: there is only one.
        classes: of the data.
        true: labels, int64 (video,).
        ranks: classes by falling probability, int64 (video, class).
    """

    model: str
    split: int
    classes: tuple[str, ...]
    true: np.ndarray
    ranks: np.ndarray

    def top(self, count: int) -> float:
        """Give the share of videos whose class is among the most probable ones."""
        return float((self.ranks[:, :count] == self.true[:, None]).any(1).mean())

    @property
    def counts(self) -> np.ndarray:
        """How often each class was found for each: (true, found)."""
        return confusion(self.true, self.ranks[:, 0], len(self.classes))

    def row(self) -> dict[str, Any]:
        """Give the figures as plain data; the mean over classes leaves out those without a video."""
        rates = recall(self.counts)
        by_class = {name: float(rate) for name, rate in zip(self.classes, rates, strict=True) if np.isfinite(rate)}
        figures = {"top1": self.top(1), f"top{TOP}": self.top(TOP), "class_mean": float(np.nanmean(rates))}
        return {"model": self.model, "split": self.split, "videos": len(self.true), **figures, "by_class": by_class}


def evaluate(words: list[str]) -> int:
    """Run the command.

    Args:
        words: its options; `--data.*` are those of `ActivityData`, `--config` takes them from a recipe.

    Returns:
        0; whatever goes wrong is an error.

    Raises:
        UsageError: an option is unknown or has a wrong value.
        WavecastError: there is no such model, nothing to score on, or they do not fit.
    """
    args = parse(words)
    data, models = args.data, args.model
    if len(models) > 1 and not data.annotations:
        raise UsageError("several models are for the splits of a data set", "join models by + to fuse them")
    if args.plot and Path(args.plot).exists() and not args.overwrite:
        raise WavecastError(f"{args.plot} exists", "give --overwrite, or another name")
    report = JsonReport(args.json, args.overwrite)
    scores = []
    try:
        for number, model in enumerate(models, 1):
            if len(models) > 1:
                data.split, data.lists = number, None
            score = score_model(model, data, args, report, number if len(models) > 1 else 0)
            scores.append(score)
            report.add(score.row())
        if len(scores) > 1:
            report.add({"splits": len(scores), **mean(scores)})
    finally:
        report.close()
    if args.json != "-":
        print("\n".join(table(scores)))
    if args.plot:
        counts = np.sum([score.counts for score in scores], 0)
        draw_confusion(counts, scores[0].classes, Path(args.plot), scores[0].model)
    return 0


def parse(words: list[str]) -> Any:
    """Parse the options; `data` comes as an `ActivityData`.

    Raises:
        UsageError: an option is unknown or has a wrong value.
    """
    from wavecast.datamodules.activities import ActivityData

    parser = evaluation_parser("activity", ActivityData, several=True)
    parser.add_argument("--weights", type=list[float] | None, help="of models that are fused (all alike)")
    parser.add_argument("--part", type=Part, default="test", help="test, or validation")
    parser.add_argument("--plot", type=str | None, help="draw which class was found for which into this PNG")
    args = parsed(parser, words)
    args.model = args.model if isinstance(args.model, list) else [args.model]
    return args


def score_model(model: str | None, data: Any, args: Any, report: JsonReport, split: int) -> Score:
    """Recognize every video of a part of the data, one row of the report each.

    Raises:
        WavecastError: the model tells other classes apart, or a video cannot be read.
    """
    from wavecast.apps.activity.inference import Recognizer

    recognizer = Recognizer.load(model.split("+") if model else None, args.device, args.weights)
    data.setup("test" if args.part == "test" else "validate")
    classes = tuple(data.classes)
    if set(classes) != set(recognizer.classes):
        strange = ", ".join(sorted({*classes} ^ {*recognizer.classes})[:5])
        raise WavecastError(
            f"{recognizer.card.name} tells other classes apart than the data have: {strange} are not in both",
            "give the data that the model was trained for",
        )
    order = [recognizer.classes.index(name) for name in classes]
    name = " + ".join(card.name for card in recognizer.cards)
    rate = recognizer.networks[0].rate or RATE
    true, ranks = [], []
    for title, video, label in videos(data, args.part):
        found = recognizer(video, rate if isinstance(video, np.ndarray) else None).probabilities[order]
        ranks.append(np.argsort(-found, kind="stable"))
        true.append(label)
        row = {"video": title, "true": classes[label], "found": classes[ranks[-1][0]]}
        report.add({**row, "probability": round(float(found.max()), 4)} | ({"split": split} if split else {}))
        say(f"{len(true)} of {count_of(data, args.part)}", args.quiet or len(true) % 100 > 0)
    return Score(name, split, classes, np.array(true), np.array(ranks))


def count_of(data: Any, part: Part) -> int:
    """Count the videos of a part."""
    return int(data.test_count if part == "test" else data.validation_count)


def videos(data: Any, part: Part) -> Iterator[tuple[str, str | np.ndarray, int]]:
    """Give the videos of a part: what they are called, a path or frames (time, row, col, 3), and their label."""
    from wavecast.datamodules.activity_clips import GeneratedClips
    from wavecast.datamodules.frame_folders import FrameFolderReader

    source = data.test_source if part == "test" else data.validation_source
    for k in range(count_of(data, part)):
        if isinstance(source, GeneratedClips):
            frames, label = source.clips.clip(k)
            yield f"clip {k}", frames, label
            continue
        video = source.videos[k]
        if video.path.is_dir():
            with FrameFolderReader(video.path) as reader:
                yield str(video.path), reader.read(reader.frame_count())[0], video.label
        else:
            yield str(video.path), str(video.path), video.label


def mean(scores: Sequence[Score]) -> dict[str, float]:
    """Average the figures of the splits."""
    rows = [score.row() for score in scores]
    return {name: float(np.mean([row[name] for row in rows])) for name in ("top1", f"top{TOP}", "class_mean")}


def table(scores: Sequence[Score]) -> list[str]:
    """Write the figures in percent as lines: the splits and their mean, then every class, the worst first."""
    lines = [f"{'model':32}{'videos':>8}{'top-1 %':>9}{f'top-{TOP} %':>9}{'classes %':>11}"]
    for score in scores:
        name = f"{score.model}, split {score.split}" if score.split else score.model
        lines.append(f"{name:32}{len(score.true):8}" + _percent(score.row()))
    if len(scores) > 1:
        lines.append(f"{'mean':32}{sum(len(score.true) for score in scores):8}" + _percent(mean(scores)))
    rates = recall(np.sum([score.counts for score in scores], 0))
    known = [k for k in np.argsort(rates, kind="stable") if np.isfinite(rates[k])]
    return lines + [f"  {scores[0].classes[k]:30}{'':8}{100 * rates[k]:9.1f}" for k in known]


def _percent(figures: dict[str, Any]) -> str:
    return f"{100 * figures['top1']:9.2f}{100 * figures[f'top{TOP}']:9.2f}{100 * figures['class_mean']:11.2f}"
