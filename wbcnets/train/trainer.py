"""The training of a classifier: epochs of steps, an evaluation after each, checkpoints between."""

import logging
import math
import time
import typing
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wbcnets.engine.distributed import DistributedContext
from wbcnets.engine.memory import explain_oom
from wbcnets.engine.non_finite import BufferBackup, is_overflow
from wbcnets.engine.precision import autocast
from wbcnets.engine.seeding import seed_everything
from wbcnets.engine.signals import SignalHandler
from wbcnets.errors import DataError
from wbcnets.evaluation.metrics import ClassifierMetrics, compute_metrics
from wbcnets.train.config import BestMetric, TrainConfig
from wbcnets.train.data import CellData, measure_loader
from wbcnets.train.logging import EpochTimer, ProgressLogger, log_speed
from wbcnets.train.run_folder import BEST_NAME, LAST_NAME, RunFolder
from wbcnets.train.state import Progress, TrainingState, memory_format

logger = logging.getLogger(__name__)

_FINITE_ADVICE = "lower optimizer.lr, set training.clip_grad=1, use training.amp=none"


class Trainer:
    """Trains a classifier from where its state is to the end.

    Everything random in a step follows from the seed, the step and the process, so that a resumed
    run continues as if it had not stopped: on a CPU, with the same bits.

    Args:
        config: All settings.
        context: The processes of the run.
        state: Model, loss, optimizer and progress.
        data: Datasets, sampler and loaders.
        folder: The folder of the run; None in processes other than the main one.
    """

    def __init__(
        self,
        config: TrainConfig,
        context: DistributedContext,
        state: TrainingState,
        data: CellData,
        folder: RunFolder | None = None,
    ) -> None:
        self.config, self.context = config, context
        self.state, self.data, self.folder = state, data, folder
        self.interrupted = self.late = False
        network = context.wrap(state.network)
        self._network: Any = torch.compile(network) if config.training.compile else network
        self._memory_format = memory_format(config.training)
        self._parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        self._backup = BufferBackup(state.model, state.loss)
        self._signals = SignalHandler()
        self._loader_speed = 0.0
        self._started = self._saved_at = time.perf_counter()
        self._seconds_before = state.progress.total_seconds

    def train(self) -> Progress:
        """Trains until the last epoch, or until a limit of the settings is reached.

        Raises:
            FloatingPointError: if too many steps in a row, or all, were not finite, or the model's
                outputs are not.
            KeyboardInterrupt: if the run was asked to stop; ``last.pth`` holds its state.
            WbcnetsError: if an image cannot be read, or a checkpoint cannot be written.
        """
        progress, epochs = self.state.progress, self.config.training.epochs
        path = None if self.folder is None else self.folder.path
        self._log_setup()
        if self.folder is not None:
            self.folder.start()
        if progress.epoch < epochs:
            self._start_loader()
        with self._signals, ProgressLogger(path, progress.global_step) as self._log:
            self.late = self.context.any(self._is_late())
            while progress.epoch < epochs and not self.late and not self._has_stalled():
                timer = self._train_epoch()
                if self._loader_speed:
                    log_speed(self._loader_speed, timer.model_speed)
                    self._loader_speed = 0.0
                if self.interrupted:
                    self.save()
                    raise self._signals.interruption()
                self._end_epoch(timer.speed)
                self.late = self.context.any(self.late or self._is_late())
        self.save()
        self.state.bad_steps.check_learned(progress.global_step, _FINITE_ADVICE)
        self._log_end()
        return progress

    def _start_loader(self) -> None:
        """Draws the first batch of a new run, and measures the loader."""
        progress = self.state.progress
        self.data.set_position(progress.epoch, progress.step)
        if self.folder is not None and not progress.global_step:
            indices = self.data.sampler.step_indices(0, 0)
            self.folder.write_first_batch(self.data.train_set, indices)
        self._loader_speed = measure_loader(self.data.train_loader)

    def _train_epoch(self) -> EpochTimer:
        """Takes the remaining steps of an epoch, or those until the run must stop."""
        progress, training = self.state.progress, self.config.training
        steps = self.data.sampler.steps_per_epoch
        self.state.model.train()
        self.data.set_position(progress.epoch, progress.step)
        self._log.start_epoch(progress.epoch, training.epochs, steps, progress.step)
        before, timer = progress.seconds, EpochTimer(training.batch_size)
        batches = iter(self.data.train_loader)
        while progress.step < steps:
            with timer.waiting():
                parts = [next(batches) for _ in range(training.grad_accum_steps)]
            with explain_oom(self._memory_hint):
                loss = self.train_step(parts)
            timer.end_step()
            progress.seconds = before + timer.seconds
            self._log.log_step(loss, self.state.lr, timer.speed)
            if self.interrupted or self.late:
                break
            minutes = (time.perf_counter() - self._saved_at) / 60
            if progress.step < steps and minutes >= training.checkpoint_minutes:
                self.save()
        self._log.end_epoch()
        return timer

    def train_step(self, parts: Sequence[Sequence[Tensor]]) -> float:
        """Takes one step, or skips it if its loss or gradients are not finite.

        Args:
            parts: Images (B, 3, H, W) and labels (B,) of each part of the step.

        Returns:
            The loss, a mean over parts and processes.

        Raises:
            FloatingPointError: if too many steps in a row were not finite.
        """
        state, progress, training = self.state, self.state.progress, self.config.training
        seed_everything(training.seed, progress.global_step, self.context.rank)
        state.scheduler.step_update(progress.global_step)
        self._backup.keep()
        state.optimizer.zero_grad(set_to_none=True)
        losses = [self._backward(part, len(parts), part is parts[-1]) for part in parts]
        loss = torch.stack(losses).sum()
        state.scaler.unscale_(state.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, training.clip_grad or math.inf)
        flags = loss.new_tensor([float(self._signals.requested), float(self._is_late())])
        # One exchange between processes, and one wait for the device, per step
        shared = self.context.mean(torch.cat([torch.stack([loss, norm.to(loss)]), flags])).tolist()
        self.interrupted, self.late = shared[2] > 0, shared[3] > 0
        self._update(shared[0], shared[1])
        return shared[0]

    def _backward(self, part: Sequence[Tensor], parts: int, is_last: bool) -> Tensor:
        """Adds a part's gradients; returns its contribution to the loss."""
        device = self.context.device
        images = part[0].to(device, non_blocking=True, memory_format=self._memory_format)
        targets = part[1].to(device, non_blocking=True)
        if self.data.mixup is not None:
            images, targets = self.data.mixup(images, targets)
        exchanges_gradients = is_last or self.context.world_size == 1
        with nullcontext() if exchanges_gradients else self._network.no_sync():
            with autocast(device.type, self.config.training.amp):
                features, logits = self._network(images)
            loss: Tensor = self.state.loss(features, logits, targets) / parts
            self.state.scaler.scale(loss).backward()
        return loss.detach().float()

    def _update(self, loss: float, norm: float) -> None:
        """Updates the weights, or undoes a step that is not finite."""
        state, progress = self.state, self.state.progress
        # float16's gradients overflow now and then; the scaler itself skips such a step
        changes = math.isfinite(loss) and math.isfinite(norm)
        finite = math.isfinite(loss) and (changes or is_overflow(state.scaler))
        if finite or state.scaler.is_enabled():
            state.scaler.step(state.optimizer)
            state.scaler.update()
        progress.global_step += 1
        progress.step += 1
        if not finite:
            self._backup.restore()
            self._report_bad_step(loss, norm)
            return
        if changes:
            state.bad_steps.end_row()
        progress.loss_sum += loss
        progress.loss_count += 1
        if state.ema is not None:
            state.ema.update(state.model, step=progress.global_step)

    def _report_bad_step(self, loss: float, norm: float) -> None:
        """Saves the images of a step that was not finite, and counts it."""
        progress, dataset = self.state.progress, self.data.train_set
        epoch, step = progress.epoch + 1, progress.step
        indices = self.data.sampler.step_indices(progress.epoch, step - 1)
        if self.folder is not None:
            details = {"epoch": epoch, "step": step, "loss": loss, "norm": norm}
            self.folder.write_bad_step(dataset, indices, details)
        files = ", ".join(dataset.manifest.images[index].file for index in indices)
        self.state.bad_steps.add(
            f"epoch {epoch}, step {step}: loss {loss:.4g} with gradient norm {norm:.4g}; the "
            f"weights did not change. The images: {files}",
            _FINITE_ADVICE,
        )

    @torch.inference_mode()
    def evaluate(self) -> ClassifierMetrics:
        """Returns the metrics on the evaluation images, without intervals; the same everywhere.

        Raises:
            FloatingPointError: if the model's outputs are not finite.
        """
        model, device = self.state.eval_model, self.context.device
        was_training = model.training
        model.eval()
        rows = []
        for images, _ in self.data.val_loader:
            images = images.to(device, non_blocking=True, memory_format=self._memory_format)
            with autocast(device.type, self.config.training.amp):
                logits = model(images)
            rows.append(logits.float())
        model.train(was_training)
        shard = torch.cat(rows).cpu() if rows else torch.empty(0)
        probabilities = self.context.gather_shards(shard).double().softmax(dim=1).numpy()
        if not np.isfinite(probabilities).all():
            raise FloatingPointError(
                f"after epoch {self.state.progress.epoch + 1} the model's outputs are not finite: "
                f"the training diverged; {_FINITE_ADVICE}"
            )
        dataset = self.data.val_set
        names = dataset.manifest.class_names
        return compute_metrics(dataset.labels, probabilities, names, resamples=0)

    def _end_epoch(self, speed: float) -> None:
        """Evaluates, logs the epoch, saves the best weights, and moves to the next epoch.

        Raises:
            DataError: if the metric that decides on the best epoch is undefined.
        """
        progress, training = self.state.progress, self.config.training
        metrics = self.evaluate()
        watched = {name: metrics.overall[name] for name in typing.get_args(BestMetric)}
        if watched[training.best_metric] is None:
            raise DataError(
                f"{self.data.val_set.manifest.name}: {training.best_metric} is undefined on the "
                f"evaluation images ({'; '.join(metrics.notes)}), so no epoch would be the best; "
                "set training.best_metric=accuracy, or add images of the missing classes",
                setting="data",
            )
        row = {
            "epoch": float(progress.epoch + 1),
            "train_loss": progress.loss_sum / max(progress.loss_count, 1),
            "lr": self.state.lr,
            **{f"val_{k}": math.nan if v is None else v for k, v in watched.items()},
            "seconds": progress.seconds,
            "images_per_second": speed,
            "bad_steps": float(self.state.bad_steps.total),
        }
        # A time limit may end an epoch early; a resumed run completes its row
        progress.rows = [old for old in progress.rows if old["epoch"] != row["epoch"]] + [row]
        score = row[f"val_{training.best_metric}"]
        score = -score if training.best_metric == "log_loss" else score
        is_best = score > progress.best and self.state.bad_steps.taken > 0
        if is_best:
            progress.best, progress.best_epoch = score, progress.epoch
        self._log.log_epoch(row, training.epochs, progress.global_step, is_best)
        if progress.step == self.data.sampler.steps_per_epoch:
            progress.start_epoch(progress.epoch + 1)
        if self.folder is not None:
            self.folder.write_log(progress.rows)
            if is_best:
                self.folder.save(BEST_NAME, self.state)
                self.folder.write_best(int(row["epoch"]), metrics)
        if progress.epoch % training.checkpoint_epochs == 0:
            self.save()

    def save(self) -> None:
        """Writes ``last.pth``, from which the run can be resumed."""
        self.state.progress.total_seconds = self._elapsed()
        self._saved_at = time.perf_counter()
        if self.folder is not None:
            self.folder.save(LAST_NAME, self.state)

    def _elapsed(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    def _is_late(self) -> bool:
        limit = self.config.training.max_minutes
        return bool(limit) and self._elapsed() >= 60 * limit

    def _has_stalled(self) -> bool:
        patience, progress = self.config.training.early_stopping, self.state.progress
        return bool(patience) and progress.epoch - 1 - progress.best_epoch >= patience

    @property
    def _memory_hint(self) -> str:
        training = self.config.training
        return (
            f"with training.batch_size={training.batch_size} in "
            f"training.grad_accum_steps={training.grad_accum_steps} parts of "
            f"{self.config.data.img_size} px: double training.grad_accum_steps, set "
            "training.grad_checkpointing=true or training.amp=bfloat16, or use smaller images"
        )

    def _log_setup(self) -> None:
        config, context, data = self.config, self.context, self.data
        logger.info(
            "%s, %.1f million parameters, on %s x %d, %d threads",
            config.model.name,
            sum(p.numel() for p in self.state.model.parameters()) / 1e6,
            context.device.type,
            context.world_size,
            torch.get_num_threads(),
        )
        logger.info("augmentation for training: %r", data.train_set.augmentation)
        logger.info("augmentation for evaluation: %r", data.val_set.augmentation)
        steps, progress = data.sampler.steps_per_epoch, self.state.progress
        size = config.training.batch_size
        logger.info("%d epochs of %d steps of %d images", config.training.epochs, steps, size)
        if progress.global_step:
            logger.info("resuming at epoch %d, step %d", progress.epoch + 1, progress.step)

    def _log_end(self) -> None:
        progress, training = self.state.progress, self.config.training
        if progress.epoch < training.epochs:
            reason = (
                f"training.max_minutes={training.max_minutes:g} are over"
                if self.late
                else f"no better epoch in {training.early_stopping}"
            )
            logger.info("stopped after %d epochs: %s", progress.epoch, reason)
        if progress.best_epoch >= 0:
            best, epoch = abs(progress.best), progress.best_epoch + 1
            logger.info("best %s: %.4f, in epoch %d", training.best_metric, best, epoch)
