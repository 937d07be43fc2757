"""Hooks that keep the best checkpoint, and draw curves and sample predictions."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from PIL import Image
from torch import nn

from mfds_detr.checkpoint.checkpointer import AtomicCheckpointer
from mfds_detr.data.dataset_mapper import SmearMapper, boxes_and_labels
from mfds_detr.data.datasets import choosing_sets
from wbcnets.engine.non_finite import BadStepCounter
from wbcnets.io.atomic_files import write_atomically
from wbcnets.io.drawing import contact_sheet, draw_boxes
from wbcnets.io.images import read_image

logger = logging.getLogger("mfds_detr.engine.hooks")


class BestCheckpointer(HookBase):
    """Saves ``model_best.pth``, the checkpoint of the highest mean AP over the test sets.

    Args:
        checkpointer: Writes the file.
        steps: Counts the steps; weights that none of them changed are not the best of anything.
    """

    def __init__(self, checkpointer: AtomicCheckpointer, steps: BadStepCounter) -> None:
        self.checkpointer = checkpointer
        self.steps = steps
        self.best = -math.inf
        self.best_iteration = -1
        checkpointer.add_checkpointable("best", self)

    def state_dict(self) -> dict[str, Any]:
        """Returns the best AP so far, for a checkpoint."""
        return {"best": self.best, "best_iteration": self.best_iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the best AP so far from a checkpoint."""
        self.best, self.best_iteration = state["best"], state["best_iteration"]

    def after_step(self) -> None:
        """Saves if this iteration's evaluation is the best so far."""
        self._save_if_best(self.trainer.iter)

    def after_train(self) -> None:
        """Saves after the last evaluation, which follows the last step."""
        self._save_if_best(self.trainer.iter)

    def _save_if_best(self, iteration: int) -> None:
        found = [
            value
            for name, (value, when) in self.trainer.storage.latest().items()
            if name.endswith("/AP") and when == iteration
            if math.isfinite(value)  # a test set without objects has no AP
        ]
        if not found or not self.steps.taken or float(np.mean(found)) <= self.best:
            return
        self.best, self.best_iteration = float(np.mean(found)), iteration
        self.checkpointer.save("model_best", iteration=iteration)


class VisualizationHook(HookBase):
    """Draws ``curves.png`` and ``predictions_NAME.png`` per test set after each evaluation.

    Args:
        cfg: The config, with registered test sets.
        model: Returns the model whose predictions are drawn.
    """

    def __init__(self, cfg: CfgNode, model: Callable[[], nn.Module]) -> None:
        self.cfg = cfg
        self.model = model

    def after_step(self) -> None:
        """Draws if this iteration was evaluated."""
        period = self.cfg.TEST.EVAL_PERIOD
        done = self.trainer.iter + 1
        if period > 0 and done % period == 0 and done < self.trainer.max_iter:
            self._draw()

    def after_train(self) -> None:
        """Draws the final state."""
        self._draw()

    def _draw(self) -> None:
        folder = Path(self.cfg.OUTPUT_DIR)
        draw_curves(folder / "metrics.json", folder / "curves.png")
        for name in choosing_sets(self.cfg):
            draw_predictions(self.cfg, self.model(), name, folder / f"predictions_{name}.png")


def draw_predictions(
    cfg: CfgNode, model: nn.Module, dataset: str, path: Path, threshold: float = 0.3
) -> None:
    """Draws pairs of images, one with the annotated boxes and one with the predicted ones.

    Args:
        cfg: The config.
        model: The model.
        dataset: A registered dataset; its images are sampled at even distances.
        path: The picture to write.
        threshold: Smallest score to draw.
    """
    records = DatasetCatalog.get(dataset)
    count = min(cfg.TEST.SAMPLE_PICTURES, len(records))
    if not count:
        return
    mapper = SmearMapper.from_config(cfg, is_train=False)
    names = MetadataCatalog.get(dataset).thing_classes
    pairs, captions = [], []
    was_training = model.training
    model.eval()
    for index in np.linspace(0, len(records) - 1, count).astype(int):
        record = records[index]
        with torch.no_grad():
            found = model([mapper(record)])[0]["instances"].to("cpu")
        found = found[found.scores >= threshold]
        image = read_image(record["file_name"])
        pairs.append(draw_boxes(image, *boxes_and_labels(record["annotations"]), names))
        pairs.append(
            draw_boxes(
                image,
                found.pred_boxes.tensor.numpy(),
                found.pred_classes.numpy(),
                names,
                found.scores.numpy(),
            )
        )
        captions += [f"{Path(record['file_name']).name}: annotated", "predicted"]
    model.train(was_training)
    sheet = Image.fromarray(contact_sheet(pairs, 4 if count > 1 else 2, captions))
    write_atomically(path, lambda file: sheet.save(file, "PNG"))


def draw_curves(metrics_file: Path, path: Path) -> None:
    """Draws loss and AP over the iterations, from Detectron2's ``metrics.json``.

    Args:
        metrics_file: JSON lines; may not exist yet.
        path: The picture to write.
    """
    if not metrics_file.is_file():
        return
    rows = [json.loads(line) for line in metrics_file.read_text().splitlines() if line.strip()]
    figure, (losses, scores) = plt.subplots(1, 2, figsize=(12, 4.5), constrained_layout=True)
    for name in ("total_loss", "loss_class", "loss_l1", "loss_giou"):
        points = [(row["iteration"], row[name]) for row in rows if name in row]
        if points:
            losses.plot(*zip(*points), label=name)
    losses.set(xlabel="iteration", ylabel="loss", yscale="log", title="Loss")
    scored = sorted({name for row in rows for name in row if name.split("/")[-1] in ("AP", "AP50")})
    for name in scored:
        points = sorted({(row["iteration"], row[name]) for row in rows if name in row})
        scores.plot(*zip(*points), marker="o", label=name)
    scores.set(xlabel="iteration", ylabel="%", ylim=(0, 100), title="Average precision")
    for axis in (losses, scores):
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    write_atomically(path, lambda file: figure.savefig(file, dpi=110))
    plt.close(figure)
