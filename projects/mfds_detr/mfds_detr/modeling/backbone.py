"""Any timm model with feature maps as a Detectron2 backbone.

Detectron2's own ResNet is registered as ``build_resnet_backbone``.
"""

from typing import Any

import timm
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.models import FeatureInfo
from torch import Tensor, nn

from wbcnets.errors import ConfigError
from wbcnets.models.keywords import check_keywords
from wbcnets.ops.folded_conv import FoldedConv2d


class TimmBackbone(Backbone):
    """A timm model as a Detectron2 backbone.

    Args:
        name: A timm model that supports ``features_only``, such as those of wbcnets.
        out_indices: Indices of the maps to return, finest first.
        freeze: Names of the children that are not trained.
        frozen_bn: Whether batch norms become constants.
        options: Keywords for ``timm.create_model``.

    Raises:
        ConfigError: if timm does not know the model, it has no such maps, or a frozen child is
            unknown.
    """

    def __init__(
        self,
        name: str,
        out_indices: tuple[int, ...] = (2, 3, 4),
        freeze: tuple[str, ...] = (),
        frozen_bn: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not timm.is_model(name):
            near = ", ".join(timm.list_models(f"*{name[:6]}*")[:8]) or "timm.list_models()"
            raise ConfigError(f"MODEL.TIMM.NAME={name!r} is no timm model; similar: {near}")
        try:
            self.body = timm.create_model(
                name, features_only=True, out_indices=out_indices, **(options or {})
            )
        # A model that gets odd values raises whatever they lead it to
        except Exception as error:
            raise ConfigError(
                f"timm's {name!r} cannot be a backbone with MODEL.TIMM.OUT_INDICES={out_indices} "
                f"and MODEL.TIMM.OPTIONS={options}: {error}"
            ) from error
        info: FeatureInfo = self.body.feature_info  # type: ignore[assignment]
        self._out_features = [f"level{index}" for index in range(len(out_indices))]
        self._out_feature_channels = dict(zip(self._out_features, info.channels()))
        self._out_feature_strides = dict(zip(self._out_features, info.reduction()))
        self._freeze(freeze)
        if frozen_bn:
            self.body = FrozenBatchNorm2d.convert_frozen_batchnorm(self.body)

    def _freeze(self, names: tuple[str, ...]) -> None:
        children = dict(self.body.named_children())
        for name in names:
            if name not in children:
                raise ConfigError(
                    f"MODEL.TIMM.FREEZE names {name!r}; this model has {sorted(children)}"
                )
            children[name].requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> maps (B, C_l, H / stride_l, W / stride_l) by name."""
        maps = {}
        for name, level in zip(self._out_features, self.body(images)):
            channels_last = level.shape[1] != self._out_feature_channels[name]
            maps[name] = level.permute(0, 3, 1, 2) if channels_last else level  # as Swin's
        return maps


def fold_frozen_norms(backbone: nn.Module) -> None:
    """Folds every frozen batch norm of Detectron2's convolutions into their weights, in place.

    Names and values of the parameters stay the same.
    """
    for parent in list(backbone.modules()):
        for name, child in parent.named_children():
            plain = type(child) is Conv2d and child.bias is None
            if plain and isinstance(child.norm, FrozenBatchNorm2d):
                setattr(parent, name, FoldedConv2d(child, child.norm, child.activation))


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Builds the timm backbone of ``MODEL.TIMM``."""
    name = cfg.MODEL.TIMM.NAME
    options = {"in_chans": input_shape.channels, **cfg.MODEL.TIMM.OPTIONS}
    if timm.is_model(name):
        options = check_keywords(name, options, "MODEL.TIMM.OPTIONS")
    return TimmBackbone(
        name,
        tuple(cfg.MODEL.TIMM.OUT_INDICES),
        tuple(cfg.MODEL.TIMM.FREEZE),
        cfg.MODEL.TIMM.FROZEN_BN,
        options,
    )
