import pickle

import numpy as np
import pytest

from wbcnets.data.detection.cell_paste import CellPaste, DonorImage

GRAY, CELL = 200, 60
SIZE = (120, 160)


def donor(boxes=((40, 30, 70, 54),), labels=(2,), name="donor", size=SIZE):
    return DonorImage(
        name, size[1], size[0], np.array(boxes, np.float32).reshape(-1, 4), np.array(labels)
    )


def picture(found, background=GRAY):
    image = np.full((found.height, found.width, 3), background, np.uint8)
    for left, top, right, bottom in found.boxes.round().astype(int):
        image[top:bottom, left:right] = CELL
    return image


def paste(donors, image=None, boxes=(), labels=(), seed=0, **options):
    pictures = {entry.file_name: picture(entry) for entry in donors}
    cells = CellPaste(donors, pictures.__getitem__, **{"probability": 1.0, **options})
    image = np.full((*SIZE, 3), GRAY, np.uint8) if image is None else image
    given = (np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64))
    return cells(image, *given, np.random.RandomState(seed))


@pytest.mark.parametrize("seed", range(8))
def test_a_cell_is_in_its_box_and_the_rest_stays(seed):
    before = np.random.default_rng(seed).integers(180, 220, (*SIZE, 3), dtype=np.uint8)
    given = before.copy()
    image, boxes, labels = paste([donor()], given, most=1, seed=seed)
    assert np.array_equal(given, before)  # the image itself is not written to
    assert labels.tolist() == [2]
    assert (boxes.dtype, boxes.shape) == (np.float32, (1, 4))
    left, top, right, bottom = boxes[0].astype(int)
    assert (right - left, bottom - top) == (30, 24)
    outside = np.ones(SIZE, bool)
    # The cut is wider by 15% of each side, and blends into the image at its edge
    outside[top - 3 : bottom + 3, left - 3 : right + 3] = False
    assert np.array_equal(image[outside], before[outside])
    assert left >= 4
    assert top >= 4
    middle = image[top + 8 : bottom - 8, left + 10 : right - 10]
    assert np.abs(middle.astype(int) - CELL).max() <= 6


def test_colors_follow_the_field():
    image, boxes, _ = paste([donor()], np.full((*SIZE, 3), GRAY - 30, np.uint8), most=1)
    left, top, right, bottom = boxes[0].astype(int)
    assert (image[(top + bottom) // 2, (left + right) // 2] == CELL - 30).all()
    # The field around the cell has no edge
    outside = np.ones(SIZE, bool)
    outside[top:bottom, left:right] = False
    assert (image[outside] == GRAY - 30).all()


def test_cells_lie_in_empty_places():
    own = [[0, 0, 100, 120]]
    for seed in range(10):
        _, boxes, labels = paste([donor()], boxes=own, labels=[0], seed=seed, most=4)
        assert boxes[0].tolist() == own[0]
        assert labels[0] == 0
        sides = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(
            boxes[:, None, :2], boxes[None, :, :2]
        )
        shared = sides.clip(min=0).prod(-1)[~np.eye(len(boxes), dtype=bool)]
        assert (shared <= 0.05 * 38 * 32).all()
        assert (boxes[:, 2:] <= (160, 120)).all()
    full = [[0, 0, 160, 120]]
    assert len(paste([donor()], boxes=full, labels=[0])[1]) == 1


def test_cells_that_are_cut_off_or_tiny_are_not_pasted():
    for box in ([0, 30, 30, 54], [135, 30, 160, 54], [40, 0, 70, 20], [40, 30, 46, 36]):
        assert len(paste([donor([box])])[1]) == 0


def test_only_images_of_the_same_size_give():
    assert len(paste([donor(size=(160, 120))])[1]) == 0
    assert len(paste([donor(size=(160, 120)), donor(name="other")])[1]) > 0


def test_images_without_cells_give_nothing():
    empty = donor(np.zeros((0, 4)), np.zeros(0, np.int64), "empty")
    assert len(paste([empty])[1]) == 0
    assert len(paste([empty, donor()])[1]) > 0


def test_rare_classes_are_pasted_more_often_than_they_occur():
    boxes = [(20 + 25 * (i % 5), 20 + 40 * (i // 5), 32 + 25 * (i % 5), 32 + 40 * (i // 5))
             for i in range(10)]  # fmt: skip
    mixed = donor(boxes, [0] * 9 + [1])
    pasted = np.concatenate([paste([mixed], seed=seed)[2] for seed in range(60)])
    # One in ten; by the square root, one in four of the cells
    assert 0.15 < (pasted == 1).mean() < 0.4


def test_probability_and_reproducibility():
    for probability, low, high in ((0.0, 0, 0), (0.5, 12, 28), (1.0, 40, 40)):
        runs = [paste([donor()], seed=seed, probability=probability)[1] for seed in range(40)]
        assert low <= sum(len(boxes) > 0 for boxes in runs) <= high
    first, again = paste([donor()], seed=5), paste([donor()], seed=5)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_worker_processes_get_it():
    cells = pickle.loads(pickle.dumps(CellPaste([donor()], len)))
    assert cells.holders.keys() == {(160, 120)}
