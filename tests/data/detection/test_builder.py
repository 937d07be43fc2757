"""The decisions about boxes and images of any format, and the account of them."""

import numpy as np
import pytest

from wbcnets.data.detection.builder import BoxEntry, DatasetBuilder, ImageEntry
from wbcnets.data.detection.report import Counts
from wbcnets.errors import DataError
from wbcnets.io.image_facts import Fingerprint, ImageFacts

CLASSES = ("WBC", "RBC")


@pytest.fixture
def build(tmp_path):
    """Returns a function that makes a builder of two classes."""

    def make(policy="drop", class_names=CLASSES, found=()):
        builder = DatasetBuilder("labels", tmp_path, policy)
        builder.set_classes(class_names, found)
        return builder

    return make


def add_image(builder, name="a.png", facts=None, **fields):
    builder.report.n_images += 1
    size = {"width": 64, "height": 48}
    return builder.add_image(ImageEntry(f"item of {name}", name, **{**size, **fields}), facts)


def box(item="box", name="WBC", xywh=(5, 5, 20, 20), **fields):
    return BoxEntry(item, name, tuple(map(float, xywh)), **fields)


def facts_of(width, height, *conversions):
    fingerprint = Fingerprint("digest", np.zeros(8, np.uint8), np.zeros(0, np.uint8))
    return ImageFacts("", width, height, conversions, fingerprint)


def problems_of(builder, prefix=""):
    with pytest.raises(DataError) as caught:
        builder.finish(prefix)
    problems = list(caught.value.problems)
    first = str(caught.value).splitlines()[0]
    assert first == f"labels: {len(problems)} problems, nothing was loaded"
    return problems


def test_images_and_boxes_become_arrays(build, tmp_path):
    builder = build()
    first = add_image(builder, "slides/a.png", facts_of(64, 48), id=8)
    for entry in (
        box(xywh=(5, 5, 20, 20.5), area=300.5, id=70),
        box(name="RBC", xywh=(1, 2, 3, 4), crowd=True),
    ):
        builder.add_box(first, entry)
    add_image(builder, "b.png", width=30)
    dataset = builder.finish()
    assert (dataset.source, dataset.image_root) == ("labels", tmp_path.absolute())
    assert (dataset.class_names, dataset.category_ids) == (CLASSES, (1, 2))
    image, empty = dataset.images
    assert (image.id, image.width, image.height) == (8, 64, 48)
    assert image.file_name == str(tmp_path / "slides" / "a.png")
    assert image.fingerprint.digest == "digest"
    for name, expected, kind in (
        ("boxes", [[5, 5, 20, 20.5], [1, 2, 3, 4]], np.float32),
        ("labels", [0, 1], np.int64),
        ("crowd", [False, True], np.bool_),
        ("areas", [300.5, 12], np.float32),
        ("annotation_ids", [70, 2], np.int64),
    ):
        found = getattr(image, name)
        assert (found.tolist(), found.dtype) == (expected, kind)
        assert getattr(empty, name).dtype == kind
    assert (empty.id, empty.width, empty.fingerprint) == (2, 30, None)
    assert empty.boxes.shape == (0, 4)
    assert builder.report is dataset.report
    assert dataset.counts == Counts(2, 2, 0, 0)
    assert dataset.report.lines() == []


def test_categories_of_a_source_keep_their_ids(tmp_path):
    builder = DatasetBuilder("labels", tmp_path, "drop", {9: "RBC", 4: "WBC"})
    image = add_image(builder)
    builder.add_box(image, box(name="RBC"))
    dataset = builder.finish()
    assert (dataset.class_names, dataset.category_ids) == (("WBC", "RBC"), (4, 9))
    assert dataset.images[0].labels.tolist() == [1]


@pytest.mark.parametrize(
    ("area", "kept"),
    [(None, 400), (399, 399), (400, 400), (401, 400), (0, 400), (-5, 400), (0.5, 0.5)],
)
def test_only_a_smaller_area_is_that_of_a_mask(build, area, kept):
    builder = build()
    builder.add_box(add_image(builder), box(area=area))
    assert builder.finish().images[0].areas.tolist() == [kept]


def test_a_clipped_box_has_no_mask_any_more(build):
    builder = build()
    builder.add_box(add_image(builder), box(xywh=(-2, 5, 12, 10), area=50))
    assert builder.finish().images[0].areas.tolist() == [100]


def test_repairs_of_reader_and_builder_are_told_together(build):
    builder = build()
    image = add_image(builder)
    builder.add_box(image, box("one", xywh=(-1, 5, 20, 20), repairs=["its id was text"]))
    builder.add_box(image, box("two", repairs=["its id was text"]))
    builder.add_box(image, box("three", xywh=(9, 9, 9, 9)))
    report = builder.finish("labels: ").report
    assert report.repaired == [
        "labels: one: its id was text; bbox [-1, 5, 20, 20] left the 64x48 image by 1 px: clipped",
        "labels: two: its id was text",
    ]
    assert report.counts == Counts(3, 1, 2, 0)
    assert report.kept == {"WBC": 3}


def test_dropped_boxes_are_counted_under_their_class(build):
    builder = build()
    image = add_image(builder)
    builder.add_box(image, box("kept"))
    builder.add_box(image, box("flat", "RBC", (5, 5, 9, 0)))
    builder.add_box(image, box("again"))
    report = builder.finish("x: ").report
    assert report.dropped == [
        "x: flat: bbox [5, 5, 9, 0] has zero area",
        "x: again: exact duplicate of kept",
    ]
    assert (report.read, report.kept) == ({"WBC": 2, "RBC": 1}, {"WBC": 1})
    assert report.counts == Counts(3, 1, 0, 2)


def test_a_duplicate_equals_in_image_class_kind_and_place(build):
    builder = build()
    first, second = add_image(builder), add_image(builder, "b.png")
    builder.add_box(first, box("box"))
    for image, entry in (
        (first, box("crowd", crowd=True)),
        (first, box("class", "RBC")),
        (first, box("place", xywh=(5, 5, 20, 21))),
        (second, box("image")),
    ):
        builder.add_box(image, entry)
        builder.add_box(image, entry)
    assert builder.finish().report.dropped == [
        f"{item}: exact duplicate of {item}" for item in ("crowd", "class", "place", "image")
    ]


def test_refused_boxes_are_problems_or_left_out(build):
    for policy in ("drop", "skip"):
        builder = build(policy)
        assert builder.skips is (policy == "skip")
        image = add_image(builder)
        builder.add_box(image, box("kept"))
        builder.add_box(image, box("far", "RBC", (0.1, 0.2, 0.3, 0.3)))
        builder.refuse_box("odd", "WBC", "no id", "no area")
        builder.skip_box("lost", "WBC", "its image is missing")
        reason = "bbox [0.1, 0.2, 0.3, 0.3] looks normalized to 0..1"
        if policy == "skip":
            report = builder.finish("x: ").report
            far, odd, lost = report.dropped
            assert odd == "x: odd: no id; no area"
            assert lost == "x: lost: its image is missing"
            assert report.counts == Counts(4, 1, 0, 3)
            assert report.read == {"WBC": 3, "RBC": 1}
        else:
            far, first, second = problems_of(builder, "x: ")
            assert (first, second) == ("x: odd: no id", "x: odd: no area")
            assert builder.report.read == {"WBC": 2, "RBC": 1}
        assert far.startswith(f"x: far: {reason}")


def test_refused_images_are_problems_or_left_out(build):
    builder = build("drop")
    builder.refuse_image("a.png: broken")
    assert problems_of(builder, "x: ") == ["x: a.png: broken"]
    builder = build("skip")
    builder.add_box(add_image(builder), box())
    builder.report.n_images += 1
    builder.refuse_image("b.png: broken")
    dataset = builder.finish("x: ")
    assert dataset.report.dropped_images == ["x: b.png: broken"]
    assert dataset.image_counts == Counts(2, 1, 0, 1)


def test_repaired_images_are_listed(build):
    builder = build()
    image = add_image(builder)
    image.repairs += ["turned", "renamed"]
    builder.add_box(image, box())
    assert builder.finish("x: ").report.repaired_images == ["x: item of a.png: turned; renamed"]


@pytest.mark.parametrize(("policy", "fixed"), [("drop", False), ("fix", True), ("skip", True)])
def test_negative_sizes_are_fixed_from_fix_on(build, policy, fixed):
    builder = build(policy)
    assert builder.fixes is fixed
    builder.add_box(add_image(builder), box(xywh=(25, 25, -20, -10)))
    if fixed:
        assert builder.finish().images[0].boxes.tolist() == [[5, 15, 20, 10]]
    else:
        assert "negative size" in problems_of(builder)[0]


def test_nothing_can_be_learned_without_a_box(build):
    builder = build()
    add_image(builder)
    assert problems_of(builder, "x: ") == [
        "x: no usable box in it - nothing can be learned from it"
    ]
    # That is no news to those who see why
    builder = build()
    builder.refuse_box("odd", "WBC", "no id")
    assert problems_of(builder) == ["odd: no id"]


def test_an_unknown_class_is_explained(build):
    builder = build()
    image = add_image(builder)
    for name in ("WBCs", "rbc ", "Q"):
        builder.add_box(image, box("box", name))
    end = "The classes are ['WBC', 'RBC']"
    assert problems_of(builder) == [
        f'box: class "WBCs" is unknown; did you mean "WBC"? {end}',
        f'box: class "rbc " is unknown; did you mean "RBC"? {end}',
        f'box: class "Q" is unknown; {end}',
    ]
    assert builder.report.read == {"WBCs": 1, "rbc ": 1, "Q": 1}


def test_classes_are_taken_from_the_names_in_natural_order(build):
    builder = build(class_names=(), found=["c10", "c9", "c10", "a"])
    assert builder.categories == {1: "a", 2: "c9", 3: "c10"}
    assert build(class_names=("z", "b"), found=["a"]).categories == {1: "z", 2: "b"}


def test_two_spellings_of_a_class_are_a_problem(build):
    builder = build(class_names=(), found=["WBC", "RBC", "wbc", ""])
    assert builder.report.problems == [
        "'WBC' and 'wbc' are the same class, spelled in 2 ways - choose one",
        "objects without a name - give them one",
    ]


def test_classes_that_cannot_be_used(build, tmp_path):
    with pytest.raises(DataError, match=r"the classes \['a', 'a'\] must be distinct"):
        build(class_names=("a", "a"))
    with pytest.raises(DataError, match="labels: 1 class names cannot be used") as caught:
        build(class_names=("a", "b\n"))
    assert ["which breaks lines" in line for line in caught.value.problems] == [True]
    builder = build(class_names=(), found=["a", "b\n"])
    assert ["which breaks lines" in line for line in builder.report.problems] == [True]


def test_unknown_policies_and_folders(tmp_path):
    with pytest.raises(DataError) as caught:
        DatasetBuilder("labels", tmp_path, "clip")
    assert str(caught.value) == (
        "policy='clip' is unknown - choose from ['refuse', 'drop', 'fix', 'skip']"
    )
    with pytest.raises(DataError) as caught:
        DatasetBuilder("labels", tmp_path / "gone", "drop")
    assert str(caught.value) == f"labels: the image folder {tmp_path}/gone does not exist"


@pytest.mark.parametrize("size", [{"width": 0}, {"height": 0}, {"width": -1}, {"height": -1}])
def test_a_missing_size_is_that_of_the_file(build, size):
    builder = build()
    image = add_image(builder, "a.png", facts_of(60, 40), **size)
    assert (image.width, image.height) == (60, 40)
    image = add_image(builder, "b.png", facts_of(60, 40), width=1, height=1)
    assert (image.width, image.height) == (1, 1)


def test_images_are_numbered_from_1_where_they_have_no_id(build):
    builder = build()
    assert [add_image(builder, f"{n}.png", id=n).id for n in (None, 7, None)] == [1, 7, 3]


def test_file_names_are_relative_to_the_root_with_slashes(build, tmp_path):
    assert build().relative(tmp_path / "slides" / "a.png") == "slides/a.png"


def test_conversions_and_small_images_are_noted_by_kind(build):
    builder = build()
    builder.add_box(add_image(builder), box())
    for number, size in enumerate([(16, 16), (15, 40), (40, 15), (15, 15), (9, 9)]):
        add_image(builder, f"{number}.png", facts_of(*size, *["CMYK made RGB"] * (number < 3)))
    assert builder.finish("x: ").report.notes == [
        "x: 3 images: CMYK made RGB (0.png, 1.png, 2.png)",
        "x: 4 images: smaller than 16 px (1.png, 2.png, 3.png and 1 more)",
    ]


# Two boxes of 100x10 px, one moved by this much (px): they share (100 - d) of 100 + d columns
@pytest.mark.parametrize(("by", "near"), [(2, True), (3, False)])
def test_boxes_of_one_class_that_cover_nearly_the_same_are_noted(build, by, near):
    builder = build()
    image = add_image(builder, width=300, height=200)
    for item, name, x, y in (
        ("a", "WBC", 10, 20),
        ("b", "WBC", 10 + by, 20),
        ("c", "RBC", 11, 20),
        ("d", "WBC", 10, 60),
        ("e", "WBC", 150, 20),
    ):
        builder.add_box(image, box(item, name, (x, y, 100, 10)))
    assert (
        builder.finish("x: ").report.notes
        == ["x: a and b cover nearly the same box (IoU over 0.95)"] * near
    )


def test_nearly_the_same_boxes_of_several_images_are_noted(build):
    builder = build()
    for name in ("a.png", "b.png"):
        image = add_image(builder, name)
        builder.add_box(image, box(f"first of {name}", xywh=(5, 5, 40, 40)))
        builder.add_box(image, box(f"second of {name}", xywh=(5, 5, 40, 40.5)))
    assert [line.partition(" and")[0] for line in builder.finish().report.notes] == [
        "first of a.png",
        "first of b.png",
    ]


def test_nearly_the_same_box_in_height(build):
    builder = build()
    image = add_image(builder, width=300, height=200)
    for item, height in (("a", 100), ("b", 96), ("c", 94)):
        builder.add_box(image, box(item, xywh=(7, 3, 20, height)))
    assert [line.partition(" cover")[0] for line in builder.finish().report.notes] == [
        "a and b",
        "b and c",
    ]
