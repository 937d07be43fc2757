"""What a run shows: the log on the terminal and in a file, a progress bar, TensorBoard."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)


class Display:
    """Shows a run's progress; does nothing in processes other than the main one.

    Args:
        folder: The run's folder.
        is_main: Whether this process shows anything.
        first_step: Steps that were done before, of which TensorBoard keeps the curves.
    """

    def __init__(self, folder: Path, is_main: bool, first_step: int = 0) -> None:
        self.is_main = is_main
        self._bar: Any = None
        self._writer: Any = _tensorboard(folder, first_step) if is_main else None

    def __enter__(self) -> "Display":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end_epoch()
        if self._writer is not None:
            self._writer.close()

    def start_epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Opens a bar, where there is a terminal."""
        text = f"epoch {epoch + 1}/{epochs}"
        hidden = True if not self.is_main else None
        self._bar = tqdm(
            total=steps, initial=done, desc=text, unit="step", leave=False, disable=hidden
        )

    def step(self, loss: float, rate: float, speed: float) -> None:
        """Moves the bar on."""
        if not self._bar.disable:
            shown = {"loss": f"{loss:.4f}", "lr": f"{rate:.2e}", "images/s": f"{speed:.0f}"}
            self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def end_epoch(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def curves(self, row: Mapping[str, float], step: int) -> None:
        """Adds a row to TensorBoard's curves."""
        if self._writer is not None:
            for name, value in row.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()


def start_logging(folder: Path | None) -> None:
    """Sends the library's log to the terminal and, with a folder, to `train.log` in it.

    Args:
        folder: The run's folder, None in processes other than the main one, which only warn.
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


def _tensorboard(folder: Path, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("TensorBoard is not installed: the curves are in log.csv alone")
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first_step or None)
