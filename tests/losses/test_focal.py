import math

import pytest
import torch
from torch.nn import functional as F

from tests.reference import losses as reference
from wbcnets.errors import ConfigError
from wbcnets.losses.focal import FocalLoss, class_fraction_alpha, sigmoid_focal_loss


def logit(p):
    return math.log(p / (1 - p))


def test_hand_worked_values():
    # p = 0.9 and present:  0.25 * (1 - 0.9)^2 * -ln 0.9 = 0.25 * 0.01 * 0.1053605 = 2.634013e-4
    # p = 0.9 and absent:   0.75 * 0.9^2 * -ln 0.1       = 0.75 * 0.81 * 2.3025851 = 1.398820
    # p = 0.5 and present:  0.25 * 0.5^2 * ln 2          = 0.25 * 0.25 * 0.6931472 = 0.0433217
    logits = torch.tensor([logit(0.9), logit(0.9), 0.0], dtype=torch.float64)
    targets = torch.tensor([1.0, 0.0, 1.0])
    expected = torch.tensor([2.6340129e-4, 1.3988204, 0.04332170], dtype=torch.float64)
    assert torch.allclose(sigmoid_focal_loss(logits, targets), expected, rtol=1e-6)


def test_alpha_per_class():
    # p = 0.5 everywhere: alpha * ln 2 / 4 where present, (1 - alpha) * ln 2 / 4 where absent
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    alpha = torch.tensor([0.1, 0.6])
    loss = sigmoid_focal_loss(torch.zeros(2, 2), targets, alpha)
    expected = torch.tensor([[0.1, 0.4], [0.9, 0.6]]) * math.log(2) / 4
    assert torch.allclose(loss, expected)


def test_negative_alpha_and_gamma_zero_is_cross_entropy():
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 3), (torch.rand(4, 3) > 0.5).float()
    loss = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=0.0)
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    assert torch.allclose(loss, expected)


def test_matches_torchvision():
    from torchvision.ops import sigmoid_focal_loss as peer

    torch.manual_seed(0)
    logits = torch.randn(5, 4, dtype=torch.float64) * 4
    targets = (torch.rand(5, 4) > 0.7).double()
    for alpha, gamma in ((0.25, 2.0), (0.7, 1.5), (-1, 2.0)):
        found = sigmoid_focal_loss(logits, targets, alpha, gamma)
        assert torch.allclose(found, peer(logits, targets, alpha, gamma), rtol=1e-10)


def test_gradcheck():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    targets = (torch.rand(3, 4) > 0.5).double()
    alpha = torch.rand(4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, targets, alpha), logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gamma", [1.0, 1.5, 2.0])
def test_extreme_logits_stay_finite(dtype, gamma):
    logits = torch.tensor([-6e4, -90.0, 0.0, 90.0, 6e4], dtype=dtype, requires_grad=True)
    for target in (0.0, 1.0):
        loss = sigmoid_focal_loss(logits, torch.full((5,), target), gamma=gamma)
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss).all()
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert torch.isfinite(gradient).all()


def test_nan_is_not_hidden():
    loss = sigmoid_focal_loss(torch.tensor([float("nan")]), torch.zeros(1))
    assert loss.isnan().all()


def test_class_fraction_alpha():
    counts = [60, 30, 10, 0]
    assert class_fraction_alpha(counts, "fraction").tolist() == pytest.approx([0.6, 0.3, 0.1, 0.05])
    assert class_fraction_alpha(counts, "inverse_fraction").tolist() == pytest.approx(
        [0.4, 0.7, 0.9, 0.95]
    )


def test_class_fraction_alpha_refuses():
    with pytest.raises(ConfigError, match="at least one object"):
        class_fraction_alpha([0, 0])
    with pytest.raises(ConfigError, match="'fractions' is unknown; use one of"):
        class_fraction_alpha([1, 2], "fractions")


def test_equals_the_papers_equation():
    logits = torch.randn(6, 3, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2, 0, 1])
    loss = FocalLoss(alpha=[0.2, 0.3, 0.5], gamma=1.5)(None, logits, labels)
    expected = reference.focal(logits, labels, [0.2, 0.3, 0.5], 1.5)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_softmax_hand_worked_number():
    # A probability of 3/4: 0.25 * (1/4)^2 * ln 4/3
    loss = FocalLoss(alpha=0.25)(None, torch.tensor([[math.log(3), 0.0]]), torch.tensor([0]))
    assert loss.item() == pytest.approx(0.25 / 16 * math.log(4 / 3))


def test_softmax_without_alpha_and_gamma_is_cross_entropy():
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(
        FocalLoss(gamma=0)(None, logits, labels), F.cross_entropy(logits, labels)
    )
    smooth = FocalLoss(gamma=0, label_smoothing=0.1)(None, logits, labels)
    torch.testing.assert_close(smooth, F.cross_entropy(logits, labels, label_smoothing=0.1))


def test_softmax_gradients():
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 1, 1])
    assert torch.autograd.gradcheck(lambda x: FocalLoss()(None, x, labels), (logits,))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_softmax_of_any_scale_stays_finite(scale, gamma):
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
