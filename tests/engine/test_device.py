import importlib.util

import pytest
import torch
from PIL import Image

from wbcnets import load_classifier
from wbcnets.cli.main import main
from wbcnets.engine.device import choose_device
from wbcnets.errors import ConfigError


def test_auto_takes_a_gpu_if_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected
    assert choose_device("cpu") == torch.device("cpu")


def test_unknown_devices_are_errors():
    with pytest.raises(ConfigError, match="device 'gpu' is unknown") as raised:
        choose_device("gpu")
    assert raised.value.setting == "device"


def test_a_device_may_be_given_as_pytorch_does():
    assert choose_device(torch.device("cpu")) == torch.device("cpu")
    assert choose_device("cpu:3") == torch.device("cpu")


@pytest.mark.parametrize(
    "name", ["meta", "mps", "xpu", "hpu", "mtia", "ipu", "xla", "vulkan", "privateuseone"]
)
def test_a_device_that_cannot_compute_is_an_error(name):
    kind = getattr(torch, name, None)
    if kind is not None and hasattr(kind, "is_available") and kind.is_available():
        assert choose_device(name).type == name
        return
    with pytest.raises(
        ConfigError, match=rf"device '{name}': PyTorch cannot compute on it"
    ) as raised:
        choose_device(name)
    assert raised.value.setting == "device"


@pytest.mark.parametrize("name", ["cuda:99", "cuda:-1", "", "CPU", "auto:1", None, 5])
def test_other_names_are_errors(name):
    with pytest.raises(ConfigError, match="device"):
        choose_device(name)


@pytest.mark.parametrize("device", ["meta", "cuda:99", "nonsense"])
def test_classifiers_refuse_the_device_before_they_are_read(device):
    with pytest.raises(ConfigError, match=f"device '{device}'"):
        load_classifier("no_such_file.pth", device=device)


@pytest.mark.parametrize("device", ["meta", "cuda:99", "nonsense"])
def test_every_command_refuses_a_device(device, tmp_path, capsys):
    image = tmp_path / "a.png"
    Image.new("RGB", (40, 40)).save(image)
    detector = ["mfds_detr_tiny_bccd"] if importlib.util.find_spec("detectron2") else []
    commands = [
        ["predict", "cells", "--weights", "resnext_cc_26.pbc", "--input", str(image)],
        ["benchmark"],
        *(["predict", "smears", "--weights", name, "--input", str(image)] for name in detector),
    ]
    for command in commands:
        output = [] if command[0] == "benchmark" else ["--output", str(tmp_path / "out")]
        assert main([*command, *output, "--device", device]) == 2
        shown = capsys.readouterr().err
        assert f"device '{device}'" in shown
        assert "see --device" in shown


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_an_error():
    with pytest.raises(ConfigError, match="PyTorch sees no GPU"):
        choose_device("cuda")
