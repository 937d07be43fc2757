import math

import pytest
import torch
from torch.nn import functional as F

from tests.reference import losses as reference
from wbcnets.errors import ConfigError
from wbcnets.losses import FocalLoss


def test_equals_the_papers_equation():
    logits = torch.randn(6, 3, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2, 0, 1])
    loss = FocalLoss(alpha=[0.2, 0.3, 0.5], gamma=1.5)(None, logits, labels)
    expected = reference.focal(logits, labels, [0.2, 0.3, 0.5], 1.5)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_hand_worked_number():
    # A probability of 3/4: 0.25 * (1/4)^2 * ln 4/3
    loss = FocalLoss(alpha=0.25)(None, torch.tensor([[math.log(3), 0.0]]), torch.tensor([0]))
    assert loss.item() == pytest.approx(0.25 / 16 * math.log(4 / 3))


def test_without_alpha_and_gamma_it_is_cross_entropy():
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(
        FocalLoss(gamma=0)(None, logits, labels), F.cross_entropy(logits, labels)
    )
    smooth = FocalLoss(gamma=0, label_smoothing=0.1)(None, logits, labels)
    torch.testing.assert_close(smooth, F.cross_entropy(logits, labels, label_smoothing=0.1))


def test_gradients():
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 1, 1])
    assert torch.autograd.gradcheck(lambda x: FocalLoss()(None, x, labels), (logits,))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_any_scale_stays_finite(scale, gamma):
    logits = (scale * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])).requires_grad_()
    loss = FocalLoss(gamma=gamma)(None, logits, torch.tensor([0, 0]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("options", [{"gamma": -1}, {"alpha": [-1.0, 1.0]}, {"alpha": [[1.0]]}])
def test_bad_numbers_are_errors(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        FocalLoss(**options)


def test_alphas_of_other_classes_are_an_error():
    with pytest.raises(ConfigError, match="2 alphas for logits of 3 classes"):
        FocalLoss(alpha=[0.5, 0.5])(None, torch.zeros(1, 3), torch.tensor([0]))
