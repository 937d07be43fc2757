"""Devices by name."""

import torch

from wbcnets.errors import ConfigError


def choose_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """Returns the device of a name; "auto" is a GPU if there is one.

    Args:
        name: "auto", "cpu", "cuda", or a device of PyTorch such as "cuda:1".
        local_rank: This process among those of the machine; "auto" and "cuda" take the GPU of this
            index.

    Raises:
        ConfigError: if there is no such device.
    """
    try:
        device = torch.device("cuda" if name == "auto" else name)
    except RuntimeError as error:
        raise ConfigError(
            f"device {name!r} is unknown; use auto, cpu, cuda or cuda:1", setting="device"
        ) from error
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        if name == "auto":
            return torch.device("cpu")
        raise ConfigError(
            f"device {name!r}: PyTorch sees no GPU; use cpu or auto", setting="device"
        )
    index = local_rank if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local_rank} of this machine has no GPU: device {name!r}, "
            f"{torch.cuda.device_count()} GPUs; start fewer processes",
            setting="device",
        )
    return torch.device("cuda", index)
