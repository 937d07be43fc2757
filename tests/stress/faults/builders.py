"""Small valid datasets for the cases to break."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
NAMES = ("a.png", "b.png", "c.png")


def picture(seed: int, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Returns an image that differs from those of other seeds."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_pictures(folder: Path, names=NAMES) -> None:
    """Writes one image per name."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(folder / name)


def coco() -> dict[str, Any]:
    """Returns a COCO object of three images, two classes and four boxes."""
    boxes = [(1, 1, [5, 5, 20, 20]), (1, 2, [30, 10, 15, 22]), (2, 1, [3, 4, 12, 9])]
    boxes.append((3, 2, [20, 20, 10, 10]))
    return {
        "images": [
            {"id": index + 1, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for index, name in enumerate(NAMES)
        ],
        "categories": [{"id": 1, "name": "neutrophil"}, {"id": 2, "name": "lymphocyte"}],
        "annotations": [
            {
                "id": index + 1,
                "image_id": image,
                "category_id": category,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for index, (image, category, box) in enumerate(boxes)
        ],
    }


def write_coco(folder: Path, change=None, after=None) -> Path:
    """Writes a COCO dataset; ``change`` edits its JSON, ``after`` its folder."""
    write_pictures(folder / "images")
    data = copy.deepcopy(coco())
    if change is not None:
        data = change(data) or data
    path = folder / "train.json"
    path.write_text(json.dumps(data))
    if after is not None:
        after(folder)
    return path


def write_text_coco(folder: Path, text: str | bytes) -> Path:
    """Writes a COCO dataset with this text as its JSON file."""
    write_pictures(folder / "images")
    path = folder / "train.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


VOC_OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{xmin}</xmin>"
    "<ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
)
VOC_BOX = {"name": "WBC", "difficult": 0, "xmin": 5, "ymin": 6, "xmax": 25, "ymax": 30}


def voc_text(objects=(VOC_BOX,), size=(WIDTH, HEIGHT), filename="a.png") -> str:
    """Returns the Pascal VOC annotation of a.png."""
    body = "".join(VOC_OBJECT.format(**{**VOC_BOX, **entry}) for entry in objects)
    return (
        f"<annotation><filename>{filename}</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height><depth>3</depth></size>{body}</annotation>"
    )


def write_voc(folder: Path, text: str | bytes | None = None, stem: str = "a") -> Path:
    """Writes a Pascal VOC folder: b.xml is valid, the other file holds this text."""
    write_pictures(folder / "JPEGImages", ("a.png", "b.png"))
    (folder / "Annotations").mkdir()
    content = voc_text() if text is None else text
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / "Annotations" / f"{stem}.xml").write_bytes(raw)
    (folder / "Annotations" / "b.xml").write_text(voc_text(filename="b.png"))
    return folder


def shape(**changes: Any) -> dict[str, Any]:
    """Returns a LabelMe rectangle."""
    plain = {
        "label": "NEU",
        "points": [[5, 5], [25, 30]],
        "group_id": None,
        "shape_type": "rectangle",
        "flags": {},
    }
    return {**plain, **changes}


def write_labelme(folder: Path, shapes=None, **changes: Any) -> Path:
    """Writes a LabelMe folder: b.json is valid, a.json has these shapes and changes."""
    write_pictures(folder, ("a.png", "b.png"))
    for name in ("a", "b"):
        data = {
            "version": "5.0",
            "flags": {},
            "shapes": [shape()],
            "imagePath": f"{name}.png",
            "imageData": None,
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
        }
        if name == "a":
            data["shapes"] = [shape()] if shapes is None else shapes
            data.update(changes)
            data = {key: value for key, value in data.items() if value != "REMOVED"}
        (folder / f"{name}.json").write_text(json.dumps(data))
    return folder


def write_yolo(folder: Path, text: str | bytes = "0 0.5 0.5 0.2 0.2\n", after=None) -> Path:
    """Writes a YOLO folder: b.txt is valid, a.txt holds this text."""
    write_pictures(folder / "images", ("a.png", "b.png"))
    (folder / "labels").mkdir()
    raw = text if isinstance(text, bytes) else text.encode()
    (folder / "labels" / "a.txt").write_bytes(raw)
    (folder / "labels" / "b.txt").write_text("1 0.4 0.4 0.2 0.3\n")
    (folder / "classes.txt").write_text("neutrophil\nlymphocyte\n")
    if after is not None:
        after(folder)
    return folder


def write_cells(folder: Path, layout=None, after=None) -> Path:
    """Writes class folders; ``layout`` maps a folder to its number of images."""
    seed = 100
    root = folder / "cells"
    layout = {"neutrophil": 3, "lymphocyte": 3} if layout is None else layout
    root.mkdir()
    for name, count in layout.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture(seed, 40, 40).save(root / name / f"{number}.png")
            seed += 1
    if after is not None:
        after(root)
    return root
