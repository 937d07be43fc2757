"""Sparse ViT: a plain ViT whose last block sees the class token and one patch per head.

Wang et al., "Analysis of Blood Cell Image Recognition Methods Based on Improved CNN and Vision
Transformer": the sparse attention module (section 3.3) alone, as in the third-last row of table 7
and the last rows of table 3.

Differences from the paper:
- Blocks normalize before attention and MLP, as the ViT whose weights are used, not after them as
  equations 10 and 11 are printed; the activation is GELU where equation 9 has ReLU
  (``act_layer="relu"``).
- See `wbcnets.layers.sparse_attention` for the module itself.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.layers import Mlp
from timm.models import checkpoint, generate_default_cfgs, register_model
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.layers.sparse_attention import SparseAttention
from wbcnets.layers.transformer_block import Block
from wbcnets.models.activation import find_activation
from wbcnets.models.factory import build_model
from wbcnets.models.vision_transformer import (
    Grid,
    TokenClassifier,
    resample_position_embedding,
    vit_default_cfg,
)


class SparseViT(TokenClassifier):
    """A ViT with sparse attention: (B, in_chans, H, W) -> (B, num_classes).

    Its parameters are named as in timm's ViT; ``sparse_attention=False`` makes it that ViT.

    Args:
        img_size: Height and width of the input, or one number for both.
        patch_size: Height and width of a patch.
        in_chans: Channels of the input.
        num_classes: Classes; 0 for no classifier.
        global_pool: "token", "avg", "max", "avgmax" or "", over the tokens after the last block.
        embed_dim: Width of a token.
        depth: Number of blocks.
        num_heads: Heads of a block.
        mlp_ratio: The MLP's inner width over ``embed_dim``.
        qkv_bias: Whether queries, keys and values have a bias.
        act_layer: Activation of the MLP: a class, or timm's name for one.
        sparse_attention: Whether the last block sees only the class token and one patch per head.
        drop_rate: Dropout before the head.
        pos_drop_rate: Dropout after the position embedding.
        proj_drop_rate: Dropout of the attention's and the MLP's output.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Rate of dropped paths of the last block; it rises linearly.
        dynamic_img_size: Take any image whose sides the patch divides.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ConfigError: A size or a name is out of range.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        act_layer: str | type[nn.Module] = nn.GELU,
        sparse_attention: bool = True,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        dynamic_img_size: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        activation = find_activation(act_layer)
        if sparse_attention and depth < 2:
            raise ConfigError(
                f"SparseViT: depth={depth} leaves no block before the sparse attention module; use "
                "depth=2 or more, or sparse_attention=False"
            )

        def make_block(drop_path: float) -> Block:
            mlp = Mlp(
                embed_dim,
                int(embed_dim * mlp_ratio),
                act_layer=activation,
                drop=proj_drop_rate,
                device=device,
                dtype=dtype,
            )
            return Block(
                embed_dim,
                num_heads,
                mlp,
                qkv_bias,
                attn_drop_rate,
                proj_drop_rate,
                drop_path,
                device=device,
                dtype=dtype,
            )

        super().__init__(
            make_block,
            depth,
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            embed_dim=embed_dim,
            drop_rate=drop_rate,
            pos_drop_rate=pos_drop_rate,
            drop_path_rate=drop_path_rate,
            dynamic_img_size=dynamic_img_size,
            device=device,
            dtype=dtype,
        )
        self.sparse_attention = (
            SparseAttention(depth - 1, device=device, dtype=dtype) if sparse_attention else None
        )
        self.feature_info = self._describe_features()

    def run_blocks(
        self, tokens: Tensor, grid: Grid, keep: Sequence[int], stop: int | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Runs the blocks, the last of them on the chosen tokens; see `TokenClassifier`."""
        if self.sparse_attention is None or stop is not None:
            return super().run_blocks(tokens, grid, keep, stop)
        tokens, attention, kept = self._run_early_blocks(tokens, keep)
        tokens, _ = self.sparse_attention(tokens, attention)
        last = self.blocks[-1]
        return (checkpoint(last, tokens) if self.recomputes else last(tokens)), kept

    def choose_patches(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Which patches of each image the last block sees, one per head.

        Args:
            x: Images (B, in_chans, H, W).

        Returns:
            Places in the rows of the map of patches (B, heads), and the map's height and width.

        Raises:
            ConfigError: The model has no sparse attention module.
        """
        if self.sparse_attention is None:
            raise ConfigError("SparseViT: no patches are chosen with sparse_attention=False")
        tokens, grid = self.embed(x)
        tokens, attention, _ = self._run_early_blocks(tokens, keep=())
        return self.sparse_attention(tokens, attention)[1], grid

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drops what `forward_intermediates` does not need; so always the module and what follows.

        Returns:
            The places of the blocks that were asked for.
        """
        places = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        self.sparse_attention = None
        return places

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How parameters fall into layers; the module stands with the last block."""
        matcher = super().group_matcher(coarse)
        last = len(self.blocks) - 1
        matcher["blocks"] = [(r"^sparse_attention", (last,)), *matcher["blocks"]]
        return matcher

    def _run_early_blocks(
        self, tokens: Tensor, keep: Sequence[int]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """All blocks but the last.

        Returns:
            Tokens (B, 1 + N, C), the class token's attention (B, blocks, heads, N), and the tokens
            after the blocks in `keep`.
        """
        rows, kept = [], []
        for place, module in enumerate(list(self.blocks)[:-1]):
            block = cast(Block, module)
            if self.recomputes:
                tokens, row = checkpoint(block.forward_with_class_attention, tokens)
            else:
                tokens, row = block.forward_with_class_attention(tokens)
            rows.append(row[..., 1:])
            if place in keep:
                kept.append(tokens)
        return tokens, torch.stack(rows, dim=1), kept

    def _describe_features(self) -> list[dict[str, Any]]:
        features = super()._describe_features()
        # The first call comes from the constructor of the base class, before there is a module
        sparse = getattr(self, "sparse_attention", None) is not None
        return features[:-1] if sparse else features


def checkpoint_filter_fn(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Fits the weights of timm's ViT to a model's size; their names are the model's own."""
    state = dict(state)
    resample_position_embedding(state, cast(SparseViT, model))
    return state


default_cfgs = generate_default_cfgs(
    {
        f"sparse_vit_{size}_patch16.augreg_in21k_ft_in1k": vit_default_cfg(size)
        for size in ("tiny", "small", "base")
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    if kwargs.get("features_only"):
        # The block after the sparse attention module has no map
        levels = kwargs["depth"] - int(kwargs.get("sparse_attention", True))
        kwargs.setdefault("out_indices", min(3, levels))
    return build_model(
        SparseViT, variant, pretrained, checkpoint_filter_fn=checkpoint_filter_fn, **kwargs
    )


@register_model
def sparse_vit_tiny_patch16(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Sparse ViT of width 192 with 12 blocks of 3 heads."""
    size = {"embed_dim": 192, "depth": 12, "num_heads": 3}
    return _create("sparse_vit_tiny_patch16", pretrained, **{**size, **kwargs})


@register_model
def sparse_vit_small_patch16(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Sparse ViT of width 384 with 12 blocks of 6 heads."""
    size = {"embed_dim": 384, "depth": 12, "num_heads": 6}
    return _create("sparse_vit_small_patch16", pretrained, **{**size, **kwargs})


@register_model
def sparse_vit_base_patch16(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Sparse ViT of width 768 with 12 blocks of 12 heads: "only sparse attention" in table 7."""
    size = {"embed_dim": 768, "depth": 12, "num_heads": 12}
    return _create("sparse_vit_base_patch16", pretrained, **{**size, **kwargs})
