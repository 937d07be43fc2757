import math

import pytest
import torch

pytest.importorskip("detectron2")

from mfds_detr.modeling.transformer import (
    DeformableTransformer,
    LayerSizes,
    inverse_sigmoid,
    refine_boxes,
)

SHAPES = [(6, 8), (3, 4)]


def transformer(num_encoder_layers=2, num_decoder_layers=2, num_levels=2, **options):
    torch.manual_seed(0)
    sizes = LayerSizes(16, 4, feedforward_dim=24, num_levels=num_levels, num_points=2)
    return DeformableTransformer(sizes, num_encoder_layers, num_decoder_layers, **options).eval()


def pyramid(shapes=SHAPES, seed=0):
    torch.manual_seed(seed)
    features = [torch.randn(2, 16, *shape) for shape in shapes]
    masks = [torch.zeros(2, *shape, dtype=torch.bool) for shape in shapes]
    positions = [torch.randn(2, 16, *shape) for shape in shapes]
    return features, masks, positions


def test_memory_holds_the_levels_in_order():
    features, masks, positions = pyramid()
    masks[0][1, 3:] = True
    masks[0][1, :, 4:] = True
    memory = transformer(num_encoder_layers=0).encode(features, masks, positions)
    assert memory.spatial_shapes == SHAPES
    assert memory.tokens.shape == (2, 60, 16)
    # Token 8 * 2 + 5 is row 2, column 5 of the first level; 48 + 4 + 1 is row 1, column 1
    assert torch.equal(memory.tokens[1, 21], features[0][1, :, 2, 5])
    assert torch.equal(memory.tokens[1, 53], features[1][1, :, 1, 1])
    assert memory.padding_mask[1, 21]
    assert not memory.padding_mask[0].any()
    # Half the width and half the height of the first level are image
    expected = torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.5, 0.5], [1.0, 1.0]]])
    assert torch.equal(memory.valid_ratios, expected)


def test_level_embedding_tells_levels_apart():
    features, masks, positions = pyramid()
    model = transformer()
    for layer in model.encoder.layers:  # the attention starts independent of its query
        torch.nn.init.normal_(layer.self_attn.sampling_offsets.weight)
    before = model.encode(features, masks, positions).tokens
    with torch.no_grad():
        model.level_embed[1] += 1.0
    assert not torch.allclose(model.encode(features, masks, positions).tokens, before)
    assert transformer(level_embed=False).level_embed is None


def test_padding_does_not_reach_the_image():
    model = transformer()
    features, masks, positions = pyramid([(6, 8), (3, 4)])
    for mask in masks:
        mask[:, :, mask.shape[2] // 2 :] = True
    changed = [feature.masked_fill(mask[:, None], 50.0) for feature, mask in zip(features, masks)]
    memory = model.encode(features, masks, positions)
    other = model.encode(changed, masks, positions)
    image = ~memory.padding_mask
    assert torch.allclose(memory.tokens[image], other.tokens[image], atol=1e-5)
    assert not torch.allclose(memory.tokens, other.tokens)


@pytest.mark.parametrize("box_refinement", [False, True])
def test_decode_from_queries(box_refinement):
    model = transformer()
    memory = model.encode(*pyramid())
    heads = torch.nn.ModuleList(torch.nn.Linear(16, 4) for _ in range(2))
    queries = torch.randn(5, 32)
    hidden, references = model.decode(memory, queries, None, heads if box_refinement else None)
    assert hidden.shape == (2, 2, 5, 16)
    assert [r.shape[-1] for r in references] == ([2, 4] if box_refinement else [2, 2])
    start = model.reference_points(queries[:, :16]).sigmoid()
    assert torch.allclose(references[0][1], start, atol=1e-6)
    if box_refinement:
        refined = refine_boxes(heads[0](hidden[0]), references[0])
        assert torch.allclose(references[1], refined, atol=1e-6)
        assert not references[1].requires_grad


def test_decode_needs_a_start():
    model = transformer()
    with pytest.raises(ValueError, match="query_embed or proposal_boxes"):
        model.decode(model.encode(*pyramid()), None, None, None)


def test_proposals_by_hand():
    model = transformer(two_stage=True)
    features, masks, positions = pyramid()
    masks[0][1, :, 4:] = True
    masks[1][1, :, 2:] = True
    memory = model.encode(features, masks, positions)
    tokens, scores, proposals = model.score_tokens(memory, torch.nn.Linear(16, 3))
    assert tokens.shape == (2, 60, 16)
    assert scores.shape == (2, 60, 3)
    boxes = proposals.sigmoid()
    # Row 2, column 3 of the first level of image 0: 8 columns, 6 rows, 5% wide
    assert boxes[0, 19].tolist() == pytest.approx([3.5 / 8, 2.5 / 6, 0.05, 0.05], abs=1e-5)
    # Of image 1 only 4 columns are image
    assert boxes[1, 19].tolist() == pytest.approx([3.5 / 4, 2.5 / 6, 0.05, 0.05], abs=1e-5)
    # Row 1, column 1 of the second level: twice as wide
    assert boxes[0, 53].tolist() == pytest.approx([1.5 / 4, 1.5 / 3, 0.1, 0.1], abs=1e-5)
    assert torch.isinf(proposals[1, 20]).all()
    assert torch.isfinite(proposals[0]).all()


def test_proposals_keep_one_percent_from_the_edge():
    # 100 columns: the first and the last center are at 0.005 and 0.995
    model = transformer(two_stage=True, num_levels=1, num_encoder_layers=0)
    memory = model.encode(*pyramid([(2, 100)]))
    proposals = model.score_tokens(memory, torch.nn.Linear(16, 3)).anchors
    unusable = torch.isinf(proposals).all(dim=-1)[0].view(2, 100)
    assert unusable[:, [0, 99]].all()
    assert not unusable[:, 1:99].any()


def test_inverse_sigmoid():
    p = torch.tensor([0.1, 0.5, 0.9])
    assert torch.allclose(inverse_sigmoid(p), torch.log(p / (1 - p)), atol=1e-6)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        extremes = inverse_sigmoid(torch.tensor([0.0, 1.0, -1.0, 2.0], dtype=dtype))
        bound = -math.log(1e-5)
        expected = torch.tensor([-bound, bound, -bound, bound])
        assert torch.allclose(extremes, expected, atol=1e-3)


def test_refine_boxes():
    delta = torch.tensor([0.3, -0.2, 0.5, 1.0])
    assert torch.allclose(refine_boxes(delta, torch.tensor([0.5, 0.5])), delta.sigmoid(), atol=1e-6)
    reference = torch.tensor([0.2, 0.4, 0.1, 0.3])
    unchanged = refine_boxes(torch.zeros(4), reference)
    assert torch.allclose(unchanged, reference, atol=1e-6)


def test_initialization():
    model = transformer()
    attention = model.encoder.layers[0].self_attn
    # The attention's own initialization replaces Xavier's
    assert not attention.sampling_offsets.weight.any()
    assert attention.sampling_offsets.bias.abs().max() == 2
    assert not model.reference_points.bias.any()
    first, second = model.encoder.layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_the_encoder_may_leave_the_finest_level_alone():
    features, masks, positions = pyramid()
    masks[0][1, :, 6:] = masks[1][1, :, 3:] = True
    model = transformer(encoder_levels=1)
    for layer in model.encoder.layers:
        torch.nn.init.normal_(layer.self_attn.sampling_offsets.weight)
    memory = model.encode(features, masks, positions)
    finest = features[0].flatten(2).transpose(1, 2)
    assert torch.equal(memory.tokens[:, :48], finest)
    # The coarse level is refined as if it were alone
    alone = model.encode([features[1]] * 2, [masks[1]] * 2, [positions[1]] * 2)
    assert torch.allclose(memory.tokens[:, 48:], alone.tokens[:, 12:], atol=1e-6)
    assert not torch.allclose(memory.tokens[:, 48:], alone.tokens[:, :12])
    assert memory.spatial_shapes == SHAPES
    assert memory.padding_mask.shape == (2, 60)
