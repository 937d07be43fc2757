import inspect

import pytest
import timm
from timm.models import build_model_with_cfg

import wbcnets  # noqa: F401
from wbcnets.errors import ConfigError
from wbcnets.models.keywords import allowed_keywords, check_keywords, create_checked, with_img_size
from wbcnets.models.limits import limit_by_memory

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3}


def test_no_keyword_of_timms_factories_may_come_from_a_file():
    factories = (timm.create_model, build_model_with_cfg)
    reserved = {name for factory in factories for name in inspect.signature(factory).parameters}
    assert {"checkpoint_path", "pretrained_cfg", "cache_dir", "pretrained"} <= reserved
    for name in timm.list_models():
        allowed = allowed_keywords(name)
        assert not allowed & (reserved | {"features_only", "device", "num_classes"}), name
        assert "in_chans" in allowed, name


def test_parameters_of_the_model_may_come_from_a_file():
    keywords = {**SMALL, "kan_options": {"grid_size": 3}, "mlp": "kan", "scconv": None}
    assert check_keywords("sckansformer_tiny", keywords, "x") == keywords
    assert create_checked("sckansformer_tiny", SMALL, "x", limit_by_memory(), 3).num_classes == 3


@pytest.mark.parametrize(
    "key",
    [
        *("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"),
        *("scriptable", "exportable", "features_only", "num_classes", "device", "pruned", "kwargs"),
    ],
)
def test_keywords_of_the_factory_are_refused_by_name(key):
    with pytest.raises(
        ConfigError, match=rf"best\.pth: resnet18 has no parameter {key} .*; it may set .*act_layer"
    ):
        create_checked("resnet18", {key: "x", "stem_width": 8}, "best.pth", limit_by_memory(), 2)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 10**9, -(10**9), "x" * 2000, print, {"a": {1}}, [1] * 2000,
     [[[[[[1]]]]]]],
)  # fmt: skip
def test_values_are_plain_and_small(value):
    with pytest.raises(ConfigError, match=r"best\.pth\.depth"):
        check_keywords("sckansformer_tiny", {"depth": value}, "best.pth")


@pytest.mark.parametrize("value", [-3, 1, 5.0, "0.1", True, [0.1]])
@pytest.mark.parametrize(
    "key", ["drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate", "pos_drop_rate"]
)
def test_rates_of_dropout_are_probabilities(key, value):
    with pytest.raises(
        ConfigError, match=rf"best\.pth\.{key}=.* should be a probability in \[0, 1\)"
    ):
        check_keywords("vit_tiny_patch16_224", {key: value}, "best.pth")
    assert check_keywords("vit_tiny_patch16_224", {key: 0.1}, "best.pth") == {key: 0.1}


@pytest.mark.parametrize(
    "keywords", [{"act_layer": "no_such"}, {"block": "BasicBlock"}, {"channels": 8}]
)
def test_a_model_that_cannot_be_created_is_an_error(keywords):
    with pytest.raises(ConfigError, match=r"best\.pth: resnet18 cannot be created with .*Error"):
        create_checked("resnet18", keywords, "best.pth", limit_by_memory(), 2)


def test_models_of_one_size_get_the_size_of_the_images():
    assert with_img_size("sckansformer_tiny", {}, 32) == {"img_size": 32}
    assert with_img_size("sckansformer_tiny", {"img_size": 64}, 32) == {"img_size": 64}
    assert with_img_size("resnet18", {"stem_width": 8}, 32) == {"stem_width": 8}
