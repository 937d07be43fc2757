"""Every model and every loss learns a dozen images by heart."""

from types import SimpleNamespace

import pytest
import timm
import torch

import wbcnets
from tests.data.cells.cell_images import draw_cell
from tests.models.conftest import SMALL, family, image_size
from wbcnets.engine.distributed import DistributedContext
from wbcnets.losses import loss_names
from wbcnets.train.config import LossConfig, TrainConfig
from wbcnets.train.model import FeaturesAndLogits, features_and_logits
from wbcnets.train.state import create_state
from wbcnets.train.trainer import Trainer

COLORS = ((40, 40, 160), (30, 140, 60), (170, 30, 40))
COUNTS = (6, 4, 2)
LABELS = [label for label, count in enumerate(COUNTS) for _ in range(count)]
# These depend on features alone, and train a classifier only with another loss
PARTNERS = {name: {"cross_entropy": 1.0, name: 0.05} for name in ("center", "contrastive")}


def cells(side):
    drawn = [draw_cell(i, COLORS[label], side=side) for i, label in enumerate(LABELS)]
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1) / 255 for image in drawn])
    return images, torch.tensor(LABELS)


def learn(model, loss_name, side, steps=80, rate=2e-3):
    """Trains on all images at once; returns the first and the last loss, and the accuracy."""
    torch.manual_seed(0)
    config = TrainConfig()
    config.optimizer.lr, config.optimizer.weight_decay = rate, 0.0
    config.schedule.name = "constant"
    config.loss, config.data.img_size = LossConfig(name=loss_name), side
    context = DistributedContext(torch.device("cpu"))
    state = create_state(config, model, COUNTS, steps, context)
    trainer = Trainer(config, context, state, SimpleNamespace(mixup=None))
    batch = cells(side)
    losses, accuracy = [], 0.0
    while len(losses) < steps and accuracy < 1:
        losses.append(trainer.train_step([batch]))
        if losses[-1] < 0.1 * losses[0]:
            # In training mode: batch norm's statistics need more steps
            accuracy = float((model(batch[0]).argmax(dim=1) == batch[1]).float().mean())
    return losses[0], losses[-1], accuracy


@pytest.mark.parametrize("name", [*wbcnets.list_models(), "resnet18"])
def test_every_model_learns_a_dozen_images(name):
    torch.manual_seed(0)
    small = {"channels": (8, 16, 32, 64)} if name == "resnet18" else SMALL[family(name)]
    side = 32 if name == "resnet18" else image_size(name)
    model = timm.create_model(name, num_classes=3, **small).train()
    first, last, accuracy = learn(model, "cross_entropy", side)
    assert last < 0.1 * first
    assert accuracy == 1.0


@pytest.mark.parametrize("name", loss_names())
def test_every_loss_learns_a_dozen_images(name):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3).train()
    first, last, accuracy = learn(model, PARTNERS.get(name, name), 32)
    assert last < 0.1 * first
    assert accuracy == 1.0


@pytest.mark.parametrize("name", [*wbcnets.list_models(), "test_resnet", "test_vit"])
def test_features_lead_to_the_models_own_logits(name):
    small = SMALL[family(name)] if name in wbcnets.list_models() else {}
    side = image_size(name) if small else 160
    model = timm.create_model(name, num_classes=3, **small).eval()
    pair = FeaturesAndLogits(model, side)
    assert pair.feature_dim == model.num_features
    images = torch.rand(2, 3, side, side)
    features, logits = features_and_logits(model, images)
    assert features.shape == (2, pair.feature_dim)
    torch.testing.assert_close(logits, model(images))


def test_a_model_of_another_contract_has_no_features():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
    pair = FeaturesAndLogits(model, 8)
    features, logits = pair(torch.rand(2, 3, 8, 8))
    assert pair.feature_dim is None
    assert features is None
    assert logits.shape == (2, 3)
