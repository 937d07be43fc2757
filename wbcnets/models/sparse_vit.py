"""Sparse ViT: a plain ViT whose last block sees the class token and one patch per head.

Wang et al., "Analysis of Blood Cell Image Recognition Methods Based on Improved CNN and Vision
Transformer": the sparse attention module (section 3.3) alone, as in the third-last row of table 7
and the last rows of table 3.

Differences from the paper:

- Blocks normalize before attention and MLP, like the ViT whose weights are used, not after them as
  equations 10 and 11 are printed. The activation is GELU where equation 9 has ReLU
  (``act_layer="relu"``).
- See ``wbcnets.layers.sparse_attention`` for the module itself.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.layers import Mlp
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.layers.self_attention import Grid, SelfAttention
from wbcnets.layers.sparse_attention import SparseAttention
from wbcnets.layers.transformer_block import Block
from wbcnets.models.factory import build_model
from wbcnets.models.recompute import run_block
from wbcnets.models.token_classifier import activation_class, run_with_class_attention
from wbcnets.models.vision_transformer import (
    VIT_SIZES,
    VisionTransformer,
    resample_position_embedding,
    vit_default_cfg,
)


class SparseViT(VisionTransformer):
    """A ViT with sparse attention: (B, in_chans, H, W) -> (B, num_classes).

    Its parameters are named as in timm's ViT; ``sparse_attention=False`` makes it that ViT.

    Args:
        embed_dim: Width of a token.
        depth: Number of blocks.
        num_heads: Heads of a block.
        mlp_ratio: Inner width of the MLP over ``embed_dim``.
        qkv_bias: Whether queries, keys and values have a bias.
        act_layer: Activation of the MLP: a class, or timm's name for one.
        sparse_attention: Whether the last block sees only the class token and one patch per head.
        proj_drop_rate: Dropout of the attention's and the MLP's output.
        attn_drop_rate: Dropout of the attention weights.
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
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        act_layer: str | type[nn.Module] = nn.GELU,
        sparse_attention: bool = True,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        activation = activation_class(act_layer)
        if sparse_attention and depth < 2:
            raise ConfigError(
                f"SparseViT: depth={depth} leaves no block before the sparse attention module; use "
                "depth=2 or more, or sparse_attention=False"
            )

        def make_block(drop_path: float) -> Block:
            hidden = int(embed_dim * mlp_ratio)
            mlp = Mlp(embed_dim, hidden, act_layer=activation, drop=proj_drop_rate, **dd)
            attn = SelfAttention(
                embed_dim, num_heads, qkv_bias, attn_drop_rate, proj_drop_rate, **dd
            )
            return Block(embed_dim, attn, mlp, drop_path, **dd)

        super().__init__(make_block, depth, embed_dim=embed_dim, **dd, **kwargs)
        self.sparse_attention = SparseAttention(depth - 1, **dd) if sparse_attention else None

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Module, channels and stride of each block that sees a whole map."""
        return super().feature_info[: None if self.sparse_attention is None else -1]

    def run_blocks(
        self, tokens: Tensor, keep: Sequence[int], stop: int | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Runs the blocks, the last one on the chosen tokens; see ``VisionTransformer``."""
        if self.sparse_attention is None or stop is not None:
            return super().run_blocks(tokens, keep, stop)
        tokens, attention, kept = self._run_early_blocks(tokens, keep)
        tokens, _ = self.sparse_attention(tokens, attention)
        return run_block(self.blocks[-1], tokens, recompute=self.grad_checkpointing), kept

    def choose_patches(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Returns the patches that the last block sees, one per head.

        Args:
            x: Images (B, in_chans, H, W).

        Returns:
            Row-major indices into the map of patches (B, heads), and the map's height and width.

        Raises:
            ConfigError: if the model has no sparse attention module.
        """
        if self.sparse_attention is None:
            raise ConfigError("SparseViT: no patches are chosen with sparse_attention=False")
        tokens, grid = self.embed(x)
        tokens, attention, _ = self._run_early_blocks(tokens)
        return self.sparse_attention(tokens, attention)[1], grid

    def truncate(self, last: int) -> None:
        """Drops the blocks after the index ``last``, and always the sparse attention module."""
        super().truncate(last)
        self.sparse_attention = None

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns how parameters fall into layers; the module belongs to the last block."""
        matcher = super().group_matcher(coarse)
        last = len(self.blocks) - 1
        matcher["blocks"] = [(r"^sparse_attention", (last,)), *matcher["blocks"]]
        return matcher

    def _run_early_blocks(
        self, tokens: Tensor, keep: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        early = list(self.blocks)[:-1]
        return run_with_class_attention(early, tokens, keep=keep, recompute=self.grad_checkpointing)


def checkpoint_filter_fn(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Fits the weights of timm's ViT, which has the same names, to a model's size."""
    state = dict(state)
    resample_position_embedding(state, cast(SparseViT, model))
    return state


default_cfgs = generate_default_cfgs(
    {f"sparse_vit_{size}_patch16.augreg_in21k_ft_in1k": vit_default_cfg(size) for size in VIT_SIZES}
)


def _create(size: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    kwargs = {**VIT_SIZES[size], **kwargs}
    if kwargs.get("features_only"):
        # The block after the sparse attention module sees no map
        levels = kwargs["depth"] - int(kwargs.get("sparse_attention", True))
        kwargs.setdefault("out_indices", min(3, levels))
    return build_model(
        SparseViT,
        f"sparse_vit_{size}_patch16",
        pretrained,
        checkpoint_filter_fn=checkpoint_filter_fn,
        **kwargs,
    )


@register_model
def sparse_vit_tiny_patch16(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Sparse ViT of width 192 with 12 blocks of 3 heads."""
    return _create("tiny", pretrained, **kwargs)


@register_model
def sparse_vit_small_patch16(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Sparse ViT of width 384 with 12 blocks of 6 heads."""
    return _create("small", pretrained, **kwargs)


@register_model
def sparse_vit_base_patch16(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Sparse ViT of width 768 with 12 blocks of 12 heads: "only sparse attention" in table 7."""
    return _create("base", pretrained, **kwargs)
