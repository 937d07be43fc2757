"""Training batches that follow from seed and iteration alone, so that a resumed run sees the same.

Detectron2's loader restarts its sampler with the run, and its workers draw from generators of their
own. Here the random numbers of an item follow from its position in the run, and the sampler's
stream is advanced to the iteration at which a run resumes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.data.samplers import (
    InferenceSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from wbcnets.engine.loader import WatchedLoader
from wbcnets.errors import ConfigError

Record = dict[str, Any]


class MappedRecords(Dataset[Record]):
    """Records as the mapper makes them.

    Args:
        records: Detectron2's records.
        mapper: Turns a record into an item.
    """

    def __init__(self, records: Sequence[Record], mapper: Callable[[Record], Record]) -> None:
        self.records = records
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Record:
        """Returns the item of a record."""
        return self.mapper(self.records[index])

    def describe(self, index: int) -> str:
        """Returns the file of a record, for messages."""
        return str(self.records[index]["file_name"])


class SeededRecords(MappedRecords):
    """Records as the mapper makes them, each with random numbers of its own.

    Args:
        records: Detectron2's records.
        mapper: Turns a record into an item; may draw from NumPy's global generator.
        seed: The run's seed.
    """

    def __init__(
        self, records: Sequence[Record], mapper: Callable[[Record], Record], seed: int
    ) -> None:
        super().__init__(records, mapper)
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Record:
        """Returns one item.

        Args:
            key: The record's index, and its position in the stream of all processes' images.
        """
        index, position = key
        before = np.random.get_state()
        np.random.seed(np.random.SeedSequence((self.seed, position)).generate_state(4))
        try:
            return super().__getitem__(index)
        finally:
            np.random.set_state(before)


class GroupedBatches(Sampler[list[tuple[int, int]]]):
    """This process's batches from any iteration on, upright and wide images apart.

    Args:
        sampler: This process's endless stream of indices, the same after every restart.
        wide: Whether an image is wider than high, by index; None to mix them.
        batch_size: Images of this process in a step.
        start: Batches to skip.
        rank: This process.
        world_size: Number of processes that share the stream.
    """

    def __init__(
        self,
        sampler: Sampler[int],
        wide: Sequence[bool] | None,
        batch_size: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.sampler, self.wide = sampler, wide
        self.batch_size, self.start = batch_size, start
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        waiting: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        done = 0
        for turn, index in enumerate(self.sampler):
            group = waiting[self.wide[index] if self.wide is not None else False]
            group.append((index, turn * self.world_size + self.rank))
            if len(group) < self.batch_size:
                continue
            done += 1
            if done > self.start:
                yield list(group)
            group.clear()


def build_train_loader(
    cfg: CfgNode, mapper: Callable[[Record], Record], seed: int, start: int = 0
) -> WatchedLoader:
    """Returns the endless training loader; each batch is a list of items.

    Args:
        cfg: The config, with registered training sets.
        mapper: See ``SeededRecords``.
        seed: The run's seed, the same in all processes and restarts.
        start: The iteration of the first batch.

    Raises:
        ConfigError: if the processes cannot share the batch, or the sampler is unknown.
    """
    world_size = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH % world_size:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH={cfg.SOLVER.IMS_PER_BATCH} cannot be shared by {world_size} "
            "processes; use a multiple of their number"
        )
    records = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    )
    grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    batches = GroupedBatches(
        _build_sampler(cfg, records, seed),
        [record["width"] > record["height"] for record in records] if grouped else None,
        cfg.SOLVER.IMS_PER_BATCH // world_size,
        start,
        comm.get_rank(),
        world_size,
    )
    return _build_loader(cfg, SeededRecords(records, mapper, seed), batch_sampler=batches)


def build_test_loader(cfg: CfgNode, name: str, mapper: Callable[[Record], Record]) -> WatchedLoader:
    """Returns this process's part of a test set, one image at a time.

    Args:
        cfg: The config.
        name: A registered set.
        mapper: Turns a record into an item.
    """
    records = get_detection_dataset_dicts(name, filter_empty=False)
    sampler = InferenceSampler(len(records))
    return _build_loader(cfg, MappedRecords(records, mapper), sampler=sampler)


def _build_loader(cfg: CfgNode, dataset: MappedRecords, **options: Any) -> WatchedLoader:
    return WatchedLoader(
        dataset,
        dataset.describe,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        timeout=cfg.DATALOADER.TIMEOUT,
        collate_fn=_as_list,
        **options,
    )


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
