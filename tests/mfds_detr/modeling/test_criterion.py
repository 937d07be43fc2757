import math

import pytest
import torch

pytest.importorskip("detectron2")

from mfds_detr.modeling.criterion import SetCriterion
from mfds_detr.modeling.denoising import make_denoising_queries
from mfds_detr.modeling.matcher import HungarianMatcher


def criterion(num_classes=3, **options):
    return SetCriterion(HungarianMatcher(), num_classes, **options)


def random_predictions(layers=3, images=2, queries=5, classes=3, seed=0):
    torch.manual_seed(seed)
    outputs = [
        {
            "pred_logits": torch.randn(images, queries, classes, requires_grad=True),
            "pred_boxes": (torch.rand(images, queries, 4) * 0.5 + 0.1).requires_grad_(),
        }
        for _ in range(layers)
    ]
    return {**outputs[-1], "aux_outputs": outputs[:-1]}


def random_targets(counts=(2, 1), classes=3):
    torch.manual_seed(5)
    return [
        {"labels": torch.randint(classes, (n,)), "boxes": torch.rand(n, 4) * 0.4 + 0.2}
        for n in counts
    ]


def test_hand_worked_losses():
    # One image, two queries, two classes, one object of class 1 at (0.5, 0.5), 0.4 x 0.4.
    # Query 0 is at the same center, 0.2 x 0.4, with p = 0.5 for both classes; query 1 is far off
    # with p = 0.1 for both. Query 0 is matched.
    predictions = {
        "pred_logits": torch.tensor([[[0.0, 0.0], [math.log(1 / 9)] * 2]]),
        "pred_boxes": torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.1, 0.1]]]),
    }
    targets = [{"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]])}]
    losses = criterion(2)(predictions, targets)
    # Focal: present 0.25 * 0.5^2 * ln 2; absent 0.75 * 0.5^2 * ln 2; two absent at p = 0.1:
    # 0.75 * 0.1^2 * -ln 0.9 each
    focal = 0.25 * 0.25 * math.log(2) + 0.75 * 0.25 * math.log(2) - 2 * 0.0075 * math.log(0.9)
    assert losses["loss_class"].item() == pytest.approx(2 * focal, rel=1e-5)
    # L1: |0.2 - 0.4| = 0.2
    assert losses["loss_l1"].item() == pytest.approx(5 * 0.2, rel=1e-5)
    # GIoU: overlap 0.08, union 0.16, hull 0.16: 1 - 0.5
    assert losses["loss_giou"].item() == pytest.approx(2 * 0.5, rel=1e-5)
    assert set(losses) == {"loss_class", "loss_l1", "loss_giou"}


def test_hand_worked_giou_of_separate_boxes():
    # [0, 0.2] and [0.4, 0.6] on both axes: overlap 0, union 0.08, hull 0.36:
    # GIoU = 0 - (0.36 - 0.08) / 0.36 = -7/9, loss 16/9
    predictions = {
        "pred_logits": torch.zeros(1, 1, 1),
        "pred_boxes": torch.tensor([[[0.1, 0.1, 0.2, 0.2]]]),
    }
    targets = [{"labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}]
    losses = criterion(1)(predictions, targets)
    assert losses["loss_giou"].item() == pytest.approx(2 * 16 / 9, rel=1e-4)
    assert losses["loss_l1"].item() == pytest.approx(5 * 0.8, rel=1e-5)


def test_all_layers_together_equal_each_alone():
    predictions, targets = random_predictions(), random_targets()
    losses = criterion()(predictions, targets)
    for index, layer in enumerate(predictions["aux_outputs"]):
        for name, value in criterion()(layer, targets).items():
            assert losses[f"{name}_{index}"].item() == pytest.approx(value.item(), rel=1e-6)
    last = {key: predictions[key] for key in ("pred_logits", "pred_boxes")}
    for name, value in criterion()(last, targets).items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-6)
    assert len(losses) == 9


def test_layers_are_matched_separately():
    predictions, targets = random_predictions(layers=2, images=1), random_targets((1,))
    first = predictions["aux_outputs"][0]
    box = targets[0]["boxes"][0]
    with torch.no_grad():
        first["pred_boxes"][0, 0] = box
        predictions["pred_boxes"][0, 3] = box
    losses = criterion()(predictions, targets)
    assert losses["loss_l1_0"].item() == pytest.approx(0, abs=1e-6)
    assert losses["loss_l1"].item() == pytest.approx(0, abs=1e-6)


def test_the_number_of_objects_normalizes():
    predictions, targets = random_predictions(layers=1, images=1), random_targets((2,))
    once = criterion()(predictions, targets)
    doubled = {
        "pred_logits": predictions["pred_logits"].repeat(2, 1, 1),
        "pred_boxes": predictions["pred_boxes"].repeat(2, 1, 1),
    }
    for name, value in criterion()(doubled, targets * 2).items():
        assert value.item() == pytest.approx(once[name].item(), rel=1e-5)


def test_first_stage_only_tells_objects_from_background():
    predictions, targets = random_predictions(layers=1), random_targets()
    torch.manual_seed(9)
    stage = {"pred_logits": torch.randn(2, 30, 3), "pred_boxes": torch.rand(2, 30, 4)}
    losses = criterion()({**predictions, "enc_outputs": stage}, targets)
    as_first_class = [{**t, "labels": torch.zeros_like(t["labels"])} for t in targets]
    expected = criterion()(stage, as_first_class)
    for name, value in expected.items():
        assert losses[f"{name}_encoder"].item() == pytest.approx(value.item(), rel=1e-6)


def test_weights_and_switches():
    predictions, targets = random_predictions(), random_targets()
    full = criterion()(predictions, targets)
    heavy = criterion(class_weight=6.0, l1_weight=1.0, giou_weight=4.0)(predictions, targets)
    assert heavy["loss_class"].item() == pytest.approx(3 * full["loss_class"].item())
    assert heavy["loss_l1_0"].item() == pytest.approx(full["loss_l1_0"].item() / 5)
    assert heavy["loss_giou_1"].item() == pytest.approx(2 * full["loss_giou_1"].item())
    without_l1 = criterion(l1_weight=0.0)(predictions, targets)
    assert not any("l1" in name for name in without_l1)
    without_giou = criterion(giou_weight=0.0)(predictions, targets)
    assert not any("giou" in name for name in without_giou)


def test_alpha_per_class_is_used():
    # p = 0.5 everywhere, nothing present: (1 - alpha) * ln 2 / 4 for each query and class
    predictions = {"pred_logits": torch.zeros(1, 4, 2), "pred_boxes": torch.rand(1, 4, 4)}
    empty = [{"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}]
    loss = criterion(2, alpha=torch.tensor([0.2, 0.7]))(predictions, empty)["loss_class"]
    assert loss.item() == pytest.approx(2 * 4 * (0.8 + 0.3) * math.log(2) / 4, rel=1e-6)
    assert "alpha" not in criterion().state_dict()


def test_gamma_is_used():
    # p = 0.5 everywhere, nothing present: 0.75 * ln 2 * 0.5^gamma for each query and class
    predictions = {"pred_logits": torch.zeros(1, 4, 2), "pred_boxes": torch.rand(1, 4, 4)}
    empty = [{"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}]
    for gamma in (0.0, 1.0, 3.0):
        loss = criterion(2, gamma=gamma)(predictions, empty)["loss_class"]
        assert loss.item() == pytest.approx(2 * 8 * 0.75 * math.log(2) * 0.5**gamma, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_predictions_of_other_types_have_the_same_losses(dtype):
    predictions, targets = random_predictions(layers=1), random_targets()
    layer = {name: predictions[name].detach().to(dtype) for name in ("pred_logits", "pred_boxes")}
    alpha = torch.full((3,), 0.25, dtype=torch.float64)
    found = criterion(alpha=alpha)(layer, targets)
    expected = criterion()({name: tensor.float() for name, tensor in layer.items()}, targets)
    for name, loss in found.items():
        assert loss.dtype == torch.promote_types(dtype, torch.float32)
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-5)


def test_the_objects_of_all_processes_are_averaged(monkeypatch):
    predictions, targets = random_predictions(layers=1), random_targets((2, 1))
    alone = criterion()(predictions, targets)
    # Two processes; the other one has 9 objects, so that there are 6 on average, not 3
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.add_(9))
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for name, value in criterion()(predictions, targets).items():
        assert value.item() == pytest.approx(alone[name].item() / 2, rel=1e-6)


@pytest.mark.parametrize("counts", [(0, 0), (0, 2)])
def test_images_without_objects(counts):
    predictions, targets = random_predictions(), random_targets(counts)
    losses = criterion()(predictions, targets)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    for layer in (predictions, *predictions["aux_outputs"]):
        assert layer["pred_logits"].grad.abs().max() > 0
        assert torch.isfinite(layer["pred_boxes"].grad).all()
    if not any(counts):
        assert losses["loss_l1"].item() == 0
        assert losses["loss_giou_0"].item() == 0
        assert not predictions["pred_boxes"].grad.any()


def test_degenerate_boxes_have_finite_gradients():
    predictions, targets = random_predictions(layers=1), random_targets()
    boxes = predictions["pred_boxes"]
    with torch.no_grad():
        boxes[..., 2:] = 0
        targets[0]["boxes"][0, 2:] = 0
        boxes[0, 0] = targets[0]["boxes"][0]
    sum(criterion()(predictions, targets).values()).backward()
    assert torch.isfinite(boxes.grad).all()


def test_predictions_that_are_not_finite_stop():
    predictions, targets = random_predictions(), random_targets()
    with torch.no_grad():
        predictions["pred_boxes"][1, 2, 0] = math.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        criterion()(predictions, targets)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_stop(label):
    predictions, targets = random_predictions(), random_targets()
    targets[0]["labels"][0] = label
    with pytest.raises(ValueError, match="do not fit num_classes=3"):
        criterion()(predictions, targets)


def test_no_class_has_a_say_in_what_is_an_object():
    generator = torch.Generator().manual_seed(0)
    outputs = {
        "pred_logits": torch.randn(1, 4, 2, generator=generator),
        "pred_boxes": torch.rand(1, 4, 4, generator=generator) * 0.5 + 0.1,
    }
    targets = [{"labels": torch.tensor([1]), "boxes": torch.tensor([[0.4, 0.4, 0.2, 0.2]])}]
    first, second = (
        SetCriterion(HungarianMatcher(), 2, alpha=torch.tensor(alpha))(
            {**outputs, "enc_outputs": outputs}, targets
        )
        for alpha in ([0.1, 0.9], [0.9, 0.1])
    )
    torch.testing.assert_close(first["loss_class_encoder"], second["loss_class_encoder"])
    assert not torch.isclose(first["loss_class"], second["loss_class"])


def one_object(p=0.75):
    """A query with an IoU of 0.5 with the only object, and one that is far off."""
    z = math.log(p / (1 - p))
    outputs = {
        "pred_logits": torch.tensor([[[z], [z]]], requires_grad=True),
        "pred_boxes": torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.1, 0.1]]]),
    }
    targets = [{"labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]])}]
    return outputs, targets


def test_quality_by_hand():
    outputs, targets = one_object()
    losses = criterion(1, quality=True, class_weight=1.0)(outputs, targets)
    wanted = 0.5**1.5
    found = -(wanted * math.log(0.75) + (1 - wanted) * math.log(0.25))
    background = 0.75**1.5 * -math.log(0.25)
    assert losses["loss_class"].item() == pytest.approx(found + background, rel=1e-5)
    plain = criterion(1, class_weight=1.0)(outputs, targets)
    for name in ("loss_l1", "loss_giou"):
        assert losses[name] == plain[name]


def test_a_score_learns_the_power_of_its_iou():
    outputs, targets = one_object(p=0.5**1.5)
    criterion(1, quality=True)(outputs, targets)["loss_class"].backward()
    gradient = outputs["pred_logits"].grad[0, :, 0]
    assert gradient[0].item() == pytest.approx(0, abs=1e-6)
    assert gradient[1] > 0.05


@pytest.mark.parametrize("options", [{"quality": True}, {"dense_proposals": True}])
def test_points_have_finite_losses(options):
    predictions, targets = random_predictions(layers=1), random_targets()
    boxes = predictions["pred_boxes"]
    with torch.no_grad():
        targets[0]["boxes"][:] = boxes[0] = torch.tensor([0.4, 0.4, 0.0, 0.0])
    stage = {**predictions, "centers": torch.rand(2, 5, 2)}
    losses = criterion(**options)({**predictions, "enc_outputs": stage}, targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert torch.isfinite(boxes.grad).all()
    assert torch.isfinite(predictions["pred_logits"].grad).all()


def test_a_first_stage_with_classes_learns_them():
    predictions, targets = random_predictions(layers=1), random_targets()
    stage = random_predictions(layers=1, queries=30, seed=9)
    found = criterion(class_proposals=True)({**predictions, "enc_outputs": stage}, targets)
    for name, value in criterion()(stage, targets).items():
        assert found[f"{name}_encoder"].item() == pytest.approx(value.item(), rel=1e-6)


def test_dense_proposals_by_hand():
    # The grid of test_task_alignment.py: qualities 1, 0.1, 0 and 0.2
    scores = torch.tensor([0.25, 0.64, 1e-6, 0.01])
    whole = [0.5, 0.5, 1.0, 1.0]
    stage = {
        "pred_logits": torch.logit(scores)[None, :, None],
        "pred_boxes": torch.tensor(
            [[whole, [0.5, 0.5, 0.5, 1.0], [0.9, 0.9, 0.1, 0.1], whole]], requires_grad=True
        ),
        "centers": torch.tensor([[[0.25, 0.25], [0.75, 0.25], [2.0, 2.0], [0.75, 0.75]]]),
    }
    targets = [{"labels": torch.tensor([0]), "boxes": torch.tensor([whole])}]
    loss = criterion(1, dense_proposals=True, class_weight=1.0)
    found = loss({**one_object()[0], "enc_outputs": stage}, targets)
    quality = torch.tensor([1.0, 0.1, 0.0, 0.2])
    entropy = -(quality * scores.log() + (1 - quality) * (1 - scores).log())
    entropy[2] = scores[2] ** 1.5 * -(1 - scores[2]).log()
    assert found["loss_class_encoder"].item() == pytest.approx(entropy.sum().item() / 1.3, rel=1e-4)
    # Only the second box is off: by 0.5 in its width, with an IoU of 0.5
    assert found["loss_l1_encoder"].item() == pytest.approx(5 * 0.1 * 0.5 / 1.3, rel=1e-4)
    assert found["loss_giou_encoder"].item() == pytest.approx(2 * 0.1 * 0.5 / 1.3, rel=1e-4)


@pytest.mark.parametrize("queries", [6, 12, 60])
def test_denoising_losses_do_not_grow_with_the_groups(queries):
    predictions, targets = random_predictions(layers=2), random_targets()
    for target in targets:
        target["boxes"][:, 2:] = 0.2  # so that the noisy copies, too, are inside of the image
    made = make_denoising_queries(targets, 3, queries, 5, label_noise=0.0, box_noise=0.0)
    layer = {"pred_logits": torch.zeros(*made.labels.shape, 3), "pred_boxes": made.boxes + 0.1}
    given = {**predictions, "denoising": made, "denoising_outputs": [layer, layer]}
    losses = criterion()(given, targets)
    assert losses["loss_l1_denoising_0"].item() == pytest.approx(5 * 4 * 0.1, rel=1e-5)
    assert losses["loss_l1_denoising_1"] == losses["loss_l1_denoising_0"]
    # In a group of two images: four queries each, so 24 scores of 0.5, and 3 objects
    assert made.groups == queries // 4
    focal = 0.25 * math.log(2) * (3 * 0.25 + 21 * 0.75)
    assert losses["loss_class_denoising_1"].item() == pytest.approx(2 * focal / 3, rel=1e-5)
    plain = criterion()(predictions, targets)
    assert all(losses[name] == value for name, value in plain.items())
