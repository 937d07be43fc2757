import math

import pytest
import torch

pytest.importorskip("detectron2")

from mfds_detr.modeling.deformable_detr_head import MLP, DeformableDETRHead, distinct_boxes
from mfds_detr.modeling.position_encoding import SinePositionEncoding
from mfds_detr.modeling.transformer import DeformableTransformer, LayerSizes, refine_boxes


def detector(two_stage=False, box_refinement=False, queries=7, aux_loss=True, noise=0.1, **options):
    torch.manual_seed(0)
    sizes = LayerSizes(16, 4, feedforward_dim=24, num_levels=2, num_points=2)
    transformer = DeformableTransformer(sizes, 1, 3, two_stage=two_stage)
    model = DeformableDETRHead(
        transformer,
        SinePositionEncoding(16),
        3,
        queries,
        box_refinement or two_stage,
        aux_loss,
        **options,
    ).eval()
    for parameter in model.bbox_embed.parameters():
        parameter.data.add_(noise * torch.randn_like(parameter))
    return model


def pyramid():
    torch.manual_seed(1)
    features = [torch.randn(2, 16, 6, 8), torch.randn(2, 16, 3, 4)]
    masks = [torch.zeros(2, 6, 8, dtype=torch.bool), torch.zeros(2, 3, 4, dtype=torch.bool)]
    masks[0][1, :, 5:] = masks[1][1, :, 3:] = True
    return features, masks


@pytest.mark.parametrize("two_stage", [False, True])
@pytest.mark.parametrize("box_refinement", [False, True])
def test_output(two_stage, box_refinement):
    output = detector(two_stage, box_refinement)(*pyramid())
    layers = [*output["aux_outputs"], output]
    assert len(layers) == 3
    for layer in layers:
        assert layer["pred_logits"].shape == (2, 7, 3)
        assert layer["pred_boxes"].shape == (2, 7, 4)
        assert (layer["pred_boxes"] > 0).all()
        assert (layer["pred_boxes"] < 1).all()
    assert ("enc_outputs" in output) == two_stage
    if two_stage:
        assert output["enc_outputs"]["pred_logits"].shape == (2, 60, 3)
        assert output["enc_outputs"]["pred_boxes"].shape == (2, 60, 4)


def test_without_padding_masks_may_be_left_out():
    features, _ = pyramid()
    masks = [torch.zeros(2, *feature.shape[2:], dtype=torch.bool) for feature in features]
    for two_stage in (False, True):
        model = detector(two_stage)
        expected, output = model(features, masks), model(features)
        assert torch.equal(output["pred_logits"], expected["pred_logits"])
        assert torch.equal(output["pred_boxes"], expected["pred_boxes"])


def test_aux_loss_switch():
    with_aux, without = detector(), detector(aux_loss=False)
    expected, output = with_aux(*pyramid()), without(*pyramid())
    assert "aux_outputs" not in output
    assert torch.equal(output["pred_boxes"], expected["pred_boxes"])


def test_heads_are_shared_without_refinement_only():
    model = detector()
    assert len({id(head) for head in model.class_embed}) == 1
    assert len({id(head) for head in model.bbox_embed}) == 1
    model = detector(box_refinement=True)
    assert len({id(head) for head in model.bbox_embed}) == 3
    assert len(detector(two_stage=True).bbox_embed) == 4


def test_queries_start_from_the_best_proposals():
    model = detector(two_stage=True)
    features, masks = pyramid()
    seen = []
    decode = model.transformer.decode
    model.transformer.decode = lambda *args: seen.append(args[2]) or decode(*args)
    output = model(features, masks)["enc_outputs"]
    for image in range(2):
        best = output["pred_logits"][image, :, 0].argsort(descending=True)[:7]
        assert torch.allclose(seen[0][image], output["pred_boxes"][image, best])


def test_fewer_tokens_than_queries():
    output = detector(two_stage=True, queries=100)(*pyramid())
    assert output["pred_logits"].shape == (2, 60, 3)


def test_scores_start_low_and_boxes_at_their_references():
    model = detector(noise=0.0)
    output = model(*pyramid())
    assert output["pred_logits"].sigmoid().mean().item() == pytest.approx(0.01, abs=0.01)
    start = model.transformer.reference_points(model.query_embed.weight[:, :16]).sigmoid()
    expected = refine_boxes(torch.tensor([0.0, 0.0, -2.0, -2.0]).expand(7, 4), start)
    assert torch.allclose(output["pred_boxes"][0], expected, atol=1e-5)
    assert expected[0, 2].item() == pytest.approx(1 / (1 + math.exp(2)), abs=1e-6)


def test_mlp():
    torch.manual_seed(0)
    mlp = MLP(3, 5, 2, 3)
    x = torch.randn(4, 3)
    a, b, c = mlp.layers
    assert torch.allclose(mlp(x), c(torch.relu(b(torch.relu(a(x))))))
    assert [tuple(layer.weight.shape) for layer in mlp.layers] == [(5, 3), (5, 5), (2, 5)]


def shifted(*offsets):
    """Boxes of 0.1 x 0.1 at offsets of tenths of their side; IoU (10 - d) / (10 + d)."""
    return torch.tensor([[[0.2 + 0.01 * offset, 0.5, 0.1, 0.1] for offset in offsets]])


def test_distinct_boxes_by_hand():
    # A distance of 1 tenth is an IoU of 0.82, one of 2 tenths of 0.67
    boxes, scores = shifted(0, 1, 40, 41, 2), torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0]])
    # The last one is covered by the second, which is covered itself
    assert distinct_boxes(boxes, scores, 2).tolist() == [[0, 2]]
    assert distinct_boxes(boxes, scores, 5).tolist() == [[0, 2, 1, 3, 4]]
    assert distinct_boxes(boxes, scores, 5, max_iou=0.9).tolist() == [[0, 1, 2, 3, 4]]
    assert distinct_boxes(boxes, scores, 2, max_iou=0.6).tolist() == [[0, 2]]


def test_covered_boxes_come_before_padding():
    scores = torch.tensor([[3.0, 2.0, -1e4, -1e4]])
    boxes = torch.cat([shifted(0, 1), torch.ones(1, 2, 4)], dim=1)
    assert distinct_boxes(boxes, scores, 3).tolist() == [[0, 1, 2]]


def proposals(model, features, masks, targets=None):
    """Returns the arguments of the decoder, and the output."""
    seen = []
    decode = model.transformer.decode
    model.transformer.decode = lambda *args: seen.append(args) or decode(*args)
    return seen, model(features, masks, targets)


def test_proposals_are_ranked_by_their_best_class():
    model = detector(two_stage=True, class_proposals=True)
    torch.nn.init.normal_(model.class_embed[-1].weight)
    seen, output = proposals(model, *pyramid())
    for image in range(2):
        scores = output["enc_outputs"]["pred_logits"][image].amax(dim=-1)
        expected = output["enc_outputs"]["pred_boxes"][image, scores.topk(7).indices]
        assert torch.allclose(seen[0][2][image], expected)


def test_queries_start_with_their_tokens():
    model = detector(two_stage=True, token_content=True)
    seen, output = proposals(model, *pyramid())
    content = seen[0][4]
    assert content.shape == (2, 7, 16)
    assert not content.requires_grad
    head = model.class_embed[-1]
    best = output["enc_outputs"]["pred_logits"][..., 0].topk(7).values
    assert torch.allclose(head(content)[..., 0], best, atol=1e-5)
    assert proposals(detector(two_stage=True), *pyramid())[0][0][4] is None


def test_distinct_proposals_are_the_same_without_gradients():
    model = detector(two_stage=True, distinct_proposals=True, class_proposals=True)
    expected = proposals(model, *pyramid())[0][0][2]
    with torch.no_grad():
        found = proposals(model, *pyramid())[0][0][2]
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("queries", [7, 20, 39])
def test_padding_takes_the_place_of_no_proposal(queries):
    model = detector(
        two_stage=True,
        queries=queries,
        distinct_proposals=True,
        class_proposals=True,
        token_content=True,
    ).double()
    # All propose nearly the whole image, so that most are covered
    first_stage = model.bbox_embed[-1].last
    torch.nn.init.zeros_(first_stage.weight)
    first_stage.bias.data.copy_(torch.tensor([0.0, 0.0, 8.0, 8.0]))
    features, masks = pyramid()
    features = [feature.double() for feature in features]
    with torch.no_grad():
        together = model(features, masks)
        # Its image has 5 of 8, and 3 of 4 columns: 39 tokens
        alone = model([features[0][1:, :, :, :5], features[1][1:, :, :, :3]])
    for name in ("pred_logits", "pred_boxes"):
        torch.testing.assert_close(together[name][1:], alone[name], atol=1e-5, rtol=1e-5)
