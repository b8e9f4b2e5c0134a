"""How the benchmarks measure time and memory, and the copy that times are set beside."""

import time
from collections.abc import Callable
from pathlib import Path

import torch


def seconds(function: Callable[[], object], cuda: bool) -> float:
    """Time a call: the median of 20 on a GPU, the least processor time of 8 on a CPU, after some that do not count."""
    times = []
    for _ in range(25 if cuda else 9):
        if cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            function()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) / 1000)
        else:
            begun = time.process_time()
            function()
            times.append(time.process_time() - begun)
    return sorted(times[5:])[10] if cuda else min(times[1:])


def bandwidth(device: str) -> float:
    """Measure the bytes a second that copying moves, reads and writes counted: 1 GiB on a GPU, 64 MiB on a CPU."""
    x = torch.empty((1 << 28 if device == "cuda" else 1 << 24), device=device)
    y = torch.empty_like(x)
    return 2 * x.numel() * x.element_size() / seconds(lambda: y.copy_(x), device == "cuda")


def peak_mib() -> float:
    """Give the most memory this process has had (Linux; getrusage would count its parent's too)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
