"""Items by number, and the batches made of them: what all data modules have in common.

Item k is a function of (seed, k), and a run reads items 0, 1, 2 ... in order over all its processes, so that a resumed
run sees what an uninterrupted one would have seen. Validation items are the same in every run.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from pytorch_lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset, Sampler

Item = dict[str, np.ndarray]


class Source(Protocol):
    """What gives item k for any k."""

    def item(self, k: int) -> Item:
        """Give item k: a function of its seed and k alone."""


class Items(Dataset[Item]):
    """A source as a data set: index k gives item k, without end."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, k: int) -> Item:
        return self.source.item(k)


class Onward(Sampler[int]):
    """Count on from where the run stands: rank r of w processes takes items start + r, start + r + w, ...

    Args:
        items: how many an epoch has, over all processes; a multiple of the processes.
        rank: this process.
        processes: how many read together.
        trainer: asked at the beginning of each epoch how far the run is; None: every epoch begins at 0.
        batch_size: items of one process in a batch.
    """

    def __init__(
        self, items: int, rank: int = 0, processes: int = 1, trainer: Trainer | None = None, batch_size: int = 1
    ) -> None:
        self.items, self.rank, self.processes = items, rank, processes
        self.trainer, self.batch_size = trainer, batch_size

    def __len__(self) -> int:
        return len(range(self.rank, self.items, self.processes))

    def __iter__(self) -> Iterator[int]:
        start = 0
        if self.trainer is not None:
            batches = self.trainer.global_step * self.trainer.accumulate_grad_batches
            start = batches * self.batch_size * self.processes
        yield from range(start + self.rank, start + self.items, self.processes)


class ItemsData(LightningDataModule):
    """A data module whose batches are made of numbered items.

    Args:
        batch_size: items of one process in a batch.
        workers: processes that make the items; 0 makes them in the training process.
    """

    def __init__(self, batch_size: int, workers: int) -> None:
        super().__init__()
        self.batch_size, self.workers = batch_size, workers

    def onward(self, source: Source | None, items: int) -> DataLoader[Item]:
        """Give batches of about `items` items an epoch that continue where the run stands."""
        trainer = self._trainer()
        whole = self.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        items = max(1, round(items / whole)) * whole  # so that steps count items exactly
        sampler = Onward(items, trainer.global_rank, trainer.world_size, trainer, self.batch_size)
        return self._loader(source, sampler, self.batch_size)

    def fixed(self, source: Source | None, count: int, batch_size: int | None = None) -> DataLoader[Item]:
        """Give items 0 to `count` in order, the same in every epoch, shared out over the processes."""
        sampler = Onward(count, self._trainer().global_rank, self._trainer().world_size)
        return self._loader(source, sampler, batch_size or self.batch_size)

    def _loader(self, source: Source | None, sampler: Onward, batch_size: int | None) -> DataLoader[Item]:
        """Load items in batches; with None, the items are batches already."""
        if source is None:
            raise ValueError("the data is not set up\nhint: call setup('fit') or setup('test') first")
        workers = min(self.workers, max(1, len(sampler) // (batch_size or 1))) if self.workers else 0
        return DataLoader(
            Items(source), batch_size, sampler=sampler, num_workers=workers, persistent_workers=workers > 0
        )

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise ValueError("the data belongs to no trainer yet\nhint: pass it to trainer.fit(model, datamodule=...)")
        return self.trainer
