"""Convolutional sparse ViT: three convolutional stages, the last block on chosen patches only.

Wang et al., "Analysis of Blood Cell Image Recognition Methods Based on Improved CNN and Vision
Transformer", section 3, figures 1 and 2, equations 1 to 15, table 5. Without the sparse attention
module, and with 3 heads in the second stage, it is CvT-13 (Wu et al., "CvT: Introducing
Convolutions to Vision Transformers", arXiv:2103.15808), whose weights it loads.

Differences from the paper:

- Table 5 has 2 heads in the second stage. CvT-13's weights were trained with 3 and need
  ``num_heads=(1, 3, 6)``.
- Blocks normalize before attention and MLP, like CvT, not after them as equations 10 and 11 are
  printed. The activation is GELU where equation 9 has ReLU (``act_layer="relu"``).
- Attention is scaled by the width of a stage, like CvT, not by that of a head as in equation 6
  (``attention_scale="head_dim"``).
- Keys have stride 2, so the class token attends to every second row and column of the last stage's
  map. The token that is kept is the one at the center of the chosen key's kernel.
- The tokens that the module keeps form no map, so the last block convolves each token alone. For
  strided keys this equals the kept tokens in a map of zeros, in which they are never neighbors.
- See ``wbcnets.layers.sparse_attention`` for the module itself.
"""

import logging
import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import (
    Mlp,
    calculate_drop_path_rates,
    resample_abs_pos_embed_nhwc,
    to_2tuple,
    trunc_normal_,
)
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.layers.conv_attention import ConvAttention
from wbcnets.layers.conv_embed import ConvEmbed
from wbcnets.layers.self_attention import Grid
from wbcnets.layers.sparse_attention import SparseAttention
from wbcnets.layers.token_map import map_to_tokens
from wbcnets.layers.transformer_block import Block
from wbcnets.models.factory import build_model
from wbcnets.models.recompute import run_block
from wbcnets.models.token_classifier import (
    Level,
    TokenClassifier,
    activation_class,
    init_linear_layers,
    run_with_class_attention,
)

# Kernel, stride and padding of the stages' token embeddings (table 5; the padding is CvT's)
EMBEDDINGS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
LAST = len(EMBEDDINGS) - 1
# Stages with a position embedding (table 1)
POSITIONS = {None: (), "every": (0, 1, 2), "first": (0,), "last": (2,)}
CVT_HEADS = (1, 3, 6)

logger = logging.getLogger(__name__)


class ConvStage(nn.Module):
    """One stage: token embedding, blocks, and sparse attention before the last block if given.

    Args:
        embed: Makes the map of tokens.
        blocks: Blocks with ``ConvAttention``, of the embedding's width C.
        sparse_attention: If given, the last block sees only the tokens that this keeps.
        class_token: Whether a class token joins the tokens (P = 1, else 0).
        position_size: Height and width of a learned position embedding, or None. It is resampled
            for maps of other sizes.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        embed: ConvEmbed,
        blocks: Sequence[Block],
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

    def forward(self, x: Tensor, whole: bool = True) -> tuple[Tensor, Level]:
        """Runs the stage.

        Args:
            x: (B, in_chans, H, W).
            whole: Whether to run the sparse attention module and the last block too.

        Returns:
            The tokens, (B, P + N, C), or (B, P + heads, C) after sparse attention; and the last
            tokens that form a map.
        """
        tokens, grid = self._embed_tokens(x)
        if self.sparse_attention is None:
            for block in self.blocks:
                tokens = run_block(block, tokens, grid, recompute=self.grad_checkpointing)
            return tokens, self._level(tokens, grid)
        tokens, attention = self._run_early_blocks(tokens, grid)
        level = self._level(tokens, grid)
        if whole:
            tokens, _ = self.sparse_attention(self._candidates(level), attention)
            tokens = run_block(self.blocks[-1], tokens, None, recompute=self.grad_checkpointing)
        return tokens, level

    def choose_patches(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Returns the tokens that sparse attention keeps: (B, in_chans, H, W) -> (B, heads).

        Returns:
            Row-major indices into the map, and the map's height and width.
        """
        sparse = cast(SparseAttention, self.sparse_attention)
        tokens, grid = self._embed_tokens(x)
        tokens, attention = self._run_early_blocks(tokens, grid)
        indices = sparse(self._candidates(self._level(tokens, grid)), attention)[1]
        stride = self._key_stride
        keys_in_row = (grid[1] - 1) // stride + 1
        rows = torch.div(indices, keys_in_row, rounding_mode="floor")
        return rows * stride * grid[1] + indices % keys_in_row * stride, grid

    def drop_sparse_attention(self) -> None:
        """Removes the module, if there is one, and the block after it; no map needs them."""
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
        return cast(ConvAttention, cast(Block, self.blocks[0]).attn).kv_stride

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
        """Returns the tokens before the last block, and the attention (B, blocks, heads, M)."""
        early = list(self.blocks)[:-1]
        return run_with_class_attention(early, tokens, grid, recompute=self.grad_checkpointing)[:2]

    def _candidates(self, level: Level) -> Tensor:
        """Returns the class token and the tokens at the centers of the keys, (B, 1 + M, C)."""
        stride = self._key_stride
        return torch.cat(
            [level.prefix, map_to_tokens(level.to_map()[:, :, ::stride, ::stride])], dim=1
        )

    def _level(self, tokens: Tensor, grid: Grid) -> Level:
        prefix = self.num_prefix_tokens
        return Level(tokens[:, :prefix], tokens[:, prefix:], grid)


class ConvSparseViT(TokenClassifier):
    """Classifier of three convolutional stages: (B, in_chans, H, W) -> (B, num_classes).

    Accepts images of any size; the strides of the stages' maps are 4, 8 and 16.

    Args:
        img_size: Height and width of the input, for the size of position embeddings.
        in_chans: Channels of the input.
        num_classes: Number of classes; 0 for no classifier.
        global_pool: "token", "avg", "max", "avgmax" or "", over the tokens after the last block.
        embed_dims: Width of a token in each stage.
        depths: Blocks of each stage.
        num_heads: Heads of each stage; CvT-13's weights need (1, 3, 6).
        mlp_ratio: Inner width of the MLP over that of the stage.
        qkv_bias: Whether queries, keys and values have a bias.
        act_layer: Activation of the MLP: a class, or timm's name for one.
        sparse_attention: Whether the last block sees only the class token and one patch per head.
        position_embedding: Stages with a learned position embedding (table 1): None, "every",
            "first" or "last".
        attention_scale: "embed_dim" like CvT's weights, "head_dim" as in equation 6.
        drop_rate: Dropout before the head.
        proj_drop_rate: Dropout of the attention's and the MLP's output.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if a size or a name is out of range.
    """

    first_normed_level = LAST

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        embed_dims: Sequence[int] = (64, 192, 384),
        depths: Sequence[int] = (1, 2, 10),
        num_heads: Sequence[int] = (1, 2, 6),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        act_layer: str | type[nn.Module] = nn.GELU,
        sparse_attention: bool = True,
        position_embedding: str | None = None,
        attention_scale: str = "embed_dim",
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_stages(embed_dims, depths, num_heads, sparse_attention, position_embedding)
        super().__init__(in_chans, num_classes, global_pool, embed_dims[LAST])
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        act_layer = activation_class(act_layer)

        def make_block(stage: int, drop_path: float) -> Block:
            dim = embed_dims[stage]
            attn = ConvAttention(
                dim,
                num_heads[stage],
                qkv_bias=qkv_bias,
                num_prefix_tokens=int(stage == LAST),
                scale_by=attention_scale,
                attn_drop=attn_drop_rate,
                proj_drop=proj_drop_rate,
                **dd,
            )
            mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=proj_drop_rate, **dd)
            return Block(dim, attn, mlp, drop_path, norm_eps=1e-5, **dd)

        self.img_size: Grid = to_2tuple(img_size)
        embeds = _make_embeds(in_chans, embed_dims, **dd)
        sizes = _map_sizes(embeds, self.img_size)
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.stages = nn.ModuleList(
            ConvStage(
                embed,
                [make_block(stage, rate) for rate in rates[stage]],
                SparseAttention(depths[stage] - 1, **dd)
                if sparse_attention and stage == LAST
                else None,
                class_token=stage == LAST,
                position_size=sizes[stage] if stage in POSITIONS[position_embedding] else None,
                **dd,
            )
            for stage, embed in enumerate(embeds)
        )
        self.add_head(drop_rate, 1e-5, **dd)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Module, channels and stride of each stage."""
        features = []
        stride = 1
        for index, stage in enumerate(self._typed_stages()):
            stride *= stage.embed.stride
            features.append(
                {"module": f"stages.{index}", "num_chs": stage.dim, "reduction": stride}
            )
        return features

    def init_weights(self) -> None:
        """Draws the linear layers of blocks and head as ViT does."""
        for stage in self._typed_stages():
            init_linear_layers(stage.blocks)
        super().init_weights()

    def run(self, x: Tensor, keep: Sequence[int], stop: int | None) -> tuple[Tensor, list[Level]]:
        """See ``TokenClassifier``; the levels are the stages, the last one before its last block.

        Of the stage ``stop``, only what its level needs runs.
        """
        self.check_channels(x)
        tokens, levels = x, []
        for index, stage in enumerate(self._typed_stages()):
            tokens, level = stage(x, whole=index != stop)
            if index in keep:
                levels.append(level)
            if index == stop:
                break
            x = level.to_map()
        return tokens, levels

    def truncate(self, last: int) -> None:
        """Drops the stages after the index ``last``, and sparse attention."""
        self.stages = self.stages[: last + 1]
        kept = self._typed_stages()[-1]
        kept.drop_sparse_attention()
        self.num_prefix_tokens = kept.num_prefix_tokens
        self.num_features = self.head_hidden_size = self.embed_dim = kept.dim

    def choose_patches(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Returns the tokens of the last stage's map that the last block sees, one per head.

        Args:
            x: Images (B, in_chans, H, W).

        Returns:
            Row-major indices into the map (B, heads), and the map's height and width.

        Raises:
            ConfigError: if the model has no sparse attention module.
        """
        *earlier, last = self._typed_stages()
        if last.sparse_attention is None:
            raise ConfigError("ConvSparseViT: no patches are chosen with sparse_attention=False")
        self.check_channels(x)
        for stage in earlier:
            x = stage(x)[1].to_map()
        return last.choose_patches(x)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Changes the size of images and resamples the position embeddings."""
        self.img_size = to_2tuple(img_size)
        stages = self._typed_stages()
        sizes = _map_sizes([stage.embed for stage in stages], self.img_size)
        for stage, size in zip(stages, sizes):
            stage.resize_positions(size)
        self._record_size(img_size=self.img_size)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns how parameters fall into layers; a stage's embedding joins its first block."""
        if coarse:
            return {"blocks": [(r"^stages\.(\d+)", None), (r"^norm", (99999,))]}
        last_block = len(self._typed_stages()[-1].blocks) - 1
        return {
            "stem": r"^stages\.0\.(?:embed|pos_embed)",
            "blocks": [
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^stages\.(\d+)\.sparse_attention", (last_block,)),
                (r"^stages\.(\d+)\.", (0,)),
                (r"^norm", (99999,)),
            ],
        }

    def _typed_stages(self) -> list[ConvStage]:
        return cast(list[ConvStage], list(self.stages))


def _make_embeds(in_chans: int, embed_dims: Sequence[int], **dd: Any) -> list[ConvEmbed]:
    return [
        ConvEmbed(chans, dim, *shape, **dd)
        for chans, dim, shape in zip((in_chans, *embed_dims), embed_dims, EMBEDDINGS)
    ]


def _map_sizes(embeds: Sequence[ConvEmbed], img_size: Grid) -> list[Grid]:
    """Returns height and width of each stage's map."""
    sizes: list[Grid] = []
    for embed in embeds:
        sizes.append(embed.output_size(*(sizes[-1] if sizes else img_size)))
    if min(map(min, sizes)) < 1:
        raise ConfigError(f"img_size={img_size} is too small; use 3 or more")
    return sizes


def _check_stages(
    embed_dims: Sequence[int],
    depths: Sequence[int],
    num_heads: Sequence[int],
    sparse_attention: bool,
    position_embedding: str | None,
) -> None:
    shown = f"embed_dims={tuple(embed_dims)}, depths={tuple(depths)}, num_heads={tuple(num_heads)}"
    per_stage = (embed_dims, depths, num_heads)
    if any(len(each) != len(EMBEDDINGS) or min(each) < 1 for each in per_stage):
        raise ConfigError(
            f"ConvSparseViT: embed_dims, depths and num_heads need a number of at least 1 for each "
            f"of the {len(EMBEDDINGS)} stages; got {shown}"
        )
    if sparse_attention and depths[LAST] < 2:
        raise ConfigError(
            f"ConvSparseViT: {shown} leaves no block before the sparse attention module in the "
            "last stage; use two or more there, or sparse_attention=False"
        )
    if position_embedding not in POSITIONS:
        raise ConfigError(
            f"ConvSparseViT: position_embedding={position_embedding!r}: use one of "
            f"{list(POSITIONS)}"
        )


# Patterns in the names of either CvT code, and their replacements
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
    """Returns CvT's tensors under the model's names, with position embeddings of its sizes.

    Accepts the names of transformers (``microsoft/cvt-13``), of the original code, and the model's.
    """
    renamed = {_rename(name): tensor for name, tensor in state.items()}
    if renamed.keys() != state.keys():
        _warn_of_other_heads(cast(ConvSparseViT, model))
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


def _warn_of_other_heads(model: ConvSparseViT) -> None:
    stages: list[Any] = list(model.stages)
    heads = tuple(stage.blocks[0].attn.num_heads for stage in stages)
    if heads != CVT_HEADS[: len(heads)]:
        logger.warning(
            "CvT's weights were trained with num_heads=%s; with %s they compute another function",
            CVT_HEADS,
            heads,
        )


_cfg = {
    "hf_hub_id": "microsoft/cvt-13",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": None,
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "stages.0.embed.proj",
    "classifier": "head",
    "license": "apache-2.0",
}

default_cfgs = generate_default_cfgs({"conv_sparse_vit_13.cvt_in1k": _cfg})


@register_model
def conv_sparse_vit_13(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Convolutional sparse ViT of 1, 2 and 10 blocks: the paper's model (table 5)."""
    if kwargs.get("features_only"):
        kwargs.setdefault("out_indices", (0, 1, 2))
    return build_model(
        ConvSparseViT,
        "conv_sparse_vit_13",
        pretrained,
        checkpoint_filter_fn=checkpoint_filter_fn,
        **kwargs,
    )
