"""What every classifier with a class token shares: timm's contract around patches and blocks.

SCKansformer and the sparse ViT differ in what stands between the patch embedding and the head, and
say so by overriding three small methods; the names of parameters are those of timm's ViT.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import (
    PatchEmbed,
    resample_abs_pos_embed,
    resample_patch_embed,
    to_2tuple,
    trunc_normal_,
)
from timm.models import checkpoint
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.layers.token_map import map_to_tokens, tokens_to_map
from wbcnets.models.features import take_indices
from wbcnets.models.tokens import (
    check_global_pool,
    check_output_format,
    pool_tokens,
)

Grid = tuple[int, int]


def init_linear_layers(module: nn.Module) -> None:
    """ViT's initialization: truncated normal of 0.02 for linear layers, zero for their biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class TokenClassifier(nn.Module):
    """A classifier over patches and a class token: (B, in_chans, H, W) -> (B, num_classes).

    Args:
        make_block: Makes a block, given its rate of dropped paths; called ``depth`` times.
        depth: Number of blocks.
        img_size: Height and width of the input, or one number for both.
        patch_size: Height and width of a patch.
        in_chans: Channels of the input.
        num_classes: Classes; 0 for no classifier.
        global_pool: "token" takes the class token; "avg", "max" and "avgmax" pool the other tokens;
            "" leaves all of them.
        embed_dim: Width of a token.
        make_head: Makes the classifier: ``make_head(embed_dim, num_classes, device=, dtype=)``.
        drop_rate: Dropout before the head.
        pos_drop_rate: Dropout after the position embedding.
        drop_path_rate: Rate of dropped paths of the last block; it rises linearly.
        dynamic_img_size: Take any image whose sides the patch divides, and resample the position
            embedding for it.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ConfigError: A size, or the name of the pooling, is out of range.
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
        super().__init__()
        if depth < 1 or in_chans < 1 or num_classes < 0:
            raise ConfigError(
                f"{type(self).__name__}: depth and in_chans must be at least 1 and num_classes at "
                f"least 0, got depth={depth}, in_chans={in_chans}, num_classes={num_classes}"
            )
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.global_pool = check_global_pool(global_pool)
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.num_prefix_tokens = 1
        self.dynamic_img_size = dynamic_img_size
        self.grad_checkpointing = False
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
        self._check_grid(img_size, patch_size)
        tokens = 1 + self.patch_embed.num_patches
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim, device=device, dtype=dtype))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dim, device=device, dtype=dtype))
        self.pos_drop = nn.Dropout(pos_drop_rate)
        rates = [drop_path_rate * place / max(1, depth - 1) for place in range(depth)]
        self.blocks = nn.Sequential(*(make_block(rate) for rate in rates))
        self.norm: nn.Module = nn.LayerNorm(embed_dim, eps=1e-6, device=device, dtype=dtype)
        self.head_drop = nn.Dropout(drop_rate)
        self._make_head = make_head
        self.head = self._new_head(device, dtype)
        self.feature_info = self._describe_features()
        self.init_weights()

    def init_weights(self) -> None:
        """Draws the position embedding, the class token and the linear layers as ViT does."""
        init_linear_layers(self.blocks)
        init_linear_layers(self.head)
        trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)

    def refine_map(self, x: Tensor) -> Tensor:
        """What happens to the embedded patches as a map, before the class token joins them."""
        return x

    def before_blocks(self, tokens: Tensor, grid: Grid) -> Tensor:
        """What happens to the tokens before the first block: (B, 1 + N, C) -> the same."""
        return tokens

    def run_blocks(
        self, tokens: Tensor, grid: Grid, keep: Sequence[int], stop: int | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Runs the blocks.

        Args:
            tokens: (B, 1 + N, C).
            grid: Height and width of the map of N patches.
            keep: After which blocks the tokens are kept.
            stop: After which block to stop; None runs all.

        Returns:
            The tokens after the last block that ran, and those that were kept, each (B, 1 + N, C).
        """
        kept = []
        for place, block in enumerate(self.blocks if stop is None else self.blocks[: stop + 1]):
            tokens = checkpoint(block, tokens) if self.recomputes else block(tokens)
            if place in keep:
                kept.append(tokens)
        return tokens, kept

    @property
    def recomputes(self) -> bool:
        """Whether activations are made anew for the backward pass."""
        return self.grad_checkpointing and not torch.jit.is_scripting()

    def embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Images as tokens for the first block: (B, in_chans, H, W) -> (B, 1 + N, C), and the grid.

        Raises:
            ConfigError: The images have another size or number of channels than the model.
        """
        self._check_input(x)
        embedded = self.refine_map(self.patch_embed(x))
        grid = (embedded.shape[2], embedded.shape[3])
        tokens = map_to_tokens(embedded)
        class_token = self.cls_token.expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([class_token, tokens], dim=1) + self._position_embedding(grid)
        return self.before_blocks(self.pos_drop(tokens), grid), grid

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalized tokens after the last block: (B, in_chans, H, W) -> (B, 1 + N, C)."""
        tokens, grid = self.embed(x)
        tokens, _ = self.run_blocks(tokens, grid, keep=(), stop=None)
        return self.norm(tokens)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits from tokens: (B, 1 + N, C) -> (B, num_classes), or (B, C) where `pre_logits`."""
        features = self.head_drop(pool_tokens(x, self.global_pool))
        return features if pre_logits else self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (B, in_chans, H, W) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The tokens after chosen blocks, as maps or in rows.

        Args:
            x: Images (B, in_chans, H, W).
            indices: The blocks: all where None, the last n where a number, else their places.
            return_prefix_tokens: Pair each with its class token, (B, 1, C).
            norm: Apply the last norm to each.
            stop_early: Do not run what comes after the last chosen block.
            output_fmt: "NCHW" for maps (B, C, H, W), "NLC" for rows (B, N, C).
            intermediates_only: Return the list alone.

        Returns:
            The list, or the result of `forward_features` and the list.

        Raises:
            ConfigError: A block that does not exist, or an unknown format, is asked for.
        """
        check_output_format(output_fmt)
        places, last = take_indices(len(self.feature_info), indices)
        tokens, grid = self.embed(x)
        stop = last if stop_early or intermediates_only else None
        tokens, kept = self.run_blocks(tokens, grid, keep=places, stop=stop)
        outputs: list[Any] = []
        for level in kept:
            level = self.norm(level) if norm else level
            patches = level[:, 1:]
            patches = tokens_to_map(patches, grid).contiguous() if output_fmt == "NCHW" else patches
            outputs.append((patches, level[:, :1]) if return_prefix_tokens else patches)
        return outputs if intermediates_only else (self.norm(tokens), outputs)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drops the blocks, the norm and the head that `forward_intermediates` does not need.

        Returns:
            The places of the blocks that were asked for.
        """
        places, last = take_indices(len(self.feature_info), indices)
        self.blocks = self.blocks[: last + 1]
        self.feature_info = self.feature_info[: last + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return places

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Makes a new head for another number of classes, and optionally another pooling."""
        if global_pool is not None:
            self.global_pool = check_global_pool(global_pool)
        self.num_classes = num_classes
        self.head = self._new_head(self.cls_token.device, self.cls_token.dtype)
        init_linear_layers(self.head)
        self.head.train(self.training)

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
    ) -> None:
        """Changes the size of images or patches; the position embedding is resampled.

        Raises:
            ConfigError: The patch does not divide the image.
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
        self.feature_info = self._describe_features()
        # What timm writes beside the weights, to make the same model again
        size = {"img_size": self.patch_embed.img_size, "patch_size": self.patch_embed.patch_size}
        self._model_args = {**getattr(self, "_model_args", {}), **size}
        self._traits = {**getattr(self, "_traits", {}), "img_size": self.patch_embed.img_size}

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay leaves alone."""
        return {"pos_embed", "cls_token"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How parameters fall into layers, for layer-wise learning rates."""
        return {
            "stem": r"^cls_token|^pos_embed|^patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Makes activations anew in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def _new_head(self, device: torch.device | str | None, dtype: torch.dtype | None) -> nn.Module:
        if self.num_classes == 0:
            return nn.Identity()
        return self._make_head(self.embed_dim, self.num_classes, device=device, dtype=dtype)

    def _describe_features(self) -> list[dict[str, Any]]:
        reduction = max(self.patch_embed.patch_size)
        return [
            {"module": f"blocks.{place}", "num_chs": self.embed_dim, "reduction": reduction}
            for place in range(len(self.blocks))
        ]

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

    def _check_input(self, x: Tensor) -> None:
        sides = (x.shape[2], x.shape[3]) if x.ndim == 4 else None
        patch = self.patch_embed.patch_size
        if sides is None or x.shape[1] != self.in_chans:
            raise ConfigError(
                f"{type(self).__name__}: expected images (B, {self.in_chans}, H, W), got a tensor "
                f"of shape {tuple(x.shape)}; create the model with in_chans={x.shape[1:2]}"
            )
        if self.dynamic_img_size:
            fits = sides[0] % patch[0] == 0 and sides[1] % patch[1] == 0
            expected = f"sides that are multiples of {patch}"
        else:
            fits = sides == tuple(self.patch_embed.img_size)
            expected = f"{tuple(self.patch_embed.img_size)}"
        if not fits:
            raise ConfigError(
                f"{type(self).__name__}: expected images of {expected}, got {sides}; resize them, "
                f"or create the model with img_size={sides}, or with dynamic_img_size=True"
            )


def resample_position_embedding(state: dict[str, Tensor], model: TokenClassifier) -> None:
    """Fits a checkpoint's position embedding and patch size to the model's, in the dictionary.

    The checkpoint's grid is taken as square, as in every published ViT.
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
    _resample_patches(state, model)


def _resample_patches(state: dict[str, Tensor], model: TokenClassifier) -> None:
    name = "patch_embed.proj.weight"
    weight = state.get(name)
    patch = list(model.patch_embed.patch_size)
    if weight is not None and weight.ndim == 4 and list(weight.shape[2:]) != patch:
        state[name] = resample_patch_embed(weight, patch)


def vit_default_cfg(size: str) -> dict[str, Any]:
    """timm's configuration of a model that starts from its ViT of a size: tiny, small or base."""
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
