import pytest

pytest.importorskip("detectron2")

from mfds_detr.engine.optimizer import build_optimizer, parameter_group

RATES = (
    "SOLVER.BASE_LR", 4e-4, "SOLVER.BACKBONE_LR", 1e-5, "SOLVER.NECK_LR", 3e-4,
    "SOLVER.SAMPLING_LR_FACTOR", 0.1, "SOLVER.WEIGHT_DECAY", 0.03,
)  # fmt: skip


def test_every_parameter_has_its_rate(tiny_config, tiny_model):
    model = tiny_model(*RATES, "MODEL.TIMM.FREEZE", ("conv1", "layer1"))
    optimizer = build_optimizer(tiny_config(*RATES), model)
    rate_of = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in rate_of
            continue
        if name.startswith("backbone."):
            expected = 1e-5
        elif name.startswith(("neck.", "extra_stage.")):
            expected = 3e-4
        elif "sampling_offsets" in name or "reference_points" in name:
            expected = 4e-5
        else:
            expected = 4e-4
        assert rate_of[id(parameter)] == pytest.approx(expected), name
    counted = sum(len(group["params"]) for group in optimizer.param_groups)
    assert counted == sum(p.requires_grad for p in model.parameters())
    assert all(group["weight_decay"] == 0.03 for group in optimizer.param_groups)
    names = [group["name"] for group in optimizer.param_groups]
    assert names == ["backbone", "neck", "transformer", "sampling"]


def test_empty_groups_are_left_out(tiny_config, tiny_model):
    model = tiny_model("MODEL.MFDS_DETR.EXTRA_STAGE", False)
    model.backbone.requires_grad_(False)
    names = [group["name"] for group in build_optimizer(tiny_config(), model).param_groups]
    assert names == ["neck", "transformer", "sampling"]


def test_groups_by_name():
    assert parameter_group("backbone.body.conv1.weight") == "backbone"
    assert parameter_group("extra_stage.reduce.0.weight") == "neck"
    assert parameter_group("detector.transformer.reference_points.bias") == "sampling"
    decoder = "detector.transformer.decoder.layers.0.cross_attn"
    assert parameter_group(f"{decoder}.sampling_offsets.weight") == "sampling"
    assert parameter_group(f"{decoder}.value_proj.weight") == "transformer"
    assert parameter_group("detector.query_embed.weight") == "transformer"
