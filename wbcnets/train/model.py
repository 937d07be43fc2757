"""The model of a run: created from its settings, called for features and logits at once."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from wbcnets import models
from wbcnets.engine.memory import explain_oom, is_oom
from wbcnets.errors import ConfigError
from wbcnets.io.checkpoints import read_state_dict
from wbcnets.models.factory import load_weights
from wbcnets.models.keywords import create_checked, with_img_size
from wbcnets.models.limits import limit_by_memory
from wbcnets.train.config import TrainConfig
from wbcnets.train.start import take_known_classes

logger = logging.getLogger(__name__)


class FeaturesAndLogits(nn.Module):
    """(B, 3, H, W) -> features (B, C) or None, and logits (B, num_classes).

    The features are the input of the model's last layer. They are None for a model that does not
    follow timm's interface, which is tried once.

    Args:
        model: A classifier.
        img_size: Side of its images in px, for the trial.
    """

    def __init__(self, model: nn.Module, img_size: int) -> None:
        super().__init__()
        self.model = model
        self.feature_dim = _find_feature_dim(model, img_size)

    def forward(self, images: Tensor) -> tuple[Tensor | None, Tensor]:
        """Returns features and logits of a batch."""
        if self.feature_dim is None:
            return None, self.model(images)
        return features_and_logits(self.model, images)


def features_and_logits(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the input and the output of a timm model's last layer."""
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    return features, model.get_classifier()(features)


@torch.no_grad()
def _find_feature_dim(model: nn.Module, img_size: int) -> int | None:
    """Returns the width of the features, or None if they do not lead to the model's own logits."""
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, img_size, img_size, generator=generator).to(parameter)
    was_training = model.training
    model.eval()
    try:
        features, logits = features_and_logits(model, images)
        agrees = features.ndim == 2 and torch.allclose(logits, model(images), rtol=1e-3, atol=1e-4)
    except (AttributeError, TypeError, RuntimeError, NotImplementedError) as error:
        logger.debug("%s has no features before its classifier: %s", type(model).__name__, error)
        agrees = False
    model.train(was_training)
    return features.shape[1] if agrees else None


def check_model(config: TrainConfig, model: nn.Module, images: int) -> None:
    """Classifies random images once, as training and as evaluation do it; changes nothing.

    Args:
        config: All settings.
        model: The model.
        images: Images of a part of a step.

    Raises:
        ConfigError: if the model cannot classify images of this size.
        OutOfMemoryError: if the memory is full.
    """
    size, kwargs = config.data.img_size, config.model.kwargs
    device = next(model.parameters()).device
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    # An interrupted trial must not leave other random numbers, or other statistics of batch norms
    with (
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
        explain_oom(f"with data.img_size={size}"),
    ):
        batch = torch.rand(min(images, 2), 3, size, size, device=device)
        try:
            for training in (True, False):
                model.train(training)(batch)
        # A model that gets odd sizes raises whatever they lead it to
        except Exception as error:
            if is_oom(error):
                raise
            raise ConfigError(
                f"model.name={config.model.name} with model.kwargs={kwargs} cannot classify "
                f"{len(batch)} images of data.img_size={size} px: {error or type(error).__name__}"
            ) from error
    for name, buffer in model.named_buffers():
        buffer.copy_(kept[name])
    model.train(was_training)


def create_classifier(
    config: TrainConfig, num_classes: int, class_names: Sequence[str] = ()
) -> nn.Module:
    """Creates the model, with weights if the settings name some.

    Args:
        config: All settings.
        num_classes: Number of classes.
        class_names: Their names; the outputs of those that the weights know are kept.

    Raises:
        ConfigError: if the name or a keyword is unknown.
        CheckpointError: if the weights cannot be read or do not fit.
    """
    name = config.model.name
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0].split('.')[0]}*")[:8]
        raise ConfigError(
            f"model.name={name!r} is unknown; this library has {', '.join(models.list_models())}"
            + (f", and timm {', '.join(near)}, ..." if near else ", and timm many more")
        )
    is_ours = name.split(".")[0] in models.list_models()
    own_file = {"file": config.model.weights} if config.model.weights and is_ours else None
    model = create_checked(
        name,
        model_kwargs(config),
        "model.kwargs",
        limit_by_memory(),
        num_classes,
        pretrained=config.model.pretrained or own_file is not None,
        pretrained_cfg_overlay=own_file,
    )
    if config.model.weights and own_file is None:
        state = read_state_dict(Path(config.model.weights))
        report = load_weights(model, state, lambda given, _: given)
        logger.info("%s: %s", config.model.weights, report)
    if config.model.weights and class_names:
        kept = take_known_classes(model, Path(config.model.weights), class_names)
        logger.info("classes that the weights know: %s", ", ".join(kept) or "none")
    if config.training.grad_checkpointing:
        turn_on: Any = model.set_grad_checkpointing
        turn_on(True)
    return model


def model_kwargs(config: TrainConfig) -> dict[str, Any]:
    """Returns the model's keywords; models of a fixed size get the size of the images."""
    return with_img_size(config.model.name, config.model.kwargs, config.data.img_size)


def describe_data(config: TrainConfig, model: nn.Module) -> dict[str, Any]:
    """Returns the preprocessing of the model's images, in timm's words.

    Returns:
        "input_size", "mean", "std" and more; "augmentation" is the preset that resizes images.
    """
    own = resolve_model_data_config(model)
    size = config.data.img_size
    mean: Sequence[float] = config.data.mean or own["mean"]
    std: Sequence[float] = config.data.std or own["std"]
    return {
        "input_size": [3, size, size],
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
        "interpolation": "area",
        "crop_pct": 1.0,
        "augmentation": config.data.val_augmentation,
    }
