import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.round_trips import ROUND_TRIPS, lists_of_boxes
from wbcnets.data.detection.voc import load_voc
from wbcnets.errors import DataError

CLASSES = ("RBC", "WBC", "Platelets")


def voc_object(name, corners, difficult=0):
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{box}</bndbox></object>"
    )


def voc_file(objects, filename="a.jpg", size=(64, 48)):
    return (
        f"<annotation><filename>{filename}</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height></size>{''.join(objects)}</annotation>"
    )


@pytest.fixture
def convert(tmp_path):
    """Writes XML texts as a.xml, b.xml, ... beside one image for each, and converts them."""
    (tmp_path / "images").mkdir()

    def run(*texts, **options):
        paths = []
        for letter, text in zip("abcdef", texts):
            Image.new("RGB", (64, 48)).save(tmp_path / "images" / f"{letter}.jpg")
            paths.append(tmp_path / f"{letter}.xml")
            paths[-1].write_bytes(text if isinstance(text, bytes) else text.encode())
        dataset = load_voc(paths, tmp_path / "images", CLASSES, **options)
        return dataset.to_json(), dataset.report

    return run


def test_one_based_inclusive_boxes(convert):
    text = voc_file([voc_object("WBC", (1, 1, 64, 48)), voc_object("RBC", ("10.5", 20, 30, 41))])
    coco, report = convert(text)
    assert [a["bbox"] for a in coco["annotations"]] == [[0, 0, 64, 48], [9.5, 19, 20.5, 22]]
    assert [a["category_id"] for a in coco["annotations"]] == [2, 1]
    assert coco["images"] == [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}]
    assert "start at 1" in report.notes[0]
    assert (report.counts.n_read, report.counts.n_used) == (2, 2)


def test_auto_finds_zero_based_files_and_the_origin_can_be_given(convert):
    text = voc_file([voc_object("WBC", (0, 3, 64, 48))])
    coco, report = convert(text)
    assert coco["annotations"][0]["bbox"] == [0, 3, 64, 45]
    assert "start at 0" in report.notes[0]
    coco, report = convert(voc_file([voc_object("WBC", (2, 3, 64, 48))]), origin=0)
    assert coco["annotations"][0]["bbox"] == [2, 3, 62, 45]
    assert "as asked for" in report.notes[0]
    with pytest.raises(DataError, match="origin=2"):
        convert(text, origin=2)


def test_zero_area_is_dropped_by_name_under_either_origin(convert):
    text = voc_file([voc_object("RBC", (5, 5, 5, 5)), voc_object("WBC", (1, 1, 9, 9))])
    for origin in (0, 1):
        coco, report = convert(text, origin=origin)
        assert len(coco["annotations"]) == 1
        assert (report.counts.n_read, report.counts.n_dropped) == (2, 1)
        assert report.dropped[0].startswith('a.xml: object[0] "RBC": ')
        assert "zero area" in "\n".join(report.lines())


def test_swapped_corners(convert):
    text = voc_file([voc_object("RBC", (30, 41, 10, 20))])
    with pytest.raises(DataError, match=r'a.xml: object\[0\] "RBC".*negative size'):
        convert(text, origin=1)
    coco, report = convert(text, origin=1, policy="fix")
    assert coco["annotations"][0]["bbox"] == [9, 19, 21, 22]
    assert report.counts.n_repaired == 1


def test_difficult_is_ignored_in_evaluation(convert):
    coco, report = convert(voc_file([voc_object("RBC", (3, 4, 10, 20), difficult=1)]))
    assert coco["annotations"][0]["iscrowd"] == 1
    assert report.counts.n_repaired == 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [("platelets ", "Platelets"), ("rbc", "RBC"), ("Platelet", "Platelets"), ("W BC", "WBC")],
)
def test_class_variants_are_errors_with_the_nearest_name(convert, name, hint):
    with pytest.raises(DataError, match=f'did you mean "{hint}"'):
        convert(voc_file([voc_object(name, (1, 2, 3, 4))]))


def test_stale_sizes_come_from_the_image(convert):
    coco, report = convert(voc_file([voc_object("RBC", (3, 4, 10, 20))], size=(0, 0)))
    assert coco["images"][0]["width"] == 64
    assert "64x48 is taken from the file" in report.notes[1]


def test_the_filename_serves_where_the_stem_does_not(convert, tmp_path):
    (tmp_path / "x.xml").write_text(voc_file([voc_object("RBC", (3, 4, 10, 20))], "sub\\p.png"))
    (tmp_path / "images" / "sub").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "sub" / "p.png")
    dataset = load_voc([tmp_path / "x.xml"], tmp_path / "images", CLASSES)
    assert dataset.images[0].file_name == str(tmp_path / "images" / "sub" / "p.png")
    (tmp_path / "y.xml").write_text(voc_file([], "../x.xml"))
    with pytest.raises(DataError, match=r'"y\.\*" nor the <filename> "../x.xml"'):
        load_voc([tmp_path / "y.xml"], tmp_path / "images", CLASSES)


BOMB = '<!DOCTYPE a [<!ENTITY x "' + "y" * 50 + '">]><annotation>&x;</annotation>'
EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "document type"),
        (EXTERNAL, "document type"),
        ("<annotation><size>", r"a\.xml:1:\d+: not valid XML"),
        ("<annotation>\n<a></b></annotation>", r"a\.xml:2:\d+: not valid XML"),
        ("", "not valid XML"),
        ("<html/>", "expected <annotation>"),
        ("<annotation>" + " " * (1 << 20) + "</annotation>", "exceed the limit"),
        ("<annotation>" + "<a>" * 40 + "</a>" * 40 + "</annotation>", "deeper than 32"),
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "decoded as klingon"),
        (voc_file(["<object><name>RBC</name></object>"]), "needs four numbers"),
        (voc_file([voc_object("RBC", ("nan", 1, 2, 3))]), "needs four numbers"),
        (voc_file([voc_object("RBC", ("1e400", 1, 2, 3))]), "not finite"),
        (voc_file([voc_object("RBC", ("9" * 5000, 1, 2, 3))]), "not finite"),
        (voc_file([voc_object("RBC", ("1_0", 1, 2, 3))]), "needs four numbers"),
        (voc_file([voc_object("RBC", ("\u0661", 1, 2, 3))]), "needs four numbers"),
        (voc_file([voc_object("RBC", ("1,5", 1, 2, 3))]), "needs four numbers"),
    ],
)
def test_bad_files_are_refused_with_their_place(convert, text, message):
    with pytest.raises(DataError, match=message) as caught:
        convert(text)
    assert "a.xml" in str(caught.value)


def test_chinese_encodings_are_read(convert):
    text = voc_file([voc_object("RBC", (3, 4, 10, 20))], filename="血细胞.jpg")
    coco, _ = convert(b'<?xml version="1.0" encoding="gb2312"?>' + text.encode("gb2312"))
    assert len(coco["annotations"]) == 1


def test_problems_of_all_files_are_listed(convert):
    with pytest.raises(DataError) as caught:
        convert("<annotation>", voc_file([voc_object("Rbc", (1, 2, 3, 4))]), "<html/>")
    assert len(caught.value.problems) == 3


INSIDE = (st.integers(1, 60), st.integers(1, 44), st.integers(1, 40), st.integers(1, 40))


@given(corners=lists_of_boxes(*INSIDE, max_size=6))
@ROUND_TRIPS
def test_round_trip(convert, corners):
    corners = {(x, y, min(x + w, 64), min(y + h, 48)) for x, y, w, h in corners}
    written = sorted(corners)
    coco, report = convert(voc_file([voc_object("WBC", c) for c in written]), origin=1)
    assert report.counts.n_used == len(written)
    for annotation, (xmin, ymin, xmax, ymax) in zip(coco["annotations"], written):
        x, y, w, h = annotation["bbox"]
        assert (x + 1, y + 1, x + w, y + h) == pytest.approx((xmin, ymin, xmax, ymax), abs=1e-4)


def test_bccd_has_4888_boxes_of_which_two_are_dropped(bccd_source):
    files = sorted((bccd_source / "Annotations").glob("*.xml"))
    dataset = load_voc(files, bccd_source / "JPEGImages", CLASSES)
    report = dataset.report
    assert (report.counts.n_read, report.counts.n_used, report.counts.n_dropped) == (4888, 4886, 2)
    assert report.read == {"RBC": 4155, "WBC": 372, "Platelets": 361}
    assert [line.split(":")[0] for line in report.dropped] == [
        "BloodImage_00338.xml",
        "BloodImage_00343.xml",
    ]
    assert "start at 1" in report.notes[0]
    assert len(dataset.images) == 364
