import time

import pytest
import timm
import torch

import wbcnets  # noqa: F401
from wbcnets.errors import ConfigError
from wbcnets.io.parallel import free_memory
from wbcnets.models.keywords import create_checked
from wbcnets.models.limits import limit_by_memory, limit_by_weights


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("test_resnet", {"stem_width": 65536}),
        ("resnet18", {"layers": [60_000] * 4}),
        ("resnet18", {"channels": [60_000] * 4}),
        ("test_vit", {"embed_dim": 60_000}),
        ("test_vit", {"depth": 60_000}),
        ("sckansformer_tiny", {"depth": 60_000}),
        ("sckansformer_tiny", {"embed_dim": 65_000, "num_heads": 1}),
    ],
)
@pytest.mark.timeout(60)
def test_models_too_large_for_their_file_end_before_they_take_memory(name, keywords):
    limit = limit_by_weights({"weight": torch.zeros(100)})
    before, start = free_memory(), time.perf_counter()
    with pytest.raises(
        ConfigError, match=r"best\.pth: .*it would hold more than .* file holds 100"
    ):
        create_checked(name, keywords, "best.pth", limit, 2)
    assert time.perf_counter() - start < 15
    assert before - free_memory() < 2**30


def test_the_free_memory_limits_a_model_without_a_file(monkeypatch):
    monkeypatch.setattr("wbcnets.models.limits.free_memory", lambda: 1e6)
    with pytest.raises(ConfigError, match=r"the free memory is 0\.0 GiB"):
        create_checked("resnet18", {}, "model.kwargs", limit_by_memory(), 2)


def test_a_model_within_its_limit_is_built_with_the_same_random_numbers():
    torch.manual_seed(0)
    plain = timm.create_model("test_vit", num_classes=2).state_dict()
    torch.manual_seed(0)
    limit = limit_by_weights(plain)
    checked = create_checked("test_vit", {}, "x", limit, 2).state_dict()
    assert all(torch.equal(plain[name], checked[name]) for name in plain)
    # Nothing is counted afterwards
    torch.nn.Linear(2 * int(limit.values**0.5), 1 + int(limit.values**0.5), device="meta")
