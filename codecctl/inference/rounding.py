"""Weights in few bits: matrices as 8-bit integers with one float32 scale a row, about a quarter of float32; the
codebooks and the front's precise weights, whose rounding costs most, in 16 bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from codecctl.config.model import ModelConfig
from codecctl.errors import UsageError
from codecctl.inference.export import ROW_SCALE, unpacked
from codecctl.model.codebook import without_running_sums
from codecctl.model.codec import FRONTS

PRECISIONS = ("int8", "float32")
SMALL = 4096  # values: vectors and small matrices stay in float32, they take little space


def rounded(model: ModelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as an int8 export has them, in float32."""
    return unpacked(packed(model, weights, "int8"), Path())


def keeps_16_bits(model: ModelConfig, name: str) -> bool:
    """Whether an int8 export has this matrix in 16 bits."""
    return name in FRONTS[model.front.kind].precise_weights or name.endswith(".codewords")


def packed(model: ModelConfig, weights: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """The weights as an export stores them, without the running sums of the codebooks, which only training uses.

    Raises `UsageError` for another precision.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision}: expected {' or '.join(PRECISIONS)}")
    stored: dict[str, Tensor] = {}
    for name, weight in without_running_sums(weights).items():
        weight = weight.detach().float().cpu().contiguous()
        if precision == "float32" or weight.dim() < 2 or weight.numel() < SMALL:
            stored[name] = weight
        elif keeps_16_bits(model, name):
            stored[name] = weight.half()
        else:
            stored |= to_int8(name, weight)
    return stored


def to_int8(name: str, weight: Tensor) -> dict[str, Tensor]:
    """Integers, and the scale of each row."""
    rows = weight.flatten(1)
    scale = rows.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return {name: (rows / scale[:, None]).round().to(torch.int8).view_as(weight), name + ROW_SCALE: scale}
