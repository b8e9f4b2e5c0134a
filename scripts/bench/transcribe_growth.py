"""Growth of live transcription: time of a step, and memory, against how long the streams have lasted.

    python scripts/bench/transcribe_growth.py [--minutes 60] [--streams 8]

A pool of speakers of the small recipe's network with random weights, which talks about as much as people do, runs as
long as is asked for; nothing may grow. Times are processor milliseconds of a step, medians of each tenth; memory is
what the process holds. Results: `results/transcribe_growth.json`.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from facts import facts

from wavecast.apps.transcription.inference import Options, Transcriber
from wavecast.apps.transcription.pool import TranscriptPool
from wavecast.apps.transcription.tokenizer import Tokenizer
from wavecast.cards import Card, build_network
from wavecast.training import read_recipe

HERE = Path(__file__).resolve().parent
PARTS = 10
QUIET = 0.35  # added to the blank's logit: the random network then says about as much as people do
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def transcriber() -> Transcriber:
    """Build the small network with random weights, and letters for its tokens."""
    pieces = ["<unk>", *(f"▁{letter}" for letter in LETTERS), *LETTERS]
    settings = read_recipe("transcription_fastconformer_small")["model"]["network"] | {"vocabulary": len(pieces)}
    torch.manual_seed(0)
    card = Card("growth", "fastconformer", "transcribe", settings, 16_000)
    network = build_network(card).eval()
    with torch.no_grad():
        network.joint.output.bias[-1] += QUIET
    return Transcriber(card, network, Tokenizer.from_pieces(pieces))


def resident_mib() -> float:
    """Give the memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    """Measure all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "transcribe_growth.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = transcriber()
    pool = TranscriptPool(model, args.streams, Options())
    speakers = [pool.join() for _ in range(args.streams)]
    rng = np.random.default_rng(0)
    steps = round(args.minutes * 60 * model.sample_rate / model.block)
    rows, times, words = [], [], 0
    for i in range(steps):
        for speaker in speakers:
            pool.push(speaker, rng.normal(0, 0.1, model.block).astype(np.float32))
        begun = time.process_time()
        for _, segments in pool.step():
            words += sum(len(segment.words) for segment in segments)
        times.append(time.process_time() - begun)
        if (i + 1) % (steps // PARTS) == 0:
            minutes = (i + 1) * model.block / model.sample_rate / 60
            rows.append(
                {
                    "minutes": minutes,
                    "step_ms": 1000 * float(np.median(times)),
                    "resident_mib": resident_mib(),
                    "words": words,
                }
            )
            times = []
            print(json.dumps(rows[-1]), flush=True)
    result = {"streams": args.streams, "threads": args.threads, "block_ms": model.block / 16, "rows": rows, **facts()}
    args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
