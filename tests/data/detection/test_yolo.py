import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.round_trips import ROUND_TRIPS, lists_of_boxes
from wbcnets.data.detection.yolo import load_yolo
from wbcnets.errors import DataError


@pytest.fixture
def convert(tmp_path):
    """Writes label texts as a.txt, b.txt, ... (None: no file) beside images of 200x100."""
    labels = tmp_path / "labels"
    labels.mkdir()
    (tmp_path / "images").mkdir()

    def run(*texts, **options):
        images = []
        for letter, text in zip("abcdef", texts):
            images.append(tmp_path / "images" / f"{letter}.png")
            Image.new("RGB", (200, 100)).save(images[-1])
            if text is not None:
                (labels / f"{letter}.txt").write_text(text, encoding="utf-8")
        options = {"image_root": tmp_path, **options}
        dataset = load_yolo(images, labels, ("RBC", "WBC"), **options)
        return dataset.to_json(), dataset.report

    return run


def test_boxes_names_and_negatives(convert):
    coco, report = convert(
        "\ufeff1 0.5 0.5 0.1 0.2\n\n0 0.25 0.5 0.5 1\n", None, label_names=("WBC", "RBC")
    )
    assert [i["file_name"] for i in coco["images"]] == ["images/a.png", "images/b.png"]
    assert [a["bbox"] for a in coco["annotations"]] == [[90, 40, 20, 20], [0, 0, 100, 100]]
    assert [a["category_id"] for a in coco["annotations"]] == [1, 2]
    assert report.counts.n_used == 2
    assert report.notes == ["1 images have no label file: kept as images without cells"]


def test_zero_size_and_duplicates_are_dropped(convert):
    line = "1 0.5 0.5 0.1 0.2\n"
    _, report = convert(line + "0 0.5 0.5 0 0.2\n" + line)
    assert (report.counts.n_read, report.counts.n_used, report.counts.n_dropped) == (3, 1, 2)
    assert report.dropped[0].startswith("a.txt:2: ")
    assert report.dropped[1] == "a.txt:3: exact duplicate of a.txt:1"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1_0 0.5 0.5 0.1 0.1", "whole number"),
        ("1e0 0.5 0.5 0.1 0.1", "whole number"),
        ("1.0 0.5 0.5 0.1 0.1", "whole number"),
        ("-1 0.5 0.5 0.1 0.1", "whole number"),
        ("2 0.5 0.5 0.1 0.1", "class 2 is unknown"),
        ("0 0,5 0.5 0.1 0.1", "not a number"),
        ("0 nan 0.5 0.1 0.1", "not a number"),
        ("0 0.5 0.5 0.1", "4 columns"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 columns"),
        ("0 100 50 20 10", "must lie in 0..1"),
        ("0 0.5 0.5 -0.1 0.1", "must lie in 0..1"),
        ("0 0.99 0.5 0.1 0.1", "leaves the 200x100 image"),
    ],
)
def test_bad_lines_are_errors_with_file_and_line(convert, line, message):
    with pytest.raises(DataError, match=rf"a\.txt:2: .*{message}"):
        convert("0 0.5 0.5 0.1 0.1\n" + line)


def test_labels_without_image_are_an_error_unless_left_out_on_purpose(convert, tmp_path):
    (tmp_path / "labels" / "z.txt").write_text("0 0.5 0.5 0.1 0.1")
    (tmp_path / "labels" / "classes.txt").write_text("RBC\nWBC")
    with pytest.raises(DataError, match=r"z\.txt: there is no image"):
        convert("0 0.5 0.5 0.1 0.1")
    coco, _ = convert("0 0.5 0.5 0.1 0.1", other_images=[tmp_path / "z.png"])
    assert len(coco["annotations"]) == 1


# A lone box of at most one pixel would look normalized
INSIDE = (st.floats(0, 150), st.floats(0, 60), st.floats(2, 50), st.floats(2, 40))


@given(boxes=lists_of_boxes(*INSIDE, max_size=8))
@ROUND_TRIPS
def test_round_trip_within_half_a_pixel(convert, boxes):
    lines = [
        f"1 {(x + w / 2) / 200:.6f} {(y + h / 2) / 100:.6f} {w / 200:.6f} {h / 100:.6f}"
        for x, y, w, h in boxes
    ]
    lines, places = list(dict.fromkeys(lines)), [lines.index(x) for x in dict.fromkeys(lines)]
    coco, report = convert("\n".join(lines))
    assert report.counts.n_used == len(lines)
    for found, place in zip(coco["annotations"], places):
        assert found["bbox"] == pytest.approx(boxes[place], abs=0.5)


def test_labels_of_an_image_that_is_left_out_are_counted(convert, tmp_path):
    convert("0 0.5 0.5 0.1 0.1", "1 0.5 0.5 0.1 0.1")
    (tmp_path / "images" / "b.png").write_bytes(b"broken")
    images = [tmp_path / "images" / f"{letter}.png" for letter in "ab"]
    options = {"image_root": tmp_path, "policy": "skip"}
    report = load_yolo(images, tmp_path / "labels", ("RBC", "WBC"), **options).report
    assert report.dropped == ["b.txt:1: its image is left out"]
    assert report.read == {"RBC": 1, "?": 1}
    assert (report.counts.n_read, report.counts.n_used, report.counts.n_dropped) == (2, 1, 1)
