"""Convolutional sparse ViT: three convolutional stages, the last block on chosen patches only.

Wang et al., "Analysis of Blood Cell Image Recognition Methods Based on Improved CNN and Vision
Transformer", section 3, figure 1, table 5. Without the sparse attention module, and with 3 heads in
the second stage, it is CvT-13 (Wu et al., arXiv:2103.15808), whose weights it takes.

Differences from the paper:
- Table 5 has 2 heads in the second stage, CvT-13's weights were trained with 3: those need
  ``num_heads=(1, 3, 6)``.
- Blocks normalize before attention and MLP, as CvT, not after them as equations 10 and 11 are
  printed; the activation is GELU where equation 9 has ReLU (``act_layer="relu"``).
- Attention is scaled by a stage's width, as CvT, not by that of a head as in equation 6
  (``attention_scale="head_dim"``).
- Keys have stride 2, so that the class token attends to every second row and column of the last
  stage's map: of the token on which the chosen key's kernel is centerd, the paper's text holds.
- What the module keeps is no map any more: the last block's convolutions see each token alone. For
  strided keys this equals the kept tokens in a map of zeros, in which they are never neighbors.
- See `wbcnets.layers.sparse_attention` for the module itself.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import Mlp, to_2tuple
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.layers.conv_attention import ConvAttention
from wbcnets.layers.sparse_attention import SparseAttention
from wbcnets.layers.token_map import map_to_tokens
from wbcnets.models.activation import find_activation
from wbcnets.models.conv_stage import (
    LAST,
    ConvBlock,
    ConvStage,
    Grid,
    check_stage_sizes,
    drop_path_rates,
    make_embeds,
    map_sizes,
)
from wbcnets.models.cvt_weights import checkpoint_filter_fn
from wbcnets.models.factory import build_model
from wbcnets.models.features import take_indices
from wbcnets.models.tokens import (
    check_global_pool,
    check_output_format,
    pool_tokens,
)
from wbcnets.models.vision_transformer import init_linear_layers

_POSITIONS = {None: (), "every": (0, 1, 2), "first": (0,), "last": (2,)}


class ConvSparseViT(nn.Module):
    """Classifier of three convolutional stages: (B, in_chans, H, W) -> (B, num_classes).

    Takes images of any size; strides of the stages' maps are 4, 8 and 16.

    Args:
        img_size: Height and width of the input, for the size of position embeddings.
        in_chans: Channels of the input.
        num_classes: Classes; 0 for no classifier.
        global_pool: "token", "avg", "max", "avgmax" or "", over the tokens after the last block.
        embed_dims: Width of a token in each stage.
        depths: Blocks of each stage.
        num_heads: Heads of each stage; CvT-13's weights need (1, 3, 6).
        mlp_ratio: The MLP's inner width over the stage's.
        qkv_bias: Whether queries, keys and values have a bias.
        act_layer: Activation of the MLP: a class, or timm's name for one.
        sparse_attention: Whether the last block sees only the class token and one patch per head.
        position_embedding: In which stages a learned position embedding is added (table 1): None,
            "every", "first" or "last".
        attention_scale: "embed_dim" as CvT's weights, "head_dim" as equation 6.
        drop_rate: Dropout before the head.
        proj_drop_rate: Dropout of the attention's and the MLP's output.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Rate of dropped paths of the last block; it rises linearly.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ConfigError: A size or a name is out of range.
    """

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
        super().__init__()
        check_stage_sizes(in_chans, num_classes, (embed_dims, depths, num_heads), sparse_attention)
        if position_embedding not in _POSITIONS:
            raise ConfigError(
                f"ConvSparseViT: position_embedding={position_embedding!r}: use one of "
                f"{list(_POSITIONS)}"
            )
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        activation = find_activation(act_layer)

        def make_block(place: int, drop_path: float) -> ConvBlock:
            dim = embed_dims[place]
            attn = ConvAttention(
                dim,
                num_heads[place],
                qkv_bias=qkv_bias,
                num_prefix_tokens=int(place == LAST),
                scale_by=attention_scale,
                attn_drop=attn_drop_rate,
                proj_drop=proj_drop_rate,
                **factory,
            )
            mlp = Mlp(
                dim, int(dim * mlp_ratio), act_layer=activation, drop=proj_drop_rate, **factory
            )
            return ConvBlock(attn, mlp, dim, drop_path, **factory)

        self.img_size: Grid = to_2tuple(img_size)
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.global_pool = check_global_pool(global_pool)
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dims[LAST]
        self.num_prefix_tokens = 1
        embeds = make_embeds(in_chans, embed_dims, **factory)
        sizes = map_sizes(embeds, self.img_size)
        stages = []
        for place, rates in enumerate(drop_path_rates(depths, drop_path_rate)):
            stages.append(
                ConvStage(
                    embeds[place],
                    [make_block(place, rate) for rate in rates],
                    SparseAttention(depths[place] - 1, **factory)
                    if sparse_attention and place == LAST
                    else None,
                    class_token=place == LAST,
                    position_size=sizes[place] if place in _POSITIONS[position_embedding] else None,
                    **factory,
                )
            )
        self.stages = nn.ModuleList(stages)
        self.norm: nn.Module = nn.LayerNorm(self.num_features, **factory)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self._new_head(device, dtype)
        self.feature_info = self._describe_features()
        self.init_weights()

    def init_weights(self) -> None:
        """Draws the linear layers of blocks and head as ViT does."""
        for stage in self._typed_stages():
            init_linear_layers(stage.blocks)
        init_linear_layers(self.head)

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalized tokens after the last block.

        Returns:
            (B, 1 + heads, C), the class token first; (B, 1 + N, C) without sparse attention.
        """
        tokens, _ = self._run_stages(x)
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
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps of chosen stages; the last one's is that before sparse attention.

        Args:
            x: Images (B, in_chans, H, W).
            indices: The stages: all where None, the last n where a number, else their places.
            norm: Apply the last norm to the last stage's map; no other has its width.
            stop_early: Do not run what comes after the last chosen map.
            output_fmt: "NCHW" for maps (B, C, H, W), "NLC" for rows (B, N, C).
            intermediates_only: Return the list alone.

        Returns:
            The list, or the result of `forward_features` and the list.

        Raises:
            ConfigError: A stage that does not exist, or an unknown format, is asked for.
        """
        check_output_format(output_fmt)
        places, last = take_indices(len(self.stages), indices)
        early = stop_early or intermediates_only
        tokens, maps = self._run_stages(x, stop=last if early else None)
        outputs = []
        for place in sorted(set(places)):
            level = maps[place]
            if norm and place == LAST:
                level = self.norm(level.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            outputs.append(map_to_tokens(level) if output_fmt == "NLC" else level.contiguous())
        if intermediates_only:
            return outputs
        # Tokens of an earlier stage are of another width than the norm
        complete = len(maps) == LAST + 1
        return (self.norm(tokens) if complete else tokens), outputs

    def choose_patches(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Which tokens of the last stage's map the last block sees, one per head.

        Args:
            x: Images (B, in_chans, H, W).

        Returns:
            Places in the rows of the map (B, heads), and the map's height and width.

        Raises:
            ConfigError: The model has no sparse attention module.
        """
        *earlier, last = self._typed_stages()
        if last.sparse_attention is None:
            raise ConfigError("ConvSparseViT: no patches are chosen with sparse_attention=False")
        self._check_input(x)
        for stage in earlier:
            _, x = stage(x)
        return last.choose_patches(x)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drops what `forward_intermediates` does not need: stages, sparse attention, norm, head.

        Norm and head go in any case where the last stage goes, whose width they have.

        Returns:
            The places of the stages that were asked for.
        """
        places, last = take_indices(len(self.stages), indices)
        self.stages = self.stages[: last + 1]
        self.feature_info = self.feature_info[: last + 1]
        kept = self._typed_stages()[-1]
        kept.drop_sparse_attention()
        self.num_prefix_tokens = kept.num_prefix_tokens
        self.num_features = self.head_hidden_size = self.embed_dim = kept.dim
        if prune_norm or last < LAST:
            self.norm = nn.Identity()
        if prune_head or last < LAST:
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
        weight = self._typed_stages()[0].embed.proj.weight
        self.head = self._new_head(weight.device, weight.dtype)
        init_linear_layers(self.head)
        self.head.train(self.training)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Changes the size of images that position embeddings are for; these are resampled."""
        self.img_size = to_2tuple(img_size)
        stages = self._typed_stages()
        sizes = map_sizes([stage.embed for stage in stages], self.img_size)
        for stage, size in zip(stages, sizes):
            stage.resize_positions(size)
        # What timm writes beside the weights, to make the same model again
        made_with = {"img_size": self.img_size}
        self._model_args = {**getattr(self, "_model_args", {}), **made_with}
        self._traits = {**getattr(self, "_traits", {}), **made_with}

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay leaves alone."""
        names = (name for name, _ in self.named_parameters())
        return {name for name in names if name.endswith(("cls_token", "pos_embed"))}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How parameters fall into layers; what precedes a stage's blocks stands with the first."""
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

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Makes activations anew in the backward pass instead of keeping them."""
        for stage in self._typed_stages():
            stage.grad_checkpointing = enable

    def _run_stages(self, x: Tensor, stop: int | None = None) -> tuple[Tensor, list[Tensor]]:
        """Runs the stages, or those up to `stop`, and of that one only what its map needs."""
        self._check_input(x)
        tokens, maps = x, []
        for place, stage in enumerate(self._typed_stages()):
            tokens, x = stage(x, whole=place != stop)
            maps.append(x)
            if place == stop:
                break
        return tokens, maps

    def _typed_stages(self) -> list[ConvStage]:
        return cast(list[ConvStage], list(self.stages))

    def _new_head(self, device: torch.device | str | None, dtype: torch.dtype | None) -> nn.Module:
        if self.num_classes == 0:
            return nn.Identity()
        return nn.Linear(self.num_features, self.num_classes, device=device, dtype=dtype)

    def _describe_features(self) -> list[dict[str, Any]]:
        features = []
        reduction = 1
        for place, stage in enumerate(self._typed_stages()):
            reduction *= stage.embed.stride
            features.append(
                {"module": f"stages.{place}", "num_chs": stage.dim, "reduction": reduction}
            )
        return features

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise ConfigError(
                f"ConvSparseViT: expected images (B, {self.in_chans}, H, W), got a tensor of shape "
                f"{tuple(x.shape)}; create the model with in_chans={x.shape[1:2]}"
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
