"""Translates the parameter names of other checkpoints to those of ``MFDSDETR``.

Deformable-DETR's own code and transformers' ``DeformableDetrForObjectDetection``, in its older and
newer names, cover the whole model; timm, torchvision and Detectron2 cover the backbone.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

State = dict[str, Tensor]


class Translation(NamedTuple):
    """A checkpoint in this project's names."""

    source: str  # the project whose names it had
    state: State
    # Prefixes of the model's parameters that checkpoints of this kind never hold
    absent: tuple[str, ...]


_TRANSFORMERS_RULES = (
    (r"^model\.backbone\.(conv_encoder\.)?model\.", "backbone."),
    (r"^model\.input_proj\.", "neck.input_proj."),
    (r"^model\.query_position_embeddings\.", "detector.query_embed."),
    (r"^(model\.decoder\.)?(class_embed|bbox_embed)\.", r"detector.\2."),
    (r"^model\.", "detector.transformer."),
    (r"(decoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norm2."),
    (r"(decoder\.layers\.\d+)\.encoder_attn_layer_norm\.", r"\1.norm1."),
    (r"(decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm3."),
    (r"(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"(encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"(layers\.\d+)\.(mlp\.)?fc([12])\.", r"\1.linear\3."),
    (r"(decoder\.layers\.\d+\.self_attn)\.(o|out)_proj\.", r"\1.out_proj."),
)

_ORIGINAL_RULES = (
    (r"^backbone\.0\.body\.", "backbone."),
    (r"^input_proj\.", "neck.input_proj."),
    (r"^transformer\.decoder\.(class_embed|bbox_embed)\.", r"detector.\1."),
    (r"^(transformer|class_embed|bbox_embed|query_embed)\.", r"detector.\1."),
)

_TIMM_TO_DETECTRON2_RULES = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer([1-4])\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"\.bn([1-3])\.", r".conv\1.norm."),
)

_NO_NECK = ("neck.", "extra_stage.")
_ONLY_BACKBONE = (*_NO_NECK, "detector.")


def translate(state: State, backbone_names: Iterable[str]) -> Translation:
    """Renames a checkpoint's parameters to those of ``MFDSDETR``.

    Args:
        state: A state dict in the names of this project, Deformable-DETR, transformers, timm,
            torchvision or Detectron2.
        backbone_names: The names in the state dict of the model's backbone, which tell timm's
            backbones from Detectron2's.
    """
    backbone_names = set(backbone_names)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if any(name.startswith("detector.") for name in state):
        return Translation("MFDS-DETR", state, ())
    if any(name.startswith(("model.encoder.", "model.decoder.")) for name in state):
        renamed = _pack_attention(_name_projections(_rename(state, _TRANSFORMERS_RULES)))
        renamed = _spread_heads(renamed)
        return Translation("transformers", _fit_backbone(renamed, backbone_names), _NO_NECK)
    if any(name.startswith("transformer.") for name in state):
        renamed = _name_projections(_rename(state, _ORIGINAL_RULES))
        return Translation("Deformable-DETR", _fit_backbone(renamed, backbone_names), _NO_NECK)
    return _translate_backbone(state, backbone_names)


def _translate_backbone(state: State, backbone_names: set[str]) -> Translation:
    """Takes the backbone of a classifier or of a Detectron2 model."""
    prefix = re.compile(r"^(backbone\.)?(bottom_up\.)?(?=(stem\.conv\d|res[2-5]\.\d)\.)")
    if any(prefix.match(name) for name in state):
        taken = {
            "backbone." + prefix.sub("", name): tensor
            for name, tensor in state.items()
            if prefix.match(name)
        }
        return Translation("Detectron2's backbone", _drop_counters(taken), _ONLY_BACKBONE)
    body = {f"backbone.{name}": tensor for name, tensor in state.items()}
    fitted = _fit_backbone(body, backbone_names)
    # A classifier has layers after the maps that a detector reads
    taken = {name: t for name, t in fitted.items() if name[len("backbone.") :] in backbone_names}
    return Translation("timm", taken, _ONLY_BACKBONE)


def _fit_backbone(state: State, backbone_names: set[str]) -> State:
    """Renames timm's backbone to the model's, which is timm's or Detectron2's ResNet."""
    rest = {name: t for name, t in state.items() if not name.startswith("backbone.")}
    body = {name[9:]: t for name, t in state.items() if name.startswith("backbone.")}
    if any(name.startswith("stem.conv1.") for name in backbone_names):
        body = _drop_counters(_rename(body, _TIMM_TO_DETECTRON2_RULES))
    else:
        body = {_feature_name(name, backbone_names): t for name, t in body.items()}
    return rest | {f"backbone.{name}": tensor for name, tensor in body.items()}


def _feature_name(name: str, backbone_names: set[str]) -> str:
    """Returns a classifier's name under ``features_only``, which flattens or wraps the model."""
    flattened = re.sub(r"^(\w+)\.(\d+)\.", r"\1_\2.", name)
    candidates = [f"body.{name}", f"body.{flattened}", f"body.model.{name}"]
    return next((known for known in candidates if known in backbone_names), candidates[0])


def _rename(state: State, rules: Iterable[tuple]) -> State:
    renamed: State = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        renamed.setdefault(new, tensor)
    return renamed


def _name_projections(state: State) -> State:
    """Renames Deformable-DETR's ``input_proj`` to this project's ``channel_mapper`` neck.

    The projections of backbone maps are 1x1; those that add levels are 3x3.
    """
    pattern = re.compile(r"^neck\.input_proj\.(\d+)\.0\.weight$")
    found = {int(m[1]): t for name, t in state.items() if (m := pattern.match(name))}
    extra = sorted(index for index, weight in found.items() if weight.shape[-1] > 1)
    targets = {
        i: f"extra_levels.{extra.index(i)}" if i in extra else f"projections.{i}" for i in found
    }
    return {
        re.sub(r"^neck\.input_proj\.(\d+)", lambda m: f"neck.{targets[int(m[1])]}", name): tensor
        for name, tensor in state.items()
    }


def _pack_attention(state: State) -> State:
    """Packs query, key and value projections as ``nn.MultiheadAttention`` holds them."""
    packed = dict(state)
    pattern = re.compile(
        r"^(detector\.transformer\.decoder\.layers\.\d+\.self_attn)\.q_proj\.(\w+)$"
    )
    for name in state:
        found = pattern.match(name)
        if found:
            parts = [packed.pop(f"{found[1]}.{part}_proj.{found[2]}") for part in "qkv"]
            packed[f"{found[1]}.in_proj_{found[2]}"] = torch.cat(parts)
    return packed


def _spread_heads(state: State) -> State:
    """Repeats a shared head for every layer; transformers saves it once, for the first layer."""
    layer = re.compile(r"^detector\.transformer\.decoder\.layers\.(\d+)\.")
    count = len({found[1] for name in state if (found := layer.match(name))})
    count += any(name.startswith("detector.transformer.enc_output.") for name in state)
    spread = dict(state)
    for name, tensor in state.items():
        head = re.match(r"^(detector\.(?:class|bbox)_embed)\.0\.(.+)$", name)
        if head:
            for index in range(1, count):
                spread.setdefault(f"{head[1]}.{index}.{head[2]}", tensor)
    return spread


def _drop_counters(state: State) -> State:
    """Drops the counts of batches, which frozen batch norms do not keep."""
    return {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
