"""Fixtures that several packages' tests share."""

import ipaddress
import os
import socket
from pathlib import Path
from typing import NamedTuple

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = REPOSITORY / "projects" / "mfds_detr"
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


class CocoFolder(NamedTuple):
    """A COCO detection set on disk."""

    json_file: Path
    images: Path


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """No test may reach another machine; this machine's own processes may talk to each other."""
    connect = socket.socket.connect

    def connect_locally(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            raise OSError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)


def _is_loopback(host: str) -> bool:
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == socket.gethostname()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data beside the repository; a test that needs it is skipped without."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real data in ../shared/data, which is not there")
    return SHARED_DATA


@pytest.fixture(scope="session")
def smears(tmp_path_factory) -> CocoFolder:
    """Six generated smears of 160x120 pixels with some leukocytes each; not to be changed."""
    from wbcnets.data.smears import LEUKOCYTE_CLASSES, SmearStyle, write_smear_dataset

    folder = tmp_path_factory.mktemp("smears") / "set"
    style = SmearStyle(height=120, width=160, magnification=0.25, leukocytes=3.0)
    json_file = write_smear_dataset(
        folder, 6, seed=3, style=style, classes=LEUKOCYTE_CLASSES, suffix=".png"
    )
    return CocoFolder(json_file, folder / "images")


@pytest.fixture
def tiny_config():
    """Makes configs of a model of 0.1 million parameters; arguments are keys and values in turn."""
    from detectron2.config import get_cfg

    from mfds_detr import add_mfds_detr_config

    def make(*overrides):
        cfg = get_cfg()
        add_mfds_detr_config(cfg)
        cfg.merge_from_file(str(PROJECT / "configs" / "mfds_detr_tiny_base.yaml"))
        cfg.MODEL.TIMM.OPTIONS.channels = [8, 16, 16, 32]
        cfg.MODEL.TIMM.OPTIONS.stem_width = 8
        model = cfg.MODEL.MFDS_DETR
        model.NUM_CLASSES = 5
        model.NUM_QUERIES = 12
        model.HIDDEN_DIM = 32
        model.FEEDFORWARD_DIM = 48
        model.NUM_POINTS = 2
        model.ENCODER_LAYERS = 1
        model.DECODER_LAYERS = 2
        model.TWO_STAGE = False
        model.BOX_REFINEMENT = False
        cfg.MODEL.DEVICE = "cpu"
        cfg.merge_from_list(list(overrides))
        return cfg

    return make


@pytest.fixture
def tiny_model(tiny_config):
    """Builds such a model with fixed random weights, heads not at zero, in evaluation mode."""
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
