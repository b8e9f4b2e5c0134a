"""What every benchmark result carries: the device, the date and the commit."""

import datetime
import platform
import subprocess
from pathlib import Path


def facts(device: str = "") -> dict[str, str]:
    """Describe this run.

    Args:
        device: the accelerator's name; empty for the processor.
    """
    here = Path(__file__).resolve().parent
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True)
    return {
        "device": device or processor(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit.stdout.strip() or "unknown",
    }


def processor() -> str:
    """Name the processor and count its cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0]}, {len(models)} cores" if models else platform.processor() or platform.machine()
