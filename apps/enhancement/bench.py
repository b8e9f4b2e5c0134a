"""How fast a model enhances on this machine."""

import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from wavecast.apps.enhancement.inference import Enhancer, Options
from wavecast.core.stream import flushed_denormals


def measure(model: str | None, device: str, seconds: int) -> Iterator[dict[str, Any]]:
    """Measure a model on noise, live blocks and larger ones.

    Args:
        model: name or path; None for the default.
        device: as `Enhancer.load`.
        seconds: of sound.

    Returns:
        A row for each block size (one for a model that needs the whole signal): wall and processor seconds per second
        of sound, the slowest and the median call in milliseconds, latency, peak memory of the process in MiB.
    """
    enhancer = Enhancer.load(model, device)
    x = np.random.default_rng(0).normal(0, 0.05, (1, seconds * enhancer.sample_rate)).astype(np.float32)
    blocks = [enhancer.block, 4 * enhancer.block, 64 * enhancer.block] if enhancer.streams else [x.shape[1]]
    gain = enhancer.input_gain(lambda: [x])
    for block in blocks:
        options = Options(block=block if enhancer.streams else None)
        with flushed_denormals():
            begin = partial(enhancer.stream, options=options, gain=gain)
            calls, wall, cpu = time_calls(begin, x, block)
        yield {
            "model": enhancer.card.name,
            "threads": torch.get_num_threads(),
            "block": block,
            "latency_ms": round(1000 * (enhancer.latency + block - enhancer.block) / enhancer.sample_rate, 1)
            if enhancer.streams
            else None,
            "real_time_factor": round(wall / seconds, 4),
            "cpu_per_second": round(cpu / seconds, 4),
            "median_call_ms": round(1000 * float(np.median(calls)), 2),
            "slowest_call_ms": round(1000 * max(calls), 2),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        }


def time_calls(begin: Callable[[], Any], x: np.ndarray, block: int) -> tuple[list[float], float, float]:
    """Time every push of a stream of any model for sound, which `begin` begins.

    Returns:
        Seconds of each push, wall and processor seconds of all.
    """
    warm = begin()
    warm.push(x[:, : 4 * block])
    warm.flush()
    stream = begin()
    begun, cpu, calls = time.perf_counter(), time.process_time(), []
    for start in range(0, x.shape[1], block):
        at = time.perf_counter()
        stream.push(x[:, start : start + block])
        calls.append(time.perf_counter() - at)
    stream.flush()
    return calls, time.perf_counter() - begun, time.process_time() - cpu
