"""What a front is: the part of the codec between samples and latents, on both sides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from codecctl.config.model import ModelConfig


def _fit_nothing(encoder: nn.Module, decoder: nn.Module, audio: Tensor) -> None:
    """For fronts that only learn."""


@dataclass(frozen=True)
class Front:
    """One row of `FRONTS`. Encoder and decoder take a `StreamState` as a second argument; None: a whole signal."""

    encoder: Callable[[ModelConfig], nn.Module]  # [B, 1, T x hop_length] -> latents [B, D, T]
    decoder: Callable[[ModelConfig], nn.Module]  # latents [B, D, T] -> [B, 1, T x hop_length], `ModelConfig.delay` late
    fit: Callable[[nn.Module, nn.Module, Tensor], None] = _fit_nothing  # encoder and decoder to [B, 1, T x hop_length]
    peak: float = math.inf  # largest absolute sample that the decoder can return
    compiled: tuple[type[nn.Module], ...] = ()  # parts that `train.compile` compiles, each by itself
    precise_weights: tuple[str, ...] = ()  # names that an 8-bit export keeps in 16 bits
