"""Vision transformer (ViT) with open steps: the base of SCKansformer and the sparse ViT.

Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv:2010.11929. Parameters are named as in
timm's ViT, whose weights load.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import (
    PatchEmbed,
    calculate_drop_path_rates,
    resample_abs_pos_embed,
    resample_patch_embed,
    to_2tuple,
    trunc_normal_,
)
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.layers.self_attention import Grid
from wbcnets.layers.token_map import map_to_tokens
from wbcnets.models.recompute import run_block
from wbcnets.models.token_classifier import Level, TokenClassifier, init_linear_layers

# Options of the published sizes
VIT_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}


class VisionTransformer(TokenClassifier):
    """Patches, a class token, position embeddings and blocks; the blocks are given.

    Args:
        make_block: Makes a block, given its drop path rate; called ``depth`` times.
        depth: Number of blocks.
        img_size: Height and width of the input, or one number for both.
        patch_size: Height and width of a patch.
        in_chans: Channels of the input.
        num_classes: Number of classes; 0 for no classifier.
        global_pool: "token" takes the class token; "avg", "max" and "avgmax" pool the other tokens;
            "" keeps all tokens.
        embed_dim: Width of a token.
        make_head: Makes the classifier: ``make_head(embed_dim, num_classes, device=, dtype=)``.
        drop_rate: Dropout before the head.
        pos_drop_rate: Dropout after the position embedding.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0.
        dynamic_img_size: Whether to accept all images whose sides are multiples of the patch, and
            resample the position embedding for them.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if a size or the name of the pooling is out of range.
    """

    def __init__(
        self,
        make_block: Callable[[float], nn.Module],
        depth: int,
        *,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        embed_dim: int = 768,
        make_head: Callable[..., nn.Module] = nn.Linear,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        dynamic_img_size: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_chans, num_classes, global_pool, embed_dim, make_head)
        if depth < 1:
            raise ConfigError(f"{type(self).__name__}: depth={depth} must be at least 1")
        self._check_grid(img_size, patch_size)
        self.dynamic_img_size = dynamic_img_size
        self.patch_embed = PatchEmbed(
            img_size=img_size,
            patch_size=to_2tuple(patch_size),
            in_chans=in_chans,
            embed_dim=embed_dim,
            flatten=False,
            strict_img_size=not dynamic_img_size,
            device=device,
            dtype=dtype,
        )
        tokens = 1 + self.patch_embed.num_patches
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim, device=device, dtype=dtype))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dim, device=device, dtype=dtype))
        self.pos_drop = nn.Dropout(pos_drop_rate)
        rates: Any = calculate_drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.Sequential(*(make_block(rate) for rate in rates))
        self.add_head(drop_rate, 1e-6, device, dtype)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Module, channels and stride of each block."""
        stride = max(self.patch_embed.patch_size)
        return [
            {"module": f"blocks.{index}", "num_chs": self.embed_dim, "reduction": stride}
            for index in range(len(self.blocks))
        ]

    def init_weights(self) -> None:
        """Draws position embedding, class token and linear layers as ViT does."""
        init_linear_layers(self.blocks)
        super().init_weights()
        trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)

    def refine_map(self, x: Tensor) -> Tensor:
        """Transforms the embedded patches before the class token joins: (B, C, H, W) -> same."""
        return x

    def before_blocks(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Transforms the tokens before the first block: (B, 1 + N, C) -> same."""
        return tokens

    def run_blocks(
        self, tokens: Tensor, keep: Sequence[int], stop: int | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Returns the tokens after the last block, and those after kept blocks, (B, 1 + N, C).

        Args:
            tokens: (B, 1 + N, C).
            keep: Indices of the blocks to keep.
            stop: Index of the last block to run; None runs all.
        """
        kept = []
        for index, block in enumerate(self.blocks if stop is None else self.blocks[: stop + 1]):
            tokens = run_block(block, tokens, recompute=self.grad_checkpointing)
            if index in keep:
                kept.append(tokens)
        return tokens, kept

    def run(self, x: Tensor, keep: Sequence[int], stop: int | None) -> tuple[Tensor, list[Level]]:
        """See ``TokenClassifier``; the levels are the blocks."""
        tokens, grid = self.embed(x)
        tokens, kept = self.run_blocks(tokens, keep, stop)
        return tokens, [Level(level[:, :1], level[:, 1:], grid) for level in kept]

    def truncate(self, last: int) -> None:
        """Drops the blocks after the index ``last``."""
        self.blocks = self.blocks[: last + 1]

    def embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Returns the tokens of images for the first block, (B, 1 + N, C), and their grid.

        Raises:
            ConfigError: if the images' size or channels are not those of the model.
        """
        self.check_channels(x)
        self._check_size(x)
        embedded = self.refine_map(self.patch_embed(x))
        grid = (embedded.shape[2], embedded.shape[3])
        tokens = map_to_tokens(embedded)
        class_token = self.cls_token.expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([class_token, tokens], dim=1) + self._position_embedding(grid)
        return self.before_blocks(self.pos_drop(tokens), grid), grid

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
    ) -> None:
        """Changes the size of images or patches and resamples the position embedding.

        Raises:
            ConfigError: if the patch does not divide the image.
        """
        before = self.patch_embed.grid_size
        sides = self.patch_embed.img_size if img_size is None else to_2tuple(img_size)
        patch = self.patch_embed.patch_size if patch_size is None else to_2tuple(patch_size)
        self._check_grid(sides, patch)
        self.patch_embed.set_input_size(img_size=sides, patch_size=patch)
        after = self.patch_embed.grid_size
        if before != after:
            resampled = resample_abs_pos_embed(
                self.pos_embed.detach(), list(after), list(before), num_prefix_tokens=1
            )
            self.pos_embed = nn.Parameter(resampled, self.pos_embed.requires_grad)
        self._record_size(
            img_size=self.patch_embed.img_size, patch_size=self.patch_embed.patch_size
        )

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns how parameters fall into layers, for layer-wise learning rates."""
        return {
            "stem": r"^cls_token|^pos_embed|^patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def _position_embedding(self, grid: Grid) -> Tensor:
        if not self.dynamic_img_size:
            return self.pos_embed
        before = list(self.patch_embed.grid_size)
        return resample_abs_pos_embed(self.pos_embed, list(grid), before, num_prefix_tokens=1)

    def _check_grid(
        self, img_size: int | tuple[int, int], patch_size: int | tuple[int, int]
    ) -> None:
        sides, patch = to_2tuple(img_size), to_2tuple(patch_size)
        if min(*sides, *patch) < 1 or sides[0] % patch[0] or sides[1] % patch[1]:
            raise ConfigError(
                f"{type(self).__name__}: patch_size={patch} does not divide img_size={sides}; "
                "use sides that are multiples of the patch"
            )

    def _check_size(self, x: Tensor) -> None:
        sides = (x.shape[2], x.shape[3])
        if self.dynamic_img_size:
            patch = self.patch_embed.patch_size
            fits = sides[0] % patch[0] == 0 and sides[1] % patch[1] == 0
            expected = f"sides that are multiples of {patch}"
        else:
            fits = sides == tuple(self.patch_embed.img_size)
            expected = f"{tuple(self.patch_embed.img_size)}"
        if not fits:
            raise ConfigError(
                f"{type(self).__name__}: expected images of {expected}, got {sides}; resize them, "
                f"or create the model with img_size={sides} or dynamic_img_size=True"
            )


def resample_position_embedding(state: dict[str, Tensor], model: VisionTransformer) -> None:
    """Fits a checkpoint's position embedding and patches to the model's size, in the dictionary.

    The checkpoint's grid counts as square, as in every published ViT.
    """
    embedding = state.get("pos_embed")
    if embedding is not None and embedding.ndim == 3:
        tokens = embedding.shape[1] - 1
        side = round(tokens**0.5)
        fits = embedding.shape == model.pos_embed.shape
        if not fits and side * side == tokens and embedding.shape[2] == model.embed_dim:
            state["pos_embed"] = resample_abs_pos_embed(
                embedding, list(model.patch_embed.grid_size), [side, side], num_prefix_tokens=1
            )
    name = "patch_embed.proj.weight"
    weight = state.get(name)
    patch = list(model.patch_embed.patch_size)
    if weight is not None and weight.ndim == 4 and list(weight.shape[2:]) != patch:
        state[name] = resample_patch_embed(weight, patch)


def vit_default_cfg(size: str) -> dict[str, Any]:
    """Returns timm's configuration of a model with the weights of its ViT: tiny, small or base."""
    return {
        "hf_hub_id": f"timm/vit_{size}_patch16_224.augreg_in21k_ft_in1k",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "fixed_input_size": True,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
    }
