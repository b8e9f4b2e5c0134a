"""Print the tables of the README from the committed results.

python scripts/bench/tables.py [--write]     # --write: put them into README.md, between the markers
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "scripts" / "bench" / "results"
NAMES = {"noisy": "noisy input", "wavecast": "**frcrn.stream16k**"}


def read(name: str) -> dict[str, Any]:
    """Read a result."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def source(result: dict[str, Any]) -> str:
    """Say where a result comes from."""
    return f"{result['device']}, {result['date']}, commit {result['commit'][:8]}"


def quality() -> str:
    """Set the streaming enhancer beside its peers."""
    result = read("enhance_quality")
    costs = result["cpu_seconds_per_second"]
    lines = [
        "| | SI-SDR dB | PESQ | STOI | DNSMOS | CPU s per s |",
        "|---|---|---|---|---|---|",
    ]
    for system, row in result["systems"].items():
        cost = f"{costs[system]:.3f}" if system in costs else ""
        lines.append(
            f"| {NAMES.get(system, system)} | {row['si_sdr']:.2f} | {row['pesq']:.2f} | {row['stoi']:.3f} "
            f"| {row['dnsmos_ovrl']:.2f} | {cost} |"
        )
    lines += [
        "",
        f"{result['mixtures']} mixtures of {result['seconds']} s at -5 to 12 dB, voices and noises never trained on; "
        f"PESQ of clean speech through the model {result['pesq_of_clean']:.2f}, digital silence stays below "
        f"{result['peak_of_silence']:.0e}. `scripts/bench/enhance_quality.py`, {source(result)}.",
    ]
    return "\n".join(lines)


def speed() -> str:
    """Set the published FRCRN beside its reference implementation."""
    result = read("enhance_speed")
    lines = ["| FRCRN | clearvoice | wavecast | times less | peak memory |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        theirs, ours = row["clearvoice"], row["wavecast"]
        lines.append(
            f"| {row['seconds']} s | {theirs['cpu_per_second']:.2f} CPU s per s | {ours['cpu_per_second']:.2f} "
            f"| {row['times_less']:.1f} | {theirs['peak_gb']:.1f} -> {ours['peak_gb']:.1f} GB |"
        )
    agreement = f"{result['agreement']:.0e}"
    lines += [
        "",
        f"One thread, one pass, both filled with the same weights, outputs equal to {agreement} of the largest value. "
        f"`scripts/bench/enhance_speed.py`, {source(result)}.",
    ]
    return "\n".join(lines)


TABLES = {"quality": quality, "speed": speed}


def filled(text: str) -> str:
    """Put the tables between their markers."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        text, found = re.subn(pattern, lambda _, t=table, b=begin, e=end: b + t() + e, text, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"README.md has {found} places for the table {name}\nhint: <!-- {name} --> ... once")
    return text


def main() -> None:
    """Print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        path = ROOT / "README.md"
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for table in TABLES.values():
        print(table() + "\n")


if __name__ == "__main__":
    main()
