import itertools
import math

import pytest
import torch

pytest.importorskip("detectron2")

from mfds_detr.modeling.matcher import HungarianMatcher, box_cxcywh_to_xyxy


def random_case(layers=2, images=2, queries=4, classes=3, counts=(3, 1), seed=0):
    torch.manual_seed(seed)
    logits = torch.randn(layers, images, queries, classes)
    boxes = torch.rand(layers, images, queries, 4) * 0.5 + 0.1
    targets = [
        {"labels": torch.randint(classes, (n,)), "boxes": torch.rand(n, 4) * 0.5 + 0.1}
        for n in counts
    ]
    return logits, boxes, targets


def cost_by_hand(logits, box, label, wanted):
    """Deformable-DETR's cost with weights 2, 5 and 2, in plain Python."""
    p = 1 / (1 + math.exp(-logits[label]))
    positive = 0.25 * (1 - p) ** 2 * -math.log(p)
    negative = 0.75 * p**2 * -math.log(1 - p)
    l1 = sum(abs(a - b) for a, b in zip(box, wanted))
    ax1, ay1, ax2, ay2 = to_corners(box)
    bx1, by1, bx2, by2 = to_corners(wanted)
    overlap = max(0, min(ax2, bx2) - max(ax1, bx1)) * max(0, min(ay2, by2) - max(ay1, by1))
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - overlap
    hull = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    giou = overlap / union - (hull - union) / hull
    return 2 * (positive - negative) + 5 * l1 - 2 * giou


def to_corners(box):
    cx, cy, w, h = box
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


@pytest.mark.parametrize("seed", range(5))
def test_brute_force_finds_the_same_assignment(seed):
    logits, boxes, targets = random_case(seed=seed)
    matches = HungarianMatcher()(logits, boxes, targets)
    found = set(zip(*(index.tolist() for index in matches)))
    expected, start = set(), 0
    for image, target in enumerate(targets):
        count = len(target["labels"])
        for layer in range(2):
            cost = [
                [
                    cost_by_hand(
                        logits[layer, image, query].tolist(),
                        boxes[layer, image, query].tolist(),
                        int(target["labels"][item]),
                        target["boxes"][item].tolist(),
                    )
                    for item in range(count)
                ]
                for query in range(4)
            ]
            best = min(
                itertools.permutations(range(4), count),
                key=lambda queries: sum(cost[q][item] for item, q in enumerate(queries)),
            )
            expected |= {(layer, image, query, start + i) for i, query in enumerate(best)}
        start += count
    assert found == expected


def test_costs_are_those_worked_by_hand():
    logits, boxes, targets = random_case()
    costs = HungarianMatcher()._costs(logits, boxes, targets)
    objects = [
        (int(label), box.tolist())
        for target in targets
        for label, box in zip(target["labels"], target["boxes"])
    ]
    for layer, image, query in itertools.product(range(2), range(2), range(4)):
        here = (layer, image, query)
        expected = [
            cost_by_hand(logits[here].tolist(), boxes[here].tolist(), *wanted) for wanted in objects
        ]
        assert costs[here].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_more_objects_than_queries():
    logits, boxes, targets = random_case(queries=2, counts=(3, 0))
    matches = HungarianMatcher()(logits, boxes, targets)
    for layer in range(2):
        queries = matches.query[matches.layer == layer].tolist()
        assert sorted(queries) == [0, 1]
    assert matches.image.tolist() == [0] * 4


@pytest.mark.parametrize("counts", [(0, 0), (0, 2)])
def test_images_without_objects(counts):
    logits, boxes, targets = random_case(counts=counts)
    matches = HungarianMatcher()(logits, boxes, targets)
    assert len(matches.query) == 2 * sum(counts)
    assert 0 not in matches.image.tolist()
    assert matches.query.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    logits, boxes, targets = random_case()
    found = HungarianMatcher()(logits.to(dtype), boxes.to(dtype), targets)
    expected = HungarianMatcher()(logits.to(dtype).float(), boxes.to(dtype).float(), targets)
    for one, other in zip(found, expected):
        assert torch.equal(one, other)


@pytest.mark.parametrize("which", ["logits", "boxes"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_predictions_that_are_not_finite_are_named(which, value):
    logits, boxes, targets = random_case()
    (logits if which == "logits" else boxes)[1, 0, 2] = value
    with pytest.raises(FloatingPointError, match=r"not finite at .*\[\[1, 0\]\]"):
        HungarianMatcher()(logits, boxes, targets)


def test_boxes_without_area_have_finite_costs():
    logits, boxes, targets = random_case()
    boxes[..., 2:] = 0
    targets[0]["boxes"][:, 2:] = 0
    targets[0]["boxes"][0] = boxes[0, 0, 0]
    assert len(HungarianMatcher()(logits, boxes, targets).query) == 8


def test_corners():
    boxes = torch.tensor([[0.5, 0.4, 0.2, 0.4], [0.5, 0.5, 0.0, -1.0]])
    expected = torch.tensor([[0.4, 0.2, 0.6, 0.6], [0.5, 0.5, 0.5, 0.5]])
    assert torch.allclose(box_cxcywh_to_xyxy(boxes), expected, atol=1e-6)
    assert (box_cxcywh_to_xyxy(boxes)[:, 2:] > box_cxcywh_to_xyxy(boxes)[:, :2]).all()


def test_no_cost_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one cost"):
        HungarianMatcher(0.0, 0.0, 0.0)
