"""A small classifier of three classes, and the checkpoint of a run that trained it."""

import timm
import torch

import wbcnets  # noqa: F401

NAMES = ("a", "b", "c")
KWARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3}


def small_model():
    return timm.create_model("sckansformer_tiny", **KWARGS, num_classes=3).eval()


def save_run(path, network, averaged=None, **changes):
    """Writes the parts of a training run's checkpoint that prediction needs."""
    checkpoint = {
        "state_dict": network.state_dict(),
        "model": {"name": "sckansformer_tiny", "kwargs": KWARGS, "num_classes": 3},
        "class_names": list(NAMES),
        "data_config": {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]},
    }
    if averaged is not None:
        checkpoint["state_dict_ema"] = averaged.state_dict()
    torch.save({**checkpoint, **changes}, path)
