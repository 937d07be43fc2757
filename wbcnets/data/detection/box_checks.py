"""The rules for a single bounding box, for boxes of every format."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Box = tuple[float, float, float, float]
# A number in a text file. Python's own reader takes "1_0", "nan" and the digits of all scripts, too
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
# How far a reader may go with faulty items, each step further than the one before:
#   refuse  every box that needs a change is a problem
#   drop    boxes without area are left out, small overhang is clipped; all else is a problem
#   fix     also swaps negative sizes and clips any overhang
#   skip    also leaves out every box and image that would be a problem
Policy = Literal["refuse", "drop", "fix", "skip"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

# A box may overshoot its image by this much (px) and is clipped: annotation tools round outwards
TOLERANCE = 2.0
# Overshoot (px) from decimal fractions in files; clipped without counting as a repair
ROUNDING = 0.01
# A shorter side (px) has no extent: written with three decimals it may read as zero
MINIMUM_SIDE = 0.01


@dataclass(frozen=True)
class BoxVerdict:
    """Says what to do with a box.

    Args:
        action: "keep", "repair" (use the changed ``box``), "drop" or "refuse".
        box: ``(x, y, width, height)`` in px, inside the image if it is kept or repaired.
        reason: Why, and for "refuse" what to do; empty for "keep".
    """

    action: Literal["keep", "repair", "drop", "refuse"]
    box: Box
    reason: str = ""


def read_box(value: object) -> Box | str:
    """Reads ``[x, y, width, height]``; returns the reason as a string if it is not a box."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 4:
        return f"bbox {value!r:.200} must be four numbers [x, y, width, height]"
    for number in value:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            return f"bbox {value!r:.200} must hold numbers, not {type(number).__name__}"
    # No image is that large, and an integer of hundreds of digits does not fit into a float
    if not all(abs(number) <= 1e9 for number in value):
        return f"bbox {value!r:.200} holds a value that is not finite - export the file again"
    x, y, width, height = (float(number) for number in value)
    return x, y, width, height


def check_box(box: Box, width: int, height: int, policy: Policy = "drop") -> BoxVerdict:
    """Decides about a box in an image.

    - No area (a side under 0.01 px) or wholly outside the image: drop.
    - Up to 2 px over the border: clip; under 0.01 px this is rounding and no repair.
    - More than 2 px over the border, or a negative size: refuse, since the box may mean something
      else; from "fix" on clip and swap.
    - All four numbers at most 1.5 in an image of more than 16 px: refuse, the box is normalized.

    Under "refuse" nothing is dropped or clipped, except for rounding.

    Args:
        box: ``(x, y, width, height)`` in px, finite.
        width: Image width in px.
        height: Image height in px.
        policy: See ``Policy``.
    """
    shown = "bbox [" + ", ".join(f"{number:.6g}" for number in box) + "]"
    image = f"the {width}x{height} image"
    fixes = policy in ("fix", "skip")
    x, y, w, h = box
    repairs = []
    if abs(w) < MINIMUM_SIDE or abs(h) < MINIMUM_SIDE:
        return _drop(box, f"{shown} has zero area", policy)
    if w < 0 or h < 0:
        if not fixes:
            return BoxVerdict("refuse", box, f"{shown} has a negative size - swap its corners")
        x, y, w, h = min(x, x + w), min(y, y + h), abs(w), abs(h)
        repairs.append(f"{shown} had a negative size: corners swapped")
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return _drop(box, f"{shown} lies outside {image}", policy)
    if max(x, y, w, h) <= 1.5 and min(width, height) > 16:
        reason = f"{shown} looks normalized to 0..1 - multiply it by the size of {image}"
        return BoxVerdict("refuse", box, reason)
    overshoot = max(-x, -y, x + w - width, y + h - height)
    if not fixes and overshoot > (ROUNDING if policy == "refuse" else TOLERANCE):
        hint = "; it looks like [x1, y1, x2, y2]" if looks_like_xyxy(box, width, height) else ""
        reason = f"{shown} leaves {image} by {overshoot:.4g} px{hint} - correct or clip it"
        return BoxVerdict("refuse", box, reason)
    if overshoot > ROUNDING:
        repairs.append(f"{shown} left {image} by {overshoot:.4g} px: clipped")
    clipped = _clip(x, y, w, h, width, height)
    if clipped[2] < MINIMUM_SIDE or clipped[3] < MINIMUM_SIDE:
        return _drop(box, f"{shown} has no area inside {image}", policy)
    return BoxVerdict("repair" if repairs else "keep", clipped, "; ".join(repairs))


def looks_like_xyxy(box: Box, width: int, height: int) -> bool:
    """Tells whether ``[x, y, w, h]`` leaves the image but would fit as ``[x1, y1, x2, y2]``."""
    x, y, w, h = box
    leaves = x + w > width + TOLERANCE or y + h > height + TOLERANCE
    return leaves and x < w <= width and y < h <= height


def _clip(x: float, y: float, w: float, h: float, width: int, height: int) -> Box:
    if x >= 0 and y >= 0 and x + w <= width and y + h <= height:
        return x, y, w, h
    left, top = max(x, 0.0), max(y, 0.0)
    return left, top, min(x + w, float(width)) - left, min(y + h, float(height)) - top


def _drop(box: Box, reason: str, policy: Policy) -> BoxVerdict:
    if policy == "refuse":
        return BoxVerdict("refuse", box, f"{reason} - remove it")
    return BoxVerdict("drop", box, reason)
