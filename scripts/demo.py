"""Enhance the example recording, draw it before and after, and say what was gained: `make demo`."""

import json
import sys
from pathlib import Path

from wavecast.main import main

ROOT = Path(__file__).resolve().parents[1]
LEAST = 6.0  # dB of SI-SDR below which something is wrong


def demo() -> int:
    """Run `wavecast enhance` on `examples/`, into `demo/`."""
    folder = ROOT / "demo"
    folder.mkdir(exist_ok=True)
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


if __name__ == "__main__":
    sys.exit(demo())
