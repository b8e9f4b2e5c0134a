"""How fast a model recognizes on this machine."""

import resource
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from wavecast.apps.activity.inference import BLOCK, Recognizer

RATE = 25.0  # frames per second of video whose model has no rate of its own
SIZE = (240, 320)


def measure(model: str | None, device: str, seconds: int) -> Iterator[dict[str, Any]]:
    """Measure a model on moving noise: live, frame by frame, and a whole video.

    Args:
        model: name or path; None for the default.
        device: as `Recognizer.load`.
        seconds: of video.

    Returns:
        Two rows: frames per second, wall and processor seconds per second of video, peak memory of the process so far
        in MiB; of live video the median, the 95th percentile and the slowest frame in milliseconds, the latency of a
        moment, and how much slower the last quarter is than the second one, which a stream must not become.
    """
    recognizer = Recognizer.load(model, device)
    rate = recognizer.networks[0].rate or RATE
    recognizer(video(BLOCK), rate)  # does not count: libraries warm up
    for row in (live(recognizer, seconds, rate), whole(recognizer, seconds, rate)):
        about = {"model": recognizer.card.name, "threads": torch.get_num_threads()}
        yield about | row | {"peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10}


def live(recognizer: Recognizer, seconds: int, rate: float) -> dict[str, Any]:
    """Time a stream that is fed frame by frame."""
    frames = video(BLOCK)
    stream, count, calls = recognizer.stream(rate), max(8, round(seconds * rate)), []
    cpu = time.process_time()
    for k in range(count):
        begun = time.perf_counter()
        stream.push(frames[k % BLOCK][None])
        calls.append(time.perf_counter() - begun)
    cpu = time.process_time() - cpu
    quarters = [float(np.median(part)) for part in np.array_split(calls, 4)]
    return {
        "way": "live",
        "latency_ms": round(1000 * stream.latency),
        **speed(count, rate, sum(calls), cpu),
        "median_frame_ms": round(1000 * float(np.median(calls)), 2),
        "p95_frame_ms": round(1000 * float(np.percentile(calls, 95)), 2),
        "slowest_frame_ms": round(1000 * max(calls), 2),
        "growth": round(quarters[3] / quarters[1], 2),
    }


def whole(recognizer: Recognizer, seconds: int, rate: float) -> dict[str, Any]:
    """Time the recognition of a whole video."""
    frames = video(max(1, round(seconds * rate)))
    cpu, begun = time.process_time(), time.perf_counter()
    recognizer(frames, rate)
    return {"way": "whole", **speed(len(frames), rate, time.perf_counter() - begun, time.process_time() - cpu)}


def speed(frames: int, rate: float, wall: float, cpu: float) -> dict[str, float]:
    """Give frames per second, and wall and processor time per second of video."""
    seconds = frames / rate
    return {
        "frames_per_second": round(frames / wall, 1),
        "real_time_factor": round(wall / seconds, 4),
        "cpu_per_second": round(cpu / seconds, 4),
    }


def video(frames: int) -> np.ndarray:
    """Make noise that moves: uint8 (time, row, col, 3)."""
    picture = np.random.default_rng(0).integers(256, size=(*SIZE, 3), dtype=np.uint8)
    return np.stack([np.roll(picture, 2 * k, 1) for k in range(frames)])
