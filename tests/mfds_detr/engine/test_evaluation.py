import json
import math

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from mfds_detr.data.datasets import DatasetSource, register_datasets
from mfds_detr.engine.evaluation import LeukocyteEvaluator, save_results


@pytest.fixture
def zero_based(smears, tmp_path):
    """The generated smears with annotation ids from 0 and category ids with gaps."""
    content = json.loads(smears.json_file.read_text())
    for index, annotation in enumerate(content["annotations"]):
        annotation["id"] = index
        annotation["category_id"] = annotation["category_id"] * 10 - 10
    for category in content["categories"]:
        category["id"] = category["id"] * 10 - 10
    path = tmp_path / "zero_based.json"
    path.write_text(json.dumps(content))
    return DatasetSource("zero_based", path, smears.images)


def evaluate(name, folder, predict):
    evaluator = LeukocyteEvaluator(name, folder)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        instances = predict(record)
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def detections(record, boxes, labels, scores):
    found = Instances((record["height"], record["width"]))
    found.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    found.pred_classes = torch.tensor(labels, dtype=torch.int64)
    found.scores = torch.tensor(scores)
    return found


def perfect(record):
    annotations = record["annotations"]
    boxes = [BoxMode.convert(a["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for a in annotations]
    labels = [a["category_id"] for a in annotations]
    return detections(record, boxes, labels, [0.9] * len(labels))


def wrong_class(record):
    found = perfect(record)
    found.pred_classes = (found.pred_classes + 1) % 5
    return found


@pytest.mark.parametrize("reverse", [False, True])
def test_perfect_predictions(zero_based, tmp_path, reverse):
    names = tuple(
        register_datasets([], ["zero_based"], [zero_based], tmp_path)["zero_based"].class_names
    )
    order = names[::-1] if reverse else names
    register_datasets([], ["zero_based"], [zero_based], tmp_path, order)
    metrics = evaluate("zero_based", tmp_path / "out", perfect)
    assert metrics["AP"] == pytest.approx(100)
    assert metrics["AP50"] == pytest.approx(100)
    assert metrics["AP75"] == pytest.approx(100)
    present = {
        order[a["category_id"]] for r in DatasetCatalog.get("zero_based") for a in r["annotations"]
    }
    assert len(present) >= 3
    for name in present:
        assert metrics[f"AP-{name}"] == pytest.approx(100)
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {entry["category_id"] for entry in written} <= {0, 10, 20, 30, 40}


@pytest.mark.parametrize("reverse", [False, True])
def test_the_metrics_of_a_class_are_under_its_name(zero_based, tmp_path, reverse):
    names = register_datasets([], ["zero_based"], [zero_based], tmp_path)["zero_based"].class_names
    order = tuple(names[::-1] if reverse else names)
    register_datasets([], ["zero_based"], [zero_based], tmp_path, order)
    missed = order[0]
    assert any(a["category_id"] == 0 for r in DatasetCatalog.get("zero_based")
               for a in r["annotations"])  # fmt: skip

    def without_one_class(record):
        found = perfect(record)
        return found[found.pred_classes != 0]

    metrics = evaluate("zero_based", tmp_path / "out", without_one_class)
    found = {name: metrics[f"AP-{name}"] for name in order if metrics[f"AP-{name}"] >= 0}
    assert found.pop(missed) == 0
    assert found
    assert all(value == pytest.approx(100) for value in found.values())


def test_wrong_classes_score_nothing(zero_based, tmp_path):
    register_datasets([], ["zero_based"], [zero_based], tmp_path)
    metrics = evaluate("zero_based", tmp_path / "out", wrong_class)
    assert metrics["AP"] < 20


def test_no_predictions_at_all(zero_based, tmp_path):
    register_datasets([], ["zero_based"], [zero_based], tmp_path)
    metrics = evaluate("zero_based", tmp_path / "out", lambda r: detections(r, [], [], []))
    for name in ("AP", "AP50", "AP75"):
        assert metrics[name] == 0
    for name in MetadataCatalog.get("zero_based").thing_classes:
        assert metrics[f"AP-{name}"] == 0


def test_a_class_without_objects_has_no_precision(zero_based, tmp_path):
    content = json.loads(zero_based.json_file.read_text())
    first = content["categories"][0]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != first["id"]]
    zero_based.json_file.write_text(json.dumps(content))
    register_datasets([], ["zero_based"], [zero_based], tmp_path)
    metrics = evaluate("zero_based", tmp_path / "out", lambda r: detections(r, [], [], []))
    assert metrics.pop("AP") == 0
    assert {name for name, value in metrics.items() if math.isnan(value)} == {f"AP-{first['name']}"}


def test_results_in_the_output_folder(tmp_path):
    results = {"my_test": {"AP": 61.25, "AP-monocyte": float("nan")}}
    save_results(tmp_path, results, 40)
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert record["iteration"] == 40
    assert record["results"]["my_test"]["AP"] == 61.25
    table = (tmp_path / "evaluation.md").read_text()
    assert "After 40 iterations" in table
    assert "## my_test" in table
    assert "61.2" in table
