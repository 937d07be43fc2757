"""The same weights give the same numbers in transformers' Deformable-DETR and here."""

import re

import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("transformers")

import transformers
from detectron2.modeling import build_model

from mfds_detr.checkpoint.checkpointer import AtomicCheckpointer
from mfds_detr.checkpoint.weight_names import translate
from mfds_detr.checkpoint.weights import fit_weights

VARIANTS = {
    "plain": {},
    "refinement": {"with_box_refine": True},
    "two_stage": {"with_box_refine": True, "two_stage": True, "two_stage_num_proposals": 12},
}
SIZES = [(128, 96), (90, 160)]
TARGETS = [
    {"labels": [0, 3], "boxes": [[0.3, 0.4, 0.2, 0.2], [0.6, 0.6, 0.3, 0.5]]},
    {"labels": [4], "boxes": [[0.5, 0.5, 0.1, 0.2]]},
]
LOSS_NAMES = {"loss_ce": ("loss_class", 1.0), "loss_bbox": ("loss_l1", 5.0)}
LOSS_NAMES["loss_giou"] = ("loss_giou", 2.0)


def make_peer(backbone="resnet18", **options):
    """Creates transformers' Deformable-DETR with random weights, none at a special value."""
    torch.manual_seed(0)
    backbone_config = transformers.TimmBackboneConfig(
        backbone=backbone,
        use_pretrained_backbone=False,
        out_indices=[2, 3, 4],
        freeze_batch_norm_2d=False,
    )
    config = transformers.DeformableDetrConfig(
        backbone_config=backbone_config,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        num_queries=12,
        num_labels=5,
        auxiliary_loss=True,
        class_cost=2,
        **options,
    )
    peer = transformers.DeformableDetrForObjectDetection(config).eval()
    for name, parameter in peer.named_parameters():
        if "backbone" not in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.15)
    for name, buffer in peer.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
        if name.endswith("running_mean"):
            buffer.normal_(0.0, 0.1)
    return peer


@pytest.fixture
def make_ours(tiny_config):
    def make(variant, backbone="timm", depth=18):
        cfg = tiny_config()
        model = cfg.MODEL.MFDS_DETR
        cfg.MODEL.TIMM.NAME = f"resnet{depth}"
        cfg.MODEL.TIMM.OPTIONS.clear()
        if backbone == "detectron2":
            cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
            cfg.MODEL.RESNETS.DEPTH = depth
            cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth == 18 else 256
            cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
            cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
        model.HIDDEN_DIM = 64
        model.FEEDFORWARD_DIM = 96
        model.NUM_POINTS = 4
        model.ENCODER_LAYERS = 2
        model.BOX_REFINEMENT = variant != "plain"
        model.TWO_STAGE = variant == "two_stage"
        model.EXTRA_STAGE = False
        model.NECK.NAME = "channel_mapper"
        model.NECK.OPTIONS.num_extra_levels = 1
        model.LOSS.CLASS_WEIGHT = 1.0
        return build_model(cfg).eval()

    return make


def load(ours, state):
    translation = translate(state, [name for name, _ in ours.backbone.named_parameters()])
    return translation.source, fit_weights(ours, translation, "peer")


def batch_of_sizes():
    torch.manual_seed(1)
    return [torch.randn(3, *size) for size in SIZES]


def batch_of_one_size():
    torch.manual_seed(1)
    return torch.randn(2, 3, 128, 160)


def targets(label_key):
    return [
        {label_key: torch.tensor(t["labels"]), "boxes": torch.tensor(t["boxes"])} for t in TARGETS
    ]


def assert_same_predictions(peer, ours):
    images = batch_of_sizes()
    with torch.no_grad():
        # The peer's convolutions see a batch's padding, ours do not: it gets each image alone
        alone = [peer(pixel_values=image[None]) for image in images]
        found = ours.predict(images)
    logits = torch.cat([output.logits for output in alone])
    boxes = torch.cat([output.pred_boxes for output in alone])
    assert (found["pred_logits"] - logits).abs().max() <= 1e-4
    assert (found["pred_boxes"] - boxes).abs().max() <= 1e-4
    # Equal outputs mean little if they hardly differ between queries and images
    for output in (logits, boxes):
        assert output.std(dim=1).min() > 0.005
        assert (output[0] - output[1]).abs().max() > 0.01


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backbone", ["timm", "detectron2"])
def test_predictions_losses_and_gradients(variant, backbone, make_ours):
    peer, ours = make_peer(**VARIANTS[variant]), make_ours(variant, backbone)
    source, report = load(ours, peer.state_dict())
    assert source == "transformers"
    count = len(ours.state_dict())
    batch_counters = sum(name.endswith("num_batches_tracked") for name in ours.state_dict())
    assert report[0].startswith(f"Loaded {count - batch_counters} of {count} tensors")
    assert len(report) == 1
    assert_same_predictions(peer, ours)

    images = batch_of_one_size()
    expected = peer(pixel_values=images, labels=targets("class_labels"))
    found = ours.criterion(ours.predict(images), targets("labels"))
    shared = {}
    for name, value in expected.loss_dict.items():
        base = re.sub(r"_\d+$", "", name)
        if base in LOSS_NAMES:
            own, weight = LOSS_NAMES[base]
            shared[name.replace(base, own)] = weight * value
    assert set(found) - set(shared) == (
        {"loss_class_encoder", "loss_l1_encoder", "loss_giou_encoder"}
        if variant == "two_stage"
        else set()
    )
    for name, value in shared.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-4), name
    # transformers leaves the first stage out of its total
    total = sum(found[name] for name in shared)
    assert total.item() == pytest.approx(expected.loss.item(), rel=1e-4)

    total.backward()
    expected.loss.backward()
    layer = "encoder.layers.0.self_attn.value_proj.weight"
    ours_gradient = ours.get_parameter(f"detector.transformer.{layer}").grad
    peer_gradient = peer.get_parameter(f"model.{layer}").grad
    scale = peer_gradient.abs().max()
    assert scale > 0
    assert (ours_gradient - peer_gradient).abs().max() <= 1e-3 * scale


def test_bottleneck_resnet_of_detectron2(make_ours):
    peer, ours = make_peer("resnet50"), make_ours("plain", "detectron2", depth=50)
    load(ours, peer.state_dict())
    assert_same_predictions(peer, ours)


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_safetensors(variant, make_ours, tmp_path):
    # save_pretrained writes a tensor that has several names only once
    peer, ours = make_peer(**VARIANTS[variant]), make_ours(variant)
    peer.save_pretrained(tmp_path)
    AtomicCheckpointer(ours).load(str(tmp_path / "model.safetensors"))
    assert_same_predictions(peer, ours)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backbone", ["timm", "detectron2"])
def test_original_naming(variant, backbone, make_ours, tmp_path):
    peer, ours = make_peer(**VARIANTS[variant]), make_ours(variant, backbone)
    torch.save({"model": original_names(peer.state_dict())}, tmp_path / "checkpoint.pth")
    AtomicCheckpointer(ours).load(str(tmp_path / "checkpoint.pth"))
    assert_same_predictions(peer, ours)


@pytest.mark.parametrize("variant", VARIANTS)
def test_older_naming_of_transformers(variant, make_ours, tmp_path):
    peer, ours = make_peer(**VARIANTS[variant]), make_ours(variant)
    state = older_names(peer.state_dict())
    source, _ = load(ours, state)
    assert source == "transformers"
    assert_same_predictions(peer, ours)


def older_names(state):
    """Renames to transformers before 5: ``conv_encoder``, no ``mlp``, ``out_proj``."""
    rules = (
        (r"^model\.backbone\.model\.", "model.backbone.conv_encoder.model."),
        (r"\.mlp\.fc([12])\.", r".fc\1."),
        (r"\.self_attn\.o_proj\.", ".self_attn.out_proj."),
    )
    renamed = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        renamed[new] = tensor
    assert not any(".mlp." in name or "o_proj." in name[-13:-7] for name in renamed)
    assert len(renamed) == len(state)
    return renamed


def original_names(state):
    """Renames transformers' parameters as in the checkpoints of the Deformable-DETR repository."""
    rules = (
        (r"^model\.backbone\.model\.", "backbone.0.body."),
        (r"^model\.input_proj\.", "input_proj."),
        (r"^model\.query_position_embeddings\.", "query_embed."),
        (r"^model\.", "transformer."),
        (r"(encoder\.layers\.\d+)\.self_attn_layer_norm", r"\1.norm1"),
        (r"(encoder\.layers\.\d+)\.final_layer_norm", r"\1.norm2"),
        (r"(decoder\.layers\.\d+)\.encoder_attn_layer_norm", r"\1.norm1"),
        (r"(decoder\.layers\.\d+)\.self_attn_layer_norm", r"\1.norm2"),
        (r"(decoder\.layers\.\d+)\.final_layer_norm", r"\1.norm3"),
        (r"\.encoder_attn\.", ".cross_attn."),
        (r"\.mlp\.fc([12])\.", r".linear\1."),
        (r"(decoder.*self_attn)\.o_proj\.", r"\1.out_proj."),
    )
    # The packed projection's rows are query, key, value
    state = dict(state)
    for name in [name for name in state if re.search(r"decoder.*\.q_proj\.", name)]:
        parts = [state.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        packed = re.sub(r"\.q_proj\.(\w+)$", r".in_proj_\1", name)
        state[packed] = torch.cat(parts)
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    assert "transformer.decoder.layers.1.self_attn.in_proj_weight" in renamed
    assert "transformer.encoder.layers.1.linear2.bias" in renamed
    return renamed
