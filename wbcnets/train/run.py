"""A whole training run: from settings to a folder with weights and figures."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn

from wbcnets.engine.distributed import DistributedContext, init_distributed
from wbcnets.engine.seeding import seed_everything
from wbcnets.train.config import TrainConfig
from wbcnets.train.data import (
    CellSplits,
    count_workers,
    create_datasets,
    create_sampler,
    create_train_loader,
    create_val_loader,
    find_splits,
    measure_loader,
)
from wbcnets.train.logging import Display, start_logging
from wbcnets.train.model import (
    FeaturesAndLogits,
    create_classifier,
    describe_data,
    model_kwargs,
)
from wbcnets.train.optim import (
    create_mixup,
    create_optimizer,
    create_schedule,
    create_training_loss,
)
from wbcnets.train.run_folder import RunFolder, check_new, read_last, read_run
from wbcnets.train.state import Progress, TrainingState
from wbcnets.train.step import Stepper, memory_format, wrap
from wbcnets.train.trainer import RunParts, TrainingLoop

logger = logging.getLogger(__name__)


def train_classifier(config: TrainConfig) -> Progress:
    """Trains a classifier in a new folder.

    Args:
        config: All settings, "output" and "data.source" among them.

    Returns:
        Where the run ended, with the figures of every epoch.

    Raises:
        WbcnetsError: Settings, data or weights are not usable.
        FloatingPointError: Too many steps in a row were not finite.
        KeyboardInterrupt: The run was asked to stop and can be resumed.
    """
    with init_distributed(config.device, config.training.process_timeout) as processes:
        path = check_new(config.output)
        processes.wait()  # before the main one writes into it
        return _run(config, path, processes)


def resume_training(output: str | Path, overrides: Sequence[str] = ()) -> Progress:
    """Goes on with the run in a folder, as if it had not stopped.

    Args:
        output: The folder.
        overrides: ``KEY=VALUE`` of `wbcnets.train.run_folder.CHANGEABLE`.

    Raises:
        WbcnetsError: There is no run, a key may not differ, or data or checkpoint are not usable.
        FloatingPointError: Too many steps in a row were not finite.
        KeyboardInterrupt: The run was asked to stop and can be resumed.
    """
    config = read_run(Path(output), overrides)
    with init_distributed(config.device, config.training.process_timeout) as processes:
        return _run(config, Path(output), processes, resume=True)


def _run(
    config: TrainConfig, path: Path, processes: DistributedContext, resume: bool = False
) -> Progress:
    start_logging(path if processes.is_main else None)
    splits = find_splits(config.data)
    checkpoint = read_last(path, splits.fingerprint()) if resume else None
    seed_everything(config.training.seed)
    model = create_classifier(config, len(splits.train.class_names))
    data_config = describe_data(config, model)
    parts = _create_parts(config, splits, model, data_config, processes)
    folder = _start_folder(path, config, splits, data_config) if processes.is_main else None
    if checkpoint is not None:
        parts.state.restore(checkpoint, checkpoint["origin"])
        checkpoint.clear()
    progress = parts.state.progress
    if resume:
        logger.info("resuming at epoch %d, step %d", progress.epoch + 1, progress.step)
    _log_start(config, processes, splits, parts)
    if progress.epoch < config.training.epochs:
        parts.train_set.set_epoch(progress.epoch)
        parts.sampler.set_position(progress.epoch, progress.step)
        if folder is not None and not progress.global_step:
            folder.draw_first_batch(parts.train_set, parts.sampler.step_indices(0, 0))
        parts.loader_speed = measure_loader(parts.train_loader)
    with Display(path, processes.is_main, progress.global_step) as display:
        TrainingLoop(config, processes, parts, folder).run(display)
    return progress


def _start_folder(
    path: Path, config: TrainConfig, splits: CellSplits, data_config: Mapping[str, Any]
) -> RunFolder:
    names = splits.train.class_names
    model = {
        "name": config.model.name,
        "kwargs": model_kwargs(config),
        "num_classes": len(names),
    }
    folder = RunFolder(path, config, names, data_config, model, splits.fingerprint())
    folder.start()
    folder.write_splits(splits)
    return folder


def _create_parts(
    config: TrainConfig,
    splits: CellSplits,
    model: nn.Module,
    data_config: Mapping[str, Any],
    processes: DistributedContext,
) -> RunParts:
    training, num_classes = config.training, len(splits.train.class_names)
    train_set, val_set = create_datasets(config, splits, data_config["mean"], data_config["std"])
    sampler = create_sampler(config, splits, train_set, processes)
    model = _placed(model, config, processes)
    pair = FeaturesAndLogits(model, config.data.img_size)
    loss = create_training_loss(config.loss, num_classes, pair.feature_dim, splits.train.counts())
    optimizer = create_optimizer(config.optimizer, model)
    state = TrainingState(
        model,
        loss.to(processes.device).train(),
        optimizer,
        create_schedule(config, optimizer, sampler.steps_per_epoch),
        torch.amp.GradScaler(processes.device.type, enabled=training.amp == "float16"),
        _create_ema(model, training.ema_decay),
    )
    mixup = create_mixup(config.mixup, num_classes, sampler.part_size)
    workers = count_workers(config.data.workers, processes.count)
    timeout = config.data.worker_timeout
    return RunParts(
        state,
        Stepper(state, wrap(pair, training, processes), training, processes, mixup),
        sampler,
        train_set,
        val_set,
        create_train_loader(train_set, sampler, workers, processes.device, timeout),
        create_val_loader(val_set, 2 * sampler.part_size, workers, processes, timeout),
    )


def _placed(model: nn.Module, config: TrainConfig, processes: DistributedContext) -> nn.Module:
    """The model on its device, in its memory layout, with batch norm over all GPUs."""
    model = model.to(processes.device).to(memory_format=memory_format(config.training))
    on_gpus = processes.count > 1 and processes.device.type == "cuda"
    if on_gpus and config.training.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def _create_ema(model: nn.Module, decay: float) -> ModelEmaV3 | None:
    return ModelEmaV3(model, decay=decay, use_warmup=True) if decay else None


def _log_start(
    config: TrainConfig, processes: DistributedContext, splits: CellSplits, parts: RunParts
) -> None:
    parameters = sum(p.numel() for p in parts.state.model.parameters())
    logger.info(
        "%s, %.1f million parameters, on %s x %d, %d threads",
        config.model.name,
        parameters / 1e6,
        processes.device.type,
        processes.count,
        torch.get_num_threads(),
    )
    logger.info("training images:\n%s", splits.train.table())
    logger.info("evaluation images:\n%s", splits.val.table())
    logger.info("augmentation for training: %r", parts.train_set.augmentation)
    logger.info("augmentation for evaluation: %r", parts.val_set.augmentation)
    logger.info(
        "%d epochs of %d steps of %d images",
        config.training.epochs,
        parts.sampler.steps_per_epoch,
        config.training.batch_size,
    )
