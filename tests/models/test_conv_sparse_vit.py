"""The convolutional sparse ViT against transformers' CvT, its weight names, and its own parts."""

import logging
import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from wbcnets.errors import ConfigError
from wbcnets.models.conv_sparse_vit import ConvSparseViT, checkpoint_filter_fn

SMALL = {"embed_dims": (8, 12, 24), "depths": (1, 1, 3), "num_heads": (1, 2, 3), "num_classes": 5}


def randomize(module: nn.Module) -> nn.Module:
    """Draws weights so large that attention is uneven and batch norms are not the identity."""
    torch.manual_seed(0)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2)
        elif tensor.ndim == 1 and name.endswith("weight"):
            nn.init.uniform_(tensor, 0.5, 1.5)
        elif tensor.is_floating_point():
            nn.init.normal_(tensor, std={2: 0.1, 4: 0.4}.get(tensor.ndim, 0.5))
    return module


def small_model(**options) -> ConvSparseViT:
    model = ConvSparseViT(**{**SMALL, **options}).eval()
    randomize(model)
    return model


@pytest.fixture(scope="module")
def peer():
    transformers = pytest.importorskip("transformers")
    config = transformers.CvtConfig(drop_path_rate=[0.0, 0.0, 0.0], num_labels=7)
    return randomize(transformers.CvtForImageClassification(config)).eval()


def cvt(state, **options) -> ConvSparseViT:
    """Returns CvT-13 as our model, with translated weights."""
    options = {"num_heads": (1, 3, 6), "sparse_attention": False, "num_classes": 7, **options}
    model = ConvSparseViT(**options).eval()
    model.load_state_dict(checkpoint_filter_fn(state, model))
    return model


@pytest.mark.parametrize("size", [(64, 64), (70, 45)])
def test_is_the_cvt_of_transformers(peer, size):
    model = cvt(peer.state_dict())
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        theirs = peer.cvt(image, output_hidden_states=True)
        tokens, maps = model.forward_intermediates(image)
        class_token = peer.layernorm(theirs.cls_token_value)
        torch.testing.assert_close(tokens[:, :1], class_token, rtol=1e-4, atol=1e-4)
        for ours, wanted in zip(maps, theirs.hidden_states):
            torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(maps[2], theirs.last_hidden_state, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(image), peer(image).logits, rtol=1e-4, atol=1e-4)
        other = cvt(peer.state_dict(), num_heads=(1, 2, 6))
        assert (other(image) - model(image)).abs().max() > 1e-2


def test_trains_as_the_cvt_of_transformers(peer):
    model = cvt(peer.state_dict()).train()
    image = torch.randn(3, 3, 64, 64)
    peer.train()
    with torch.no_grad():
        logits = peer(image).logits
        torch.testing.assert_close(model(image), logits, rtol=1e-3, atol=1e-3)
    peer.eval()


def test_weights_of_transformers_load_from_a_file(peer, tmp_path):
    state = peer.state_dict()
    path = tmp_path / "model.safetensors"
    for prefix in ("cvt.", ""):
        save_file(
            {
                name.removeprefix("cvt.") if not prefix else name: tensor.contiguous()
                for name, tensor in state.items()
            },
            path,
        )
        model = timm.create_model(
            "conv_sparse_vit_13",
            pretrained=True,
            pretrained_cfg_overlay={"file": str(path)},
            num_classes=7,
            num_heads=(1, 3, 6),
        )
        report = model.load_report
        assert report.adapted == report.unused == ()
        assert sorted(report.kept) == [
            f"stages.2.sparse_attention.{layer}.{kind}"
            for layer in ("fc1", "fc2")
            for kind in ("bias", "weight")
        ]


def in_the_original_naming(name: str) -> str:
    name = re.sub(r"^stages\.(\d)\.", r"stage\1.", name).replace(".embed.", ".patch_embed.")
    for ours, letter in (("query", "q"), ("key", "k"), ("value", "v")):
        name = name.replace(f"attn.{ours}.linear.", f"attn.proj_{letter}.")
        name = name.replace(f"attn.{ours}.", f"attn.conv_proj_{letter}.")
    return name


def test_weights_of_the_original_code_load():
    model = small_model()
    state = model.state_dict()
    original = {in_the_original_naming(name): tensor for name, tensor in state.items()}
    for name in (
        "stage0.patch_embed.proj.weight",
        "stage0.patch_embed.norm.bias",
        "stage0.blocks.0.attn.conv_proj_q.conv.weight",
        "stage1.blocks.0.attn.conv_proj_k.bn.running_mean",
        "stage2.blocks.1.attn.proj_v.bias",
        "stage2.blocks.1.attn.proj.weight",
        "stage2.blocks.0.mlp.fc1.weight",
        "stage2.cls_token",
        "norm.weight",
        "head.weight",
    ):
        assert name in original
    translated = checkpoint_filter_fn(original, model)
    assert translated.keys() == state.keys()
    assert all(translated[name] is state[name] for name in state)


def test_own_weights_pass_unchanged():
    model = small_model(position_embedding="every", img_size=64)
    state = model.state_dict()
    translated = checkpoint_filter_fn(state, model)
    assert translated.keys() == state.keys()
    assert all(translated[name] is state[name] for name in state)


def test_says_that_the_weights_had_other_heads(peer, caplog):
    with caplog.at_level(logging.WARNING):
        cvt(peer.state_dict())
        assert caplog.text == ""
        cvt(peer.state_dict(), num_heads=(1, 2, 6))
    assert "num_heads=(1, 3, 6)" in caplog.text


@pytest.mark.parametrize("size", [(64, 64), (80, 112), (72, 40)])
def test_last_block_sees_the_class_token_and_the_chosen_patches(size):
    model = small_model()
    seen = []
    model.stages[2].blocks[-1].register_forward_hook(lambda _, inputs, __: seen.append(inputs))
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        tokens, maps = model.forward_intermediates(image)
        indices, grid = model.choose_patches(image)
    assert grid == tuple(maps[2].shape[2:])
    assert indices.shape == (2, 3)
    assert (indices // grid[1] % 2 == 0).all()
    assert (indices % grid[1] % 2 == 0).all()
    kept, map_size = seen[0]
    assert map_size is None
    assert tokens.shape == kept.shape == (2, 1 + 3, 24)
    rows = maps[2].flatten(2).transpose(1, 2)
    for sample in range(2):
        assert torch.equal(kept[sample, 1:], rows[sample, indices[sample]])


def test_different_images_have_different_patches_chosen():
    indices, _ = small_model().choose_patches(torch.randn(8, 3, 128, 128))
    assert len(indices.unique()) > 3


def test_without_the_module_every_token_reaches_the_head():
    model = small_model(sparse_attention=False)
    assert model.forward_features(torch.randn(1, 3, 64, 64)).shape == (1, 1 + 16, 24)
    with pytest.raises(ConfigError, match="sparse_attention=False"):
        model.choose_patches(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("where", "stages"), [(None, []), ("every", [0, 1, 2]), ("first", [0]), ("last", [2])]
)
def test_position_embeddings_are_in_the_stages_of_table_1(where, stages):
    model = small_model(position_embedding=where, img_size=(64, 32))
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if n.endswith("pos_embed")}
    widths, heights = (8, 12, 24), (16, 8, 4)
    assert shapes == {
        f"stages.{s}.pos_embed": (1, heights[s], heights[s] // 2, widths[s]) for s in stages
    }
    assert model.no_weight_decay() == {"stages.2.cls_token", *shapes}
    assert model(torch.randn(1, 3, 64, 32)).shape == (1, 5)
    assert model(torch.randn(1, 3, 96, 64)).shape == (1, 5)


def test_position_embeddings_are_resampled():
    model = small_model(position_embedding="every", img_size=64)
    image = torch.randn(1, 3, 96, 128)
    expected = model(image)
    fresh = small_model(position_embedding="every", img_size=(96, 128))
    translated = checkpoint_filter_fn(model.state_dict(), fresh)
    fresh.load_state_dict(translated)
    torch.testing.assert_close(fresh(image), expected)
    model.set_input_size((96, 128))
    assert model.stages[0].pos_embed.shape == (1, 24, 32, 8)
    torch.testing.assert_close(model(image), expected)


def test_position_embeddings_matter():
    model = small_model(position_embedding="last", img_size=64)
    image = torch.randn(1, 3, 64, 64)
    before = model(image)
    with torch.no_grad():
        model.stages[2].pos_embed.mul_(-1)
    assert not torch.allclose(model(image), before)


def test_last_map_comes_from_before_sparse_attention():
    sparse, plain = small_model(), small_model(sparse_attention=False)
    plain.load_state_dict(sparse.state_dict(), strict=False)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        level = sparse.forward_intermediates(image, [-1], intermediates_only=True)[0]
        stage = plain.stages[2]
        stage.blocks = stage.blocks[:-1]
        wanted = plain.forward_intermediates(image, [-1], intermediates_only=True)[0]
    torch.testing.assert_close(level, wanted)


@pytest.mark.parametrize("indices", [[0], [0, 1], [2], 3])
def test_pruned_models_keep_their_maps(indices):
    model = small_model()
    image = torch.randn(2, 3, 64, 64)
    wanted = model.forward_intermediates(image, indices, norm=True, intermediates_only=True)
    places = model.prune_intermediate_layers(indices)
    assert len(model.stages) == len(model.feature_info) == max(places) + 1
    maps = model.forward_intermediates(image, places, norm=True, intermediates_only=True)
    torch.testing.assert_close(maps, wanted)
    assert not any("sparse_attention" in name for name in model.state_dict())
    for level, place in zip(maps, places):
        assert level.shape[1] == model.feature_info[place]["num_chs"]
    tokens = model(image)
    assert tokens.shape[2] == model.num_features == model.feature_info[-1]["num_chs"]
    if max(places) == 2:
        assert len(model.stages[2].blocks) == 2


def test_features_only_gives_three_maps():
    backbone = timm.create_model("conv_sparse_vit_13", features_only=True, **SMALL)
    assert backbone.feature_info.reduction() == [4, 8, 16]
    assert backbone.feature_info.channels() == [8, 12, 24]
    maps = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(level.shape) for level in maps] == [(1, 8, 16, 24), (1, 12, 8, 12), (1, 24, 4, 6)]
    sum(level.square().mean() for level in maps).backward()
    unused = [n for n, p in backbone.named_parameters() if p.grad is None and "head" not in n]
    assert unused == []


def test_checkpointing_counts_a_batch_once():
    image = torch.randn(2, 3, 64, 64)
    states = []
    for enable in (False, True):
        model = small_model().train()
        model.set_grad_checkpointing(enable)
        model(image).square().sum().backward()
        states.append(model.state_dict())
    assert states[1]["stages.2.blocks.0.attn.key.bn.num_batches_tracked"] == 1
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor)


def test_gradients_of_one_image_are_those_of_two_equal_ones():
    # A batch of one has ambiguous strides, which PyTorch's batch norm misreads in its backward pass
    image = torch.randn(1, 3, 64, 64)
    gradients = []
    for batch in (image, image.expand(2, -1, -1, -1)):
        model = small_model().double()
        model(batch.double()).square().sum(dim=1).mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1])


def test_parameters_without_a_gradient_are_the_last_queries_convolution_only():
    # The head takes only the class token, which skips the convolutions; CvT has the same
    dead = {"conv.weight", "bn.weight", "bn.bias"}
    for pool, expected in (
        ("token", {f"stages.2.blocks.2.attn.query.{n}" for n in dead}),
        ("avg", set()),
    ):
        model = small_model(global_pool=pool).train()
        model(torch.randn(2, 3, 64, 64)).square().sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        assert {n for n, p in model.named_parameters() if not p.grad.any()} == expected


def test_drop_path_rises_over_all_blocks():
    model = small_model(drop_path_rate=0.4)
    rates = [block.drop_path1.drop_prob for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": (1, 5, 3)}, "num_heads=5 does not divide dim=12"),
        ({"depths": (1, 1)}, "3 stages"),
        ({"depths": (1, 1, 1)}, "sparse_attention=False"),
        ({"position_embedding": "second"}, "'every', 'first', 'last'"),
        ({"attention_scale": "root"}, "'embed_dim', 'head_dim'"),
        ({"act_layer": "no_such"}, "timm's names"),
        ({"global_pool": "median"}, "global_pool='median'"),
        ({"in_chans": 0}, "in_chans"),
        ({"img_size": 2}, "too small"),
    ],
)
def test_refuses_what_does_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        ConvSparseViT(**{**SMALL, **options})


def test_refuses_images_with_other_channels():
    with pytest.raises(ConfigError, match="in_chans"):
        small_model()(torch.randn(1, 4, 64, 64))
