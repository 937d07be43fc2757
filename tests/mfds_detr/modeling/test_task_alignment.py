import math

import pytest
import torch

pytest.importorskip("detectron2")

from mfds_detr.modeling.task_alignment import align_tokens

# A grid of 2x2 tokens
CENTERS = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]])
WHOLE, LEFT = [0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.5, 1.0]
FAR = [0.9, 0.1, 0.01, 0.01]


def logit(p):
    return math.log(p / (1 - p))


def objects(labels, boxes):
    return {"labels": torch.tensor(labels, dtype=torch.int64), "boxes": torch.tensor(boxes)}


def align(scores, boxes, *targets, centers=CENTERS, **options):
    logits = torch.tensor([[[logit(p) for p in token] for token in scores]])
    found = align_tokens(logits, torch.tensor([boxes]), centers, targets, **options)
    pairs = zip(found.matches.query.tolist(), found.matches.target.tolist())
    return dict(zip(pairs, found.quality.tolist(), strict=True))


def test_a_grid_by_hand():
    # Fit: square root of the score times the fourth power of the IoU
    scores = [[0.25], [0.64], [0.25], [0.01]]
    boxes = [WHOLE, [0.5, 0.5, 0.5, 1.0], [0.5, 0.5, 0.5, 0.5], WHOLE]
    found = align(scores, boxes, objects([0], [WHOLE]), top=3)
    # 0.5 * 1, 0.8 / 16, 0.5 / 256 (left out) and 0.1 * 1, by the highest fit, times the IoU of 1
    assert found == pytest.approx({(0, 0): 1.0, (1, 0): 0.1, (3, 0): 0.2}, abs=1e-5)


def test_the_best_quality_is_the_best_overlap():
    boxes = [[0.5, 0.5, 0.5, 1.0], [0.5, 0.5, 0.25, 1.0], FAR, FAR]
    found = align([[0.5]] * 4, boxes, objects([0], [WHOLE]), top=2)
    assert found == pytest.approx({(0, 0): 0.5, (1, 0): 0.5 / 16}, abs=1e-5)


def test_a_token_goes_to_the_object_that_it_overlaps_most():
    boxes = [LEFT, WHOLE, WHOLE, FAR]
    found = align([[0.5]] * 4, boxes, objects([0, 0], [LEFT, WHOLE]), top=3)
    assert found[0, 0] == pytest.approx(1)
    assert found[1, 1] == found[2, 1] == pytest.approx(1)
    assert (0, 1) not in found
    assert (2, 0) not in found


def test_the_score_is_that_of_the_objects_class():
    scores = [[0.9, 0.1], [0.1, 0.9], [0.1, 0.1], [0.1, 0.1]]
    assert [*align(scores, [WHOLE] * 4, objects([0], [WHOLE]), top=1)] == [(0, 0)]
    assert [*align(scores, [WHOLE] * 4, objects([1], [WHOLE]), top=1)] == [(1, 0)]


def test_tokens_outside_of_an_object_are_not_taken():
    found = align([[0.5]] * 4, [LEFT] * 4, objects([0], [LEFT]))
    assert set(found) == {(0, 0), (2, 0)}


def test_a_cell_smaller_than_the_grid_takes_the_nearest_token():
    assert align([[0.5]] * 4, [WHOLE] * 4, objects([0], [[0.6, 0.7, 0.02, 0.02]])).keys() == {
        (3, 0)
    }
    # Also if the token's box is elsewhere: it learns the box, and a score of zero
    found = align([[0.5]] * 4, [FAR] * 4, objects([0], [[0.6, 0.7, 0.02, 0.02]]))
    assert found == pytest.approx({(3, 0): 0.0})


def test_padding_is_never_taken():
    centers = CENTERS.clone()
    centers[0, 3] = math.inf
    found = align([[0.5]] * 4, [WHOLE] * 4, objects([0], [WHOLE]), centers=centers)
    assert set(found) == {(0, 0), (1, 0), (2, 0)}
    tiny = objects([0], [[0.75, 0.75, 0.02, 0.02]])
    ((token, _),) = align([[0.5]] * 4, [WHOLE] * 4, tiny, centers=centers)
    assert token in (1, 2)


def test_images_of_a_batch_are_apart():
    logits, boxes = torch.zeros(3, 4, 1), torch.tensor([[WHOLE] * 4] * 3)
    left, nothing = objects([0], [LEFT]), objects([], torch.zeros(0, 4).tolist())
    nothing["boxes"] = torch.zeros(0, 4)
    both = objects([0, 0], [LEFT, WHOLE])
    matches, quality = align_tokens(logits, boxes, CENTERS.expand(3, -1, -1), [left, nothing, both])
    assert set(matches.image.tolist()) == {0, 2}
    assert set(matches.target[matches.image == 0].tolist()) == {0}
    assert set(matches.target[matches.image == 2].tolist()) == {2}  # of 1 and 2, it fits best
    assert matches.layer.eq(0).all()
    assert len(quality) == len(matches.query)
    matches, quality = align_tokens(logits[:1], boxes[:1], CENTERS, [nothing])
    assert len(matches.query) == len(quality) == 0


def test_quality_is_a_fraction_and_no_token_is_taken_twice():
    torch.manual_seed(0)
    centers = torch.rand(2, 300, 2)
    boxes = torch.cat([centers, torch.rand(2, 300, 2) * 0.3 + 0.01], dim=-1)
    given = [
        {"labels": torch.randint(3, (n,)), "boxes": torch.rand(n, 4) * 0.4 + 0.2} for n in (30, 12)
    ]
    matches, quality = align_tokens(torch.randn(2, 300, 3) * 4, boxes, centers, given)
    assert quality.min() >= 0
    assert quality.max() <= 1 + 1e-6
    tokens = list(zip(matches.image.tolist(), matches.query.tolist()))
    assert len(set(tokens)) == len(tokens)
    assert matches.target.bincount().max() <= 10
