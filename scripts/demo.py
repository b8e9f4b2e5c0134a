"""Enhance the example recording and forecast the example fields, with pictures and what was gained: `make demo`."""

import json
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from wavecast.main import main

ROOT = Path(__file__).resolve().parents[1]
LEAST = 6.0  # dB of SI-SDR below which something is wrong


def enhance(folder: Path) -> int:
    """Run `wavecast enhance` on the recording."""
    noisy, clean = ROOT / "examples" / "noisy.flac", ROOT / "examples" / "clean.flac"
    result, report = folder / "enhanced.flac", folder / "report.json"
    words = ["enhance", str(noisy), "-o", str(result), "--reference", str(clean), "--plot", "--overwrite", "--quiet"]
    code = main([*words, "--json", str(report)])
    if code:
        return code
    row = json.loads(report.read_text())
    print(f"enhanced  {noisy.relative_to(ROOT)}: {row['seconds']:.1f} s in {row['wall_seconds']:.1f} s")
    print(f"sound     {result.relative_to(ROOT)}")
    print(f"picture   {Path(row['plot']).relative_to(ROOT)}")
    print(f"SI-SDR    {row['si_sdr_in']:.1f} dB -> {row['si_sdr_out']:.1f} dB: {row['si_sdr_gain']:+.1f} dB")
    if "pesq_in" in row:
        print(f"PESQ      {row['pesq_in']:.2f} -> {row['pesq_out']:.2f}")
    return 0 if row["si_sdr_gain"] >= LEAST else 1


def forecast(folder: Path) -> int:
    """Run `wavecast forecast` from the middle of the fields, and `wavecast score` against the rest of them."""
    fields, result, report = ROOT / "examples" / "uk_t2m.nc", folder / "forecast.nc", folder / "scores.jsonl"
    words = ["forecast", str(fields), "--init", "2019-03-22T11", "-o", str(result), "--overwrite", "--quiet"]
    if code := main(words):
        return code
    words = ["score", str(result), str(fields), "--plot", "--json", str(report), "--overwrite", "--quiet"]
    with redirect_stdout(StringIO()):
        code = main(words)
    if code:
        return code
    errors: dict[str, list[float]] = {"forecast": [], "persistence": []}
    for row in map(json.loads, report.read_text().splitlines()):
        if row["metric"] == "rmse" and row["method"] in errors:
            errors[row["method"]].append(row["value"])
    ours, persistence = (sum(values) / len(values) for values in errors.values())
    print(f"\nforecast  {fields.relative_to(ROOT)}: 12 h of 2 m temperature over the British Isles")
    print(f"fields    {result.relative_to(ROOT)}")
    print(f"pictures  {', '.join(str(path.relative_to(ROOT)) for path in sorted(folder.glob('forecast*.png')))}")
    print(f"RMSE      {ours:.2f} K on average over 12 h, persistence {persistence:.2f} K")
    return 0 if ours < persistence else 1


def demo() -> int:
    """Run both, into `demo/`."""
    folder = ROOT / "demo"
    folder.mkdir(exist_ok=True)
    return max(enhance(folder), forecast(folder))


if __name__ == "__main__":
    sys.exit(demo())
