"""Draws boxes with labels and scores, legends, and contact sheets."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from wbcnets.errors import DataError

Color = tuple[int, int, int]
RgbImage = npt.NDArray[np.uint8]

# Colors of Okabe and Ito (2008), which people with any color vision can tell apart; those that
# vanish on pink stain come last
PALETTE: tuple[Color, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (240, 228, 66),
    (86, 180, 233),
    (0, 0, 0),
    (230, 159, 0),
    (204, 121, 167),
)
# A class keeps its color in every dataset and every picture
CLASS_COLORS: dict[str, Color] = {
    "wbc": (0, 114, 178),
    "rbc": (213, 94, 0),
    "platelets": (0, 158, 115),
    "platelet": (0, 158, 115),
    "neutrophil": (0, 114, 178),
    "eosinophil": (240, 228, 66),
    "basophil": (0, 0, 0),
    "lymphocyte": (86, 180, 233),
    "monocyte": (230, 159, 0),
}
MAX_TILE_RATIO = 4
_WHITE: Color = (255, 255, 255)
_INK: Color = (30, 30, 30)


def class_color(label: int, class_names: Sequence[str]) -> Color:
    """Returns the fixed color of a class: by its name if that is known, else by its index."""
    known = CLASS_COLORS.get(class_names[label].strip().casefold())
    return known or PALETTE[label % len(PALETTE)]


def draw_boxes(
    image: RgbImage,
    boxes_xyxy: npt.ArrayLike,
    labels: npt.ArrayLike,
    class_names: Sequence[str],
    scores: npt.ArrayLike | None = None,
    *,
    show_labels: bool = True,
    legend: bool = False,
    line_width: int | None = None,
) -> RgbImage:
    """Draws boxes on a copy of an image.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        boxes_xyxy: ``(N, 4)`` ``[x1, y1, x2, y2]`` in px.
        labels: ``(N,)`` class indices.
        class_names: Names, for tags, legend and colors.
        scores: ``(N,)`` in [0, 1], shown in percent after the class.
        show_labels: Whether each box gets a tag; crowded fields look better with ``legend`` alone.
        legend: Whether a strip below the image names the classes and counts their boxes.
        line_width: In px; by default it follows the size of the image.

    Returns:
        ``(H', W, 3)`` uint8 RGB; H' = H without the legend.

    Raises:
        DataError: if shapes do not fit each other, a label has no name, or a box is not finite.
    """
    boxes, classes, values = _check(image, boxes_xyxy, labels, class_names, scores)
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    width = line_width or max(2, round(min(image.shape[:2]) / 240))
    font = _font(max(11, round(min(image.shape[:2]) / 36)))
    # Large boxes first, so that the small ones inside them stay visible
    order = np.argsort(-(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), kind="stable")
    for index in order:
        _outline(draw, boxes[index], class_color(int(classes[index]), class_names), width)
    if show_labels:
        for index in order:
            name = class_names[int(classes[index])]
            text = name if values is None else f"{name} {values[index]:.0%}"
            color = class_color(int(classes[index]), class_names)
            _tag(draw, canvas.size, boxes[index], text, color, font)
    if legend:
        canvas = _with_legend(canvas, classes, class_names)
    return np.array(canvas, dtype=np.uint8)


def contact_sheet(
    images: Sequence[RgbImage],
    columns: int = 3,
    captions: Sequence[str] | None = None,
    *,
    tile_width: int = 480,
    gap: int = 12,
) -> RgbImage:
    """Lays images out in rows, each scaled to one width, with captions below them.

    Args:
        images: ``(H, W, 3)`` uint8 RGB each, of any sizes.
        columns: Images in a row.
        captions: One line per image.
        tile_width: Width of each image in px.
        gap: Space around the images in px.

    Returns:
        ``(H, W, 3)`` uint8 RGB on white.

    Raises:
        DataError: if there is no image or no column, or captions and images differ in number.
    """
    if not images or columns < 1:
        raise DataError(f"{len(images)} images in {columns} columns make no contact sheet")
    if captions is not None and len(captions) != len(images):
        raise DataError(f"{len(captions)} captions for {len(images)} images")
    columns = min(columns, len(images))
    tiles = [Image.fromarray(scale_to_width(image, tile_width)) for image in images]
    font = _font(max(12, tile_width // 30))
    caption_height = round(font.size * 1.7) if captions else 0
    rows = [
        range(start, min(start + columns, len(tiles))) for start in range(0, len(tiles), columns)
    ]
    heights = [max(tiles[i].height for i in row) + caption_height for row in rows]
    size = (columns * (tile_width + gap) + gap, sum(heights) + gap * (len(rows) + 1))
    sheet = Image.new("RGB", size, _WHITE)
    draw = ImageDraw.Draw(sheet)
    top = gap
    for row, height in zip(rows, heights):
        for column, index in enumerate(row):
            left = gap + column * (tile_width + gap)
            sheet.paste(tiles[index], (left, top))
            if captions:
                text = _shorten(captions[index], font, tile_width)
                draw.text((left, top + tiles[index].height + font.size * 0.3), text, _INK, font)
        top += height + gap
    return np.array(sheet, dtype=np.uint8)


def _check(
    image: RgbImage,
    boxes_xyxy: npt.ArrayLike,
    labels: npt.ArrayLike,
    class_names: Sequence[str],
    scores: npt.ArrayLike | None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.float64] | None]:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(f"image is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
    boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    classes = np.asarray(labels, dtype=np.int64).reshape(-1)
    values = None if scores is None else np.asarray(scores, dtype=np.float64).reshape(-1)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(classes) != len(boxes):
        raise DataError(f"boxes {boxes.shape} and labels {classes.shape}, expected (N, 4) and (N,)")
    if values is not None and len(values) != len(boxes):
        raise DataError(f"{len(values)} scores for {len(boxes)} boxes")
    if not np.isfinite(boxes).all():
        raise DataError(f"box {int(np.argwhere(~np.isfinite(boxes))[0, 0])} is not finite")
    if len(classes) and not (classes.min() >= 0 and classes.max() < len(class_names)):
        raise DataError(
            f"labels run from {classes.min()} to {classes.max()}, but there are "
            f"{len(class_names)} class names"
        )
    return boxes, classes, values


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise DataError("Pillow was built without FreeType, which labels need - install a wheel")
    return font


def _outline(
    draw: ImageDraw.ImageDraw, box: npt.NDArray[np.float64], color: Color, width: int
) -> None:
    x1, y1, x2, y2 = (float(value) for value in box)
    low, high = (min(x1, x2), min(y1, y2)), (max(x1, x2), max(y1, y2))
    # A thin light rim keeps dark lines visible on dark nuclei
    rim = (low[0] - 1, low[1] - 1, high[0] + 1, high[1] + 1)
    draw.rectangle(rim, outline=_WHITE, width=width + 2)
    draw.rectangle((*low, *high), outline=color, width=width)


def _tag(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: npt.NDArray[np.float64],
    text: str,
    color: Color,
    font: ImageFont.FreeTypeFont,
) -> None:
    padding = max(2, round(font.size * 0.2))
    width = draw.textlength(text, font) + 2 * padding
    height = font.size * 1.15 + padding
    left = min(max(float(min(box[0], box[2])), 0.0), max(size[0] - width, 0.0))
    top = float(min(box[1], box[3])) - height
    # If there is no room above the box, the tag goes inside it
    if top < 0:
        top = max(float(min(box[1], box[3])), 0.0)
    draw.rectangle((left, top, left + width, top + height), fill=color)
    middle = (left + padding, top + height / 2)
    draw.text(middle, text, _ink_on(color), font, anchor="lm")


def _ink_on(color: Color) -> Color:
    red, green, blue = color
    return _WHITE if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else _INK


def _with_legend(
    image: Image.Image, classes: npt.NDArray[np.int64], class_names: Sequence[str]
) -> Image.Image:
    font = _font(max(12, round(image.width / 40)))
    line = round(font.size * 1.8)
    swatch = font.size
    entries = [
        (f"{name} {int((classes == label).sum())}", class_color(label, class_names))
        for label, name in enumerate(class_names)
    ]
    corners, left, row = [], line // 3, 0
    for text, _ in entries:
        width = swatch * 1.5 + font.getlength(text) + line * 0.7
        if left + width > image.width and left > line // 3:
            left, row = line // 3, row + 1
        corners.append((left, image.height + row * line))
        left += round(width)
    extended = Image.new("RGB", (image.width, image.height + (row + 1) * line), _WHITE)
    extended.paste(image)
    draw = ImageDraw.Draw(extended)
    for (x, y), (text, color) in zip(corners, entries):
        top = y + (line - swatch) / 2
        draw.rectangle((x, top, x + swatch, top + swatch), fill=color)
        draw.text((x + swatch * 1.5, y + line / 2), text, _INK, font, anchor="lm")
    return extended


def scale_to_width(image: RgbImage, width: int) -> RgbImage:
    """Scales ``(H, W, 3)`` uint8 RGB to a width in px, keeping its proportions.

    An image over ``MAX_TILE_RATIO`` times as high as wide becomes narrower, since one of 1x10000 px
    would fill the memory.
    """
    scale = min(width / image.shape[1], MAX_TILE_RATIO * width / image.shape[0])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    if image.shape[:2] == (height, width):
        return image
    scaled = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    return np.array(scaled, dtype=np.uint8)


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
