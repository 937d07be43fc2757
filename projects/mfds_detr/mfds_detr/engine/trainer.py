"""The training loop: Detectron2's hooks around a step that checks before it changes anything."""

import logging
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import TrainerBase, hooks
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    JSONWriter,
    TensorboardXWriter,
)
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mfds_detr.checkpoint.checkpointer import AtomicCheckpointer
from mfds_detr.data.dataset_mapper import SmearMapper
from mfds_detr.data.loading import build_test_loader, build_train_loader
from mfds_detr.engine.bad_step import keep_bad_step
from mfds_detr.engine.evaluation import LeukocyteEvaluator, save_results
from mfds_detr.engine.hooks import BestCheckpointer, VisualizationHook
from mfds_detr.engine.optimizer import build_optimizer
from mfds_detr.engine.resume_guard import ResumeGuard
from wbcnets.engine.memory import explain_oom
from wbcnets.engine.non_finite import BufferBackup
from wbcnets.engine.seeding import seed_everything
from wbcnets.engine.worker_watchdog import watched_batches

logger = logging.getLogger("mfds_detr.engine.trainer")


class EmaState:
    """The moving average's weights as a checkpointable of their own, in the model's names."""

    def __init__(self, ema: ModelEmaV3) -> None:
        self.ema = ema

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights."""
        return self.ema.module.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts averaged weights back."""
        self.ema.module.load_state_dict(state)


class Trainer(TrainerBase):
    """Trains `MFDSDETR` from a config.

    Everything random in a step follows from the run's seed and the iteration, so that a resumed
    run goes on as if it had not stopped: on a CPU, with the same bits.

    Args:
        cfg: The whole config; its datasets are registered.
        class_names: The classes in the model's order.
        allowed_changes: Config keys that may differ from those of the run that goes on.
    """

    def __init__(
        self, cfg: CfgNode, class_names: Sequence[str], allowed_changes: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.class_names = tuple(class_names)
        model = build_model(cfg)
        self.network: nn.Module = model
        self.optimizer = build_optimizer(cfg, model)
        self.scheduler = build_lr_scheduler(cfg, self.optimizer)
        self.scaler = torch.amp.GradScaler(
            enabled=cfg.SOLVER.AMP.ENABLED
            and cfg.SOLVER.AMP.PRECISION == "float16"
            and cfg.MODEL.DEVICE == "cuda"
        )
        self.run_record = ResumeGuard.of(cfg, allowed_changes)
        stateful: dict[str, Any] = {
            "run": self.run_record,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
        }
        self.ema: ModelEmaV3 | None = None
        if cfg.SOLVER.EMA.ENABLED:
            self.ema = ModelEmaV3(model, decay=cfg.SOLVER.EMA.DECAY, use_warmup=True)
            stateful["ema"] = EmaState(self.ema)
        self.checkpointer = AtomicCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            class_names=self.class_names,
            partial=cfg.MODEL.WEIGHTS_PARTIAL,
            **stateful,
        )
        self.model = distribute(model)
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._buffers = BufferBackup(model)
        self._mapper = SmearMapper.from_config(cfg, is_train=True)
        self.data_loader = build_train_loader(cfg, self._mapper, self.run_record.seed)
        self.register_hooks(self.build_hooks())

    @property
    def eval_model(self) -> nn.Module:
        """The model that is judged: the moving average where there is one."""
        return self.network if self.ema is None else self.ema.module

    def resume_or_load(self, resume: bool) -> None:
        """Goes on from the output folder's newest checkpoint, or loads `MODEL.WEIGHTS`."""
        extra = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        self.start_iter = extra.get("iteration", -1) + 1
        if self.start_iter == 0 and self.ema is not None:
            self.ema.set(self.network)
        self.data_loader = build_train_loader(
            self.cfg, self._mapper, self.run_record.seed, self.start_iter
        )
        if self.start_iter >= self.max_iter:
            logger.info(f"Iteration {self.start_iter} of {self.max_iter}: training had ended")

    def build_hooks(self) -> list[hooks.HookBase | None]:
        """Timing, schedule, checkpoints, evaluation, pictures and logs, in their order."""
        cfg = self.cfg
        main = comm.is_main_process()
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
            BestCheckpointer(self.checkpointer) if main else None,
            saver if main else None,  # last, so that it knows of the best so far
            hooks.PeriodicWriter(self.build_writers(), period=20) if main else None,
            VisualizationHook(cfg, lambda: self.eval_model) if main else None,
        ]

    def build_writers(self) -> list[Any]:
        """Progress with the time left on the terminal, JSON lines, and TensorBoard."""
        folder = Path(self.cfg.OUTPUT_DIR)
        return [
            CommonMetricPrinter(self.max_iter),
            JSONWriter(str(folder / "metrics.json")),
            TensorboardXWriter(str(folder / "tensorboard")),
        ]

    def evaluate(self) -> dict[str, Any]:
        """COCO AP of the evaluated model on every test set."""
        return evaluate(self.cfg, self.eval_model, min(self.iter + 1, self.max_iter))

    def train(self) -> None:
        """Runs from the start iteration to the last, hooks included.

        Raises:
            WbcnetsError: An image turned out to be unreadable, or a checkpoint unwritable.
            FloatingPointError: Too many steps in a row were not finite; none touched the weights.
        """
        logger.info(f"Training from iteration {self.start_iter} to {self.max_iter}")
        self.iter = self.start_iter
        self.model.train()
        self._batches = watched_batches(self.data_loader)
        with EventStorage(self.start_iter) as self.storage:
            self.before_train()
            while self.iter < self.max_iter:
                self.before_step()
                self.run_step()
                self.after_step()
                self.iter += 1
            self.after_train()

    def run_step(self) -> None:
        """One optimizer step: losses, gradients, a check that all is finite, the update.

        Raises:
            FloatingPointError: The last of too many steps in a row that were not finite.
        """
        start = time.perf_counter()
        batch = next(self._batches)
        data_time = time.perf_counter() - start
        # After the batch: a loader that starts draws from torch's generator
        seed_everything(self.run_record.seed, self.iter, comm.get_rank())
        self._buffers.keep()
        try:
            with explain_oom(self._memory_hint(batch)):
                metrics = self._compute_gradients(batch)
        except FloatingPointError as error:
            # Other processes wait for this one's gradients, so that it cannot leave out a step
            self._leave_out(batch, str(error), stop=comm.get_world_size() > 1)
            return
        loss, norm = metrics["total_loss"], metrics["gradient_norm"]
        # float16's gradients overflow now and then; the scaler leaves such a step out by itself
        if not (math.isfinite(loss) and (math.isfinite(norm) or self.scaler.is_enabled())):
            self._leave_out(batch, f"loss {loss:.4g} with gradient norm {norm:.4g}")
            return
        self.run_record.consecutive_bad_steps = 0
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.network, step=self.iter)
        if comm.is_main_process():
            self.storage.put_scalars(**metrics, data_time=data_time)

    def _memory_hint(self, batch: Sequence[dict[str, Any]]) -> str:
        largest = max((tuple(entry["image"].shape[1:]) for entry in batch), default=(0, 0))
        return (
            f"with SOLVER.IMS_PER_BATCH {self.cfg.SOLVER.IMS_PER_BATCH} and images of up to "
            f"{largest[0]}x{largest[1]} px: lower it, or INPUT.MIN_SIZE_TRAIN and "
            "INPUT.MAX_SIZE_TRAIN, or set SOLVER.AMP.ENABLED True"
        )

    def _compute_gradients(self, batch: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Clipped gradients, and losses and norm as means over all processes.

        Reading these is the step's one wait for the device, beside the matcher's.
        """
        with autocast(self.cfg):
            losses: dict[str, Tensor] = self.model(batch)
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        clip = self.cfg.SOLVER.CLIP_NORM or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, clip)
        values = torch.stack([*losses.values(), total, norm]).detach()
        if comm.get_world_size() > 1:
            dist.all_reduce(values)
            values /= comm.get_world_size()
        return dict(zip([*losses, "total_loss", "gradient_norm"], values.tolist()))

    def _leave_out(self, batch: Sequence[dict[str, Any]], reason: str, stop: bool = False) -> None:
        """Undoes what a step that was not finite changed, keeps its images, and counts it."""
        self._buffers.restore()
        self.run_record.bad_steps += 1
        self.run_record.consecutive_bad_steps += 1
        kept = keep_bad_step(Path(self.cfg.OUTPUT_DIR), batch, self.iter, self.class_names)
        images = ", ".join(
            f"{entry.get('file_name', '?')} (image id {entry.get('image_id', '?')})"
            for entry in batch[:8]
        )
        text = (
            f"iteration {self.iter}: {reason}; the weights were not changed. The images, kept in "
            f"{kept}: {images}"
        )
        limit = self.cfg.SOLVER.MAX_BAD_STEPS
        if not stop and self.run_record.consecutive_bad_steps < limit:
            logger.warning(f"{text}. The step was left out")
            return
        raise FloatingPointError(
            f"{text}. This was bad step {self.run_record.consecutive_bad_steps} in a row "
            f"(SOLVER.MAX_BAD_STEPS {limit}): lower SOLVER.BASE_LR, or look at the images"
        )


def evaluate(cfg: CfgNode, model: nn.Module, iteration: int | None = None) -> dict[str, Any]:
    """COCO AP on every test set; writes results and a table into the output folder.

    Args:
        cfg: The config, with registered test sets.
        model: The model to judge.
        iteration: When, for the record.

    Returns:
        Per dataset the figures of `LeukocyteEvaluator`, 0 to 100; empty on other processes.
    """
    results: dict[str, Any] = {}
    for name in cfg.DATASETS.TEST:
        loader = build_test_loader(cfg, name, SmearMapper.from_config(cfg, is_train=False))
        evaluator = LeukocyteEvaluator(name, Path(cfg.OUTPUT_DIR) / "inference" / name)
        with autocast(cfg):
            figures = inference_on_dataset(model, loader, evaluator)
        if comm.is_main_process():
            results[name] = figures["bbox"]
    if comm.is_main_process():
        save_results(Path(cfg.OUTPUT_DIR), results, iteration)
    return results


def distribute(model: nn.Module) -> nn.Module:
    """The model, wrapped where several processes train it."""
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).is_cuda
    return DistributedDataParallel(
        model, device_ids=[comm.get_local_rank()] if on_gpu else None, broadcast_buffers=True
    )


def autocast(cfg: CfgNode) -> AbstractContextManager[Any]:
    """The precision of `SOLVER.AMP`; on a CPU always bfloat16, which it has instructions for."""
    if not cfg.SOLVER.AMP.ENABLED:
        return nullcontext()
    device = cfg.MODEL.DEVICE.split(":")[0]
    half = device == "cuda" and cfg.SOLVER.AMP.PRECISION == "float16"
    return torch.autocast(device, dtype=torch.float16 if half else torch.bfloat16)
