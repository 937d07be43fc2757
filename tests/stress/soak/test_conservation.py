"""Nothing is lost: every annotation that is read is used, repaired or dropped."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.stress.faults.builders import HEIGHT, WIDTH, voc_text, write_pictures, write_voc
from tests.stress.soak.scale import LONG, scaled
from tests.stress.soak.strategies import coco_objects, junk
from wbcnets.data.detection.box_checks import POLICIES
from wbcnets.data.detection.coco import parse_coco
from wbcnets.data.detection.voc import load_voc
from wbcnets.data.detection.yolo import load_yolo
from wbcnets.errors import DataError

pytestmark = pytest.mark.timeout(3600 if LONG else 300)
patient = settings(
    max_examples=scaled(200, 10_000),
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_pictures(folder)
    return folder


@patient
@given(coco_objects(), st.sampled_from(POLICIES))
def test_coco(images, data, policy):
    n_read = len(data["annotations"])
    repaired = parse_or_none(data, images, "skip")
    if repaired is not None:
        counts = repaired.counts
        assert counts.n_read == n_read
        assert counts.n_used + counts.n_repaired + counts.n_dropped == n_read
        kept = sum(len(image.boxes) for image in repaired.images)
        assert kept == counts.n_used + counts.n_repaired
        check_boxes(repaired)
        again = parse_coco(repaired.to_json(), images, source="again")
        assert again.counts.n_dropped == 0
        assert again.counts.n_read == kept
    found = parse_or_none(data, images, policy)
    if found is not None:
        assert found.counts.n_read == n_read
        check_boxes(found)


def parse_or_none(data, images, policy):
    try:
        return parse_coco(data, images, source="x.json", policy=policy)
    except DataError as error:
        if not error.problems:
            raise
        return None


def check_boxes(dataset):
    for image in dataset.images:
        assert (image.boxes[:, :2] >= 0).all()
        assert (image.boxes[:, 2:] > 0).all()
        # float32 has seven digits
        assert (image.boxes[:, 0] + image.boxes[:, 2] <= WIDTH + 1e-4).all()
        assert (image.boxes[:, 1] + image.boxes[:, 3] <= HEIGHT + 1e-4).all()
        assert ((image.labels >= 0) & (image.labels < 2)).all()


values = st.one_of(st.integers(-5, 80), st.floats(), st.text(max_size=3))
objects = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["WBC", "RBC", "wbc", ""]),
        "xmin": values,
        "ymin": values,
        "xmax": values,
        "ymax": values,
        "difficult": st.integers(0, 1),
    }
)


@settings(patient, max_examples=scaled(50, 2_000))
@given(st.lists(objects, max_size=6))
def test_voc(tmp_path_factory, entries):
    folder = tmp_path_factory.mktemp("voc")
    escaped = [
        {key: str(value).replace("&", "&amp;").replace("<", "&lt;") for key, value in entry.items()}
        for entry in entries
    ]
    write_voc(folder, voc_text(escaped).encode("utf-8", errors="replace"))
    files = sorted((folder / "Annotations").iterdir())
    images = folder / "JPEGImages"
    report = load_voc(files, images, ("RBC", "WBC"), policy="skip").report
    readable = not any("a.xml" in line for line in report.dropped_images)
    assert report.counts.n_read == 1 + (len(entries) if readable else 0)
    assert report.kept.total() == report.counts.n_used + report.counts.n_repaired


lines = st.one_of(
    st.tuples(st.integers(0, 2), *[st.floats(-0.1, 1.1)] * 4).map(
        lambda row: " ".join(map(str, row))
    ),
    st.text(alphabet="01. ex_-", max_size=20),
)


@settings(patient, max_examples=scaled(50, 2_000))
@given(st.lists(lines, max_size=8))
def test_yolo(images, tmp_path_factory, rows):
    labels = tmp_path_factory.mktemp("labels")
    text = "\n".join(rows)
    (labels / "a.txt").write_text(text)
    (labels / "b.txt").write_text("0 0.5 0.5 0.2 0.2")
    report = load_yolo(
        [images / "a.png", images / "b.png"],
        labels,
        ("neutrophil", "lymphocyte"),
        image_root=images,
        policy="skip",
    ).report
    n_lines = 1 + sum(bool(line.strip()) for line in text.splitlines())
    assert report.counts.n_read == n_lines
    assert report.kept.total() == report.counts.n_used + report.counts.n_repaired


@settings(patient, max_examples=scaled(100, 2_000))
@given(st.dictionaries(st.sampled_from(["images", "annotations", "categories", "x"]), junk))
def test_any_object_is_answered(images, data):
    with pytest.raises(DataError):
        parse_coco(json.loads(json.dumps(data)), images, source="x.json")


def test_bccd(shared_data):
    source = shared_data / "bccd"
    files = sorted((source / "Annotations").glob("*.xml"))
    counts = load_voc(files, source / "JPEGImages", ("Platelets", "RBC", "WBC")).counts
    assert (counts.n_read, counts.n_used, counts.n_repaired, counts.n_dropped) == (4888, 4886, 0, 2)
