from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tests.data.cells.test_cutting import write_fields
from wbcnets.data.cells.loading import load_cells
from wbcnets.data.prepare.txl_pbc_cells import _raabin_type

# Part, source, type, and YOLO rows: 0 leukocyte, 1 red cell, 2 platelet
FIELDS = (
    ("train", "PBC", "monocyte", ("0 .5 .5 .2 .2", "1 .1 .1 .1 .1", "2 .9 .1 .04 .04")),
    ("val", "BCCD", "neutrophil", ("0 .3 .3 .2 .2", "0 .7 .7 .2 .2")),
    ("train", "BCCD", "", ("0 .3 .3 .2 .2",)),
    ("train", "Raabin-WBC", "", ("0 .3 .3 .2 .2",)),
    ("train", "BCDD", "", tuple(f"1 .{x} .{y} .1 .1" for x in (2, 5, 8) for y in (2, 5, 8))),
)


@pytest.fixture
def source(tmp_path):
    """A folder like the published one, with five fields."""
    folder = tmp_path / "txl"
    rows = ["image,split,source,original_name,wbc_subtype_if_known"]
    for number, (part, laboratory, kind, boxes) in enumerate(FIELDS):
        for kind_of_file in ("images", "labels"):
            (folder / kind_of_file / part).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (150, 200, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / part / f"{number}.png")
        (folder / "labels" / part / f"{number}.txt").write_text("\n".join(boxes))
        rows.append(f"{number}.png,{part},{laboratory},{number}.jpg,{kind}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_cells_by_laboratory_and_part(prepare, source, tmp_path):
    output = tmp_path / "cells"
    assert prepare("txl_pbc_cells", source, output, "--context", "1.2", "2") == 0
    manifest = load_cells(output)
    names = manifest.class_names
    found = Counter((image.split, names[image.label]) for image in manifest.images)
    empty = {(split, name): count for (split, name), count in found.items() if name == "other"}
    assert found - Counter(empty) == {
        ("pbc_train", "monocyte"): 2,
        ("pbc_train", "platelet"): 1,
        ("bccd_val", "neutrophil"): 4,
        ("raabin_train", "basophil"): 2,
    }
    # At most two red cells and one empty place per field
    assert 0 < empty["bcdd_train", "other"] <= 3
    assert all(count <= 3 for count in empty.values())
    assert {image.group for image in manifest.images if image.split == "bccd_val"} == {"1"}
    sides = {Image.open(manifest.path(i)).size for i in manifest.split("pbc_train").images}
    assert {(48, 48), (80, 80)} <= sides  # of the leukocyte: 40 px times 1.2 and 2


def test_types_of_raabin_follow_from_the_order():
    names = [_raabin_type(index) for index in range(463)]
    assert [names[index] for index in (0, 92, 93, 189, 190, 281, 373, 461)] == [
        "basophil",
        *("basophil", "eosinophil", "eosinophil", "lymphocyte", "monocyte"),
        *("neutrophil", "neutrophil"),
    ]
    assert names[40] is None
    assert names[462] is None
    assert Counter(names)[None] == 7


def test_cells_of_a_coco_file(prepare, tmp_path):
    (tmp_path / "fields").mkdir()
    annotations = write_fields(tmp_path / "fields")
    moved = annotations.rename(tmp_path / "annotations.json")
    options = ("--images", str(tmp_path / "fields"), "--protocol", "8:2", "--allow-rare")
    assert prepare("cells", moved, tmp_path / "cells", "--context", "1", "3", *options) == 0
    manifest = load_cells(tmp_path / "cells")
    assert manifest.class_names == ("monocyte", "neutrophil")
    assert len(manifest.images) == 4
    # Crops of one field stay on one side of a split
    assert len(manifest.splits) == 1


@pytest.mark.parametrize("context", ["0.5", "20"])
def test_contexts_out_of_range_are_errors(prepare, source, tmp_path, context, capsys):
    assert prepare("txl_pbc_cells", source, tmp_path / "cells", "--context", context) == 2
    assert "see --context" in capsys.readouterr().err
    assert not (tmp_path / "cells").exists()
