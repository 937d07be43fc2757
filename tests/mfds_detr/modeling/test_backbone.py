import copy

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone

from mfds_detr.modeling.backbone import TimmBackbone, fold_frozen_norms
from wbcnets.errors import ConfigError
from wbcnets.ops.folded_conv import FoldedConv2d

TINY = {"channels": [8, 16, 16, 32], "stem_width": 8}


def test_output_shapes_are_what_comes_out():
    backbone = TimmBackbone("resnet18", options=TINY)
    outputs = backbone(torch.randn(1, 3, 64, 96))
    shapes = backbone.output_shape()
    assert list(outputs) == list(shapes) == ["level0", "level1", "level2"]
    for name, feature in outputs.items():
        stride = shapes[name].stride
        assert feature.shape == (1, shapes[name].channels, 64 // stride, 96 // stride)


def test_other_architectures():
    backbone = TimmBackbone("convnext_atto", out_indices=(1, 2), options={"dims": (8, 16, 24, 32)})
    outputs = backbone(torch.randn(1, 3, 64, 64))
    assert [o.shape[1] for o in outputs.values()] == [16, 24]


def test_frozen_children_get_no_gradient():
    backbone = TimmBackbone("resnet18", freeze=("conv1", "bn1", "layer1"), options=TINY)
    sum(x.sum() for x in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    for name, parameter in backbone.named_parameters():
        frozen = name.startswith(("body.conv1.", "body.bn1.", "body.layer1."))
        assert (parameter.grad is None) == frozen, name


def test_frozen_batch_norm_is_a_constant():
    backbone = TimmBackbone("resnet18", frozen_bn=True, options=TINY).train()
    kinds = {type(module) for module in backbone.modules()}
    assert FrozenBatchNorm2d in kinds
    assert torch.nn.BatchNorm2d not in kinds
    before = backbone.state_dict()["body.bn1.running_mean"].clone()
    x = torch.randn(2, 3, 64, 64)
    alone = backbone(x[:1])["level2"]
    assert torch.allclose(backbone(x)["level2"][:1], alone, atol=1e-5)
    assert torch.equal(backbone.state_dict()["body.bn1.running_mean"], before)


def test_from_config(tiny_config):
    cfg = tiny_config("MODEL.TIMM.FROZEN_BN", True, "MODEL.TIMM.FREEZE", ("conv1",))
    backbone = build_backbone(cfg)
    assert isinstance(backbone, TimmBackbone)
    assert [shape.channels for shape in backbone.output_shape().values()] == [16, 16, 32]
    assert not backbone.body.conv1.weight.requires_grad


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match=r"NAME='resnet19' is no timm model; similar: .*resnet"):
        TimmBackbone("resnet19")
    with pytest.raises(ConfigError, match=r"FREEZE names 'layer9'; this model has .*'layer1'"):
        TimmBackbone("resnet18", freeze=("layer9",), options=TINY)
    with pytest.raises(ConfigError, match=r"cannot be a backbone with MODEL.TIMM.OUT_INDICES"):
        TimmBackbone("resnet18", out_indices=(2, 9), options=TINY)
    with pytest.raises(ConfigError, match=r"OPTIONS=.*'width': 3"):
        TimmBackbone("resnet18", options={"width": 3})


def test_folded_norms_change_neither_values_nor_gradients_nor_names(tiny_config):
    cfg = tiny_config("MODEL.BACKBONE.NAME", "build_resnet_backbone")
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RESNETS.NORM = "FrozenBN"
    torch.manual_seed(0)
    plain = build_backbone(cfg).double()
    for name, buffer in plain.named_buffers():
        buffer.uniform_(0.5, 1.5) if "var" in name or "weight" in name else buffer.normal_()
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    again = copy.deepcopy(folded)  # as an exponential moving average does
    assert sum(type(m) is FoldedConv2d for m in again.modules()) == 20
    assert list(folded.state_dict()) == list(plain.state_dict())

    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    results = []
    for backbone in (plain, folded, again):
        maps = list(backbone(x).values())
        parameters = [p for p in backbone.parameters() if p.requires_grad]
        grads = torch.autograd.grad(sum(m.square().sum() for m in maps), parameters)
        results.append([*maps, *grads])
    for result in results[1:]:
        for found, expected in zip(result, results[0]):
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
