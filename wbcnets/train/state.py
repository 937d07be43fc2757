"""All that changes during a run, and how a checkpoint holds it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from wbcnets.engine.distributed import DistributedContext
from wbcnets.engine.ema import WeightEma
from wbcnets.engine.non_finite import BadStepCounter
from wbcnets.errors import CheckpointError
from wbcnets.train.config import TrainConfig, TrainingConfig
from wbcnets.train.model import FeaturesAndLogits, check_model
from wbcnets.train.optim import create_optimizer, create_schedule, create_training_loss


@dataclass
class Progress:
    """The position and the results of a run.

    Args:
        epoch: The current epoch, from 0.
        step: Steps of it that are done.
        global_step: Steps of all epochs that are done.
        loss_sum: Sum of the losses of the epoch's steps.
        loss_count: Number of steps in that sum.
        seconds: Time spent in the epoch's steps.
        total_seconds: Time spent in the run, restarts included.
        best: Value of the best metric so far, negative for a loss.
        best_epoch: Epoch of that value; -1 for none.
        rows: One row of ``log.csv`` per epoch.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    total_seconds: float = 0.0
    best: float = -math.inf
    best_epoch: int = -1
    rows: list[dict[str, float]] = field(default_factory=list)

    def start_epoch(self, epoch: int) -> None:
        """Moves to the start of an epoch."""
        self.epoch, self.step = epoch, 0
        self.loss_sum, self.loss_count, self.seconds = 0.0, 0, 0.0


@dataclass
class TrainingState:
    """All that changes during a run.

    Args:
        network: The classifier, which also returns its features; not wrapped.
        loss: The loss, which may have centers.
        optimizer: The optimizer.
        scheduler: Sets the learning rate from the number of steps.
        scaler: Scales the gradients of float16; does nothing otherwise.
        bad_steps: Counts the steps that were skipped.
        ema: The moving average of the weights, or None.
        progress: The position and the results of the run.
    """

    network: FeaturesAndLogits
    loss: nn.Module
    optimizer: Optimizer
    scheduler: Scheduler
    scaler: torch.amp.GradScaler
    bad_steps: BadStepCounter
    ema: WeightEma | None = None
    progress: Progress = field(default_factory=Progress)

    @property
    def model(self) -> nn.Module:
        """The classifier itself."""
        return self.network.model

    @property
    def eval_model(self) -> nn.Module:
        """The model to evaluate: the moving average if there is one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def lr(self) -> float:
        """The largest learning rate of the parameter groups, which layer decay makes differ."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def weights(self) -> dict[str, Any]:
        """Returns the weights for a checkpoint, under timm's names."""
        weights: dict[str, Any] = {"state_dict": self.model.state_dict()}
        if self.ema is not None:
            weights["state_dict_ema"] = self.ema.state_dict()
        return weights

    def resume_state(self) -> dict[str, Any]:
        """Returns what a run needs beside the weights to continue as if it had not stopped."""
        return {
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "bad_steps": self.bad_steps.state_dict(),
            "progress": vars(self.progress),
        }

    def restore(self, checkpoint: dict[str, Any], origin: str) -> None:
        """Takes back what ``weights`` and ``resume_state`` gave.

        Args:
            checkpoint: The weights under "model", and the rest under "resume".
            origin: The file, for messages.

        Raises:
            CheckpointError: if the file is of another run, or holds weights alone.
        """
        if "resume" not in checkpoint:
            raise CheckpointError(
                f"{origin}: holds weights alone; put a run's last.pth there, or start a new run "
                "from the weights with model.weights"
            )
        resume = checkpoint["resume"]
        try:
            self.model.load_state_dict(checkpoint["model"])
            if self.ema is not None:
                self.ema.load_state_dict(checkpoint["state_dict_ema"])
            self.loss.load_state_dict(resume["loss"])
            self.optimizer.load_state_dict(resume["optimizer"])
            self.scheduler.load_state_dict(resume["scheduler"])
            self.scaler.load_state_dict(resume["scaler"])
            self.bad_steps.load_state_dict(resume["bad_steps"])
            self.progress = Progress(**resume["progress"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{origin}: does not fit the run's config.yaml ({error}); start a new run"
            ) from error


def create_state(
    config: TrainConfig,
    model: nn.Module,
    class_counts: Sequence[int],
    steps_per_epoch: int,
    context: DistributedContext,
) -> TrainingState:
    """Creates the state of a run that begins.

    Args:
        config: All settings.
        model: The classifier.
        class_counts: Training images of each class.
        steps_per_epoch: Steps of an epoch.
        context: The processes of the run.

    Raises:
        ConfigError: if the optimizer or the loss is unknown or does not fit the model, or the
            model does not fit the images.
    """
    training = config.training
    model = model.to(context.device).to(memory_format=memory_format(training))
    if context.world_size > 1 and context.device.type == "cuda" and training.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    parts = training.grad_accum_steps * context.world_size
    check_model(config, model, training.batch_size // parts)
    network = FeaturesAndLogits(model, config.data.img_size)
    loss = create_training_loss(config.loss, len(class_counts), network.feature_dim, class_counts)
    optimizer = create_optimizer(config.optimizer, model)
    return TrainingState(
        network,
        loss.to(context.device).train(),
        optimizer,
        create_schedule(config, optimizer, steps_per_epoch),
        torch.amp.GradScaler(context.device.type, enabled=training.amp == "float16"),
        BadStepCounter(training.max_bad_steps),
        WeightEma(model, training.ema_decay) if training.ema_decay else None,
    )


def memory_format(training: TrainingConfig) -> torch.memory_format:
    """Returns the memory layout of images and convolutions."""
    return torch.channels_last if training.channels_last else torch.contiguous_format
