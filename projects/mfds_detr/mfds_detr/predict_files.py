"""The files of a prediction: COCO boxes, counts per image, overlays, and what could not be read."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from mfds_detr.predictor import Detections, LeukocytePredictor
from wbcnets.errors import DataError
from wbcnets.io.atomic_files import hash_name, shorten_path, write_atomically
from wbcnets.io.drawing import draw_boxes
from wbcnets.io.image_sources import ImageSource
from wbcnets.io.outputs import claim_folder, write_readme
from wbcnets.io.parallel import read_ahead
from wbcnets.io.strict_json import write_json
from wbcnets.io.tables import write_csv

COMMAND = "predict smears"
_MOST_DRAWINGS = 8  # waiting for their thread
_MAX_SIDE = 65_000  # px, of an overlay; JPEG ends at 65,535
_MAX_PATH = 1000  # characters of an overlay's path; systems allow 4096 bytes with the output folder
_README = """\
Cells that MFDS-DETR found in {images} images, with a score of at least
{thresholds}.

counts.csv        cells per image and class; the last row holds the totals
predictions.json  the boxes as a COCO dataset: images, categories, and annotations with bbox
                  [x, y, width, height] in px of the image (turned upright by its EXIF data) and
                  score in [0, 1]
overlays/         the images with their boxes drawn, unless turned off
unreadable.csv    images that could not be read, and why: {unreadable}

Detectors make mistakes: compare some overlays with your own counts before you rely on the numbers.
"""


class ImageDetections(NamedTuple):
    """The detections of one image file."""

    name: str
    size: tuple[int, int]  # width, height
    detections: Detections


def predict_files(
    predictor: LeukocytePredictor,
    sources: Sequence[ImageSource],
    output: Path,
    overlays: bool = True,
) -> int:
    """Predicts on images and writes a folder; the ``README.txt`` in it explains the files.

    Images that cannot be read are listed in ``unreadable.csv``; all others are processed.

    Args:
        predictor: The model.
        sources: The images.
        output: The folder to write; files of the same names are replaced.
        overlays: Whether images with boxes are drawn.

    Returns:
        The number of images that could not be read.

    Raises:
        ConfigError: if the folder holds an input or files of others.
        CheckpointError: if a file cannot be written.
    """
    with claim_folder(output, COMMAND, (source.path for source in sources)):
        overlay_names = name_overlays([source.name for source in sources])
        found: list[ImageDetections] = []
        unreadable: list[tuple[str, str]] = []
        drawings: list[Future[None]] = []
        images = tqdm(read_ahead(_read, sources), "predicting", len(sources), unit="image")
        # One thread reads, one draws, while the model works
        with ThreadPoolExecutor(1) as pool:
            for source, overlay, image in zip(sources, overlay_names, images):
                try:
                    if isinstance(image, DataError):
                        raise image
                    (detections,) = predictor.predict(image)
                except DataError as error:
                    unreadable.append((source.name, str(error)))
                    continue
                size = (image.shape[1], image.shape[0])
                found.append(ImageDetections(source.name, size, detections))
                if overlays:
                    path = output / "overlays" / overlay
                    names = predictor.class_names
                    drawings.append(pool.submit(_draw, detections, image, names, path))
                if len(drawings) > _MOST_DRAWINGS:
                    drawings.pop(0).result()
            for drawing in drawings:
                drawing.result()
        thresholds = dict(zip(predictor.class_names, predictor.thresholds))
        info = {"description": "Detections of MFDS-DETR", "score_thresholds": thresholds}
        text = ", ".join(f"{value:.3g} ({name})" for name, value in thresholds.items())
        coco = to_coco(found, predictor.class_names, info)
        readme = _README.format(images=len(found), unreadable=len(unreadable), thresholds=text)
        # First, so that counts never look complete while images are missing; also if it is empty,
        # so that the list of an earlier run does not stay
        write_csv(output / "unreadable.csv", [("file", "reason"), *unreadable])
        write_json(coco, output / "predictions.json")
        write_csv(output / "counts.csv", count_rows(found, predictor.class_names))
        write_readme(output, COMMAND, readme)
        return len(unreadable)


def _read(source: ImageSource) -> npt.NDArray[np.uint8] | DataError:
    try:
        return source.read()
    except DataError as error:
        return error


def to_coco(
    found: Sequence[ImageDetections], class_names: Sequence[str], info: dict[str, Any]
) -> dict[str, Any]:
    """Returns detections as a COCO dataset whose annotations have a score; ids count from 1.

    Args:
        found: One entry per image.
        class_names: The classes in the order of the labels.
        info: The dataset's ``info``.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, (width, height), detections) in enumerate(found, start=1):
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for (x1, y1, x2, y2), label, score in zip(
            detections.boxes.tolist(), detections.labels.tolist(), detections.scores.tolist()
        ):
            box = [round(x1, 2), round(y1, 2), round(x2 - x1, 2), round(y2 - y1, 2)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": round(box[2] * box[3], 2),
                    "iscrowd": 0,
                    "score": round(score, 5),
                }
            )
    categories = [{"id": label, "name": name} for label, name in enumerate(class_names, start=1)]
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def count_rows(
    found: Sequence[ImageDetections], class_names: Sequence[str]
) -> list[tuple[Any, ...]]:
    """Returns a header, one row of counts per image, and a row of totals."""
    counts = [np.bincount(entry.detections.labels, minlength=len(class_names)) for entry in found]
    totals = np.sum(counts, axis=0) if counts else np.zeros(len(class_names), int)
    rows: list[tuple[Any, ...]] = [("file", *class_names, "total")]
    for name, values in [*zip((entry.name for entry in found), counts), ("total", totals)]:
        rows.append((name, *values.tolist(), int(values.sum())))
    return rows


def name_overlays(names: Sequence[str]) -> list[str]:
    """Returns the relative path of each image's overlay, all different.

    ``a.png`` becomes ``a.jpg``, or ``a.png.jpg`` if another image or a folder has that name. A path
    that file systems would refuse is shortened.

    Args:
        names: Relative paths of images, with slashes.
    """
    folders = {str(folder).casefold() for name in names for folder in PurePosixPath(name).parents}
    short = [str(PurePosixPath(name).with_suffix(".jpg")) for name in names]
    taken = Counter(name.casefold() for name in short)
    overlays: dict[str, str] = {}
    for name, overlay in zip(names, short):
        if taken[overlay.casefold()] > 1 or overlay.casefold() in folders:
            overlay = f"{name}.jpg"
        overlay = str(shorten_path(PurePosixPath(overlay)))
        key = overlay.casefold()
        if len(overlay) > _MAX_PATH or key in overlays or key in folders:
            overlay = hash_name(f"{len(overlays)}/{name}", ".jpg")
        overlays[overlay.casefold()] = overlay
    return list(overlays.values())


def _draw(found: Detections, image: np.ndarray, class_names: Sequence[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = draw_boxes(image, found.boxes, found.labels, class_names, found.scores)
    picture = Image.fromarray(drawn)
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
    # A PNG takes longer to write than its cells to find
    write_atomically(path, lambda file: picture.save(file, "JPEG", quality=90, subsampling=0))
