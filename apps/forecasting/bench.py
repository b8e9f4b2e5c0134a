"""How fast a forecaster is on this machine."""

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from wavecast.apps.forecasting.format import FieldFormat
from wavecast.apps.forecasting.steps import known_from, pieces
from wavecast.apps.forecasting.video_inference import load_forecaster
from wavecast.cards import Card, build_network, known_cards
from wavecast.core.block import Block
from wavecast.core.device import choose_device
from wavecast.datamodules.weather_windows import CYCLES

HISTORY = 12
ROWS, COLS = 32, 64
DEFAULTS: dict[str, dict[str, Any]] = {
    "convs5": {"action_path": False, "bounded": False},
    "predformer": {"time": HISTORY, "rows": ROWS, "cols": COLS, "patch": 4},
}
"""Architectures by their default sizes, for one hourly channel on the 5.625 degree grid of WeatherBench."""


@dataclass(frozen=True)
class Subject:
    """A network to measure.

    Attributes:
        name: for humans.
        network: in eval mode, on its device.
        shape: rows, columns and channels of what it forecasts.
        extras: channels that go in beside them.
        history: frames in.
        increments: whether the network gives what is added to the last frame.
    """

    name: str
    network: Block
    shape: tuple[int, int, int]
    extras: int
    history: int
    increments: bool


def measure(model: str | None, device: str, steps: int) -> Iterator[dict[str, Any]]:
    """Measure rollouts from noise.

    Args:
        model: name or path; or one of DEFAULTS, with fresh weights; None: all models here, without any all of DEFAULTS.
        device: as `Forecaster.load`.
        steps: to forecast.

    Returns:
        A row for each model: wall and processor seconds a step, wall seconds until the first piece of the forecast (a
        network that needs its whole window gives many steps at once), peak memory of the process until then in MiB.

    Raises:
        WavecastError: no such model or device, or its weights are damaged.
    """
    known = [card.name for card in known_cards() if card.task == "forecast"]
    for name in [model] if model else known or DEFAULTS:
        subject = default(name, device) if name in DEFAULTS else loaded(name, device)
        first, wall, cpu = time_steps(subject, steps)
        yield {
            "model": subject.name,
            "threads": torch.get_num_threads(),
            "device": str(next(subject.network.parameters()).device),
            "grid": "x".join(map(str, subject.shape)),
            "history": subject.history,
            "steps": steps,
            "wall_per_step": round(wall / steps, 4),
            "cpu_per_step": round(cpu / steps, 4),
            "first_piece_seconds": round(first, 4),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        }


def loaded(model: str, device: str) -> Subject:
    """Load a model by name or path, for fields or for video."""
    forecaster = load_forecaster(model, device)
    made_for = forecaster.format
    names = made_for.extras if isinstance(made_for, FieldFormat) else []
    extras = sum(len(CYCLES.get(name, (name,))) for name in names)
    network = forecaster.network
    return Subject(forecaster.name, network, made_for.shape, extras, made_for.history, made_for.increments)


def default(architecture: str, device: str) -> Subject:
    """Build a network of DEFAULTS."""
    card = Card(f"{architecture} (default sizes, fresh weights)", architecture, "forecast", DEFAULTS[architecture])
    torch.manual_seed(0)
    network = build_network(card).to(choose_device(device)).eval()
    return Subject(card.name, network, (ROWS, COLS, 1), 0, HISTORY, True)


@torch.inference_mode()
def time_steps(subject: Subject, steps: int) -> tuple[float, float, float]:
    """Time a rollout: wall seconds until its first piece, wall and processor seconds of all of it.

    One piece is forecast before, so that what happens once is not measured.
    """
    rows, cols, channels = subject.shape
    device = next(subject.network.parameters()).device
    draw = torch.Generator().manual_seed(0)
    past = torch.randn(1, subject.history, rows, cols, channels, generator=draw).to(device)
    planes = torch.randn(1, subject.history + steps, rows, cols, subject.extras, generator=draw)
    known = known_from(planes.to(device))
    next(pieces(subject.network, past, known, 1, subject.increments)).cpu()
    begun, cpu, first = time.perf_counter(), time.process_time(), 0.0
    for piece in pieces(subject.network, past, known, steps, subject.increments):
        piece.cpu()  # waits for the device
        first = first or time.perf_counter() - begun
    return first, time.perf_counter() - begun, time.process_time() - cpu
