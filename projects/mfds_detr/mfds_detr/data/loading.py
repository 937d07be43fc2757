"""Training batches that follow from seed and iteration alone, so that a resumed run sees the same.

Detectron2's loader starts its sampler anew after a restart, and its workers draw from generators
of their own. Here an item's random numbers come from its place in the run, and the sampler's
stream is wound forward to the iteration at which a run goes on.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.data.samplers import (
    InferenceSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from wbcnets.engine.worker_watchdog import WatchedDataset, watched_batches
from wbcnets.errors import ConfigError

Record = dict[str, Any]


class MappedRecords(Dataset[Record]):
    """Records as the mapper makes them.

    Args:
        records: Detectron2's records.
        mapper: Makes an item of a record.
    """

    def __init__(self, records: Sequence[Record], mapper: Callable[[Record], Record]) -> None:
        self.records = records
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Record:
        """The item of a record's index."""
        return self.mapper(self.records[index])

    def describe(self, index: int) -> str:
        """The file of a record, for messages."""
        return str(self.records[index]["file_name"])


class SeededRecords(MappedRecords):
    """Records as the mapper makes them, each with random numbers of its own.

    Args:
        records: Detectron2's records.
        mapper: Makes an item of a record; may draw from NumPy's global generator.
        seed: Of the run.
    """

    def __init__(
        self, records: Sequence[Record], mapper: Callable[[Record], Record], seed: int
    ) -> None:
        super().__init__(records, mapper)
        self.seed = seed

    def __getitem__(self, place: tuple[int, int]) -> Record:
        """One item.

        Args:
            place: The record's index, and its place in the stream of all processes' images.
        """
        index, position = place
        before = np.random.get_state()
        np.random.seed(np.random.SeedSequence((self.seed, position)).generate_state(4))
        try:
            return self.mapper(self.records[index])
        finally:
            np.random.set_state(before)


class GroupedBatches(Sampler[list[tuple[int, int]]]):
    """This process's batches, upright and wide images apart, from any iteration on.

    Args:
        sampler: Its endless stream of indices, the same in every restart.
        wide: Whether an image is wider than high, by index; None to mix them.
        batch_size: Images of this process in a step.
        start: Batches to pass over.
        rank: This process.
        count: How many processes share the stream.
    """

    def __init__(
        self,
        sampler: Sampler[int],
        wide: Sequence[bool] | None,
        batch_size: int,
        start: int = 0,
        rank: int = 0,
        count: int = 1,
    ) -> None:
        self.sampler, self.wide = sampler, wide
        self.batch_size, self.start = batch_size, start
        self.rank, self.count = rank, count

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        waiting: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        done = 0
        for turn, index in enumerate(self.sampler):
            group = waiting[self.wide[index] if self.wide is not None else False]
            group.append((index, turn * self.count + self.rank))
            if len(group) < self.batch_size:
                continue
            done += 1
            if done > self.start:
                yield list(group)
            group.clear()


def build_train_loader(
    cfg: CfgNode, mapper: Callable[[Record], Record], seed: int, start: int = 0
) -> DataLoader[Record]:
    """The endless training loader; each batch is a list of items. For `watched_batches`.

    Args:
        cfg: The config, with registered training sets.
        mapper: See `SeededRecords`.
        seed: Of the run, the same in all processes and restarts.
        start: The iteration that the first batch is for.

    Raises:
        ConfigError: The batch cannot be shared by the processes, or the sampler is unknown.
    """
    processes = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH={cfg.SOLVER.IMS_PER_BATCH} cannot be shared by {processes} "
            "processes; use a multiple of their number"
        )
    records = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    )
    grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    batches = GroupedBatches(
        _build_sampler(cfg, records, seed),
        [record["width"] > record["height"] for record in records] if grouped else None,
        cfg.SOLVER.IMS_PER_BATCH // processes,
        start,
        comm.get_rank(),
        processes,
    )
    dataset = SeededRecords(records, mapper, seed)
    watched = WatchedDataset(dataset, dataset.describe)
    return DataLoader(watched, batch_sampler=batches, collate_fn=_as_list, **_worker_options(cfg))


def build_test_loader(
    cfg: CfgNode, name: str, mapper: Callable[[Record], Record]
) -> "WatchedTestLoader":
    """This process's share of a test set, one image at a time.

    Args:
        cfg: The config.
        name: A registered set.
        mapper: Makes an item of a record.
    """
    records = get_detection_dataset_dicts(name, filter_empty=False)
    dataset = MappedRecords(records, mapper)
    watched = WatchedDataset(dataset, dataset.describe)
    sampler = InferenceSampler(len(records))
    return WatchedTestLoader(
        DataLoader(watched, sampler=sampler, collate_fn=_as_list, **_worker_options(cfg))
    )


class WatchedTestLoader:
    """A loader whose dead and hanging workers are named, for `inference_on_dataset`."""

    def __init__(self, loader: DataLoader[Record]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[Record]]:
        return watched_batches(self.loader)


def _worker_options(cfg: CfgNode) -> dict[str, Any]:
    workers = cfg.DATALOADER.NUM_WORKERS
    if not workers:
        return {"num_workers": 0}
    timeout = cfg.DATALOADER.TIMEOUT
    return {"num_workers": workers, "timeout": timeout, "worker_init_fn": _start_worker}


def _build_sampler(cfg: CfgNode, records: Sequence[Record], seed: int) -> Sampler[int]:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return TrainingSampler(len(records), seed=seed)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, cfg.DATALOADER.REPEAT_THRESHOLD
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    raise ConfigError(
        f"DATALOADER.SAMPLER_TRAIN={name}: use TrainingSampler or RepeatFactorTrainingSampler"
    )


def _as_list(items: list[Record]) -> list[Record]:
    return items


def _start_worker(worker: int) -> None:
    """One thread each: the processors are for the model."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
