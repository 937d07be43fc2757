"""Fixtures that several packages' tests share."""

import ipaddress
import logging
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = REPOSITORY / "projects" / "mfds_detr"
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


class CocoFolder(NamedTuple):
    """A COCO detection set on disk."""

    json_file: Path
    images: Path


def pytest_configure(config):
    """Each process gets an empty cache: answers of earlier runs must not hide a change."""
    folder = tempfile.mkdtemp(prefix="wbcnets-tests-")
    os.environ["WBCNETS_CACHE"] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Keeps tests from reaching other machines; processes of this machine may connect."""
    connect = socket.socket.connect

    def connect_locally(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            raise OSError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)


@pytest.fixture(autouse=True)
def restore_logging():
    """Restores loggers: Detectron2's ``setup_logger`` stops the propagation that tests read."""
    names = ("detectron2", "fvcore", "mfds_detr", "wbcnets")
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.propagate, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (propagate, level, handlers) in zip(loggers, before):
        logger.propagate, logger.level = propagate, level
        logger.handlers[:] = handlers


def _is_loopback(host: str) -> bool:
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == socket.gethostname()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Returns the root of the repository."""
    return REPOSITORY


@pytest.fixture
def shared_data() -> Path:
    """Returns the folder of real data next to the repository, or skips the test."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real data in ../shared/data, which is not there")
    return SHARED_DATA


@pytest.fixture(scope="session")
def smears(tmp_path_factory) -> CocoFolder:
    """Generates six smears of 160x120 px with a few leukocytes each; tests do not change them."""
    from wbcnets.synthetic.smears import LEUKOCYTE_CLASSES, SmearStyle, write_smear_dataset

    folder = tmp_path_factory.mktemp("smears") / "set"
    style = SmearStyle(height=120, width=160, magnification=0.25, leukocytes=3.0)
    json_file = write_smear_dataset(
        folder, 6, seed=3, style=style, classes=LEUKOCYTE_CLASSES, suffix=".png"
    )
    return CocoFolder(json_file, folder / "images")


TINY = {
    "MODEL.TIMM.OPTIONS.channels": [8, 16, 16, 32],
    "MODEL.TIMM.OPTIONS.stem_width": 8,
    "MODEL.MFDS_DETR.NUM_QUERIES": 12,
    "MODEL.MFDS_DETR.HIDDEN_DIM": 32,
    "MODEL.MFDS_DETR.FEEDFORWARD_DIM": 48,
    "MODEL.MFDS_DETR.NUM_POINTS": 2,
    "MODEL.MFDS_DETR.ENCODER_LAYERS": 1,
    "MODEL.MFDS_DETR.DECODER_LAYERS": 2,
    "MODEL.MFDS_DETR.TWO_STAGE": False,
    "MODEL.MFDS_DETR.BOX_REFINEMENT": False,
    "MODEL.WEIGHTS": "",
    "MODEL.DEVICE": "cpu",
}


@pytest.fixture(scope="session")
def tiny_command_line() -> list[str]:
    """Arguments of train_net.py for a model of 0.1 million parameters on 96-pixel images."""
    small = {"INPUT.MIN_SIZE_TRAIN": (96,), "INPUT.MIN_SIZE_TEST": 96, "TEST.SAMPLE_PICTURES": 2}
    config = ["--config-file", str(PROJECT / "configs" / "mfds_detr_tiny_base.yaml")]
    return config + [str(part) for item in (TINY | small).items() for part in item]


@pytest.fixture
def tiny_config():
    """Returns a function that makes configs of this model for five classes from keys and values."""
    from detectron2.config import get_cfg

    from mfds_detr import add_mfds_detr_config

    def make(*overrides):
        cfg = get_cfg()
        add_mfds_detr_config(cfg)
        cfg.merge_from_file(str(PROJECT / "configs" / "mfds_detr_tiny_base.yaml"))
        cfg.merge_from_list([part for item in TINY.items() for part in item])
        cfg.MODEL.MFDS_DETR.NUM_CLASSES = 5
        cfg.merge_from_list(list(overrides))
        return cfg

    return make


@pytest.fixture
def tiny_model(tiny_config):
    """Returns a function that builds this model in evaluation mode with fixed random weights."""
    import torch
    from detectron2.modeling import build_model

    def build(*overrides):
        torch.manual_seed(0)
        model = build_model(tiny_config(*overrides)).eval()
        generator = torch.Generator().manual_seed(1)
        for parameter in model.detector.bbox_embed.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(0.05 * noise)
        return model

    return build


@pytest.fixture
def coco(tmp_path):
    """Returns a valid COCO object of two images of 64x48 px in the folder ``images``."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 48), "white").save(folder / name)
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 64, "height": 48},
            {"id": 3, "file_name": "b.png", "width": 64, "height": 48},
        ],
        "categories": [{"id": 4, "name": "WBC"}, {"id": 0, "name": "RBC"}],
        "annotations": [
            {
                "id": 0,
                "image_id": 7,
                "category_id": 4,
                "bbox": [10, 10, 20, 20],
                "area": 400,
                "iscrowd": 0,
            },
            {
                "id": 5,
                "image_id": 7,
                "category_id": 0,
                "bbox": [30, 5, 10, 12.5],
                "area": 125,
                "iscrowd": 0,
            },
        ],
    }


@pytest.fixture
def noise():
    """Returns an RGB image of 40x30 px with smooth random colors."""
    small = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((40, 30), Image.Resampling.BICUBIC)


@pytest.fixture
def bccd_source():
    """Returns the published BCCD folder, or skips the test."""
    if not (SHARED_DATA / "bccd").is_dir():
        pytest.skip("BCCD is not in ../shared/data")
    return SHARED_DATA / "bccd"
