"""The rules for a single bounding box, shared by the COCO reader and all converters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Box = tuple[float, float, float, float]
BadBox = Literal["drop", "fix", "error"]
Action = Literal["use", "repair", "drop", "error"]

BAD_BOX_CHOICES: tuple[BadBox, ...] = ("drop", "fix", "error")
# A box may overshoot its image by this much (px) and is clipped: annotation tools round outwards.
TOLERANCE = 2.0
# Overshoot (px) that comes from decimal fractions in files; clipped without being called a repair.
ROUNDING = 0.01
# A side shorter than this (px) has no extent: written with three decimals it may read as zero.
MINIMUM_SIDE = 0.01


@dataclass(frozen=True)
class BoxVerdict:
    """What is to be done with a box.

    Args:
        action: "use", "repair" (take `box`), "drop" or "error".
        box: `(x, y, width, height)` in px, inside the image unless the action is "drop" or "error".
        reason: Why, and for an error what to do; empty for "use".
    """

    action: Action
    box: Box
    reason: str = ""


def read_box(value: object) -> Box | str:
    """Reads `[x, y, width, height]`; a string is the reason why it is no box."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 4:
        return f"bbox {value!r:.200} must be four numbers [x, y, width, height]"
    for number in value:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            return f"bbox {value!r:.200} must hold numbers, not {type(number).__name__}"
    # No image is that large, and an integer of hundreds of digits does not fit into a float.
    if not all(abs(number) <= 1e9 for number in value):
        return f"bbox {value!r:.200} holds a value that is not finite - export the file again"
    x, y, width, height = (float(number) for number in value)
    return x, y, width, height


def check_box(box: Box, width: int, height: int, bad_box: BadBox = "drop") -> BoxVerdict:
    """Judges a box against its image.

    - no area (a side under 0.01 px), or wholly outside the image: dropped ("error": an error);
    - up to 2 px over the border: clipped ("error": an error); under 0.01 px it is rounding;
    - more than 2 px over the border, or a negative size (corners swapped): an error, since
      the box may mean something else ("fix": clipped, swapped);
    - all four numbers at most 1.5 in an image of more than 16 px: an error, the box is normalized.

    Args:
        box: `(x, y, width, height)` in px, finite.
        width: Image width in px.
        height: Image height in px.
        bad_box: "drop", "fix" or "error", see above.

    Returns:
        The verdict, with the box to use.
    """
    shown = _short(box)
    x, y, w, h = box
    reasons = []
    if abs(w) < MINIMUM_SIDE or abs(h) < MINIMUM_SIDE:
        return _drop(box, f"bbox {shown} has zero area", bad_box)
    if w < 0 or h < 0:
        if bad_box != "fix":
            return _error(
                box, f"bbox {shown} has a negative size - swap its corners, or bad_box=fix"
            )
        x, y, w, h = min(x, x + w), min(y, y + h), abs(w), abs(h)
        reasons.append(f"bbox {shown} had a negative size: corners swapped")
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return _drop(box, f"bbox {shown} lies outside the {width}x{height} image", bad_box)
    if max(x, y, w, h) <= 1.5 and min(width, height) > 16:
        return _error(
            box, f"bbox {shown} looks normalized to 0..1 - multiply it by the {width}x{height} size"
        )
    overshoot = max(-x, -y, x + w - width, y + h - height)
    if overshoot > TOLERANCE and bad_box != "fix":
        return _error(box, _leaves_image(box, width, height, overshoot))
    if overshoot > ROUNDING:
        if bad_box == "error":
            return _error(box, _leaves_image(box, width, height, overshoot))
        reasons.append(
            f"bbox {shown} left the {width}x{height} image by {overshoot:.4g} px: clipped"
        )
    clipped = _clip(x, y, w, h, width, height)
    if clipped[2] < MINIMUM_SIDE or clipped[3] < MINIMUM_SIDE:
        return _drop(box, f"bbox {shown} has no area inside the {width}x{height} image", bad_box)
    return BoxVerdict("repair" if reasons else "use", clipped, "; ".join(reasons))


def looks_like_corners(box: Box, width: int, height: int) -> bool:
    """Whether `[x, y, w, h]` leaves the image but would fit as `[x1, y1, x2, y2]`."""
    x, y, w, h = box
    leaves = x + w > width + TOLERANCE or y + h > height + TOLERANCE
    return leaves and x < w <= width and y < h <= height


def _clip(x: float, y: float, w: float, h: float, width: int, height: int) -> Box:
    if x >= 0 and y >= 0 and x + w <= width and y + h <= height:
        return x, y, w, h
    left, top = max(x, 0.0), max(y, 0.0)
    return left, top, min(x + w, float(width)) - left, min(y + h, float(height)) - top


def _leaves_image(box: Box, width: int, height: int, overshoot: float) -> str:
    hint = ""
    if looks_like_corners(box, width, height):
        hint = "; it looks like [x1, y1, x2, y2] where [x, y, width, height] is expected"
    return (
        f"bbox {_short(box)} leaves the {width}x{height} image by {overshoot:.4g} px{hint} - "
        "correct it, or clip with bad_box=fix"
    )


def _error(box: Box, reason: str) -> BoxVerdict:
    return BoxVerdict("error", box, reason)


def _drop(box: Box, reason: str, bad_box: BadBox) -> BoxVerdict:
    if bad_box == "error":
        return BoxVerdict("error", box, f"{reason} - remove it, or pass bad_box=drop")
    return BoxVerdict("drop", box, reason)


def _short(box: Box) -> str:
    return "[" + ", ".join(f"{number:.6g}" for number in box) + "]"
