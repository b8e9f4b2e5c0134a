"""One forecast by several processes, as `torchrun` starts them: who takes which initial times, who waits for whom.

    torchrun --nproc-per-node 4 -m wavecast forecast wb/ --every 12h -o out.zarr

The first process makes the file and tells the others what is left to do; each takes every N-th initial time of that;
the first one finishes the file when all are through. Nothing else is exchanged: the fields meet in the file.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch

from wavecast.apps.forecasting.forecast_files import ForecastPart, ForecastWriter
from wavecast.core.errors import WavecastError

PATIENCE = timedelta(days=30)  # for the slowest share; a process that dies is noticed at once
HOW = "start them with torchrun --nproc-per-node N -m wavecast forecast ..."


@dataclass(frozen=True)
class Team:
    """The processes that make one forecast.

    Attributes:
        rank: of this process.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process makes and finishes the file, and talks."""
        return self.rank == 0

    def share(self, path: Path, make: Callable[[], ForecastWriter]) -> tuple[ForecastPart | None, list[int]]:
        """Open the forecast file in all processes.

        Args:
            path: of the finished file.
            make: opens the writer, in the first process.

        Returns:
            What this process writes to, None where it has nothing to do, and the initial times that are its share.

        Raises:
            WavecastError: the file cannot be made.
        """
        if self.size == 1:
            writer = make()
            return writer, writer.remaining()
        from torch.distributed import broadcast_object_list

        told: list[list[int] | None] = [None]
        if not self.first:
            with noticed("the first process could not begin"):
                broadcast_object_list(told)
            if told[0] is None:
                raise WavecastError("the first process could not begin", "it says why")
            mine = told[0][self.rank :: self.size]
            return (ForecastPart(path) if mine else None), mine
        try:
            writer = make()
            told = [writer.remaining()]
        finally:
            with noticed("another process stopped before its share was done"):
                broadcast_object_list(told)
        return writer, writer.remaining()[:: self.size]

    def wait(self) -> None:
        """Wait until all processes are through.

        Raises:
            WavecastError: one of them stopped.
        """
        if self.size > 1:
            with noticed("another process stopped before its share was done"):
                torch.distributed.barrier()


@contextmanager
def team() -> Iterator[Team]:
    """Meet the other processes, if there are any.

    Raises:
        WavecastError: they cannot be reached.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if "RANK" not in os.environ or size == "1":
        yield Team()
        return
    try:
        torch.distributed.init_process_group("gloo", timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise WavecastError(f"{size} processes cannot meet: {str(error).splitlines()[0]}", HOW) from error
    try:
        yield Team(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def noticed(what: str) -> Iterator[None]:
    """Turn the loss of another process into a clear error."""
    try:
        yield
    except RuntimeError as error:
        raise WavecastError(what, "mend what it says, and go on with --resume") from error


def device_of(name: str) -> str:
    """Give each process of a machine a graphics processor of its own, where one is asked for or there are some."""
    local = os.environ.get("LOCAL_RANK")
    if local is None or name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    return f"cuda:{int(local) % torch.cuda.device_count()}"
