"""The training loop: epochs of steps, an evaluation after each, checkpoints in between."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from wbcnets.data.cells.dataset import CellDataset
from wbcnets.engine.distributed import DistributedContext
from wbcnets.engine.memory import explain_oom
from wbcnets.engine.signals import SignalHandler
from wbcnets.engine.worker_watchdog import watched_batches
from wbcnets.train.config import TrainConfig
from wbcnets.train.evaluation import evaluate, watched
from wbcnets.train.logging import Display
from wbcnets.train.run_folder import LAST_NAME, RunFolder
from wbcnets.train.sampling import StepSampler
from wbcnets.train.state import TrainingState
from wbcnets.train.step import Stepper, StepResult

logger = logging.getLogger(__name__)


@dataclass
class RunParts:
    """What a run is made of.

    Args:
        state: What changes.
        stepper: Takes the steps.
        sampler: Which images are in which step.
        train_set: All training images.
        val_set: All evaluation images.
        train_loader: Loads the parts of steps.
        val_loader: Loads this process's share of the evaluation images.
        loader_speed: Images per second of the training loader alone.
    """

    state: TrainingState
    stepper: Stepper
    sampler: StepSampler
    train_set: CellDataset
    val_set: CellDataset
    train_loader: DataLoader[Any]
    val_loader: DataLoader[Any]
    loader_speed: float = 0.0


class TrainingLoop:
    """Runs a training from where its state is to the end.

    Args:
        config: All settings.
        processes: Who computes what.
        parts: What the run is made of.
        folder: Where checkpoints go, None in processes other than the main one.
    """

    def __init__(
        self,
        config: TrainConfig,
        processes: DistributedContext,
        parts: RunParts,
        folder: RunFolder | None,
    ) -> None:
        self.config, self.processes, self.parts = config, processes, parts
        self.state, self.folder = parts.state, folder
        self._started = self._saved_at = time.perf_counter()
        self._seconds_before = parts.state.progress.total_seconds
        self._waited = 0.0
        self._speed = self._model_speed = 0.0
        self._speed_is_logged = False

    def run(self, display: Display) -> None:
        """Trains until the last epoch, or until a limit of the settings is met.

        Raises:
            FloatingPointError: Too many steps in a row were not finite.
            KeyboardInterrupt: The run was asked to stop; `last.pth` holds where it was.
            WbcnetsError: An image turned out to be unreadable, or a checkpoint unwritable.
        """
        progress, epochs = self.state.progress, self.config.training.epochs
        with SignalHandler() as interruption:
            late = self.processes.any(self._is_late())
            while progress.epoch < epochs and not late and not self._has_stalled():
                result = self._train_epoch(display, interruption)
                self._log_speed()
                if result.interrupted:
                    self._save_last()
                    raise KeyboardInterrupt
                self._end_epoch(display)
                late = self.processes.any(result.late or self._is_late())
        self._save_last()
        self._log_end(late)

    def _train_epoch(self, display: Display, interruption: SignalHandler) -> StepResult:
        """Takes the rest of an epoch's steps, or those until the run is to stop."""
        progress, steps = self.state.progress, self.parts.sampler.steps_per_epoch
        self.state.model.train()
        self.parts.train_set.set_epoch(progress.epoch)
        self.parts.sampler.set_position(progress.epoch, progress.step)
        start, before = time.perf_counter(), progress.seconds
        self._waited, images, first = 0.0, 0, 0.0
        display.start_epoch(progress.epoch, self.config.training.epochs, steps, progress.step)
        batches = watched_batches(self.parts.train_loader)
        while True:
            parts = self._next_parts(batches)
            with explain_oom(self._memory_hint):
                result = self.parts.stepper.take(parts, interruption.requested, self._is_late())
            images += self.parts.sampler.batch_size
            spent = time.perf_counter() - start
            if not first:
                # Workers start in the first step, and kernels are compiled
                first, self._waited = spent, 0.0
            progress.seconds = before + spent
            self._check(result)
            display.step(result.loss, self._learning_rate, images / spent)
            if result.interrupted or result.late or progress.step == steps:
                break
            self._save_now_and_then()
        self._speed = images / spent
        later = images - self.parts.sampler.batch_size
        self._model_speed = later / max(spent - first - self._waited, 1e-9)
        display.end_epoch()
        return result

    @property
    def _learning_rate(self) -> float:
        """The largest of the parameter groups, which layer-wise decay makes differ."""
        return max(group["lr"] for group in self.state.optimizer.param_groups)

    @property
    def _memory_hint(self) -> str:
        training, data = self.config.training, self.config.data
        return (
            f"with training.batch_size={training.batch_size} in "
            f"training.grad_accum_steps={training.grad_accum_steps} parts of {data.img_size} px: "
            "double training.grad_accum_steps, set training.grad_checkpointing=true or "
            "training.amp=bfloat16, or use smaller images"
        )

    def _next_parts(self, batches: Iterator[list[Tensor]]) -> list[list[Tensor]]:
        start = time.perf_counter()
        parts = [next(batches) for _ in range(self.config.training.grad_accum_steps)]
        self._waited += time.perf_counter() - start
        return parts

    def _check(self, result: StepResult) -> None:
        progress, limit = self.state.progress, self.config.training.max_bad_steps
        if result.usable:
            return
        indices = self.parts.sampler.step_indices(progress.epoch, progress.step - 1)
        files = [self.parts.train_set.manifest.images[index].file for index in indices]
        where = f"epoch {progress.epoch + 1}, step {progress.step}"
        if self.folder is not None:
            self.folder.keep_bad_step(
                self.parts.train_set,
                indices,
                {
                    "epoch": progress.epoch + 1,
                    "step": progress.step,
                    "loss": result.loss,
                    "norm": result.norm,
                },
            )
        logger.warning(
            "%s: loss %.4g with gradients of norm %.4g: the step was left out; its images: %s",
            where,
            result.loss,
            result.norm,
            ", ".join(files),
        )
        if progress.consecutive_bad_steps >= limit:
            raise FloatingPointError(
                f"{where}: {limit} steps in a row had no finite loss and gradients, the last with "
                f"loss {result.loss:.4g}; none of them changed the weights. Lower "
                "optimizer.lr, set training.clip_grad=1, use training.amp=none, or look "
                f"at the images of the last step: {', '.join(files)}"
            )

    def _end_epoch(self, display: Display) -> None:
        """Evaluates, notes the figures, keeps the best weights, goes to the next epoch."""
        progress, training = self.state.progress, self.config.training
        judgement = evaluate(
            self.state.eval_model,
            self.parts.val_loader,
            self.parts.val_set.labels,
            self.parts.val_set.manifest.class_names,
            self.processes,
            self.parts.stepper.amp_dtype,
            self.parts.stepper.memory_format,
        )
        metrics = watched(judgement)
        row = {
            "epoch": float(progress.epoch + 1),
            "train_loss": progress.loss_sum / max(progress.loss_count, 1),
            "lr": self._learning_rate,
            **{f"val_{name}": value for name, value in metrics.items()},
            "seconds": progress.seconds,
            "images_per_second": self._speed,
            "bad_steps": float(progress.bad_steps),
        }
        # An epoch that a limit of time cut short may be finished later
        progress.rows = [old for old in progress.rows if old["epoch"] != row["epoch"]] + [row]
        score = metrics[training.best_metric]
        score = -score if training.best_metric == "log_loss" else score
        improved = score > progress.best
        if improved:
            progress.best, progress.best_epoch = score, progress.epoch
        self._log_row(row, improved)
        display.curves(row, progress.global_step)
        if progress.step == self.parts.sampler.steps_per_epoch:
            progress.epoch, progress.step = progress.epoch + 1, 0
            progress.loss_sum, progress.loss_count, progress.seconds = 0.0, 0, 0.0
        if self.folder is not None:
            self.folder.write_log(progress.rows)
            if improved:
                self._save("best.pth", metrics)
                self.folder.write_best(int(row["epoch"]), judgement)
        if progress.epoch % training.checkpoint_epochs == 0:
            self._save_last()

    def _log_speed(self) -> None:
        """Once, which of loading and computing limits the run."""
        if self._speed_is_logged:
            return
        self._speed_is_logged = True
        logger.info(
            "data loading %.0f images/s, model %.0f images/s",
            self.parts.loader_speed,
            self._model_speed,
        )
        if self.parts.loader_speed < self._model_speed:
            logger.warning(
                "loading the images is what limits the run: raise data.workers, set "
                "data.cache=true, or prepare smaller images"
            )

    def _log_row(self, row: dict[str, float], improved: bool) -> None:
        logger.info(
            "epoch %d/%d: loss %.4f; val loss %.4f, accuracy %.4f, balanced accuracy %.4f, F1 %.4f"
            "%s; %.0f images/s",
            row["epoch"],
            self.config.training.epochs,
            row["train_loss"],
            row["val_log_loss"],
            row["val_accuracy"],
            row["val_balanced_accuracy"],
            row["val_f1_macro"],
            " (best)" if improved else "",
            row["images_per_second"],
        )

    def _log_end(self, late: bool) -> None:
        progress, training = self.state.progress, self.config.training
        if progress.epoch < training.epochs:
            reason = (
                f"training.max_minutes={training.max_minutes:g} are over"
                if late
                else f"no better epoch in {training.early_stopping}"
            )
            logger.info("stopped after %d epochs: %s", progress.epoch, reason)
        if progress.best_epoch >= 0:
            logger.info(
                "best %s: %.4f, in epoch %d",
                training.best_metric,
                abs(progress.best),
                progress.best_epoch + 1,
            )

    def _is_late(self) -> bool:
        limit = self.config.training.max_minutes
        return bool(limit) and self._elapsed() >= 60 * limit

    def _elapsed(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    def _has_stalled(self) -> bool:
        patience, progress = self.config.training.early_stopping, self.state.progress
        return bool(patience) and progress.epoch - 1 - progress.best_epoch >= patience

    def _save_now_and_then(self) -> None:
        if time.perf_counter() - self._saved_at >= 60 * self.config.training.checkpoint_minutes:
            self._save_last()

    def _save_last(self) -> None:
        progress = self.state.progress
        progress.total_seconds = self._elapsed()
        self._saved_at = time.perf_counter()
        metrics = progress.rows[-1] if progress.rows else {}
        self._save(LAST_NAME, metrics, self.state.resume_state())

    def _save(
        self, name: str, metrics: dict[str, float], resume: dict[str, Any] | None = None
    ) -> None:
        if self.folder is not None:
            weights, epoch = self.state.weights(), self.state.progress.epoch
            self.folder.save_weights(name, weights, epoch, metrics, resume)
