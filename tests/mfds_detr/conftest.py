"""A trained detector and images for it, shared by the tests of the predictor and its commands."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.conftest import PROJECT

NAMES = ("neutrophil", "lymphocyte", "monocyte")
SMALL = [
    *("MODEL.MFDS_DETR.HIDDEN_DIM", 64, "MODEL.MFDS_DETR.FEEDFORWARD_DIM", 64),
    *("MODEL.MFDS_DETR.NUM_QUERIES", 12, "MODEL.DEVICE", "cpu"),
    *("MODEL.TIMM.OPTIONS.channels", [8, 16, 24, 32], "MODEL.TIMM.OPTIONS.stem_width", 8),
    *("INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 160),
]


def _plus_options() -> list[Any]:
    """Keys and values of ``mfds_detr_plus_tiny`` that make it another model than the paper's."""
    path = PROJECT / "configs" / "mfds_detr_plus_tiny.yaml"
    model = yaml.safe_load(path.read_text())["MODEL"]["MFDS_DETR"]
    values = {"TWO_STAGE": True}
    for key, value in model.items():
        nested = value if isinstance(value, dict) else {"": value}
        values |= {f"{key}.{name}".strip("."): v for name, v in nested.items()}
    sizes = ("HIDDEN_DIM", "FEEDFORWARD_DIM", "ENCODER_LAYERS")
    chosen = {key: value for key, value in values.items() if key not in sizes}
    return [part for key, value in chosen.items() for part in (f"MODEL.MFDS_DETR.{key}", value)]


PLUS = _plus_options()


class Trained(NamedTuple):
    """A checkpoint beside its config, as a training leaves them."""

    weights: Path
    model: Any
    cfg: Any


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Trained:
    """A small model for ``NAMES`` with spread-out scores; not to be changed."""
    pytest.importorskip("detectron2")
    from detectron2.modeling import build_model

    from mfds_detr.checkpoint.checkpointer import AtomicCheckpointer
    from mfds_detr.config import read_config

    folder = tmp_path_factory.mktemp("training")
    cfg = read_config("mfds_detr_tiny_base", SMALL)
    (folder / "config.yaml").write_text(cfg.dump())
    cfg.MODEL.MFDS_DETR.NUM_CLASSES = len(NAMES)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for head in model.detector.class_embed:
        torch.nn.init.normal_(head.weight, std=0.3)
        torch.nn.init.zeros_(head.bias)
    for head in model.detector.bbox_embed:
        torch.nn.init.normal_(head.layers[-1].weight, std=0.1)
    AtomicCheckpointer(model, str(folder), class_names=NAMES).save("model_best", iteration=1)
    return Trained(folder / "model_best.pth", model, cfg)


@pytest.fixture
def images(tmp_path) -> Path:
    """Two good images, one of them upright only by its EXIF data, a damaged one, and a text."""
    folder = tmp_path / "images"
    (folder / "slide_1").mkdir(parents=True)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels[:40]).save(folder / "slide_1" / "b.jpg", exif=exif)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "notes.txt.bak").write_text("not an image")
    return folder
