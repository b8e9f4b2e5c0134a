"""What evaluating models for sound has in common: scores that are installed, means, tables.

A row has the scores of an item under two sides, before and after the model: {"noisy": {"si_sdr": 3.2}, "enhanced": ...}
"""

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from wavecast.apps.sound import metrics
from wavecast.console import UsageError, say
from wavecast.core.errors import WavecastError
from wavecast.evaluation import evaluation_parser, parsed

Row = dict[str, Any]
Sides = tuple[str, str]
Score = Callable[[np.ndarray, np.ndarray, int], float]


def si_sdr(estimate: np.ndarray, clean: np.ndarray, sample_rate: int) -> float:
    """Score by SI-SDR in dB: (samples,) each."""
    return float(metrics.si_sdr(estimate, clean))


SCORES: dict[str, Score] = {"si_sdr": si_sdr, "pesq": metrics.pesq, "stoi": metrics.stoi}
PACKAGES = {"pesq": "pesq", "stoi": "pystoi"}


def parse(task: str, data: type, words: list[str]) -> Any:
    """Parse the options of a task whose items have scores before and after the model.

    Args:
        task: name of the task.
        data: class of its data.
        words: the options.

    Raises:
        UsageError: an option is unknown or has a wrong value.
    """
    parser = evaluation_parser(task, data)
    parser.add_argument("--scores", type=list[str], default=list(SCORES), help=f"of {', '.join(SCORES)}")
    return parsed(parser, words)


def check_rate(model_rate: int, data_rate: int) -> None:
    """See that a model and the data are of one sample rate.

    Raises:
        WavecastError: they are not.
    """
    if model_rate != data_rate:
        hint = f"give --data.sample_rate {model_rate}"
        raise WavecastError(f"the model works at {model_rate} Hz, the data at {data_rate}", hint)


def available(names: Sequence[str]) -> list[str]:
    """Keep the scores whose packages are installed; say which are not.

    Raises:
        UsageError: there is no such score.
    """
    unknown = set(names) - set(SCORES)
    if unknown:
        raise UsageError(f"there is no score {sorted(unknown)[0]!r}", f"scores: {', '.join(SCORES)}")
    missing = [name for name in names if name in PACKAGES and find_spec(PACKAGES[name]) is None]
    for name in missing:
        say(f"without {name}: {PACKAGES[name]} is not installed (pip install 'wavecast[metrics]')")
    return [name for name in names if name not in missing]


def number(value: float) -> float | None:
    """Give a score as JSON can hold it; None where the score does not apply."""
    return value if math.isfinite(value) else None


def mean(values: Sequence[float | None]) -> float | None:
    """Average what is there; None where nothing is."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def means(rows: Sequence[Row], scores: Sequence[str], sides: Sides) -> dict[str, dict[str, float | None]]:
    """Average the scores of the rows that have them, on both sides."""
    return {side: {name: mean([row[side][name] for row in rows if side in row]) for name in scores} for side in sides}


def heading(what: str, scores: Sequence[str]) -> str:
    """Write the first line of a table."""
    return f"{what:16}{'items':>6}" + "".join(f"{name:>18}" for name in scores)


def line(title: str, rows: Sequence[Row], scores: Sequence[str], sides: Sides) -> list[str]:
    """Write the means of some rows as a line of a table; no line without rows."""
    if not rows:
        return []
    average: Mapping[str, Mapping[str, float | None]] = means(rows, scores, sides)
    cells = []
    for name in scores:
        before, after = (average[side][name] for side in sides)
        cells.append("-".rjust(18) if before is None or after is None else f"{before:8.2f} -> {after:6.2f}")
    return [f"{title:16}{len(rows):6}" + "".join(cells)]
