import pytest
import torch

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


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_an_error():
    with pytest.raises(ConfigError, match="PyTorch sees no GPU"):
        choose_device("cuda")
