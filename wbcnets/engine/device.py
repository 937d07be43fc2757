"""Devices by name."""

import torch

from wbcnets.errors import ConfigError


def choose_device(name: str | torch.device = "auto", local_rank: int = 0) -> torch.device:
    """Returns the device of a name; "auto" is a GPU if there is one.

    Args:
        name: "auto", "cpu", "cuda", or a device of PyTorch such as "cuda:1" or "mps".
        local_rank: This process among those of the machine; "auto" and "cuda" take the GPU of this
            index.

    Raises:
        ConfigError: if there is no such device.
    """
    text = str(name)
    try:
        device = torch.device("cuda" if text == "auto" else text)
    except RuntimeError as error:
        raise ConfigError(
            f"device {text!r} is unknown; use auto, cpu, cuda or cuda:1", setting="device"
        ) from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        _check_works(device)
        return device
    if not torch.cuda.is_available():
        if text == "auto":
            return torch.device("cpu")
        raise ConfigError(
            f"device {text!r}: PyTorch sees no GPU; use cpu or auto", setting="device"
        )
    index = local_rank if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local_rank} of this machine has no GPU: device {text!r}, "
            f"{torch.cuda.device_count()} GPUs; use another index, or start fewer processes",
            setting="device",
        )
    return torch.device("cuda", index)


def _check_works(device: torch.device) -> None:
    """Computes on a device; PyTorch knows the names of many that it cannot use, and "meta".

    Raises:
        ConfigError: if the device is not here, or holds no values.
    """
    try:
        works = (torch.ones(2, device=device) + 1).sum().item() == 4
    # Each backend that is not built in, or has no driver, raises an error of its own
    except Exception as error:
        reason = str(error).strip().splitlines()[:1]
        raise ConfigError(
            f"device {str(device)!r}: PyTorch cannot compute on it here "
            f"({''.join(reason)[:200] or type(error).__name__}); use auto, cpu or cuda",
            setting="device",
        ) from error
    if not works:
        raise ConfigError(
            f"device {str(device)!r}: PyTorch computes wrong sums on it; use cpu", setting="device"
        )
