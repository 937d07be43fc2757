import pytest
import torch
from torch.nn import functional as F

from wbcnets.errors import ConfigError
from wbcnets.losses import (
    CenterLoss,
    ContrastiveLoss,
    WeightedSoftmaxLoss,
    create_loss,
    loss_names,
)

FACTS = {"num_classes": 3, "feature_dim": 4, "class_counts": [5, 3, 2]}


def batch():
    return torch.randn(6, 4), torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("name", loss_names())
def test_every_name_gives_a_finite_scalar_and_gradients(name):
    features, logits, targets = batch()
    features.requires_grad_()
    logits.requires_grad_()
    loss = create_loss(name, **FACTS)
    value = loss(features, logits, targets)
    assert value.shape == ()
    assert value.isfinite()
    value.backward()
    gradients = [x.grad for x in (features, logits) if x.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", loss_names())
def test_every_name_takes_soft_targets(name):
    features, logits, _ = batch()
    probabilities = torch.rand(6, 3).softmax(dim=1)
    assert create_loss(name, **FACTS)(features, logits, probabilities).isfinite()


def test_resnext_ccs_pair():
    features, logits, targets = batch()
    softmax = WeightedSoftmaxLoss(class_counts=[5, 3, 2])(None, logits, targets)
    center = CenterLoss(3, 4)(features, None, targets)
    loss = create_loss("resnext_cc", **FACTS)(features, logits, targets)
    torch.testing.assert_close(loss, softmax + 0.05 * center)


def test_conv_sparse_vits_pair():
    features, logits, targets = batch()
    loss = create_loss("conv_sparse_vit", **FACTS)(features, logits, targets)
    contrastive = ContrastiveLoss(0.4)(features, None, targets)
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets) + contrastive)


def test_ones_own_sum_and_its_parts():
    features, logits, targets = batch()
    options = {"contrastive": {"threshold": 0.1}, "cross_entropy": {"label_smoothing": 0.1}}
    spec = {"cross_entropy": 2.0, "contrastive": 0.5}
    loss = create_loss(spec, num_classes=3, options=options)
    parts = loss.parts(features, logits, targets)
    smoothed = F.cross_entropy(logits, targets, label_smoothing=0.1)
    torch.testing.assert_close(parts["cross_entropy"], 2 * smoothed)
    torch.testing.assert_close(sum(parts.values()), loss(features, logits, targets))


def test_state_holds_the_centers():
    loss = create_loss("resnext_cc", **FACTS)
    loss(*batch())
    again = create_loss("resnext_cc", **FACTS)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again.losses["center"].centers, loss.losses["center"].centers)
    assert again.losses["center"].centers.any()


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("arcface", {}, "loss 'arcface' is unknown; use one of .*'center'"),
        ({"cross_entropy": 1.0, "arcface": 1.0}, {}, "'arcface' is unknown"),
        ("cross_entropy", {"center": {}}, "options for the loss 'center', but the losses are"),
        ("cross_entropy", {"cross_entropy": {"smoothing": 0.1}}, "smoothing"),
        ({}, {}, "at least one"),
    ],
)
def test_bad_names_and_options_are_errors(spec, options, message):
    with pytest.raises(ConfigError, match=message):
        create_loss(spec, num_classes=3, options=options)


@pytest.mark.parametrize(
    ("name", "missing"), [("center", "feature_dim"), ("resnext_cc", "class_counts")]
)
def test_missing_facts_are_errors(name, missing):
    with pytest.raises(ConfigError, match=f"needs {missing}"):
        create_loss(name, num_classes=3)


@pytest.mark.parametrize("factor", [0, -1, float("nan"), float("inf"), "x", None])
def test_factors_are_finite_and_above_zero(factor):
    with pytest.raises(ConfigError, match=r"cross_entropy=.* should be finite and above 0"):
        create_loss({"cross_entropy": factor}, num_classes=3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("focal", {"gamma": float("nan")}),
        ("focal", {"gamma": float("inf")}),
        ("focal", {"alpha": [float("nan"), 1, 1]}),
        ("focal", {"alpha": [0, 0, 0]}),
        ("focal", {"alpha": "x"}),
        ("weighted_softmax", {"class_weights": [0, 0, 0]}),
        ("weighted_softmax", {"class_weights": ["a", "b", "c"]}),
        ("weighted_softmax", {"class_weights": 5}),
        ("contrastive", {"threshold": "x"}),
    ],
)
def test_options_that_would_train_nothing_are_refused(name, options):
    with pytest.raises(ConfigError, match=r"FocalLoss|WeightedSoftmaxLoss|options of the loss"):
        create_loss(name, num_classes=3, options={name: options})


@pytest.mark.parametrize("name", ["center", "cross_entropy", "focal", "weighted_softmax"])
@pytest.mark.parametrize(
    "targets", [[0, 3], [-1, 0], [-100, 0], [[2.0, 0, 0], [0, 0, 1]], [[float("nan")] * 3] * 2]
)
def test_targets_out_of_range_are_refused(name, targets):
    loss = create_loss(name, **FACTS)
    with pytest.raises(ConfigError, match=r"out of range; use 0 to"):
        loss(torch.randn(2, 4), torch.randn(2, 3), torch.tensor(targets))


@pytest.mark.parametrize("name", ["center", "contrastive", "cross_entropy", "focal"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_of_other_types_are_wide(name, dtype):
    features, logits, targets = batch()
    loss = create_loss(name, **FACTS)(features.to(dtype), logits.to(dtype), targets)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert loss.isfinite()


@pytest.mark.parametrize("name", ["center", "contrastive", "cross_entropy", "focal"])
def test_an_empty_batch_has_no_loss(name):
    labels = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ConfigError, match="with B at least 1"):
        create_loss(name, **FACTS)(torch.zeros(0, 4), torch.zeros(0, 3), labels)
