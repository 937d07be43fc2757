import pytest
import torch

from tests.reference import losses as reference
from wbcnets.errors import ConfigError
from wbcnets.losses import ContrastiveLoss


def test_equals_the_papers_equation():
    features = torch.randn(8, 5, dtype=torch.float64)
    features[1] = features[0] + 0.1 * features[1]
    labels = torch.tensor([0, 1, 1, 0, 2, 2, 1, 0])
    loss = ContrastiveLoss()(features, None, labels)
    assert loss.item() == pytest.approx(reference.contrastive(features, labels, 0.4))


def test_hand_worked_number():
    # Angles of 0, 60 and 90 degrees. One class: 1 - cos 60 = 0.5, twice, and three times itself, 0.
    # Two classes: cos 90 is below the threshold, cos 30 = 0.866 is 0.466 above it, twice.
    features = torch.tensor([[1.0, 0.0], [0.5, 3**0.5 / 2], [0.0, 2.0]])
    loss = ContrastiveLoss(0.4)(features, None, torch.tensor([0, 0, 1]))
    assert loss.item() == pytest.approx((2 * 0.5 + 2 * (3**0.5 / 2 - 0.4)) / 9)


def test_one_class_of_equal_features_costs_nothing():
    loss = ContrastiveLoss()(torch.ones(4, 3), None, torch.zeros(4, dtype=torch.int64))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_gradients():
    features = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda x: ContrastiveLoss()(x, None, labels), (features,))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e4, 1e30])
def test_any_scale_stays_finite(scale):
    features = (scale * torch.randn(4, 3)).requires_grad_()
    loss = ContrastiveLoss()(features, None, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_computes_in_float32(dtype):
    features, labels = torch.randn(6, 4).to(dtype), torch.tensor([0, 0, 1, 1, 2, 2])
    with torch.autocast("cpu", dtype=dtype):
        loss = ContrastiveLoss()(features, None, labels)
    torch.testing.assert_close(loss, ContrastiveLoss()(features.float(), None, labels))


def test_soft_targets_count_as_their_largest_class():
    features, labels = torch.randn(3, 4), torch.tensor([1, 0, 1])
    probabilities = torch.tensor([[0.3, 0.7], [0.9, 0.1], [0.4, 0.6]])
    assert ContrastiveLoss()(features, None, probabilities) == ContrastiveLoss()(
        features, None, labels
    )


def test_bad_threshold_is_an_error():
    with pytest.raises(ConfigError, match=r"threshold=1\.5"):
        ContrastiveLoss(1.5)
