import math

import pytest
import torch

from wbcnets.errors import ConfigError
from wbcnets.losses.focal import class_fraction_alpha, sigmoid_focal_loss


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
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets, reduction="none"
    )
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


def test_class_share_alpha():
    counts = [60, 30, 10, 0]
    assert class_fraction_alpha(counts, "share").tolist() == pytest.approx([0.6, 0.3, 0.1, 0.05])
    assert class_fraction_alpha(counts, "inverse_share").tolist() == pytest.approx(
        [0.4, 0.7, 0.9, 0.95]
    )


def test_class_share_alpha_refuses():
    with pytest.raises(ConfigError, match="at least one object"):
        class_fraction_alpha([0, 0])
    with pytest.raises(ConfigError, match="'shares' is unknown; use one of"):
        class_fraction_alpha([1, 2], "shares")
