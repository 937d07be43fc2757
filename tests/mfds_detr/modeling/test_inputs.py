"""The detector in other types, and with batches that are empty, incomplete or wrong."""

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.structures import Boxes, Instances

from wbcnets.errors import DataError

PIXELS = torch.randint(0, 256, (3, 64, 96), generator=torch.Generator().manual_seed(0))
DTYPES = [torch.float16, torch.bfloat16, torch.float64]


def entry(**changes):
    instances = Instances((64, 96))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 4.0, 40.0, 50.0], [30.0, 8.0, 90.0, 60.0]]))
    instances.gt_classes = torch.tensor([1, 4])
    return {"image": PIXELS.to(torch.uint8), "instances": instances, **changes}


def objects(**fields):
    instances = entry()["instances"]
    for name, value in fields.items():
        instances.set(name, Boxes(torch.tensor(value)) if name == "gt_boxes" else value)
    return entry(instances=instances)


def empty():
    return entry(instances=entry()["instances"][:0])


@pytest.mark.parametrize("two_stage", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_other_types_give_about_the_same(tiny_model, dtype, two_stage):
    options = ("MODEL.MFDS_DETR.TWO_STAGE", two_stage)
    # Of the same boxes as objects in another image, of another size
    batch = [entry(), entry(image=PIXELS[:, :48, :80].to(torch.uint8))]
    batch[1]["instances"] = batch[1]["instances"][:0]
    plain, other = tiny_model(*options), tiny_model(*options).to(dtype)
    with torch.no_grad():
        expected, found = (model(batch) for model in (plain, other))
    for one, two in zip(expected, found):
        scores = one["instances"].scores, two["instances"].scores
        assert abs(scores[0].mean() - scores[1].float().mean()) < 0.01
        assert two["instances"].pred_boxes.tensor.isfinite().all()
    losses = other.train()(batch)
    total = sum(losses.values())
    assert {loss.dtype for loss in losses.values()} == {torch.promote_types(dtype, torch.float32)}
    assert total.item() == pytest.approx(sum(plain.train()(batch).values()).item(), rel=0.1)
    total.backward()
    assert all(p.grad.isfinite().all() for p in other.parameters() if p.grad is not None)


@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_other_types_under_autocast_of_any_type(tiny_model, dtype, autocast):
    model = tiny_model().to(dtype)
    batch = [entry(), entry()]
    with torch.no_grad(), torch.autocast("cpu", dtype=autocast):
        assert all(len(result["instances"]) for result in model(batch))
    with torch.autocast("cpu", dtype=autocast):
        total = sum(model.train()(batch).values())
    total.backward()
    assert total.isfinite()


def test_no_images_give_no_detections_and_no_loss(tiny_model):
    model = tiny_model()
    assert model([]) == []
    with pytest.raises(DataError, match="the batch is empty"):
        model.train()([])


@pytest.mark.parametrize("two_stage", [False, True])
def test_a_batch_without_any_object(tiny_model, two_stage):
    model = tiny_model("MODEL.MFDS_DETR.TWO_STAGE", two_stage).train()
    losses = model([empty(), empty()])
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_l1"] == losses["loss_giou"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64])
def test_pixels_of_any_type_are_the_same_image(tiny_model, dtype):
    model = tiny_model()
    with torch.no_grad():
        expected, found = (
            model([{"image": PIXELS.to(kind)}])[0]["instances"] for kind in (torch.uint8, dtype)
        )
    assert torch.equal(expected.scores, found.scores)


def test_a_map_of_one_pixel_passes_norms_of_as_many_groups_as_channels(tiny_model):
    narrow = tiny_model("MODEL.TIMM.OPTIONS.channels", [8, 16, 24, 32])
    small = {"image": PIXELS[:, :32, :32]}
    with torch.no_grad():
        alone = narrow([small])[0]["instances"]
        both = narrow([small, small])[0]["instances"]
    torch.testing.assert_close(alone.scores, both.scores)


WRONG_IMAGES = {
    "no image": ({"instances": None}, "its 'image' is a NoneType"),
    "an array": ({"image": PIXELS.numpy()}, "its 'image' is a ndarray; give a tensor"),
    "gray": ({"image": PIXELS[0]}, r"torch.int64 \(64, 96\); give \(3, H, W\)"),
    "one channel": ({"image": PIXELS[:1]}, r"\(1, 64, 96\); give \(3, H, W\)"),
    "four channels": ({"image": PIXELS[[0, 1, 2, 0]]}, r"\(4, 64, 96\); give"),
    "channels last": ({"image": PIXELS.permute(1, 2, 0)}, r"\(64, 96, 3\); give"),
    "a batch": ({"image": PIXELS[None]}, r"\(1, 3, 64, 96\); give"),
    "no pixels": ({"image": PIXELS[:, :0]}, r"\(3, 0, 96\); give"),
    "truth values": ({"image": PIXELS > 5}, r"torch.bool"),
    "complex": ({"image": PIXELS.to(torch.complex64)}, r"torch.complex64"),
    "no dictionary": (PIXELS, "its 'image' is a NoneType"),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("wrong", WRONG_IMAGES)
def test_other_images_are_named(tiny_model, wrong, training):
    given, message = WRONG_IMAGES[wrong]
    with pytest.raises(DataError, match=rf"image 1 of the batch: .*{message}"):
        tiny_model().train(training)([entry(), given])


def test_a_file_is_named_if_it_is_known(tiny_model):
    with pytest.raises(DataError, match=r"^slide/a\.png: its 'image' holds NaN"):
        tiny_model()([{"image": torch.full((3, 64, 64), torch.nan), "file_name": "slide/a.png"}])


@pytest.mark.parametrize("batch", [None, torch.zeros(2, 3, 64, 64), {"image": PIXELS}])
def test_other_batches_are_errors(tiny_model, batch):
    with pytest.raises(DataError, match="give a list of dictionaries"):
        tiny_model()(batch)


WRONG_OBJECTS = {
    "none": ({"image": PIXELS}, "training needs 'instances' .* got NoneType"),
    "no fields": (entry(instances=Instances((64, 96))), "training needs 'instances' with gt_boxes"),
    "class too high": (objects(gt_classes=torch.tensor([0, 5])), r"hold \[5\], .* 5 classes"),
    "class below 0": (objects(gt_classes=torch.tensor([-1, 0])), r"gt_classes hold \[-1\]"),
    "fractions": (objects(gt_classes=torch.tensor([0.0, 1.0])), "gt_classes are torch.float32"),
    "NaN": (objects(gt_boxes=[[0, 0, float("nan"), 5], [1, 1, 4, 4.0]]), "is no xyxy box"),
    "inverted": (objects(gt_boxes=[[10, 10, 5, 5], [1, 1, 4, 4.0]]), "is no xyxy box"),
    "outside": (objects(gt_boxes=[[10, 10, 500, 50], [1, 1, 4, 4.0]]), "image of 96x64 px"),
}


@pytest.mark.parametrize("wrong", WRONG_OBJECTS)
def test_other_objects_are_named(tiny_model, wrong):
    given, message = WRONG_OBJECTS[wrong]
    with pytest.raises(DataError, match=rf"image 1 of the batch: .*{message}"):
        tiny_model().train()([entry(), given])


def test_classes_of_another_whole_type_are_the_same(tiny_model):
    model = tiny_model().train()
    losses = [
        model([objects(gt_classes=torch.tensor([1, 4], dtype=kind))])["loss_class"].item()
        for kind in (torch.int64, torch.int32, torch.uint8)
    ]
    assert losses[0] == losses[1] == losses[2]
