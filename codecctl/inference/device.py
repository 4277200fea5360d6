"""The device that a name means."""

from __future__ import annotations

import torch

from codecctl.errors import UsageError


def find_device(name: str) -> torch.device:
    """`auto` (a CUDA card if there is one), `cpu`, `cuda` or `cuda:N`. Raises `UsageError` if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA cards; --device cpu goes on without"
        )
    return device
