"""Small versions of the registered models, for a suite that runs on every name."""

import pytest
import timm
import torch

# Toy widths; tests on the meta device use the real sizes
SMALL = {
    "sckansformer": {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3},
    "sparse_vit": {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3},
    "conv_sparse_vit": {
        "img_size": 64,
        "embed_dims": (16, 24, 48),
        "depths": (1, 1, 3),
        "num_heads": (1, 2, 3),
    },
    "resnext_cc": {
        "layers": (1, 1, 2, 3),
        "cardinality": 4,
        "base_width": 4,
        "channels": (16, 32, 64, 128),
    },
}


def family(name: str) -> str:
    """Returns the key of SMALL for a registered name."""
    return max((key for key in SMALL if name.startswith(key)), key=len)


def one_per_family(names):
    """Returns parameters that are long but for one per family: SMALL makes families alike."""
    first = {family(name): name for name in reversed(names)}.values()
    return [name if name in first else pytest.param(name, marks=pytest.mark.long) for name in names]


def small_model(name: str, **kwargs):
    """Returns a registered model with few and narrow layers, in evaluation mode."""
    torch.manual_seed(0)
    return timm.create_model(name, **{**SMALL[family(name)], "num_classes": 7, **kwargs}).eval()


def image_size(name: str, **kwargs) -> int:
    """Returns the side of the images of ``small_model``."""
    return kwargs.get("img_size", SMALL[family(name)].get("img_size", 64))


def images(name: str, batch: int = 2, in_chans: int = 3, **kwargs) -> torch.Tensor:
    """Returns images with values in [0, 1], as ResNeXt-CC needs them."""
    side = image_size(name, **kwargs)
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, in_chans, side, side, generator=generator)


@pytest.fixture
def small():
    return small_model


@pytest.fixture
def make_images():
    return images
