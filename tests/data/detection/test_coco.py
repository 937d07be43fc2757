import copy
import json
import os

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.round_trips import ROUND_TRIPS
from wbcnets.data.detection.coco import load_coco, parse_coco
from wbcnets.errors import DataError
from wbcnets.io.strict_json import write_json


@pytest.fixture
def load(tmp_path):
    """Writes an object (or text) to val.json and loads it."""

    def load_object(data, **options):
        path = tmp_path / "val.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
        return load_coco(path, tmp_path / "images", **options)

    return load_object


def test_a_valid_file(load, coco, tmp_path):
    dataset = load(coco)
    assert dataset.class_names == ("RBC", "WBC")
    assert dataset.category_ids == (0, 4)
    assert dataset.counts.n_used == dataset.counts.n_read == 2
    first, second = dataset.images
    assert first.file_name == str(tmp_path / "images" / "a.png")
    assert (first.id, first.width, first.height) == (7, 64, 48)
    np.testing.assert_array_equal(first.boxes, [[10, 10, 20, 20], [30, 5, 10, 12.5]])
    assert first.boxes.dtype == np.float32
    assert first.labels.tolist() == [1, 0]
    assert second.boxes.shape == (0, 4)
    assert dataset.n_negatives == 1
    assert dataset.box_counts == {"RBC": 1, "WBC": 1}
    assert "2 read = 2 used" in dataset.summary()
    dataset.require_classes(["RBC", "WBC"])
    with pytest.raises(DataError, match="in this order"):
        dataset.require_classes(["WBC", "RBC"])


def test_to_json_is_clean_and_survives_a_second_pass(load, coco, tmp_path):
    coco["annotations"][0].update(bbox=[50, 10, 15, 20])
    dataset = load(coco)
    assert dataset.counts.n_repaired == 1
    saved = tmp_path / "clean" / "val.json"
    dataset.save(saved)
    cleaned = json.loads(saved.read_text())
    assert [a["id"] for a in cleaned["annotations"]] == [1, 2]
    assert cleaned["annotations"][0]["bbox"] == [50, 10, 14, 20]
    assert cleaned["annotations"][0]["area"] == 280
    assert [i["id"] for i in cleaned["images"]] == [7, 3]
    assert [i["file_name"] for i in cleaned["images"]] == ["a.png", "b.png"]
    assert cleaned["categories"] == [{"id": 0, "name": "RBC"}, {"id": 4, "name": "WBC"}]
    again = load_coco(saved, tmp_path / "images")
    assert again.counts.n_used == again.counts.n_read == 2
    assert again.report.lines() == []
    assert again.to_json()["annotations"] == cleaned["annotations"]


def test_a_smaller_mask_area_is_kept(load, coco):
    coco["annotations"][0]["area"] = 314.25
    assert load(coco).to_json()["annotations"][0]["area"] == 314.25


def annotation(index, **changes):
    return lambda coco: coco["annotations"][index].update(changes)


def image(index, **changes):
    return lambda coco: coco["images"][index].update(changes)


def without(section, index, key):
    return lambda coco: coco[section][index].pop(key)


def append(section, entry):
    return lambda coco: coco[section].append(entry)


BOX = {"id": 9, "image_id": 7, "category_id": 4, "bbox": [1, 2, 9, 9], "area": 81, "iscrowd": 0}
ERRORS = {
    "negative size": (annotation(0, bbox=[30, 30, -20, -20]), r"annotations\[0\].*negative size"),
    "far over the border": (
        annotation(0, bbox=[50, 10, 30, 20]),
        "leaves the 64x48 image by 16 px",
    ),
    "corners": (annotation(0, bbox=[20, 10, 50, 40]), r"looks like \[x1, y1, x2, y2\]"),
    "normalized": (annotation(0, bbox=[0.1, 0.2, 0.3, 0.3]), "looks normalized"),
    "NaN": (annotation(0, bbox=[float("nan"), 1, 2, 3]), r"annotations\[0\].*not finite"),
    "infinity": (annotation(0, bbox=[1, 1, float("inf"), 3]), "not finite"),
    "huge integer": (annotation(0, bbox=[1, 1, 10**400, 3]), "not finite"),
    "string box": (annotation(0, bbox=["1", "1", "2", "3"]), "must hold numbers, not str"),
    "box as text": (annotation(0, bbox="1 2 3 4"), "must be four numbers"),
    "boolean box": (annotation(0, bbox=[True, 1, 2, 3]), "must hold numbers, not bool"),
    "three numbers": (annotation(0, bbox=[1, 2, 3]), "must be four numbers"),
    "null box": (annotation(0, bbox=None), "must be four numbers"),
    "missing box": (without("annotations", 0, "bbox"), "must be four numbers"),
    "duplicate image id": (image(1, id=7), r'images\[1\] \(id=7, "b.png"\).*images\[0\].*"a.png"'),
    "image id as text": (image(1, id="3"), r"images\[1\].*integer id"),
    "duplicate annotation id": (annotation(1, id=0), r"annotations\[1\] \(id=0.*annotations\[0\]"),
    "missing annotation id": (without("annotations", 0, "id"), "id None must be an integer"),
    "orphan": (annotation(0, image_id=99), "image_id 99 is no image"),
    "missing file": (image(1, file_name="c.png"), r'images\[1\].*"c.png".*does not exist'),
    "wrong size": (image(0, width=60), "JSON says 60x48, the file is 64x48"),
    "turned size": (image(0, width=48, height=64), "EXIF orientation"),
    "unknown category": (annotation(0, category_id=1), r"category_id 1 is unknown .*\[0, 4\]"),
    "category as text": (annotation(0, category_id="4"), "category_id '4' is unknown"),
    "duplicate category id": (append("categories", {"id": 4, "name": "x"}), "own id"),
    "duplicate category name": (append("categories", {"id": 5, "name": "wbc "}), "same name"),
    "category without name": (append("categories", {"id": 5}), "is not a name"),
    "crowd as text": (annotation(0, iscrowd="yes"), "iscrowd 'yes' must be 0 or 1"),
    "annotation is a list": (append("annotations", []), r"annotations\[2\]: \[\] is not an"),
    "no images": (lambda coco: coco["images"].clear(), '"images" is empty'),
    "no annotations": (lambda coco: coco["annotations"].clear(), '"annotations" is empty'),
    "annotations missing": (lambda coco: coco.pop("annotations"), '"annotations" is missing'),
    "no categories": (lambda coco: coco["categories"].clear(), '"categories" is empty'),
    "images as object": (lambda coco: coco.update(images={}), '"images" is a dict'),
    "traversal": (image(0, file_name="../outside.png"), "leads out of the image folder"),
    "absolute": (image(0, file_name="/etc/passwd"), "absolute path"),
    "drive": (image(0, file_name="C:\\x.png"), "absolute path"),
    "URL": (image(0, file_name="https://example.org/x.png"), "is a URL"),
    "no name": (image(0, file_name=None), "is not a file name"),
    "null byte": (image(0, file_name="a\0.png"), "is not a file name"),
    "symbolic link": (image(0, file_name="link.png"), "leads out of the image folder"),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_each_fault_is_one_clear_error(load, coco, tmp_path, fault):
    outside = tmp_path / "outside.png"
    Image.new("RGB", (64, 48)).save(outside)
    os.symlink(outside, tmp_path / "images" / "link.png")
    change, message = ERRORS[fault]
    change(coco)
    with pytest.raises(DataError, match=message) as caught:
        load(coco)
    assert "val.json" in str(caught.value)
    assert caught.value.problems


def test_all_faults_are_found_in_one_pass(load, coco):
    template = copy.deepcopy(coco["annotations"][0])
    faults = [
        "NaN",
        "negative size",
        "unknown category",
        "orphan",
        "three numbers",
        "crowd as text",
    ]
    for number, fault in enumerate(faults):
        coco["annotations"].append({**template, "id": 100 + number})
        if fault == "crowd as text":
            coco["annotations"][-1]["iscrowd"] = "yes"
        else:
            ERRORS[fault][0]({"annotations": coco["annotations"][-1:]})
    coco["images"][1]["file_name"] = "c.png"
    with pytest.raises(DataError) as caught:
        load(coco)
    assert len(caught.value.problems) == len(faults) + 1


def test_corners_stored_as_sizes_are_named_for_the_whole_file(load, coco):
    for number in range(4):
        coco["annotations"].append({**BOX, "id": 20 + number, "bbox": [20 + number, 15, 40, 40]})
    with pytest.raises(DataError, match=r"4 of 6 boxes.*convert the file"):
        load(coco, policy="fix")


DROPS = {
    "zero area": ([5, 5, 0, 0], "zero area"),
    "zero height": ([5, 5, 3, 0], "zero area"),
    "outside": ([70, 5, 9, 9], "outside"),
    "duplicate": ([10, 10, 20, 20], r"exact duplicate of annotations\[0\]"),
}


@pytest.mark.parametrize("kind", DROPS)
def test_drops_are_counted_and_named(load, coco, kind):
    box, reason = DROPS[kind]
    coco["annotations"].append({**BOX, "bbox": box})
    dataset = load(coco)
    assert (dataset.counts.n_read, dataset.counts.n_dropped) == (3, 1)
    assert len(dataset.report.dropped) == 1
    assert dataset.report.dropped[0].startswith('val.json: annotations[2] (id=9, image "a.png"): ')
    assert reason.replace("\\", "") in dataset.report.dropped[0]
    if kind != "duplicate":
        with pytest.raises(DataError, match="remove it"):
            load(coco, policy="refuse")


def test_fix_swaps_corners_and_clips(load, coco):
    coco["annotations"][0]["bbox"] = [30, 30, -20, -20]
    coco["annotations"][1]["bbox"] = [50, 5, 30, 12]
    dataset = load(coco, policy="fix")
    np.testing.assert_array_equal(dataset.images[0].boxes, [[10, 10, 20, 20], [50, 5, 14, 12]])
    assert dataset.counts.n_repaired == len(dataset.report.repaired) == 2


def test_small_overhang_is_clipped_and_counted_but_rounding_is_not(load, coco):
    coco["annotations"][0]["bbox"] = [-1.5, 10, 20, 20]
    coco["annotations"][1]["bbox"] = [44.000001, 5, 20, 12]
    dataset = load(coco)
    assert dataset.counts.n_repaired == dataset.counts.n_used == 1
    assert dataset.images[0].boxes[0].tolist() == [0, 10, 18.5, 20]


def test_crowd_and_ignore(load, coco):
    coco["annotations"][0]["iscrowd"] = 1
    coco["annotations"][1]["ignore"] = 1
    dataset = load(coco)
    assert dataset.images[0].crowd.tolist() == [True, True]
    assert dataset.counts.n_repaired == 1
    assert [a["iscrowd"] for a in dataset.to_json()["annotations"]] == [1, 1]
    assert dataset.box_counts == {"RBC": 0, "WBC": 0}


def test_missing_values_are_filled_in(load, coco):
    del coco["images"][0]["width"]
    coco["images"][1]["height"] = "48"
    del coco["annotations"][0]["area"], coco["annotations"][1]["iscrowd"]
    dataset = load(coco, check_images=False)
    assert [(i.width, i.height) for i in dataset.images] == [(64, 48), (64, 48)]
    assert len(dataset.report.repaired_images) == 2
    assert "2 annotations lacked area or iscrowd" in dataset.report.notes[0]
    assert [a["area"] for a in dataset.to_json()["annotations"]] == [400, 125]


def test_notes(load, coco, tmp_path):
    (tmp_path / "images" / "sub").mkdir()
    os.rename(tmp_path / "images" / "b.png", tmp_path / "images" / "sub" / "b.png")
    coco["images"][1]["file_name"] = "sub\\b.png"
    coco["images"].append({**coco["images"][0], "id": 12})
    coco["annotations"].append({**BOX, "bbox": [10, 10, 20, 20.1]})
    dataset = load(coco)
    assert "backslashes" in dataset.report.repaired_images[0]
    assert dataset.images[1].file_name.endswith("sub/b.png")
    assert "same file as images[0]" in dataset.report.notes[0]
    assert "annotations[0]" in dataset.report.notes[1]
    assert "cover nearly the same box" in dataset.report.notes[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"val\.json:1:1: not valid JSON"),
        ('{"images": [\n {"id": 1', r"val\.json:2:\d+: not valid JSON"),
        ("[]", "top level is a list"),
        ('{"images": [], "images": [1]}', '"images" is a duplicate'),
        ("[" * 100_000, "nested too deeply"),
        ('{"x": ' + "9" * 5000 + "}", r"val\.json:1:7: an integer of 5,000 digits is no id"),
    ],
)
def test_unreadable_json(load, coco, text, message):
    with pytest.raises(DataError, match=message) as caught:
        load(text)
    assert caught.value.problems == ()


def test_byte_order_mark_and_other_encodings(coco, tmp_path):
    path = tmp_path / "val.json"
    path.write_text(json.dumps(coco), encoding="utf-8-sig")
    assert load_coco(path, tmp_path / "images").counts.n_read == 2
    path.write_bytes(b'{"x": "\xff"}')
    with pytest.raises(DataError, match="byte 7 is not UTF-8"):
        load_coco(path, tmp_path / "images")
    with pytest.raises(DataError, match="does not exist"):
        load_coco(tmp_path / "other.json", tmp_path / "images")
    with pytest.raises(DataError, match="image folder"):
        parse_coco(coco, tmp_path / "none", source="x")
    with pytest.raises(DataError, match="policy='clip' is unknown"):
        parse_coco(coco, tmp_path, source="x", policy="clip")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json({"version": 1}, path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"version": float("nan")}, path)
    assert json.loads(path.read_text()) == {"version": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


numbers = st.one_of(st.floats(-3, 70), st.integers(-3, 70), st.sampled_from([0, 0.0, 1e-9]))
boxes = st.lists(numbers, min_size=4, max_size=4)


@given(
    rows=st.lists(
        st.tuples(boxes, st.sampled_from([7, 3]), st.sampled_from([0, 4]), st.booleans()),
        min_size=1,
        max_size=12,
    ),
)
@settings(ROUND_TRIPS, max_examples=150)
def test_no_annotation_is_ever_lost(coco, tmp_path, rows):
    annotations = [
        {
            "id": number,
            "image_id": image_id,
            "category_id": category,
            "bbox": box,
            "iscrowd": int(crowd),
        }
        for number, (box, image_id, category, crowd) in enumerate(rows)
    ]
    data = {**coco, "annotations": annotations}
    try:
        dataset = parse_coco(
            data, tmp_path / "images", source="x", policy="fix", check_images=False
        )
    except DataError:
        reject()
    kept = sum(len(image.boxes) for image in dataset.images)
    counts = dataset.counts
    assert counts.n_read == len(rows) == counts.n_used + counts.n_repaired + counts.n_dropped
    assert kept == counts.n_used + counts.n_repaired
    assert len(dataset.report.dropped) == counts.n_dropped
    assert len(dataset.report.repaired) == counts.n_repaired
    for image in dataset.images:
        ends = image.boxes[:, :2].astype(np.float64) + image.boxes[:, 2:]
        assert (image.boxes[:, :2] >= 0).all()
        assert (image.boxes[:, 2:] > 0).all()
        assert (ends <= np.array([64, 48]) + 1e-4).all()


def test_an_object_in_memory_is_not_changed(coco, tmp_path):
    before = json.loads(json.dumps(coco))
    parse_coco(coco, tmp_path / "images", source="x")
    assert coco == before


def test_boxes_of_different_images_classes_and_kinds_are_no_duplicates(load, coco):
    first = coco["annotations"][0]
    coco["annotations"].append({**first, "id": 90, "iscrowd": 1})
    coco["annotations"].append({**first, "id": 91})
    dropped = load(coco).report.dropped
    assert len(dropped) == 1
    assert "(id=91" in dropped[0]
    assert "exact duplicate of annotations[0]" in dropped[0]
