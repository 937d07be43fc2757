"""The training loop: Detectron2's hooks around a step that checks before it changes anything."""

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import TrainerBase, hooks
from detectron2.solver import build_lr_scheduler
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    JSONWriter,
    TensorboardXWriter,
)
from torch import Tensor, nn

from mfds_detr.checkpoint.checkpointer import AtomicCheckpointer
from mfds_detr.data.dataset_mapper import SmearMapper
from mfds_detr.data.datasets import choosing_sets
from mfds_detr.data.loading import build_train_loader
from mfds_detr.engine.evaluation import amp_type, evaluate
from mfds_detr.engine.hooks import BestCheckpointer, VisualizationHook
from mfds_detr.engine.optimizer import build_optimizer
from mfds_detr.engine.resume_guard import ResumeGuard
from mfds_detr.modeling.build import build_detector
from wbcnets.engine.distributed import DistributedContext
from wbcnets.engine.ema import WeightEma
from wbcnets.engine.memory import explain_oom
from wbcnets.engine.non_finite import BadStepCounter, BufferBackup, is_overflow, save_bad_step
from wbcnets.engine.precision import autocast
from wbcnets.engine.seeding import seed_everything
from wbcnets.engine.signals import SignalHandler
from wbcnets.models.limits import limit_by_memory

logger = logging.getLogger("mfds_detr.engine.trainer")
_FINITE_ADVICE = "lower SOLVER.BASE_LR"


class Trainer(TrainerBase):
    """Trains ``MFDSDETR`` from a config.

    Everything random in a step follows from the run's seed and the iteration, so that a resumed
    run continues as if it had not stopped: on a CPU, with the same bits.

    Args:
        cfg: The config; its datasets are registered.
        class_names: The classes in the order of the labels.
        allowed_changes: Config keys that may differ from those of the run that is resumed.
    """

    def __init__(
        self, cfg: CfgNode, class_names: Sequence[str], allowed_changes: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.class_names = tuple(class_names)
        self.context = DistributedContext(
            torch.device(cfg.MODEL.DEVICE), comm.get_rank(), comm.get_world_size()
        )
        model = build_detector(cfg, limit_by_memory())
        self.network: nn.Module = model
        self.optimizer = build_optimizer(cfg, model)
        self.scheduler = build_lr_scheduler(cfg, self.optimizer)
        self.scaler = torch.amp.GradScaler(
            self.context.device.type, enabled=amp_type(cfg) == "float16"
        )
        self.guard = ResumeGuard(cfg, allowed_changes)
        self.bad_steps = BadStepCounter(cfg.SOLVER.MAX_BAD_STEPS)
        self.interrupted, self._signals = False, SignalHandler()
        ema = cfg.SOLVER.EMA
        self.ema = WeightEma(model, ema.DECAY) if ema.ENABLED else None
        self.checkpointer = AtomicCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            class_names=self.class_names,
            partial=cfg.MODEL.WEIGHTS_PARTIAL,
            run=self.guard,
            bad_steps=self.bad_steps,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            scaler=self.scaler,
            **({} if self.ema is None else {"ema": self.ema}),
        )
        self.model = self.context.wrap(model)
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._backup = BufferBackup(model)
        self._mapper = SmearMapper.from_config(cfg, is_train=True)
        self.data_loader = build_train_loader(cfg, self._mapper, self.guard.seed)
        self.register_hooks(self.build_hooks())

    @property
    def eval_model(self) -> nn.Module:
        """The model to evaluate: the moving average if there is one."""
        return self.network if self.ema is None else self.ema.module

    def resume_or_load(self, resume: bool) -> None:
        """Continues from the output folder's newest checkpoint, or loads ``MODEL.WEIGHTS``."""
        extra = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        self.start_iter = extra.get("iteration", -1) + 1
        if self.start_iter == 0 and self.ema is not None:
            self.ema.set(self.network)
        self.data_loader = build_train_loader(
            self.cfg, self._mapper, self.guard.seed, self.start_iter
        )
        if self.start_iter >= self.max_iter:
            logger.info(f"Iteration {self.start_iter} of {self.max_iter}: the training is complete")

    def build_hooks(self) -> list[hooks.HookBase | None]:
        """Returns timing, schedule, evaluation, checkpoints, logs and pictures, in their order."""
        cfg, main = self.cfg, self.context.is_main
        saver = hooks.PeriodicCheckpointer(
            self.checkpointer,
            cfg.SOLVER.CHECKPOINT_PERIOD,
            max_iter=self.max_iter,
            max_to_keep=cfg.SOLVER.CHECKPOINTS_KEPT,
        )
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(self.optimizer, self.scheduler),
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self.evaluate),
            BestCheckpointer(self.checkpointer, self.bad_steps) if main else None,
            saver if main else None,  # after BestCheckpointer, whose state it saves
            hooks.PeriodicWriter(self.build_writers(), period=20) if main else None,
            VisualizationHook(cfg, lambda: self.eval_model) if main else None,
        ]

    def build_writers(self) -> list[Any]:
        """Returns writers for the terminal, JSON lines and TensorBoard."""
        folder = Path(self.cfg.OUTPUT_DIR)
        return [
            CommonMetricPrinter(self.max_iter),
            JSONWriter(str(folder / "metrics.json")),
            TensorboardXWriter(str(folder / "tensorboard")),
        ]

    def evaluate(self) -> dict[str, Any]:
        """Returns COCO AP on every set that chooses the best checkpoint."""
        done = min(self.iter + 1, self.max_iter)
        return evaluate(self.cfg, self.eval_model, done, choosing_sets(self.cfg))

    def train(self) -> None:
        """Trains from the start iteration to the last, with all hooks.

        Raises:
            WbcnetsError: if an image cannot be read, or a checkpoint cannot be written.
            FloatingPointError: if too many steps in a row, or all, were not finite.
            KeyboardInterrupt: if the run was asked to stop; its newest checkpoint is of that step.
        """
        logger.info(f"Training from iteration {self.start_iter} to {self.max_iter}")
        self.iter = self.start_iter
        self.model.train()
        self._batches = iter(self.data_loader)
        with self._signals, EventStorage(self.start_iter) as self.storage:
            self.before_train()
            while self.iter < self.max_iter:
                self.before_step()
                self.run_step()
                if self.iter + 1 == self.max_iter:
                    self.bad_steps.check_learned(self.max_iter, _FINITE_ADVICE)
                self.after_step()
                if self.interrupted:
                    self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)
                    raise self._signals.interruption()
                self.iter += 1
            self.after_train()

    def run_step(self) -> None:
        """Takes one step, or skips it if its losses or gradients are not finite.

        Raises:
            FloatingPointError: if too many steps in a row were not finite.
        """
        start = time.perf_counter()
        self.interrupted = self._signals.requested
        batch = next(self._batches)
        data_time = time.perf_counter() - start
        # After the batch: a loader that starts draws from torch's generator
        seed_everything(self.guard.seed, self.iter, self.context.rank)
        self._backup.keep()
        try:
            with explain_oom(self._memory_hint(batch)):
                metrics = self._compute_gradients(batch)
        except FloatingPointError as error:
            # Other processes wait for the gradients of this one, so it cannot skip the step alone
            self._skip_step(batch, str(error), stop=self.context.world_size > 1)
            return
        loss, norm = metrics["total_loss"], metrics["gradient_norm"]
        # float16's gradients overflow now and then; the scaler itself skips such a step
        changes = math.isfinite(loss) and math.isfinite(norm)
        if not changes and not (math.isfinite(loss) and is_overflow(self.scaler)):
            self._skip_step(batch, f"loss {loss:.4g} with gradient norm {norm:.4g}")
            return
        if changes:
            self.bad_steps.end_row()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.network, step=self.iter)
        if self.context.is_main:
            self.storage.put_scalars(**metrics, data_time=data_time)

    def _memory_hint(self, batch: Sequence[dict[str, Any]]) -> str:
        largest = max((tuple(entry["image"].shape[1:]) for entry in batch), default=(0, 0))
        return (
            f"with SOLVER.IMS_PER_BATCH {self.cfg.SOLVER.IMS_PER_BATCH} and images of up to "
            f"{largest[0]}x{largest[1]} px: lower it, or INPUT.MIN_SIZE_TRAIN and "
            "INPUT.MAX_SIZE_TRAIN, or set SOLVER.AMP.ENABLED True"
        )

    def _compute_gradients(self, batch: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Computes clipped gradients; returns losses and norm as means over all processes.

        Reading these is the step's one wait for the device, besides the matcher's.
        """
        with autocast(self.context.device.type, amp_type(self.cfg)):
            losses: dict[str, Tensor] = self.model(batch)
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        clip = self.cfg.SOLVER.CLIP_NORM or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, clip)
        stop = total.new_tensor(float(self._signals.requested))
        values = self.context.mean(torch.stack([*losses.values(), total, norm, stop]).detach())
        *metrics, asked = values.tolist()
        self.interrupted = asked > 0  # in any process
        return dict(zip([*losses, "total_loss", "gradient_norm"], metrics))

    def _skip_step(self, batch: Sequence[dict[str, Any]], reason: str, stop: bool = False) -> None:
        """Undoes a step that was not finite, saves its images, and counts it."""
        self._backup.restore()
        several = self.context.world_size > 1
        name = f"bad_step_process{self.context.rank}" if several else "bad_step"
        path = Path(self.cfg.OUTPUT_DIR) / name
        save_bad_step(
            path,
            [entry["image"] for entry in batch],
            [entry["instances"].gt_classes for entry in batch],
            [str(entry.get("file_name", "")) for entry in batch],
            self.class_names,
            {"iteration": self.iter},
            [entry["instances"].gt_boxes.tensor for entry in batch],
        )
        images = ", ".join(
            f"{entry.get('file_name', '?')} (image id {entry.get('image_id', '?')})"
            for entry in batch[:8]
        )
        self.bad_steps.add(
            f"iteration {self.iter}: {reason}; the weights did not change. The images, saved in "
            f"{path}.pth: {images}",
            _FINITE_ADVICE,
            stop,
        )
