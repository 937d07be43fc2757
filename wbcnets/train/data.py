"""From the data's settings to loaders, whose items do not depend on the number of workers."""

import hashlib
import logging
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from wbcnets.data.cards.card import LeakPolicy
from wbcnets.data.cards.classification import CLASSIFICATION_CARDS
from wbcnets.data.cells.augmentation import CellAugmentation
from wbcnets.data.cells.checks import fingerprint_manifest
from wbcnets.data.cells.dataset import CellDataset
from wbcnets.data.cells.loading import is_prepared, load_cells
from wbcnets.data.cells.manifest import CellManifest
from wbcnets.data.cells.splits import repeat_classes, split_cells
from wbcnets.data.duplicates.leaks import apply_leak_policy, cell_sides, find_leaks
from wbcnets.engine.distributed import DistributedContext
from wbcnets.engine.worker_watchdog import DEFAULT_TIMEOUT, WatchedDataset, watched_batches
from wbcnets.errors import ConfigError, DataError
from wbcnets.train.config import DataConfig, TrainConfig
from wbcnets.train.sampling import StepSampler, balanced_quotas

logger = logging.getLogger(__name__)

_MAX_WORKERS = 8


@dataclass(frozen=True)
class CellSplits:
    """The images of a run.

    Args:
        train: For training, with `DataConfig.repeats`.
        val: For evaluation.
    """

    train: CellManifest
    val: CellManifest

    def fingerprint(self) -> str:
        """A hash of all files, labels and their order: a resumed run needs the same."""
        lines = [repr(self.train.class_names)]
        for manifest in (self.train, self.val):
            lines += [f"{image.file} {image.label} {image.sha256}" for image in manifest.images]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def find_splits(data: DataConfig) -> CellSplits:
    """Finds the images; a source without splits is divided by `DataConfig.split_protocol`.

    Raises:
        DataError: The source cannot be used, has no such splits, or a class is without images.
        ConfigError: There is no source.
    """
    if not data.source:
        raise ConfigError(
            "data.source is empty: name a prepared set such as pbc, or a folder of class folders"
        )
    manifest = load_cells(data.source)
    if set(manifest.splits) == {""}:
        logger.info("%s has no splits: divided %s", manifest.name, data.split_protocol)
        manifest = split_cells(manifest, data.split_protocol, data.split_seed)
    train, val = _joined(manifest, data.train_split), _joined(manifest, data.val_split)
    shared = {image.file for image in train.images} & {image.file for image in val.images}
    if shared:
        raise DataError(
            f"{len(shared)} images are in both {data.train_split} and {data.val_split}, such as "
            f"{min(shared)} - choose other splits"
        )
    _check_classes(train, val, data)
    _check_leaks(train, val, data)
    return CellSplits(repeat_classes(train, data.repeats), val)


def _joined(manifest: CellManifest, names: str) -> CellManifest:
    parts = [manifest.split(name.strip()) for name in names.split("+")]
    return replace(manifest, images=tuple(image for part in parts for image in part.images))


def _check_leaks(train: CellManifest, val: CellManifest, data: DataConfig) -> None:
    """Refuses images and patients on both sides, and warns of near duplicates.

    Prepared sets were searched for near duplicates when they were made, which takes a while.
    """
    images = tuple(
        replace(image, split=split)
        for split, manifest in (("training", train), ("evaluation", val))
        for image in manifest.images
    )
    joint = replace(train, images=images)
    fingerprints = () if is_prepared(data.source) else fingerprint_manifest(joint)
    leaks = find_leaks(cell_sides(joint, fingerprints), "cells")
    policy: LeakPolicy = "keep" if data.allow_leaks else "refuse"
    for line in apply_leak_policy(leaks, policy, train.name, "set data.allow_leaks=true"):
        logger.warning("leak: %s", line)


def _check_classes(train: CellManifest, val: CellManifest, data: DataConfig) -> None:
    """A class to learn must have images, unless its card says that the set has none of it."""
    card = CLASSIFICATION_CARDS.get(train.name)
    known_empty = {name for name, count in card.counts.items() if not count} if card else set()
    pairs = list(zip(train.class_names, train.counts(), val.counts()))
    empty = [name for name, count, _ in pairs if not count and name not in known_empty]
    if empty:
        raise DataError(
            f"{train.name}: no training image of {', '.join(empty)} in {data.train_split} - add "
            "images, remove the classes, or choose other splits"
        )
    unseen = [name for name, count, evaluated in pairs if count and not evaluated]
    if unseen:
        logger.warning("%s: no image of %s to evaluate on", data.val_split, ", ".join(unseen))


def create_datasets(
    config: TrainConfig, splits: CellSplits, mean: Sequence[float], std: Sequence[float]
) -> tuple[CellDataset, CellDataset]:
    """The training and the evaluation dataset.

    Raises:
        ConfigError: The augmentation is unknown, or evaluation's depends on chance.
        DataError: With the cache, images cannot be read.
    """
    data, seed = config.data, config.training.seed
    augmentation = CellAugmentation(data.augmentation, data.img_size, data.transforms)
    plain = CellAugmentation(data.val_augmentation, data.img_size)
    train, quotas = splits.train, None
    if data.sampler == "class_balanced":
        # Listed so often that an epoch needs each entry once: every one is augmented anew
        quotas = balanced_quotas(train.counts())
        times = {
            name: max(1, -(-quota // count))
            for name, quota, count in zip(train.class_names, quotas, train.counts())
            if count
        }
        train = repeat_classes(train, times)
    return (
        CellDataset(train, augmentation, mean, std, seed, data.cache),
        CellDataset(splits.val, plain, mean, std, seed, data.cache),
    )


def create_sampler(
    config: TrainConfig, splits: CellSplits, dataset: CellDataset, processes: DistributedContext
) -> StepSampler:
    """The order of the training images.

    Raises:
        ConfigError: The batch size cannot be divided, or is larger than an epoch.
    """
    balanced = config.data.sampler == "class_balanced"
    return StepSampler(
        dataset.labels,
        config.training.batch_size,
        grad_accum_steps=config.training.grad_accum_steps,
        seed=config.training.seed,
        rank=processes.rank,
        count=processes.count,
        pools=balanced_quotas(splits.train.counts()) if balanced else None,
    )


def create_train_loader(
    dataset: CellDataset,
    sampler: StepSampler,
    workers: int,
    device: torch.device,
    timeout: float = DEFAULT_TIMEOUT,
) -> DataLoader[tuple[Tensor, int]]:
    """Loads the parts of steps in order; for `watched_batches`."""
    watched = WatchedDataset(dataset, dataset.describe)
    return DataLoader(watched, batch_sampler=sampler, **_worker_options(workers, device, timeout))


def create_val_loader(
    dataset: CellDataset,
    batch_size: int,
    workers: int,
    processes: DistributedContext,
    timeout: float = DEFAULT_TIMEOUT,
) -> DataLoader[tuple[Tensor, int]]:
    """Loads this process's share of the evaluation images: one in `count`."""
    share = Subset(dataset, range(processes.rank, len(dataset), processes.count))
    watched = WatchedDataset(share, partial(_describe_share, share))
    return DataLoader(watched, batch_size, **_worker_options(workers, processes.device, timeout))


def _describe_share(share: Subset[Any], index: int) -> str:
    dataset: Any = share.dataset
    return str(dataset.describe(share.indices[index]))


def count_workers(workers: int, processes: int) -> int:
    """Resolves -1: this process's share of the processors, up to eight."""
    if workers >= 0:
        return workers
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(_MAX_WORKERS, (available or 1) // processes))


def measure_loader(loader: DataLoader[Any], seconds: float = 3.0, batches: int = 50) -> float:
    """Images per second of the loader alone, after the workers have started."""
    start, images, iterator = time.perf_counter(), 0, watched_batches(loader)
    if len(loader) > 1:
        next(iterator)
        start = time.perf_counter()
    for batch in iterator:
        images += len(batch[1])
        batches -= 1
        if batches <= 0 or time.perf_counter() - start > seconds:
            break
    return images / max(time.perf_counter() - start, 1e-9)


def _worker_options(workers: int, device: torch.device, timeout: float) -> dict[str, Any]:
    options: dict[str, Any] = {"num_workers": workers, "pin_memory": device.type == "cuda"}
    if workers:
        options |= {
            "persistent_workers": True,
            "prefetch_factor": 4,
            "timeout": timeout,
            "worker_init_fn": _start_worker,
        }
    return options


def _start_worker(worker: int) -> None:
    """One thread each, and no end before the main process's, which finishes its step first."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
