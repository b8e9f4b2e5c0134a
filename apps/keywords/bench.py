"""How fast a model spots words in live sound on this machine."""

import resource
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from wavecast.apps.enhancement.bench import time_calls
from wavecast.apps.keywords.inference import Options, Spotter

HOPS = (4, 8, 16)
"""Frames of 10 ms between decisions."""


def measure(model: str | None, device: str, seconds: int) -> Iterator[dict[str, Any]]:
    """Measure a model on noise, block by block.

    Args:
        model: name or path; None for the default.
        device: as `Spotter.load`.
        seconds: of sound.

    Returns:
        A row for each time between decisions: wall and processor seconds per second of sound; median, 95th and 100th
        percentile of a live block in milliseconds; how late a decision is at most (the block it is in, and the call);
        the last fifth of the blocks compared with the second one: 1 where the cost does not grow with the stream; peak
        memory of the process in MiB.
    """
    spotter = Spotter.load(model, device)
    x = np.random.default_rng(0).normal(0, 0.05, (1, seconds * spotter.sample_rate)).astype(np.float32)
    for hop in HOPS:
        options = Options(hop=hop)
        begin = partial(spotter.stream, options=options)
        stream = begin()
        block, step = stream.block, spotter.timing(stream.views).step
        calls, wall, cpu = time_calls(begin, x, block)
        median, slow, slowest = 1000 * np.percentile(calls, [50, 95, 100])
        parts = np.array_split(np.array(calls), 5)
        yield {
            "model": spotter.card.name,
            "threads": torch.get_num_threads(),
            "decision_ms": round(1000 * step),
            "block": block,
            "real_time_factor": round(wall / seconds, 4),
            "cpu_per_second": round(cpu / seconds, 4),
            "median_call_ms": round(float(median), 2),
            "call_ms_95": round(float(slow), 2),
            "slowest_call_ms": round(float(slowest), 2),
            "latency_ms_95": round(1000 * block / spotter.sample_rate + float(slow), 1),
            "growth": round(float(np.median(parts[-1]) / np.median(parts[1])), 2),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        }
