"""From the data's settings to loaders whose items do not depend on the number of workers."""

import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from timm.data import Mixup
from torch.utils.data import Subset

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
from wbcnets.engine.loader import WatchedLoader
from wbcnets.errors import ConfigError, DataError
from wbcnets.train.config import DataConfig, TrainConfig
from wbcnets.train.optim import create_mixup
from wbcnets.train.sampling import StepSampler, balanced_quotas

logger = logging.getLogger(__name__)

_MAX_WORKERS = 8


@dataclass(frozen=True)
class CellSplits:
    """The images of a run.

    Args:
        train: Images to train on, with ``DataConfig.repeats``.
        val: Images to evaluate on.
    """

    train: CellManifest
    val: CellManifest

    def fingerprint(self) -> str:
        """Returns a hash of all files, labels and their order; a resumed run needs the same."""
        lines = [repr(self.train.class_names)]
        for manifest in (self.train, self.val):
            lines += [f"{image.file} {image.label} {image.sha256}" for image in manifest.images]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def find_splits(data: DataConfig) -> CellSplits:
    """Finds the images; divides a source without splits by ``DataConfig.split_protocol``.

    Raises:
        DataError: if the source cannot be used, lacks a split, has a class without training
            images, or if images or patients are in both splits.
        ConfigError: if no source is given.
    """
    if not data.source:
        raise ConfigError(
            "data.source is empty: name a prepared set such as pbc, or a folder of class folders",
            setting="data",
        )
    manifest = load_cells(data.source)
    if set(manifest.splits) == {""}:
        logger.info("%s has no splits: dividing it %s", manifest.name, data.split_protocol)
        manifest = split_cells(manifest, data.split_protocol, data.split_seed)
    train, val = manifest.split(data.train_split), manifest.split(data.val_split)
    shared = {image.file for image in train.images} & {image.file for image in val.images}
    if shared:
        raise DataError(
            f"{len(shared)} images are in both {data.train_split} and {data.val_split}, such as "
            f"{min(shared)} - choose other splits"
        )
    _check_classes(train, val, data)
    _check_leaks(train, val, data)
    train = repeat_classes(train, data.repeats)
    logger.info("training images:\n%s", train.table())
    logger.info("evaluation images:\n%s", val.table())
    return CellSplits(train, val)


def _check_leaks(train: CellManifest, val: CellManifest, data: DataConfig) -> None:
    """Refuses images and patients in both splits, and warns of near duplicates.

    Prepared sets were searched for near duplicates, which takes a while, when they were made.
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
    """Refuses classes without training images, unless the dataset's card says there are none."""
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
        logger.warning("%s has no image of %s", data.val_split, ", ".join(unseen))


@dataclass(frozen=True)
class CellData:
    """The data of a run in this process.

    Args:
        train_set: All training images.
        val_set: All evaluation images.
        sampler: Chooses the images of each step.
        train_loader: Loads the parts of steps.
        val_loader: Loads this process's shard of the evaluation images.
        mixup: Mixes the images of a part; None for no mixup.
    """

    train_set: CellDataset
    val_set: CellDataset
    sampler: StepSampler
    train_loader: WatchedLoader
    val_loader: WatchedLoader
    mixup: Mixup | None = None

    def set_position(self, epoch: int, step: int) -> None:
        """Sets the epoch and step at which the training loader begins."""
        self.train_set.set_epoch(epoch)
        self.sampler.set_position(epoch, step)


def create_data(
    config: TrainConfig,
    splits: CellSplits,
    data_config: Mapping[str, Any],
    context: DistributedContext,
) -> CellData:
    """Creates datasets, sampler and loaders.

    Args:
        config: All settings.
        splits: The images.
        data_config: Mean and std of the model's images, see ``describe_data``.
        context: The processes of the run.

    Raises:
        ConfigError: if the augmentation is unknown, or evaluation's is random; if the batch size
            cannot be divided or is larger than an epoch.
        DataError: if images cannot be read into the cache.
    """
    training = config.training
    train_set, quotas = _create_train_set(config, splits.train, data_config)
    val_set = _create_dataset(config, splits.val, data_config, config.data.val_augmentation)
    sampler = StepSampler(
        train_set.labels,
        training.batch_size,
        grad_accum_steps=training.grad_accum_steps,
        seed=training.seed,
        rank=context.rank,
        world_size=context.world_size,
        quotas=quotas,
    )
    mixup = create_mixup(config.mixup, len(splits.train.class_names), sampler.part_size)
    shard = Subset(val_set, range(context.rank, len(val_set), context.world_size))
    options: dict[str, Any] = {
        "num_workers": count_workers(config.data.workers, context.world_size),
        "timeout": config.data.worker_timeout,
        "prefetch_factor": 4,
        "pin_memory": context.device.type == "cuda",
    }
    return CellData(
        train_set,
        val_set,
        sampler,
        WatchedLoader(train_set, train_set.describe, batch_sampler=sampler, **options),
        WatchedLoader(
            shard, partial(_describe_item, shard), batch_size=2 * sampler.part_size, **options
        ),
        mixup,
    )


def _describe_item(shard: Subset[Any], index: int) -> str:
    dataset: Any = shard.dataset
    return str(dataset.describe(shard.indices[index]))


def _create_train_set(
    config: TrainConfig, train: CellManifest, data_config: Mapping[str, Any]
) -> tuple[CellDataset, list[int] | None]:
    """Returns the training images, and how many of each class a balanced epoch has."""
    quotas = None
    if config.data.sampler == "class_balanced":
        # Listed so often that an epoch uses each entry once, with an augmentation of its own
        quotas = balanced_quotas(train.counts())
        times = {
            name: max(1, -(-quota // count))
            for name, quota, count in zip(train.class_names, quotas, train.counts())
            if count
        }
        train = repeat_classes(train, times)
    preset, transforms = config.data.augmentation, config.data.transforms
    return _create_dataset(config, train, data_config, preset, transforms), quotas


def _create_dataset(
    config: TrainConfig,
    manifest: CellManifest,
    data_config: Mapping[str, Any],
    preset: str,
    transforms: Sequence[Mapping[str, Any]] = (),
) -> CellDataset:
    augmentation = CellAugmentation(preset, config.data.img_size, transforms)
    mean, std = data_config["mean"], data_config["std"]
    seed, cache = config.training.seed, config.data.cache
    return CellDataset(manifest, augmentation, mean, std, seed, cache)


def count_workers(workers: int, world_size: int) -> int:
    """Resolves -1 to this process's share of the CPUs, at most eight."""
    if workers >= 0:
        return workers
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(_MAX_WORKERS, (available or 1) // world_size))


def measure_loader(loader: WatchedLoader, seconds: float = 3.0, batches: int = 50) -> float:
    """Returns the loader's images per second, without the start of its workers."""
    start, images, iterator = time.perf_counter(), 0, iter(loader)
    if len(loader) > 1:
        next(iterator)
        start = time.perf_counter()
    for batch in iterator:
        images += len(batch[1])
        batches -= 1
        if batches <= 0 or time.perf_counter() - start > seconds:
            break
    return images / max(time.perf_counter() - start, 1e-9)
