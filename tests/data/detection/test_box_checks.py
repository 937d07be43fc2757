"""The rules for one box, worked by hand on an image of 100x80 px."""

import math

import pytest

from wbcnets.data.detection.box_checks import POLICIES, check_box, looks_like_xyxy, read_box

INSIDE = (10, 20, 30, 40)


def verdict(box, policy="drop", size=(100, 80)):
    found = check_box(box, *size, policy)
    return found.action, found.box, found.reason


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("box", [INSIDE, (0, 0, 100, 80), (5, 5, 0.01, 10), (5, 5, 10, 0.01)])
def test_boxes_inside_are_kept_as_they_are(policy, box):
    assert verdict(box, policy) == ("keep", box, "")


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((5, 5, 0.009, 10), "bbox [5, 5, 0.009, 10] has zero area"),
        ((5, 5, 10, 0), "bbox [5, 5, 10, 0] has zero area"),
        ((5, 5, -0.009, -10), "bbox [5, 5, -0.009, -10] has zero area"),
        ((100, 10, 5, 5), "bbox [100, 10, 5, 5] lies outside the 100x80 image"),
        ((10, 80, 5, 5), "bbox [10, 80, 5, 5] lies outside the 100x80 image"),
        ((-5, 10, 5, 5), "bbox [-5, 10, 5, 5] lies outside the 100x80 image"),
        ((10, -5, 5, 5), "bbox [10, -5, 5, 5] lies outside the 100x80 image"),
        ((99.995, 10, 1, 10), "bbox [99.995, 10, 1, 10] has no area inside the 100x80 image"),
        ((10, 79.995, 10, 1), "bbox [10, 79.995, 10, 1] has no area inside the 100x80 image"),
    ],
)
def test_boxes_without_area_in_the_image_are_left_out(box, reason):
    for policy in ("drop", "fix", "skip"):
        assert verdict(box, policy) == ("drop", box, reason)
    action, found, told = verdict(box, "refuse")
    assert (action, found) == ("refuse", box)
    assert told == f"{reason} - remove it" or " leaves the 100x80 image by " in told


@pytest.mark.parametrize(
    ("box", "swapped"),
    [
        ((30, 60, -10, -20), (20, 40, 10, 20)),
        ((30, 60, -10, 15), (20, 60, 10, 15)),
        ((30, 60, 10, -20), (30, 40, 10, 20)),
    ],
)
def test_negative_sizes_are_swapped_from_fix_on(box, swapped):
    for policy in ("fix", "skip"):
        action, found, reason = verdict(box, policy)
        assert (action, found) == ("repair", swapped)
        assert reason.endswith(" had a negative size: corners swapped")
    for policy in ("refuse", "drop"):
        action, found, reason = verdict(box, policy)
        assert (action, found) == ("refuse", box)
        assert reason.endswith(" has a negative size - swap its corners")


# A box over each border, and its part inside
OVERHANGS = [
    (lambda by: (-by, 10, 20, 30), lambda by: (0, 10, 20 - by, 30)),
    (lambda by: (10, -by, 20, 30), lambda by: (10, 0, 20, 30 - by)),
    (lambda by: (90, 10, 10 + by, 30), lambda by: (90, 10, 10, 30)),
    (lambda by: (10, 70, 20, 10 + by), lambda by: (10, 70, 20, 10)),
]


@pytest.mark.parametrize(("make", "clip"), OVERHANGS)
@pytest.mark.parametrize(
    ("by", "actions"),
    [
        # Under "refuse", "drop", "fix" and "skip"
        (0.008, ("keep", "keep", "keep", "keep")),
        (0.02, ("refuse", "repair", "repair", "repair")),
        (2, ("refuse", "repair", "repair", "repair")),
        (2.5, ("refuse", "refuse", "repair", "repair")),
    ],
)
def test_overhang_is_clipped_as_far_as_the_policy_goes(make, clip, by, actions):
    for policy, expected in zip(POLICIES, actions):
        action, found, reason = verdict(make(by), policy)
        assert action == expected
        if action == "refuse":
            assert found == make(by)
            assert reason.endswith(f" leaves the 100x80 image by {by:g} px - correct or clip it")
        else:
            assert found == pytest.approx(clip(by))
            left = f" left the 100x80 image by {by:g} px: clipped"
            assert reason.endswith(left if action == "repair" else "")


def test_swapping_and_clipping_are_both_told():
    action, found, reason = verdict((10, 20, -15, 10), "fix")
    assert (action, found) == ("repair", (0, 20, 10, 10))
    assert reason == (
        "bbox [10, 20, -15, 10] had a negative size: corners swapped; "
        "bbox [10, 20, -15, 10] left the 100x80 image by 5 px: clipped"
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_normalized_boxes_are_refused(policy):
    for box in [(0.1, 0.2, 0.3, 0.4), (1.5, 1.5, 1.5, 1.5)]:
        action, found, reason = verdict(box, policy)
        assert (action, found) == ("refuse", box)
        assert "looks normalized to 0..1 - multiply it by the size of the 100x80" in reason
    for box in [(1.6, 1, 1, 1), (1, 1.6, 1, 1), (1, 1, 1.6, 1), (1, 1, 1, 1.6)]:
        assert verdict(box, policy) == ("keep", box, "")
    # In so small an image they may be pixels
    assert verdict((0.1, 0.2, 0.3, 0.4), policy, (16, 100))[0] == "keep"
    assert verdict((0.1, 0.2, 0.3, 0.4), policy, (17, 17))[0] == "refuse"


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((60, 10, 90, 70), True),
        ((10, 40, 30, 50), True),
        ((60, 10, 100, 80), True),
        ((60, 10, 42, 20), False),
        ((12, 10, 90, 72), False),
        ((12.5, 10, 90, 70), True),
        ((10, 12.5, 60, 70), True),
        ((60, 10, 60, 70), False),
        ((60, 50, 90, 50), False),
        ((60, 10, 100.5, 70), False),
        ((60, 10, 90, 80.5), False),
    ],
)
def test_corners_are_told_from_sizes(box, expected):
    assert looks_like_xyxy(box, 100, 80) is expected
    refused = verdict(box)[2]
    assert ("; it looks like [x1, y1, x2, y2] - correct" in refused) is expected


@pytest.mark.parametrize("numbers", [(1, 2, 3, 4), [1.5, 2, 1e9, -1e9]])
def test_four_numbers_are_a_box(numbers):
    found = read_box(numbers)
    assert found == tuple(numbers)
    assert all(type(number) is float for number in found)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "bbox None must be four numbers [x, y, width, height]"),
        ("1234", "bbox '1234' must be four numbers"),
        ([1, 2, 3], "must be four numbers"),
        ([1, 2, 3, 4, 5], "must be four numbers"),
        ([1, 2, 3, "4"], "must hold numbers, not str"),
        ([True, 2, 3, 4], "must hold numbers, not bool"),
        ([1, None, 3, 4], "must hold numbers, not NoneType"),
        ([1, 2, math.nan, 4], "holds a value that is not finite - export the file again"),
        ([1, 2, math.inf, 4], "holds a value that is not finite"),
        ([1, 2, -1.1e9, 4], "holds a value that is not finite"),
        ([10**400, 2, 3, 4], "holds a value that is not finite"),
    ],
)
def test_anything_else_is_no_box(value, reason):
    found = read_box(value)
    assert isinstance(found, str)
    assert reason in found
