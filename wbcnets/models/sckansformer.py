"""SCKansformer: a ViT with reconstructed patches, a global-local attention block and KAN layers.

Chen et al., "SCKansformer: Fine-Grained Classification of Bone Marrow Cells via Kansformer Backbone
and Hierarchical Attention Mechanisms", section III and figure 1: patch embedding, SCConv on the map
of patches, class token and position embedding, one global-local attention block, Kansformer blocks
``x + MSA(LN(x))`` and ``x + KAN(LN(x))``, layer norm, and a KAN head on the class token.

Differences from the paper:

- It gives neither the widths of the KANs nor the size of the ViT. The released code has KANs of
  [dim, 64, dim] and [dim, 64, classes], and ViT-Base. Small and tiny have the widths of ViT-S and
  ViT-Ti.
- SRU's default gate trains, and the global-local attention follows the released code; see the
  headers of the layers. With ``scconv_options=dict(gate="hard", fusion="joint")`` the model
  computes the same function as the released one, whose checkpoints load under their own names.
- The released code draws gamma of the SRU from a normal distribution and redraws the weights of
  every kind of layer. Here gamma starts at 1 and linear layers start as in timm's ViT.
- The released code weighs SCConv's two transforms by one softmax over all channels. That makes the
  patches some C times smaller, so position embeddings outweigh them. The text's softmax over the
  two values of a channel is the default here and learns faster: a tiny model of 49 patches, trained
  for 4 epochs on a quarter of PBC's training images, reached a validation accuracy of 0.82, against
  0.67 with the joint softmax (one run each).
"""

import logging
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from timm.layers import Mlp
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.layers.global_local_attention import GlobalLocalAttention
from wbcnets.layers.kan import KAN
from wbcnets.layers.scconv import SCConv
from wbcnets.layers.self_attention import Grid, SelfAttention
from wbcnets.layers.transformer_block import Block
from wbcnets.models.factory import build_model
from wbcnets.models.token_classifier import init_linear_layers
from wbcnets.models.vision_transformer import (
    VIT_SIZES,
    VisionTransformer,
    resample_position_embedding,
    vit_default_cfg,
)

MLP_RATIO = 4

logger = logging.getLogger(__name__)


class SCKansformer(VisionTransformer):
    """The SCKansformer: (B, in_chans, H, W) -> (B, num_classes).

    Its parameters are named as in timm's ViT where the two agree. ``scconv=False``,
    ``global_local=False`` and ``mlp="mlp"`` are the ablations of tables IV to VI; all three and
    ``head="linear"`` make it timm's ViT.

    Args:
        embed_dim: Width of a token; with SCConv a multiple of 16.
        depth: Number of Kansformer blocks.
        num_heads: Heads of a block, and of the global-local attention.
        scconv: Whether the map of patches goes through SCConv.
        global_local: Whether the tokens go through the global-local attention block.
        mlp: "kan" for KANs in the blocks; "mlp" for ViT's MLPs of ratio 4.
        head: "kan" for a KAN as classifier; "linear" for a linear layer.
        scconv_options: Further keywords of ``SCConv``; ``dict(gate="hard", fusion="joint")`` gives
            the released code's.
        squeeze_excite: Whether the local part weighs its channels by squeeze-and-excitation.
        kan_hidden: Inner width of the KANs.
        kan_options: Further keywords of ``KAN``, such as ``dict(grid_size=8, grid_range=(-2, 2))``.
        device: Device of the parameters.
        dtype: Type of the parameters.
        **kwargs: ``img_size``, ``num_classes`` and further keywords of ``VisionTransformer``.

    Raises:
        ConfigError: if a size or a name is out of range.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        scconv: bool = True,
        global_local: bool = True,
        mlp: str = "kan",
        head: str = "kan",
        scconv_options: Mapping[str, Any] | None = None,
        squeeze_excite: bool = True,
        kan_hidden: int = 64,
        kan_options: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        make_kan = partial(_make_kan, hidden=kan_hidden, **(kan_options or {}))
        make_mlp = _choose("mlp", mlp, {"kan": make_kan, "mlp": _make_mlp})
        make_head = _choose("head", head, {"kan": make_kan, "linear": nn.Linear})

        def make_block(drop_path: float) -> Block:
            inner = make_mlp(embed_dim, embed_dim, **dd)
            attn = SelfAttention(embed_dim, num_heads, **dd)
            return Block(embed_dim, attn, inner, drop_path, **dd)

        super().__init__(
            make_block, depth, embed_dim=embed_dim, make_head=make_head, **dd, **kwargs
        )
        self.scconv = None
        if scconv:
            self.scconv = SCConv(embed_dim, **(scconv_options or {}), **dd)
        self.global_local = None
        if global_local:
            self.global_local = GlobalLocalAttention(
                embed_dim, num_heads, squeeze_excite=squeeze_excite, **dd
            )
            init_linear_layers(self.global_local)

    def refine_map(self, x: Tensor) -> Tensor:
        """SCConv on the embedded patches: (B, C, H, W) -> (B, C, H, W)."""
        return x if self.scconv is None else self.scconv(x)

    def before_blocks(self, tokens: Tensor, grid: Grid) -> Tensor:
        """The global-local attention block: (B, 1 + N, C) -> (B, 1 + N, C)."""
        return tokens if self.global_local is None else self.global_local(tokens, grid)

    def regularization_loss(
        self, activation_weight: float = 1.0, entropy_weight: float = 1.0
    ) -> Tensor:
        """Returns the sum of ``KAN.regularization_loss`` over all KANs, a scalar; 0 without any.

        Args:
            activation_weight: Factor of the L1 norm.
            entropy_weight: Factor of the entropy.
        """
        losses = [
            module.regularization_loss(activation_weight, entropy_weight)
            for module in self.modules()
            if isinstance(module, KAN)
        ]
        return torch.stack(losses).sum() if losses else self.cls_token.new_zeros(())

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns how parameters fall into layers; the map and global-local steps join the stem."""
        matcher = super().group_matcher(coarse)
        matcher["stem"] += r"|^scconv|^global_local"
        return matcher


def _make_kan(inputs: int, outputs: int, *, hidden: int, **options: Any) -> KAN:
    return KAN([inputs, hidden, outputs], **options)


def _make_mlp(inputs: int, outputs: int, **dd: Any) -> Mlp:
    return Mlp(inputs, MLP_RATIO * inputs, outputs, **dd)


def _choose(keyword: str, name: str, choices: Mapping[str, Any]) -> Any:
    if name not in choices:
        raise ConfigError(f"SCKansformer: {keyword}={name!r}: use one of {list(choices)}")
    return choices[name]


# Names in the released code and ours. Its local part is a numbered list, whose activations, 2 and
# 5, have no tensors
_RELEASED_NAMES = (
    ("patch_embed.new_SCConv.SRU.gn.gamma", "scconv.sru.norm.weight"),
    ("patch_embed.new_SCConv.SRU.gn.beta", "scconv.sru.norm.bias"),
    ("patch_embed.new_SCConv.CRU.squeeze1.", "scconv.cru.squeeze_upper."),
    ("patch_embed.new_SCConv.CRU.squeeze2.", "scconv.cru.squeeze_lower."),
    ("patch_embed.new_SCConv.CRU.GWC.", "scconv.cru.group_conv."),
    ("patch_embed.new_SCConv.CRU.PWC1.", "scconv.cru.point_conv_upper."),
    ("patch_embed.new_SCConv.CRU.PWC2.", "scconv.cru.point_conv_lower."),
    ("cnn_block.attention_norm.", "global_local.norm."),
    ("cnn_block.attn.", "global_local.attn."),
    ("cnn_block.conv.layers.0.", "global_local.local.expand."),
    ("cnn_block.conv.layers.1.", "global_local.local.expand_norm."),
    ("cnn_block.conv.layers.3.", "global_local.local.depthwise."),
    ("cnn_block.conv.layers.4.", "global_local.local.depthwise_norm."),
    ("cnn_block.conv.layers.6.", "global_local.local.squeeze_excite."),
    ("cnn_block.conv.layers.7.", "global_local.local.project."),
    ("cnn_block.conv.layers.8.", "global_local.local.project_norm."),
)
_RELEASED_GAMMA, _RELEASED_BETA = _RELEASED_NAMES[0][0], _RELEASED_NAMES[1][0]
_RELEASED_BLOCK = re.compile(r"^(blocks\.\d+)\.kan\.")


def checkpoint_filter_fn(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Returns a checkpoint's tensors under the model's names and in its sizes.

    Accepts the model's own names, those of timm's ViT, and those of the released SCKansformer code.
    """
    classifier = cast(SCKansformer, model)
    if _RELEASED_GAMMA in state:
        _warn_of_other_function(classifier)
    translated = {}
    for name, tensor in state.items():
        if name in (_RELEASED_GAMMA, _RELEASED_BETA):
            tensor = tensor.flatten()  # (C, 1, 1) -> (C,)
        translated[_translate(name)] = tensor
    resample_position_embedding(translated, classifier)
    return translated


def _translate(name: str) -> str:
    for released, own in _RELEASED_NAMES:
        if name.startswith(released):
            return own + name.removeprefix(released)
    return _RELEASED_BLOCK.sub(r"\1.mlp.", name)


def _warn_of_other_function(model: SCKansformer) -> None:
    scconv = model.scconv
    if scconv is not None and (scconv.sru.gate != "hard" or scconv.cru.fusion != "joint"):
        logger.warning(
            "These are weights of the released SCKansformer code; create the model with "
            "scconv_options=dict(gate='hard', fusion='joint') to get its predictions"
        )


default_cfgs = generate_default_cfgs(
    {f"sckansformer_{size}.vit_augreg_in21k_ft_in1k": vit_default_cfg(size) for size in VIT_SIZES}
)


def _create(size: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    kwargs = {**VIT_SIZES[size], **kwargs}
    if kwargs.get("features_only"):
        kwargs.setdefault("out_indices", 3)
    return build_model(
        SCKansformer,
        f"sckansformer_{size}",
        pretrained,
        checkpoint_filter_fn=checkpoint_filter_fn,
        **kwargs,
    )


@register_model
def sckansformer_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SCKansformer of width 192 with 12 blocks of 3 heads."""
    return _create("tiny", pretrained, **kwargs)


@register_model
def sckansformer_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SCKansformer of width 384 with 12 blocks of 6 heads."""
    return _create("small", pretrained, **kwargs)


@register_model
def sckansformer_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SCKansformer of width 768 with 12 blocks of 12 heads, the paper's."""
    return _create("base", pretrained, **kwargs)
