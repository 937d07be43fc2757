import pytest
import torch

pytest.importorskip("detectron2")

from mfds_detr.modeling import deformable_detr_head as head_module
from mfds_detr.modeling.denoising import make_denoising_queries
from tests.mfds_detr.modeling.test_deformable_detr_head import detector, pyramid


def targets(*counts, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "labels": torch.randint(classes, (count,), generator=generator),
            "boxes": torch.rand(count, 4, generator=generator) * 0.3 + 0.2,
        }
        for count in counts
    ]


def test_without_noise_queries_are_copies_of_their_objects():
    given = targets(2, 3, 0)
    made = make_denoising_queries(given, 3, 20, 5, label_noise=0.0, box_noise=0.0)
    assert made.groups == 3  # 20 queries hold 3 groups of 3 positive and 3 negative ones
    assert made.labels.shape == (3, 18)
    boxes = torch.cat([target["boxes"] for target in given])
    labels = torch.cat([target["labels"] for target in given])
    torch.testing.assert_close(made.boxes[made.image, made.query], boxes[made.target])
    assert torch.equal(made.labels[made.image, made.query], labels[made.target])
    assert made.image.tolist() == [0, 0, 1, 1, 1] * 3
    assert made.target.tolist() == [0, 1, 2, 3, 4] * 3
    # The second three of each six are negative ones
    assert made.query.tolist() == [0, 1, 0, 1, 2, 6, 7, 6, 7, 8, 12, 13, 12, 13, 14]
    empty = made.labels == 3
    assert empty[0].tolist() == [False, False, True] * 6
    assert not empty[1].any()
    assert empty[2].all()
    assert (made.boxes[empty] == 0.5).all()


def test_matches_are_those_of_each_layer():
    made = make_denoising_queries(targets(1, 2), 3, 8, 5)
    matches = made.matches(2)
    assert matches.layer.tolist() == [0] * 6 + [1] * 6
    for found, once in zip(matches[1:], (made.image, made.query, made.target)):
        assert torch.equal(found, once.repeat(2))


def test_noise_by_the_definition():
    box = torch.tensor([0.5, 0.4, 0.1, 0.06])
    given = [{"labels": torch.full((1,), 7), "boxes": box[None]}]
    torch.manual_seed(0)
    made = make_denoising_queries(given, 1000, 4000, 1)
    center, size = made.boxes[0].split(2, dim=-1)
    low, high = center - size / 2, center + size / 2
    away = torch.cat([low, high], dim=1).sub(box[:2].repeat(2)).abs() / (box[2:].repeat(2) / 2)
    positive, negative = away[0::2], away[1::2]
    assert positive.max() <= 2 + 1e-4
    assert ((positive > 1.1) & (positive < 1.9)).float().mean() > 0.3
    # Corners of negative ones move by more than half a side
    assert negative.max() <= 3 + 1e-4
    assert negative.max() > 2.9
    assert not ((negative > 1 + 1e-3) & (negative < 2 - 1e-3)).any()
    changed = (made.labels != 7).float().mean().item()
    assert changed == pytest.approx(0.25, abs=0.03)


def test_noisy_boxes_stay_in_the_image():
    given = [
        {"labels": torch.tensor([0, 1]), "boxes": torch.tensor([[0.02, 0.98, 0.04, 0.04]] * 2)}
    ]
    torch.manual_seed(0)
    boxes = make_denoising_queries(given, 3, 400, 5).boxes[0]
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    assert low.min() >= -1e-3
    assert high.max() <= 1 + 1e-3
    assert boxes[:, 2:].min() > 0


def test_the_mask_by_hand():
    made = make_denoising_queries(targets(1), 3, 4, 2)
    # Two groups of two, then two detecting queries; rows look, columns are looked at
    expected = [
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
    ]
    assert made.attention_mask.int().tolist() == expected


def test_more_objects_than_queries_make_one_group():
    assert make_denoising_queries(targets(9), 3, 4, 5).groups == 1


@pytest.mark.parametrize("counts", [(0,), (0, 0)])
def test_without_objects_all_queries_are_empty(counts):
    made = make_denoising_queries(targets(*counts), 3, 4, 5)
    assert made.labels.shape == (len(counts), 4)
    assert (made.labels == 3).all()
    assert len(made.image) == len(made.query) == len(made.target) == 0


def outputs(model, given, change=None, monkeypatch=None):
    """Predicts with denoising queries, of which ``change`` makes others."""
    torch.manual_seed(0)
    if change is not None:
        monkeypatch.setattr(
            head_module,
            "make_denoising_queries",
            lambda *args: change(make_denoising_queries(*args)),
        )
    return model(*pyramid(), given)


def test_detections_do_not_see_denoising_queries(monkeypatch):
    model = detector(two_stage=True, denoising_queries=12, token_content=True).train()
    model.transformer.eval()  # no dropout
    alone = model(*pyramid())
    assert "denoising" not in alone

    def shake(made):
        return made._replace(boxes=torch.rand_like(made.boxes), labels=made.labels * 0)

    for given, change in ((targets(1, 3), None), (targets(2, 1), shake)):
        found = outputs(model, given, change, monkeypatch)
        for layer, expected in zip(
            [*found["aux_outputs"], found], [*alone["aux_outputs"], alone], strict=True
        ):
            for name in ("pred_logits", "pred_boxes"):
                torch.testing.assert_close(layer[name], expected[name], atol=2e-5, rtol=1e-4)


def test_groups_do_not_see_each_other(monkeypatch):
    model = detector(two_stage=True, denoising_queries=8).eval()
    model.training = True  # only the head itself: no dropout
    before = outputs(model, targets(2, 1))
    assert before["denoising"].groups == 2

    def change(made):
        boxes = made.boxes.clone()
        boxes[:, 4:] = 0.3
        return made._replace(boxes=boxes)

    after = outputs(model, targets(2, 1), change, monkeypatch)
    for old, new in zip(before["denoising_outputs"], after["denoising_outputs"], strict=True):
        assert old["pred_logits"].shape == (2, 8, 3)
        torch.testing.assert_close(old["pred_logits"][:, :4], new["pred_logits"][:, :4])
        assert not torch.allclose(old["pred_logits"][:, 4:], new["pred_logits"][:, 4:])


def test_denoising_is_for_training_only():
    model = detector(two_stage=True, denoising_queries=8)
    assert "denoising" not in model.eval()(*pyramid(), targets(2, 1))
    assert "denoising" in model.train()(*pyramid(), targets(2, 1))
