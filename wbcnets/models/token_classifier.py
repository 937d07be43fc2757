"""Base of the classifiers over tokens: timm's model contract, shared by all of them.

Head, pooling, feature levels, pruning and checkpointing are here; the way from an image to tokens
is the subclass's.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from timm.layers import get_act_layer, global_pool_nlc, trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.layers.self_attention import Grid
from wbcnets.layers.token_map import tokens_to_map
from wbcnets.models.recompute import run_block

GLOBAL_POOLS = ("token", "avg", "max", "avgmax", "")


class Level(NamedTuple):
    """Tokens after a block or a stage."""

    prefix: Tensor  # class token, (B, P, C) with P = 0 or 1
    patches: Tensor  # (B, N, C)
    grid: Grid  # height and width of the map of N patches

    def to_map(self) -> Tensor:
        """Returns the patches as a map, (B, C, H, W)."""
        return tokens_to_map(self.patches, self.grid)


class TokenClassifier(nn.Module):
    """timm's contract for a classifier over tokens: (B, in_chans, H, W) -> (B, num_classes).

    A subclass defines ``run``, ``truncate`` and ``feature_info``. Its constructor calls this one,
    makes its modules, and ends with ``add_head``.

    Args:
        in_chans: Channels of the input.
        num_classes: Number of classes; 0 for no classifier.
        global_pool: "token" takes the class token; "avg", "max" and "avgmax" pool the other tokens;
            "" keeps all tokens.
        embed_dim: Width of the last tokens.
        make_head: Makes the classifier: ``make_head(embed_dim, num_classes, device=, dtype=)``.

    Raises:
        ConfigError: if a number or the name of the pooling is out of range.
    """

    # The norm before the head has the width of the feature levels from this index on
    first_normed_level = 0

    def __init__(
        self,
        in_chans: int,
        num_classes: int,
        global_pool: str,
        embed_dim: int,
        make_head: Callable[..., nn.Module] = nn.Linear,
    ) -> None:
        super().__init__()
        if in_chans < 1 or num_classes < 0:
            raise ConfigError(
                f"{type(self).__name__}: in_chans must be at least 1 and num_classes at least 0, "
                f"got in_chans={in_chans}, num_classes={num_classes}"
            )
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.global_pool = _check_global_pool(global_pool)
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.num_prefix_tokens = 1
        self.grad_checkpointing = False
        self._make_head = make_head

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Module, channels and stride of each feature level."""
        raise NotImplementedError(f"{type(self).__name__} does not define feature_info")

    def run(self, x: Tensor, keep: Sequence[int], stop: int | None) -> tuple[Tensor, list[Level]]:
        """Returns the tokens before the last norm, and the kept feature levels in order.

        Args:
            x: Images (B, in_chans, H, W).
            keep: Indices of the levels to keep.
            stop: Index of the level after which to stop; None runs the whole model.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define run")

    def truncate(self, last: int) -> None:
        """Drops the modules after the feature level ``last``, except norm and head."""
        raise NotImplementedError(f"{type(self).__name__} does not define truncate")

    def add_head(
        self,
        drop_rate: float,
        norm_eps: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        """Adds norm, dropout and classifier, and draws the weights."""
        self.norm: nn.Module = nn.LayerNorm(
            self.embed_dim, eps=norm_eps, device=device, dtype=dtype
        )
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self._new_head(device, dtype)
        self.init_weights()

    def init_weights(self) -> None:
        """Draws the linear layers of the head as ViT does."""
        init_linear_layers(self.head)

    def forward_features(self, x: Tensor) -> Tensor:
        """Returns the normalized tokens after the last block, (B, 1 + N, C)."""
        tokens, _ = self.run(x, keep=(), stop=None)
        return self.norm(tokens)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits from tokens: (B, 1 + N, C) -> (B, num_classes), or (B, C) for ``pre_logits``."""
        pooled = global_pool_nlc(x, self.global_pool, num_prefix_tokens=self.num_prefix_tokens)
        features = self.head_drop(pooled)
        return features if pre_logits else self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (B, in_chans, H, W) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Returns feature levels as maps or rows, with the final features unless told otherwise.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Levels to return: None for all, a number for the last n, or their indices.
            return_prefix_tokens: Whether to pair each level with its class token, (B, P, C).
            norm: Whether to apply the last norm to each level of its width.
            stop_early: Whether to skip everything after the last level of ``indices``.
            output_fmt: "NCHW" for maps (B, C, H, W), "NLC" for rows (B, N, C).
            intermediates_only: Whether to return only the list of levels.

        Returns:
            The list, or the result of ``forward_features`` and the list.

        Raises:
            ConfigError: if the format is unknown.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ConfigError(f"output_fmt={output_fmt!r}: use 'NCHW' for maps or 'NLC' for rows")
        chosen, last = feature_take_indices(len(self.feature_info), indices)
        stop = last if stop_early or intermediates_only else None
        tokens, levels = self.run(x, keep=chosen, stop=stop)
        outputs: list[Any] = []
        for index, level in zip(sorted(set(chosen)), levels):
            if norm and index >= self.first_normed_level:
                level = level._replace(
                    prefix=self.norm(level.prefix), patches=self.norm(level.patches)
                )
            patches = level.to_map().contiguous() if output_fmt == "NCHW" else level.patches
            outputs.append((patches, level.prefix) if return_prefix_tokens else patches)
        if intermediates_only:
            return outputs
        complete = stop is None or stop >= self.first_normed_level
        return (self.norm(tokens) if complete else tokens), outputs

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drops everything that ``forward_intermediates`` does not need for some levels.

        Norm and head always go together with the levels of their width.

        Returns:
            The indices of the levels.
        """
        chosen, last = feature_take_indices(len(self.feature_info), indices)
        self.truncate(last)
        if prune_norm or last < self.first_normed_level:
            self.norm = nn.Identity()
        if prune_head or last < self.first_normed_level:
            self.reset_classifier(0, "")
        return chosen

    def get_classifier(self) -> nn.Module:
        """Returns the head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Makes a new head for another number of classes, and optionally another pooling."""
        if global_pool is not None:
            self.global_pool = _check_global_pool(global_pool)
        self.num_classes = num_classes
        parameter = next(self.parameters())
        self.head = self._new_head(parameter.device, parameter.dtype)
        init_linear_layers(self.head)
        self.head.train(self.training)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Returns the names of the parameters without weight decay."""
        names = (name for name, _ in self.named_parameters())
        return {name for name in names if name.endswith(("cls_token", "pos_embed"))}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Sets whether the backward pass recomputes activations instead of storing them."""
        for module in self.modules():
            if hasattr(module, "grad_checkpointing"):
                module.grad_checkpointing = enable  # type: ignore[assignment]

    def check_channels(self, x: Tensor) -> None:
        """Checks the shape of the input.

        Raises:
            ConfigError: if it is not (B, in_chans, H, W).
        """
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            hint = f"; create the model with in_chans={x.shape[1]}" if x.ndim == 4 else ""
            raise ConfigError(
                f"{type(self).__name__}: expected images (B, {self.in_chans}, H, W), got a tensor "
                f"of shape {tuple(x.shape)}{hint}"
            )

    def _new_head(self, device: torch.device | str | None, dtype: torch.dtype | None) -> nn.Module:
        if self.num_classes == 0:
            return nn.Identity()
        return self._make_head(self.num_features, self.num_classes, device=device, dtype=dtype)

    def _record_size(self, **size: Any) -> None:
        """Tells timm the new size, which it saves with the weights to create the same model."""
        self._model_args = {**getattr(self, "_model_args", {}), **size}
        self._traits = {**getattr(self, "_traits", {}), "img_size": size["img_size"]}


def init_linear_layers(module: nn.Module) -> None:
    """Draws ViT's linear layers: truncated normal weights of 0.02, zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def run_with_class_attention(
    blocks: Iterable[Any],
    tokens: Tensor,
    grid: Grid | None = None,
    keep: Sequence[int] = (),
    *,
    recompute: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Runs blocks and collects the class token's attention in each.

    Args:
        blocks: Blocks with ``forward_with_class_attention``.
        tokens: (B, 1 + N, C).
        grid: Height and width of the map of N patches, for blocks that convolve.
        keep: Indices of the blocks whose tokens are kept.
        recompute: Whether the backward pass recomputes the blocks.

    Returns:
        Tokens (B, 1 + N, C), attention to the patches (B, blocks, heads, M), and the kept tokens.
    """
    rows, kept = [], []
    for index, block in enumerate(blocks):
        tokens, row = run_block(
            block.forward_with_class_attention, tokens, grid, recompute=recompute
        )
        rows.append(row[..., 1:])
        if index in keep:
            kept.append(tokens)
    return tokens, torch.stack(rows, dim=1), kept


def activation_class(act_layer: str | type[nn.Module]) -> type[nn.Module]:
    """Returns a class of activations: the given one, or that of timm's name for it.

    Raises:
        ConfigError: if the name is unknown.
    """
    try:
        found = get_act_layer(act_layer)
    except KeyError:
        found = None
    if found is None:
        raise ConfigError(
            f"act_layer={act_layer!r}: use a class, or one of timm's names: 'gelu', 'relu', 'silu'"
        )
    return found


def _check_global_pool(global_pool: str) -> str:
    if global_pool not in GLOBAL_POOLS:
        raise ConfigError(f"global_pool={global_pool!r}: use one of {list(GLOBAL_POOLS)}")
    return global_pool
