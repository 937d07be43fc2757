"""The log on the terminal and in a file, the progress bar, TensorBoard and the speed."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)


class ProgressLogger:
    """Shows the progress of a run.

    Args:
        folder: The run's folder; None in processes other than the main one, which show nothing.
        first_step: Steps that are done; TensorBoard keeps their curves.
    """

    def __init__(self, folder: Path | None, first_step: int = 0) -> None:
        self.is_main = folder is not None
        self._bar: Any = None
        self._writer: Any = None if folder is None else _create_writer(folder, first_step)

    def __enter__(self) -> "ProgressLogger":
        return self

    def __exit__(self, *error: object) -> None:
        self.end_epoch()
        if self._writer is not None:
            self._writer.close()

    def start_epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Opens a progress bar if there is a terminal."""
        self._bar = tqdm(
            total=steps,
            initial=done,
            desc=f"epoch {epoch + 1}/{epochs}",
            unit="step",
            leave=False,
            disable=None if self.is_main else True,
        )

    def log_step(self, loss: float, lr: float, speed: float) -> None:
        """Advances the bar."""
        if not self._bar.disable:
            shown = {"loss": f"{loss:.4f}", "lr": f"{lr:.2e}", "images/s": f"{speed:.0f}"}
            self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def end_epoch(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def log_epoch(self, row: Mapping[str, float], epochs: int, step: int, is_best: bool) -> None:
        """Logs an epoch's row, and adds it to TensorBoard's curves."""
        logger.info(
            "epoch %d/%d: loss %.4f; val loss %.4f, accuracy %.4f, balanced accuracy %.4f, F1 %.4f"
            "%s; %.0f images/s",
            row["epoch"],
            epochs,
            row["train_loss"],
            row["val_log_loss"],
            row["val_accuracy"],
            row["val_balanced_accuracy"],
            row["val_f1_macro"],
            " (best)" if is_best else "",
            row["images_per_second"],
        )
        if self._writer is not None:
            for name, value in row.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()


class EpochTimer:
    """Measures the speed of an epoch's steps.

    Args:
        batch_size: Images of a step.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.steps = 0
        self.seconds = self._first = self._waited = 0.0
        self._start = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measures the time that a step waits for its images."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def end_step(self) -> None:
        """Counts a step."""
        self.steps += 1
        self.seconds = time.perf_counter() - self._start
        if self.steps == 1:
            # Workers start in the first step, and kernels are compiled
            self._first, self._waited = self.seconds, 0.0

    @property
    def speed(self) -> float:
        """Images per second."""
        return self.steps * self.batch_size / self.seconds

    @property
    def model_speed(self) -> float:
        """Images per second of the later steps, without waiting for images."""
        seconds = self.seconds - self._first - self._waited
        return (self.steps - 1) * self.batch_size / max(seconds, 1e-9)


def log_speed(loader_speed: float, model_speed: float) -> None:
    """Logs the speeds of loader and model in images per second, and which one is the limit."""
    logger.info("data loading %.0f images/s, model %.0f images/s", loader_speed, model_speed)
    if loader_speed < model_speed:
        logger.warning(
            "loading the images limits the speed: raise data.workers, set data.cache=true, or "
            "prepare smaller images"
        )


def start_logging(folder: Path | None) -> None:
    """Sends the library's log to the terminal and, with a folder, to its ``train.log``.

    Args:
        folder: The run's folder; None in processes other than the main one, which only warn.
    """
    root = logging.getLogger("wbcnets")
    for handler in list(root.handlers):
        if getattr(handler, "of_a_run", False):
            root.removeHandler(handler)
            handler.close()
    handlers: list[logging.Handler] = [_Terminal()]
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(folder / "train.log", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        handler.of_a_run = True  # type: ignore[attr-defined]
        root.addHandler(handler)
    root.setLevel(logging.INFO if folder is not None else logging.WARNING)


class _Terminal(logging.Handler):
    """Writes above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def _create_writer(folder: Path, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("TensorBoard is not installed: the curves are in log.csv only")
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first_step or None)
