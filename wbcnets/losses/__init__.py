"""Losses, one per file."""

from wbcnets.losses.center import CenterLoss
from wbcnets.losses.combined import COMBINATIONS, CombinedLoss, create_loss, loss_names
from wbcnets.losses.contrastive import ContrastiveLoss
from wbcnets.losses.cross_entropy import CrossEntropyLoss
from wbcnets.losses.focal import FocalLoss, class_fraction_alpha, sigmoid_focal_loss
from wbcnets.losses.weighted_softmax import WeightedSoftmaxLoss, complementary_fractions

__all__ = [
    "COMBINATIONS",
    "CenterLoss",
    "CombinedLoss",
    "ContrastiveLoss",
    "CrossEntropyLoss",
    "FocalLoss",
    "WeightedSoftmaxLoss",
    "class_fraction_alpha",
    "complementary_fractions",
    "create_loss",
    "loss_names",
    "sigmoid_focal_loss",
]
