import math

import pytest
import torch
from torch.nn import functional as F

from tests.reference import losses as reference
from wbcnets.errors import ConfigError
from wbcnets.losses import WeightedSoftmaxLoss, complementary_fractions


def test_equals_the_papers_equations_for_two_classes():
    logits = torch.randn(7, 2, dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 0, 1, 1, 1])
    loss = WeightedSoftmaxLoss(class_counts=[8491, 4037])
    expected = reference.weighted_softmax(logits, labels, [8491, 4037])
    assert loss(None, logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_hand_worked_number():
    # Logits 0 and ln 3 give probabilities 1/4 and 3/4; of 3 and 1 images, the weights are 1/4, 3/4:
    # (1/4 ln 4 + 3/4 ln 4/3) / 2
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    loss = WeightedSoftmaxLoss(class_counts=[3, 1])(None, logits, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((0.25 * math.log(4) + 0.75 * math.log(4 / 3)) / 2)


def test_weights_of_several_classes():
    weights = complementary_fractions([1, 2, 0, 5])
    torch.testing.assert_close(weights, torch.tensor([7, 6, 8, 3]) / 24)
    assert weights.sum().item() == pytest.approx(1)


def test_equal_classes_give_cross_entropy_times_a_constant():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    loss = WeightedSoftmaxLoss(class_counts=[4, 4, 4])(None, logits, labels)
    torch.testing.assert_close(3 * loss, F.cross_entropy(logits, labels))


def test_gradients():
    loss = WeightedSoftmaxLoss(class_counts=[1, 2, 3], label_smoothing=0.1)
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 1, 1])
    assert torch.autograd.gradcheck(lambda x: loss(None, x, labels), (logits,))


def test_soft_targets_of_one_class_are_labels():
    loss = WeightedSoftmaxLoss(class_weights=[0.2, 0.3, 0.5])
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    probabilities = F.one_hot(labels, 3).float()
    torch.testing.assert_close(loss(None, logits, probabilities), loss(None, logits, labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either class_counts or class_weights"),
        ({"class_counts": [1, 2], "class_weights": [1, 2]}, "give either class_counts"),
        ({"class_counts": [3]}, "two or more classes"),
        ({"class_counts": [0, 0]}, "two or more classes"),
        ({"class_weights": [1, float("nan")]}, "class_weights="),
        ({"class_counts": [1, 2], "label_smoothing": 1.0}, "label_smoothing=1.0"),
    ],
)
def test_bad_options_are_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        WeightedSoftmaxLoss(**options)


def test_bad_inputs_are_errors():
    loss = WeightedSoftmaxLoss(class_counts=[1, 2])
    with pytest.raises(ConfigError, match="needs the logits"):
        loss(torch.zeros(2, 3), None, torch.tensor([0, 1]))
    with pytest.raises(ConfigError, match="2 weights for logits of 3 classes"):
        loss(None, torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ConfigError, match="2 rows of logits need as many targets"):
        loss(None, torch.zeros(2, 2), torch.tensor([0]))
    with pytest.raises(ConfigError, match="labels must be int64"):
        loss(None, torch.zeros(1, 2), torch.tensor([0.0]))
    with pytest.raises(ConfigError, match="B at least 1"):
        loss(None, torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
