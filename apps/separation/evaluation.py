"""`wavecast evaluate separation`: score a model on a validation set, beside the mixtures themselves.

wavecast evaluate separation --model mossformer2.ss2_small --data.speech '[voices]'
wavecast evaluate separation --model mossformer2.ss2_small --data.validation_mixtures Libri2Mix/wav8k/min/test

Scores are those of the best assignment of outputs to speakers, and means over the speakers of a mixture. What belongs
to no speaker is an output of its own: noise that `wavecast separate` leaves with the speakers does not count.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import wavecast
from wavecast.apps.separation.inference import Options
from wavecast.apps.separation.metrics import separated
from wavecast.apps.sound.evaluation import SCORES, Row, available, check_rate, heading, line, mean, means, number, parse
from wavecast.console import JsonReport, say
from wavecast.core.errors import WavecastError

SIDES = ("mixture", "separated")
CLOSE = 3.0
"""Speakers less than this apart, in dB, count as equally loud."""


def evaluate(words: list[str]) -> int:
    """Run the command.

    Args:
        words: its options; `--data.*` are those of `SeparationData`, `--config` takes them from a recipe.

    Raises:
        UsageError: an option is unknown or has a wrong value.
        WavecastError: there is no such model, nothing to validate on, or they do not fit.
    """
    from wavecast.datamodules.separation import SeparationData

    args = parse("separation", SeparationData, words)
    data = args.data
    report = JsonReport(args.json, args.overwrite)
    try:
        data.prepare_data()
        data.setup("validate")
        separator = wavecast.load("separate", args.model, args.device)
        check_rate(separator.sample_rate, data.sample_rate)
        if separator.speakers != data.speakers:
            hint = f"give --data.speakers {separator.speakers}, or another model"
            raise WavecastError(f"the model is for {separator.speakers} speakers, the data have {data.speakers}", hint)
        scores = available(args.scores)
        rows: list[Row] = []
        for row in score(data, separator, scores):
            rows.append(row)
            report.add(row)
            say(f"{len(rows)} of {data.validation_count()}", args.quiet or len(rows) % 10 > 0)
        report.add({"model": separator.card.name, "items": len(rows), "groups": summary(rows, scores)})
    finally:
        report.close()
    if args.json != "-":
        print("\n".join([heading("mixtures", scores), *table(rows, scores)]))
    return 0


def score(data: Any, separator: Any, scores: list[str]) -> Iterator[Row]:
    """Score every validation item: the mixture and what was separated, against every speaker who is heard."""
    for k in range(data.validation_count()):
        item = data.validation_source.item(k)
        mixture, sources = item["mixture"], item["sources"]
        found = separator(mixture, options=Options(speakers=data.speakers, residual=True))[: data.speakers]
        measured, ordered = separated(torch.from_numpy(found.T.copy())[None], torch.from_numpy(sources)[None])
        heard = np.flatnonzero(measured[0].isfinite().numpy())
        row: Row = {"item": k, "talking": len(heard)}
        row |= {name: round(float(item[name]), 3) for name in ("real", "difference") if name in item}
        if len(heard):
            outputs = ordered[0].numpy()
            for side, sounds in zip(SIDES, (np.repeat(mixture[:, None], data.speakers, 1), outputs), strict=True):
                row[side] = {
                    name: mean(
                        [
                            number(SCORES[name](sounds[:, n].copy(), sources[:, n].copy(), data.sample_rate))
                            for n in heard
                        ]
                    )
                    for name in scores
                }
        yield row


def groups(rows: list[Row]) -> dict[str, list[Row]]:
    """Group mixtures: by kind of voices and by level where that is known, single speakers apart."""
    several = [row for row in rows if row["talking"] > 1]
    return {
        "real": [row for row in several if row.get("real") == 1],
        "synthetic": [row for row in several if row.get("real") == 0],
        "equally loud": [row for row in several if row.get("difference", np.inf) < CLOSE],
        "differently loud": [row for row in several if row.get("difference", -np.inf) >= CLOSE],
        "all": several,
        "single speaker": [row for row in rows if row["talking"] == 1],
    }


def summary(rows: list[Row], scores: list[str]) -> dict[str, Any]:
    """Average the groups that have mixtures."""
    found = {name: some for name, some in groups(rows).items() if some}
    return {name: {"items": len(some), **means(some, scores, SIDES)} for name, some in found.items()}


def table(rows: list[Row], scores: list[str]) -> list[str]:
    """Write the means as lines of a table, one a group."""
    return [text for name, some in groups(rows).items() for text in line(name, some, scores, SIDES)]
