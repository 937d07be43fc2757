"""All that changes during a run, and how it is written down and put back."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer

from wbcnets.errors import CheckpointError


@dataclass
class Progress:
    """Where a run is.

    Args:
        epoch: The epoch that is under way, from 0.
        step: Steps of it that are done.
        global_step: Steps of all epochs that are done.
        loss_sum: Sum of the losses of the epoch's steps.
        loss_count: Steps in that sum.
        seconds: Time spent in the epoch's steps.
        total_seconds: Time spent in the run, restarts included.
        bad_steps: Steps that were left out because their numbers were not finite.
        consecutive_bad_steps: The last of these.
        best: The best figure so far.
        best_epoch: Its epoch, -1 for none.
        rows: What was logged of each epoch.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    total_seconds: float = 0.0
    bad_steps: int = 0
    consecutive_bad_steps: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    rows: list[dict[str, float]] = field(default_factory=list)


@dataclass
class TrainingState:
    """All that changes during a run.

    Args:
        model: The classifier itself, not wrapped.
        loss: The loss, which may have centers.
        optimizer: The optimizer.
        scheduler: Sets the learning rate from the number of steps.
        scaler: Of float16; does nothing otherwise.
        ema: The moving average, None without.
        progress: Where the run is.
    """

    model: nn.Module
    loss: nn.Module
    optimizer: Optimizer
    scheduler: Scheduler
    scaler: torch.amp.GradScaler
    ema: ModelEmaV3 | None = None
    progress: Progress = field(default_factory=Progress)

    @property
    def eval_model(self) -> nn.Module:
        """The model that is evaluated: the moving average where there is one."""
        return self.model if self.ema is None else self.ema.module

    def weights(self) -> dict[str, Any]:
        """The weights for a checkpoint, under the names that timm uses."""
        weights: dict[str, Any] = {"state_dict": self.model.state_dict()}
        if self.ema is not None:
            weights["state_dict_ema"] = self.ema.module.state_dict()
        return weights

    def resume_state(self) -> dict[str, Any]:
        """What a run needs beside the weights to go on as if it had not stopped."""
        return {
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": vars(self.progress),
        }

    def restore(self, checkpoint: dict[str, Any], origin: str) -> None:
        """Puts back what `weights` and `resume_state` gave.

        Args:
            checkpoint: The weights, and the rest under "resume".
            origin: The file, for messages.

        Raises:
            CheckpointError: It is the file of another run, or holds weights alone.
        """
        if "resume" not in checkpoint:
            raise CheckpointError(
                f"{origin}: holds weights alone; name a run's last.pth, or start from the weights "
                "with model.weights"
            )
        resume = checkpoint["resume"]
        try:
            self.model.load_state_dict(checkpoint["state_dict"])
            if self.ema is not None:
                self.ema.module.load_state_dict(checkpoint["state_dict_ema"])
            self.loss.load_state_dict(resume["loss"])
            self.optimizer.load_state_dict(resume["optimizer"])
            self.scheduler.load_state_dict(resume["scheduler"])
            self.scaler.load_state_dict(resume["scaler"])
            self.progress = Progress(**resume["progress"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{origin}: does not go with the run's config.yaml ({error}); start a new run"
            ) from error
