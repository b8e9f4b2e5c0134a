"""`wavecast evaluate enhancement`: score a model on a validation set, beside the noisy input.

wavecast evaluate enhancement --model frcrn.stream16k --data.speech '[voices]' --data.noise '[noises]'
"""

import math
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

import wavecast
from wavecast.apps.enhancement import metrics
from wavecast.console import JsonReport, UsageError, say
from wavecast.core.errors import WavecastError
from wavecast.training import ignore_harmless, with_recipes

Row = dict[str, Any]
SCORES: dict[str, Callable[[np.ndarray, np.ndarray, int], float]] = {
    "si_sdr": lambda estimate, clean, rate: float(metrics.si_sdr(estimate, clean)),
    "pesq": metrics.pesq,
    "stoi": metrics.stoi,
}
PACKAGES = {"pesq": "pesq", "stoi": "pystoi"}
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
    args = parse(words)
    data = args.data
    report = JsonReport(args.json, args.overwrite)
    try:
        data.prepare_data()
        data.setup("validate")
        enhancer = wavecast.load("enhance", args.model, args.device)
        if enhancer.sample_rate != data.sample_rate:
            hint = f"give --data.sample_rate {enhancer.sample_rate}"
            raise WavecastError(f"the model works at {enhancer.sample_rate} Hz, the data at {data.sample_rate}", hint)
        scores = available(args.scores)
        rows = []
        for row in score(data, enhancer, scores):
            rows.append(row)
            report.add(row)
            say(f"{len(rows)} of {data.validation_count()}", args.quiet or len(rows) % 10 > 0)
        report.add({"model": enhancer.card.name, "items": len(rows), "mean": means(rows, scores)})
    finally:
        report.close()
    if args.json != "-":
        print(table(rows, scores))
    return 0


def parse(words: list[str]) -> Any:
    """Parse the options; `data` comes as an `EnhancementData`.

    Raises:
        UsageError: an option is unknown or has a wrong value.
    """
    from jsonargparse import ActionConfigFile, ArgumentParser

    from wavecast.datamodules.enhancement import EnhancementData

    parser = ArgumentParser(prog="wavecast evaluate enhancement", exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile, help="NAME of a shipped recipe or PATH: its data")
    parser.add_argument("--model", type=str | None, help="a name from `wavecast models list`, or a file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--scores", type=list[str], default=list(SCORES), help="of si_sdr, pesq, stoi")
    parser.add_argument("--json", type=str | None, help="write one JSON object an item to this file, - for stdout")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_class_arguments(EnhancementData, "data")
    try:
        with warnings.catch_warnings():
            ignore_harmless()
            return parser.instantiate_classes(parser.parse_args(list(with_recipes(words))))
    except ArgumentError as error:
        raise UsageError(" ".join(str(error).split()), "wavecast evaluate enhancement --help") from error


def available(names: list[str]) -> list[str]:
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
            for side, sound in (("noisy", noisy), ("enhanced", enhanced)):
                row[side] = {name: number(SCORES[name](sound, clean, data.sample_rate)) for name in scores}
        else:
            row["silence_level"] = {"noisy": float(metrics.level(noisy)), "enhanced": float(metrics.level(enhanced))}
        yield row


def number(value: float) -> float | None:
    """Give a score as JSON can hold it; None where the score does not apply."""
    return value if math.isfinite(value) else None


def means(rows: list[Row], scores: list[str]) -> dict[str, dict[str, float | None]]:
    """Average the scores of the rows that have them."""

    def mean(side: str, name: str) -> float | None:
        values = [row[side][name] for row in rows if side in row and row[side][name] is not None]
        return sum(values) / len(values) if values else None

    return {side: {name: mean(side, name) for name in scores} for side in ("noisy", "enhanced")}


def table(rows: list[Row], scores: list[str]) -> str:
    """Write the means as a table: a line for each range of SNR and one for all items."""
    lines = [f"{'snr':16}{'items':>6}" + "".join(f"{name:>18}" for name in scores)]
    for title, (low, high) in GROUPS.items():
        lines += _line(title, [row for row in rows if low <= row.get("snr", math.nan) < high], scores)
    lines += _line("all", [row for row in rows if "enhanced" in row], scores)
    silent = [row["silence_level"] for row in rows if "silence_level" in row]
    if silent:
        before, after = (sum(level[side] for level in silent) / len(silent) for side in ("noisy", "enhanced"))
        lines.append(f"{'no speech':16}{len(silent):6}   level {before:.1f} -> {after:.1f} dB")
    return "\n".join(lines)


def _line(title: str, rows: list[Row], scores: list[str]) -> list[str]:
    if not rows:
        return []
    average: Mapping[str, Mapping[str, float | None]] = means(rows, scores)
    cells = [
        "-".rjust(18)
        if average["enhanced"][name] is None or average["noisy"][name] is None
        else f"{average['noisy'][name]:8.2f} -> {average['enhanced'][name]:6.2f}"
        for name in scores
    ]
    return [f"{title:16}{len(rows):6}" + "".join(cells)]
