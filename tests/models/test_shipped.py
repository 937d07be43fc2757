"""Weights that come with the library: they load without a network, and do what is said of them."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import wbcnets  # noqa: F401
from wbcnets.evaluation.classifier import load_classifier
from wbcnets.models.shipped import PBC_CLASSES, WEIGHTS

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "pbc112_trainval.zip"
NAMES = timm.list_pretrained("*.pbc")


def test_every_shipped_file_is_registered():
    assert NAMES
    assert sorted(path.stem for path in WEIGHTS.glob("*.safetensors")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_loads_whole_without_a_network(name):
    model = timm.create_model(name, pretrained=True)
    assert model.load_report.complete
    assert tuple(model.pretrained_cfg["label_names"]) == PBC_CLASSES
    assert model.num_classes == len(PBC_CLASSES)


@pytest.mark.parametrize("name", NAMES)
def test_is_small_enough_for_a_repository(name):
    assert (WEIGHTS / f"{name}.safetensors").stat().st_size <= 12e6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(not SAMPLE.exists(), reason="needs ../shared/data/pbc112_trainval.zip")
def test_tells_held_out_cells_apart(name):
    classifier = load_classifier(name)
    resize = classifier.preprocessing()
    images, labels = [], []
    with zipfile.ZipFile(SAMPLE) as archive:
        for label, class_name in enumerate(classifier.class_names):
            members = [m for m in archive.namelist() if m.startswith(f"val/{class_name}/")]
            for member in sorted(members)[:25]:
                with archive.open(member) as stream:
                    image = np.asarray(Image.open(stream).convert("RGB"))
                images.append(torch.from_numpy(resize(image, seed=0).copy()))
                labels.append(label)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (classifier.mean, classifier.std))
    batch = (torch.stack(images).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.inference_mode():
        predicted = classifier.model(batch).argmax(dim=1)
    accuracy = (predicted == torch.tensor(labels)).float().mean().item()
    assert len(labels) == 200
    assert accuracy >= 0.9
