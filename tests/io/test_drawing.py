import numpy as np
import pytest

from wbcnets.data.detection.coco import parse_coco
from wbcnets.data.detection.preview import preview
from wbcnets.errors import DataError
from wbcnets.io.drawing import (
    CLASS_COLORS,
    class_color,
    contact_sheet,
    draw_boxes,
    scale_to_width,
)

NAMES = ("RBC", "WBC", "Platelets")
GRAY = np.full((240, 320, 3), 128, np.uint8)


def is_color(image, color):
    return (image == np.array(color)).all(axis=-1)


def test_outlines_have_the_class_color_and_the_input_is_untouched():
    before = GRAY.copy()
    drawn = draw_boxes(
        GRAY, [[40, 50, 120, 150], [200, 60, 260, 110]], [0, 1], NAMES, show_labels=False
    )
    np.testing.assert_array_equal(GRAY, before)
    assert drawn.shape == GRAY.shape
    for (x1, y1, x2, y2), name in (((40, 50, 120, 150), "rbc"), ((200, 60, 260, 110), "wbc")):
        mask = is_color(drawn, CLASS_COLORS[name])
        rows, columns = np.nonzero(mask)
        assert (columns.min(), rows.min(), columns.max(), rows.max()) == (x1, y1, x2, y2)
        assert not mask[(y1 + y2) // 2, (x1 + x2) // 2]


def test_tags_stay_inside_the_image():
    drawn = draw_boxes(GRAY, [[300, 0, 319, 20]], [2], NAMES, [0.97])
    mask = is_color(drawn, class_color(2, NAMES))
    assert mask.sum() > 500
    plain = draw_boxes(GRAY, [[300, 0, 319, 20]], [2], NAMES, show_labels=False)
    assert (
        np.nonzero(mask)[1].min()
        < 290
        < np.nonzero(is_color(plain, class_color(2, NAMES)))[1].min()
    )


def test_the_score_is_part_of_the_tag():
    texts = [draw_boxes(GRAY, [[50, 50, 99, 99]], [0], NAMES, s) for s in (None, [0.1], [0.9])]
    assert not np.array_equal(texts[0], texts[1])
    assert not np.array_equal(texts[1], texts[2])


def test_the_legend_is_below_the_image_and_counts():
    empty = draw_boxes(GRAY, [], [], NAMES, legend=True)
    np.testing.assert_array_equal(empty[:240], GRAY)
    assert empty.shape[0] > 240
    assert all(is_color(empty[240:], class_color(i, NAMES)).any() for i in range(3))
    one = draw_boxes(GRAY, [[50, 50, 99, 99]], [0], NAMES, legend=True)
    assert not np.array_equal(empty[240:], one[240:])


def test_classes_keep_their_color_in_any_order():
    assert class_color(0, ("wbc",)) == class_color(2, ("RBC", "x", "WBC"))
    assert len({CLASS_COLORS[n] for n in ("wbc", "rbc", "platelets")}) == 3
    assert class_color(9, tuple("abcdefghij")) == class_color(1, tuple("abcdefghij"))


@pytest.mark.parametrize(
    ("boxes", "labels", "scores", "message"),
    [
        ([[1, 2, 3]], [0], None, r"expected \(N, 4\)"),
        ([[1, 2, 3, 4]], [0, 1], None, r"expected \(N, 4\)"),
        ([[1, 2, 3, 4]], [3], None, "labels run from 3 to 3"),
        ([[1, 2, 3, 4]], [-1], None, "labels run from -1"),
        ([[1, 2, 3, np.nan]], [0], None, "box 0 is not finite"),
        ([[1, 2, 3, 4]], [0], [0.1, 0.2], "2 scores for 1 boxes"),
    ],
)
def test_wrong_shapes_are_refused(boxes, labels, scores, message):
    with pytest.raises(DataError, match=message):
        draw_boxes(GRAY, boxes, labels, NAMES, scores)
    with pytest.raises(DataError, match="expected uint8"):
        draw_boxes(GRAY.astype(np.float32), [], [], NAMES)


def test_contact_sheet_places_images_of_different_sizes():
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sizes = [(100, 200), (300, 200), (50, 200)]
    images = [np.full((*s, 3), c, np.uint8) for s, c in zip(sizes, colors)]
    sheet = contact_sheet(images, 2, tile_width=100, gap=10)
    assert sheet.shape == (10 + 150 + 10 + 25 + 10, 220 + 10, 3)
    boxes = []
    for color in colors:
        rows, columns = np.nonzero(is_color(sheet, color))
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    assert boxes == [(10, 10, 110, 60), (120, 10, 220, 160), (10, 170, 110, 195)]
    captioned = contact_sheet(
        images, 2, ["one", "two", "a caption that is far too long"], tile_width=100, gap=10
    )
    assert captioned.shape[0] > sheet.shape[0]
    with pytest.raises(DataError, match="no contact sheet"):
        contact_sheet([])
    with pytest.raises(DataError, match="1 captions for 3 images"):
        contact_sheet(images, 2, ["one"])


def test_preview_is_seeded(coco, tmp_path):
    dataset = parse_coco(coco, tmp_path / "images", source="x")
    first = preview(dataset, count=1, seed=0)
    np.testing.assert_array_equal(first, preview(dataset, count=1, seed=0))
    assert preview(dataset, count=99).shape[1] > first.shape[1]
    with pytest.raises(DataError, match="no contact sheet"):
        preview(dataset, count=0)


@pytest.mark.parametrize("shape", [(10_000, 1), (1, 10_000), (40_000, 3), (1, 1)])
def test_a_thin_image_makes_no_huge_tile(shape):
    image = np.zeros((*shape, 3), np.uint8)
    height, width = scale_to_width(image, 480).shape[:2]
    assert 1 <= width <= 480
    assert 1 <= height <= 4 * 480
    assert contact_sheet([image, image], 2).shape[0] < 2000
