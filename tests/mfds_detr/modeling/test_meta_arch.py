import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import Boxes, Instances
from torchvision.ops import box_iou

from mfds_detr import MFDSDETR
from mfds_detr.modeling.position_encoding import POSITION_ENCODINGS
from tests.mfds_detr.conftest import PLUS
from wbcnets.errors import ConfigError
from wbcnets.layers.necks import neck_names

RESNET_18 = (
    "MODEL.RESNETS.DEPTH", 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
    "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"],
    "MODEL.RESNETS.STRIDE_IN_1X1", False,
)  # fmt: skip


def entry(height=96, width=128, count=2, seed=0, original=None):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    top_left = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.5
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.cat([top_left, top_left + 20], dim=1))
    instances.gt_classes = torch.randint(5, (count,), generator=generator)
    size = original or (height, width)
    return {"image": image, "instances": instances, "height": size[0], "width": size[1]}


def gradients(model, batch):
    model.train()
    losses = model(batch)
    sum(losses.values()).backward()
    return losses


def test_registered():
    assert META_ARCH_REGISTRY.get("MFDSDETR") is MFDSDETR


def test_losses_by_name(tiny_model):
    losses = gradients(tiny_model(), [entry(), entry(80, 112, seed=1)])
    terms = ("loss_class", "loss_l1", "loss_giou")
    assert set(losses) == {f"{term}{suffix}" for term in terms for suffix in ("", "_0")}
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_targets_are_fractions_of_the_image(tiny_model):
    record = entry(100, 200, count=1)
    record["instances"].gt_boxes = Boxes(torch.tensor([[20.0, 10.0, 60.0, 40.0]]))
    target = tiny_model()._target(record["instances"])
    assert target["boxes"][0].tolist() == pytest.approx([0.2, 0.25, 0.2, 0.3])


def test_inference_format(tiny_model):
    model = tiny_model("TEST.DETECTIONS_PER_IMAGE", 20)
    batch = [entry(96, 128, original=(192, 256)), entry(64, 96, seed=1)]
    with torch.no_grad():
        results = model(batch)
    for result, record in zip(results, batch):
        found = result["instances"]
        height, width = record["height"], record["width"]
        assert found.image_size == (height, width)
        assert 0 < len(found) <= 20
        assert (found.scores.diff() <= 0).all()
        assert found.pred_classes.dtype == torch.int64
        assert found.pred_classes.min() >= 0
        assert found.pred_classes.max() < 5
        boxes = found.pred_boxes.tensor
        assert (boxes >= 0).all()
        assert (boxes[:, [0, 2]] <= width).all()
        assert (boxes[:, [1, 3]] <= height).all()


def test_boxes_are_in_the_original_image(tiny_model):
    # The same pixels, declared as an image of twice the width and three times the height
    model = tiny_model()
    with torch.no_grad():
        plain = model([entry()])[0]["instances"]
        scaled = model([entry(original=(288, 256))])[0]["instances"]
    expected = plain.pred_boxes.tensor * torch.tensor([2.0, 3.0, 2.0, 3.0])
    assert torch.allclose(scaled.pred_boxes.tensor, expected, atol=1e-2)


def test_detections_by_hand(tiny_model):
    model = tiny_model("TEST.DETECTIONS_PER_IMAGE", 3, "TEST.SCORE_THRESHOLD", 0.2)
    predictions = {
        # Query 0 has classes 1 and 2, query 1 has class 0; all others are below the threshold
        "pred_logits": torch.tensor([[[-9.0, 1.0, 2.0], [0.0, -9.0, -9.0]]]),
        "pred_boxes": torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.1, 0.2]]]),
    }
    found = model._detections(predictions, [(100, 200)])[0]
    assert found.pred_classes.tolist() == [2, 1, 0]
    assert found.scores.tolist() == pytest.approx(torch.tensor([2.0, 1.0, 0.0]).sigmoid().tolist())
    assert torch.allclose(
        found.pred_boxes.tensor,
        torch.tensor([[80.0, 30, 120, 70], [80, 30, 120, 70], [40, 40, 60, 60]]),
        atol=1e-4,
    )


BACKBONES = {
    "resnet": ("MODEL.TIMM.OPTIONS.channels", [16, 32, 64, 128]),
    "resnext_cc": (
        "MODEL.TIMM.NAME", "resnext_cc_26",
        "MODEL.TIMM.OPTIONS", CfgNode(new_allowed=True),
        "MODEL.TIMM.OUT_INDICES", (1, 2, 3),
    ),
    "detectron2": ("MODEL.BACKBONE.NAME", "build_resnet_backbone", *RESNET_18),
}  # fmt: skip
ALONE = {
    **{f"neck_{name}": ("MODEL.MFDS_DETR.NECK.NAME", name) for name in neck_names()},
    **{f"backbone_{name}": options for name, options in BACKBONES.items()},
    **{
        f"position_{name}": ("MODEL.MFDS_DETR.POSITION_ENCODING", name)
        for name in POSITION_ENCODINGS
    },
    "two_stage": ("MODEL.MFDS_DETR.TWO_STAGE", True),
    "plus": tuple(PLUS),
}


@pytest.mark.parametrize("variant", ALONE)
def test_other_images_of_the_batch_change_nothing(tiny_model, variant):
    model = tiny_model(*ALONE[variant]).double()  # so that rounding does not blur the answer
    _shake(model)
    batch = [entry(*size, seed=i) for i, size in enumerate([(64, 96), (61, 150), (128, 90)])]
    batch.append(entry(64, 96, seed=3))
    with torch.no_grad():
        images = [model._normalize(item["image"]) for item in batch]
        together = model.predict(images)
        for index, image in enumerate(images):
            alone = model.predict([image])
            for name in ("pred_logits", "pred_boxes"):
                assert (alone[name][0] - together[name][index]).abs().max() <= 1e-5
    assert (together["pred_boxes"][0] - together["pred_boxes"][3]).abs().max() > 1e-3


@pytest.mark.parametrize("two_stage", [False, True])
def test_losses_do_not_see_the_padding(tiny_model, two_stage):
    model = tiny_model("MODEL.MFDS_DETR.TWO_STAGE", two_stage).train()
    _shake(model)
    for module in model.modules():
        if isinstance(module, (torch.nn.Dropout, torch.nn.BatchNorm2d)):
            module.eval()
    small, large = entry(64, 96, count=2, seed=0), entry(128, 150, count=2, seed=1)
    apart = [model([small]), model([large])]
    for name, value in model([small, large]).items():
        mean = (apart[0][name] + apart[1][name]) / 2  # both have as many objects
        assert value.item() == pytest.approx(mean.item(), rel=1e-4), name


def _shake(module, scale=0.1):
    """Moves weights away from an initialization in which many are zero."""
    torch.manual_seed(2)
    for parameter in module.parameters():
        parameter.data.add_(scale * torch.randn(parameter.shape))  # whatever the memory format


VARIANTS = {
    **{f"neck_{name}": ("MODEL.MFDS_DETR.NECK.NAME", name) for name in neck_names()},
    "learned_position": ("MODEL.MFDS_DETR.POSITION_ENCODING", "learned"),
    "no_position": ("MODEL.MFDS_DETR.POSITION_ENCODING", "none"),
    "no_level_embed": ("MODEL.MFDS_DETR.LEVEL_EMBED", False),
    "no_encoder": ("MODEL.MFDS_DETR.ENCODER_LAYERS", 0),
    "no_encoder_learned_position": (
        "MODEL.MFDS_DETR.ENCODER_LAYERS",
        0,
        "MODEL.MFDS_DETR.POSITION_ENCODING",
        "learned",
    ),
    "no_extra_stage": ("MODEL.MFDS_DETR.EXTRA_STAGE", False),
    "refinement": ("MODEL.MFDS_DETR.BOX_REFINEMENT", True),
    "two_stage": ("MODEL.MFDS_DETR.TWO_STAGE", True),
    "plus": tuple(PLUS),
    "no_l1": ("MODEL.MFDS_DETR.LOSS.L1_WEIGHT", 0.0),
    "no_giou": ("MODEL.MFDS_DETR.LOSS.GIOU_WEIGHT", 0.0),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(tiny_model, variant):
    model = tiny_model(*VARIANTS[variant])
    gradients(model, [entry(), entry(80, 112, seed=1)])
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("variant", [("MODEL.MFDS_DETR.TWO_STAGE", True), tuple(PLUS)])
def test_no_parameter_is_out_of_the_loss(tiny_model, variant):
    # Some layers start at zero, which stops gradients; other weights must not
    model = tiny_model(*variant)
    _shake(model, 0.3)  # less may leave both channels of a narrow attention behind their ReLU
    gradients(model, [entry(), entry(80, 112, seed=1)])
    dead = [name for name, p in model.named_parameters() if not p.grad.abs().max() > 0]
    assert dead == []


@pytest.mark.parametrize("variant", [(), ("MODEL.MFDS_DETR.TWO_STAGE", True), tuple(PLUS)])
def test_images_without_objects(tiny_model, variant):
    model = tiny_model(*variant)
    losses = gradients(model, [entry(count=0), entry(80, 112, count=0, seed=1)])
    assert losses.keys() == model([entry(), entry(count=0)]).keys()
    assert all(torch.isfinite(loss) for loss in losses.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_no_auxiliary_losses(tiny_model):
    losses = gradients(tiny_model("MODEL.MFDS_DETR.AUX_LOSS", False), [entry()])
    assert set(losses) == {"loss_class", "loss_l1", "loss_giou"}


@pytest.mark.parametrize("variant", [(), ("MODEL.MFDS_DETR.TWO_STAGE", True), tuple(PLUS)])
def test_bfloat16_autocast_is_finite_and_near(tiny_model, variant):
    model = tiny_model(*variant)
    batch = [entry(), entry(80, 112, seed=1)]
    exact = {k: v.item() for k, v in gradients(model, batch).items()}
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch)
    total = sum(losses.values())
    total.backward()
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert total.item() == pytest.approx(sum(exact.values()), rel=0.1)
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.predict(torch.randn(1, 3, 96, 128))
    assert output["pred_boxes"].dtype == torch.float32


def test_one_pixel_images(tiny_model):
    with torch.no_grad():
        model = tiny_model(
            "MODEL.TIMM.OPTIONS.channels", [16, 32, 64, 128], "MODEL.MFDS_DETR.HIDDEN_DIM", 64
        )
        found = model([entry(1, 1, count=0)])[0]["instances"]
    assert torch.isfinite(found.pred_boxes.tensor).all()


@pytest.mark.parametrize("variant", [(), ("MODEL.MFDS_DETR.TWO_STAGE", True), tuple(PLUS)])
def test_predict_exports(tiny_model, variant):
    model = tiny_model(*variant)

    class FixedSize(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            output = self.model.predict(images)
            return output["pred_logits"], output["pred_boxes"]

    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        program = torch.export.export(FixedSize(), (images,))
        expected = model.predict(images)
        logits, boxes = program.module()(images)
    assert torch.allclose(logits, expected["pred_logits"], atol=1e-4)
    assert torch.allclose(boxes, expected["pred_boxes"], atol=1e-4)


def test_predict_compiles(tiny_model):
    model = tiny_model()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model.predict(images)
        compiled = torch.compile(model.predict, backend="aot_eager")
        output = compiled(images)
    assert torch.allclose(output["pred_boxes"], expected["pred_boxes"], atol=1e-4)


def test_class_count_has_to_be_known(tiny_config):
    with pytest.raises(ConfigError, match="NUM_CLASSES=0 takes the classes from the training set"):
        build_model(tiny_config("MODEL.MFDS_DETR.NUM_CLASSES", 0))


def test_unknown_neck(tiny_config):
    with pytest.raises(ConfigError, match="unknown neck 'hsfpn'; choose one of bifpn"):
        build_model(tiny_config("MODEL.MFDS_DETR.NECK.NAME", "hsfpn"))


def test_the_encoder_cannot_refine_more_levels_than_there_are(tiny_config):
    build_model(tiny_config("MODEL.MFDS_DETR.ENCODER_LEVELS", 4))
    with pytest.raises(ConfigError, match=r"ENCODER_LEVELS=5, but the neck has 4 levels"):
        build_model(tiny_config("MODEL.MFDS_DETR.ENCODER_LEVELS", 5))


def test_duplicates_of_a_class_go_where_asked(tiny_model):
    image = {"image": torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)}
    plain, filtered = (tiny_model("TEST.NMS_IOU", iou) for iou in (0.0, 0.02))
    with torch.no_grad():
        everything, kept = (model([image])[0]["instances"] for model in (plain, filtered))
    assert 0 < len(kept) < len(everything)
    overlaps = box_iou(kept.pred_boxes.tensor, kept.pred_boxes.tensor).fill_diagonal_(0)
    same_class = kept.pred_classes[:, None] == kept.pred_classes
    assert (overlaps[same_class] <= 0.02).all()
    assert kept.scores[0] == everything.scores[0]


def _fill(module):
    """Gives every parameter values that no generator of random numbers decides."""
    for index, parameter in enumerate(module.parameters()):
        wave = torch.arange(parameter.numel(), dtype=torch.float64).mul(0.37).add(index).sin()
        parameter.data.copy_(wave.view(parameter.shape) / parameter[0].numel() ** 0.5)


# Computed before any option beyond the paper existed
PAPER_LOSSES = {
    False: {
        "loss_class_0": 80.5079393,
        "loss_class": 24.4572793,
        "loss_l1_0": 6.7817305,
        "loss_l1": 7.24317,
        "loss_giou_0": 1.6026094,
        "loss_giou": 1.773505,
    },
    True: {
        "loss_class_0": 18.200625,
        "loss_class": 4.377238,
        "loss_l1_0": 5.6228907,
        "loss_l1": 7.7283729,
        "loss_giou_0": 2.714846,
        "loss_giou": 3.0344849,
        "loss_class_encoder": 64.2996193,
        "loss_l1_encoder": 3.3148215,
        "loss_giou_encoder": 1.9826415,
    },
}


@pytest.mark.parametrize("two_stage", [False, True])
def test_the_papers_losses_stay_what_they_were(tiny_model, two_stage):
    model = tiny_model("MODEL.MFDS_DETR.TWO_STAGE", two_stage).double()
    _fill(model)
    ramp = torch.arange(3 * 64 * 96).mul(7).remainder(251).view(3, 64, 96)
    objects = Instances((64, 96))
    objects.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 40.0, 30.0], [50.0, 20.0, 90.0, 60.0]]))
    objects.gt_classes = torch.tensor([1, 4])
    losses = model.train()([{"image": ramp, "instances": objects}])
    found = {name: loss.item() for name, loss in losses.items()}
    assert found == pytest.approx(PAPER_LOSSES[two_stage], rel=1e-5)


def test_scores_are_calibrated_by_class(tiny_model):
    slopes, offsets = [1.0, 2.0, 1.0, 0.5, 3.0], [0.0, -1.0, 0.5, 0.0, 0.0]
    keys = ("TEST.CALIBRATION.SLOPES", slopes, "TEST.CALIBRATION.OFFSETS", offsets)
    logits = torch.tensor([[[0.5, 0.7, -2.0, 1.0, -1.0]]])
    predictions = {"pred_logits": logits, "pred_boxes": torch.full((1, 1, 4), 0.5)}
    found = tiny_model(*keys)._detections(predictions, [(100, 200)])[0]
    assert found.pred_classes.tolist() == [0, 3, 1, 2, 4]
    expected = torch.tensor([0.5, 0.5, 0.4, -1.5, -3.0]).sigmoid()
    assert found.scores.tolist() == pytest.approx(expected.tolist())
    plain = tiny_model()._detections(predictions, [(100, 200)])[0]
    assert plain.pred_classes.tolist() == [3, 1, 0, 4, 2]
    assert "score_slopes" not in tiny_model().state_dict()
