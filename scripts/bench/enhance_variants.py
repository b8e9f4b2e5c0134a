"""Variants of the streaming enhancer, trained alike and scored on the same validation items.

    python scripts/bench/enhance_variants.py --corpus CORPUS --work FOLDER [--steps 1000]

Every variant sees the same mixtures in the same order for the same number of steps, from scratch, by `wavecast train`
and `wavecast evaluate`; that is far from convergence, and says which design learns faster. The result goes to
`scripts/bench/results/enhance_variants.json`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from facts import facts

from wavecast.apps.enhancement.bench import time_calls
from wavecast.apps.enhancement.inference import Enhancer

HERE = Path(__file__).resolve().parent
BATCH, SECONDS = 4, 2.0  # of training crops
VARIANTS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "TCNCA instead of FSMN": {"memory": "tcnca"},
    "squeeze-excitation on the skips": {"excitation": "se"},
    "scSE on the skips": {"excitation": "scse"},
    "a mask of one frame (no deep filter)": {"filter_taps": 1},
}


def wavecast(*words: str) -> None:
    """Run a command of ours on one thread."""
    subprocess.run([sys.executable, "-m", "wavecast", *words], check=True)


def train(name: str, network: dict[str, Any], args: argparse.Namespace) -> Path:
    """Train one variant, unless its checkpoint is there."""
    run = args.work / name.replace(" ", "-")
    if found := list((run / "checkpoints").glob("step*.ckpt")):
        return found[0]
    words = ["train", "enhancement", "--config", "enhancement_frcrn_stream", "--run", str(run), "--quiet"]
    settings = {
        "model.network": json.dumps(network),
        "model.warmup_steps": "100",
        "model.learning_rate": "0.002",
        "data.speech": json.dumps([str(args.corpus / "speech"), str(args.corpus / "tts")]),
        "data.noise": json.dumps([str(args.corpus / "noise")]),
        "data.cache": str(args.work / "cache"),
        "data.seconds": str(SECONDS),
        "data.batch_size": str(BATCH),
        "data.items": str(BATCH * args.steps),
        "data.workers": "0",
        "trainer.max_epochs": "1",
        "trainer.accelerator": "cpu",
    }
    wavecast(*words, *[f"--{key}={value}" for key, value in settings.items()])
    (checkpoint,) = (run / "checkpoints").glob("step*.ckpt")
    return checkpoint


def evaluate(checkpoint: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Score a checkpoint: means over the validation items."""
    report = checkpoint.with_suffix(".jsonl")
    data = ["--data.speech", json.dumps([str(args.corpus / "speech"), str(args.corpus / "tts")])]
    data += ["--data.noise", json.dumps([str(args.corpus / "noise")]), "--data.cache", str(args.work / "cache")]
    wavecast("evaluate", "enhancement", "--model", str(checkpoint), *data, "--json", str(report), "--overwrite")
    means: dict[str, Any] = json.loads(report.read_text().splitlines()[-1])["mean"]
    return means


def cost(checkpoint: Path) -> dict[str, float]:
    """Count parameters in millions, and measure live processor seconds per second of sound."""
    enhancer = Enhancer.load(str(checkpoint), "cpu")
    sound = (0.05 * torch.randn(1, 20 * enhancer.sample_rate)).numpy()
    _, _, cpu = time_calls(enhancer.stream, sound, enhancer.block)
    return {
        "parameters_m": sum(p.numel() for p in enhancer.network.parameters()) / 1e6,
        "live_cpu_per_second": cpu / 20,
    }


def main() -> None:
    """Train and score all variants; finished ones are kept when the run is repeated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in args.variants:
        done = args.work / f"{name.replace(' ', '-')}.json"
        if not done.exists():
            checkpoint = train(name, VARIANTS[name], args)
            row = {"variant": name, **cost(checkpoint), **evaluate(checkpoint, args)}
            done.write_text(json.dumps(row))
        rows.append(json.loads(done.read_text()))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    result = {"steps": args.steps, "hours_heard": args.steps * BATCH * SECONDS / 3600, "rows": rows, **facts()}
    (HERE / "results" / "enhance_variants.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
