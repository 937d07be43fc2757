"""COCO evaluation with AP per class, and its record in the output folder."""

import contextlib
import io
import json
import logging
import math
from pathlib import Path
from typing import Any

from detectron2.evaluation import COCOEvaluator
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from wbcnets.io.atomic_files import write_atomically

logger = logging.getLogger("mfds_detr.engine.evaluation")

COCO_MAX_DETECTIONS = 100
# COCO's figures, as indices of IoU thresholds (0.5, 0.55, ... 0.95) and of ranges of areas
_SELECT: dict[str, dict[str, int]] = {
    "AP": {},
    "AP50": {"threshold": 0},
    "AP75": {"threshold": 5},
    "APs": {"area": 1},
    "APm": {"area": 2},
    "APl": {"area": 3},
}
_ORDER = tuple(_SELECT)


class LeukocyteEvaluator(COCOEvaluator):
    """Detectron2's COCO evaluator on boxes, by the official implementation.

    Args:
        dataset_name: A registered dataset.
        output_folder: Where predictions are written as COCO results.
    """

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
        """Fills `_results` with AP in percent, NaN where there is nothing to find.

        COCO's limit of 100 detections is raised to the number of objects in the densest image, so
        that they can all be found. Classes are matched by id, since the order of the model's need
        not be that of the file's ids. Without any detection AP is 0, where COCO's code would have
        no number.
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
            per_class = {f"AP-{name}": 0.0 for name in names}
            self._results["bbox"] = dict.fromkeys(_ORDER, 0.0) | per_class
            return
        judged = self._judge(results, img_ids)
        figures = {name: _mean_precision(judged, **select) for name, select in _SELECT.items()}
        for index, category in enumerate(judged.params.catIds):
            figures[f"AP-{names[to_label[category]]}"] = _mean_precision(judged, category=index)
        self._results["bbox"] = figures
        table = tabulate([figures.values()], headers=list(figures), floatfmt=".1f")
        logger.info(f"{len(results)} detections:\n{table}")

    def _save(self, results: list[dict[str, Any]]) -> None:
        path = Path(self._output_dir) / "coco_instances_results.json"
        text = json.dumps(results)
        write_atomically(path, lambda file: file.write(text.encode()))

    def _judge(self, results: list[dict[str, Any]], image_ids: Any) -> COCOeval:
        truth = self._coco_api
        densest = max((len(truth.getAnnIds(imgIds=[i])) for i in truth.getImgIds()), default=0)
        # pycocotools prints what it does
        with contextlib.redirect_stdout(io.StringIO()):
            judged = COCOeval(truth, truth.loadRes(results), "bbox")
            judged.params.maxDets = [1, 10, max(COCO_MAX_DETECTIONS, densest)]
            if image_ids is not None:
                judged.params.imgIds = image_ids
            judged.evaluate()
            judged.accumulate()
        return judged


def _mean_precision(
    judged: COCOeval, threshold: int | None = None, area: int = 0, category: int | None = None
) -> float:
    """Mean of COCO's precisions `(T, R, K, A, M)`, in percent; NaN where there is no object."""
    precision = judged.eval["precision"][:, :, :, area, -1]
    if threshold is not None:
        precision = precision[threshold : threshold + 1]
    if category is not None:
        precision = precision[:, :, category]
    known = precision[precision > -1]
    return float(known.mean() * 100) if known.size else math.nan


def save_results(folder: Path, results: dict[str, Any], iteration: int | None) -> None:
    """Writes `evaluation.json`, and the same as a table, `evaluation.md`.

    Args:
        folder: The output folder.
        results: Per dataset the figures by name, 0 to 100.
        iteration: When, for the record.
    """
    figures = {
        dataset: {name: value if math.isfinite(value) else None for name, value in rows.items()}
        for dataset, rows in results.items()
    }
    text = json.dumps({"iteration": iteration, "results": figures}, indent=2, allow_nan=False)
    write_atomically(folder / "evaluation.json", lambda file: file.write(text.encode()))
    tables = [_table(name, figures) for name, figures in results.items()]
    when = "" if iteration is None else f"After {iteration} iterations.\n\n"
    write_atomically(
        folder / "evaluation.md", lambda file: file.write((when + "\n\n".join(tables)).encode())
    )


def _table(name: str, figures: dict[str, float]) -> str:
    rows = [(key, f"{value:.1f}") for key, value in figures.items()]
    return f"## {name}\n\n" + tabulate(rows, headers=("metric", "%"), tablefmt="github") + "\n"
