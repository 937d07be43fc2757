import pytest
import torch

pytest.importorskip("detectron2")

import timm
from detectron2.modeling import build_backbone
from torchvision.models import resnet18

from mfds_detr.checkpoint.weight_names import translate

OURS = {"backbone.body.conv1.weight": torch.zeros(1), "detector.class_embed.0.bias": torch.ones(1)}


def detectron2_backbone(tiny_config, depth=18):
    cfg = tiny_config("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", depth)
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth == 18 else 256
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    return build_backbone(cfg).eval()


def randomize(model):
    torch.manual_seed(0)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
        if name.endswith("running_mean"):
            buffer.normal_(0.0, 0.1)
    return model.eval()


def load_into(backbone, state):
    translation = translate(state, backbone.state_dict())
    own = {name.removeprefix("backbone."): t for name, t in translation.state.items()}
    missing, unexpected = backbone.load_state_dict(own, strict=False)
    assert [name for name in missing if not name.endswith("num_batches_tracked")] == []
    assert unexpected == []
    return translation


def test_own_names_stay():
    translation = translate(OURS, ["body.conv1.weight"])
    assert translation.source == "MFDS-DETR"
    assert translation.absent == ()
    assert translation.state == OURS


def test_wrapper_is_taken_off():
    wrapped = {f"module.{name}": tensor for name, tensor in OURS.items()}
    assert set(translate(wrapped, ["body.conv1.weight"]).state) == set(OURS)


@pytest.mark.parametrize("depth", [18, 50])
def test_timm_resnet_in_detectron2s(tiny_config, depth):
    peer = randomize(timm.create_model(f"resnet{depth}", features_only=True, out_indices=(2, 3, 4)))
    classifier = timm.create_model(f"resnet{depth}")
    classifier.load_state_dict(peer.state_dict(), strict=False)
    backbone = detectron2_backbone(tiny_config, depth)
    translation = load_into(backbone, classifier.state_dict())
    assert translation.source == "timm"
    assert {"neck.", "extra_stage.", "detector."} == set(translation.absent)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(backbone(x).values(), peer(x)):
            assert torch.allclose(ours, theirs, atol=1e-4)


def test_torchvision_resnet_in_timms():
    from mfds_detr.modeling.backbone import TimmBackbone

    peer = randomize(resnet18())
    backbone = TimmBackbone("resnet18").eval()
    load_into(backbone, peer.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = peer.maxpool(peer.relu(peer.bn1(peer.conv1(x))))
        expected = peer.layer4(peer.layer3(peer.layer2(peer.layer1(expected))))
        assert torch.allclose(backbone(x)["level2"], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["convnext_atto", "regnetx_002", "mobilenetv3_small_050"])
def test_timm_classifiers_of_other_families(name):
    from mfds_detr.modeling.backbone import TimmBackbone

    torch.manual_seed(0)
    classifier = timm.create_model(name)
    backbone = TimmBackbone(name, out_indices=(1, 2, 3))
    load_into(backbone, classifier.state_dict())
    shared = dict(classifier.named_parameters())
    stem = next(iter(shared.values()))
    assert any(torch.equal(stem, parameter) for parameter in backbone.parameters())


@pytest.mark.parametrize("prefix", ["", "backbone.", "backbone.bottom_up."])
def test_detectron2_models(tiny_config, prefix):
    backbone = detectron2_backbone(tiny_config)
    state = {f"{prefix}{name}": torch.randn_like(t) for name, t in backbone.state_dict().items()}
    state["roi_heads.box_predictor.cls_score.weight"] = torch.zeros(81, 4)
    state["stem.fc.weight"] = torch.zeros(3)
    translation = load_into(backbone, state)
    assert translation.source == "Detectron2's backbone"
    assert torch.equal(
        backbone.state_dict()["stem.conv1.weight"], state[f"{prefix}stem.conv1.weight"]
    )


def test_deformable_detrs_projections_by_kernel():
    # Three 1x1 projections of maps, then the two 3x3 ones that add levels
    state = {"transformer.level_embed": torch.zeros(5, 4)}
    for index in range(5):
        size = 1 if index < 3 else 3
        state[f"input_proj.{index}.0.weight"] = torch.full((4, 4, size, size), float(index))
        state[f"input_proj.{index}.1.bias"] = torch.full((4,), float(index))
    translation = translate(state, ["body.conv1.weight"])
    assert translation.source == "Deformable-DETR"
    found = translation.state
    for index in range(3):
        assert found[f"neck.projections.{index}.0.weight"].flatten()[0] == index
    for index in range(2):
        assert found[f"neck.extra_levels.{index}.0.weight"].flatten()[0] == index + 3
        assert found[f"neck.extra_levels.{index}.1.bias"][0] == index + 3
    assert found["detector.transformer.level_embed"].shape == (5, 4)


def test_transformers_packed_attention_is_query_key_value():
    base = "model.decoder.layers.0.self_attn"
    state = {f"{base}.{part}_proj.weight": torch.full((2, 2), i) for i, part in enumerate("qkv")}
    state |= {f"{base}.{part}_proj.bias": torch.full((2,), i) for i, part in enumerate("qkv")}
    state[f"{base}.out_proj.weight"] = torch.full((2, 2), 9)
    found = translate(state, []).state
    ours = "detector.transformer.decoder.layers.0.self_attn"
    assert found[f"{ours}.in_proj_weight"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert found[f"{ours}.in_proj_bias"].tolist() == [0, 0, 1, 1, 2, 2]
    assert found[f"{ours}.out_proj.weight"][0, 0] == 9
    assert len(found) == 3
