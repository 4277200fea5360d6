"""Where a training computes, and whether the card that a profile was written for is there."""

from __future__ import annotations

import torch

from codecctl.config import Config
from codecctl.errors import UsageError
from codecctl.inference.load import find_device

_USABLE = 0.9  # drivers report a little less than the nominal memory


def training_device(name: str, config: Config) -> torch.device:
    """The device `name` (auto, cpu, cuda, cuda:N). Raises `UsageError` if it, or the card of `train.gpu`, is not there.

    `cpu` is taken at its word: a profile's batch size and precision then hold without its card.
    """
    card = config.train.gpu
    device = find_device(name)
    if card is None or name == "cpu":
        return device
    wanted = f"{card.name} with {card.memory_gb:g} GB"
    if device.type != "cuda":
        raise UsageError(f"no {wanted} here: this machine has no CUDA card; --device cpu goes on without one")
    found = torch.cuda.get_device_properties(device)
    if card.name not in found.name or found.total_memory < _USABLE * card.memory_gb * 1e9:
        memory = found.total_memory / 1e9
        raise UsageError(
            f"no {wanted} here: {device} is a {found.name} with {memory:.0f} GB; choose its profile with --gpu, "
            "leave --gpu out, or give --device cpu"
        )
    return device
