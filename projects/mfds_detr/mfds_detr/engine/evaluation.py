"""COCO evaluation of a detector, with AP per class, and its files in the output folder."""

import contextlib
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.utils import comm
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate
from torch import nn

from mfds_detr.data.dataset_mapper import SmearMapper
from mfds_detr.data.loading import build_test_loader
from wbcnets.engine.precision import autocast
from wbcnets.io.atomic_files import write_text

logger = logging.getLogger("mfds_detr.engine.evaluation")

COCO_MAX_DETECTIONS = 100
# COCO's metrics, as indices of IoU thresholds (0.5, 0.55, ... 0.95) and of ranges of areas
_SELECT: dict[str, dict[str, int]] = {
    "AP": {},
    "AP50": {"threshold": 0},
    "AP75": {"threshold": 5},
    "APs": {"area": 1},
    "APm": {"area": 2},
    "APl": {"area": 3},
}


def amp_type(cfg: CfgNode) -> str:
    """Returns the type of ``SOLVER.AMP``; CPUs have instructions for bfloat16 only."""
    if not cfg.SOLVER.AMP.ENABLED:
        return "none"
    return str(cfg.SOLVER.AMP.PRECISION) if cfg.MODEL.DEVICE.startswith("cuda") else "bfloat16"


def evaluate(
    cfg: CfgNode,
    model: nn.Module,
    iteration: int | None = None,
    datasets: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Computes COCO AP on datasets; writes results and a table into the output folder.

    Args:
        cfg: The config, with registered test sets.
        model: The model to evaluate.
        iteration: Iterations that the model was trained for, for the record.
        datasets: Registered datasets; by default the test sets.

    Returns:
        The metrics of ``LeukocyteEvaluator`` by dataset, in percent; empty on other processes.
    """
    results: dict[str, Any] = {}
    for name in cfg.DATASETS.TEST if datasets is None else datasets:
        evaluator = run_evaluator(cfg, model, name)
        if comm.is_main_process():
            results[name] = evaluator.metrics
    if comm.is_main_process():
        save_results(Path(cfg.OUTPUT_DIR), results, iteration)
    return results


def run_evaluator(cfg: CfgNode, model: nn.Module, name: str) -> "LeukocyteEvaluator":
    """Detects on a registered dataset, and returns the evaluator with its results."""
    loader = build_test_loader(cfg, name, SmearMapper.from_config(cfg, is_train=False))
    evaluator = LeukocyteEvaluator(name, Path(cfg.OUTPUT_DIR) / "inference" / name)
    with autocast(cfg.MODEL.DEVICE.split(":")[0], amp_type(cfg)):
        inference_on_dataset(model, loader, evaluator)
    return evaluator


class LeukocyteEvaluator(COCOEvaluator):
    """Detectron2's COCO evaluator of boxes, with pycocotools.

    Args:
        dataset_name: A registered dataset.
        output_folder: Gets the predictions as COCO results.

    Attributes:
        metrics: In percent, in the main process after an evaluation.
        evaluated: COCO's own account of it; None without any detection.
    """

    metrics: dict[str, float]
    evaluated: COCOeval | None = None

    def __init__(self, dataset_name: str, output_folder: Path) -> None:
        output_folder.mkdir(parents=True, exist_ok=True)
        super().__init__(
            dataset_name,
            tasks=("bbox",),
            distributed=True,
            output_dir=str(output_folder),
            use_fast_impl=False,
        )

    def _eval_predictions(self, predictions: Any, img_ids: Any = None) -> None:
        """Fills ``_results`` with AP in percent; NaN for a class without objects.

        COCO's limit of 100 detections is raised to the number of objects in the densest image, so
        that all of them can be found. Classes are matched by id, because the model may have another
        order than the file. Without any detection, for which COCO's code has no number, AP is 0.
        """
        names = list(self._metadata.thing_classes)
        to_label = self._metadata.thing_dataset_id_to_contiguous_id
        category_ids = {label: category for category, label in to_label.items()}
        results = [
            {**result, "category_id": category_ids[result["category_id"]]}
            for prediction in predictions
            for result in prediction["instances"]
        ]
        self._save(results)
        if not results:
            self.metrics = self._nothing_found(names, category_ids)
            self._results["bbox"] = self.metrics
            return
        self.evaluated = evaluated = self._run_coco(results, img_ids)
        metrics = {name: _mean_precision(evaluated, **select) for name, select in _SELECT.items()}
        for index, category in enumerate(evaluated.params.catIds):
            metrics[f"AP-{names[to_label[category]]}"] = _mean_precision(evaluated, category=index)
        self._results["bbox"] = self.metrics = metrics
        table = tabulate([metrics.values()], headers=list(metrics), floatfmt=".1f")
        logger.info(f"{len(results)} detections:\n{table}")

    def _nothing_found(
        self, names: Sequence[str], category_ids: Mapping[int, int]
    ) -> dict[str, float]:
        truth = self._coco_api

        def precision(*categories: int) -> float:
            return 0.0 if truth.getAnnIds(catIds=categories, iscrowd=False) else math.nan

        overall = dict.fromkeys(_SELECT, precision(*category_ids.values()))
        return overall | {
            f"AP-{name}": precision(category_ids[label]) for label, name in enumerate(names)
        }

    def _save(self, results: list[dict[str, Any]]) -> None:
        write_text(Path(self._output_dir) / "coco_instances_results.json", json.dumps(results))

    def _run_coco(self, results: list[dict[str, Any]], image_ids: Any) -> COCOeval:
        truth = self._coco_api
        densest = max((len(truth.getAnnIds(imgIds=[i])) for i in truth.getImgIds()), default=0)
        # pycocotools prints what it does
        with contextlib.redirect_stdout(io.StringIO()):
            evaluated = COCOeval(truth, truth.loadRes(results), "bbox")
            evaluated.params.maxDets = [1, 10, max(COCO_MAX_DETECTIONS, densest)]
            if image_ids is not None:
                evaluated.params.imgIds = image_ids
            evaluated.evaluate()
            evaluated.accumulate()
        return evaluated


def _mean_precision(
    evaluated: COCOeval, threshold: int | None = None, area: int = 0, category: int | None = None
) -> float:
    """Returns the mean of COCO's precisions (T, R, K, A, M), in percent; NaN without objects."""
    precision = evaluated.eval["precision"][:, :, :, area, -1]
    if threshold is not None:
        precision = precision[threshold : threshold + 1]
    if category is not None:
        precision = precision[:, :, category]
    known = precision[precision > -1]
    return float(known.mean() * 100) if known.size else math.nan


def save_results(folder: Path, results: dict[str, Any], iteration: int | None) -> None:
    """Writes ``evaluation.json``, and the same as a table, ``evaluation.md``.

    Args:
        folder: The output folder.
        results: Metrics in percent, by dataset and name.
        iteration: Iterations that the model was trained for, or None.
    """
    metrics = {
        dataset: {name: value if math.isfinite(value) else None for name, value in rows.items()}
        for dataset, rows in results.items()
    }
    text = json.dumps({"iteration": iteration, "results": metrics}, indent=2, allow_nan=False)
    write_text(folder / "evaluation.json", text)
    tables = [_format_table(name, rows) for name, rows in results.items()]
    when = "" if iteration is None else f"After {iteration} iterations.\n\n"
    write_text(folder / "evaluation.md", when + "\n\n".join(tables))


def _format_table(name: str, metrics: dict[str, float]) -> str:
    rows = [(key, f"{value:.1f}") for key, value in metrics.items()]
    return f"## {name}\n\n" + tabulate(rows, headers=("metric", "%"), tablefmt="github") + "\n"
