"""One step of training: gradients of all its parts, a check that all is finite, the update."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wbcnets.engine.distributed import DistributedContext
from wbcnets.engine.non_finite import BufferBackup
from wbcnets.engine.precision import AMP_DTYPES
from wbcnets.engine.seeding import seed_everything
from wbcnets.train.config import TrainingConfig
from wbcnets.train.state import TrainingState


class Stepper:
    """Takes steps.

    Args:
        state: What is changed.
        network: The model, wrapped to return features and logits, for several processes or for
            compilation.
        config: Precision, seed, limit of the gradients.
        processes: Who computes what.
        mixup: Mixes images, None for none.
    """

    def __init__(
        self,
        state: TrainingState,
        network: nn.Module,
        config: TrainingConfig,
        processes: DistributedContext,
        mixup: Mixup | None = None,
    ) -> None:
        self.state, self.network, self.config = state, network, config
        self.processes, self.mixup = processes, mixup
        self.amp_dtype = AMP_DTYPES[config.amp]
        self.memory_format = memory_format(config)
        self._parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        self._backup = BufferBackup(state.model, state.loss)

    def take(
        self, parts: Sequence[Sequence[Tensor]], interrupted: bool = False, late: bool = False
    ) -> "StepResult":
        """Takes one step.

        Args:
            parts: Images and labels of each part of the step.
            interrupted: Whether this process was asked to stop.
            late: Whether this process's time is over.
        """
        state, progress = self.state, self.state.progress
        seed_everything(self.config.seed, progress.global_step, self.processes.rank)
        state.scheduler.step_update(progress.global_step)
        self._backup.keep()
        state.optimizer.zero_grad(set_to_none=True)
        loss = torch.stack([self._backward(part, parts) for part in parts]).sum()
        state.scaler.unscale_(state.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(
            self._parameters, self.config.clip_grad or math.inf
        ).to(loss)
        flags = loss.new_tensor([float(interrupted), float(late)])
        # One exchange between processes, and one wait for the device, per step
        shared = self.processes.mean(torch.cat([torch.stack([loss, norm]), flags])).tolist()
        usable = self._is_usable(*shared[:2])
        result = StepResult(shared[0], shared[1], usable, shared[2] > 0, shared[3] > 0)
        self._update(result)
        return result

    def _backward(self, part: Sequence[Tensor], parts: Sequence[Any]) -> Tensor:
        device = self.processes.device
        images = part[0].to(device, non_blocking=True, memory_format=self.memory_format)
        targets = part[1].to(device, non_blocking=True)
        if self.mixup is not None:
            images, targets = self.mixup(images, targets)
        shares_gradients = part is parts[-1] or self.processes.count == 1
        network: Any = self.network
        with nullcontext() if shares_gradients else network.no_sync():
            with torch.autocast(device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
                features, logits = network(images)
            loss: Tensor = self.state.loss(features, logits, targets) / len(parts)
            self.state.scaler.scale(loss).backward()
        return loss.detach().float()

    def _is_usable(self, loss: float, norm: float) -> bool:
        # float16's gradients overflow now and then; the scaler leaves such a step out by itself
        return math.isfinite(loss) and (math.isfinite(norm) or self.state.scaler.is_enabled())

    def _update(self, result: "StepResult") -> None:
        state, progress = self.state, self.state.progress
        if result.usable or state.scaler.is_enabled():
            state.scaler.step(state.optimizer)
            state.scaler.update()
        progress.global_step += 1
        progress.step += 1
        if not result.usable:
            self._backup.restore()
            progress.bad_steps += 1
            progress.consecutive_bad_steps += 1
            return
        progress.consecutive_bad_steps = 0
        progress.loss_sum += result.loss
        progress.loss_count += 1
        if state.ema is not None:
            state.ema.update(state.model, step=progress.global_step)


@dataclass(frozen=True)
class StepResult:
    """What a step gave, the same in all processes.

    Args:
        loss: Mean over the processes.
        norm: Of the gradients, before they were limited.
        usable: Whether both were finite, so that the weights were changed.
        interrupted: Whether any process was asked to stop.
        late: Whether any process's time is over.
    """

    loss: float
    norm: float
    usable: bool
    interrupted: bool
    late: bool


def memory_format(config: TrainingConfig) -> torch.memory_format:
    """The layout of images and convolutions."""
    return torch.channels_last if config.channels_last else torch.contiguous_format


def wrap(
    features_and_logits: nn.Module, config: TrainingConfig, processes: DistributedContext
) -> nn.Module:
    """The network for several processes and for compilation, where wanted."""
    network = features_and_logits
    if processes.count > 1:
        devices = [processes.device] if processes.device.type == "cuda" else None
        network = DistributedDataParallel(network, device_ids=devices)
    return torch.compile(network) if config.compile else network  # type: ignore[return-value]
