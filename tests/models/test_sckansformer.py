import logging

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.reference import sckansformer as reference
from wbcnets.errors import ConfigError
from wbcnets.layers.kan import KAN
from wbcnets.models.sckansformer import SCKansformer, checkpoint_filter_fn
from wbcnets.models.size import measure_registered

DIM, DEPTH, HEADS, CLASSES, SIDE, PATCH = 32, 2, 4, 5, 32, 8
RELEASED_SCCONV = {"gate": "hard", "fusion": "joint"}
SMALL = {
    "embed_dim": DIM,
    "depth": DEPTH,
    "num_heads": HEADS,
    "img_size": SIDE,
    "patch_size": PATCH,
    "num_classes": CLASSES,
}


def small_model(**options) -> SCKansformer:
    torch.manual_seed(0)
    return SCKansformer(**(SMALL | options)).eval()


def released_shapes(dim, depth, classes, patches, patch, hidden=64) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of the released model's tensors."""
    half, quarter, wide = dim // 2, dim // 4, 4 * dim
    shapes = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, 1 + patches, dim),
        "patch_embed.proj.weight": (dim, 3, patch, patch),
        "patch_embed.proj.bias": (dim,),
        "patch_embed.new_SCConv.SRU.gn.gamma": (dim, 1, 1),
        "patch_embed.new_SCConv.SRU.gn.beta": (dim, 1, 1),
        "patch_embed.new_SCConv.CRU.squeeze1.weight": (quarter, half, 1, 1),
        "patch_embed.new_SCConv.CRU.squeeze2.weight": (quarter, half, 1, 1),
        "patch_embed.new_SCConv.CRU.GWC.weight": (dim, quarter // 2, 3, 3),
        "patch_embed.new_SCConv.CRU.GWC.bias": (dim,),
        "patch_embed.new_SCConv.CRU.PWC1.weight": (dim, quarter, 1, 1),
        "patch_embed.new_SCConv.CRU.PWC2.weight": (dim - quarter, quarter, 1, 1),
        "cnn_block.conv.layers.0.weight": (wide, dim, 1, 1),
        "cnn_block.conv.layers.3.weight": (wide, 1, 3, 3),
        "cnn_block.conv.layers.6.fc1.weight": (dim, wide),
        "cnn_block.conv.layers.6.fc1.bias": (dim,),
        "cnn_block.conv.layers.6.fc2.weight": (wide, dim),
        "cnn_block.conv.layers.6.fc2.bias": (wide,),
        "cnn_block.conv.layers.7.weight": (dim, wide, 1, 1),
    }
    for layer, channels in ((1, wide), (4, wide), (8, dim)):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"cnn_block.conv.layers.{layer}.{part}"] = (channels,)
        shapes[f"cnn_block.conv.layers.{layer}.num_batches_tracked"] = ()
    blocks = [f"blocks.{place}" for place in range(depth)]
    norms = ["norm", "cnn_block.attention_norm"]
    norms += [f"{block}.norm{place}" for block in blocks for place in (1, 2)]
    for norm in norms:
        shapes |= {f"{norm}.weight": (dim,), f"{norm}.bias": (dim,)}
    for attention in ["cnn_block.attn", *(f"{block}.attn" for block in blocks)]:
        shapes |= {f"{attention}.qkv.weight": (3 * dim, dim), f"{attention}.qkv.bias": (3 * dim,)}
        shapes |= {f"{attention}.proj.weight": (dim, dim), f"{attention}.proj.bias": (dim,)}
    kans = [(f"{block}.kan", dim) for block in blocks] + [("head", classes)]
    for kan, outputs in kans:
        for place, (i, o) in enumerate(((dim, hidden), (hidden, outputs))):
            layer = f"{kan}.layers.{place}"
            shapes |= {f"{layer}.base_weight": (o, i), f"{layer}.spline_scaler": (o, i)}
            shapes |= {f"{layer}.spline_weight": (o, i, 8), f"{layer}.grid": (i, 12)}
    return shapes


def released_weights() -> dict[str, torch.Tensor]:
    """Returns tensors of a small released model, with values that make every part matter."""
    torch.manual_seed(0)
    weights = {}
    shapes = released_shapes(DIM, DEPTH, CLASSES, (SIDE // PATCH) ** 2, PATCH)
    for name, shape in shapes.items():
        if name.endswith("grid"):
            knots = (torch.arange(-3, 9) * 0.4 - 1).expand(shape[0], -1).contiguous()
            weights[name] = knots
        elif name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            weights[name] = torch.rand(shape) + 0.5
        elif "SRU" in name:
            weights[name] = torch.randn(shape)
        elif name.startswith("patch_embed.proj") or name in ("cls_token", "pos_embed"):
            # Small, so no pooled channel dominates the softmax and no position outweighs a patch
            weights[name] = 0.07 * torch.randn(shape)
        else:
            weights[name] = 0.3 * torch.randn(shape)
    return weights


def random_images(batch=3) -> torch.Tensor:
    return torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_released_weights_give_the_released_function(tmp_path, suffix):
    weights, images = released_weights(), random_images()
    path = tmp_path / f"released{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    model = timm.create_model(
        "sckansformer_base",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path), "num_classes": CLASSES},
        scconv_options=RELEASED_SCCONV,
        **SMALL,
    ).eval()

    double = {name: tensor.double() for name, tensor in weights.items()}
    expected = reference.sckansformer(images.double(), double, HEADS, DEPTH)

    assert model.load_report.complete
    assert set(model.load_report.adapted) == {"scconv.sru.norm.weight", "scconv.sru.norm.bias"}
    assert expected.std() > 0.1
    assert (expected[0] - expected[1]).abs().max() > 0.1  # images matter
    torch.testing.assert_close(model.double()(images.double()), expected, rtol=1e-5, atol=1e-5)
    soft = small_model().double()
    soft.load_state_dict(checkpoint_filter_fn(double, soft))
    assert (soft(images.double()) - expected).abs().max() > 1e-3


def test_every_part_of_the_released_function_is_compared():
    """Each tensor of the released model moves the reference's logits."""
    weights = {name: tensor.double() for name, tensor in released_weights().items()}
    images = random_images(1).double()
    expected = reference.sckansformer(images, weights, HEADS, DEPTH)
    for name, tensor in weights.items():
        if name.endswith("num_batches_tracked"):
            continue
        shift = 0.1 * torch.randn_like(tensor) if "grid" not in name else 0.05
        changed = reference.sckansformer(images, weights | {name: tensor + shift}, HEADS, DEPTH)
        assert (changed - expected).abs().max() > 1e-7, name


def test_released_base_names_fill_the_whole_model():
    shapes = released_shapes(768, 12, 40, 196, 16)
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    model = timm.create_model("sckansformer_base", num_classes=40, device="meta")
    translated = checkpoint_filter_fn(state, model)
    target = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in translated.items()} == target


def test_released_weights_with_a_soft_gate_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        checkpoint_filter_fn(released_weights(), small_model(scconv_options=RELEASED_SCCONV))
        assert not caplog.records
        checkpoint_filter_fn(released_weights(), small_model())
    assert "gate='hard'" in caplog.text


def test_own_names_pass_unchanged():
    model = small_model()
    state = model.state_dict()
    translated = checkpoint_filter_fn(dict(state), model)
    assert list(translated) == list(state)
    assert all(translated[name] is state[name] for name in state)


def test_ablated_to_the_last_part_it_is_timms_vit(tmp_path):
    torch.manual_seed(0)
    sizes = {"embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS, "img_size": SIDE}
    vit = timm.create_model("vit_tiny_patch16_224", patch_size=PATCH, num_classes=CLASSES, **sizes)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    model = timm.create_model(
        "sckansformer_tiny",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "vit.safetensors"), "num_classes": CLASSES},
        scconv=False,
        global_local=False,
        mlp="mlp",
        head="linear",
        **SMALL,
    )
    images = random_images()
    assert model.load_report.complete
    torch.testing.assert_close(model.eval()(images), vit.eval()(images), rtol=1e-4, atol=1e-5)


def test_vit_weights_are_taken_where_there_is_a_counterpart(tmp_path):
    torch.manual_seed(0)
    sizes = {"embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS, "img_size": 48}
    vit = timm.create_model("vit_tiny_patch16_224", patch_size=PATCH, **sizes)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    overlay = {"file": str(tmp_path / "vit.safetensors")}
    model = timm.create_model(
        "sckansformer_tiny", pretrained=True, pretrained_cfg_overlay=overlay, **SMALL
    )
    report, weights = model.load_report, vit.state_dict()
    own = model.state_dict()
    assert report.adapted == ("pos_embed",)  # 6 x 6 patches became 4 x 4
    shared = [name for name in weights if ".mlp." not in name and not name.startswith("head.")]
    assert set(report.taken) == set(shared) - {"pos_embed"}
    assert all(torch.equal(own[name], weights[name]) for name in report.taken)
    assert set(report.unused) == set(weights) - set(shared)
    new = ("scconv.", "global_local.", "head.layers.", "blocks.0.mlp.", "blocks.1.mlp.")
    assert all(name.startswith(new) for name in report.kept)


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        ({"scconv": False}, "scconv."),
        ({"global_local": False}, "global_local."),
        ({"mlp": "mlp"}, "blocks.0.mlp.layers."),
        ({"head": "linear"}, "head.layers."),
        ({"squeeze_excite": False}, "global_local.local.squeeze_excite."),
    ],
)
def test_ablations_leave_their_part_out(options, absent):
    full, ablated = small_model(), small_model(**options)
    assert any(name.startswith(absent) for name in full.state_dict())
    assert not any(name.startswith(absent) for name in ablated.state_dict())
    assert ablated(random_images()).shape == (3, CLASSES)


def test_classes_are_read_off_the_class_token_after_the_blocks():
    model = small_model()
    tokens = model.forward_features(random_images())
    assert tokens.shape == (3, 1 + 16, DIM)
    torch.testing.assert_close(model(random_images()), model.head(tokens[:, 0]))


def test_kan_options_reach_every_kan():
    model = small_model(kan_hidden=8, kan_options={"grid_size": 3, "grid_range": (-2.0, 2.0)})
    kans = [module for module in model.modules() if isinstance(module, KAN)]
    assert len(kans) == DEPTH + 1
    for kan in kans:
        assert kan.layers[0].out_features == 8
        assert {layer.grid_size for layer in kan.layers} == {3}
        assert {layer.grid_range for layer in kan.layers} == {(-2.0, 2.0)}


def test_regularization_is_the_sum_over_all_kans():
    model = small_model()
    kans = [block.mlp for block in model.blocks] + [model.head]
    expected = sum(kan.regularization_loss(0.5, 2.0) for kan in kans)
    torch.testing.assert_close(model.regularization_loss(0.5, 2.0), expected)
    plain = small_model(mlp="mlp", head="linear")
    assert plain.regularization_loss() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mlp": "conv"}, "mlp='conv': use one of"),
        ({"head": "mlp"}, "head='mlp': use one of"),
        ({"scconv_options": {"gate": "medium"}}, "gate='medium'"),
        ({"embed_dim": 24, "num_heads": 3}, "multiple of num_groups=16"),
        ({"num_heads": 5}, "num_heads=5"),
        ({"kan_hidden": 0}, "out_features"),
    ],
)
def test_refuses_what_makes_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        small_model(**options)


def test_hard_gates_train_all_parameters_but_their_own():
    model = small_model(scconv_options=RELEASED_SCCONV).train()
    model(random_images()).square().sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {"scconv.sru.norm.weight", "scconv.sru.norm.bias"}
    assert without == {name for name, p in model.named_parameters() if not p.requires_grad}


def test_base_has_the_papers_size():
    size = measure_registered("sckansformer_base", num_classes=40)
    assert 53.5e6 < size.parameters < 54.5e6
    assert 10.1e9 < size.macs < 10.3e9
