import json

import pytest
from PIL import Image

from wbcnets.data.detection.labelme import load_labelme
from wbcnets.data.detection.report import Counts
from wbcnets.errors import DataError


def shape(points, kind="rectangle", label="WBC", group=None):
    return {"label": label, "shape_type": kind, "points": points, "group_id": group, "flags": {}}


@pytest.fixture
def convert(tmp_path):
    """Writes shapes as a.json beside an image of 64x48 and converts them."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "a.png")

    def run(shapes, aliases=None, **values):
        path = tmp_path / "a.json"
        content = {
            "imagePath": "a.png",
            "imageData": None,
            "imageWidth": 64,
            "imageHeight": 48,
            "shapes": shapes,
            **values,
        }
        path.write_text(json.dumps(content))
        dataset = load_labelme([path], tmp_path / "images", ("RBC", "WBC"), aliases=aliases)
        return dataset.to_json(), dataset.report

    return run


@pytest.mark.parametrize(
    ("kind", "points", "box"),
    [
        ("rectangle", [[10, 5], [30, 25]], [10, 5, 20, 20]),
        ("rectangle", [[30, 25], [10, 5]], [10, 5, 20, 20]),
        ("rectangle", [[10, 25], [30, 5]], [10, 5, 20, 20]),
        ("rectangle", [[10, 5], [30, 5], [30, 25], [10, 25]], [10, 5, 20, 20]),
        ("polygon", [[10, 5], [30.5, 9], [12, 25]], [10, 5, 20.5, 20]),
        ("circle", [[20, 20], [23, 24]], [15, 15, 10, 10]),
        ("mask", [[10, 5], [30, 25]], [10, 5, 20, 20]),
        (None, [[10, 5], [30.5, 9], [12, 25]], [10, 5, 20.5, 20]),
    ],
)
def test_shapes_become_their_bounding_boxes(convert, kind, points, box):
    coco, report = convert([shape(points, kind)])
    assert coco["annotations"][0]["bbox"] == box
    assert report.counts.n_used == 1


@pytest.mark.parametrize(
    ("kind", "points", "reason"),
    [
        ("point", [[1, 2]], "a point encloses nothing"),
        ("line", [[1, 2], [3, 4]], "a line encloses nothing"),
        ("linestrip", [[1, 2], [3, 4]], "a linestrip encloses nothing"),
        ("polygon", [[1, 2], [3, 4]], "a polygon of 2 points"),
        ("rectangle", [[1, 2]], "a rectangle of 1 points"),
        ("rectangle", [[3, 4], [3, 9]], "zero area"),
    ],
)
def test_shapes_without_extent_are_dropped_by_name(convert, kind, points, reason):
    coco, report = convert([shape([[10, 5], [30, 25]]), shape(points, kind)])
    assert len(coco["annotations"]) == 1
    assert (report.counts.n_read, report.counts.n_dropped) == (2, 1)
    assert report.dropped[0].startswith('a.json: shapes[1] "WBC": ')
    assert reason in report.dropped[0]


def test_shapes_of_a_group_are_one_cell(convert):
    coco, report = convert(
        [
            shape([[10, 5], [20, 15]], group=1),
            shape([[40, 5], [50, 15]], group=2),
            shape([[18, 12], [30, 25]], group=1),
            shape([[1, 1], [5, 5]], label="RBC", group=1),
        ]
    )
    boxes = {tuple(a["bbox"]): a["category_id"] for a in coco["annotations"]}
    assert boxes == {(10, 5, 20, 20): 2, (40, 5, 10, 10): 2, (1, 1, 4, 4): 1}
    assert report.counts == Counts(4, 2, 1, 1)
    assert "part of a.json: shapes[0]" in report.dropped[0]


def test_aliases(convert):
    coco, report = convert([shape([[1, 1], [9, 9]], label="LEU")], {"LEU": "WBC"})
    assert coco["annotations"][0]["category_id"] == 2
    assert report.read == {"WBC": 1}
    with pytest.raises(DataError, match='class "wbc" is unknown; did you mean "WBC"'):
        convert([shape([[1, 1], [9, 9]], label="wbc")])


@pytest.mark.parametrize(
    "path", ["..\\..\\data\\a.png", "/home/x/a.png", "../a.png", None, "b.jpg"]
)
def test_only_the_name_in_image_path_counts(convert, path):
    coco, _ = convert([shape([[1, 1], [9, 9]])], imagePath=path)
    assert coco["images"][0]["file_name"] == "a.png"


def test_stale_sizes_are_noted_and_image_data_is_never_decoded(convert):
    coco, report = convert([shape([[1, 1], [9, 9]])], imageWidth=9, imageData="no base64!")
    assert coco["images"][0]["width"] == 64
    assert "64x48 is taken from the file" in report.notes[0]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (None, '"shapes" is None'),
        (["x"], r"shapes\[0\]: 'x' needs a label"),
        ([shape([[1, 1], [9, float("nan")]])], "pairs of finite numbers"),
        ([shape([[1, 1], ["9", 9]])], "pairs of finite numbers"),
        ([shape("12")], "pairs of finite numbers"),
        ([shape([[1, 1], [9, 9]], group="a")], "group_id 'a'"),
        ([shape([[1, 1], [90, 9]])], "leaves the 64x48 image"),
    ],
)
def test_bad_shapes_are_errors(convert, shapes, message):
    with pytest.raises(DataError, match=message) as caught:
        convert(shapes)
    assert "a.json" in str(caught.value)


def test_missing_images_and_images_annotated_twice(convert, tmp_path):
    convert([shape([[1, 1], [9, 9]])])
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "b.json").write_text(text)
    (tmp_path / "c.json").write_text(text.replace("a.png", "c.png"))
    files = [tmp_path / f"{letter}.json" for letter in "abc"]
    with pytest.raises(DataError) as caught:
        load_labelme(files, tmp_path / "images", ("RBC", "WBC"))
    assert "same image as a.json" in caught.value.problems[0]
    assert 'imagePath "c.png"' in caught.value.problems[1]
