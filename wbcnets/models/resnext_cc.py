"""ResNeXt-CC: a ResNeXt in HSV, with channel attention and a fusion of deep layers.

"ResNeXt-CC" for leukemia cells (C-NMC 2019), section "Methods", figures 1 to 5: images in HSV;
strided convolutions in place of pooling; efficient channel attention after each down-sampling; the
last stage's first and last maps multiplied (CFFM); average pooling and a linear classifier.

Differences from the paper:

* Its attention stands after each down-sampling: here, after the strided convolution of the stem and
  after the first block of stages 2 to 4, which is where ResNeXt down-samples.
* The strided convolution starts as the center tap of its kernel, so that ImageNet's weights find
  behind it what they know.
* Images come in [0, 1] and are turned to HSV inside the model, so that timm's loaders need no
  option of their own. Images of one or two channels stay as they are.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.models import ResNet, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.layers.cross_layer_fusion import CrossLayerFusion
from wbcnets.layers.eca import EfficientChannelAttention
from wbcnets.layers.rgb_to_hsv import RgbToHsv
from wbcnets.models.factory import build_model
from wbcnets.models.features import take_indices
from wbcnets.models.recompute import recompute
from wbcnets.models.shipped import PBC_CLASSES, shipped_weights

COLOR_SPACES = ("hsv", "rgb")
FUSIONS = {"conv5_1+conv5_3": 0, "conv5_2+conv5_3": 1, "none": None}
STAGES = ("layer1", "layer2", "layer3", "layer4")


class ResNeXtCC(ResNet):
    """The ResNeXt-CC: (B, in_chans, H, W) in [0, 1] -> (B, num_classes).

    Its parameters are named as in timm's ResNeXt. ``color_space="rgb"``, ``strided_stem=False``,
    ``eca=False`` and ``fusion="none"`` make it that ResNeXt.

    Args:
        layers: Blocks of each stage.
        cardinality: Groups of the 3x3 convolutions.
        base_width: Width of a group in the first stage, where its channels are 64.
        channels: A quarter of the width of each stage's maps.
        in_chans: Channels of the input.
        num_classes: Classes; 0 for no classifier.
        global_pool: "avg", "max", "avgmax", "catavgmax" or "".
        color_space: "hsv", or "rgb" for images as they come (table 4).
        strided_stem: A strided convolution in the stem, in place of max pooling.
        eca: Efficient channel attention after each down-sampling (table 7).
        fusion: Which maps of the last stage are multiplied: "conv5_1+conv5_3", "conv5_2+conv5_3",
            or "none" for its last map alone (table 5). Conv5_3 is the last block in any case.
        output_stride: 32, 16 or 8.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Rate of dropped paths of the last block; it rises linearly.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ConfigError: A name or a size is out of range.
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
        strided_stem: bool = True,
        eca: bool = True,
        fusion: str = "conv5_1+conv5_3",
        output_stride: int = 32,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if color_space not in COLOR_SPACES:
            raise ConfigError(
                f"ResNeXtCC: color_space={color_space!r}: use one of {list(COLOR_SPACES)}"
            )
        if fusion not in FUSIONS:
            raise ConfigError(f"ResNeXtCC: fusion={fusion!r}: use one of {list(FUSIONS)}")
        for keyword, numbers in (("layers", layers), ("channels", channels)):
            if len(numbers) != len(STAGES) or min(numbers) < 1:
                raise ConfigError(f"ResNeXtCC: {keyword}={numbers} must be four numbers from 1")
        place = FUSIONS[fusion]
        if place is not None and layers[-1] < place + 2:
            raise ConfigError(
                f"ResNeXtCC: fusion={fusion!r} needs at least {place + 2} blocks in the last "
                f"stage, layers={tuple(layers)} has {layers[-1]}"
            )
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
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
            **factory,
        )
        if strided_stem:
            nn.init.dirac_(cast(nn.Conv2d, cast(nn.Sequential, self.maxpool)[0]).weight)
        self.to_color_space = RgbToHsv() if color_space == "hsv" else nn.Identity()
        self.attention = nn.ModuleDict()
        if eca:
            self.attention["stem"] = EfficientChannelAttention(self._width(0), **factory)
            for level, stage in enumerate(STAGES[1:], start=2):
                self.attention[stage] = EfficientChannelAttention(self._width(level), **factory)
        self.fused_block = place
        self.fusion = None if place is None else CrossLayerFusion(self.num_features, **factory)

    def forward_features(self, x: Tensor) -> Tensor:
        """The fused map, or the last stage's: (B, in_chans, H, W) -> (B, C, H / 32, W / 32)."""
        x = self._run_pool(self._run_stem(x))
        for stage in STAGES[:-1]:
            x, _ = self._run_stage(stage, x)
        return self._fuse(*self._run_stage(STAGES[-1], x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps of the stem and of the stages, before any fusion.

        Args:
            x: Images (B, in_chans, H, W).
            indices: The levels: all five where None, the last n where a number, else their places.
            norm: Has no effect; the maps are normalized.
            stop_early: Do not run what comes after the last chosen level.
            output_fmt: "NCHW" is the only format.
            intermediates_only: Return the list alone.

        Returns:
            The list, or the result of `forward_features` and the list.

        Raises:
            ConfigError: A level that does not exist, or another format, is asked for.
        """
        if output_fmt != "NCHW":
            raise ConfigError(f"output_fmt={output_fmt!r}: ResNeXtCC gives 'NCHW'")
        places, last = take_indices(1 + len(STAGES), indices)
        early = stop_early or intermediates_only
        maps = [self._run_stem(x)]
        x, fused = maps[0], None
        for level, stage in enumerate(STAGES, start=1):
            if early and level > last:
                break
            x, fused = self._run_stage(stage, self._run_pool(x) if level == 1 else x)
            maps.append(x)
        chosen = [maps[place] for place in sorted(set(places))]
        if intermediates_only:
            return chosen
        return (self._fuse(x, fused) if len(maps) == 1 + len(STAGES) else x), chosen

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drops what `forward_intermediates` does not need: stages, fusion and classifier.

        Returns:
            The places of the levels that were asked for.
        """
        places, last = take_indices(1 + len(STAGES), indices)
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
        return places

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How parameters fall into layers; attention stands with what it follows."""
        first_block = () if coarse else (0,)
        attention: list[Any] = [
            (rf"^attention\.{name}\.", (place, *first_block))
            for place, name in enumerate(STAGES, start=1)
        ]
        return {
            "stem": r"^conv1|^bn1|^maxpool|^attention\.stem",
            "blocks": [
                (r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)", None),
                *attention,
                (r"^fusion", (99999,)),
            ],
        }

    def _run_stem(self, x: Tensor) -> Tensor:
        return self.act1(self.bn1(self.conv1(self.to_color_space(x))))

    def _run_pool(self, x: Tensor) -> Tensor:
        x = self.maxpool(x)
        return self.attention["stem"](x) if "stem" in self.attention else x

    def _run_stage(self, name: str, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The last map of a stage, and in the last stage the one that it is to be fused with."""
        fused = None
        for place, block in enumerate(getattr(self, name)):
            x = recompute(block, block, x) if self.grad_checkpointing else block(x)
            if place == 0 and name in self.attention:
                x = self.attention[name](x)
            if name == STAGES[-1] and place == self.fused_block:
                fused = x
        return x, fused

    def _fuse(self, late: Tensor, early: Tensor | None) -> Tensor:
        if self.fusion is None or early is None:
            return late
        return self.fusion(early, late)

    def _width(self, level: int) -> int:
        return int(cast(int, self.feature_info[level]["num_chs"]))


def checkpoint_filter_fn(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """timm's ResNeXt has the model's own names."""
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


default_cfgs = generate_default_cfgs(
    {
        "resnext_cc_26.pbc": {
            **_cfg(""),
            **shipped_weights("resnext_cc_26.pbc", PBC_CLASSES),
            "input_size": (3, 112, 112),
            "pool_size": (4, 4),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
        },
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
    """ResNeXt-CC of 26 layers and half the width, for processors without a GPU: not the paper's."""
    size = {
        "layers": (2, 2, 2, 2),
        "cardinality": 8,
        "base_width": 16,
        "channels": (32, 64, 128, 192),
    }
    return _create("resnext_cc_26", pretrained, **{**size, **kwargs})


@register_model
def resnext_cc_50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNeXt-CC of 50 layers, 32x4d: the paper's."""
    return _create("resnext_cc_50", pretrained, **{"layers": (3, 4, 6, 3), **kwargs})


@register_model
def resnext_cc_101(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNeXt-CC of 101 layers, 32x4d (table 3)."""
    return _create("resnext_cc_101", pretrained, **{"layers": (3, 4, 23, 3), **kwargs})
