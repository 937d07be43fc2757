"""COCO evaluation with AP per class, and its record in the output folder."""

import json
import math
from pathlib import Path
from typing import Any

from detectron2.evaluation import COCOEvaluator
from tabulate import tabulate

from wbcnets.files import write_atomically

_ORDER = ("AP", "AP50", "AP75", "APs", "APm", "APl")


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

    def _eval_predictions(self, predictions: Any, *args: Any, **kwargs: Any) -> None:
        """Without any detection AP is 0, where COCO's code would have no number."""
        super()._eval_predictions(predictions, *args, **kwargs)
        if not any(prediction["instances"] for prediction in predictions):
            per_class = {f"AP-{name}": 0.0 for name in self._metadata.thing_classes}
            self._results["bbox"] = dict.fromkeys(_ORDER, 0.0) | per_class


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
