"""AdamW with the paper's learning rates per part of the model (section 4.2)."""

import torch
from detectron2.config import CfgNode
from torch import nn

_SAMPLING = ("sampling_offsets", "reference_points")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.AdamW:
    """Returns AdamW with one parameter group per learning rate, without frozen parameters.

    ``SOLVER.BASE_LR`` is for the transformer and the heads, ``SOLVER.BACKBONE_LR`` for the
    backbone, ``SOLVER.NECK_LR`` for the neck and the extra stage. ``SOLVER.SAMPLING_LR_FACTOR``
    multiplies the rate of the layers that predict sampling offsets and reference points.
    """
    rates = {
        "backbone": cfg.SOLVER.BACKBONE_LR,
        "neck": cfg.SOLVER.NECK_LR,
        "transformer": cfg.SOLVER.BASE_LR,
        "sampling": cfg.SOLVER.BASE_LR * cfg.SOLVER.SAMPLING_LR_FACTOR,
    }
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[parameter_group(name)].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rates[name], "name": name}
            for name, parameters in groups.items()
            if parameters
        ],
        betas=(0.9, 0.999),
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        fused=True,
    )


def parameter_group(name: str) -> str:
    """Returns the learning-rate group of a parameter of ``MFDSDETR`` by its name."""
    if name.startswith("backbone."):
        return "backbone"
    if name.startswith(("neck.", "extra_stage.")):
        return "neck"
    return "sampling" if any(part in name for part in _SAMPLING) else "transformer"
