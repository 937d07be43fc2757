#!/usr/bin/env python
"""Fuzzes a reader, guided by coverage; needs atheris.

  python tests/stress/soak/fuzzing.py coco --runs 1000000

Only the library's own errors may come out. Prints runs, slowest run and peak memory at the end.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT)]

import safetensors.torch
import torch

from tests.stress.faults import builders
from wbcnets.errors import WbcnetsError

MEMORY_LIMIT = 6 << 30


def seeds() -> dict[str, list[bytes]]:
    """Returns valid inputs to start from."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        images = []
        for suffix in ("png", "jpg", "tif", "bmp", "webp"):
            target = path.with_suffix(f".{suffix}")
            builders.picture(0, 16, 12).save(target)
            images.append(target.read_bytes())
    shapes = {"shapes": [builders.shape()], "imagePath": "a.png", "imageData": None}
    return {
        "coco": [json.dumps(builders.coco()).encode()],
        "voc": [builders.voc_text().encode()],
        "labelme": [json.dumps(shapes).encode()],
        "yolo": [b"0 0.5 0.5 0.2 0.2\n1 0.4 0.4 0.2 0.3\n"],
        "config": [b"training:\n  epochs: 3\noptimizer:\n  name: adamw\n"],
        "image": images,
        "safetensors": [safetensors.torch.save({"a": torch.ones(2, 2), "b": torch.zeros(3)})],
    }


def targets(folder: Path) -> dict[str, Callable[[bytes], object]]:
    """Returns the readers as functions of bytes; they work in ``folder``."""
    from wbcnets.data.detection.coco import parse_coco
    from wbcnets.data.detection.labelme import load_labelme
    from wbcnets.data.detection.voc import load_voc
    from wbcnets.data.detection.yolo import load_yolo
    from wbcnets.io.checkpoints import read_checkpoint
    from wbcnets.io.images import read_image_bytes
    from wbcnets.io.strict_json import read_json
    from wbcnets.train.config_file import load_config

    builders.write_pictures(folder)
    labels = folder / "labels"
    labels.mkdir()

    def written(name: str, content: bytes) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    def coco(content: bytes) -> object:
        data = read_json(written("x.json", content))
        return parse_coco(data, folder, source="x.json", check_images=False)

    def voc(content: bytes) -> object:
        return load_voc([written("a.xml", content)], folder, ("WBC",))

    def labelme(content: bytes) -> object:
        return load_labelme([written("a.json", content)], folder, ("NEU",))

    def yolo(content: bytes) -> object:
        written("labels/a.txt", content)
        return load_yolo([folder / "a.png"], labels, ("a", "b"), image_root=folder)

    return {
        "coco": coco,
        "voc": voc,
        "labelme": labelme,
        "yolo": yolo,
        "config": lambda content: load_config(written("x.yaml", content), []),
        "image": lambda content: read_image_bytes(content, "x.png", 1 << 20),
        "safetensors": lambda content: read_checkpoint(written("x.safetensors", content)),
    }


def guarded(target: Callable[[bytes], object], content: bytes) -> bool:
    """Returns whether the reader accepts the input; raises errors that are not the library's."""
    try:
        target(content)
    except WbcnetsError:
        return False
    return True


def main() -> None:
    """Runs atheris, which exits the process."""
    import atheris

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=sorted(seeds()))
    parser.add_argument("--runs", type=int, default=100_000)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as root:
        folder, corpus = Path(root) / "work", Path(root) / "corpus"
        corpus.mkdir()
        for number, content in enumerate(seeds()[args.target]):
            (corpus / str(number)).write_bytes(content)
        with atheris.instrument_imports(include=["wbcnets.data", "wbcnets.train.config"]):
            target = targets(folder)[args.target]
        state = {"runs": 0, "accepted": 0, "slowest": 0.0}

        def one(content: bytes) -> None:
            start = time.perf_counter()
            accepted = guarded(target, content)
            state["slowest"] = max(state["slowest"], time.perf_counter() - start)
            state["runs"] += 1
            state["accepted"] += accepted
            if state["runs"] == args.runs:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(
                    f"{args.target}: {state['runs']:,} runs, {state['accepted']:,} inputs "
                    "accepted, the others refused by name, "
                    f"slowest {state['slowest']:.2f} s, peak {peak:.0f} MiB",
                    flush=True,
                )

        atheris.Setup(
            [sys.argv[0], f"-runs={args.runs}", "-max_len=4096", "-verbosity=0",
             "-rss_limit_mb=0", "-timeout=30", f"-artifact_prefix={root}/", str(corpus)],
            one,
        )  # fmt: skip
        atheris.Fuzz()


if __name__ == "__main__":
    main()
