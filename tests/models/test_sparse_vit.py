"""The sparse ViT against timm's ViT, and its sparse attention module."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from wbcnets.errors import ConfigError
from wbcnets.models.sparse_vit import SparseViT

SMALL = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 3,
    "num_classes": 5,
}


def small_model(**options) -> SparseViT:
    torch.manual_seed(0)
    model = SparseViT(**{**SMALL, **options}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_without_the_module_it_is_the_vit_of_timm(size):
    torch.manual_seed(0)
    peer = timm.create_model(f"vit_{size}_patch16_224", img_size=64, num_classes=9).eval()
    for name, parameter in peer.named_parameters():
        if "attn.qkv" in name or parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.1)
    model = timm.create_model(
        f"sparse_vit_{size}_patch16", img_size=64, num_classes=9, sparse_attention=False
    ).eval()
    model.load_state_dict(peer.state_dict())
    sparse = timm.create_model(f"sparse_vit_{size}_patch16", img_size=64, num_classes=9).eval()
    sparse.load_state_dict(peer.state_dict(), strict=False)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(image), peer(image), rtol=1e-5, atol=1e-5)
        wanted = peer.forward_intermediates(image, [0, 10], intermediates_only=True)
        # The module does not change the blocks before it
        for each in (model, sparse):
            maps = each.forward_intermediates(image, [0, 10], intermediates_only=True)
            torch.testing.assert_close(maps, wanted, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(sparse(image), peer(image), rtol=1e-3, atol=1e-3)


def test_weights_of_timm_load_from_a_file_at_another_size(tmp_path):
    peer = timm.create_model("vit_tiny_patch16_224", img_size=64)
    path = tmp_path / "model.safetensors"
    save_file(peer.state_dict(), path)
    model = timm.create_model(
        "sparse_vit_tiny_patch16",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path)},
        img_size=(96, 64),
    )
    assert model.load_report.adapted == ("pos_embed",)
    assert model.load_report.unused == ()
    assert all(name.startswith("sparse_attention.") for name in model.load_report.kept)
    torch.testing.assert_close(model.pos_embed[:, :1], peer.pos_embed[:, :1])
    assert model.pos_embed.shape == (1, 1 + 6 * 4, 192)


def test_last_block_sees_the_class_token_and_the_chosen_patches():
    model = small_model()
    seen = []
    model.blocks[-1].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens, maps = model.forward_intermediates(image, return_prefix_tokens=True)
        indices, grid = model.choose_patches(image)
    assert grid == (4, 4)
    assert len(maps) == 3
    assert tokens.shape == seen[0].shape == (2, 1 + 3, 24)
    patches, class_token = maps[-1]
    rows = patches.flatten(2).transpose(1, 2)
    for sample in range(2):
        assert torch.equal(seen[0][sample, :1], class_token[sample])
        assert torch.equal(seen[0][sample, 1:], rows[sample, indices[sample]])


def test_chosen_patches_have_the_largest_weights():
    # With one earlier block there is one map, so its own attention decides
    model = small_model(depth=2)
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens, _ = model.embed(image)
        block = model.blocks[0]
        query, key, _ = block.attn.qkv(block.norm1(tokens)).reshape(2, 17, 3, 3, 8).unbind(2)
        scores = torch.einsum("bhc,bkhc->bhk", query[:, 0], key)[..., 1:]
        indices, _ = model.choose_patches(image)
    assert torch.equal(indices, scores.argmax(dim=-1))


def test_every_parameter_gets_a_gradient_also_under_checkpointing():
    image = torch.randn(2, 3, 32, 32)
    gradients = []
    for enable in (False, True):
        model = small_model().train()
        model.set_grad_checkpointing(enable)
        model(image).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert [name for name, grad in gradients[0].items() if not grad.any()] == []
    torch.testing.assert_close(gradients[1], gradients[0])


def test_pruned_models_have_no_module_and_no_last_block():
    model = small_model()
    image = torch.randn(2, 3, 32, 32)
    wanted = model.forward_intermediates(image, intermediates_only=True)
    assert model.prune_intermediate_layers(3) == [0, 1, 2]
    assert len(model.blocks) == len(model.feature_info) == 3
    assert not any("sparse_attention" in name for name in model.state_dict())
    torch.testing.assert_close(model.forward_intermediates(image, intermediates_only=True), wanted)
    assert model(image).shape == (2, 1 + 16, 24)


def test_features_only_gives_the_last_three_maps_before_the_module():
    backbone = timm.create_model("sparse_vit_tiny_patch16", features_only=True, **SMALL)
    names = [backbone.feature_info.module_name(place) for place in backbone.out_indices]
    assert names == ["blocks.0", "blocks.1", "blocks.2"]
    maps = backbone(torch.randn(1, 3, 32, 32))
    assert [tuple(level.shape) for level in maps] == [(1, 24, 4, 4)] * 3


def test_takes_any_size_where_asked():
    model = small_model(dynamic_img_size=True)
    assert model(torch.randn(1, 3, 48, 64)).shape == (1, 5)
    assert model.choose_patches(torch.randn(1, 3, 48, 64))[1] == (6, 8)


def test_refuses_what_does_not_fit():
    with pytest.raises(ConfigError, match="depth=1"):
        small_model(depth=1)
    assert small_model(depth=1, sparse_attention=False)(torch.randn(1, 3, 32, 32)).shape == (1, 5)
    with pytest.raises(ConfigError, match="timm's names"):
        small_model(act_layer="no_such")
    with pytest.raises(ConfigError, match="sparse_attention=False"):
        small_model(sparse_attention=False).choose_patches(torch.randn(1, 3, 32, 32))
