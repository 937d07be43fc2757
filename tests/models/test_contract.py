"""timm's model contract, for every name that the library registers."""

import copy

import pytest
import timm
import torch
from timm.models import save_for_hf
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import nn

import wbcnets
from tests.models.conftest import SMALL, family, one_per_family
from wbcnets.errors import ConfigError

NAMES = wbcnets.list_models()
TOKEN_NAMES = [name for name in NAMES if not name.startswith("resnext")]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_names_are_the_documented_ones():
    assert NAMES == [
        "conv_sparse_vit_13",
        "resnext_cc_101",
        "resnext_cc_26",
        "resnext_cc_26_wb",
        "resnext_cc_50",
        "sckansformer_base",
        "sckansformer_small",
        "sckansformer_tiny",
        "sparse_vit_base_patch16",
        "sparse_vit_small_patch16",
        "sparse_vit_tiny_patch16",
    ]


def test_default_cfg(name):
    model = timm.create_model(name, device="meta")
    cfg = model.default_cfg
    names = model.state_dict().keys()
    assert timm.is_model_pretrained(name)
    assert cfg.get("hf_hub_id") or cfg.get("file")
    assert cfg["architecture"] == name
    side = {"resnext_cc_26": 112, "resnext_cc_26_wb": 80}.get(name, 224)
    assert cfg["input_size"] == (3, side, side)
    assert len(cfg["mean"]) == len(cfg["std"]) == 3
    assert f"{cfg['first_conv']}.weight" in names
    assert any(key.startswith(f"{cfg['classifier']}.") for key in names)
    assert 0 < cfg["crop_pct"] <= 1
    assert timm.data.resolve_model_data_config(model)["input_size"] == (3, side, side)


def test_real_size_on_the_meta_device(name):
    model = timm.create_model(name, device="meta", num_classes=40)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {buffer.device.type for buffer in model.buffers()} <= {"meta"}
    with torch.device("meta"):
        logits = model.eval()(torch.empty(2, 3, 224, 224))
    assert logits.shape == (2, 40)
    assert model.num_features == model.head_hidden_size


def test_meta_model_takes_real_weights(name, small, make_images):
    model = small(name)
    empty = small(name, device="meta").to_empty(device="cpu")
    empty.load_state_dict(model.state_dict())
    x = make_images(name)
    assert torch.equal(empty(x), model(x))


def test_dtype_keyword(name, small, make_images):
    model = small(name, dtype=torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model(make_images(name).double()).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_converted_model_gives_about_the_same(name, dtype, small, make_images):
    model, x = small(name), make_images(name)
    with torch.no_grad():
        expected, logits = model(x), small(name).to(dtype)(x.to(dtype))
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), expected, atol=0.1, rtol=0.1)
    trained = small(name).to(dtype).train()
    trained(x.to(dtype)).float().sum().backward()
    assert all(p.grad.isfinite().all() for p in trained.parameters() if p.grad is not None)


def test_no_images_give_no_logits(name, small, make_images):
    model, nothing = small(name), make_images(name)[:0]
    assert model(nothing).shape == (0, 7)
    assert model.forward_features(nothing).shape[0] == 0


def test_forward_is_features_then_head(name, small, make_images):
    model, x = small(name), make_images(name)
    features = model.forward_features(x)
    pre_logits = model.forward_head(features, pre_logits=True)
    logits = model(x)
    assert logits.shape == (2, 7)
    assert pre_logits.shape == (2, model.head_hidden_size)
    assert model.num_features == model.head_hidden_size
    torch.testing.assert_close(model.get_classifier()(pre_logits), logits)
    torch.testing.assert_close(model.forward_head(features), logits)


def test_images_of_a_batch_do_not_mix(name, small, make_images):
    model, x = small(name), make_images(name, batch=3)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)


def test_reset_classifier(name, small, make_images):
    model, x = small(name), make_images(name)
    model.reset_classifier(11)
    assert model.num_classes == 11
    assert model(x).shape == (2, 11)
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert model(x).shape == (2, model.num_features)
    model.reset_classifier(5, "avg")
    assert model(x).shape == (2, 5)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), model.forward_features(x))


def test_model_without_classifier(name, small, make_images):
    model = small(name, num_classes=0)
    assert model(make_images(name)).shape == (2, model.num_features)


@pytest.mark.parametrize("global_pool", ["avg", "max", "avgmax"])
def test_global_pool(name, global_pool, small, make_images):
    model, x = small(name, global_pool=global_pool), make_images(name)
    assert model(x).shape == (2, 7)


def test_unknown_pooling_and_keywords_are_errors(name, small):
    with pytest.raises((ConfigError, ValueError, AssertionError)):
        small(name).reset_classifier(3, "median")
    with pytest.raises(TypeError, match="no_such_option"):
        small(name, no_such_option=1)


def test_forward_intermediates(name, small, make_images):
    model, x = small(name), make_images(name)
    final, maps = model.forward_intermediates(x)
    torch.testing.assert_close(final, model.forward_features(x))
    assert len(maps) == len(model.feature_info)
    side = x.shape[-1]
    for level, info in zip(maps, model.feature_info):
        stride = info["reduction"]
        assert level.shape == (2, info["num_chs"], side // stride, side // stride)
    only = model.forward_intermediates(x, [0, -1], intermediates_only=True, stop_early=True)
    torch.testing.assert_close(only, [maps[0], maps[-1]])
    last_two = model.forward_intermediates(x, 2, intermediates_only=True)
    torch.testing.assert_close(last_two, maps[-2:])
    with pytest.raises((ConfigError, AssertionError)):
        model.forward_intermediates(x, [99])


@pytest.mark.parametrize("name", TOKEN_NAMES)
def test_intermediates_as_rows_with_the_class_token(name, small, make_images):
    model, x = small(name), make_images(name)
    _, maps = model.forward_intermediates(x)
    rows = model.forward_intermediates(x, output_fmt="NLC", intermediates_only=True)
    for level, row in zip(maps, rows):
        torch.testing.assert_close(level.flatten(2).transpose(1, 2), row)
    with pytest.raises((ConfigError, AssertionError)):
        model.forward_intermediates(x, output_fmt="NHWC")


def test_features_only(name, small, make_images):
    backbone, x = small(name, features_only=True), make_images(name)
    maps = backbone(x)
    assert len(maps) == len(backbone.feature_info.channels())
    for level, channels, stride in zip(
        maps, backbone.feature_info.channels(), backbone.feature_info.reduction()
    ):
        assert level.shape[1] == channels
        assert x.shape[-1] // level.shape[-1] == stride
    first = small(name, features_only=True, out_indices=(0,))
    assert sum(p.numel() for p in first.parameters()) < sum(
        p.numel() for p in backbone.parameters()
    )
    torch.testing.assert_close(first(x)[0], small(name).forward_intermediates(x)[1][0])


def test_prune_intermediate_layers(name, small, make_images):
    model, x = small(name), make_images(name)
    expected = model.forward_intermediates(x, [0, 1], intermediates_only=True)
    size = sum(p.numel() for p in model.parameters())
    assert model.prune_intermediate_layers([0, 1], prune_norm=True) == [0, 1]
    assert sum(p.numel() for p in model.parameters()) < size
    pruned = model.forward_intermediates(x, [0, 1], intermediates_only=True)
    torch.testing.assert_close(pruned, expected)


@pytest.mark.parametrize("name", TOKEN_NAMES)
def test_set_input_size(name, small, make_images):
    model = small(name)
    side = make_images(name).shape[-1]
    model.set_input_size((2 * side, side))
    assert model(torch.rand(1, 3, 2 * side, side)).shape == (1, 7)
    assert model.train()(torch.rand(2, 3, 2 * side, side)).shape == (2, 7)


@pytest.mark.parametrize("in_chans", [1, 2, 4, 5, 6])
def test_in_chans(name, in_chans, small, make_images):
    model = small(name, in_chans=in_chans)
    assert model(make_images(name, in_chans=in_chans)).shape == (2, 7)


def test_dropout_is_for_training_only(name, small, make_images):
    model, x = small(name, drop_rate=0.5, drop_path_rate=0.5), make_images(name)
    assert torch.equal(model(x), model(x))
    model.train()
    torch.manual_seed(2)
    assert not torch.allclose(model(x), model(x))


def test_every_parameter_gets_a_gradient(name, small, make_images):
    # In CvT's last block the class token's query skips the convolution
    pool = {"global_pool": "avg"} if name.startswith("conv") else {}
    model = small(name, **pool).train()
    # timm's residual blocks end in a scale of 0 at first, which stops their gradients
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    model(make_images(name)).square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_gradient_checkpointing_changes_nothing(name, small, make_images):
    x = make_images(name)
    results = []
    for enable in (False, True):
        model = small(name).train()
        model.set_grad_checkpointing(enable)
        logits = model(x)
        logits.square().sum().backward()
        results.append((logits, {n: p.grad for n, p in model.named_parameters()}))
    (logits, gradients), (logits_again, gradients_again) = results
    torch.testing.assert_close(logits_again, logits)
    torch.testing.assert_close(gradients_again, gradients)


def test_layer_decay_groups_every_parameter_once(name, small):
    model = small(name)
    optimizer = create_optimizer_v2(model, "adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    scale = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    by_name = {n: scale[id(p)] for n, p in model.named_parameters()}
    first = by_name[f"{model.default_cfg['first_conv']}.weight"]
    head = [value for n, value in by_name.items() if n.startswith(model.default_cfg["classifier"])]
    assert first < min(head)
    assert max(by_name.values()) == 1.0
    plain = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    assert plain <= set(by_name)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert all(decay[id(dict(model.named_parameters())[n])] == 0 for n in plain)


def test_ema_and_copies(name, small, make_images):
    model, x = small(name), make_images(name)
    ema = ModelEmaV3(model, decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    ema.update(model)
    assert torch.isfinite(ema.module(x)).all()
    torch.testing.assert_close(copy.deepcopy(model)(x), model(x))


@pytest.mark.parametrize("name", one_per_family(NAMES))
@pytest.mark.parametrize("training", [False, True])
def test_compiles_into_one_graph(name, training, small, make_images):
    torch._dynamo.reset()
    model, x = small(name).train(training), make_images(name)
    expected = copy.deepcopy(model)(x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    logits = compiled(x)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    if training:
        logits.sum().backward()
        assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", one_per_family(NAMES))
def test_exports_with_a_free_batch_size(name, small, make_images):
    model, x = small(name), make_images(name)
    program = torch.export.export(
        model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)
    )
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)
    more = make_images(name, batch=5)
    torch.testing.assert_close(program.module()(more), model(more), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_autocast_stays_finite(name, dtype, scale, small, make_images):
    model, x = small(name).train(), make_images(name) * scale
    x.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        logits = model(x)
        loss = nn.functional.cross_entropy(logits, torch.tensor([0, 1]))
    assert logits.isfinite().all()
    loss.backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_channels_last(name, small, make_images):
    model, x = small(name), make_images(name)
    expected = model(x)
    last = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        last(x.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5
    )


def test_saved_folder_makes_the_same_model(name, small, make_images, tmp_path):
    model, x = small(name), make_images(name)
    labels = [f"cell {index}" for index in range(7)]
    options = {"model_config": {"label_names": labels}, "model_args": SMALL[family(name)]}
    save_for_hf(model, tmp_path, safe_serialization=True, **options)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(x), model(x))
    assert list(again.pretrained_cfg["label_names"]) == labels
    assert again.load_report.complete


@pytest.mark.parametrize("name", TOKEN_NAMES)
def test_saved_folder_after_a_resize(name, small, make_images, tmp_path):
    model = small(name)
    side = 2 * make_images(name).shape[-1]
    model.set_input_size((side, side))
    options = {**SMALL[family(name)], "img_size": side}
    save_for_hf(model, tmp_path, model_args=options, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.rand(1, 3, side, side)
    assert torch.equal(again(x), model(x))
