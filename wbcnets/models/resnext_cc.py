"""ResNeXt-CC: a ResNeXt in HSV, with channel attention and a fusion of deep layers.

"ResNeXt-CC" for leukemia cells (C-NMC 2019), section "Methods", figures 1 to 5: images in HSV;
strided convolutions in place of pooling; efficient channel attention after each down-sampling; the
last stage's first and last maps multiplied (CFFM); average pooling and a linear classifier.

Differences from the paper:

- Attention "after each down-sampling" means here: after the strided convolution of the stem, and
  after the first block of stages 2 to 4, which is where ResNeXt down-samples.
- The strided convolution starts as the center tap of its kernel, so ImageNet weights see the maps
  that they were trained on.
- The model converts images in [0, 1] to HSV, so timm's loaders need no option of their own. Images
  of one or two channels stay unchanged.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.models import ResNet, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from wbcnets.data.cards.classes import OTHER
from wbcnets.errors import ConfigError
from wbcnets.layers.color import RgbToHsv, WhiteBalance
from wbcnets.layers.cross_layer_fusion import CrossLayerFusion
from wbcnets.layers.eca import EfficientChannelAttention
from wbcnets.models.factory import build_model, shipped_weights
from wbcnets.models.recompute import run_block

COLOR_SPACES = ("hsv", "rgb")
# The early block of each fusion; the late block is the last one
FUSIONS = {"conv5_1+conv5_3": 0, "conv5_2+conv5_3": 1, "none": None}
STAGES = ("layer1", "layer2", "layer3", "layer4")
# Acevedo et al., Data in Brief 2020: the folders of the PBC dataset, sorted
PBC_CLASSES = (
    "basophil",
    "eosinophil",
    "erythroblast",
    "ig",
    "lymphocyte",
    "monocyte",
    "neutrophil",
    "platelet",
)

_SMALL: dict[str, Any] = {
    "layers": (2, 2, 2, 2),
    "cardinality": 8,
    "base_width": 16,
    "channels": (32, 64, 128, 192),
}


class ResNeXtCC(ResNet):
    """The ResNeXt-CC: (B, in_chans, H, W) in [0, 1] -> (B, num_classes).

    Its parameters are named as in timm's ResNeXt. ``color_space="rgb"``, ``strided_stem=False``,
    ``eca=False`` and ``fusion="none"`` make it that ResNeXt.

    Args:
        layers: Blocks of each stage.
        cardinality: Groups of the 3x3 convolutions.
        base_width: Width of a group in a stage of 64 ``channels``.
        channels: A quarter of the width of each stage's maps.
        in_chans: Channels of the input.
        num_classes: Number of classes; 0 for no classifier.
        global_pool: "avg", "max", "avgmax", "catavgmax" or "".
        color_space: "hsv", or "rgb" for unchanged images (table 4).
        white_balance: Whether the channels are scaled to one background first; not from the paper,
            for images of several laboratories.
        strided_stem: Whether the stem has a strided convolution in place of max pooling.
        eca: Whether efficient channel attention follows each down-sampling (table 7).
        fusion: Maps of the last stage to multiply: "conv5_1+conv5_3", "conv5_2+conv5_3", or "none"
            for its last map alone (table 5). Conv5_3 is the last block at any depth.
        output_stride: 32, 16 or 8.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ConfigError: if a name or a size is out of range.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int] = (3, 4, 6, 3),
        cardinality: int = 32,
        base_width: int = 4,
        channels: Sequence[int] = (64, 128, 256, 512),
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        color_space: str = "hsv",
        white_balance: bool = False,
        strided_stem: bool = True,
        eca: bool = True,
        fusion: str = "conv5_1+conv5_3",
        output_stride: int = 32,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        early = _check_options(layers, channels, color_space, fusion)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(
            cast(Any, Bottleneck),
            tuple(layers),
            num_classes=num_classes,
            in_chans=in_chans,
            output_stride=output_stride,
            global_pool=global_pool,
            cardinality=cardinality,
            base_width=base_width,
            channels=tuple(channels),
            replace_stem_pool=strided_stem,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            **dd,
        )
        if strided_stem:
            nn.init.dirac_(cast(nn.Conv2d, cast(nn.Sequential, self.maxpool)[0]).weight)
        self.white_balance = WhiteBalance() if white_balance else nn.Identity()
        self.to_color_space = RgbToHsv() if color_space == "hsv" else nn.Identity()
        self.attention = nn.ModuleDict()
        if eca:
            self.attention["stem"] = EfficientChannelAttention(self._width(0), **dd)
            for level, stage in enumerate(STAGES[1:], start=2):
                self.attention[stage] = EfficientChannelAttention(self._width(level), **dd)
        self.fused_block = early
        self.fusion = None if early is None else CrossLayerFusion(self.num_features, **dd)

    def forward_features(self, x: Tensor) -> Tensor:
        """Returns the fused map: (B, in_chans, H, W) -> (B, C, H / 32, W / 32)."""
        x = self._run_pool(self._run_stem(x))
        for stage in STAGES[:-1]:
            x, _ = self._run_stage(stage, x)
        return self._fuse(*self._run_stage(STAGES[-1], x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Returns the maps of the stem and of the stages, before any fusion.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Levels to return: None for all five, a number for the last n, or their indices.
            norm: Has no effect; the maps are normalized.
            stop_early: Whether to skip everything after the last level of ``indices``.
            output_fmt: "NCHW" is the only format.
            intermediates_only: Whether to return only the list of maps.

        Returns:
            The list, or the result of ``forward_features`` and the list.

        Raises:
            ConfigError: if the format is not "NCHW".
        """
        if output_fmt != "NCHW":
            raise ConfigError(f"output_fmt={output_fmt!r}: ResNeXtCC returns 'NCHW'")
        chosen, last = feature_take_indices(1 + len(STAGES), indices)
        early = stop_early or intermediates_only
        maps = [self._run_stem(x)]
        x, fused = maps[0], None
        for level, stage in enumerate(STAGES, start=1):
            if early and level > last:
                break
            x, fused = self._run_stage(stage, self._run_pool(x) if level == 1 else x)
            maps.append(x)
        levels = [maps[index] for index in sorted(set(chosen))]
        if intermediates_only:
            return levels
        return (self._fuse(x, fused) if len(maps) == 1 + len(STAGES) else x), levels

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drops everything that ``forward_intermediates`` does not need for some levels.

        Returns:
            The indices of the levels.
        """
        chosen, last = feature_take_indices(1 + len(STAGES), indices)
        ends_early = last < len(STAGES)
        for stage in STAGES[last:]:
            setattr(self, stage, nn.Sequential())
        if last == 0:
            self.maxpool = nn.Sequential()
        for name in ("stem", *STAGES)[last and last + 1 :]:
            if name in self.attention:
                del self.attention[name]
        if prune_head or ends_early:
            self.fusion = None
            self.num_features = self._width(last)
            self.reset_classifier(0, "")
        return chosen

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns how parameters fall into layers; attention joins the block before it."""
        first_block = () if coarse else (0,)
        attention: list[Any] = [
            (rf"^attention\.{name}\.", (level, *first_block))
            for level, name in enumerate(STAGES, start=1)
        ]
        return {
            "stem": r"^conv1|^bn1|^maxpool|^attention\.stem",
            "blocks": [
                (r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)", None),
                *attention,
                (r"^fusion", (99999,)),
            ],
        }

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H, W) -> the classifier's input (B, C), or logits (B, num_classes)."""
        # The fusion's product is in float32, where the pooling does not overflow
        pooled = super().forward_head(x, pre_logits=True).to(next(self.parameters()).dtype)
        return pooled if pre_logits else self.fc(pooled)

    def _run_stem(self, x: Tensor) -> Tensor:
        return self.act1(self.bn1(self.conv1(self.to_color_space(self.white_balance(x)))))

    def _run_pool(self, x: Tensor) -> Tensor:
        x = self.maxpool(x)
        return self.attention["stem"](x) if "stem" in self.attention else x

    def _run_stage(self, name: str, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the last map of a stage, and the early map of the fusion or None."""
        fused = None
        for index, block in enumerate(getattr(self, name)):
            x = run_block(block, x, recompute=self.grad_checkpointing)
            if index == 0 and name in self.attention:
                x = self.attention[name](x)
            if name == STAGES[-1] and index == self.fused_block:
                fused = x
        return x, fused

    def _fuse(self, late: Tensor, early: Tensor | None) -> Tensor:
        if self.fusion is None or early is None:
            return late
        return self.fusion(early, late)

    def _width(self, level: int) -> int:
        return int(cast(int, self.feature_info[level]["num_chs"]))


def _check_options(
    layers: Sequence[int], channels: Sequence[int], color_space: str, fusion: str
) -> int | None:
    """Returns the early block of the fusion."""
    if color_space not in COLOR_SPACES:
        raise ConfigError(
            f"ResNeXtCC: color_space={color_space!r}: use one of {list(COLOR_SPACES)}"
        )
    if fusion not in FUSIONS:
        raise ConfigError(f"ResNeXtCC: fusion={fusion!r}: use one of {list(FUSIONS)}")
    for keyword, numbers in (("layers", layers), ("channels", channels)):
        if len(numbers) != len(STAGES) or min(numbers) < 1:
            raise ConfigError(f"ResNeXtCC: {keyword}={numbers} must be four numbers of at least 1")
    early = FUSIONS[fusion]
    if early is not None and layers[-1] < early + 2:
        raise ConfigError(
            f"ResNeXtCC: fusion={fusion!r} needs at least {early + 2} blocks in the last "
            f"stage, layers={tuple(layers)} has {layers[-1]}"
        )
    return early


def checkpoint_filter_fn(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Returns the state dict: timm's ResNeXt has the model's own names."""
    return state


def _cfg(hf_hub_id: str) -> dict[str, Any]:
    return {
        "hf_hub_id": hf_hub_id,
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "first_conv": "conv1",
        "classifier": "fc",
    }


def _small_cfg(name: str, class_names: tuple[str, ...], side: int = 112) -> dict[str, Any]:
    return {
        **_cfg(""),
        **shipped_weights(name, class_names),
        "input_size": (3, side, side),
        "pool_size": (-(-side // 32), -(-side // 32)),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
    }


default_cfgs = generate_default_cfgs(
    {
        "resnext_cc_26.pbc": _small_cfg("resnext_cc_26.pbc", PBC_CLASSES),
        "resnext_cc_26_wb.laboratories": _small_cfg(
            "resnext_cc_26_wb.laboratories", (*PBC_CLASSES, OTHER), side=80
        ),
        "resnext_cc_50.a1h_in1k": {
            **_cfg("timm/resnext50_32x4d.a1h_in1k"),
            "license": "apache-2.0",
        },
        "resnext_cc_101.gluon_in1k": {
            **_cfg("timm/resnext101_32x4d.gluon_in1k"),
            "license": "apache-2.0",
        },
        "resnext_cc_101.fb_swsl_ig1b_ft_in1k": {
            **_cfg("timm/resnext101_32x4d.fb_swsl_ig1b_ft_in1k"),
            "license": "cc-by-nc-4.0",
        },
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model(
        ResNeXtCC, variant, pretrained, checkpoint_filter_fn=checkpoint_filter_fn, **kwargs
    )


@register_model
def resnext_cc_26(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNeXt-CC of 26 layers and half the width, for CPUs; not from the paper."""
    return _create("resnext_cc_26", pretrained, **{**_SMALL, **kwargs})


@register_model
def resnext_cc_26_wb(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """``resnext_cc_26`` with white balance, for images of several laboratories."""
    size = {**_SMALL, "white_balance": True}
    return _create("resnext_cc_26_wb", pretrained, **{**size, **kwargs})


@register_model
def resnext_cc_50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNeXt-CC of 50 layers, 32x4d: the paper's model."""
    return _create("resnext_cc_50", pretrained, **{"layers": (3, 4, 6, 3), **kwargs})


@register_model
def resnext_cc_101(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNeXt-CC of 101 layers, 32x4d (table 3)."""
    return _create("resnext_cc_101", pretrained, **{"layers": (3, 4, 23, 3), **kwargs})
