"""Optimizer, schedule, mixup and loss of a run, made by timm's and this library's factories."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.data import Mixup
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from wbcnets.errors import ConfigError
from wbcnets.losses import COMBINATIONS, CombinedLoss, create_loss
from wbcnets.train.config import LossConfig, MixupConfig, OptimizerConfig, TrainConfig
from wbcnets.train.optimizer_keywords import check_optimizer_keywords

_SMOOTHED = ("cross_entropy", "focal", "weighted_softmax")


def create_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """Creates one of timm's optimizers, with layer-wise learning rates if set.

    Raises:
        ConfigError: if the name or a keyword is unknown, or a value is of another type or range.
    """
    try:
        kwargs = check_optimizer_keywords(config)
        _try_step(config, kwargs)
        return _create_optimizer(config, model, kwargs)
    # An optimizer that gets odd values raises whatever they lead it to
    except Exception as error:
        some = ", ".join(map(str, list_optimizers()[:12]))
        raise ConfigError(
            f"optimizer ({config}): {error or type(error).__name__}; timm has {some}, ..."
        ) from error


def _create_optimizer(
    config: OptimizerConfig, model: nn.Module, kwargs: dict[str, Any]
) -> Optimizer:
    return create_optimizer_v2(
        model,
        opt=config.name,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        layer_decay=config.layer_decay or None,
        **kwargs,
    )


def _try_step(config: OptimizerConfig, kwargs: dict[str, Any]) -> None:
    """Takes one step on a small layer: most optimizers look at their keywords only then.

    Raises:
        ValueError: if the step's result is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(2, 2)
    plain = config.model_copy(update={"layer_decay": 0.0})
    optimizer = _create_optimizer(plain, layer, kwargs)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    if not all(parameter.isfinite().all() for parameter in layer.parameters()):
        raise ValueError("its first step gives weights that are not finite; lower the numbers")


def create_schedule(config: TrainConfig, optimizer: Optimizer, steps_per_epoch: int) -> Scheduler:
    """Creates one of timm's schedules; call ``step_update`` with the step's index."""
    schedule = config.schedule
    # The oldest supported timm has no "constant"
    constant = schedule.name == "constant"
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="step" if constant else schedule.name,
        num_epochs=config.training.epochs,
        decay_epochs=schedule.decay_epochs,
        decay_milestones=schedule.milestones,
        decay_rate=1.0 if constant else schedule.decay_rate,
        min_lr=schedule.min_lr,
        warmup_lr=schedule.warmup_lr,
        warmup_epochs=schedule.warmup_epochs,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    assert scheduler is not None
    return scheduler


def create_training_loss(
    config: LossConfig, num_classes: int, feature_dim: int | None, class_counts: Sequence[int]
) -> CombinedLoss:
    """Creates the loss that the settings describe.

    Raises:
        ConfigError: if a name or an option is unknown, if the model lacks the features that a loss
            needs, or if no loss would train the classifier.
    """
    if isinstance(config.name, str):
        names = set(COMBINATIONS.get(config.name, {config.name: 1.0}))
    else:
        names = set(config.name)
    options = {name: dict(values) for name, values in config.options.items()}
    smoothed = sorted(names & set(_SMOOTHED))
    if not smoothed and names <= {"center", "contrastive"}:
        raise ConfigError(
            f"loss.name={config.name} depends on features only, so the classifier would not learn; "
            f"add one of {', '.join(_SMOOTHED)}"
        )
    for name in smoothed if config.label_smoothing else ():
        options.setdefault(name, {}).setdefault("label_smoothing", config.label_smoothing)
    return create_loss(
        config.name,
        num_classes=num_classes,
        feature_dim=feature_dim,
        class_counts=class_counts,
        options=options,
    )


def create_mixup(config: MixupConfig, num_classes: int, part_size: int) -> Mixup | None:
    """Creates timm's mixup and CutMix, or None if both are off.

    The loss smooths the labels, not the mixup.

    Raises:
        ConfigError: if parts of a step have an odd number of images, which cannot be paired.
    """
    if not config.mixup_alpha and not config.cutmix_alpha:
        return None
    if part_size % 2:
        raise ConfigError(
            f"mixup pairs images, and each part of a step has {part_size}; make that number even "
            "with training.batch_size, or turn off mixup.mixup_alpha and mixup.cutmix_alpha"
        )
    return Mixup(
        mixup_alpha=config.mixup_alpha,
        cutmix_alpha=config.cutmix_alpha,
        prob=config.probability,
        switch_prob=config.switch_probability,
        label_smoothing=0.0,
        num_classes=num_classes,
    )
