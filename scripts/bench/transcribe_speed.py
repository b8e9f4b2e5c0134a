"""Speed of live transcription: a FastConformer of 115 M parameters, 80 ms at a time, one stream and sixteen.

    python scripts/bench/transcribe_speed.py [--threads 1] [--repeats 30]

The large hybrid with random weights and look-ahead 0, as `StreamPool` runs it: features, encoder and the greedy
transducer of every stream, which says nothing: a token costs another 3 ms of a stream alone, 0.8 ms in the batch, and
people say about three a second. Streams are full of age, their caches full. Milliseconds are processor time of a step,
the median of the repeats; streams per core are 80 ms over the time of a stream in a step. Correctness comes first: a
stream in pieces, and the streams of a pool, must equal the whole signal's frames, else nothing is timed.

Beside it stands what NeMo 3.0 was recorded to take on one thread of such a machine, because it could not be installed
here: 78 ms a step, 3.0 streams per core in a batch of sixteen. Results: `results/transcribe_speed.json`.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from facts import facts
from torch import Tensor

from wavecast.apps.transcription.decoding import GreedyTransducer
from wavecast.apps.transcription.fastconformer import FRAME, FastConformer
from wavecast.apps.transcription.quantized import quantize_linears
from wavecast.core.recorded import Recorded
from wavecast.core.state import leaves
from wavecast.core.stream_pool import StreamPool

HERE = Path(__file__).resolve().parent
VOCABULARY = 1024
STREAMS = 16
FULL = 75  # steps until the caches of 70 frames are full
NEMO = {"step_ms": 78.0, "streams_per_core": 3.0}
FRAME_MS = 80
QUIET = 0.6  # added to the blank's logit: a random network either says nothing, or ten tokens in every frame


def large() -> FastConformer:
    """Build the large hybrid with random weights."""
    torch.manual_seed(0)
    network = FastConformer(VOCABULARY, prediction_width=640).eval()
    network.choose_context(70, 0)
    with torch.no_grad():
        network.joint.output.bias[-1] += QUIET
    return network


def gate(network: FastConformer) -> None:
    """End the run when a pool of streams does not give the frames of the whole signals."""
    x = 0.1 * torch.randn(2, 20 * FRAME)
    with torch.no_grad():
        whole = network(x)[0]
    pool = StreamPool(network, FRAME, capacity=2)
    streams = [pool.join() for _ in x]
    pieces: dict[int, list[Tensor]] = {stream: [] for stream in streams}
    for stream, row in zip(streams, x, strict=True):
        pool.push(stream, row[None, : 7 * FRAME])
    for i in range(20):
        for stream, row in zip(streams, x, strict=True):
            pool.push(stream, row[None, (i + 7) * FRAME : (i + 8) * FRAME])
        for stream, piece in pool.step():
            pieces[stream].append(piece)
    for stream in streams:
        pool.finish(stream)
    while len(pool):
        for stream, piece in pool.step():
            pieces[stream].append(piece)
    found = torch.cat([torch.cat(pieces[stream], 1) for stream in streams])
    if found.shape != whole.shape or (found - whole).abs().max() > 1e-4 * whole.abs().max():
        sys.exit("streams differ from the whole signal; nothing was timed")


def measure(network: FastConformer, streams: int, repeats: int) -> dict[str, Any]:
    """Time steps of that many streams of full age."""
    pool = StreamPool(Recorded(network), FRAME, capacity=streams)
    decoder = GreedyTransducer(network.prediction, network.joint)
    members = [pool.join() for _ in range(streams)]
    generator = torch.Generator().manual_seed(1)
    state, times, tokens = None, [], 0
    for i in range(FULL + 40 + repeats):
        x = 0.1 * torch.randn(streams, FRAME, generator=generator)
        for member, row in zip(members, x, strict=True):
            pool.push(member, row[None])
        begun = time.process_time()
        pieces = pool.step()
        found, state = decoder.step(torch.cat([piece for _, piece in pieces]), state)
        if i >= FULL + 40:
            times.append(time.process_time() - begun)
            tokens += sum(len(row.ids) for row in found)
    one = pool._members[members[0]].seat
    held = sum(leaf[0].numel() * leaf.element_size() for leaf in leaves(one.batch))
    step = float(np.median(times))
    return {
        "streams": streams,
        "step_ms": 1000 * step,
        "streams_per_core": FRAME_MS / 1000 / (step / streams),
        "tokens_per_second": tokens / streams / len(times) / (FRAME_MS / 1000),
        "state_mib_per_stream": held / 2**20,
    }


def main() -> None:
    """Measure all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "transcribe_speed.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    network = large()
    gate(network)
    rows = []
    for precision in ("float32", "int8"):
        network = network if precision == "float32" else quantize_linears(network)
        for streams in (1, STREAMS):
            rows.append({"precision": precision, **measure(network, streams, args.repeats)})
            print(json.dumps(rows[-1]), flush=True)
    result = {"threads": args.threads, "rows": rows, "nemo_recorded": NEMO, **facts()}
    args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
