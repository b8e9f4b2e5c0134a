"""How fast a model transcribes live speech on this machine, alone and many streams at a time."""

import resource
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from wavecast.apps.transcription.inference import PRECISIONS, Options, Transcriber
from wavecast.apps.transcription.pool import TranscriptPool
from wavecast.core.errors import WavecastError


def measure(model: str | None, device: str, seconds: int, streams: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Measure a model on noise: a step takes every stream a block further.

    Args:
        model: name or path; None for the default.
        device: as `Transcriber.load`.
        seconds: of sound of each stream, after the caches are full.
        streams: numbers of streams at a time.

    Returns:
        A row for each precision, look-ahead and number of streams: median, 95th and 100th percentile of a step in
        milliseconds, how long a word waits at most (the block it is in, and the step), real-time factor of all streams
        together, how many of them the threads could carry, peak memory of the process in MiB.

    Raises:
        WavecastError: the model does not stream.
    """
    for precision in PRECISIONS if device in ("auto", "cpu") else PRECISIONS[:1]:
        transcriber = Transcriber.load(model, device, precision)
        if not transcriber.streams:
            raise WavecastError(f"{transcriber.card.name} does not stream", "there is nothing live to measure")
        for look_ahead in sorted(transcriber.look_aheads):
            transcriber.choose_look_ahead(look_ahead)
            for count in streams:
                times = 1000 * np.array(time_steps(transcriber, count, seconds))
                block = 1000 * transcriber.block / transcriber.sample_rate
                median, slow, slowest = np.percentile(times, [50, 95, 100])
                yield {
                    "model": transcriber.card.name,
                    "precision": precision,
                    "threads": torch.get_num_threads(),
                    "look_ahead_ms": look_ahead,
                    "streams": count,
                    "step_ms": round(float(median), 2),
                    "step_ms_95": round(float(slow), 2),
                    "step_ms_slowest": round(float(slowest), 2),
                    "latency_ms_95": round(block + float(slow), 1),
                    "real_time_factor": round(float(times.mean()) / block, 4),
                    "streams_carried": int(count * block / float(times.mean())),
                    "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
                }


def time_steps(transcriber: Transcriber, count: int, seconds: int) -> list[float]:
    """Time the steps of that many streams: seconds of each, once their caches are full."""
    pool = TranscriptPool(transcriber, count, Options())
    rng, block = np.random.default_rng(0), transcriber.block
    members = [pool.join() for _ in range(count)]
    left = max(left for left, _ in transcriber.network.contexts)
    warm = left * 1280 // block + 40
    times = []
    for i in range(warm + max(1, seconds * transcriber.sample_rate // block)):
        for member in members:
            pool.push(member, rng.normal(0, 0.05, block).astype(np.float32))
        begun = time.perf_counter()
        pool.step()
        if i >= warm:
            times.append(time.perf_counter() - begun)
    return times
