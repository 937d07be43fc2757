"""That what is compared computes the same, and that every case builds."""

import pytest
import torch

from wbcnets.benchmark import model_cases as model_cases_module
from wbcnets.benchmark import operator_cases
from wbcnets.benchmark.case import BenchmarkOptions
from wbcnets.benchmark.data_cases import IMAGES, data_cases
from wbcnets.benchmark.model_cases import (
    IMAGE_SIZE,
    KINDS,
    NUM_CLASSES,
    PEERS,
    model_cases,
    training_step,
)
from wbcnets.benchmark.operator_cases import RecursiveKAN
from wbcnets.layers.kan import KANLinear

CASES = {case.name: case for case in operator_cases.operator_cases()}


def test_the_recursive_layer_is_the_same_function():
    torch.manual_seed(0)
    layer = KANLinear(6, 4)
    x = torch.randn(20, 6)
    torch.testing.assert_close(RecursiveKAN(layer)(x), layer(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("ms_deform_attn")])
def test_layers_run_and_count(name, monkeypatch):
    monkeypatch.setattr(operator_cases, "KAN_ROWS", 16)
    pair = CASES[name].build(BenchmarkOptions())
    pair.ours.run()
    pair.peer.run()
    assert pair.ours.macs > 0
    assert pair.ours.bytes_moved > 0


@pytest.mark.parametrize("kind", ["forward", "training"])
def test_attention_by_two_backends_is_the_same(kind, monkeypatch):
    monkeypatch.setattr(operator_cases, "LEVELS", ((6, 8), (3, 4), (2, 2), (1, 1)))
    pair = CASES[f"ms_deform_attn_bag/{kind}"].build(BenchmarkOptions())
    ours, peer = pair.ours.run(), pair.peer.run()
    for found, expected in zip(ours, peer):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_every_pair_of_models_has_its_cases():
    names = {case.name for case in model_cases()}
    assert names == {f"{model}/{kind}" for model in PEERS for kind in KINDS}


@pytest.mark.parametrize("kind", ["inference_bfloat16", "training_bfloat16"])
def test_both_sides_of_a_bfloat16_case_run_under_autocast(kind, monkeypatch):
    seen = []

    class Probe(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(IMAGE_SIZE, NUM_CLASSES)

        def forward(self, x):
            y = self.layer(x[:, 0]).mean(dim=1)
            seen.append(y.dtype)
            return y

    monkeypatch.setattr(model_cases_module, "create", lambda name: Probe())
    (case,) = (case for case in model_cases() if case.name == f"sckansformer_tiny/{kind}")
    pair = case.build(BenchmarkOptions())
    seen.clear()
    pair.ours.run()
    pair.peer.run()
    assert seen == [torch.bfloat16, torch.bfloat16]
    assert pair.ours.amp == pair.peer.amp == "bfloat16"


def test_a_training_step_trains():
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    step = training_step(model, torch.randn(8, 4), torch.randint(3, (8,)))
    before = model.weight.clone()
    first = step()
    assert not torch.equal(model.weight, before)
    assert step() < first


def test_loading_sees_every_image():
    cases = {case.name: case for case in data_cases()}
    pair = cases["data/loading"].build(BenchmarkOptions())
    assert pair.ours.run() == pair.peer.run() == IMAGES
    assert cases["data/smear"].build(BenchmarkOptions()).ours.run().image.shape == (480, 640, 3)
