"""The Snake activation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Snake(nn.Module):
    """[..., C, L] -> the same: x + sin(a x)^2 / a, a learned `a` for each channel (Ziyin et al. 2020, eq. 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.alpha * x).sin().square() / (self.alpha + 1e-9)
