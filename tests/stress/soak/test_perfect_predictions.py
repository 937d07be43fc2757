"""Ground truth as predictions has an AP of 1, with any ids in any order."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("detectron2")

from detectron2.structures import Boxes, Instances

from mfds_detr.data.datasets import DatasetSource, register_datasets
from mfds_detr.engine.evaluation import LeukocyteEvaluator
from tests.stress.faults.builders import HEIGHT, NAMES, WIDTH, write_pictures
from tests.stress.soak.scale import LONG, scaled

pytestmark = pytest.mark.timeout(3600 if LONG else 300)


@st.composite
def datasets(draw):
    """Draws valid COCO objects with any ids, empty images, and one of up to 150 cells."""
    image_ids = draw(st.lists(st.integers(0, 10**6), min_size=3, max_size=3, unique=True))
    category_ids = draw(st.lists(st.integers(0, 99), min_size=2, max_size=2, unique=True))
    dense = draw(st.integers(0, 150))
    cells = [(0, number % 15 * 4, number // 15 * 4, 3, 3) for number in range(dense)]
    cells += draw(
        st.lists(
            st.tuples(
                st.just(1), st.integers(0, 40), st.integers(0, 30), st.integers(4, 20),
                st.integers(4, 15),
            ),
            min_size=1, max_size=5, unique_by=lambda row: row[1:],
        )
    )  # fmt: skip
    labels = draw(st.lists(st.integers(0, 1), min_size=len(cells), max_size=len(cells)))
    ids = draw(
        st.lists(st.integers(-5, 10**6), min_size=len(cells), max_size=len(cells), unique=True)
    )
    annotations = [
        {"id": number, "image_id": image_ids[image], "category_id": category_ids[label],
         "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
        for number, label, (image, x, y, w, h) in zip(ids, labels, cells)
    ]  # fmt: skip
    images = [
        {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
        for number, name in zip(image_ids, NAMES)
    ]
    categories = [{"id": i, "name": n} for i, n in zip(category_ids, ("basophil", "monocyte"))]
    return {
        "images": draw(st.permutations(images)),
        "annotations": draw(st.permutations(annotations)),
        "categories": draw(st.permutations(categories)),
    }


@settings(
    max_examples=scaled(15, 500),
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=list(HealthCheck),
)
@given(datasets())
def test_perfect_predictions(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("perfect")
    write_pictures(folder / "images")
    (folder / "x.json").write_text(json.dumps(data))
    source = DatasetSource("perfect", folder / "x.json", folder / "images")
    dataset = register_datasets([], ["perfect"], [source], folder / "cache")["perfect"]
    evaluator = LeukocyteEvaluator("perfect", folder / "out")
    evaluator.reset()
    for image in dataset.images:
        found = Instances((image.height, image.width))
        boxes = torch.from_numpy(image.boxes.copy())
        boxes[:, 2:] += boxes[:, :2]
        found.pred_boxes = Boxes(boxes)
        found.pred_classes = torch.from_numpy(image.labels)
        found.scores = torch.linspace(0.9, 0.5, len(boxes))
        evaluator.process([{"image_id": image.id}], [{"instances": found}])
    metrics = evaluator.evaluate()["bbox"]
    present = {name for name, count in dataset.box_counts.items() if count}
    assert metrics["AP"] == pytest.approx(100.0)
    for name in present:
        assert metrics[f"AP-{name}"] == pytest.approx(100.0)
