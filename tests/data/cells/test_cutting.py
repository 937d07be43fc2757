import numpy as np
import pytest
from PIL import Image

from wbcnets.data.cells.cutting import cut_cell, list_cut_cells
from wbcnets.data.detection.coco import load_coco
from wbcnets.errors import ConfigError, DataError
from wbcnets.io.strict_json import write_json

FIELD = np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3)


@pytest.mark.parametrize(
    ("box", "context", "top", "left", "side"),
    [
        ((30, 20, 10, 20), 1.0, 20, 25, 20),
        ((30, 20, 20, 10), 2.0, 5, 20, 40),
        ((0, 0, 10, 10), 2.0, 0, 0, 20),  # shifted into the field, not mirrored
        ((70, 50, 10, 10), 2.0, 40, 60, 20),
        ((30, 20, 20, 20), 8.0, 0, 10, 60),  # no larger than the field
        ((5.2, 7.6, 0.3, 0.4), 1.0, 7, 5, 1),
    ],
)
def test_a_crop_is_a_square_of_the_field(box, context, top, left, side):
    crop = cut_cell(FIELD, box, context)
    assert (crop == FIELD[top : top + side, left : left + side]).all()
    assert crop.shape == (side, side, 3)


def write_fields(root):
    """Writes one field with three boxes; returns the annotations."""
    Image.fromarray(FIELD).save(root / "a.png")
    boxes = [(1, [30, 20, 10, 10], 0), (2, [50, 30, 8, 8], 0), (1, [0, 0, 40, 40], 1)]
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 80, "height": 60}],
        "annotations": [
            {"id": n, "image_id": 7, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": i}
            for n, (c, b, i) in enumerate(boxes, start=1)
        ],
        "categories": [{"id": 1, "name": "monocyte"}, {"id": 2, "name": "neutrophil"}],
    }
    write_json(content, root / "fields.json")
    return root / "fields.json"


def test_every_box_becomes_a_crop_per_context(tmp_path):
    dataset = load_coco(write_fields(tmp_path), tmp_path)
    listing = list_cut_cells(dataset, tmp_path / "cells", (1.0, 2.0))
    found = {(file.path.name, file.class_text, file.group) for file in listing.files}
    assert found == {
        ("a_7_0_1.png", "monocyte", "a_7"),
        ("a_7_0_2.png", "monocyte", "a_7"),
        ("a_7_1_1.png", "neutrophil", "a_7"),
        ("a_7_1_2.png", "neutrophil", "a_7"),
    }
    crop = np.asarray(Image.open(tmp_path / "cells" / "monocyte" / "a_7_0_2.png"))
    assert (crop == cut_cell(FIELD, (30, 20, 10, 10), 2.0)).all()


@pytest.mark.parametrize("contexts", [(), (0.9,), (1.5, 9.0), (float("nan"),)])
def test_contexts_out_of_range_are_errors(contexts, tmp_path):
    dataset = load_coco(write_fields(tmp_path), tmp_path)
    with pytest.raises(ConfigError, match=r"must lie in \[1, 8\]"):
        list_cut_cells(dataset, tmp_path / "cells", contexts)


def test_fields_that_cannot_be_read_are_named(tmp_path):
    dataset = load_coco(write_fields(tmp_path), tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.png"):
        list_cut_cells(dataset, tmp_path / "cells")
