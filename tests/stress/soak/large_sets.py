#!/usr/bin/env python
"""Measures `wbcnets check` on a set of many images and boxes, beside other tools.

python tests/stress/soak/large_sets.py make FOLDER           100,000 images with 2 million boxes
python tests/stress/soak/large_sets.py measure FOLDER        first and second run of the check
python tests/stress/soak/large_sets.py measure FOLDER --peer datumaro --python OTHER/bin/python
                                                             another tool in its own environment

The images are distinct noise of 32x32 px, so that little but the cost of a file itself is measured.
"""

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

SIDE = 32
VALIDATION = 0.1
PEERS = {
    "datumaro": """
import datumaro, sys
for name in ("train", "val"):
    dataset = datumaro.Dataset.import_from(sys.argv[1] + "/" + name, "coco_instances")
    from datumaro.components.environment import DEFAULT_ENVIRONMENT
    from datumaro.components.validator import TaskType
    validator = DEFAULT_ENVIRONMENT.validators["detection"]()
    report = validator.validate(dataset)
    print(name, len(dataset), report["summary"])
""",
    "fiftyone": """
import fiftyone, sys
for name in ("train", "val"):
    dataset = fiftyone.Dataset.from_dir(
        dataset_type=fiftyone.types.COCODetectionDataset, data_path=sys.argv[1] + "/images",
        labels_path=sys.argv[1] + "/" + name + ".json", progress=False,
    )
    dataset.compute_metadata(progress=False)
    print(name, len(dataset))
""",
}


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=("make", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--boxes", type=int, default=20, help="per image")
    parser.add_argument("--peer", choices=PEERS)
    parser.add_argument("--python", default=sys.executable)
    args = parser.parse_args()
    if args.task == "make":
        make(args.folder, args.images, args.boxes)
    elif args.peer:
        measure(args.peer, [args.python, "-c", PEERS[args.peer], str(args.folder)])
    else:
        with tempfile.TemporaryDirectory() as cache:
            paths = [str(args.folder / f"{name}.json") for name in ("train", "val")]
            for run in ("first run", "second run"):
                command = [args.python, "-m", "wbcnets", "check", *paths]
                measure(run, command, WBCNETS_CACHE=cache)
    return 0


def make(folder: Path, n_images: int, n_boxes: int) -> None:
    """Writes images, train.json and val.json, and the layout of Datumaro."""
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(n_images):
        pixels = generator.integers(0, 256, (SIDE, 1 + SIDE * 3), dtype=np.uint8)
        pixels[:, 0] = 0  # no filter
        (folder / "images" / f"{number:06}.png").write_bytes(png(pixels.tobytes()))
    n_train = round(n_images * (1 - VALIDATION))
    for name, numbers in (("train", range(n_train)), ("val", range(n_train, n_images))):
        data = coco(numbers, n_boxes, generator)
        (folder / f"{name}.json").write_text(json.dumps(data))
        write_datumaro(data, folder, name)


def write_datumaro(data: dict[str, list], folder: Path, name: str) -> None:
    """Writes the layout of Datumaro, which drops boxes without a polygon."""
    for part in ("annotations", "images"):
        (folder / name / part).mkdir(parents=True)
    for entry in data["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (folder / name / "annotations" / "instances_all.json").write_text(json.dumps(data))
    (folder / name / "images" / "all").symlink_to((folder / "images").resolve())


def png(rows: bytes) -> bytes:
    """Returns a PNG file of rows that each begin with the number of their filter."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, content)
        for kind, content in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(rows, 1)),
            (b"IEND", b""),
        )
    )


def coco(numbers: range, n_boxes: int, generator: np.random.Generator) -> dict[str, list]:
    """Returns a COCO object with distinct boxes that need no repair."""
    annotations = []
    for number in numbers:
        corners = generator.choice(24 * 24, n_boxes, replace=False)
        sides = generator.integers(2, 9, (n_boxes, 2))
        for corner, (width, height) in zip(corners.tolist(), sides.tolist()):
            box = [corner % 24, corner // 24, width, height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1 + corner % 3,
                    "bbox": box,
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    return {
        "images": [
            {"id": number, "file_name": f"{number:06}.png", "width": SIDE, "height": SIDE}
            for number in numbers
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in enumerate(("WBC", "RBC", "PLT"), 1)],
    }


def measure(title: str, command: list[str], **environment: str) -> None:
    """Prints wall time, processor time and peak memory of a command."""
    start = time.monotonic()
    process = subprocess.Popen(command, env={**os.environ, **environment})
    _, status, usage = os.wait4(process.pid, 0)
    processor, mebibytes = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    print(
        f"{title}: exit code {os.waitstatus_to_exitcode(status)}, "
        f"{time.monotonic() - start:.0f} s, {processor:.0f} s of processor time, "
        f"{mebibytes:,.0f} MiB",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
