"""From image files to cells: a trained model as a function, and the files of `predict.py`."""

import csv
import glob
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import Instances
from PIL import Image
from torch import nn
from torchvision.ops import nms
from tqdm import tqdm

from mfds_detr.checkpoint.checkpointer import fit_weights
from mfds_detr.checkpoint.weight_files import read_weights
from mfds_detr.checkpoint.weight_names import Translation, translate
from mfds_detr.config import read_config
from mfds_detr.data.dataset_mapper import build_augmentations
from wbcnets.errors import CheckpointError, ConfigError, DataError
from wbcnets.io.atomic_files import write_atomically
from wbcnets.io.drawing import draw_boxes
from wbcnets.io.image_files import IMAGE_SUFFIXES
from wbcnets.io.images import read_image

logger = logging.getLogger("mfds_detr.predictor")

_EXPLANATION = """\
What {model} found in {images} images, at a score of at least {threshold:g}.

counts.csv        cells per image and class; the last row adds them up
predictions.json  the boxes as a COCO dataset: images, categories, and annotations with bbox
                  [x, y, width, height] in pixels of the image file (upright, where its EXIF data
                  turns it) and score in [0, 1]
overlays/         the images with the boxes drawn, unless --no-overlays was given
unreadable.csv    images that could not be read, and why; there were {unreadable}

A detector errs: compare some overlays with your own count before you rely on the numbers.
"""


class LeukocytePredictor:
    """A trained MFDS-DETR as a function from an image to its cells.

    Args:
        weights: A checkpoint of this project, `.pth` or `.safetensors`, that names its classes.
        config_file: The config it was trained with; `config.yaml` beside the weights by default.
        device: Such as "cpu" or "cuda"; by default the config's, or the CPU where there is no GPU.
        threshold: Detections of a lower score, 0 to 1, are left out.

    Attributes:
        class_names: The classes in the order of `pred_classes`.
        threshold: The same, and may be changed.

    Raises:
        CheckpointError: The weights are missing, damaged, without class names or of another model.
        ConfigError: The config is missing or wrong, or the threshold or device is impossible.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str],
        config_file: str | os.PathLike[str] | None = None,
        device: str | None = None,
        threshold: float = 0.3,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ConfigError(f"the threshold must lie between 0 and 1, got {threshold}")
        path = os.fspath(weights)
        checkpoint = read_weights(path)
        self.threshold = threshold
        self.class_names = _class_names(checkpoint, path)
        cfg = _load_config(path, config_file)
        cfg.MODEL.DEVICE = _choose_device(device, cfg.MODEL.DEVICE)
        cfg.MODEL.MFDS_DETR.NUM_CLASSES = len(self.class_names)
        cfg.TEST.SCORE_THRESHOLD = 0.0  # `threshold` decides
        self.model: nn.Module = build_model(cfg).eval()
        _load_detector(self.model, checkpoint, path, len(self.class_names))
        self._resize = T.AugmentationList(build_augmentations(cfg, is_train=False))
        self._image_format = cfg.INPUT.FORMAT

    @torch.inference_mode()
    def __call__(self, image: npt.NDArray[np.uint8]) -> Instances:
        """Finds the cells of an image.

        Args:
            image: `(H, W, 3)` uint8 RGB, as from `wbcnets.io.images.read_image`.

        Returns:
            On the CPU, best first: `pred_boxes` as `[x1, y1, x2, y2]` in pixels of `image`,
            `scores` in [0, 1] and `pred_classes`; each cell once, see `one_per_cell`.

        Raises:
            DataError: The array is no such image.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise DataError(f"image is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
        pixels = image if self._image_format == "RGB" else image[:, :, ::-1]
        resized = T.AugInput(np.ascontiguousarray(pixels))
        self._resize(resized)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        entry = {"image": tensor, "height": image.shape[0], "width": image.shape[1]}
        found = self.model([entry])[0]["instances"].to("cpu")
        return one_per_cell(found[found.scores >= self.threshold])


def one_per_cell(found: Instances, overlap: float = 0.7) -> Instances:
    """Keeps the best of detections that overlap so far that they mean one cell.

    Scores of different classes are independent, and two queries may find the same cell: a count
    would see it twice. COCO evaluation gets all detections, as is usual for DETR.

    Args:
        found: Detections.
        overlap: IoU from which two boxes are one cell; red cells that lie on each other share less.
    """
    kept = nms(found.pred_boxes.tensor, found.scores, overlap)
    return found[kept]


class ImageFile(NamedTuple):
    """An image to predict on."""

    path: Path
    name: str  # relative to the folder of all inputs, with slashes


class Findings(NamedTuple):
    """What was found in one image."""

    file: ImageFile
    size: tuple[int, int]  # width, height
    boxes: npt.NDArray[np.float32]  # (N, 4) corners in px
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


def find_images(inputs: Sequence[str], leave_out: Path | None = None) -> list[ImageFile]:
    """The image files of paths, folders and glob patterns, sorted.

    A folder gives its images at any depth, hidden ones left out; a path or a pattern gives every
    file that it names, whatever its suffix.

    Args:
        inputs: Paths, folders or patterns such as `smears/*.png` or `smears/**/*.jpg`.
        leave_out: A folder whose files are not taken, such as the one that is written to.

    Raises:
        DataError: Something gives no image; the message names it.
    """
    paths: set[Path] = set()
    problems = []
    for text in inputs:
        found = [p.absolute() for p in _matches(text) if not _lies_in(p, leave_out)]
        if not found:
            problems.append(f"{text}: {_why_nothing(text)}")
        paths.update(found)
    if problems:
        raise DataError("no images to predict on; correct --input", problems)
    folders = {p.absolute() for p in map(Path, inputs) if p.is_dir()} or {p.parent for p in paths}
    base = Path(os.path.commonpath([*folders, *(p.parent for p in paths)]))
    return [ImageFile(p, p.relative_to(base).as_posix()) for p in sorted(paths)]


def predict_files(
    predictor: LeukocytePredictor, files: Sequence[ImageFile], output: Path, overlays: bool = True
) -> int:
    """Predicts on image files and writes the folder that `README.txt` in it explains.

    Images that cannot be read are listed in `unreadable.csv`; all others are processed.

    Args:
        predictor: The model.
        files: The images.
        output: The folder to write; files of the same names are replaced.
        overlays: Whether images with boxes are drawn.

    Returns:
        How many images could not be read.

    Raises:
        CheckpointError: A file cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    overlay_of = _overlay_names(files)
    findings: list[Findings] = []
    unreadable: list[tuple[str, str]] = []
    for file in tqdm(files, desc="predicting", unit="image"):
        try:
            image = read_image(file.path)
        except DataError as error:
            unreadable.append((file.name, str(error)))
            continue
        result = _findings(file, image, predictor(image))
        findings.append(result)
        if overlays:
            _draw(result, image, predictor.class_names, output / "overlays" / overlay_of[file.name])
    info = {"description": "Detections of MFDS-DETR", "score_threshold": predictor.threshold}
    coco = to_coco(findings, predictor.class_names, info)
    _write_text(output / "predictions.json", json.dumps(coco))
    _write_text(output / "counts.csv", _csv(count_rows(findings, predictor.class_names)))
    # Also when there are none, so that an earlier run's list does not stay
    _write_text(output / "unreadable.csv", _csv([("image", "reason"), *unreadable]))
    explanation = _EXPLANATION.format(
        model="MFDS-DETR",
        images=len(findings),
        threshold=predictor.threshold,
        unreadable=len(unreadable),
    )
    _write_text(output / "README.txt", explanation)
    return len(unreadable)


def to_coco(
    findings: Sequence[Findings], class_names: Sequence[str], info: dict[str, Any]
) -> dict[str, Any]:
    """Findings as a COCO dataset whose annotations have a score; ids count from 1.

    Args:
        findings: Per image.
        class_names: Classes in the order of the labels.
        info: Goes into the dataset's `info`.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, found in enumerate(findings, start=1):
        width, height = found.size
        entry = {"id": image_id, "file_name": found.file.name, "width": width, "height": height}
        images.append(entry)
        for (x1, y1, x2, y2), label, score in zip(
            found.boxes.tolist(), found.labels.tolist(), found.scores.tolist()
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


def count_rows(findings: Sequence[Findings], class_names: Sequence[str]) -> list[tuple[Any, ...]]:
    """A header, a row of counts per image, and a row of their sums."""
    counts = [np.bincount(found.labels, minlength=len(class_names)) for found in findings]
    sums = np.sum(counts, axis=0) if counts else np.zeros(len(class_names), int)
    rows: list[tuple[Any, ...]] = [("image", *class_names, "total")]
    for name, values in [*zip((found.file.name for found in findings), counts), ("total", sums)]:
        rows.append((name, *values.tolist(), int(values.sum())))
    return rows


def _class_names(checkpoint: dict[str, Any], path: str) -> tuple[str, ...]:
    names = tuple(checkpoint.get("class_names") or ())
    if not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(
            f"{path}: holds no class names, so nobody knows what its classes mean - use a "
            "checkpoint that train_net.py wrote, such as model_best.pth"
        )
    return names


def _load_config(weights: str, config_file: str | os.PathLike[str] | None) -> CfgNode:
    path = Path(config_file) if config_file else Path(weights).parent / "config.yaml"
    if not path.is_file():
        given = "" if config_file else ", which is looked for beside the weights"
        raise ConfigError(
            f"{path}{given}: no such file - name the config of the training with --config-file"
        )
    return read_config(str(path))


def _choose_device(given: str | None, configured: str) -> str:
    name = given or configured
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ConfigError(f"--device {name!r} is no device; use cpu or cuda") from error
    if kind != "cuda" or torch.cuda.is_available():
        return name
    if given:
        raise ConfigError(f"--device {name!r}: PyTorch finds no GPU here; use cpu")
    return "cpu"


def _load_detector(
    model: nn.Module, checkpoint: dict[str, Any], path: str, num_classes: int
) -> None:
    """Fills the whole model; unlike in training, nothing may keep its initialization."""
    state = checkpoint.get("ema") or checkpoint["model"]
    own = [n for n, _ in model.named_parameters() if n.startswith("backbone.")]
    translation = translate(state, [name.removeprefix("backbone.") for name in own])
    if translation.absent:
        raise CheckpointError(
            f"{path}: holds weights in {translation.source} names, to start a training from, but "
            "no trained MFDS-DETR - train first, then predict with model_best.pth"
        )
    for name, tensor in translation.state.items():
        if name.startswith("detector.class_embed.") and len(tensor) != num_classes:
            raise CheckpointError(
                f"{path}: {name} has {len(tensor)} rows, but {num_classes} classes are named - the "
                "file is inconsistent; save it again"
            )
    for line in fit_weights(model, Translation(translation.source, translation.state, ()), path):
        logger.info(line)


def _matches(text: str) -> list[Path]:
    path = Path(text)
    if path.is_file():
        return [path]
    if not path.is_dir():
        return [Path(p) for p in glob.glob(text, recursive=True) if Path(p).is_file()]
    found = (p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    return [p for p in found if not any(_is_hidden(part) for part in p.relative_to(path).parts)]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _lies_in(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.absolute().is_relative_to(folder.absolute())


def _why_nothing(text: str) -> str:
    if Path(text).is_dir():
        return f"the folder holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})"
    return "no such file, and as a pattern it matches none"


def _overlay_names(files: Sequence[ImageFile]) -> dict[str, str]:
    """`a.jpg` becomes `a.png`, but `a.jpg.png` where an `a.tif` would become the same."""
    taken = Counter(str(Path(file.name).with_suffix("")).casefold() for file in files)
    return {
        file.name: str(
            Path(file.name).with_suffix(".png")
            if taken[str(Path(file.name).with_suffix("")).casefold()] == 1
            else f"{file.name}.png"
        )
        for file in files
    }


def _findings(file: ImageFile, image: npt.NDArray[np.uint8], found: Instances) -> Findings:
    return Findings(
        file,
        (image.shape[1], image.shape[0]),
        found.pred_boxes.tensor.numpy(),
        found.pred_classes.numpy(),
        found.scores.numpy(),
    )


def _draw(
    found: Findings, image: npt.NDArray[np.uint8], class_names: Sequence[str], path: Path
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = draw_boxes(image, found.boxes, found.labels, class_names, found.scores)
    write_atomically(path, lambda file: Image.fromarray(drawn).save(file, "PNG"))


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode(errors="surrogateescape")))
