"""CvT-13's weights for the convolutional sparse ViT: its tensors under our names.

Two namings exist: that of transformers (``microsoft/cvt-13``) and that of the original code, Wu et
al., "CvT: Introducing Convolutions to Vision Transformers", arXiv:2103.15808.
"""

import logging
import re
from typing import Any

from timm.layers import resample_abs_pos_embed_nhwc
from torch import Tensor, nn

logger = logging.getLogger(__name__)

_CVT_HEADS = [1, 3, 6]

# What a name of either naming begins with or contains, and what stands for it here
_RENAMED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # transformers
        (r"^(cvt\.)?encoder\.stages\.", "stages."),
        (r"\.embedding\.convolution_embeddings\.projection\.", ".embed.proj."),
        (r"\.embedding\.convolution_embeddings\.normalization\.", ".embed.norm."),
        (r"^(stages\.\d+)\.layers\.", r"\1.blocks."),
        (
            r"\.attention\.attention\.convolution_projection_(query|key|value)"
            r"\.convolution_projection\.convolution\.",
            r".attn.\1.conv.",
        ),
        (
            r"\.attention\.attention\.convolution_projection_(query|key|value)"
            r"\.convolution_projection\.normalization\.",
            r".attn.\1.bn.",
        ),
        (r"\.attention\.attention\.projection_(query|key|value)\.", r".attn.\1.linear."),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"^(stages\.\d+\.blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"^layernorm\.", "norm."),
        (r"^classifier\.", "head."),
        # The original code
        (r"^stage(\d+)\.", r"stages.\1."),
        (r"^(stages\.\d+)\.patch_embed\.", r"\1.embed."),
        (r"\.attn\.conv_proj_q\.", ".attn.query."),
        (r"\.attn\.conv_proj_k\.", ".attn.key."),
        (r"\.attn\.conv_proj_v\.", ".attn.value."),
        (r"\.attn\.proj_q\.", ".attn.query.linear."),
        (r"\.attn\.proj_k\.", ".attn.key.linear."),
        (r"\.attn\.proj_v\.", ".attn.value.linear."),
    )
]


def checkpoint_filter_fn(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Names CvT's tensors as the model does, and fits position embeddings to its maps.

    A state dict in the model's own names passes unchanged.
    """
    renamed = {_rename(name): tensor for name, tensor in state.items()}
    if renamed.keys() != state.keys():
        _warn_of_other_heads(model)
    target = model.state_dict()
    for name, tensor in renamed.items():
        wanted = target.get(name)
        if name.endswith(".pos_embed") and wanted is not None and tensor.ndim == wanted.ndim == 4:
            renamed[name] = resample_abs_pos_embed_nhwc(tensor, list(wanted.shape[1:3]))
    return renamed


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name


def _warn_of_other_heads(model: nn.Module) -> None:
    stages: Any = getattr(model, "stages", ())
    heads = [stage.blocks[0].attn.num_heads for stage in stages]
    if heads != _CVT_HEADS[: len(heads)]:
        logger.warning(
            "CvT's weights were trained with num_heads=%s; with %s they load as another function",
            tuple(_CVT_HEADS),
            tuple(heads),
        )
