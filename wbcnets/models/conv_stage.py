"""A stage of the convolutional sparse ViT: token embedding, blocks, sparse attention in the last.

Wang et al., "Analysis of Blood Cell Image Recognition Methods Based on Improved CNN and Vision
Transformer", figures 1 and 2, equations 8 to 15.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from timm.layers import DropPath, resample_abs_pos_embed_nhwc, trunc_normal_
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.layers.conv_attention import ConvAttention
from wbcnets.layers.conv_embed import ConvEmbed
from wbcnets.layers.sparse_attention import SparseAttention
from wbcnets.layers.token_map import map_to_tokens, tokens_to_map
from wbcnets.models.recompute import recompute

Grid = tuple[int, int]

# Kernel, stride and padding of the stages' token embeddings (table 5; the padding is CvT's)
EMBEDDINGS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
LAST = len(EMBEDDINGS) - 1


class ConvBlock(nn.Module):
    """Convolutional attention and an MLP, each with a norm before and a residual.

    Args:
        attn: The attention, of width C.
        mlp: What follows it, (B, N, C) -> (B, N, C).
        dim: C.
        drop_path: Rate at which a sample passes a residual branch by, in training.
        device: Where the parameters are made.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        attn: ConvAttention,
        mlp: nn.Module,
        dim: int,
        drop_path: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.attn = attn
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.mlp = mlp
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor, grid: Grid | None) -> Tensor:
        """Returns the tokens after the block, (B, P + N, C); see `ConvAttention` for the grid."""
        return self._add(x, self.attn(self.norm1(x), grid))

    def forward_with_class_attention(self, x: Tensor, grid: Grid | None) -> tuple[Tensor, Tensor]:
        """Returns the tokens after the block, and what the first token attends to.

        Returns:
            Tokens (B, P + N, C), and attention (B, heads, P + M) over the keys.
        """
        attended, attention = self.attn.forward_with_class_attention(self.norm1(x), grid)
        return self._add(x, attended), attention

    def _add(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.drop_path1(attended)
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class ConvStage(nn.Module):
    """One stage: (B, in_chans, H, W) -> tokens (B, P + N, C) and their map (B, C, H', W').

    Args:
        embed: Makes the map of tokens.
        blocks: The blocks, of the embedding's width C.
        sparse_attention: If given, the last block sees only what this keeps.
        class_token: Whether a class token joins the tokens (P = 1, else 0).
        position_size: Height and width of a learned position embedding; None for none. It is
            resampled for other maps.
        device: Where the parameters are made.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        embed: ConvEmbed,
        blocks: Sequence[ConvBlock],
        sparse_attention: SparseAttention | None = None,
        class_token: bool = False,
        position_size: Grid | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.dim = embed.embed_dim
        self.num_prefix_tokens = int(class_token)
        self.grad_checkpointing = False
        self.embed = embed
        self.cls_token: nn.Parameter | None = None
        self.pos_embed: nn.Parameter | None = None
        if class_token:
            token = torch.zeros(1, 1, self.dim, device=device, dtype=dtype)
            self.cls_token = nn.Parameter(trunc_normal_(token, std=0.02))
        if position_size is not None:
            positions = torch.zeros(1, *position_size, self.dim, device=device, dtype=dtype)
            self.pos_embed = nn.Parameter(trunc_normal_(positions, std=0.02))
        self.blocks = nn.ModuleList(blocks)
        self.sparse_attention = sparse_attention

    def forward(self, x: Tensor, whole: bool = True) -> tuple[Tensor, Tensor]:
        """Runs the stage.

        Args:
            x: (B, in_chans, H, W).
            whole: Run the sparse attention module and the last block too, where there is one.

        Returns:
            The tokens, (B, P + N, C), or (B, P + heads, C) after sparse attention; and the map
            (B, C, H', W') of the last tokens that still are one.
        """
        tokens, grid = self._embed_tokens(x)
        if self.sparse_attention is None:
            for module in self.blocks:
                tokens = self._run(module, module, tokens, grid)
            return tokens, self._to_map(tokens, grid)
        tokens, attention = self._run_early_blocks(tokens, grid)
        level = self._to_map(tokens, grid)
        if whole:
            tokens, _ = self.sparse_attention(self._candidates(tokens, grid), attention)
            tokens = self._run(self.blocks[-1], self.blocks[-1], tokens, None)
        return tokens, level

    def choose_patches(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Which tokens of the map sparse attention keeps: (B, in_chans, H, W) -> (B, heads).

        Returns:
            Places in the rows of the map, and the map's height and width.
        """
        sparse = cast(SparseAttention, self.sparse_attention)
        tokens, grid = self._embed_tokens(x)
        tokens, attention = self._run_early_blocks(tokens, grid)
        indices = sparse(self._candidates(tokens, grid), attention)[1]
        stride = self._key_stride
        keys_in_row = (grid[1] - 1) // stride + 1
        rows = torch.div(indices, keys_in_row, rounding_mode="floor")
        return rows * stride * grid[1] + indices % keys_in_row * stride, grid

    def drop_sparse_attention(self) -> None:
        """Takes the module and the block after it away, if there is one; the map needs neither."""
        if self.sparse_attention is not None:
            self.sparse_attention = None
            self.blocks = self.blocks[:-1]

    def resize_positions(self, size: Grid) -> None:
        """Resamples the position embedding, if there is one, for a map of another size."""
        if self.pos_embed is not None:
            resampled = resample_abs_pos_embed_nhwc(self.pos_embed.detach(), list(size))
            self.pos_embed = nn.Parameter(resampled, self.pos_embed.requires_grad)

    @property
    def _key_stride(self) -> int:
        return cast(ConvBlock, self.blocks[0]).attn.kv_stride

    def _embed_tokens(self, x: Tensor) -> tuple[Tensor, Grid]:
        x = self.embed(x)
        grid = (x.shape[2], x.shape[3])
        tokens = map_to_tokens(x)
        if self.pos_embed is not None:
            tokens = tokens + resample_abs_pos_embed_nhwc(self.pos_embed, list(grid)).flatten(1, 2)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return tokens, grid

    def _run_early_blocks(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """All blocks but the last.

        Returns:
            Tokens (B, 1 + N, C), and the class token's attention (B, blocks, heads, M) to the keys.
        """
        rows = []
        for module in list(self.blocks)[:-1]:
            block = cast(ConvBlock, module)
            tokens, row = self._run(block, block.forward_with_class_attention, tokens, grid)
            rows.append(row[..., 1:])
        return tokens, torch.stack(rows, dim=1)

    def _candidates(self, tokens: Tensor, grid: Grid) -> Tensor:
        """The class token, and the tokens on which a key is centerd: (B, 1 + M, C)."""
        stride = self._key_stride
        centers = self._to_map(tokens, grid)[:, :, ::stride, ::stride]
        return torch.cat([tokens[:, :1], map_to_tokens(centers)], dim=1)

    def _to_map(self, tokens: Tensor, grid: Grid) -> Tensor:
        return tokens_to_map(tokens[:, self.num_prefix_tokens :], grid)

    def _run(self, block: nn.Module, function: Callable[..., Any], *inputs: Any) -> Any:
        return recompute(block, function, *inputs) if self.grad_checkpointing else function(*inputs)


def map_sizes(embeds: Sequence[ConvEmbed], img_size: Grid) -> list[Grid]:
    """Height and width of each stage's map.

    Raises:
        ConfigError: The image is so small that a map is empty.
    """
    sizes: list[Grid] = []
    for embed in embeds:
        sizes.append(embed.output_size(*(sizes[-1] if sizes else img_size)))
    if min(map(min, sizes)) < 1:
        raise ConfigError(f"img_size={img_size} is too small; use 3 or more")
    return sizes


def drop_path_rates(depths: Sequence[int], largest: float) -> list[list[float]]:
    """The rate of each block, by stage; it rises linearly over all of them."""
    steps = max(1, sum(depths) - 1)
    starts = [sum(depths[:stage]) for stage in range(len(depths))]
    return [
        [largest * block / steps for block in range(start, start + depth)]
        for start, depth in zip(starts, depths)
    ]


def check_stage_sizes(
    in_chans: int, num_classes: int, per_stage: Sequence[Sequence[int]], sparse_attention: bool
) -> None:
    """Checks what is given per stage: widths, depths and heads.

    Raises:
        ConfigError: A number is out of range.
    """
    shown = "embed_dims={}, depths={}, num_heads={}".format(*(tuple(each) for each in per_stage))
    if any(len(each) != len(EMBEDDINGS) or min(each) < 1 for each in per_stage):
        raise ConfigError(
            f"ConvSparseViT: there are {len(EMBEDDINGS)} stages, each with a number of at least 1 "
            f"in embed_dims, depths and num_heads; got {shown}"
        )
    if in_chans < 1 or num_classes < 0:
        raise ConfigError(
            "ConvSparseViT: in_chans must be at least 1 and num_classes at least 0, got "
            f"in_chans={in_chans}, num_classes={num_classes}"
        )
    if sparse_attention and per_stage[1][LAST] < 2:
        raise ConfigError(
            f"ConvSparseViT: {shown} leaves no block before the sparse attention module in the "
            "last stage; use two or more there, or sparse_attention=False"
        )


def make_embeds(in_chans: int, embed_dims: Sequence[int], **factory: Any) -> list[ConvEmbed]:
    """The token embedding of each stage; `factory` has the device and the type."""
    return [
        ConvEmbed(chans, dim, *shape, **factory)
        for chans, dim, shape in zip((in_chans, *embed_dims), embed_dims, EMBEDDINGS)
    ]
