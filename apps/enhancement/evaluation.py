"""`wavecast evaluate enhancement`: score a model on a validation set, beside the noisy input.

wavecast evaluate enhancement --model frcrn.stream16k --data.speech '[voices]' --data.noise '[noises]'
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

import wavecast
from wavecast.apps.sound import metrics
from wavecast.apps.sound.evaluation import SCORES, Row, available, check_rate, heading, line, means, number, parse
from wavecast.console import JsonReport, say

SIDES = ("noisy", "enhanced")
GROUPS: dict[str, tuple[float, float]] = {
    "below 0 dB": (-math.inf, 0),
    "0 to 10 dB": (0, 10),
    "10 dB and more": (10, math.inf),
}


def evaluate(words: list[str]) -> int:
    """Run the command.

    Args:
        words: its options; `--data.*` are those of `EnhancementData`, `--config` takes them from a recipe.

    Raises:
        UsageError: an option is unknown or has a wrong value.
        WavecastError: there is no such model, or nothing to validate on.
    """
    from wavecast.datamodules.enhancement import EnhancementData

    args = parse("enhancement", EnhancementData, words)
    data = args.data
    report = JsonReport(args.json, args.overwrite)
    try:
        data.prepare_data()
        data.setup("validate")
        enhancer = wavecast.load("enhance", args.model, args.device)
        check_rate(enhancer.sample_rate, data.sample_rate)
        scores = available(args.scores)
        rows = []
        for row in score(data, enhancer, scores):
            rows.append(row)
            report.add(row)
            say(f"{len(rows)} of {data.validation_count()}", args.quiet or len(rows) % 10 > 0)
        report.add({"model": enhancer.card.name, "items": len(rows), "mean": means(rows, scores, SIDES)})
    finally:
        report.close()
    if args.json != "-":
        print(table(rows, scores))
    return 0


def score(data: Any, enhancer: Any, scores: list[str]) -> Iterator[Row]:
    """Score every validation item: noisy and enhanced, by each of the scores that apply to it."""
    for k in range(data.validation_count()):
        item = data.validation_source.item(k)
        noisy, clean = item["noisy"], item["clean"]
        enhanced = np.asarray(enhancer(noisy), np.float32)
        row: Row = {"item": k}
        if "snr" in item and math.isfinite(item["snr"]):
            row["snr"] = float(item["snr"])
        if float(metrics.level(clean)) > -80:
            for side, sound in zip(SIDES, (noisy, enhanced), strict=True):
                row[side] = {name: number(SCORES[name](sound, clean, data.sample_rate)) for name in scores}
        else:
            row["silence_level"] = {"noisy": float(metrics.level(noisy)), "enhanced": float(metrics.level(enhanced))}
        yield row


def table(rows: list[Row], scores: list[str]) -> str:
    """Write the means as a table: a line for each range of SNR and one for all items."""
    lines = [heading("snr", scores)]
    for title, (low, high) in GROUPS.items():
        lines += line(title, [row for row in rows if low <= row.get("snr", math.nan) < high], scores, SIDES)
    lines += line("all", [row for row in rows if "enhanced" in row], scores, SIDES)
    silent = [row["silence_level"] for row in rows if "silence_level" in row]
    if silent:
        before, after = (sum(level[side] for level in silent) / len(silent) for side in SIDES)
        lines.append(f"{'no speech':16}{len(silent):6}   level {before:.1f} -> {after:.1f} dB")
    return "\n".join(lines)
