"""How fast a model separates on this machine."""

import resource
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from wavecast.apps.enhancement.bench import time_calls
from wavecast.apps.separation.inference import Options, Separator
from wavecast.core.stream import flushed_denormals


def measure(model: str | None, device: str, seconds: int) -> Iterator[dict[str, Any]]:
    """Measure a model on noise: live blocks and larger ones, or recordings of several lengths.

    Args:
        model: name or path; None for the default.
        device: as `Separator.load`.
        seconds: of sound; a model that needs the whole signal hears a fifth, all, and four times of it.

    Returns:
        A row for each block size or length: wall and processor seconds per second of sound, peak memory of the process
        so far in MiB; of live blocks the slowest and the median call in milliseconds, and the latency, too.
    """
    separator = Separator.load(model, device)
    rows = live_blocks(separator, seconds) if separator.streams else recordings(separator, seconds)
    for row in rows:
        about = {"model": separator.card.name, "threads": torch.get_num_threads()}
        yield about | row | {"peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10}


def live_blocks(separator: Separator, seconds: int) -> Iterator[dict[str, Any]]:
    """Time a causal model with its own block and larger ones."""
    x = noise(separator, seconds)
    for block in (separator.block, 4 * separator.block, 64 * separator.block):
        with flushed_denormals():
            calls, wall, cpu = time_calls(partial(separator.stream, options=Options(block=block)), x, block)
        yield {
            "block": block,
            "latency_ms": round(1000 * (separator.latency + block - separator.block) / separator.sample_rate, 1),
            "real_time_factor": round(wall / seconds, 4),
            "cpu_per_second": round(cpu / seconds, 4),
            "median_call_ms": round(1000 * float(np.median(calls)), 2),
            "slowest_call_ms": round(1000 * max(calls), 2),
        }


def recordings(separator: Separator, seconds: int) -> Iterator[dict[str, Any]]:
    """Time a model that needs the whole signal on several lengths, after a second that does not count."""
    separator(noise(separator, 1)[0])
    for length in (max(1, seconds // 5), seconds, 4 * seconds):
        x = noise(separator, length)[0]
        with flushed_denormals():
            begun, cpu = time.perf_counter(), time.process_time()
            separator(x)
        yield {
            "seconds": length,
            "windows": max(
                1, -(-(len(x) - separator.plan.overlap) // (separator.plan.window - separator.plan.overlap))
            ),
            "real_time_factor": round((time.perf_counter() - begun) / length, 4),
            "cpu_per_second": round((time.process_time() - cpu) / length, 4),
        }


def noise(separator: Separator, seconds: int) -> np.ndarray:
    """Make noise at the model's rate: (1, samples)."""
    samples = seconds * separator.sample_rate
    return np.random.default_rng(0).normal(0, 0.05, (1, samples)).astype(np.float32)
